"""The ledger with a large archive: does an event cost the same, whatever the campaign holds already?

    python -m benchmarks.archive --campaigns 5 --ids 1000000

The ledger alone on Aerospike, in this process: neither log nor decoding is measured. Figures that are compared take
turns on one server, so that a slow moment of the machine hits all alike. Archives are written page by page beforehand.
"""

import argparse
import gc
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.system import table
from projector.backends.aerospike import AerospikeStore
from projector.chain import Chains
from projector.event import KPIS
from projector.fold import Change, EventId, Sighting
from projector.generation import Generation
from projector.ledger import Ledger, row_bound
from projector.page import BEFORE_MAX, NO_PAGE, ROOT, Page, operations, page_key
from projector.patience import Patience
from projector.settling import Settling, settle_seconds
from projector.store import ROW_BYTES, Clear, Operation, Presence, Put, Read, RowKey, Store, Write
from tests.aerospike_server import Server

BATCH = 10_000
PAGE_IDS = 1_024
INDEX_BYTES_MAX = 2 << 30
SECOND = 1_767_225_600
GENERATION = Generation(1, "bench")
Numbers: TypeAlias = NDArray[np.uint64]


class Worker:
    """The ledger of one worker with cold caches, as `projector run` builds it; it keeps the largest row it saw."""

    def __init__(self, store: Store) -> None:
        patience = Patience()
        settling = Settling(store, settle_seconds(store, "auto", False), patience, time.monotonic)
        settling.renew()
        self.store = store
        self.chains = Chains(store, GENERATION, patience, settling, time.monotonic, PAGE_IDS, INDEX_BYTES_MAX)
        bound = row_bound(store, "auto")
        self.ledger = Ledger(store, self.chains, GENERATION.pages, patience, bound, time.sleep)
        self.row_bytes = 0

    def apply(self, changes: Mapping[int, Change]) -> int:
        """Judge a batch; how many were counted."""
        judged = self.ledger.apply(changes)
        self.row_bytes = max([self.row_bytes, *(self.chains[campaign].row_bytes for campaign in changes)])
        return sum(len(judgement.counted) for judgement in judged.values())

    def counts(self, campaigns: list[int]) -> list[int]:
        """What each campaign counts."""
        rows = self.store.read([Read(RowKey("campaigns", campaign), ("stats",)) for campaign in campaigns])
        return [sum(row.bins["stats"].values()) for row in rows if row]


