"""Two workers that touch one campaign, in the orders in which an older value would be published last."""

import random
from collections.abc import Callable
from typing import Any

import pytest

from projector.config import Config
from projector.log import Message
from projector.projector import Projector
from projector.store import Presence, Put, RowKey, Write
from tests.fault.faults import Crash, Fate, FaultyLog, FaultyStore, Late
from tests.fault.memory_log import MemoryLog
from tests.fault.memory_store import MemoryStore
from tests.fault.oracle import INPUT, KPI, Oracle
from tests.fault.script import CAMPAIGNS, event, prepare
from tests.fault.simulation import GENERATION, VirtualClock

SETTLE_MS = 300


class _Fates:
    """`Faults` of one worker: the next call of that name meets that fate."""

    def __init__(self) -> None:
        self.next: tuple[str, Fate] | None = None

    def fate(self, call: str) -> Fate:
        if self.next and self.next[0] == call:
            fate, self.next = self.next[1], None
            return fate
        return Fate.FINE


class Pair:
    """Workers a and b, a partition each, everything counted so far; the store settles in 300 ms."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store = MemoryStore(lambda: self.clock.now * 1000, flush_ms=100, settle_ms=SETTLE_MS)
        self.log = MemoryLog(lambda: self.clock.now * 1000, random.Random(1))
        prepare(self.log, self.store)
        self.clock.sleep(10)
        self.oracle = Oracle(self.log, self.store, CAMPAIGNS, {})
        self.log.committed = self.oracle.always
        self.fates = {slot: _Fates() for slot in "ab"}
        self.workers = {slot: self._worker(slot) for slot in "ab"}
        for worker in self.workers.values():
            worker.join()
        self.log.targets = {0: "a", 1: "b"}
        self.rest()
        assert self.log.owners == {0: "a", 1: "b"}

    def _worker(self, slot: str) -> Projector:
        settings: dict[str, Any] = {"batch_ms": 1}
        return Projector(
            FaultyLog(self.log, self.fates[slot]),
            FaultyStore(self.store, self.fates[slot], Late(lambda: 0)),
            Config(**settings),
            GENERATION,
            1,
            slot,
            SETTLE_MS / 1000,
            clock=self.clock,
            patience_s=0.0,
        )

    def click(self, partition: int, number: int) -> None:
        """A new event of campaign 1; the worker of that partition applies it, and does not commit it yet."""
        self.log.append([Message(INPUT, None, event(number, "click", "tag-1"), (), partition, 0)])
        worker = self.workers["ab"[partition]]
        while not worker._queue:
            worker.turn()

    def rest(self) -> None:
        """Those who live turn until nothing is left to do."""
        for _ in range(200):
            for worker in self.workers.values():
                worker.turn()
            self.clock.sleep(0.3)
            if all(worker.finished(self.log.ends(INPUT)) for worker in self.workers.values()):
                return
        raise AssertionError("rest is not reached")

    def published(self) -> int:
        """Messages in the KPI topic."""
        return sum(len(page) for page in self.log.read(KPI))

    def turns(self, slot: str, count: int = 30) -> None:
        """One worker alone, while time passes."""
        for _ in range(count):
            self.workers[slot].turn()
            self.clock.sleep(0.1)


def older_value_last() -> None:
    """a applies before b and commits after it: a looks again, and publishes b's value."""
    pair = Pair()
    pair.click(0, 5)
    pair.click(1, 6)
    pair.turns("b")
    pair.turns("a")
    pair.rest()
    pair.oracle.at_rest()


def another_kpi_later() -> None:
    """As before, and then a publishes another KPI of the campaign, at the newest rev: the first is still owed."""
    pair = Pair()
    pair.click(0, 5)
    pair.click(1, 6)
    pair.turns("b")
    pair.log.append([Message(INPUT, None, event(1, "visit", "tag-1"), (), 0, 0)])
    pair.clock.sleep(1)
    pair.turns("a")
    pair.rest()
    pair.oracle.at_rest()


def older_value_last_and_death() -> None:
    """The same, and a dies right after its commit: whoever gets its partition publishes every row."""
    pair = Pair()
    pair.click(0, 5)
    pair.click(1, 6)
    pair.turns("b")
    pair.clock.sleep(1)
    pair.fates["a"].next = ("commit", Fate.CRASH_AFTER)
    with pytest.raises(Crash):
        pair.turns("a")
    del pair.workers["a"]
    pair.log.expel("a")
    pair.rest()
    pair.oracle.at_rest()


def zombie() -> None:
    """a is expelled with an applied batch; b counts on; then a wakes up and commits: fenced, nothing is to be seen."""
    pair = Pair()
    pair.click(0, 5)
    pair.log.expel("a")
    zombie = pair.workers.pop("a")
    pair.rest()
    pair.click(1, 6)
    pair.rest()
    before = zombie.metrics.fenced
    pair.fates["a"].next = ("poll", Fate.CRASH_BEFORE)
    while zombie.metrics.fenced == before:
        zombie.turn()
    pair.rest()
    pair.oracle.at_rest()


def lost_partition() -> None:
    """a is expelled with an applied batch, b commits more of that partition; a hears of it before it can commit: the
    batch is gone, though a is a member again and the group would take its offsets."""
    pair = Pair()
    pair.click(0, 5)
    pair.log.expel("a")
    late = pair.workers.pop("a")
    pair.log.targets = {0: "b", 1: "b"}
    pair.rest()
    pair.log.append([Message(INPUT, None, event(6, "click", "tag-1"), (), 0, 0)])
    pair.rest()
    pair.store.stall(True)
    pair.store.write([Write(RowKey("projector", "any"), [Put("n", 1)], Presence.EITHER)])
    pair.clock.sleep(1)
    late.turn()
    pair.log.targets = {0: "b", 1: "b"}
    pair.store.stall(False)
    pair.workers["a"] = late
    pair.turns("a")
    pair.rest()
    pair.oracle.at_rest()


def owner_of_nothing() -> None:
    """a gives its partition up and owes a last word, for b has moved the row: a publishes nothing more, b does."""
    pair = Pair()
    pair.click(0, 5)
    pair.click(1, 6)
    pair.clock.sleep(1)
    pair.log.targets = {0: "b", 1: "b"}
    before = pair.published()
    pair.turns("a")
    assert pair.published() == before + 1, "the batch that it committed named one KPI"
    pair.rest()
    pair.oracle.at_rest()


ORDERS: tuple[Callable[[], None], ...] = (
    older_value_last,
    another_kpi_later,
    older_value_last_and_death,
    zombie,
    lost_partition,
    owner_of_nothing,
)


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.__name__)
def test_the_last_message_equals_the_row(order: Callable[[], None]) -> None:
    """At rest the last message of each campaign and KPI says what the row says, whoever published last."""
    order()
