"""A worker's place in a group of the embedded log: a lease, checked in every commit."""

import secrets
import sqlite3
import time
from collections.abc import Mapping, Sequence

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from projector.backends import embedded_topic as topics
from projector.backends.embedded_file import EmbeddedFile
from projector.errors import Fenced, InDoubt, Refused, Retryable, SlotTaken
from projector.log import Listener, Message, Offset, Record

RENEW_MS = 1_000  # the lease is renewed at most so often
COMMIT_RETRY_S = 20
METADATA_BYTES_MAX = 4_095  # Kafka's
WAIT_S = 0.002
SCHEMA = """
CREATE TABLE IF NOT EXISTS log_checkpoints (
    group_name TEXT NOT NULL, topic INTEGER NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
    metadata TEXT NOT NULL, PRIMARY KEY (group_name, topic, partition)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log_leases (
    group_name TEXT PRIMARY KEY, slot TEXT NOT NULL, token TEXT NOT NULL, expires_ms INTEGER NOT NULL);
"""


def checkpoint(db: sqlite3.Connection, group: str, topic_id: int) -> dict[int, Offset]:
    """The committed offsets of a group on a topic."""
    rows = db.execute(
        "SELECT partition, offset, metadata FROM log_checkpoints WHERE group_name = ? AND topic = ?", (group, topic_id)
    )
    return {partition: Offset(offset, metadata) for partition, offset, metadata in rows}


def save_checkpoint(db: sqlite3.Connection, group: str, topic_id: int, offsets: Mapping[int, Offset]) -> None:
    """Commit these offsets of a group on a topic."""
    rows = [(group, topic_id, partition, *offset) for partition, offset in offsets.items()]
    db.executemany("INSERT OR REPLACE INTO log_checkpoints VALUES (?, ?, ?, ?, ?)", rows)


def take_lease(db: sqlite3.Connection, group: str, slot: str, token: str, lease_ms: int) -> str | None:
    """Take the lease of a group: None, or the other slot that holds it."""
    now_ms = _now_ms()
    held = db.execute("SELECT slot, expires_ms FROM log_leases WHERE group_name = ?", (group,)).fetchone()
    if held and held[0] != slot and held[1] > now_ms:
        return str(held[0])
    db.execute("INSERT OR REPLACE INTO log_leases VALUES (?, ?, ?, ?)", (group, slot, token, now_ms + lease_ms))
    return None


def live_slots(db: sqlite3.Connection, group: str) -> list[str]:
    """The slot that holds the group's lease, if that has not lapsed."""
    rows = db.execute("SELECT slot FROM log_leases WHERE group_name = ? AND expires_ms > ?", (group, _now_ms()))
    return [slot for (slot,) in rows]


def drop(db: sqlite3.Connection, group: str) -> None:
    """Remove a group. Raises `Refused` while its lease holds."""
    if live := live_slots(db, group):
        raise Refused(f"group {group} has a worker, {group}-{live[0]}: stop it first")
    db.execute("DELETE FROM log_checkpoints WHERE group_name = ?", (group,))
    db.execute("DELETE FROM log_leases WHERE group_name = ?", (group,))


