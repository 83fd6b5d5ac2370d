"""What the Kafka client's errors mean to us, and which calls are made again."""

import subprocess
import sys
import threading

import pytest
from confluent_kafka import KafkaError, KafkaException

from projector.backends import kafka_client
from projector.backends.kafka import KafkaLog
from projector.backends.kafka_client import Deliveries, cause, resumed, translated
from projector.backends.kafka_properties import OWNED_PROPERTIES
from projector.errors import (
    Fatal,
    Fenced,
    Misconfigured,
    OffsetsGone,
    ProjectorError,
    Refused,
    Retryable,
    SlotTaken,
)


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (KafkaError._FENCED, Fenced),
        (KafkaError.PRODUCER_FENCED, Fenced),
        (KafkaError.INVALID_PRODUCER_EPOCH, Fenced),
        (KafkaError.FENCED_INSTANCE_ID, SlotTaken),
        (KafkaError._AUTO_OFFSET_RESET, OffsetsGone),
        (KafkaError.OFFSET_OUT_OF_RANGE, OffsetsGone),
        (KafkaError._LOG_TRUNCATION, OffsetsGone),
        (KafkaError.MSG_SIZE_TOO_LARGE, Refused),
        (KafkaError.OFFSET_METADATA_TOO_LARGE, Refused),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, Misconfigured),
        (KafkaError.GROUP_AUTHORIZATION_FAILED, Misconfigured),
        (KafkaError._UNKNOWN_TOPIC, Misconfigured),
        (KafkaError._TRANSPORT, Retryable),
        (KafkaError._TIMED_OUT, Retryable),
        (KafkaError._ALL_BROKERS_DOWN, Retryable),
        (KafkaError._MAX_POLL_EXCEEDED, Retryable),
        (KafkaError.NOT_LEADER_FOR_PARTITION, Retryable),
        (KafkaError.COORDINATOR_LOAD_IN_PROGRESS, Retryable),
        (KafkaError._FATAL, Fatal),
    ],
)
def test_each_error_has_one_remedy(code: int, remedy: type[ProjectorError]) -> None:
    """The class says what to do; the text says in what, and what the client said."""
    error = translated(KafkaError(code, "as the client says"), "doing this")
    assert type(error) is remedy
    assert "doing this" in str(error)


def test_a_consumer_ended_by_another_with_its_slot() -> None:
    """The client reports it as fatal, and names the cause in the text alone."""
    text = "Fatal error: Broker: Static consumer fenced by other consumer with same group.instance.id"
    assert isinstance(translated(KafkaError(KafkaError._FATAL, text), "reading"), SlotTaken)


def test_a_fatal_error_of_a_retriable_code_is_not_retried() -> None:
    """`fatal` outweighs an unknown code."""
    assert isinstance(translated(KafkaError(KafkaError.UNKNOWN, "x", fatal=True), "reading"), Fatal)


def test_a_message_that_is_too_large_names_topic_and_size() -> None:
    """The operator learns which topic, how many bytes, and which setting."""
    text = str(Deliveries.translated(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), "totals", 12345))
    assert "totals" in text
    assert "12345 bytes" in text
    assert "max.message.bytes" in text


def test_a_retriable_call_is_made_again_until_it_succeeds() -> None:
    """The identical call, each time with what is left of its time."""
    left: list[float] = []

    def call(seconds: float) -> None:
        left.append(seconds)
        if len(left) < 4:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "x", retriable=True))

    resumed(call, 20.0)
    assert left == sorted(left, reverse=True)
    assert len(left) == 4


@pytest.mark.parametrize("lasting", [{"fatal": True}, {"txn_requires_abort": True}, {}])
def test_no_other_call_is_made_again(lasting: dict[str, bool]) -> None:
    """Neither after a fatal error, nor where the transaction must be aborted."""
    calls: list[float] = []

    def call(seconds: float) -> None:
        calls.append(seconds)
        raise KafkaException(KafkaError(KafkaError._FENCED, "x", **lasting))

    with pytest.raises(KafkaException):
        resumed(call, 20.0)
    assert len(calls) == 1


def test_resuming_ends() -> None:
    """A call that goes on failing is given up, with its own error."""

    def call(_: float) -> None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "x", retriable=True))

    with pytest.raises(KafkaException):
        resumed(call, 0.05)


def test_a_call_that_does_not_come_back_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client may hang; whoever waits for it does not. The error is not one to try again after."""
    monkeypatch.setattr(kafka_client, "GRACE_S", 0.1)
    released = threading.Event()

    def call(_: float) -> None:
        released.wait()

    with pytest.raises(KafkaException) as raised:
        resumed(call, 0.1)
    released.set()
    assert not cause(raised.value).retriable()


def test_a_property_that_does_not_exist() -> None:
    """One line that names it."""
    with pytest.raises(Misconfigured, match=r"no\.such\.property"):
        KafkaLog({"bootstrap.servers": "127.0.0.1:1", "no.such.property": 1}).topic("any")


def test_what_the_protocol_sets_is_owned() -> None:
    """No property that we set against the user's will is one that the user may set."""
    assert {"group.id", "group.instance.id", "transactional.id", "partition.assignment.strategy"} <= OWNED_PROPERTIES
    assert {"isolation.level", "enable.auto.commit", "auto.offset.reset"} <= OWNED_PROPERTIES
    assert "session.timeout.ms" not in OWNED_PROPERTIES


def test_the_owned_properties_are_known_without_the_client() -> None:
    """Configuration is checked where no Kafka client is loaded."""
    program = "import projector.backends.kafka_properties, sys; sys.exit('confluent_kafka' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_clients_own_lines_are_for_debugging(caplog: pytest.LogCaptureFixture) -> None:
    """A broker that is away must not fill the log: the client complains several times a second."""
    log = kafka_client.settings({})["logger"]
    with caplog.at_level(1, logger="projector.kafka"):
        log.log(40, "%s [%s] %s", "FAIL", "producer", "connection refused")
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [
        ("DEBUG", "FAIL [producer] connection refused")
    ]
