"""The pointer row: compare-and-set on the nonce, what counts and what does not, and who may take back what."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from projector.backends.embedded_store import EmbeddedStore
from projector.errors import InDoubt, Refused, Retryable, Superseded
from projector.patience import Patience
from projector.pointer import (
    CLOSING,
    HISTORY_MAX,
    OPEN,
    POINTER,
    Closing,
    Entry,
    Pointer,
    PointerRow,
    create_pointer,
)
from projector.store import Answer, Outcome, Put, Store, Write
from tests.fault.memory_store import MemoryStore
from tests.fault.simulation import VirtualClock

SETTLE_S = 0.3


class Place:
    """A store in memory that flushes after 0.2 s, and rows on it for as many operators and workers as a test wants."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store = MemoryStore(lambda: self.clock.now * 1000, flush_ms=200, settle_ms=300)
        create_pointer(self.store, "topic-a")
        self.clock.sleep(10)

    def row(self, store: Store | None = None) -> PointerRow:
        patience = Patience(0.0, sleep=self.clock.sleep)
        now_ms = lambda: round(self.clock.now * 1000)  # noqa: E731  # as short as it is
        return PointerRow(store or self.store, SETTLE_S, patience=patience, clock=self.clock, now_ms=now_ms)

    def flip(self, own: Closing, to: int) -> None:
        self.row().flip(own, entry(own, to))


def entry(own: Closing, to: int) -> Entry:
    pointer = own.pointer
    return Entry("cutover", "me", 5, pointer.live, to, pointer.epoch + 1, "to see", {0: 7, 1: 9})


@pytest.fixture
def place() -> Place:
    return Place()


def test_there_and_back(place: Place) -> None:
    """Each flip raises the epoch, changes the nonce, is told in the history, and is settled when it counts."""
    row = place.row()
    first = row.settled()
    own = row.close(first, 60)
    assert own.pointer.state == CLOSING
    assert own.pointer.settled
    second = row.flip(own, entry(own, 2))
    third = row.flip(back := row.close(second, 60), entry(back, 1))
    assert [(each.live, each.state, each.epoch) for each in (first, second, third)] == [
        (1, OPEN, 1),
        (2, OPEN, 2),
        (1, OPEN, 3),
    ]
    assert len({first.nonce, own.pointer.nonce, second.nonce, back.pointer.nonce, third.nonce}) == 5
    assert third.entries == [entry(own, 2), entry(back, 1)]
    durable = place.store.durable(POINTER)
    assert durable is not None
    assert durable["nonce"] == third.nonce


def test_the_row_keeps_its_types_in_a_real_store(tmp_path: Path) -> None:
    """The history comes back from SQLite as it was written."""
    store = EmbeddedStore(tmp_path / "store.db")
    create_pointer(store, "topic-a")
    row = PointerRow(store, 0)
    row.flip(own := row.close(row.settled(), 60), entry(own, 2))
    assert PointerRow(store, 0).settled().entries == [entry(own, 2)]


def test_a_flip_that_is_still_being_written_is_not_settled() -> None:
    """The device's queue is empty, and the row is on its way: a crash would take it back from those who believe it."""
    for seed in range(10):
        place = Place()
        place.store = MemoryStore(lambda clock=place.clock: clock.now * 1000, 50, 300, writing_ms=150)  # type: ignore[misc]
        create_pointer(place.store, "topic-a")
        place.clock.sleep(10)
        row = place.row()
        seen = row.settled()
        place.store.stall(True)
        flipped = {"live": 2, "epoch": 2, "nonce": 1}
        place.store.write([Write(POINTER, [Put(name, value) for name, value in flipped.items()])])
        place.clock.sleep(2)
        assert not row.read().settled
        place.store.stall(False)
        believed = row.read()
        place.store.crash(random.Random(seed))
        place.clock.sleep(5)
        assert seen.live == 1
        assert place.row().settled().live == (2 if believed.settled else 1) or not believed.settled


def test_only_one_of_two_closings_wins(place: Place) -> None:
    """Two operators saw the same row: the second change is refused, and nothing of it is there."""
    seen = place.row().settled()
    place.row().close(seen, 60)
    with pytest.raises(Superseded):
        place.row().close(seen, 60)


def test_a_flip_needs_ones_own_closing(place: Place) -> None:
    """Taken back, or taken over by another operator, or closed again meanwhile: the flip is refused."""
    own = place.row().close(place.row().settled(), 60)
    place.clock.sleep(61)
    assert place.row().take_back(place.row().read())
    with pytest.raises(Superseded):
        place.flip(own, 2)
    other = place.row().close(place.row().settled(), 60)
    with pytest.raises(Superseded):
        place.flip(own, 2)
    place.flip(other, 2)
    assert place.row().settled().live == 2


def test_a_closing_is_taken_back_only_past_its_lease(place: Place) -> None:
    """Same generation, same epoch, another nonce; an open pointer is left alone."""
    row = place.row()
    assert not row.take_back(row.read())
    own = row.close(row.settled(), 60)
    place.clock.sleep(59)
    assert not row.take_back(row.read())
    place.clock.sleep(2)
    assert row.take_back(row.read())
    pointer = row.settled()
    assert (pointer.live, pointer.state, pointer.epoch) == (1, OPEN, 1)
    assert pointer.nonce != own.pointer.nonce


