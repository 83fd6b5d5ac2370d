"""Quarantined: the records that were not counted, read back from the quarantine topic."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from projector.errors import Misconfigured, Refused
from projector.log import Log, Record

_HEADERS = frozenset({"verdict", "reason", "topic", "partition", "offset", "timestamp", "generation", "detail"})


class Quarantined(NamedTuple):
    """A record that was not counted. `timestamp_ms` is the record's own, -1 where it has none.

    `value` holds its `value_bytes` bytes; None is a tombstone, or left out of a list.
    """

    key: str
    verdict: str
    reason: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    generation: int
    detail: str
    value_bytes: int
    value: bytes | None


@dataclass(frozen=True)
class Wanted:
    """Which records to list; None: any. Times are ms since 1970: `since_ms` <= the record's timestamp < `until_ms`."""

    reason: str | None = None
    verdict: str | None = None
    partition: int | None = None
    since_ms: int | None = None
    until_ms: int | None = None

    def fits(self, record: Quarantined) -> bool:
        """Whether the record is wanted; one without a timestamp is not, where a time is asked for."""
        timed = self.since_ms is not None or self.until_ms is not None
        return (
            (self.reason is None or record.reason == self.reason)
            and (self.verdict is None or record.verdict == self.verdict)
            and (self.partition is None or record.partition == self.partition)
            and not (timed and record.timestamp_ms < 0)
            and (self.since_ms is None or record.timestamp_ms >= self.since_ms)
            and (self.until_ms is None or record.timestamp_ms < self.until_ms)
        )


def quarantined(log: Log, topic: str, wanted: Wanted) -> tuple[list[Quarantined], int]:
    """The wanted records by topic, partition and offset, the last message of each key; and how many were foreign.

    Values are left out. Raises `Misconfigured`, `Retryable`.
    """
    last: dict[str, Quarantined] = {}
    foreign = 0
    for message in _messages(log, topic):
        found = _parsed(message)
        if found is None:
            foreign += 1
        else:
            last[found.key] = found._replace(value=None)
    records = [record for record in last.values() if wanted.fits(record)]
    return sorted(records, key=lambda record: (record.topic, record.partition, record.offset)), foreign


def quarantined_record(log: Log, topic: str, key: str) -> Quarantined:
    """The last message of this key, whole. Raises `Refused` if there is none, `Misconfigured`, `Retryable`."""
    last: Quarantined | None = None
    for message in _messages(log, topic):
        if message.key == key.encode(errors="surrogateescape"):
            last = _parsed(message) or last
    if last is None:
        raise Refused(f"no record {key} in {topic}: projector quarantine lists all, keys are topic/partition/offset")
    return last


def quarantined_as(log: Log, topic: str, keys: Collection[str]) -> dict[str, list[Quarantined]]:
    """Every message of these keys, of any generation, in the order of the topic; values are left out. Reads all of it.

    Raises `Misconfigured`, `Retryable`.
    """
    found: dict[str, list[Quarantined]] = {}
    for message in _messages(log, topic) if keys else ():
        if message.key is not None and message.key.decode(errors="replace") in keys:
            record = _parsed(message)
            if record is not None:
                found.setdefault(record.key, []).append(record._replace(value=None))
    return found


def every_quarantined(log: Log, topic: str) -> Iterator[Quarantined]:
    """Every message of ours as it comes, whole, of any generation and topic. Raises `Misconfigured`, `Retryable`."""
    for message in _messages(log, topic):
        record = _parsed(message)
        if record is not None:
            yield record


def moment_ms(text: str) -> int:
    """Milliseconds since 1970 of an ISO 8601 time (UTC where it names no zone), or of such a number itself."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Misconfigured(f"{text!r} is no time: write 2026-01-31, 2026-01-31T12:00:00Z or epoch ms") from None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)


def _messages(log: Log, topic: str) -> Iterator[Record]:
    for records in log.read(topic):
        yield from records


def _parsed(message: Record) -> Quarantined | None:
    """None if it is not one of ours."""
    headers = {name: text.decode(errors="replace") for name, text in message.headers}
    if message.key is None or not headers.keys() >= _HEADERS:
        return None
    try:
        partition, offset = int(headers["partition"]), int(headers["offset"])
        timestamp_ms, generation = int(headers["timestamp"]), int(headers["generation"])
    except ValueError:
        return None
    return Quarantined(
        message.key.decode(errors="replace"),
        headers["verdict"],
        headers["reason"],
        headers["topic"],
        partition,
        offset,
        timestamp_ms,
        generation,
        headers["detail"],
        len(message.value or b""),
        message.value,
    )
