"""Building: a generation is brought up to the live one by muted workers, compared with it, and may become live.

    catch up -> refresh the comparison while both run -> compare -> cut over (see cutover)

Whatever ends it, the live generation goes on; the same call goes on where it was.
"""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import NamedTuple

from projector.adoption import take_over_all
from projector.balance import parse_totals
from projector.clock import Clock
from projector.comparison import Comparer
from projector.config import Config
from projector.cutover import Cutover, Ending
from projector.differences import Cause, Comparison
from projector.errors import Fatal, Refused, Retryable
from projector.generation import Generation
from projector.generations import Build, State, bounded, read, record, totals
from projector.lease import Lease
from projector.log import Log
from projector.patience import checkpoint_patiently, patiently
from projector.pointer import Pointer, PointerRow
from projector.store import Store
from projector.tally import Scope

TICK_S = 0.2
NEAR_S = 2.0
"""Caught up with a topic that goes on growing: less behind than is read in so long."""
NEAR_RECORDS = 1_000
_AHEAD = Cause.PAST_CHECKPOINT
REFRESHES_MAX = 10
REFRESHED_S = 0.5
"""What is new is read in less than this: the last comparison, while nobody counts, will be short."""


class Advance(NamedTuple):
    """How far a generation has been built: per partition the next offset, and the one to reach."""

    at: Mapping[int, int]
    goal: Mapping[int, int]

    @property
    def done(self) -> int:
        """Offsets behind it."""
        return sum(min(self.at.get(partition, 0), goal) for partition, goal in self.goal.items())

    @property
    def total(self) -> int:
        """All offsets up to the goal."""
        return sum(self.goal.values())

    @property
    def ahead(self) -> list[int]:
        """Partitions in which it is past the goal."""
        return [partition for partition, at in self.at.items() if at > self.goal.get(partition, 0)]

    @property
    def lag(self) -> dict[int, int]:
        """Per partition the offsets to go, where there are any."""
        left = {partition: goal - self.at.get(partition, 0) for partition, goal in self.goal.items()}
        return {partition: behind for partition, behind in sorted(left.items()) if behind > 0}


