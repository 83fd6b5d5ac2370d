"""Rebuild, cutover and rollback under traffic and kill -9: the live generation is the truth after every step."""

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress

import pytest
from confluent_kafka import TopicPartition

from projector.backends import open_store
from projector.generation import Generation
from projector.pointer import Pointer, read_pointer
from tests.end_to_end import oracle
from tests.end_to_end.harness import Pipeline, Worker, eventually, miscount, wait_until
from tests.end_to_end.traffic import CLEAN

PER_SECOND = 2_000
# A worker that was killed as a static member keeps its place in the group for so long.
SESSION_MS = 6_000


def _pointer(pipeline: Pipeline) -> Pointer:
    with closing(open_store(pipeline.config)) as store:
        found = read_pointer(store, 0)
    assert found is not None
    return found


def _judge(pipeline: Pipeline, number: int, *workers: Worker) -> None:
    """That generation is live; it, the balance, and what readers were told are the truth."""
    pointer = _pointer(pipeline)
    assert (pointer.live, pointer.closing) == (number, False)
    pipeline.live = Generation(number, pipeline.group)
    pipeline.wait_caught_up(*workers)
    eventually(pipeline.exact)
    balance = pipeline.run("balance")
    assert balance.returncode == 0, balance.stdout + balance.stderr

    def told() -> None:
        messages = oracle.publications(pipeline.bootstrap, pipeline.kpi_topic)
        epochs = {each.epoch for of in messages.values() for each in of}
        assert epochs <= set(range(1, pointer.epoch + 1)), f"told under epochs {epochs}"
        silent = [cell for cell in +pipeline.traffic.truth if messages[cell][-1].epoch != pointer.epoch]
        assert not silent, f"not told under epoch {pointer.epoch}: {silent}"

    eventually(told)


