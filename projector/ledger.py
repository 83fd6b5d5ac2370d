"""Apply: the changes of a batch -> verdicts. The campaign's row is the only judge of what counts.

One atomic write per campaign records the ids create-only and adds the increments. Whatever fails, crashes or comes
twice, an id that is in the row adds nothing; its position tells a replay from a duplicate.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice

from projector.adoption import NOT_ADOPTED, adoption
from projector.errors import Refused, Retryable, RowTooBig
from projector.event import KPIS
from projector.fold import Change, EventId, Sighting
from projector.patience import Patience
from projector.store import (
    ROW_BYTES,
    Add,
    AddEntry,
    Answer,
    BinEqual,
    Fetch,
    Measure,
    Operation,
    Outcome,
    PutNew,
    Read,
    Row,
    RowKey,
    Store,
    Write,
)

WRITE_IDS_MAX = 5_000
ROW_FULL = 0.85
STALLS_MAX = 50


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
    stalls: int = 0


class Ledger:
    """The campaign rows of one generation."""

    def __init__(self, store: Store, campaigns: str, patience: Patience, write_ids_max: int = WRITE_IDS_MAX) -> None:
        self._store = store
        self._campaigns = campaigns
        self._patience = patience
        self._write_ids_max = write_ids_max
        self._row_bytes_max = store.limits().row_bytes_max
        self._seals: dict[int, int] = {}

    def __bool__(self) -> bool:
        """Whether anything is cached."""
        return bool(self._seals)

    def forget(self) -> None:
        """Drop every cache: the store may have forgotten what it said."""
        self._seals.clear()

    def apply(self, changes: Mapping[int, Change]) -> dict[int, Judgement]:
        """Judge every sighting of every change, and count what is new; calling it again changes nothing.

        Raises `Retryable` when the store does not answer (parts may be applied), `RowTooBig`, `Refused`.
        """
        work = {campaign: _Work(change, dict(change.ids)) for campaign, change in changes.items()}
        judged: dict[int, Judgement] = {}
        while work:
            self._load(work)
            self._write(work)
            for campaign in [campaign for campaign, item in work.items() if not item.left]:
                item = work.pop(campaign)
                _judge_again(item)
                judged[campaign] = item.judgement
        return judged

    def _row(self, campaign: int) -> RowKey:
        return RowKey(self._campaigns, campaign)

    # --- load: what must be known of a row before it is written

    def _load(self, work: dict[int, _Work]) -> None:
        """Cache the seal of every row; adopt rows without a ledger; park what has no row that may count."""
        while new := [campaign for campaign, item in work.items() if item.left and campaign not in self._seals]:
            reads = [Read(self._row(campaign), ("seal", "stats")) for campaign in new]
            rows = self._patience(lambda reads=reads: self._store.read(reads))  # type: ignore[misc]  # bound now
            found = dict(zip(new, rows, strict=True))
            self._adopt([campaign for campaign, row in found.items() if row is not None and _adoptable(row)])
            for campaign, row in found.items():
                if row is None:
                    _park(work[campaign], "unknown-campaign")
                elif "seal" in row.bins:
                    if row.bins["seal"] != 0:
                        raise Refused(f"campaign {campaign} has archived pages: run a version that reads them")
                    self._seals[campaign] = row.bins["seal"]
                elif not _adoptable(row):
                    _park(work[campaign], "campaign-not-adopted")

    def _adopt(self, campaigns: list[int]) -> None:
        """Give rows that never counted a ledger, once; another worker may be first."""
        writes = [Write(self._row(campaign), adoption(None), conditions=NOT_ADOPTED) for campaign in campaigns]
        for campaign, answer in zip(campaigns, self._patience.write(self._store, writes), strict=True):
            if answer.outcome is Outcome.APPLIED and any(answer.bins["stats"].values()):
                raise Refused(
                    f"campaign {campaign}: another program counts in its row: stop it, then: projector migrate --adopt"
                )

    # --- write: one guarded operate per row

    def _write(self, work: dict[int, _Work]) -> None:
        """One round: each row takes up to `write_ids_max` ids, all or none; rows that hold some are asked which."""
        tried = {
            campaign: dict(islice(item.left.items(), self._write_ids_max))
            for campaign, item in work.items()
            if item.left
        }
        writes = [
            Write(self._row(campaign), _operations(ids), conditions=(BinEqual("seal", self._seals[campaign]),))
            for campaign, ids in tried.items()
        ]
        held: dict[int, dict[EventId, Sighting]] = {}
        for (campaign, ids), answer in zip(tried.items(), self._patience.write(self._store, writes), strict=True):
            item = work[campaign]
            match answer.outcome:
                case Outcome.APPLIED:
                    self._count(campaign, item, ids, answer)
                case Outcome.EXISTS:
                    held[campaign] = ids
                case Outcome.REFUSED:
                    self._reload(campaign, item)
                case Outcome.ABSENT:
                    self._seals.pop(campaign)
                    _park(item, "unknown-campaign")
                case Outcome.TOO_BIG:
                    raise self._full(campaign, self._row_bytes_max)
                case _:
                    raise AssertionError(answer)
        if held:
            self._look_up(work, held)

    def _count(self, campaign: int, item: _Work, ids: dict[EventId, Sighting], answer: Answer) -> None:
        item.judgement.counted += ids.values()
        item.judgement.stats, item.judgement.rev = answer.bins["stats"], answer.bins["rev"]
        for event_id in ids:
            del item.left[event_id]
        if answer.bins[ROW_BYTES] > ROW_FULL * self._row_bytes_max:
            raise self._full(campaign, answer.bins[ROW_BYTES])

    def _look_up(self, work: dict[int, _Work], asked: dict[int, dict[EventId, Sighting]]) -> None:
        """Read which ids the rows hold, and where; each such id has its verdict by its position."""
        reads = [
            Read(self._row(campaign), ("seal", "stats", "rev"), {"seen": list(ids)}) for campaign, ids in asked.items()
        ]
        rows = self._patience(lambda: self._store.read(reads))
        for (campaign, ids), row in zip(asked.items(), rows, strict=True):
            item = work[campaign]
            if row is None or row.bins.get("seal") != self._seals[campaign]:
                self._reload(campaign, item)
                continue
            seen = row.entries.get("seen", {})
            if not seen:
                self._stalled(campaign, item)
            for event_id, sighting in seen.items():
                first = ids[event_id]  # type: ignore[index]  # the store returns only keys that were asked for
                item.held[event_id] = sighting  # type: ignore[index]
                del item.left[event_id]  # type: ignore[arg-type]
                _judge(item.judgement, first, sighting)
            item.judgement.stats, item.judgement.rev = row.bins["stats"], row.bins["rev"]

    def _reload(self, campaign: int, item: _Work) -> None:
        """The row is not in the state that was checked: check again."""
        self._seals.pop(campaign)
        self._stalled(campaign, item)

    def _stalled(self, campaign: int, item: _Work) -> None:
        item.stalls += 1
        if item.stalls > STALLS_MAX:
            raise Retryable(f"campaign {campaign}: its row changes faster than it can be read")

    def _full(self, campaign: int, row_bytes: int) -> RowTooBig:
        return RowTooBig(
            f"campaign {campaign}: its row has {row_bytes:,} of at most {self._row_bytes_max:,} bytes: "
            "raise max-record-size of the namespace (8M at most) and start again; nothing is lost"
        )


def _operations(ids: dict[EventId, Sighting]) -> list[Operation]:
    """Record the ids create-only and add what they add: all or nothing."""
    added = [0] * len(KPIS)
    for sighting in ids.values():
        added[sighting[0]] += 1
    return [
        PutNew("seen", ids),
        *(AddEntry("stats", kpi, amount) for kpi, amount in zip(KPIS, added, strict=True) if amount),
        Add("rev", 1),
        Fetch("stats"),
        Fetch("rev"),
        Measure(),
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


def _adoptable(row: Row) -> bool:
    stats = row.bins.get("stats", {})
    return "seal" not in row.bins and isinstance(stats, Mapping) and not any(stats.values())
