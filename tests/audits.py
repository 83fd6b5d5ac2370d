"""A pipeline on the embedded pair, counted by the projector itself, to be damaged by hand and audited."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import duckdb
import msgspec
import numpy as np

from projector.audit.audit import audit
from projector.audit.finding import Finding, Kind
from projector.audit.result import Audit
from projector.backends.embedded_log import EmbeddedLog
from projector.backends.embedded_store import EmbeddedStore
from projector.columns import Columns
from projector.config import Config
from projector.event import KINDS, KPIS
from projector.fold import EventId, Sighting
from projector.generation import Generation
from projector.log import Message, Offset
from projector.migrate import migrate
from projector.page import page_key
from projector.pointer import read_pointer
from projector.projector import Projector
from projector.reference import tag_id
from projector.seed import seed
from projector.simulator import Shares, Simulation, Truth, simulate
from projector.store import Delete, Presence, Put, Read, Row, RowKey, Write
from tests.generations import ids_of

CAMPAIGNS, TAGS, PARTITIONS = 3, 2, 3
SHARES = Shares(0.05, 0.03, 0.02, 0.03, 0.02, 0.03, 0.02, 0.03)
GENERATION = Generation(1, "projector")
PARKED_TAG = "11111111-2222-4333-8444-555555555555"
EVERYTHING = 1_226
"""Ids that `count_everything` counts."""


class ColumnsStore(EmbeddedStore):
    """Answers with columns wherever it may."""

    def read(self, reads: Sequence[Read]) -> list[Row | None]:
        """See `Store.read`."""
        return [row and _with_columns(read, row) for read, row in zip(reads, super().read(reads), strict=True)]


def _with_columns(read: Read, row: Row) -> Row:
    bins = dict(row.bins)
    for name in [name for name, kind in read.expected.items() if kind is Columns]:
        with suppress(TypeError, ValueError, AttributeError, OverflowError):
            held = dict(sorted(bins[name].items()))
            ids = np.frombuffer(b"".join(held), np.uint8).reshape(-1, 16)
            bins[name] = Columns(ids, np.array(list(held.values()), np.int64))
    return row._replace(bins=bins)


class Site:
    """A directory with its log and store; generation 1 unless said otherwise."""

    def __init__(self, directory: Path, columns: bool = False) -> None:
        self.config = Config(file=directory / "projector.db", page_ids=10_000, batch_records=100)
        self.log = EmbeddedLog(self.config.file)
        self.store = (ColumnsStore if columns else EmbeddedStore)(self.config.file)
        self.generation = GENERATION

    def close(self) -> None:
        self.log.close()
        self.store.close()

    def prepare(self) -> None:
        """Topics, pointer, campaigns and tags."""
        for name in (self.config.input_topic, self.config.quarantine_topic):
            self.log.create_topic(name, PARTITIONS, {})
        list(migrate(self.log, self.store, self.config))
        seed(self.store, CAMPAIGNS, TAGS, 1, lambda _: None)

    # --- records

    def simulate(self, events: int, seed_number: int = 1, shares: Shares = SHARES) -> Truth:
        """Append what the simulator makes, and say what it is."""
        truth = Truth()
        simulation = Simulation(events, seed_number, CAMPAIGNS, TAGS, 1, shares)
        self.log.append(list(simulate(simulation, self.config.input_topic, PARTITIONS, truth)))
        return truth

    def append(
        self, event_id: str, kind: str = "click", campaign: int = 1, partition: int = 0, tag: str | None = None
    ) -> int:
        """One event by hand; its offset."""
        named = tag_id(1, campaign, 1) if tag is None else tag
        bins = {"event-id": event_id, "event-type": kind, "event-tag-id": named, "event-source": "x"}
        value = {
            "msg": "write",
            "key": ["test", "events", "AvYAdzrOmm1xwvWZFyGwEvgjwnk=", None],
            "bins": [{"name": name, "type": "str", "value": each} for name, each in bins.items()],
        }
        offset = self.log.ends(self.config.input_topic)[partition]
        body = msgspec.json.encode(value)
        message = Message(self.config.input_topic, None, body, partition=partition, timestamp_ms=1_767_225_700_000)
        self.log.append([message])
        return offset

    def worker(self, config: Config | None = None) -> Projector:
        """One that has not begun."""
        pointer = read_pointer(self.store, 0)
        assert pointer is not None
        return Projector(self.log, self.store, config or self.config, self.generation, pointer.epoch, "slot", 0.0)

    def run(self, **settings: object) -> None:
        """Count to the end, with other settings than its own where they are given."""
        self.worker(self.config.model_copy(update=settings)).run(until_end=True, stopping=lambda: False)

    # --- damage

    def set_aside(self, partition: int, offset: int) -> None:
        """Quarantine says last of a position that it was a conflict."""
        topic = self.config.input_topic
        headers = {"verdict": "duplicate", "reason": "conflict", "topic": topic, "partition": str(partition)}
        headers |= {"offset": str(offset), "timestamp": "0", "generation": "1", "detail": ""}
        key = f"{topic}/{partition}/{offset}".encode()
        sent = tuple((name, each.encode()) for name, each in headers.items())
        self.log.append([Message(self.config.quarantine_topic, key, b"{}", sent)])

    def row(self, campaign: int) -> dict[str, Any]:
        """All bins of a campaign's row."""
        names = (
            "c-id",
            "c-name",
            "c-date",
            "stats",
            "opening",
            "seen",
            "sealed",
            "seal",
            "prev",
            "pages",
            "head",
            "rev",
        )
        (row,) = self.store.read([Read(RowKey(self.generation.campaigns, campaign), names)])
        assert row is not None
        return dict(row.bins)

    def put(self, campaign: int, **bins: Any) -> None:
        """Set bins of a campaign's row, without a question."""
        operations = [Put(name.replace("_", "-"), value) for name, value in bins.items()]
        self.store.write([Write(RowKey(self.generation.campaigns, campaign), operations, Presence.EITHER)])

    def pages(self, campaign: int) -> list[int]:
        """The seals of the archived pages, newest first."""
        bins = self.row(campaign)
        seals: list[int] = []
        seal = bins["prev"] if bins["sealed"] else bins["seal"]
        while seal:
            seals.append(seal)
            before = self.page(campaign, seal)["before"]
            seal = before[0] if before else 0
        return seals

    def ids(self, campaign: int) -> dict[EventId, Sighting]:
        """All that a campaign's ledger holds."""
        return ids_of(self.store, self.generation, campaign)

    def page(self, campaign: int, seal: int) -> dict[str, Any]:
        """All bins of a page."""
        names = ("ids", "prints", "counts", "first", "last", "seal", "before", "head", "digest")
        (row,) = self.store.read([Read(page_key(self.generation.pages, campaign, seal), names)])
        assert row is not None
        return dict(row.bins)

    def put_page(self, campaign: int, seal: int, bins: Mapping[str, Any]) -> None:
        """Set bins of a page."""
        operations = [Put(name, value) for name, value in bins.items()]
        self.store.write([Write(page_key(self.generation.pages, campaign, seal), operations)])

    def drop_page(self, campaign: int, seal: int) -> None:
        self.store.write([Write(page_key(self.generation.pages, campaign, seal), [Delete()])])

    def counted(self, campaign: int, kpi: str, amount: int) -> dict[str, int]:
        """The row's `stats` with a KPI changed by so much."""
        stats: dict[str, int] = self.row(campaign)["stats"]
        return {**stats, kpi: stats[kpi] + amount}

    def set_totals(self, partition: int, metadata: str) -> None:
        """Another checkpoint at the same offset."""
        committed = self.log.checkpoint(self.generation.group, self.config.input_topic)[partition]
        self.log.set_checkpoint(
            self.generation.group, self.config.input_topic, {partition: Offset(committed.offset, metadata)}
        )

    # --- the audit

    @contextmanager
    def audited(self, **options: Any) -> Iterator[Audit]:
        """An audit, for the time of a `with` block."""
        with closing(duckdb.connect()) as database:
            yield audit(self.log, self.store, self.config, database, **options)

    def found(self, **options: Any) -> dict[Kind, list[Finding]]:
        """What an audit finds, by kind."""
        with self.audited(**options) as result:
            found: dict[Kind, list[Finding]] = {}
            for each in result.findings():
                found.setdefault(each.kind, []).append(each)
            assert {kind: len(each) for kind, each in found.items()} == {k: n for k, n in result.counts.items() if n}
            assert result.clean == (not found)
            return found


