"""Plan: what a repair would do about the findings of an audit, worked out without changing anything."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import duckdb

from projector.audit.contract import canonical, packed
from projector.audit.finding import Finding, Kind, Remedy
from projector.audit.holdings import read_quarantine
from projector.balance import Totals, parse_totals
from projector.config import Config
from projector.errors import Refused
from projector.event import KPIS
from projector.feed import Feed, Total
from projector.fold import EventId, Sighting
from projector.generation import Generation
from projector.log import Log, Offset
from projector.patience import checkpoint_patiently, patiently, scan_patiently
from projector.repair.evidence import Evidence, event_id, packed_id
from projector.repair.journal import history
from projector.repair.restoration import Restoration, restore
from projector.store import Store

IDS_SHOWN = 500
"""Ids in one change of the journal."""
OF_A_PAGE = (Kind.FOREIGN, Kind.TWICE, Kind.OTHER_KIND)


class Audited(Protocol):
    """What a repair takes from an audit of all campaigns up to the checkpoint of their generation."""

    @property
    def generation(self) -> Generation:
        """The live one."""
        ...

    @property
    def epoch(self) -> int:
        """The pointer's."""
        ...

    @property
    def checkpoint(self) -> Mapping[int, int]:
        """Next offset per partition; at least the head."""
        ...

    @property
    def heads(self) -> Mapping[int, int]:
        """First offset per partition that is still there."""
        ...

    @property
    def database(self) -> duckdb.DuckDBPyConnection:
        """With the tables that `Evidence` names."""
        ...

    @property
    def clean(self) -> bool:
        """Nothing is to be mended."""
        ...

    def findings(self, kind: Kind | None = None, limit: int | None = None) -> Iterator[Finding]:
        """What was found."""
        ...


class Missing(NamedTuple):
    """An id to be counted, at a position that the topic has it at."""

    campaign: int
    id: EventId
    sighting: Sighting


class Rebalance(NamedTuple):
    """The totals of a partition. `before` None: unknown, another tool moved its offset."""

    before: Totals | None
    after: Totals


@dataclass
class Plan:
    """What is to be done, in this order. All but `missing` is in memory."""

    generation: Generation
    epoch: int
    checkpoint: Mapping[int, int]
    restorations: Mapping[int, Restoration] = field(default_factory=dict)
    """By campaign."""
    missing: int = 0
    """How many ids `Planner.missing` gives."""
    rows: Mapping[int, tuple[Mapping[str, int], Mapping[str, int]]] = field(default_factory=dict)
    """Campaigns whose ledger or totals change: `stats` before, and after."""
    balance: Mapping[int, Rebalance] = field(default_factory=dict)
    """Partitions whose totals change."""
    publish: Sequence[int] = ()
    """Campaigns whose totals are published."""

    @property
    def pages(self) -> int:
        """How many are restored."""
        return sum(len(each.pages) for each in self.restorations.values())

    @property
    def empty(self) -> bool:
        """Nothing is to be done."""
        return not (self.pages or self.missing or self.rows or self.balance or self.publish)


