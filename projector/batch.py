"""Batches that are applied and wait until they have settled, in the order in which they will be committed."""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from projector.balance import Totals
from projector.kpi import Value
from projector.log import Message

BATCHES_MAX = 10
BYTES_MAX = 256 * 1024 * 1024
VALUE_BYTES = 512


@dataclass(slots=True)
class Batch:
    """What a transaction must carry for the records of one poll: everything as it stood when they had been applied."""

    positions: dict[int, tuple[int, Totals | None]]
    """Per partition the next offset and the running totals; None: unknown (see `balance`)."""
    answered_at: float
    """When the store gave the last answer that this rests on, in seconds of the worker's monotonic clock."""
    values: dict[int, Value] = field(default_factory=dict)
    quarantined: list[Message] = field(default_factory=list)
    verdicts: Totals = field(default_factory=Totals)
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Records set aside, by verdict and reason."""
    newest_ms: dict[int, int] = field(default_factory=dict)
    """Per partition the Kafka timestamp of its last record."""

    @property
    def bytes(self) -> int:
        """Memory it holds, roughly."""
        quarantined = sum(len(message.value or b"") + VALUE_BYTES for message in self.quarantined)
        return VALUE_BYTES * (1 + len(self.values)) + quarantined


class Queue:
    """Applied batches, oldest first; bounded, so that a store that settles slowly stops the polling.

    It takes as many records as `BATCHES_MAX` full batches have, in as many batches as they come in: at a low rate many
    small ones settle at a time.
    """

    def __init__(self, batch_records: int) -> None:
        self._batch_records = batch_records
        self._batches: deque[Batch] = deque()
        self.records = 0
        """Records that have a verdict and are not committed."""
        self.oldest_at: float | None = None
        """`answered_at` of the oldest batch. This and `records` may be read by another thread."""
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        return iter(self._batches)

    @property
    def full(self) -> bool:
        """No further batch may be applied."""
        return self.records >= BATCHES_MAX * self._batch_records or self._bytes >= BYTES_MAX

    @property
    def below_half(self) -> bool:
        """There is room for as much again."""
        return 2 * self.records < BATCHES_MAX * self._batch_records and 2 * self._bytes < BYTES_MAX

    def append(self, batch: Batch) -> None:
        """Put a batch at the end."""
        self._batches.append(batch)
        self.records += batch.verdicts.consumed
        self._bytes += batch.bytes
        self.oldest_at = self._batches[0].answered_at

    def remove(self, count: int) -> None:
        """Take the oldest `count` away: they are committed."""
        for _ in range(count):
            batch = self._batches.popleft()
            self.records -= batch.verdicts.consumed
            self._bytes -= batch.bytes
        self.oldest_at = self._batches[0].answered_at if self._batches else None

    def clear(self) -> None:
        """Drop all: none of them is committed."""
        self._batches.clear()
        self.oldest_at = None
        self.records = 0
        self._bytes = 0
