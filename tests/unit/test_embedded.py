"""What only the embedded pair does: one file, leases, durability against kill -9, limits of its own."""

import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from projector.backends import embedded_file, embedded_topic
from projector.backends.embedded_log import EmbeddedLog
from projector.backends.embedded_store import EmbeddedStore
from projector.errors import Fenced, InDoubt, Misconfigured, OffsetsGone, Refused, Retryable, SlotTaken
from projector.log import Message, Offset
from projector.store import (
    Add,
    AddEntry,
    BinEqual,
    BinMissing,
    Delete,
    Fetch,
    Operation,
    Outcome,
    Presence,
    Put,
    PutNew,
    Read,
    RowKey,
    Write,
)

ROW = RowKey("campaigns", 1)


class FromTheStart:
    """A listener that begins at 0."""

    def __init__(self) -> None:
        self.revocations: list[Sequence[int]] = []

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        return dict.fromkeys(partitions, 0)

    def revoked(self, partitions: Sequence[int]) -> None:
        self.revocations.append(partitions)

    def lost(self, partitions: Sequence[int]) -> None:
        raise AssertionError(f"{partitions}: an embedded member loses nothing while its lease is held")


class Hearing(FromTheStart):
    """It may lose its partitions: its lease may lapse."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        self.heard.append("assigned")
        return super().assigned(partitions)

    def lost(self, partitions: Sequence[int]) -> None:  # noqa: ARG002  # the port's
        self.heard.append("lost")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file will be."""
    return tmp_path / "projector.db"


# --- durability

WRITER = """
import itertools, sys
from pathlib import Path
from projector.backends.embedded_log import EmbeddedLog
from projector.backends.embedded_store import EmbeddedStore
from projector.log import Message, Offset
from projector.store import Add, AddEntry, Presence, Put, PutNew, Read, RowKey, Write
from tests.unit.test_embedded import ROW, FromTheStart

path = Path(sys.argv[1])
store, log = EmbeddedStore(path), EmbeddedLog(path)
member = log.join("group", "topic", "a", FromTheStart())
(row,) = store.read([Read(ROW, ["rev"])])
start = row.bins["rev"]
for n in itertools.count(start):
    ids = {n * 100 + i: [1, 2, 3, n] for i in range(100)}
    store.write([Write(ROW, [PutNew("seen", ids), AddEntry("stats", "clicks", 100), Add("rev", 1)])])
    print("store", n + 1, flush=True)
    member.commit([Message("topic", b"k", b"%d" % n)] * 10, {0: Offset(n, str(n)), 1: Offset(n, str(n))})
    print("log", n, flush=True)
"""


def test_kill_9_leaves_no_half_commit_and_loses_none(path: Path) -> None:
    """A writer killed at random moments: every row and every transaction is whole, and what it was told is there."""
    store, log = EmbeddedStore(path), EmbeddedLog(path)
    store.write([Write(ROW, [Put("rev", 0), Put("seen", {}), Put("stats", {})], Presence.ABSENT)])
    log.create_topic("topic", 2, {})
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            said = [writer.stdout.readline(), writer.stdout.readline()]
            time.sleep(random.uniform(0, 0.2))
            writer.send_signal(signal.SIGKILL)
            said += writer.stdout.readlines()
        told = {what: int(number) for what, number in (line.split() for line in said if line.endswith("\n"))}

        (row,) = store.read([Read(ROW, ["rev", "seen", "stats"])])
        assert row is not None
        rev = row.bins["rev"]
        assert rev >= told["store"]
        assert list(row.bins["seen"]) == list(range(rev * 100))
        assert row.bins["stats"] == {"clicks": rev * 100}

        checkpoint = log.checkpoint("group", "topic")
        committed = checkpoint[0].offset
        assert committed >= told["log"]
        assert checkpoint == dict.fromkeys((0, 1), Offset(committed, str(committed)))
        values = [int(record.value or b"") for page in log.read("topic") for record in page]
        assert set(values) <= set(range(committed + 1))
        assert {values.count(n) for n in set(values)} == {10}
        assert committed in values
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


OPENER = """
import sys
from pathlib import Path
from projector.backends.embedded_log import EmbeddedLog
from projector.backends.embedded_store import EmbeddedStore
path = Path(sys.argv[1])
store, log = EmbeddedStore(path), EmbeddedLog(path)
print(store.state().incarnation, log.create_topic("topic", 12, {}))
"""


