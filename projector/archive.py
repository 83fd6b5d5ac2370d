"""The archive of one campaign, read back: from what its row names, page by page, to the oldest one or to one known."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from projector.errors import LedgerDamaged
from projector.fold import EventId, Sighting
from projector.generation import Generation
from projector.page import AS_COLUMNS, NO_PAGE, ROOT, Page, page_key, parsed
from projector.page import BINS as PAGE_BINS
from projector.patience import patiently
from projector.store import Read, Row, RowKey, Store

PAGES_PER_CALL = 64
ROWS_PER_CALL = 16
ROW_BINS = ("c-id", "stats", "opening", "seal", "prev", "head", "pages", "rev", "seen", "sealed")


def read_rows(store: Store, generation: Generation, campaigns: Sequence[int]) -> Iterator[tuple[int, Row | None]]:
    """The rows of these campaigns with the ids on them, each from one version of it. Raises `Retryable`."""
    for first in range(0, len(campaigns), ROWS_PER_CALL):
        part = campaigns[first : first + ROWS_PER_CALL]
        reads = [Read(RowKey(generation.campaigns, campaign), ROW_BINS) for campaign in part]
        rows = patiently(lambda reads=reads: store.read(reads))  # type: ignore[misc]  # bound now
        yield from zip(part, rows, strict=True)


def newest(bins: Mapping[str, Any]) -> int:
    """The seal of the newest page that the archive is known to have; the row's `sealed` is not among those."""
    seal: int = bins["prev"] if bins.get("sealed") else bins["seal"]
    return seal


class Walk:
    """The archived pages of a campaign, newest first, each held against its digest and the one that names it.

    Ends before the page `known`, whose digest is `known_digest`, if it comes to that, else after the oldest page.
    What is wrong is in `flaws`; where a page is missing or altered, those before it are not read: it is `lost`, and
    `older` names those of them that are known, newest first. Raises `Retryable`.
    """

    def __init__(
        self,
        store: Store,
        generation: Generation,
        campaign: int,
        bins: Mapping[str, Any],
        known: int = NO_PAGE,
        known_digest: bytes = ROOT,
        *,
        columns: bool = False,
    ) -> None:
        """`columns`: the ids of a page may be `Columns`, where that is cheaper for the store."""
        self._expected = AS_COLUMNS if columns else {}
        self._store = store
        self._pages = generation.pages
        self._campaign = campaign
        self._start = newest(bins)
        self._head: bytes = bins.get("head", ROOT)
        self._ends = {NO_PAGE: ROOT, known: known_digest}
        self.flaws: list[str] = []
        self.lost: int | None = None
        self.older: Sequence[int] = ()
        self.reached: int | None = None
        """The page before which it ended: `known`, or none; None if it did not come so far."""

    def __iter__(self) -> Iterator[Page]:
        """Once. More pages a call as it goes on: many a caller wants the newest ones alone."""
        wanted, pages = [self._start], 1
        page: Page | None = None
        while wanted[0] not in self._ends:
            part, rest = wanted[:pages], wanted[pages:]
            pages = min(2 * pages, PAGES_PER_CALL)
            known = next((n for n, seal in enumerate(part) if seal in self._ends), len(part))
            for seal, row in zip(part[:known], self._read(part[:known]), strict=True):
                found = self._fitting(seal, row)
                if found is None:
                    self.lost, self.older = seal, page.before[1:] if page else ()
                    return
                page = found
                self._head = page.head
                yield page
            if known < len(part):
                rest = part[known:]
            elif not rest:
                rest = list(page.before) if page else []
            wanted = rest or [NO_PAGE]
        self.reached = wanted[0]
        if self._ends[self.reached] != self._head:
            before = "names one before it" if self.reached == NO_PAGE else f"does not name page {self.reached:016x}"
            self.flaws.append(f"the chain of pages is broken: the oldest page {before}")

    def _read(self, seals: Sequence[int]) -> list[Row | None]:
        reads = [
            Read(page_key(self._pages, self._campaign, seal), PAGE_BINS, expected=self._expected) for seal in seals
        ]
        return patiently(lambda: self._store.read(reads))

    def _fitting(self, seal: int, row: Row | None) -> Page | None:
        if row is None:
            self.flaws.append(f"page {seal:016x} is missing; the pages before it were not checked")
            return None
        try:
            page = parsed(self._campaign, seal, row.bins)
        except LedgerDamaged as error:
            self.flaws.append(str(error))
            return None
        if row.bins["digest"] != self._head:  # `parsed` holds it against the page
            self.flaws.append(f"page {seal:016x} is not the one that its successor names")
        return page


def places(bins: Mapping[str, Any], walk: Iterable[Page]) -> Iterator[Mapping[EventId, Sighting]]:
    """Everything that holds ids of a campaign: `seen`, `sealed`, then the pages."""
    yield bins.get("seen", {})
    yield bins.get("sealed", {})
    for page in walk:
        yield page.ids


def page_bins(
    store: Store, generation: Generation, campaign: int, start: int, bins: Sequence[str], measure: bool = False
) -> Iterator[Mapping[str, Any]]:
    """These bins of the pages from `start` back, unchecked; ends where one is missing. Raises `Retryable`."""
    wanted = [] if start == NO_PAGE else [start]
    while wanted:
        reads = [
            Read(page_key(generation.pages, campaign, seal), (*bins, "before"), measure=measure) for seal in wanted
        ]
        rows = patiently(lambda reads=reads: store.read(reads))  # type: ignore[misc]  # bound now
        for row in rows:
            if row is None:
                return
            yield row.bins
        wanted = list(rows[-1].bins["before"]) if rows[-1] else []
