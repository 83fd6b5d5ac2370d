"""The end of a worker: at the end of the topic, by one signal, by two."""

import random
import signal
from collections.abc import Sequence

import pytest
from confluent_kafka import Producer

from tests.end_to_end.harness import Pipeline, eventually, wait_until
from tests.end_to_end.traffic import Traffic


def _at_the_end(pipeline: Pipeline) -> None:
    """The checkpoint is the end of every partition that holds anything, and everybody has left."""
    checkpoint = {partition: place.offset for partition, place in pipeline.checkpoint().items()}
    ends = pipeline.ends()
    assert {p: checkpoint.get(p, 0) for p in ends} == ends
    assert pipeline.members() == []
    pipeline.exact()


def test_until_end(either: Pipeline) -> None:
    """--until-end exits 0 at the end of the topic, and again where there is nothing more."""
    either.produce(either.traffic.take(5_000))
    for _ in range(2):
        either.run_to_end("--slot", "a")
        _at_the_end(either)


def test_until_end_of_an_empty_topic(pipeline: Pipeline) -> None:
    """Nothing to count is an end too."""
    pipeline.run_to_end("--slot", "a")
    _at_the_end(pipeline)


@pytest.mark.long
def test_until_end_while_more_comes(pipeline: Pipeline) -> None:
    """The end is the one at the start: a topic that keeps growing does not keep the worker."""
    pipeline.produce(pipeline.traffic.take(5_000))
    feed = pipeline.feed(250, pipeline.traffic.take(10_000))
    pipeline.run_to_end("--slot", "a", batch_records=500)
    assert feed.running
    assert pipeline.committed() >= 5_000
    assert pipeline.members() == []
    feed.join()
    pipeline.run_to_end("--slot", "a")
    _at_the_end(pipeline)


@pytest.mark.parametrize("last", ["committed", "aborted"])
def test_until_end_past_transactions(pipeline: Pipeline, last: str) -> None:
    """Input in transactions: aborted events count nowhere, and the end lies behind the last control record."""
    aborted = Traffic(random.Random(pipeline.rng.random()), pipeline.campaign_of)
    producer = Producer(
        {"bootstrap.servers": pipeline.bootstrap, "transactional.id": f"{pipeline.group}-input", "log_level": 0}
    )
    producer.init_transactions(30)
    for _ in range(5):
        _transaction(pipeline, producer, aborted.take(300), commit=False)
        _transaction(pipeline, producer, pipeline.traffic.take(700), commit=True)
    if last == "aborted":
        _transaction(pipeline, producer, aborted.take(300), commit=False)
    pipeline.run_to_end("--slot", "a", batch_records=500)
    _at_the_end(pipeline)


def _transaction(pipeline: Pipeline, producer: Producer, values: Sequence[bytes | None], commit: bool) -> None:
    producer.begin_transaction()
    for number, value in enumerate(values):
        producer.produce(pipeline.input_topic, value, partition=number % pipeline.partitions)
    assert producer.flush(30) == 0
    if commit:
        producer.commit_transaction(30)
    else:
        producer.abort_transaction(30)


def test_two_workers_until_the_end(either: Pipeline) -> None:
    """Both exit 0, whichever counted what; together they reached the end."""
    either.produce(either.traffic.take(6_000))
    workers = [either.start("--until-end", "--slot", slot, batch_records=500) for slot in "ab"]
    for worker in workers:
        worker.ends(0)
    _at_the_end(either)


def test_one_signal(either: Pipeline) -> None:
    """SIGTERM under load: what is in the rows is committed and published, the group is left at once, exit 0."""
    either.produce(either.traffic.take(5_000))
    feed = either.feed(3_000, either.traffic.take(10_000))
    worker = either.start("--slot", "a", batch_records=500, settle_ms=1_000, kafka__session__timeout__ms=300_000)
    for end in (signal.SIGTERM, signal.SIGINT):
        either.wait_committed(either.committed() + 1_000, worker)
        worker.signal(end)
        worker.ends(0)
        assert either.members() == []
        either.balanced(None)
        either.published(either.rows())
        worker = either.start("--slot", "a", batch_records=500, settle_ms=1_000)
    feed.join()
    either.wait_caught_up(worker)
    eventually(either.exact)
    worker.stop()
    _at_the_end(either)


def test_a_signal_at_rest(pipeline: Pipeline) -> None:
    """SIGTERM with nothing to do: exit 0, the group is left."""
    worker = pipeline.start("--slot", "a")
    wait_until(lambda: "assigned partitions [" in worker.said, "it has partitions", worker)
    worker.stop()
    _at_the_end(pipeline)


def test_two_signals(either: Pipeline) -> None:
    """The second signal exits at once, inside a transaction even: not 0, and the next worker loses nothing."""
    either.produce(either.traffic.take(1_000))
    worker = either.start("--slot", "a", batch_records=20, kafka__session__timeout__ms=300_000)
    either.wait_committed(1, worker)
    either.freeze_in_transaction(worker)
    worker.signal(signal.SIGTERM)
    worker.signal(signal.SIGINT)
    worker.signal(signal.SIGCONT)
    worker.ends(128 + signal.SIGTERM)
    assert either.members() == [f"{either.group}-a"]
    assert not either.caught_up()
    either.run_to_end("--slot", "a")
    _at_the_end(either)
