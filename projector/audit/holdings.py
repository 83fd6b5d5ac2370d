"""Holdings: what the ledgers and rows of a generation hold -> tables, each campaign from one read of its row.

ledger  (campaign, id, code, second, partition, position, place)   an id in a place of a campaign's ledger
rows    (campaign, code, stats, opening, rev)                       a KPI of a row; `rev` NULL: it has no ledger
tags    (tag, campaign)                                             the tags that the topic names and the store knows
quarantined (partition, position, verdict, reason)                  the last word on a position that was set aside
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # no hints

from projector.archive import Walk, read_rows
from projector.audit.finding import Remedy
from projector.columns import Columns
from projector.config import Config
from projector.event import KPIS
from projector.fold import EventId, Sighting
from projector.generation import Generation
from projector.log import Log
from projector.page import ROOT, page_key
from projector.patience import patiently, scan_patiently
from projector.quarantined import quarantine_messages
from projector.store import Read, RowKey, Store

ROWS = 122_880
"""Rows that are inserted at once: one row group of DuckDB's."""
TAGS_PER_READ = 5_000
UUID_BYTES = 16
_CODES = frozenset(range(len(KPIS)))
_BIGGEST = (1 << 63) - 1
_CREATE = """
CREATE TABLE ledger (
    campaign BIGINT, id BLOB, code UTINYINT, second BIGINT, partition INTEGER, position BIGINT, place VARCHAR);
CREATE TABLE rows (campaign BIGINT, code UTINYINT, stats BIGINT, opening BIGINT, rev BIGINT);
"""
_LEDGER = pa.schema(
    [
        ("campaign", pa.int64()),
        ("id", pa.binary()),
        ("code", pa.uint8()),
        ("second", pa.int64()),
        ("partition", pa.int32()),
        ("position", pa.int64()),
        ("place", pa.string()),
    ]
)
_NUMBERS = ("code", "second", "partition", "position")
_MOST = np.array([len(KPIS) - 1, (1 << 63) - 1, (1 << 31) - 1, (1 << 63) - 1])
_ROWS = pa.schema([(name, pa.int64()) for name in ("campaign", "code", "stats", "opening", "rev")])
_TAGS = pa.schema([("tag", pa.string()), ("campaign", pa.int64())])
_QUARANTINED = pa.schema(
    [
        ("number", pa.int64()),
        ("partition", pa.int32()),
        ("position", pa.int64()),
        ("verdict", pa.string()),
        ("reason", pa.string()),
    ]
)


class Flaw(NamedTuple):
    """What is wrong with a campaign's ledger itself. `unread`: there are ids that could not be read for it.

    `place`: the seal of the page in 16 hex digits, "seen", "sealed", or None.
    """

    campaign: int
    place: str | None
    what: str
    remedy: Remedy = Remedy.REBUILD
    unread: bool = False


# --- ledgers


def ledgers(store: Store, generation: Generation) -> dict[int, int]:
    """The campaigns that a generation has rows of, each with about how many ids it holds. Raises `Retryable`."""
    found: dict[int, int] = {}
    for row in scan_patiently(store, generation.campaigns, ("c-id", "seal", "stats", "opening")):
        if _is_whole(row.bins.get("c-id")):
            stats, opening = counts(row.bins, "stats"), counts(row.bins, "opening")
            ids = sum(max(0, (stats[kpi] or 0) - (opening[kpi] or 0)) for kpi in KPIS)
            found[row.bins["c-id"]] = ids if "seal" in row.bins else 0
    return found


def read_ledgers(
    database: duckdb.DuckDBPyConnection,
    store: Store,
    generation: Generation,
    campaigns: Sequence[int],
    advance: Callable[[int], None],
) -> list[Flaw]:
    """Make the tables `ledger` and `rows` of these campaigns; what is wrong with the ledgers themselves.

    A row is read once, and pages never change: so what there is of a campaign is one version of it, also while it is
    being counted. `advance` hears of ids read. Raises `Retryable`.
    """
    database.execute(_CREATE)
    into = _Ledger(database)
    flaws: list[Flaw] = []
    totals: list[tuple[int, int, int | None, int | None, int | None]] = []
    for campaign, row in read_rows(store, generation, campaigns):
        if row is None:
            continue
        bins = row.bins
        has_ledger = "seal" in bins
        wrong = _misshapen(bins) if has_ledger else None
        stats, opening = counts(bins, "stats"), counts(bins, "opening")
        rev = bins.get("rev", 0) if has_ledger and not wrong else None
        totals += [(campaign, code, stats[kpi], opening[kpi], rev) for code, kpi in enumerate(KPIS)]
        if wrong:
            flaws.append(Flaw(campaign, None, wrong, unread=True))
        if not has_ledger or wrong:
            continue
        for place, held in _places(store, generation, campaign, bins, flaws):
            flaws += into.add(campaign, place, held)
            advance(len(held))
    into.flush()
    insert(database, "rows", _ROWS, totals)
    return flaws


