"""Readers: processes that judge records, while this one reads the next."""

import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import NoReturn, Self

import pyarrow as pa  # type: ignore[import-untyped]  # no hints

from projector.audit.contract import Table
from projector.errors import Retryable
from projector.log import Record

READERS = max(1, min(2, (os.cpu_count() or 1) - 1))
"""More than two would wait for this process, which hands out the work and takes in what comes back."""
END_S = 5.0

SCHEMA = pa.schema(
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


class Readers:
    """Judges records in so many processes, one page in each at a time; with none, in this one. Use it as a context."""

    def __init__(self, source_set: str, processes: int) -> None:
        """`source_set`: as for `Table`."""
        self._table = Table(source_set)
        self._waiting: deque[list[pa.Array]] = deque()
        self._busy: deque[Connection] = deque()
        self._idle: deque[Connection] = deque()
        context = get_context("spawn")  # a fork would take a client's locks along, and not its threads
        self._processes = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, source_set), daemon=True)
            process.start()
            theirs.close()
            self._idle.append(ours)
            self._processes.append(process)

    def judge(self, records: Sequence[Record]) -> pa.RecordBatch | None:
        """Give out these records; the rows of those given out first, where all readers were busy.

        Raises `Retryable` where a reader has died.
        """
        values = [record[3] for record in records]
        if not self._processes:
            return _batch(_places(records), _said(values, self._table))
        done = None if self._idle else self._take()
        reader = self._idle.popleft()
        try:
            reader.send(pa.array(values, pa.large_binary()))  # a third of what pickling each would take
        except OSError:
            self._died()
        self._busy.append(reader)
        self._waiting.append(_places(records))
        return done

    def rest(self) -> Iterator[pa.RecordBatch]:
        """The rows of all that was given out. Raises `Retryable` where a reader has died."""
        while self._busy:
            yield self._take()

    def _take(self) -> pa.RecordBatch:
        reader = self._busy.popleft()
        try:
            said = reader.recv()
        except (EOFError, OSError):
            self._died()
        self._idle.append(reader)
        return _batch(self._waiting.popleft(), said)

    def _died(self) -> NoReturn:
        raise Retryable("a process that reads the topic's records was killed; is there memory for it?") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the processes, whatever they are at."""
        for reader in (*self._busy, *self._idle):
            reader.close()
        for process in self._processes:
            process.join(0 if kind else END_S)
            process.kill()
            process.join()


def _serve(work: Connection, source_set: str) -> None:
    """A reader: values in, what they say out, until the other end is closed, or gone with its process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever gives out the work ends this process
    table = Table(source_set)
    try:
        while True:
            work.send(_said(work.recv().to_pylist(), table))
    except (EOFError, OSError):
        return


def _said(values: Sequence[bytes | None], table: Table) -> list[pa.Array]:
    ids, codes, tags, reasons = [], [], [], []
    judge = table.judge
    for value in values:
        id_, code, tag, reason = judge(value)
        ids.append(id_)
        codes.append(code)
        tags.append(tag)
        reasons.append(reason)
    columns = (ids, codes, tags, reasons)
    return [pa.array(column, each.type) for column, each in zip(columns, list(SCHEMA)[3:], strict=True)]


def _places(records: Sequence[Record]) -> list[pa.Array]:
    return [pa.array([record[at] for record in records], SCHEMA[at].type) for at in range(3)]


def _batch(places: list[pa.Array], said: list[pa.Array]) -> pa.RecordBatch:
    return pa.record_batch([*places, *said], schema=SCHEMA)
