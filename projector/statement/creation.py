"""Creation: the ids that the live generation counted in a period, closed at its checkpoint, written and signed."""

import csv
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import pyarrow  # type: ignore[import-untyped]  # no hints
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from projector.audit.database import open_database
from projector.config import Config
from projector.errors import Misconfigured, Refused
from projector.event import KPIS
from projector.footing import ledgers
from projector.generation import Generation
from projector.log import Log
from projector.patience import patiently
from projector.reading import campaigns
from projector.statement.closing import Closed, close
from projector.statement.gathering import gather
from projector.statement.leaf import COLUMNS, leaves
from projector.statement.manifest import (
    COUNTS_CSV,
    COUNTS_PARQUET,
    FILES,
    IDS_PARQUET,
    MANIFEST,
    SIGNATURE,
    File,
    Manifest,
)
from projector.statement.merkle import Tree
from projector.statement.period import Period, iso
from projector.statement.signature import raw
from projector.store import Store

MEMORY_MIB = 512
_ROWS = 10_000


def create(
    log: Log,
    store: Store,
    config: Config,
    period: Period,
    key: Ed25519PrivateKey,
    directory: Path,
    advance: Callable[[int], None] = lambda _: None,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> Manifest:
    """Write the statement of a period to `directory`, which comes into being whole or not at all; answers its manifest.

    1. Close: the pointer row, then the checkpoint of the live generation, which must have passed the period.
    2. Gather the ids of its ledgers that are in the period and before the checkpoint; every ledger must foot.
    3. Sort them, count them, hash them.
    4. Sign the manifest, and give the directory its name.

    `advance` hears of ids read. Raises `Refused` where `directory` holds anything, the period is not over or not read
    to its end, or another generation goes live meanwhile; `LedgerDamaged`, `Misconfigured`, `OffsetsGone`, `Retryable`.
    """
    directory = directory.resolve()
    _vacant(directory)
    closed = close(log, store, config, period, now_ms())
    try:
        with TemporaryDirectory(prefix=".statement-", dir=directory.parent) as beside:
            made = Path(beside, "statement")
            made.mkdir()
            with (
                TemporaryDirectory(prefix="projector-") as scratch,
                closing(open_database(Path(scratch), MEMORY_MIB)) as database,
            ):
                ledger_campaigns = _list_campaigns(store, closed.generation, database)
                gather(store, closed, ledger_campaigns, period, database, advance)
                _write_tables(database, made)
            closed.confirm(store)
            manifest = _manifest(closed, config, period, made, len(ledger_campaigns), key, now_ms())
            content = manifest.encoded()
            (made / MANIFEST).write_bytes(content)
            (made / SIGNATURE).write_bytes(key.sign(content))
            _flush(made)
            _vacant(directory)
            made.rename(directory)  # over an empty directory too; over any other it fails
    except OSError as error:
        raise Misconfigured(f"cannot write {directory}: {error.strerror}") from None
    except duckdb.InterruptException as error:
        raise KeyboardInterrupt from error
    except duckdb.Error as error:
        raise Refused(f"DuckDB cannot sort the ids; is there room for temporary files (TMPDIR)? {error}") from error
    return manifest


def _vacant(directory: Path) -> None:
    if directory.exists() and not (directory.is_dir() and not any(directory.iterdir())):
        raise Refused(f"{directory} is there already: a statement is never overwritten, name another one with --out")
    if not directory.parent.is_dir():
        raise Misconfigured(f"there is no directory {directory.parent}")


def _list_campaigns(store: Store, generation: Generation, database: duckdb.DuckDBPyConnection) -> Sequence[int]:
    """The campaigns that have a ledger; also as table `campaigns`."""
    found = ledgers(store, generation)
    names = {each.campaign: each.name for each in patiently(lambda: campaigns(store, generation))}
    columns = {"campaign": pyarrow.array(found, "int64"), "name": [names.get(each, "") for each in found]}
    database.register("found", pyarrow.table(columns))
    database.execute("CREATE TABLE campaigns AS SELECT campaign, name::VARCHAR AS name FROM found")
    database.unregister("found")
    return found


# --- the files


def _write_tables(database: duckdb.DuckDBPyConnection, made: Path) -> None:
    """From tables `campaigns` and `ids`: every campaign with every KPI, and the leaves in their order."""
    kpis = ", ".join(f"({code}, '{kpi}')" for code, kpi in enumerate(KPIS))
    database.execute(
        f"""
        CREATE TABLE counts AS
        SELECT campaign, name, code, kpi, coalesce(n, 0)::BIGINT AS count
        FROM campaigns CROSS JOIN (VALUES {kpis}) kpis (code, kpi)
        LEFT JOIN (SELECT campaign, kpi, count(*) AS n FROM ids GROUP BY ALL) counted USING (campaign, kpi)
        """
    )
    counts = "SELECT campaign, name, kpi, count FROM counts ORDER BY campaign, code"
    _copy(database, counts, made / COUNTS_PARQUET)
    columns = ", ".join(f'"{name}"' for name in COLUMNS)
    _copy(database, f"SELECT {columns} FROM ids ORDER BY campaign, id", made / IDS_PARQUET)
    with (made / COUNTS_CSV).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("campaign", "name", "kpi", "count"))
        found = database.execute(counts)
        while rows := found.fetchmany(_ROWS):
            writer.writerows(rows)


def _copy(database: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    quoted = str(path).replace("'", "''")
    database.execute(f"COPY ({query}) TO '{quoted}' (FORMAT parquet, COMPRESSION zstd)")


def _manifest(
    closed: Closed, config: Config, period: Period, made: Path, campaign_count: int, key: Ed25519PrivateKey, now_ms: int
) -> Manifest:
    tree, totals = Tree(), Counter(dict.fromkeys(KPIS, 0))
    for leaf in leaves(made / IDS_PARQUET):
        tree.add(leaf.data)
        totals[leaf.kpi] += 1
    root, _ = tree.finished()
    begin, end = period.texts()
    return Manifest(
        period_from=begin,
        period_to=end,
        topic=config.input_topic,
        topic_id=closed.topic_id,
        generation=closed.generation.number,
        epoch=closed.epoch,
        checkpoint=dict(sorted(closed.checkpoint.items())),
        campaigns=campaign_count,
        totals=dict(totals),
        leaves=tree.size,
        root=root.hex(),
        files={name: File.of(made / name) for name in FILES},
        program=f"projector {version('projector')}",
        created=iso(now_ms // 1000),
        public_key=raw(key.public_key()).hex(),
    )


def _flush(made: Path) -> None:
    """To the disk, so that the name that the directory is given next never stands for half of it."""
    for path in (*made.iterdir(), made):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
