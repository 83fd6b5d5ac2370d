"""The Aerospike server dies or freezes under load, with a worker that runs on: nothing lost, nothing doubled."""

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from tests.aerospike_server import NOT_EXERCISED, Server
from tests.end_to_end import oracle
from tests.end_to_end.harness import ENVIRONMENT, Pipeline, Worker, eventually, wait_until

PER_SECOND = 3_000
AFTERWARDS_S = 0.5
OFTEN = {"batch_records": 500, "page_ids": 200}


class Score(NamedTuple):
    """Events over all cells (campaign, KPI): in the rows, in truth, missing in the rows, in excess there."""

    counted: int
    true: int
    lost: int
    doubled: int


def judge(pipeline: Pipeline) -> Score:
    """Truth, raw topic, rows, balance, ledger and publications agree; what differs fails the test."""
    truth = +pipeline.traffic.truth
    rows = pipeline.rows()
    cells = +Counter(rows.cells)
    score = Score(cells.total(), truth.total(), (truth - cells).total(), (cells - truth).total())
    print(f"counted / true: {score.counted} / {score.true}, lost {score.lost}, doubled {score.doubled}")
    recount = oracle.recount(pipeline.bootstrap, pipeline.input_topic, pipeline.campaign_of)
    assert recount.cells == truth, "the oracle and the truth differ: the test is wrong"
    assert cells == truth
    assert pipeline.caught_up()
    pipeline.balanced(recount.verdicts)
    pipeline.published(rows)
    assert oracle.quarantine(pipeline.bootstrap, pipeline.quarantine_topic) == recount.set_aside
    for words in (["balance"], ["ledger", "--check"]):
        command = [*pipeline.command(), *words[1:]]
        command[command.index("run")] = words[0]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    return score


def begin(pipeline: Pipeline, slot: str = "a", **settings: str | int) -> Worker:
    """A worker that has its partitions: from then on the broker answers for the group."""
    worker = pipeline.start("--slot", slot, **settings)
    wait_until(lambda: "assigned partitions [" in worker.said, "it has its partitions", worker)
    return worker


@pytest.fixture
def forgetful_server() -> Iterator[Server]:
    """One that forgets up to a second of acknowledged writes when it is killed, as the server's default is."""
    if shutil.which("asd") is None:
        pytest.skip(NOT_EXERCISED)
    server = Server(flush_max_ms=1_000)
    server.start()
    yield server
    server.remove()


def _disturb(pipeline: Pipeline, rounds: int, fault: Callable[[], None]) -> None:
    """In each round events flow at a steady rate while `fault` comes at a random moment; then everything is judged."""
    worker = begin(pipeline)
    for _ in range(rounds):
        before = pipeline.committed()
        feed = pipeline.feed(PER_SECOND)
        pipeline.wait_committed(before + pipeline.rng.randrange(1, PER_SECOND), worker)
        time.sleep(pipeline.rng.random())
        fault()
        time.sleep(AFTERWARDS_S)
        feed.stop()
        pipeline.wait_caught_up(worker)
        eventually(lambda: pipeline.published(pipeline.rows()))
    worker.stop()
    judge(pipeline)
    assert pipeline.traffic.verdicts["duplicate"] > pipeline.traffic.verdicts["consumed"] // 20


def _kill(make_pipeline: Callable[..., Pipeline], bootstrap: str, server: Server, rounds: int) -> None:
    pipeline = make_pipeline(bootstrap, aerospike=server.properties, settings=OFTEN).prepare()

    def fault() -> None:
        server.kill()
        time.sleep(pipeline.rng.random())
        server.start()

    _disturb(pipeline, rounds, fault)
    (worker,) = pipeline.workers
    assert worker.said.count("back to the checkpoint") >= rounds, "no kill was noticed: the test shows nothing"


@pytest.mark.long
def test_three_kills_of_the_server(
    make_pipeline: Callable[..., Pipeline], bootstrap: str, forgetful_server: Server
) -> None:
    """kill -9 and restart of the store: what it forgot is counted again, what it kept is not."""
    _kill(make_pipeline, bootstrap, forgetful_server, 3)


@pytest.mark.long
def test_ten_kills_of_the_server(
    make_pipeline: Callable[..., Pipeline], bootstrap: str, forgetful_server: Server
) -> None:
    """The same with ten kills."""
    _kill(make_pipeline, bootstrap, forgetful_server, 10)


@pytest.mark.long
def test_the_server_freezes(make_pipeline: Callable[..., Pipeline], bootstrap: str, aerospike_server: Server) -> None:
    """Frozen for 3 s, twice: writes whose answer came late, or never, count once."""
    pipeline = make_pipeline(bootstrap, aerospike=aerospike_server.properties, settings=OFTEN).prepare()

    def fault() -> None:
        aerospike_server.pause()
        time.sleep(3)
        aerospike_server.resume()

    _disturb(pipeline, 2, fault)
