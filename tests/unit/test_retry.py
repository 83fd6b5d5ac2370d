"""Retry: each parked record goes back once, as it was, whatever ends or fences a retry at whatever moment."""

import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from projector.backends.embedded_log import EmbeddedLog
from projector.backends.embedded_store import EmbeddedStore
from projector.cli.app import app
from projector.config import Config
from projector.errors import Fenced, Misconfigured, OffsetsGone, Refused, Retryable, SlotTaken
from projector.generation import Generation
from projector.log import Log, Message, Offset, Record
from projector.migrate import migrate
from projector.pointer import POINTER, PointerRow
from projector.projector import Projector
from projector.quarantine import message
from projector.quarantined import Wanted
from projector.retry import SLOT, by_reason, parked, retry, retry_group
from projector.rewind import rewind
from projector.store import Presence, Put, Read, RowKey, Write
from projector.topics import retried_topic
from tests.fault.memory_log import MemoryLog, MemoryMember

CONFIG = Config()
ALL = Wanted()
INPUT, QUARANTINE = CONFIG.input_topic, CONFIG.quarantine_topic
PARTITIONS = 4


class CrashError(BaseException):
    """The process ends here."""


def put_aside(
    log: Log, partition: int, offset: int, verdict: str = "parked", reason: str = "unknown-tag", **more: Any
) -> None:
    record = Record(partition, offset, more.get("timestamp_ms", 1_000 + offset), more.get("value", b"%d" % offset))
    log.append([message(QUARANTINE, more.get("topic", INPUT), record, verdict, reason, "", 1)])


def read(log: Log, topic: str) -> list[Record]:
    return [record for records in log.read(topic) for record in records]


def came_back(log: Log) -> list[str]:
    """Where the records of the input topic came from, those that were retried."""
    return sorted(
        header.decode()
        for record in read(log, INPUT)
        for header in [dict(record.headers).get("retried-from")]
        if header
    )


def markers(log: Log) -> list[str]:
    return sorted((record.key or b"").decode() for record in read(log, retried_topic(CONFIG)))


def keys(*places: tuple[int, int]) -> list[str]:
    return sorted(f"{INPUT}/{partition}/{offset}" for partition, offset in places)


def memory_log() -> MemoryLog:
    log = MemoryLog(lambda: 0.0, random.Random(0))
    log.create_topic(INPUT, PARTITIONS, {})
    log.create_topic(QUARANTINE, 3, {})
    return log


@pytest.fixture
def log() -> MemoryLog:
    return memory_log()


