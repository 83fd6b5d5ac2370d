"""The backends that the contract suites run against. Every test uses names of its own, so servers can be shared."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from projector.backends.embedded_log import EmbeddedLog
from projector.backends.embedded_store import EmbeddedStore
from projector.log import Log
from projector.store import Store


@dataclass(frozen=True)
class LogPlace:
    """Where logs are: `connect` gives one more handle on the same one; the rest is what time does to topics."""

    connect: Callable[[], Log]
    delete_before: Callable[[str, Mapping[int, int]], None]
    delete_topic: Callable[[str], None]


@pytest.fixture
def name() -> str:
    """A name for a set, a topic or a group that no other test has."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["embedded", "aerospike"])
def connect_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Opens one more handle on the same store."""
    opened: list[Store] = []

    def connect() -> Store:
        store = _aerospike(properties) if properties else EmbeddedStore(tmp_path / "store.db")
        opened.append(store)
        return store

    properties = _aerospike_properties() if request.param == "aerospike" else None
    yield connect
    for each in opened:
        each.close()


@pytest.fixture
def store(connect_store: Callable[[], Store]) -> Store:
    """One handle on the store under test."""
    return connect_store()


def _aerospike_properties() -> dict[str, Any]:
    from tests.aerospike_server import NOT_EXERCISED, aerospike_properties

    properties = aerospike_properties()
    if properties is None:
        pytest.skip(NOT_EXERCISED)
    return properties


def _aerospike(properties: Mapping[str, Any]) -> Store:
    from projector.backends.aerospike import AerospikeStore

    return AerospikeStore(properties)


@pytest.fixture(params=["embedded", "kafka"])
def log_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LogPlace]:
    """The log under test, with all handles closed at the end."""
    opened: list[Log] = []
    place = _kafka() if request.param == "kafka" else _embedded(tmp_path / "log.db")

    def connect() -> Log:
        log = place.connect()
        opened.append(log)
        return log

    yield LogPlace(connect, place.delete_before, place.delete_topic)
    for each in opened:
        each.close()


@pytest.fixture
def log(log_place: LogPlace) -> Log:
    """One handle on the log under test."""
    return log_place.connect()


def _embedded(path: Path) -> LogPlace:
    admin = EmbeddedLog(path)
    return LogPlace(lambda: EmbeddedLog(path), admin.delete_before, admin.delete_topic)


def _kafka() -> LogPlace:
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient

    from projector.backends.kafka import KafkaLog
    from tests.kafka_broker import bootstrap

    properties: dict[str, str | int | float | bool] = {"bootstrap.servers": bootstrap()}
    admin = AdminClient({"bootstrap.servers": bootstrap()})

    def delete_before(topic: str, offsets: Mapping[int, int]) -> None:
        asked = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
        for done in admin.delete_records(asked).values():
            done.result(30)

    def delete_topic(topic: str) -> None:
        for done in admin.delete_topics([topic]).values():
            done.result(30)

    return LogPlace(lambda: KafkaLog(properties), delete_before, delete_topic)
