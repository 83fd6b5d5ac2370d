"""Content: what a campaign's ledger holds now, all of it read, and the totals that follow from it."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from projector.archive import Walk, places, read_rows
from projector.errors import LedgerDamaged, Refused, Retryable
from projector.event import KPIS
from projector.generation import Generation
from projector.patience import Patience, patiently
from projector.store import BinEqual, Outcome, Put, Read, RowKey, Store, Write

ATTEMPTS = 50


@dataclass(slots=True)
class Content:
    """Of one campaign, from one version of its row. `below`: ids per partition that stand below the checkpoint."""

    seal: int
    rev: int
    stats: Mapping[str, int]
    opening: Mapping[str, int]
    codes: Counter[int] = field(default_factory=Counter)
    below: Counter[int] = field(default_factory=Counter)

    @property
    def total(self) -> dict[str, int]:
        """What `stats` must be: `opening` + the ids of each KPI. What others keep there is left alone."""
        counted = {kpi: self.opening.get(kpi, 0) + self.codes[code] for code, kpi in enumerate(KPIS)}
        return {**self.stats, **counted}

    @property
    def foots(self) -> bool:
        """Whether the row says what its ledger holds."""
        return self.stats == self.total


def read_content(
    store: Store,
    generation: Generation,
    campaign: int,
    checkpoint: Mapping[int, int],
    advance: Callable[[int], None] = lambda _: None,
) -> Content:
    """Read the whole ledger of a campaign. Raises `LedgerDamaged`, `Refused` if it has none, and `Retryable`."""
    ((_, row),) = read_rows(store, generation, [campaign])
    if row is None or not {"seal", "rev"} <= row.bins.keys():
        raise Refused(f"campaign {campaign}: its row, or the ledger on it, is gone: run: projector rebuild")
    bins = row.bins
    stats, opening = bins.get("stats", {}), bins.get("opening", {})
    content = Content(bins["seal"], bins["rev"], stats, opening)
    walk = Walk(store, generation, campaign, bins)
    for place in places(bins, walk):
        for code, _, partition, offset in place.values():
            content.codes[code] += 1
            if offset < checkpoint.get(partition, 0):
                content.below[partition] += 1
        advance(len(place))
    if walk.flaws:
        raise LedgerDamaged(f"campaign {campaign}: {walk.flaws[0]}")
    return content


def foot(
    store: Store,
    generation: Generation,
    campaign: int,
    checkpoint: Mapping[int, int],
    patience: Patience = patiently,
    advance: Callable[[int], None] = lambda _: None,
) -> Content:
    """Make a row say what its ledger holds, by compare-and-set; the content that it then has.

    Raises `Retryable` where the row changes faster than it can be read, and as `read_content`.
    """
    for _ in range(ATTEMPTS):
        content = read_content(store, generation, campaign, checkpoint, advance)
        if content.foots:
            return content
        total = content.total
        puts = [Put("stats", {kpi: total[kpi] for kpi in sorted(total)})]
        if _set(store, generation, campaign, content.seal, content.rev, content.rev + 1, puts, patience):
            content.stats, content.rev = total, content.rev + 1
            return content
    raise Retryable(f"campaign {campaign}: its row changes faster than it can be read: stop its workers")


def raise_rev(store: Store, generation: Generation, campaign: int, above: int, patience: Patience = patiently) -> None:
    """Make the `rev` of a row higher than `above`. Raises `Retryable`."""
    key = RowKey(generation.campaigns, campaign)
    for _ in range(ATTEMPTS):
        (row,) = patience(lambda: store.read([Read(key, ("seal", "rev"))]))
        if row is None or row.bins["rev"] > above:
            return
        if _set(store, generation, campaign, row.bins["seal"], row.bins["rev"], above + 1, [], patience):
            return
    raise Retryable(f"campaign {campaign}: its row changes faster than it can be read: stop its workers")


def _set(
    store: Store,
    generation: Generation,
    campaign: int,
    seal: int,
    rev: int,
    new_rev: int,
    puts: list[Put],
    patience: Patience = patiently,
) -> bool:
    """Set bins of a row that is still at this `seal` and `rev`; False if it is not, or if no answer came to say so."""
    key = RowKey(generation.campaigns, campaign)
    conditions = (BinEqual("seal", seal), BinEqual("rev", rev))
    write = Write(key, [*puts, Put("rev", new_rev)], conditions=conditions)
    (answer,) = patience.write(store, [write])
    return answer.outcome is Outcome.APPLIED