class Rebuild:
    """`projector rebuild` as an operator gives it, again and again, while somebody kills."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._command = self._begin()

    def _begin(self) -> Worker:
        return self._pipeline.begin("rebuild", "--yes", "--workers", "2")

    def kill(self, victim: str) -> None:
        """kill -9 of the command, or of a worker: of one that is `muted`, or one that is `live`."""
        self._wait_moment(victim)
        if victim == "command":
            self._command.kill()
            self._command = self._begin()
            return
        workers = self._pipeline.supervised(building=victim == "muted")
        if not workers:
            return
        slot, pid = self._pipeline.rng.choice(sorted(workers.items()))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if victim == "live":
            wait_until(lambda: self._pipeline.supervised().get(slot, pid) != pid, "it is started again")

    def finish(self) -> None:
        """It must end with 0."""
        self._command.ends(0)

    def _wait_moment(self, victim: str) -> None:
        """Some time while it runs and there is somebody to kill; one that has ended well is followed by another."""
        rng = self._pipeline.rng
        while True:
            if rng.random() < 0.3:
                self._wait(lambda: _pointer(self._pipeline).closing)
                time.sleep(rng.random() * 0.2)
            else:
                time.sleep(rng.random() * 3)
            if victim != "command":
                self._wait(lambda: bool(self._pipeline.supervised(building=victim == "muted")))
            if self._command.running:
                print(f"kill -9 of {victim}: {_pointer(self._pipeline).state}")
                return
            self.finish()
            self._command = self._begin()

    def _wait(self, condition: Callable[[], bool]) -> None:
        wait_until(lambda: condition() or not self._command.running, "the moment comes")


def _there_and_back(pipeline: Pipeline, victims: Sequence[str]) -> None:
    pipeline.settings["kafka.session.timeout.ms"] = str(SESSION_MS)
    pipeline.produce(pipeline.traffic.take(20_000))
    live = pipeline.start("--workers", "2")
    pipeline.wait_committed(20_000, live)
    feed = pipeline.feed(PER_SECOND)
    rebuild = Rebuild(pipeline)
    for victim in victims:
        rebuild.kill(victim)
    followers = pipeline.supervised()
    rebuild.finish()
    rebuilt = _pointer(pipeline).live
    time.sleep(1)
    feed.stop()
    _judge(pipeline, rebuilt, live)
    before = [entry.before for entry in _pointer(pipeline).entries][-1]
    feed = pipeline.feed(PER_SECOND)
    rollback = pipeline.begin("rollback", "--yes")
    rollback.ends(0)
    time.sleep(1)
    feed.stop()
    _judge(pipeline, before, live)
    assert pipeline.supervised() == followers, "the live workers have followed by themselves"
    live.stop()


@pytest.mark.long
def test_three_kills(case: Pipeline) -> None:
    """The command, a muted worker and a live one are killed in turn, then cutover and rollback: exact after each."""
    victims = ["command", "muted", "live"]
    case.rng.shuffle(victims)
    _there_and_back(case, victims)


@pytest.mark.long
def test_ten_kills(either: Pipeline) -> None:
    """The same with ten kills."""
    _there_and_back(either, [either.rng.choice(("command", "command", "muted", "live")) for _ in range(10)])


def test_a_miscount(case: Pipeline) -> None:
    """One id counted as another KPI: exactly those two cells and that id are named, and nothing is switched.

    Accepted with a reason, the right numbers are published, by the next worker that comes.
    """
    pipeline = case
    pipeline.produce(pipeline.traffic.take(3_000))
    pipeline.run_to_end("--slot", "a")
    with closing(open_store(pipeline.config)) as store:
        event_id = miscount(store, 3, "impressions", "visits")
    refused = pipeline.run("rebuild", "--yes", "--json")
    assert refused.returncode == 1, refused.stderr
    told = json.loads(refused.stdout)
    cells = [(each["campaign"], each["kpi"], each["live"], each["rebuilt"]) for each in told["cells"]]
    visits, impressions = (pipeline.traffic.truth[3, kpi] for kpi in ("visits", "impressions"))
    assert sorted(cells) == [(3, "impressions", impressions - 1, impressions), (3, "visits", visits + 1, visits)]
    assert [each["id"] for each in told["differences"]] == [event_id]
    assert (_pointer(pipeline).live, _pointer(pipeline).epoch, _pointer(pipeline).entries) == (1, 1, [])
    accepted = pipeline.run("cutover", "2", "--yes", "--accept-differences", "was miscounted")
    assert accepted.returncode == 0, accepted.stderr
    assert [(each.why, each.after) for each in _pointer(pipeline).entries] == [("was miscounted", 2)]
    pipeline.run_to_end("--slot", "a")
    _judge(pipeline, 2)


def test_the_head_is_gone(pipeline: Pipeline) -> None:
    """Refused, with partitions and offsets; with --carry exact under traffic, and it says how many came from where."""
    pipeline.produce(pipeline.traffic.take(4_000, CLEAN))
    pipeline.run_to_end("--slot", "a")
    heads = {0: 700, 2: 300}
    asked = [TopicPartition(pipeline.input_topic, partition, head) for partition, head in heads.items()]
    for future in pipeline.admin.delete_records(asked).values():
        future.result(30)
    refused = pipeline.run("rebuild", "--yes")
    assert refused.returncode == 3, refused.stderr
    assert "(partition: offsets 0: 0 to 699, 2: 0 to 299)" in refused.stderr
    live = pipeline.start("--workers", "2")
    feed = pipeline.feed(PER_SECOND, pipeline.traffic.take(5_000))
    carried = pipeline.run("rebuild", "--yes", "--carry", "--json")
    assert carried.returncode == 0, carried.stderr
    told = json.loads(carried.stdout)
    assert (told["result"], told["same"], told["carried"]) == ("switched", True, 1_000)
    feed.join()
    pipeline.live = Generation(2, pipeline.group)
    pipeline.wait_caught_up(live)

    def exact() -> None:
        rows = pipeline.rows()
        assert +Counter(rows.cells) == pipeline.traffic.truth
        pipeline.balanced({**pipeline.traffic.verdicts, **_carried(pipeline.traffic.verdicts, 1_000)})
        pipeline.published(rows)

    eventually(exact)
    live.stop()
    balance = json.loads(pipeline.run("balance", "--json").stdout)
    assert balance["holds"]
    assert balance["committed"]["carried"] == 1_000


def _carried(verdicts: Mapping[str, int], ids: int) -> dict[str, int]:
    """So many were carried over, and neither consumed nor counted."""
    return {"carried": ids, "consumed": verdicts["consumed"] - ids, "counted": verdicts["counted"] - ids}