def test_many_processes_create_the_file_at_once(path: Path) -> None:
    """All succeed, agree on the incarnation, and exactly one creates the topic."""
    command = [sys.executable, "-c", OPENER, str(path)]
    openers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(6)]
    said = [each.communicate()[0].split() for each in openers]
    assert [each.returncode for each in openers] == [0] * 6
    assert len({incarnation for incarnation, _ in said}) == 1
    assert sorted(created for _, created in said) == ["False"] * 5 + ["True"]


COUNTER = """
import sys
from pathlib import Path
from projector.backends.embedded_store import EmbeddedStore
from projector.store import Add, AddEntry, Outcome, PutNew, Write
from tests.unit.test_embedded import ROW
store = EmbeddedStore(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for n in range(300):
    ids = PutNew("seen", {f"{sys.argv[2]}-{n}": n})
    (answer,) = store.write([Write(ROW, [AddEntry("stats", "clicks", 1), ids, Add("rev", 1)])])
    assert answer.outcome is Outcome.APPLIED, answer
"""


def test_writers_of_one_row_wait_for_each_other(path: Path) -> None:
    """Three processes at once: no write fails, and none is lost."""
    store = EmbeddedStore(path)
    store.write([Write(ROW, [Put("rev", 0)], Presence.ABSENT)])
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", COUNTER, str(path), each], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for each in ("a", "b", "c")
    ]
    for each in writers:
        assert each.stdout is not None
        assert each.stdout.readline() == "ready\n"
    for each in writers:
        assert each.stdin is not None
        each.stdin.write("go\n")
        each.stdin.close()
    assert [each.wait() for each in writers] == [0, 0, 0]
    (row,) = store.read([Read(ROW, ["rev", "stats", "seen"])])
    assert row is not None
    assert (row.bins["rev"], row.bins["stats"], len(row.bins["seen"])) == (900, {"clicks": 900}, 900)


def test_what_a_write_has_read_cannot_change_under_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writing transaction holds the file from its beginning, before its first statement."""
    monkeypatch.setattr(embedded_file, "BUSY_MS", 20)
    store = EmbeddedStore(path)
    other = embedded_file.EmbeddedFile(path, "")
    write = Write(ROW, [Put("n", 1)], Presence.EITHER)
    with other.writing():
        assert store.write([write])[0].outcome is Outcome.FAILED
    assert store.write([write])[0].outcome is Outcome.APPLIED


def test_both_backends_share_the_file_and_write_it_durably(path: Path) -> None:
    """WAL, and synchronous=FULL on the connection that writes."""
    store, log = EmbeddedStore(path), EmbeddedLog(path)
    log.create_topic("topic", 1, {})
    assert store.write([Write(ROW, [Put("n", 1)], Presence.ABSENT)])[0].outcome is Outcome.APPLIED
    with store._file.reading() as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert EmbeddedStore(path).state() == store.state()


def test_a_file_made_anew_has_another_incarnation(path: Path, tmp_path: Path) -> None:
    """Two files never share one."""
    assert EmbeddedStore(path).state() != EmbeddedStore(tmp_path / "other.db").state()


# --- faults


def test_a_locked_file_is_retryable_and_nothing_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another writes: FAILED, Retryable or Fenced, poll gives [], nothing is written, reads go on."""
    monkeypatch.setattr(embedded_file, "BUSY_MS", 20)
    monkeypatch.setattr("projector.backends.embedded_member.COMMIT_RETRY_S", 0.2)
    monkeypatch.setattr("projector.backends.embedded_member.RENEW_MS", 0)
    store, log = EmbeddedStore(path), EmbeddedLog(path)
    log.create_topic("topic", 1, {})
    log.append([Message("topic", None, b"x")])
    member = log.join("group", "topic", "a", FromTheStart())
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    (answer,) = store.write([Write(ROW, [Put("n", 1)], Presence.ABSENT)])
    assert answer.outcome is Outcome.FAILED
    assert type(answer.error) is Retryable
    with pytest.raises(Retryable):
        log.append([Message("topic", None, b"y")])
    with pytest.raises(Fenced):
        member.commit([], {0: Offset(1, "")})
    assert member.poll(10, 50) == []
    assert store.read([Read(ROW)]) == [None]
    blocker.execute("ROLLBACK")
    assert [each.value for each in member.poll(10, 50)] == [b"x"]
    assert log.ends("topic") == {0: 1}
    assert log.checkpoint("group", "topic") == {}


