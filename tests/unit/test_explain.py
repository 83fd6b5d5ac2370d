"""`projector explain`: of each id of a topic, and of ids never sent, it says what topic and rows say by hand.

The oracle reads the raw topic with the standard library and the rows and pages one by one.
"""

import json
import random
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from projector.backends.embedded_log import EmbeddedLog
from projector.backends.embedded_store import EmbeddedStore
from projector.cli.app import app
from projector.config import Config
from projector.errors import Misconfigured, Refused
from projector.generation import Generation
from projector.log import Message, Offset
from projector.migrate import migrate
from projector.projector import Projector
from projector.seed import seed
from projector.simulator import Shares, Simulation, Truth, simulate
from projector.store import Delete, Presence, Put, Read, RowKey, Write

CAMPAIGNS, TAGS, EVENTS = 5, 4, 1_500
KINDS = ("visit", "impression", "click", "conversion")
RNG = random.Random(20_260_101)


class Seen(NamedTuple):
    """What the topic holds at one position."""

    partition: int
    offset: int
    timestamp_ms: int
    tag: str
    kind: str


class Place:
    """A file with the simulator's mix, counted in small pages, and what the topic and the rows say by hand."""

    def __init__(self, path: Path, batch_records: int = 200) -> None:
        self.config = Config(file=path / "projector.db", page_ids=32, batch_records=batch_records, republish_ms=100)
        self.log, self.store = EmbeddedLog(self.config.file), EmbeddedStore(self.config.file)
        list(migrate(self.log, self.store, self.config))
        seed(self.store, CAMPAIGNS, TAGS, 1, lambda _: None)
        self.at = ["--set", f"file={self.config.file}"]
        numbers = [Read(RowKey("tags", n), ("t-id",)) for n in range(1, CAMPAIGNS * TAGS + 1)]
        tags = [row.bins["t-id"] for row in self.store.read(numbers) if row]
        rows = self.store.read([Read(RowKey("tags", tag), ("c-id",)) for tag in tags])
        self.campaign_of = {tag: row.bins["c-id"] for tag, row in zip(tags, rows, strict=True) if row}

    def append(self, *values: bytes | None) -> None:
        topic = self.config.input_topic
        self.log.append(
            [Message(topic, None, value, (), n % 12, 1_700_000_000_000 + n) for n, value in enumerate(values)]
        )

    def event(self, event_id: Any, tag: str | None = None, kind: str = "click") -> bytes:
        tag = tag or RNG.choice(sorted(self.campaign_of))
        bins = [{"name": "event-id", "type": "str", "value": event_id}]
        bins += [{"name": "event-data", "type": "map", "value": {"tag": tag, "event": kind}}]
        return json.dumps({"msg": "write", "key": ["test", "events", "AvYA", None], "bins": bins}).encode()

    def count(self) -> None:
        Projector(self.log, self.store, self.config, Generation(1, "projector"), 1, "a", 0).run(True, lambda: False)

    def run(self, *arguments: str, given: bytes | None = None) -> Any:
        return CliRunner().invoke(app, ["explain", *arguments, *self.at], input=given)

    def json(self, *arguments: str, code: int = 0, given: bytes | None = None) -> Any:
        result = self.run(*arguments, "--json", given=given)
        assert result.exit_code == code, (result, result.stderr)
        return json.loads(result.stdout)

    # --- by hand

    def topic(self) -> dict[str, list[Seen]]:
        """By canonical id every position of it, whatever is wrong with the record else."""
        found: dict[str, list[Seen]] = {}
        for records in self.log.read(self.config.input_topic):
            for record in records:
                try:
                    bins = {each["name"]: each["value"] for each in json.loads(record.value or b"")["bins"]}
                    event_id, data = bins["event-id"], bins["event-data"]
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue
                position = (record.partition, record.offset, record.timestamp_ms)
                found.setdefault(canonical(event_id), []).append(Seen(*position, data["tag"], data["event"]))
        return found

    def ledger(self) -> dict[str, list[dict[str, Any]]]:
        """By canonical id where the rows hold it."""
        held: dict[str, list[dict[str, Any]]] = {}
        for campaign in range(1, CAMPAIGNS + 1):
            for place, ids in self._places(campaign):
                for event_id, (code, second, partition, offset) in ids.items():
                    name = str(uuid.UUID(bytes=event_id)) if isinstance(event_id, bytes) else event_id
                    found = {"campaign": campaign, "kpi": KINDS[code] + "s", "second": second}
                    held.setdefault(name, []).append(
                        {**found, "partition": partition, "offset": offset, "place": place}
                    )
        return held

    def _places(self, campaign: int) -> Iterator[tuple[str, Any]]:
        (row,) = self.store.read([Read(RowKey("campaigns", campaign), ("seal", "prev", "seen", "sealed"))])
        assert row is not None
        yield "seen", row.bins.get("seen", {})
        yield "sealed", row.bins.get("sealed", {})
        seal = row.bins.get("prev", 0) if row.bins.get("sealed") else row.bins.get("seal", 0)
        while seal:
            (page,) = self.store.read([Read(RowKey("campaigns-seen", f"{campaign}/{seal:016x}"), ("ids", "before"))])
            assert page is not None
            yield f"{seal:016x}", page.bins["ids"]
            seal = page.bins["before"][0] if page.bins["before"] else 0

    def verdict(self, seen: Seen, counted: Sequence[dict[str, Any]]) -> tuple[str, str]:
        """What a record must have got, by the contract's table."""
        if seen.kind not in KINDS:
            return "parked", "unknown-kind"
        campaign = self.campaign_of.get(seen.tag)
        if campaign is None:
            return "parked", "unknown-tag"
        (held,) = [each for each in counted if each["campaign"] == campaign]
        if (held["partition"], held["offset"]) == seen[:2]:
            return "counted", ""
        return "duplicate", "" if held["kpi"] == f"{seen.kind}s" else "conflict"


