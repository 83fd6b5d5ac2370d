"""Tally: what a generation holds, per campaign and KPI, as digests of its ids that do not depend on their order.

Archived pages never change and are named by their seals: each is read once, however often the tally is refreshed. A
campaign whose row has the `seal` and `rev` of last time holds the same ids, and is not read at all.
"""

import secrets
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from projector.archive import Walk, newest, read_rows
from projector.event import KPIS
from projector.fold import EventId, Sighting
from projector.generation import Generation
from projector.page import NO_PAGE, ROOT
from projector.patience import patiently, scan_patiently
from projector.store import Row, Store

Words: TypeAlias = NDArray[np.uint64]
LIGHT_BINS = ("c-id", "seal", "rev", "stats", "opening")
_COUNTED = 3  # column of ids wherever they stand; 0 to 2 are of those in scope: how many, and two sums


class Hasher:
    """A 16-byte hash of ids under a key of its own, so that no ids can be made up whose sums agree."""

    def __init__(self) -> None:
        self._keys = {bytes: secrets.token_bytes(16), str: secrets.token_bytes(16)}

    def __call__(self, ids: Iterable[EventId]) -> Words:
        """One row of two words for each id, in order."""
        keys = self._keys
        hashes = [
            blake2b(each if isinstance(each, bytes) else each.encode(), digest_size=16, key=keys[type(each)]).digest()
            for each in ids
        ]
        return np.frombuffer(b"".join(hashes), "<u8").reshape(-1, 2)


@dataclass(frozen=True)
class Scope:
    """Which ids take part. `campaigns` None: of all; `until`: only at positions below these offsets (None: at all)."""

    campaigns: Collection[int] | None = None
    until: Mapping[int, int] | None = None

    def takes(self, sighting: Sighting) -> bool:
        """Whether a position is in scope; a partition that `until` does not name is not."""
        return self.until is None or sighting[3] < self.until.get(sighting[2], 0)


@dataclass(slots=True)
class Held:
    """One campaign of one generation. `sums`: a row per KPI code; equal sums are equal ids (but for 1 in 2^64)."""

    stats: Mapping[str, int] = field(default_factory=dict)
    opening: Mapping[str, int] = field(default_factory=dict)
    sums: Words = field(default_factory=lambda: np.zeros((len(KPIS), 4), np.uint64))
    flaws: list[str] = field(default_factory=list)
    """What is wrong with its ledger: damaged pages, and `stats` that are not `opening` + ids."""
    state: tuple[int, int] = (NO_PAGE, -1)
    """`seal` and `rev` that it was read at."""
    archived: Words = field(default_factory=lambda: np.zeros((len(KPIS), 4), np.uint64))
    """The part of `sums` from the pages up to `known`, ..."""
    known: int = NO_PAGE
    known_digest: bytes = ROOT
    """... the newest of these pages."""

    def ids(self, code: int) -> int:
        """How many ids in scope add to a KPI."""
        return int(self.sums[code, 0])

    @property
    def counted(self) -> int:
        """All ids, in scope or not."""
        return int(self.sums[:, _COUNTED].sum())

    def same_ids(self, other: "Held", code: int) -> bool:
        """Whether both hold the same ids in scope for a KPI."""
        return bool((self.sums[code, :_COUNTED] == other.sums[code, :_COUNTED]).all())


