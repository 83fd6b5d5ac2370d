"""Recount: the topic -> a table of what each of its records says, by a path of its own.

Nothing is shared with decode, fold and ledger; only the log that both read.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from threading import Event

import duckdb
import pyarrow as pa  # type: ignore[import-untyped]  # no hints

from projector.audit.contract import canonical, packed
from projector.audit.reading import SCHEMA, Part, Said, read, readers
from projector.errors import OffsetsGone
from projector.log import Log
from projector.patience import patiently

__all__ = ["canonical", "packed", "recounting"]

ROWS = 122_880
"""Rows that are inserted at once: one row group of DuckDB's."""
ROW_BYTES = 64 << 20
"""Bytes that such rows may take before they are inserted, however few they are."""
TELL_S = 0.2
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


@contextmanager
def recounting(
    database: duckdb.DuckDBPyConnection,
    log: Log,
    topic: str,
    *,
    source_set: str,
    start: Mapping[int, int],
    until: Mapping[int, int],
    advance: Callable[[int], None],
    open_log: Callable[[], Log] | None = None,
) -> Iterator[Callable[[], None]]:
    """Make the table `topic` in `database`: a row for each record at or past `start` and below `until`.

    `id`, `code`, `tag` and `reason` are as `contract.Said` has them, `second` is of the Kafka timestamp, 0 where there
    is none. A partition that `start` leaves out begins at its head; one that `until` leaves out is not read. `advance`
    hears how many offsets are done, in all those between the two.

    `open_log`, which must be picklable, opens the log anew: with it, much is read by several processes beside what is
    done in the context. What it yields waits until the table is complete, and tells `advance` how that gets on.

    Raises `OffsetsGone` where offsets between the two are not in the topic, `Misconfigured`, `Retryable`.
    """
    database.execute(_CREATE)
    ends = patiently(lambda: log.ends(topic))
    for partition, offset in until.items():
        if offset > ends.get(partition, 0):
            raise OffsetsGone(f"{topic}/{partition}: ends at {ends.get(partition, 0)}, before offset {offset}")
    heads = patiently(lambda: log.heads(topic))
    begin = {partition: min(start.get(partition, heads.get(partition, 0)), until[partition]) for partition in until}
    part = Part(topic, source_set, begin, until)
    if open_log is None or part.offsets < READERS_FROM:
        _insert(database, read(log, part), advance)
        yield lambda: None
        return
    stopped = Event()
    heard: list[int] = []

    def hear(done: int) -> None:
        if stopped.is_set():
            raise _StoppedError
        heard.append(done)

    with readers(open_log, part) as found, ThreadPoolExecutor(1) as thread:
        inserting = thread.submit(_insert, database.cursor(), found, hear)

        def finish() -> None:
            told, ended = 0, False
            while not ended:
                ended = bool(wait([inserting], TELL_S).done)
                news = heard[told:]
                told += len(news)
                advance(sum(news))
            inserting.result()

        try:
            yield finish
        finally:
            stopped.set()


class _StoppedError(Exception):
    """Nobody waits for the table any more."""


def _insert(database: duckdb.DuckDBPyConnection, found: Iterator[Said], advance: Callable[[int], None]) -> None:
    rows = _Rows(database)
    for batch, done in found:
        rows.add(batch)
        advance(done)
    rows.insert()


class _Rows:
    """Rows on their way into the table, many at a time."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self._database = database
        self._batches: list[pa.RecordBatch] = []
        self._count = self._bytes = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self._batches.append(batch)
        self._count += batch.num_rows
        self._bytes += batch.nbytes
        if self._count >= ROWS or self._bytes >= ROW_BYTES:
            self.insert()

    def insert(self) -> None:
        if self._count:
            self._database.register("recounted", pa.Table.from_batches(self._batches, SCHEMA))
            self._database.execute(_INSERT)
            self._database.unregister("recounted")
        self._batches = []
        self._count = self._bytes = 0
