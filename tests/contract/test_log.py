"""What every log does, held against each backend."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice

import pytest

from projector.errors import Fatal, Fenced, Misconfigured, OffsetsGone, Refused, SlotTaken
from projector.log import Log, Member, Message, Offset, Record
from tests.contract.conftest import LogPlace

WAIT_S = 30
MEMBERS: list[Member] = []  # joined by the test that runs


class Partitions:
    """A listener that starts at the checkpoint, else at 0, and keeps what it heard."""

    def __init__(self) -> None:
        self.member: Member | None = None
        self.assignments: list[list[int]] = []
        self.revocations: list[list[int]] = []
        self.on_revoked: Callable[[Member], None] = lambda _: None

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        self.assignments.append(sorted(partitions))
        assert self.member is not None
        committed = self.member.committed(partitions)
        return {partition: each.offset if each else 0 for partition, each in committed.items()}

    def revoked(self, partitions: Sequence[int]) -> None:
        self.revocations.append(sorted(partitions))
        assert self.member is not None
        self.on_revoked(self.member)

    def lost(self, partitions: Sequence[int]) -> None:
        self.revocations.append(sorted(partitions))


def join(log: Log, name: str, slot: str = "a") -> tuple[Member, Partitions]:
    """A member of the group `name` on the topic `name`."""
    listener = Partitions()
    listener.member = log.join(name, name, slot, listener)
    MEMBERS.append(listener.member)
    return listener.member, listener


@pytest.fixture(autouse=True)
def _close_members() -> Iterator[None]:
    yield
    while MEMBERS:
        MEMBERS.pop().close()


def assigned(member: Member, partitions: int) -> None:
    """Poll, without taking records, until so many partitions are there."""
    member.pause(True)
    deadline = time.monotonic() + WAIT_S
    while len(member.positions()) < partitions:
        assert time.monotonic() < deadline, "not assigned in time"
        assert member.poll(10, 100) == []
    member.pause(False)


def polled(member: Member, count: int) -> list[Record]:
    """Exactly `count` records, in the order in which they come."""
    records: list[Record] = []
    deadline = time.monotonic() + WAIT_S
    while len(records) < count:
        assert time.monotonic() < deadline, f"{len(records)} of {count} records in time"
        records += member.poll(count - len(records), 100)
    assert len(records) == count
    return records


def poll_on(member: Member) -> None:
    """Poll until that raises, or the time is over."""
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        member.poll(10, 100)


def everything(log: Log, topic: str) -> list[Record]:
    """All committed records of a topic."""
    return [record for page in log.read(topic) for record in page]


def fill(log: Log, topic: str, count: int, partitions: int = 1) -> None:
    """`count` records with their number as the value, partition after partition."""
    log.append([Message(topic, None, b"%d" % n, partition=n % partitions) for n in range(count)])


@pytest.fixture
def topic(log: Log, name: str) -> str:
    """A topic of one partition."""
    assert log.create_topic(name, 1, {})
    return name


@pytest.fixture
def topic3(log: Log, name: str) -> str:
    """A topic of three partitions."""
    assert log.create_topic(name, 3, {})
    return name


# --- polling


def test_poll_keeps_the_order_of_each_partition(log: Log, topic3: str) -> None:
    """Every record once, in order per partition, at offsets without repetition; no keys, no headers."""
    log.append([Message(topic3, b"k", b"%d" % n, [("h", b"v")], partition=n % 3) for n in range(3000)])
    member, listener = join(log, topic3)
    records = polled(member, 3000)
    assert listener.assignments[0] == [0, 1, 2]
    for partition in range(3):
        own = [each for each in records if each.partition == partition]
        assert [each.offset for each in own] == list(range(1000))
        assert [each.value for each in own] == [b"%d" % n for n in range(partition, 3000, 3)]
    assert all(each.key is None and not each.headers for each in records)
    assert member.poll(10, 50) == []


def test_poll_takes_no_more_than_asked_for(log: Log, topic3: str) -> None:
    """`records_max` bounds every poll, and nothing is skipped by that."""
    fill(log, topic3, 100, 3)
    member, _ = join(log, topic3)
    records: list[Record] = []
    deadline = time.monotonic() + WAIT_S
    while len(records) < 100 and time.monotonic() < deadline:
        some = member.poll(7, 100)
        assert len(some) <= 7
        records += some
    assert sorted(int(each.value or b"") for each in records) == list(range(100))


def test_null_and_empty_values_stay_apart(log: Log, topic: str) -> None:
    """A tombstone is None, an empty value is b""."""
    log.append([Message(topic, b"k", value) for value in (None, b"", b"x")])
    member, _ = join(log, topic)
    assert [each.value for each in polled(member, 3)] == [None, b"", b"x"]


def test_timestamps(log: Log, topic: str) -> None:
    """The message's own timestamp comes back; without one it is about now."""
    before = time.time() * 1000
    log.append([Message(topic, None, b"a", timestamp_ms=1_234_567_890_123), Message(topic, None, b"b")])
    member, _ = join(log, topic)
    own, now = polled(member, 2)
    assert own.timestamp_ms == 1_234_567_890_123
    assert before - 10_000 < now.timestamp_ms < before + 60_000


