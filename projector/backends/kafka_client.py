"""How the Kafka client is set up, what its errors mean to us, and how it is called again."""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, TypeAlias, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as KafkaMessage
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random_exponential

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
from projector.log import Message, Record

T = TypeVar("T")
Properties: TypeAlias = Mapping[str, str | int | float | bool]
Delivered: TypeAlias = Callable[[KafkaError | None, KafkaMessage], None]

logger = logging.getLogger("projector.kafka")
logger.addHandler(logging.NullHandler())

RETRY_S = 20.0
GRACE_S = 1.0
POLL_INTERVAL_MS = 60_000
MESSAGE_BYTES_MAX = 100_000_000  # the topic's own limit decides, far below
_ALL = {
    "reconnect.backoff.max.ms": 1_000,
    "topic.metadata.propagation.max.ms": 5_000,
}
_CONSUMER: dict[str, Any] = {
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "auto.offset.reset": "error",
    "fetch.queue.backoff.ms": 2,
    "queued.min.messages": 1_000_000,
    "queued.max.messages.kbytes": 131_072,
}
_PRODUCER: dict[str, Any] = {
    "enable.idempotence": True,
    "partitioner": "murmur2_random",
    "message.max.bytes": MESSAGE_BYTES_MAX,
    "delivery.report.only.error": True,
}

_GONE = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION}
NO_SUCH_TOPIC = {
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
}
GROUP_NOT_EMPTY = {
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.NON_EMPTY_GROUP,
    KafkaError.STALE_MEMBER_EPOCH,
}
"""What a commit from outside the group meets while the group has members."""
_TOO_LARGE = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.OFFSET_METADATA_TOO_LARGE,
}
_INVALID = {KafkaError.INVALID_MSG, KafkaError.INVALID_RECORD, KafkaError.INVALID_TIMESTAMP}
_PURGED = {KafkaError._PURGE_INFLIGHT, KafkaError._PURGE_QUEUE}  # by an abort, for another reason
_FENCED = {KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH}
_MISCONFIGURED = NO_SUCH_TOPIC | {
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.GROUP_AUTHORIZATION_FAILED,
    KafkaError.GROUP_MAX_SIZE_REACHED,
    KafkaError.INCONSISTENT_GROUP_PROTOCOL,
    KafkaError.INVALID_CONFIG,
    KafkaError.INVALID_GROUP_ID,
    KafkaError.INVALID_PARTITIONS,
    KafkaError.INVALID_REPLICATION_FACTOR,
    KafkaError.INVALID_SESSION_TIMEOUT,
    KafkaError.INVALID_TRANSACTION_TIMEOUT,
    KafkaError.POLICY_VIOLATION,
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.TOPIC_EXCEPTION,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED,
    KafkaError.UNSUPPORTED_VERSION,
    KafkaError._INVALID_ARG,
    KafkaError._UNSUPPORTED_FEATURE,
}
UNREACHABLE = {
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._AUTHENTICATION,
    KafkaError._RESOLVE,
    KafkaError._SSL,
    KafkaError._TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._TRANSPORT,
}


def translated(error: KafkaError, what: str) -> ProjectorError:
    """The client's error in `what`, as ours: named for the remedy. What is not known to be lasting is `Retryable`."""
    code, text = error.code(), f"{what}: {error.str()}"
    if code == KafkaError.FENCED_INSTANCE_ID or (code == KafkaError._FATAL and "group.instance.id" in error.str()):
        return SlotTaken(f"{what}: another process has joined with the same slot: give each its own --slot")
    if code in _FENCED:
        return Fenced(text)
    if code in _GONE:
        return OffsetsGone(text)
    if code in _TOO_LARGE or code in _INVALID:
        return Refused(text)
    if code in _MISCONFIGURED:
        return Misconfigured(text)
    if code in UNREACHABLE:
        return Retryable(f"Kafka does not answer: {text}")
    return Fatal(text) if error.fatal() or code == KafkaError._FATAL else Retryable(text)


def cause(exception: KafkaException) -> KafkaError:
    """The error in an exception of the client."""
    error = exception.args[0]
    return error if isinstance(error, KafkaError) else KafkaError(KafkaError._FAIL, str(error))


