"""`projector campaigns`, `show`, `watch` and `quarantine`, on the embedded pair."""

import base64
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from projector.backends.embedded_log import EmbeddedLog
from projector.backends.embedded_store import EmbeddedStore
from projector.cli.app import app
from projector.config import Config
from projector.errors import Misconfigured, Refused
from projector.feed import Feed, Total
from projector.log import Message, Record
from projector.migrate import migrate
from projector.quarantine import message
from projector.quarantined import Wanted, moment_ms, quarantined, quarantined_record
from projector.store import Add, AddEntry, MapKey, Operation, PutNew, RowKey, Write

MAIN = [sys.executable, "-c", "from projector.cli.app import main; main()"]
TOPIC = "projector-quarantine"


class Place:
    """A migrated directory; three campaigns with counts, when `count` was called."""

    def __init__(self, path: Path) -> None:
        self.config = Config(file=path / "projector.db")
        self.log = EmbeddedLog(self.config.file)
        self.store = EmbeddedStore(self.config.file)
        list(migrate(self.log, self.store, self.config))
        self.at = ["--set", f"file={self.config.file}"]

    def projector(self, *arguments: str) -> Any:
        return CliRunner().invoke(app, [*arguments, *self.at])

    def json(self, *arguments: str) -> Any:
        result = self.projector(*arguments, "--json")
        assert result.exit_code == 0, result
        return json.loads(result.stdout)

    def count(self) -> None:
        assert self.projector("seed", "--campaigns", "3", "--tags", "2").exit_code == 0
        for campaign, clicks in ((1, 1), (2, 3), (3, 2)):
            ids: dict[MapKey, Any] = {b"%016d" % number: [2, 0, 0, number] for number in range(clicks)}
            ids["x"] = [0, 0, 0, 99]
            counted: list[Operation] = [Add("seal", 0), Add("pages", 0), Add("rev", 7), PutNew("seen", ids)]
            counted += [AddEntry("stats", "clicks", clicks), AddEntry("stats", "visits", 1)]
            self.store.write([Write(RowKey("campaigns", campaign), counted)])

    def quarantine(self, offset: int, verdict: str, reason: str, value: bytes | None = b"{}", **more: Any) -> None:
        record = Record(more.get("partition", 3), offset, more.get("timestamp_ms", 1_000 * offset), value)
        detail = more.get("detail", "")
        self.log.append([message(TOPIC, "edge-to-core", record, verdict, reason, detail, 1)])


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_campaigns_and_totals(place: Place) -> None:
    """All campaigns in order with their KPIs; the totals are of all, also when only the top is shown."""
    place.count()
    listed = place.json("campaigns")
    assert [row["campaign"] for row in listed["campaigns"]] == [1, 2, 3]
    assert listed["campaigns"][1]["stats"] == {"visits": 1, "impressions": 0, "clicks": 3, "conversions": 0}
    assert listed["totals"] == {"visits": 3, "impressions": 0, "clicks": 6, "conversions": 0}
    top = place.json("campaigns", "--sort", "clicks", "--top", "2")
    assert [row["campaign"] for row in top["campaigns"]] == [2, 3]
    assert top["totals"] == listed["totals"]
    table = place.projector("campaigns").stdout.splitlines()
    assert table[2].split() == ["2", "Acme", "campaign", "2", "1", "0", "3", "0"]
    assert table[-1].split() == ["total", "3", "campaigns", "3", "0", "6", "0"]


def test_show_one_campaign(place: Place) -> None:
    """The row's KPIs, the ids that its ledger holds of each, its rev and its size."""
    place.count()
    shown = place.json("show", "2")
    assert shown["stats"] == shown["seen"] == {"visits": 1, "impressions": 0, "clicks": 3, "conversions": 0}
    assert (shown["campaign"], shown["rev"], shown["seal"], shown["pages"]) == (2, 7, 0, 0)
    assert shown["row_bytes"] > 4 * 16
    assert "4 ids in the row" in place.projector("show", "2").stdout