def test_positions_follow_the_poll(log: Log, topic3: str) -> None:
    """Where assignment said, then one past what was polled, per partition."""
    fill(log, topic3, 30, 3)
    member, _ = join(log, topic3)
    assigned(member, 3)
    assert member.positions() == {0: 0, 1: 0, 2: 0}
    polled(member, 30)
    assert member.positions() == {0: 10, 1: 10, 2: 10}


def test_positions_reach_the_end_past_transaction_markers(log: Log, topic: str, name: str) -> None:
    """On a topic written in transactions the position still comes to the end."""
    assert log.create_topic(f"{name}-out", 1, {})
    member, _ = join(log, topic)
    assigned(member, 1)
    for n in range(3):
        member.commit([Message(f"{name}-out", b"k", b"%d" % n)], {0: Offset(0, "")})
    member.leave()
    listener = Partitions()
    reader = listener.member = log.join(f"{name}-reader", f"{name}-out", "a", listener)
    MEMBERS.append(reader)
    assert [each.value for each in polled(reader, 3)] == [b"0", b"1", b"2"]
    deadline = time.monotonic() + WAIT_S
    while reader.positions() != log.ends(f"{name}-out"):
        assert time.monotonic() < deadline
        assert reader.poll(10, 100) == []


def test_seek(log: Log, topic3: str) -> None:
    """Backwards and forwards, one partition without the others."""
    fill(log, topic3, 30, 3)
    member, _ = join(log, topic3)
    polled(member, 30)
    member.seek({1: 8})
    assert member.positions()[1] == 8
    assert [(each.partition, each.offset) for each in polled(member, 2)] == [(1, 8), (1, 9)]
    member.seek({0: 0, 2: 9})
    again = polled(member, 11)
    assert [each.offset for each in again if each.partition == 0] == list(range(10))
    assert [each.offset for each in again if each.partition == 2] == [9]


def test_pause_withholds_records_and_keeps_the_membership(log: Log, topic3: str) -> None:
    """Paused before the first poll it is assigned but gets nothing; then everything; and again nothing."""
    fill(log, topic3, 30, 3)
    member, listener = join(log, topic3)
    assigned(member, 3)
    assert listener.assignments
    for _ in range(3):
        member.pause(True)
        assert member.poll(100, 300) == []
    assert log.members(topic3) == [f"{topic3}-a"]
    member.pause(False)
    polled(member, 30)
    member.pause(True)
    fill(log, topic3, 3, 3)
    assert member.poll(100, 300) == []
    member.pause(False)
    assert len(polled(member, 3)) == 3
    assert listener.revocations == []


def test_what_assigned_raises_comes_out_of_poll(log: Log, topic: str) -> None:
    """An error of the listener is not swallowed."""

    class Refusing(Partitions):
        def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
            raise OffsetsGone(f"no checkpoint for {list(partitions)}")

    member = log.join(topic, topic, "a", Refusing())
    MEMBERS.append(member)
    with pytest.raises(OffsetsGone, match="no checkpoint"):
        poll_on(member)


def test_a_position_below_the_head(log: Log, log_place: LogPlace, topic: str) -> None:
    """Records that are gone are never skipped: OffsetsGone, which names partition and offset."""
    fill(log, topic, 50)
    member, _ = join(log, topic)
    polled(member, 50)
    log_place.delete_before(topic, {0: 37})
    member.seek({0: 12})
    with pytest.raises(OffsetsGone) as raised:
        poll_on(member)
    assert topic in str(raised.value)
    assert "12" in str(raised.value)


