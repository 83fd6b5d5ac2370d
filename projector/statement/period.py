"""Period: from one second to before another, UTC, by the Kafka timestamp of the events."""

from datetime import UTC, datetime
from typing import NamedTuple

from projector.errors import Misconfigured
from projector.quarantined import moment_ms

LAST_SECOND = 253_402_300_799
"""9999-12-31T23:59:59Z: the last one that ISO 8601 writes with four digits for the year."""


class Period(NamedTuple):
    """The seconds `begin` <= second < `end` since 1970."""

    begin: int
    end: int

    @classmethod
    def parsed(cls, begin: str, end: str) -> "Period":
        """From two ISO 8601 times (UTC where they name no zone) or epoch ms. Raises `Misconfigured`."""
        period = cls(_second(begin), _second(end))
        if period.begin >= period.end:
            raise Misconfigured(f"the period from {begin} to {end} is empty: its end must come after its beginning")
        return period

    def texts(self) -> tuple[str, str]:
        """Both ends in ISO 8601, UTC: the one way in which a manifest writes them."""
        return iso(self.begin), iso(self.end)


def iso(second: int) -> str:
    """ISO 8601, UTC, to the second: 2026-01-31T12:00:00Z."""
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _second(text: str) -> int:
    second, part = divmod(moment_ms(text), 1000)
    if part:
        raise Misconfigured(f"{text!r} is not on a full second: events are told apart by the second")
    if not 0 <= second <= LAST_SECOND:
        raise Misconfigured(f"{text!r} is not between 1970 and 9999")
    return second
