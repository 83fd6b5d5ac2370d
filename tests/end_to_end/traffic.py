"""Seeded traffic of ad events with everything in it that goes wrong in the field, and its truth by construction.

Shares no code with the projector, its simulator or the oracle.
"""

import random
import uuid
from collections import Counter
from collections.abc import Mapping

KINDS = ("impression",) * 25 + ("click",) * 5 + ("visit",) * 3 + ("conversion",)
CLEAN: Mapping[str, float] = {}
DIRTY: Mapping[str, float] = {
    "near": 0.05,
    "far": 0.04,
    "delete": 0.01,
    "unknown-tag": 0.015,
    "unknown-kind": 0.005,
    "malformed": 0.01,
    "tombstone": 0.002,
}
NEAR = 200
CONNECTOR = (
    '{"msg":"write","key":["test","events","%s",null],"gen":%d,"exp":0,"lut":0,"bins":['
    '{"name":"event-id","type":"str","value":"%s"},'
    '{"name":"event-data","type":"map","value":{"geo":[52.366521,4.894981],"tag":"%s","publisher":"p","event":"%s",'
    '"userAgent":"Mozilla/5.0 (X11; CrOS x86_64 8172.45.0)"}},'
    '{"name":"event-tag-id","type":"str","value":"%s"},'
    '{"name":"event-source","type":"str","value":"p"},{"name":"event-type","type":"str","value":"%s"}]}'
)
FLAT = (
    '{"metadata":{"msg":"write","namespace":"test","set":"events","userKey":null,"digest":"%s","gen":%d,"exp":0},'
    '"event-id":"%s","event-data":{"tag":"%s","event":"%s"},"event-tag-id":"%s","event-source":"p","event-type":"%s"}'
)
MALFORMED = (b"", b"{", b"[]", b"\xff\xfe", b'{"msg":"write","bins":7}', b'"event"', b"NaN", b"[" * 10_000)
DELETE = b'{"msg":"delete","key":["test","events","AvYAdzrOmm1xwvWZFyGwEvgjwnk=",null],"durable":false}'


class Traffic:
    """Draws records; `truth` holds the distinct events per (campaign, KPI), `verdicts` what each record must get."""

    def __init__(self, rng: random.Random, campaign_of: Mapping[str, int]) -> None:
        self._rng = rng
        self._tags = sorted(campaign_of)
        self._campaign_of = campaign_of
        self._sent: list[tuple[str, str, str]] = []
        self.truth: Counter[tuple[int, str]] = Counter()
        self.verdicts: Counter[str] = Counter(consumed=0, counted=0, duplicate=0, parked=0, rejected=0)

    def take(self, records: int, shares: Mapping[str, float] = DIRTY) -> list[bytes | None]:
        """The next values, `shares` of them not what they should be; `far` and `near` repeat what went before."""
        faults = self._rng.choices([*shares, ""], [*shares.values(), 1 - sum(shares.values())], k=records)
        return [self._value(fault) for fault in faults]

    def _value(self, fault: str) -> bytes | None:
        self.verdicts["consumed"] += 1
        rng = self._rng
        if fault in ("delete", "malformed", "tombstone"):
            self.verdicts["rejected"] += 1
            return DELETE if fault == "delete" else rng.choice(MALFORMED) if fault == "malformed" else None
        event_id = str(uuid.UUID(int=rng.getrandbits(128)))
        tag, kind = rng.choice(self._tags), rng.choice(KINDS)
        if fault.startswith("unknown"):
            self.verdicts["parked"] += 1
            tag, kind = (str(uuid.UUID(int=rng.getrandbits(128))), kind) if fault == "unknown-tag" else (tag, "hack")
        elif fault and self._sent:
            self.verdicts["duplicate"] += 1
            event_id, tag, kind = rng.choice(self._sent[-NEAR:]) if fault == "near" else rng.choice(self._sent)
            event_id = rng.choice((event_id, event_id, event_id.upper(), event_id.replace("-", "")))
        else:
            self.verdicts["counted"] += 1
            self._sent.append((event_id, tag, kind))
            self.truth[self._campaign_of[tag], kind + "s"] += 1
        form = FLAT if rng.random() < 0.05 else CONNECTOR
        return (form % ("AvYAdzrOmm1xwvWZFyGwEvgjwnk=", rng.randrange(9), event_id, tag, kind, tag, kind)).encode()