def test_a_value_of_one_megabyte(log: Log, topic: str) -> None:
    """Through append, poll, commit and read."""
    value = bytes(range(256)) * 4_000
    log.append([Message(topic, b"k", value)])
    member, _ = join(log, topic)
    assert polled(member, 1)[0].value == value
    member.commit([Message(topic, b"k", value)], {0: Offset(1, "")})
    assert [each.value for each in everything(log, topic)] == [value, value]


# --- transactions


def test_a_commit_publishes_messages_and_checkpoint(log: Log, topic3: str, name: str) -> None:
    """Messages come in order per partition with key and headers; the offsets are the group's checkpoint."""
    out = f"{name}-out"
    log.create_topic(out, 2, {})
    member, _ = join(log, topic3)
    assigned(member, 3)
    assert member.committed([0, 1, 2]) == {0: None, 1: None, 2: None}
    sent = [Message(out, b"41:clicks", b"%d" % n, [("verdict", b"parked")], n % 2) for n in range(1000)]
    member.commit(sent, {0: Offset(0, '{"v":1}'), 2: Offset(0, "")})
    got = everything(log, out)
    assert len(got) == 1000
    for partition in range(2):
        own = [each for each in got if each.partition == partition]
        assert [each.value for each in own] == [b"%d" % n for n in range(partition, 1000, 2)]
    assert {(each.key, tuple(each.headers)) for each in got} == {(b"41:clicks", (("verdict", b"parked"),))}
    assert member.committed([0, 1, 2]) == {0: Offset(0, '{"v":1}'), 1: None, 2: Offset(0, "")}
    assert log.checkpoint(name, topic3) == {0: Offset(0, '{"v":1}'), 2: Offset(0, "")}


def test_a_commit_without_messages(log: Log, topic: str) -> None:
    """Only moves the checkpoint; the later one counts."""
    fill(log, topic, 10)
    member, _ = join(log, topic)
    polled(member, 10)
    for offset in (3, 10, 7):
        member.commit([], {0: Offset(offset, f"at {offset}")})
        assert log.checkpoint(topic, topic) == {0: Offset(offset, f"at {offset}")}


def test_many_commits_in_a_row(log: Log, topic: str, name: str) -> None:
    """Each with its message, all visible, in order."""
    out = f"{name}-out"
    log.create_topic(out, 1, {})
    member, _ = join(log, topic)
    assigned(member, 1)
    for n in range(50):
        member.commit([Message(out, b"k", b"%d" % n)], {0: Offset(0, str(n))})
    assert [each.value for each in everything(log, out)] == [b"%d" % n for n in range(50)]


@pytest.mark.parametrize("text", ["", "x" * 4000, '{"v":1,"consumed":123}', "ünï €" * 100])
def test_metadata_comes_back(log: Log, topic: str, text: str) -> None:
    """Whatever text was committed with an offset, up to 4,000 characters."""
    member, _ = join(log, topic)
    assigned(member, 1)
    member.commit([], {0: Offset(0, text)})
    assert member.committed([0]) == {0: Offset(0, text)}
    assert log.checkpoint(topic, topic) == {0: Offset(0, text)}


def test_a_failed_commit_leaves_nothing(log: Log, topic: str, name: str) -> None:
    """A message that cannot be sent fails the whole transaction: no message before it, no offset."""
    out = f"{name}-out"
    log.create_topic(out, 1, {"max.message.bytes": "2000"})
    fill(log, topic, 10)
    member, _ = join(log, topic)
    polled(member, 10)
    member.commit([], {0: Offset(1, "before")})
    with pytest.raises((Fenced, Fatal)):
        member.commit([Message(out, b"k", b"small"), Message(out, b"k", b"x" * 5000)], {0: Offset(10, "after")})
    assert everything(log, out) == []
    assert log.checkpoint(topic, topic) == {0: Offset(1, "before")}


def test_a_checkpoint_is_the_groups_own(log: Log, topic: str, name: str) -> None:
    """Another group on the same topic has none; an unknown group has none."""
    member, _ = join(log, topic)
    assigned(member, 1)
    member.commit([], {0: Offset(0, "x")})
    assert log.checkpoint(f"{name}-other", topic) == {}
    other = Partitions()
    other.member = log.join(f"{name}-other", topic, "a", other)
    MEMBERS.append(other.member)
    assigned(other.member, 1)
    assert other.member.committed([0]) == {0: None}


