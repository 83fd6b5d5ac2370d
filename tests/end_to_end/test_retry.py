"""`projector quarantine retry`, killed at random moments and begun twice at once: every record goes back once."""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import IsolationLevel

from projector.backends import open_log, open_store
from projector.config import Config
from projector.generation import Generation
from projector.log import Message
from projector.migrate import migrate
from projector.projector import Projector
from projector.store import Presence, Put, Read, RowKey, Write
from tests.end_to_end import oracle
from tests.end_to_end.harness import PATIENCE_S, Pipeline, Worker, eventually, wait_until
from tests.end_to_end.traffic import CONNECTOR

PARKED = 6_000
CAMPAIGN = 3


class Late:
    """Events of a tag that came before their tag did: parked, with others parked and rejected beside them."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline
        rng = pipeline.rng
        self.tag = str(uuid.UUID(int=rng.getrandbits(128)))
        ids = [str(uuid.UUID(int=rng.getrandbits(128))) for _ in range(PARKED)]
        values = [(CONNECTOR % ("AvYA", 0, each, self.tag, "click", self.tag, "click")).encode() for each in ids]
        pipeline.produce([*values, *pipeline.traffic.take(500)])
        pipeline.run_to_end("--slot", "a")
        kept = oracle.quarantine(pipeline.bootstrap, pipeline.quarantine_topic)
        self.parked = {key: value for key, (_, value) in kept.items() if value and self.tag.encode() in value}
        assert len(self.parked) == PARKED < len(kept)
        with closing(open_store(pipeline.config)) as store:
            bins = [Put("t-id", self.tag), Put("c-id", CAMPAIGN)]
            store.write([Write(RowKey("tags", self.tag), bins, Presence.ABSENT)])
        pipeline.campaign_of[self.tag] = CAMPAIGN
        pipeline.traffic.truth[CAMPAIGN, "clicks"] += PARKED

    @property
    def command(self) -> tuple[str, ...]:
        return ("quarantine", "retry", "--tag", self.tag, "--yes")

    @property
    def markers_topic(self) -> str:
        return f"{self.pipeline.quarantine_topic}-retried"

    def sent(self) -> int:
        """About how many markers there are, committed or not."""
        return sum(self.pipeline._offsets(self.markers_topic, 3, IsolationLevel.READ_UNCOMMITTED).values())

    def begin(self) -> Worker:
        """A retry that is on its way; one that the last one's session holds up is begun again."""

        def begun() -> Worker:
            worker = self.pipeline.begin(*self.command)
            wait_until(lambda: not worker.running or "quarantined records: " in worker.said, "it has read")
            time.sleep(0.3)
            assert worker.process.poll() != 3, worker.said
            return worker

        return eventually(begun)

    def exact(self) -> None:
        """Each parked record is in the topic once more, byte by byte, with its marker; counted once, and balanced."""
        pipeline = self.pipeline
        again: Counter[str] = Counter()
        for message in oracle.messages(pipeline.bootstrap, pipeline.input_topic):
            origin = dict(message.headers() or []).get("retried-from")
            if isinstance(origin, bytes):
                key = origin.decode()
                again[key] += 1
                topic, partition, _ = key.rsplit("/", 2)
                assert (topic, int(partition)) == (pipeline.input_topic, message.partition())
                assert message.value() == self.parked[key]
        assert again == Counter(dict.fromkeys(self.parked, 1))
        marked = Counter((m.key() or b"").decode() for m in oracle.messages(pipeline.bootstrap, self.markers_topic))
        assert marked == again
        pipeline.run_to_end("--slot", "a")
        rows = pipeline.rows()
        recount = oracle.recount(pipeline.bootstrap, pipeline.input_topic, pipeline.campaign_of)
        assert +Counter(rows.cells) == recount.cells == +pipeline.traffic.truth
        assert rows.ids[CAMPAIGN] == recount.ids[CAMPAIGN]
        pipeline.balanced(None)
        pipeline.published(rows)

    def again(self) -> None:
        """A further retry does nothing."""
        done = self.pipeline.run(*self.command)
        assert (done.returncode, done.stdout) == (0, f"0 records went back to {self.pipeline.input_topic}\n")


