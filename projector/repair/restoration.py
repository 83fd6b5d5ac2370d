"""Restoration: a page that is missing or altered, made again from the topic; its digest is the judge.

What a page holds is what the topic has for its campaign and no other place of the ledger; what it says of its
neighbours, its neighbours say of it. Nothing is believed: only a page whose digest is the one that its successor names
(the campaign's row names that of the newest) is the page that was archived.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, permutations, product
from math import prod
from typing import Any, NamedTuple, TypeAlias

from projector.archive import newest
from projector.errors import LedgerDamaged, Refused
from projector.fold import EventId, Sighting
from projector.generation import Generation
from projector.page import BEFORE_MAX, BINS, NO_PAGE, ROOT, Page, operations, page_key, parsed
from projector.patience import Patience, patiently
from projector.prints import packed, prints
from projector.store import Outcome, Presence, Put, Read, RowKey, Store, Write

TRIES_MAX = 4_000
"""So many digests are tried of one kind of guess."""
IDS_TRIED_MAX = 20_000
"""So many ids at most are tried one by one."""
PARTITIONS_ORDERED_MAX = 5
_PRINT_BYTES = 4


class Candidates(NamedTuple):
    """Ids of one campaign that the topic has below the checkpoint; each with its first position in each partition.

    The most likely one comes first. `aside`: positions that quarantine has.
    """

    ids: Mapping[EventId, Sequence[Sighting]]
    aside: frozenset[tuple[int, int]] = frozenset()

    def counted(self) -> dict[EventId, list[Sighting]]:
        """The same without what quarantine has."""
        kept = {
            event_id: [each for each in found if (each[2], each[3]) not in self.aside]
            for event_id, found in self.ids.items()
        }
        return {event_id: found for event_id, found in kept.items() if found}


class Restored(NamedTuple):
    """A page as it was, and whether it is `missing` now, or else altered."""

    page: Page
    missing: bool


@dataclass(slots=True)
class Restoration:
    """Of one campaign: its damaged pages as they were, and what its ledger holds with them."""

    pages: list[Restored] = field(default_factory=list)
    missing: Mapping[EventId, Sighting] = field(default_factory=dict)
    """What the topic has that the ledger then still lacks, but for what was parked."""
    ids: set[EventId] = field(default_factory=set)
    codes: Counter[int] = field(default_factory=Counter)
    """Ids per KPI code."""
    below: Counter[int] = field(default_factory=Counter)
    """Ids per partition that stand below the checkpoint."""

    def take(self, held: Mapping[EventId, Sighting], checkpoint: Mapping[int, int]) -> None:
        """What one place holds."""
        self.ids.update(held)
        for code, _, partition, offset in held.values():
            self.codes[code] += 1
            if offset < checkpoint.get(partition, 0):
                self.below[partition] += 1


Spans: TypeAlias = Mapping[int, tuple[int, int]]
"""Per partition the first and the last offset at which some ids stand."""


def _spans(held: Mapping[EventId, Sighting]) -> Spans:
    spans: dict[int, tuple[int, int]] = {}
    for _, _, partition, offset in held.values():
        first, last = spans.get(partition, (offset, offset))
        spans[partition] = (min(first, offset), max(last, offset))
    return spans


@dataclass(slots=True)
class _Link:
    """A page of the chain as it was found. `digest` and `head` are known of an intact one only."""

    seal: int
    digest: bytes | None = None
    head: bytes = ROOT
    bins: Mapping[str, Any] | None = None
    """Of one that is not intact: what is there instead, if anything."""
    spans: "Spans" = field(default_factory=dict)

    @property
    def intact(self) -> bool:
        return self.digest is not None


def restore(
    store: Store,
    generation: Generation,
    campaign: int,
    checkpoint: Mapping[int, int],
    candidates: Callable[[Sequence[int]], Candidates],
    patience: Patience = patiently,
) -> Restoration:
    """The pages of a campaign that are missing or altered, as they were; nothing is written.

    `candidates` answers what the topic has that no place but these pages is known to hold; what stands in other places
    is left out here. Raises `Refused`, which names the rebuild, where a page cannot be made again, or where the chain
    is broken otherwise; `Retryable`.
    """
    key = RowKey(generation.campaigns, campaign)
    row_bins = ("seal", "prev", "head", "sealed", "seen")
    (row,) = patience(lambda: store.read([Read(key, row_bins)]))
    if row is None or "seal" not in row.bins:
        raise _irreparable(campaign, "its row, or the ledger on it, is gone")
    restoration = Restoration()
    for place in ("seen", "sealed"):
        restoration.take(row.bins.get(place, {}), checkpoint)
    links = []
    for link, page in _links(store, generation, campaign, row.bins, patience):
        links.append(link)
        if page is not None:
            restoration.take(page.ids, checkpoint)
    damaged = [link.seal for link in links if not link.intact]
    if not damaged:
        return restoration
    found = candidates(damaged)
    left = Candidates({each: at for each, at in found.ids.items() if each not in restoration.ids}, found.aside)
    on_row = [_spans(row.bins.get(place, {})) for place in ("seen", "sealed")]
    for restored in _restored(campaign, links, row.bins.get("head", ROOT), left, on_row):
        restoration.pages.append(restored)
        restoration.take(restored.page.ids, checkpoint)
    counted = left.counted()
    restoration.missing = {each: at[0] for each, at in counted.items() if each not in restoration.ids}
    return restoration


def write_page(store: Store, generation: Generation, page: Page, patience: Patience = patiently) -> bool:
    """Put a restored page in its place, in one write; False if it is there already. Raises `Retryable`.

    A key has one content for ever, so a write of it that lands late is harmless.
    """
    key = page_key(generation.pages, page.campaign, page.seal)
    bins = page.bins()
    (row,) = patience(lambda: store.read([Read(key, BINS)]))
    if row is not None and row.bins == bins:
        return False
    if row is None:
        write = Write(key, operations(bins), Presence.ABSENT)
    else:
        write = Write(key, [Put(name, dict(held) if name == "ids" else held) for name, held in bins.items()])
    (answer,) = patience.write(store, [write])
    if answer.outcome is Outcome.TOO_BIG:
        raise Refused(f"campaign {page.campaign}: page {page.seal:016x} does not fit into a row: raise max-record-size")
    return True


# --- the chain, newest page first


def _links(
    store: Store, generation: Generation, campaign: int, row: Mapping[str, Any], patience: Patience
) -> Iterator[tuple[_Link, Page | None]]:
    """Every page, as far as intact ones, or the row, name them; whole, where it is intact."""
    expected: bytes | None = row.get("head", ROOT)
    wanted = [newest(row)]
    met: set[int] = set()
    while wanted and wanted[0] != NO_PAGE:
        seal = wanted[0]
        if seal in met:
            raise _irreparable(campaign, f"the chain of its pages comes back to page {seal:016x}")
        met.add(seal)
        bins = _read(store, generation, campaign, seal, patience)
        page = _intact(campaign, seal, bins, expected)
        if page is not None:
            yield _Link(seal, page.digest, page.head, spans=_spans(page.ids)), page
            expected = page.head
            wanted = list(page.before)
            continue
        yield _Link(seal, bins=bins), None
        expected = None
        wanted = wanted[1:] or _next(store, generation, campaign, row, seal, bins, patience)


def _read(
    store: Store, generation: Generation, campaign: int, seal: int, patience: Patience
) -> Mapping[str, Any] | None:
    (row,) = patience(lambda: store.read([Read(page_key(generation.pages, campaign, seal), BINS)]))
    return None if row is None else row.bins


def _intact(campaign: int, seal: int, bins: Mapping[str, Any] | None, expected: bytes | None) -> Page | None:
    if bins is None:
        return None
    try:
        page = parsed(campaign, seal, bins)
    except LedgerDamaged:
        return None
    return page if expected is None or page.digest == expected else None


def _next(
    store: Store,
    generation: Generation,
    campaign: int,
    row: Mapping[str, Any],
    seal: int,
    bins: Mapping[str, Any] | None,
    patience: Patience,
) -> list[int]:
    """What comes before a damaged page that no intact one names: as the row, its next page or the page itself says."""
    if not row.get("sealed"):
        if seal == row["seal"]:
            return [row["prev"]]
    elif seal == row["prev"]:
        archived = _read(store, generation, campaign, row["seal"], patience)
        page = _intact(campaign, row["seal"], archived, None)
        if page is not None and list(page.before[:1]) == [seal]:
            return list(page.before[1:])
    before = (bins or {}).get("before")
    return [each for each in before if isinstance(each, int)] if isinstance(before, list) else []


# --- one page after the other, the newest first: each tells the digest of the one before it


def _restored(
    campaign: int, links: Sequence[_Link], head: bytes, candidates: Candidates, on_row: Sequence[Spans]
) -> Iterator[Restored]:
    expected = head
    left = dict(candidates.ids)
    rest = sum(not link.intact for link in links)
    for number, link in enumerate(links):
        if link.intact:
            if link.digest != expected:
                raise _irreparable(campaign, f"page {link.seal:016x} is not the one that its successor names")
            expected = link.head
            continue
        older = links[number + 1 :]
        newer = [*on_row, *(each.spans for each in links[:number])]
        between = _between(newer, [each.spans for each in older])
        contents = _contents(link, Candidates(left, candidates.aside), between, alone=rest == 1)
        for before, before_head, ids in _tries(link, older, contents):
            page = Page(campaign, link.seal, ids, before, before_head)
            if _digest(page) == expected:
                break
        else:
            what = "is missing" if link.bins is None else "is altered"
            raise _irreparable(campaign, f"page {link.seal:016x} {what}, and the topic does not give one of its digest")
        yield Restored(page, missing=link.bins is None)
        link.spans = _spans(page.ids)
        expected = page.head
        left = {event_id: found for event_id, found in left.items() if event_id not in page.ids}
        rest -= 1
    if expected != ROOT:
        raise _irreparable(campaign, "the chain of its pages is broken: the oldest one names another before it")


def _digest(page: Page) -> bytes | None:
    """None for content, as an altered page may have it, that no page has."""
    try:
        return page.digest
    except (TypeError, ValueError, AttributeError, IndexError):
        return None


def _tries(
    link: _Link, older: Sequence[_Link], contents: Iterator[Mapping[EventId, Sighting]]
) -> Iterator[tuple[list[int], bytes, Mapping[EventId, Sighting]]]:
    """Content by content, with what the page may have said of those before it."""
    own = link.bins or {}
    befores = [[each.seal for each in older[:BEFORE_MAX]]]
    if isinstance(own.get("before"), list) and own["before"] not in befores:
        befores.append(own["before"])
    if not older:
        heads = [ROOT]
    elif older[0].digest is not None:
        heads = [older[0].digest]
    else:
        said = (own.get("head"), (older[0].bins or {}).get("digest"))
        heads = list(dict.fromkeys(each for each in said if isinstance(each, bytes)))
    for ids in contents:
        for before, head in product(befores, heads):
            yield before, head, ids


def _between(newer: Sequence[Spans], older: Sequence[Spans]) -> Callable[[Sighting], bool]:
    """Whether a position may be a page's that was sealed between these: each partition is counted in its order."""
    ends: dict[int, int] = {}
    starts: dict[int, int] = {}
    for spans in newer:
        for partition, (first, _) in spans.items():
            ends[partition] = min(first, ends.get(partition, first))
    for spans in older:
        for partition, (_, last) in spans.items():
            starts[partition] = max(last, starts.get(partition, last))

    def fits(sighting: Sighting) -> bool:
        _, _, partition, offset = sighting
        return starts.get(partition, -1) < offset and (partition not in ends or offset < ends[partition])

    return fits