def resumed(call: Callable[[float], None], seconds: float = RETRY_S) -> None:
    """Make the identical call again while its error is retriable; `call` takes the seconds that are left to it.

    Raises the last KafkaException after `seconds`, and `_TIMED_OUT`, not retriable, where the client does not come back
    (`send_offsets_to_transaction` ignores its timeout when a broker dies, librdkafka#5456): the thread that it holds
    is left to it, and its producer must not be used again.
    """
    deadline = time.monotonic() + seconds
    attempts = Retrying(
        retry=retry_if_exception(lambda e: isinstance(e, KafkaException) and cause(e).retriable()),
        wait=wait_random_exponential(multiplier=0.01, max=0.5),
        stop=stop_after_delay(seconds),
        reraise=True,
    )
    done: Future[None] = Future()

    def attempt() -> None:
        try:
            done.set_result(attempts(lambda: call(max(deadline - time.monotonic(), 0.1))))
        except Exception as error:  # raised again by the thread that waits
            done.set_exception(error)

    threading.Thread(target=attempt, daemon=True).start()
    try:
        done.result(seconds + GRACE_S)
    except TimeoutError:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the client does not come back")) from None


class _ClientLog:
    """The client's own log lines, for whoever asks for them: what matters of it is raised, or warned of by us."""

    def log(self, _: int, text: str, *arguments: Any) -> None:
        logger.debug(text, *arguments)


def settings(properties: Properties, *ours: Mapping[str, Any]) -> dict[str, Any]:
    """Our defaults, the user's properties over them, and what is ours alone over both."""
    merged: dict[str, Any] = {**_ALL, **properties, "logger": _ClientLog()}
    for each in ours:
        merged |= each
    return merged


def consumer(properties: Properties, ours: Mapping[str, Any]) -> Consumer:
    """A consumer that reads what is committed and commits nothing itself. Raises `Misconfigured`."""
    session_ms = str(properties.get("session.timeout.ms", ""))
    # The client refuses a poll interval below the session's.
    poll = {"max.poll.interval.ms": max(POLL_INTERVAL_MS, int(session_ms) if session_ms.isdecimal() else 0)}
    return made(Consumer, settings({**_CONSUMER, **poll, **properties}, ours))


def producer(properties: Properties, ours: Mapping[str, Any]) -> Producer:
    """An idempotent producer. Raises `Misconfigured`."""
    return made(Producer, settings({**_PRODUCER, **properties}, ours))


def made(kind: Callable[[dict[str, Any]], T], merged: dict[str, Any]) -> T:
    try:
        return kind(merged)
    except (KafkaException, TypeError, ValueError) as error:
        text = cause(error).str() if isinstance(error, KafkaException) else str(error)
        raise Misconfigured(f"kafka: {text}") from error


def places(topic: str, offsets: Mapping[int, int]) -> list[TopicPartition]:
    """Offsets in the client's words."""
    return [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]


def produce(to: Producer, messages: Iterable[Message], delivered: Delivered) -> None:
    """Hand all messages to the producer, waiting where its queue is full. Raises KafkaException."""
    for message in messages:
        arguments: dict[str, Any] = {"on_delivery": delivered}
        if message.partition is not None:
            arguments["partition"] = message.partition
        if message.timestamp_ms is not None:
            arguments["timestamp"] = message.timestamp_ms
        if message.headers:
            arguments["headers"] = list(message.headers)
        while True:
            try:
                to.produce(message.topic, message.value, message.key, **arguments)
                break
            except BufferError:
                to.poll(0.1)
        to.poll(0)


class Deliveries:
    """Hears of deliveries; keeps the first failure as an error of ours."""

    def __init__(self) -> None:
        self.failure: ProjectorError | None = None

    def __call__(self, error: KafkaError | None, message: KafkaMessage) -> None:
        """The client's delivery report of one message."""
        if error is not None and self.failure is None and error.code() not in _PURGED:
            self.failure = self.translated(error, str(message.topic()), len(message))

    @staticmethod
    def translated(error: KafkaError, topic: str, size: int) -> ProjectorError:
        """Why a message of `size` bytes cannot be in the topic."""
        if error.code() in _TOO_LARGE:
            return Refused(
                f"topic {topic} does not take a message of {size} bytes: raise its max.message.bytes"
                " (where only many together are too much: lower batch.size under [kafka])"
            )
        return translated(error, f"a message for topic {topic}")


def full_records(messages: Iterable[KafkaMessage]) -> list[Record]:
    """Records with key and headers."""
    new = tuple.__new__  # of its own accord a NamedTuple takes half as long again
    return [
        new(Record, (m.partition(), m.offset(), m.timestamp()[1], m.value(), m.key(), tuple(m.headers() or ())))
        for m in messages
    ]