def test_what_is_not_there_says_the_way_out(place: Place, tmp_path: Path) -> None:
    """An unknown campaign is exit 3; a place that was never migrated is exit 2 and names `projector migrate`."""
    unknown = place.projector("show", "77").exception
    assert isinstance(unknown, Refused)
    assert "campaign 77" in str(unknown)
    new = ["--set", f"file={tmp_path / 'new.db'}"]
    for command in (["campaigns"], ["show", "1"], ["watch"], ["quarantine"]):
        failed = CliRunner().invoke(app, [*command, *new]).exception
        assert isinstance(failed, Misconfigured), command
        assert "projector migrate" in str(failed)


def published(
    campaign: int, kpi: str, value: int, epoch: int | None = None, rev: int | None = None, offset: int = 0
) -> Record:
    content = {"campaignId": campaign, "kpi": kpi, "value": value}
    content |= {} if epoch is None else {"epoch": epoch, "rev": rev}
    return Record(0, offset, 0, json.dumps(content).encode())


def test_feed_keeps_the_highest_epoch_and_rev() -> None:
    """A later message with a lower rev or epoch changes nothing; a higher epoch wins over a higher rev."""
    feed = Feed()
    order = [(10, 1, 5), (9, 1, 4), (12, 1, 7), (3, 2, 1), (99, 1, 8), (3, 2, 1)]
    news = feed.take([published(6, "clicks", *each) for each in order])
    assert [total.value for total in news] == [10, 12, 3]
    assert feed.totals == {(6, "clicks"): Total(6, "clicks", 3, 2, 1)}


def test_feed_keeps_campaigns_and_kpis_apart() -> None:
    """A rev orders one campaign's KPI only; messages of others, and no messages at all, do no harm."""
    feed = Feed()
    feed.take([published(6, "clicks", 2, 1, 9), published(6, "visits", 1, 1, 3), published(7, "clicks", 5, 1, 1)])
    feed.take([published(8, "clicks", 4), published(8, "clicks", 5)])
    assert [total.value for total in feed.totals.values()] == [2, 1, 5, 5]
    assert feed.take([Record(0, 5, 0, None), Record(0, 6, 0, b"[1]"), Record(0, 7, 0, b"\xff")]) == []
    assert (feed.foreign, feed.positions) == (3, {0: 8})


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().rstrip("\n") for _ in range(count)]


def append(log: EmbeddedLog, records: Iterable[Record]) -> None:
    log.append([Message("subscription-events", b"key", record.value) for record in records])


def test_watch_shows_what_is_there_then_what_comes(place: Place) -> None:
    """Piped: first the state, each total once, then every change as it comes; an interrupt ends it with 0."""
    append(place.log, [published(6, "clicks", value, 1, value) for value in (1, 2, 3)])
    append(place.log, [published(6, "clicks", 2, 1, 2), published(5, "visits", 1, 1, 1)])
    watch = subprocess.Popen(
        [*MAIN, "watch", "--json", *place.at],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored, if the tests run in the background
    )
    try:
        state = [json.loads(line) for line in lines(watch, 2)]
        assert [(each["campaignId"], each["kpi"], each["value"]) for each in state] == [
            (5, "visits", 1),
            (6, "clicks", 3),
        ]
        append(place.log, [published(6, "clicks", 1, 1, 1), published(6, "clicks", 4, 1, 4)])
        (change,) = lines(watch, 1)
        assert json.loads(change) == {"campaignId": 6, "kpi": "clicks", "value": 4, "epoch": 1, "rev": 4}
        while watch.poll() is None:  # an interrupt that falls into a finalizer is lost, as a Ctrl-C would be
            watch.send_signal(signal.SIGINT)
            time.sleep(0.5)
        assert watch.returncode == 0
    finally:
        watch.kill()
        watch.wait()


