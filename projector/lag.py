"""Lag: how far the checkpoint of a worker's partitions is behind the ends of the topic, seen from outside the loop."""

import time
from collections.abc import Callable, Mapping
from threading import Event
from typing import Protocol

from projector.errors import ProjectorError
from projector.metrics import Metrics

LOOK_S = 2.0
KNOWN_S = 30.0
"""For so long a look says something about now."""


class Ends(Protocol):
    """A connection to the log that can tell where a topic ends."""

    def ends(self, topic: str) -> dict[int, int]:
        """As of `Log`."""
        ...

    def close(self) -> None:
        """As of `Log`."""
        ...


class Lag:
    """What one worker has yet to commit. `look` is called by one thread; any may ask."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._ends: Mapping[int, int] = {}
        self._looked_at = float("-inf")
        self._level_at: Mapping[int, float] = {}
        """Per partition when it was last seen without lag, in seconds since 1970."""
        self.behind_since: float | None = None
        """Since when every look has shown a lag, in seconds of `time.monotonic`; None: the last one showed none."""

    def look(self, ends: Mapping[int, int], now: float, wall: float) -> None:
        """The topic ends at `ends`; `now` in seconds of `time.monotonic`, `wall` since 1970."""
        self._ends = ends
        self._looked_at = now
        behind = self._behind()
        level = {partition: wall for partition, records in behind.items() if not records}
        kept = {partition: at for partition, at in self._level_at.items() if partition in behind}
        self._level_at = kept | level
        if len(level) == len(behind):
            self.behind_since = None
        elif self.behind_since is None:
            self.behind_since = now

    def last(self) -> int:
        """What was to go in all when it was last known; 0 before that."""
        return sum(self._behind().values())

    def records(self, now: float) -> dict[int, int]:
        """Per partition of the worker how many offsets it has to go; {} if nobody has told for a while."""
        return self._behind() if now - self._looked_at <= KNOWN_S else {}

    def seconds(self, now: float, wall: float) -> dict[int, float]:
        """Per partition the age of the oldest record that is not committed, at most; left out where nothing tells.

        It is younger than the last record that was committed, and came after the last look that showed none.
        """
        found = {}
        for partition, records in self.records(now).items():
            newest_ms = self._metrics.newest_ms.get(partition, 0)
            after = max(newest_ms / 1000, self._level_at.get(partition, 0.0))
            if not records:
                found[partition] = 0.0
            elif after > 0:
                found[partition] = max(0.0, wall - after)
        return found

    def _behind(self) -> dict[int, int]:
        ends = self._ends
        return {
            partition: max(0, ends[partition] - offset)
            for partition, offset in dict(self._metrics.offsets).items()
            if partition in ends
        }


def watch(lag: Lag, connect: Callable[[], Ends], topic: str, stopped: Event) -> None:
    """Look now and then until `stopped`, over a connection of its own: a call that hangs holds up nobody else."""
    log: Ends | None = None
    try:
        while not stopped.is_set():
            try:
                log = log or connect()
                lag.look(log.ends(topic), time.monotonic(), time.time())
            except ProjectorError:
                pass  # the loop meets the same trouble and tells; the lag is unknown after a while
            stopped.wait(LOOK_S)
    finally:
        if log is not None:
            log.close()
