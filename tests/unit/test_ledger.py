"""Apply: verdicts, splits, conflicts and what has no row; the archive has tests of its own."""

from collections.abc import Callable, Mapping

import pytest

from projector.chain import Chains
from projector.errors import InDoubt, Retryable
from projector.fold import Change, EventId, Sighting
from projector.generation import Generation
from projector.ledger import Judgement, Ledger
from projector.patience import Patience
from projector.settling import Settling
from projector.store import Answer, Outcome, Presence, Put, Read, RowKey, Store, Write
from tests.fault.faults import Fate, FaultyStore, Late
from tests.fault.memory_store import MemoryStore

ROW = RowKey("campaigns", 1)
ZEROS = {"visits": 0, "impressions": 0, "clicks": 0, "conversions": 0}


class _Fates:
    """The first writes of rows meet these fates, in order."""

    def __init__(self, *fates: Fate) -> None:
        self._fates = list(fates)

    def fate(self, call: str) -> Fate:
        return self._fates.pop(0) if call == "row" and self._fates else Fate.FINE


def made() -> MemoryStore:
    """Campaign 1, never adopted."""
    store = MemoryStore(lambda: 0.0)
    store.write([Write(ROW, [Put("c-id", 1), Put("stats", ZEROS)], Presence.EITHER)])
    return store


def ledger(store: Store, write_ids_max: int = 100, patience_s: float = 5.0) -> Ledger:
    """A worker's ledger."""
    patience = Patience(patience_s, sleep=lambda _: None)
    settling = Settling(store, 0.0, patience, lambda: 0.0)
    chains = Chains(store, Generation(1, "projector"), patience, settling, lambda: 0.0, 1_000, 1 << 20)
    return Ledger(store, chains, "campaigns-seen", patience, 1 << 20, lambda _: None, write_ids_max)


def change(*sightings: tuple[EventId, int, int]) -> Change:
    """Events as (id, code, offset) of partition 0, folded by hand."""
    folded = Change()
    for event_id, code, offset in sightings:
        sighting = [code, 0, 0, offset]
        if event_id in folded.ids:
            folded.again.append((event_id, sighting))
        else:
            folded.ids[event_id] = sighting
    return folded


def stats(store: Store) -> Mapping[str, int]:
    """What the row counts."""
    (row,) = store.read([Read(ROW, ("stats",))])
    assert row is not None
    found: dict[str, int] = row.bins["stats"]
    return found


def offsets(sightings: list[Sighting]) -> list[int]:
    """Where they are."""
    return sorted(sighting[3] for sighting in sightings)


def duplicates(judgement: Judgement) -> list[tuple[int, int]]:
    """Where they are, and where the id was counted."""
    return sorted((sighting[3], held[3]) for sighting, held in judgement.duplicates)


def test_new_ids_count_and_the_row_is_read_back() -> None:
    """Each adds 1 to its KPI; the answer holds the totals after it."""
    store = made()
    judgement = ledger(store).apply({1: change(("a", 0, 1), ("b", 2, 2), ("c", 2, 3))})[1]
    assert offsets(judgement.counted) == [1, 2, 3]
    assert judgement.stats == stats(store) == ZEROS | {"visits": 1, "clicks": 2}
    assert judgement.rev == 1


@pytest.mark.parametrize("write_ids_max", [1, 2, 100])
def test_a_replay_stays_counted_a_duplicate_never_counts(write_ids_max: int) -> None:
    """The position tells, whichever worker asks and however its writes are split."""
    store = made()
    ledger(store).apply({1: change(("a", 0, 1), ("b", 2, 2))})
    asked = change(("a", 0, 1), ("b", 2, 7), ("c", 1, 8), ("c", 1, 9), ("a", 0, 10), ("b", 2, 2))
    judgement = ledger(store, write_ids_max).apply({1: asked})[1]
    assert offsets(judgement.counted) == [1, 2, 8]
    assert duplicates(judgement) == [(7, 2), (9, 8), (10, 1)]
    assert stats(store) == ZEROS | {"visits": 1, "clicks": 1, "impressions": 1}
    assert judgement.stats == stats(store)


