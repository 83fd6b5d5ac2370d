"""Audit: the topic, the ledger's ids, the rows' totals and the last published ones, held against each other.

    checkpoint -> recount of the topic below it, ledgers -> tags -> differences by id -> totals, publication, balance

The checkpoint and its totals are read first: whatever was committed by then stands in the rows that are read after it.
All is only read, and nothing joins the group, so a live projector is not disturbed; what it counts meanwhile stands
past the checkpoint and is excused.
"""

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa  # type: ignore[import-untyped]  # no hints

from projector.audit.database import translated
from projector.audit.differences import STEPS, Bound, differ
from projector.audit.finding import Finding, Kind, Remedy
from projector.audit.holdings import Flaw, insert, ledgers, read_ledgers, read_quarantine, read_tags
from projector.audit.publication import Publication, Snapshot
from projector.audit.recount import recounting
from projector.audit.result import Audit, Excused
from projector.balance import Totals, parse_totals
from projector.checkpoint import Copies
from projector.clock import Clock
from projector.config import Config
from projector.errors import Misconfigured
from projector.event import KPIS
from projector.generation import Generation
from projector.log import Log, Offset
from projector.patience import checkpoint_patiently, patiently
from projector.pointer import PointerRow
from projector.settling import settle_seconds
from projector.store import Store

PUBLISHED_WAIT_S = 20.0
_FINDINGS = pa.schema(
    [
        ("kind", pa.string()),
        ("remedy", pa.string()),
        ("detail", pa.string()),
        ("campaign", pa.int64()),
        ("code", pa.uint8()),
        ("partition", pa.int32()),
        ("place", pa.string()),
        ("class", pa.string()),
    ]
)
_PUBLISHED = pa.schema([(name, pa.int64()) for name in ("campaign", "code", "value")])


class Progress(NamedTuple):
    """Hears how far it is: `expect(what, total)` begins a part, `advance(n)` tells of progress in it."""

    expect: Callable[[str, int], None]
    advance: Callable[[int], None]


SILENT = Progress(lambda _what, _total: None, lambda _amount: None)


