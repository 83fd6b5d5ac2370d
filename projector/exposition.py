"""Exposition: what Prometheus reads of one worker, made of plain numbers when it is asked for."""

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from projector.lag import Lag
from projector.metrics import Histogram, Metrics

REASONS = {
    "counted": ("",),
    "duplicate": ("", "conflict"),
    "parked": ("unknown-kind", "unknown-tag", "unknown-campaign", "campaign-not-adopted"),
    "rejected": (
        "tombstone",
        "not-json",
        "not-an-event",
        "delete",
        "other-set",
        "no-id",
        "bad-id",
        "bad-tag",
        "no-kind",
    ),
}
"""Every verdict with its reasons: shown from the start, for a series that begins with 1 shows no increase."""


class Exposition(Collector):
    """One worker. `stuck` says whether it is."""

    def __init__(self, metrics: Metrics, lag: Lag, stuck: bool, now: float, wall: float) -> None:
        """`now` in seconds of `time.monotonic`, `wall` since 1970."""
        self._metrics = metrics
        self._lag = lag
        self._stuck = stuck
        self._now = now
        self._wall = wall

    def collect(self) -> Iterator[Metric]:
        """All metrics of the projector."""
        yield from self._verdicts()
        yield from self._times()
        yield from self._lags()
        yield from self._ledger()
        yield from self._trouble()

    def _verdicts(self) -> Iterator[Metric]:
        records = CounterMetricFamily(
            "projector_records",
            "Records with a committed verdict; reason is empty where there is none.",
            labels=("verdict", "reason"),
        )
        for (verdict, reason), count in verdicts(self._metrics).items():
            records.add_metric((verdict, reason), count)
        yield records

    def _times(self) -> Iterator[Metric]:
        metrics = self._metrics
        yield _histogram(
            "projector_batch_seconds", "From the records of a batch to their verdicts.", metrics.batch_seconds
        )
        yield _histogram("projector_transaction_seconds", "Time of a transaction.", metrics.transaction_seconds)
        oldest_at = metrics.queue.oldest_at
        yield GaugeMetricFamily(
            "projector_queue_age_seconds",
            "Since the oldest batch that is not committed was applied; 0 if there is none.",
            max(0.0, self._now - oldest_at) if oldest_at is not None else 0.0,
        )
        yield GaugeMetricFamily(
            "projector_queue_records", "Records that are applied and not committed.", metrics.queue.records
        )
        if metrics.committed_at is not None:
            yield GaugeMetricFamily(
                "projector_last_commit_timestamp_seconds",
                "When the last transaction was committed; absent before the first.",
                metrics.committed_at,
            )

    def _lags(self) -> Iterator[Metric]:
        records = GaugeMetricFamily(
            "projector_lag_records",
            "Offsets between checkpoint and end of the topic; absent while not known.",
            labels=("partition",),
        )
        for partition, count in sorted(self._lag.records(self._now).items()):
            records.add_metric((str(partition),), count)
        yield records
        seconds = GaugeMetricFamily(
            "projector_lag_seconds",
            "Age of the oldest record that is not committed, at most; absent while not known.",
            labels=("partition",),
        )
        for partition, age in sorted(self._lag.seconds(self._now, self._wall).items()):
            seconds.add_metric((str(partition),), age)
        yield seconds
        yield GaugeMetricFamily(
            "projector_assigned_partitions", "Partitions that this worker has.", len(self._metrics.offsets)
        )
        yield GaugeMetricFamily("projector_stuck", "1 while /livez answers 503.", int(self._stuck))

    def _ledger(self) -> Iterator[Metric]:
        held = self._metrics.held
        yield GaugeMetricFamily(
            "projector_ledger_ids",
            "Ids in the ledgers of the campaigns that this worker has in memory.",
            held.ids,
        )
        yield GaugeMetricFamily(
            "projector_index_bytes", "Memory of the index of archived ids; at most index_mib_max.", held.index_bytes
        )
        yield CounterMetricFamily("projector_rotations", "Pages of the ledger that were sealed.", held.rotations)

    def _trouble(self) -> Iterator[Metric]:
        metrics = self._metrics
        yield CounterMetricFamily("projector_retries", "Calls to log or store that failed.", metrics.retries)
        yield CounterMetricFamily(
            "projector_in_doubt", "Such calls that may have taken effect all the same.", metrics.in_doubt
        )
        yield CounterMetricFamily(
            "projector_fenced", "Transactions that are not known to be committed.", metrics.fenced
        )
        yield CounterMetricFamily("projector_queues_dropped", "Returns to the checkpoint.", metrics.queues_dropped)
        yield CounterMetricFamily(
            "projector_incarnation_changes",
            "Restarts of the store, by which it may have forgotten.",
            metrics.incarnation_changes,
        )
        yield CounterMetricFamily("projector_assignments", "Times that partitions came.", metrics.assignments)


def verdicts(metrics: Metrics) -> Mapping[tuple[str, str], int]:
    """Committed records by verdict and reason, whose sum over the reasons of a verdict is all of them."""
    reasons = dict(metrics.reasons)
    found = {(verdict, reason): reasons.get((verdict, reason), 0) for verdict in REASONS for reason in REASONS[verdict]}
    found |= reasons
    found["counted", ""] = metrics.counted
    found["duplicate", ""] = max(0, metrics.duplicate - found["duplicate", "conflict"])
    return found


def _histogram(name: str, documentation: str, held: Histogram) -> Metric:
    """Prometheus counts, for each bound, everything at or below it."""
    below = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, held.bounds), "+Inf"), list(held.counts), strict=True):
        below += count
        buckets.append((bound, below))
    return HistogramMetricFamily(name, documentation, buckets=buckets, sum_value=held.sum)
