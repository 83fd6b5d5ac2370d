"""The commands on generations as an operator gives them, on the embedded log and store; truth decides."""

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from projector.backends.embedded_log import EmbeddedLog
from projector.backends.embedded_store import EmbeddedStore
from projector.config import load
from tests.end_to_end.harness import ENVIRONMENT, PATIENCE_S, Worker, miscount, wait_until

CAMPAIGNS, TAGS = 5, 4
EVENTS = 3_000
GROUP = "projector"


class Pair:
    """An embedded log and store with the simulator's events, and their truth in a file."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file = directory / "projector.db"
        self._truth = directory / "truth.json"
        self.config = load(None, {"file": str(self._file), "republish_ms": "500", "page_ids": "256"})
        self.log = EmbeddedLog(self._file)
        self.processes: list[Worker] = []

    def command(self, *words: str) -> list[str]:
        settings = {"file": self._file, "republish_ms": 500, "page_ids": 256, "batch_records": 1000}
        given = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        return [sys.executable, "-m", "projector", words[0], *given, *words[1:]]

    def begin(self, *words: str) -> Worker:
        """A command, in the background."""
        process = Worker(self.command(*words), self.directory)
        self.processes.append(process)
        return process

    def ends(self, code: int, *words: str) -> subprocess.CompletedProcess[str]:
        """A command, to its end, which must be this one."""
        done = subprocess.run(
            self.command(*words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            cwd=self.directory,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == code, f"ended with {done.returncode}, not {code}: {done.stdout}{done.stderr}"
        return done

    def does(self, *words: str) -> str:
        """What a command that ends with 0 prints."""
        return self.ends(0, *words).stdout

    def told(self, *words: str) -> Any:
        """The JSON that a command prints which ends with 0."""
        return json.loads(self.does(*words, "--json"))

    def simulate(self, seed: int, events: int = EVENTS) -> None:
        """Append events, duplicates and all that goes wrong; the truth grows."""
        size = ("--campaigns", str(CAMPAIGNS), "--tags", str(TAGS))
        self.does("simulate", *size, "--events", str(events), "--seed", str(seed), "--truth", str(self._truth))

    def count(self) -> None:
        """A live worker, to the end."""
        self.does("run", "--until-end", "--slot", "a")

    def is_true(self) -> None:
        """The live generation is the truth, its balance holds and its ledger is whole."""
        for words in (("verify", "--truth", str(self._truth)), ("balance",), ("ledger", "--check")):
            self.does(*words)

    @property
    def truth(self) -> dict[tuple[int, str], int]:
        """Per campaign and KPI, where it is not zero."""
        held = json.loads(self._truth.read_text())["campaigns"]
        return {(int(c), kpi): value for c, kpis in held.items() for kpi, value in kpis.items() if value}

    def publications(self) -> dict[tuple[int, str], tuple[int, int, int]]:
        """Per campaign and KPI the message with the highest (epoch, rev): epoch, rev, value."""
        highest: dict[tuple[int, str], tuple[int, int, int]] = {}
        for records in self.log.read(self.config.kpi_topic):
            for record in records:
                told = json.loads(record.value or b"")
                cell = (told["campaignId"], told["kpi"])
                highest[cell] = max(highest.get(cell, (0, 0, 0)), (told["epoch"], told["rev"], told["value"]))
        return highest

    def said(self) -> int:
        """How many messages there are for readers, and in quarantine."""
        return sum(
            sum(self.log.ends(topic).values()) for topic in (self.config.kpi_topic, self.config.quarantine_topic)
        )

    def is_published(self, epoch: int) -> bool:
        """Whether every total was published under that epoch, and readers converge to the truth."""
        told, truth = self.publications(), self.truth
        return told.keys() >= truth.keys() and all((told[c][0], told[c][2]) == (epoch, truth[c]) for c in truth)

    def live(self) -> tuple[int, int]:
        """Number and epoch."""
        told = self.told("generations")
        assert told["state"] == "open"
        return told["live"], told["epoch"]

    def states(self) -> dict[int, str]:
        """Of every generation."""
        return {each["number"]: each["state"] for each in self.told("generations")["generations"]}

    def delete_before(self, offsets: dict[int, int]) -> None:
        """What retention does."""
        self.log.delete_before(self.config.input_topic, offsets)

    def miscount(self, campaign: int, kpi: str, other: str) -> str:
        """Count an id of the live generation as another KPI, by hand; answers the id."""
        with closing(EmbeddedStore(self._file)) as store:
            return miscount(store, campaign, kpi, other)

    def close(self) -> None:
        for process in self.processes:
            if process.running:
                process.kill()
        self.log.close()


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with 3,000 events, all of them counted."""
    made = Pair(tmp_path_factory.mktemp("counted"))
    made.does("migrate")
    made.does("seed", "--campaigns", str(CAMPAIGNS), "--tags", str(TAGS))
    made.simulate(1)
    made.count()
    made.close()
    return made.directory


