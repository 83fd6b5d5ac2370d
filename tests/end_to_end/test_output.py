"""What readers of the output topics are given while workers die: never more than the truth, nothing aborted."""

import json
import threading
from collections import defaultdict

import pytest
from confluent_kafka import Consumer, KafkaError, TopicPartition

from tests.end_to_end import oracle
from tests.end_to_end.harness import Pipeline


class Reader:
    """A read_committed reader of the KPI topic that runs from before the first message; `take` ends it."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._consumer = Consumer(
            {
                "bootstrap.servers": pipeline.bootstrap,
                "group.id": f"{pipeline.group}-reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )
        self._consumer.assign([TopicPartition(pipeline.kpi_topic, partition, 0) for partition in range(2)])
        self._positions: dict[int, int] = {}
        self._seen: dict[tuple[int, str], list[oracle.Publication]] = defaultdict(list)
        self._ends: dict[int, int] | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def take(self, ends: dict[int, int]) -> dict[tuple[int, str], list[oracle.Publication]]:
        """Everything that it was given, once it has read up to `ends`."""
        self._ends = ends
        self._thread.join(120)
        assert not self._thread.is_alive(), f"the reader stands at {self._positions}, not {ends}"
        return dict(self._seen)

    def _run(self) -> None:
        while self._ends is None or any(self._positions.get(p, 0) < end for p, end in self._ends.items()):
            for message in self._consumer.consume(500, 0.05):
                error = message.error()
                if error is not None:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    self._positions[message.partition() or 0] = message.offset() or 0
                    continue
                told = json.loads(message.value() or b"")
                publication = oracle.Publication(told["value"], told["epoch"], told["rev"])
                self._seen[told["campaignId"], told["kpi"]].append(publication)
        self._consumer.close()


@pytest.mark.long
def test_readers_while_workers_die(pipeline: Pipeline) -> None:
    """A reader that runs all the time sees only committed totals: one value a revision, none above the truth."""
    reader = Reader(pipeline)
    for _ in range(3):
        before = pipeline.committed()
        pipeline.produce(pipeline.traffic.take(12_000))
        worker = pipeline.start("--slot", "a", batch_records=20)
        pipeline.wait_committed(before + 1, worker)
        pipeline.freeze_in_transaction(worker)
        worker.kill()
    pipeline.run_to_end("--slot", "a", batch_records=100)
    pipeline.exact()
    seen = reader.take(pipeline.kpi_ends())
    for cell, publications in seen.items():
        values: dict[tuple[int, int], int] = {}
        for value, epoch, rev in publications:
            assert value <= pipeline.traffic.truth[cell]
            assert values.setdefault((epoch, rev), value) == value
        assert values[max(values)] == pipeline.traffic.truth[cell]
    assert seen.keys() >= (+pipeline.traffic.truth).keys()
    every = sum(1 for _ in oracle.messages(pipeline.bootstrap, pipeline.kpi_topic, "read_uncommitted"))
    assert every > sum(map(len, seen.values())), "nothing was aborted: the test shows nothing"


@pytest.mark.long
def test_quarantine_after_kills(pipeline: Pipeline) -> None:
    """Every parked or rejected record stands in quarantine once per position, with its bytes, whatever was aborted."""
    shares = {"unknown-tag": 0.3, "unknown-kind": 0.1, "malformed": 0.1, "delete": 0.1, "tombstone": 0.05}
    for _ in range(2):
        before = pipeline.committed()
        pipeline.produce(pipeline.traffic.take(3_000, shares))
        worker = pipeline.start("--slot", "a", batch_records=20)
        pipeline.wait_committed(before + 1, worker)
        pipeline.freeze_in_transaction(worker)
        worker.kill()
    pipeline.run_to_end("--slot", "a")
    pipeline.exact()
    kept = oracle.quarantine(pipeline.bootstrap, pipeline.quarantine_topic)
    verdicts = pipeline.traffic.verdicts
    assert len(kept) == verdicts["parked"] + verdicts["rejected"] > 3_000