def test_quarantine_lists_the_last_of_each_key(place: Place) -> None:
    """A record that was quarantined again, at a replay, stands once, as it was told last; in order of position."""
    place.quarantine(20, "parked", "unknown-tag")
    place.quarantine(9, "rejected", "not-json", b"\xff")
    place.quarantine(20, "parked", "unknown-campaign")
    place.log.append([Message(TOPIC, b"other", b"of another program")])
    result = place.projector("quarantine", "--json")
    assert [(each["key"], each["reason"]) for each in json.loads(result.stdout)] == [
        ("edge-to-core/3/9", "not-json"),
        ("edge-to-core/3/20", "unknown-campaign"),
    ]
    assert "1 messages" in result.stderr
    assert "edge-to-core/3/20" in place.projector("quarantine").stdout


@pytest.mark.parametrize(
    ("filters", "offsets"),
    [
        ([], [1, 2, 3, 4]),
        (["--reason", "unknown-tag"], [1, 4]),
        (["--verdict", "rejected"], [2, 3]),
        (["--partition", "4"], [4]),
        (["--since", "2000", "--until", "3000"], [2]),
        (["--since", "1970-01-01T00:00:02Z"], [2, 4]),
        (["--until", "1970-01-01T01:00:02+01:00"], [1]),
        (["--reason", "unknown-tag", "--partition", "3"], [1]),
    ],
)
def test_quarantine_filters(place: Place, filters: list[str], offsets: list[int]) -> None:
    """Each filter alone and together; a record without a timestamp is in no span of time."""
    place.quarantine(1, "parked", "unknown-tag")
    place.quarantine(2, "rejected", "not-json")
    place.quarantine(3, "rejected", "tombstone", None, timestamp_ms=-1)
    place.quarantine(4, "parked", "unknown-tag", partition=4)
    assert [each["offset"] for each in place.json("quarantine", "list", *filters)] == offsets


def test_a_filter_is_judged_by_the_last_of_a_key(place: Place) -> None:
    """A record whose reason changed is not found under the reason it had before."""
    place.quarantine(1, "parked", "unknown-tag")
    place.quarantine(1, "parked", "unknown-campaign")
    assert quarantined(place.log, TOPIC, Wanted(reason="unknown-tag")) == ([], 0)


def test_a_time_that_is_none_is_refused() -> None:
    """ISO times are UTC where they name no zone; what is no time is named."""
    assert moment_ms("1970-01-02") == moment_ms("1970-01-02T00:00:00Z") == moment_ms("86400000") == 86_400_000
    with pytest.raises(Misconfigured, match="'yesterday' is no time"):
        moment_ms("yesterday")


@pytest.mark.parametrize("value", [b'{"msg": "write"}', "na\u00efve \u2713".encode(), b"\xff\x00\x1b[2J", b"", None])
def test_quarantine_keeps_the_original_bytes(place: Place, value: bytes | None) -> None:
    """--raw gives the record's bytes and nothing else; --json the text or base64; the screen no control characters."""
    place.quarantine(5, "rejected", "not-json", value, detail="line 1")
    key = "edge-to-core/3/5"
    assert quarantined_record(place.log, TOPIC, key).value == value
    assert place.projector("quarantine", "show", key, "--raw").stdout_bytes == (value or b"")
    shown = place.json("quarantine", "show", key)
    held = base64.b64decode(shown["value_base64"]) if "value_base64" in shown else shown["value"]
    assert held == value if isinstance(held, bytes) or held is None else held.encode() == value
    assert shown["detail"] == "line 1"
    screen = place.projector("quarantine", "show", key)
    assert screen.exit_code == 0
    assert "\x1b" not in screen.stdout


def test_control_characters_of_a_text_are_escaped(place: Place) -> None:
    """A record cannot write to the operator's terminal."""
    place.quarantine(5, "rejected", "not-json", b"a\x1b[2Jb")
    assert "a\\x1b[2Jb" in place.projector("quarantine", "show", "edge-to-core/3/5").stdout


def test_a_record_that_is_not_there(place: Place) -> None:
    """An unknown key is exit 3 and says what keys look like; show without a key is exit 2."""
    assert isinstance(place.projector("quarantine", "show", "edge-to-core/3/6").exception, Refused)
    assert place.projector("quarantine", "show").exit_code == 2
    assert place.projector("quarantine", "list", "edge-to-core/3/6").exit_code == 2
