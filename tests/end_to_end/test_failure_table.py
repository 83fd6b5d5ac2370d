"""The cases in which the reference implementation lost or doubled events: here each is counted to the unit.

On Aerospike where there is a server, else on the embedded store; each test prints counted / true (`pytest -s`).
"""

import time
from collections.abc import Callable, Mapping

import pytest

from tests.aerospike_server import Server
from tests.end_to_end.harness import Pipeline, wait_until
from tests.end_to_end.test_store_faults import begin, judge
from tests.end_to_end.traffic import CLEAN

REDELIVERED: Mapping[str, float] = {"near": 0.05, "far": 0.05}


def _exactly(pipeline: Pipeline, true: int) -> None:
    """All that holds at rest, and as many events as the case has."""
    assert judge(pipeline) == (true, true, 0, 0)


def _backlog(case: Pipeline, events: int) -> None:
    case.produce(case.traffic.take(events, CLEAN))
    case.run_to_end()
    _exactly(case, events)


def test_backlog_of_20_000(case: Pipeline) -> None:
    """Everything stands in the topic before the first worker starts (the reference counted 1,000 of 200,000)."""
    _backlog(case, 20_000)


@pytest.mark.long
def test_backlog_of_200_000(case: Pipeline) -> None:
    """The same at full size."""
    _backlog(case, 200_000)


@pytest.mark.long
def test_steady_3_000_a_second(case: Pipeline) -> None:
    """12 seconds of 3,000 events (the reference counted 25,328 of 36,000)."""
    worker = begin(case)
    case.feed(3_000, case.traffic.take(36_000, CLEAN)).join()
    case.wait_caught_up(worker)
    worker.stop()
    _exactly(case, 36_000)


def _three_kills(case: Pipeline, events: int) -> None:
    worker = begin(case, batch_records=500)
    feed = case.feed(1_000, case.traffic.take(events, CLEAN))
    for part in range(3):
        case.wait_committed(events * part // 4 + case.rng.randrange(1, events // 4), worker)
        time.sleep(case.rng.random() * 0.3)
        assert feed.running, "killed after the load"
        worker.kill()
        worker = begin(case, batch_records=500)
    feed.join()
    case.wait_caught_up(worker)
    worker.stop()
    _exactly(case, events)


@pytest.mark.long
def test_three_kills_at_1_000_a_second(case: Pipeline) -> None:
    """kill -9 of the worker while events arrive, started again at once."""
    _three_kills(case, 12_000)


@pytest.mark.long
def test_three_kills_of_40_000(case: Pipeline) -> None:
    """The same at full size (the reference counted 26,063)."""
    _three_kills(case, 40_000)


def test_a_tenth_redelivered(case: Pipeline) -> None:
    """20,000 records, a tenth of them sent before, spelled the same or not (the reference counted all of them)."""
    worker = begin(case)
    case.feed(10_000, case.traffic.take(20_000, REDELIVERED)).join()
    case.wait_caught_up(worker)
    worker.stop()
    assert 1_500 < case.traffic.verdicts["duplicate"] < 2_500
    _exactly(case, 20_000 - case.traffic.verdicts["duplicate"])


def test_two_instances(case: Pipeline) -> None:
    """Two workers count 20,000 events once (the reference 40,000)."""
    workers = [case.start("--slot", slot, batch_records=500) for slot in "ab"]
    wait_until(lambda: len(case.members()) == 2, "both are members", *workers)
    case.feed(5_000, case.traffic.take(20_000, CLEAN)).join()
    case.wait_caught_up(*workers)
    for worker in workers:
        worker.stop()
    _exactly(case, 20_000)


def test_store_frozen_for_3_s(make_pipeline: Callable[..., Pipeline], bootstrap: str, aerospike_server: Server) -> None:
    """20,000 events while Aerospike does not answer for 3 s (the reference counted 17,100)."""
    case = make_pipeline(bootstrap, aerospike=aerospike_server.properties).prepare()
    worker = begin(case, batch_records=500)
    feed = case.feed(4_000, case.traffic.take(20_000, CLEAN))
    case.wait_committed(case.rng.randrange(1, 4_000), worker)
    assert feed.running, "frozen after the load"
    aerospike_server.pause()
    time.sleep(3)
    aerospike_server.resume()
    feed.join()
    case.wait_caught_up(worker)
    worker.stop()
    _exactly(case, 20_000)