def count_everything(directory: Path) -> None:
    """All that the simulator makes is counted there, in many pages, and conflicts; then some ids stay in `seen`."""
    with closing(Site(directory)) as site:
        site.prepare()
        site.simulate(1_200)
        conflicting = str(uuid4())
        site.append(conflicting, "click")
        site.append(conflicting.upper(), "visit")
        site.append("not-a-uuid", "impression", campaign=2, partition=1)
        site.append("parked-1", tag=PARKED_TAG)
        site.append("parked-1", tag=PARKED_TAG, partition=1)
        site.run(page_ids=16)
        for campaign, kind in product((1, 2, 3), KINDS):
            site.append(f"{kind}-{campaign}", kind, campaign, partition=campaign - 1)
            site.append(str(uuid4()), kind, campaign, partition=2)
        site.run()


def text(event_id: EventId) -> str:
    """An id as an audit shows it."""
    return str(UUID(bytes=event_id)) if isinstance(event_id, bytes) else event_id


def some_id(held: Mapping[EventId, Sighting], kpi: str | None = None) -> tuple[EventId, Sighting]:
    """The first of these, or of these with the KPI."""
    return next((key, each) for key, each in held.items() if kpi is None or KPIS[each[0]] == kpi)


def without(held: Mapping[EventId, Sighting], *gone: EventId) -> dict[EventId, Sighting]:
    """The same but for these."""
    return {key: each for key, each in held.items() if key not in gone}


def kinds(found: Mapping[Kind, Sequence[Finding]]) -> dict[Kind, int]:
    """How many of each."""
    return {kind: len(each) for kind, each in found.items()}