def test_a_commit_waits_for_another_writer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock held longer than one attempt waits is retried, not given up."""
    monkeypatch.setattr(embedded_file, "BUSY_MS", 20)
    log = EmbeddedLog(path)
    log.create_topic("topic", 1, {})
    member = log.join("group", "topic", "a", FromTheStart())
    hold = "import sqlite3,sys,time; db = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    hold += "db.execute('BEGIN IMMEDIATE'); print('held', flush=True); time.sleep(0.5)"
    with subprocess.Popen([sys.executable, "-c", hold, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        member.commit([Message("topic", None, b"x")], {0: Offset(0, "waited")})
    assert log.checkpoint("group", "topic") == {0: Offset(0, "waited")}
    assert log.ends("topic") == {0: 1}


@pytest.mark.parametrize("content", [b"not a database, but long enough to look at" * 50, None])
def test_a_file_that_is_not_ours_is_refused(path: Path, content: bytes | None) -> None:
    """Another format, or another program's database: Misconfigured, and not a byte of it changes."""
    if content is None:
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE theirs (n)")
        db.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    for backend in (EmbeddedStore, EmbeddedLog):
        with pytest.raises(Misconfigured, match=path.name):
            backend(path)
    assert path.read_bytes() == before


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """Misconfigured, naming the file."""
    with pytest.raises(Misconfigured, match="missing"):
        EmbeddedStore(tmp_path / "missing" / "projector.db")


def test_a_call_that_raises_leaves_the_file_usable(path: Path) -> None:
    """A wrong call rolls back its whole transaction, and the next one works."""
    store = EmbeddedStore(path)
    wrong: list[Sequence[Operation]] = [
        [PutNew("seen", {"a\0b": 1})],
        [PutNew("seen", {"\ud800": 1})],
        [AddEntry("stats", "a\0b", 1)],
        [PutNew("seen", {True: 1})],
        [PutNew("seen", {1.5: 1})],
        [Add("n", 1), Delete()],
    ]
    for operations in wrong:
        with pytest.raises(ValueError):  # noqa: PT011  # sqlite3's own among them
            store.write(
                [
                    Write(ROW, [Put("n", 1)], Presence.EITHER),
                    Write(RowKey("campaigns", 2), operations, Presence.EITHER),
                ]
            )
    with pytest.raises(OverflowError):
        store.write([Write(ROW, [Add("n", (1 << 63) - 1), Add("n", 1)], Presence.EITHER)])
    with pytest.raises(TypeError):
        store.write([Write(ROW, [Put("n", "text"), Add("n", 1)], Presence.EITHER)])
    assert store.read([Read(ROW), Read(RowKey("campaigns", 2))]) == [None, None]
    assert store.write([Write(ROW, [Put("n", 1)], Presence.ABSENT)])[0].outcome is Outcome.APPLIED


@pytest.mark.parametrize("key", ["a\0b", "\ud800"])
def test_row_keys_that_no_store_can_hold(path: Path, key: str) -> None:
    """U+0000 and an unpaired surrogate raise ValueError, in writes and in reads."""
    store = EmbeddedStore(path)
    store.write([Write(ROW, [Put("m", {"a": 1})], Presence.EITHER)])
    with pytest.raises(ValueError):  # noqa: PT011  # sqlite3's own among them
        store.write([Write(RowKey("tags", key), [Put("n", 1)], Presence.EITHER)])
    with pytest.raises(ValueError):  # noqa: PT011  # sqlite3's own among them
        store.read([Read(RowKey("tags", key))])
    with pytest.raises(ValueError):  # noqa: PT011  # sqlite3's own among them
        store.read([Read(ROW, entries={"m": [key]})])


# --- the store


def test_conditions_on_a_missing_row_that_may_be_missing(path: Path) -> None:
    """A missing row has no bins: BinMissing would hold, BinEqual does not."""
    store = EmbeddedStore(path)
    refused = Write(ROW, [Put("n", 1)], Presence.EITHER, [BinEqual("seal", 1)])
    assert store.write([refused])[0].outcome is Outcome.REFUSED
    assert store.read([Read(ROW)]) == [None]
    assert store.write([refused._replace(conditions=[BinMissing("seal")])])[0].outcome is Outcome.APPLIED