def _contents(
    link: _Link, candidates: Candidates, between: Callable[[Sighting], bool], alone: bool
) -> Iterator[Mapping[EventId, Sighting]]:
    """What the page may have held, the most likely first; a bounded number of tries."""
    own = link.bins or {}
    if own.get("ids") and isinstance(own["ids"], dict):
        yield own["ids"]  # only what follows from the ids was altered
    counted = candidates.counted()
    pools: list[Mapping[EventId, Sequence[Sighting]]] = []
    blob = own.get("prints")
    if isinstance(blob, bytes):
        named = {blob[at : at + _PRINT_BYTES] for at in range(0, len(blob), _PRINT_BYTES)}
        printed = {key: at for key, at in candidates.ids.items() if packed(prints([key])) in named}
        pools += [{key: list(filter(between, at)) or at for key, at in printed.items()}, printed]
    fitting = {key: list(filter(between, at)) for key, at in counted.items()}
    pools.append({key: at for key, at in fitting.items() if at})
    if alone:
        pools += [{key: fitting[key] or at for key, at in counted.items()}, counted, candidates.ids]
    tried: list[Mapping[EventId, Sequence[Sighting]]] = []
    for pool in pools:
        if pool and pool not in tried:
            tried.append(pool)
            yield from _choices(pool)


