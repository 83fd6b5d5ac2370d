"""A short run in which one chosen port call goes wrong, on any pair of backends, and what must hold after it."""

import json
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

from projector.clock import Clock
from projector.config import Config
from projector.errors import Retryable
from projector.generation import Generation
from projector.log import Log, Message
from projector.projector import Projector
from projector.store import Presence, Put, Read, RowKey, Store, Write
from tests.fault.faults import Crash, Fate, FaultyLog, FaultyStore, Late
from tests.fault.oracle import INPUT, KINDS, KPI, QUARANTINE

TURNS_MAX = 400
CAMPAIGNS = {"tag-1": 1, "tag-2": 2}
IDS = [str(uuid.uuid5(uuid.NAMESPACE_URL, str(n))) for n in range(8)]


def event(number: int, kind: str, tag: str) -> bytes:
    """One record's value, as the connector writes it."""
    bins: list[dict[str, Any]] = [
        {"name": "event-id", "type": "str", "value": IDS[number]},
        {"name": "event-data", "type": "map", "value": {"tag": tag, "event": kind}},
    ]
    return json.dumps({"msg": "write", "key": ["test", "events", "x", None], "bins": bins}).encode()


RECORDS: list[tuple[int, bytes | None]] = [
    (0, event(0, "click", "tag-1")),
    (1, event(1, "visit", "tag-1")),
    (0, event(0, "click", "tag-1")),  # near duplicate
    (1, event(2, "click", "tag-2")),
    (0, b"{"),
    (1, event(3, "impression", "tag-1")),
    (0, event(1, "visit", "tag-1")),  # duplicate of another partition
    (1, event(4, "visit", "tag-unknown")),
    (0, event(2, "visit", "tag-2")),  # conflict
    (1, event(4, "conversion", "tag-1")),
]


def prepare(log: Log, store: Store) -> None:
    """Topics, reference data and all records."""
    for topic, partitions in ((INPUT, 2), (KPI, 1), (QUARANTINE, 1)):
        log.create_topic(topic, partitions, {})
    zeros = {kind + "s": 0 for kind in KINDS}
    writes = []
    for tag, campaign in CAMPAIGNS.items():
        row = [Put("c-id", campaign), Put("stats", zeros)]
        writes.append(Write(RowKey("campaigns", campaign), row, Presence.EITHER))
        writes.append(Write(RowKey("tags", tag), [Put("t-id", tag), Put("c-id", campaign)], Presence.EITHER))
    store.write(writes)
    log.append([Message(INPUT, None, value, (), partition, 1_700_000_000_000) for partition, value in RECORDS])


class Script:
    """`Faults` in which call number `at` (from 0) meets `fate`; `calls` are all that were made."""

    def __init__(self, clock: Clock, at: int = -1, fate: Fate = Fate.FINE) -> None:
        self._clock = clock
        self._at = at
        self.struck = fate
        self.calls: list[str] = []
        self.strike: Callable[[], None] = lambda: None
        """What else happens at that call."""

    @property
    def happened(self) -> bool:
        """Whether the call was reached."""
        return len(self.calls) > self._at

    def fate(self, call: str) -> Fate:
        """Every call takes a millisecond."""
        self._clock.sleep(0.001)
        self.calls.append(call)
        if len(self.calls) - 1 != self._at:
            return Fate.FINE
        self.strike()
        return self.struck


class Run:
    """Workers of one slot, one after the other, until everything is counted."""

    def __init__(self, log: Log, store: Store, clock: Clock, script: Script, patience_s: float, late: Late) -> None:
        self._log = log
        self._store = store
        self._clock = clock
        self._script = script
        self._patience_s = patience_s
        self._late = late

    def worker(self) -> Projector:
        """One more worker; its batches are split."""
        settings: dict[str, Any] = {"batch_records": 4, "batch_ms": 1, "page_ids": 2}
        log, store = FaultyLog(self._log, self._script), FaultyStore(self._store, self._script, self._late)
        settle_s = (self._store.limits().settle_ms or 0) / 1000
        generation = Generation(1, "projector")
        worker = Projector(
            log, store, Config(**settings), generation, 1, "a", settle_s, clock=self._clock, patience_s=self._patience_s
        )
        worker._judge._ledger._write_ids_max = 2  # not a setting
        return worker

    def play(self, stop_at_fault: bool = False) -> None:
        """To the end; with `stop_at_fault` the first worker stops in order after the turn in which the fault came."""
        worker: Projector | None = None
        ends = self._log.ends(INPUT)
        for _ in range(TURNS_MAX):
            try:
                if worker is None:
                    worker = self.worker()
                    worker.join()
                worker.turn()
                if stop_at_fault and self._script.happened:
                    stop_at_fault = False
                    worker.leave()
                    if self._script.struck in (Fate.FAIL_BEFORE, Fate.FAIL_AFTER):  # else a write of another is there
                        even(self._log, self._store)
                    worker = None
                elif worker.finished(ends):
                    worker.leave()
                    return
            except (Crash, Retryable):
                # A turn mends what is Retryable; what escapes is of join and leave.
                worker = None
        raise AssertionError("rest is not reached")


