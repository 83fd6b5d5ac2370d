"""Footing: what a campaign's ledger holds, how it grows, and whether it adds up by itself."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from projector.archive import ROW_BINS, Walk, newest, page_bins
from projector.event import KPIS
from projector.fold import EventId, Sighting
from projector.generation import Generation
from projector.page import page_key
from projector.patience import patiently, scan_patiently
from projector.prints import Words, mixed
from projector.store import ROW_BYTES, Read, Row, RowKey, Store, counted

DAY_S = 86_400
WEEK_DAYS = 7
SUMMARY_BINS = ("counts", "first", "last")


class Summary(NamedTuple):
    """The ledger of one campaign. Seconds are of the events' Kafka timestamps; None where nothing was counted."""

    campaign: int
    seen: int
    sealed: int
    archived: int
    pages: int
    row_bytes: int
    archive_bytes: int
    first: int | None
    last: int | None
    ids_per_day: float
    bytes_per_year: int

    @property
    def ids(self) -> int:
        """All ids that it holds."""
        return self.seen + self.sealed + self.archived


def summaries(
    store: Store, generation: Generation, campaigns: Iterable[int], now_s: float | None = None
) -> Iterator[Summary]:
    """These campaigns, one after the other. Raises `Retryable`; damage is for `check` to name."""
    for campaign in campaigns:
        summary = _summary(store, generation, campaign, time.time() if now_s is None else now_s)
        if summary is not None:
            yield summary


def ledgers(store: Store, generation: Generation) -> list[int]:
    """The campaigns that have a ledger, in the order of their ids."""
    rows = scan_patiently(store, generation.campaigns, ("c-id", "seal"))
    return sorted(row.bins["c-id"] for row in rows if "seal" in row.bins and "c-id" in row.bins)


def _summary(store: Store, generation: Generation, campaign: int, now_s: float) -> Summary | None:
    read = Read(RowKey(generation.campaigns, campaign), ROW_BINS, measure=True)
    (row,) = patiently(lambda: store.read([read]))
    if row is None:
        return None
    bins = row.bins
    seen, sealed = bins.get("seen", {}), bins.get("sealed", {})
    seconds = [sighting[1] for held in (seen, sealed) for sighting in held.values()]
    week_began = now_s - WEEK_DAYS * DAY_S
    lately = float(sum(second >= week_began for second in seconds))
    archived = archive_bytes = pages = 0
    first, last = min(seconds, default=None), max(seconds, default=None)
    for page in page_bins(store, generation, campaign, newest(bins), SUMMARY_BINS, measure=True):
        ids = sum(page["counts"].values())
        pages, archived, archive_bytes = pages + 1, archived + ids, archive_bytes + page[ROW_BYTES]
        first = page["first"] if first is None else min(first, page["first"])
        last = page["last"] if last is None else max(last, page["last"])
        span = max(1, page["last"] - page["first"] + 1)
        lately += ids * min(1.0, max(0.0, (page["last"] + 1 - week_began) / span))
    ids = len(seen) + len(sealed) + archived
    per_day = lately / WEEK_DAYS
    bytes_per_id = (bins[ROW_BYTES] + archive_bytes) / ids if ids else 0.0
    return Summary(
        campaign,
        len(seen),
        len(sealed),
        archived,
        pages,
        bins[ROW_BYTES],
        archive_bytes,
        first,
        last,
        round(per_day, 1),
        round(per_day * 365 * bytes_per_id),
    )


# --- check


class Difference(NamedTuple):
    """One thing in a campaign's ledger that is not what it must be."""

    campaign: int
    what: str


