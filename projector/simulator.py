"""The simulator: seeded ad events in the connector's form, and the truth that a correct projection must hold.

The mix is the reference's: of 34 events 25 impressions, 5 clicks, 3 visits, 1 conversion, each for a random tag.
The same parameters give the same bytes, partitions and timestamps.
"""

import base64
import random
import zlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from uuid import UUID

import msgspec

from projector.errors import Misconfigured
from projector.log import Message
from projector.reference import tag_id

START_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z."""
RATE_STAMPED = 1_000
"""Events a second by their timestamps, where they are sent as fast as it goes."""
NEAR, FAR, RESERVOIR = 100, 10_000, 20_000
"""How many records back a near and a far duplicate may lie; how many events are kept for the very far ones."""

KINDS = ("impression",) * 25 + ("click",) * 5 + ("visit",) * 3 + ("conversion",)
PUBLISHERS = tuple(str(UUID(int=0xE5B08DB3_07B5_456B_AAAC_000000000000 + n)) for n in range(9))
PLACES = (
    (52.366521, 4.894981),
    (48.856613, 2.352222),
    (51.507351, -0.127758),
    (40.712776, -74.005974),
    (35.689487, 139.691711),
    (-33.868820, 151.209290),
    (37.774929, -122.419418),
)
AGENTS = tuple(
    f"Mozilla/5.0 ({system}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{120 + n}.0.0.0 Safari/537.36"
    for n, system in enumerate(
        ("X11; CrOS x86_64 8172.45.0", "Windows NT 10.0; Win64; x64", "Macintosh; Intel Mac OS X 10_15_7") * 6
    )
)[:17]
MALFORMED: Sequence[tuple[str, bytes | None]] = (
    ("not-json", b'{"msg": "write", "key": ["test", "events", "AvYA'),
    ("not-json", b""),
    ("not-json", b'{"msg": "write", "bins": "\xff\xfe"}'),
    ("not-json", b'{"msg": "write", "bins": [NaN]}'),
    ("not-json", b"[" * 100_000),
    ("not-an-event", b"[1, 2, 3]"),
    ("not-an-event", b'{"msg": "write", "key": ["test", "events", "x", null]}'),
    ("not-an-event", b'{"msg": "write", "key": ["test", "events", "x", null], "bins": "none"}'),
    ("tombstone", None),
)
DELETE = b'{"msg": "delete", "key": ["test", "events", "AvYAdzrOmm1xwvWZFyGwEvgjwnk=", null], "durable": false}'


@dataclass(frozen=True)
class Shares:
    """Of all records, how many are not new good events. `reshipped`: the same event row, written once more."""

    duplicates_near: float = 0.02
    duplicates_far: float = 0.01
    duplicates_very_far: float = 0.002
    reshipped: float = 0.005
    deletes: float = 0.005
    unknown_tags: float = 0.005
    unknown_kinds: float = 0.002
    malformed: float = 0.002

    def __post_init__(self) -> None:
        held = [getattr(self, each.name) for each in fields(self)]
        if min(held) < 0 or sum(held) > 0.9:
            raise Misconfigured("the shares must not be negative, nor above 0.9 in all: lower them")


CLEAN = Shares(*[0.0] * 8)


class Truth(msgspec.Struct):
    """What a correct projection must hold: the events per campaign and KPI; verdicts and reasons of records."""

    campaigns: dict[str, dict[str, int]] = msgspec.field(default_factory=dict)
    verdicts: dict[str, int] = msgspec.field(default_factory=dict)
    reasons: dict[str, int] = msgspec.field(default_factory=dict)
    runs: list[str] = msgspec.field(default_factory=list)

    def count(self, campaign: int, kind: str) -> None:
        """One event more."""
        kpis = self.campaigns.setdefault(str(campaign), {})
        kpis[f"{kind}s"] = kpis.get(f"{kind}s", 0) + 1

    def judge(self, verdict: str, reason: str = "") -> None:
        """One record more."""
        for name in ("consumed", verdict):
            self.verdicts[name] = self.verdicts.get(name, 0) + 1
        if reason:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1

    def save(self, file: Path) -> None:
        """Write it as JSON."""
        file.write_bytes(msgspec.json.format(msgspec.json.encode(self)) + b"\n")


def load_truth(file: Path) -> Truth:
    """The truth in a file. Raises `Misconfigured`."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Truth)
    except (OSError, msgspec.DecodeError) as error:
        raise Misconfigured(f"truth file {file}: {error}: make it with: projector simulate --truth {file}") from error


@dataclass(frozen=True)
class Simulation:
    """What is simulated: so many distinct events, for the tags that `projector seed` makes of `tags_seed`."""

    events: int
    seed: int
    campaigns: int
    tags: int
    tags_seed: int = 1
    shares: Shares = field(default_factory=Shares)
    start_ms: int = START_MS
    stamped_rate: int = RATE_STAMPED


