"""The log in Kafka."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # public, but the package has no __all__
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    TopicDescription,
)
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from projector.backends import kafka_client
from projector.backends.kafka_client import Deliveries, Properties, cause, places, translated
from projector.backends.kafka_member import KafkaMember
from projector.errors import InDoubt, Misconfigured, OffsetsGone, ProjectorError, Refused, Retryable
from projector.log import Listener, Message, Offset, Record, TopicInfo

T = TypeVar("T")

ANSWER_S = 10.0
CHECK_S = 2.0
APPEND_S = 30.0
READ_RECORDS = 10_000
READ_S = 0.1
FOLLOW_S = 1.0
PROPAGATION_S = 0.05
STALLED_S = 20.0
MARKERS_S = 1.0
_EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # no hints
_LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # no hints


class KafkaLog:
    """A `Log` in a Kafka cluster; `properties` are the client's own, with `bootstrap.servers` among them.

    Connects when it is first asked something: `Retryable` where nothing answers. Everything that names a topic raises
    `Misconfigured` where that is not there, or may not be used.
    """

    def __init__(self, properties: Properties) -> None:
        self._properties = dict(properties)
        self._servers = str(properties.get("bootstrap.servers", ""))
        self._connected: AdminClient | None = None
        self._appender: Producer | None = None
        self._onlookers: dict[str, Consumer] = {}
        self._last_trouble = ""

    def join(self, group: str, topic: str, slot: str, listener: Listener) -> KafkaMember:
        """Become a member; another process with the same slot gets `SlotTaken` from then on."""
        self._partitions(topic)

        def topic_id() -> str | None:
            there = self._described(topic, CHECK_S)
            return str(there.topic_id) if there else None

        return KafkaMember(self._properties, group, topic, slot, listener, topic_id)

    # --- what is there

    def topic(self, name: str) -> TopicInfo | None:
        """The topic. Its settings include the broker's `offsets.retention.minutes`, where one may see that."""
        there = self._described(name)
        if there is None:
            return None
        resources = [ConfigResource(ConfigResource.Type.TOPIC, name)]
        if there.partitions[0].leader is not None:
            resources.append(ConfigResource(ConfigResource.Type.BROKER, str(there.partitions[0].leader.id)))

        def ask(admin: AdminClient) -> dict[str, str]:
            answers = list(admin.describe_configs(resources, request_timeout=ANSWER_S).values())
            found = {key: entry.value for key, entry in answers[0].result().items() if entry.value is not None}
            for broker in answers[1:]:
                if broker.exception() is None:
                    found["offsets.retention.minutes"] = broker.result()["offsets.retention.minutes"].value
            return found

        return TopicInfo(str(there.topic_id), len(there.partitions), self._ask(f"settings of topic {name}", ask))

    def create_topic(self, name: str, partitions: int, settings: Mapping[str, str]) -> bool:
        """Create the topic with the cluster's default replication. False if it is there."""
        topic = NewTopic(name, num_partitions=partitions, replication_factor=-1, config=dict(settings))

        def ask(admin: AdminClient) -> bool:
            done: Future[None] = admin.create_topics([topic], request_timeout=ANSWER_S, operation_timeout=ANSWER_S)[
                name
            ]
            error = done.exception()
            if isinstance(error, KafkaException) and cause(error).code() == KafkaError.TOPIC_ALREADY_EXISTS:
                return False
            done.result()
            return True

        created = self._ask(f"creating topic {name}", ask)
        deadline = time.monotonic() + ANSWER_S
        while self._described(name) is None:  # a broker may answer for a while as if it were not there yet
            if time.monotonic() > deadline:
                raise Retryable(f"topic {name} was created and is not to be seen yet")
            time.sleep(PROPAGATION_S)
        return created

    def heads(self, topic: str) -> dict[int, int]:
        """Per partition the first offset that is there, or will be."""
        return self._offsets(topic, _EARLIEST, IsolationLevel.READ_UNCOMMITTED)

    def ends(self, topic: str) -> dict[int, int]:
        """Per partition the last stable offset."""
        return self._offsets(topic, _LATEST, IsolationLevel.READ_COMMITTED)

    def offsets_at(self, topic: str, timestamp_ms: int) -> dict[int, int]:
        """As the broker's time index says."""
        spec = OffsetSpec.for_timestamp(timestamp_ms)
        found = self._offsets(topic, spec, IsolationLevel.READ_COMMITTED)
        ends = self.ends(topic)
        return {partition: ends[partition] if offset < 0 else offset for partition, offset in found.items()}

    def checkpoint(self, group: str, topic: str) -> dict[int, Offset]:
        """The committed offsets of a group; waits for a transaction that is about to commit some."""
        partitions = self._partitions(topic)
        asked = [TopicPartition(topic, partition) for partition in partitions]

        def ask(_: AdminClient) -> dict[int, Offset]:
            try:
                found = self._onlooker(group).committed(asked, ANSWER_S)
            except KafkaException as error:
                if cause(error).code() != KafkaError._TIMED_OUT:
                    raise
                raise Retryable(
                    f"no answer yet to what group {group} has committed: a transaction that a killed worker left open "
                    "holds it back until it times out, or the group's coordinator is away"
                ) from error
            for each in found:
                if each.error is not None:
                    raise KafkaException(each.error)
            return {each.partition: Offset(each.offset, each.metadata or "") for each in found if each.offset >= 0}

        return self._ask(f"the checkpoint of group {group}", ask)

    def _onlooker(self, group: str) -> Consumer:
        """A consumer that never joins. Asked the same, an admin client crashes when the coordinator moves (2.16)."""
        if group not in self._onlookers:
            self._onlookers[group] = kafka_client.consumer(self._properties, {"group.id": group})
        return self._onlookers[group]

    def set_checkpoint(self, group: str, topic: str, offsets: Mapping[int, Offset]) -> None:
        """Commit these offsets from outside the group. Raises `Refused` where the broker still has members of it."""
        checkpoint = [TopicPartition(topic, p, offset, metadata) for p, (offset, metadata) in offsets.items()]

        def ask(_: AdminClient) -> None:
            try:
                answers = self._onlooker(group).commit(offsets=checkpoint, asynchronous=False) or []
                failed = [each.error for each in answers if each.error is not None]
            except KafkaException as error:
                failed = [cause(error)]
            if failed and failed[0].code() in kafka_client.GROUP_NOT_EMPTY:
                raise Refused(f"group {group} has members: stop its workers first") from None
            if failed:
                raise KafkaException(failed[0])

        self._partitions(topic)
        self._ask(f"committing for group {group}", ask)

    def members(self, group: str) -> list[str]:
        """Names of the members: `<group>-<slot>`, or the broker's name for a member that has no slot."""

        def ask(admin: AdminClient) -> list[str]:
            try:
                found = admin.describe_consumer_groups([group], request_timeout=ANSWER_S)[group].result()
            except KafkaException as error:
                if cause(error).code() == KafkaError.GROUP_ID_NOT_FOUND:
                    return []
                raise
            return sorted(each.group_instance_id or each.member_id for each in found.members)

        return self._ask(f"the members of group {group}", ask)

    def drop_group(self, group: str) -> None:
        """Delete the group with its committed offsets. Raises `Refused` while it has members."""

        def ask(admin: AdminClient) -> None:
            try:
                admin.delete_consumer_groups([group], request_timeout=ANSWER_S)[group].result()
            except KafkaException as error:
                if cause(error).code() == KafkaError.NON_EMPTY_GROUP:
                    raise Refused(f"group {group} has members: stop its workers first") from error
                if cause(error).code() != KafkaError.GROUP_ID_NOT_FOUND:
                    raise

        self._ask(f"deleting group {group}", ask)

    def _described(self, name: str, seconds: float = ANSWER_S) -> TopicDescription | None:
        def ask(admin: AdminClient) -> TopicDescription | None:
            answer: Future[TopicDescription] = admin.describe_topics(TopicCollection([name]), request_timeout=ANSWER_S)[
                name
            ]
            error = answer.exception()
            if isinstance(error, KafkaException) and cause(error).code() in kafka_client.NO_SUCH_TOPIC:
                return None
            return answer.result()

        return self._ask(f"topic {name}", ask, seconds)

    def _partitions(self, topic: str) -> list[int]:
        there = self._described(topic)
        if there is None:
            raise Misconfigured(f"topic {topic} is not there: run: projector migrate")
        return [each.id for each in there.partitions]

    def _offsets(self, topic: str, spec: OffsetSpec, isolation: IsolationLevel) -> dict[int, int]:
        # Partitions are asked for each time: that also tells the client of new leaders, else it would go on for ever
        # with the epoch of the old one (FENCED_LEADER_EPOCH).
        asked = {TopicPartition(topic, partition): spec for partition in self._partitions(topic)}

        def ask(admin: AdminClient) -> dict[int, int]:
            answers = admin.list_offsets(asked, isolation_level=isolation, request_timeout=ANSWER_S)
            return {place.partition: answer.result().offset for place, answer in answers.items()}

        return self._ask(f"offsets of topic {topic}", ask)

    def _ask(self, what: str, call: Callable[[AdminClient], T], seconds: float = ANSWER_S) -> T:
        """The answer of the cluster. What may pass is asked again, for so many seconds in all."""
        attempts = Retrying(
            retry=retry_if_exception_type(Retryable),
            wait=wait_random_exponential(multiplier=0.05, max=1.0),
            stop=stop_after_delay(seconds),
            reraise=True,
        )

        def attempt() -> T:
            try:
                return call(self._admin)
            except KafkaException as error:
                raise self._trouble(cause(error), what) from error

        return attempts(attempt)

    @property
    def _admin(self) -> AdminClient:
        if self._connected is None:
            # Retried every few ms, a request runs out of attempts before a coordinator is there, and then hangs.
            others = {key: value for key, value in self._properties.items() if not key.startswith("retry.backoff")}
            ours = {"error_cb": self._note_trouble}
            self._connected = kafka_client.made(AdminClient, kafka_client.settings(others, ours))
        return self._connected

    def _note_trouble(self, error: KafkaError) -> None:
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._last_trouble = error.str()

    def _trouble(self, error: KafkaError, what: str) -> ProjectorError:
        """The error as ours; where nothing answers, with the reason that the client last gave for it."""
        self._admin.poll(0)
        if error.code() in kafka_client.UNREACHABLE:
            return Retryable(f"cannot reach Kafka at {self._servers}: {self._last_trouble or error.str()}")
        return translated(error, what)

    # --- reading without a group

    def read(self, topic: str, start: Mapping[int, int] | None = None, follow: bool = False) -> Iterator[list[Record]]:
        """Records of all partitions; those that `start` leaves out are read from their heads.

        Raises `OffsetsGone`, also while it goes on, where an offset to be read is not in the topic; `Retryable` if
        nothing comes for 20 s although more is there.
        """
        heads, ends, highs = self.heads(topic), self.ends(topic), self._highs(topic)
        deadline = time.monotonic() + MARKERS_S
        while any(ends[p] < high for p, high in highs.items()) and not follow and time.monotonic() < deadline:
            time.sleep(0.02)  # a transaction is committed a moment before its messages can be read
            ends = self.ends(topic)
        positions = heads | dict(start or {})
        for partition, position in positions.items():
            if not heads.get(partition, 0) <= position <= highs.get(partition, -1):
                raise OffsetsGone(f"{topic}/{partition}: offset {position} is not in the topic")
        return self._pages(topic, positions, None if follow else ends)

    def _highs(self, topic: str) -> dict[int, int]:
        """Per partition the end with what open transactions have written."""
        return self._offsets(topic, _LATEST, IsolationLevel.READ_UNCOMMITTED)

    def _pages(
        self, topic: str, positions: Mapping[int, int], ends: Mapping[int, int] | None
    ) -> Iterator[list[Record]]:
        todo = {p: offset for p, offset in positions.items() if ends is None or offset < ends[p]}
        reader = kafka_client.consumer(self._properties, {"group.id": f"projector-reader-{uuid.uuid4().hex}"})
        try:
            reader.assign(places(topic, todo))
            quiet_since = time.monotonic()
            while todo:
                messages = reader.consume(READ_RECORDS, READ_S)
                for message in messages:
                    error = message.error()
                    if error is not None:
                        verdict = translated(error, f"reading {topic}/{message.partition()} at {message.offset()}")
                        if not isinstance(verdict, Retryable):
                            raise verdict
                page = kafka_client.full_records(m for m in messages if m.error() is None)
                if ends is not None:
                    page = [record for record in page if record.offset < ends[record.partition]]
                    at = reader.position([TopicPartition(topic, partition) for partition in todo])
                    done = {each.partition for each in at if each.offset >= ends[each.partition]}
                    moved = bool(page or done)
                    reader.pause([TopicPartition(topic, partition) for partition in done])
                    todo = {partition: offset for partition, offset in todo.items() if partition not in done}
                    if not moved and time.monotonic() - quiet_since > STALLED_S:
                        raise Retryable(f"reading {topic}: nothing came for {STALLED_S:g} s, although more is there")
                else:
                    moved = bool(page) or time.monotonic() - quiet_since >= FOLLOW_S
                if moved:
                    quiet_since = time.monotonic()
                    if page or ends is None:
                        yield page
        finally:
            reader.close()

    # --- appending without a transaction

    def append(self, messages: Sequence[Message]) -> None:
        """Append in order per partition. Raises `Refused` for a message over its topic's `max.message.bytes`.

        `InDoubt` where not all are acknowledged: each may be there or not.
        """
        deliveries = Deliveries()
        if self._appender is None:
            ours: dict[str, Any] = {"message.timeout.ms": int(APPEND_S * 1000), "linger.ms": 20}
            self._appender = kafka_client.producer({"queue.buffering.max.kbytes": 262_144, **self._properties}, ours)
        try:
            kafka_client.produce(self._appender, messages, deliveries)
        except KafkaException as error:
            topic = messages[0].topic if messages else ""
            deliveries.failure = deliveries.failure or translated(cause(error), f"appending to {topic}")
        unsent = self._appender.flush(2 * APPEND_S)
        if deliveries.failure or unsent:
            self._appender = None
        if deliveries.failure:
            failure = deliveries.failure
            raise failure if not isinstance(failure, Retryable) else InDoubt(str(failure)) from failure
        if unsent:
            raise InDoubt(f"cannot reach Kafka at {self._servers}: {unsent} messages are not acknowledged")

    def close(self) -> None:
        """Let go of the clients. Members are closed by themselves."""
        for onlooker in self._onlookers.values():
            onlooker.close()
        self._onlookers.clear()
        self._connected = self._appender = None
