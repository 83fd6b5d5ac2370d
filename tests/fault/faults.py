"""Faults at the ports: a store and a log whose calls fail before or after they took effect, land late, or kill."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Protocol

from projector.errors import Fenced, InDoubt, Retryable
from projector.log import Listener, Log, Member, Message, Offset, Record, TopicInfo
from projector.store import Answer, Limits, Outcome, Read, Row, Store, StoreState, Write
from tests.fault.memory_log import MemoryMember


class Fate(Enum):
    """What becomes of one call, or of one row of a write."""

    FINE = "fine"
    FAIL_BEFORE = "fail before"
    FAIL_AFTER = "fail after"  # it took effect, the answer is lost
    LATE = "lands late"  # the answer is lost, it takes effect during a later call, or never
    CRASH_BEFORE = "crash before"
    CRASH_AFTER = "crash after"


class Crash(BaseException):
    """The worker's process dies here."""


class Faults(Protocol):
    """Decides what becomes of each port call of one worker; may let others act before it answers."""

    def fate(self, call: str) -> Fate:
        """`call` is the port's method; "row" for each row of a write."""
        ...


class Nth:
    """The n-th call meets a fate."""

    def __init__(self, at: int, fate: Fate) -> None:
        self.calls = 0
        self._at, self._fate = at, fate

    def fate(self, call: str) -> Fate:  # noqa: ARG002  # every call alike
        self.calls += 1
        return self._fate if self.calls == self._at else Fate.FINE


class Late:
    """What is on its way to the store: each lands `calls` writes later, whoever makes these."""

    def __init__(self, calls: Callable[[], int]) -> None:
        self._calls = calls
        self._pending: list[tuple[int, Write]] = []

    def __len__(self) -> int:
        return len(self._pending)

    def add(self, write: Write) -> None:
        """Not applied yet."""
        self._pending.append((self._calls(), write))

    def land(self, store: Store, everything: bool = False) -> None:
        """One call has passed: apply what is due."""
        due = [write for calls, write in self._pending if calls <= 0 or everything]
        self._pending = [(calls - 1, write) for calls, write in self._pending if calls > 0 and not everything]
        for write in due:
            store.write([write])


def _before(faults: Faults, call: str) -> Fate:
    fate = faults.fate(call)
    if fate is Fate.CRASH_BEFORE:
        raise Crash(call)
    if fate is Fate.FAIL_BEFORE:
        raise Retryable(f"{call}: failed")
    return fate


def _after(fate: Fate, call: str) -> None:
    if fate is Fate.CRASH_AFTER:
        raise Crash(call)
    if fate in (Fate.FAIL_AFTER, Fate.LATE):
        raise InDoubt(f"{call}: no answer")


class FaultyStore:
    """One worker's way to a store."""

    def __init__(self, store: Store, faults: Faults, late: Late) -> None:
        self._store = store
        self._faults = faults
        self._late = late

    def write(self, writes: Sequence[Write]) -> list[Answer]:
        """Each row has a fate of its own; a crash leaves the rows after it alone."""
        answers = []
        for write in writes:
            fate = self._faults.fate("row")
            self._late.land(self._store)
            if fate is Fate.CRASH_BEFORE:
                raise Crash("row")
            if fate is Fate.FAIL_BEFORE:
                answers.append(Answer(Outcome.FAILED, error=Retryable("row: failed")))
                continue
            if fate is Fate.LATE:
                self._late.add(write)
                answers.append(Answer(Outcome.FAILED, error=InDoubt("row: no answer")))
                continue
            answers += self._store.write([write])
            if fate is Fate.CRASH_AFTER:
                raise Crash("row")
            if fate is Fate.FAIL_AFTER:
                answers[-1] = Answer(Outcome.FAILED, error=InDoubt("row: no answer"))
        return answers

    def read(self, reads: Sequence[Read]) -> list[Row | None]:
        """All or an error."""
        fate = _before(self._faults, "read")
        rows = self._store.read(reads)
        _after(fate, "read")
        return rows

    def scan(self, set_name: str, bins: Sequence[str], page_rows: int = 500) -> Iterator[list[Row]]:
        """Each page may fail; then the scan is over."""
        pages = self._store.scan(set_name, bins, page_rows)
        while True:
            fate = _before(self._faults, "scan")
            page = next(pages, None)
            _after(fate, "scan")
            if page is None:
                return
            yield page

    def state(self) -> StoreState:
        """May fail."""
        fate = _before(self._faults, "state")
        state = self._store.state()
        _after(fate, "state")
        return state

    def limits(self) -> Limits:
        """Asked before there is a worker."""
        return self._store.limits()

    def create_index(self, set_name: str, bin_name: str) -> None:
        """Not asked for by a worker."""
        self._store.create_index(set_name, bin_name)

    def has_index(self, set_name: str, bin_name: str) -> bool:
        """Not asked for by a worker."""
        return self._store.has_index(set_name, bin_name)

    def expiring_sets(self) -> list[str]:
        """Not asked for by a worker."""
        return self._store.expiring_sets()

    def close(self) -> None:
        """The store outlives its workers."""


