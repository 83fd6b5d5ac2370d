"""Carry: exact with a head that is gone, wherever it is killed; nothing at or past a head is touched."""

import random
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from projector.backends.embedded_log import EmbeddedLog
from projector.backends.embedded_store import EmbeddedStore
from projector.balance import Totals, parse_totals, read_balance
from projector.carry import SLOT, Gone, carry, gone
from projector.comparison import Comparer
from projector.config import Config
from projector.errors import LedgerDamaged, OffsetsGone, Refused
from projector.event import KPIS
from projector.fold import EventId, Sighting
from projector.footing import check, ledgers
from projector.generation import Generation
from projector.log import Log, Message
from projector.page import page_key
from projector.pointer import POINTER
from projector.projector import Projector
from projector.store import Delete, Presence, Put, Read, RowKey, Store, Write
from tests.end_to_end.traffic import Traffic
from tests.fault.faults import Crash, Fate, FaultyLog, FaultyStore, Late, Nth
from tests.fault.memory_store import MemoryStore
from tests.generations import CONFIG, LIVE, REBUILT, Counting, GroupsLog, Oldest, create_campaigns, ids_of

HEADS = {0: 7, 1: 4}


def count_all(log: Log, store: Store, config: Config, generation: Generation) -> None:
    """A worker of the generation counts the topic as far as it goes now."""
    settled = Projector(log, store, config, generation, 1, "a", 0.0)
    settled.run(until_end=True, stopping=lambda: False)


def test_what_is_gone_is_carried_and_the_rest_recounted(tmp_path: Path) -> None:
    """Twice over, as retention goes on: the truth, the balance, every ledger and the comparison are exact."""
    path = tmp_path / "projector.db"
    log, store = EmbeddedLog(path), EmbeddedStore(path)
    config = Config(batch_records=100, page_ids=16, input_topic="in", kpi_topic="out", quarantine_topic="aside")
    live, rebuilt = Generation(1, config.group), Generation(2, config.group)
    for topic, partitions in (("in", 3), ("out", 1), ("aside", 1)):
        log.create_topic(topic, partitions, {})
    campaign_of = {str(uuid.uuid5(uuid.NAMESPACE_OID, str(n))): n % 4 for n in range(40)}
    create_campaigns(store, range(4))
    store.write(
        [Write(RowKey("tags", tag), [Put("c-id", campaign)], Presence.ABSENT) for tag, campaign in campaign_of.items()]
    )
    traffic = Traffic(random.Random(3), campaign_of)

    def send(records: int) -> None:
        log.append([Message("in", None, value, partition=n % 3) for n, value in enumerate(traffic.take(records))])

    def exact(generation: Generation) -> None:
        held = Counter({(campaign, KPIS[s[0]]): 0 for campaign in range(4) for s in [[0]]})
        for campaign in range(4):
            held.update((campaign, KPIS[sighting[0]]) for sighting in ids_of(store, generation, campaign).values())
        assert +held == traffic.truth
        balance = read_balance(log, store, config, generation)
        assert balance.holds
        assert not balance.unknown
        assert [check(store, generation, campaign) for campaign in ledgers(store, generation)] == [[]] * 4

    send(900)
    count_all(log, store, config, live)
    log.delete_before("in", {0: 100, 2: 250})
    with pytest.raises(OffsetsGone):
        count_all(EmbeddedLog(path, lease_ms=1), store, config, rebuilt)
    while log.members(rebuilt.group):
        time.sleep(0.01)
    assert gone(log, config, rebuilt) == [Gone(0, 0, 100), Gone(2, 0, 250)]
    carried = carry(log, store, config, live, rebuilt)
    assert carried == carry(log, store, config, live, rebuilt)
    assert carried.keys() == {0, 2}
    assert min(carried.values()) > 0
    count_all(log, store, config, rebuilt)
    exact(rebuilt)
    send(300)
    count_all(log, store, config, live)
    log.delete_before("in", {0: 350, 1: 100, 2: 260})
    assert gone(log, config, rebuilt) == [Gone(0, 300, 350)]
    again = carry(log, store, config, live, rebuilt)
    assert again[2] == carried[2]
    assert again[0] > carried[0]
    count_all(log, store, config, rebuilt)
    exact(rebuilt)
    exact(live)
    compared = Comparer(log, store, config, live, rebuilt).compare()
    assert compared.same
    assert compared.ids_held == (traffic.verdicts["counted"],) * 2