def check(
    store: Store, generation: Generation, campaign: int, advance: Callable[[int], None] = lambda _: None
) -> list[Difference]:
    """Read the whole ledger of a campaign and foot it; [] if all is well. `advance` hears of ids read.

    `stats` == `opening` + ids by KPI; no id in two places; every page there, unaltered and linked to the one before.
    A row that a worker changes meanwhile is read again. Raises `Retryable`.
    """
    key = RowKey(generation.campaigns, campaign)
    while True:
        (row,) = patiently(lambda: store.read([Read(key, ROW_BINS)]))
        if row is None or "seal" not in row.bins:
            return []
        differences = list(_checked(store, generation, campaign, row, advance))
        (after,) = patiently(lambda: store.read([Read(key, ("seal",))]))
        if not differences or (after is not None and after.bins.get("seal") == row.bins["seal"]):
            return differences


def _checked(
    store: Store, generation: Generation, campaign: int, row: Row, advance: Callable[[int], None]
) -> Iterator[Difference]:
    bins = row.bins
    seen, sealed = bins.get("seen", {}), bins.get("sealed", {})
    counts: Counter[int] = Counter(sighting[0] for held in (seen, sealed) for sighting in held.values())
    places: list[Mapping[EventId, Sighting]] = [seen, sealed]
    hashes = [mixed(held) for held in places]
    advance(len(seen) + len(sealed))
    seals: list[int] = []
    walk = Walk(store, generation, campaign, bins)
    for page in walk:
        seals.append(page.seal)
        counts.update(page.counts)
        hashes.append(mixed(page.ids))
        advance(len(page.ids))
    yield from (Difference(campaign, flaw) for flaw in walk.flaws)
    if walk.reached is None:
        return
    sealed_pages = len(seals) + bool(sealed)
    if bins.get("pages", 0) != sealed_pages:
        yield Difference(campaign, f"the row says {bins.get('pages', 0)} pages, the chain has {sealed_pages}")
    for code, kpi in enumerate(KPIS):
        stats, opening = bins["stats"].get(kpi, 0), bins.get("opening", {}).get(kpi, 0)
        if stats != opening + counts[code]:
            yield Difference(campaign, f"{kpi} is {stats}, but opening {opening} + {counts[code]} ids")
    for event_id, where in _twice(store, generation, campaign, row, seals, hashes):
        shown = event_id.hex() if isinstance(event_id, bytes) else event_id
        yield Difference(campaign, f"id {shown} stands in {' and '.join(where)}")


def _twice(
    store: Store, generation: Generation, campaign: int, row: Row, seals: Sequence[int], hashes: Sequence[Words]
) -> Iterator[tuple[EventId, list[str]]]:
    """Ids in two places: by 8-byte hashes first, then exactly."""
    values, times = np.unique(np.concatenate(hashes), return_counts=True)
    doubled = values[times > 1]
    if not len(doubled):
        return
    where: dict[EventId, list[str]] = {}
    names = ["seen", "sealed", *(f"page {seal:016x}" for seal in seals)]
    for number, (name, hashed) in enumerate(zip(names, hashes, strict=True)):
        if not np.isin(hashed, doubled).any():
            continue
        held: Mapping[EventId, Sighting] = row.bins.get(name, {})
        if number > 1:
            read = Read(page_key(generation.pages, campaign, seals[number - 2]), ("ids",))
            found = patiently(lambda read=read: store.read([read]))[0]  # type: ignore[misc]  # bound now
            held = found.bins["ids"] if found else {}
        for event_id, suspect in zip(held, np.isin(hashed, doubled), strict=True):
            if suspect:
                where.setdefault(event_id, []).append(name)
    yield from ((event_id, places) for event_id, places in where.items() if len(places) > 1)


def ids_held(store: Store, generation: Generation, campaign: int) -> int:
    """How many ids a campaign's ledger counts, by its `stats`: what `check` will read."""
    read = Read(RowKey(generation.campaigns, campaign), ("stats", "opening"), counts=("seen",))
    (row,) = patiently(lambda: store.read([read]))
    if row is None:
        return 0
    stats, opening = row.bins.get("stats", {}), row.bins.get("opening", {})
    seen: int = row.bins[counted("seen")]
    added: int = sum(stats.values()) - sum(opening.values())
    return max(seen, added)
