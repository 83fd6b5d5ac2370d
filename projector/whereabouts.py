"""Whereabouts: where a ledger holds given ids.

Of the pages only prints and digests are read, unless a page may hold one of the ids: that one is read whole and held
against its digest. So an id that is said to be counted stands in an intact page; and a page that is missing, or is not
the one that its successor names, is told as damage.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from projector.adoption import COUNTS_WITHOUT_LEDGER, UNKNOWN, counts_nothing
from projector.archive import newest
from projector.errors import LedgerDamaged
from projector.event import KPIS, spelled
from projector.fold import EventId
from projector.generation import Generation
from projector.page import BINS as PAGE_BINS
from projector.page import NO_PAGE, ROOT, damaged, page_key, parsed
from projector.patience import patiently, scan_patiently
from projector.prints import prints
from projector.store import Read, Row, RowKey, Store, counted

CAMPAIGNS_PER_CALL = 32
PAGES_PER_CALL = 256
WHOLE_PER_CALL = 16
ENTRIES_MAX = 1_000
"""More ids than that are found faster by reading what the row holds whole."""
_MAPS = ("seen", "sealed")
_ROW_BINS = ("seal", "prev", "head", "stats")
_PAGE_BINS = ("prints", "digest", "head")


class Counted(NamedTuple):
    """Where an id was counted; `code` indexes `KPIS`. `place`: seen, sealed, or the seal of a page, 16 hex digits."""

    campaign: int
    code: int
    second: int
    partition: int
    offset: int
    place: str


def pages_sealed(store: Store, generation: Generation) -> dict[int, int]:
    """The campaigns that have a ledger, each with how many pages were sealed. Raises `Retryable`."""
    rows = scan_patiently(store, generation.campaigns, ("c-id", "seal", "pages"))
    return {row.bins["c-id"]: row.bins.get("pages", 0) for row in rows if {"c-id", "seal"} <= row.bins.keys()}


@dataclass
class _Search:
    """One campaign, on the way from its newest page back: the pages to look at next, and the digest of the first."""

    campaign: int
    seal: int
    wanted: list[int]
    head: bytes
    found: list[tuple[EventId, Counted]] = field(default_factory=list)
    flaws: list[str] = field(default_factory=list)
    met: set[int] = field(default_factory=set)


class Whereabouts:
    """Looks for ids in the ledger of one generation, campaign by campaign; workers may be counting meanwhile."""

    def __init__(self, store: Store, generation: Generation, ids: Collection[EventId]) -> None:
        """`ids`: at least one."""
        self._store = store
        self._generation = generation
        self.counted: dict[EventId, list[Counted]] = {event_id: [] for event_id in ids}
        """Where each was found."""
        self.searched: dict[int, str] = {}
        """The campaigns, each with the reason why it can have no ledger, or nothing."""
        self.damage: list[str] = []
        """What could not be searched, one line each."""
        self.damaged: set[int] = set()
        """The campaigns of which that is told: an id may be counted there all the same."""
        self._by_print: dict[int, list[EventId]] = {}
        for event_id, each in zip(self.counted, prints(self.counted).tolist(), strict=True):
            self._by_print.setdefault(each, []).append(event_id)
        self._prints = np.array(sorted(self._by_print), np.uint32)

    def search(self, campaigns: Iterable[int], advance: Callable[[int], None] = lambda _: None) -> None:
        """Look through the ledgers of these campaigns; `advance` hears of pages. Raises `Retryable`."""
        left = [campaign for campaign in campaigns if campaign not in self.searched]
        while left:
            part, left = left[:CAMPAIGNS_PER_CALL], left[CAMPAIGNS_PER_CALL:]
            searches = self._begun(part, advance)
            self._walk(searches, advance)
            left += self._taken(searches)

    # --- the row: one read of it says what is on it and where its pages begin

    def _begun(self, campaigns: Sequence[int], advance: Callable[[int], None]) -> list[_Search]:
        asked = list(self.counted)
        few = len(asked) <= ENTRIES_MAX
        whole, entries = ((), dict.fromkeys(_MAPS, asked)) if few else (_MAPS, {})
        rows = self._read(
            [
                Read(RowKey(self._generation.campaigns, campaign), (*_ROW_BINS, *whole), entries, counts=("sealed",))
                for campaign in campaigns
            ]
        )
        searches = []
        for campaign, row in zip(campaigns, rows, strict=True):
            if row is None:
                self.searched[campaign] = UNKNOWN
                continue
            if "seal" not in row.bins:
                self.searched[campaign] = "" if counts_nothing(row.bins) else COUNTS_WITHOUT_LEDGER
                continue
            start = newest({**row.bins, "sealed": row.bins[counted("sealed")]})
            wanted = [] if start == NO_PAGE else [start]
            search = _Search(campaign, row.bins["seal"], wanted, row.bins.get("head", ROOT))
            held = row.entries if few else row.bins
            for name in _MAPS:
                self._note(search, name, held.get(name, {}), asked)
            searches.append(search)
            advance(bool(row.bins[counted("sealed")]))
        return searches

    # --- the pages

    def _walk(self, searches: Sequence[_Search], advance: Callable[[int], None]) -> None:
        while active := [search for search in searches if search.wanted]:
            share = max(1, PAGES_PER_CALL // len(active))
            parts = [(search, search.wanted[:share]) for search in active]
            rows = iter(
                self._read(
                    [
                        Read(
                            page_key(self._generation.pages, search.campaign, seal),
                            (*_PAGE_BINS, "before") if seal == seals[-1] else _PAGE_BINS,
                            counts=("ids",),
                        )
                        for search, seals in parts
                        for seal in seals
                    ]
                )
            )
            suspects: list[tuple[_Search, int, list[EventId]]] = []
            for search, seals in parts:
                suspects += self._passed(search, seals, [next(rows) for _ in seals])
                advance(len(seals))
            for first in range(0, len(suspects), WHOLE_PER_CALL):
                self._look_up(suspects[first : first + WHOLE_PER_CALL])

    def _passed(
        self, search: _Search, seals: Sequence[int], pages: Sequence[Row | None]
    ) -> list[tuple[_Search, int, list[EventId]]]:
        """One step back along the chain; answers the pages that may hold an id, or whose prints say nothing."""
        suspects: list[tuple[_Search, int, list[EventId]]] = []
        for seal, page in zip(seals, pages, strict=True):
            if page is None:
                search.flaws.append(
                    f"campaign {search.campaign}: page {seal:016x} is missing; the pages before it were not searched: "
                    "projector audit names the remedy"
                )
                search.wanted = []
                return suspects
            if page.bins.get("digest") != search.head:
                search.flaws.append(str(damaged(search.campaign, seal, "is not the one that its successor names")))
            search.head = page.bins.get("head", ROOT)
            ids = self._suspected(page.bins.get("prints"), page.bins[counted("ids")])
            if ids:
                suspects.append((search, seal, ids))
        last = pages[-1]
        rest = search.wanted[len(seals) :]
        search.met.update(seals)
        search.wanted = rest or (list(last.bins.get("before", ())) if last else [])
        if not search.met.isdisjoint(search.wanted):
            search.flaws.append(f"campaign {search.campaign}: the chain of pages goes in a circle")
            search.wanted = []
            return suspects
        if not search.wanted and search.head != ROOT:
            search.flaws.append(f"campaign {search.campaign}: the oldest page names one before it: the chain is broken")
        return suspects

    def _suspected(self, blob: Any, ids: int) -> list[EventId]:
        """Those whose print is among a page's; all, where these are not the prints of so many ids."""
        if not isinstance(blob, bytes) or len(blob) != 4 * ids:
            return list(self.counted)
        held = np.frombuffer(blob, "<u4")
        at = np.minimum(np.searchsorted(self._prints, held), len(self._prints) - 1)
        hits = np.unique(held[self._prints[at] == held])
        return [event_id for each in hits.tolist() for event_id in self._by_print[each]]

    def _look_up(self, suspects: Sequence[tuple[_Search, int, list[EventId]]]) -> None:
        pages = [page_key(self._generation.pages, search.campaign, seal) for search, seal, _ in suspects]
        for (search, seal, ids), row in zip(
            suspects, self._read([Read(page, PAGE_BINS) for page in pages]), strict=True
        ):
            try:
                page = parsed(search.campaign, seal, row.bins if row else {})
            except LedgerDamaged as error:
                search.flaws.append(str(error))
            else:
                self._note(search, f"{seal:016x}", page.ids, ids)

    # --- what was found

    def _note(self, search: _Search, place: str, held: Any, ids: Sequence[EventId]) -> None:
        for event_id in ids if len(ids) <= len(held) else held:
            if event_id not in held or event_id not in self.counted:
                continue
            try:
                code, second, partition, offset = map(int, held[event_id])
                KPIS[code]
            except (TypeError, ValueError, IndexError):
                text = ascii(spelled(event_id))
                search.flaws.append(f"campaign {search.campaign}: id {text} has no position in {place}")
            else:
                found = Counted(search.campaign, code, second, partition, offset, place)
                search.found.append((event_id, found))

    def _taken(self, searches: Sequence[_Search]) -> list[int]:
        """Keep what was found; answers the campaigns to search again: damaged, it seems, but their row has changed."""
        doubtful = [search for search in searches if search.flaws]
        rows = self._read([Read(RowKey(self._generation.campaigns, each.campaign), ("seal",)) for each in doubtful])
        changed = {
            search.campaign
            for search, row in zip(doubtful, rows, strict=True)
            if row is not None and row.bins.get("seal") != search.seal
        }
        for search in searches:
            if search.campaign not in changed:
                self.searched[search.campaign] = ""
                self.damage += search.flaws
                self.damaged.update([search.campaign] if search.flaws else [])
                for event_id, found in search.found:
                    self.counted[event_id].append(found)
        return sorted(changed)

    def _read(self, reads: Sequence[Read]) -> list[Row | None]:
        return patiently(lambda: self._store.read(reads)) if reads else []
