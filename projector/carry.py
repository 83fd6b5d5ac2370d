"""Carry: what was counted from records that the topic has no more, taken over from the live generation's ledger.

The ledger knows the position of each id. Ids before the head go through the rebuilt generation's own ledger, like any
others; the checkpoint is then committed at the head, with how many they are as `carried`, and the recount begins there.
Killed at any moment and run again, it ends the same: ids that are there add nothing, and they are counted by reading.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from projector.adoption import take_over_all
from projector.amendment import Amendment, Forgotten
from projector.archive import Walk, places, read_rows
from projector.balance import Totals, parse_totals
from projector.clock import Clock
from projector.config import Config
from projector.errors import Fenced, LedgerDamaged, Refused, Retryable
from projector.fold import Change, EventId, Sighting
from projector.footing import ledgers
from projector.generation import Generation
from projector.log import Log, Member, Offset
from projector.patience import Patience, checkpoint_patiently, patiently
from projector.seat import Seat
from projector.store import Store

SLOT = "carry"
IDS_PER_APPLY = 10_000
ATTEMPTS = 10


class Gone(NamedTuple):
    """Offsets `first` to `head` - 1 of a partition: not read by the generation, and not in the topic any more."""

    partition: int
    first: int
    head: int


def gone(log: Log, config: Config, generation: Generation) -> list[Gone]:
    """What a generation can no longer read, in the order of the partitions. Raises `Retryable`."""
    checkpoint = checkpoint_patiently(lambda: log.checkpoint(generation.group, config.input_topic))
    heads = patiently(lambda: log.heads(config.input_topic))
    first = {partition: checkpoint[partition].offset if partition in checkpoint else 0 for partition in heads}
    return [
        Gone(partition, first[partition], head) for partition, head in sorted(heads.items()) if first[partition] < head
    ]


def carry(
    log: Log,
    store: Store,
    config: Config,
    live: Generation,
    rebuilt: Generation,
    advance: Callable[[int], None] = lambda _: None,
    clock: Clock = time,
    patience_s: float = 20.0,
    campaigns: Collection[int] | None = None,
) -> dict[int, int]:
    """Carry over what is gone; answers per partition how many ids are carried in all. `advance` hears of ids read.

    `campaigns`: of these alone, as a scratch generation counts them (None: of all).

    No worker of the rebuilt generation may run. Raises `Refused` where one does, or where a campaign may not count;
    `LedgerDamaged` where the live ledger cannot be read whole; `Misconfigured`, `RowTooBig`, `Retryable`.
    """
    patience = Patience(patience_s, sleep=clock.sleep)
    seat = Seat(log, rebuilt.group, config.input_topic, SLOT, patience, clock)
    if others := seat.others():
        raise Refused(f"generation {rebuilt.number} has workers, {', '.join(others)}: stop them first")
    carrier = _Carrier(seat, store, config, rebuilt, campaigns, patience, clock)
    for _ in range(ATTEMPTS):
        parts = gone(log, config, rebuilt)
        if not parts:
            seat.leave()
            committed = checkpoint_patiently(lambda: log.checkpoint(rebuilt.group, config.input_topic))
            totals = {partition: parse_totals(each.metadata) for partition, each in committed.items()}
            return {partition: each.carried for partition, each in totals.items() if each is not None}
        with suppress(Forgotten):
            carrier.carry(live, parts, advance)
    raise Retryable("the head of the topic moves, or the store restarts, faster than ids can be carried over")


class _Carrier:
    """Applies, and commits as a member of the group."""

    def __init__(
        self,
        seat: Seat,
        store: Store,
        config: Config,
        rebuilt: Generation,
        campaigns: Collection[int] | None,
        patience: Patience,
        clock: Clock,
    ) -> None:
        self._seat = seat
        self._store = store
        self._rebuilt = rebuilt
        self._only = campaigns
        self._patience = patience
        self._amendment = Amendment(store, config, rebuilt, patience, clock)

    def carry(self, live: Generation, parts: Sequence[Gone], advance: Callable[[int], None]) -> None:
        """One attempt; the checkpoint tells whether it has succeeded. Raises `Forgotten`."""
        self._amendment.renew()
        if self._only is None:
            for campaign, reason in take_over_all(self._store, live.campaigns, self._rebuilt.campaigns).items():
                self._amendment.settle()
                raise Refused(f"campaign {campaign}, of generation {live.number}: {reason}: create or adopt it first")
        changes: dict[int, Change] = {}
        held = 0
        for campaign, event_id, sighting in self._before_heads(live, parts, advance):
            changes.setdefault(campaign, Change()).ids[event_id] = sighting
            held += 1
            if held == IDS_PER_APPLY:
                self._amendment.apply(changes)
                changes, held = {}, 0
        self._amendment.apply(changes)
        counted = Counter(sighting[2] for _, _, sighting in self._before_heads(self._rebuilt, parts, lambda _: None))
        self._amendment.settle()
        self._commit(parts, counted)

    def _before_heads(
        self, generation: Generation, parts: Sequence[Gone], advance: Callable[[int], None]
    ) -> Iterator[tuple[int, EventId, Sighting]]:
        """The ids of a generation at positions that are gone."""
        limits = {part.partition: range(part.first, part.head) for part in parts}
        nowhere = range(0)
        found = ledgers(self._store, generation)
        wanted = found if self._only is None else [campaign for campaign in found if campaign in self._only]
        for campaign, row in read_rows(self._store, generation, wanted):
            if row is None:
                continue
            walk = Walk(self._store, generation, campaign, row.bins)
            for place in places(row.bins, walk):
                for event_id, sighting in place.items():
                    if sighting[3] in limits.get(sighting[2], nowhere):
                        yield campaign, event_id, sighting
                advance(len(place))
            if walk.flaws:
                self._amendment.settle()
                raise LedgerDamaged(f"generation {generation.number}, campaign {campaign}: {walk.flaws[0]}")

    def _commit(self, parts: Sequence[Gone], counted: Mapping[int, int]) -> None:
        # Fenced: not known to be committed; the checkpoint tells.
        with suppress(Fenced), self._seat.held([part.partition for part in parts]) as member:
            offsets = self._offsets(member, parts, counted)
            if offsets:
                member.commit([], offsets)

    def _offsets(self, member: Member, parts: Sequence[Gone], counted: Mapping[int, int]) -> dict[int, Offset]:
        """The checkpoint at the heads, with what is carried added to its totals; {} if another has moved it."""
        found = checkpoint_patiently(lambda: member.committed([part.partition for part in parts]))
        offsets: dict[int, Offset] = {}
        for part in parts:
            before = found.get(part.partition)
            if (before.offset if before is not None else 0) != part.first:
                return {}
            totals = parse_totals(before.metadata) if before is not None else Totals()
            carried = Totals(carried=counted.get(part.partition, 0))
            offsets[part.partition] = Offset(part.head, totals.plus(carried).metadata() if totals else "")
        return offsets
