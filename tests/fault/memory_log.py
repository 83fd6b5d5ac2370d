"""A log in memory with several workers to a group: rebalances, fencing, and transactions that may be left open."""

import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from projector.errors import Fenced, Misconfigured, OffsetsGone, Refused, Retryable, SlotTaken
from projector.log import Listener, Message, Offset, Record, TopicInfo

TRANSACTION_MS = 10_000


@dataclass
class _Transaction:
    """`state` is "open", "committed" or "aborted"; its messages lie in their partitions from the start."""

    slot: str
    began_ms: float
    state: str = "open"
    offsets: dict[int, Offset] = field(default_factory=dict)


@dataclass
class _Entry:
    """One offset; a `record` of None is a marker."""

    record: Record | None
    transaction: _Transaction | None = None

    @property
    def visible(self) -> bool:
        return self.record is not None and (self.transaction is None or self.transaction.state == "committed")

    @property
    def undecided(self) -> bool:
        return self.transaction is not None and self.transaction.state == "open"


@dataclass
class _Partition:
    """Offsets from 0; those below `head` are gone."""

    head: int = 0
    entries: list[_Entry] = field(default_factory=list)

    @property
    def end(self) -> int:
        """Where read_committed ends: at the first transaction that is still open."""
        return next((n for n, entry in enumerate(self.entries) if entry.undecided), len(self.entries))


DOZE_MS = 1_000


