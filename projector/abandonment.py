"""Abandonment: what a generation that is not live holds is dropped, in bounded steps, and its number never used again.

A store may bring deleted rows back after a crash. That is harmless, as nothing ever writes or reads under that number
again; abandoning it once more drops them.
"""

from collections.abc import Callable, Iterator, Sequence

from projector.adoption import REGISTRY, adoption
from projector.archive import page_bins
from projector.config import Config
from projector.errors import Refused
from projector.event import KPIS
from projector.generation import Generation
from projector.generations import FIRST, Build, State, read, record_settled, totals
from projector.log import Log
from projector.page import NO_PAGE, ROOT, page_key
from projector.patience import patiently, scan_patiently, write_patiently
from projector.pointer import CLOSING, PointerRow
from projector.settling import settle_seconds
from projector.store import Delete, Operation, Presence, Put, Read, RowKey, Store, Write

ROWS_PER_CALL = 500


def abandon(
    log: Log, store: Store, config: Config, number: int, advance: Callable[[int], None] = lambda _: None
) -> Build:
    """Drop rows, pages, checkpoint and its copies of a generation; `advance` hears of rows. May be run again.

    What a killed one left is dropped by the next. Of generation 1 the campaigns stay, without what they counted: they
    are those of every generation. Raises `Refused` for the live one, one that has workers, one that a cutover under way
    may make live, or none; and `Retryable`.
    """
    build = read(store, number)
    generation = build.generation(config)
    _check(log, store, config, generation)
    if build.state is not State.ABANDONED:
        marked = build._replace(state=State.ABANDONED, totals=totals(store, generation))
        record_settled(store, config, marked)
        try:
            # A cutover reads that mark after its `closing`, and this reads the pointer after the mark: one gives way.
            _check(log, store, config, generation)
        except Refused:
            record_settled(store, config, build)
            raise
        build = marked
    patiently(lambda: log.drop_group(generation.group))
    campaigns = _campaigns(store, generation.campaigns)
    for campaign in campaigns:
        _drop(store, _pages(store, generation, campaign), advance)
    _drop(store, _orphans(store, generation, campaigns), advance)
    _drop(store, _copies(log, config, generation), advance)
    if number == FIRST:
        _empty(store, campaigns, advance)
    else:
        _drop(store, [RowKey(generation.campaigns, campaign) for campaign in campaigns], advance)
    return build


def _check(log: Log, store: Store, config: Config, generation: Generation) -> None:
    settle_s = patiently(lambda: settle_seconds(store, config.settle_ms, config.allow_volatile_store))
    pointer = PointerRow(store, settle_s).settled()
    if pointer.live == generation.number:
        raise Refused(f"generation {generation.number} is live: cut over to another one first")
    if pointer.state == CLOSING:
        raise Refused("a cutover is under way: wait until it has ended")
    if members := patiently(lambda: log.members(generation.group)):
        raise Refused(f"generation {generation.number} has workers, {', '.join(members)}: stop them first")


def _campaigns(store: Store, campaigns: str) -> list[int]:
    return sorted(row.bins["c-id"] for row in scan_patiently(store, campaigns, ("c-id",)) if "c-id" in row.bins)


def _pages(store: Store, generation: Generation, campaign: int) -> list[RowKey]:
    """The pages of a campaign, oldest first: what is left after a kill is still reached from the row."""
    (row,) = patiently(lambda: store.read([Read(RowKey(generation.campaigns, campaign), ("seal", "prev"))]))
    seals: list[int] = []
    for name in ("seal", "prev"):  # the page `seal` may not be archived yet
        start = row.bins.get(name, NO_PAGE) if row is not None else NO_PAGE
        seals = seals or [page["seal"] for page in page_bins(store, generation, campaign, start, ("seal",))]
    return [page_key(generation.pages, campaign, seal) for seal in reversed(seals)]


def _orphans(store: Store, generation: Generation, campaigns: Sequence[int]) -> Iterator[RowKey]:
    """Pages that no row leads to: a store crash took the row back, or the row is gone. Whose they are they do not say.

    A page names its seal alone, so it is dropped under every campaign there is.
    """
    seals = [row.bins["seal"] for row in scan_patiently(store, generation.pages, ("seal",)) if "seal" in row.bins]
    owners = sorted({*campaigns, *_campaigns(store, REGISTRY)}) if seals else []
    for seal in seals:
        yield from (page_key(generation.pages, campaign, seal) for campaign in owners)


def _copies(log: Log, config: Config, generation: Generation) -> list[RowKey]:
    topic = patiently(lambda: log.topic(config.input_topic))
    partitions = topic.partitions if topic else 0
    return [RowKey("projector", f"checkpoint/g{generation.number}/{partition}") for partition in range(partitions)]


def _empty(store: Store, campaigns: Sequence[int], advance: Callable[[int], None]) -> None:
    """The campaigns stay, with their opening and nothing counted."""
    for first in range(0, len(campaigns), ROWS_PER_CALL):
        part = campaigns[first : first + ROWS_PER_CALL]
        reads = [Read(RowKey(REGISTRY, campaign), ("seal", "opening")) for campaign in part]
        rows = patiently(lambda reads=reads: store.read(reads))  # type: ignore[misc]  # bound now
        writes = []
        for campaign, row in zip(part, rows, strict=True):
            if row is not None and "seal" in row.bins:
                opening = row.bins.get("opening")
                stats = {kpi: (opening or {}).get(kpi, 0) for kpi in sorted(KPIS)}
                operations: list[Operation] = [Put("stats", stats), Put("head", ROOT)]
                writes.append(Write(RowKey(REGISTRY, campaign), operations + adoption(opening)))
        write_patiently(store, writes)
        advance(len(part))


def _drop(store: Store, rows: Sequence[RowKey] | Iterator[RowKey], advance: Callable[[int], None]) -> None:
    part: list[Write] = []
    for row in rows:
        part.append(Write(row, [Delete()], Presence.EITHER))
        if len(part) == ROWS_PER_CALL:
            write_patiently(store, part)
            advance(len(part))
            part = []
    write_patiently(store, part)
    advance(len(part))
