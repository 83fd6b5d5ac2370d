"""Retry: parked records go back to the input topic, each exactly once, and are counted at their new positions.

One transaction holds records and, for each, a marker: a message under the key of the quarantined record, in a compacted
topic. Markers are read after this process has become the only one that can commit any: whoever retried before has
committed or never will. So a record whose marker is not there was not sent, and one that was sent has its marker,
whatever was killed when.

A record that is parked again stands at another position, and may be retried again under that one. A rewind or a rebuild
reads the old position, too: the ledger counts one of the two.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain
from typing import NamedTuple

import msgspec

from projector.clock import Clock
from projector.config import Config
from projector.errors import Fenced, ProjectorError, Refused, Retryable, SlotTaken
from projector.log import Listener, Log, Member, Message, Offset
from projector.patience import Patience, patiently
from projector.quarantined import Quarantined, Wanted, quarantine_messages
from projector.topics import create_retried_topic, retried_topic

SLOT = "retry"
PARKED = "parked"
RECORDS_MAX = 1_000
BYTES_MAX = 16 << 20
"""Of one transaction; a record may be larger."""
TIMESTAMP_MIN_MS = 1
"""The client takes 0 for now, and none below; a record without a timestamp stays one of second 0."""
ATTEMPTS = 10
JOIN_S = 60.0
BEAT_S = 2.0
"""While it reads, the member gives a sign of life so often, and keeps its place."""


class Parked(NamedTuple):
    """A record to be sent back, without its value; `at` is where in the quarantine topic its last message stands."""

    at: tuple[int, int]
    record: Quarantined


def retry_group(config: Config) -> str:
    """The group whose one member retries; no generation has a group of that name."""
    return f"{config.group}-retry"


def parked(
    log: Log, config: Config, wanted: Wanted, advance: Callable[[int], None] = lambda _: None
) -> dict[str, Parked]:
    """By key the wanted records whose last verdict is parked and that were not retried; changes nothing.

    `advance` hears of messages read, markers among them. Raises `Misconfigured`, `Retryable`.
    """
    found: dict[str, Parked] = {}
    for message, record in quarantine_messages(log, config.quarantine_topic):
        if record.verdict == PARKED and record.topic == config.input_topic and wanted.fits(record):
            found[record.key] = Parked((message.partition, message.offset), record._replace(value=None))
        else:
            found.pop(record.key, None)
        advance(1)
    if patiently(partial(log.topic, retried_topic(config))) is not None:
        for marker in chain.from_iterable(log.read(retried_topic(config))):
            if marker.key is not None:
                found.pop(marker.key.decode(errors="replace"), None)
            advance(1)
    return found


def by_reason(records: Mapping[str, Parked]) -> dict[str, int]:
    """How many there are of each reason."""
    return dict(sorted(Counter(each.record.reason for each in records.values()).items()))


def retry(
    log: Log,
    config: Config,
    wanted: Wanted,
    advance: Callable[[int], None] = lambda _: None,
    left: Callable[[Quarantined, str], None] = lambda *_: None,
    *,
    records_max: int = RECORDS_MAX,
    patience: Patience = patiently,
    clock: Clock = time,
) -> int:
    """Send back what `parked` answers; how many records were sent. `advance` hears of each that was.

    A record that the topic does not take, as one that is over its `max.message.bytes` with the headers that are added,
    stays parked, and is not marked: `left` hears of it, without its value, and why.

    Killed at any moment, it may be run again. Raises `Refused` while another retry runs, `SlotTaken` where another has
    begun, `Misconfigured`, `Retryable`.
    """
    group = retry_group(config)
    if members := patience(lambda: log.members(group)):
        raise Refused(
            f"another retry runs, {', '.join(members)}: wait until it has ended; "
            "one that was killed leaves the group once its session is over, in a minute at most"
        )
    patience(lambda: create_retried_topic(log, config))
    seat = _Seat(log, config.quarantine_topic, patience)
    member = patience(lambda: log.join(group, config.quarantine_topic, SLOT, seat))
    retrier = _Retrier(log, config, wanted, member, advance, left, records_max, patience, clock)
    try:
        retrier.run()
    except SlotTaken:
        raise SlotTaken("another retry has begun meanwhile and goes on with what is left: let that one end") from None
    finally:
        with suppress(ProjectorError):  # it leaves by itself once its session is over
            member.leave()
        member.close()
    return retrier.sent


class _Seat(Listener):
    """A place in the group that reads nothing: it only gives the right to commit."""

    def __init__(self, log: Log, topic: str, patience: Patience) -> None:
        self._log = log
        self._topic = topic
        self._patience = patience

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """At the ends."""
        ends = self._patience(lambda: self._log.ends(self._topic))
        return {partition: ends[partition] for partition in partitions}

    def revoked(self, partitions: Sequence[int]) -> None:
        """Nothing is in hand."""

    def lost(self, partitions: Sequence[int]) -> None:
        """Nothing is in hand: without its partitions a transaction is not committed."""


class _Retrier:
    """The one that may commit, until another joins in its name."""

    def __init__(
        self,
        log: Log,
        config: Config,
        wanted: Wanted,
        member: Member,
        advance: Callable[[int], None],
        left: Callable[[Quarantined, str], None],
        records_max: int,
        patience: Patience,
        clock: Clock,
    ) -> None:
        self._log = log
        self._config = config
        self._wanted = wanted
        self._member = member
        self._advance = advance
        self._tell_left = left
        self._records_max = records_max
        self._patience = patience
        self._clock = clock
        self._beaten_at = clock.monotonic()
        self._doubtful: list[str] = []
        """Keys of the transaction that is not known to be committed."""
        self._left: set[str] = set()
        """Keys of the records that the topic does not take."""
        self.sent = 0

    def run(self) -> None:
        """Send all. What is not known to be committed, the markers tell. Raises `Retryable` if nothing ever is."""
        failures = 0
        while failures < ATTEMPTS:
            sent = self.sent
            try:
                if failures:
                    self._patience(self._member.renew)
                self._await()
                self._send_all()
            except Fenced:
                failures = failures + 1 if self.sent == sent else 1
            else:
                return
        raise Retryable("no transaction of the retry is committed: run it again later")

    def _await(self) -> None:
        """Until every partition of the quarantine topic is assigned: a transaction carries their offsets."""
        self._member.pause(True)
        partitions = self._ends().keys()
        deadline = self._clock.monotonic() + JOIN_S
        self._member.poll(1, 0)  # a place that was lost meanwhile is taken again
        while not partitions <= self._member.positions().keys():
            if self._clock.monotonic() > deadline:
                raise Refused(f"group {retry_group(self._config)} has other members: stop them first")
            self._member.poll(1, 100)

    def _send_all(self) -> None:
        """Read the markers, now that nobody else can write any; then send what has none."""
        found = parked(self._log, self._config, self._wanted, self._beat)
        self._note([key for key in self._doubtful if key not in found])
        todo = {key: each for key, each in found.items() if key not in self._left}
        batch: list[Quarantined] = []
        size = 0
        for record in self._whole(todo):
            batch.append(record)
            size += len(record.value or b"")
            if len(batch) == self._records_max or size >= BYTES_MAX:
                self._commit(batch)
                batch, size = [], 0
        if batch:
            self._commit(batch)

    def _whole(self, todo: Mapping[str, Parked]) -> Iterator[Quarantined]:
        """These records with their values: read once more, as memory may not take them all."""
        for message, record in quarantine_messages(self._log, self._config.quarantine_topic) if todo else ():
            kept = todo.get(record.key)
            if kept is not None and kept.at == (message.partition, message.offset):
                yield record
            self._beat(1)

    def _commit(self, batch: Sequence[Quarantined]) -> None:
        """Commit them; if one is not taken, in ever smaller parts, until that one is left alone."""
        try:
            self._commit_whole(batch)
        except Refused as error:  # nothing of it is in the topic: the client commits none whose message was refused
            self._doubtful = []
            self._patience(self._member.renew)
            self._beat(0)
            if len(batch) == 1:
                self._left.add(batch[0].key)
                self._tell_left(batch[0]._replace(value=None), str(error))
                return
            by_size = sorted(batch, key=lambda record: record.value_bytes)  # those that are too large, together
            half = len(by_size) // 2
            self._commit(by_size[:half])
            self._commit(by_size[half:])

    def _commit_whole(self, batch: Sequence[Quarantined]) -> None:
        self._doubtful = [record.key for record in batch]
        messages = [message for record in batch for message in _messages(self._config, record)]
        self._member.commit(messages, {partition: Offset(end, "") for partition, end in self._ends().items()})
        self._note(self._doubtful)

    def _note(self, keys: Sequence[str]) -> None:
        """These are committed."""
        self.sent += len(keys)
        self._advance(len(keys))
        self._doubtful = []

    def _beat(self, _: int) -> None:
        if self._clock.monotonic() - self._beaten_at >= BEAT_S:
            self._member.poll(1, 0)
            self._beaten_at = self._clock.monotonic()

    def _ends(self) -> dict[int, int]:
        return self._patience(lambda: self._log.ends(self._config.quarantine_topic))


def _messages(config: Config, record: Quarantined) -> tuple[Message, Message]:
    """The record as it was, at its own time and partition, with headers that say where it came from; and its marker."""
    headers = (("retried-from", record.key.encode()), ("retried-timestamp", str(record.timestamp_ms).encode()))
    timestamp_ms = max(TIMESTAMP_MIN_MS, record.timestamp_ms)
    again = Message(config.input_topic, None, record.value, headers, record.partition, timestamp_ms)
    marker = msgspec.json.encode({"v": 1, "retried-ms": time.time_ns() // 1_000_000})
    return again, Message(retried_topic(config), record.key.encode(), marker)
