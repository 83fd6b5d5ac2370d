"""Repair, killed at any call, or beside a store that forgets: run again, it ends the same."""

import copy
from collections.abc import Iterator

import pytest

from projector.errors import LedgerDamaged, Refused, Retryable
from projector.repair.execution import Execution
from projector.repair.journal import history
from projector.repair.plan import Planner
from tests.damages import MemoryScene, assert_true, everything
from tests.fault.faults import Crash, Fate, FaultyLog, FaultyStore, Late
from tests.fault.simulation import VirtualClock
from tests.generations import Oldest

STEP = 11
FATES = [Fate.CRASH_BEFORE, Fate.CRASH_AFTER, Fate.FAIL_BEFORE, Fate.FAIL_AFTER, Fate.LATE]


class Nth:
    """The n-th call meets a fate."""

    def __init__(self, at: int, fate: Fate) -> None:
        self.calls = 0
        self._at, self._fate = at, fate

    def fate(self, call: str) -> Fate:  # noqa: ARG002  # every call alike
        self.calls += 1
        return self._fate if self.calls == self._at else Fate.FINE


@pytest.fixture(scope="module")
def damaged() -> MemoryScene:
    """Damage of every kind that can be mended."""
    scene = MemoryScene(lambda: 0.0, page_ids=4)
    scene.fill(60)
    everything(scene)
    return scene


def killed(damaged: MemoryScene, fate: Fate, step: int) -> Iterator[tuple[int, MemoryScene]]:
    """After a repair of which every `step`-th call, one each time, met its fate; with the number of that call."""
    with damaged.audited() as audit:
        at = 1
        while True:
            scene = copy.deepcopy(damaged)
            planner = Planner(audit, scene.log, scene.store, scene.config)
            plan = planner.plan()
            faults, late, clock = Nth(at, fate), Late(lambda: 3), VirtualClock()
            log, store = FaultyLog(scene.log, faults), FaultyStore(scene.store, faults, late)
            try:
                Execution(planner, plan, log, store, scene.config, clock=clock).run("somebody", "a test")
            except Crash:
                assert fate in (Fate.CRASH_BEFORE, Fate.CRASH_AFTER)
            if faults.calls < at:
                return
            late.land(scene.store, everything=True)
            yield at, scene
            at += step


def ends_the_same(damaged: MemoryScene, fate: Fate, step: int) -> None:
    """Whatever was done before it was killed, the second repair ends at the truth."""
    calls = 0
    for at, scene in killed(damaged, fate, step):
        calls = at
        try:
            scene.mend()
            assert_true(scene)
        except (AssertionError, Refused, LedgerDamaged, Retryable) as error:
            raise AssertionError(f"call {at}, {fate.value}: {error!r}") from error
    assert calls > 35


@pytest.mark.parametrize("fate", [Fate.CRASH_BEFORE, Fate.CRASH_AFTER, Fate.LATE], ids=lambda fate: fate.value)
def test_some_calls(damaged: MemoryScene, fate: Fate) -> None:
    """Killed, or with an answer lost, at one call in so many."""
    ends_the_same(damaged, fate, STEP)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fate", FATES, ids=lambda fate: fate.value)
def test_every_call(damaged: MemoryScene, fate: Fate) -> None:
    """The same, at every single one."""
    ends_the_same(damaged, fate, 1)


def test_one_that_was_killed_is_shown_as_such(damaged: MemoryScene) -> None:
    """Nothing is changed before the history has it; of what was begun and not ended, all that was intended is told."""
    began = 0
    for _, scene in killed(damaged, Fate.CRASH_BEFORE, STEP):
        told = history(scene.store)
        if not told:
            assert scene.row(1) == damaged.row(1)
            continue
        began += 1
        assert not told[0].ended
        assert {change["what"] for change in told[0].intents} == {"page", "ids", "row", "balance", "publication"}
    assert began > 1


class CrashingStore:
    """The store under it forgets all that has not settled, right before the n-th call."""

    def __init__(self, scene: MemoryScene, at: int) -> None:
        self._store = scene.store
        self._at = at
        self.calls = 0

    def __getattr__(self, name: str) -> object:
        self.calls += 1
        if self.calls == self._at:
            self._store.crash(Oldest())  # type: ignore[attr-defined]  # in memory
        return getattr(self._store, name)


def test_a_store_that_forgets_at_any_moment() -> None:
    """What is committed rests on rows that are in the store for good."""
    clock = VirtualClock()
    damaged = MemoryScene(lambda: clock.now * 1_000, page_ids=4, flush_ms=50, settle_ms=300)
    damaged.fill(60)
    everything(damaged)
    clock.sleep(60)
    with damaged.audited() as audit:
        at = 1
        while True:
            scene = copy.deepcopy(damaged)
            planner = Planner(audit, scene.log, scene.store, scene.config)
            plan = planner.plan()
            store = CrashingStore(scene, at)
            execution = Execution(planner, plan, scene.log, store, scene.config, clock=clock)  # type: ignore[arg-type]  # passes all on
            execution.run("somebody", "a test")
            scene.store.crash(Oldest())  # type: ignore[attr-defined]  # in memory
            clock.sleep(60)
            assert_true(scene)
            if store.calls < at:
                break
            at += STEP
    assert at > 35
