"""What a worker's rate and memory depend on: one dimension at a time, everything else as it is by default.

    python -m benchmarks.growth --only batch campaigns --events 100000 --json growth.json
    python -m benchmarks.growth --only soak --soak-events 5000000

Each figure is of one worker, in a process of its own, on a store as good as new. `longest turn`: of the loop, once it
has partitions. `all done after`: from the first assignment until nothing was to be counted, committed or published.
Every run must count every event exactly once, or the benchmark fails.
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from benchmarks import worker
from benchmarks.archive import Events, fill
from benchmarks.system import System, systems, table
from benchmarks.throughput import PAIRS
from benchmarks.worker import Measured
from projector.backends import open_log, open_store
from projector.cli.app import configured
from projector.event import KPIS
from projector.patience import write_patiently
from projector.store import Clear, Outcome, Presence, Put, RowKey, Write

CAMPAIGNS, TAGS = 100, 10
FIRST_QUIET = 1_000_000
"""Ids from here on belong to campaigns without events."""
WRITE_ROWS = 1_000


class Case(NamedTuple):
    """One row of a table: the words of its first columns, and what was measured, one `Measured` per worker."""

    words: Sequence[str]
    found: list[Measured]


class Bench(NamedTuple):
    """What all dimensions are given."""

    pair: str
    directory: Path
    events: int
    soak_events: int
    soak_every: int

    @contextmanager
    def prepared(
        self,
        campaigns: int = CAMPAIGNS,
        tags: int = TAGS,
        events: int | None = None,
        partitions: int = 0,
        settings: Sequence[str] = (),
    ) -> Iterator[System]:
        """A system with so many campaigns and tags, and events for them in the topic. Raises `LookupError`."""
        for target in systems([self.pair], self.directory):
            made = target._replace(settings=(*target.settings, *settings))
            config = configured(None, list(made.settings))
            if partitions:
                with closing(open_log(config)) as log:
                    log.create_topic(config.input_topic, partitions, {"retention.ms": "-1", "retention.bytes": "-1"})
            made.run("migrate")
            sizes = ("--campaigns", str(campaigns), "--tags", str(tags))
            made.run("seed", *sizes)
            made.run("simulate", *sizes, "--events", str(self.events if events is None else events), "--clean")
            yield made
            return
        raise LookupError(self.pair)


def measured(target: System, events: int, workers: int = 1, tags_max: int = 0, every: int = 0) -> list[Measured]:
    """Run the workers; they must count all of `events`, each once."""
    found = worker.measured(target, workers, every, tags_max)
    counted = sum(each.counted for each in found)
    if counted != events:
        raise AssertionError(f"{counted:,} events were counted, not {events:,}")
    return found


def batch(bench: Bench) -> Iterator[Case]:
    """The size of a batch."""
    for records in (1_000, 10_000, 50_000):
        with bench.prepared(settings=[f"batch_records={records}"]) as target:
            yield Case([f"{records:,} records a batch"], measured(target, bench.events))
            target.run("balance")


def campaigns(bench: Bench) -> Iterator[Case]:
    """How many campaigns the events are for; of the last, nearly every event is a write of its own."""
    for width, tags in ((10, 1_000), (100, 1_000), (10_000, 10), (100_000, 1)):
        with bench.prepared(width, tags) as target:
            yield Case([f"{width:,} campaigns x {tags:,} tags"], measured(target, bench.events))
            target.run("balance")


def tags(bench: Bench) -> Iterator[Case]:
    """Tags known after the first batch, tags that are read once each, and more tags than the cache takes."""
    for each, bound in ((10, 0), (1_000, 0), (1_000, 50_000)):
        with bench.prepared(tags=each) as target:
            words = f"{CAMPAIGNS * each:,} tags, {f'a cache of {bound:,}' if bound else 'all cached'}"
            yield Case([words], measured(target, bench.events, tags_max=bound))
            target.run("balance")


def archive(bench: Bench) -> Iterator[Case]:
    """Ids that the campaigns hold already, in archived pages."""
    for held in (0, 1_000, 10_000, 100_000):
        with bench.prepared() as target:
            if held:
                with closing(open_store(configured(None, list(target.settings)))) as store:
                    fill(store, Events(list(range(1, CAMPAIGNS + 1))), held)
            yield Case([f"{held * CAMPAIGNS:,} archived ids"], measured(target, bench.events))


def sweep(bench: Bench) -> Iterator[Case]:
    """Rows that are looked at once after an assignment: beside a backlog, and after a start with nothing to count."""
    for rows in (0, 1_000, 10_000, 100_000):
        with bench.prepared() as target:
            _quiet_campaigns(target, rows)
            yield Case([f"{rows + CAMPAIGNS:,} rows", "beside a backlog"], measured(target, bench.events))
            yield Case([f"{rows + CAMPAIGNS:,} rows", "alone"], measured(target, 0))
            target.run("balance")


def _quiet_campaigns(target: System, rows: int) -> None:
    """Campaigns that were counted once, elsewhere, and have no events here."""
    stats = dict.fromkeys(sorted(KPIS), 1_000)
    with closing(open_store(configured(None, list(target.settings)))) as store:
        for first in range(FIRST_QUIET, FIRST_QUIET + rows, WRITE_ROWS):
            numbers = range(first, min(first + WRITE_ROWS, FIRST_QUIET + rows))
            answers = write_patiently(
                store,
                [
                    Write(
                        RowKey("campaigns", number),
                        [
                            *(Put("c-id", number), Put("stats", stats), Put("opening", stats)),
                            *(Put("seal", 0), Put("prev", 0), Put("pages", 0), Put("rev", 1)),
                            *(Clear("seen"), Clear("sealed")),
                        ],
                        Presence.ABSENT,
                    )
                    for number in numbers
                ],
            )
            assert {answer.outcome for answer in answers} == {Outcome.APPLIED}


def partitions(bench: Bench) -> Iterator[Case]:
    """Partitions of the input topic, all of them this worker's."""
    for count in (1, 12, 64, 256):
        with bench.prepared(partitions=count) as target:
            yield Case([f"{count} partitions"], measured(target, bench.events))
            target.run("balance")


