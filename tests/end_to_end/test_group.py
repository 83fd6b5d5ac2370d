"""Several workers on one topic: deaths, zombies, rebalances. At rest the last message of everything equals the row."""

import re
import signal
from collections import Counter

import pytest

from tests.end_to_end.harness import Pipeline, eventually, wait_until

FIVE_MINUTES = {"kafka__session__timeout__ms": 300_000, "kafka__max__poll__interval__ms": 300_000}
SHORT = {
    "kafka__session__timeout__ms": 2_000,
    "kafka__heartbeat__interval__ms": 300,
    "kafka__transaction__timeout__ms": 2_000,
}


def test_either_of_two_workers_dies(either: Pipeline) -> None:
    """A worker that was killed goes on at once in its slot, although its session lasts five minutes."""
    workers = {slot: either.start("--slot", slot, batch_records=500, **FIVE_MINUTES) for slot in "ab"}
    wait_until(lambda: len(either.members()) == 2, "both are members", *workers.values())
    for victim in "ab":
        before = either.committed()
        feed = either.feed(5_000, either.traffic.take(10_000))
        either.wait_committed(before + either.rng.randrange(6_000), *workers.values())
        workers[victim].kill()
        workers[victim] = either.start("--slot", victim, batch_records=500, **FIVE_MINUTES)
        feed.join()
        either.wait_caught_up(*workers.values())
        eventually(either.exact)
    for worker in workers.values():
        worker.kill()
    either.exact()


def test_the_last_word_of_the_dead(pipeline: Pipeline) -> None:
    """A worker publishes older totals after newer ones and dies before it can mend that: its successor does."""
    slow = pipeline.start("--slot", "a", settle_ms=4_000, **FIVE_MINUTES)
    slow.wait_said("assigned partitions [")
    fast = pipeline.start("--slot", "b", **FIVE_MINUTES)
    fast.wait_said("assigned partitions [")
    (given,) = re.findall(r"assigned partitions \[([\d, ]+)\]", fast.said)
    for partitions in ([], [int(number) for number in given.split(",")]):
        pipeline.produce(pipeline.traffic.take(1_000), partitions)
        wait_until(lambda: Counter(pipeline.rows().cells) == pipeline.traffic.truth, "all is applied", slow, fast)
    pipeline.wait_caught_up(slow, fast)
    slow.kill()
    with pytest.raises(AssertionError, match="the last message"):
        pipeline.published(pipeline.rows())
    heir = pipeline.start("--slot", "a", **FIVE_MINUTES)
    eventually(pipeline.exact)
    assert heir.running
    assert fast.running


def test_zombie(pipeline: Pipeline) -> None:
    """Stopped inside a transaction until another worker has its partitions, then continued: it joins again."""
    workers = {slot: pipeline.start("--slot", slot, batch_records=20, **SHORT) for slot in "ab"}
    wait_until(lambda: len(pipeline.members()) == 2, "both are members", *workers.values())
    for zombie in workers.values():
        pipeline.freeze_in_transaction(zombie)
        feed = pipeline.feed(3_000, pipeline.traffic.take(9_000))
        wait_until(lambda: len(pipeline.members()) == 1, "the zombie is out")
        feed.join()
        pipeline.wait_caught_up()
        zombie.signal(signal.SIGCONT)
        wait_until(lambda: len(pipeline.members()) == 2, "the zombie joins again", *workers.values())
        pipeline.produce(pipeline.traffic.take(3_000))
        pipeline.wait_caught_up(*workers.values())
        eventually(pipeline.exact)
    for worker in workers.values():
        worker.stop()
    pipeline.exact()


def test_zombie_whose_slot_is_taken(pipeline: Pipeline) -> None:
    """Stopped inside a transaction until a new process has its slot, then continued: exit 8, nothing of it counts."""
    zombie = pipeline.start("--slot", "a", batch_records=20)
    pipeline.freeze_in_transaction(zombie)
    heir = pipeline.start("--slot", "a")
    pipeline.wait_caught_up(heir)
    zombie.signal(signal.SIGCONT)
    zombie.ends(8)
    pipeline.produce(pipeline.traffic.take(2_000))
    pipeline.wait_caught_up(heir)
    eventually(pipeline.exact)


@pytest.mark.long
def test_ten_rebalances(pipeline: Pipeline) -> None:
    """A second worker joins and leaves five times under load."""
    stays = pipeline.start("--slot", "a", batch_records=500)
    feed = pipeline.feed(2_000, pipeline.traffic.take(20_000))
    pipeline.wait_committed(1, stays)
    for _ in range(5):
        comes = pipeline.start("--slot", "b", batch_records=500)
        comes.wait_said("assigned partitions [")
        comes.stop()
        assert pipeline.members() == [f"{pipeline.group}-a"]
    feed.join()
    pipeline.wait_caught_up(stays)
    eventually(pipeline.exact)
