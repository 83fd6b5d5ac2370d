"""Result: what an audit found, read from its database; there may be millions of findings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import duckdb

from projector.audit.database import translated
from projector.audit.finding import Finding, Kind, Remedy
from projector.audit.recount import canonical
from projector.event import KPIS
from projector.generation import Generation

FETCHED = 1_000
_FINDING = "kind, remedy, detail, campaign, code, id, partition, position, second, place, verdict, reason"


class Cell(NamedTuple):
    """A KPI of a campaign, counted four ways. All is well if ledger == topic + apart, and stats == opening + ledger.

    `topic`: distinct ids that the topic has for it, from the head to the checkpoint. `ledger`: all ids counted.
    `apart`: those of them that the topic cannot show, before its head or past the checkpoint. `stats`: None if the row
    is gone. `published`: None if nothing was, or if that was not compared. `findings`: how many name this cell.
    """

    campaign: int
    kpi: str
    topic: int
    ledger: int
    apart: int
    opening: int
    stats: int | None
    published: int | None
    findings: int

    @property
    def difference(self) -> int:
        """Counted minus what should be."""
        return self.ledger - self.apart - self.topic


@dataclass(frozen=True)
class Excused:
    """What differs and is right so. `reasons`: the topic's records that are no events to count, by reason."""

    before_head: int
    past_checkpoint: int
    parked: int
    duplicates: int
    conflicts: int
    reasons: Mapping[str, int]


@dataclass(frozen=True)
class Audit:
    """What an audit found. It reads from its database, which must stay open as long as it is used.

    `checkpoint` is what it was compared up to: the generation's, or less with `until`. `skipped`: what was not
    compared, and why. `unread`: how many ids seem to be missing in campaigns with lost pages, and are no findings.
    """

    generation: Generation
    epoch: int
    live: bool
    """Workers of the generation were there."""
    checkpoint: Mapping[int, int]
    heads: Mapping[int, int]
    campaigns: int
    records: int
    ids: int
    counts: Mapping[Kind, int]
    excused: Excused
    unread: int
    skipped: Sequence[str]
    elapsed_s: float
    database: duckdb.DuckDBPyConnection = field(repr=False)

    @property
    def clean(self) -> bool:
        """Nothing differs that is not excused."""
        return not any(self.counts.values())

    @property
    def remedies(self) -> list[Remedy]:
        """What mends the findings, each once."""
        found = self.database.cursor().execute("SELECT DISTINCT remedy FROM findings WHERE class = 'finding'")
        named = {remedy for (remedy,) in found.fetchall()}
        return [remedy for remedy in Remedy if remedy.value in named]

    def findings(self, kind: Kind | None = None, limit: int | None = None) -> Iterator[Finding]:
        """What differs, by kind, campaign, KPI and position."""
        return self._findings("finding", kind, limit)

    def parked(self, limit: int | None = None) -> Iterator[Finding]:
        """Ids that are parked because their tag or campaign was not known in time: no differences."""
        return self._findings("parked", None, limit)

    def missing_unread(self, campaign: int) -> Iterator[Finding]:
        """Ids of a campaign with lost pages that are in no place that could be read."""
        return self._findings("unread", None, None, campaign)

    def cells(self, differing: bool = False) -> Iterator[Cell]:
        """By campaign and KPI; `differing`: only where something does not agree."""
        wanted = "WHERE n > 0 OR ledger - apart <> topic" if differing else ""
        statement = f"""
            SELECT campaign, code, topic, ledger, apart, opening, stats, value, coalesce(n, 0)
            FROM cells LEFT JOIN published USING (campaign, code)
            LEFT JOIN (
                SELECT campaign, code, count(*) AS n FROM findings WHERE class = 'finding' GROUP BY campaign, code)
            USING (campaign, code) {wanted} ORDER BY campaign, code
            """
        for campaign, code, *values in _rows(self.database, statement):
            yield Cell(campaign, KPIS[code], *values)

    def series(self, code: int, buckets: int) -> list[tuple[int, int, int]]:
        """Over time, in at most `buckets` parts of equal length that have any: (second that it begins at, ids in the
        topic, ids in the ledger), by the Kafka timestamp; ids without one, or that the topic cannot show, are left out.
        """
        statement = """
            WITH seconds AS (
                SELECT second, 0 AS topic, 1 AS ledger FROM held WHERE code = $code AND span IN ('inside', 'nowhere')
                UNION ALL SELECT second, 1, 0 FROM held WHERE code = $code AND span = 'inside'
                UNION ALL SELECT second, -1, 0 FROM stray WHERE code = $code AND span = 'inside'
                UNION ALL SELECT second, -1, 0 FROM matched_twice WHERE code = $code AND nth > 1
                UNION ALL SELECT second, 1, 0 FROM spare_only WHERE code = $code AND NOT is_apart),
            span AS (
                SELECT min(second) AS first, greatest(1, ceil((max(second) + 1 - min(second)) / $buckets)) AS width
                FROM seconds WHERE second > 0)
            SELECT CAST(first + (second - first) // width * width AS BIGINT) AS began, sum(topic), sum(ledger)
            FROM seconds, span WHERE second > 0 GROUP BY began ORDER BY began
            """
        found = self.database.cursor().execute(statement, {"code": code, "buckets": buckets}).fetchall()
        return [(began, int(topic), int(ledger)) for began, topic, ledger in found]

    def _findings(
        self, of: str, kind: Kind | None, limit: int | None, campaign: int | None = None
    ) -> Iterator[Finding]:
        statement = f"""
            SELECT {_FINDING} FROM findings WHERE class = ? AND kind = coalesce(?, kind) AND (campaign = ? OR ? IS NULL)
            ORDER BY list_position(?, kind), campaign, code, partition, position LIMIT ?
            """
        order = [each.value for each in Kind]
        for name, remedy, detail, named, code, packed, *rest in _rows(
            self.database, statement, [of, kind.value if kind else None, campaign, campaign, order, limit]
        ):
            kpi = None if code is None else KPIS[code]
            shown = None if packed is None else canonical(packed)
            yield Finding(Kind(name), Remedy(remedy), detail, named, kpi, shown, *rest)


def _rows(
    database: duckdb.DuckDBPyConnection, statement: str, values: Sequence[object] = ()
) -> Iterator[tuple[Any, ...]]:
    """Rows as they are asked for; other statements may run meanwhile."""
    with translated():
        cursor = database.cursor()
        cursor.execute(statement, values)
        while found := cursor.fetchmany(FETCHED):
            yield from found
