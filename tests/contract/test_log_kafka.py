"""What only Kafka does: open transactions, fencing, rebalances, a broker that dies."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from projector.backends import kafka_member
from projector.backends.kafka import KafkaLog
from projector.errors import Fenced, OffsetsGone, Refused, Retryable, SlotTaken
from projector.log import Member, Message, Offset, Record
from projector.patience import checkpoint_patiently
from tests.contract.test_log import Partitions, assigned, everything, fill, join, polled
from tests.kafka_broker import Broker, bootstrap
from tests.ports import free_ports

WAIT_S = 60


@pytest.fixture
def log() -> Iterator[KafkaLog]:
    """The log of the shared broker; its members keep their place for 5 minutes."""
    log = KafkaLog({"bootstrap.servers": bootstrap(), "session.timeout.ms": 300_000, "heartbeat.interval.ms": 300})
    yield log
    log.close()


@pytest.fixture
def topic(log: KafkaLog, name: str) -> str:
    """A topic of four partitions."""
    assert log.create_topic(name, 4, {})
    return name


@pytest.fixture
def out(log: KafkaLog, name: str) -> str:
    """A topic of one partition to publish to, of the default message size."""
    assert log.create_topic(f"{name}-out", 1, {"max.message.bytes": "1048588"})
    return f"{name}-out"


def owner_of(transactional_id: str) -> Producer:
    """A producer that has just taken a transactional id over."""
    producer = Producer({"bootstrap.servers": bootstrap(), "transactional.id": transactional_id})
    producer.init_transactions(30)
    return producer


def until(done: Callable[[], bool], *members: Member) -> None:
    """Let the members poll until something is so."""
    deadline = time.monotonic() + WAIT_S
    while not done():
        assert time.monotonic() < deadline, "not in time"
        for member in members:
            member.poll(100, 20)


def owned(member: Member) -> set[int]:
    """The partitions of a member."""
    return set(member.positions())


def settled(partitions: set[int], *members: Member) -> Callable[[], bool]:
    """Whether the members own the partitions, each of them some."""
    return lambda: set().union(*map(owned, members)) == partitions and all(map(owned, members))


# --- open and aborted transactions


def test_the_end_is_the_last_stable_offset(log: KafkaLog, out: str) -> None:
    """What an open transaction has written is not there yet, neither for `ends` nor for `read`."""
    fill(log, out, 3)
    writer = owner_of(f"{out}-writer")
    writer.begin_transaction()
    writer.produce(out, b"open")
    writer.flush(30)
    log.append([Message(out, None, b"behind it")])
    assert log.ends(out) == {0: 3}
    assert [each.value for each in everything(log, out)] == [b"0", b"1", b"2"]
    writer.commit_transaction(30)
    until(lambda: log.ends(out) == {0: 6})  # the marker is written after the answer
    assert [each.value for each in everything(log, out)][3:] == [b"open", b"behind it"]


def test_positions_step_over_an_aborted_tail(log: KafkaLog, topic: str) -> None:
    """The end is reached by position, although no record is at the end."""
    fill(log, topic, 4, 4)
    writer = owner_of(f"{topic}-writer")
    writer.begin_transaction()
    writer.produce(topic, b"never", partition=2)
    writer.flush(30)
    writer.abort_transaction(30)
    member, _ = join(log, topic)
    assert [each.value for each in sorted(polled(member, 4))] == [b"0", b"1", b"2", b"3"]
    until(lambda: dict(member.positions()) == log.ends(topic), member)
    assert log.ends(topic)[2] == 3
    assert sorted(each.value or b"" for each in everything(log, topic)) == [b"0", b"1", b"2", b"3"]
    member.close()


@pytest.mark.long
def test_a_checkpoint_waits_for_a_transaction_that_was_left_open(log: KafkaLog, name: str, topic: str) -> None:
    """Longer than one question is waited for; then what was committed before stands."""
    log.set_checkpoint(name, topic, {0: Offset(3, "before")})
    properties = {"bootstrap.servers": bootstrap(), "transactional.id": name, "transaction.timeout.ms": 15_000}
    killed = Producer(properties)
    killed.init_transactions(30)
    consumer = Consumer({"bootstrap.servers": bootstrap(), "group.id": name})
    killed.begin_transaction()
    killed.send_offsets_to_transaction([TopicPartition(topic, 0, 5)], consumer.consumer_group_metadata(), 30)
    consumer.close()
    with pytest.raises(Retryable, match=f"what group {name} has committed"):
        log.checkpoint(name, topic)
    assert checkpoint_patiently(lambda: log.checkpoint(name, topic)) == {0: Offset(3, "before")}


# --- fencing


def test_a_zombies_commit_is_fenced_and_invisible(log: KafkaLog, topic: str, out: str) -> None:
    """Its producer is dead until it is renewed; then it goes on from what is committed."""
    fill(log, topic, 4, 4)
    member, _ = join(log, topic)
    assigned(member, 4)
    member.commit([Message(out, None, b"first")], {0: Offset(1, "first")})
    owner_of(f"{topic}-a")
    for _ in range(2):
        with pytest.raises(Fenced):
            member.commit([Message(out, None, b"zombie")], {0: Offset(2, "zombie")})
    member.renew()
    assert member.committed([0, 1]) == {0: Offset(1, "first"), 1: None}
    member.commit([Message(out, None, b"second")], {0: Offset(2, "second")})
    assert [each.value for each in everything(log, out)] == [b"first", b"second"]
    assert log.checkpoint(topic, topic) == {0: Offset(2, "second")}
    member.close()


def test_a_zombie_that_learns_it_between_two_messages(log: KafkaLog, topic: str, out: str) -> None:
    """Its producer takes no further message, and does not say that it was fenced: renewed it goes on."""
    fill(log, topic, 4, 4)
    member, _ = join(log, topic)
    assigned(member, 4)
    owner_of(f"{topic}-a")

    def slowly() -> Iterator[Message]:
        for _ in range(100):
            yield Message(out, None, b"zombie")
            time.sleep(0.05)

    with pytest.raises(Fenced):
        member.commit(slowly(), {0: Offset(1, "")})  # type: ignore[arg-type]  # it is only gone through once
    member.renew()
    member.commit([Message(out, None, b"again")], {0: Offset(1, "")})
    assert [each.value for each in everything(log, out)] == [b"again"]
    member.close()


def test_renewing_ends_what_was_left_open(log: KafkaLog, topic: str, out: str) -> None:
    """A worker that died inside a transaction holds nobody up once its slot is taken again."""
    dead = owner_of(f"{topic}-a")
    dead.begin_transaction()
    dead.produce(out, b"left open")
    dead.flush(30)
    member, _ = join(log, topic)
    log.append([Message(out, None, b"after")])
    assert [each.value for each in everything(log, out)] == [b"after"]
    member.close()


def test_a_partition_that_is_not_assigned_is_not_committed(log: KafkaLog, topic: str) -> None:
    """A consumer outside its group could not be fenced by it."""
    member, _ = join(log, topic)
    with pytest.raises(Fenced):
        member.commit([], {0: Offset(1, "")})
    assert log.checkpoint(topic, topic) == {}
    member.close()


def test_a_second_consumer_with_the_slot_ends_the_first(log: KafkaLog, topic: str) -> None:
    """The first gets SlotTaken, from every call."""
    first, _ = join(log, topic)
    assigned(first, 4)
    second, _ = join(log, topic)
    with pytest.raises(SlotTaken):
        until(lambda: False, second, first)
    with pytest.raises(SlotTaken):
        first.poll(1, 1)
    with pytest.raises(SlotTaken):
        first.renew()
    first.leave()
    assigned(second, 4)
    assert log.members(topic) == [f"{topic}-a"]
    second.close()


def test_what_the_broker_does_not_take_is_refused(log: KafkaLog, topic: str, out: str) -> None:
    """A message or metadata over the limit is no reason to go on trying; nothing of the transaction is left."""
    member, _ = join(log, topic)
    assigned(member, 4)
    with pytest.raises(Refused, match=f"{out} .* 1100000 bytes"):
        member.commit([Message(out, None, b"x" * 1_100_000)], {0: Offset(1, "")})
    member.renew()
    with pytest.raises(Refused, match="metadata"):
        member.commit([Message(out, None, b"whole")], {0: Offset(1, "x" * 4_096)})
    member.renew()
    member.commit([Message(out, None, b"good")], {0: Offset(1, "x" * 4_095)})
    assert [each.value for each in everything(log, out)] == [b"good"]
    member.close()


# --- rebalances


def test_partitions_move_in_order(log: KafkaLog, topic: str) -> None:
    """Two members share the partitions; each is given up with a commit, which the next owner starts from."""
    fill(log, topic, 40, 4)
    first, heard = join(log, topic)
    polled(first, 40)

    def give_up(member: Member) -> None:
        member.commit([], {partition: Offset(at, "given up") for partition, at in member.positions().items()})

    heard.on_revoked = give_up
    second, heard_second = join(log, topic, "b")
    until(settled({0, 1, 2, 3}, first, second), first, second)
    moved = owned(second)
    assert not moved & owned(first)
    assert {partition: each.offset for partition, each in log.checkpoint(topic, topic).items()} == dict.fromkeys(
        range(4), 10
    )
    assert heard.revocations == [sorted(moved)]
    assert second.positions() == dict.fromkeys(moved, 10)
    assert log.members(topic) == [f"{topic}-a", f"{topic}-b"]
    heard_second.on_revoked = give_up
    second.leave()
    assert log.members(topic) == [f"{topic}-a"]
    until(settled({0, 1, 2, 3}, first), first)
    assert first.positions() == dict.fromkeys(range(4), 10)
    first.close()


def test_a_slot_comes_back_to_its_partitions(log: KafkaLog, topic: str) -> None:
    """After a crash, with a session of 5 minutes: the same slot goes on with the same partitions, nobody else stops."""
    first, _ = join(log, topic)
    second, heard = join(log, topic, "b")
    until(settled({0, 1, 2, 3}, first, second), first, second)
    before, changes = owned(first), len(heard.assignments) + len(heard.revocations)
    first.close()
    again, _ = join(log, topic)
    until(lambda: owned(again) == before, again, second)
    assert len(heard.assignments) + len(heard.revocations) == changes
    again.close()
    second.close()


@pytest.mark.parametrize("head", [0, 30])
@pytest.mark.parametrize("_attempt", range(2))
def test_a_failing_listener_loses_no_record(log: KafkaLog, topic: str, head: int, _attempt: int) -> None:
    """What it raises in `assigned` or `revoked` comes out of `poll`; records are polled once nevertheless.

    Also where the topic has no offset 0 any more: the start that was not known is not taken for that.
    """
    fill(log, topic, 400, 4)
    if head:
        heads = [TopicPartition(topic, partition, head) for partition in range(4)]
        admin = AdminClient({"bootstrap.servers": bootstrap()})
        for done in admin.delete_records(heads).values():
            done.result(30)

    class Failing(Partitions):
        failures = 2

        def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
            if self.failures:
                self.failures -= 1
                raise Retryable("no checkpoint now")
            super().assigned(partitions)
            return dict.fromkeys(partitions, head)

    listener = Failing()
    listener.member = member = log.join(topic, topic, "a", listener)
    failed, deadline = 0, time.monotonic() + WAIT_S
    records: list[Record] = []
    while len(records) < 4 * (100 - head) and time.monotonic() < deadline:
        try:
            records += member.poll(1000, 20)
        except Retryable:
            failed += 1
    assert failed == 2
    assert sorted((each.partition, each.offset) for each in records) == [
        (partition, offset) for partition in range(4) for offset in range(head, 100)
    ]
    member.close()


# --- brokers and topics that go away


@pytest.mark.parametrize("anew", [False, True])
def test_a_topic_deleted_under_a_reader(log: KafkaLog, topic: str, anew: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not waited for, nor is one of the same name taken for it: going on would skip silently."""
    monkeypatch.setattr(kafka_member, "TOPIC_CHECK_S", 1.0)
    member, _ = join(log, topic)
    assigned(member, 4)
    admin = AdminClient({"bootstrap.servers": bootstrap()})
    admin.delete_topics([topic])[topic].result(30)
    if anew:
        until(lambda: log.create_topic(topic, 4, {}))
    with pytest.raises(OffsetsGone):
        until(lambda: False, member)
    member.close()


