"""Apply: the changes of a batch -> verdicts. The campaign's row and its archive are the only judges of what counts.

One atomic write per campaign records the ids create-only and adds the increments, under the `seal` that the ids were
checked against. Whatever fails, crashes or comes twice, an id that the ledger holds adds nothing; its position tells a
replay from a duplicate. Sealing, clearing and replacing a page ride on these writes (design section 5).
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice

from projector.chain import STALLS_MAX, Chain, Chains, Stage
from projector.errors import Misconfigured, Retryable, RowTooBig
from projector.event import KPIS
from projector.fold import Change, EventId, Sighting
from projector.page import damaged, page_key
from projector.patience import Patience
from projector.prints import prints
from projector.store import (
    ROW_BYTES,
    Add,
    AddEntry,
    Answer,
    BinEmpty,
    BinEqual,
    Clear,
    Condition,
    Count,
    Fetch,
    Measure,
    Move,
    Operation,
    Outcome,
    Put,
    PutNew,
    Read,
    Row,
    Store,
    Write,
    counted,
)

WRITE_IDS_MAX = 5_000
ID_BYTES = 48
"""Bytes that an id needs on the row besides its own length, with a margin."""
ROW_FULL = 0.9
ROW_SHARE = 0.8
ROW_BYTES_AUTO = 4 << 20
PAUSE_S = 0.01
WAIT_S = 20.0


@dataclass(slots=True)
class Judgement:
    """What became of one change. `stats` and `rev` are the row's, read back with the last answer; none where parked."""

    counted: list[Sighting] = field(default_factory=list)
    duplicates: list[tuple[Sighting, Sighting]] = field(default_factory=list)
    """Each with the sighting that was counted."""
    parked: list[Sighting] = field(default_factory=list)
    reason: str = ""
    """Why parked."""
    stats: Mapping[str, int] = field(default_factory=dict)
    rev: int = 0


@dataclass(slots=True)
class _Work:
    """A change on its way: the ids without a verdict, and where the ledger holds those that it held already."""

    change: Change
    left: dict[EventId, Sighting]
    held: dict[EventId, Sighting] = field(default_factory=dict)
    judgement: Judgement = field(default_factory=Judgement)
    checked: int | None = None
    """The seal under which what is left was not found in any page."""
    suspects: list[EventId] = field(default_factory=list)
    """Ids to be looked up in `seen`."""
    stalls: int = 0