class Planner:
    """Reads what an audit found, and the system that it found it in; changes nothing."""

    def __init__(self, audited: Audited, log: Log, store: Store, config: Config) -> None:
        self._audited = audited
        self._log = log
        self._store = store
        self._config = config
        self._generation = audited.generation
        self.evidence = Evidence(
            audited.database, audited.checkpoint, lambda: read_quarantine(audited.database, log, config)
        )
        self._restorations: dict[int, Restoration] = {}

    def plan(self) -> Plan:
        """What is to be done. Raises `Refused`, which names the rebuild, where the ledger itself is wrong in what it
        holds, or cannot be restored; `Retryable`.
        """
        committed = self._committed()
        damaged = self._damaged()
        for campaign in sorted(damaged):
            self._restorations[campaign] = self._restore(campaign)
        self._refuse()
        codes: dict[int, Counter[int]] = {
            campaign: Counter(restoration.codes) for campaign, restoration in self._restorations.items()
        }
        held = self.evidence.counted(without=damaged)
        for restoration in self._restorations.values():
            held.update(restoration.below)
        missing = 0
        for campaign, _, (code, _, partition, _) in self.missing():
            codes.setdefault(campaign, Counter())[code] += 1
            held[partition] += 1
            missing += 1
        for finding in self._audited.findings(Kind.TOTAL):
            if finding.campaign is not None:
                codes.setdefault(finding.campaign, Counter())
        for campaign, found in self.evidence.held(codes.keys() - damaged).items():
            codes[campaign] += found
        rows = self._rows(codes)
        publish = {each.campaign for each in self._audited.findings(Kind.PUBLISHED) if each.campaign is not None}
        publish |= rows.keys()
        list(self._lagging(publish))  # refuses what no publication mends
        return Plan(
            self._generation,
            self._audited.epoch,
            {partition: each.offset for partition, each in committed.items()},
            self._restorations,
            missing,
            rows,
            self.balance(held, committed),
            sorted(publish),
        )

    def missing(self) -> Iterator[Missing]:
        """The ids to be counted, each once; those that a restored page holds are left out."""
        codes = {kpi: code for code, kpi in enumerate(KPIS)}
        for finding in self._audited.findings(Kind.MISSING):
            campaign, text, kpi = finding.campaign, finding.id, finding.kpi
            if finding.remedy is not Remedy.REPAIR or campaign is None or text is None or kpi is None:
                continue
            if campaign in self._restorations:
                continue  # what its ledger lacks is known with its pages
            partition, offset = finding.partition, finding.offset
            if partition is not None and offset is not None:
                sighting = [codes[kpi], finding.second or 0, partition, offset]
                yield Missing(campaign, event_id(packed(text)), sighting)
        for campaign, restoration in self._restorations.items():
            for each, sighting in restoration.missing.items():
                yield Missing(campaign, each, sighting)

    def changes(self, plan: Plan) -> Iterator[dict[str, Any]]:
        """The plan as the journal keeps it."""
        for restoration in plan.restorations.values():
            for page, missing in restoration.pages:
                before = "missing" if missing else "altered"
                yield {
                    "what": "page",
                    "campaign": page.campaign,
                    "page": f"{page.seal:016x}",
                    "before": before,
                    "after": page.digest.hex(),
                    "ids": len(page.ids),
                }
        part: dict[int, list[list[Any]]] = {}
        held = 0
        for campaign, each, (code, second, partition, offset) in self.missing():
            shown = [canonical(packed_id(each)), KPIS[code], second, partition, offset]
            part.setdefault(campaign, []).append(shown)
            held += 1
            if held == IDS_SHOWN:
                yield from _counting(part)
                part, held = {}, 0
        yield from _counting(part)
        for campaign, (stats, after) in plan.rows.items():
            yield {"what": "row", "campaign": campaign, "before": dict(stats), "after": dict(after)}
        for partition, (totals, new) in plan.balance.items():
            yield balance_change(partition, totals, new)
        for first in range(0, len(plan.publish), IDS_SHOWN):
            yield {"what": "publication", "campaigns": list(plan.publish[first : first + IDS_SHOWN])}

    def balance(self, held: Mapping[int, int], committed: Mapping[int, Offset]) -> dict[int, Rebalance]:
        """The totals that change, where the ledgers hold so many ids at positions of each partition.

        Raises `Refused` where they do not follow from topic and ledger.
        """
        changed = {}
        for partition, offset in committed.items():
            if offset == (0, ""):
                continue  # as a generation begins
            before = parse_totals(offset.metadata)
            after = self._totals(partition, before, held.get(partition, 0))
            if before != after:
                changed[partition] = Rebalance(before, after)
        self._refuse_what_the_topic_cannot_tell(changed)
        return changed

    def _refuse_what_the_topic_cannot_tell(self, changed: Mapping[int, Rebalance]) -> None:
        """Ids before the head are in the ledger alone: none may be lost or won there in silence."""
        more = 0
        for partition, (before, after) in changed.items():
            if self._audited.heads.get(partition, 0) and before is not None:
                more += after.counted + after.carried - before.counted - before.carried
        if more < 0:
            raise Refused(
                f"the ledgers hold {-more:,} ids fewer than were committed, and the topic no longer has the records "
                "before its head; nothing was changed: restore the store from a backup"
            )
        if more > sum(1 for _ in self.missing()) and all(told.ended for told in history(self._store)):
            raise Refused(
                f"the ledgers hold {more:,} ids more than were committed, and the topic no longer has the records "
                "before its head to tell whether they were sent; nothing was changed: restore the store from a backup"
            )

    # --- what cannot be mended

    def _damaged(self) -> set[int]:
        """The campaigns whose pages are to be restored."""
        by_remedy: dict[Remedy, set[int]] = {remedy: set() for remedy in Remedy}
        for finding in self._audited.findings(Kind.DAMAGED):
            if finding.campaign is not None:
                by_remedy[finding.remedy].add(finding.campaign)
        return by_remedy[Remedy.REPAIR] - by_remedy[Remedy.REBUILD]

    def _restore(self, campaign: int) -> Restoration:
        return restore(
            self._store,
            self._generation,
            campaign,
            self._audited.checkpoint,
            lambda damaged: self.evidence.candidates(campaign, damaged),
        )

    def _refuse(self) -> None:
        """What a restored page holds in place of its ids does not count against it."""
        restored = {
            (campaign, f"{each.page.seal:016x}")
            for campaign, restoration in self._restorations.items()
            for each in restoration.pages
        }
        first: Finding | None = None
        more = 0
        for finding in self._audited.findings():
            if finding.remedy is not Remedy.REBUILD or (
                (finding.kind in OF_A_PAGE and (finding.campaign, finding.place) in restored)
                or (finding.kind is Kind.DAMAGED and (finding.campaign, finding.place) in restored)
            ):
                continue
            first = first or finding
            more += 1
        if first is not None:
            what = f"campaign {first.campaign}: " if first.campaign is not None else ""
            what += f"id {first.id}: " if first.id is not None else ""
            others = f" (and {more - 1:,} more like this)" if more > 1 else ""
            raise Refused(
                f"{what}{first.kind.value}: {first.detail}{others}: the ledger holds what it should not, which repair "
                "cannot mend; nothing was changed; run: projector rebuild"
            )

    # --- rows, totals, publication

    def _rows(self, codes: Mapping[int, Counter[int]]) -> dict[int, tuple[Mapping[str, int], Mapping[str, int]]]:
        """`stats` of these campaigns, and what they will be with so many ids of each KPI."""
        found: dict[int, tuple[Mapping[str, int], Mapping[str, int]]] = {}
        for row in scan_patiently(self._store, self._generation.campaigns, ("c-id", "stats", "opening")):
            campaign: int = row.bins.get("c-id", -1)
            if campaign in codes:
                stats, opening = row.bins.get("stats", {}), row.bins.get("opening", {})
                after = {kpi: opening.get(kpi, 0) + codes[campaign][code] for code, kpi in enumerate(KPIS)}
                found[campaign] = (stats, {**stats, **after})
        return found

    def _committed(self) -> dict[int, Offset]:
        """The checkpoint of the generation, which must be the audit's, and in the topic. Raises `Refused`."""
        found = checkpoint_patiently(lambda: self._log.checkpoint(self._generation.group, self._config.input_topic))
        for partition, until in self._audited.checkpoint.items():
            offset = found[partition].offset if partition in found else 0
            if (head := self._audited.heads.get(partition, 0)) > offset:
                raise Refused(
                    f"partition {partition}: the topic begins at offset {head}, past the checkpoint, {offset}: "
                    "projector run --accept-head goes on there"
                )
            if until != offset:
                raise Refused("the checkpoint has moved since the audit: stop the workers first, and run it again")
        return found

    def _totals(self, partition: int, before: Totals | None, held: int) -> Totals:
        """The totals with `carried` such that they add up; recounted from the topic where that alone does not do it."""
        whole = self._audited.heads.get(partition, 0) == 0
        adds_up = before is not None and before.consumed == before.judged and min(before) >= 0
        if whole and before is not None:
            adds_up = adds_up and before.consumed == self.evidence.records(partition)
        if before is not None and adds_up and held >= before.counted:
            return before._replace(carried=held - before.counted)
        if whole:
            mended = ((campaign, each) for campaign, each, _ in self.missing())
            restored = ((campaign, each) for campaign, found in self._restorations.items() for each in found.ids)
            consumed, rejected, parked = self.evidence.recounted(partition, (*mended, *restored))
            if (duplicate := consumed - held - rejected - parked) >= 0:
                return Totals(consumed, held, duplicate, parked, rejected, 0)
        elif before is not None and adds_up:
            # An id that was counted here is counted at another position now: this one is a duplicate.
            duplicate = before.duplicate + before.counted - held
            return before._replace(counted=held, duplicate=duplicate, carried=0)
        raise Refused(
            f"partition {partition}: its committed totals do not add up, and the topic does not tell what they were; "
            "nothing was changed; run: projector rebuild"
        )

    def _lagging(self, campaigns: Collection[int]) -> Iterator[tuple[int, int]]:
        feed = Feed()
        patiently(lambda: feed.catch_up(self._log, self._config.kpi_topic))
        return lagging(self._store, self._generation, self._audited.epoch, feed.totals, campaigns)


