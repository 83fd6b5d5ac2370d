"""kill -9 of workers at any moment: nothing lost, nothing doubled."""

import time
from collections import Counter

import pytest

from tests.end_to_end import oracle
from tests.end_to_end.harness import CAMPAIGNS, TAGS, Pipeline

EVENTS = 100_000


def _kill_and_finish(pipeline: Pipeline, kills: int) -> None:
    """`kills` kills spread over the run, each at a random moment of its part, then to the end."""
    rng = pipeline.rng
    for part in range(kills + 1):
        share = EVENTS * (part + 1) // (kills + 1) - EVENTS * part // (kills + 1)
        before = pipeline.committed()
        pipeline.produce(pipeline.traffic.take(share))
        if part == kills:
            break
        worker = pipeline.start("--slot", "a", batch_records=rng.choice((500, 2_000, 10_000)))
        begun = before + rng.randrange(share)
        pipeline.wait_committed(begun, worker)
        time.sleep(rng.random() * 0.05)
        assert worker.running, worker.said
        worker.kill()
    pipeline.run_to_end("--slot", "a")
    pipeline.exact()


def test_three_kills(either: Pipeline) -> None:
    """100,000 records with duplicates, deletes, unknown tags and garbage, three kills: every number is the truth."""
    _kill_and_finish(either, 3)


@pytest.mark.long
def test_twenty_kills(either: Pipeline) -> None:
    """The same with twenty kills."""
    _kill_and_finish(either, 20)


def test_the_simulator_s_truth(pipeline: Pipeline) -> None:
    """The simulator's events, every share of them, through two kills: its truth file and our recount both agree."""
    truth = str(pipeline.directory / "truth.json")
    size = ("--campaigns", str(CAMPAIGNS), "--tags", str(TAGS))
    for seed in (1, 2):
        options = ("--events", "10000", "--seed", str(seed), "--truth", truth)
        assert pipeline.run("simulate", *size, *options).returncode == 0
        worker = pipeline.start("--slot", "a", batch_records=500)
        pipeline.wait_committed(pipeline.committed() + pipeline.rng.randrange(1, 8_000), worker)
        worker.kill()
    pipeline.run_to_end("--slot", "a")
    verified = pipeline.run("verify", "--truth", truth)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    recount = oracle.recount(pipeline.bootstrap, pipeline.input_topic, pipeline.campaign_of)
    rows = pipeline.rows()
    assert +Counter(rows.cells) == recount.cells
    assert recount.cells.total() == 20_000
    pipeline.balanced(recount.verdicts)
    assert oracle.quarantine(pipeline.bootstrap, pipeline.quarantine_topic).keys() >= recount.set_aside.keys()


@pytest.mark.long
def test_kill_in_a_transaction(pipeline: Pipeline) -> None:
    """Killed between publishing and committing, again and again: readers of committed messages never see it."""
    before = 0
    for _ in range(3):
        pipeline.produce(pipeline.traffic.take(1_000))
        worker = pipeline.start("--slot", "a", batch_records=20)
        pipeline.wait_committed(before + 1, worker)
        pipeline.freeze_in_transaction(worker)
        worker.kill()
        before = pipeline.committed()
    pipeline.run_to_end("--slot", "a")
    pipeline.exact()
    every = sum(1 for _ in oracle.messages(pipeline.bootstrap, pipeline.kpi_topic, "read_uncommitted"))
    assert every > sum(map(len, oracle.publications(pipeline.bootstrap, pipeline.kpi_topic).values()))
