"""Adoption: a campaign row that others wrote gets a ledger, once, and what it had counted before as its `opening`."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from projector.errors import Refused
from projector.event import KPIS
from projector.patience import patiently, write_patiently
from projector.store import (
    AddEntry,
    BinEqual,
    BinMissing,
    Clear,
    Condition,
    Fetch,
    Operation,
    Outcome,
    Put,
    Read,
    RowKey,
    Store,
    Write,
)

NOT_ADOPTED: tuple[Condition, ...] = (BinMissing("seal"),)
_NOTHING_COUNTED: tuple[Condition, ...] = (BinEqual("seal", 0), BinEqual("rev", 0))
_BINS = ("c-id", "stats", "seal", "rev", "opening")
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
