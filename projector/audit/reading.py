"""Reading: a part of the topic read and judged, record by record, by this process or by several beside it."""

import gc
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import NamedTuple, NoReturn, TypeAlias

import pyarrow as pa  # type: ignore[import-untyped]  # no hints

from projector.audit.contract import Table
from projector.errors import ProjectorError, Retryable
from projector.log import Log, Record
from projector.patience import patiently

READERS_MAX = 4
"""More would wait for this process, which takes in what comes back."""
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
Offsets: TypeAlias = Mapping[int, int]


class Part(NamedTuple):
    """What to read: of each partition of `start` the records from there on and below its offset in `until`."""

    topic: str
    source_set: str
    start: Offsets
    until: Offsets

    @property
    def offsets(self) -> int:
        """How many there are."""
        return sum(self.until[partition] - offset for partition, offset in self.start.items())

    def shared(self, readers: int) -> list["Part"]:
        """Partitions dealt out such that the readers have about as much to read; those without any are left out."""
        dealt: list[list[int]] = [[] for _ in range(readers)]
        sizes = [0] * readers
        for partition in sorted(self.start, key=lambda each: self.start[each] - self.until[each]):
            least = sizes.index(min(sizes))
            dealt[least].append(partition)
            sizes[least] += self.until[partition] - self.start[partition]
        return [self._replace(start={each: self.start[each] for each in share}) for share in dealt if share]


class Said(NamedTuple):
    """What some records say, and how many offsets are done with them."""

    batch: pa.RecordBatch
    done: int


def read(log: Log, part: Part) -> Iterator[Said]:
    """All of a part. Raises `OffsetsGone`, `Misconfigured`, `Retryable`."""
    positions = dict(part.start)
    todo = {partition for partition, offset in positions.items() if offset < part.until[partition]}
    if not todo:
        return
    table = Table(part.source_set)
    ends = patiently(lambda: log.ends(part.topic))
    for page in log.read(part.topic, ends | {partition: positions[partition] for partition in todo}):
        last = {record.partition: record.offset for record in page}
        if any(partition not in todo or offset >= part.until[partition] for partition, offset in last.items()):
            page = [each for each in page if each.partition in todo and each.offset < part.until[each.partition]]
        done = 0
        for partition in last.keys() & todo:
            reached = min(last[partition] + 1, part.until[partition])
            done += reached - positions[partition]
            positions[partition] = reached
            if reached == part.until[partition]:
                todo.remove(partition)
        yield Said(_batch(page, table), done)
        if not todo:
            return
    # What is left are no records: markers of transactions.
    yield Said(_batch([], table), sum(part.until[partition] - positions[partition] for partition in todo))


def _batch(records: Sequence[Record], table: Table) -> pa.RecordBatch:
    columns: list[Sequence[object]] = [()] * len(SCHEMA)
    if records:
        partitions, positions, timestamps, values, *_ = zip(*records, strict=True)
        columns = [partitions, positions, timestamps, *zip(*map(table.judge, values), strict=True)]
    return pa.record_batch([pa.array(c, each.type) for c, each in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)


# --- beside this process


@contextmanager
def readers(open_log: Callable[[], Log], part: Part) -> Iterator[Iterator[Said]]:
    """As `read`, in several processes, each with its own partitions and its own log. `open_log` must be picklable.

    Raises what a reader raised, and `Retryable` where one was killed. None is left at the end of the context.
    """
    context = get_context("spawn")  # a fork would take a client's locks along, and not its threads
    running = []
    try:
        for share in part.shared(min(READERS_MAX, os.cpu_count() or 1)):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_serve, args=(theirs, open_log, share), daemon=True)
            process.start()
            theirs.close()
            running.append((process, ours))
        yield _taken([pipe for _, pipe in running])
    finally:
        for _, pipe in running:
            pipe.close()
        for process, _ in running:
            process.join(END_S)
            process.kill()
            process.join()


def _taken(pipes: list[Connection]) -> Iterator[Said]:
    while pipes:
        for pipe in wait(pipes):
            assert isinstance(pipe, Connection)
            try:
                told = pipe.recv()
            except (EOFError, OSError):
                _killed()
            if told is None:
                pipes.remove(pipe)
            elif isinstance(told, ProjectorError):
                raise told
            else:
                done, rows = told
                yield Said(pa.ipc.read_record_batch(pa.py_buffer(rows), SCHEMA), done)


def _killed() -> NoReturn:
    raise Retryable("a process that reads the topic's records was killed; is there memory for it?") from None


def _serve(pipe: Connection, open_log: Callable[[], Log], part: Part) -> None:
    """A reader: tells what the records of its part say, then None; or the error that ended it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever began it ends it
    gc.disable()
    try:
        try:
            with closing(open_log()) as log:
                for said in read(log, part):
                    pipe.send((said.done, said.batch.serialize().to_pybytes()))
        except ProjectorError as error:
            pipe.send(error)
        else:
            pipe.send(None)
    except OSError:
        return  # nobody takes it any more