class Tally:
    """One generation. Memory: about 1 KB a campaign, whatever it holds."""

    def __init__(self, store: Store, generation: Generation, hasher: Hasher, scope: Scope) -> None:
        self.generation = generation
        self.campaigns: dict[int, Held] = {}
        self._store = store
        self._hasher = hasher
        self._scope = scope
        self._incarnation = ""
        self._stale: dict[int, Row] = {}

    def look(self) -> int:
        """See which campaigns have changed; answers about how many ids `read` will read. Raises `Retryable`."""
        incarnation = patiently(self._store.state).incarnation
        if incarnation != self._incarnation:
            # The store may have forgotten: a row may go back, and come again to the same `rev` with other ids.
            self.campaigns.clear()
            self._incarnation = incarnation
        found: dict[int, Row] = {}
        for row in scan_patiently(self._store, self.generation.campaigns, LIGHT_BINS):
            campaign = row.bins.get("c-id")
            if campaign is not None and "seal" in row.bins and self._in_scope(campaign):
                found[campaign] = row
        for campaign in self.campaigns.keys() - found.keys():
            del self.campaigns[campaign]
        self._stale = {campaign: row for campaign, row in found.items() if not self._is_known(campaign, row)}
        return sum(self._unread(campaign, row) for campaign, row in self._stale.items())

    def read(self, advance: Callable[[int], None] = lambda _: None) -> None:
        """Read the campaigns that had changed at the last `look`; `advance` hears of ids read. Raises `Retryable`."""
        while True:
            for campaign, row in read_rows(self._store, self.generation, list(self._stale)):
                if row is not None and "seal" in row.bins:
                    self.campaigns[campaign] = self._read(campaign, row, advance)
            if patiently(self._store.state).incarnation == self._incarnation:
                return
            self.look()

    def read_again(self, campaign: int) -> Row | None:
        """Read a campaign as it is now; its row, or None if it has no ledger, or the store may have forgotten.

        Raises `Retryable`.
        """
        ((_, row),) = read_rows(self._store, self.generation, [campaign])
        if row is None or "seal" not in row.bins:
            return None
        held = self._read(campaign, row)
        if patiently(self._store.state).incarnation != self._incarnation:
            return None
        self.campaigns[campaign] = held
        return row

    def sums(self, held: Mapping[EventId, Sighting]) -> Words:
        """The sums of some ids."""
        sums = np.zeros((len(KPIS), 4), np.uint64)
        if not held:
            return sums
        hashes = self._hasher(held)
        codes = np.fromiter((sighting[0] for sighting in held.values()), np.int64, len(held))
        takes = self._scope.takes
        scoped = np.fromiter((takes(sighting) for sighting in held.values()), np.bool_, len(held))
        for code in range(len(KPIS)):
            adding = codes == code
            inside = adding & scoped
            sums[code, 0] = np.count_nonzero(inside)
            sums[code, 1:_COUNTED] = hashes[inside].sum(axis=0, dtype=np.uint64)
            sums[code, _COUNTED] = np.count_nonzero(adding)
        return sums

    def _in_scope(self, campaign: int) -> bool:
        return self._scope.campaigns is None or campaign in self._scope.campaigns

    def _is_known(self, campaign: int, row: Row) -> bool:
        held, bins = self.campaigns.get(campaign), row.bins
        return (
            held is not None
            and held.state == (bins["seal"], bins.get("rev"))
            and held.stats == bins.get("stats", {})
            and held.opening == bins.get("opening", {})
        )

    def _unread(self, campaign: int, row: Row) -> int:
        held = self.campaigns.get(campaign)
        counted: int = sum(row.bins.get("stats", {}).values()) - sum(row.bins.get("opening", {}).values())
        return max(0, counted - (int(held.archived[:, _COUNTED].sum()) if held else 0))

    def _read(self, campaign: int, row: Row, advance: Callable[[int], None] = lambda _: None) -> Held:
        bins = row.bins
        before = self.campaigns.get(campaign, Held())
        walk = Walk(self._store, self.generation, campaign, bins, before.known, before.known_digest)
        added = self._walked(walk, advance)
        if walk.flaws and before.known != NO_PAGE:
            before = Held()
            walk = Walk(self._store, self.generation, campaign, bins)
            added = self._walked(walk, advance)
        archived = added + before.archived if walk.reached == before.known else added
        held = Held(bins.get("stats", {}), bins.get("opening", {}), flaws=list(walk.flaws))
        held.state = (bins["seal"], bins.get("rev", -1))
        if not walk.flaws:
            held.archived, held.known, held.known_digest = archived, newest(bins), bins.get("head", ROOT)
        seen, sealed = bins.get("seen", {}), bins.get("sealed", {})
        held.sums = archived + self.sums(seen) + self.sums(sealed)
        advance(len(seen) + len(sealed))
        for code, kpi in enumerate(KPIS):
            stats, opening, ids = held.stats.get(kpi, 0), held.opening.get(kpi, 0), int(held.sums[code, _COUNTED])
            if stats != opening + ids:
                held.flaws.append(f"{kpi} is {stats}, but opening {opening} + {ids} ids")
        return held

    def _walked(self, walk: Walk, advance: Callable[[int], None]) -> Words:
        added = np.zeros((len(KPIS), 4), np.uint64)
        for page in walk:
            added += self.sums(page.ids)
            advance(len(page.ids))
        return added