class FaultyLog:
    """One worker's way to a log."""

    def __init__(self, log: Log, faults: Faults) -> None:
        self._log = log
        self._faults = faults

    def join(self, group: str, topic: str, slot: str, listener: Listener) -> "FaultyMember":
        """May fail; after it took effect the seat stays."""
        fate = _before(self._faults, "join")
        member = self._log.join(group, topic, slot, listener)
        _after(fate, "join")
        return FaultyMember(member, self._faults)

    def heads(self, topic: str) -> dict[int, int]:
        """May fail."""
        _after(_before(self._faults, "heads"), "heads")
        return self._log.heads(topic)

    def ends(self, topic: str) -> dict[int, int]:
        """May fail."""
        _after(_before(self._faults, "ends"), "ends")
        return self._log.ends(topic)

    def offsets_at(self, topic: str, timestamp_ms: int) -> dict[int, int]:
        """May fail."""
        _after(_before(self._faults, "offsets_at"), "offsets_at")
        return self._log.offsets_at(topic, timestamp_ms)

    def checkpoint(self, group: str, topic: str) -> dict[int, Offset]:
        """May fail."""
        _after(_before(self._faults, "checkpoint"), "checkpoint")
        return self._log.checkpoint(group, topic)

    def topic(self, name: str) -> TopicInfo | None:
        """Not asked for by a worker."""
        return self._log.topic(name)

    def create_topic(self, name: str, partitions: int, settings: Mapping[str, str]) -> bool:
        """Not asked for by a worker."""
        return self._log.create_topic(name, partitions, settings)

    def set_checkpoint(self, group: str, topic: str, offsets: Mapping[int, Offset]) -> None:
        """Not asked for by a worker."""
        self._log.set_checkpoint(group, topic, offsets)

    def members(self, group: str) -> list[str]:
        """Not asked for by a worker."""
        return self._log.members(group)

    def drop_group(self, group: str) -> None:
        """Not asked for by a worker."""
        self._log.drop_group(group)

    def read(self, topic: str, start: Mapping[int, int] | None = None, follow: bool = False) -> Iterator[list[Record]]:
        """Not asked for by a worker."""
        return self._log.read(topic, start, follow)

    def append(self, messages: Sequence[Message]) -> None:
        """Not asked for by a worker."""
        self._log.append(messages)

    def close(self) -> None:
        """The log outlives its workers."""


class FaultyMember:
    """A member whose commits may be of unknown outcome."""

    def __init__(self, member: Member, faults: Faults) -> None:
        self._member = member
        self._faults = faults

    def poll(self, records_max: int, timeout_ms: int) -> list[Record]:
        """A broker that is away gives nothing; else the worker may hear that it was fenced."""
        fate = self._faults.fate("poll")
        if fate is Fate.CRASH_BEFORE:
            raise Crash("poll")
        if fate is Fate.FAIL_BEFORE:
            return []
        if fate is Fate.FAIL_AFTER:
            raise Fenced("poll: the producer was fenced")
        records = self._member.poll(records_max, timeout_ms)
        if fate is Fate.CRASH_AFTER:
            raise Crash("poll")
        return records

    def positions(self) -> Mapping[int, int]:
        """Asks nobody."""
        return self._member.positions()

    def committed(self, partitions: Sequence[int]) -> dict[int, Offset | None]:
        """May fail."""
        fate = _before(self._faults, "committed")
        offsets = self._member.committed(partitions)
        _after(fate, "committed")
        return offsets

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Asks nobody."""
        self._member.seek(offsets)

    def pause(self, paused: bool) -> None:
        """Asks nobody."""
        self._member.pause(paused)

    def commit(self, messages: Sequence[Message], offsets: Mapping[int, Offset]) -> None:
        """Whatever fails is `Fenced`: it may be committed, or not, or be open and decided later."""
        fate = self._faults.fate("commit")
        if fate is Fate.CRASH_BEFORE:
            raise Crash("commit")
        if fate is Fate.FAIL_BEFORE:
            raise Fenced("commit: aborted")
        if fate is Fate.LATE and isinstance(self._member, MemoryMember):
            self._member.send(messages, offsets)
        else:
            self._member.commit(messages, offsets)
        if fate is Fate.CRASH_AFTER:
            raise Crash("commit")
        if fate is not Fate.FINE:
            raise Fenced("commit: outcome unknown")

    def renew(self) -> None:
        """May fail."""
        fate = _before(self._faults, "renew")
        self._member.renew()
        _after(fate, "renew")

    def leave(self) -> None:
        """A worker may die before or after it."""
        fate = self._faults.fate("leave")
        if fate is Fate.CRASH_BEFORE:
            raise Crash("leave")
        self._member.leave()
        if fate is Fate.CRASH_AFTER:
            raise Crash("leave")

    def close(self) -> None:
        """Asks nobody."""
        self._member.close()
