"""The limits of a part of the topic, as an operator writes them: offsets by partition, or a time."""

from collections.abc import Collection
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import typer

from projector.errors import Refused

if TYPE_CHECKING:
    from projector.log import Log


def limits_of(log: "Log", topic: str, until: str) -> dict[int, int]:
    """Per partition of the topic the offset to stop before; a partition that is not named is left out.

    Raises `BadParameter` for what is neither, `Refused` for a time that has not come, and `Retryable`.
    """
    from projector.patience import patiently

    try:
        parts = [(int(partition), int(offset)) for partition, offset in (part.split(":") for part in until.split(","))]
    except ValueError:
        pass
    else:
        return _checked(parts, patiently(lambda: log.heads(topic)), topic)
    try:
        moment = datetime.fromisoformat(until)
    except ValueError:
        raise typer.BadParameter(
            f"{until!r} is neither offsets (0:1200,1:900) nor a time", param_hint="--until"
        ) from None
    if moment.tzinfo is None:
        raise typer.BadParameter(f"{until!r} names no time zone: append Z for UTC", param_hint="--until")
    if moment > datetime.now(UTC):
        raise Refused(f"--until {until}: the topic is not there up to a time in the future: name one that has passed")
    return patiently(lambda: log.offsets_at(topic, round(moment.timestamp() * 1000)))


def _checked(parts: list[tuple[int, int]], partitions: Collection[int], topic: str) -> dict[int, int]:
    """Offsets by partition, each named once. Raises `BadParameter`."""
    named = [partition for partition, _ in parts]
    if unknown := sorted({*named}.difference(partitions)):
        raise typer.BadParameter(f"topic {topic} has no partition {unknown[0]}", param_hint="--until")
    if len({*named}) < len(named):
        raise typer.BadParameter("a partition is named twice", param_hint="--until")
    if min(offset for _, offset in parts) < 0:
        raise typer.BadParameter("an offset is 0 or more", param_hint="--until")
    return dict(parts)
