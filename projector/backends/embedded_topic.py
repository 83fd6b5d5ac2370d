"""Topics in the SQLite file: their partitions and records, written and read inside a transaction of the caller."""

import json
import random
import secrets
import sqlite3
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from projector.errors import Misconfigured, OffsetsGone, Refused
from projector.log import Message, Record, TopicInfo

MESSAGE_BYTES_MAX = 1_048_588  # Kafka's default of max.message.bytes
MESSAGE_BYTES = 70  # what Kafka adds to a message that is alone in its batch
TAKE_BYTES_MAX = 64 << 20

# The id of a record is that of its partition << OFFSET_BITS | offset: each partition is one range of the table.
OFFSET_BITS = 40
SCHEMA = """
CREATE TABLE IF NOT EXISTS log_topics (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, uid TEXT NOT NULL, settings TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS log_partitions (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic INTEGER NOT NULL, partition INTEGER NOT NULL,
    head INTEGER NOT NULL DEFAULT 0, end INTEGER NOT NULL DEFAULT 0, UNIQUE (topic, partition));
CREATE TABLE IF NOT EXISTS log_records (
    id INTEGER PRIMARY KEY, timestamp_ms INTEGER NOT NULL, value BLOB, key BLOB, headers BLOB);
"""

_encode = msgspec.msgpack.Encoder().encode
_decode_headers = msgspec.msgpack.Decoder(list[tuple[str, bytes]]).decode


class Partition(NamedTuple):
    """A partition as it stands: `id` names its range of records, `head` <= offset < `end` are there."""

    number: int
    id: int
    head: int
    end: int


def topic_id(db: sqlite3.Connection, topic: str) -> int:
    """The number of a topic in this file. Raises `Misconfigured` if it is not there."""
    found = db.execute("SELECT id FROM log_topics WHERE name = ?", (topic,)).fetchone()
    if found is None:
        raise Misconfigured(f"there is no topic {topic}: run `projector migrate`")
    return int(found[0])


def info(db: sqlite3.Connection, topic: str) -> TopicInfo | None:
    """The topic with the settings it was created with."""
    found = db.execute("SELECT id, uid, settings FROM log_topics WHERE name = ?", (topic,)).fetchone()
    return TopicInfo(found[1], len(partitions(db, found[0])), json.loads(found[2])) if found else None


def create(db: sqlite3.Connection, topic: str, count: int, settings: Mapping[str, str]) -> bool:
    """Create a topic of `count` partitions; False if there is one of that name."""
    made = db.execute(
        "INSERT OR IGNORE INTO log_topics (name, uid, settings) VALUES (?, ?, ?) RETURNING id",
        (topic, secrets.token_hex(8), json.dumps(dict(settings))),
    ).fetchone()
    if made is None:
        return False
    db.executemany(
        "INSERT INTO log_partitions (topic, partition) VALUES (?, ?)", [(made[0], number) for number in range(count)]
    )
    return True


def partitions(db: sqlite3.Connection, topic: int) -> list[Partition]:
    """The partitions of a topic, in order; none if it is gone."""
    rows = db.execute(
        "SELECT partition, id, head, end FROM log_partitions WHERE topic = ? ORDER BY partition", (topic,)
    )
    return [Partition(*row) for row in rows]


def check_positions(topic: str, there: Sequence[Partition], positions: Mapping[int, int]) -> None:
    """Raise `OffsetsGone` unless each position is one that the topic has, or will have next."""
    if not there:
        raise OffsetsGone(f"topic {topic} was deleted while it was read")
    for each in there:
        position = positions[each.number]
        if not each.head <= position <= each.end:
            raise OffsetsGone(
                f"topic {topic}, partition {each.number}: offset {position} is not there;"
                f" the topic has {each.head} to {each.end}"
            )


