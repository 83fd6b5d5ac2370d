"""One worker in a process of its own, from the beginning of the topic to its end: rate, memory and longest turn.

    python -m benchmarks.worker --slot bench-0 --set ...

prints one JSON object. The rate is that between the first and the last batch: without start, join and leave.
"""

import argparse
import itertools
import json
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from benchmarks.system import System
from projector import campaign
from projector.backends import open_log, open_store
from projector.cli.app import configured
from projector.cli.run import spare_the_collector
from projector.config import Config
from projector.log import Record
from projector.preflight import preflight
from projector.projector import Projector

QUIET_S = 3.0
"""Several workers are ready to begin, all at once, when no partition of theirs has moved for so long."""
PAGE_BYTES = resource.getpagesize()


class Judged(NamedTuple):
    """How many records had a verdict at a moment, in seconds of the machine's monotonic clock."""

    at: float
    records: int


class Sample(NamedTuple):
    """What the process held once so many records had a verdict."""

    records: int
    rss_mib: float
    ids: int
    index_mib: float


class Measured(msgspec.Struct):
    """What one worker did. `turns_s` are its longest turns since it first had partitions, longest first."""

    counted: int
    rate: float
    owed_s: float
    """From the first assignment until nothing was to be counted, committed or published any more."""
    cpu_us: float
    rss_mib: float
    ids: int
    index_mib: float
    turns_s: list[float]
    judged: list[Judged]
    samples: list[Sample]


class TimedProjector(Projector):
    """A worker that notes how long its turns take and how far it is after each."""

    every = 0
    """Take a sample whenever so many records more have a verdict; 0: none."""
    together = 1
    """Read nothing until so many workers are members and have their partitions."""

    def begin(self) -> None:
        """Nothing is noted yet."""
        self.moved_at = time.monotonic()
        self.ready = False
        self.assigned_at: float | None = None
        self.turns_s: list[float] = []
        self.judged: list[Judged] = []
        self.samples: list[Sample] = []

    def turn(self) -> None:
        """One turn, timed."""
        began = time.monotonic()
        super().turn()
        now = time.monotonic()
        if self.assigned_at is not None:
            self.turns_s.append(now - began)
        elif self.metrics.assignments and self.together == 1:
            self.assigned_at = now
        records = self.metrics.consumed + self.metrics.queue.records
        if records and (not self.judged or records != self.judged[-1].records):
            self.judged.append(Judged(now, records))
            if self.every and records // self.every > len(self.samples):
                held = self.metrics.held
                self.samples.append(Sample(records, _rss_mib(), held.ids, held.index_bytes / 2**20))

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """Note that partitions move."""
        self.moved_at = time.monotonic()
        return super().assigned(partitions)

    def revoked(self, partitions: Sequence[int]) -> None:
        """Note that partitions move."""
        self.moved_at = time.monotonic()
        super().revoked(partitions)

    def _poll(self) -> list[Record]:
        if self.together > 1 and not self._begins():
            self.member.pause(True)
            return self.member.poll(1, 50)
        return super()._poll()

    def _begins(self) -> bool:
        """Whether all are there, and whoever started them has let them go; from then on it is not asked again."""
        now = time.monotonic()
        if self.ready:
            if select.select([sys.stdin], [], [], 0)[0]:
                self.together = 1
                # A seek wakes the client, which else takes up to a second to go on after a pause.
                self.member.seek({partition: offset for partition, (offset, _) in self._positions.items()})
        elif now - self.moved_at > QUIET_S and len(self._log.members(self._generation.group)) >= self.together:
            self.ready = True
            print("ready", flush=True)
        return self.together == 1


def _rss_mib() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * PAGE_BYTES / 2**20


def work(config: Config, slot: str, every: int, together: int) -> Measured:
    """Run a worker in this process."""
    spare_the_collector()
    log, store = open_log(config), open_store(config)
    cleared = preflight(log, store, config)
    worker = TimedProjector(log, store, config, cleared.generation, cleared.epoch, slot, cleared.settle_s)
    worker.every, worker.together = every, together
    worker.begin()
    worker.run(until_end=True, stopping=lambda: False)
    ended = time.monotonic()
    times = os.times()
    return Measured(
        counted=worker.metrics.counted,
        rate=rate([worker.judged]),
        owed_s=ended - (worker.assigned_at or ended),
        cpu_us=(times.user + times.system) * 1e6 / max(1, worker.metrics.consumed),
        rss_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        ids=worker.metrics.held.ids,
        index_mib=worker.metrics.held.index_bytes / 2**20,
        turns_s=sorted(worker.turns_s, reverse=True)[:10],
        judged=worker.judged,
        samples=worker.samples,
    )


def rate(workers: Sequence[Sequence[Judged]]) -> float:
    """Records a second of all together, while each of them was at work; 0.0 where that was never."""
    if not all(len(each) > 1 for each in workers):
        return 0.0
    begin, end = max(each[0].at for each in workers), min(each[-1].at for each in workers)
    if begin >= end:
        return 0.0
    return sum(_at(each, end) - _at(each, begin) for each in workers) / (end - begin)


def second_half(judged: Sequence[Judged]) -> list[Judged]:
    """From half of the records on: campaigns and tags have mostly been met by then."""
    return [each for each in judged if each.records * 2 >= judged[-1].records] if judged else []


def _at(judged: Sequence[Judged], at: float) -> float:
    """How many records it had judged at that moment, between two that are known."""
    for before, after in itertools.pairwise(judged):
        if before.at <= at <= after.at:
            return before.records + (after.records - before.records) * (at - before.at) / (after.at - before.at)
    raise ValueError(f"nothing is known of {at}")


def measured(target: System, workers: int = 1, every: int = 0, tags_max: int = 0) -> list[Measured]:
    """So many workers at once, each in a process of its own. Raises `CalledProcessError`."""
    settings = [word for setting in target.settings for word in ("--set", setting)]
    options = ["--every", str(every), "--together", str(workers), "--tags-max", str(tags_max)]
    commands = [
        [sys.executable, "-m", "benchmarks.worker", "--slot", f"bench-{n}", *options, *settings] for n in range(workers)
    ]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for command in commands]
    if workers > 1:
        for process in processes:
            assert process.stdout
            process.stdout.readline()  # ready, or dead
    for process in processes:
        assert process.stdin
        with suppress(BrokenPipeError):
            process.stdin.close()
        process.stdin = None
    printed = [process.communicate()[0] for process in processes]
    for process in processes:
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, process.args)
    return [msgspec.json.decode(each, type=Measured) for each in printed]


def main() -> None:
    """Run one, and print what it did."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slot", default="bench-0")
    parser.add_argument("--every", type=int, default=0, help="sample the memory whenever so many records are judged")
    parser.add_argument("--together", type=int, default=1, help="begin once so many workers have their partitions")
    parser.add_argument("--tags-max", type=int, default=0, help="bound of the cache of tags, in place of the program's")
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    if arguments.tags_max:
        campaign.TAGS_MAX = arguments.tags_max
    found = work(configured(None, arguments.set), arguments.slot, arguments.every, arguments.together)
    print(json.dumps(msgspec.to_builtins(found)))


if __name__ == "__main__":
    main()
