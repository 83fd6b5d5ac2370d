"""Settling: a batch is committed only when no crash of the store can take back what it rests on."""

import random

import pytest

from projector.batch import Batch
from projector.errors import Misconfigured
from projector.patience import Patience
from projector.settling import Settling, outlives, settle_seconds
from projector.store import Add, Presence, RowKey, StoreState, Write
from tests.fault.memory_store import MemoryStore
from tests.fault.simulation import VirtualClock

ROW = RowKey("campaigns", 1)
FLUSH_MS, SETTLE_MS = 50, 300


class World:
    """A store that flushes after 50 ms, and the settling of one worker that waits 300 ms."""

    def __init__(self, flush_ms: float = FLUSH_MS, settle_ms: int = SETTLE_MS, writing_ms: int = 0) -> None:
        self.clock = VirtualClock()
        self.start = self.clock.now
        self.store = MemoryStore(lambda: self.clock.now * 1000, flush_ms, settle_ms, writing_ms=writing_ms)
        self.settling = Settling(self.store, settle_ms / 1000, Patience(0.0), self.clock.monotonic)
        self.settling.renew()

    def at(self, ms: float) -> "World":
        """It is so many milliseconds after the start."""
        self.clock.now = self.start + ms / 1000
        return self

    def batch(self) -> Batch:
        """A write of now, and the batch that rests on it."""
        self.store.write([Write(ROW, [Add("n", 1)], Presence.EITHER)])
        return Batch({}, self.clock.now)

    @property
    def durable(self) -> int:
        """Writes that no crash takes back."""
        return int((self.store.durable(ROW) or {}).get("n", 0))


def test_a_batch_settles_after_the_wait() -> None:
    """Not a moment before; batches settle in order, the younger ones later."""
    world = World()
    first = world.at(0).batch()
    second = world.at(100).batch()
    assert world.at(299).settling.settled([first, second]) == 0
    assert world.at(301).settling.settled([first, second]) == 1
    assert world.at(401).settling.settled([first, second]) == 2


def test_a_store_that_needs_no_settling_settles_at_once() -> None:
    """With a wait of 0 an acknowledged write is safe."""
    world = World(flush_ms=0, settle_ms=0)
    assert world.settling.settled([world.batch()]) == 1


def test_another_incarnation_settles_nothing() -> None:
    """None: the store may have forgotten, also what was written long ago."""
    world = World()
    batch = world.batch()
    world.at(1000).store.crash(random.Random(1))
    assert world.settling.settled([batch]) is None
    world.settling.renew()
    assert world.settling.settled([batch]) == 1


def test_a_stalled_device_settles_nothing() -> None:
    """However long the wait: what is queued there is lost by a crash."""
    world = World()
    batch = world.batch()
    world.store.stall(True)
    assert world.at(60_000).settling.settled([batch]) == 0
    world.store.stall(False)
    assert world.settling.settled([batch]) == 1


def test_an_empty_queue_seen_during_the_wait_proves_nothing() -> None:
    """A write that was still in the write buffer then comes to the queue later, and may wait there: an older batch that
    finds the queue empty must not settle it."""
    world = World()
    older = world.at(0).batch()
    younger = world.at(299).batch()
    world.at(301).store.stall(True)
    assert world.settling.settled([older, younger]) == 1
    assert world.at(700).settling.settled([younger]) == 0
    assert world.durable == 1
    world.store.stall(False)
    assert world.settling.settled([younger]) == 1
    assert world.durable == 2


def test_what_has_just_left_a_queue_is_not_on_its_device() -> None:
    """The queue is empty while the last of it is being written: seen so, it counts only some time later."""
    world = World(writing_ms=100)
    batch = world.at(0).batch()
    world.at(10).store.stall(True)
    assert world.at(400).settling.settled([batch]) == 0
    world.store.stall(False)
    assert world.at(410).settling.settled([batch]) == 0
    assert world.durable == 0
    assert world.at(499).settling.settled([batch]) == 0
    assert world.at(511).settling.settled([batch]) == 1
    assert world.durable == 1


def test_a_look_in_time_saves_the_wait() -> None:
    """The queue is looked at before the wait is over, once, so that the wait is no longer than without."""
    world = World(writing_ms=100)
    batch = world.at(0).batch()
    looks = []
    state = world.store.state
    world.store.state = lambda: looks.append(world.clock.now) or state()  # type: ignore[method-assign,func-returns-value]
    for ms in (100, 199, 201, 250, 299):
        assert world.at(ms).settling.settled([batch]) == 0
    assert len(looks) == 1
    assert world.at(301).settling.settled([batch]) == 1