class MemoryLog:
    """A `Log`. One group; `between` is called inside a commit, where other workers may act, `committed` right after."""

    def __init__(self, now_ms: Callable[[], float], choose: random.Random) -> None:
        self.now_ms = now_ms
        self.choose = choose
        self.between: Callable[[], None] = lambda: None
        self.committed: Callable[[], None] = lambda: None
        self.topics: dict[str, list[_Partition]] = {}
        self.offsets: dict[int, Offset] = {}
        """The group's checkpoint."""
        self.seats: dict[str, int] = {}
        """Slots in the group, each with the number of the member that holds it."""
        self.owners: dict[int, str] = {}
        """Partitions that a slot holds, until it gives them up or is expelled."""
        self.targets: dict[int, str] = {}
        """Who is to have which partition after the rebalance under way."""
        self.epochs: dict[str, int] = {}
        """Producer epochs."""
        self.open: list[_Transaction] = []
        self._numbers = 0

    # --- what happens to it

    def expel(self, slot: str) -> None:
        """The session of a slot ends, whether its worker lives or not."""
        self.seats.pop(slot)
        self.owners = {partition: owner for partition, owner in self.owners.items() if owner != slot}
        self.rebalance()

    def rebalance(self) -> None:
        """Share the partitions out anew, at random; owners give up first what goes to others."""
        slots = sorted(self.seats)
        if slots:
            self.choose.shuffle(slots)
            self.targets = {number: slots[number % len(slots)] for number in self.targets}

    def reset(self, offsets: Mapping[int, int]) -> None:
        """An outside tool moves the group's offsets; only for a group without members."""
        assert not self.seats
        self.offsets.update({partition: Offset(offset, "") for partition, offset in offsets.items()})

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """Retention."""
        held = self.topics[topic][partition]
        held.head = max(held.head, offset)

    def append_marker(self, topic: str, partition: int) -> None:
        """An offset without a record."""
        self.topics[topic][partition].entries.append(_Entry(None))

    def begin(self, slot: str, messages: Sequence[Message]) -> _Transaction:
        """Open a transaction and produce its messages."""
        transaction = _Transaction(slot, self.now_ms())
        self.open.append(transaction)
        touched = {self._append(message, transaction) for message in messages}
        for topic, number in sorted(touched):
            self.append_marker(topic, number)
        return transaction

    def end(self, transaction: _Transaction, state: str) -> bool:
        """Commit or abort; False if it had been aborted before."""
        self._expire_transactions()
        if transaction.state != "open":
            return transaction.state == state
        transaction.state = state
        self.open.remove(transaction)
        if state == "committed":
            self.offsets.update(transaction.offsets)
            self.committed()
        return True

    def abort_open(self, slot: str) -> None:
        """A new producer of this name ends what the former left open."""
        for each in [each for each in self.open if each.slot == slot]:
            self.end(each, "aborted")

    def _expire_transactions(self) -> None:
        for each in [each for each in self.open if self.now_ms() - each.began_ms > TRANSACTION_MS]:
            each.state = "aborted"
            self.open.remove(each)
            self.epochs[each.slot] += 1

    def _append(self, message: Message, transaction: _Transaction | None) -> tuple[str, int]:
        partitions = self.topics[message.topic]
        number = message.partition
        if number is None:
            number = zlib.crc32(message.key or b"") % len(partitions)
        timestamp_ms = 0 if message.timestamp_ms is None else message.timestamp_ms
        entries = partitions[number].entries
        record = Record(number, len(entries), timestamp_ms, message.value, message.key, tuple(message.headers))
        entries.append(_Entry(record, transaction))
        return message.topic, number

    # --- the port

    def join(self, group: str, topic: str, slot: str, listener: Listener) -> "MemoryMember":  # noqa: ARG002  # the port's
        """A member that holds the slot from now on, whoever held it before."""
        if topic not in self.topics:
            raise Misconfigured(f"there is no topic {topic}")
        self._expire_transactions()
        self._numbers += 1
        self.abort_open(slot)
        self.epochs[slot] = self.epochs.get(slot, 0) + 1
        is_new = slot not in self.seats
        self.seats[slot] = self._numbers
        if not self.targets:
            self.targets = dict.fromkeys(range(len(self.topics[topic])), slot)
        if is_new:
            self.rebalance()
        return MemoryMember(self, topic, slot, self._numbers, listener)

    def topic(self, name: str) -> TopicInfo | None:
        """Its name is its id."""
        return TopicInfo(name, len(self.topics[name]), {}) if name in self.topics else None

    def create_topic(self, name: str, partitions: int, settings: Mapping[str, str]) -> bool:  # noqa: ARG002  # the port's
        """Settings have no effect."""
        if name in self.topics:
            return False
        self.topics[name] = [_Partition() for _ in range(partitions)]
        return True

    def heads(self, topic: str) -> dict[int, int]:
        """Per partition."""
        return {number: each.head for number, each in enumerate(self.topics[topic])}

    def ends(self, topic: str) -> dict[int, int]:
        """Up to the first open transaction."""
        self._expire_transactions()
        return {number: each.end for number, each in enumerate(self.topics[topic])}

    def offsets_at(self, topic: str, timestamp_ms: int) -> dict[int, int]:
        """Per partition."""
        found = {}
        for number, each in enumerate(self.topics[topic]):
            stamps = [entry.record.timestamp_ms if entry.record else -1 for entry in each.entries[: each.end]]
            later = (offset for offset, stamp in enumerate(stamps) if offset >= each.head and stamp >= timestamp_ms)
            found[number] = next(later, each.end)
        return found

    def checkpoint(self, group: str, topic: str) -> dict[int, Offset]:  # noqa: ARG002  # the port's
        """What is committed; what hangs in an open transaction is not."""
        return dict(self.offsets)

    def set_checkpoint(self, group: str, topic: str, offsets: Mapping[int, Offset]) -> None:  # noqa: ARG002
        """Only for a group without members."""
        if self.seats:
            raise Refused(f"group {group} has members")
        self.offsets.update(offsets)

    def members(self, group: str) -> list[str]:
        """The slots in the group."""
        return [f"{group}-{slot}" for slot in sorted(self.seats)]

    def drop_group(self, group: str) -> None:
        """Its checkpoint."""
        if self.seats:
            raise Refused(f"group {group} has members")
        self.offsets.clear()

    def read(
        self,
        topic: str,
        start: Mapping[int, int] | None = None,
        follow: bool = False,  # noqa: ARG002  # the port's
    ) -> Iterator[list[Record]]:
        """Everything visible, partition by partition; `follow` has no use here."""
        for number, each in enumerate(self.topics[topic]):
            first = (start or {}).get(number, each.head)
            yield [entry.record for entry in each.entries[first : each.end] if entry.visible and entry.record]

    def append(self, messages: Sequence[Message]) -> None:
        """Without a transaction."""
        for message in messages:
            self._append(message, None)

    def close(self) -> None:
        """Nothing to let go of."""


