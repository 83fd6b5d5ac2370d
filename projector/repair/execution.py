"""Execution: a plan is carried out, in an order in which it may be killed at any moment and run again.

    intent  ->  pages  ->  missing ids  ->  rows' totals  ->  settle  ->  balance and publication  ->  outcome

Each step says what must be there, not what is to be added: ids are counted create-only, totals and `carried` are set to
what the ledger then holds. So whatever was done before is found done.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from projector.amendment import Amendment, Forgotten
from projector.checkpoint import Copies
from projector.clock import Clock
from projector.config import Config
from projector.errors import Fenced, LedgerDamaged, Refused, Retryable
from projector.event import KPIS
from projector.feed import Feed, Total
from projector.fold import Change
from projector.generation import Generation
from projector.kpi import ALL_CODES, Value, messages
from projector.log import Log, Member, Message, Offset
from projector.patience import Patience, checkpoint_patiently
from projector.pointer import Pointer, PointerRow
from projector.repair import journal
from projector.repair.content import foot, raise_rev
from projector.repair.journal import Phase, Run
from projector.repair.plan import Plan, Planner, balance_change, lagging
from projector.repair.restoration import write_page
from projector.seat import Seat
from projector.settling import settle_seconds
from projector.store import Read, RowKey, Store

SLOT = "repair"
IDS_PER_APPLY = 10_000
ROWS_PER_COMMIT = 500
ATTEMPTS = 10


def refuse_busy(log: Log, store: Store, config: Config, clock: Clock = time) -> Pointer:
    """The pointer, settled. Raises `Refused` while the live generation has workers, or is being closed; `Retryable`."""
    patience = Patience(sleep=clock.sleep)
    settle_s = patience(lambda: settle_seconds(store, config.settle_ms, config.allow_volatile_store))
    pointer = PointerRow(store, settle_s, patience=patience, clock=clock).settled()
    if pointer.closing:
        raise Refused(f"generation {pointer.live} is being closed: wait until the cutover has ended")
    if others := _seat(log, config, pointer.generation(config), patience, clock).others():
        raise Refused(f"generation {pointer.live} has workers, {', '.join(others)}: stop the workers first")
    return pointer


class Execution:
    """Carries out one plan. `now_ms`: for the journal, milliseconds since 1970."""

    def __init__(
        self,
        planner: Planner,
        plan: Plan,
        log: Log,
        store: Store,
        config: Config,
        *,
        clock: Clock = time,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        patience_s: float = 20.0,
    ) -> None:
        self._planner = planner
        self._plan = plan
        self._generation = plan.generation
        self._log = log
        self._store = store
        self._config = config
        self._clock = clock
        self._now_ms = now_ms
        self._patience = Patience(patience_s, sleep=clock.sleep)
        self._amendment = Amendment(store, config, plan.generation, self._patience, clock)
        self._seat = _seat(log, config, plan.generation, self._patience, clock)
        self._before: dict[int, dict[str, Any]] = {}
        """`stats` and `rev` of the plan's rows when the first attempt began."""

    def run(self, who: str, reason: str, advance: Callable[[int], None] = lambda _: None) -> list[dict[str, Any]]:
        """Do it; what was done, with before and after of each change. `advance` hears of ids counted and read.

        Nothing is changed before the intent is in the journal for good. Raises `Refused`, and what the ledger and
        members raise; run again, it goes on.
        """
        pointer = refuse_busy(self._log, self._store, self._config, self._clock)
        if (pointer.live, pointer.epoch) != (self._generation.number, self._plan.epoch):
            raise Refused(f"generation {pointer.live} is live by now, in epoch {pointer.epoch}: run it again")
        if self._plan.empty:
            self._seat.leave()
            return []
        run = journal.new_run(self._generation.number, who, self._now_ms(), reason)
        intended = False
        for _ in range(ATTEMPTS):
            try:
                self._amendment.renew()
                if not intended:
                    self._write(run, Phase.INTENT, self._planner.changes(self._plan))
                    intended = True
                done = self._attempt(advance)
                break
            except Forgotten:
                intended = False
            except Fenced:
                pass  # not known to be committed: what is there is found there
        else:
            raise Retryable("the store restarts, or the group changes, faster than it can be mended: run it again")
        for _ in range(ATTEMPTS):
            with suppress(Forgotten):
                self._amendment.renew()
                self._write(run, Phase.OUTCOME, done)
                break
        else:
            raise Retryable("all is mended; but the store restarts faster than that can be written down: run it again")
        self._seat.leave()
        return done

    def _write(self, run: Run, phase: Phase, changes: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> None:
        """Into the journal, for good. Raises `Forgotten`."""
        journal.add(self._store, run, phase, changes, self._now_ms(), self._patience)
        self._amendment.settle()

    def _attempt(self, advance: Callable[[int], None]) -> list[dict[str, Any]]:
        """As `_mend`; what refuses it counts only once it cannot be what a store says that forgot meanwhile."""
        try:
            return self._mend(advance)
        except (LedgerDamaged, Refused):
            self._amendment.settle()
            raise

    def _mend(self, advance: Callable[[int], None]) -> list[dict[str, Any]]:
        """One attempt. Raises `Forgotten`, `Fenced`: then it is done again from the beginning."""
        plan = self._plan
        self._before = before = self._before or self._rows(plan.rows)
        done: list[dict[str, Any]] = []
        for restoration in plan.restorations.values():
            for page, missing in restoration.pages:
                write_page(self._store, self._generation, page, self._patience)
                change = {"what": "page", "campaign": page.campaign, "page": f"{page.seal:016x}"}
                done.append({**change, "before": "missing" if missing else "altered", "after": page.digest.hex()})
        counted = self._count(advance)
        done += [{"what": "ids", "campaign": campaign, "counted": ids} for campaign, ids in counted.items()]
        held = self._planner.evidence.counted(without=plan.rows)
        for campaign in plan.rows:
            content = foot(self._store, self._generation, campaign, plan.checkpoint, self._patience, advance)
            held.update(content.below)
        published = self._raise_revs()
        after = self._rows(plan.publish)
        for campaign in plan.rows:
            done.append({"what": "row", "campaign": campaign, "before": before[campaign], "after": after[campaign]})
        values = {campaign: Value(row["stats"], row["rev"], set(ALL_CODES)) for campaign, row in after.items()}
        self._amendment.settle()
        done += self._commit(held, values)
        for campaign, value in values.items():
            said = {"stats": dict(value.stats), "rev": value.rev, "epoch": plan.epoch}
            done.append(
                {"what": "publication", "campaign": campaign, "before": published.get(campaign, {}), "after": said}
            )
        return done

    def _count(self, advance: Callable[[int], None]) -> Counter[int]:
        """Count the missing ids through the ledger; how many per campaign it has then at these positions."""
        counted: Counter[int] = Counter()
        changes: dict[int, Change] = {}
        held = 0

        def apply() -> None:
            for campaign, judgement in self._amendment.apply(changes).items():
                counted[campaign] += len(judgement.counted)
            changes.clear()
            advance(held)

        for campaign, event_id, sighting in self._planner.missing():
            changes.setdefault(campaign, Change()).ids[event_id] = list(sighting)
            held += 1
            if held == IDS_PER_APPLY:
                apply()
                held = 0
        apply()
        return counted

    def _rows(self, campaigns: Mapping[int, Any] | Sequence[int]) -> dict[int, dict[str, Any]]:
        """`stats` and `rev` now."""
        found: dict[int, dict[str, Any]] = {}
        asked = list(campaigns)
        for first in range(0, len(asked), ROWS_PER_COMMIT):
            part = asked[first : first + ROWS_PER_COMMIT]
            reads = [Read(RowKey(self._generation.campaigns, campaign), ("stats", "rev")) for campaign in part]
            rows = self._patience(lambda reads=reads: self._store.read(reads))  # type: ignore[misc]  # bound now
            for campaign, row in zip(part, rows, strict=True):
                if row is None or "rev" not in row.bins:
                    raise Refused(f"campaign {campaign}: its row, or the ledger on it, is gone: run: projector rebuild")
                found[campaign] = {"stats": row.bins.get("stats", {}), "rev": row.bins["rev"]}
        return found

    # --- publication and balance

    def _raise_revs(self) -> dict[int, dict[str, list[int]]]:
        """Make the rows that lag newer than what was published of them; answers that: [value, epoch, rev] by KPI."""
        feed = Feed()
        self._patience(lambda: feed.catch_up(self._log, self._config.kpi_topic))
        found = {}
        owed = set(self._plan.publish)
        for campaign, above in lagging(self._store, self._generation, self._plan.epoch, feed.totals, owed):
            raise_rev(self._store, self._generation, campaign, above, self._patience)
            said: dict[str, Total | None] = {kpi: feed.totals.get((campaign, kpi)) for kpi in KPIS}
            found[campaign] = {kpi: [each.value, each.epoch, each.rev] for kpi, each in said.items() if each}
        return found

    def _commit(self, held: Mapping[int, int], values: Mapping[int, Value]) -> list[dict[str, Any]]:
        """The totals and the publications, as a member, at the offsets where the checkpoint stands. Raises `Fenced`."""
        partitions = list(self._plan.checkpoint)
        if not partitions:
            if values:
                raise Refused("the generation has no checkpoint: projector run publishes what is due")
            return []
        with self._seat.held(partitions) as member:
            committed = self._committed(member, partitions)
            changed = self._planner.balance(held, committed)
            offsets = {
                partition: Offset(offset.offset, changed[partition].after.metadata() if partition in changed else text)
                for partition, offset in committed.items()
                for text in [offset.metadata]
            }
            batches = list(self._messages(values)) or ([[]] if changed else [])
            for batch in batches:
                member.commit(batch, offsets)
        if batches:
            self._patience(lambda: Copies(self._store, self._generation, self._patience).write(offsets))
        return [balance_change(partition, *change) for partition, change in changed.items()]

    def _committed(self, member: Member, partitions: Sequence[int]) -> dict[int, Offset]:
        found = checkpoint_patiently(lambda: member.committed(partitions))
        committed = {partition: offset for partition, offset in found.items() if offset is not None}
        if {partition: each.offset for partition, each in committed.items()} != dict(self._plan.checkpoint):
            raise Refused("the checkpoint has moved since the audit: stop the workers, and run it again")
        return committed

    def _messages(self, values: Mapping[int, Value]) -> Iterator[list[Message]]:
        campaigns = sorted(values)
        for first in range(0, len(campaigns), ROWS_PER_COMMIT):
            part = {campaign: values[campaign] for campaign in campaigns[first : first + ROWS_PER_COMMIT]}
            yield messages(self._config.kpi_topic, part, self._plan.epoch)


def _seat(log: Log, config: Config, generation: Generation, patience: Patience, clock: Clock) -> Seat:
    return Seat(log, generation.group, config.input_topic, SLOT, patience, clock)