class Workers:
    """Muted workers in a thread. `work(stops)` runs them until all have ended, and answers the exit code."""

    def __init__(self, work: Callable[[Callable[[], int]], int]) -> None:
        self._work = work
        self._stops = 0
        self._code = 0
        self._thread: threading.Thread | None = None

    def see_to(self) -> None:
        """Start them, if they do not run. Raises `Fatal` if they ended with an error."""
        if self._thread is not None and self._thread.is_alive():
            return
        if self._code:
            raise WorkersFailed(self._code)
        self._stops = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop them in order, and wait until they have ended."""
        self._stops += 1
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        self._code = Fatal.exit_code  # unless it returns
        self._code = self._work(lambda: self._stops)


class WorkersFailed(Fatal):
    """The muted workers ended with an error, which they have told; its exit code is theirs."""

    def __init__(self, code: int) -> None:
        super().__init__(
            f"the workers that build it ended with exit code {code}; the same command goes on where it was"
        )
        self.exit_code = code


class Result(NamedTuple):
    """What became of it. `comparison` is the last one; None if the generation was live already."""

    ending: Ending | None
    """None: built and compared, and not to be cut over."""
    pointer: Pointer
    comparison: Comparison | None
    closed_s: float
    """From `closing` to the flip."""
    carried: int
    """Ids of the generation that were carried over, not counted from the topic."""


class Building:
    """Builds one generation that is not live, and makes it live."""

    def __init__(
        self,
        log: Log,
        store: Store,
        config: Config,
        row: PointerRow,
        lease: Lease,
        build: Build,
        workers: Workers,
        *,
        shown: Callable[[Advance], None] = lambda _: None,
        comparing: Callable[[int, int], None] = lambda *_: None,
        clock: Clock = time,
    ) -> None:
        """`shown` hears how the workers get on, `comparing` how the comparison does: (ids done, ids in all)."""
        self._log = log
        self._store = store
        self._config = config
        self._row = row
        self._lease = lease
        self._build = build
        self._workers = workers
        self._shown = shown
        self._comparing = comparing
        self._clock = clock
        self._target = build.generation(config)
        self._pointer = row.settled()
        self._live = self._pointer.generation(config)
        self._comparison: Comparison | None = None

    def run(self, *, who: str, what: str, why: str = "", accept: bool = False, switch: bool = True) -> Result:
        """Build, compare, and `switch` if nothing differs, or with `accept`.

        Raises `Fatal` and `Retryable`; the workers have ended by then.
        """
        if self._pointer.live == self._target.number:
            return self._result(Ending.ALREADY, self._pointer, None)
        try:
            self._take_over()
            self._catch_up()
            comparer = Comparer(self._log, self._store, self._config, self._live, self._target, self._scope())
            if not switch:
                self._workers.stop()
            comparison = self._compared(comparer)
            refused = lasts(comparison) and not accept
            if refused or not switch:
                self._note(State.READY, comparison)
                return self._result(Ending.DIFFERENT if refused else None, self._pointer, comparison)
            return self._switched(comparer, who, what, why, accept)
        finally:
            self._workers.stop()

    def advance(self) -> Advance:
        """How far it is. Raises `Retryable`."""
        at = checkpoint_patiently(lambda: self._log.checkpoint(self._target.group, self._config.input_topic))
        goal = checkpoint_patiently(lambda: self._log.checkpoint(self._live.group, self._config.input_topic))
        goals = {partition: each.offset for partition, each in goal.items() if each.offset}
        there = {partition: each.offset for partition, each in at.items()}
        if (until := self._build.until) is not None:
            # What was carried over may reach further: a head can be past the limit.
            there, goals = bounded(there, until), bounded(goals, until)
        return Advance(there, goals)

    def _take_over(self) -> None:
        """Campaigns that no event names have an opening all the same."""
        if self._build.campaigns is None:
            take_over_all(self._store, self._live.campaigns, self._target.campaigns)

    def _scope(self) -> Scope:
        return Scope(self._build.campaigns, self._build.until)

    def _catch_up(self) -> None:
        """Until it is near the live one, which goes on."""
        began, first = self._clock.monotonic(), self.advance().done
        while True:
            self._lease.renew()
            advance = self.advance()
            self._shown(advance)
            if advance.ahead:
                raise Refused(
                    f"generation {self._target.number} is ahead of {self._live.number} in partitions "
                    f"{sorted(advance.ahead)}: that one was rewound: wait until it has caught up"
                )
            if advance.lag:
                self._workers.see_to()
            rate = (advance.done - first) / max(self._clock.monotonic() - began, TICK_S)
            left = sum(advance.lag.values())
            # What is written once and never grows is awaited to the end.
            near = max(NEAR_RECORDS, rate * NEAR_S) if self._build.until is None and self._grows() else 0
            if left <= near:
                return
            self._clock.sleep(TICK_S)

    def _grows(self) -> bool:
        return bool(patiently(lambda: self._log.members(self._live.group)))

    def _compared(self, comparer: Comparer) -> Comparison:
        """The bulk is read while both run; then both are compared, each up to its own checkpoint."""
        self._refresh(comparer)
        comparison = comparer.compare(self._comparing)
        self._refresh(comparer)  # where ids differ it took long, and both went on
        return comparison

    def _refresh(self, comparer: Comparer) -> None:
        """Read what is new until there is little left."""
        for _ in range(REFRESHES_MAX):
            self._lease.renew()
            began = self._clock.monotonic()
            comparer.refresh(self._comparing)
            if self._clock.monotonic() - began < REFRESHED_S:
                return

    def _switched(self, comparer: Comparer, who: str, what: str, why: str, accept: bool) -> Result:
        closed_at = self._clock.monotonic()

        def compare(_old: Generation, _target: Generation, _final: Mapping[int, int]) -> list[Comparison]:
            if read(self._store, self._target.number).state is State.ABANDONED:
                raise Refused(f"generation {self._target.number} was abandoned meanwhile: nothing was switched")
            self._take_over()
            found = self._comparison = comparer.compare(self._comparing)
            damaged = [each for each in found.ledgers if each.generation == self._target.number]
            if damaged:
                raise Refused(f"generation {self._target.number} is damaged: {damaged[0].what}: build another one")
            # What is past the checkpoint the target will read next: there is nothing to accept.
            return [found] if lasts(found) else []

        cutover = Cutover(
            self._row,
            self._log,
            self._config,
            self._target.number,
            lambda _: self._workers.see_to(),
            compare,
            who=who,
            why=why,
            what=what,
            heartbeat=self._lease.renew,
            clock=self._clock,
        )
        switch = cutover.run(accept)
        closed_s = self._clock.monotonic() - closed_at
        if switch.ending is not Ending.ALREADY and self._comparison:
            self._note(State.LIVE if switch.ending is Ending.SWITCHED else State.READY, self._comparison)
        return self._result(switch.ending, switch.pointer, self._comparison, closed_s)

    def _result(
        self, ending: Ending | None, pointer: Pointer, comparison: Comparison | None, closed_s: float = 0.0
    ) -> Result:
        try:
            committed = checkpoint_patiently(lambda: self._log.checkpoint(self._target.group, self._config.input_topic))
        except Retryable:
            committed = {}  # what became of it is told all the same
        found = [parse_totals(each.metadata) for each in committed.values()]
        return Result(ending, pointer, comparison, closed_s, sum(each.carried for each in found if each))

    def _note(self, state: State, comparison: Comparison) -> None:
        """Write down that it is built, and compared with which checkpoint. The pointer alone says what is live."""
        kept = state if self._build.state in (State.BUILDING, State.READY) else self._build.state
        built_ms = self._build.built_ms
        if built_ms is None and self._build.created_ms is not None:
            built_ms = self._row.now_ms()
        with suppress(Retryable):  # nothing rests on it
            held = totals(self._store, self._target)
            source = comparison.checkpoints[0]
            record(self._store, self._build._replace(state=kept, built_ms=built_ms, source=source, totals=held))


def lasts(comparison: Comparison) -> bool:
    """Whether anything differs but what one of the two has not read yet."""
    return comparison.blocks or any(comparison.counts[cause] for cause in comparison.counts if cause is not _AHEAD)
