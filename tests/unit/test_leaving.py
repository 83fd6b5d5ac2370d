"""An orderly stop right after a transaction failed: what is in the rows is committed, and the backlog is left."""

import random
from collections.abc import Mapping, Sequence

import pytest

from projector.config import Config
from projector.errors import Fenced
from projector.log import Message, Offset
from projector.projector import Projector
from projector.store import Read, RowKey
from tests.fault.memory_log import MemoryLog
from tests.fault.memory_store import MemoryStore
from tests.fault.oracle import INPUT
from tests.fault.script import CAMPAIGNS, IDS, even, event, prepare
from tests.fault.simulation import GENERATION, VirtualClock

EVENTS, BATCH = 1_000, 10


class World:
    """A backlog of two partitions, a worker whose queue is full of it, and whose next transactions fail."""

    def __init__(self, settle_ms: int, failures: int = 1) -> None:
        self.clock = VirtualClock()
        self.store = MemoryStore(lambda: self.clock.now * 1000, settle_ms - 250, settle_ms, writing_ms=150)
        self.log = MemoryLog(lambda: self.clock.now * 1000, random.Random(3))
        prepare(self.log, self.store)
        value = event(0, "click", "tag-1")
        values = [value.replace(IDS[0].encode(), b"id-%d" % number) for number in range(EVENTS)]
        self.log.append([Message(INPUT, None, each, (), number % 2, 0) for number, each in enumerate(values)])
        config = Config(batch_records=BATCH, batch_ms=5)
        settle_s = settle_ms / 1000
        self.worker = Projector(
            self.log, self.store, config, GENERATION, 1, "a", settle_s, clock=self.clock, patience_s=0.0
        )
        self.worker.join()
        member = self.worker.member
        commit, poll = member.commit, member.poll
        left = 0

        def failing(messages: Sequence[Message], offsets: Mapping[int, Offset]) -> None:
            nonlocal left
            if left:
                left -= 1
                raise Fenced("outcome unknown")
            commit(messages, offsets)

        def polled(records_max: int, timeout_ms: int) -> list:  # type: ignore[type-arg]
            records = poll(records_max, timeout_ms)
            self.clock.now += 0.002 if records else timeout_ms / 1000
            return records

        member.commit, member.poll = failing, polled  # type: ignore[method-assign]
        while not self.worker._stale:
            self.worker.turn()
            self.clock.now += 0.001
            if self.worker._queue.full:
                left = failures

    @property
    def counted(self) -> int:
        """Events in the rows."""
        rows = self.store.read([Read(RowKey("campaigns", campaign), ("stats",)) for campaign in CAMPAIGNS.values()])
        return sum(sum(row.bins["stats"].values()) for row in rows if row)


@pytest.mark.parametrize("failures", [1, 2, 3])
@pytest.mark.parametrize("settle_ms", [300, 2_250])
def test_what_was_in_a_dropped_queue_is_committed(settle_ms: int, failures: int) -> None:
    """In a few times the wait, however many batches it was; little of the backlog is counted besides."""
    world = World(settle_ms, failures)
    before, began = world.counted, world.clock.now
    assert before > 5 * BATCH
    world.worker.leave()
    even(world.log, world.store)
    assert world.counted < EVENTS
    assert world.clock.now - began < (4 + failures) * settle_ms / 1000 + 1


def test_a_log_that_is_gone_does_not_hold_up_a_stop() -> None:
    """After half of the time it is left as it is, for the worker that comes next."""
    world = World(300, failures=1_000_000)
    began = world.clock.now
    world.worker.leave()
    assert world.clock.now - began < 21


def test_a_worker_that_read_nothing_leaves_at_once() -> None:
    """Nothing is read in order to leave."""
    world = World(300, failures=1)
    world.worker._taken.clear()
    before, began = world.counted, world.clock.now
    world.worker.leave()
    assert world.counted == before
    assert world.clock.now - began < 1