def shares(waiting: Mapping[Partition, int], records_max: int) -> dict[Partition, int]:
    """How many records to take of each partition, given how many wait: alike, and what one has not to the others."""
    left = records_max
    taken = {}
    for nth, (partition, count) in enumerate(sorted(waiting.items(), key=lambda item: item[1])):
        taken[partition] = min(count, -(-left // (len(waiting) - nth)))
        left -= taken[partition]
    return taken


def take(
    db: sqlite3.Connection, counts: Mapping[Partition, int], positions: dict[int, int], with_keys: bool
) -> list[Record]:
    """So many records of each partition from `positions` on, which move; fewer once 64 MiB are at hand."""
    records: list[Record] = []
    append = records.append
    size = 0
    columns = "id, timestamp_ms, value, key, headers" if with_keys else "id, timestamp_ms, value"
    for partition, count in counts.items():
        number, base = partition.number, partition.id << OFFSET_BITS
        rows = db.execute(
            f"SELECT {columns} FROM log_records WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (base + positions[number], base + partition.end, count),
        )
        for row in rows:
            offset = row[0] - base
            if with_keys:
                headers = _decode_headers(row[4]) if row[4] else ()
                append(Record(number, offset, row[1], row[2], row[3], headers))
            else:
                append(Record(number, offset, row[1], row[2]))
            positions[number] = offset + 1
            size += len(row[2] or b"")
            if size >= TAKE_BYTES_MAX:
                return records
    return records


class _Target:
    """A topic that is being appended to: the id of the next record per partition, the largest message."""

    def __init__(self, db: sqlite3.Connection, topic: str) -> None:
        self.next_ids = [each.id << OFFSET_BITS | each.end for each in partitions(db, topic_id(db, topic))]
        (settings,) = db.execute("SELECT settings FROM log_topics WHERE name = ?", (topic,)).fetchone()
        self.message_bytes_max = int(json.loads(settings).get("max.message.bytes", MESSAGE_BYTES_MAX))
        self.turn = random.randrange(len(self.next_ids))


def append(db: sqlite3.Connection, messages: Sequence[Message]) -> None:
    """Append to the ends. Raises `Misconfigured` for a topic or partition that is not there, `Refused` for a message
    over the topic's `max.message.bytes`; then nothing is appended.
    """
    targets: dict[str, _Target] = {}
    rows = []
    now_ms = time.time_ns() // 1_000_000
    for message in messages:
        target = targets.get(message.topic)
        if target is None:
            target = targets[message.topic] = _Target(db, message.topic)
        _check_size(message, target.message_bytes_max)
        number = _partition(message, target)
        timestamp_ms = now_ms if message.timestamp_ms is None else message.timestamp_ms
        headers = _encode(message.headers) if message.headers else None
        rows.append((target.next_ids[number], timestamp_ms, message.value, message.key, headers))
        target.next_ids[number] += 1
    db.executemany("INSERT INTO log_records VALUES (?, ?, ?, ?, ?)", rows)
    for target in targets.values():
        ends = [(next_id & (1 << OFFSET_BITS) - 1, next_id >> OFFSET_BITS) for next_id in target.next_ids]
        db.executemany("UPDATE log_partitions SET end = ? WHERE id = ?", ends)


def _check_size(message: Message, bytes_max: int) -> None:
    size = MESSAGE_BYTES + len(message.key or b"") + len(message.value or b"")
    size += sum([len(name) + len(value) for name, value in message.headers])
    if size > bytes_max:
        raise Refused(f"a message of {size} bytes: topic {message.topic} takes {bytes_max} (max.message.bytes)")


def _partition(message: Message, target: _Target) -> int:
    """As asked for; else by the key, as librdkafka does; else in turn."""
    count = len(target.next_ids)
    if message.partition is not None:
        if not 0 <= message.partition < count:
            raise Misconfigured(f"topic {message.topic} has no partition {message.partition}")
        return message.partition
    if message.key is not None:
        return zlib.crc32(message.key) % count
    target.turn = (target.turn + 1) % count
    return target.turn


def delete_before(db: sqlite3.Connection, partition: Partition, offset: int) -> None:
    """Remove the records below `offset`; the head moves up to it, or to the end."""
    base = partition.id << OFFSET_BITS
    head = min(max(offset, partition.head), partition.end)
    db.execute("DELETE FROM log_records WHERE id >= ? AND id < ?", (base, base + head))
    db.execute("UPDATE log_partitions SET head = ? WHERE id = ?", (head, partition.id))


def offset_at(db: sqlite3.Connection, partition: Partition, timestamp_ms: int) -> int:
    """The first offset with a timestamp not before that; the end where there is none."""
    base = partition.id << OFFSET_BITS
    found = db.execute(
        "SELECT id FROM log_records WHERE id >= ? AND id < ? AND timestamp_ms >= ? ORDER BY id LIMIT 1",
        (base + partition.head, base + partition.end, timestamp_ms),
    ).fetchone()
    return int(found[0]) - base if found else partition.end