def _killed(pipeline: Pipeline, kills: int) -> None:
    late = Late(pipeline)
    pipeline.settings["kafka.session.timeout.ms"] = "1500"  # so long a killed one holds up the next
    for kill in range(kills):
        worker = late.begin()
        if kill:
            target = pipeline.rng.randrange(PARKED * kill // kills, PARKED * (kill + 1) // kills)
            wait_until(lambda target=target, worker=worker: late.sent() >= target or not worker.running, "it sends")  # type: ignore[misc]  # bound now
        time.sleep(pipeline.rng.random() * 0.1)
        worker.kill()
        print(f"killed with about {late.sent()} markers")
    eventually(lambda: late.begin().ends(0))
    late.again()
    late.exact()
    late.again()


def test_two_kills(pipeline: Pipeline) -> None:
    """kill -9 before, in and between transactions: what is marked is skipped, the rest is sent."""
    _killed(pipeline, 2)


@pytest.mark.long
def test_eight_kills(pipeline: Pipeline) -> None:
    """The same, more often."""
    _killed(pipeline, 8)


@pytest.mark.long
def test_another_one_meanwhile_is_refused(pipeline: Pipeline) -> None:
    """Frozen in the middle it still holds its place: another ends with 3 and names it; thawed it sends the rest."""
    late = Late(pipeline)
    first = pipeline.begin(*late.command)
    wait_until(lambda: f"{pipeline.group}-retry-retry" in _members(pipeline), "it has joined", first)
    first.signal(signal.SIGSTOP)
    second = pipeline.run(*late.command)
    assert second.returncode == 3, second.stderr
    assert f"another retry runs, {pipeline.group}-retry-retry" in second.stderr
    first.signal(signal.SIGCONT)
    first.ends(0)
    late.again()
    late.exact()


@pytest.mark.long
def test_two_at_once(pipeline: Pipeline) -> None:
    """Whoever wins, each record goes back once; the other one is refused, or ended, or finds nothing to do."""
    late = Late(pipeline)
    both = [pipeline.begin(*late.command) for _ in range(2)]
    codes = sorted(worker.process.wait(PATIENCE_S) for worker in both)
    print(f"ended with {codes}")
    assert codes[0] == 0
    assert codes[1] in (0, 3, 8), [worker.said for worker in both]
    late.exact()


def _members(pipeline: Pipeline) -> list[str]:
    with closing(open_log(pipeline.config)) as log:
        return log.members(f"{pipeline.group}-retry")


def test_a_kill_on_the_embedded_log(tmp_path: Path) -> None:
    """The same, without a broker: killed between transactions, refused while the lease holds, then all the rest."""
    config = Config(file=tmp_path / "projector.db")
    values = [(CONNECTOR % ("AvYA", 0, f"id-{n}", "late", "click", "late", "click")).encode() for n in range(PARKED)]
    with closing(open_log(config)) as log, closing(open_store(config)) as store:
        list(migrate(log, store, config))
        store.write([Write(RowKey("campaigns", 6), [Put("c-id", 6), Put("stats", {})], Presence.ABSENT)])
        log.append([Message(config.input_topic, None, value, (), n % 12) for n, value in enumerate(values)])

        def count() -> None:
            Projector(log, store, config, Generation(1, "projector"), 1, "a", 0).run(True, lambda: False)

        count()
        store.write([Write(RowKey("tags", "late"), [Put("t-id", "late"), Put("c-id", 6)], Presence.ABSENT)])
        command = [sys.executable, "-m", "projector", "quarantine", "retry", "--yes", "--set", f"file={config.file}"]
        before = sum(log.ends(config.input_topic).values())
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            wait_until(lambda: sum(log.ends(config.input_topic).values()) > before, "it sends")
            os.kill(process.pid, signal.SIGKILL)
        sent = sum(log.ends(config.input_topic).values()) - before
        print(f"killed with {sent} sent")
        assert sent % 1_000 == 0
        refused = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        assert refused.returncode == (3 if sent < PARKED else 0), refused.stderr
        wait_until(lambda: not log.members("projector-retry"), "the lease is over")
        assert subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False).returncode == 0
        again = Counter(record.value for records in log.read(config.input_topic) for record in records)
        assert again == Counter(dict.fromkeys(values, 2))
        count()
        (row,) = store.read([Read(RowKey("campaigns", 6), ("stats",))])
        assert row is not None
        assert row.bins["stats"]["clicks"] == PARKED