def test_a_record_goes_back_as_it_was(log: MemoryLog) -> None:
    """Its bytes, partition and timestamp, no key, where it came from in its headers; a marker under its key."""
    value = bytes(range(256))
    put_aside(log, 3, 17, value=value, timestamp_ms=1_700_000_000_123)
    put_aside(log, 2, 5, value=b"", timestamp_ms=-1)
    assert retry(log, CONFIG, ALL) == 2
    timeless, record = sorted(read(log, INPUT), key=lambda each: each.partition)
    assert (record.partition, record.value, record.timestamp_ms, record.key) == (3, value, 1_700_000_000_123, None)
    assert dict(record.headers) == {
        "retried-from": f"{INPUT}/3/17".encode(),
        "retried-timestamp": b"1700000000123",
    }
    assert (timeless.value, timeless.timestamp_ms // 1000) == (b"", 0)
    assert markers(log) == keys((3, 17), (2, 5))
    assert all(marker.value for marker in read(log, retried_topic(CONFIG))), "a tombstone would be compacted away"


def test_only_once(log: MemoryLog) -> None:
    """A second retry sends what was parked since, and nothing else; then there is nothing."""
    for offset in range(5):
        put_aside(log, 0, offset)
    assert retry(log, CONFIG, ALL) == 5
    put_aside(log, 0, 2)  # told again, after a rewind
    put_aside(log, 0, 9)
    assert list(parked(log, CONFIG, ALL)) == keys((0, 9))
    assert retry(log, CONFIG, ALL) == 1
    assert retry(log, CONFIG, ALL) == 0
    assert came_back(log) == markers(log) == keys(*((0, n) for n in (0, 1, 2, 3, 4, 9)))
    assert log.members(retry_group(CONFIG)) == []


def test_nothing_but_what_is_parked(log: MemoryLog) -> None:
    """Rejected records, conflicts and those of another topic stay; the last message of a key says what it is."""
    put_aside(log, 0, 1, "rejected", "not-json")
    put_aside(log, 0, 2, "duplicate", "conflict")
    put_aside(log, 0, 3, topic="another")
    put_aside(log, 0, 4)
    put_aside(log, 0, 4, "rejected", "other-set")
    put_aside(log, 0, 5, "rejected", "other-set")
    put_aside(log, 0, 5)
    log.append([Message(QUARANTINE, b"of another program", b"x")])
    assert retry(log, CONFIG, ALL) == 1
    assert came_back(log) == keys((0, 5))


@pytest.mark.parametrize(
    ("wanted", "offsets"),
    [
        (Wanted(reason="unknown-kind"), [2]),
        (Wanted(tag="b"), [3]),
        (Wanted(partition=1), [1, 2]),
        (Wanted(since_ms=1_002, until_ms=1_003), [2]),
        (Wanted(tag="a", partition=1), [1]),
    ],
)
def test_filters(log: MemoryLog, wanted: Wanted, offsets: list[int]) -> None:
    """Only those that fit all of them."""

    def value(tag: str) -> bytes:
        bins = [{"name": "event-tag-id", "value": tag}]
        return json.dumps({"msg": "write", "key": ["t", "events", "x", None], "bins": bins}).encode()

    put_aside(log, 1, 1, value=value("a"))
    put_aside(log, 1, 2, reason="unknown-kind", value=b"{}")
    put_aside(log, 2, 3, value=value("b"))
    assert retry(log, CONFIG, wanted) == len(offsets)
    assert came_back(log) == keys(*((2 if n == 3 else 1, n) for n in offsets))


def test_bounded_transactions(log: MemoryLog) -> None:
    """At most so many records each; `advance` hears of all."""
    for offset in range(25):
        put_aside(log, offset % PARTITIONS, offset)
    committed: list[int] = []
    log.committed = lambda: committed.append(len(came_back(log)))
    told: list[int] = []
    assert retry(log, CONFIG, ALL, told.append, records_max=10) == sum(told) == 25
    assert committed == [10, 20, 25]


def test_commits_of_unknown_outcome(log: MemoryLog) -> None:
    """Those that did take effect are found by their markers: counted as sent, and not sent again."""
    for offset in range(25):
        put_aside(log, 0, offset)

    def lose_the_answer() -> None:
        raise Fenced("outcome unknown")

    log.committed = lose_the_answer
    told: list[int] = []
    assert retry(log, CONFIG, ALL, told.append, records_max=10) == sum(told) == 25
    assert came_back(log) == keys(*((0, n) for n in range(25)))


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens_at_whatever_moment(seed: int) -> None:
    """Killed before, in and after commits, transactions aborted, records parked meanwhile: each goes back once."""
    choose = random.Random(seed)
    log = memory_log()
    places = [(choose.randrange(PARTITIONS), offset) for offset in range(40)]
    for place in places[:30]:
        put_aside(log, *place)
    late = iter(places[30:])

    def happen() -> None:
        match choose.randrange(8):
            case 0:
                raise CrashError
            case 1:
                for transaction in list(log.open):
                    log.end(transaction, "aborted")
            case 2:
                for place in [next(late, None)]:
                    if place:
                        put_aside(log, *place)

    log.between = log.committed = happen
    for _ in range(200):
        with suppress(CrashError, Retryable):
            retry(log, CONFIG, ALL, records_max=choose.randint(1, 7))
        if SLOT in log.seats and choose.random() < 0.9:
            log.expel(SLOT)
    log.between = log.committed = lambda: None
    for place in late:
        put_aside(log, *place)
    if SLOT in log.seats:
        log.expel(SLOT)
    retry(log, CONFIG, ALL)
    assert came_back(log) == markers(log) == keys(*places)
    assert retry(log, CONFIG, ALL) == 0


def test_a_second_one_is_refused(log: MemoryLog) -> None:
    """While one runs another ends with what runs; nothing is sent twice."""
    for offset in range(10):
        put_aside(log, 0, offset)
    refused: list[str] = []

    def second() -> None:
        with pytest.raises(Refused) as caught:
            retry(log, CONFIG, ALL)
        refused.append(str(caught.value))

    log.between = second
    assert retry(log, CONFIG, ALL, records_max=5) == 10
    assert f"{CONFIG.group}-retry-{SLOT}" in refused[0]
    assert came_back(log) == keys(*((0, n) for n in range(10)))


@pytest.mark.parametrize("goes_on", [False, True])
def test_a_second_one_that_saw_nobody_fences_the_first(
    log: MemoryLog, monkeypatch: pytest.MonkeyPatch, goes_on: bool
) -> None:
    """Both began at once: the earlier one commits nothing more; while the later one is there it ends with 8."""
    for offset in range(10):
        put_aside(log, 0, offset)
    monkeypatch.setattr(log, "members", lambda _: [])

    def second() -> None:
        log.between = lambda: None
        if goes_on:
            log.join(retry_group(CONFIG), QUARANTINE, SLOT, None)  # type: ignore[arg-type]  # not polled
        else:
            assert retry(log, CONFIG, ALL) == 10

    log.between = second
    if goes_on:
        with pytest.raises(SlotTaken):
            retry(log, CONFIG, ALL, records_max=5)
        assert came_back(log) == []
        log.expel(SLOT)
    retry(log, CONFIG, ALL, records_max=5)
    assert came_back(log) == markers(log) == keys(*((0, n) for n in range(10)))


def test_nothing_is_ever_committed(log: MemoryLog) -> None:
    """It gives up, and says so, after some attempts."""
    put_aside(log, 0, 1)

    def abort() -> None:
        for transaction in list(log.open):
            log.end(transaction, "aborted")

    log.between = abort
    with pytest.raises(Retryable, match="run it again"):
        retry(log, CONFIG, ALL)
    assert came_back(log) == []


def test_markers_that_would_be_lost(tmp_path: Path) -> None:
    """A topic of markers that is not compacted is refused: it would forget what was retried."""
    log = EmbeddedLog(tmp_path / "projector.db")
    for name in (INPUT, QUARANTINE):
        log.create_topic(name, 1, {})
    log.create_topic(retried_topic(CONFIG), 1, {"cleanup.policy": "delete"})
    put_aside(log, 0, 0)
    with pytest.raises(Misconfigured, match="cleanup"):
        retry(log, CONFIG, ALL)
    assert came_back(log) == []


# --- with a projector that counts


class Place:
    """A migrated file with one campaign and one tag of it."""

    def __init__(self, path: Path) -> None:
        self.config = Config(file=path / "projector.db")
        self.log, self.store = EmbeddedLog(self.config.file, lease_ms=200), EmbeddedStore(self.config.file)
        list(migrate(self.log, self.store, self.config))
        self.store.write([Write(RowKey("campaigns", 6), [Put("c-id", 6), Put("stats", {})], Presence.ABSENT)])
        self.row = PointerRow(self.store, 0)

    def create_tag(self, tag: str) -> None:
        self.store.write([Write(RowKey("tags", tag), [Put("t-id", tag), Put("c-id", 6)], Presence.ABSENT)])

    def send(self, tag: str, ids: Sequence[int]) -> None:
        values = []
        for n in ids:
            bins = [{"name": "event-id", "value": f"id-{n}"}, {"name": "event-tag-id", "value": tag}]
            bins.append({"name": "event-type", "value": "click"})
            values.append(json.dumps({"msg": "write", "key": ["t", "events", "x", None], "bins": bins}).encode())
        self.log.append(
            [Message(INPUT, None, value, (), n % 3, 5_000 + n) for n, value in zip(ids, values, strict=True)]
        )

    def count(self) -> Counter[str]:
        """Run to the end; the committed totals."""
        worker = Projector(
            self.log, self.store, self.config, Generation(1, "projector"), self.row.settled().epoch, "a", 0
        )
        worker.run(True, lambda: False)
        totals: Counter[str] = Counter()
        for committed in self.log.checkpoint("projector", INPUT).values():
            totals.update(json.loads(committed.metadata))
        del totals["v"]
        return +totals

    def held(self) -> dict[str, list[int]]:
        (row,) = self.store.read([Read(RowKey("campaigns", 6), ("seen", "sealed", "stats"))])
        assert row is not None
        seen = dict(row.bins.get("seen", {}))
        assert row.bins["stats"].get("clicks", 0) == len(seen)
        return seen

    def run(self, *arguments: str, code: int = 0, given: str | None = None) -> Any:
        at = ["--set", f"file={self.config.file}"]
        result = CliRunner().invoke(app, ["quarantine", *arguments, *at], input=given)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.stderr
        return result


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_parked_then_counted(place: Place) -> None:
    """A tag that comes late: its events are counted once, at the new positions, in the second of the old ones."""
    place.send("late", range(10))
    assert place.count() == {"consumed": 10, "parked": 10}
    place.create_tag("late")
    assert retry(place.log, place.config, ALL) == 10
    assert place.count() == {"consumed": 20, "parked": 10, "counted": 10}
    assert {each: (at[1], at[2], at[3] >= 3) for each, at in place.held().items()} == {
        f"id-{n}": (5, n % 3, True) for n in range(10)
    }
    assert retry(place.log, place.config, ALL) == 0


def test_parked_again(place: Place) -> None:
    """Retried too early it is parked at its new position, and goes back from there; the old one never again."""
    place.send("late", [0])
    place.count()
    for again in (1, 2):
        assert list(parked(place.log, place.config, ALL)) == [f"{INPUT}/0/{again - 1}"]
        assert retry(place.log, place.config, ALL) == 1
        assert retry(place.log, place.config, ALL) == 0
        place.count()
    place.create_tag("late")
    assert retry(place.log, place.config, ALL) == 1
    assert place.count() == {"consumed": 4, "parked": 3, "counted": 1}
    assert markers(place.log) == keys((0, 0), (0, 1), (0, 2))
    assert place.held() == {"id-0": [2, 5, 0, 3]}


@pytest.mark.parametrize("tag_is_there", [False, True])
def test_a_rewind_counts_nothing_twice(place: Place, tag_is_there: bool) -> None:
    """It reads old and new positions: one of the two is counted, and a retry after it does nothing."""
    place.send("late", range(6))
    place.count()
    if tag_is_there:
        place.create_tag("late")
    assert retry(place.log, place.config, ALL) == 6
    place.count()
    place.create_tag("late")
    rewind(place.row, place.log, place.store, place.config, who="me")
    assert place.count() == {"consumed": 12, "counted": 6, "duplicate": 6}
    assert len(place.held()) == 6
    retry(place.log, place.config, ALL)
    place.count()
    assert len(place.held()) == 6


def test_the_command(place: Place) -> None:
    """A dry run lists and changes nothing; without --yes it asks; then it says how many went back."""
    place.send("late", range(3))
    place.send("later", [7])
    place.count()
    dry = json.loads(place.run("retry", "--dry-run", "--json").stdout)
    assert (dry["dry_run"], dry["sent"], dry["reasons"]) == (True, 0, {"unknown-tag": 4})
    assert [each["offset"] for each in dry["records"]] == [0, 0, 0, 1]
    assert "unknown-tag: 3" in place.run("retry", "--dry-run", "--tag", "late").stdout
    assert place.log.topic(retried_topic(place.config)) is None
    with pytest.raises(Refused, match="not confirmed"):
        place.run("retry", given="n\n")
    assert came_back(place.log) == []
    assert place.run("retry", "--tag", "late", given="y\n").stdout.splitlines()[-1] == f"3 records went back to {INPUT}"
    assert json.loads(place.run("retry", "--yes", "--json").stdout) == {
        "dry_run": False,
        "sent": 1,
        "reasons": {"unknown-tag": 1},
        "left": [],
    }
    assert place.run("retry").stdout == f"0 records went back to {INPUT}\n"
    assert [each["offset"] for each in json.loads(place.run("list", "--tag", "later", "--json").stdout)] == [1]


@pytest.fixture
def narrow(tmp_path: Path) -> EmbeddedLog:
    """A file whose input topic takes 1,000 bytes a message; a retry adds 60 or so."""
    log = EmbeddedLog(tmp_path / "narrow.db")
    log.create_topic(INPUT, PARTITIONS, {"max.message.bytes": "1000"})
    log.create_topic(QUARANTINE, 3, {})
    return log


def test_a_record_that_the_topic_does_not_take_is_left(narrow: EmbeddedLog) -> None:
    """Over the limit with the headers that are added: it stays parked, unmarked, with a reason, and the others go."""
    for offset in range(40):
        put_aside(narrow, offset % PARTITIONS, offset, value=b"x" * (920 if offset in (7, 20, 21) else 800))
    left: list[tuple[str, str]] = []
    sent = retry(narrow, CONFIG, ALL, left=lambda record, why: left.append((record.key, why)), records_max=16)
    stay, go = keys((3, 7), (0, 20), (1, 21)), keys(*((n % 4, n) for n in range(40) if n not in (7, 20, 21)))
    assert sent == 37
    assert sorted(key for key, _ in left) == stay == sorted(parked(narrow, CONFIG, ALL))
    assert all(f"topic {INPUT} takes 1000 (max.message.bytes)" in why for _, why in left)
    assert came_back(narrow) == markers(narrow) == go
    left.clear()
    assert retry(narrow, CONFIG, ALL, left=lambda record, why: left.append((record.key, why))) == 0
    assert sorted(key for key, _ in left) == stay
    assert came_back(narrow) == markers(narrow) == go


def test_a_lease_that_lapses_between_two_transactions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is taken again at once: nobody else has it."""
    monkeypatch.setattr("projector.retry.BEAT_S", 60.0)
    log = EmbeddedLog(tmp_path / "slow.db", lease_ms=300)
    log.create_topic(INPUT, PARTITIONS, {})
    log.create_topic(QUARANTINE, 3, {})
    for offset in range(9):
        put_aside(log, 0, offset)
    assert retry(log, CONFIG, ALL, lambda sent: time.sleep(0.4 * bool(sent)), records_max=3) == 9
    assert came_back(log) == markers(log) == keys(*((0, n) for n in range(9)))


def test_one_that_is_left_is_told_once(log: MemoryLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though commits after it are of unknown outcome, and all is begun again."""
    for offset in range(12):
        put_aside(log, 0, offset, value=b"x" * (2_000 if offset == 5 else 10))
    commit = MemoryMember.commit
    doubts = iter(range(5))

    def limited(member: MemoryMember, messages: Sequence[Message], offsets: Mapping[int, Offset]) -> None:
        if any(len(each.value or b"") > 1_000 for each in messages):
            raise Refused("a message of 2000 bytes")
        commit(member, messages, offsets)
        if next(doubts, None) is not None:
            raise Fenced("outcome unknown")

    monkeypatch.setattr(MemoryMember, "commit", limited)
    left: list[str] = []
    assert retry(log, CONFIG, ALL, left=lambda record, _: left.append(record.key), records_max=4) == 11
    assert left == keys((0, 5)) == list(parked(log, CONFIG, ALL))
    assert came_back(log) == markers(log) == keys(*((0, n) for n in range(12) if n != 5))


def test_the_command_names_what_stays(place: Place) -> None:
    """In the report and in JSON, with the reason; exit 3, as something was refused."""
    place.send("late", range(3))
    place.count()
    large = b"x" * 1_048_560
    put_aside(place.log, 1, 99, value=large)
    told = json.loads(place.run("retry", "--yes", "--json", code=3).stdout)
    assert (told["sent"], told["reasons"]) == (3, {"unknown-tag": 4})
    (stays,) = told["left"]
    assert (stays["key"], stays["value_bytes"], stays["reason"]) == (f"{INPUT}/1/99", len(large), "unknown-tag")
    assert "max.message.bytes" in stays["why"]
    lines = place.run("retry", "--yes", code=3).stdout.splitlines()
    assert lines[0] == f"{INPUT}/1/99, 1,048,560 bytes, stays parked: {stays['why']}"
    assert lines[1:] == [f"0 records went back to {INPUT}, 1 stay parked"]


@pytest.mark.parametrize("arguments", [("retry", "--yes"), ("retry", "--dry-run")])
def test_another_topic_of_the_same_name_is_refused(place: Place, arguments: tuple[str, ...]) -> None:
    """Made anew, its offsets are others: positions in quarantine and markers would say nothing about it."""
    place.send("late", range(3))
    place.count()
    place.store.write([Write(POINTER, [Put("topic-id", "of another")], Presence.PRESENT)])
    with pytest.raises(OffsetsGone, match=f"topic {INPUT} is not the one that was counted"):
        place.run(*arguments)
    assert came_back(place.log) == []
    assert place.log.topic(retried_topic(place.config)) is None


def test_what_does_not_go_together(place: Place) -> None:
    """Exit 2: a verdict with retry, a key with retry, a dry run without."""
    for arguments in (["retry", "--verdict", "rejected"], ["retry", "edge-to-core/0/1"], ["list", "--dry-run"]):
        place.run(*arguments, code=2)


def test_another_worker_in_the_group(place: Place) -> None:
    """One that runs, or was killed a moment ago, is named; once its lease is over the retry goes on."""
    place.send("late", range(3))
    place.count()
    place.log.join(retry_group(place.config), QUARANTINE, SLOT, None)  # type: ignore[arg-type]  # not polled
    with pytest.raises(Refused, match="projector-retry-retry"):
        retry(place.log, place.config, ALL)
    assert by_reason(parked(place.log, place.config, ALL)) == {"unknown-tag": 3}
    while place.log.members(retry_group(place.config)):
        pass
    assert retry(place.log, place.config, ALL) == 3


def test_offsets_of_the_group_say_how_far_it_has_read(place: Place) -> None:
    """They ride along with each transaction."""
    place.send("late", range(3))
    place.count()
    retry(place.log, place.config, ALL)
    ends = {partition: Offset(end, "") for partition, end in place.log.ends(QUARANTINE).items()}
    assert place.log.checkpoint(retry_group(place.config), QUARANTINE) == ends
