"""Comparison: two generations by id, each up to its own checkpoint (design section 8).

Digests first; ids are read only where those differ. Which is why it is quick at last, while nobody counts: what was
compared before is not read again, and ids that were found to differ are taken out of the digests.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from projector.archive import Walk, places, read_rows
from projector.config import Config
from projector.differences import Cause, Cell, Comparison, IdDifference, LedgerDifference, shown
from projector.event import KPIS
from projector.fold import EventId, Sighting
from projector.generation import Generation
from projector.log import Log
from projector.patience import checkpoint_patiently, patiently
from projector.quarantined import Quarantined, quarantined_as
from projector.recent import is_past, recent
from projector.store import Store
from projector.tally import Hasher, Held, Scope, Tally

IDS_MAX = 500_000
LISTED_MAX = 10_000
KEPT_MAX = 1_000_000
_BUCKETS = 1 << 16


@dataclass
class _Found:
    """What differs in the ids of one campaign."""

    ids: list[IdDifference] = field(default_factory=list)
    more: Counter[Cause] = field(default_factory=Counter)
    """How many are not in `ids`, for want of room."""
    more_excused: Counter[int] = field(default_factory=Counter)
    """By KPI code: how much excused ones of these add to the rebuilt one, or take from it."""
    doubled: list[LedgerDifference] = field(default_factory=list)

    def keep(self, difference: IdDifference, kept: Counter[Cause]) -> None:
        """Take it in; `kept` are those of all campaigns so far."""
        past = difference.cause is Cause.PAST_CHECKPOINT
        room = kept[difference.cause] < (LISTED_MAX if past else KEPT_MAX)
        kept[difference.cause] += 1
        if room:
            self.ids.append(difference)
        else:
            self.more[difference.cause] += 1
            if difference.cause is not Cause.UNEXPLAINED:
                self.more_excused.update(difference.added())

    @property
    def lasting(self) -> list[IdDifference]:
        """Those of `ids` that will differ for ever."""
        return [each for each in self.ids if each.cause is not Cause.PAST_CHECKPOINT]


class Comparer:
    """Compares a `rebuilt` generation with the `live` one, as often as asked.

    Call `refresh` while the live one runs, until there is little left to read; then `compare` takes little time after
    its workers have left. Progress is (ids done, ids in all). Every call raises `Retryable`.
    """

    def __init__(
        self, log: Log, store: Store, config: Config, live: Generation, rebuilt: Generation, scope: Scope | None = None
    ) -> None:
        self._log = log
        self._store = store
        self._config = config
        self._scope = scope or Scope()
        self._hasher = Hasher()
        self._live = Tally(store, live, self._hasher, self._scope)
        self._rebuilt = Tally(store, rebuilt, self._hasher, self._scope)
        self._known: dict[int, list[IdDifference]] = {}
        """Per campaign the ids that were found to differ and always will."""

    def refresh(self, progress: Callable[[int, int], None] = lambda *_: None) -> None:
        """Read what is new in both."""
        meter = _Meter(progress)
        tallies = (self._live, self._rebuilt)
        meter.expect(sum(tally.look() for tally in tallies))
        for tally in tallies:
            tally.read(meter.advance)

    def compare(self, progress: Callable[[int, int], None] = lambda *_: None) -> Comparison:
        """Compare both as they are now. The checkpoints are read before the ids: an id below one must be there."""
        live_end, rebuilt_end = (self._checkpoint(tally.generation) for tally in (self._live, self._rebuilt))
        self.refresh(progress)
        meter = _Meter(progress)
        differing = [campaign for campaign, held in self._pairs() if self._ids_differ(*held)]
        found: dict[int, _Found] = {}
        kept: Counter[Cause] = Counter()
        unknown = []
        for campaign in differing:
            known = self._known.get(campaign, [])
            ids = known if self._accounted(campaign, known) else self._newest(campaign, live_end, rebuilt_end)
            if ids is None:
                unknown.append(campaign)
            else:
                found[campaign] = _Found()
                for each in ids:
                    found[campaign].keep(each, kept)
        meter.expect(sum(live.counted + rebuilt.counted for live, rebuilt in map(self._pair, unknown)))
        for campaign in unknown:
            found[campaign] = self._search(campaign, live_end, rebuilt_end, kept, meter.advance)
        # What was known cannot have changed its cause; the quarantine is long, and the live one may stand still.
        self._explain({campaign: found[campaign] for campaign in unknown})
        self._known = {campaign: of.lasting for campaign, of in found.items()}
        return self._comparison(found, live_end, rebuilt_end)

    def _checkpoint(self, generation: Generation) -> dict[int, int]:
        found = checkpoint_patiently(lambda: self._log.checkpoint(generation.group, self._config.input_topic))
        return {partition: committed.offset for partition, committed in found.items()}

    # --- digests

    def _pair(self, campaign: int) -> tuple[Held, Held]:
        return self._live.campaigns.get(campaign, Held()), self._rebuilt.campaigns.get(campaign, Held())

    def _pairs(self) -> Iterator[tuple[int, tuple[Held, Held]]]:
        for campaign in sorted(self._live.campaigns.keys() | self._rebuilt.campaigns.keys()):
            yield campaign, self._pair(campaign)

    def _ids_differ(self, live: Held, rebuilt: Held) -> bool:
        return not all(live.same_ids(rebuilt, code) for code in range(len(KPIS)))

    def _accounted(self, campaign: int, ids: Sequence[IdDifference]) -> bool:
        """Whether these are exactly the ids that differ now: the digests tell."""
        live, rebuilt = self._pair(campaign)
        less_live = live.sums - self._live.sums({each.id: each.live for each in ids if each.live})
        less_rebuilt = rebuilt.sums - self._rebuilt.sums({each.id: each.rebuilt for each in ids if each.rebuilt})
        return bool((less_live[:, :3] == less_rebuilt[:, :3]).all())

    def _newest(
        self, campaign: int, live_end: Mapping[int, int], rebuilt_end: Mapping[int, int]
    ) -> list[IdDifference] | None:
        """What differs, if apart from what is known it is only what one of the two counted lately, unread by the other.

        Both rows are tallied anew as they are read here, so that ids and digests are of one version of each.
        """
        rows = self._live.read_again(campaign), self._rebuilt.read_again(campaign)
        if rows[0] is None or rows[1] is None:
            return None
        live = recent(self._store, self._live.generation, campaign, rows[0], rebuilt_end)
        rebuilt = recent(self._store, self._rebuilt.generation, campaign, rows[1], live_end)
        ids = [
            IdDifference(campaign, each, live.past.get(each), rebuilt.past.get(each), Cause.PAST_CHECKPOINT)
            for each in (live.past.keys() - rebuilt.ids.keys()) | (rebuilt.past.keys() - live.ids.keys())
            if self._scope.takes(live.past.get(each) or rebuilt.past[each])
        ]
        lately = {each.id for each in ids}
        ids += [each for each in self._known.get(campaign, []) if each.id not in lately]
        return ids if self._accounted(campaign, ids) else None

    # --- ids

    def _search(
        self,
        campaign: int,
        live_end: Mapping[int, int],
        rebuilt_end: Mapping[int, int],
        kept: Counter[Cause],
        advance: Callable[[int], None],
    ) -> _Found:
        """Read the ids of a campaign in both and hold them against each other, so many at a time as memory allows."""
        found = _Found()
        for part in self._parts(campaign):
            live = self._held(self._live.generation, campaign, part, found, advance)
            rebuilt = self._held(self._rebuilt.generation, campaign, part, found, advance)
            for event_id in live.keys() | rebuilt.keys():
                difference = self._difference(
                    campaign, event_id, live.get(event_id), rebuilt.get(event_id), live_end, rebuilt_end
                )
                if difference is not None:
                    found.keep(difference, kept)
        return found

    def _difference(
        self,
        campaign: int,
        event_id: EventId,
        live: Sighting | None,
        rebuilt: Sighting | None,
        live_end: Mapping[int, int],
        rebuilt_end: Mapping[int, int],
    ) -> IdDifference | None:
        takes = self._scope.takes
        inside = live if live and takes(live) else None, rebuilt if rebuilt and takes(rebuilt) else None
        if inside == (None, None):
            return None
        if live is not None and rebuilt is not None:
            if live[0] != rebuilt[0]:
                return IdDifference(campaign, event_id, live, rebuilt, Cause.UNEXPLAINED)
            if None not in inside:
                return None
            # Both counted it, one of them at a position that is out of scope.
            return IdDifference(campaign, event_id, inside[0], inside[1], Cause.PAST_CHECKPOINT)
        past = is_past(live, rebuilt_end) if live is not None else rebuilt is not None and is_past(rebuilt, live_end)
        return IdDifference(campaign, event_id, live, rebuilt, Cause.PAST_CHECKPOINT if past else Cause.UNEXPLAINED)

    def _parts(self, campaign: int) -> list[range]:
        """Ranges of hash buckets, each with about `IDS_MAX` ids."""
        ids = max(held.counted for held in self._pair(campaign))
        parts = min(_BUCKETS, -(-ids // IDS_MAX) or 1)
        bounds = [_BUCKETS * part // parts for part in range(parts + 1)]
        return [range(first, last) for first, last in pairwise(bounds)]

    def _held(
        self, generation: Generation, campaign: int, part: range, found: _Found, advance: Callable[[int], None]
    ) -> dict[EventId, Sighting]:
        """The ids of a campaign whose hashes are in a part."""
        ids: dict[EventId, Sighting] = {}
        for _, row in read_rows(self._store, generation, [campaign]):
            if row is None or "seal" not in row.bins:
                continue
            for place in places(row.bins, Walk(self._store, generation, campaign, row.bins)):
                taken = place if len(part) == _BUCKETS else self._taken(place, part)
                for event_id in taken.keys() & ids.keys():
                    what = f"id {shown(event_id)} stands in two places"
                    found.doubled.append(LedgerDifference(generation.number, campaign, what))
                ids.update(taken)
                advance(len(taken))
        return ids

    def _taken(self, place: Mapping[EventId, Sighting], part: range) -> dict[EventId, Sighting]:
        if not place:
            return {}
        buckets = self._hasher(place)[:, 0] >> np.uint64(48)
        inside = (buckets >= np.uint64(part.start)) & (buckets < np.uint64(part.stop))
        return {each: place[each] for each, taken in zip(place, inside.tolist(), strict=True) if taken}

    # --- evidence

    def _explain(self, found: Mapping[int, _Found]) -> None:
        """Look into the quarantine topic, for the positions of the ids that nothing else explains and only for them."""
        open_ids = [
            (of, number)
            for of in found.values()
            for number, each in enumerate(of.ids)
            if each.cause is Cause.UNEXPLAINED and each.rebuilt is not None
        ]
        keys = {key for of, number in open_ids for key in self._keys(of.ids[number])}
        evidence = patiently(lambda: quarantined_as(self._log, self._config.quarantine_topic, keys))
        for of, number in open_ids:
            of.ids[number] = self._explained(of.ids[number], evidence)

    def _keys(self, difference: IdDifference) -> list[str]:
        sightings = [each for each in (difference.live, difference.rebuilt) if each is not None]
        return [f"{self._config.input_topic}/{partition}/{offset}" for _, _, partition, offset in sightings]

    def _explained(self, difference: IdDifference, evidence: Mapping[str, list[Quarantined]]) -> IdDifference:
        for message in (message for key in self._keys(difference) for message in evidence.get(key, ())):
            said = f"generation {message.generation}, record {message.key}: {message.verdict}, {message.reason}"
            if difference.live is not None:
                if message.verdict == "duplicate" and message.reason == "conflict":
                    return difference._replace(cause=Cause.CONFLICT, detail=said)
            elif message.verdict in ("parked", "rejected") and message.generation != self._rebuilt.generation.number:
                return difference._replace(cause=Cause.SET_ASIDE, detail=said)
        return difference

    # --- the result

    def _comparison(
        self, found: Mapping[int, _Found], live_end: Mapping[int, int], rebuilt_end: Mapping[int, int]
    ) -> Comparison:
        counts: Counter[Cause] = Counter()
        listed: list[IdDifference] = []
        excused: dict[int, Counter[int]] = {}
        for campaign, of in found.items():
            excused[campaign] = Counter(of.more_excused)
            for each in of.ids:
                counts[each.cause] += 1
                if counts[each.cause] <= LISTED_MAX:
                    listed.append(each)
                if each.cause is not Cause.UNEXPLAINED:
                    excused[campaign].update(each.added())
            counts.update(of.more)
        cells: list[Cell] = []
        ledgers = [doubled for of in found.values() for doubled in of.doubled]
        totals: tuple[Counter[str], Counter[str]] = (Counter(), Counter())
        ids_held = [0, 0]
        for campaign, pair in self._pairs():
            live, rebuilt = pair
            for code, kpi in enumerate(KPIS):
                values = self._total(live, code), self._total(rebuilt, code)
                if values[0] != values[1] or not live.same_ids(rebuilt, code):
                    cells.append(Cell(campaign, kpi, *values, excused[campaign][code] if campaign in excused else 0))
                for side in (0, 1):
                    totals[side][kpi] += values[side]
                    ids_held[side] += pair[side].ids(code)
                if live.opening.get(kpi, 0) != rebuilt.opening.get(kpi, 0):
                    what = f"opening of {kpi} is {rebuilt.opening.get(kpi, 0)}, not {live.opening.get(kpi, 0)}"
                    ledgers.append(LedgerDifference(self._rebuilt.generation.number, campaign, what))
            for tally, held in zip((self._live, self._rebuilt), pair, strict=True):
                ledgers += [LedgerDifference(tally.generation.number, campaign, flaw) for flaw in held.flaws]
        return Comparison(
            self._live.generation.number,
            self._rebuilt.generation.number,
            (live_end, rebuilt_end),
            (ids_held[0], ids_held[1]),
            totals,
            cells,
            listed,
            counts,
            ledgers,
        )

    def _total(self, held: Held, code: int) -> int:
        """What the row says; where only a part of the ids is in scope, its opening and those."""
        kpi = KPIS[code]
        return held.stats.get(kpi, 0) if self._scope.until is None else held.opening.get(kpi, 0) + held.ids(code)


class _Meter:
    """Adds up what is done and what is to be done."""

    def __init__(self, progress: Callable[[int, int], None]) -> None:
        self._progress = progress
        self._done = self._total = 0

    def expect(self, ids: int) -> None:
        self._total += ids
        self._progress(self._done, self._total)

    def advance(self, ids: int) -> None:
        self._done += ids
        self._progress(self._done, max(self._done, self._total))
