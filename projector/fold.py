"""Fold: the events of one batch -> one change per campaign. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from projector.event import Event
from projector.log import Record

EventId: TypeAlias = bytes | str
Sighting: TypeAlias = list[int]
"""Where and as what an id was seen, as the ledger keeps it: [KPI code, second, partition, offset]."""


@dataclass(slots=True)
class Change:
    """What one batch asks of one campaign: each id at its first position, and every further position of such an id."""

    ids: dict[EventId, Sighting] = field(default_factory=dict)
    again: list[tuple[EventId, Sighting]] = field(default_factory=list)


def fold(events: Iterable[tuple[Record, Event, int | None]]) -> dict[int, Change]:
    """Group events, each given with its record and its campaign, by campaign, in their order; without one: left out.

    The second of a sighting is that of the Kafka timestamp; 0 where there is none.
    """
    changes: dict[int, Change] = {}
    for record, event, campaign in events:
        if campaign is None:
            continue
        event_id, code, _ = event
        timestamp_ms = record[2]
        sighting = [code, timestamp_ms // 1000 if timestamp_ms > 0 else 0, record[0], record[1]]
        change = changes.get(campaign)
        if change is None:
            change = changes[campaign] = Change()
        if change.ids.setdefault(event_id, sighting) is not sighting:
            change.again.append((event_id, sighting))
    return changes
