"""A log in memory with several groups on one set of topics: each group is a `MemoryLog` of its own."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence

from projector.errors import Retryable
from projector.log import Listener, Message, Offset, Record, TopicInfo
from tests.fault.memory_log import MemoryLog, MemoryMember


class GroupedLog:
    """A `Log`. `group` gives the world behind one group; `joined` hears of each group that is new."""

    def __init__(self, now_ms: Callable[[], float], choose: random.Random) -> None:
        self._now_ms = now_ms
        self._choose = choose
        self._any = MemoryLog(now_ms, choose)
        self.groups: dict[str, MemoryLog] = {}
        self.made: Callable[[str, MemoryLog], None] = lambda _name, _group: None

    def group(self, name: str) -> MemoryLog:
        """Seats, owners, checkpoint and transactions of one group."""
        if name not in self.groups:
            self.groups[name] = MemoryLog(self._now_ms, self._choose)
            self.groups[name].topics = self._any.topics
            self.made(name, self.groups[name])
        return self.groups[name]

    def join(self, group: str, topic: str, slot: str, listener: Listener) -> MemoryMember:
        """As the port's."""
        return self.group(group).join(group, topic, slot, listener)

    def topic(self, name: str) -> TopicInfo | None:
        """As the port's."""
        return self._any.topic(name)

    def create_topic(self, name: str, partitions: int, settings: Mapping[str, str]) -> bool:
        """As the port's."""
        return self._any.create_topic(name, partitions, settings)

    def heads(self, topic: str) -> dict[int, int]:
        """As the port's."""
        return self._any.heads(topic)

    def ends(self, topic: str) -> dict[int, int]:
        """Up to the first open transaction of any group."""
        for group in self.groups.values():
            group._expire_transactions()
        return self._any.ends(topic)

    def offsets_at(self, topic: str, timestamp_ms: int) -> dict[int, int]:
        """As the port's."""
        return self._any.offsets_at(topic, timestamp_ms)

    def checkpoint(self, group: str, topic: str) -> dict[int, Offset]:  # noqa: ARG002  # the port's
        """Not while a transaction with offsets is open, as Kafka."""
        held = self.group(group)
        held._expire_transactions()
        if any(each.offsets for each in held.open):
            raise Retryable("offsets hang in a transaction")
        return dict(held.offsets)

    def set_checkpoint(self, group: str, topic: str, offsets: Mapping[int, Offset]) -> None:
        """As the port's."""
        self.group(group).set_checkpoint(group, topic, offsets)

    def members(self, group: str) -> list[str]:
        """As the port's."""
        return self.group(group).members(group)

    def read(self, topic: str, start: Mapping[int, int] | None = None, follow: bool = False) -> Iterator[list[Record]]:
        """As the port's."""
        return self._any.read(topic, start, follow)

    def append(self, messages: Sequence[Message]) -> None:
        """As the port's."""
        self._any.append(messages)

    def append_marker(self, topic: str, partition: int) -> None:
        """An offset without a record."""
        self._any.append_marker(topic, partition)

    def close(self) -> None:
        """Nothing to let go of."""