def test_set_checkpoint_of_a_group_without_members(log: Log, topic3: str, name: str) -> None:
    """What was never committed and what was is as told, with its metadata; the next member starts there."""
    log.set_checkpoint(name, topic3, {0: Offset(0, "new"), 1: Offset(0, "")})
    member, _ = join(log, name)
    assigned(member, 3)
    member.commit([], {0: Offset(0, "moved"), 2: Offset(0, "own")})
    member.leave()
    log.set_checkpoint(name, topic3, {0: Offset(0, "told"), 1: Offset(0, "too")})
    assert log.checkpoint(name, topic3) == {0: Offset(0, "told"), 1: Offset(0, "too"), 2: Offset(0, "own")}
    again, _ = join(log, name)
    assigned(again, 3)
    assert again.committed([0, 1])[0] == Offset(0, "told")


def test_set_checkpoint_of_a_group_with_members(log: Log, topic: str, name: str) -> None:
    """Refused, naming the group, and nothing is changed."""
    member, _ = join(log, name)
    assigned(member, 1)
    member.commit([], {0: Offset(0, "own")})
    with pytest.raises(Refused, match=name):
        log.set_checkpoint(name, topic, {0: Offset(0, "told")})
    assert log.checkpoint(name, topic) == {0: Offset(0, "own")}


def test_renew_between_commits(log: Log, topic: str, name: str) -> None:
    """After renew the member goes on: nothing committed is lost, and it commits again."""
    out = f"{name}-out"
    log.create_topic(out, 1, {})
    member, _ = join(log, topic)
    assigned(member, 1)
    member.commit([Message(out, None, b"1")], {0: Offset(0, "one")})
    member.renew()
    assert member.committed([0]) == {0: Offset(0, "one")}
    member.commit([Message(out, None, b"2")], {0: Offset(0, "two")})
    assert [each.value for each in everything(log, out)] == [b"1", b"2"]


# --- membership


def test_the_same_slot_goes_on_after_a_crash(log_place: LogPlace, log: Log, topic3: str) -> None:
    """After close(), which leaves what a crash leaves, the slot has its partitions again, from the checkpoint."""
    fill(log, topic3, 30, 3)
    first = log_place.connect()
    member, _ = join(first, topic3)
    polled(member, 30)
    member.commit([], {0: Offset(10, ""), 1: Offset(4, "four")})
    member.close()
    again, listener = join(log, topic3)
    records = polled(again, 16)
    assert listener.assignments[0] == [0, 1, 2]
    assert [each.offset for each in records if each.partition == 1] == list(range(4, 10))
    assert [each.offset for each in records if each.partition == 2] == list(range(10))


def test_a_former_holder_of_the_slot_is_fenced(log_place: LogPlace, topic: str, name: str) -> None:
    """Once the slot has joined again, the old member's commit raises, and nothing of it is ever seen."""
    out = f"{name}-out"
    one, two = log_place.connect(), log_place.connect()
    one.create_topic(out, 1, {})
    fill(one, topic, 10)
    old, _ = join(one, topic)
    polled(old, 10)
    new, _ = join(two, topic)
    assert len(polled(new, 10)) == 10
    new.commit([Message(out, None, b"new")], {0: Offset(10, "new")})
    with pytest.raises((Fenced, SlotTaken)):
        old.commit([Message(out, None, b"old")], {0: Offset(3, "old")})
    with pytest.raises((Fenced, SlotTaken)):
        poll_on(old)
    assert [each.value for each in everything(two, out)] == [b"new"]
    assert two.checkpoint(topic, topic) == {0: Offset(10, "new")}


def test_leave_commits_and_empties_the_group(log: Log, topic3: str, name: str) -> None:
    """The listener hears which partitions go, can commit in there, and then the group is empty, at once."""
    out = f"{name}-out"
    log.create_topic(out, 1, {})
    fill(log, topic3, 30, 3)
    member, listener = join(log, topic3)
    polled(member, 30)
    assert log.members(topic3) == [f"{topic3}-a"]

    def finish(leaving: Member) -> None:
        leaving.commit([Message(out, None, b"last")], {n: Offset(10, "last") for n in range(3)})

    listener.on_revoked = finish
    member.leave()
    assert listener.revocations == [[0, 1, 2]]
    deadline = time.monotonic() + 10
    while log.members(topic3):
        assert time.monotonic() < deadline, "the group is not empty"
        time.sleep(0.05)
    assert log.checkpoint(topic3, topic3) == {n: Offset(10, "last") for n in range(3)}
    assert [each.value for each in everything(log, out)] == [b"last"]


