"""Feed: the KPI topic as its readers must read it, the highest (`epoch`, `rev`) of each campaign and KPI."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import msgspec

from projector.log import Log, Record


class Total(NamedTuple):
    """A published total; a message of another program has epoch and rev 0."""

    campaign: int
    kpi: str
    value: int
    epoch: int
    rev: int


class _Message(msgspec.Struct):
    campaign: int = msgspec.field(name="campaignId")
    kpi: str
    value: int
    epoch: int = 0
    rev: int = 0


class Feed:
    """What a reader of the KPI topic knows: `totals` by (campaign, KPI), and where it reads next.

    `foreign` counts the messages that are no totals.
    """

    def __init__(self) -> None:
        self.totals: dict[tuple[int, str], Total] = {}
        self.positions: dict[int, int] = {}
        self.foreign = 0
        self._decoder = msgspec.json.Decoder(_Message)

    def take(self, records: Iterable[Record]) -> list[Total]:
        """Take in records; those totals that are new, in their order."""
        news: list[Total] = []
        for record in records:
            self.positions[record.partition] = record.offset + 1
            try:
                message = self._decoder.decode(record.value or b"")
            except (msgspec.DecodeError, UnicodeDecodeError):
                self.foreign += 1
                continue
            total = Total(message.campaign, message.kpi, message.value, message.epoch, message.rev)
            held = self.totals.get((total.campaign, total.kpi))
            if held is None or (total.epoch, total.rev) >= (held.epoch, held.rev):
                self.totals[total.campaign, total.kpi] = total
                if total != held:
                    news.append(total)
        return news

    def catch_up(self, log: Log, topic: str) -> None:
        """Read the topic from its heads to its ends as they are now. Raises `Misconfigured`, `Retryable`."""
        ends = log.ends(topic)
        for records in log.read(topic):
            self.take(records)
        for partition, end in ends.items():
            self.positions[partition] = max(end, self.positions.get(partition, 0))

    def skip(self, log: Log, topic: str) -> None:
        """Leave out what is in the topic now. Raises `Misconfigured`, `Retryable`."""
        self.positions = log.ends(topic)

    def follow(self, log: Log, topic: str) -> Iterator[list[Total]]:
        """New totals as they come, without end; [] about once a second while nothing comes. Raises `Retryable`."""
        for records in log.read(topic, self.positions, follow=True):
            yield self.take(records)
