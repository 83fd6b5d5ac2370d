"""A number is given once and for ever; what is abandoned is gone, but for the campaigns, wherever it was killed."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from projector import abandonment
from projector.abandonment import abandon
from projector.backends.embedded_log import EmbeddedLog
from projector.backends.embedded_store import EmbeddedStore
from projector.config import Config
from projector.errors import Refused
from projector.event import KPIS
from projector.generation import Generation
from projector.generations import Build, State, builds, create, read, record, record_settled, row_key, standings
from projector.log import Offset
from projector.page import page_key
from projector.pointer import CLOSING, POINTER, create_pointer
from projector.store import Answer, Presence, Put, Read, RowKey, Store, Write
from tests.aerospike_server import NOT_EXERCISED, Server, server_available
from tests.fault.faults import Crash, Fate, FaultyLog, FaultyStore, Late, Nth
from tests.fault.memory_store import MemoryStore
from tests.generations import CONFIG, LIVE, REBUILT, Counting, GroupsLog, Oldest, create_campaigns, ids_of

CAMPAIGNS = (1, 2, 3)
IDS = 40


def no_wait(_: float) -> None:
    """The store needs no time."""


def pointing(store: Store, live: int, state: str = "open") -> None:
    """The pointer row, as if a cutover had been."""
    store.write([Write(POINTER, [Put("live", live), Put("state", state), Put("nonce", random.getrandbits(60))])])


@pytest.fixture
def store() -> MemoryStore:
    """Generation 1 is live."""
    made = MemoryStore(lambda: 0.0)
    create_pointer(made, "in")
    create_campaigns(made, CAMPAIGNS)
    return made


@pytest.fixture
def log() -> GroupsLog:
    """An empty topic."""
    return GroupsLog()


def fill(store: Store, *generations: Generation) -> None:
    """Every campaign counts in each of them."""
    for generation in generations:
        worker = Counting(store, generation)
        for campaign in CAMPAIGNS:
            worker.count(campaign, {f"{campaign}-{n}": [n % 4, 100, n % 2, n] for n in range(IDS)})


def rows(store: Store, set_name: str, bins: tuple[str, ...] = ("c-id", "seal", "digest")) -> list[object]:
    """What a set holds."""
    return [dict(row.bins) for page in store.scan(set_name, bins) for row in page]


# --- numbers


def test_numbers_follow_each_other_and_generation_1_needs_no_row(store: MemoryStore) -> None:
    """Each with its index, and listed; the pointer says who is live."""
    assert [(build.number, build.state) for build in builds(store)] == [(1, State.LIVE)]
    assert create(GroupsLog(), store, CONFIG).number == 2
    scratch = create(GroupsLog(), store, CONFIG, campaigns=[41], until={0: 5, 1: 6}, scratch=True)
    assert read(store, 3) == scratch
    assert (scratch.state, scratch.campaigns, scratch.until) == (State.SCRATCH, [41], {0: 5, 1: 6})
    assert store.has_index("campaigns-g3", "c-date")
    assert scratch.version
    pointing(store, 2)
    assert [build.state for build in builds(store)] == [State.RETIRED, State.LIVE, State.SCRATCH]
    with pytest.raises(Refused, match="no generation 9"):
        read(store, 9)


def test_the_row_keeps_what_is_recorded(store: MemoryStore) -> None:
    """All of it."""
    build = create(GroupsLog(), store, CONFIG)._replace(
        state=State.READY, built_ms=77, source={0: 4, 1: 9}, totals={"clicks": 2, "visits": 3}
    )
    record(store, build)
    assert read(store, 2) == build
    (standing, other) = standings(GroupsLog(), store, CONFIG)
    assert (standing.build.number, standing.ids) == (1, 0)
    assert other.build == build


def test_an_abandoned_number_is_never_given_again(store: MemoryStore, log: GroupsLog) -> None:
    """Its row stays."""
    abandon(log, store, CONFIG, create(GroupsLog(), store, CONFIG).number)
    assert create(GroupsLog(), store, CONFIG).number == 3
    assert [build.state for build in builds(store)] == [State.LIVE, State.ABANDONED, State.BUILDING]


def test_a_number_whose_group_has_a_checkpoint_is_not_given(store: MemoryStore, log: GroupsLog) -> None:
    """The store was lost, the log was not: a generation with empty rows would begin where the lost one stood."""
    for lost in (2, 3):
        log.commit(Generation(lost, CONFIG.group), {0: 7})
    assert create(log, store, CONFIG).number == 4
    assert [build.number for build in builds(store)] == [1, 4]


class Raced:
    """A store in which another creates the same row a moment before."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._first = True

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def write(self, writes: list[Write]) -> list[Answer]:
        """The other is first."""
        if self._first:
            self._first = False
            self._store.write(
                [Write(row_key(2), [Put("number", 2), Put("state", "building"), Put("nonce", 1)], Presence.ABSENT)]
            )
        return self._store.write(writes)