def even(log: Log, store: Store) -> None:
    """The checkpoint has a verdict for whatever the rows hold, and for nothing more."""
    checkpoint = log.checkpoint("projector", INPUT).values()
    counted = sum(json.loads(offset.metadata)["counted"] for offset in checkpoint)
    rows = store.read([Read(RowKey("campaigns", campaign), ("stats",)) for campaign in CAMPAIGNS.values()])
    assert counted == sum(sum(row.bins["stats"].values()) for row in rows if row)


def recount(log: Log, store: Store) -> None:
    """What must hold at rest, through the ports alone."""
    records = [record for page in log.read(INPUT) for record in page]
    assert len(records) == len(RECORDS)
    positions: Counter[tuple[int, int]] = Counter((record.partition, record.offset) for record in records)
    stats = {campaign: _ledger(store, campaign) for campaign in CAMPAIGNS.values()}
    assert stats[1] == {"visits": 1, "impressions": 1, "clicks": 1, "conversions": 1}
    assert stats[2]["visits"] + stats[2]["clicks"] == 1
    assert stats[2]["impressions"] == stats[2]["conversions"] == 0
    totals: Counter[str] = Counter()
    for partition, (offset, metadata) in log.checkpoint("projector", INPUT).items():
        assert offset == log.ends(INPUT)[partition]
        totals.update({name: count for name, count in json.loads(metadata).items() if name != "v"})
    assert totals == Counter(consumed=len(positions), counted=5, duplicate=3, parked=1, rejected=1)
    published = [json.loads(record.value or b"") for page in log.read(KPI) for record in page]
    last = {(each["campaignId"], each["kpi"]): each["value"] for each in published}
    rows = {(campaign, kpi): value for campaign, row in stats.items() for kpi, value in row.items()}
    assert last == {each: rows[each] for each in last}
    assert {each for each in rows if rows[each]} <= last.keys()
    assert all(each["value"] <= stats[each["campaignId"]][each["kpi"]] for each in published)
    values: dict[tuple[int, str, int], int] = {}
    for each in published:
        assert values.setdefault((each["campaignId"], each["kpi"], each["rev"]), each["value"]) == each["value"]
    quarantined = {record.key: dict(record.headers)["reason"] for page in log.read(QUARANTINE) for record in page}
    assert Counter(quarantined.values()) == {b"not-json": 1, b"unknown-tag": 1, b"conflict": 1}


def _ledger(store: Store, campaign: int) -> dict[str, int]:
    """A row's stats, which must agree with the ids of row and pages."""
    bins = ("stats", "seen", "sealed", "seal", "prev")
    (row,) = store.read([Read(RowKey("campaigns", campaign), bins)])
    assert row is not None
    ids = {**row.bins.get("seen", {}), **row.bins.get("sealed", {})}
    seal = row.bins["prev"] if row.bins.get("sealed") else row.bins["seal"]
    while seal:
        (page,) = store.read([Read(RowKey("campaigns-seen", f"{campaign}/{seal:016x}"), ("ids", "before"))])
        assert page is not None
        assert not page.bins["ids"].keys() & ids.keys()
        ids.update(page.bins["ids"])
        seal = next(iter(page.bins["before"]), 0)
    held = Counter(KINDS[sighting[0]] + "s" for sighting in ids.values())
    stats: dict[str, int] = row.bins["stats"]
    assert stats == {kpi: held[kpi] for kpi in stats}
    return stats
