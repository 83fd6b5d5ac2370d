"""Difference: two statements of one period, made at different checkpoints, id by id."""

import glob
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from enum import Enum
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import duckdb

from projector.audit.database import open_database
from projector.errors import Refused
from projector.statement.leaf import COLUMNS, Leaf
from projector.statement.verification import Statement, opened

MEMORY_MIB = 512
_ROWS = 10_000


class Change(Enum):
    """What became of an id from the first statement to the second."""

    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"  # another campaign, KPI, second or position


class Difference(NamedTuple):
    """One id; `before` is its leaf in the first statement, `after` in the second, None where it has none."""

    change: Change
    before: Leaf | None
    after: Leaf | None


class Cell(NamedTuple):
    """One KPI of one campaign: ids in the first statement, in the second, and how many came and went.

    An id that changed campaign or KPI went from one and came to the other; one that changed nothing else is in neither.
    """

    campaign: int
    kpi: str
    before: int
    after: int
    came: int
    went: int


class Comparison:
    """Two statements side by side, while `compared` is open."""

    def __init__(self, database: duckdb.DuckDBPyConnection, first: Statement, second: Statement) -> None:
        self._database = database
        self.first = first
        self.second = second

    def differences(self) -> Iterator[Difference]:
        """By id, then by campaign; equal statements have none."""
        width = len(COLUMNS)
        found = self._database.execute(
            "SELECT * FROM differences ORDER BY id, coalesce(before_campaign, after_campaign)"
        )
        while rows := found.fetchmany(_ROWS):
            for row in rows:
                before = None if row[1] is None else Leaf(*row[1 : 1 + width])
                after = None if row[1 + width] is None else Leaf(*row[1 + width :])
                change = Change.ADDED if before is None else Change.REMOVED if after is None else Change.CHANGED
                yield Difference(change, before, after)

    def counts(self) -> Counter[Change]:
        """How many differences there are of each kind."""
        (row,) = self._database.execute(
            "SELECT count(*) FILTER (before_id IS NULL), count(*) FILTER (after_id IS NULL), count(*) FROM differences"
        ).fetchall()
        added, removed, all_of_them = row
        return Counter({Change.ADDED: added, Change.REMOVED: removed, Change.CHANGED: all_of_them - added - removed})

    def cells(self) -> list[Cell]:
        """Every campaign and KPI whose ids differ, in order."""
        found = self._database.execute(
            """
            WITH went AS (
                SELECT before_campaign AS campaign, before_kpi AS kpi, count(*) AS went FROM differences
                WHERE before_id IS NOT NULL
                  AND (before_campaign, before_kpi) IS DISTINCT FROM (after_campaign, after_kpi) GROUP BY ALL
            ), came AS (
                SELECT after_campaign AS campaign, after_kpi AS kpi, count(*) AS came FROM differences
                WHERE after_id IS NOT NULL
                  AND (before_campaign, before_kpi) IS DISTINCT FROM (after_campaign, after_kpi) GROUP BY ALL
            ), before AS (SELECT campaign, kpi, count(*) AS n FROM first GROUP BY ALL),
            after AS (SELECT campaign, kpi, count(*) AS n FROM second GROUP BY ALL)
            SELECT campaign, kpi, coalesce(before.n, 0), coalesce(after.n, 0), coalesce(came, 0), coalesce(went, 0)
            FROM went FULL JOIN came USING (campaign, kpi) LEFT JOIN before USING (campaign, kpi)
            LEFT JOIN after USING (campaign, kpi)
            ORDER BY campaign, kpi
            """
        )
        return [Cell(*row) for row in found.fetchall()]


@contextmanager
def compared(first: Path, second: Path) -> Iterator[Comparison]:
    """Compare two statements. Raises `Refused` where one is not intact or they are not of one period and topic."""
    one, other = opened(first), opened(second)
    if one.manifest.period != other.manifest.period:
        raise Refused(
            f"{first} is of {' to '.join(one.manifest.period.texts())}, {second} of "
            f"{' to '.join(other.manifest.period.texts())}: only statements of one period can be compared"
        )
    if one.manifest.topic_id != other.manifest.topic_id:
        raise Refused(f"{first} and {second} are not of one topic: their positions cannot be compared")
    try:
        with (
            TemporaryDirectory(prefix="projector-") as scratch,
            closing(open_database(Path(scratch), MEMORY_MIB)) as database,
        ):
            for name, statement in (("first", one), ("second", other)):
                quoted = glob.escape(str(statement.ids)).replace("'", "''")
                database.execute(f"CREATE VIEW {name} AS SELECT * FROM read_parquet('{quoted}')")
            database.execute(_differences())
            yield Comparison(database, one, other)
    except duckdb.InterruptException as error:
        raise KeyboardInterrupt from error
    except duckdb.Error as error:
        raise Refused(f"DuckDB cannot compare them; is there room for temporary files (TMPDIR)? {error}") from error


def _differences() -> str:
    """Leaves that are not the same in both; of one id, a leaf that went is paired with one that came."""
    columns = ", ".join(f'"{name}"' for name in COLUMNS)
    before = ", ".join(f'went."{name}" AS before_{name}' for name in COLUMNS)
    after = ", ".join(f'came."{name}" AS after_{name}' for name in COLUMNS)
    numbered = "row_number() OVER (PARTITION BY id ORDER BY campaign) AS number"
    return f"""
        CREATE TABLE differences AS
        WITH went AS (
            SELECT *, {numbered} FROM (SELECT {columns} FROM first EXCEPT SELECT {columns} FROM second)
        ), came AS (
            SELECT *, {numbered} FROM (SELECT {columns} FROM second EXCEPT SELECT {columns} FROM first)
        )
        SELECT coalesce(went.id, came.id) AS id, {before}, {after}
        FROM went FULL JOIN came ON went.id = came.id AND went.number = came.number
    """