class EmbeddedMember:
    """The holder of a group's lease, and so the group's only worker; see `Member`.

    Every call but `positions`, `seek` and `pause` raises `SlotTaken` once another process has taken the lease.
    """

    def __init__(
        self, file: EmbeddedFile, group: str, topic: str, slot: str, listener: Listener, lease_ms: int
    ) -> None:
        """Take the lease. Raises `SlotTaken` while another slot holds it, `Misconfigured` without the topic."""
        self._file = file
        self._group = group
        self._topic = topic
        self._listener = listener
        self._lease_ms = lease_ms
        self._token = secrets.token_hex(8)
        with file.writing() as db:
            self._topic_id = topics.topic_id(db, topic)
            holder = take_lease(db, group, slot, self._token, lease_ms)
            if holder is not None:
                raise SlotTaken(
                    f"{group}-{holder} serves group {group}, and the embedded log takes one worker a group:"
                    f" stop that one; if it is dead, wait {lease_ms / 1000:g} s"
                )
            self._partitions = [each.number for each in topics.partitions(db, self._topic_id)]
        self._renewed_ms = _now_ms()
        self._positions: dict[int, int] = {}
        self._assigned = False
        self._paused = False

    def poll(self, records_max: int, timeout_ms: int) -> list[Record]:
        """Fair shares of all partitions. Raises `OffsetsGone` where a position is not in the topic."""
        deadline = time.monotonic() + timeout_ms / 1000
        while True:
            if not self._assigned:
                self._positions = dict(self._listener.assigned(self._partitions))
                self._assigned = True
            last = time.monotonic() >= deadline
            try:
                if not self._keep_lease():
                    continue
                records = [] if self._paused else self._take(records_max, 1 if last else records_max)
            except Retryable:
                records = []
            if records or last:
                return records
            time.sleep(min(WAIT_S, max(deadline - time.monotonic(), 0)))

    def _keep_lease(self) -> bool:
        """Whether it was held all the time. One that lapsed is renewed, but whoever asked saw the group empty."""
        now_ms = _now_ms()
        if now_ms - self._renewed_ms < RENEW_MS:
            with self._file.reading() as db:
                if self._check_lease(db):
                    return True
        with self._file.writing() as db:
            held = self._check_lease(db)
            self._extend_lease(db)
        if not held:
            self._positions = {}
            self._assigned = False
            self._listener.lost(self._partitions)
        return held

    def _check_lease(self, db: sqlite3.Connection) -> bool:
        """Whether it has not lapsed. Raises `SlotTaken` where it is another's."""
        held = db.execute(
            "SELECT slot, token, expires_ms FROM log_leases WHERE group_name = ?", (self._group,)
        ).fetchone()
        if held is None or held[1] != self._token:
            by = f"now served by {self._group}-{held[0]}" if held else "no longer held by this worker"
            raise SlotTaken(f"group {self._group} is {by}")
        return bool(held[2] > _now_ms())

    def _extend_lease(self, db: sqlite3.Connection) -> None:
        self._renewed_ms = _now_ms()
        db.execute(
            "UPDATE log_leases SET expires_ms = ? WHERE group_name = ?",
            (self._renewed_ms + self._lease_ms, self._group),
        )

    def _take(self, records_max: int, records_min: int) -> list[Record]:
        """Up to `records_max` records, or none if fewer than `records_min` wait."""
        with self._file.reading() as db:
            there = topics.partitions(db, self._topic_id)
            topics.check_positions(self._topic, there, self._positions)
            waiting = {each: each.end - self._positions[each.number] for each in there}
            if sum(waiting.values()) < records_min:
                return []
            return topics.take(db, topics.shares(waiting, records_max), self._positions, with_keys=False)

    def positions(self) -> Mapping[int, int]:
        """Per assigned partition the next offset to be polled."""
        return dict(self._positions)

    def committed(self, partitions: Sequence[int]) -> dict[int, Offset | None]:
        """The checkpoint of these partitions. Raises `Retryable`."""
        with self._file.reading() as db:
            found = checkpoint(db, self._group, self._topic_id)
        return {partition: found.get(partition) for partition in partitions}

    def seek(self, offsets: Mapping[int, int]) -> None:
        """Poll these from these offsets next. Raises `ValueError` for a partition that is not assigned."""
        if unassigned := offsets.keys() - self._positions.keys():
            raise ValueError(f"not assigned: {sorted(unassigned)}")
        self._positions.update(offsets)

    def pause(self, paused: bool) -> None:
        """Withhold records from `poll`, or no longer."""
        self._paused = paused

    def commit(self, messages: Sequence[Message], offsets: Mapping[int, Offset]) -> None:
        """Messages and offsets in one SQLite transaction that holds the lease.

        Raises `Fenced` where the file stays locked for 20 s or the commit's outcome is unknown, `Refused` for metadata
        or a message that is too long, `Misconfigured` for a topic that is not there.
        """
        if not offsets:
            raise ValueError("a transaction carries at least one offset")
        for partition, offset in offsets.items():
            if len(offset.metadata.encode()) > METADATA_BYTES_MAX:
                raise Refused(f"the metadata of partition {partition} is over {METADATA_BYTES_MAX} bytes")
        attempts = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, Retryable) and not isinstance(error, InDoubt)),
            stop=stop_after_delay(COMMIT_RETRY_S),
            wait=wait_fixed(0.05),
            reraise=True,
        )
        try:
            attempts(self._commit, messages, offsets)
        except Retryable as error:
            raise Fenced(f"not known to be committed: {error}") from error

    def _commit(self, messages: Sequence[Message], offsets: Mapping[int, Offset]) -> None:
        with self._file.writing() as db:
            if not self._check_lease(db):
                raise Fenced(f"the lease of group {self._group} has lapsed")
            topics.append(db, messages)
            save_checkpoint(db, self._group, self._topic_id, offsets)
            self._extend_lease(db)

    def renew(self) -> None:
        """Nothing is ever left open here: only see that the lease is still held; `poll` renews one that lapsed."""
        with self._file.writing() as db:
            if self._check_lease(db):
                self._extend_lease(db)

    def leave(self) -> None:
        """Let the listener give up all partitions, then release the lease, unless another process has it."""
        if self._assigned:
            self._listener.revoked(self._partitions)
        with self._file.writing() as db:
            db.execute("DELETE FROM log_leases WHERE group_name = ? AND token = ?", (self._group, self._token))
        self.close()

    def close(self) -> None:
        """Forget the assignment; the lease stays until it lapses."""
        self._positions = {}
        self._assigned = False


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
