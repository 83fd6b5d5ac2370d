"""Where a worker starts: the checkpoint, as Kafka has it, held against the topic and against the copy in the store."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from projector.balance import Totals, parse_totals
from projector.errors import OffsetsGone, Retryable
from projector.generation import Generation
from projector.log import Log, Member, Offset
from projector.patience import Patience
from projector.store import Outcome, Presence, Put, Read, RowKey, Store, Write


class Start(NamedTuple):
    """Where to start a partition. `recorded`: the checkpoint says so already."""

    offset: int
    totals: Totals | None
    recorded: bool


class Copies:
    """Copies of the checkpoint in the store, for the day on which Kafka has lost it."""

    def __init__(self, store: Store, generation: Generation, patience: Patience) -> None:
        self._store = store
        self._prefix = f"checkpoint/g{generation.number}/"
        self._patience = patience

    def _row(self, partition: int) -> RowKey:
        return RowKey("projector", f"{self._prefix}{partition}")

    def write(self, checkpoint: Mapping[int, Offset]) -> None:
        """Copy what is committed, at one attempt. Raises `Retryable`."""
        writes = [
            Write(
                self._row(partition),
                [Put("offset", committed.offset), Put("metadata", committed.metadata)],
                Presence.EITHER,
            )
            for partition, committed in checkpoint.items()
        ]
        for answer in self._store.write(writes):
            if answer.outcome is Outcome.FAILED:
                raise answer.error or Retryable("the copy of the checkpoint could not be written")

    def read(self, partitions: Iterable[int]) -> dict[int, Offset]:
        """The copies that there are. Raises `Retryable`."""
        asked = list(partitions)
        rows = self._patience(lambda: self._store.read([Read(self._row(p), ("offset", "metadata")) for p in asked]))
        return {
            partition: Offset(row.bins["offset"], row.bins["metadata"])
            for partition, row in zip(asked, rows, strict=True)
            if row is not None
        }


def start(
    partition: int, committed: Offset | None, copy: Offset | None, head: int, end: int, accept_head: bool, restore: bool
) -> Start:
    """Where to start one partition whose records are `head` to `end`. Raises `OffsetsGone` with the way out.

    `accept_head`: what is gone is gone, start at the head. `restore`: Kafka lost the checkpoint, use the copy.
    """
    recorded = committed is not None
    if committed is None and restore:
        committed = copy
    if committed is None:
        if copy is not None and copy.offset > head and not accept_head:
            raise OffsetsGone(
                f"partition {partition}: Kafka has no checkpoint, but the store has a copy at offset {copy.offset}: "
                "start with --restore-checkpoint to go on there, or with --accept-head to read again from the head"
            )
        if head > 0 and not accept_head:
            raise OffsetsGone(
                f"partition {partition}: there is no checkpoint and the topic begins at offset {head}: "
                f"start with --accept-head to accept that offsets 0 to {head - 1} are not counted"
            )
        return Start(head, Totals(), recorded=False)
    if committed.offset > end:
        raise OffsetsGone(
            f"partition {partition}: the checkpoint is offset {committed.offset}, but the topic ends at {end}: "
            "it is not the topic that was counted"
        )
    totals = parse_totals(committed.metadata)
    if totals is None and committed.offset == 0 and head == 0 and not committed.metadata:
        totals = Totals()
    if committed.offset < head:
        if not accept_head:
            raise OffsetsGone(
                f"partition {partition}: the checkpoint is offset {committed.offset}, but the topic begins at {head}: "
                f"start with --accept-head to accept that offsets {committed.offset} to {head - 1} are not counted"
            )
        return Start(head, totals, recorded=False)
    return Start(committed.offset, totals, recorded)


class Starts:
    """Where a member starts the partitions that it is assigned."""

    def __init__(
        self, log: Log, topic: str, copies: Copies, patience: Patience, *, accept_head: bool, restore: bool
    ) -> None:
        """`accept_head`, `restore`: see `start`."""
        self._log = log
        self._topic = topic
        self._copies = copies
        self._patience = patience
        self._accept_head = accept_head
        self._restore = restore

    def __call__(self, member: Member, partitions: Sequence[int]) -> dict[int, Start]:
        """Where these partitions start. Raises `OffsetsGone`, `Retryable`, `Fenced`."""
        if not partitions:
            return {}
        committed = self._patience(lambda: member.committed(partitions))
        missing = [partition for partition in partitions if committed.get(partition) is None]
        copies = self._copies.read(missing) if missing else {}
        if copies:
            # Another worker may have made the first checkpoint in between: a copy is always the younger one.
            committed = self._patience(lambda: member.committed(partitions))
        heads, ends = self._patience(lambda: (self._log.heads(self._topic), self._log.ends(self._topic)))
        return {
            partition: start(
                partition,
                committed.get(partition),
                copies.get(partition),
                heads[partition],
                ends[partition],
                self._accept_head,
                self._restore,
            )
            for partition in partitions
        }
