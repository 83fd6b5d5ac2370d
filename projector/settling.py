"""Settling: when the store can no longer forget what a batch rests on (design section 7)."""

from collections import deque
from collections.abc import Callable, Collection, Iterable
from itertools import takewhile

from projector.batch import Batch
from projector.errors import Misconfigured
from projector.patience import Patience, patiently
from projector.store import Store, StoreState


class Settling:
    """The incarnation that the queue and the caches rest on, and which batches have settled under it."""

    def __init__(self, store: Store, settle_s: float, patience: Patience, clock: Callable[[], float]) -> None:
        self._store = store
        self._settle_s = settle_s
        self._writing_s = min(settle_s, store.limits().writing_ms / 1000)
        self._patience = patience
        self._clock = clock
        self._incarnation = ""
        self._looks: deque[tuple[float, float]] = deque()
        """When was lately asked about the devices' queues, and when it was known that they were empty: in between they
        were. What had left them may still be on its way."""
        self._drained_at = float("-inf")
        """When was last asked, of those so long ago that it has arrived."""

    def renew(self) -> None:
        """Rest on the incarnation of now. Only while there is neither a queue nor a cache. Raises `Retryable`."""
        self._incarnation = self._patience(self._store.state).incarnation

    @property
    def settle_ms(self) -> int:
        """The wait, in milliseconds."""
        return round(self._settle_s * 1000)

    def arrived(self, written_at: Collection[float]) -> list[bool]:
        """Of writes answered at these moments: which no crash of the store takes back. Raises `Retryable`.

        The incarnation is not looked at.
        """
        over = [at + self._settle_s <= self._clock() for at in written_at]
        if any(done and not self._drained(at) for at, done in zip(written_at, over, strict=True)):
            self._ask()
        return [done and self._drained(at) for at, done in zip(written_at, over, strict=True)]

    def ripens_in(self, batch: Batch) -> float:
        """Seconds until the batch's wait is over; it still has to be `settled`."""
        return max(0.0, batch.answered_at + self._settle_s - self._clock())

    def next_look_in(self, batches: Iterable[Batch]) -> float:
        """Seconds until `settled` has something to ask: for the oldest, or the first that no look counts for yet."""
        looked_at = self._looks[-1][0] if self._looks else self._drained_at
        soonest = float("inf")
        for number, batch in enumerate(batches):
            counts_from = self._counts_from(batch.answered_at)
            if counts_from > looked_at:
                return min(soonest, max(0.0, counts_from - self._clock()))
            if number == 0:
                soonest = self.ripens_in(batch)
                if self._drained_at < counts_from:
                    known_at = next(known_at for asked_at, known_at in self._looks if asked_at >= counts_from)
                    soonest = max(soonest, known_at + self._writing_s - self._clock())
        return soonest

    def settled(self, batches: Iterable[Batch]) -> int | None:
        """How many of the oldest batches have settled; None if the store may have forgotten. Raises `Retryable`."""
        held = list(batches)
        if not held or self.next_look_in(held) > 0:
            return 0
        if self._ask() != self._incarnation:
            return None
        ripe = takewhile(lambda batch: self.ripens_in(batch) <= 0 and self._drained(batch.answered_at), held)
        return sum(1 for _ in ripe)

    def _drained(self, answered_at: float) -> bool:
        return self._settle_s == 0 or self._counts_from(answered_at) <= self._drained_at

    def _counts_from(self, answered_at: float) -> float:
        """From when on a look at the queues counts for what was answered then: by then it has come to its queue."""
        return answered_at + self._settle_s - self._writing_s

    def _ask(self) -> str:
        """The incarnation now; notes whether the devices' queues are empty."""
        asked_at = self._clock()
        state = self._patience(self._store.state)
        now = self._clock()
        if state.drained:
            self._looks.append((asked_at, now))
        while self._looks and self._looks[0][1] + self._writing_s <= now:
            self._drained_at, _ = self._looks.popleft()
        return state.incarnation


def outlives(store: Store, before: StoreState, settle_s: float, sleep: Callable[[float], None]) -> bool:
    """Wait until no crash takes back what was answered just now; False if one may have, since the state `before`.

    Raises `Retryable`.
    """
    sleep(settle_s)
    drained = patiently(store.state).drained
    sleep(patiently(store.limits).writing_ms / 1000)
    return drained and patiently(store.state).incarnation == before.incarnation


def settle_seconds(store: Store, settle_ms: int | str, allow_volatile_store: bool) -> float:
    """The wait in force, from settings and store.

    Raises `Misconfigured` for a store that cannot keep a write, and for a wait within which it may lose one.
    """
    limit = store.limits().settle_ms
    if limit is None and not allow_volatile_store:
        raise Misconfigured(
            "the store keeps its rows in memory or flushes them at no fixed time (flush-max-ms 0): a crash would lose "
            "counts; use a device namespace with flush-max-ms 25, or set allow_volatile_store = true to risk it"
        )
    if isinstance(settle_ms, int):
        if settle_ms < (limit or 0) and not allow_volatile_store:
            raise Misconfigured(
                f"settle_ms is {settle_ms}, but a crash of the store may lose a write that is {limit} ms old: set "
                'settle_ms = "auto", or allow_volatile_store = true to risk it'
            )
        return settle_ms / 1000
    return (limit or 0) / 1000
