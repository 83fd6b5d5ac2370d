"""`projector statement` and its commands as an operator, and whoever doubts the bill, give them."""

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from projector.statement.leaf import leaves
from projector.statement.signature import generate, public_key
from projector.statement.verification import verify
from tests.end_to_end.harness import ENVIRONMENT, PATIENCE_S, Pipeline, wait_until

EVENTS = 2_000
PERIOD = ("--from", "2026-01-01", "--to", "2026-01-02")


class Place:
    """A directory with an embedded log and store, and a key."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def ends(self, code: int, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """A command, to its end, which must be this one."""
        done = subprocess.run(
            [sys.executable, "-m", "projector", *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            cwd=cwd or self.directory,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == code, f"ended with {done.returncode}, not {code}: {done.stdout}{done.stderr}"
        return done

    def said(self, code: int, *words: str) -> Any:
        """What the command says as JSON."""
        return json.loads(self.ends(code, *words, "--json").stdout)

    def counted(self, events: int, seed: int) -> None:
        """These many more events of the simulator, all of them on the first of January."""
        drawn = ("--campaigns", "5", "--tags", "4", "--events", str(events), "--seed", str(seed))
        self.ends(0, "simulate", *drawn, "--truth", "truth.json")
        self.ends(0, "run", "--until-end")


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.ends(0, "migrate")
    made.ends(0, "seed", "--campaigns", "5", "--tags", "4")
    made.counted(EVENTS, 1)
    made.ends(0, "statement", "keygen", "key.pem")
    return made


def test_a_bill_and_the_doubts_about_it(place: Place, tmp_path: Path) -> None:
    """Stated, verified elsewhere from the files alone, an id proven; late events are how the next one differs."""
    done = place.ends(0, "statement", *PERIOD, "--key", "key.pem", "--out", "january")
    assert f"ids read: {EVENTS:,} of {EVENTS:,}" in done.stderr
    assert f"{EVENTS:,}" in done.stdout
    truth = json.loads((tmp_path / "truth.json").read_bytes())["campaigns"]
    lines = (tmp_path / "january" / "counts.csv").read_text().splitlines()[1:]
    stated = {(campaign, kpi): int(count) for campaign, _, kpi, count in (line.split(",") for line in lines)}
    assert stated == {(campaign, kpi): count for campaign, row in truth.items() for kpi, count in row.items()}

    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(tmp_path / "january", elsewhere / "january")
    shutil.copy(tmp_path / "key.pem.pub", elsewhere / "key.pub")
    assert (
        "verified" in place.ends(0, "statement", "verify", "january", "--public-key", "key.pub", cwd=elsewhere).stdout
    )
    assert {path.name for path in elsewhere.iterdir()} == {"january", "key.pub"}

    place.counted(50, 2)
    place.ends(0, "statement", *PERIOD, "--key", "key.pem", "--out", "again")
    found = place.said(1, "statement", "compare", "january", "again")
    assert (found["added"], found["removed"], found["changed"], found["equal"]) == (50, 0, 0, False)
    assert len(found["differences"]) == 50
    late = found["differences"][0]["after"]
    plain = place.ends(1, "statement", "compare", "january", "again").stdout
    assert plain.count("added: ") == 50
    assert plain.endswith("50 added, 0 removed, 0 changed\n")
    assert place.said(0, "statement", "compare", "january", "january")["differences"] == []
    assert place.ends(0, "statement", "compare", "january", "january").stdout.endswith(": equal\n")

    refused = place.ends(1, "statement", "prove", "january", late["id"])
    assert refused.stderr == f"error: {late['id']} was not counted in this period\n"
    place.ends(0, "statement", "prove", "again", late["id"].upper(), "--out", "proof.json")
    verify = ("statement", "verify", "--proof", "proof.json", "--public-key", "key.pem.pub")
    proven = place.said(0, *verify)
    assert proven["counted"] == [late]
    assert late["id"] in place.ends(0, *verify).stdout
    proof = (tmp_path / "proof.json").read_bytes()
    assert place.ends(0, "statement", "prove", "again", late["id"]).stdout.encode() == proof
    (tmp_path / "proof.json").write_bytes(proof.replace(b'"offset": ', b'"offset": 1', 1))
    assert place.said(1, *verify)["verified"] is False

    counts = tmp_path / "january" / "counts.csv"
    counts.write_bytes(counts.read_bytes().replace(b"1", b"2", 1))
    failed = place.said(1, "statement", "verify", "january", "--public-key", "key.pem.pub")
    assert (failed["verified"], failed["failures"]) == (
        False,
        ["counts.csv was changed: its size or SHA-256 is not the manifest's"],
    )
    assert "FAILED: counts.csv" in place.ends(1, "statement", "verify", "january", "--public-key", "key.pem.pub").stdout


def test_what_ends_it(place: Place, tmp_path: Path) -> None:
    """Each with its exit code and one line that names the way out; nothing is left behind."""
    before = {path.name for path in tmp_path.iterdir()}
    statement = ("statement", *PERIOD)
    assert "--to" in place.ends(2, "statement", "--from", "2026-01-01").stderr
    assert "projector statement keygen" in place.ends(2, *statement).stderr
    assert "no Ed25519 private key" in place.ends(2, *statement, "--key", "key.pem.pub").stderr
    assert "is no time" in place.ends(2, "statement", "--from", "new year", "--to", "2026-01-02").stderr
    future = place.ends(3, "statement", "--from", "2026-01-01", "--to", "2999-01-01", "--key", "key.pem")
    assert "the period is not over" in future.stderr
    assert "a key is never overwritten" in place.ends(3, "statement", "keygen", "key.pem").stderr
    place.ends(2, "statement", "verify", "--public-key", "key.pem.pub")
    place.ends(2, "statement", "verify", "nowhere", "--public-key", "key.pem.pub")
    place.ends(2, "statement", *PERIOD, "verify", "january", "--public-key", "key.pem.pub")
    assert {path.name for path in tmp_path.iterdir()} == before
    written = place.said(0, *statement, "--key", "key.pem")
    assert written["directory"] == "statement-2026-01-01T000000Z-2026-01-02T000000Z"
    assert written["leaves"] == EVENTS
    assert "--out" in place.ends(3, *statement, "--key", "key.pem").stderr


def test_on_a_broker(either: Pipeline, tmp_path: Path) -> None:
    """What was really counted, with duplicates and the rest in it; the end of a transaction at the end of the topic."""
    either.produce(either.traffic.take(5_000))
    in_transaction(either, either.traffic.take(20))
    either.run_to_end("--slot", "a")
    public = generate(tmp_path / "key.pem")
    end = int(time.time()) + 1
    wait_until(lambda: time.time() > end, "the second is over")
    words = ("--from", "2026-01-01", "--to", str(end * 1000), "--key", str(tmp_path / "key.pem"), "--out", "bill")
    done = either.run("statement", *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert verify(either.directory / "bill", public_key(public)).failures == []
    held = list(leaves(either.directory / "bill" / "ids.parquet"))
    assert Counter((leaf.campaign, leaf.kpi) for leaf in held) == +either.traffic.truth


def in_transaction(pipeline: Pipeline, values: list[bytes | None]) -> None:
    """Append them to the partitions in turn, in one transaction: each then ends with an offset that is no record."""
    producer = Producer({"bootstrap.servers": pipeline.bootstrap, "transactional.id": pipeline.group, "log_level": 0})
    producer.init_transactions(PATIENCE_S)
    producer.begin_transaction()
    for number, value in enumerate(values):
        producer.produce(pipeline.input_topic, value, partition=number % pipeline.partitions)
    producer.commit_transaction(PATIENCE_S)
