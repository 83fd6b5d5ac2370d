"""`projector migrate`, on the embedded pair."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from projector.adoption import NOT_ADOPTED, adopt, adoptable, adoption
from projector.backends.embedded_log import EmbeddedLog
from projector.backends.embedded_store import EmbeddedStore
from projector.cli.app import app
from projector.config import Config
from projector.errors import Misconfigured, Refused
from projector.migrate import State, migrate, migrations, standings
from projector.pointer import POINTER, read_pointer
from projector.store import Answer, Delete, Outcome, Presence, Put, Read, RowKey, Store, StoreState, Write

MAIN = [sys.executable, "-c", "from projector.cli.app import main; main()"]
STATS = {"visits": 3, "impressions": 25, "clicks": 5, "conversions": 1}


class Place:
    """A directory with an embedded log and store."""

    def __init__(self, path: Path) -> None:
        self.config = Config(file=path / "projector.db")
        self.log = EmbeddedLog(self.config.file)
        self.store = EmbeddedStore(self.config.file)

    def projector(self, *arguments: str) -> Any:
        return CliRunner().invoke(app, [*arguments, "--set", f"file={self.config.file}"])

    def migrated(self) -> list[str]:
        return [migration.number for migration in migrate(self.log, self.store, self.config)]

    def put(self, campaign: int, **bins: Any) -> None:
        operations = [Put("c-id", campaign), *(Put(name, value) for name, value in bins.items())]
        self.store.write([Write(RowKey("campaigns", campaign), operations, Presence.EITHER)])

    def row(self, campaign: int) -> dict[str, Any]:
        bins = ("stats", "opening", "seal", "prev", "pages", "rev", "seen", "sealed")
        (row,) = self.store.read([Read(RowKey("campaigns", campaign), bins)])
        assert row is not None
        return dict(row.bins)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_migrations_are_numbered_without_gaps() -> None:
    """The files are 0001, 0002, ... and each says in one line what it makes."""
    known = migrations()
    assert [migration.number for migration in known] == [f"{number:04}" for number in range(1, len(known) + 1)]
    assert all(migration.title for migration in known)


def test_each_is_applied_once_in_order(place: Place) -> None:
    """All are applied in order; a second run applies none and changes nothing."""
    assert {standing.state for standing in standings(place.log, place.store, place.config)} == {State.PENDING}
    assert place.migrated() == [migration.number for migration in migrations()]
    pointer, topic = read_pointer(place.store, 0), place.log.topic("edge-to-core")
    applied = [standing.applied_ms for standing in standings(place.log, place.store, place.config)]
    assert place.migrated() == []
    assert [standing.applied_ms for standing in standings(place.log, place.store, place.config)] == applied
    assert read_pointer(place.store, 0) == pointer
    assert place.log.topic("edge-to-core") == topic
    assert topic is not None
    assert pointer is not None
    assert (pointer.topic_id, topic.partitions) == (topic.id, 12)
    assert place.store.has_index("campaigns", "c-date")


def test_what_is_gone_is_made_again(place: Place) -> None:
    """A recorded migration whose topic is not there (another broker) is applied again, and --status says so."""
    place.migrated()
    place.log.delete_topic("subscription-events")
    assert json.loads(place.projector("migrate", "--status", "--json").stdout)["migrations"][0]["state"] == "gone"
    assert place.migrated() == ["0001"]
    assert place.log.topic("subscription-events") is not None


def test_a_pointer_that_is_gone_is_not_made_again(place: Place) -> None:
    """Creating it anew would start at epoch 1 again, below what was published: refused."""
    place.migrated()
    place.store.write([Write(POINTER, [Delete()])])
    with pytest.raises(Refused, match="pointer row"):
        place.migrated()
    assert read_pointer(place.store, 0) is None


def test_two_at_once(place: Place) -> None:
    """Several processes that migrate at once all succeed and leave one pointer, the one topic id, each record once."""
    command = [*MAIN, "migrate", "--json", "--set", f"file={place.config.file}"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ended = [(process.communicate(timeout=120), process.returncode) for process in running]
    assert [code for _, code in ended] == [0, 0, 0], ended
    reports = [json.loads(stdout)["migrations"] for (stdout, _), _ in ended]
    assert reports[0] == reports[1] == reports[2]
    pointer, topic = read_pointer(place.store, 0), place.log.topic("edge-to-core")
    assert pointer is not None
    assert topic is not None
    assert pointer.topic_id == topic.id


class ForgettingStore:
    """The store, which restarts while the first migration settles and has then forgotten the pointer row."""

    def __init__(self, store: EmbeddedStore) -> None:
        self._store = store
        self.restarts = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def state(self) -> StoreState:
        if not self.restarts and read_pointer(self._store, 0) is not None:
            self.restarts += 1
            self._store.write([Write(POINTER, [Delete()])])
        return StoreState(f"incarnation {self.restarts}", drained=True)


def test_a_record_never_outlives_what_it_records(place: Place) -> None:
    """The store forgets the pointer row before it settled: the migration is applied again before it is recorded."""
    store = ForgettingStore(place.store)
    applied = [migration.number for migration in migrate(place.log, store, place.config)]
    assert store.restarts == 1
    assert applied == ["0001", "0002", "0003"]
    assert read_pointer(place.store, 0) is not None


def test_dry_run_and_status_change_nothing(place: Place) -> None:
    """--dry-run says what would be done, --status what was; neither does it."""
    place.put(7, stats=STATS)
    dry_run = place.projector("migrate", "--dry-run", "--adopt")
    assert dry_run.exit_code == 0
    assert "would apply 0001 topics" in dry_run.stdout
    assert "would adopt campaign 7: visits 3, impressions 25, clicks 5, conversions 1" in dry_run.stdout
    status = place.projector("migrate", "--status")
    assert status.exit_code == 0
    assert status.stdout.count("pending") == 3
    assert place.log.topic("edge-to-core") is None
    assert "seal" not in place.row(7)


def test_a_wrong_topic_is_refused_and_left_alone(place: Place) -> None:
    """A KPI topic that is not compacted: one line, exit 3, nothing else is created, the topic is as it was."""
    place.log.create_topic("subscription-events", 4, {"cleanup.policy": "delete"})
    before = place.log.topic("subscription-events")
    refused = place.projector("migrate")
    assert refused.exit_code == 3
    assert "error: topic subscription-events: cleanup.policy is delete, not compact" in refused.stderr
    assert place.log.topic("edge-to-core") is None
    assert place.log.topic("subscription-events") == before
    assert place.projector("migrate", "--status").exit_code == 0


def test_a_risky_topic_is_a_warning(place: Place) -> None:
    """An input topic with short retention is named and used."""
    place.log.create_topic("edge-to-core", 4, {"retention.ms": "86400000"})
    warned = place.projector("migrate")
    assert warned.exit_code == 0
    assert "warning: topic edge-to-core: retention.ms is 86400000" in warned.stderr


def test_adopt_records_the_opening(place: Place) -> None:
    """Rows that count without a ledger get one with their counts as opening; others are not touched; once only."""
    place.migrated()
    place.put(6, stats={"impressions": 4, "hacks": 9})
    place.put(7, stats=STATS)
    place.put(8, stats=dict.fromkeys(STATS, 0))
    place.put(9)
    first = json.loads(place.projector("migrate", "--adopt", "--json").stdout)["adopted"]
    opening_6 = {"visits": 0, "impressions": 4, "clicks": 0, "conversions": 0}
    assert first == [{"campaign": 6, "opening": opening_6}, {"campaign": 7, "opening": STATS}]
    ledger = {"seal": 0, "prev": 0, "pages": 0, "rev": 0, "seen": {}, "sealed": {}}
    assert place.row(7) == {**ledger, "stats": STATS, "opening": STATS}
    assert place.row(6) == {**ledger, "stats": {**opening_6, "hacks": 9}, "opening": opening_6}
    assert "seal" not in place.row(8)
    assert "seal" not in place.row(9)
    assert json.loads(place.projector("migrate", "--adopt", "--json").stdout)["adopted"] == []


def test_adopt_leaves_a_row_with_a_ledger_alone(place: Place) -> None:
    """A row that we count in has more stats than opening, and is no case for adoption."""
    place.put(7, stats=STATS, seal=0, prev=0, pages=0, rev=4)
    assert adoptable(place.store, "campaigns") == []
    assert list(adopt(place.store, "campaigns")) == []
    assert "opening" not in place.row(7)


def test_adoption_without_opening_makes_all_totals(place: Place) -> None:
    """The operations of a first touch give a row without stats four zeros, and never write over a count."""
    place.put(9)
    place.put(7, stats=STATS)
    writes = [Write(RowKey("campaigns", number), adoption(None), conditions=NOT_ADOPTED) for number in (9, 7)]
    answers = place.store.write(writes)
    assert [answer.outcome for answer in answers] == [Outcome.APPLIED] * 2
    assert answers[0].bins["stats"] == dict.fromkeys(STATS, 0)
    assert answers[1].bins["stats"] == STATS
    assert "opening" not in place.row(9)
    assert [answer.outcome for answer in place.store.write(writes)] == [Outcome.REFUSED] * 2


class BusyStore:
    """The store, in which another program counts a click of campaign 7 before each of our first `times` writes."""

    def __init__(self, place: Place, times: int, then: dict[str, Any]) -> None:
        self._place = place
        self._times = times
        self._then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._place.store, name)

    def write(self, writes: list[Write]) -> list[Answer]:
        if self._times > 0:
            self._times -= 1
            stats = self._place.row(7)["stats"]
            self._place.put(7, stats={**stats, "clicks": stats["clicks"] + 1})
        answers = self._place.store.write(writes)
        if self._then:
            self._place.put(7, **self._then)
        return answers


def busy(place: Place, times: int, then: dict[str, Any]) -> Store:
    return BusyStore(place, times, then)  # type: ignore[return-value]  # delegates what it does not have


def test_adopt_beside_another_writer(place: Place) -> None:
    """A count that changed between read and write is in the opening in the end; it is refused if that never ends."""
    place.put(7, stats=STATS)
    (adopted,) = adopt(busy(place, 2, {}), "campaigns")
    assert adopted.opening == {**STATS, "clicks": STATS["clicks"] + 2}
    assert place.row(7)["opening"] == place.row(7)["stats"] == adopted.opening
    place.put(7, stats={**STATS, "clicks": 1_000})
    with pytest.raises(Refused, match="campaign 7: its counts change"):
        list(adopt(busy(place, 100, {}), "campaigns"))


def test_adopt_does_not_touch_an_opening_that_was_counted_on(place: Place) -> None:
    """A worker counted between our write and its correction: the opening stays, and that is an error, not silence."""
    place.put(7, stats=STATS)
    with pytest.raises(Refused, match="campaign 7"):
        list(adopt(busy(place, 1, {"rev": 1}), "campaigns"))
    assert place.row(7)["opening"] == STATS


def test_counts_that_are_no_whole_numbers_are_refused(place: Place) -> None:
    """A fraction cannot be billed: the row is named."""
    place.put(7, stats={"clicks": 1.5})
    with pytest.raises(Refused, match=r"campaign 7: clicks is 1\.5"):
        list(adopt(place.store, "campaigns"))


def test_a_volatile_store_is_not_migrated(place: Place) -> None:
    """A store that may forget everything is refused before anything is recorded in it."""

    class Volatile:
        def __getattr__(self, name: str) -> Any:
            return getattr(place.store, name)

        def limits(self) -> Any:
            return place.store.limits()._replace(settle_ms=None)

    with pytest.raises(Misconfigured, match="allow_volatile_store"):
        list(migrate(place.log, Volatile(), place.config))


def test_a_correction_of_the_opening_checks_that_nothing_was_counted(place: Place) -> None:
    """A worker counts between the read and the write of a correction: the store refuses it, the opening stays."""

    class Racing:
        writes = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(place.store, name)

        def write(self, writes: list[Write]) -> list[Answer]:
            self.writes += 1
            place.put(7, stats={**STATS, "clicks": 100 + self.writes}, **({"rev": 1} if self.writes > 1 else {}))
            return place.store.write(writes)

    place.put(7, stats=STATS)
    with pytest.raises(Refused, match="campaign 7"):
        list(adopt(Racing(), "campaigns"))  # type: ignore[arg-type]  # delegates
    assert place.row(7)["opening"] == STATS