def workers(bench: Bench) -> Iterator[Case]:
    """Workers of one group, with as many events for each; the rate is of all together, while all are at work."""
    for count in (1, 2, 3, 4):
        events = bench.events * count
        with bench.prepared(events=events) as target:
            yield Case([f"{count} workers"], measured(target, events, workers=count))
            target.run("balance")


def soak(bench: Bench) -> Iterator[Case]:
    """Memory over many events."""
    with bench.prepared(events=bench.soak_events) as target:
        yield Case(["soak"], measured(target, bench.soak_events, every=bench.soak_every))
        target.run("balance")


DIMENSIONS: dict[str, Callable[[Bench], Iterator[Case]]] = {
    each.__name__: each for each in (batch, campaigns, tags, archive, sweep, partitions, workers, soak)
}
HEAD = (
    "events/s",
    "in the second half",
    "CPU us/event",
    "peak RSS, MiB",
    "index, MiB",
    "longest turn, ms",
    "all done after, s",
)


def shown(case: Case) -> list[str]:
    """A row of the table; workers are added up, but for the memory and the turn, which are of the largest."""
    found = case.found
    counted = sum(each.counted for each in found)
    cpu_us = sum(each.cpu_us * each.counted for each in found) / counted if counted else 0.0
    return [
        *case.words,
        _rate([each.judged for each in found]),
        _rate([worker.second_half(each.judged) for each in found]),
        f"{cpu_us:.1f}" if counted else "",
        f"{max(each.rss_mib for each in found):,.0f}",
        f"{max(each.index_mib for each in found):,.1f}",
        f"{max(turn for each in found for turn in each.turns_s) * 1000:,.0f}",
        f"{max(each.owed_s for each in found):,.1f}",
    ]


def _rate(judged: Sequence[Sequence[worker.Judged]]) -> str:
    if not any(judged):
        return ""
    found = worker.rate(judged)
    return f"{found:,.0f}" if found else "too short"


def shown_soak(found: Measured) -> str:
    """Memory along the way, and what an id more takes."""
    head = ("events", "RSS, MiB", "ids of the ledger", "index, MiB", "RSS without the index, MiB")
    rows = [
        [
            f"{each.records:,}",
            f"{each.rss_mib:,.0f}",
            f"{each.ids:,}",
            f"{each.index_mib:,.1f}",
            f"{each.rss_mib - each.index_mib:,.0f}",
        ]
        for each in found.samples
    ]
    text = table(head, rows) + f"\n\n{found.rate:,.0f} events/s, peak RSS {found.rss_mib:,.0f} MiB"
    if len(found.samples) > 1:
        first, last = found.samples[0], found.samples[-1]
        ids = max(1, last.ids - first.ids)
        grown = [(last.rss_mib - first.rss_mib) * 2**20 / ids, (last.index_mib - first.index_mib) * 2**20 / ids]
        text += "; from the first sample to the last {:.1f} bytes of RSS an id, of the index {:.1f}".format(*grown)
    return text


def raw(dimension: str, pair: str, cases: Iterable[Case]) -> list[dict[str, Any]]:
    """For programs: everything that was measured."""
    return [
        {"dimension": dimension, "pair": pair, "case": list(words), "workers": msgspec.to_builtins(found)}
        for words, found in cases
    ]


def main() -> None:
    """Measure, and print a Markdown table for each dimension."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=tuple(DIMENSIONS), choices=DIMENSIONS, metavar="DIMENSION")
    parser.add_argument("--events", type=int, default=100_000, help="of each run; with several workers, of each")
    parser.add_argument("--soak-events", type=int, default=1_000_000)
    parser.add_argument("--soak-every", type=int, default=0, help="events between samples; a tenth by default")
    parser.add_argument("--pair", default="kafka+aerospike", choices=PAIRS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured")
    arguments = parser.parse_args()
    every = arguments.soak_every or max(1, arguments.soak_events // 10)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(arguments.pair, Path(name), arguments.events, arguments.soak_events, every)
        for dimension in arguments.only:
            print(f"\n### {dimension}, {arguments.pair}, load {os.getloadavg()[0]:.1f}\n", flush=True)
            try:
                cases = list(DIMENSIONS[dimension](bench))
            except LookupError:
                sys.exit(2)
            if dimension == "soak":
                print(*(shown_soak(case.found[0]) for case in cases), flush=True)
            else:
                columns = [dimension, *itertools.repeat("", len(cases[0].words) - 1)]
                print(table([*columns, *HEAD], [shown(case) for case in cases]), flush=True)
            results += raw(dimension, arguments.pair, cases)
            if arguments.json:
                arguments.json.write_text(json.dumps(results) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