def _choices(pool: Mapping[EventId, Sequence[Sighting]]) -> Iterator[Mapping[EventId, Sighting]]:
    """Every id somewhere; then, if that is not too many, all but one."""
    yield from islice(_placed(pool), TRIES_MAX)
    if 1 < len(pool) <= IDS_TRIED_MAX:
        for chosen in islice(_placed(pool), 1 + TRIES_MAX // len(pool)):
            for event_id in pool:
                yield {each: at for each, at in chosen.items() if each != event_id}


def _placed(pool: Mapping[EventId, Sequence[Sighting]]) -> Iterator[Mapping[EventId, Sighting]]:
    """The first position of each; one of them elsewhere; all by an order of the partitions; any of them anywhere."""
    first = {event_id: found[0] for event_id, found in pool.items()}
    yield first
    several = {event_id: found for event_id, found in pool.items() if len(found) > 1}
    for event_id, found in several.items():
        for other in found[1:]:
            yield {**first, event_id: other}
    partitions = sorted({each[2] for found in several.values() for each in found})
    if len(several) > 1 and len(partitions) <= PARTITIONS_ORDERED_MAX:
        for order in permutations(partitions):
            ranks = {partition: rank for rank, partition in enumerate(order)}
            yield first | {key: min(found, key=lambda each: ranks[each[2]]) for key, found in several.items()}
    if len(several) > 1 and prod(map(len, several.values())) <= TRIES_MAX // 2:
        for chosen in product(*several.values()):
            yield {**first, **dict(zip(several, chosen, strict=True))}


def _irreparable(campaign: int, what: str) -> Refused:
    return Refused(f"campaign {campaign}: {what}: repair cannot mend that; nothing was changed; run: projector rebuild")