class MemoryMember:
    """One consumer and one producer; `number` tells it from others that had its slot."""

    def __init__(self, log: MemoryLog, topic: str, slot: str, number: int, listener: Listener) -> None:
        self._log = log
        self._topic = topic
        self.slot = slot
        self._number = number
        self._listener = listener
        self._epoch = log.epochs[slot]
        self._positions: dict[int, int] = {}
        self._paused = False
        self._dozing: dict[int, float] = {}
        """Partitions that yield nothing after a pause until then, in ms, if they are not sought."""

    def _seated(self) -> bool:
        """Whether it is in the group. Raises `SlotTaken` where another has its slot."""
        number = self._log.seats.get(self.slot)
        if number is not None and number != self._number:
            raise SlotTaken(f"another consumer has slot {self.slot}")
        return number is not None

    def poll(self, records_max: int, timeout_ms: int) -> list[Record]:  # noqa: ARG002  # the port's
        """Gives up, takes over, and returns a random share of what there is."""
        log = self._log
        if not self._seated():
            self._rejoin()
        if leaving := [p for p in self._positions if log.targets[p] != self.slot]:
            self._listener.revoked(leaving)
            if not self._seated():
                return []
            self._release(leaving)
        never_had = log.owners.keys() - self._positions.keys()  # by this holder of the slot
        self._release([p for p in never_had if log.owners[p] == self.slot != log.targets[p]])
        gained = [
            p
            for p, slot in log.targets.items()
            if slot == self.slot and log.owners.get(p, slot) == slot and p not in self._positions
        ]
        if gained:
            log.owners.update(dict.fromkeys(gained, self.slot))
            self._positions.update(self._listener.assigned(gained))
            if not self._seated():
                return []
        return [] if self._paused else self._take(records_max)

    def _rejoin(self) -> None:
        if self._positions:
            lost = list(self._positions)
            self._positions = {}
            self._listener.lost(lost)
        if not self._seated():
            self._log.seats[self.slot] = self._number
            self._log.rebalance()

    def _release(self, partitions: Sequence[int]) -> None:
        for partition in partitions:
            self._positions.pop(partition, None)
            self._log.owners.pop(partition, None)

    def _take(self, records_max: int) -> list[Record]:
        self._log.ends(self._topic)
        taken: list[Record] = []
        numbers = list(self._positions)
        self._log.choose.shuffle(numbers)
        for number in numbers:
            if self._dozing.get(number, 0) > self._log.now_ms():
                continue
            partition = self._log.topics[self._topic][number]
            if self._positions[number] < partition.head:
                raise OffsetsGone(f"partition {number}: offset {self._positions[number]} is gone")
            room = self._log.choose.randint(0, records_max - len(taken))
            while room and (entry := self._next(number)):
                taken.append(entry._replace(key=None, headers=()))
                self._positions[number] += 1
                room -= 1
        return taken

    def _next(self, number: int) -> Record | None:
        """The next record of a partition; steps over what is no record."""
        partition = self._log.topics[self._topic][number]
        while self._positions[number] < partition.end:
            entry = partition.entries[self._positions[number]]
            if entry.visible:
                return entry.record
            self._positions[number] += 1
        return None

    def positions(self) -> Mapping[int, int]:
        """Past markers."""
        for number in self._positions:
            self._next(number)
        return dict(self._positions)

    def committed(self, partitions: Sequence[int]) -> dict[int, Offset | None]:
        """Not while a transaction with offsets of these partitions is open."""
        self._seated()
        self._log._expire_transactions()
        if any(each.offsets.keys() & set(partitions) for each in self._log.open):
            raise Retryable("offsets hang in a transaction")
        return {partition: self._log.offsets.get(partition) for partition in partitions}

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Only what is assigned."""
        assert offsets.keys() <= self._positions.keys(), f"{offsets} of {self._positions}"
        self._positions.update(offsets)
        for partition in offsets:
            self._dozing.pop(partition, None)

    def pause(self, paused: bool) -> None:
        """Of all partitions; after it the client dozes, as Kafka's does."""
        if self._paused and not paused:
            self._dozing = dict.fromkeys(self._positions, self._log.now_ms() + DOZE_MS)
        self._paused = paused

    def commit(self, messages: Sequence[Message], offsets: Mapping[int, Offset]) -> None:
        """Whoever is in the group may commit any partition, as in Kafka."""
        transaction = self.send(messages, offsets)
        self._log.between()
        if not self._log.end(transaction, "committed"):
            raise Fenced("the transaction was aborted")

    def send(self, messages: Sequence[Message], offsets: Mapping[int, Offset]) -> _Transaction:
        """All of a transaction but its end."""
        if not offsets:
            raise ValueError("a transaction carries at least one offset")
        self._seated()
        self._log._expire_transactions()
        if self._epoch != self._log.epochs[self.slot]:
            raise Fenced("a newer producer has this name")
        transaction = self._log.begin(self.slot, messages)
        self._log.between()
        self.check_generation(transaction)
        if transaction.state != "open":
            raise Fenced("the transaction was aborted")
        transaction.offsets = dict(offsets)
        return transaction

    def check_generation(self, transaction: _Transaction) -> None:
        """Whoever was expelled may not send offsets."""
        if not self._seated():
            self._log.end(transaction, "aborted")
            raise Fenced("not a member of the group any more")

    def renew(self) -> None:
        """A newer epoch."""
        self._seated()
        self._log.abort_open(self.slot)
        self._log.epochs[self.slot] += 1
        self._epoch = self._log.epochs[self.slot]

    def leave(self) -> None:
        """In order, unless it was expelled."""
        if self._seated() and self._positions:
            self._listener.revoked(list(self._positions))
        if self._seated():
            self._release(list(self._positions))
            self._log.expel(self.slot)
        self.close()

    def close(self) -> None:
        """The seat stays."""
        self._positions = {}
