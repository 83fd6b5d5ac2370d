"""The operator's lease: one at a time, the second is told who, the dead are taken over."""

import random
from collections.abc import Callable

import pytest

from projector.errors import Refused
from projector.lease import LEASE, Lease
from tests.fault.memory_store import MemoryStore
from tests.fault.simulation import VirtualClock

Make = Callable[..., Lease]


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def store(clock: VirtualClock) -> MemoryStore:
    return MemoryStore(lambda: clock.now * 1000, flush_ms=100, settle_ms=120)


@pytest.fixture
def make(clock: VirtualClock, store: MemoryStore) -> Make:
    def made(host: str = "one", pid: int = 11, alive: bool = True) -> Lease:
        now_ms = lambda: round(clock.now * 1000)  # noqa: E731  # as short as it is
        options = {"host": host, "pid": pid, "alive": lambda _: alive, "clock": clock, "now_ms": now_ms}
        return Lease(store, "a rebuild of generation 2", lease_s=30, **options)  # type: ignore[arg-type]  # as named

    return made


def test_the_second_is_told_who_runs_the_first(make: Make) -> None:
    """What, where, which process and since when."""
    make().take()
    with pytest.raises(
        Refused, match=r"a rebuild of generation 2 is running on one \(process 11, since 1970-01-01 00:16:40 UTC\)"
    ):
        make("two", 22).take()


def test_a_sign_of_life_keeps_it(make: Make, clock: VirtualClock) -> None:
    """For as long as it is given."""
    first = make()
    first.take()
    for _ in range(20):
        clock.sleep(10)
        first.renew()
    with pytest.raises(Refused, match="process 11"):
        make("two", 22).take()


def test_the_silent_are_taken_over(make: Make, clock: VirtualClock) -> None:
    """After the lease; the one that was taken for dead hears it with its next sign of life."""
    first, second = make(), make("two", 22)
    first.take()
    clock.sleep(31)
    second.take()
    with pytest.raises(Refused, match="on two"):
        first.renew()


def test_a_process_that_ended_on_this_host_is_taken_over_at_once(make: Make) -> None:
    """One of another host may live, whatever its number says here."""
    make("one", 11).take()
    make("one", 12, alive=False).take()
    with pytest.raises(Refused, match="process 12"):
        make("two", 13, alive=False).take()


def test_given_back_it_is_free(make: Make) -> None:
    """At once, for anybody; who had it does not renew it."""
    first = make()
    first.take()
    first.release()
    make("two", 22).take()
    with pytest.raises(Refused, match="on two"):
        first.take()


def test_a_store_that_forgot_it(make: Make, store: MemoryStore, clock: VirtualClock) -> None:
    """The holder takes it again with its next sign of life."""
    first = make()
    first.take()
    store._rows[LEASE] = store._rows[LEASE][:1]
    store.crash(random.Random(1))
    clock.sleep(10)
    first.renew()
    holder = first.holder()
    assert holder is not None
    assert (holder.host, holder.pid) == ("one", 11)