@pytest.fixture
def pair(counted: Path, tmp_path: Path) -> Iterator[Pair]:
    """With 3,000 events, all of them counted."""
    made = Pair(Path(shutil.copytree(counted, tmp_path / "pair")))
    yield made
    made.close()
    for process in made.processes:
        print(f"--- {process.command[3]}, exit code {process.process.returncode}:\n{process.said[-1500:]}")


def _building(pair: Pair) -> Sequence[int]:
    """Process ids of muted workers."""
    file = f"file={pair.config.file}"
    found = []
    for process in Path("/proc").iterdir():
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if file in words and "--building" in words:
            found.append(int(process.name))
    return found


def test_look_then_cut_over(pair: Pair) -> None:
    """--no-cutover stops after the comparison; then `cutover`, with what came meanwhile, `rollback` and `abandon`."""
    said = pair.said()
    told = pair.told("rebuild", "--yes", "--no-cutover")
    assert (told["result"], told["same"], told["live"], told["cells"]) == ("compared", True, 1, [])
    assert pair.said() == said, "a generation that is not live says nothing"
    assert pair.live() == (1, 1)
    assert pair.states() == {1: "live", 2: "ready"}
    pair.simulate(2)
    worker = pair.begin("run", "--slot", "a")
    told = pair.told("cutover", "2", "--yes")
    assert (told["result"], told["live"], told["epoch"]) == ("switched", 2, 2)
    wait_until(lambda: pair.is_published(2), "every total is published under epoch 2", worker)
    pair.is_true()
    refused = pair.ends(3, "abandon", "2", "--yes")
    assert "is live" in refused.stderr
    assert pair.told("rollback", "--yes")["live"] == 1
    wait_until(lambda: pair.is_published(3), "every total is published under epoch 3", worker)
    worker.stop()
    pair.is_true()
    ids = sum(pair.truth.values())
    assert pair.told("abandon", "2", "--yes")["ids"] == ids
    assert pair.states() == {1: "live", 2: "abandoned"}
    assert "can never be live" in pair.ends(3, "cutover", "2", "--yes").stderr
    pair.is_true()
    told = pair.told("generations")
    assert [(each["what"], each["from"], each["to"], each["epoch"]) for each in told["history"]] == [
        ("cutover", 1, 2, 2),
        ("rollback", 2, 1, 3),
        ("abandon 2", 1, 1, 3),
    ]
    assert sum(told["generations"][0]["totals"].values()) == ids
    assert pair.told("rebuild", "--yes")["generation"] == 3, "a number is never used again"
    pair.is_true()