def audit(
    log: Log,
    store: Store,
    config: Config,
    database: duckdb.DuckDBPyConnection,
    *,
    generation: Generation | None = None,
    campaigns: Sequence[int] | None = None,
    until: Mapping[int, int] | None = None,
    progress: Progress = SILENT,
    clock: Clock = time,
    published_wait_s: float = PUBLISHED_WAIT_S,
    open_log: Callable[[], Log] | None = None,
) -> Audit:
    """Compare a generation (None: the live one) with the topic, in `database`, which must be new.

    `campaigns`: these alone. `until`: only positions below these offsets; a partition that it leaves out is not read.
    `open_log`: as for `recounting`.
    Raises `Misconfigured`, `Refused`, `OffsetsGone`, `Retryable`.
    """
    with translated(), _no_collection():
        return _Run(
            log, store, config, database, generation, campaigns, until, progress, clock, published_wait_s, open_log
        ).run()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Nothing here goes in circles, and looking for circles among so many ids takes a fifth of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _Run:
    """One audit on its way."""

    def __init__(
        self,
        log: Log,
        store: Store,
        config: Config,
        database: duckdb.DuckDBPyConnection,
        generation: Generation | None,
        campaigns: Sequence[int] | None,
        until: Mapping[int, int] | None,
        progress: Progress,
        clock: Clock,
        published_wait_s: float,
        open_log: Callable[[], Log] | None,
    ) -> None:
        self._open_log = open_log
        self._log = log
        self._store = store
        self._config = config
        self._database = database
        self._campaigns = campaigns
        self._limits = until
        self._progress = progress
        self._clock = clock
        settle_s = patiently(lambda: settle_seconds(store, config.settle_ms, allow_volatile_store=True))
        self._pointer_row = PointerRow(store, settle_s)
        self._published_wait_s = settle_s + published_wait_s
        self._pointer = self._pointer_row.settled()
        topic = patiently(lambda: log.topic(config.input_topic))
        if topic is None or topic.id != self._pointer.topic_id:
            raise Misconfigured(
                f"topic {config.input_topic} is not the one that was counted: its id is "
                f"{topic.id if topic else 'none'}, the pointer row names {self._pointer.topic_id}"
            )
        self._generation = generation or self._pointer.generation(config)
        self._findings: list[Finding] = []
        self._skipped: list[str] = []

    def run(self) -> Audit:
        """All of it."""
        began = self._clock.monotonic()
        log, topic = self._log, self._config.input_topic
        # First of all: what is committed by now stands in whatever is read after it.
        committed = checkpoint_patiently(lambda: log.checkpoint(self._generation.group, topic))
        live = bool(patiently(lambda: log.members(self._generation.group)))
        held = ledgers(self._store, self._generation)
        heads = patiently(lambda: log.heads(topic))
        until = self._until(committed, heads)
        chosen = sorted(held if self._campaigns is None else held.keys() & set(self._campaigns))
        records = sum(until[p] - head for p, head in heads.items())
        ids = sum(held[campaign] for campaign in chosen)
        self._progress.expect("records of the topic, and ids of the ledger", records + ids)
        with recounting(
            self._database,
            log,
            topic,
            source_set=self._config.source_set,
            start=heads,
            until=until,
            advance=self._progress.advance,
            open_log=self._open_log,
        ) as finish:
            flaws = read_ledgers(self._database, self._store, self._generation, chosen, self._progress.advance)
            read_tags(self._database, self._store)  # most of them, while the readers go on
            finish()
        campaigns = self._scope(held)
        # Retention may have moved the heads since; and an id at or past the end was never in the topic.
        later = patiently(lambda: log.heads(topic))
        ends = patiently(lambda: log.ends(topic))
        bounds = {p: Bound(max(head, later[p]), until[p], ends[p]) for p, head in heads.items()}
        unread = {flaw.campaign for flaw in flaws if flaw.unread}
        self._progress.expect("steps of the comparison", STEPS)
        differ(self._database, bounds, campaigns, unread, self._read_quarantine, self._progress.advance)
        self._damage(flaws)
        self._totals(unread)
        self._publication(live)
        self._balance(committed, bounds, complete=not unread and self._campaigns is None)
        self._record()
        return self._result(live, bounds, len(campaigns), self._clock.monotonic() - began)

    # --- reading

    def _until(self, committed: Mapping[int, Offset], heads: Mapping[int, int]) -> dict[int, int]:
        """Per partition the offset to stop before: the checkpoint's, or less."""
        until = {}
        for partition, head in heads.items():
            offset = committed[partition].offset if partition in committed else 0
            limit = offset if self._limits is None else self._limits.get(partition, 0)
            until[partition] = max(head, min(offset, limit))
        return until

    def _scope(self, held: Mapping[int, int]) -> list[int]:
        """The campaigns that take part: those that have rows, and those that the topic names."""
        read_tags(self._database, self._store)
        named = {campaign for (campaign,) in self._ask("SELECT DISTINCT campaign FROM tags")}
        scope = sorted(held.keys() | named if self._campaigns is None else set(self._campaigns))
        if unknown := set(scope) - held.keys() - named:
            raise Misconfigured(
                f"campaign {min(unknown)} has no row, and the topic no event of it: projector campaigns lists all"
            )
        return scope

    def _read_quarantine(self) -> None:
        read_quarantine(self._database, self._log, self._config)

    # --- what is said of campaigns and partitions, not of ids

    def _damage(self, flaws: Iterable[Flaw]) -> None:
        missing = dict(self._ask("SELECT campaign, count(*) FROM findings WHERE class = 'unread' GROUP BY campaign"))
        for flaw in flaws:
            unread = f"; {missing.get(flaw.campaign, 0):,} ids of the topic are in none of its places that can be read"
            detail = flaw.what + (unread if flaw.unread else "")
            self._findings.append(Finding(Kind.DAMAGED, flaw.remedy, detail, flaw.campaign, place=flaw.place))

    def _totals(self, unread: set[int]) -> None:
        """`stats` must follow from `opening` and the ids, wherever all ids could be read."""
        wrong = """
            SELECT campaign, code, stats, opening, ledger FROM cells
            WHERE has_ledger AND stats IS DISTINCT FROM opening + ledger"""
        for campaign, code, stats, opening, ids in self._ask(wrong):
            if campaign not in unread:
                has = "is no number" if stats is None else f"is {stats:,}"
                detail = f"stats {has}, but opening {opening:,} + {ids:,} ids"
                self._findings.append(Finding(Kind.TOTAL, Remedy.REPAIR, detail, campaign, KPIS[code]))

    def _publication(self, live: bool) -> None:
        self._database.execute("CREATE TABLE published (campaign BIGINT, code UTINYINT, value BIGINT)")
        if self._generation.number != self._pointer.live:
            self._skipped.append(f"what was published: generation {self._generation.number} is not the live one")
            return
        if self._limits is not None:
            self._skipped.append("what was published: it is not of a moment before the checkpoint")
            return
        past = "SELECT campaign, code, count(*) AS n FROM held WHERE span = 'past' GROUP BY campaign, code"
        rows = self._ask(
            f"SELECT campaign, code, coalesce(stats, 0), rev, coalesce(n, 0) FROM rows LEFT JOIN ({past}) "
            "USING (campaign, code) WHERE rev IS NOT NULL"
        )
        snapshots = {(campaign, code): Snapshot(*values) for campaign, code, *values in rows}
        topic = self._config.kpi_topic
        publication = Publication(self._log, self._store, topic, self._generation, self._pointer.epoch)
        found = publication.wrong(snapshots, self._published_wait_s if live else 0, self._clock)
        totals = publication.feed.totals
        values = [(c, code, totals[c, KPIS[code]].value) for c, code in snapshots if (c, KPIS[code]) in totals]
        insert(self._database, "published", _PUBLISHED, values)
        after = self._pointer_row.settled()
        if (after.live, after.epoch) != (self._pointer.live, self._pointer.epoch):
            self._skipped.append("what was published: another generation or epoch began meanwhile")
            return
        for campaign, code, _, what in found:
            self._findings.append(Finding(Kind.PUBLISHED, Remedy.REPAIR, what, campaign, KPIS[code]))

    def _balance(self, committed: Mapping[int, Offset], bounds: Mapping[int, Bound], complete: bool) -> None:
        """The committed totals must follow from the records and the ids below the checkpoint."""
        ids: dict[int, int] = {}
        if complete:
            below = ", ".join(f"({partition}, {each.offset})" for partition, each in committed.items())
            statement = f"""
                SELECT partition, count(*) FROM ledger JOIN (VALUES {below}) AS c(partition, checkpoint)
                USING (partition) WHERE position < checkpoint GROUP BY partition"""
            ids = dict(self._ask(statement)) if committed else {}
        else:
            self._skipped.append("the ids of each partition against its balance: not all ids were read")
        records = dict(self._ask("SELECT partition, count(*) FROM topic GROUP BY partition"))
        self._checkpoint_lost(committed, bounds)
        for partition, each in sorted(committed.items()):
            head, until, _ = bounds.get(partition, Bound(0, 0, 0))
            totals = parse_totals(each.metadata)
            if totals is None and each == Offset(0, "") and head == 0:
                totals = Totals()
            if totals is None:
                self._unbalanced(partition, "its totals are not known: another tool moved its offset")
                continue
            if totals.consumed != totals.judged:
                self._unbalanced(partition, f"{totals.consumed:,} consumed, {totals.judged:,} with a verdict")
            counted = totals.counted + totals.carried
            if complete and ids.get(partition, 0) != counted:
                held = ids.get(partition, 0)
                self._unbalanced(
                    partition,
                    f"the ledger holds {held:,} ids below the checkpoint, "
                    f"{totals.counted:,} counted + {totals.carried:,} carried were committed",
                )
            found = records.get(partition, 0)
            if head == 0 and until == each.offset and totals.consumed != found:
                self._unbalanced(partition, f"{totals.consumed:,} consumed, the topic has {found:,} records")

    def _checkpoint_lost(self, committed: Mapping[int, Offset], bounds: Mapping[int, Bound]) -> None:
        """Without its checkpoint nothing of a partition was compared; the store keeps a copy of each."""
        unread = [partition for partition in bounds if committed.get(partition, Offset(0, "")).offset == 0]
        for partition, copy in Copies(self._store, self._generation, patiently).read(unread).items():
            if copy.offset:
                what = f"no checkpoint, but there was one at offset {copy.offset}: projector run --restore-checkpoint"
                self._unbalanced(partition, what, Remedy.NONE)

    def _unbalanced(self, partition: int, what: str, remedy: Remedy = Remedy.REPAIR) -> None:
        self._findings.append(Finding(Kind.BALANCE, remedy, f"partition {partition}: {what}", partition=partition))

    def _record(self) -> None:
        rows = [
            (
                each.kind.value,
                each.remedy.value,
                each.detail,
                each.campaign,
                None if each.kpi is None else KPIS.index(each.kpi),
                each.partition,
                each.place,
                "finding",
            )
            for each in self._findings
        ]
        insert(self._database, "findings", _FINDINGS, rows)

    # --- the result

    def _result(self, live: bool, bounds: Mapping[int, Bound], campaigns: int, elapsed_s: float) -> Audit:
        counts = dict(self._ask("SELECT kind, count(*) FROM findings WHERE class = 'finding' GROUP BY kind"))
        classes = dict(self._ask("SELECT class, count(*) FROM findings GROUP BY class"))
        spans = dict(self._ask("SELECT span, count(*) FROM held GROUP BY span"))
        duplicates = """
            SELECT count(*), count(*) FILTER (WHERE c.campaign IS NULL)
            FROM (SELECT * FROM spare SEMI JOIN cover USING (campaign, id)
                ANTI JOIN stray USING (campaign, id, partition, position)) s
            LEFT JOIN (SELECT DISTINCT campaign, id, code FROM cover) c USING (campaign, id, code)"""
        reasons = """
            SELECT CASE WHEN g.tag IS NULL THEN coalesce(t.reason, 'parked:unknown-tag') ELSE t.reason END AS why,
                count(*)
            FROM topic t LEFT JOIN tags g ON g.tag = t.tag WHERE why IS NOT NULL GROUP BY why ORDER BY why"""
        ((again, conflicts),) = self._ask(duplicates)
        ((extra,),) = self._ask("SELECT coalesce(sum(events - 1), 0) FROM missing")
        ((records,),) = self._ask("SELECT count(*) FROM topic")
        return Audit(
            generation=self._generation,
            epoch=self._pointer.epoch,
            live=live,
            checkpoint={partition: bound.until for partition, bound in bounds.items()},
            heads={partition: bound.head for partition, bound in bounds.items()},
            campaigns=campaigns,
            records=records,
            ids=sum(spans.values()),
            counts={kind: counts.get(kind.value, 0) for kind in Kind},
            excused=Excused(
                before_head=spans.get("before", 0),
                past_checkpoint=spans.get("past", 0),
                parked=classes.get("parked", 0),
                duplicates=again + int(extra),
                conflicts=conflicts,
                reasons=dict(self._ask(reasons)),
            ),
            unread=classes.get("unread", 0),
            skipped=self._skipped,
            elapsed_s=elapsed_s,
            database=self._database,
        )

    def _ask(self, statement: str) -> list[tuple[Any, ...]]:
        return self._database.execute(statement).fetchall()