class _Sent:
    """What was sent and may come again: the last records, and a fair sample of all."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._lately: deque[tuple[int, bytes]] = deque(maxlen=FAR)
        self._sample: list[tuple[int, bytes]] = []
        self._seen = 0

    def add(self, partition: int, value: bytes) -> None:
        self._seen += 1
        self._lately.append((partition, value))
        if len(self._sample) < RESERVOIR:
            self._sample.append((partition, value))
        elif (at := self._rng.randrange(self._seen)) < RESERVOIR:
            self._sample[at] = (partition, value)

    def near(self) -> tuple[int, bytes]:
        return self._lately[-1 - self._rng.randrange(min(NEAR, len(self._lately)))]

    def far(self) -> tuple[int, bytes]:
        return self._lately[self._rng.randrange(len(self._lately))]

    def very_far(self) -> tuple[int, bytes]:
        return self._sample[self._rng.randrange(len(self._sample))]


def simulate(simulation: Simulation, topic: str, partitions: int, truth: Truth) -> Iterator[Message]:
    """The records, in the order in which they are to be appended; `truth` grows with them.

    Raises `Misconfigured` if `truth` holds another simulation of the same seed.
    """
    known = _named(simulation)
    if any(run.split()[1] == f"seed={simulation.seed}" for run in truth.runs):
        raise Misconfigured(
            f"the truth file holds a simulation with seed {simulation.seed} already: give another --seed or --truth"
        )
    truth.runs.append(known)
    rng = random.Random(f"projector/{simulation.seed}")
    sent = _Sent(rng)
    names = [each.name for each in fields(Shares)]
    weights = [getattr(simulation.shares, name) for name in names]
    what = [*names, ""]
    weights.append(1 - sum(weights))
    new, number = 0, 0
    while new < simulation.events:
        for kind in rng.choices(what, weights, k=1_000):
            partition, value, added = _record(kind, simulation, rng, sent, truth, partitions)
            timestamp_ms = simulation.start_ms + number * 1_000 // simulation.stamped_rate
            yield Message(topic, None, value, (), partition, timestamp_ms)
            number += 1
            new += added
            if new == simulation.events:
                return


def _named(simulation: Simulation) -> str:
    return f"events={simulation.events} seed={simulation.seed} campaigns={simulation.campaigns} tags={simulation.tags}"


def _record(
    kind: str, simulation: Simulation, rng: random.Random, sent: _Sent, truth: Truth, partitions: int
) -> tuple[int, bytes | None, bool]:
    """One record: its partition, its value, and whether it is a new event that counts."""
    match kind:
        case "duplicates_near" | "duplicates_far" | "duplicates_very_far" | "reshipped" if sent._seen:
            partition, value = {"duplicates_far": sent.far, "duplicates_very_far": sent.very_far}.get(kind, sent.near)()
            if kind == "reshipped":
                value = value.replace(b'"gen": 1', b'"gen": 2', 1)
            truth.judge("duplicate")
            return (rng.randrange(partitions) if rng.random() < 0.2 else partition), value, False
        case "deletes":
            truth.judge("rejected", "delete")
            return rng.randrange(partitions), DELETE, False
        case "malformed":
            reason, broken = rng.choice(MALFORMED)
            truth.judge("rejected", reason)
            return rng.randrange(partitions), broken, False
    campaign, number = rng.randint(1, simulation.campaigns), rng.randint(1, simulation.tags)
    event_kind = rng.choice(KINDS)
    event_id = UUID(int=rng.getrandbits(128), version=4)
    tag = tag_id(simulation.tags_seed, campaign, number)
    if kind == "unknown_tags":
        tag = tag_id(simulation.tags_seed, campaign, -number)
        truth.judge("parked", "unknown-tag")
    elif kind == "unknown_kinds":
        truth.judge("parked", "unknown-kind")
    value = _event(event_id, tag, "hack" if kind == "unknown_kinds" else event_kind, rng)
    partition = zlib.crc32(event_id.bytes) % partitions
    if kind in ("unknown_tags", "unknown_kinds"):
        return partition, value, False
    truth.judge("counted")
    truth.count(campaign, event_kind)
    sent.add(partition, value)
    return partition, value, True


def _event(event_id: UUID, tag: str, kind: str, rng: random.Random) -> bytes:
    role = {"visit": "advertiser", "conversion": "vendor"}.get(kind, "publisher")
    publisher = PUBLISHERS[rng.randrange(len(PUBLISHERS))]
    latitude, longitude = PLACES[rng.randrange(len(PLACES))]
    digest = base64.b64encode(event_id.bytes + event_id.bytes[:4]).decode()
    return (
        f'{{"msg": "write", "key": ["test", "events", "{digest}", null], "gen": 1, "exp": 0, "lut": 0, "bins": ['
        f'{{"name": "event-id", "type": "str", "value": "{event_id}"}}, '
        f'{{"name": "event-data", "type": "map", "value": {{"geo": [{latitude}, {longitude}], "tag": "{tag}", '
        f'"{role}": "{publisher}", "event": "{kind}", "userAgent": "{AGENTS[rng.randrange(len(AGENTS))]}"}}}}, '
        f'{{"name": "event-tag-id", "type": "str", "value": "{tag}"}}, '
        f'{{"name": "event-source", "type": "str", "value": "{publisher}"}}, '
        f'{{"name": "event-type", "type": "str", "value": "{kind}"}}]}}'
    ).encode()


def differences(truth: Truth, held: dict[int, dict[str, int]]) -> list[tuple[int, str, int, int]]:
    """Cells in which rows differ from the truth: (campaign, KPI, true, held)."""
    cells: Counter[tuple[int, str]] = Counter()
    for campaign, kpis in truth.campaigns.items():
        cells.update({(int(campaign), kpi): count for kpi, count in kpis.items()})
    rows = {(campaign, kpi): count for campaign, kpis in held.items() for kpi, count in kpis.items()}
    every = sorted({*cells, *rows})
    return [(*cell, cells[cell], rows.get(cell, 0)) for cell in every if cells[cell] != rows.get(cell, 0)]