def test_another_slot_after_leave(log: Log, topic: str) -> None:
    """A group that was left in order takes any other slot, from the checkpoint on."""
    fill(log, topic, 10)
    member, _ = join(log, topic)
    polled(member, 10)
    member.commit([], {0: Offset(6, "six")})
    member.leave()
    other, _ = join(log, topic, "b")
    assert [each.offset for each in polled(other, 4)] == [6, 7, 8, 9]
    assert log.members(topic) == [f"{topic}-b"]


def test_leave_without_a_poll(log: Log, topic: str) -> None:
    """Nothing was assigned, so nothing is revoked; the group is empty."""
    member, listener = join(log, topic)
    member.leave()
    assert listener.revocations == []


def test_members_of_an_unknown_group(log: Log, name: str) -> None:
    """None, not an error."""
    assert log.members(name) == []


def test_a_dropped_group_has_no_checkpoint(log: Log, log_place: LogPlace, topic: str, name: str) -> None:
    """Another group keeps its own, and the group may begin anew."""
    other = Partitions()
    other.member = log.join(f"{name}-other", topic, "a", other)
    MEMBERS.append(other.member)
    member, _ = join(log, topic)
    for each in (member, other.member):
        assigned(each, 1)
        each.commit([], {0: Offset(7, "seven")})
        each.leave()
    log_place.connect().drop_group(name)
    assert log.checkpoint(name, topic) == {}
    assert log.checkpoint(f"{name}-other", topic) == {0: Offset(7, "seven")}
    member, _ = join(log, topic)
    assigned(member, 1)
    assert member.committed([0]) == {0: None}
    member.commit([], {0: Offset(1, "one")})
    assert log.checkpoint(name, topic) == {0: Offset(1, "one")}


def test_a_group_with_a_member_is_not_dropped(log: Log, log_place: LogPlace, topic: str, name: str) -> None:
    """Its checkpoint stays."""
    member, _ = join(log, topic)
    assigned(member, 1)
    member.commit([], {0: Offset(1, "one")})
    with pytest.raises(Refused, match=name):
        log_place.connect().drop_group(name)
    assert log.checkpoint(name, topic) == {0: Offset(1, "one")}


def test_dropping_a_group_that_never_was(log: Log, name: str) -> None:
    """Is no error."""
    log.drop_group(name)


def test_joining_a_topic_that_is_not_there(log: Log, name: str) -> None:
    """One clear error that names it."""
    with pytest.raises(Misconfigured, match=name):
        log.join(name, name, "a", Partitions())


# --- topics and reading


def test_create_topic(log_place: LogPlace, log: Log, name: str) -> None:
    """True once, for all handles; the topic tells partitions and settings; a second creation changes nothing."""
    assert log.topic(name) is None
    assert log.create_topic(name, 5, {"cleanup.policy": "compact", "max.message.bytes": "123456"})
    other = log_place.connect()
    assert not other.create_topic(name, 7, {"cleanup.policy": "delete"})
    topic = other.topic(name)
    assert topic is not None
    assert topic.id
    assert topic.partitions == 5
    assert topic.settings["cleanup.policy"] == "compact"
    assert topic.settings["max.message.bytes"] == "123456"
    assert log.topic(name) == topic


def test_a_topic_made_anew_has_another_id(log: Log, log_place: LogPlace, topic: str) -> None:
    """Same name, another topic, and it is empty."""
    fill(log, topic, 10)
    before = log.topic(topic)
    log_place.delete_topic(topic)
    deadline = time.monotonic() + WAIT_S
    while log.topic(topic) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert log.create_topic(topic, 1, {})
    after = log.topic(topic)
    assert before is not None
    assert after is not None
    assert before.id != after.id
    assert everything(log, topic) == []


def test_heads_and_ends(log: Log, log_place: LogPlace, topic3: str) -> None:
    """An empty topic has 0 and 0; appends move the ends; retention moves the heads."""
    assert log.heads(topic3) == {0: 0, 1: 0, 2: 0}
    assert log.ends(topic3) == {0: 0, 1: 0, 2: 0}
    fill(log, topic3, 31, 3)
    assert log.ends(topic3) == {0: 11, 1: 10, 2: 10}
    log_place.delete_before(topic3, {0: 5, 2: 10})
    assert log.heads(topic3) == {0: 5, 1: 0, 2: 10}
    assert log.ends(topic3) == {0: 11, 1: 10, 2: 10}
    assert len(everything(log, topic3)) == 6 + 10