def _misshapen(bins: Mapping[str, Any]) -> str | None:
    """Which bin of a row is none that a ledger has."""
    fits = {
        "seal": _is_whole(bins["seal"]),
        "prev": _is_whole(bins.get("prev", 0)),
        "rev": _is_whole(bins.get("rev", 0)),
    }
    fits |= {name: isinstance(bins.get(name, {}), Mapping) for name in ("seen", "sealed")}
    if bins.get("sealed"):
        fits["prev"] = _is_whole(bins.get("prev"))
    wrong = [name for name, fit in fits.items() if not fit]
    return f"the row's bin {wrong[0]} is none that a ledger has" if wrong else None


def _places(
    store: Store, generation: Generation, campaign: int, bins: Mapping[str, Any], flaws: list[Flaw]
) -> Iterator[tuple[str, Mapping[EventId, Sighting]]]:
    yield "seen", bins.get("seen", {})
    yield "sealed", bins.get("sealed", {})
    pages = int(bool(bins.get("sealed")))
    lost = False
    for walk in _walks(store, generation, campaign, bins):
        for page in walk:
            pages += 1
            yield f"{page.seal:016x}", page.ids
        if walk.lost is not None:
            lost = True
            flaws.append(_lost(store, generation, campaign, walk.lost))
            walk.flaws.pop()
        flaws += [Flaw(campaign, None, flaw) for flaw in walk.flaws]
    if not lost and pages != bins.get("pages", 0):
        flaws.append(Flaw(campaign, None, f"the row says {bins.get('pages', 0)} pages, the chain has {pages}"))


def _walks(store: Store, generation: Generation, campaign: int, bins: Mapping[str, Any]) -> Iterator[Walk]:
    """The chain from its newest page; where one is lost, it is taken up again at the next that is known."""
    walk = Walk(store, generation, campaign, bins, columns=True)
    yield walk
    older = list(walk.older)
    while walk.lost is not None and older:
        read = Read(page_key(generation.pages, campaign, older[0]), ("digest",))
        (row,) = patiently(lambda read=read: store.read([read]))  # type: ignore[misc]  # bound now
        head = row.bins.get("digest", ROOT) if row else ROOT
        walk = Walk(store, generation, campaign, {"seal": older[0], "head": head}, columns=True)
        yield walk
        older = list(walk.older) or (older[1:] if walk.lost == older[0] else [])


def _lost(store: Store, generation: Generation, campaign: int, seal: int) -> Flaw:
    (row,) = patiently(lambda: store.read([Read(page_key(generation.pages, campaign, seal), ("seal",))]))
    what = "is missing" if row is None else "is not what was archived: its digest differs"
    return Flaw(campaign, f"{seal:016x}", f"page {seal:016x} {what}", Remedy.REPAIR, unread=True)


