"""Cutover, and rollback: another generation becomes live, once both stand at the same checkpoint and agree.

    close -> settled -> the old group is empty -> the new one reaches the old one's final checkpoint, and is empty
          -> compare -> flip, from one's own closing only -> settled

The same command does it again from the start after a crash at any of these steps: the pointer row alone says how far
a cutover is. A `closing` that its operator left is taken over, or taken back by a worker when its lease is over.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from projector.clock import Clock
from projector.config import Config
from projector.errors import Refused, Retryable, Superseded
from projector.generation import Generation
from projector.log import Log
from projector.pointer import Closing, Entry, Pointer, PointerRow

LEASE_S = 60.0
PATIENCE_SHARE = 0.8
"""The share of its lease after which an operator gives up by itself."""
ATTEMPTS_MAX = 10
POLL_S = 0.05


class Ending(Enum):
    """What a cutover came to."""

    SWITCHED = "switched"
    ALREADY = "already live"
    DIFFERENT = "different"  # nothing was switched


class Switch(NamedTuple):
    """The result. `pointer` as it stands, settled; `checkpoint` is the final one of the generation that was live."""

    ending: Ending
    pointer: Pointer
    checkpoint: Mapping[int, int]
    differences: Sequence[object]


class Cutover:
    """One operator's cutover to `target`; a rollback is one, too.

    `catch_up(final)` is called again and again while `target` is not at `final`: it sees to muted workers (or is one),
    which run to it and leave. `compare(old, target, final)` answers what differs, once nobody writes either of them;
    what is excused it leaves out. `heartbeat` is called while waiting, and may raise to give up.
    """

    def __init__(
        self,
        row: PointerRow,
        log: Log,
        config: Config,
        target: int,
        catch_up: Callable[[Mapping[int, int]], None],
        compare: Callable[[Generation, Generation, Mapping[int, int]], Sequence[object]],
        *,
        who: str,
        why: str = "",
        what: str = "cutover",
        lease_s: float = LEASE_S,
        heartbeat: Callable[[], None] = lambda: None,
        clock: Clock = time,
    ) -> None:
        self._row = row
        self._log = log
        self._config = config
        self._target = Generation(target, config.group)
        self._catch_up = catch_up
        self._compare = compare
        self._who = who
        self._why = why
        self._what = what
        self._lease_s = lease_s
        self._heartbeat = heartbeat
        self._clock = clock

    def run(self, accept_differences: bool = False) -> Switch:
        """Do it. Whatever is raised, the generation that was live goes on, or `target` is live already.

        `accept_differences`: switch all the same (the reason is `why`). Raises `Refused` where something does not
        happen in time, and `Retryable`; doing it again goes on from there.
        """
        for _ in range(ATTEMPTS_MAX):
            pointer = self._row.settled()
            if pointer.live == self._target.number:
                return Switch(Ending.ALREADY, pointer, {}, ())
            with contextlib.suppress(Superseded), self._row.closed(pointer, self._lease_s) as own:
                return self._switch(own, accept_differences)
            self._heartbeat()
            self._clock.sleep(POLL_S)
        raise Refused("the pointer row is changed again and again by somebody else: see its history, then try again")

    def _switch(self, own: Closing, accept_differences: bool) -> Switch:
        old, target = own.pointer.generation(self._config), self._target
        self._wait(own, lambda: not self._log.members(old.group), f"the workers of generation {old.number} stay")
        final: dict[int, int] = {}

        def stopped() -> bool:
            final.update(self._offsets(old))
            return True

        self._wait(own, stopped, f"the checkpoint of generation {old.number} is not to be had")
        self._wait(own, lambda: self._caught_up(final), f"generation {target.number} does not come to {final}")
        differences = self._compare(old, target, final)
        if differences and not accept_differences:
            return Switch(Ending.DIFFERENT, self._row.reopen(own), final, differences)
        now_ms, epoch = self._row.now_ms(), own.pointer.epoch + 1
        entry = Entry(self._what, self._who, now_ms, old.number, target.number, epoch, self._why, final)
        return Switch(Ending.SWITCHED, self._row.flip(own, entry), final, differences)

    def _caught_up(self, final: Mapping[int, int]) -> bool:
        """Whether the target stands exactly there, and none of its muted workers is left."""
        if self._offsets(self._target) != final:
            self._catch_up(final)
            return False
        return not self._log.members(self._target.group)

    def _offsets(self, generation: Generation) -> dict[int, int]:
        """The checkpoint; a partition at 0 is as good as one without."""
        committed = self._log.checkpoint(generation.group, self._config.input_topic)
        return {partition: each.offset for partition, each in committed.items() if each.offset}

    def _wait(self, own: Closing, done: Callable[[], bool], trouble: str) -> None:
        """Until `done`, while one's own closing stands. Raises `Refused` before its lease is over, `Superseded`.

        A log that does not answer is asked again: a killed worker's open transaction holds a checkpoint back. Raises
        its `Retryable` in the end.
        """
        deadline = self._clock.monotonic() + self._lease_s * PATIENCE_SHARE
        while True:
            unanswered: Retryable | None = None
            try:
                if done():
                    return
            except Retryable as error:
                unanswered = error
            self._heartbeat()
            if not self._row.holds(own):
                raise Superseded("the closing was taken back")
            if self._clock.monotonic() > deadline:
                if unanswered is not None:
                    raise unanswered
                raise Refused(
                    f"{trouble} within {self._lease_s * PATIENCE_SHARE:g} s: generation {own.pointer.live} goes on"
                )
            self._clock.sleep(POLL_S)