def test_offsets_at_a_time(log: Log, topic3: str) -> None:
    """The first record that is not older, whatever comes behind it; the end where all are older."""
    stamps = {0: (1_000, 3_000, 2_000, 4_000), 1: (1_500,)}
    log.append([Message(topic3, None, b"", (), p, stamp) for p, each in stamps.items() for stamp in each])
    assert log.offsets_at(topic3, 0) == {0: 0, 1: 0, 2: 0}
    assert log.offsets_at(topic3, 2_000) == {0: 1, 1: 1, 2: 0}
    assert log.offsets_at(topic3, 3_500) == {0: 3, 1: 1, 2: 0}
    assert log.offsets_at(topic3, 9_000) == {0: 4, 1: 1, 2: 0}


def test_read_gives_whole_records(log: Log, topic: str) -> None:
    """Keys, headers in order and repeated, nulls, timestamps, offsets."""
    headers = [("reason", b"not-json"), ("detail", "ünï".encode()), ("reason", b"")]
    log.append(
        [
            Message(topic, b"k", None, headers, timestamp_ms=5_000),
            Message(topic, None, b"", timestamp_ms=4_000),
        ]
    )
    first, second = everything(log, topic)
    assert first == Record(0, 0, 5_000, None, b"k", first.headers)
    assert [tuple(each) for each in first.headers] == headers
    assert second == Record(0, 1, 4_000, b"", None, second.headers)
    assert not second.headers


def test_read_from_a_start(log: Log, topic3: str) -> None:
    """From the offsets given to the ends, in order per partition; a start at the end gives nothing of it."""
    fill(log, topic3, 3000, 3)
    got = [record for page in log.read(topic3, {0: 990, 1: 1000, 2: 0}) for record in page]
    assert [each.offset for each in got if each.partition == 0] == list(range(990, 1000))
    assert [each.offset for each in got if each.partition == 1] == []
    assert [each.offset for each in got if each.partition == 2] == list(range(1000))


def test_read_ends_where_the_topic_ended_at_the_call(log: Log, topic: str) -> None:
    """What is appended after the call is not in it."""
    fill(log, topic, 10)
    pages = log.read(topic)
    fill(log, topic, 10)
    assert len([record for page in pages for record in page]) == 10
    assert len(everything(log, topic)) == 20


def test_read_of_an_empty_topic(log: Log, topic: str) -> None:
    """Ends at once."""
    assert everything(log, topic) == []


def test_read_following(log: Log, topic: str) -> None:
    """It gives what is there, then [] while nothing comes, then what comes."""
    fill(log, topic, 3)
    pages = log.read(topic, follow=True)
    seen: list[Record] = []
    for page in islice(pages, 200):
        seen += page
        if not page and len(seen) == 3:
            fill(log, topic, 2)
        if len(seen) == 5:
            break
    assert [each.offset for each in seen] == [0, 1, 2, 3, 4]


def test_the_key_chooses_the_partition(log: Log, name: str) -> None:
    """Same key, same partition, also in transactions and through another call; many keys use all partitions."""
    log.create_topic(name, 4, {})
    keys = [b"%d:clicks" % n for n in range(100)]
    log.append([Message(name, key, b"1") for key in keys])
    member, _ = join(log, name)
    assigned(member, 4)
    member.commit([Message(name, key, b"2") for key in keys], {0: Offset(0, "")})
    homes: dict[bytes, set[int]] = {}
    for record in everything(log, name):
        assert record.key is not None
        homes.setdefault(record.key, set()).add(record.partition)
    assert {len(each) for each in homes.values()} == {1}
    assert {partition for each in homes.values() for partition in each} == {0, 1, 2, 3}


def test_two_handles_are_one_log(log_place: LogPlace, name: str) -> None:
    """What one appended the other reads."""
    one, two = log_place.connect(), log_place.connect()
    one.create_topic(name, 1, {})
    two.append([Message(name, b"k", b"v")])
    assert [each.value for each in everything(one, name)] == [b"v"]


def test_close_twice(log_place: LogPlace) -> None:
    """The second time does nothing."""
    log = log_place.connect()
    log.close()
    log.close()
