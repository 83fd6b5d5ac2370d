"""Chains: what a worker knows of the sealed pages of each campaign, and how it comes to know it (design section 5).

A campaign's pages are named by seals and chained by digests. Every cache entry names the `seal` it was loaded for; a
write or a verdict counts only under that seal, so a cache that has fallen behind can delay, never mislead.
"""

import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import compress
from typing import Any, NamedTuple

from projector.adoption import COUNTS_WITHOUT_LEDGER, NOT_ADOPTED, adoption, counts_nothing, take_over
from projector.errors import Refused, Retryable, RowTooBig
from projector.fold import EventId
from projector.generation import Generation
from projector.metrics import Held
from projector.page import BEFORE_MAX, NO_PAGE, ROOT, Page, damaged, operations, page_key
from projector.page import BINS as PAGE_BINS
from projector.patience import Patience
from projector.prints import Index, packed, prints
from projector.settling import Settling
from projector.store import ROW_BYTES, Outcome, Presence, Read, Row, RowKey, Store, Write, counted

PAGES_PER_CALL = 2_048
CHAIN_MEMORY, PAGE_MEMORY, ID_MEMORY = 1_000, 40, 100
"""Bytes in memory of a chain, of the seal of a page, of a suspect, roughly."""
BINS_WITHOUT_IDS = tuple(name for name in PAGE_BINS if name != "ids")
ROW_BINS = ("seal", "prev", "head", "stats", "sealed")
STALLS_MAX = 50


class Stage(Enum):
    """Where the page is that is named by the row's `seal`."""

    ARCHIVED = "archived"  # `sealed` is empty: the page is in the archive, or there is none
    SEALED = "sealed"  # in `sealed`; the archive may not have it
    WRITTEN = "written"  # in both; the store may still forget the archive's
    SETTLED = "settled"  # in both, read back from the archive settled: `sealed` may go


@dataclass(slots=True)
class Chain:
    """One campaign. `pages`: the seals of all its sealed pages, oldest first; the last is `seal`, if there is any."""

    seal: int = NO_PAGE
    pages: list[int] = field(default_factory=list)
    index: Index = field(default_factory=Index)
    stage: Stage = Stage.ARCHIVED
    digest: bytes = ROOT
    """Of the newest page that is known to be in the archive."""
    written: Mapping[str, Any] = field(default_factory=dict)
    """What a read of the page `seal` must show, without its ids, until it has."""
    written_at: float = 0.0
    seen: int = 0
    """Ids in `seen`, as last read back."""
    row_bytes: int = 0
    sealed_bytes: int = 0
    """How much of the row `sealed` takes, roughly."""
    page_ids: int = 0
    """At how many ids in `seen` to seal next."""
    recent: set[EventId] = field(default_factory=set)
    """Ids that this worker put into `seen` since it was sealed: suspects, to be confirmed by a read."""
    stale: bool = True

    accounted_bytes: int = 0
    accounted_ids: int = 0
    """Memory and ids that it was last counted with."""

    @property
    def seen_bytes(self) -> int:
        """How much of the row `seen` takes, roughly."""
        return self.row_bytes - self.sealed_bytes

    @property
    def ids(self) -> int:
        """Ids in the ledger, archived, sealed and seen."""
        return len(self.index) + self.seen

    @property
    def memory_bytes(self) -> int:
        """Memory of the index, the list of pages and the suspects, roughly."""
        return CHAIN_MEMORY + self.index.memory_bytes + PAGE_MEMORY * len(self.pages) + ID_MEMORY * len(self.recent)


class _Walk(NamedTuple):
    """A chain on its way from `start` back to a page that is known, or to its beginning."""

    row: Row
    found: list[tuple[int, bytes]]
    """Seals and packed prints, newest first."""
    wanted: list[int]
    head: bytes
    """The digest that the next page must have."""


