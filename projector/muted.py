"""A muted worker: the same loop on a generation that is not live; it tells nobody anything, and keeps below a bound."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence

from projector.batch import Batch
from projector.clock import Clock
from projector.config import Config
from projector.errors import Retryable
from projector.generation import Generation
from projector.generations import bounded
from projector.kpi import Value
from projector.last_word import LastWord
from projector.log import Log, Message, Record
from projector.metrics import Metrics
from projector.projector import Projector
from projector.store import Store

REREAD_S = 0.25
NO_EPOCH = 0


class CommittedBound:
    """The committed offsets of the live generation's group, read again now and then: the muted stay below them."""

    def __init__(self, log: Log, group: str, topic: str, clock: Clock) -> None:
        self._log = log
        self._group = group
        self._topic = topic
        self._clock = clock
        self._offsets: Mapping[int, int] = {}
        self._read_at = float("-inf")

    def __call__(self) -> Mapping[int, int]:
        """Next offsets per partition; those that were committed once stay a bound while the log does not answer."""
        if self._clock.monotonic() - self._read_at >= REREAD_S:
            self._read_at = self._clock.monotonic()
            try:
                committed = self._log.checkpoint(self._group, self._topic)
            except Retryable:
                return self._offsets  # only a worker's wait gets longer
            self._offsets = {partition: each.offset for partition, each in committed.items()}
        return self._offsets


def below(bound: Callable[[], Mapping[int, int]], until: Mapping[int, int]) -> Callable[[], Mapping[int, int]]:
    """The lower of both; a partition that `until` does not name is not read."""
    return lambda: bounded(bound(), until)


class _Silence(LastWord):
    """Nothing was said, so no last word is owed."""

    def assigned(self) -> None:
        """No sweep."""

    def owe(self, values: Mapping[int, Value], published: bool) -> None:
        """Nothing."""


class MutedProjector(Projector):
    """A worker that neither publishes nor quarantines, and applies nothing at or past `bound()`, per partition.

    A partition without a bound is not read. Verdicts and totals are those that a worker with a voice would have; with
    `campaigns`, for a scratch generation, events of others are rejected.
    """

    def __init__(
        self,
        log: Log,
        store: Store,
        config: Config,
        generation: Generation,
        slot: str,
        settle_s: float,
        *,
        bound: Callable[[], Mapping[int, int]],
        campaigns: Collection[int] | None = None,
        admitted: Callable[[], bool] = lambda: True,
        beat: Callable[[], None] = lambda: None,
        clock: Clock = time,
        patience_s: float = 20.0,
        metrics: Metrics | None = None,
    ) -> None:
        super().__init__(
            log,
            store,
            config,
            generation,
            NO_EPOCH,
            slot,
            settle_s,
            campaigns=campaigns,
            admitted=admitted,
            beat=beat,
            clock=clock,
            patience_s=patience_s,
            metrics=metrics,
        )
        self._last_word = _Silence(store, generation.campaigns, self._patience, 0, clock.monotonic)
        self._bound_now = bound
        self._bound: Mapping[int, int] = {}

    def _poll(self) -> list[Record]:
        self._bound = bound = self._bound_now()
        records = super()._poll()
        past = {record.partition for record in records if record.offset >= bound.get(record.partition, 0)}
        if not past or self._stale:
            return records
        owned = past & self._positions.keys()
        self.member.seek(
            {partition: max(bound.get(partition, 0), self._positions[partition][0]) for partition in owned}
        )
        return [record for record in records if record.offset < bound.get(record.partition, 0)]

    def _at_end(self) -> bool:
        return all(position >= self._bound.get(partition, 0) for partition, (position, _) in self._positions.items())

    def _reached(self) -> Mapping[int, int]:
        return {p: min(position, self._bound.get(p, 0)) for p, position in self.member.positions().items()}

    def _messages(self, values: Mapping[int, Value], batches: Sequence[Batch]) -> list[Message]:  # noqa: ARG002
        return []
