"""What is not as it must be at the start: one line that names it and the way out, its exit code, nothing started."""

import random
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, the package has no __all__
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from projector.backends import open_log, open_store
from projector.pointer import create_pointer
from tests.aerospike_server import NOT_EXERCISED, Server
from tests.end_to_end import oracle
from tests.end_to_end.harness import ENVIRONMENT, PATIENCE_S, Pipeline, wait_until
from tests.end_to_end.traffic import Traffic

MakePipeline = Callable[..., Pipeline]


@pytest.fixture
def unprepared(make_pipeline: MakePipeline, bootstrap: str) -> Pipeline:
    """Nothing is there but the broker."""
    return make_pipeline(bootstrap)


@pytest.fixture
def nowhere() -> Iterator[str]:
    """An address at which nobody listens, as long as the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield "127.0.0.1:{1}".format(*taken.getsockname())


def _refused(pipeline: Pipeline, code: int, *named: str, **settings: str | int) -> None:
    """A run ends with `code` and one line that has `named` in it, alone and under a supervisor, in the same slot."""
    for options in ([], ["--workers", "1"]):
        done = subprocess.run(
            pipeline.command(*options, **settings),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            cwd=pipeline.directory,
            env=ENVIRONMENT,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == code, done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        errors = [line for line in done.stderr.splitlines() if "error: " in line]
        assert len(errors) == 1, done.stderr
        assert code == 5 or errors[0].startswith("error: ")
        for text in named:
            assert text in errors[0]


def _nothing_started(pipeline: Pipeline) -> None:
    """Nobody has joined, nothing is committed or published."""
    assert pipeline.members() == []
    assert pipeline.checkpoint() == {}
    assert not oracle.publications(pipeline.bootstrap, pipeline.kpi_topic)


# --- not there


def test_unreachable_broker(pipeline: Pipeline, nowhere: str) -> None:
    """The address is named."""
    _refused(pipeline, 2, "cannot reach", nowhere, "projector config", kafka__bootstrap__servers=nowhere)
    _nothing_started(pipeline)


def test_unreachable_aerospike(pipeline: Pipeline, nowhere: str) -> None:
    """The address is named."""
    settings = {"store": "aerospike", "aerospike__hosts": nowhere, "aerospike__namespace": "test"}
    _refused(pipeline, 2, nowhere, "projector config", **settings)
    _nothing_started(pipeline)


def test_unknown_namespace(pipeline: Pipeline, aerospike_server: Server) -> None:
    """The namespace is named, and those that there are."""
    settings = {"store": "aerospike", "aerospike__hosts": aerospike_server.hosts, "aerospike__namespace": "elsewhere"}
    _refused(pipeline, 2, "elsewhere", "test", **settings)
    _nothing_started(pipeline)


@pytest.mark.parametrize("setting", ["input_topic", "kpi_topic", "quarantine_topic"])
def test_missing_topic(pipeline: Pipeline, setting: str) -> None:
    """It is named, and `projector migrate` with it."""
    missing = f"{pipeline.group}-missing"
    _refused(pipeline, 2, f"topic {missing} is not there", "run: projector migrate", **{setting: missing})
    _nothing_started(pipeline)


def test_missing_pointer(unprepared: Pipeline) -> None:
    """A store that was never migrated."""
    unprepared.create_topics()
    _refused(unprepared, 2, "pointer row", "run: projector migrate")
    _nothing_started(unprepared)


def test_missing_index(unprepared: Pipeline) -> None:
    """A store that was migrated in part."""
    unprepared.create_topics()
    config = unprepared.config
    with closing(open_log(config)) as log, closing(open_store(config)) as store:
        topic = log.topic(config.input_topic)
        assert topic
        assert create_pointer(store, topic.id)
    _refused(unprepared, 2, "set campaigns has no index on c-date", "run: projector migrate")
    _nothing_started(unprepared)
    with closing(open_log(config)) as log, closing(open_store(config)) as store:
        store.create_index("campaigns", "c-date")
    unprepared.run_to_end()


# --- there, but not as it must be


def _alter(pipeline: Pipeline, topic: str, setting: str, value: str) -> None:
    entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for future in pipeline.admin.incremental_alter_configs([resource]).values():
        future.result(30)


@pytest.mark.parametrize(
    ("topic", "setting", "wrong", "right"),
    [
        ("quarantine_topic", "max.message.bytes", "1048588", "1114124"),
        ("kpi_topic", "cleanup.policy", "delete", "compact"),
        ("input_topic", "cleanup.policy", "compact", "delete"),
    ],
)
def test_wrong_topic_setting(pipeline: Pipeline, topic: str, setting: str, wrong: str, right: str) -> None:
    """It is named with what it is and the command that mends it; what the command sets is taken."""
    name = getattr(pipeline, topic)
    _alter(pipeline, name, setting, wrong)
    _refused(pipeline, 2, name, f"{setting} is {wrong}", f"--entity-name {name} --add-config {setting}={right}")
    _nothing_started(pipeline)
    _alter(pipeline, name, setting, right)
    pipeline.run_to_end()


def test_volatile_store(make_pipeline: MakePipeline, bootstrap: str) -> None:
    """A namespace in memory is refused, until the operator takes the risk by name."""
    if shutil.which("asd") is None:
        pytest.skip(NOT_EXERCISED)
    server = Server(flush_max_ms=None)
    try:
        risked = make_pipeline(
            bootstrap, aerospike=server.start().properties, settings={"allow_volatile_store": "true"}
        )
        risked.prepare()
        _refused(risked, 2, "in memory", "allow_volatile_store = true", allow_volatile_store="false")
        _nothing_started(risked)
        risked.produce(risked.traffic.take(1_000))
        risked.run_to_end()
        risked.exact()
    finally:
        server.remove()


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("kafka.enable.auto.commit", "true"),
        ("kafka.isolation.level", "read_uncommitted"),
        ("kafka.transactional.id", "mine"),
        ("kafka.auto.offset.reset", "latest"),
        ("aerospike.policies.write.total_timeout", "1"),
    ],
)
def test_owned_property(pipeline: Pipeline, setting: str, value: str) -> None:
    """What the protocol rests on is refused by its name."""
    pipeline.settings[setting] = value
    owned = setting if setting.startswith("kafka.") else "aerospike.policies"
    _refused(pipeline, 2, f"{owned} belongs to the protocol", "remove it")


def test_property_that_the_client_does_not_know(pipeline: Pipeline) -> None:
    """A misspelt property is refused by its name."""
    _refused(pipeline, 2, "fetch.wait.max.msec", kafka__fetch__wait__max__msec=5)
    _nothing_started(pipeline)


# --- offsets that are gone


def _delete_all(pipeline: Pipeline) -> dict[int, int]:
    """Every record of the input so far; answers the new heads."""
    ends = pipeline.ends()
    places = [TopicPartition(pipeline.input_topic, partition, offset) for partition, offset in ends.items()]
    for future in pipeline.admin.delete_records(places).values():
        future.result(30)
    return ends


def _untold(pipeline: Pipeline, records: int) -> list[bytes | None]:
    """Traffic that is not part of the truth."""
    return Traffic(random.Random(pipeline.rng.random()), pipeline.campaign_of).take(records)


def test_head_without_checkpoint(pipeline: Pipeline) -> None:
    """Records are gone that nobody counted: 5, until the operator accepts it; then the rest is counted."""
    pipeline.produce(_untold(pipeline, 1_000))
    _delete_all(pipeline)
    pipeline.produce(pipeline.traffic.take(2_000))
    _refused(pipeline, 5, "error: partition ", "there is no checkpoint", "start with --accept-head")
    _nothing_counted(pipeline)
    pipeline.run_to_end("--accept-head")
    pipeline.exact()
    pipeline.run_to_end()


def _nothing_counted(pipeline: Pipeline) -> None:
    assert pipeline.checkpoint() == {}
    assert not any(pipeline.rows().cells.values())
    assert not oracle.publications(pipeline.bootstrap, pipeline.kpi_topic)


def test_head_above_the_checkpoint(pipeline: Pipeline) -> None:
    """Records after the checkpoint are gone: 5, with the offsets; accepted, what is there is counted, and balances."""
    pipeline.produce(pipeline.traffic.take(2_000))
    pipeline.run_to_end()
    before = pipeline.committed()
    pipeline.produce(_untold(pipeline, 1_000))
    heads = _delete_all(pipeline)
    pipeline.produce(pipeline.traffic.take(2_000))
    _refused(pipeline, 5, "the checkpoint is offset ", "but the topic begins at ", "start with --accept-head")
    assert pipeline.committed() == before
    pipeline.run_to_end("--accept-head")
    assert heads.keys() == pipeline.checkpoint().keys()
    _counted(pipeline)


def _counted(pipeline: Pipeline) -> None:
    """The rows are the truth, the checkpoint is at the end, the balance holds."""
    rows = pipeline.rows()
    assert {cell: n for cell, n in rows.cells.items() if n} == dict(pipeline.traffic.truth)
    assert pipeline.caught_up()
    pipeline.balanced(None)
    pipeline.published(rows)


@pytest.mark.parametrize("way_out", ["--restore-checkpoint", "--accept-head"])
def test_lost_checkpoint(pipeline: Pipeline, way_out: str) -> None:
    """Kafka lost the group, the store has a copy: 5. Restored, it goes on there; read again, all is as it was."""
    pipeline.produce(pipeline.traffic.take(3_000))
    pipeline.run_to_end()
    pipeline.produce(pipeline.traffic.take(3_000))
    _lose_checkpoint(pipeline)
    named = "Kafka has no checkpoint, but the store has a copy at offset "
    _refused(pipeline, 5, named, "--restore-checkpoint", "--accept-head")
    assert pipeline.checkpoint() == {}
    pipeline.run_to_end(way_out)
    pipeline.exact()
    pipeline.run_to_end()


def _lose_checkpoint(pipeline: Pipeline) -> None:
    for future in pipeline.admin.delete_consumer_groups([pipeline.group]).values():
        future.result(30)
    assert pipeline.checkpoint() == {}


def test_topic_made_anew(pipeline: Pipeline) -> None:
    """The same name, another topic: 5, with both ids; nothing of it is counted on top."""
    pipeline.produce(pipeline.traffic.take(1_000))
    pipeline.run_to_end()
    before = pipeline.rows()
    _make_anew(pipeline)
    pipeline.produce(_untold(pipeline, 1_000))
    _refused(pipeline, 5, f"topic {pipeline.input_topic} is not the one that was counted", "the pointer row names")
    for flag in ("--accept-head", "--restore-checkpoint"):
        worker = pipeline.start(flag)
        worker.ends(5)
    assert pipeline.rows() == before
    assert pipeline.members() == []


def _make_anew(pipeline: Pipeline) -> None:
    topics = [pipeline.input_topic, pipeline.kpi_topic, pipeline.quarantine_topic]
    for future in pipeline.admin.delete_topics(topics).values():
        future.result(30)
    wait_until(lambda: not _there(pipeline).intersection(topics), "the topics are gone")
    pipeline.create_topics()


def _there(pipeline: Pipeline) -> set[Any]:
    return set(pipeline.admin.list_topics(timeout=30).topics)