class Chains:
    """The chains of the campaigns that were touched lately; those touched longest ago go when memory is short."""

    def __init__(
        self,
        store: Store,
        generation: Generation,
        patience: Patience,
        settling: Settling,
        clock: Callable[[], float],
        page_ids: int,
        memory_bytes_max: int,
    ) -> None:
        self._store = store
        self._generation = generation
        self._patience = patience
        self._settling = settling
        self._clock = clock
        self._page_ids = page_ids
        self._memory_bytes_max = memory_bytes_max
        self.held = Held()
        self._chains: OrderedDict[int, Chain] = OrderedDict()
        self._random = random.SystemRandom()

    def __bool__(self) -> bool:
        return bool(self._chains)

    def __getitem__(self, campaign: int) -> Chain:
        return self._chains[campaign]

    def forget(self) -> None:
        """Drop all: the store may have forgotten what it said."""
        self._chains.clear()
        self.held.index_bytes = self.held.ids = 0

    def row(self, campaign: int) -> RowKey:
        """Where the campaign's row stands."""
        return RowKey(self._generation.campaigns, campaign)

    def new_seal(self) -> int:
        """A name for a page, new at every attempt to seal one."""
        return self._random.randrange(1, 1 << 63)

    def pages_wanted(self) -> int:
        """How many ids the next page of a campaign should have: jittered, so that not all seal at once."""
        return max(1, round(self._page_ids * self._random.uniform(0.75, 1.25)))

    # --- load

    def load(self, campaigns: Iterable[int]) -> dict[int, str]:
        """Know the chains of these campaigns; answers those that may not count, with the reason.

        Reads what is new in rows and archive, adopts rows without a ledger, and archives a sealed page that it meets.
        Raises `LedgerDamaged`, `Refused`, `RowTooBig`, `Retryable`.
        """
        unfit: dict[int, str] = {}
        new = []
        for campaign in campaigns:
            chain = self._chains.get(campaign)
            if chain is not None:
                self._chains.move_to_end(campaign)
            if chain is None or chain.stale:
                new.append(campaign)
        attempts = 0
        while new:
            attempts += 1
            if attempts > STALLS_MAX:
                raise Retryable(f"campaign {new[0]}: its row changes faster than it can be read")
            rows = dict(zip(new, self._read(new), strict=True))
            missing = [campaign for campaign, row in rows.items() if row is None]
            unfit.update(take_over(self._store, self._generation.campaigns, missing, self._patience))
            adoptable = {campaign for campaign, row in rows.items() if row is not None and _adoptable(row)}
            self._adopt(list(adoptable))
            walks: dict[int, Row] = {}
            for campaign, row in rows.items():
                if row is None:
                    continue  # taken over just now, and read next time, or unfit
                if "seal" in row.bins:
                    walks[campaign] = row
                elif campaign not in adoptable:
                    unfit[campaign] = COUNTS_WITHOUT_LEDGER
            self._walk(walks)
            new = [
                campaign
                for campaign in new
                if campaign not in unfit and (campaign not in self._chains or self._chains[campaign].stale)
            ]
        return unfit

    def _read(self, campaigns: list[int]) -> list[Row | None]:
        reads = [Read(self.row(each), ROW_BINS, counts=("seen",), measure=True) for each in campaigns]
        return self._patience(lambda: self._store.read(reads))

    def _adopt(self, campaigns: list[int]) -> None:
        """Give rows that never counted a ledger, once; another worker may be first."""
        writes = [Write(self.row(campaign), adoption(None), conditions=NOT_ADOPTED) for campaign in campaigns]
        for campaign, answer in zip(campaigns, self._patience.write(self._store, writes), strict=True):
            if answer.outcome is Outcome.APPLIED and any(answer.bins["stats"].values()):
                raise Refused(
                    f"campaign {campaign}: another program counts in its row: stop it, then: projector migrate --adopt"
                )

    def _walk(self, rows: Mapping[int, Row]) -> None:
        """From what the rows say back to what is known, many pages a call; the chain must hold in every link."""
        walks: dict[int, _Walk] = {}
        for campaign, row in rows.items():
            known = self._known(campaign)
            if row.bins["seal"] == known:
                walks[campaign] = _Walk(row, [], [], ROOT)
                continue
            start = row.bins["prev"] if row.bins.get("sealed") else row.bins["seal"]
            wanted = [] if start in (NO_PAGE, known) else [start]
            walks[campaign] = _Walk(row, [], wanted, row.bins.get("head", ROOT))
            if not wanted and not self._ends(campaign, walks[campaign], start):
                self._misfit(campaign, walks.pop(campaign), start)
        while asked := self._next_asked(walks):
            reads = []
            for campaign, seals in asked.items():
                for seal in seals:
                    bins = ("prints", "digest", "head", "before") if seal == seals[-1] else ("prints", "digest", "head")
                    reads.append(Read(page_key(self._generation.pages, campaign, seal), bins))
            pages = iter(self._patience(lambda reads=reads: self._store.read(reads)))  # type: ignore[misc]  # bound now
            for campaign, seals in asked.items():
                read = [next(pages) for _ in seals]
                walk = walks.pop(campaign)
                if None in read:
                    self._misfit(campaign, walk, seals[read.index(None)], "is missing")
                    continue
                longer = self._linked(campaign, walk, seals, [row for row in read if row])
                if isinstance(longer, int):
                    self._misfit(campaign, walk, longer)
                else:
                    walks[campaign] = longer
        for campaign, walk in walks.items():
            self._keep(campaign, walk)
        self._archive([campaign for campaign in walks if self._chains[campaign].stage is Stage.SEALED], rows)

    def _known(self, campaign: int) -> int:
        """The newest page that is known and indexed."""
        chain = self._chains.get(campaign)
        return chain.pages[-1] if chain and chain.pages else NO_PAGE

    def _next_asked(self, walks: Mapping[int, _Walk]) -> dict[int, list[int]]:
        asked: dict[int, list[int]] = {}
        left = PAGES_PER_CALL
        for campaign, walk in walks.items():
            if walk.wanted and left > 0:
                asked[campaign] = walk.wanted
                left -= len(walk.wanted)
        return asked

    def _linked(self, campaign: int, walk: _Walk, seals: list[int], pages: list[Row]) -> _Walk | int:
        """One step back: each page has the digest that the next one names; the seal of one that has another."""
        head = walk.head
        for seal, page in zip(seals, pages, strict=True):
            if page.bins.get("digest") != head or not {"prints", "head"} <= page.bins.keys():
                return seal
            walk.found.append((seal, page.bins["prints"]))
            head = page.bins["head"]
        known = self._known(campaign)
        before = list(pages[-1].bins.get("before", []))
        end = before[0] if before else NO_PAGE
        if known in before:
            before = before[: before.index(known)]
        walk = walk._replace(wanted=before, head=head)
        return walk if before or self._ends(campaign, walk, end) else seals[-1]

    def _ends(self, campaign: int, walk: _Walk, end: int) -> bool:
        """Whether the chain may end here: at a page that is known, by its digest where that is at hand, or at none."""
        chain = self._chains.get(campaign)
        if end == NO_PAGE:
            return walk.head == ROOT and not (chain and chain.pages)
        return chain is None or chain.stage is Stage.SEALED or chain.digest == walk.head

    def _misfit(self, campaign: int, walk: _Walk, seal: int, what: str = "does not fit the chain") -> None:
        """A page is missing or not the one that its successor names: the cache or the row is behind, or it is damage.

        What was cached may be what the store has forgotten since: only a whole chain, read under one seal, is judged.
        """
        if campaign in self._chains:
            self._drop(campaign)
            return
        (row,) = self._patience(lambda: self._store.read([Read(self.row(campaign), ("seal",))]))
        if row is not None and row.bins.get("seal") == walk.row.bins["seal"]:
            raise damaged(campaign, seal, what)

    def _keep(self, campaign: int, walk: _Walk) -> None:
        """Index what is new. The page in `sealed` belongs to it, whether the archive has it or not."""
        chain = self._chains.get(campaign)
        if chain is None:
            chain = self._chains[campaign] = Chain(page_ids=self.pages_wanted())
        bins = walk.row.bins
        found = walk.found[::-1]
        first = len(chain.pages)
        entries = [(first + number, blob) for number, (_, blob) in enumerate(found)]
        chain.pages += [seal for seal, _ in found]
        sealed = bins.get("sealed")
        if sealed and (not chain.pages or chain.pages[-1] != bins["seal"]):
            entries.append((len(chain.pages), packed(prints(sealed))))
            chain.pages.append(bins["seal"])
        chain.index.add(entries)
        if bins["seal"] != chain.seal:
            chain.recent.clear()
        if not sealed:
            chain.stage, chain.digest = Stage.ARCHIVED, bins.get("head", ROOT)
        elif bins["seal"] != chain.seal or chain.stage is Stage.ARCHIVED:
            chain.stage = Stage.SEALED
        chain.seal = bins["seal"]
        chain.seen = bins[counted("seen")]
        chain.row_bytes = bins[ROW_BYTES]
        sealed_share = len(sealed) / (len(sealed) + chain.seen) if sealed else 0.0
        chain.sealed_bytes = round(chain.row_bytes * sealed_share)
        chain.stale = False

    # --- archive: the page in `sealed` becomes a row of its own, for ever

    def _archive(self, campaigns: list[int], rows: Mapping[int, Row]) -> None:
        """Create the pages that `sealed` holds, each from the one read of its row; one that is there must be equal."""
        pages: dict[int, dict[str, Any]] = {}
        for campaign in campaigns:
            bins, chain = rows[campaign].bins, self._chains[campaign]
            before = chain.pages[-1 - BEFORE_MAX : -1][::-1]
            pages[campaign] = Page(campaign, bins["seal"], bins["sealed"], before, bins.get("head", ROOT)).bins()
        keys = {campaign: page_key(self._generation.pages, campaign, page["seal"]) for campaign, page in pages.items()}
        writes = [Write(keys[campaign], operations(page), Presence.ABSENT) for campaign, page in pages.items()]
        answers = self._patience.write(self._store, writes)
        there = []
        for campaign, answer in zip(pages, answers, strict=True):
            if answer.outcome is Outcome.TOO_BIG:
                raise RowTooBig(
                    f"campaign {campaign}: page {keys[campaign].key} of {len(pages[campaign]['ids']):,} ids is "
                    "too large for a row: raise max-record-size of the namespace (8M at most) and start again"
                )
            if answer.outcome is Outcome.PRESENT:
                there.append(campaign)
        reads = [Read(keys[campaign], PAGE_BINS) for campaign in there]
        for campaign, row in zip(there, self._patience(lambda: self._store.read(reads)), strict=True):
            if row is not None and row.bins != pages[campaign]:
                raise damaged(campaign, pages[campaign]["seal"], "is not what the row says that it must be")
        for campaign, page in pages.items():
            chain = self._chains[campaign]
            chain.stage, chain.digest = Stage.WRITTEN, page["digest"]
            chain.written = {**{name: page[name] for name in BINS_WITHOUT_IDS}, counted("ids"): len(page["ids"])}
            chain.written_at = self._clock()

    def settle(self, campaigns: Iterable[int]) -> None:
        """Read back the written pages whose wait is over: only the store's own clock says that one has settled."""
        waiting = [
            (campaign, chain)
            for campaign in campaigns
            if (chain := self._chains.get(campaign)) and chain.stage is Stage.WRITTEN and not chain.stale
        ]
        arrived = self._settling.arrived([chain.written_at for _, chain in waiting])
        ripe = list(compress(waiting, arrived))
        if not ripe:
            return
        # Without the ids: a page is written whole or not at all, and its digest is that of the ids that it was made of.
        reads = [
            Read(
                page_key(self._generation.pages, campaign, chain.seal),
                BINS_WITHOUT_IDS,
                counts=("ids",),
                unchanged_ms=self._settling.settle_ms,
            )
            for campaign, chain in ripe
        ]
        for (campaign, chain), row in zip(ripe, self._patience(lambda: self._store.read(reads)), strict=True):
            if row is None:
                chain.stage, chain.stale = Stage.SEALED, True
            elif row.bins != chain.written:
                raise damaged(campaign, chain.seal, "is not what the row says that it must be")
            elif row.unchanged:
                chain.stage, chain.written = Stage.SETTLED, {}

    def evict(self, keep: Mapping[int, object]) -> None:
        """Account for the chains just touched; let go of others, touched longest ago, until memory is within bounds."""
        for campaign in keep:
            chain = self._chains.get(campaign)
            if chain is not None:
                memory_bytes, ids = chain.memory_bytes, chain.ids
                self.held.index_bytes += memory_bytes - chain.accounted_bytes
                self.held.ids += ids - chain.accounted_ids
                chain.accounted_bytes, chain.accounted_ids = memory_bytes, ids
        while self.held.index_bytes > self._memory_bytes_max:
            oldest = next((campaign for campaign in self._chains if campaign not in keep), None)
            if oldest is None:
                return
            self._drop(oldest)

    def _drop(self, campaign: int) -> None:
        chain = self._chains.pop(campaign)
        self.held.index_bytes -= chain.accounted_bytes
        self.held.ids -= chain.accounted_ids


def _adoptable(row: Row) -> bool:
    return "seal" not in row.bins and counts_nothing(row.bins)