def test_a_page_arrives_once_an_empty_queue_was_seen_after_its_wait() -> None:
    """The same for a page of the archive."""
    world = World()
    written_at = world.clock.now
    world.batch()
    world.at(1).store.stall(True)
    assert world.settling.arrived([written_at]) == [False]
    assert world.at(400).settling.arrived([written_at]) == [False]
    world.store.stall(False)
    assert world.settling.arrived([written_at]) == [True]


@pytest.mark.parametrize("turn_ms", [80, 100, 200])
def test_pages_arrive_while_younger_ones_come(turn_ms: int) -> None:
    """A page is written in each turn: none waits for those after it, however turns and waits fall together."""
    world = World(writing_ms=150)
    choose = random.Random(1)
    state = world.store.state

    def slow() -> StoreState:
        world.clock.now += 0.001
        return state()

    world.store.state = slow  # type: ignore[method-assign]
    waiting: list[float] = []
    late: list[float] = []
    for _ in range(300):
        world.clock.now += turn_ms / 1000 * choose.uniform(0.95, 1.05)
        now = world.clock.now
        arrived = world.settling.arrived(waiting)
        late += [now - at for at, done in zip(waiting, arrived, strict=True) if done]
        waiting = [at for at, done in zip(waiting, arrived, strict=True) if not done]
        waiting.append(world.clock.now)
    assert len(late) > 300 - 1_000 // turn_ms
    assert max(late) <= (SETTLE_MS + 150 + 2.2 * turn_ms) / 1000


def test_when_to_look_next() -> None:
    """When a look begins to count, then when it does count; at once while the queue is not seen empty."""
    world = World(writing_ms=100)
    batch = world.at(0).batch()
    assert world.at(150).settling.next_look_in([batch]) == pytest.approx(0.05)
    assert world.at(250).settling.settled([batch]) == 0
    assert world.at(260).settling.next_look_in([batch]) == pytest.approx(0.09)
    assert world.at(350).settling.settled([batch]) == 1
    world.store.stall(True)
    second = world.batch()
    assert world.at(600).settling.settled([second]) == 0
    assert world.settling.next_look_in([second]) == 0


def test_each_batch_has_a_look_of_its_own() -> None:
    """A younger one does not wait for what is asked when the one before it is committed."""
    world = World(writing_ms=100)
    first = world.at(0).batch()
    second = world.at(40).batch()
    assert world.at(200).settling.settled([first, second]) == 0
    assert world.settling.next_look_in([first, second]) == pytest.approx(0.04)
    assert world.at(240).settling.settled([first, second]) == 0
    assert world.at(301).settling.settled([first, second]) == 1
    assert world.at(341).settling.settled([second]) == 1


@pytest.mark.parametrize("what", ["nothing", "stall", "crash", "crash at last"])
def test_what_outlives_a_crash(what: str) -> None:
    """A write of now, unless the device does not take it, or the store is restarted before the end."""
    world = World(writing_ms=100)
    before = world.store.state()
    world.batch()
    sleeps: list[float] = []

    def sleep(seconds: float) -> None:
        sleeps.append(seconds)
        world.clock.now += seconds
        if what == "stall":
            world.store.stall(len(sleeps) == 1)
        if what == ("crash" if len(sleeps) == 1 else "crash at last"):
            world.store.crash(random.Random(1))

    world.store.stall(what == "stall")
    assert outlives(world.store, before, 0.3, sleep) == (what == "nothing")
    assert sleeps == [0.3, 0.1]


def test_settle_seconds() -> None:
    """As the store says, or longer; less, and a store that keeps nothing, are refused unless that is allowed."""
    store = MemoryStore(lambda: 0.0, settle_ms=300)
    assert settle_seconds(store, "auto", False) == 0.3
    assert settle_seconds(store, 1000, False) == 1.0
    assert settle_seconds(store, 300, False) == 0.3
    with pytest.raises(Misconfigured, match=r"settle_ms is 299, but .* that is 300 ms old: .*auto.*allow_volatile"):
        settle_seconds(store, 299, False)
    assert settle_seconds(store, 299, True) == 0.299
    volatile = MemoryStore(lambda: 0.0, settle_ms=None)
    with pytest.raises(Misconfigured, match="allow_volatile_store"):
        settle_seconds(volatile, 1000, False)
    assert settle_seconds(volatile, "auto", True) == 0.0
