"""A statement is what was counted in its period, and nothing is stated that is not known."""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import duckdb
import pytest

from projector.backends.embedded_log import EmbeddedLog
from projector.errors import LedgerDamaged, Misconfigured, OffsetsGone, Refused
from projector.event import KPIS
from projector.log import Offset
from projector.pointer import POINTER, PointerRow
from projector.rewind import rewind
from projector.statement.creation import create
from projector.statement.period import Period
from projector.statement.verification import verify
from projector.store import Add, AddEntry, Delete, Operation, Put, Read, RowKey, Write
from tests.statements import BEGIN, CAMPAIGNS, END, KEY, NOW_MS, PERIOD, PUBLIC, Place, Sent, a_month, number


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


def truth(events: list[Sent], period: Period = PERIOD) -> Counter[tuple[int, str]]:
    """By hand: each id once a campaign, as it was sent first."""
    first: dict[tuple[int, str], Sent] = {}
    for event in events:
        first.setdefault((event.campaign, event.id.lower()), event)
    counted = [event for event in first.values() if period.begin <= event.second < period.end]
    return Counter((event.campaign, event.kind + "s") for event in counted)


def counts(directory: Path) -> dict[tuple[int, str], int]:
    """What `counts.csv` says."""
    with (directory / "counts.csv").open(encoding="utf-8", newline="") as file:
        return {(int(row["campaign"]), row["kpi"]): int(row["count"]) for row in csv.DictReader(file)}


def ids(directory: Path) -> list[tuple[int, str, str, int, int, int]]:
    """What `ids.parquet` holds, in its order."""
    return duckdb.read_parquet(str(directory / "ids.parquet")).fetchall()


def refused(place: Place, directory: Path, period: Period = PERIOD) -> str:
    """Why there is no statement; nothing is left behind."""
    before = set(directory.parent.iterdir())
    with pytest.raises((Refused, LedgerDamaged, OffsetsGone, Misconfigured)) as raised:
        place.state(directory, period)
    assert set(directory.parent.iterdir()) == before
    return f"{type(raised.value).__name__}: {raised.value}"


def test_the_counts_are_the_truth(place: Place, tmp_path: Path) -> None:
    """Per campaign and KPI, zeros included; a duplicate once, an id of two campaigns in both; borders to the second."""
    events = list(a_month())
    place.send(*events)
    place.count()
    manifest = place.state(tmp_path / "january")
    expected = truth(events)
    assert expected.total() == 42
    cells = {(campaign, kpi): expected[campaign, kpi] for campaign in (1, 2, 4) for kpi in KPIS}
    assert counts(tmp_path / "january") == cells
    assert list(counts(tmp_path / "january")) == list(cells)
    assert manifest.totals == {kpi: sum(expected[campaign, kpi] for campaign in CAMPAIGNS) for kpi in KPIS}
    assert (manifest.leaves, manifest.campaigns) == (42, 3)
    held = ids(tmp_path / "january")
    assert Counter((campaign, kpi) for campaign, kpi, *_ in held) == expected
    assert [(row[0], row[2].encode()) for row in held] == sorted((row[0], row[2].encode()) for row in held)
    sent = {(event.campaign, event.id.lower(), event.second, event.partition) for event in events}
    assert {(campaign, id, second, partition) for campaign, _, id, second, partition, _ in held} <= sent
    assert verify(tmp_path / "january", PUBLIC).failures == []
    with (tmp_path / "january" / "counts.csv").open(encoding="utf-8", newline="") as file:
        names = {int(row["campaign"]): row["name"] for row in csv.DictReader(file)}
    assert names == {campaign: CAMPAIGNS[campaign] for campaign in (1, 2, 4)}


def test_the_manifest_says_what_it_rests_on(place: Place, tmp_path: Path) -> None:
    """Topic, checkpoint, generation, epoch, period, version; readable as plain JSON."""
    place.send(*a_month())
    place.count()
    place.state(tmp_path / "january")
    said = json.loads((tmp_path / "january" / "manifest.json").read_bytes())
    topic = place.log.topic("edge-to-core")
    assert topic is not None
    assert (said["topic"], said["topic_id"]) == ("edge-to-core", topic.id)
    assert said["checkpoint"] == {str(p): end for p, end in place.log.ends("edge-to-core").items()}
    assert (said["generation"], said["epoch"]) == (1, 1)
    assert (said["period_from"], said["period_to"]) == ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z")
    assert said["created"] == "2026-02-01T01:00:00Z"
    assert said["program"].startswith("projector 0.")
    assert said["public_key"] == PUBLIC.hex()


