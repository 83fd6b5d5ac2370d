"""The broker dies or freezes under load, with workers that run on: nothing lost, nothing doubled."""

import time
from collections.abc import Callable, Iterator

import pytest

from tests.end_to_end.harness import Pipeline, eventually
from tests.kafka_broker import Broker


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """A broker that no other test minds losing."""
    made = Broker()
    made.start()
    yield made
    made.close()


def _disturb(pipeline: Pipeline, fault: Callable[[], None]) -> None:
    """The fault comes while a worker counts and more events arrive; that worker goes on by itself."""
    worker = pipeline.start("--slot", "a", batch_records=500)
    feed = pipeline.feed(3_000)
    pipeline.wait_committed(pipeline.rng.randrange(1, 6_000), worker)
    fault()
    feed.stop()
    pipeline.wait_caught_up(worker)
    eventually(pipeline.exact)
    worker.stop()
    pipeline.exact()


def test_broker_killed(make_pipeline: Callable[..., Pipeline], broker: Broker) -> None:
    """kill -9 of the broker, gone for 2 s, started again."""

    def fault() -> None:
        broker.kill()
        time.sleep(2)
        broker.start()

    _disturb(make_pipeline(broker.bootstrap).prepare(), fault)


def _freeze(broker: Broker) -> Callable[[], None]:
    def fault() -> None:
        broker.pause()
        time.sleep(10)
        broker.resume()

    return fault


@pytest.mark.long
def test_broker_frozen(make_pipeline: Callable[..., Pipeline], broker: Broker) -> None:
    """Frozen for 10 s: connections stay, no answers come, the open transaction runs out."""
    pipeline = make_pipeline(broker.bootstrap, settings={"kafka.transaction.timeout.ms": 4_000})
    _disturb(pipeline.prepare(), _freeze(broker))


@pytest.mark.long
def test_broker_frozen_past_the_session(make_pipeline: Callable[..., Pipeline], broker: Broker) -> None:
    """Frozen for longer than sessions last: the worker joins again, and is not taken for another one."""
    short = {
        "kafka.session.timeout.ms": 6_000,
        "kafka.transaction.timeout.ms": 4_000,
        "kafka.heartbeat.interval.ms": 1_000,
    }
    _disturb(make_pipeline(broker.bootstrap, settings=short).prepare(), _freeze(broker))
