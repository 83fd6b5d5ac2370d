"""Following: what a worker does as the pointer row changes; it joins, finishes and leaves, and joins the next.

A worker acts only on a pointer that it read settled after it had joined its group; it leaves on any that does not fit.
While it works it looks now and then: safety does not rest on that, for nobody flips before the group is empty.
"""

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

from projector.clock import Clock
from projector.config import Config
from projector.errors import Retryable
from projector.generation import Generation
from projector.log import Log
from projector.muted import CommittedBound, MutedProjector
from projector.pointer import Pointer, PointerRow
from projector.projector import Projector

LOOK_S = 0.25
WAIT_S = 0.1
SETTLE_WAIT_S = 20.0
logger = logging.getLogger(__name__)


class Role(NamedTuple):
    """What a worker is: of which generation, while which one is live, in which epoch. Muted if they are two."""

    generation: int
    live: int
    epoch: int

    def fits(self, pointer: Pointer) -> bool:
        """Whether the pointer lets it go on."""
        if self.generation != self.live:
            return pointer.live == self.live
        return pointer.live == self.live and not pointer.closing and pointer.epoch == self.epoch


class Watch:
    """The pointer row as one worker heeds it. A `closing` whose lease is over is taken back."""

    def __init__(self, row: PointerRow, clock: Clock = time, tick: Callable[[], None] = lambda: None) -> None:
        """`tick` is called while the worker waits."""
        self._row = row
        self._clock = clock
        self._tick = tick
        self._looked_at = float("-inf")
        self.pointer: Pointer | None = None
        """As last read, settled or not."""

    def wanted(self, fit: Callable[[Pointer], bool], stopping: Callable[[], bool]) -> Pointer | None:
        """Wait for a settled pointer that is `fit`; None if the worker is `stopping` before that."""
        told = False
        while not stopping():
            try:
                pointer = self._read()
                if pointer.settled and fit(pointer):
                    return pointer
                if not told:
                    told = True
                    logger.info("waiting: generation %d is %s", pointer.live, pointer.state)
            except Retryable as error:
                logger.warning("waiting for the pointer row: %s", error)
            self._tick()
            self._clock.sleep(WAIT_S)
        return None

    def admits(self, role: Role) -> bool:
        """Whether the pointer, read settled now, lets the role work. Raises `Retryable`."""
        deadline = self._clock.monotonic() + SETTLE_WAIT_S
        while True:
            pointer = self._read()
            if pointer.settled or not role.fits(pointer):
                return role.fits(pointer)
            if self._clock.monotonic() > deadline:
                raise Retryable("the pointer row does not settle")
            self._tick()
            self._clock.sleep(WAIT_S)

    def fits(self, role: Role) -> bool:
        """Whether the pointer, as read a moment ago, lets the role go on."""
        if self._clock.monotonic() - self._looked_at >= LOOK_S:
            try:
                self._read()
            except Retryable as error:
                self._looked_at = self._clock.monotonic()
                logger.debug("the pointer row is not looked at: %s", error)
        return self.pointer is None or role.fits(self.pointer)

    def _read(self) -> Pointer:
        self._looked_at = self._clock.monotonic()
        self.pointer = self._row.read()
        if self._row.take_back(self.pointer):
            logger.warning("generation %d was left closing past its lease: taken back", self.pointer.live)
        return self.pointer


def follow(
    watch: Watch,
    config: Config,
    make: Callable[[Generation, int, Callable[[], bool]], Projector],
    until_end: bool,
    stopping: Callable[[], bool],
    progress: Callable[[], None] = lambda: None,
) -> None:
    """Be a worker of the live generation, whichever that is, until `stopping`; with `until_end` also up to the end.

    `make` makes one for a generation and an epoch, with what it must ask after every assignment. Raises as
    `Projector.run`.
    """
    while (pointer := watch.wanted(lambda seen: not seen.closing, stopping)) is not None:
        role = Role(pointer.live, pointer.live, pointer.epoch)
        logger.info("generation %d, epoch %d", role.live, role.epoch)
        worker = make(pointer.generation(config), pointer.epoch, partial(watch.admits, role))
        if _worked(worker, watch, role, until_end, stopping, progress):
            return


def build(
    watch: Watch,
    log: Log,
    config: Config,
    number: int,
    make: Callable[[Generation, Callable[[], Mapping[int, int]], Callable[[], bool]], MutedProjector],
    stopping: Callable[[], bool],
    progress: Callable[[], None] = lambda: None,
    clock: Clock = time,
) -> None:
    """Be a muted worker of generation `number`, below the committed offsets of the live one, until `stopping`.

    Returns also once `number` is live, and while the live generation is closed as soon as its final checkpoint is
    reached. `make` makes one for a generation, with its bound and what it must ask after every assignment.
    """
    generation = Generation(number, config.group)
    while (pointer := watch.wanted(lambda _: True, stopping)) is not None and pointer.live != number:
        role, live = Role(number, pointer.live, pointer.epoch), pointer.generation(config)
        bound = CommittedBound(log, live.group, config.input_topic, clock)
        worker = make(generation, bound, partial(watch.admits, role))
        reached = _Reached(watch, log, config.input_topic, live, generation, clock)
        if _worked(worker, watch, role, False, partial(_either, stopping, reached), progress):
            return


class _Reached:
    """Whether the live generation is closed, its workers are gone, and the other one is where they stopped."""

    def __init__(
        self, watch: Watch, log: Log, topic: str, live: Generation, generation: Generation, clock: Clock
    ) -> None:
        self._watch = watch
        self._log = log
        self._topic = topic
        self._live = live
        self._generation = generation
        self._clock = clock
        self._asked_at = float("-inf")

    def __call__(self) -> bool:
        pointer = self._watch.pointer
        if pointer is None or not pointer.closing or self._clock.monotonic() - self._asked_at < LOOK_S:
            return False
        self._asked_at = self._clock.monotonic()
        try:
            if self._log.members(self._live.group):
                return False
            final = self._log.checkpoint(self._live.group, self._topic)
            here = self._log.checkpoint(self._generation.group, self._topic)
        except Retryable:
            return False  # asked again
        return all(partition in here and here[partition].offset >= each.offset for partition, each in final.items())


def _either(stopping: Callable[[], bool], reached: _Reached) -> bool:
    return stopping() or reached()


def _worked(
    worker: Projector,
    watch: Watch,
    role: Role,
    until_end: bool,
    stopping: Callable[[], bool],
    progress: Callable[[], None],
) -> bool:
    """Run it; whether it ended by itself, and not because the pointer says so."""

    def ending() -> bool:
        worker.dismissed = worker.dismissed or not watch.fits(role)
        return worker.dismissed or stopping()

    try:
        worker.run(until_end, ending, progress)
    except Retryable as error:
        if not worker.dismissed:
            raise
        # Its group keeps the place until the session ends; what it had in hand is read again.
        logger.warning("generation %d was not left in order: %s", role.generation, error)
    return not worker.dismissed