def canonical(text: str) -> str:
    try:
        found = uuid.UUID(text)
    except ValueError:
        return text
    return str(found) if len(text) in (32, 36) else text


def spellings(text: str) -> list[str]:
    """Of one id."""
    plain = text.replace("-", "")
    return (
        [text, text.upper(), plain, plain.upper()] if canonical(text) != text.upper() and len(plain) == 32 else [text]
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The mix, with conflicts, other spellings, ids of two campaigns and ids that are no UUID. Tests only read it."""
    place = Place(tmp_path_factory.mktemp("explain"))
    shares = Shares(0.03, 0.02, 0.02, 0.02, 0.01, 0.03, 0.02, 0.02)
    mix = simulate(Simulation(EVENTS, 3, CAMPAIGNS, TAGS, shares=shares), place.config.input_topic, 12, Truth())
    place.log.append(list(mix))
    known = sorted(place.topic().items())
    RNG.shuffle(known)
    more = [place.event(event_id.upper(), seen[0].tag, "visit") for event_id, seen in known[:40]]
    more += [place.event(event_id.replace("-", ""), seen[0].tag, seen[0].kind) for event_id, seen in known[40:80]]
    more += [place.event(event_id, kind="click") for event_id, _ in known[80:120]]
    more += [place.event(f"id {n} \u00e9\u0301", kind="click") for n in range(40)]
    place.append(*more)
    place.count()
    return place


def check(place: Place, entry: dict[str, Any], topic: Any, ledger: Any, scanned: bool) -> None:
    """One id of the answer against the hand-made truth."""
    event_id = entry["id"]
    counted = sorted(ledger.get(event_id, []), key=str)
    assert sorted(entry["counted"], key=str) == counted, event_id
    seen = topic.get(event_id, [])
    verdicts = {each[:2]: place.verdict(each, counted) for each in seen}
    aside = {at: verdict for at, verdict in verdicts.items() if verdict[0] == "parked" or verdict[1] == "conflict"}
    told = {(each["partition"], each["offset"]): (each["verdict"], each["reason"]) for each in entry["quarantined"]}
    assert told == aside, event_id
    for each in counted:  # the topic holds there what was counted
        (at,) = [one for one in seen if one[:2] == (each["partition"], each["offset"])]
        assert (f"{at.kind}s", at.timestamp_ms // 1000) == (each["kpi"], each["second"])
    assert ("positions" in entry) == scanned
    if scanned:
        found = [(each["partition"], each["offset"]) for each in entry["positions"]]
        assert found == sorted(verdicts)
        assert {(e["partition"], e["offset"]): (e["verdict"], e["reason"]) for e in entry["positions"]} == verdicts


def test_the_mix_has_everything(place: Place) -> None:
    """Ids in `seen`, `sealed` and pages, duplicates, conflicts, parked ones and ids of two campaigns."""
    topic, ledger = place.topic(), place.ledger()
    where = {each["place"] for found in ledger.values() for each in found}
    assert {"seen"} < where
    assert len(where) > 3 * CAMPAIGNS
    assert max(map(len, ledger.values())) > 1
    verdicts = {place.verdict(seen, ledger.get(event_id, [])) for event_id, all in topic.items() for seen in all}
    assert verdicts == {
        ("counted", ""),
        ("duplicate", ""),
        ("duplicate", "conflict"),
        ("parked", "unknown-kind"),
        ("parked", "unknown-tag"),
    }


@pytest.mark.parametrize("scan", [False, True])
def test_a_hundred_ids_of_the_topic_and_a_hundred_never_sent(place: Place, tmp_path: Path, scan: bool) -> None:
    """--file: each in some spelling, in one pass; those of the topic as it says, of the others nothing is known."""
    topic, ledger = place.topic(), place.ledger()
    ids = [RNG.choice(spellings(each)) for each in RNG.sample(sorted(topic), 100)]
    never = [str(uuid.UUID(int=RNG.getrandbits(128), version=4)) for _ in range(100)]
    file = tmp_path / "ids"
    file.write_text("\n".join(ids + never) + "\n\n", "utf-8")
    found = place.json("--file", str(file), *(["--scan"] if scan else []), code=1)
    assert (found["generation"], found["bad"], found["damage"]) == (1, [], [])
    assert [each["id"] for each in found["ids"]] == [canonical(each) for each in ids + never]
    for entry in found["ids"]:
        check(place, entry, topic, ledger, scan)


def test_all_ids_of_the_topic(place: Place) -> None:
    """From standard input, more than are looked up one by one; --scan."""
    topic, ledger = place.topic(), place.ledger()
    assert len(topic) > 1_000
    found = place.json("--file", "-", "--scan", code=1, given="\r\n".join(topic).encode())
    for entry in found["ids"]:
        check(place, entry, topic, ledger, scanned=True)
    counted = place.json("--file", "-", given="\n".join(ledger).encode())
    assert [each["id"] for each in counted["ids"]] == list(ledger)


def test_single_ids(place: Place) -> None:
    """One at a time; exit 0 if it was counted, else 1; the same with --campaign and --tag of it."""
    topic, ledger = place.topic(), place.ledger()
    for event_id in RNG.sample(sorted(topic), 12):
        code = 0 if event_id in ledger else 1
        scan = RNG.choice(([], ["--scan"]))
        (entry,) = place.json(RNG.choice(spellings(event_id)), *scan, code=code)["ids"]
        check(place, entry, topic, ledger, bool(scan))
        held = ledger.get(event_id, [])
        tag = topic[event_id][0].tag
        if len(held) == 1 and place.campaign_of.get(tag) == held[0]["campaign"]:
            assert place.json(event_id, "--tag", tag, *scan)["ids"] == [entry]
            assert place.json(event_id, "--campaign", str(held[0]["campaign"]), *scan)["ids"] == [entry]


def test_another_campaign(place: Place) -> None:
    """Counted elsewhere is not counted there; the topic's positions get their verdicts all the same."""
    topic, ledger = place.topic(), place.ledger()
    event_id = next(each for each, found in ledger.items() if len(found) == 1 and len(topic[each]) == 2)
    other = str(ledger[event_id][0]["campaign"] % CAMPAIGNS + 1)
    (entry,) = place.json(event_id, "--campaign", other, code=1)["ids"]
    assert entry["counted"] == []
    (entry,) = place.json(event_id, "--campaign", other, "--scan")["ids"]
    check(place, entry, topic, ledger, scanned=True)


def test_what_it_prints(place: Place) -> None:
    """Campaign, KPI, position, time, place, generation; quarantine with its reason; the topic's positions."""
    topic, ledger = place.topic(), place.ledger()
    event_id = _conflicting(place, topic, ledger)
    held = ledger[event_id][0]
    said = place.run(event_id.upper(), "--scan").stdout
    assert said.startswith(f"{event_id}: counted\n")
    assert f"campaign {held['campaign']}, {held['kpi']}, at {held['partition']}/{held['offset']} of 20" in said
    assert "generation 1" in said
    assert "duplicate conflict" in said
    never = place.run("never sent")
    assert never.exit_code == 1
    assert never.stdout.splitlines()[0] == "never sent: not counted in generation 1"
    assert "it is not there" in place.run("never sent", "--scan").stdout
    assert "not counted in generation 1 for campaign 2" in place.run("never sent", "--campaign", "2").stdout


def _conflicting(place: Place, topic: dict[str, list[Seen]], ledger: dict[str, Any]) -> str:
    for event_id, held in ledger.items():
        verdicts = [place.verdict(seen, held) for seen in topic[event_id]]
        if len(held) == 1 and ("duplicate", "conflict") in verdicts:
            return event_id
    raise AssertionError("none")


@pytest.mark.parametrize("bad", ["", "  ", "x" * 129, "\u00e9" * 65, "a\0b", "\ud800"])
def test_no_event_id(place: Place, bad: str) -> None:
    """Refused with exit 2 before anything is opened."""
    failed = place.run(bad).exception
    assert isinstance(failed, Misconfigured)
    assert "is no event id" in str(failed)


def test_bad_lines_of_a_file(place: Place) -> None:
    """They are told with their numbers; the others are explained."""
    good = next(each for each in place.ledger() if canonical(each.upper()) == each)
    given = b"\n".join([good.encode(), b"", b"x" * 129, b"\xff", b" ", good.upper().encode()])
    found = place.json("--file", "-", code=1, given=given)
    assert [each["id"] for each in found["ids"]] == [good]
    assert [each["line"] for each in found["bad"]] == [3, 4, 5]
    assert "line 4" in place.run("--file", "-", given=given).stderr
    assert place.json("--file", "-", code=1, given=b"\xff")["ids"] == []


def test_what_cannot_be_asked(place: Place, tmp_path: Path) -> None:
    """No id and no file, both; campaign and tag; what is not there: each with its exit code and the way out."""
    assert place.run().exit_code == 2
    assert place.run("x", "--file", "y").exit_code == 2
    assert place.run("x", "--campaign", "1", "--tag", "t").exit_code == 2
    assert isinstance(place.run("--file", str(tmp_path / "none")).exception, Misconfigured)
    for arguments in (["--campaign", "77"], ["--tag", "none"], ["--tag", "a\0b"], ["--generation", "7"]):
        assert isinstance(place.run("x", *arguments).exception, Refused), arguments


# --- places of their own, which change


@pytest.fixture
def own(tmp_path: Path) -> Place:
    """A small one: 121 events of one tag; the last is in `seen`."""
    place = Place(tmp_path, batch_records=10)
    tag = min(place.campaign_of)
    for many in (range(120), range(120, 121)):
        place.append(*[place.event(f"id-{n}", tag) for n in many])
        place.count()
    return place


def positions(place: Place, event_id: str, *more: str, code: int = 0) -> list[tuple[str, str]]:
    (entry,) = place.json(event_id, "--scan", *more, code=code)["ids"]
    return [(each["verdict"], each["reason"]) for each in entry["positions"]]


def test_what_was_not_read_yet(own: Place) -> None:
    """Past the checkpoint; after a rewind what was counted still is, and its duplicates are unread again."""
    tag = min(own.campaign_of)
    own.append(own.event("new", tag), own.event("id-5", tag))
    assert positions(own, "new", code=1) == [("unread", "")]
    assert sorted(positions(own, "id-5")) == [("counted", ""), ("unread", "")]
    own.count()
    assert sorted(positions(own, "id-5")) == [("counted", ""), ("duplicate", "")]
    assert positions(own, "new") == [("counted", "")]
    own.append(own.event("parked", "no such tag"))
    own.count()
    assert positions(own, "parked", code=1) == [("parked", "unknown-tag")]
    own.log.set_checkpoint("projector", own.config.input_topic, {n: Offset(0, "") for n in range(12)})
    assert sorted(positions(own, "id-5")) == [("counted", ""), ("unread", "")]
    (entry,) = own.json("parked", "--scan", code=1)["ids"]
    assert entry["positions"][0]["verdict"] == "unread"
    assert "parked unknown-tag" in entry["positions"][0]["detail"]


def test_what_was_parked_and_counted_since(own: Place) -> None:
    """Both are told: counted at the new position, parked at the old one, with where it was counted since."""
    own.append(own.event("late", "a new tag"))
    own.count()
    own.store.write([Write(RowKey("tags", "a new tag"), [Put("t-id", "a new tag"), Put("c-id", 2)], Presence.ABSENT)])
    own.append(b"{}", own.event("late", "a new tag"))
    own.count()
    (entry,) = own.json("late", "--scan")["ids"]
    assert [(each["campaign"], each["partition"]) for each in entry["counted"]] == [(2, 1)]
    assert [(each["verdict"], each["reason"]) for each in entry["quarantined"]] == [("parked", "unknown-tag")]
    parked, counted = entry["positions"]
    assert (parked["verdict"], counted["verdict"]) == ("parked", "counted")
    assert f"counted as a click at 1/{counted['offset']}" in parked["detail"]


@pytest.mark.parametrize("reason", ["unknown-tag", "unknown-campaign", "campaign-not-adopted"])
def test_campaigns_that_may_not_count(own: Place, reason: str) -> None:
    """Parked, with that reason; the same where nobody told it to quarantine, as in a muted build."""
    other = own.campaign_of[min(own.campaign_of)] % CAMPAIGNS + 1
    campaign = 77 if reason == "unknown-campaign" else other
    if reason != "unknown-tag":
        own.store.write([Write(RowKey("tags", "odd"), [Put("t-id", "odd"), Put("c-id", campaign)], Presence.ABSENT)])
    own.store.write([Write(RowKey("campaigns", other), [Put("stats", {"clicks": 7})])])
    own.append(own.event("x", "odd"))
    own.count()
    assert positions(own, "x", code=1) == [("parked", reason)]
    own.log.create_topic("empty", 1, {})
    assert positions(own, "x", "--set", "quarantine_topic=empty", code=1) == [("parked", reason)]


def test_a_duplicate_is_judged_in_its_own_campaign(own: Place) -> None:
    """An id of two campaigns, as two kinds: the same kind again is a plain duplicate in each."""
    first, second = (min(t for t, c in own.campaign_of.items() if c == campaign) for campaign in (1, 2))
    for tag, kind in ((first, "click"), (second, "visit")):
        own.append(own.event("two", tag, kind))
        own.append(own.event("two", tag, kind))
    own.count()
    assert sorted(positions(own, "two")) == [("counted", "")] * 2 + [("duplicate", "")] * 2


def test_records_that_are_no_events(own: Place) -> None:
    """An id in a record that was rejected is found, in quarantine and in the topic, with the reason."""
    bad = [
        json.loads(own.event("rejected")) | {"key": ["test", "other", "x", None]},
        {"msg": "delete", "key": ["test", "events", "a digest", None]},
        {"metadata": {"msg": "write", "namespace": "test", "set": "events", "digest": "a digest"}, "event-data": {}},
    ]
    own.append(*[json.dumps(each).encode() for each in bad], None, b"\xff", own.event(7))
    own.count()
    (entry,) = own.json("rejected", "--scan", code=1)["ids"]
    assert [(each["verdict"], each["reason"]) for each in entry["quarantined"]] == [("rejected", "other-set")]
    assert [(each["verdict"], each["reason"]) for each in entry["positions"]] == [("rejected", "other-set")]
    assert positions(own, "a digest", code=1) == [("rejected", "delete"), ("rejected", "bad-tag")]


def test_what_the_topic_does_not_hold(own: Place) -> None:
    """Counted, and before the head: gone; and where the topic has another id: foreign. Lost by the store: missing."""
    own.log.delete_before(own.config.input_topic, {0: 3})
    campaign = own.campaign_of[min(own.campaign_of)]
    assert positions(own, "id-0") == [("gone", "")]
    row = RowKey("campaigns", campaign)
    (found,) = own.store.read([Read(row, ("seen",))])
    assert found is not None
    seen = dict(found.bins["seen"])
    event_id, sighting = seen.popitem()
    own.store.write([Write(row, [Put("seen", {**seen, "strange": sighting})])])
    assert positions(own, "strange") == [("foreign", "")]
    assert positions(own, event_id, code=1) == [("missing", "")]


def test_a_damaged_page(own: Place) -> None:
    """It is named, on its own stream, with exit 4; what is known is printed all the same."""
    places = {each["place"] for found in own.ledger().values() for each in found} - {"seen", "sealed"}
    held = {event_id: found[0]["place"] for event_id, found in own.ledger().items()}
    campaign = own.campaign_of[min(own.campaign_of)]
    newest = next(event_id for event_id, at in held.items() if at in ("seen", "sealed"))
    lost = sorted(places)[0]
    own.store.write([Write(RowKey("campaigns-seen", f"{campaign}/{lost}"), [Delete()])])
    found = own.json(newest, code=4)
    assert [each["id"] for each in found["ids"] if each["counted"]] == [newest]
    assert f"page {lost} is missing" in found["damage"][0]
    hidden = next(event_id for event_id, at in held.items() if at == lost)
    assert positions(own, hidden, code=4) == [("unknown", "")]
    failed = own.run("never sent")
    assert "not counted" not in failed.stdout
    assert (failed.exit_code, f"error: campaign {campaign}: page {lost} is missing" in failed.stderr) == (4, True)
    assert own.run(newest, "--campaign", str(campaign % CAMPAIGNS + 1)).exit_code == 1


def test_another_generation(own: Place) -> None:
    """--generation looks in that one's rows and checkpoint; one that is abandoned is refused."""
    own.store.write(
        [Write(RowKey("projector", "generation/2"), [Put("number", 2), Put("state", "ready")], Presence.ABSENT)]
    )
    own.store.write(
        [Write(RowKey("projector", "generation/3"), [Put("number", 3), Put("state", "abandoned")], Presence.ABSENT)]
    )
    bins = [Put("c-id", 1), Put("seal", 0), Put("seen", {"id-1": [0, 5, 1, 0]})]
    own.store.write([Write(RowKey("campaigns-g2", 1), bins, Presence.ABSENT)])
    found = own.json("id-1", "--generation", "2", "--scan")
    assert found["generation"] == 2
    assert [each["place"] for each in found["ids"][0]["counted"]] == ["seen"]
    assert own.json("id-2", "--generation", "2", code=1)["ids"][0]["counted"] == []
    assert isinstance(own.run("id-1", "--generation", "3").exception, Refused)
