"""Recent: what a generation counted lately in one campaign, from its row and the newest pages alone."""

from collections.abc import Mapping
from typing import NamedTuple

from projector.archive import Walk
from projector.fold import EventId, Sighting
from projector.generation import Generation
from projector.store import Row, Store


class Recent(NamedTuple):
    """`ids`: the newest ids of a campaign; `past`: those of them at or past an end."""

    ids: dict[EventId, Sighting]
    past: dict[EventId, Sighting]


def recent(store: Store, generation: Generation, campaign: int, row: Row, end: Mapping[int, int]) -> Recent:
    """The ids on the row and in the pages before it, newest first, to the first page with none at or past `end`.

    Ids past `end` may stand in older pages, too: hold what rests on this against a digest. Raises `Retryable`.
    """
    found = Recent({}, {})
    for held in (row.bins.get("seen", {}), row.bins.get("sealed", {})):
        _take(found, held, end)
    for page in Walk(store, generation, campaign, row.bins):
        if not _take(found, page.ids, end):
            break
    return found


def is_past(sighting: Sighting, end: Mapping[int, int]) -> bool:
    """Whether the position is one that a generation with this checkpoint has not read."""
    return sighting[3] >= end.get(sighting[2], 0)


def _take(found: Recent, held: Mapping[EventId, Sighting], end: Mapping[int, int]) -> int:
    past = {event_id: sighting for event_id, sighting in held.items() if is_past(sighting, end)}
    found.ids.update(held)
    found.past.update(past)
    return len(past)
