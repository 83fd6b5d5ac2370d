"""The log port: a topic read as a member of a group, transactions with messages and a checkpoint, what readers ask.

Positions are next offsets. Reads are always read_committed. A *checkpoint* is, per partition, the committed next offset
and the text committed with it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol


class Record(NamedTuple):
    """One record of a topic. `timestamp_ms` is -1 where there is none. `poll` leaves key and headers out."""

    partition: int
    offset: int
    timestamp_ms: int
    value: bytes | None
    key: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


class Message(NamedTuple):
    """A message to append. `partition` None: chosen by key. `timestamp_ms` None: now."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    partition: int | None = None
    timestamp_ms: int | None = None


class Offset(NamedTuple):
    """A committed next offset and the metadata committed with it."""

    offset: int
    metadata: str


class TopicInfo(NamedTuple):
    """What a topic is: its unique id (another one if it was made anew), its partitions and its settings as text."""

    id: str
    partitions: int
    settings: Mapping[str, str]


class Listener(Protocol):
    """Hears, from inside `Member.poll` and `Member.leave`, which partitions come and go."""

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """New partitions: answer where to start reading each. What it raises comes out of `poll`."""
        ...

    def revoked(self, partitions: Sequence[int]) -> None:
        """These partitions are about to be given up, in order: `Member.commit` still works in here."""
        ...

    def lost(self, partitions: Sequence[int]) -> None:
        """These partitions are gone already; another worker may have them."""
        ...


class Member(Protocol):
    """A worker's place in a group: one consumer and one transactional producer. Not thread-safe.

    Raises, from any call: `Fenced` (the transaction is not known to be committed: `renew`, then start from
    `committed`), `SlotTaken`, `OffsetsGone`, other `Fatal`.
    """

    def poll(self, records_max: int, timeout_ms: int) -> list[Record]:
        """Up to `records_max` records in the order of each partition; may call the listener first. [] after the time.

        Returns sooner when `records_max` are there; a broker that is away gives [], not an error.
        """
        ...

    def positions(self) -> Mapping[int, int]:
        """Per assigned partition the next offset to be polled; steps over what is no record (transaction markers)."""
        ...

    def committed(self, partitions: Sequence[int]) -> dict[int, Offset | None]:
        """The group's checkpoint, as committed; None where there is none. Raises `Retryable`."""
        ...

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Poll these assigned partitions from these offsets next."""
        ...

    def pause(self, paused: bool) -> None:
        """Whether `poll` withholds records (also of partitions to come) while it keeps the membership."""
        ...

    def commit(self, messages: Sequence[Message], offsets: Mapping[int, Offset]) -> None:
        """One transaction: the messages and the offsets, all or none. `offsets` must not be empty.

        Retriable errors are retried inside, the identical call, for 20 s at most. Raises `Fenced` in every other case
        in which it is not known to be committed, also where an abort succeeded.
        """
        ...

    def renew(self) -> None:
        """After `Fenced`: a new producer of the same name, which ends any open transaction. Raises `Retryable`."""
        ...

    def leave(self) -> None:
        """Leave the group in order (the listener hears `revoked`), then close."""
        ...

    def close(self) -> None:
        """Let go of everything as a crash would: the slot keeps its partitions until its session ends."""
        ...


class Log(Protocol):
    """The log itself. Every call is bounded in time and raises `Retryable` when it got no answer."""

    def join(self, group: str, topic: str, slot: str, listener: Listener) -> Member:
        """Become a member of `group`, named `<group>-<slot>`. Raises `SlotTaken`, `Misconfigured`, `Retryable`."""
        ...

    def topic(self, name: str) -> TopicInfo | None:
        """The topic, or None if it is not there."""
        ...

    def create_topic(self, name: str, partitions: int, settings: Mapping[str, str]) -> bool:
        """Create it, all replicas as the log's own default. False if it is there already (whatever its settings)."""
        ...

    def heads(self, topic: str) -> dict[int, int]:
        """Per partition the first offset that is still there."""
        ...

    def ends(self, topic: str) -> dict[int, int]:
        """Per partition the offset that read_committed ends at now."""
        ...

    def offsets_at(self, topic: str, timestamp_ms: int) -> dict[int, int]:
        """Per partition the first offset with a timestamp not before that; the end where there is none."""
        ...

    def checkpoint(self, group: str, topic: str) -> dict[int, Offset]:
        """The committed offsets of a group, without joining it; partitions without one are left out."""
        ...

    def set_checkpoint(self, group: str, topic: str, offsets: Mapping[int, Offset]) -> None:
        """Commit these offsets for a group without members. Raises `Refused` if it has any, `Retryable`."""
        ...

    def members(self, group: str) -> list[str]:
        """Names of the live members of a group; [] if it is empty or unknown."""
        ...

    def drop_group(self, group: str) -> None:
        """Drop a group with its checkpoints, if it is there. Raises `Refused` while it has members, and `Retryable`."""
        ...

    def read(self, topic: str, start: Mapping[int, int] | None = None, follow: bool = False) -> Iterator[list[Record]]:
        """Records with keys and headers from `start` (default: the heads) to the ends as they are at the call.

        In lists as they come; with `follow` never ends and yields [] about once a second while nothing comes.
        """
        ...

    def append(self, messages: Sequence[Message]) -> None:
        """Append without a transaction, durably; returns when all are acknowledged. Raises `Retryable`, `InDoubt`."""
        ...

    def close(self) -> None:
        """Let go of the log. Calling it again does nothing."""
        ...