def live_ids() -> dict[int, dict[EventId, Sighting]]:
    """Two campaigns whose ids stand at offsets 0 to 11 of both partitions."""
    held: dict[int, dict[EventId, Sighting]] = {1: {}, 2: {}}
    for number in range(24):
        held[1 + number % 3 // 2][f"id-{number}"] = [number % 4, 100 + number, number % 2, number // 2]
    return held


def prepared(store: MemoryStore | None = None) -> tuple[GroupsLog, MemoryStore]:
    """The live generation has counted, and the heads have moved."""
    log, store = GroupsLog(), store or MemoryStore(lambda: 0.0)
    for partition, head in HEADS.items():
        for _ in range(12):
            log.append_marker(CONFIG.input_topic, partition)
        log.delete_before(CONFIG.input_topic, partition, head)
    create_campaigns(store, (1, 2, 3))
    for campaign, ids in live_ids().items():
        Counting(store, LIVE).count(campaign, ids)
    return log, store


def before_heads() -> dict[int, Mapping[EventId, Sighting]]:
    """What is to be carried."""
    return {c: {key: s for key, s in ids.items() if s[3] < HEADS[s[2]]} for c, ids in live_ids().items()}


def assert_carried(log: GroupsLog, store: MemoryStore) -> None:
    """Exactly the ids before the heads, with their positions, and a checkpoint at the heads that says how many."""
    assert {campaign: ids_of(store, REBUILT, campaign) for campaign in (1, 2)} == before_heads()
    checkpoint = log.checkpoint(REBUILT.group, CONFIG.input_topic)
    assert {p: (each.offset, parse_totals(each.metadata)) for p, each in checkpoint.items()} == {
        p: (head, Totals(carried=head)) for p, head in HEADS.items()
    }
    assert log.members(REBUILT.group) == []


@pytest.mark.parametrize("fate", [Fate.CRASH_BEFORE, Fate.CRASH_AFTER, Fate.FAIL_AFTER])
def test_carry_killed_at_any_call_and_run_again(fate: Fate) -> None:
    """Ends the same; before the checkpoint is there nothing else has changed."""
    at = 0
    while True:
        at += 1
        log, store = prepared()
        faults = Nth(at, fate)
        faulty = FaultyStore(store, faults, Late(lambda: 0))
        try:
            carry(FaultyLog(log, faults), faulty, CONFIG, LIVE, REBUILT)
        except Crash:
            assert fate is not Fate.FAIL_AFTER
        if faults.calls < at:
            break
        assert carry(log, store, CONFIG, LIVE, REBUILT) == HEADS
        assert_carried(log, store)
    assert at > 20


class Moving:
    """A clock that moves as far as somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """At once."""
        self.now += seconds


class CrashingStore:
    """The store under it forgets all that has not settled, right before the n-th call."""

    def __init__(self, store: MemoryStore, at: int) -> None:
        self._store = store
        self._at = at
        self.calls = 0

    def __getattr__(self, name: str) -> object:
        self.calls += 1
        if self.calls == self._at:
            self._store.crash(Oldest())
        return getattr(self._store, name)


def test_a_store_that_forgets_at_any_moment() -> None:
    """What is committed as carried is in the store for good."""
    at = 0
    while True:
        at += 1
        clock = Moving()
        log, store = prepared(MemoryStore(lambda: clock.now * 1_000, flush_ms=50, settle_ms=300))  # noqa: B023  # used in this turn
        clock.sleep(60)
        store.durable(POINTER)
        crashing = CrashingStore(store, at)
        carry(log, crashing, CONFIG, LIVE, REBUILT, clock=clock)  # type: ignore[arg-type]  # passes all on
        store.crash(Oldest())
        assert_carried(log, store)
        if crashing.calls < at:
            break
    assert at > 15


def test_openings_and_campaigns_without_events_come_over() -> None:
    """Also those of which no id is carried."""
    log, store = prepared()
    opening = dict.fromkeys(sorted(KPIS), 5)
    bins = {"c-id": 9, "c-date": 9, "c-name": "nine", "stats": opening, "opening": opening, "seal": 0, "prev": 0}
    store.write([Write(RowKey("campaigns", 9), [Put(name, value) for name, value in bins.items()], Presence.ABSENT)])  # type: ignore[arg-type]  # bins of any type
    carry(log, store, CONFIG, LIVE, REBUILT)
    (row,) = store.read([Read(RowKey(REBUILT.campaigns, 9), ("c-id", "c-date", "c-name", "stats", "opening", "rev"))])
    assert row is not None
    assert row.bins == {"c-id": 9, "c-date": 9, "c-name": "nine", "stats": opening, "opening": opening, "rev": 0}


def test_a_head_that_moves_on_before_the_recount_begins() -> None:
    """The next carry adds what is gone since."""
    log, store = prepared()
    carry(log, store, CONFIG, LIVE, REBUILT)
    log.delete_before(CONFIG.input_topic, 1, 9)
    assert gone(log, CONFIG, REBUILT) == [Gone(1, 4, 9)]
    assert carry(log, store, CONFIG, LIVE, REBUILT) == {0: 7, 1: 9}
    held = {key: s for ids in live_ids().values() for key, s in ids.items() if s[3] < (7, 9)[s[2]]}
    assert {**ids_of(store, REBUILT, 1), **ids_of(store, REBUILT, 2)} == held


def test_an_id_that_a_killed_recount_left_before_the_new_head_is_carried_too() -> None:
    """It is in the rows and no checkpoint counts it: the live generation has that id at another position."""
    log, store = prepared()
    Counting(store, REBUILT).count(1, {"id-22": [0, 100, 0, 3]})
    assert live_ids()[1]["id-22"] != [0, 100, 0, 3]
    assert carry(log, store, CONFIG, LIVE, REBUILT) == {0: 8, 1: 4}


def test_a_scratch_generation_of_some_campaigns_gets_these_alone() -> None:
    """Neither ids nor a row of another one, and its checkpoint counts its own."""
    log, store = prepared()
    ids = before_heads()[1]
    counted = Counter(sighting[2] for sighting in ids.values())
    assert 0 < len(ids) < sum(HEADS.values())
    assert carry(log, store, CONFIG, LIVE, REBUILT, campaigns=[1]) == counted
    assert ids_of(store, REBUILT, 1) == ids
    assert [row.bins["c-id"] for page in store.scan(REBUILT.campaigns, ("c-id",)) for row in page] == [1]
    assert {p: each.offset for p, each in log.checkpoint(REBUILT.group, CONFIG.input_topic).items()} == HEADS


def test_a_topic_that_is_whole_needs_no_carry() -> None:
    """Nothing is written."""
    log, store = GroupsLog(), MemoryStore(lambda: 0.0)
    assert gone(log, CONFIG, REBUILT) == []
    assert carry(log, store, CONFIG, LIVE, REBUILT) == {}
    assert log.checkpoint(REBUILT.group, CONFIG.input_topic) == {}


def test_workers_of_the_new_generation_must_be_gone() -> None:
    """Another member is refused; a carry that was killed as a member is not."""
    log, store = prepared()
    log.seats["b"] = 99
    with pytest.raises(Refused, match="projector-g2-b"):
        carry(log, store, CONFIG, LIVE, REBUILT)
    log.seats.clear()
    log.seats[SLOT] = 98
    assert carry(log, store, CONFIG, LIVE, REBUILT) == HEADS


def test_a_damaged_live_ledger_is_not_carried() -> None:
    """A page that is missing would be a silent under-count."""
    log, store = prepared()
    (row,) = store.read([Read(RowKey(LIVE.campaigns, 1), ("prev",))])
    assert row is not None
    store.write([Write(page_key(LIVE.pages, 1, row.bins["prev"]), [Delete()], Presence.EITHER)])
    with pytest.raises(LedgerDamaged, match="generation 1, campaign 1"):
        carry(log, store, CONFIG, LIVE, REBUILT)