def test_what_fails_inside_closed_leaves_it_open(place: Place) -> None:
    """At once, not after the lease; and a flip inside stays."""
    row = place.row()

    def fail() -> None:
        with row.closed(row.settled(), 60):
            assert place.row().read().closing
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (row.settled().live, row.settled().state) == (1, OPEN)
    with row.closed(row.settled(), 60) as own:
        row.flip(own, entry(own, 2))
    assert (row.settled().live, row.settled().state) == (2, OPEN)


class Lossy:
    """A store that answers "in doubt" to the writes of the pointer, which land or do not."""

    def __init__(self, store: MemoryStore, lands: Sequence[bool]) -> None:
        self._store = store
        self._lands = list(lands)
        self.late: list[Write] = []

    def write(self, writes: Sequence[Write]) -> list[Answer]:
        if self._lands:
            if self._lands.pop(0):
                self._store.write(writes)
            else:
                self.late += writes
            return [Answer(Outcome.FAILED, error=InDoubt("no answer")) for _ in writes]
        return self._store.write(writes)

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


@pytest.mark.parametrize("lands", [(True,), (False,), (False, True), (False, False)])
def test_an_answer_that_was_lost(place: Place, lands: Sequence[bool]) -> None:
    """The row says what became of a change; what lands late is the identical write, and does no harm."""
    store = Lossy(place.store, lands)
    own = place.row(store).close(place.row().settled(), 60)  # type: ignore[arg-type]  # the rest is the store's
    assert place.row().settled().nonce == own.pointer.nonce
    place.flip(own, 2)
    place.store.write(store.late[:1])
    assert (place.row().settled().live, place.row().settled().epoch) == (2, 2)


def test_an_acknowledgement_is_not_believed(place: Place) -> None:
    """The store crashes right after it acknowledged: the change is made again until it is there to stay."""
    crashes = iter([True, True])

    class Crashing(Lossy):
        def write(self, writes: Sequence[Write]) -> list[Answer]:
            answers = place.store.write(writes)
            if next(crashes, False):
                place.store._rows[POINTER] = place.store._rows[POINTER][:1]
            return answers

    own = place.row(Crashing(place.store, ())).close(place.row().settled(), 60)  # type: ignore[arg-type]  # as above
    place.store.crash(random.Random(1))
    assert place.row().settled().nonce == own.pointer.nonce


def test_what_waits_for_a_device_has_not_settled(place: Place) -> None:
    """Old enough by the clock, but the device is stuck: a crash would take it back."""
    place.store.stall(True)
    row = place.row()
    with pytest.raises(Retryable, match="does not settle"):
        row.close(row.settled(), 60)
    place.clock.sleep(5)
    assert not place.row().read().settled
    place.store.stall(False)
    assert place.row().read().settled


def test_the_history_is_bounded(place: Place) -> None:
    """The newest entries stay."""
    row = place.row()
    for when in range(HISTORY_MAX + 5):
        row.record(lambda _, when=when: Entry("abandon", "me", when, 1, 2, 1))  # type: ignore[misc]  # bound now
    pointer = row.settled()
    assert [each.when for each in pointer.entries] == list(range(5, HISTORY_MAX + 5))
    assert (pointer.live, pointer.state, pointer.epoch) == (1, OPEN, 1)


def test_a_change_that_comes_before_an_entry_stays(place: Place) -> None:
    """The entry is made anew for the row after it; who is overtaken again and again is told."""
    seen: list[int] = []

    def overtaken(at: Pointer, times: int) -> Entry:
        seen.append(at.epoch)
        if len(seen) <= times:
            place.flip(place.row().close(at, 60), at.live + 1)
        return Entry("abandon 9", "me", 5, at.live, at.live, at.epoch)

    pointer = place.row().record(lambda at: overtaken(at, 1))
    assert seen == [1, 2]
    assert (pointer.live, pointer.state, pointer.epoch) == (2, OPEN, 2)
    assert [(each.what, each.before, each.after) for each in pointer.entries] == [
        ("cutover", 1, 2),
        ("abandon 9", 2, 2),
    ]
    with pytest.raises(Superseded, match="again and again"):
        place.row().record(lambda at: overtaken(at, 1_000))


def test_a_damaged_history_is_named(place: Place) -> None:
    """By whoever wants to read it; everybody else works on."""
    place.store.write([Write(POINTER, [Put("history", [{"who": "me"}])])])
    place.clock.sleep(1)
    pointer = place.row().settled()
    with pytest.raises(Refused, match="history"):
        _ = pointer.entries
    assert replace(pointer, history=[]).entries == []


def test_rollbacks_go_further_back_and_never_forward() -> None:
    """Live 1, 2, 3: back to 2, then to 1, then nothing; a rewind or an abandon changes nothing."""

    def previous(*switches: tuple[str, int, int]) -> int | None:
        entries = [Entry(what, "op", 0, before, after, 1).written() for what, before, after in switches]
        live = switches[-1][2] if switches else 1
        return Pointer(live, OPEN, 1, 1, 0, "t", entries, settled=True).previous

    there = [("rebuild", 1, 2), ("rewind", 2, 2), ("cutover", 2, 3), ("abandon 4", 3, 3)]
    assert previous() is None
    assert previous(*there) == 2
    assert previous(*there, ("rollback", 3, 2)) == 1
    assert previous(*there, ("rollback", 3, 2), ("rollback", 2, 1)) is None
    assert previous(*there, ("rollback", 3, 2), ("cutover", 2, 3)) == 2
