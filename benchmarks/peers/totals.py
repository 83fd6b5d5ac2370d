"""The totals of an output topic, as a read_committed reader sees them: what every program is measured by."""

import time
from collections.abc import Sequence
from typing import Protocol

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from confluent_kafka import IsolationLevel as Isolation
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]  # public, but no __all__

from projector.backends import open_log
from projector.config import Config
from projector.log import Log

MESSAGES = 10_000
LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # no hints


class Total(msgspec.Struct):
    """A message of the output topic. Peers have no epoch and no rev: of theirs, the last counts."""

    campaignId: int  # noqa: N815  # the contract's name
    kpi: str
    value: int
    epoch: int = 0
    rev: int = 0


_decode = msgspec.json.Decoder(Total).decode


class Source(Protocol):
    """A topic to read."""

    def poll(self, seconds: float) -> Sequence[tuple[int, int, bytes]]:
        """Partition, offset and value of the next messages, if any come within `seconds`."""
        ...

    def ends(self) -> dict[int, int]:
        """Per partition the offset at which it ends now, uncommitted messages included."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


class Totals:
    """Per campaign and KPI the latest value; `counted` is the sum of them: the events that are in published totals."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._held: dict[tuple[int, str], Total] = {}
        self._mark: dict[int, int] = {}
        self.counted = 0
        self.messages = 0
        self.passed_mark = False

    def poll(self, seconds: float) -> bool:
        """Read on; whether anything came."""
        came = self._source.poll(seconds)
        for partition, offset, value in came:
            total = _decode(value)
            key = (total.campaignId, total.kpi)
            held = self._held.get(key)
            if held is None or (total.epoch, total.rev) >= (held.epoch, held.rev):
                self.counted += total.value - (held.value if held else 0)
                self._held[key] = total
            if self._mark and offset >= self._mark.get(partition, 0):
                self.passed_mark = True
        self.messages += len(came)
        return bool(came)

    def mark(self) -> None:
        """From now on `passed_mark` says whether a message came that was written after this call."""
        self._mark = self._source.ends()
        self.passed_mark = False

    def cells(self) -> dict[int, dict[str, int]]:
        """The values, by campaign and KPI."""
        found: dict[int, dict[str, int]] = {}
        for (campaign, kpi), total in self._held.items():
            found.setdefault(campaign, {})[kpi] = total.value
        return found

    def close(self) -> None:
        """Let go of the topic."""
        self._source.close()


class KafkaTopic:
    """A topic of the broker."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._admin = AdminClient({"bootstrap.servers": bootstrap})
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": f"{topic}-reader",
                "isolation.level": "read_committed",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 20,
            }
        )
        partitions = self._consumer.list_topics(topic, timeout=10).topics[topic].partitions
        self._partitions = [TopicPartition(topic, partition, OFFSET_BEGINNING) for partition in partitions]
        self._consumer.assign(self._partitions)

    def poll(self, seconds: float) -> Sequence[tuple[int, int, bytes]]:
        """As `Source` has it."""
        came = self._consumer.consume(MESSAGES, seconds)
        return [(each.partition(), each.offset(), each.value() or b"") for each in came if not each.error()]  # type: ignore[misc]  # a message without error has both

    def ends(self) -> dict[int, int]:
        """As `Source` has it."""
        asked = dict.fromkeys(self._partitions, LATEST)
        answers = self._admin.list_offsets(asked, isolation_level=Isolation.READ_UNCOMMITTED, request_timeout=10)
        return {partition.partition: answer.result().offset for partition, answer in answers.items()}

    def close(self) -> None:
        """As `Source` has it."""
        self._consumer.close()


class EmbeddedTopic:
    """A topic in the SQLite file."""

    def __init__(self, config: Config) -> None:
        self._log: Log = open_log(config)
        self._topic = config.kpi_topic
        self._next = self._log.heads(self._topic)

    def poll(self, seconds: float) -> Sequence[tuple[int, int, bytes]]:
        """As `Source` has it."""
        came = []
        for records in self._log.read(self._topic, self._next):
            for record in records:
                self._next[record.partition] = record.offset + 1
                came.append((record.partition, record.offset, record.value or b""))
        if not came:
            time.sleep(seconds)
        return came

    def ends(self) -> dict[int, int]:
        """As `Source` has it."""
        return self._log.ends(self._topic)

    def close(self) -> None:
        """As `Source` has it."""
        self._log.close()