class Ledger:
    """The ledger of one generation. `row_bytes_max`: how large a row may grow while its page settles, twice over."""

    def __init__(
        self,
        store: Store,
        chains: Chains,
        pages: str,
        patience: Patience,
        row_bytes_max: int,
        sleep: Callable[[float], None],
        write_ids_max: int = WRITE_IDS_MAX,
    ) -> None:
        self._store = store
        self._chains = chains
        self._pages = pages
        self._patience = patience
        self._write_ids_max = write_ids_max
        self._row_bytes_max = row_bytes_max
        self._store_bytes_max = store.limits().row_bytes_max
        self._sleep = sleep

    def __bool__(self) -> bool:
        """Whether anything is cached."""
        return bool(self._chains)

    def forget(self) -> None:
        """Drop every cache: the store may have forgotten what it said."""
        self._chains.forget()

    def apply(self, changes: Mapping[int, Change]) -> dict[int, Judgement]:
        """Judge every sighting of every change, and count what is new; calling it again changes nothing.

        Raises `Retryable` when the store does not answer (parts may be applied), `RowTooBig`, `LedgerDamaged`,
        `Refused`.
        """
        work = {campaign: _Work(change, dict(change.ids)) for campaign, change in changes.items()}
        judged: dict[int, Judgement] = {}
        waited_s = 0.0
        self._chains.settle(work)
        while work:
            for campaign, reason in self._chains.load(work).items():
                _park(work[campaign], reason)
            self._look_up(work)
            ready = [campaign for campaign, item in work.items() if item.left and not self._chains[campaign].stale]
            full = [campaign for campaign in ready if self._full(self._chains[campaign])]
            self._write(work, [campaign for campaign in ready if campaign not in full])
            for campaign in [campaign for campaign, item in work.items() if not item.left]:
                item = work.pop(campaign)
                _judge_again(item)
                judged[campaign] = item.judgement
            if full and len(full) == len(work):
                waited_s += PAUSE_S
                if waited_s > WAIT_S:
                    raise Retryable(f"campaign {full[0]}: its sealed page does not settle, and its row is full")
                self._sleep(PAUSE_S)
                self._chains.settle(full)
        self._chains.load(campaign for campaign, judgement in judged.items() if not judgement.reason)
        self._chains.evict(changes)
        return judged

    def _full(self, chain: Chain) -> bool:
        """No id may be added before the page in `sealed` has settled."""
        if chain.stage in (Stage.ARCHIVED, Stage.SETTLED):
            return False
        return chain.seen_bytes > self._row_bytes_max // 2 or chain.row_bytes > ROW_FULL * self._store_bytes_max

    # --- look up: which ids does the ledger hold already?

    def _look_up(self, work: dict[int, _Work]) -> None:
        """Exact reads for the ids whose print is in the index, and for suspects in `seen`; what is found is judged."""
        asked = self._asked(work)
        reads: list[Read] = []
        for campaign, (seen, by_page) in asked.items():
            chain, item = self._chains[campaign], work[campaign]
            newest = by_page.get(chain.seal, [])
            entries = {name: ids for name, ids in (("seen", seen), ("sealed", newest)) if ids}
            reads.append(Read(self._chains.row(campaign), ("seal", "stats", "rev"), entries, counts=("sealed",)))
            reads += [
                Read(page_key(self._pages, campaign, seal), ("seal",), {"ids": ids}) for seal, ids in by_page.items()
            ]
            item.checked = chain.seal
        if not reads:
            return
        rows = iter(self._patience(lambda: self._store.read(reads)))
        for campaign, (_, by_page) in asked.items():
            row, pages = next(rows), {seal: next(rows) for seal in by_page}
            if row is None or row.bins.get("seal") != self._chains[campaign].seal:
                self._reload(campaign, work[campaign])
                continue
            self._judge_found(campaign, work[campaign], row, pages)

    def _asked(self, work: dict[int, _Work]) -> dict[int, tuple[list[EventId], dict[int, list[EventId]]]]:
        """Per campaign with anything to look up: ids for `seen`, and ids by page."""
        asked: dict[int, tuple[list[EventId], dict[int, list[EventId]]]] = {}
        for campaign, item in work.items():
            if not item.left:
                continue
            chain = self._chains[campaign]
            seen = item.suspects
            by_page: dict[int, list[EventId]] = {}
            if item.checked != chain.seal:
                ids = list(item.left)
                seen = list(dict.fromkeys([*seen, *chain.recent.intersection(ids)]))
                if chain.pages:
                    for position, number in chain.index.candidates(prints(ids)):
                        by_page.setdefault(chain.pages[number], []).append(ids[position])
                item.checked = chain.seal
            if seen or by_page:
                asked[campaign] = (seen, by_page)
        return asked

    def _judge_found(self, campaign: int, item: _Work, row: Row, pages: Mapping[int, Row | None]) -> None:
        chain = self._chains[campaign]
        held = [row.entries.get("seen", {}), row.entries.get("sealed", {})]
        for seal, page in pages.items():
            if page is not None:
                held.append(page.entries.get("ids", {}))
            elif seal != chain.seal or not row.bins[counted("sealed")]:
                raise damaged(campaign, seal, "is missing")
        if item.suspects and not held[0]:
            self._stalled(campaign, item)
        item.suspects = []
        for found in held:
            for event_id, sighting in found.items():
                first = item.left.pop(event_id, None)  # type: ignore[arg-type]  # only keys that were asked for
                if first is not None:
                    item.held[event_id] = sighting  # type: ignore[index]
                    _judge(item.judgement, first, sighting)
        item.judgement.stats, item.judgement.rev = row.bins["stats"], row.bins["rev"]

    # --- write: one guarded operate per row

    def _write(self, work: dict[int, _Work], campaigns: Iterable[int]) -> None:
        """One round: each row takes some of its ids, all or none, and with them what its pages need."""
        tried: dict[int, dict[EventId, Sighting]] = {}
        plain: list[tuple[int, Write]] = []
        sealing: list[tuple[int, Write, int]] = []
        for campaign in campaigns:
            chain, item = self._chains[campaign], work[campaign]
            room = self._room(chain, item)
            ids = item.left if room >= len(item.left) else dict(islice(item.left.items(), room))
            tried[campaign] = ids
            operations = _operations(ids)
            conditions: list[Condition] = [BinEqual("seal", chain.seal)]
            if chain.stage in (Stage.ARCHIVED, Stage.SETTLED) and self._page_full(chain, ids):
                seal = self._chains.new_seal()
                operations += _seal(chain, seal)
                conditions += [BinEmpty("sealed")] if chain.stage is Stage.ARCHIVED else []
                sealing.append((campaign, Write(self._chains.row(campaign), operations, conditions=conditions), seal))
            else:
                if chain.stage is Stage.SETTLED:
                    operations += [Clear("sealed"), Put("head", chain.digest)]
                plain.append((campaign, Write(self._chains.row(campaign), operations, conditions=conditions)))
        answers = self._patience.write(self._store, [write for _, write in plain])
        for (campaign, _), answer in zip(plain, answers, strict=True):
            if answer.outcome is Outcome.APPLIED and self._chains[campaign].stage is Stage.SETTLED:
                self._chains[campaign].stage, self._chains[campaign].sealed_bytes = Stage.ARCHIVED, 0
            self._take(campaign, work[campaign], tried[campaign], answer)
        if sealing:
            # A seal is new at every attempt: a write that seals is never sent twice, the row is read again instead.
            for (campaign, _, _), answer in zip(
                sealing, self._store.write([write for _, write, _ in sealing]), strict=True
            ):
                if answer.outcome is Outcome.APPLIED:
                    self._chains.held.rotations += 1
                elif answer.error is not None:
                    self._patience.failed(answer.error)
                self._take(campaign, work[campaign], tried[campaign], answer)
                self._chains[campaign].stale = True

    def _room(self, chain: Chain, item: _Work) -> int:
        """How many ids the next write may take, so that the row stays within its bound."""
        longest = max(map(len, islice(item.left, self._write_ids_max)), default=0)
        room = (self._row_bytes_max // 2 - chain.seen_bytes) // (ID_BYTES + longest)
        return max(1, min(self._write_ids_max, room))

    def _page_full(self, chain: Chain, ids: dict[EventId, Sighting]) -> bool:
        return chain.seen + len(ids) >= chain.page_ids or chain.seen_bytes > self._row_bytes_max // 4

    def _take(self, campaign: int, item: _Work, ids: dict[EventId, Sighting], answer: Answer) -> None:
        """What one answer means."""
        chain = self._chains[campaign]
        if ids is item.left and answer.outcome is not Outcome.APPLIED:
            item.left = dict(ids)  # what was sent stays as it was: it may land late
        match answer.outcome:
            case Outcome.APPLIED:
                item.judgement.counted += ids.values()
                item.judgement.stats, item.judgement.rev = answer.bins["stats"], answer.bins["rev"]
                if ids is item.left:
                    item.left = {}
                else:
                    for event_id in ids:
                        del item.left[event_id]
                chain.seen, chain.row_bytes = answer.bins[counted("seen")], answer.bins[ROW_BYTES]
                chain.recent.update(ids)
            case Outcome.EXISTS:
                item.suspects = list(ids)
            case Outcome.REFUSED | Outcome.FAILED:
                self._reload(campaign, item)
            case Outcome.ABSENT:
                chain.stale = True
                _park(item, "unknown-campaign")
            case Outcome.TOO_BIG:
                raise RowTooBig(
                    f"campaign {campaign}: its row has {chain.row_bytes:,} bytes and cannot take {len(ids):,} more: "
                    "lower row_bytes_max, or raise max-record-size of the namespace (8M at most), and start again"
                )
            case _:
                raise AssertionError(answer)

    def _reload(self, campaign: int, item: _Work) -> None:
        """The row is not, or may not be, in the state that was checked: check again."""
        self._chains[campaign].stale = True
        item.checked = None
        self._stalled(campaign, item)

    def _stalled(self, campaign: int, item: _Work) -> None:
        item.stalls += 1
        if item.stalls > STALLS_MAX:
            raise Retryable(f"campaign {campaign}: its row changes faster than it can be read")


def _operations(ids: dict[EventId, Sighting]) -> list[Operation]:
    """Record the ids create-only and add what they add: all or nothing."""
    codes = [sighting[0] for sighting in ids.values()]
    added = [(kpi, codes.count(code)) for code, kpi in enumerate(KPIS)]
    return [
        PutNew("seen", ids),
        *(AddEntry("stats", kpi, amount) for kpi, amount in added if amount),
        Add("rev", 1),
        Fetch("stats"),
        Fetch("rev"),
        Count("seen"),
        Measure(),
    ]


def _seal(chain: Chain, seal: int) -> list[Operation]:
    """Freeze what `seen` holds by now as the page `seal`. If `sealed` was full, its page is settled in the archive."""
    return [
        Move("seen", "sealed"),
        Put("prev", chain.seal),
        Put("seal", seal),
        Add("pages", 1),
        Put("head", chain.digest),
    ]


def _judge(judgement: Judgement, sighting: Sighting, held: Sighting) -> None:
    """The same position is a replay of what was counted; any other is a duplicate."""
    if sighting[2:] == held[2:]:
        judgement.counted.append(sighting)
    else:
        judgement.duplicates.append((sighting, held))


def _judge_again(item: _Work) -> None:
    """The further positions of ids that stood more than once in the batch."""
    for event_id, sighting in item.change.again:
        if event_id in item.held:
            _judge(item.judgement, sighting, item.held[event_id])
        elif item.judgement.reason and item.change.ids[event_id] in item.judgement.parked:
            item.judgement.parked.append(sighting)
        else:
            item.judgement.duplicates.append((sighting, item.change.ids[event_id]))


def _park(item: _Work, reason: str) -> None:
    item.judgement.reason = reason
    item.judgement.parked += item.left.values()
    item.left.clear()


def row_bound(store: Store, configured: int | str) -> int:
    """The bound of a row in force. Raises `Misconfigured` for one above what the store takes."""
    most = int(store.limits().row_bytes_max * ROW_SHARE)
    if not isinstance(configured, int):
        return min(ROW_BYTES_AUTO, most)
    if configured > most:
        raise Misconfigured(
            f"row_bytes_max is {configured:,}, but at most {most:,} fits the store's limit (0.8 of max-record-size): "
            "lower it, or raise max-record-size of the namespace (8M at most)"
        )
    return configured