class Events:
    """Distinct ids by number; the same number is the same id."""

    def __init__(self, campaigns: list[int]) -> None:
        self.campaigns = campaigns
        self.sent = 0
        self.offset = 0

    def batch(self, records: int = BATCH, duplicates: float = 0.0) -> dict[int, Change]:
        """The next batch; `duplicates` of it repeat earlier events, half of them any, half of the last two batches."""
        repeated = int(records * duplicates)
        new = np.arange(self.sent, self.sent + records - repeated, dtype=np.uint64)
        self.sent += len(new)
        far = np.random.default_rng(self.sent).integers(0, self.sent, repeated // 2, dtype=np.uint64)
        near_from = max(0, self.sent - 2 * records)
        near = np.random.default_rng(self.sent + 1).integers(near_from, self.sent, repeated - len(far), dtype=np.uint64)
        return self._changes(np.unique(np.concatenate([new, far, near])))

    def again(self, first: int, records: int) -> dict[int, Change]:
        """A batch of the first pass once more, at its own positions."""
        self.offset = first
        return self._changes(np.arange(first, first + records, dtype=np.uint64))

    def ids(self, numbers: Numbers) -> dict[EventId, Sighting]:
        """The ids of these numbers, with sightings."""
        words = np.stack([numbers * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(self.campaigns[0]), numbers], axis=1)
        blob = words.astype("<u8").tobytes()
        found: dict[EventId, Sighting] = {
            blob[place * 16 : place * 16 + 16]: [number & 3, SECOND + number // 1_000, 0, self.offset + place]
            for place, number in enumerate(numbers.tolist())
        }
        self.offset += len(found)
        return found

    def _changes(self, numbers: Numbers) -> dict[int, Change]:
        """Number n belongs to campaign n modulo their number."""
        width = np.uint64(len(self.campaigns))
        return {
            campaign: Change(self.ids(chosen))
            for place, campaign in enumerate(self.campaigns)
            if len(chosen := numbers[numbers % width == place])
        }


def create(store: Store, campaigns: list[int]) -> None:
    """Empty campaigns."""
    stats = dict.fromkeys(sorted(KPIS), 0)
    store.write(
        [Write(RowKey("campaigns", c), [Put("c-id", c), Put("stats", stats)], Presence.ABSENT) for c in campaigns]
    )


class Spent(NamedTuple):
    """What some batches took: records, seconds, and seconds of this process on a CPU (without the server's)."""

    records: int
    seconds: float
    cpu_s: float

    @property
    def rate(self) -> float:
        """Records a second."""
        return self.records / self.seconds


def timed(worker: Worker, batches: Iterable[dict[int, Change]]) -> Spent:
    """Apply each batch. Building it is not measured."""
    records, seconds, cpu_s = 0, 0.0, 0.0
    for batch in batches:
        records += sum(len(change.ids) for change in batch.values())
        began, cpu_began = time.monotonic(), time.process_time()
        worker.apply(batch)
        seconds += time.monotonic() - began
        cpu_s += time.process_time() - cpu_began
    return Spent(records, seconds, cpu_s)


def fill(store: Store, events: Events, ids: int) -> None:
    """Archive `ids` events a campaign in pages of PAGE_IDS, as a worker would that is never in a hurry."""
    events.sent = ids * len(events.campaigns)
    for place, campaign in enumerate(events.campaigns):
        seals: list[int] = []
        head = ROOT
        counts: Counter[int] = Counter()
        for first in range(0, ids, PAGE_IDS):
            numbers = np.arange(first, min(ids, first + PAGE_IDS), dtype=np.uint64) * len(events.campaigns) + place
            before = seals[: -BEFORE_MAX - 1 : -1]
            page = Page(campaign, random.getrandbits(62) + 1, events.ids(numbers), before, head).bins()
            key = page_key(GENERATION.pages, campaign, page["seal"])
            store.write([Write(key, operations(page), Presence.ABSENT)])
            seals.append(page["seal"])
            counts.update(page["counts"])
            head = page["digest"]
        stats = {kpi: counts[code] for code, kpi in sorted(enumerate(KPIS), key=lambda one: one[1])}
        made: list[Operation] = [
            Put("stats", stats),
            Put("seal", seals[-1] if seals else NO_PAGE),
            Put("prev", NO_PAGE),
        ]
        made += [Put("pages", len(seals)), Put("head", head), Put("rev", len(seals)), Clear("seen"), Clear("sealed")]
        store.write([Write(RowKey("campaigns", campaign), made)])


def in_turns(
    runs: Mapping[str, Callable[[], dict[int, Change]]], workers: Mapping[str, Worker], turns: int
) -> dict[str, list[Spent]]:
    """Per name and turn, five batches each in turn; one batch of each before, which loads its caches."""
    for name, make in runs.items():
        workers[name].apply(make())
    found: dict[str, list[Spent]] = {name: [] for name in runs}
    for _ in range(turns):
        for name, make in runs.items():
            found[name].append(timed(workers[name], (make() for _ in range(5))))
    return found


def shown(name: str, measured: list[Spent], base: list[Spent]) -> list[str]:
    """A row of the table: median rate, the median and the range of the ratios within a turn, CPU of this process."""
    ratios = [one.rate / other.rate for one, other in zip(measured, base, strict=True)]
    return [
        name,
        f"{statistics.median(one.rate for one in measured):,.0f}",
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
        f"{statistics.median(one.cpu_s / one.records for one in measured) * 1e6:.1f}",
    ]


def campaign_sets(width: int) -> Iterator[list[int]]:
    """Campaigns that nobody else has."""
    first = 1
    while True:
        yield list(range(first, first + width))
        first += width


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--campaigns", type=int, default=5, help="with the largest archive, and as many with the others"
    )
    parser.add_argument("--ids", type=int, default=1_000_000, help="of the largest archive, per campaign")
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    gc.disable()
    server = Server().start()
    try:
        with closing(AerospikeStore(server.properties)) as store:
            measure(store, arguments.campaigns, arguments.ids, arguments.turns)
    finally:
        server.remove()


def measure(store: Store, width: int, ids: int, turns: int) -> None:
    """Everything, on one store."""
    print(
        f"load before: {os.getloadavg()[0]:.1f}; {width} campaigns an archive, {BATCH:,} records a batch\n", flush=True
    )
    sets = campaign_sets(100)
    rows: list[list[str]] = []
    workers: dict[str, Worker] = {}
    events: dict[str, Events] = {}

    def prepare(name: str, campaigns: int, held: int) -> None:
        events[name], workers[name] = Events(next(sets)[:campaigns]), Worker(store)
        create(store, events[name].campaigns)
        fill(store, events[name], held)

    sizes = [f"{count:,} archived ids a campaign" for count in (1_000, ids // 10, ids)]
    for name, count in zip(sizes, (1_000, ids // 10, ids), strict=True):
        prepare(name, width, count)
    found = in_turns({name: events[name].batch for name in sizes}, workers, turns)
    rows += [shown(name, found[name], found[sizes[0]]) for name in sizes]

    prepare("100 campaigns", 100, 1_000)
    prepare("one hot campaign", 1, 10_000)
    many = ["100 campaigns", "one hot campaign"]
    found = in_turns({name: events[name].batch for name in many}, workers, turns)
    rows += [shown(name, found[name], found[many[0]]) for name in many]

    shares = {f"{share:.0%} duplicates": share for share in (0.0, 0.01, 0.05)}
    for name in shares:
        prepare(name, 100, 2_000)
    found = in_turns(
        {name: (lambda name=name, share=share: events[name].batch(duplicates=share)) for name, share in shares.items()},  # type: ignore[misc]  # bound now
        workers,
        turns,
    )
    rows += [shown(name, found[name], found["0% duplicates"]) for name in shares]

    first = Events(next(sets))
    create(store, first.campaigns)
    worker = Worker(store)
    batches = 20
    passed = [timed(worker, (first.batch() for _ in range(batches)))]
    cold = Worker(store)
    again = [timed(cold, (first.again(n * BATCH, BATCH) for n in range(batches)))]
    rows += [shown("first pass", passed, passed), shown("full replay, cold worker", again, passed)]
    assert sum(cold.counts(first.campaigns)) == batches * BATCH, "the replay counted something"
    print(table(("what", "records/s", "ratio", "client CPU us/record"), rows))

    cold = Worker(store)
    largest = events[sizes[-1]].campaigns
    began = time.monotonic()
    cold.chains.load(largest)
    seconds = time.monotonic() - began
    indexed = sum(len(cold.chains[campaign].index) for campaign in largest)
    memory = sum(cold.chains[campaign].memory_bytes for campaign in largest)
    pages = sum(len(cold.chains[campaign].pages) for campaign in largest)
    print(
        f"\nindex load: {indexed / seconds:,.0f} ids/s ({indexed:,} ids in {pages:,} pages, "
        f"{memory / indexed:.1f} bytes an id)"
    )
    names = [*workers]
    biggest = max(names, key=lambda name: workers[name].row_bytes)
    print(
        f"largest row after a batch: {workers[biggest].row_bytes:,} bytes ({biggest}); "
        f"bound {row_bound(store, 'auto'):,}"
    )
    every = [Read(RowKey("campaigns", campaign), measure=True) for campaign in events["100 campaigns"].campaigns]
    held = [row.bins[ROW_BYTES] for row in store.read(every) if row]
    print(f"largest row of 100 campaigns, at the end: {max(held):,} bytes; load after: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