class _Ledger:
    """The table `ledger`, filled in large parts."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self._database = database
        self._parts: list[pa.Table] = []
        self._pages: list[tuple[int, str, Columns]] = []
        self._rows = 0

    def add(self, campaign: int, place: str, held: Mapping[EventId, Sighting]) -> list[Flaw]:
        """Take in one place; entries that are no ids with a sighting are answered."""
        if not held:
            return []
        if isinstance(held, Columns) and (held.numbers <= _MOST).all():
            self._pages.append((campaign, place, held))
            self._added(len(held))
            return []
        flaws: list[Flaw] = []
        try:
            part = _part(campaign, place, held)
        except (TypeError, ValueError, OverflowError, AttributeError, pa.ArrowException):
            good = {event_id: sighting for event_id, sighting in held.items() if _is_entry(event_id, sighting)}
            flaws = [
                Flaw(campaign, place, f"{place} holds {ascii(event_id)[:200]}: {ascii(sighting)[:200]}, which is no id")
                for event_id, sighting in held.items()
                if event_id not in good
            ]
            part = _part(campaign, place, good) if good else _LEDGER.empty_table()
        self._parts.append(part)
        self._added(len(part))
        return flaws

    def _added(self, rows: int) -> None:
        self._rows += rows
        if self._rows >= ROWS:
            self.flush()

    def flush(self) -> None:
        """Insert what is in hand."""
        parts = [*self._parts, *([_joined(self._pages)] if self._pages else [])]
        if parts:
            _inserted(self._database, "ledger", pa.concat_tables(parts))
        self._parts, self._pages, self._rows = [], [], 0


def _part(campaign: int, place: str, held: Mapping[EventId, Sighting]) -> pa.Table:
    ids = [b"u" + key if type(key) is bytes else b"s" + key.encode() for key in held]  # type: ignore[union-attr]  # a str, or what raises
    codes, seconds, partitions, positions = zip(*held.values(), strict=True)
    if not _CODES.issuperset(codes) or any(type(key) is bytes and len(key) != UUID_BYTES for key in held):
        raise ValueError("a code of no KPI, or an id that is none")
    columns = [
        pa.repeat(campaign, len(ids)),
        pa.array(ids, pa.binary()),
        pa.array(codes, pa.uint8()),
        pa.array(seconds, pa.int64()),
        pa.array(partitions, pa.int32()),
        pa.array(positions, pa.int64()),
        pa.repeat(place, len(ids)),
    ]
    return pa.table(columns, schema=_LEDGER)


def _joined(pages: Sequence[tuple[int, str, Columns]]) -> pa.Table:
    sizes = [len(held) for _, _, held in pages]
    numbers = np.concatenate([held.numbers for _, _, held in pages])
    ids = np.empty((len(numbers), 1 + UUID_BYTES), np.uint8)
    ids[:, 0] = ord("u")
    np.concatenate([held.ids for _, _, held in pages], out=ids[:, 1:])
    begins = np.arange(0, ids.size + 1, 1 + UUID_BYTES, dtype=np.int32)
    places = pa.array([place for _, place, _ in pages], pa.string())
    columns = [
        pa.array(np.repeat([campaign for campaign, _, _ in pages], sizes), pa.int64()),
        pa.Array.from_buffers(pa.binary(), len(numbers), [None, pa.py_buffer(begins), pa.py_buffer(ids)]),
        *(pa.array(numbers[:, at]).cast(_LEDGER.field(name).type) for at, name in enumerate(_NUMBERS)),
        places.take(pa.array(np.repeat(np.arange(len(pages)), sizes))),
    ]
    return pa.table(columns, schema=_LEDGER)


def _is_entry(event_id: object, sighting: object) -> bool:
    return (
        (isinstance(event_id, str) or (isinstance(event_id, bytes) and len(event_id) == UUID_BYTES))
        and isinstance(sighting, list)
        and len(sighting) == 4
        and all(_is_whole(each) and 0 <= each <= _BIGGEST for each in sighting)
        and sighting[0] in _CODES
        and sighting[2] < 1 << 31
    )


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def counts(bins: Mapping[str, Any], name: str) -> dict[str, int | None]:
    """The bin `name`, "stats" or "opening", of a row: a count per KPI, 0 where there is none, None for no number."""
    held = bins.get(name, {})
    if not isinstance(held, Mapping):
        return dict.fromkeys(KPIS)
    return {kpi: count if _is_whole(count := held.get(kpi, 0)) else None for kpi in KPIS}


# --- tags and quarantine


def read_tags(database: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Make the table `tags` of those that the table `topic` names; again: with what it names by now.

    Raises `Retryable`.
    """
    database.execute("CREATE TABLE IF NOT EXISTS tags (tag VARCHAR, campaign BIGINT)")
    asked = database.cursor()
    asked.execute("SELECT DISTINCT tag FROM topic ANTI JOIN tags USING (tag) WHERE tag IS NOT NULL")
    while found := asked.fetchmany(TAGS_PER_READ):
        tags = [tag for (tag,) in found]
        reads = [Read(RowKey("tags", tag), ("c-id",)) for tag in tags]
        rows = patiently(lambda reads=reads: store.read(reads))  # type: ignore[misc]  # bound now
        known = [
            (tag, row.bins["c-id"])
            for tag, row in zip(tags, rows, strict=True)
            if row is not None and _is_whole(row.bins.get("c-id"))
        ]
        insert(database, "tags", _TAGS, known)


def read_quarantine(database: duckdb.DuckDBPyConnection, log: Log, config: Config) -> None:
    """Make the table `quarantined`: of each position of the input topic the last message. Raises `Retryable`."""
    database.execute(
        "CREATE TABLE messages (number BIGINT, partition INTEGER, position BIGINT, verdict VARCHAR, reason VARCHAR)"
    )
    messages = (
        (number, each.partition, each.offset, each.verdict, each.reason)
        for number, (_, each) in enumerate(quarantine_messages(log, config.quarantine_topic))
        if each.topic == config.input_topic
    )
    while part := list(islice(messages, ROWS)):
        insert(database, "messages", _QUARANTINED, part)
    database.execute(
        """
        CREATE TABLE quarantined AS
        SELECT partition, position, arg_max(verdict, number) AS verdict, arg_max(reason, number) AS reason
        FROM messages GROUP BY partition, position;
        DROP TABLE messages
        """
    )


def insert(
    database: duckdb.DuckDBPyConnection, table: str, schema: pa.Schema, rows: Iterable[Sequence[object]]
) -> None:
    columns = list(zip(*rows, strict=True))
    if columns:
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        _inserted(database, table, pa.table(arrays, schema=schema))


def _inserted(database: duckdb.DuckDBPyConnection, table: str, rows: pa.Table) -> None:
    database.register("arriving", rows)
    database.execute(f"INSERT INTO {table} BY NAME SELECT * FROM arriving")
    database.unregister("arriving")