def test_row_bytes_max(path: Path) -> None:
    """The limit is the constructor's, counts all maps of the row, and clearing makes room again."""
    store = EmbeddedStore(path, row_bytes_max=10_000)
    assert store.limits().row_bytes_max == 10_000
    assert EmbeddedStore(path).limits().row_bytes_max == 8 << 20
    outcomes = []
    for n in range(12):
        ids = {n * 100 + i: b"x" for i in range(100)}
        outcomes.append(store.write([Write(ROW, [PutNew(f"m{n % 3}", ids)], Presence.EITHER)])[0].outcome)
    applied = outcomes.count(Outcome.APPLIED)
    assert 4 <= applied <= 8
    assert outcomes == [Outcome.APPLIED] * applied + [Outcome.TOO_BIG] * (12 - applied)
    shrinking: list[Operation] = [Put("m0", {}), PutNew("m1", {-1: b"x"}), Fetch("m1")]
    assert store.write([Write(ROW, shrinking)])[0].outcome is Outcome.APPLIED


def test_moved_and_replaced_entries_leave_nothing_behind(path: Path) -> None:
    """No entry stays in the file that no row names."""
    store = EmbeddedStore(path)
    for n in range(5):
        store.write([Write(ROW, [Put("a", {n: 1}), Put("b", {n: 2}), Put("c", n)], Presence.EITHER)])
        store.write([Write(ROW, [Put("b", 3), PutNew("a", {-1: 1}), PutNew("a", {-1: 1})])])
    store.write([Write(ROW, [Delete()])])
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM store_entries").fetchone() == (0,)


# --- the lease


def test_one_worker_a_group(path: Path) -> None:
    """Another slot is refused while the lease is held, whichever process asks; another group is not."""
    one, two = EmbeddedLog(path), EmbeddedLog(path)
    one.create_topic("topic", 1, {})
    one.join("group", "topic", "a", FromTheStart())
    with pytest.raises(SlotTaken, match="group-a"):
        two.join("group", "topic", "b", FromTheStart())
    two.join("group-g2", "topic", "b", FromTheStart())
    assert two.members("group") == ["group-a"]


def test_a_lapsed_lease_goes_to_another_slot(path: Path) -> None:
    """Then all that the former holder does raises SlotTaken, is not seen, and takes nothing from the new one."""
    log = EmbeddedLog(path, lease_ms=1)
    log.create_topic("topic", 1, {})
    old = log.join("group", "topic", "a", FromTheStart())
    time.sleep(0.01)
    assert log.members("group") == []
    new = EmbeddedLog(path).join("group", "topic", "b", FromTheStart())
    with pytest.raises(SlotTaken, match="group-b"):
        old.poll(10, 0)
    with pytest.raises(SlotTaken):
        old.commit([Message("topic", None, b"x")], {0: Offset(5, "")})
    with pytest.raises(SlotTaken):
        old.renew()
    old.leave()
    assert log.ends("topic") == {0: 0}
    new.commit([Message("topic", None, b"y")], {0: Offset(0, "new")})
    assert log.members("group") == ["group-b"]
    assert log.checkpoint("group", "topic") == {0: Offset(0, "new")}


def test_a_lapsed_lease_that_nobody_took_is_renewed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that was away too long goes on, if no other came."""
    monkeypatch.setattr("projector.backends.embedded_member.RENEW_MS", 0)
    log = EmbeddedLog(path, lease_ms=200)
    log.create_topic("topic", 1, {})
    member = log.join("group", "topic", "a", Hearing())
    time.sleep(0.3)
    assert log.members("group") == []
    member.poll(10, 0)
    assert log.members("group") == ["group-a"]


def test_a_lease_that_had_lapsed_commits_nothing(path: Path) -> None:
    """Others saw the group empty: the worker is fenced, also after `renew`, until it has its partitions anew."""
    log = EmbeddedLog(path, lease_ms=200)
    log.create_topic("topic", 1, {})
    listener = Hearing()
    member = log.join("group", "topic", "a", listener)
    member.poll(10, 0)
    time.sleep(0.3)
    for _ in range(2):
        with pytest.raises(Fenced, match="lapsed"):
            member.commit([], {0: Offset(0, "late")})
        member.renew()
    member.poll(10, 0)
    assert listener.heard == ["assigned", "lost", "assigned"]
    member.commit([], {0: Offset(0, "in time")})
    assert log.checkpoint("group", "topic") == {0: Offset(0, "in time")}


def test_close_keeps_the_lease_and_leave_does_not(path: Path) -> None:
    """A crashed worker's group refuses other slots; one that left takes them."""
    log = EmbeddedLog(path)
    log.create_topic("topic", 1, {})
    log.join("group", "topic", "a", FromTheStart()).close()
    with pytest.raises(SlotTaken):
        log.join("group", "topic", "b", FromTheStart())
    again = log.join("group", "topic", "a", FromTheStart())
    again.leave()
    log.join("group", "topic", "b", FromTheStart())


# --- the log


