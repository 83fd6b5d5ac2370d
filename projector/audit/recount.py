"""Recount: the topic -> a table of what each of its records says, by a path of its own.

Nothing is shared with decode, fold and ledger; only the log that both read.
"""

from collections.abc import Callable, Mapping, Sequence

import duckdb
import pyarrow as pa  # type: ignore[import-untyped]  # no hints

from projector.audit.contract import Table, canonical, packed
from projector.errors import OffsetsGone
from projector.log import Log, Record

__all__ = ["canonical", "packed", "recount"]

ROWS = 122_880
"""Rows that are inserted at once: one row group of DuckDB's."""
ROW_BYTES = 64 << 20
"""Bytes that such rows may take before they are inserted, however few they are."""

_SCHEMA = pa.schema(
    [
        ("partition", pa.int32()),
        ("position", pa.int64()),
        ("timestamp_ms", pa.int64()),
        ("id", pa.binary()),
        ("code", pa.uint8()),
        ("tag", pa.string()),
        ("reason", pa.string()),
    ]
)
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
    judge = Table(source_set).judge
    batches: list[pa.RecordBatch] = []
    pages = log.read(topic, ends | {partition: positions[partition] for partition in todo}) if todo else ()
    for page in pages:
        last = {record.partition: record.offset for record in page}
        if any(offset >= until.get(partition, 0) for partition, offset in last.items()):
            page = [record for record in page if record.offset < until.get(record.partition, 0)]
        if page:
            batches.append(_batch(page, judge))
        if sum(batch.num_rows for batch in batches) >= ROWS or sum(batch.nbytes for batch in batches) >= ROW_BYTES:
            _insert(database, batches)
            batches = []
        for partition in last.keys() & todo:
            reached = min(last[partition] + 1, until[partition])
            advance(reached - positions[partition])
            positions[partition] = reached
            if reached == until[partition]:
                todo.remove(partition)
        if not todo:
            break
    _insert(database, batches)
    advance(sum(until[partition] - positions[partition] for partition in todo))


def _batch(records: Sequence[Record], judge: Callable[[bytes | None], tuple[object, ...]]) -> pa.RecordBatch:
    partitions, offsets, timestamps, values, _, _ = zip(*records, strict=True)
    said = zip(*map(judge, values), strict=True)
    columns = (partitions, offsets, timestamps, *said)
    return pa.record_batch(
        [pa.array(column, each.type) for column, each in zip(columns, _SCHEMA, strict=True)], schema=_SCHEMA
    )


def _insert(database: duckdb.DuckDBPyConnection, batches: Sequence[pa.RecordBatch]) -> None:
    database.register("recounted", pa.Table.from_batches(batches, _SCHEMA))
    database.execute(_INSERT)
    database.unregister("recounted")
