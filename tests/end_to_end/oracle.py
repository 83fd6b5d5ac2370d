"""What the topics say by themselves: the events recounted from the raw records, and what readers would have seen.

Reads with a plain client and shares no code with the projector: an id counts once per campaign, first come.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

UUID = re.compile(r"[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{32}", re.ASCII)


@dataclass
class Recount:
    """`cells` per (campaign, KPI), `ids` per campaign, `verdicts` per record, `set_aside` by quarantine key."""

    cells: Counter[tuple[int, str]] = field(default_factory=Counter)
    ids: dict[int, set[str]] = field(default_factory=dict)
    verdicts: Counter[str] = field(
        default_factory=lambda: Counter(consumed=0, counted=0, duplicate=0, parked=0, rejected=0)
    )
    set_aside: dict[str, tuple[str, bytes | None]] = field(default_factory=dict)


class Publication(NamedTuple):
    """One message of the KPI topic."""

    value: int
    epoch: int
    rev: int


def messages(bootstrap: str, topic: str, isolation: str = "read_committed") -> Iterator[Message]:
    """Every message of the topic, from its heads to its ends, in the order of each partition."""
    reader = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"oracle-{topic}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": isolation,
            "enable.partition.eof": True,
            "fetch.queue.backoff.ms": 5,
        }
    )
    try:
        partitions = set(reader.list_topics(topic, 30).topics[topic].partitions)
        reader.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        while partitions:
            for message in reader.consume(5_000, 0.2):
                error = message.error()
                if error is None:
                    yield message
                elif error.code() == KafkaError._PARTITION_EOF:
                    partitions.discard(message.partition() or 0)
                elif not error.retriable():
                    raise AssertionError(error)
    finally:
        reader.close()


def recount(bootstrap: str, topic: str, campaign_of: Mapping[str, int]) -> Recount:
    """Count the raw topic, record by record."""
    found = Recount()
    for message in messages(bootstrap, topic):
        value: bytes | None = message.value()
        found.verdicts["consumed"] += 1
        verdict, campaign, kpi, event_id = _judged(value, campaign_of)
        if verdict == "event":
            ids = found.ids.setdefault(campaign, set())
            verdict = "duplicate" if event_id in ids else "counted"
            if verdict == "counted":
                ids.add(event_id)
                found.cells[campaign, kpi] += 1
        else:
            found.set_aside[f"{topic}/{message.partition()}/{message.offset()}"] = (verdict, value)
        found.verdicts[verdict] += 1
    return found


def _judged(value: bytes | None, campaign_of: Mapping[str, int]) -> tuple[str, int, str, str]:
    rejected = ("rejected", 0, "", "")
    try:
        document: Any = json.loads((value or b"").decode())
    except (ValueError, RecursionError):
        return rejected
    if not isinstance(document, dict):
        return rejected
    about = document.get("metadata", document)
    bins = document.get("bins", [])
    if about.get("msg") != "write" or not isinstance(bins, list):
        return rejected
    fields = {one["name"]: one["value"] for one in bins} if bins else document
    data = fields["event-data"]
    if data["event"] not in ("impression", "click", "visit", "conversion") or data["tag"] not in campaign_of:
        return ("parked", 0, "", "")
    return ("event", campaign_of[data["tag"]], data["event"] + "s", spelled(fields["event-id"]))


def spelled(event_id: str) -> str:
    """One spelling for all spellings of a UUID."""
    lower = event_id.lower()
    return lower.replace("-", "") if UUID.fullmatch(lower) else event_id


def publications(bootstrap: str, topic: str) -> dict[tuple[int, str], list[Publication]]:
    """Per campaign and KPI what a read_committed reader is given, in its order."""
    seen: dict[tuple[int, str], list[Publication]] = {}
    for message in messages(bootstrap, topic):
        told = json.loads(message.value() or b"")
        assert message.key() == f"{told['campaignId']}:{told['kpi']}".encode()
        cell = (told["campaignId"], told["kpi"])
        seen.setdefault(cell, []).append(Publication(told["value"], told["epoch"], told["rev"]))
    return seen


def quarantine(bootstrap: str, topic: str) -> dict[str, tuple[str, bytes | None]]:
    """Per position the last message: its verdict and the original bytes."""
    kept: dict[str, tuple[str, bytes | None]] = {}
    for message in messages(bootstrap, topic):
        headers = dict(message.headers() or [])
        verdict = headers["verdict"]
        assert isinstance(verdict, bytes)
        assert headers["reason"], headers
        kept[(message.key() or b"").decode()] = (verdict.decode(), message.value())
    return kept