def test_a_transaction_carries_an_offset(path: Path) -> None:
    """Messages alone are a wrong call, and metadata is as long as Kafka takes it."""
    log = EmbeddedLog(path)
    log.create_topic("topic", 1, {})
    member = log.join("group", "topic", "a", FromTheStart())
    with pytest.raises(ValueError, match="offset"):
        member.commit([Message("topic", None, b"x")], {})
    member.commit([], {0: Offset(0, "x" * 4095)})
    with pytest.raises(Refused, match="metadata"):
        member.commit([], {0: Offset(0, "ü" * 2048)})


def test_max_message_bytes(path: Path) -> None:
    """A topic's own limit, else Kafka's; over it nothing of the call is appended."""
    log = EmbeddedLog(path)
    log.create_topic("small", 1, {"max.message.bytes": "1000"})
    log.create_topic("large", 1, {"max.message.bytes": "6000000"})
    log.create_topic("topic", 1, {})
    log.append([Message("large", None, b"x" * 5_000_000), Message("small", None, b"x" * 900)])
    for topic, size in (("small", 1_000), ("topic", 1_050_000)):
        with pytest.raises(Refused, match=r"max\.message\.bytes"):
            log.append([Message("large", None, b"first"), Message(topic, None, b"x" * size)])
    assert [log.ends(topic) for topic in ("large", "small", "topic")] == [{0: 1}, {0: 1}, {0: 0}]


def test_messages_without_a_key_go_round(path: Path) -> None:
    """Every partition gets its share; a partition that is not there is named."""
    log = EmbeddedLog(path)
    log.create_topic("topic", 3, {})
    log.append([Message("topic", None, b"x")] * 300)
    assert log.ends("topic") == {0: 100, 1: 100, 2: 100}
    with pytest.raises(Misconfigured, match="partition 3"):
        log.append([Message("topic", None, b"x", partition=3)])


def test_an_append_that_fails_half_way_is_in_doubt(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller who repeats it must know that a part is there."""
    monkeypatch.setattr("projector.backends.embedded_log.APPEND_MESSAGES", 2)
    log = EmbeddedLog(path)
    log.create_topic("topic", 1, {})
    appended: list[int] = []
    append = embedded_topic.append

    def locked_at_the_third(db: sqlite3.Connection, messages: Sequence[Message]) -> None:
        appended.append(len(messages))
        if len(appended) == 3:
            raise Retryable("locked")
        append(db, messages)

    monkeypatch.setattr(embedded_topic, "append", locked_at_the_third)
    with pytest.raises(InDoubt, match="4 of 10"):
        log.append([Message("topic", None, b"x")] * 10)
    assert log.ends("topic") == {0: 4}


def test_polls_are_fair(path: Path) -> None:
    """A small poll takes of every partition; what one has not, the others give."""
    log = EmbeddedLog(path)
    log.create_topic("topic", 3, {})
    log.append([Message("topic", None, b"x", partition=partition) for partition in (0, 1) for _ in range(1000)])
    log.append([Message("topic", None, b"x", partition=2)] * 2)
    member = log.join("group", "topic", "a", FromTheStart())
    assert len(member.poll(102, 1000)) == 102
    assert member.positions() == {0: 50, 1: 50, 2: 2}
    assert len(member.poll(10_000, 0)) == 1900


def test_a_poll_is_bounded_in_bytes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large values come in several polls, none lost."""
    monkeypatch.setattr("projector.backends.embedded_topic.TAKE_BYTES_MAX", 10_000)
    log = EmbeddedLog(path)
    log.create_topic("topic", 2, {})
    log.append([Message("topic", None, b"x" * 1000)] * 100)
    member = log.join("group", "topic", "a", FromTheStart())
    polls = [member.poll(10_000, 0) for _ in range(10)]
    assert [len(each) for each in polls] == [10] * 10
    assert len({(record.partition, record.offset) for each in polls for record in each}) == 100


def test_a_position_past_the_end_and_a_topic_that_went(path: Path) -> None:
    """Both are OffsetsGone, never a silent wait."""
    log = EmbeddedLog(path)
    log.create_topic("topic", 1, {})
    member = log.join("group", "topic", "a", FromTheStart())
    member.poll(10, 0)
    member.seek({0: 1})
    with pytest.raises(OffsetsGone, match="offset 1"):
        member.poll(10, 0)
    with pytest.raises(ValueError, match="7"):
        member.seek({7: 0})
    log.delete_topic("topic")
    with pytest.raises(OffsetsGone, match="deleted"):
        member.poll(10, 0)