def test_two_at_once_get_two_numbers(store: MemoryStore) -> None:
    """The second sees that the row is not its own."""
    assert create(GroupsLog(), Raced(store), CONFIG).number == 3  # type: ignore[arg-type]  # passes all on


def test_a_number_that_the_store_forgets_is_not_used() -> None:
    """A crash before the row has settled: whoever goes on under that number would share it with the next."""
    now = [0.0]
    store = MemoryStore(lambda: now[0], flush_ms=50, settle_ms=300)
    create_pointer(store, "in")
    now[0] = 1_000
    crashes = [True]

    def wait(seconds: float) -> None:
        if crashes:
            crashes.pop()
            store.crash(Oldest())
        now[0] += seconds * 1_000

    assert create(GroupsLog(), store, CONFIG, sleep=wait).number == 2
    assert store.durable(row_key(2)) is not None
    record_settled(store, CONFIG, Build(2, State.READY), sleep=wait)
    assert dict(store.durable(row_key(2)) or {})["state"] == "ready"


def test_a_number_is_never_without_its_index() -> None:
    """Killed while its row settles: another goes on with it, and may make it live."""
    store = MemoryStore(lambda: 0.0)
    create_pointer(store, "in")

    def killed(_: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        create(GroupsLog(), store, CONFIG, sleep=killed)
    assert store.has_index(read(store, 2).generation(CONFIG).campaigns, "c-date")


def test_a_number_counts_only_once_the_device_has_it() -> None:
    """While acknowledged writes wait for the device, a crash would take the number back."""
    now = [0.0]
    store = MemoryStore(lambda: now[0], flush_ms=50, settle_ms=300)
    create_pointer(store, "in")
    now[0] = 1_000
    stalls = [False, True]

    def wait(seconds: float) -> None:
        if seconds:
            store.stall(stalls.pop())
        now[0] += seconds * 1_000

    build = create(GroupsLog(), store, CONFIG, sleep=wait)
    store.crash(Oldest())
    assert read(store, build.number) == build


# --- abandonment


def prepare(store: Store) -> None:
    """Generations 1 and 2 have counted the same, each with copies of its checkpoint; to one page of 2 no row leads."""
    create(GroupsLog(), store, CONFIG)
    fill(store, LIVE, REBUILT)
    for generation in (LIVE, REBUILT):
        for partition in (0, 1):
            copy = RowKey("projector", f"checkpoint/g{generation.number}/{partition}")
            store.write([Write(copy, [Put("offset", 5), Put("metadata", "")], Presence.ABSENT)])
    store.write([Write(page_key(REBUILT.pages, 2, 0xABC), [Put("seal", 0xABC)], Presence.ABSENT)])


def assert_gone(store: Store) -> None:
    """Of generation 2 all but its row; nothing of generation 1."""
    assert rows(store, REBUILT.campaigns) == rows(store, REBUILT.pages) == []
    copies = [RowKey("projector", f"checkpoint/g{n}/{p}") for n in (1, 2) for p in (0, 1)]
    assert [row is not None for row in store.read([Read(each, ("offset",)) for each in copies])] == [
        True,
        True,
        False,
        False,
    ]
    assert read(store, 2).state is State.ABANDONED
    assert sum(read(store, 2).totals.values()) == IDS * len(CAMPAIGNS)
    for campaign in CAMPAIGNS:
        assert len(ids_of(store, LIVE, campaign)) == IDS


def test_an_abandoned_generation_leaves_nothing(store: MemoryStore, log: GroupsLog) -> None:
    """Not even the page that no row leads to; what is there is told as it goes."""
    prepare(store)
    pages = len(rows(store, REBUILT.pages))
    assert pages > 20
    dropped: list[int] = []
    abandon(log, store, CONFIG, 2, dropped.append)
    assert_gone(store)
    assert sum(dropped) >= pages + len(CAMPAIGNS)
    abandon(log, store, CONFIG, 2)
    assert_gone(store)


@pytest.fixture(params=["embedded", "aerospike"])
def durable_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store of its own, in which generation 1 is live."""
    server = None
    if request.param == "embedded":
        made: Store = EmbeddedStore(tmp_path / "store.db")
    else:
        if not server_available():
            pytest.skip(NOT_EXERCISED)
        from projector.backends.aerospike import AerospikeStore

        server = Server().start()
        made = AerospikeStore(server.properties)
    create_pointer(made, "in")
    create_campaigns(made, CAMPAIGNS)
    yield made
    made.close()
    if server:
        server.remove()


def test_created_abandoned_and_created_anew_on_durable_stores(durable_store: Store, log: GroupsLog) -> None:
    """The same, on stores that settle and scan in their own ways."""
    store = durable_store
    prepare(store)
    assert store.has_index(REBUILT.campaigns, "c-date")
    abandon(log, store, CONFIG, 2)
    assert_gone(store)
    assert create(GroupsLog(), store, CONFIG, campaigns=[1], until={0: 5}, scratch=True).number == 3
    assert read(store, 3).until == {0: 5}
    pointing(store, 3)
    abandon(log, store, CONFIG, 1)
    assert rows(store, LIVE.pages) == []
    assert len(rows(store, LIVE.campaigns)) == len(CAMPAIGNS)
    assert [len(ids_of(store, LIVE, each)) for each in CAMPAIGNS] == [0, 0, 0]


def test_abandoning_killed_anywhere_and_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left."""
    monkeypatch.setattr(abandonment, "ROWS_PER_CALL", 5)
    at = 0
    while True:
        at += 1
        store, log = MemoryStore(lambda: 0.0), GroupsLog()
        create_pointer(store, "in")
        create_campaigns(store, CAMPAIGNS)
        prepare(store)
        faults = Nth(at, Fate.CRASH_AFTER)
        try:
            abandon(FaultyLog(log, faults), FaultyStore(store, faults, Late(lambda: 0)), CONFIG, 2)
        except Crash:
            abandon(log, store, CONFIG, 2)
        assert_gone(store)
        if faults.calls < at:
            break
    assert at > 50


def test_rows_that_a_store_crash_brings_back_go_the_next_time(store: MemoryStore, log: GroupsLog) -> None:
    """Also pages whose campaign's row did not come back."""
    prepare(store)
    abandon(log, store, CONFIG, 2)
    store.write([Write(page_key(REBUILT.pages, 3, 0xDEF), [Put("seal", 0xDEF)], Presence.ABSENT)])
    abandon(log, store, CONFIG, 2)
    assert_gone(store)


def test_of_generation_1_the_campaigns_stay_with_their_openings(store: MemoryStore, log: GroupsLog) -> None:
    """They are those of every generation; a third one begins from them."""
    prepare(store)
    opening = dict.fromkeys(sorted(KPIS), 3)
    added = [Put("opening", opening), Put("stats", dict.fromkeys(opening, 3 + IDS // 4))]
    store.write([Write(RowKey("campaigns", 1), added)])
    pointing(store, 2)
    abandon(log, store, CONFIG, 1)
    assert rows(store, LIVE.pages) == []
    wanted = ("c-id", "c-date", "c-name", "stats", "opening", "seen", "sealed", "seal", "pages", "head")
    first, second, _ = store.read([Read(RowKey("campaigns", each), wanted) for each in CAMPAIGNS])
    assert first is not None
    assert second is not None
    empty = {"seen": {}, "sealed": {}, "seal": 0, "pages": 0, "head": b""}
    assert first.bins == {
        "c-id": 1,
        "c-date": 1_001,
        "c-name": "Campaign 1",
        "stats": opening,
        "opening": opening,
        **empty,
    }
    assert second.bins["stats"] == dict.fromkeys(KPIS, 0)
    third = Generation(3, CONFIG.group)
    fill(store, third)
    (row,) = store.read([Read(RowKey(third.campaigns, 1), ("stats",))])
    assert row is not None
    assert row.bins["stats"] == dict.fromkeys(opening, 3 + IDS // 4)
    for campaign in CAMPAIGNS:
        assert len(ids_of(store, REBUILT, campaign)) == IDS


def busy(_: Store, log: GroupsLog) -> None:
    """Its workers run."""
    log.seats["b"] = 1


def live(store: Store, _: GroupsLog) -> None:
    """It is live."""
    pointing(store, 2)


def closing(store: Store, _: GroupsLog) -> None:
    """Somebody is about to make it live."""
    pointing(store, 1, CLOSING)


@pytest.mark.parametrize("state", [busy, live, closing])
def test_refused_and_nothing_changed(
    store: MemoryStore, log: GroupsLog, state: Callable[[Store, GroupsLog], None]
) -> None:
    """While it is live, may become it, or has workers."""
    prepare(store)
    state(store, log)
    before = len(rows(store, REBUILT.pages))
    with pytest.raises(Refused):
        abandon(log, store, CONFIG, 2)
    assert len(rows(store, REBUILT.pages)) == before
    (row,) = store.read([Read(row_key(2), ("state",))])
    assert row is not None
    assert row.bins["state"] == "building"


class Overtaken:
    """A store in which a cutover begins right after the mark is written."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def write(self, writes: list[Write]) -> list[Answer]:
        """Closing comes with the mark."""
        answers = self._store.write(writes)
        if Put("state", "abandoned") in writes[0].operations:
            pointing(self._store, 1, CLOSING)
        return answers


def test_a_cutover_that_begins_meanwhile_is_seen(store: MemoryStore, log: GroupsLog) -> None:
    """It may have read the row before the mark: abandoning gives way, and takes the mark back."""
    prepare(store)
    with pytest.raises(Refused, match="cutover"):
        abandon(log, Overtaken(store), CONFIG, 2)  # type: ignore[arg-type]  # passes all on
    assert read(store, 2).state is State.BUILDING
    assert len(ids_of(store, REBUILT, 1)) == IDS


def test_the_checkpoint_goes_with_the_group(tmp_path: Path) -> None:
    """On a log of several groups; the live one keeps its own."""
    log, store = EmbeddedLog(tmp_path / "p.db"), EmbeddedStore(tmp_path / "p.db")
    config = Config(input_topic="in")
    log.create_topic("in", 1, {})
    create_pointer(store, "in")
    create(log, store, config)
    for generation in (LIVE, REBUILT):
        member = log.join(generation.group, "in", "a", Quiet())
        member.poll(1, 1)
        member.commit([], {0: Offset(0, generation.group)})
        member.leave()
    abandon(log, store, config, 2)
    assert log.checkpoint(REBUILT.group, "in") == {}
    assert log.checkpoint(LIVE.group, "in") == {0: Offset(0, LIVE.group)}


class Quiet:
    """A listener at offset 0."""

    def assigned(self, partitions: Sequence[int]) -> Mapping[int, int]:
        """From the start."""
        return dict.fromkeys(partitions, 0)

    def revoked(self, partitions: Sequence[int]) -> None:
        """Nothing is in hand."""

    def lost(self, partitions: Sequence[int]) -> None:
        """Nothing is in hand."""
