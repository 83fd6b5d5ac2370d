"""Adoption: a campaign row that others wrote gets a ledger, once, and what it had counted before as its `opening`.

Campaigns are created and adopted in the set `campaigns`, whatever generation is live; a generation from 2 on takes the
campaign's own bins and its opening over from there.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from projector.errors import Refused
from projector.event import KPIS
from projector.patience import Patience, patiently, scan_patiently, write_patiently
from projector.store import (
    AddEntry,
    BinEqual,
    BinMissing,
    Clear,
    Condition,
    Fetch,
    Operation,
    Outcome,
    Presence,
    Put,
    Read,
    RowKey,
    Store,
    Write,
)

NOT_ADOPTED: tuple[Condition, ...] = (BinMissing("seal"),)
_NOTHING_COUNTED: tuple[Condition, ...] = (BinEqual("seal", 0), BinEqual("rev", 0))
_BINS = ("c-id", "stats", "seal", "rev", "opening")
REGISTRY = "campaigns"
"""The set in which campaigns are created; also that of generation 1."""
CAMPAIGN_BINS = ("c-id", "c-date", "c-name")
UNKNOWN, COUNTS_WITHOUT_LEDGER = "unknown-campaign", "campaign-not-adopted"
ROWS_PER_CALL = 500
_ATTEMPTS = 5


class Adoption(NamedTuple):
    """A campaign and the totals that it had when it was adopted, or has now (a dry run)."""

    campaign: int
    opening: dict[str, int]


def adoption(opening: Mapping[str, int] | None) -> list[Operation]:
    """The operations that adopt a row, to be written under `NOT_ADOPTED` and presence PRESENT; answers with `stats`.

    Nothing that the row counts is overwritten: 0 is added to each KPI, which creates those that are missing.
    The answer's `stats` must equal `opening` (None: all 0), else another writer was at work in between.
    """
    ledger: list[Operation] = [Put("seal", 0), Put("prev", 0), Put("pages", 0), Put("rev", 0)]
    ledger += [Clear("seen"), Clear("sealed")]
    return ledger + _recorded(opening)


def take_over(store: Store, campaigns: str, missing: Sequence[int], patience: Patience = patiently) -> dict[int, str]:
    """Create rows that are `missing` in the set `campaigns` of a generation from 2 on; create-only, so doing it again
    changes nothing. Answers those that have none after it, with the reason. Raises `Retryable`.

    Each begins with its campaign's own bins, its opening and an empty ledger, in one write.
    """
    if campaigns == REGISTRY or not missing:
        return dict.fromkeys(missing, UNKNOWN)
    reads = [Read(RowKey(REGISTRY, campaign), (*CAMPAIGN_BINS, *_BINS)) for campaign in missing]
    unfit: dict[int, str] = {}
    writes: list[Write] = []
    for campaign, row in zip(missing, patience(lambda: store.read(reads)), strict=True):
        if row is None:
            unfit[campaign] = UNKNOWN
        elif not ("seal" in row.bins or counts_nothing(row.bins)):
            unfit[campaign] = COUNTS_WITHOUT_LEDGER
        else:
            writes.append(Write(RowKey(campaigns, campaign), _taken_over(campaign, row.bins), Presence.ABSENT))
    patience.write(store, writes)
    return unfit


def take_over_all(
    store: Store, source: str, campaigns: str, advance: Callable[[int], None] = lambda _: None
) -> dict[int, str]:
    """Take over every campaign that has a ledger in the set `source`, also those that no event names any more.

    So openings come over too. `advance` hears of rows. Answers and raises as `take_over` does.
    """
    found = scan_patiently(store, source, ("c-id", "seal"))
    with_ledger = [row.bins["c-id"] for row in found if {"c-id", "seal"} <= row.bins.keys()]
    unfit: dict[int, str] = {}
    for first in range(0, len(with_ledger), ROWS_PER_CALL):
        part = with_ledger[first : first + ROWS_PER_CALL]
        reads = [Read(RowKey(campaigns, campaign), ("seal",)) for campaign in part]
        rows = patiently(lambda reads=reads: store.read(reads))  # type: ignore[misc]  # bound now
        missing = [campaign for campaign, row in zip(part, rows, strict=True) if row is None]
        unfit.update(take_over(store, campaigns, missing))
        advance(len(part))
    return unfit


def _taken_over(campaign: int, source: Mapping[str, Any]) -> list[Operation]:
    opening = source.get("opening")
    operations: list[Operation] = [
        Put(name, source[name]) for name in CAMPAIGN_BINS if name != "c-id" and name in source
    ]
    operations += [Put("c-id", campaign), Put("stats", {kpi: (opening or {}).get(kpi, 0) for kpi in sorted(KPIS)})]
    return operations + adoption(opening)


def counts_nothing(bins: Mapping[str, Any]) -> bool:
    """Whether the `stats` of a row are all 0, or not there: it may be given a ledger without an opening."""
    stats = bins.get("stats", {})
    return isinstance(stats, Mapping) and not any(stats.values())


def adopt(store: Store, campaigns: str) -> Iterator[Adoption]:
    """Adopt every row of the set `campaigns` that counts without a ledger; yields each one once it is done.

    Completes an adoption that was interrupted, as long as nothing was counted since. Raises `Refused` if another
    writer changes a row meanwhile or if its counts are not whole numbers, and `Retryable`.
    """
    for found in adoptable(store, campaigns):
        adopted = _adopt_row(store, RowKey(campaigns, found.campaign))
        if adopted is not None:
            yield adopted


def adoptable(store: Store, campaigns: str) -> list[Adoption]:
    """The rows that `adopt` would adopt, in the order of their ids. Raises `Refused` and `Retryable` as it does."""
    rows = [row.bins for page in store.scan(campaigns, _BINS) for row in page]
    campaigns_found = [bins for bins in rows if isinstance(bins.get("c-id"), int) and _is_unadopted(bins)]
    found = [Adoption(bins["c-id"], _counts(bins["c-id"], bins)) for bins in campaigns_found]
    return sorted(found, key=lambda row: row.campaign)


def _adopt_row(store: Store, row: RowKey) -> Adoption | None:
    """Adopt one row: None if somebody else did."""
    campaign = int(row.key)
    changed_meanwhile = False
    for _ in range(_ATTEMPTS):
        (found,) = patiently(lambda: store.read([Read(row, _BINS)]))
        if found is None or not _is_unadopted(found.bins):
            if changed_meanwhile:
                break
            return None
        opening = _counts(campaign, found.bins)
        if "seal" in found.bins:
            write = Write(row, _recorded(opening), conditions=_NOTHING_COUNTED)
        else:
            write = Write(row, adoption(opening), conditions=NOT_ADOPTED)
        (answer,) = write_patiently(store, [write])
        if answer.outcome is Outcome.APPLIED:
            if _counts(campaign, answer.bins) == opening:
                return Adoption(campaign, opening)
            changed_meanwhile = True
    raise Refused(
        f"campaign {campaign}: its counts change while it is adopted: stop whatever else writes them, "
        "then run: projector migrate --adopt"
    )


def _recorded(opening: Mapping[str, int] | None) -> list[Operation]:
    recorded: list[Operation] = [] if opening is None else [Put("opening", {kpi: opening[kpi] for kpi in sorted(KPIS)})]
    return [*recorded, *(AddEntry("stats", kpi, 0) for kpi in KPIS), Fetch("stats")]


def _is_unadopted(bins: Mapping[str, Any]) -> bool:
    """Whether the row counts without a ledger, or was adopted with another opening and has counted nothing since."""
    counts = _counts(bins["c-id"], bins)
    if "seal" not in bins:
        return any(counts.values())
    opening = bins.get("opening", {})
    return bins["seal"] == 0 and bins.get("rev") == 0 and counts != {kpi: opening.get(kpi, 0) for kpi in KPIS}


def _counts(campaign: int, bins: Mapping[str, Any]) -> dict[str, int]:
    stats = bins.get("stats", {})
    counts = {kpi: stats.get(kpi, 0) for kpi in KPIS} if isinstance(stats, Mapping) else {"stats": stats}
    for kpi, count in counts.items():
        if not isinstance(count, int):
            raise Refused(f"campaign {campaign}: {kpi} is {count!r}, not a whole number: mend the row by hand")
    return counts