def test_the_first_kind_wins() -> None:
    """The same id with another kind is a duplicate that names both."""
    store = made()
    judgement = ledger(store).apply({1: change(("a", 0, 1), ("a", 3, 2))})[1]
    assert judgement.duplicates == [([3, 0, 0, 2], [0, 0, 0, 1])]
    assert stats(store) == ZEROS | {"visits": 1}


@pytest.mark.parametrize("fate", [Fate.FAIL_BEFORE, Fate.FAIL_AFTER, Fate.LATE])
@pytest.mark.parametrize("failures", [1, 3])
def test_a_write_in_doubt_is_sent_again(fate: Fate, failures: int) -> None:
    """Applied or not, once or later: each id counts once, and all are counted."""
    store = made()
    late = Late(lambda: 1)
    faulty = FaultyStore(store, _Fates(Fate.FINE, *[fate] * failures), late)
    judgement = ledger(faulty).apply({1: change(("a", 0, 1), ("b", 0, 2))})[1]
    late.land(store, everything=True)
    assert offsets(judgement.counted) == [1, 2]
    assert stats(store)["visits"] == 2


def test_patience_ends() -> None:
    """The last error is raised, and what was applied counts as a replay next time."""
    store = made()
    faulty = FaultyStore(store, _Fates(Fate.FINE, Fate.FAIL_AFTER), Late(lambda: 0))
    worker = ledger(faulty, patience_s=0.0)
    with pytest.raises(InDoubt):
        worker.apply({1: change(("a", 0, 1))})
    assert offsets(worker.apply({1: change(("a", 0, 1))})[1].counted) == [1]
    assert stats(store)["visits"] == 1


def _no_row(_: MemoryStore) -> None:
    pass


def _foreign(store: MemoryStore) -> None:
    store.write([Write(RowKey("campaigns", 2), [Put("stats", ZEROS | {"clicks": 3})], Presence.EITHER)])


@pytest.mark.parametrize(
    ("make", "reason"),
    [(_no_row, "unknown-campaign"), (_foreign, "campaign-not-adopted")],
    ids=["unknown-campaign", "campaign-not-adopted"],
)
def test_what_has_no_ledger_is_parked(make: Callable[[MemoryStore], None], reason: str) -> None:
    """Every position of it, and the neighbours count."""
    store = made()
    make(store)
    judged = ledger(store).apply({1: change(("a", 0, 1)), 2: change(("b", 0, 2), ("b", 0, 3), ("c", 1, 4))})
    assert offsets(judged[2].parked) == [2, 3, 4]
    assert (judged[2].reason, judged[2].counted, judged[2].duplicates) == (reason, [], [])
    assert offsets(judged[1].counted) == [1]


def test_a_row_that_comes_later_counts() -> None:
    """That there was none is not remembered."""
    store = made()
    worker = ledger(store)
    assert worker.apply({2: change(("a", 0, 1))})[2].reason == "unknown-campaign"
    store.write([Write(RowKey("campaigns", 2), [Put("c-id", 2), Put("stats", ZEROS)], Presence.EITHER)])
    assert offsets(worker.apply({2: change(("b", 0, 2))})[2].counted) == [2]


def test_a_row_that_changes_under_every_read_gives_up() -> None:
    """A seal that never stays is `Retryable`, not an endless loop."""

    class Restless(MemoryStore):
        def _write(self, write: Write) -> Answer:
            return Answer(Outcome.REFUSED) if write.conditions else super()._write(write)

    store = Restless(lambda: 0.0)
    row = [Put("c-id", 1), Put("stats", ZEROS), Put("seal", 0), Put("prev", 0), Put("rev", 0)]
    store.write([Write(ROW, row, Presence.EITHER)])
    with pytest.raises(Retryable):
        ledger(store, patience_s=0.0).apply({1: change(("a", 0, 1))})