def test_a_broker_that_is_not_there() -> None:
    """One line that names its address."""
    address = f"127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(Retryable, match=f"cannot reach Kafka at {address}"):
        KafkaLog({"bootstrap.servers": address}).topic("any")


@pytest.mark.long
def test_commits_while_the_broker_is_killed(name: str) -> None:
    """Each happened whole, or raised Fenced and then the checkpoint says whether it did."""
    broker = Broker()
    broker.start()
    log = KafkaLog({"bootstrap.servers": broker.bootstrap})
    log.create_topic(name, 1, {})
    log.create_topic(f"{name}-out", 3, {})
    stop, outcome = threading.Event(), list[object]()

    def commit_numbers() -> None:
        member, _ = join(log, name)
        assigned(member, 1)
        number, done, fenced = 0, set[int](), 0
        while not stop.is_set():
            number += 1
            messages = [Message(f"{name}-out", None, b"%d" % number, partition=partition) for partition in range(3)]
            try:
                member.commit(messages, {0: Offset(number, str(number))})
                done.add(number)
            except Fenced:
                fenced += 1
                last = patiently(member)
                done |= {last.offset} if last and last.offset == number else set()
        member.close()
        outcome.extend([done, fenced])

    def patiently(member: Member) -> Offset | None:
        while True:
            try:
                member.renew()
                return member.committed([0])[0]
            except (Retryable, Fenced):
                time.sleep(0.1)

    worker = threading.Thread(target=commit_numbers)
    worker.start()
    try:
        for _ in range(3):
            time.sleep(2)
            broker.kill()
            broker.start()
        time.sleep(2)
    finally:
        stop.set()
        worker.join(WAIT_S)
    done, _ = outcome
    assert isinstance(done, set)
    assert len(done) > 3
    values = [(each.partition, int(each.value or b"")) for each in everything(log, f"{name}-out")]
    assert sorted(values) == sorted((partition, number) for number in done for partition in range(3))
    checkpoint = log.checkpoint(name, name)[0]
    assert checkpoint == Offset(max(done), str(max(done)))
    log.close()
    broker.close()
