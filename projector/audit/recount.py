"""Recount: the topic -> a table of what each of its records says, by a path of its own.

Nothing is shared with decode, fold and ledger; only the log that both read.
"""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import duckdb
import pyarrow as pa  # type: ignore[import-untyped]  # no hints

from projector.audit.contract import canonical, packed
from projector.audit.readers import READERS, SCHEMA, Readers
from projector.errors import OffsetsGone
from projector.log import Log

__all__ = ["canonical", "packed", "recount"]

ROWS = 122_880
"""Rows that are inserted at once: one row group of DuckDB's."""
ROW_BYTES = 64 << 20
"""Bytes that such rows may take before they are inserted, however few they are."""
READERS_FROM = 300_000
"""Offsets from which on it is worth a second to start the readers."""

_CREATE = """
CREATE TABLE topic (
    partition INTEGER, position BIGINT, second BIGINT, id BLOB, code UTINYINT, tag VARCHAR, reason VARCHAR)
"""
_INSERT = """
INSERT INTO topic
SELECT partition, position, greatest(timestamp_ms, 0) // 1000, id, code, tag, reason FROM recounted
"""


def recount(
    database: duckdb.DuckDBPyConnection,
    log: Log,
    topic: str,
    *,
    source_set: str,
    start: Mapping[int, int],
    until: Mapping[int, int],
    advance: Callable[[int], None],
) -> None:
    """Make the table `topic` in `database`: a row for each record at or past `start` and below `until`.

    `id`, `code`, `tag` and `reason` are as `contract.Said` has them, `second` is of the Kafka timestamp, 0 where there
    is none. A partition that `start` leaves out begins at its head; one that `until` leaves out is not read. `advance`
    hears how many offsets are done, in all those between the two.

    Raises `OffsetsGone` where offsets between the two are not in the topic, `Misconfigured`, `Retryable`.
    """
    database.execute(_CREATE)
    ends = log.ends(topic)
    for partition, offset in until.items():
        if offset > ends.get(partition, 0):
            raise OffsetsGone(f"{topic}/{partition}: ends at {ends.get(partition, 0)}, before offset {offset}")
    heads = log.heads(topic)
    positions = {partition: min(start.get(partition, heads.get(partition, 0)), until[partition]) for partition in until}
    todo = {partition for partition in until if positions[partition] < until[partition]}
    if not todo:
        return
    remaining = sum(until[partition] - positions[partition] for partition in todo)
    pages = log.read(topic, ends | {partition: positions[partition] for partition in todo})
    rows = _Rows(database)
    with _no_collection(), Readers(source_set, READERS if remaining >= READERS_FROM else 0) as readers:
        for page in pages:
            last = {record.partition: record.offset for record in page}
            if any(offset >= until.get(partition, 0) for partition, offset in last.items()):
                page = [record for record in page if record.offset < until.get(record.partition, 0)]
            if page and (batch := readers.judge(page)):
                rows.add(batch)
            for partition in last.keys() & todo:
                reached = min(last[partition] + 1, until[partition])
                advance(reached - positions[partition])
                remaining -= reached - positions[partition]
                positions[partition] = reached
                if reached == until[partition]:
                    todo.remove(partition)
            if not todo:
                break
        for batch in readers.rest():
            rows.add(batch)
    rows.insert()
    advance(remaining)


class _Rows:
    """Rows on their way into the table, many at a time."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self._database = database
        self._batches: list[pa.RecordBatch] = []

    def add(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)
        count = sum(each.num_rows for each in self._batches)
        if count >= ROWS or sum(each.nbytes for each in self._batches) >= ROW_BYTES:
            self.insert()

    def insert(self) -> None:
        self._database.register("recounted", pa.Table.from_batches(self._batches, SCHEMA))
        self._database.execute(_INSERT)
        self._database.unregister("recounted")
        self._batches = []


@contextmanager
def _no_collection() -> Iterator[None]:
    """Nothing here goes in circles, and looking for circles among so many records takes a fifth of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