def lagging(
    store: Store,
    generation: Generation,
    epoch: int,
    totals: Mapping[tuple[int, str], Total],
    campaigns: Collection[int],
) -> Iterator[tuple[int, int]]:
    """Those of these campaigns whose last published totals are not their rows'; each with the `rev` to be above.

    Raises `Refused` where the topic is ahead of the pointer, and `Retryable`.
    """
    for row in scan_patiently(store, generation.campaigns, ("c-id", "seal", "rev", "stats")):
        if not {"c-id", "seal", "rev"} <= row.bins.keys():
            continue
        campaign, rev, stats = row.bins["c-id"], row.bins["rev"], row.bins.get("stats", {})
        if campaign not in campaigns:
            continue
        above, lags = -1, False
        for kpi in KPIS:
            total, value = totals.get((campaign, kpi)), stats.get(kpi, 0)
            if total is None:
                lags = lags or (rev > 0 and value > 0)
                continue
            if total.epoch > epoch:
                raise Refused(
                    f"campaign {campaign}: {kpi} was published with epoch {total.epoch}, but the epoch is {epoch}: the "
                    "pointer row is an older one: restore it from a backup, or: projector rewind"
                )
            if total.value != value or (total.epoch == epoch and total.rev > rev):
                lags = True
                above = max(above, total.rev if total.epoch == epoch else -1)
        if lags:
            yield campaign, above


def balance_change(partition: int, before: Totals | None, after: Totals) -> dict[str, Any]:
    """As the journal keeps it."""
    shown = before._asdict() if before is not None else "unknown"
    return {"what": "balance", "partition": partition, "before": shown, "after": after._asdict()}


def _counting(ids: Mapping[int, list[list[Any]]]) -> Iterator[dict[str, Any]]:
    for campaign, shown in ids.items():
        yield {"what": "ids", "campaign": campaign, "ids": shown}
