"""Reading: the campaigns of the live generation, as their rows say."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from projector.config import Config
from projector.errors import Refused
from projector.event import KPIS
from projector.generation import Generation
from projector.patience import patiently
from projector.pointer import Pointer, PointerRow
from projector.settling import settle_seconds
from projector.store import ROW_BYTES, Read, Row, RowKey, Store

_BINS = ("c-id", "c-date", "c-name", "stats", "opening", "rev", "seal")


class Campaign(NamedTuple):
    """A campaign and its totals. `rev` None: its row has no ledger yet, nothing was counted by us."""

    campaign: int
    name: str
    date_ms: int | None
    stats: dict[str, int]
    opening: dict[str, int]
    rev: int | None


class Detail(NamedTuple):
    """All that one row says about a campaign; `seen` and `sealed` are the ids in its two pages, per KPI."""

    row: Campaign
    generation: int
    seen: dict[str, int]
    sealed: dict[str, int]
    seal: int | None
    prev: int | None
    pages: int | None
    row_bytes: int


def live_generation(store: Store, config: Config) -> Generation:
    """The generation that the pointer row, read settled, says is live.

    Raises `Misconfigured` if there is no pointer row, and `Retryable`, also if it goes on changing.
    """
    return settled_pointer(store, config).generation(config)


def settled_pointer(store: Store, config: Config) -> Pointer:
    """The pointer row, read settled. Raises as `live_generation`."""
    settle_s = patiently(lambda: settle_seconds(store, config.settle_ms, allow_volatile_store=True))
    return PointerRow(store, settle_s).settled()


def campaigns(store: Store, generation: Generation) -> list[Campaign]:
    """All campaigns in the order of their ids. Raises `Retryable`."""
    rows = [row for page in store.scan(generation.campaigns, _BINS) for row in page]
    return sorted((_campaign(row.bins) for row in rows if "c-id" in row.bins), key=lambda row: row.campaign)


def campaign(store: Store, generation: Generation, number: int) -> Detail:
    """One campaign; its whole row is read. Raises `Refused` if there is none, and `Retryable`."""
    bins = (*_BINS, "prev", "pages", "seen", "sealed")
    row: Row | None
    (row,) = patiently(lambda: store.read([Read(RowKey(generation.campaigns, number), bins, measure=True)]))
    if row is None:
        raise Refused(f"campaign {number} has no row in set {generation.campaigns}: projector campaigns lists all")
    return Detail(
        _campaign({"c-id": number, **row.bins}),
        generation.number,
        _per_kpi(row.bins.get("seen", {})),
        _per_kpi(row.bins.get("sealed", {})),
        row.bins.get("seal"),
        row.bins.get("prev"),
        row.bins.get("pages"),
        row.bins[ROW_BYTES],
    )


def total(rows: Iterable[Campaign]) -> dict[str, int]:
    """The sum of `stats` per KPI."""
    sums = dict.fromkeys(KPIS, 0)
    for row in rows:
        for kpi in KPIS:
            sums[kpi] += row.stats[kpi]
    return sums


def _campaign(bins: Mapping[str, Any]) -> Campaign:
    return Campaign(
        bins["c-id"],
        str(bins.get("c-name", "")),
        bins.get("c-date"),
        _kpis(bins.get("stats", {})),
        _kpis(bins.get("opening", {})),
        bins.get("rev"),
    )


def _kpis(counts: Mapping[str, int]) -> dict[str, int]:
    return {kpi: counts.get(kpi, 0) for kpi in KPIS}


def _per_kpi(ids: Mapping[Any, Any]) -> dict[str, int]:
    """How many ids of a page add to each KPI."""
    counts = [0] * len(KPIS)
    for code, *_ in ids.values():
        counts[code] += 1
    return dict(zip(KPIS, counts, strict=True))
