"""A worker's place in a Kafka group: one consumer, one transactional producer."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial

from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as KafkaMessage

from projector.backends import kafka_client
from projector.backends.kafka_client import RETRY_S, Deliveries, Properties, cause, places, resumed, translated
from projector.errors import Fatal, Fenced, OffsetsGone, ProjectorError, Retryable, SlotTaken
from projector.log import Listener, Message, Offset, Record

ANSWER_S = 10.0
LEAVE_S = 10.0
SEND_S = 10.0  # below the transaction's own timeout
TOPIC_CHECK_S = 30.0
TOPIC_DOUBT_S = 5.0
TWICE_S = 10.0
WARN_S = 10.0
_record: Callable[[tuple[object, ...]], Record] = partial(tuple.__new__, Record)  # a third faster than Record()
_PRODUCER = {
    "transaction.timeout.ms": 15_000,
    "retry.backoff.ms": 5,  # with the default, 100, each of two transactions in a row would wait so long
    "retry.backoff.max.ms": 100,
    "linger.ms": 1,  # the default, 5, is a fifth of the time that a transaction takes
}


class KafkaMember:
    """See `Member`. `topic_id` asks the cluster, and may raise `Retryable`."""

    def __init__(
        self,
        properties: Properties,
        group: str,
        topic: str,
        slot: str,
        listener: Listener,
        topic_id: Callable[[], str | None],
    ) -> None:
        """End what a former holder of the slot left open, then join. Raises `Misconfigured`, `Retryable`, `Fenced`."""
        self._name = f"{group}-{slot}"
        self._topic = topic
        self._listener = listener
        self._topic_id = topic_id
        self._joined_id = topic_id()
        self._check_topic_at = time.monotonic() + TOPIC_CHECK_S
        self._properties: Properties = {"client.id": self._name, **properties}
        self._producer: Producer | None = None
        self._fatal: Fatal | None = None
        self._closed = False
        self._leaving = False
        self._paused = False
        self._in_callback = False
        self._gone: set[int] = set()
        """Partitions given up inside the last call of the client."""
        self._failures: list[Exception] = []
        """What the listener raised inside it."""
        self._starts: dict[int, int] = {}
        """The assigned partitions, each with the offset it was last told to start from."""
        self._seeks: dict[int, int] = {}
        """Seeks that the client has not taken yet; until then these partitions yield nothing."""
        self._unstarted: set[int] = set()
        """Partitions whose assignment failed in the listener: the next poll joins again."""
        self._warned_at = float("-inf")
        self._lost_at = float("-inf")
        self._evicted = False
        """The broker holds another member under our name: the consumer is dead, `renew` makes a new one."""
        self.renew()
        self._group = group
        self._consumer = self._subscribed()

    def _subscribed(self) -> Consumer:
        ours = {"group.id": self._group, "group.instance.id": self._name}
        ours |= {"partition.assignment.strategy": "cooperative-sticky"}
        consumer = kafka_client.consumer(self._properties, ours)
        consumer.subscribe([self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost)
        return consumer

    # --- reading

    def poll(self, records_max: int, timeout_ms: int) -> list[Record]:
        """See `Member.poll`. What the listener raised comes out of here, with no record lost."""
        self._check()
        if self._unstarted:
            # Sought after it was assigned, a partition may stay where the client's own look for a start puts it, or
            # be stopped by what that finds: so it is never told twice.
            self._join_again()
        self._apply_seeks()
        messages = self._consume(records_max, timeout_ms / 1000)
        errors = [m for m in messages if m.error() is not None]
        if errors:
            messages = [m for m in messages if m.error() is None]
        records = [_record((m.partition(), m.offset(), m.timestamp()[1], m.value(), None, ())) for m in messages]
        if self._gone or self._seeks:
            records = self._still_valid(records)
        with ExitStack() as undo:
            undo.callback(self._take_back, records)
            self._heed(errors)
            if self._failures:
                raise self._failures[0]
            undo.pop_all()
        return records

    def _consume(self, records_max: int, timeout_s: float) -> list[KafkaMessage]:
        self._gone, self._failures = set(), []
        self._in_callback = True
        try:
            return self._consumer.consume(records_max, timeout_s)
        except KafkaException as error:
            raise self._kept(translated(cause(error), f"reading as {self._name}")) from error
        finally:
            self._in_callback = False

    def _still_valid(self, records: list[Record]) -> list[Record]:
        """Without those that were read before their partition was given up or sought in the same call."""
        for partition in self._gone & self._starts.keys():
            self._seeks.setdefault(partition, self._starts[partition])
        stale = self._gone | self._seeks.keys() | self._unstarted
        return [record for record in records if record.partition not in stale]

    def _take_back(self, records: list[Record]) -> None:
        """Poll these again: the caller never gets them."""
        for record in reversed(records):
            self._seeks[record.partition] = record.offset

    def _heed(self, errors: Sequence[KafkaMessage]) -> None:
        """Errors that come in place of records: those that last are raised."""
        for message in errors:
            error, partition = message.error(), message.partition()
            if error is None:
                continue
            verdict = translated(error, f"reading {self._topic} as {self._name}")
            if error.code() in kafka_client.NO_SUCH_TOPIC:
                self._check_topic_at = min(self._check_topic_at, time.monotonic() + TOPIC_DOUBT_S)
            elif isinstance(verdict, OffsetsGone):
                if partition in self._starts and partition not in self._seeks:
                    text = f"{self._topic}/{partition}: offset {message.offset()} is not in the topic: {error.str()}"
                    raise self._kept(OffsetsGone(text))
            elif isinstance(verdict, Fatal):
                raise self._kept(verdict)
            self._warn(verdict)
        if time.monotonic() > self._check_topic_at:
            self._check_topic()

    def _check_topic(self) -> None:
        """The client waits in silence for a topic that was deleted, and goes on in one of the same name."""
        self._check_topic_at = time.monotonic() + TOPIC_CHECK_S
        try:
            found = self._topic_id()
        except Retryable as error:
            self._warn(error)
            return
        if found != self._joined_id:
            raise self._kept(OffsetsGone(f"topic {self._topic} was deleted{' and made anew' if found else ''}"))

    def _warn(self, error: ProjectorError) -> None:
        if time.monotonic() - self._warned_at > WARN_S:
            self._warned_at = time.monotonic()
            kafka_client.logger.warning("%s", error)

    def positions(self) -> Mapping[int, int]:
        """See `Member.positions`."""
        there = self._consumer.position([TopicPartition(self._topic, partition) for partition in self._starts])
        read = {each.partition: each.offset for each in there if each.offset >= 0}
        return {**self._starts, **read, **self._seeks}

    def committed(self, partitions: Sequence[int]) -> dict[int, Offset | None]:
        """See `Member.committed`."""
        self._check()
        asked = [TopicPartition(self._topic, partition) for partition in partitions]
        try:
            answers = self._consumer.committed(asked, ANSWER_S) if asked else []
        except KafkaException as error:
            raise self._kept(translated(cause(error), f"the checkpoint of {self._name}")) from error
        for each in answers:
            if each.error is not None:
                raise self._kept(translated(each.error, f"the checkpoint of {self._name}"))
        return {a.partition: Offset(a.offset, a.metadata or "") if a.offset >= 0 else None for a in answers}

    def seek(self, offsets: Mapping[int, int]) -> None:
        """See `Member.seek`. Raises `ValueError` for a partition that is not assigned."""
        if unassigned := offsets.keys() - self._starts.keys():
            raise ValueError(f"not assigned: {sorted(unassigned)}")
        self._starts.update(offsets)
        self._seeks.update(offsets)
        if not self._in_callback:
            self._apply_seeks()

    def _apply_seeks(self) -> None:
        for partition, offset in list(self._seeks.items()):
            try:
                self._consumer.seek(TopicPartition(self._topic, partition, offset))
            except KafkaException as error:
                if cause(error).code() != KafkaError._STATE:
                    raise self._kept(translated(cause(error), f"seeking {self._topic}/{partition}")) from error
                continue  # the client is still starting this partition: again at the next poll
            del self._seeks[partition]

    def pause(self, paused: bool) -> None:
        """See `Member.pause`."""
        if paused == self._paused:
            return
        self._paused = paused
        partitions = [TopicPartition(self._topic, partition) for partition in self._starts]
        (self._consumer.pause if paused else self._consumer.resume)(partitions)

    # --- partitions come and go; called by the client from inside `_consume`

    def _assigned(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = [each.partition for each in partitions]
        if self._closed or self._leaving or not numbers:
            return
        try:
            starts = {**self._listener.assigned(numbers)}
        except Exception as error:  # the client's callback cannot let it through without losing records
            self._failures.append(error)
            self._unstarted.update(numbers)
            starts = dict.fromkeys(numbers, OFFSET_END)
        else:
            self._starts.update(starts)
        self._consumer.incremental_assign(places(self._topic, starts))
        # The client keeps a pause over the loss of a partition: one that comes back would never be read.
        withhold = self._paused or self._unstarted
        (self._consumer.pause if withhold else self._consumer.resume)(places(self._topic, starts))

    def _revoked(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = self._owned(partitions)
        self._tell(self._listener.revoked, numbers)
        self._forget(partitions)

    def _lost(self, _: Consumer, partitions: list[TopicPartition]) -> None:
        self._lost_at = time.monotonic()
        numbers = self._owned(partitions)
        self._forget(partitions)
        self._tell(self._listener.lost, numbers)

    def _owned(self, partitions: list[TopicPartition]) -> list[int]:
        return [each.partition for each in partitions if each.partition in self._starts]

    def _tell(self, hear: Callable[[Sequence[int]], None], numbers: Sequence[int]) -> None:
        if self._closed or not numbers:
            return
        try:
            hear(numbers)
        except Exception as error:  # the client's callback cannot let it through without losing records
            self._failures.append(error)

    def _forget(self, partitions: list[TopicPartition]) -> None:
        for each in partitions:
            self._gone.add(each.partition)
            self._starts.pop(each.partition, None)
            self._seeks.pop(each.partition, None)
            self._unstarted.discard(each.partition)

    # --- transactions

    def commit(self, messages: Sequence[Message], offsets: Mapping[int, Offset]) -> None:
        """See `Member.commit`. Raises `Refused` for a message or metadata over the broker's limit."""
        if not offsets:
            raise ValueError("a transaction carries at least one offset")
        self._check()
        if foreign := offsets.keys() - self._starts.keys():
            raise Fenced(f"partitions {sorted(foreign)} are not assigned to {self._name}")
        producer = self._producer
        if producer is None:
            raise Fenced(f"{self._name} has no live producer")
        deliveries = Deliveries()
        checkpoint = [TopicPartition(self._topic, p, offset, metadata) for p, (offset, metadata) in offsets.items()]
        deadline = time.monotonic() + RETRY_S
        committing = False

        def left() -> float:
            return max(deadline - time.monotonic(), 0.1)

        try:
            producer.begin_transaction()
            kafka_client.produce(producer, messages, deliveries)
            member = self._consumer.consumer_group_metadata()
            resumed(lambda seconds: producer.send_offsets_to_transaction(checkpoint, member, seconds), SEND_S)
            committing = True
            resumed(producer.commit_transaction, left())
        except KafkaException as error:
            raise self._given_up(producer, cause(error), deliveries, committing, deadline) from error

    def _given_up(
        self, producer: Producer, error: KafkaError, deliveries: Deliveries, committing: bool, deadline: float
    ) -> ProjectorError:
        """What to raise for a transaction that failed. It is aborted where that is safe, and its producer let go."""
        self._producer = None
        if error.txn_requires_abort():
            self._abort(producer, deadline)
        verdict = deliveries.failure or translated(error, f"a transaction of {self._name}")
        if isinstance(verdict, SlotTaken):
            return self._kept(verdict)
        # A producer that is fenced between two messages takes no more of them and does not say why: a new one does.
        if isinstance(verdict, Fatal) and not error.fatal() and error.code() != KafkaError._FATAL:
            return verdict
        unknown = committing and not error.txn_requires_abort()
        return Fenced(f"{'outcome unknown' if unknown else 'not committed'}: {verdict}")

    def _abort(self, producer: Producer, deadline: float) -> None:
        try:
            resumed(producer.abort_transaction, max(deadline - time.monotonic(), 0.1))
            producer.poll(0)  # reports of what was not delivered; raises, too, where the client is fenced
        except KafkaException as error:
            # The next producer of this name, or the transaction's timeout, aborts it.
            self._warn(translated(cause(error), f"aborting a transaction of {self._name}"))

    def renew(self) -> None:
        """See `Member.renew`. `Fenced` where another process renews at the same time."""
        self._check()
        if self._evicted:
            self._join_again()
        self._producer = None
        producer = kafka_client.producer({**_PRODUCER, **self._properties}, {"transactional.id": self._name})
        try:
            resumed(producer.init_transactions)
        except KafkaException as error:
            raise translated(cause(error), f"beginning transactions as {self._name}") from error
        self._producer = producer

    def _join_again(self) -> None:
        """A new consumer; what the old one had is lost."""
        if numbers := sorted(self._starts):
            self._starts.clear()
            self._listener.lost(numbers)
        self._seeks.clear()
        self._unstarted.clear()
        self._consumer.close()
        self._lost_at = float("-inf")
        self._consumer = self._subscribed()
        self._evicted = False

    # --- the end

    def leave(self) -> None:
        """See `Member.leave`. What the listener raised comes out of here once the group is left."""
        if self._closed:
            return
        self._finish_joining()
        failures = self._unsubscribe()
        self.close()
        if failures:
            raise failures[0]

    def close(self) -> None:
        """See `Member.close`."""
        if self._closed:
            return
        self._closed = True
        if not self._starts and not self._unstarted:
            # Closed while its first assignment is on the way, the client waits for ever (librdkafka 2.16).
            self._unsubscribe()
        self._consumer.close()
        self._producer = None
        self._starts.clear()

    def _finish_joining(self) -> None:
        """Wait for the answer to a join: the broker keeps a member that left before it until its session ends."""
        self._leaving = True
        deadline = time.monotonic() + LEAVE_S
        while self._fatal is None and not self._consumer.memberid() and time.monotonic() < deadline:
            self._consume(1, 0.05)

    def _unsubscribe(self) -> list[Exception]:
        """Leave the group, polling until that is done; what the listener raised meanwhile."""
        failures: list[Exception] = []
        if self._fatal is None:
            self._consumer.unsubscribe()
            deadline = time.monotonic() + LEAVE_S
            while self._consumer.memberid() and time.monotonic() < deadline:
                self._consume(1, 0.05)
                failures += self._failures
        return failures

    def _check(self) -> None:
        if self._fatal is not None:
            raise self._fatal

    def _kept(self, error: ProjectorError) -> ProjectorError:
        """Raise a fatal error again from every later call.

        A client that lost its session may join twice, and the broker takes it for two processes: it joins again, once.
        """
        if isinstance(error, SlotTaken) and not self._leaving and time.monotonic() - self._lost_at < TWICE_S:
            self._lost_at = float("-inf")
            self._evicted = True
            return Fenced(f"{self._name} lost its session, and its slot: it joins again")
        if isinstance(error, Fatal):
            self._fatal = self._fatal or error
        return error
