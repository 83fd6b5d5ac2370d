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

from tests.property.event_oracle import judge

KINDS = ("impression", "click", "visit", "conversion")
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
    """An event of the usual form in a few lines; everything else by the table of the contracts."""
    try:
        document: Any = json.loads((value or b"").decode())
        bins = document.get("bins", [])
        fields = {one["name"]: one["value"] for one in bins} if bins else document
        data, about = fields["event-data"], document.get("metadata", document)
        source = document["key"][1] if bins else about["set"]
        usual = about["msg"] == "write" and source == "events" and len(fields) >= len(bins)
        usual = usual and UUID.fullmatch(fields["event-id"].lower())
        if usual and data["event"] in KINDS and data["tag"] in campaign_of:
            return ("event", campaign_of[data["tag"]], data["event"] + "s", spelled(fields["event-id"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass  # the table decides
    verdict, *found = judge(value)
    if verdict != "event":
        return (verdict, 0, "", "")
    event_id, kpi, tag = found
    if tag not in campaign_of:
        return ("parked", 0, "", "")
    return ("event", campaign_of[tag], kpi, event_id.hex() if isinstance(event_id, bytes) else event_id)


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