def test_the_same_checkpoint_gives_the_same_statement(place: Place, tmp_path: Path) -> None:
    """The same root and, to the byte, the same counts; one more event and the root is another."""
    place.send(*a_month())
    place.count()
    one, other = place.state(tmp_path / "one"), place.state(tmp_path / "other")
    assert one.root == other.root
    assert (tmp_path / "one" / "counts.csv").read_bytes() == (tmp_path / "other" / "counts.csv").read_bytes()
    place.send(Sent(number(500), 1))
    place.count()
    assert place.state(tmp_path / "third").root != one.root


@pytest.mark.parametrize(("begin", "end"), [(0, 1), (1, 2), (0, 2), (0, 3), (2, 3)])
def test_borders_to_the_second(place: Place, tmp_path: Path, begin: int, end: int) -> None:
    """The first second is in, the last one is not; two periods that meet share nothing and miss nothing."""
    events = [Sent(number(n), 1, "click", BEGIN + n // 4) for n in range(12)]
    place.send(*events)
    place.count()
    period = Period(BEGIN + begin, BEGIN + end)
    manifest = place.state(tmp_path / "part", period)
    assert manifest.totals["clicks"] == 4 * (end - begin)
    assert {row[3] - BEGIN for row in ids(tmp_path / "part")} == set(range(begin, end))
    assert verify(tmp_path / "part", PUBLIC).failures == []


def test_an_empty_period(place: Place, tmp_path: Path) -> None:
    """Every campaign with a ledger, all zeros; also where there is no campaign at all."""
    assert place.state(tmp_path / "nothing").leaves == 0
    assert counts(tmp_path / "nothing") == {}
    assert verify(tmp_path / "nothing", PUBLIC).failures == []
    place.send(Sent(number(1), 1, second=BEGIN - 1))
    place.count()
    manifest = place.state(tmp_path / "empty")
    assert counts(tmp_path / "empty") == {(1, kpi): 0 for kpi in KPIS}
    assert manifest.root == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert verify(tmp_path / "empty", PUBLIC).failures == []


def test_what_came_before_us_is_not_stated(place: Place, tmp_path: Path) -> None:
    """An opening has no ids."""
    place.send(Sent(number(1), 1))
    place.count()
    opened: list[Operation] = [Put("opening", {"impressions": 5}), AddEntry("stats", "impressions", 5)]
    place.store.write([Write(RowKey("campaigns", 1), opened)])
    assert place.state(tmp_path / "january").totals["impressions"] == 1


# --- what is refused


def test_a_period_that_is_not_over(place: Place, tmp_path: Path) -> None:
    """By the clock."""
    said = refused(place, tmp_path / "s", Period(BEGIN, NOW_MS // 1000 + 1))
    assert said == "Refused: the period is not over: it ends at 2026-02-01T01:00:01Z, now it is 2026-02-01T01:00:00Z"


def test_a_period_that_was_not_read_to_its_end(place: Place, tmp_path: Path) -> None:
    """A record of it is past the checkpoint: its partition is named; one after the period does not matter."""
    place.send(*a_month())
    place.count()
    place.send(Sent(number(600), 1, second=END, partition=1))
    assert place.state(tmp_path / "read").leaves == 42
    assert "partition 1: records of the period are not counted yet" in refused(
        place, tmp_path / "s", Period(BEGIN, END + 1)
    )


def test_offsets_without_records_hold_nothing_up(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at the end of a topic that a transaction wrote to: nothing is there to be read."""
    place.send(*a_month())
    place.count()
    found = EmbeddedLog.offsets_at(place.log, "edge-to-core", END * 1000)
    assert found[0] < place.log.ends("edge-to-core")[0]
    ends = {partition: end + 1 for partition, end in place.log.ends("edge-to-core").items()}
    monkeypatch.setattr(place.log, "offsets_at", lambda *_: ends)
    assert place.state(tmp_path / "january").leaves == 42


def test_ids_past_the_checkpoint_are_not_in(place: Place, tmp_path: Path) -> None:
    """They are in the ledger, and may yet get another verdict: not before they are committed.

    With a record of the period among them, wherever it stands in the topic, there is no statement.
    """
    place.send(*[Sent(number(n), 1, "click", BEGIN + n) for n in range(9)])
    place.count()
    committed = place.log.checkpoint("projector", "edge-to-core")[0]
    totals = json.loads(committed.metadata) | {"consumed": 6, "counted": 6}
    part = {0: Offset(6, json.dumps(totals, separators=(",", ":")))}
    place.log.set_checkpoint("projector", "edge-to-core", part)
    assert place.state(tmp_path / "part", Period(BEGIN, BEGIN + 5)).leaves == 5
    assert place.state(tmp_path / "six", Period(BEGIN, BEGIN + 6)).leaves == 6
    assert "records of the period are not counted yet" in refused(place, tmp_path / "s", Period(BEGIN, BEGIN + 7))
    place.send(Sent(number(9), 1, "click", BEGIN))
    assert "one at offset 9" in refused(place, tmp_path / "t", Period(BEGIN, BEGIN + 5))


def test_beside_a_live_projector(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is counted while the ledger is read is past the checkpoint: the statement is that of its beginning."""
    place.send(*a_month())
    place.count()
    before = place.state(tmp_path / "before")
    monkeypatch.setattr("projector.archive.ROWS_PER_CALL", 1)
    more = iter([Sent(number(n), (1, 2, 3, 4)[n % 4], "click", BEGIN + n, n % 2) for n in range(800, 840)])

    def happens(_: int) -> None:
        place.send(*islice(more, 5))
        place.count()

    args = (place.log, place.store, place.config, PERIOD, KEY)
    manifest = create(*args, tmp_path / "s", happens, lambda: NOW_MS)
    assert (manifest.root, manifest.checkpoint) == (before.root, before.checkpoint)
    assert place.state(tmp_path / "after").leaves > before.leaves


def test_what_was_carried_is_in(place: Place, tmp_path: Path) -> None:
    """By a rebuild or a repair: committed as `carried`, in the ledger at its position."""
    place.send(*a_month())
    place.count()
    before = place.state(tmp_path / "before")
    committed = place.log.checkpoint("projector", "edge-to-core")[0]
    totals = json.loads(committed.metadata)
    totals |= {"carried": 1, "counted": totals["counted"] - 1}
    metadata = json.dumps(totals, separators=(",", ":"))
    place.log.set_checkpoint("projector", "edge-to-core", {0: Offset(committed.offset, metadata)})
    assert place.state(tmp_path / "after").root == before.root


def test_totals_that_nobody_knows(place: Place, tmp_path: Path) -> None:
    """Another tool moved an offset: nothing would show a loss."""
    place.send(*a_month())
    place.count()
    end = place.log.ends("edge-to-core")[0]
    place.log.set_checkpoint("projector", "edge-to-core", {0: Offset(end, "")})
    said = refused(place, tmp_path / "s")
    assert said.startswith("Refused: partition 0: how many were counted")
    assert "projector rewind" in said


def test_another_topic(place: Place, tmp_path: Path) -> None:
    """Than the one that was counted."""
    place.store.write([Write(POINTER, [Put("topic-id", "another")])])
    assert refused(place, tmp_path / "s").startswith("OffsetsGone: ")


def test_a_rewind_meanwhile(place: Place, tmp_path: Path) -> None:
    """No statement of what is being counted again."""
    place.send(*a_month())
    place.count()

    def happens(_: int) -> None:
        place.store.write([Write(POINTER, [Add("epoch", 1)])])

    with pytest.raises(Refused, match="make the statement again"):
        create(place.log, place.store, place.config, PERIOD, KEY, tmp_path / "s", happens, lambda: NOW_MS)
    assert not (tmp_path / "s").exists()


def test_rewound_and_counted_again(place: Place, tmp_path: Path) -> None:
    """The same statement but for the epoch."""
    place.send(*a_month())
    place.count()
    one = place.state(tmp_path / "one")
    rewind(PointerRow(place.store, 0), place.log, place.store, place.config, who="me")
    assert "records of the period are not counted yet" in refused(place, tmp_path / "s")
    place.count()
    other = place.state(tmp_path / "other")
    assert (other.root, other.epoch) == (one.root, one.epoch + 1)


def test_a_directory_that_is_not_empty(place: Place, tmp_path: Path) -> None:
    """Is left alone; an empty one is used, a missing parent is named."""
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine").write_text("mine")
    assert refused(place, tmp_path / "used").startswith("Refused: ")
    assert (tmp_path / "used" / "mine").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    assert refused(place, tmp_path / "file").startswith("Refused: ")
    (tmp_path / "empty").mkdir()
    place.state(tmp_path / "empty")
    assert verify(tmp_path / "empty", PUBLIC).failures == []
    with pytest.raises(Misconfigured, match="there is no directory"):
        place.state(tmp_path / "no" / "where")


# --- a ledger that is not what it must be


def _page(place: Place) -> RowKey:
    (row,) = place.store.read([Read(RowKey("campaigns", 1), ("seal", "prev", "sealed"))])
    assert row is not None
    seal = row.bins["prev"] if row.bins["sealed"] else row.bins["seal"]
    assert seal
    return RowKey("campaigns-seen", f"1/{seal:016x}")


def _drop_page(place: Place) -> None:
    place.store.write([Write(_page(place), [Delete()])])


def _alter_page(place: Place) -> None:
    (page,) = place.store.read([Read(_page(place), ("ids",))])
    assert page is not None
    held = {event_id: [sighting[0], BEGIN, *sighting[2:]] for event_id, sighting in page.bins["ids"].items()}
    held[next(iter(held))] = [0, BEGIN, 0, 0]
    place.store.write([Write(_page(place), [Put("ids", held)])])


def _change_counter(place: Place) -> None:
    place.store.write([Write(RowKey("campaigns", 2), [AddEntry("stats", "clicks", 1)])])


def _remove_id(place: Place) -> None:
    """And its count: the ledger foots, but fewer were committed."""
    for campaign, name in ((campaign, name) for campaign in (1, 2, 4) for name in ("seen", "sealed")):
        (row,) = place.store.read([Read(RowKey("campaigns", campaign), (name,))])
        assert row is not None
        for event_id, (code, *_) in row.bins[name].items():
            rest = {each: sighting for each, sighting in row.bins[name].items() if each != event_id}
            changes: list[Operation] = [Put(name, rest), AddEntry("stats", KPIS[code], -1)]
            place.store.write([Write(RowKey("campaigns", campaign), changes)])
            return
    raise AssertionError("no row holds an id")


def _foreign_id(place: Place) -> None:
    """And its count."""
    (row,) = place.store.read([Read(RowKey("campaigns", 1), ("seen",))])
    assert row is not None
    seen = row.bins["seen"] | {"never sent": [0, BEGIN, 0, 1]}
    place.store.write([Write(RowKey("campaigns", 1), [Put("seen", seen), AddEntry("stats", KPIS[0], 1)])])


def _twice(place: Place) -> None:
    """In a page and in `seen`, and its count."""
    (page,) = place.store.read([Read(_page(place), ("ids",))])
    (row,) = place.store.read([Read(RowKey("campaigns", 1), ("seen",))])
    assert page is not None
    assert row is not None
    event_id, sighting = next(iter(page.bins["ids"].items()))
    seen = row.bins["seen"] | {event_id: sighting}
    changes: list[Operation] = [Put("seen", seen), AddEntry("stats", KPIS[sighting[0]], 1)]
    place.store.write([Write(RowKey("campaigns", 1), changes)])


def _no_sighting(place: Place) -> None:
    place.store.write([Write(RowKey("campaigns", 1), [Put("seen", {"x": [0, BEGIN]})])])


def _no_kpi(place: Place) -> None:
    place.store.write([Write(RowKey("campaigns", 1), [Put("seen", {"x": [4, BEGIN, 0, 0]})])])


def _no_id(place: Place) -> None:
    place.store.write([Write(RowKey("campaigns", 1), [Put("seen", {b"short": [0, BEGIN, 0, 0]})])])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_drop_page, "campaign 1: page "),
        (_alter_page, "campaign 1: "),
        (_change_counter, "campaign 2: clicks is "),
        (_remove_id, "43 ids, but 44 were committed"),
        (_foreign_id, "45 ids, but 44 were committed"),
        (_twice, "stands in seen and page "),
        (_no_sighting, "without a KPI, second and position"),
        (_no_kpi, "cannot be"),
        (_no_id, "no event id"),
    ],
)
def test_a_damaged_ledger_stops_it(place: Place, tmp_path: Path, damage: object, named: str) -> None:
    """Whatever is wrong, in or out of the period: no statement, and `projector audit` is named."""
    place.send(*a_month())
    place.count()
    place.state(tmp_path / "before")
    assert callable(damage)
    damage(place)
    said = refused(place, tmp_path / "s")
    assert said.startswith("LedgerDamaged: ")
    assert named in said
    assert "projector audit" in said


# --- the period as an operator writes it


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("2026-01-01", "2026-02-01"),
        ("2026-01-01T00:00:00Z", "2026-02-01T01:00:00+01:00"),
        (str(BEGIN * 1000), str(END * 1000)),
    ],
)
def test_periods(begin: str, end: str) -> None:
    """UTC where no zone is named."""
    assert Period.parsed(begin, end) == PERIOD
    assert PERIOD.texts() == ("2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z")


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        ("2026-01-01", "2026-01-01"),
        ("2026-02-01", "2026-01-01"),
        ("2026-01-01", "soon"),
        ("2026-01-01T00:00:00.5", "2026-02-01"),
        ("2026-01-01", str(END * 1000 + 1)),
        ("1969-12-31", "2026-01-01"),
        ("2026-01-01", "9" * 30),
    ],
)
def test_what_is_no_period(begin: str, end: str) -> None:
    """Said before anything is read."""
    with pytest.raises(Misconfigured):
        Period.parsed(begin, end)