def test_a_miscount(pair: Pair) -> None:
    """One id counted as another KPI: exactly those cells and that id are named, nothing is switched; then accepted."""
    event_id = pair.miscount(3, "impressions", "clicks")
    true = pair.truth
    told = json.loads(pair.ends(1, "rebuild", "--yes", "--json").stdout)
    assert (told["result"], told["live"], told["epoch"]) == ("different", 1, 1)
    cells = [(each["campaign"], each["kpi"], each["live"], each["rebuilt"]) for each in told["cells"]]
    impressions, clicks = true[3, "impressions"], true[3, "clicks"]
    assert sorted(cells) == [(3, "clicks", clicks + 1, clicks), (3, "impressions", impressions - 1, impressions)]
    (difference,) = told["differences"]
    assert (difference["campaign"], difference["id"]) == (3, event_id)
    live, rebuilt = difference["live"], difference["rebuilt"]
    assert (live.pop("kpi"), rebuilt.pop("kpi")) == ("clicks", "impressions")
    assert live == rebuilt
    assert live.keys() == {"second", "partition", "offset"}
    assert pair.live() == (1, 1)
    shown = pair.ends(1, "cutover", "2", "--yes").stdout
    assert event_id in shown
    assert "nothing was switched" in shown
    assert pair.live() == (1, 1)
    assert pair.told("rebuild", "--yes", "--accept-differences", "one was miscounted")["live"] > 1
    assert pair.told("generations")["history"][-1]["why"] == "one was miscounted"
    pair.count()
    assert pair.is_published(2)
    pair.is_true()


def test_applied_and_not_committed(pair: Pair) -> None:
    """A live worker died with ids in its rows that it had not committed: they are listed, and in nobody's way.

    The generation that becomes live reads those records itself; and after a rollback the first one does, again.
    """
    topic = pair.config.input_topic
    committed = pair.log.checkpoint(GROUP, topic)
    pair.simulate(2, 500)
    pair.count()
    pair.log.set_checkpoint(GROUP, topic, committed)
    told = pair.told("rebuild", "--yes")
    assert (told["result"], told["live"], told["causes"]) == ("switched", 2, {"past the checkpoint": 500})
    pair.count()
    assert pair.is_published(2)
    pair.is_true()
    assert pair.told("rollback", "--yes")["live"] == 1
    pair.count()
    assert pair.is_published(3)
    pair.is_true()


@pytest.mark.long
def test_the_head_is_gone(pair: Pair) -> None:
    """Refused, with partitions and offsets; with --carry exact, and it says how many came from where."""
    pair.delete_before({0: 70, 1: 33})
    refused = pair.ends(3, "rebuild", "--yes")
    assert "0: 0 to 69, 1: 0 to 32" in refused.stderr
    assert "--carry" in refused.stderr
    assert pair.states() == {1: "live"}
    part = pair.told("rebuild", "--yes", "--carry", "--campaign", "3")
    assert part["same"]
    assert part["ids"]["rebuilt"] == sum(value for (campaign, _), value in pair.truth.items() if campaign == 3)
    limited = pair.told("rebuild", "--yes", "--carry", "--until", "1:50")
    assert limited["same"]
    assert 0 < limited["ids"]["rebuilt"] == limited["ids"]["live"] <= 50
    pair.simulate(2)
    worker = pair.begin("run", "--slot", "a")
    told = pair.told("rebuild", "--yes", "--carry")
    assert (told["result"], told["same"]) == ("switched", True)
    assert 0 < part["carried"] < told["carried"] <= 103
    wait_until(lambda: pair.is_published(2), "every total is published under epoch 2", worker)
    worker.stop()
    pair.is_true()
    assert pair.told("balance")["committed"]["carried"] == told["carried"]
    shown = pair.does("rebuild", "--yes", "--carry")
    assert f"{told['carried']} ids were carried over from the live ledger" in shown
    pair.is_true()


def test_two_at_once(pair: Pair) -> None:
    """The second is refused and told who runs the first; once that was killed it is taken over at once."""
    pair.simulate(2, 20_000)
    pair.count()
    first = pair.begin("rebuild", "--yes")
    wait_until(lambda: _building(pair), "its worker runs", first)
    first.freeze(pair.config.file)
    for words in (("rebuild",), ("cutover", "2"), ("abandon", "2"), ("rewind",)):
        refused = pair.ends(3, *words, "--yes")
        assert "a rebuild is running on " in refused.stderr
        assert f"(process {first.process.pid}, " in refused.stderr
    first.kill()
    told = pair.told("rebuild", "--yes")
    assert (told["result"], told["live"]) == ("switched", 2)
    pair.count()
    pair.is_true()


