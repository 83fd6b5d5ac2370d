"""The log in one SQLite file."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from projector.backends import embedded_member as membership
from projector.backends import embedded_topic as topics
from projector.backends.embedded_file import EmbeddedFile
from projector.backends.embedded_member import EmbeddedMember
from projector.errors import InDoubt, Refused, Retryable
from projector.log import Listener, Message, Offset, Record, TopicInfo

LEASE_MS = 10_000
APPEND_MESSAGES = 10_000  # in one transaction
READ_RECORDS = 1_000  # of one partition in one page
FOLLOW_S = 1.0
WAIT_S = 0.02


class EmbeddedLog:
    """A `Log` in the SQLite file at `path`, which is created if it is not there.

    It serves one worker per group, who holds the group's lease for `lease_ms` from each sign of life: another slot is
    refused (`SlotTaken`) until the lease lapses, the same slot takes over at once. Everything that names a topic
    raises `Misconfigured` where that is not there. Raises `Misconfigured` if the file cannot be used.
    """

    def __init__(self, path: Path, lease_ms: int = LEASE_MS) -> None:
        self._file = EmbeddedFile(path, topics.SCHEMA + membership.SCHEMA)
        self._lease_ms = lease_ms

    def join(self, group: str, topic: str, slot: str, listener: Listener) -> EmbeddedMember:
        """Become the one worker of the group. Raises `SlotTaken` while another slot is."""
        return EmbeddedMember(self._file, group, topic, slot, listener, self._lease_ms)

    def topic(self, name: str) -> TopicInfo | None:
        """The topic with the settings it was created with."""
        with self._file.reading() as db:
            return topics.info(db, name)

    def create_topic(self, name: str, partitions: int, settings: Mapping[str, str]) -> bool:
        """Create the topic; False if it is there. Of the settings only `max.message.bytes` has an effect."""
        with self._file.writing() as db:
            return topics.create(db, name, partitions, settings)

    def delete_topic(self, name: str) -> None:
        """Remove the topic with its records and every group's checkpoint on it."""
        with self._file.writing() as db:
            topic_id = topics.topic_id(db, name)
            for each in topics.partitions(db, topic_id):
                topics.delete_before(db, each, each.end)
            for table, column in (("log_partitions", "topic"), ("log_checkpoints", "topic"), ("log_topics", "id")):
                db.execute(f"DELETE FROM {table} WHERE {column} = ?", (topic_id,))

    def delete_before(self, topic: str, offsets: Mapping[int, int]) -> None:
        """Remove, per partition, the records below an offset, as retention would; the heads move up to there."""
        with self._file.writing() as db:
            for each in topics.partitions(db, topics.topic_id(db, topic)):
                topics.delete_before(db, each, offsets.get(each.number, 0))

    def heads(self, topic: str) -> dict[int, int]:
        """Per partition the first offset that is there, or will be."""
        with self._file.reading() as db:
            return {each.number: each.head for each in topics.partitions(db, topics.topic_id(db, topic))}

    def ends(self, topic: str) -> dict[int, int]:
        """Per partition the offset that the next record will get."""
        with self._file.reading() as db:
            return {each.number: each.end for each in topics.partitions(db, topics.topic_id(db, topic))}

    def offsets_at(self, topic: str, timestamp_ms: int) -> dict[int, int]:
        """Found by reading on from the head."""
        with self._file.reading() as db:
            partitions = topics.partitions(db, topics.topic_id(db, topic))
            return {each.number: topics.offset_at(db, each, timestamp_ms) for each in partitions}

    def checkpoint(self, group: str, topic: str) -> dict[int, Offset]:
        """The committed offsets of a group."""
        with self._file.reading() as db:
            return membership.checkpoint(db, group, topics.topic_id(db, topic))

    def set_checkpoint(self, group: str, topic: str, offsets: Mapping[int, Offset]) -> None:
        """Commit these offsets while nobody holds the group's lease. Raises `Refused` while somebody does."""
        with self._file.writing() as db:
            if slots := membership.live_slots(db, group):
                raise Refused(f"group {group} is served by {group}-{slots[0]}: stop it first")
            membership.save_checkpoint(db, group, topics.topic_id(db, topic), offsets)

    def members(self, group: str) -> list[str]:
        """The holder of the group's lease, unless that has lapsed."""
        with self._file.reading() as db:
            return [f"{group}-{slot}" for slot in membership.live_slots(db, group)]

    def drop_group(self, group: str) -> None:
        """Remove the group's checkpoints and its lapsed lease. Raises `Refused` while its lease holds."""
        with self._file.writing() as db:
            membership.drop(db, group)

    def read(self, topic: str, start: Mapping[int, int] | None = None, follow: bool = False) -> Iterator[list[Record]]:
        """Records of all partitions; those that `start` leaves out are read from their heads.

        Raises `OffsetsGone`, also while it goes on, where an offset to be read is not in the topic.
        """
        with self._file.reading() as db:
            topic_id = topics.topic_id(db, topic)
            there = topics.partitions(db, topic_id)
        positions = {each.number: each.head for each in there} | dict(start or {})
        topics.check_positions(topic, there, positions)
        ends = None if follow else {each.number: each.end for each in there}
        return self._pages(topic, topic_id, positions, ends)

    def _pages(
        self, topic: str, topic_id: int, positions: dict[int, int], ends: Mapping[int, int] | None
    ) -> Iterator[list[Record]]:
        quiet_since = time.monotonic()
        while True:
            with self._file.reading() as db:
                there = topics.partitions(db, topic_id)
                topics.check_positions(topic, there, positions)
                upto = there if ends is None else [each._replace(end=ends[each.number]) for each in there]
                counts = {each: min(each.end - positions[each.number], READ_RECORDS) for each in upto}
                page = topics.take(db, counts, positions, with_keys=True)
            if not page:
                if ends is not None:
                    return
                if time.monotonic() - quiet_since < FOLLOW_S:
                    time.sleep(WAIT_S)
                    continue
            yield page
            quiet_since = time.monotonic()

    def append(self, messages: Sequence[Message]) -> None:
        """Append durably and in order, 10,000 messages to a transaction.

        Raises `Refused` for a message over its topic's `max.message.bytes`, `Retryable` if nothing was appended,
        `InDoubt` if something was, or may have been.
        """
        for first in range(0, len(messages), APPEND_MESSAGES):
            try:
                with self._file.writing() as db:
                    topics.append(db, messages[first : first + APPEND_MESSAGES])
            except Retryable as error:
                if first == 0:
                    raise
                raise InDoubt(f"the first {first} of {len(messages)} messages are appended: {error}") from error

    def close(self) -> None:
        """Close the file, for members too. Calling it again does nothing."""
        self._file.close()
