"""Differences: what a comparison of two generations finds, and whether anything excuses it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from projector.fold import EventId, Sighting


class Cause(Enum):
    """Why an id differs; all but UNEXPLAINED are excused."""

    PAST_CHECKPOINT = "past the checkpoint"  # the other generation has not read so far
    SET_ASIDE = "parked or rejected"  # by the live generation, or one before it, at this position
    CONFLICT = "conflicting kinds"  # the topic holds the id with both kinds
    UNEXPLAINED = "unexplained"


class IdDifference(NamedTuple):
    """An id that one generation only holds (None in the other), or both with another kind."""

    campaign: int
    id: EventId
    live: Sighting | None
    rebuilt: Sighting | None
    cause: Cause
    detail: str = ""

    def added(self) -> dict[int, int]:
        """By KPI code, how much the rebuilt generation holds more for it than the live one."""
        added: Counter[int] = Counter()
        if self.live:
            added[self.live[0]] -= 1
        if self.rebuilt:
            added[self.rebuilt[0]] += 1
        return dict(added)


class Cell(NamedTuple):
    """One KPI of one campaign where totals or ids differ. `excused`: how much of the difference excused ids make."""

    campaign: int
    kpi: str
    live: int
    rebuilt: int
    excused: int

    @property
    def difference(self) -> int:
        """Rebuilt minus live."""
        return self.rebuilt - self.live


class LedgerDifference(NamedTuple):
    """A campaign of one generation whose totals do not follow from its ids, or whose pages are damaged."""

    generation: int
    campaign: int
    what: str


@dataclass(frozen=True)
class Comparison:
    """What differs. `ids` lists `LISTED_MAX` of each cause at most, `counts` counts them all."""

    live: int
    rebuilt: int
    """Numbers of the generations."""
    checkpoints: tuple[Mapping[int, int], Mapping[int, int]]
    """Of the live and of the rebuilt one, per partition; read before the ids."""
    ids_held: tuple[int, int]
    """In scope: by the live and by the rebuilt one."""
    totals: tuple[Mapping[str, int], Mapping[str, int]]
    """Per KPI: of the live and of the rebuilt one."""
    cells: Sequence[Cell]
    ids: Sequence[IdDifference]
    counts: Mapping[Cause, int]
    ledgers: Sequence[LedgerDifference]

    @property
    def same(self) -> bool:
        """Nothing differs, not even what would be excused."""
        return not (self.cells or self.ids or self.ledgers)

    @property
    def blocks(self) -> bool:
        """Something differs that is not excused: there must be no cutover without an operator's explicit acceptance."""
        return bool(self.counts.get(Cause.UNEXPLAINED) or self.ledgers)


def shown(event_id: EventId) -> str:
    """An id as text."""
    return event_id.hex() if isinstance(event_id, bytes) else event_id