@pytest.mark.long
def test_interrupted(pair: Pair) -> None:
    """Ctrl-C: 130, the workers are gone; the same command goes on where it was."""
    pair.simulate(2, 20_000)
    pair.count()
    command = pair.begin("rebuild", "--yes")
    group = f"{GROUP}-g2"

    def read() -> int:
        return sum(each.offset for each in pair.log.checkpoint(group, pair.config.input_topic).values())

    wait_until(read, "it is on its way", command)
    command.signal(signal.SIGINT)
    command.ends(130)
    assert _building(pair) == []
    assert pair.log.members(group) == []
    assert pair.live() == (1, 1)
    assert read() < sum(pair.log.ends(pair.config.input_topic).values()), "it had ended before: the test shows nothing"
    assert pair.told("rebuild", "--yes")["generation"] == 2
    pair.count()
    pair.is_true()


def test_rewind(pair: Pair) -> None:
    """Refused while a worker runs; then all is read again, no number changes, and all is published once more."""
    worker = pair.begin("run", "--slot", "a")
    wait_until(lambda: pair.log.members(GROUP), "it is a member", worker)
    assert "has workers" in pair.ends(3, "rewind", "--yes").stderr
    assert "not confirmed" in pair.ends(3, "rewind").stderr
    worker.stop()
    before = pair.told("campaigns")["campaigns"]
    assert pair.told("rewind", "--yes", "--reason", "to see")["epoch"] == 2
    assert pair.told("generations")["generations"][0]["checkpoint"] == dict.fromkeys(
        map(str, pair.log.ends(pair.config.input_topic)), 0
    )
    pair.count()
    assert pair.told("campaigns")["campaigns"] == before
    assert pair.is_published(2)
    pair.is_true()
    history = pair.told("generations")["history"]
    assert [(each["what"], each["why"], each["epoch"]) for each in history] == [("rewind", "to see", 2)]


def test_parts(pair: Pair) -> None:
    """--campaign and --until build scratch generations that agree with the live one and can never be live."""
    told = pair.told("rebuild", "--yes", "--campaign", "3", "--campaign", "1")
    truth = pair.truth
    assert (told["result"], told["same"], told["live"]) == ("compared", True, 1)
    assert told["ids"]["rebuilt"] == sum(value for (campaign, _), value in truth.items() if campaign in (1, 3))
    told = pair.told("rebuild", "--yes", "--until", "0:100,1:50")
    assert told["same"]
    assert 0 < told["ids"]["rebuilt"] == told["ids"]["live"] <= 150
    told = pair.told("rebuild", "--yes", "--until", "2026-01-01T00:00:02Z")
    assert told["same"]
    assert 0 < told["ids"]["rebuilt"] <= 2_000
    event_id = pair.miscount(3, "impressions", "clicks")
    told = json.loads(pair.ends(1, "rebuild", "--yes", "--campaign", "3", "--json").stdout)
    assert [(each["campaign"], each["id"]) for each in told["differences"]] == [(3, event_id)]
    assert pair.states() == {1: "live", 2: "scratch", 3: "scratch", 4: "scratch", 5: "scratch"}
    assert "can never be live" in pair.ends(3, "cutover", "2", "--yes").stderr
    assert "neither offsets" in pair.ends(2, "rebuild", "--yes", "--until", "soon").stderr
    assert "named twice" in pair.ends(2, "rebuild", "--yes", "--until", "0:9,0:9").stderr
    assert "future" in pair.ends(3, "rebuild", "--yes", "--until", "2999-01-01T00:00Z").stderr
    pair.does("abandon", "2", "--yes")
    assert pair.states()[2] == "abandoned"
    assert pair.live() == (1, 1)
