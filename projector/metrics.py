"""What one worker has seen and done since it started: plain numbers, which other threads may read at any time.

The loop changes them once a batch or less, never per event, and replaces or adds; nothing here waits or fails.
"""

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from projector.balance import Totals
from projector.batch import Batch, Queue
from projector.log import Offset

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0)
"""Upper bounds of the classes of a duration."""


class Histogram:
    """Durations in seconds, counted in classes; `counts` has one more than `bounds`, for what is above the last."""

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one duration; a bound belongs to the class below it."""
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.sum += seconds


@dataclass(slots=True)
class Held:
    """What the ledger's caches hold of the campaigns that this worker has touched and not let go of."""

    ids: int = 0
    """Ids in their ledgers, archived or not."""
    index_bytes: int = 0
    """Memory that the index takes, roughly; bounded by `index_mib_max`."""
    rotations: int = 0
    """Pages that this worker sealed."""


@dataclass(slots=True)
class Metrics:
    """Counters of one process; verdicts are those of the batches that it committed."""

    consumed: int = 0
    counted: int = 0
    duplicate: int = 0
    parked: int = 0
    rejected: int = 0
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Records set aside, by verdict and reason; among them the duplicates that are conflicts."""
    retries: int = 0
    in_doubt: int = 0
    fenced: int = 0
    incarnation_changes: int = 0
    queues_dropped: int = 0
    assignments: int = 0
    last_error: str = ""
    batch_seconds: Histogram = field(default_factory=Histogram)
    """From the records of a batch to their verdicts."""
    transaction_seconds: Histogram = field(default_factory=Histogram)
    offsets: dict[int, int] = field(default_factory=dict)
    """Per partition that the worker has, the committed next offset."""
    newest_ms: dict[int, int] = field(default_factory=dict)
    """Per such partition the Kafka timestamp of the last record that this worker committed, where it has one."""
    committed_at: float | None = None
    """When the last transaction was committed, in seconds since 1970."""
    advanced_at: float = float("-inf")
    """When a commit last moved an offset on, in seconds of `time.monotonic`."""
    turned_at: float | None = None
    """When the loop last turned, or waited for its turn, in the same; None: not yet."""
    queue: Queue = field(default_factory=lambda: Queue(1))
    held: Held = field(default_factory=Held)

    def attach(self, queue: Queue, held: Held) -> None:
        """A worker begins, with this queue and these caches."""
        held.rotations += self.held.rotations
        self.queue, self.held = queue, held

    def turned(self) -> None:
        """The loop goes round."""
        self.turned_at = time.monotonic()

    def assigned(self, offsets: Mapping[int, int]) -> None:
        """These partitions are the worker's; their committed offsets, as read."""
        self.offsets.update(offsets)

    def given_up(self, partitions: Iterable[int]) -> None:
        """These are not the worker's any more."""
        for partition in partitions:
            self.offsets.pop(partition, None)
            self.newest_ms.pop(partition, None)

    def committed(self, batches: Sequence[Batch], offsets: Mapping[int, Offset], seconds: float) -> None:
        """One transaction has committed these batches, and took so long."""
        for batch in batches:
            self._add(batch.verdicts)
            self.reasons.update(batch.reasons)
            self.newest_ms.update(batch.newest_ms)
        if any(each.offset > self.offsets.get(partition, 0) for partition, each in offsets.items()):
            self.advanced_at = time.monotonic()
        self.offsets.update({partition: each.offset for partition, each in offsets.items()})
        self.committed_at = time.time()
        self.transaction_seconds.observe(seconds)

    def _add(self, verdicts: Totals) -> None:
        self.consumed += verdicts.consumed
        self.counted += verdicts.counted
        self.duplicate += verdicts.duplicate
        self.parked += verdicts.parked
        self.rejected += verdicts.rejected
