"""Settling: when the store can no longer forget what a batch rests on (design section 7)."""

from collections.abc import Callable, Iterable

from projector.batch import Batch
from projector.errors import Misconfigured
from projector.patience import Patience
from projector.store import Store


class Settling:
    """The incarnation that the queue and the caches rest on, and which batches have settled under it."""

    def __init__(self, store: Store, settle_s: float, patience: Patience, clock: Callable[[], float]) -> None:
        self._store = store
        self._settle_s = settle_s
        self._patience = patience
        self._clock = clock
        self._incarnation = ""
        self._drained_at = float("-inf")

    def renew(self) -> None:
        """Rest on the incarnation of now. Only while there is neither a queue nor a cache. Raises `Retryable`."""
        self._incarnation = self._patience(self._store.state).incarnation

    @property
    def settle_ms(self) -> int:
        """The wait, in milliseconds."""
        return round(self._settle_s * 1000)

    def over(self, at: float) -> bool:
        """Whether the wait that began at `at` is over."""
        return self._clock() >= at + self._settle_s

    def drained_after(self, at: float) -> bool:
        """Whether no acknowledged write waited for a device at some moment after the wait that began at `at`.

        Seen during the wait it proves nothing: what is buffered then comes to the queue later. Raises `Retryable`.
        """
        if self._settle_s > 0 and self._drained_at < at + self._settle_s:
            self._ask()
        return self._settle_s == 0 or self._drained_at >= at + self._settle_s

    def ripens_in(self, batch: Batch) -> float:
        """Seconds until the batch's wait is over; it still has to be `settled`."""
        return max(0.0, batch.answered_at + self._settle_s - self._clock())

    def settled(self, batches: Iterable[Batch]) -> int | None:
        """How many of the oldest batches have settled; None if the store may have forgotten. Raises `Retryable`."""
        ripe = []
        for batch in batches:
            if self.ripens_in(batch) > 0:
                break
            ripe.append(batch)
        if not ripe:
            return 0
        if self._ask() != self._incarnation:
            return None
        if self._settle_s == 0:
            return len(ripe)
        return sum(1 for batch in ripe if batch.answered_at + self._settle_s <= self._drained_at)

    def _ask(self) -> str:
        """The incarnation now; notes whether the devices' queues are empty."""
        asked_at = self._clock()
        state = self._patience(self._store.state)
        if state.drained:
            self._drained_at = asked_at
        return state.incarnation


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
