"""Evidence: what the tables of an audit say that a repair needs to know of the topic.

Tables: `topic`, `tags`, `ledger`, `quarantined`; positions count below the checkpoint alone.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import duckdb
import pyarrow as pa

from projector.fold import EventId, Sighting
from projector.repair.restoration import Candidates

PARKED_UNTIL_KNOWN = ("unknown-tag", "unknown-campaign", "campaign-not-adopted")
"""Why a record may rightly be parked although its tag and campaign are known by now."""
_INSERTED = 100_000


class Recounted(NamedTuple):
    """Of the records of a partition: how many there are, and how many can never be counted, or are parked."""

    consumed: int
    rejected: int
    parked: int


def event_id(packed: bytes) -> EventId:
    """An id as the ledger has it, from the audit's form."""
    return packed[1:] if packed[:1] == b"u" else packed[1:].decode()


def packed_id(of: EventId) -> bytes:
    """The audit's form of an id of the ledger."""
    return b"u" + of if isinstance(of, bytes) else b"s" + of.encode()


class Evidence:
    """Of one audit up to `checkpoint`. `read_quarantine` makes the table `quarantined`, which not every audit needs."""

    def __init__(
        self,
        database: duckdb.DuckDBPyConnection,
        checkpoint: Mapping[int, int],
        read_quarantine: Callable[[], None],
    ) -> None:
        self._database = database
        self._read_quarantine = read_quarantine
        self._fill("checkpoints (partition INTEGER, until BIGINT)", checkpoint.items())

    def candidates(self, campaign: int, damaged: Sequence[int]) -> Candidates:
        """What the topic has of a campaign that no place of its ledger holds, but for these pages."""
        there = "SELECT count(*) FROM duckdb_tables() WHERE table_name = 'quarantined'"
        if self._database.execute(there).fetchall() == [(0,)]:
            self._read_quarantine()
        found: dict[EventId, list[Sighting]] = {}
        aside: set[tuple[int, int]] = set()
        rows = self._database.execute(
            """
            SELECT e.id, e.code, e.second, e.partition, e.position,
                coalesce(q.verdict = 'parked' AND list_contains(?, q.reason), FALSE)
            FROM (
                SELECT id, partition, arg_min(code, position) AS code, arg_min(second, position) AS second,
                    min(position) AS position
                FROM topic JOIN tags USING (tag) JOIN checkpoints USING (partition)
                WHERE campaign = ? AND reason IS NULL AND position < until
                    AND id NOT IN (SELECT id FROM ledger WHERE campaign = ? AND NOT list_contains(?, place))
                GROUP BY id, partition) e
            LEFT JOIN quarantined q ON q.partition = e.partition AND q.position = e.position
            ORDER BY e.second, e.partition
            """,
            [list(PARKED_UNTIL_KNOWN), campaign, campaign, [f"{seal:016x}" for seal in damaged]],
        )
        for packed, code, second, partition, position, parked in rows.fetchall():
            found.setdefault(event_id(packed), []).append([code, second, partition, position])
            if parked:
                aside.add((partition, position))
        return Candidates(found, frozenset(aside))

    def counted(self, without: Iterable[int]) -> Counter[int]:
        """Ids per partition that the ledgers hold below the checkpoint, but for those of some campaigns."""
        self._fill("chosen (campaign BIGINT)", ((campaign,) for campaign in without))
        rows = self._database.execute(
            """
            SELECT partition, count(*)
            FROM ledger l JOIN checkpoints USING (partition) ANTI JOIN chosen USING (campaign)
            WHERE position < until GROUP BY partition
            """
        )
        return Counter(dict(rows.fetchall()))

    def held(self, campaigns: Iterable[int]) -> dict[int, Counter[int]]:
        """Ids per KPI code that the ledgers of these campaigns hold, wherever they stand."""
        self._fill("chosen (campaign BIGINT)", ((campaign,) for campaign in campaigns))
        rows = self._database.execute(
            "SELECT campaign, code, count(*) FROM ledger SEMI JOIN chosen USING (campaign) GROUP BY campaign, code"
        )
        found: dict[int, Counter[int]] = {}
        for campaign, code, ids in rows.fetchall():
            found.setdefault(campaign, Counter())[code] = ids
        return found

    def records(self, partition: int) -> int:
        """How many records the topic has in a partition below its checkpoint."""
        rows = self._database.execute(
            "SELECT count(*) FROM topic JOIN checkpoints USING (partition) WHERE partition = ? AND position < until",
            [partition],
        )
        ((records,),) = rows.fetchall()
        return int(records)

    def recounted(self, partition: int, mended: Iterable[tuple[int, EventId]]) -> Recounted:
        """The records of a partition below its checkpoint, once the ledgers hold these (campaign, id), too."""
        self._fill("mended (campaign BIGINT, id BLOB)", ((campaign, packed_id(each)) for campaign, each in mended))
        (row,) = self._database.execute(
            """
            WITH record AS (
                SELECT id, tag, reason FROM topic JOIN checkpoints USING (partition)
                WHERE partition = ? AND position < until),
            held AS (SELECT campaign, id FROM ledger UNION SELECT campaign, id FROM mended)
            SELECT count(*), count(*) FILTER (reason LIKE 'rejected:%'),
                count(*) FILTER (reason LIKE 'parked:%' OR (reason IS NULL AND h.id IS NULL))
            FROM record r LEFT JOIN tags g USING (tag) LEFT JOIN held h ON h.campaign = g.campaign AND h.id = r.id
            """,
            [partition],
        ).fetchall()
        return Recounted(*row)

    def _fill(self, table: str, rows: Iterable[Sequence[object]]) -> None:
        """A table of its own with these rows, and no others."""
        name = table.partition(" ")[0]
        self._database.execute(f"CREATE OR REPLACE TEMP TABLE {table}")
        left = iter(rows)
        while part := list(islice(left, _INSERTED)):
            columns = list(zip(*part, strict=True))
            self._database.register("filling", pa.table(columns, names=[str(n) for n in range(len(columns))]))
            self._database.execute(f"INSERT INTO {name} SELECT * FROM filling")  # a name of our own
            self._database.unregister("filling")
