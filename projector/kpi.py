"""Publish: the new totals of campaigns as messages for the KPI topic."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from projector.event import KPIS
from projector.log import Message


@dataclass(slots=True)
class Value:
    """What one batch read back of a campaign's row, and the KPI codes that its records named."""

    stats: Mapping[str, int]
    rev: int
    codes: set[int]


ALL_CODES = frozenset(range(len(KPIS)))


def latest(batches: Iterable[Mapping[int, Value]]) -> dict[int, Value]:
    """Over batches in their order: per campaign the last value read back, with every code that any of them named."""
    merged: dict[int, Value] = {}
    for values in batches:
        for campaign, value in values.items():
            before = merged.get(campaign)
            codes = value.codes if before is None else before.codes | value.codes
            merged[campaign] = Value(value.stats, value.rev, codes)
    return merged


def messages(topic: str, values: Mapping[int, Value], epoch: int) -> list[Message]:
    """One message per campaign and KPI named: the new total, with (`epoch`, `rev`) for readers to order by."""
    return [
        Message(
            topic,
            b"%d:%s" % (campaign, kpi.encode()),
            b'{"campaignId": %d, "kpi": "%s", "value": %d, "epoch": %d, "rev": %d}'
            % (campaign, kpi.encode(), value.stats.get(kpi, 0), epoch, value.rev),
        )
        for campaign, value in values.items()
        for kpi in (KPIS[code] for code in sorted(value.codes))
    ]
