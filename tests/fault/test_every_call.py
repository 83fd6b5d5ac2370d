"""Every single port call of a short run goes wrong once, in every way; in memory and on the embedded pair."""

import random
import shutil
import time
from pathlib import Path

import pytest

from projector.backends.embedded_log import EmbeddedLog
from projector.backends.embedded_store import EmbeddedStore
from projector.balance import Totals
from projector.checkpoint import Copies
from projector.log import Offset
from projector.patience import Patience
from tests.fault.faults import Fate, Late
from tests.fault.memory_log import MemoryLog
from tests.fault.memory_store import MemoryStore
from tests.fault.oracle import Oracle
from tests.fault.script import CAMPAIGNS, Run, Script, prepare, recount
from tests.fault.simulation import GENERATION, VirtualClock

FATES = [fate for fate in Fate if fate is not Fate.FINE]
LATE_CALLS = {"soon": 0, "later": 5, "last": 1_000_000}


def in_memory(
    at: int, fate: Fate, patience_s: float, late_calls: int = 0, stop: bool = False, crash: bool = False
) -> Script:
    """One run on the pair in memory, judged at every commit and at rest; `crash`: the store crashes at the fault."""
    clock = VirtualClock()
    store = MemoryStore(lambda: clock.now * 1000, flush_ms=20, settle_ms=30)
    log = MemoryLog(lambda: clock.now * 1000, random.Random(at))
    prepare(log, store)
    clock.now += 10
    oracle = Oracle(log, store, CAMPAIGNS, {})
    log.committed = oracle.always
    script = Script(clock, at, fate)
    if crash:
        script.strike = lambda: store.crash(random.Random(at))
    late = Late(lambda: late_calls)
    Run(log, store, clock, script, patience_s, late).play(stop)
    late.land(store, everything=True)
    oracle.at_rest()
    recount(log, store)
    return script


def calls_in_memory(patience_s: float) -> int:
    """How many port calls a run without faults makes."""
    return len(in_memory(-1, Fate.FINE, patience_s).calls)


def test_a_run_without_faults() -> None:
    """Counts everything, and makes every kind of port call that can go wrong."""
    script = in_memory(-1, Fate.FINE, 0.0)
    assert set(script.calls) >= {
        "join",
        "poll",
        "row",
        "read",
        "scan",
        "state",
        "commit",
        "committed",
        "heads",
        "leave",
    }


@pytest.mark.parametrize("stop", [False, True], ids=["goes on", "stops in order"])
@pytest.mark.parametrize("patience_s", [0.0, 5.0], ids=["no patience", "patience"])
@pytest.mark.parametrize("fate", FATES, ids=lambda fate: fate.value)
def test_every_call_in_memory(fate: Fate, patience_s: float, stop: bool) -> None:
    """Whichever call meets this fate, everything is counted once, published and balanced in the end."""
    for at in range(calls_in_memory(patience_s)):
        for when, late_calls in LATE_CALLS.items() if fate is Fate.LATE else [("", 0)]:
            try:
                in_memory(at, fate, patience_s, late_calls, stop)
            except Exception as error:
                raise AssertionError(f"call {at}, {fate.value} {when}: {error!r}") from error


@pytest.mark.parametrize("fate", [Fate.FINE, Fate.FAIL_AFTER, Fate.CRASH_AFTER], ids=lambda fate: fate.value)
def test_the_store_crashes_at_every_call(fate: Fate) -> None:
    """Whatever the store forgets, at whichever call, is counted again; alone or together with another fault."""
    for at in range(calls_in_memory(0.0)):
        try:
            in_memory(at, fate, 0.0, crash=True)
        except Exception as error:
            raise AssertionError(f"call {at}: {error!r}") from error


def test_a_worker_that_stops_after_a_failure_commits_none_of_it() -> None:
    """Records whose batch failed were polled and have no verdict: an orderly stop must not commit past them."""
    for at, call in enumerate(in_memory(-1, Fate.FINE, 0.0).calls):
        if call == "row":
            in_memory(at, Fate.FAIL_BEFORE, 0.0, stop=True)


def test_a_first_checkpoint_that_another_worker_makes_in_between_is_no_loss() -> None:
    """A worker that reads "no checkpoint", then the copy of one made meanwhile, reads again."""
    clock = VirtualClock()
    store, log = MemoryStore(lambda: 0.0), MemoryLog(lambda: 0.0, random.Random(0))
    prepare(log, store)
    calls = in_memory(-1, Fate.FINE, 0.0).calls
    script = Script(clock, calls.index("read", calls.index("committed")))

    def commit() -> None:
        log.offsets[0] = Offset(1, Totals(consumed=1, counted=1).metadata())
        Copies(store, GENERATION, Patience(0.0)).write(log.offsets)

    script.strike = commit
    worker = Run(log, store, clock, script, 0.0, Late(lambda: 0)).worker()
    worker.join()
    worker.turn()
    assert worker.lag() is not None


# --- the embedded pair


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all records and nothing counted."""
    path = tmp_path_factory.mktemp("template") / "projector.db"
    log, store = EmbeddedLog(path), EmbeddedStore(path)
    prepare(log, store)
    log.close()
    store.close()
    return path


def embedded(template: Path, path: Path, at: int, fate: Fate, late_calls: int = 0) -> Script:
    """One run on a copy of the template."""
    shutil.copy(template, path)
    log, store = EmbeddedLog(path), EmbeddedStore(path)
    script = Script(time, at, fate)
    late = Late(lambda: late_calls)
    try:
        Run(log, store, time, script, 1.0 if at % 2 else 0.0, late).play()
        late.land(store, everything=True)
        recount(log, store)
    finally:
        log.close()
        store.close()
        path.unlink()
    return script


def every_call_embedded(template: Path, path: Path, fate: Fate, step: int) -> None:
    """Every `step`-th call, from the first one on."""
    calls = len(embedded(template, path, -1, Fate.FINE).calls)
    for at in range(calls % step, calls, step):
        try:
            embedded(template, path, at, fate, at % 7)
        except Exception as error:
            raise AssertionError(f"call {at}, {fate.value}: {error!r}") from error


@pytest.mark.parametrize("fate", FATES, ids=lambda fate: fate.value)
def test_some_calls_embedded(template: Path, tmp_path: Path, fate: Fate) -> None:
    """As in memory, on a file."""
    every_call_embedded(template, tmp_path / "projector.db", fate, 9)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("fate", FATES, ids=lambda fate: fate.value)
def test_every_call_embedded(template: Path, tmp_path: Path, fate: Fate) -> None:
    """As in memory, on a file, at every call."""
    every_call_embedded(template, tmp_path / "projector.db", fate, 1)
