"""The store that the simulation forgets with is held to the contract of every store; and it forgets as it says."""

import random
import time
from collections.abc import Callable

import pytest

from projector.store import Add, Presence, Put, Read, RowKey, Store, Write
from tests.contract.conftest import name, store  # noqa: F401  # fixtures of the suite
from tests.contract.test_store import *  # noqa: F403  # the suite itself
from tests.fault.memory_store import MemoryStore

ROW = RowKey("campaigns", 1)


@pytest.fixture
def connect_store() -> Callable[[], Store]:
    """One store; every handle is the store itself."""
    held = MemoryStore(lambda: time.monotonic() * 1000, settle_ms=0)
    return lambda: held


class _Time:
    now_ms = 0.0


def _counted(held: MemoryStore) -> int:
    (row,) = held.read([Read(ROW, ("n",))])
    return int(row.bins["n"]) if row else -1


def _count(held: MemoryStore) -> None:
    held.write([Write(ROW, [Add("n", 1)], Presence.EITHER)])


def test_a_crash_takes_back_only_what_was_not_flushed() -> None:
    """Versions younger than `flush_ms` may be lost, in any number; older ones never; the incarnation tells."""
    found = set()
    for seed in range(40):
        clock = _Time()
        held = MemoryStore(lambda clock=clock: clock.now_ms, flush_ms=50)  # type: ignore[misc]  # bound now
        for now_ms in (0.0, 10.0, 60.0, 65.0):
            clock.now_ms = now_ms
            _count(held)
        before = held.state().incarnation
        held.crash(random.Random(seed))
        assert held.state().incarnation != before
        found.add(_counted(held))
    assert found == {2, 3, 4}


def test_a_row_that_was_never_flushed_may_vanish() -> None:
    """Also a row made anew is forgotten."""
    found = set()
    for seed in range(20):
        held = MemoryStore(lambda: 0.0, flush_ms=50)
        held.write([Write(ROW, [Put("n", 1)], Presence.ABSENT)])
        held.crash(random.Random(seed))
        found.add(_counted(held))
    assert found == {-1, 1}


def test_a_stalled_device_keeps_nothing_and_says_so() -> None:
    """While it is stalled time flushes nothing; what has left the buffer waits in its queue: not drained."""
    clock = _Time()
    held = MemoryStore(lambda: clock.now_ms, flush_ms=50)
    held.stall(True)
    _count(held)
    assert held.state().drained
    clock.now_ms = 1000
    assert not held.state().drained
    assert held.durable(ROW) is None
    held.stall(False)
    assert held.state().drained
    assert held.durable(ROW) == {"n": 1}
