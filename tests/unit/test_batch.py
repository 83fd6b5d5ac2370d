"""The queue of applied batches."""

import random
from collections.abc import Sequence
from itertools import count, pairwise

import pytest

from projector import batch
from projector.balance import Totals
from projector.batch import BATCHES_MAX, Batch, Queue
from projector.config import Config
from projector.errors import Retryable
from projector.judge import Verdicts
from projector.log import Message, Offset, Record
from projector.projector import Projector
from tests.fault.memory_log import MemoryLog
from tests.fault.memory_store import MemoryStore
from tests.fault.oracle import INPUT, KPI, QUARANTINE
from tests.fault.script import event, prepare
from tests.fault.simulation import GENERATION, VirtualClock


class Greedy(random.Random):
    """As much as there may be."""

    def randint(self, a: int, b: int) -> int:  # noqa: ARG002
        """The most."""
        return b


def quarantined(size: int) -> Batch:
    """A batch with so many bytes to quarantine."""
    return Batch({}, 0.0, quarantined=[Message("q", None, b"x" * size)])


def test_oldest_first() -> None:
    """Batches leave in the order in which they came."""
    queue = Queue(100)
    batches = [Batch({0: (n, None)}, float(n)) for n in range(4)]
    for each in batches:
        queue.append(each)
    queue.remove(2)
    assert list(queue) == batches[2:]


def test_full_by_records() -> None:
    """As many records as 10 full batches have, in more batches if they are smaller; room again after a commit."""
    queue = Queue(100)
    for _ in range(20):
        assert not queue.full
        queue.append(Batch({}, 0.0, verdicts=Totals(consumed=50, counted=50)))
    assert queue.full
    queue.remove(1)
    assert not queue.full
    queue.clear()
    assert not queue.full


def test_below_half() -> None:
    """By records and by bytes, whichever comes first."""
    queue = Queue(100)
    for consumed, below in ((499, True), (1, False)):
        queue.append(Batch({}, 0.0, verdicts=Totals(consumed=consumed, counted=consumed)))
        assert queue.below_half is below
    queue.clear()
    assert queue.below_half
    queue.append(quarantined(batch.BYTES_MAX // 2))
    assert not queue.below_half


def test_full_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few large batches fill it as well, and empty it again."""
    monkeypatch.setattr(batch, "BYTES_MAX", 10_000)
    queue = Queue(100)
    queue.append(quarantined(6_000))
    assert not queue.full
    queue.append(quarantined(6_000))
    assert queue.full
    queue.clear()
    assert not queue.full
    assert len(queue) == 0


def test_a_worker_reads_no_more_while_its_queue_is_full() -> None:
    """The device is stuck and nothing settles: it holds what the queue takes; once it goes on, all is committed."""
    clock = VirtualClock()
    store = MemoryStore(lambda: clock.now * 1000, flush_ms=100, settle_ms=300)
    log = MemoryLog(lambda: clock.now * 1000, random.Random(1))
    prepare(log, store)
    log.append([Message(INPUT, None, event(number % 8, "click", "tag-1"), (), 0, 0) for number in range(200)])
    clock.sleep(10)
    config = Config(batch_records=2, batch_ms=1)
    worker = Projector(log, store, config, GENERATION, 1, "a", 0.3, clock=clock, patience_s=0.0)
    worker.join()
    store.stall(True)

    def turns(number: int) -> None:
        for _ in range(number):
            worker.turn()
            clock.sleep(0.1)

    turns(200)
    most = BATCHES_MAX * config.batch_records
    assert most <= sum(each.verdicts.consumed for each in worker._queue) < most + config.batch_records
    assert not any(each.offset for each in log.offsets.values())
    store.stall(False)
    turns(1_000)
    assert {partition: each.offset for partition, each in log.offsets.items()} == log.ends(INPUT)


def behind(records: int, settle_s: float) -> tuple[VirtualClock, MemoryLog, Projector]:
    """A worker with a backlog; its polls fill their batches of two."""
    clock = VirtualClock()
    store = MemoryStore(lambda: clock.now * 1000, flush_ms=100 if settle_s else 0, settle_ms=round(settle_s * 1000))
    log = MemoryLog(lambda: clock.now * 1000, Greedy(1))
    prepare(log, store)
    log.append([Message(INPUT, None, event(number % 8, "click", "tag-1"), (), 0, 0) for number in range(records)])
    clock.sleep(10)
    worker = Projector(log, store, Config(batch_records=2, batch_ms=1), GENERATION, 1, "a", settle_s, clock=clock)
    worker.join()
    return clock, log, worker


def test_batches_of_a_backlog_share_a_transaction() -> None:
    """While every poll fills its batch the queue is let grow to its half; what is left at the end is not kept back."""
    clock, log, worker = behind(31, 0.0)
    committed: list[int] = []
    for _ in range(40):
        worker.turn()
        clock.sleep(0.01)
        offset = log.offsets[0].offset if 0 in log.offsets else 0
        if not committed or committed[-1] != offset:
            committed.append(offset)
    assert [after - before for before, after in pairwise(committed)][-4:] == [10, 10, 10, 1]


def test_a_queue_that_was_full_is_filled_again_at_once() -> None:
    """A client that may read on after a pause takes a second to do so by itself; the worker does not wait for that."""
    clock, log, worker = behind(200, 0.3)
    began, pauses = clock.now, 0
    while log.offsets.get(0, Offset(0, "")).offset < log.ends(INPUT)[0]:
        worker.turn()
        pauses += worker._queue.full
        clock.sleep(0.01)
        assert clock.now - began < 2 * (200 / 20) * 0.3
    assert pauses > 10


def test_a_backlog_gets_on_although_calls_fail_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has settled is committed within a second or so, not only when half a queue has come together."""
    clock, log, worker = behind(60, 0.0)
    judge, calls = worker._judge.judge, count(1)

    def slow(records: Sequence[Record]) -> Verdicts:
        clock.sleep(1)
        if next(calls) % 4 == 0:
            raise Retryable("overloaded")
        return judge(records)

    monkeypatch.setattr(worker._judge, "judge", slow)
    for _ in range(80):
        worker.turn()
    assert log.offsets[0].offset == log.ends(INPUT)[0]


def test_records_that_nothing_is_cached_for_do_not_wait_for_each_other() -> None:
    """Unknown tags are asked for every time: that is no beginning, before which rows are to be published."""
    clock = VirtualClock()
    store = MemoryStore(lambda: clock.now * 1000, flush_ms=100, settle_ms=300)
    log = MemoryLog(lambda: clock.now * 1000, Greedy(1))
    for topic in (INPUT, KPI, QUARANTINE):
        log.create_topic(topic, 1, {})
    log.append([Message(INPUT, None, event(0, "click", "no such tag"), (), 0, 0)] * 200)
    worker = Projector(log, store, Config(batch_records=2, batch_ms=1), GENERATION, 1, "a", 0.3, clock=clock)
    worker.join()
    began = clock.now
    while 0 not in log.offsets or log.offsets[0].offset < log.ends(INPUT)[0]:
        worker.turn()
        clock.sleep(0.01)
    assert clock.now - began < 200 / 2 * 0.1
