"""Evidence: what the tables of an audit say that a repair needs to know of the topic.

Tables: `topic`, `tags`, `ledger`, `quarantined`; positions count below the checkpoint alone.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

import duckdb
import pyarrow as pa  # type: ignore[import-untyped]  # no hints

from projector.fold import EventId, Sighting
from projector.repair.restoration import Candidates

PARKED_UNTIL_KNOWN = ("unknown-tag", "unknown-campaign", "campaign-not-adopted")
"""Why a record may rightly be parked although its tag and campaign are known by now."""
NEARBY = 10_000
"""Records around those in question, in their partition, whose ids tell in which order partitions were read."""
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
            SELECT id, arg_min(code, position), arg_min(second, position), partition, min(position), parked
            FROM (
                SELECT t.id, t.code, t.second, t.partition, t.position,
                    coalesce(q.verdict = 'parked' AND list_contains(?, q.reason), FALSE) AS parked
                FROM topic t JOIN tags USING (tag) JOIN checkpoints USING (partition)
                LEFT JOIN quarantined q ON q.partition = t.partition AND q.position = t.position
                WHERE campaign = ? AND t.reason IS NULL AND t.position < until
                    AND t.id NOT IN (SELECT id FROM ledger WHERE campaign = ? AND NOT list_contains(?, place)))
            GROUP BY id, partition, parked ORDER BY min(second), partition
            """,
            [list(PARKED_UNTIL_KNOWN), campaign, campaign, [f"{seal:016x}" for seal in damaged]],
        )
        for packed, code, second, partition, position, parked in rows.fetchall():
            found.setdefault(event_id(packed), []).append([code, second, partition, position])
            if parked:
                aside.add((partition, position))
        return Candidates(self._first_read(found), frozenset(aside))

    def _first_read(self, found: Mapping[EventId, list[Sighting]]) -> dict[EventId, list[Sighting]]:
        """Without the positions that were surely read after another one of the same id.

        Each partition is read in its order, and of an id the position that was read first is counted: so whatever the
        ledgers hold of ids that the topic has in several partitions tells which of these was ahead.
        """
        several = [each for sightings in found.values() if len(sightings) > 1 for each in sightings]
        if not several:
            return dict(found)
        spans: dict[int, list[int]] = {}
        for _, _, partition, position in several:
            spans.setdefault(partition, []).append(position)
        self._fill(
            "wanted (partition INTEGER, first BIGINT, last BIGINT)",
            ((partition, min(positions) - NEARBY, max(positions) + NEARBY) for partition, positions in spans.items()),
        )
        rows = self._database.execute(
            """
            SELECT DISTINCT l.partition, l.position, t.partition, t.position
            FROM (SELECT campaign, id, partition, position FROM ledger JOIN wanted USING (partition)
                WHERE position BETWEEN first AND last) l
            JOIN (SELECT campaign, id, partition, position
                FROM topic JOIN tags USING (tag) JOIN wanted USING (partition)
                WHERE reason IS NULL AND position BETWEEN first AND last) t
            ON l.campaign = t.campaign AND l.id = t.id AND l.partition <> t.partition
            """
        )
        ahead: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for partition, position, later, later_position in rows.fetchall():
            ahead.setdefault((partition, later), []).append((position, later_position))

        def before(one: Sighting, other: Sighting) -> bool:
            pairs = ahead.get((one[2], other[2]), [])
            return any(position >= one[3] and later <= other[3] for position, later in pairs)

        kept: dict[EventId, list[Sighting]] = {}
        for key, sightings in found.items():
            left = [
                each
                for each in sightings
                if not any(before(other, each) and not before(each, other) for other in sightings if other is not each)
            ]
            kept[key] = left or sightings
        return kept

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
