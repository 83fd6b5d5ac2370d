"""The comparison reads no page twice, names what is damaged, and knows again what it has explained; on every store."""

import itertools
import random
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from projector import comparison
from projector.backends.embedded_store import EmbeddedStore
from projector.comparison import Comparer
from projector.differences import Cause
from projector.event import KPIS
from projector.fold import EventId, Sighting
from projector.generation import Generation
from projector.page import page_key
from projector.store import AddEntry, Delete, Operation, Presence, Put, PutNew, Read, Row, RowKey, Store, Write
from projector.tally import Scope
from tests.aerospike_server import NOT_EXERCISED, aerospike_properties
from tests.fault.memory_store import MemoryStore
from tests.generations import CONFIG, LIVE, REBUILT, Counting, GroupsLog, Oldest, create_campaigns, ids_of, set_aside

ONE, TWO = 700_001, 700_002
IDS = 60


class Reads:
    """A store that counts the ids that are read whole."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.pages: list[RowKey] = []
        self.rows: list[RowKey] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def read(self, reads: Sequence[Read]) -> list[Row | None]:
        """Notes which rows and pages are read with their ids."""
        self.pages += [each.row for each in reads if "ids" in each.bins]
        self.rows += [each.row for each in reads if "seen" in each.bins]
        return self._store.read(reads)


@pytest.fixture(params=["memory", "embedded", "aerospike"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Each kind, without rows of these generations."""
    if request.param == "memory":
        yield MemoryStore(lambda: 0.0)
        return
    if request.param == "embedded":
        made: Store = EmbeddedStore(tmp_path / "store.db")
    else:
        properties = aerospike_properties()
        if properties is None:
            pytest.skip(NOT_EXERCISED)
        from projector.backends.aerospike import AerospikeStore

        made = AerospikeStore(properties)
    yield made
    made.close()


@pytest.fixture
def pair(store: Store) -> tuple[Generation, Generation]:
    """Two generations that no other test has."""
    number = random.randrange(3, 1 << 30)
    create_campaigns(store, (ONE, TWO))
    return Generation(number, CONFIG.group), Generation(number + 1, CONFIG.group)


def ids(count: int, first: int = 0, partition: int = 0) -> dict[EventId, Sighting]:
    """UUIDs, with other ids between."""
    return {
        (f"id-{n}" if n % 5 == 0 else uuid.uuid5(uuid.NAMESPACE_OID, str(n)).bytes): [n % 4, 100, partition, n]
        for n in range(first, first + count)
    }


def done(log: GroupsLog, *generations: Generation) -> None:
    """Both have read everything."""
    for generation in generations:
        log.commit(generation, {0: 10_000, 1: 10_000})


def shuffled(held: dict[EventId, Sighting]) -> dict[EventId, Sighting]:
    """In another order, at other positions, in other pages."""
    order = list(held)
    random.Random(5).shuffle(order)
    return {key: [*held[key][:2], 1, position] for position, key in enumerate(order)}


def test_the_same_ids_in_other_pages_and_at_other_positions_are_the_same(
    store: Store, pair: tuple[Generation, Generation]
) -> None:
    """And the progress ends with all that was to be read."""
    live, rebuilt = pair
    log = GroupsLog()
    done(log, *pair)
    Counting(store, live, page_ids=4).count(ONE, ids(IDS))
    Counting(store, rebuilt, page_ids=7).count(ONE, shuffled(ids(IDS)))
    said: list[tuple[int, int]] = []
    compared = Comparer(log, store, CONFIG, live, rebuilt).compare(lambda *each: said.append(each))
    assert compared.same
    assert not compared.blocks
    assert compared.ids_held == (IDS, IDS)
    assert (2 * IDS, 2 * IDS) in said
    assert all(finished <= total for finished, total in said)


def test_one_id_more_one_less_and_one_of_another_kind_are_named(
    store: Store, pair: tuple[Generation, Generation]
) -> None:
    """The cells are exactly those, and nothing is excused."""
    live, rebuilt = pair
    log = GroupsLog()
    done(log, *pair)
    held, other = ids(IDS), shuffled(ids(IDS))
    names = list(held)
    Counting(store, live).count(ONE, held)
    del other[names[8]]
    other[names[9]] = [2, *other[names[9]][1:]]
    extra = ids(1, first=1_003)
    Counting(store, rebuilt).count(ONE, {**other, **extra})
    for campaign in (live, rebuilt):
        Counting(store, campaign).count(TWO, ids(IDS))
    compared = Comparer(log, store, CONFIG, live, rebuilt).compare()
    assert compared.blocks
    assert {each.id for each in compared.ids} == {names[8], names[9], *extra}
    assert {(each.campaign, each.cause) for each in compared.ids} == {(ONE, Cause.UNEXPLAINED)}
    assert {(cell.campaign, cell.kpi): cell.difference for cell in compared.cells} == {
        (ONE, "visits"): -1,
        (ONE, "impressions"): -1,
        (ONE, "clicks"): 1,
        (ONE, "conversions"): 1,
    }
    assert all(cell.excused == 0 for cell in compared.cells)


def test_swapped_kinds_differ_although_every_total_agrees(store: Store, pair: tuple[Generation, Generation]) -> None:
    """Two ids that changed places between two KPIs."""
    live, rebuilt = pair
    log = GroupsLog()
    done(log, *pair)
    held = ids(IDS)
    first, second = list(held)[:2]
    swapped = {**held, first: held[second], second: held[first]}
    Counting(store, live).count(ONE, held)
    Counting(store, rebuilt).count(ONE, swapped)
    compared = Comparer(log, store, CONFIG, live, rebuilt).compare()
    assert {each.id for each in compared.ids} == {first, second}
    assert [cell.difference for cell in compared.cells] == [0, 0]
    assert compared.blocks


def test_an_id_at_the_checkpoint_is_excused_and_one_before_it_is_not(
    store: Store, pair: tuple[Generation, Generation]
) -> None:
    """A checkpoint is the next offset: the record at it has not been read."""
    live, rebuilt = pair
    log = GroupsLog()
    log.commit(live, {0: IDS})
    log.commit(rebuilt, {0: 40})
    Counting(store, live).count(ONE, ids(IDS))
    Counting(store, rebuilt).count(ONE, ids(39))
    compared = Comparer(log, store, CONFIG, live, rebuilt).compare()
    causes = {each.live[3]: each.cause for each in compared.ids if each.live}
    assert causes == {39: Cause.UNEXPLAINED, **dict.fromkeys(range(40, IDS), Cause.PAST_CHECKPOINT)}


def test_what_was_excused_as_past_a_checkpoint_is_not_once_that_has_moved(
    store: Store, pair: tuple[Generation, Generation]
) -> None:
    """The rebuilt one has read the records since, and has not counted them."""
    live, rebuilt = pair
    log = GroupsLog()
    log.commit(live, {0: IDS})
    log.commit(rebuilt, {0: 40})
    Counting(store, live).count(ONE, ids(IDS))
    Counting(store, rebuilt).count(ONE, ids(40))
    comparer = Comparer(log, store, CONFIG, live, rebuilt)
    assert comparer.compare().counts == {Cause.PAST_CHECKPOINT: 20}
    log.commit(rebuilt, {0: IDS})
    assert comparer.compare().counts == {Cause.UNEXPLAINED: 20}


def test_what_one_has_not_read_yet_is_found_in_the_newest_pages(
    store: Store, pair: tuple[Generation, Generation]
) -> None:
    """Both run on between two looks, one ahead of the other: the ids of years are not searched for that.

    An id that both have is no difference, wherever each counted it.
    """
    live, rebuilt = pair
    log = GroupsLog()
    reads = Reads(store)
    workers = [Counting(store, generation, page_ids=4) for generation in pair]
    twice = ids(1, first=5)
    for worker in workers:
        worker.count(ONE, {key: value for key, value in ids(IDS).items() if key not in twice})
    comparer = Comparer(log, reads, CONFIG, live, rebuilt)  # type: ignore[arg-type]  # passes all on
    comparer.refresh()
    reads.pages.clear()
    workers[0].count(ONE, ids(6, first=IDS))
    workers[1].count(ONE, ids(2, first=IDS))
    log.commit(live, {0: IDS + 6})
    log.commit(rebuilt, {0: IDS + 2})
    compared = comparer.compare()
    assert sorted(each.live[3] for each in compared.ids if each.live) == [62, 63, 64, 65]
    assert compared.counts == {Cause.PAST_CHECKPOINT: 4}
    assert len(reads.pages) < 14
    workers[1].count(ONE, twice)
    workers[0].count(ONE, {key: [*value[:3], IDS + 6] for key, value in twice.items()})
    workers[1].count(ONE, ids(2, first=3_000))
    log.commit(live, {0: IDS + 7})
    compared = comparer.compare()
    assert sorted(each.live[3] for each in compared.ids if each.live) == [62, 63, 64, 65]
    assert compared.counts == {Cause.PAST_CHECKPOINT: 6}


def test_a_lost_id_is_not_hidden_by_those_that_one_has_not_read_yet(
    store: Store, pair: tuple[Generation, Generation]
) -> None:
    """It lies far back, and the newest pages account for all others."""
    live, rebuilt = pair
    log = GroupsLog()
    lost = ids(1, first=3)
    Counting(store, live).count(ONE, ids(IDS))
    Counting(store, rebuilt).count(ONE, {key: value for key, value in ids(IDS - 9).items() if key not in lost})
    log.commit(live, {0: IDS})
    log.commit(rebuilt, {0: IDS - 9})
    compared = Comparer(log, store, CONFIG, live, rebuilt).compare()
    assert compared.counts == {Cause.UNEXPLAINED: 1, Cause.PAST_CHECKPOINT: 9}
    assert [each.id for each in compared.ids if each.cause is Cause.UNEXPLAINED] == list(lost)


def test_a_row_that_was_written_anew_is_read_anew(store: Store, pair: tuple[Generation, Generation]) -> None:
    """Its pages have other names: what was known of the old ones is not added to them."""
    live, rebuilt = pair
    log = GroupsLog()
    done(log, *pair)
    for generation in pair:
        Counting(store, generation).count(ONE, ids(IDS))
    comparer = Comparer(log, store, CONFIG, live, rebuilt)
    comparer.refresh()
    store.write([Write(RowKey(rebuilt.campaigns, ONE), [Delete()])])
    Counting(store, rebuilt).count(ONE, ids(IDS + 1))
    assert [(each.rebuilt or [])[3] for each in comparer.compare().ids] == [IDS]
    Counting(store, live).count(ONE, ids(1, first=IDS))
    assert comparer.compare().same


def test_nothing_is_read_twice(store: Store, pair: tuple[Generation, Generation]) -> None:
    """Not the row of a campaign in which nothing was counted, and no page again; what is new is read."""
    live, rebuilt = pair
    log = GroupsLog()
    done(log, *pair)
    reads = Reads(store)
    workers = [Counting(store, generation) for generation in pair]
    for worker, campaign in itertools.product(workers, (ONE, TWO)):
        worker.count(campaign, ids(IDS))
    comparer = Comparer(log, reads, CONFIG, live, rebuilt)  # type: ignore[arg-type]  # passes all on
    comparer.refresh()
    assert len(reads.pages) == len(set(reads.pages)) > 20
    assert len(reads.rows) == 4
    for worker in workers:
        worker.count(TWO, ids(10, first=IDS))
    before = set(reads.pages)
    reads.pages.clear()
    reads.rows.clear()
    compared = comparer.compare()
    assert compared.same
    assert compared.ids_held == (2 * IDS + 10,) * 2
    assert not before & set(reads.pages)
    assert 0 < len(reads.pages) <= 8
    assert sorted(reads.rows) == sorted(RowKey(each.campaigns, TWO) for each in pair)


def test_ids_explained_before_are_known_again_without_reading(
    store: Store, pair: tuple[Generation, Generation]
) -> None:
    """What the live one parked differs for ever: the last comparison, while nobody counts, must not search for it."""
    live, rebuilt = pair
    log = GroupsLog()
    done(log, *pair)
    reads = Reads(store)
    parked = ids(1, first=999, partition=1)
    set_aside(log, 1, 999, "parked", "unknown-tag", live)
    workers = [Counting(store, generation) for generation in pair]
    workers[0].count(ONE, ids(IDS))
    workers[1].count(ONE, {**ids(IDS), **parked})
    comparer = Comparer(log, reads, CONFIG, live, rebuilt)  # type: ignore[arg-type]  # passes all on
    first = comparer.compare()
    for worker in workers:
        worker.count(ONE, ids(3, first=IDS))
    reads.pages.clear()
    again = comparer.compare()
    assert len(reads.pages) <= 4
    for compared in (first, again):
        assert [(each.id, each.cause) for each in compared.ids] == [(next(iter(parked)), Cause.SET_ASIDE)]
        assert "parked, unknown-tag" in compared.ids[0].detail
        assert [(cell.kpi, cell.difference, cell.excused) for cell in compared.cells] == [("conversions", 1, 1)]
        assert not compared.blocks
        assert not compared.same
    workers[0].count(ONE, ids(1, first=2_000))
    assert comparer.compare().counts == {Cause.SET_ASIDE: 1, Cause.UNEXPLAINED: 1}


def test_what_the_new_generation_set_aside_itself_excuses_nothing(
    store: Store, pair: tuple[Generation, Generation]
) -> None:
    """Nor does an id that it lacks because it is parked now."""
    live, rebuilt = pair
    log = GroupsLog()
    done(log, *pair)
    Counting(store, live).count(ONE, ids(1))
    Counting(store, rebuilt).count(ONE, ids(1, first=1))
    set_aside(log, 0, 0, "parked", "unknown-tag", live)
    set_aside(log, 0, 1, "parked", "unknown-tag", rebuilt)
    assert Comparer(log, store, CONFIG, live, rebuilt).compare().counts == {Cause.UNEXPLAINED: 2}


def test_a_large_campaign_is_searched_in_parts(
    store: Store, pair: tuple[Generation, Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every id that differs is found once, whatever part it is in."""
    monkeypatch.setattr(comparison, "IDS_MAX", 7)
    live, rebuilt = pair
    log = GroupsLog()
    done(log, *pair)
    Counting(store, live).count(ONE, ids(IDS))
    Counting(store, rebuilt).count(ONE, ids(IDS, first=20))
    compared = Comparer(log, store, CONFIG, live, rebuilt).compare()
    assert sorted((each.live or each.rebuilt or [])[3] for each in compared.ids) == [*range(20), *range(60, 80)]


def test_more_differences_than_there_is_room_for_are_counted_all_the_same(
    store: Store, pair: tuple[Generation, Generation], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listed are as many as fit; twice, so that a list cut short is never taken for all that differs."""
    monkeypatch.setattr(comparison, "LISTED_MAX", 5)
    monkeypatch.setattr(comparison, "KEPT_MAX", 8)
    live, rebuilt = pair
    log = GroupsLog()
    log.commit(rebuilt, {0: 30})
    log.commit(live, {0: IDS})
    Counting(store, live).count(ONE, ids(IDS))
    comparer = Comparer(log, store, CONFIG, live, rebuilt)
    for _ in range(2):
        compared = comparer.compare()
        assert compared.counts == {Cause.PAST_CHECKPOINT: 30, Cause.UNEXPLAINED: 30}
        assert len(compared.ids) == 10
        assert sum(cell.excused for cell in compared.cells) == -30


def damaged_page(store: Store, generation: Generation) -> str:
    """An archived page is gone."""
    (row,) = store.read([Read(RowKey(generation.campaigns, ONE), ("seal", "prev", "sealed"))])
    assert row is not None
    seal = row.bins["prev"] if row.bins["sealed"] else row.bins["seal"]
    store.write([Write(page_key(generation.pages, ONE, seal), [Delete()], Presence.EITHER)])
    return "is missing"


def damaged_stats(store: Store, generation: Generation) -> str:
    """A counter that no id accounts for."""
    store.write([Write(RowKey(generation.campaigns, ONE), [AddEntry("stats", "clicks", 1)])])
    return "clicks is 16, but opening 0 + 15 ids"


def damaged_id(store: Store, generation: Generation) -> str:
    """An id of a page stands in `seen` as well, and its counter agrees with that."""
    held = ids_of(store, generation, ONE)
    (row,) = store.read([Read(RowKey(generation.campaigns, ONE), ("seen",))])
    assert row is not None
    event_id, sighting = next((key, held[key]) for key in held if key not in row.bins["seen"])
    operations: list[Operation] = [PutNew("seen", {event_id: sighting}), AddEntry("stats", KPIS[sighting[0]], 1)]
    store.write([Write(RowKey(generation.campaigns, ONE), operations)])
    return "stands in two places"


@pytest.mark.parametrize("damage", [damaged_page, damaged_stats, damaged_id])
@pytest.mark.parametrize("side", [0, 1])
def test_a_ledger_that_does_not_add_up_is_named(
    store: Store, pair: tuple[Generation, Generation], damage: object, side: int
) -> None:
    """With its generation, and it blocks; whichever of the two it is."""
    log = GroupsLog()
    done(log, *pair)
    for generation in pair:
        Counting(store, generation).count(ONE, ids(IDS))
    named = damage(store, pair[side])  # type: ignore[operator]  # one of those above
    compared = Comparer(log, store, CONFIG, *pair).compare()
    assert compared.blocks
    assert {each.generation for each in compared.ledgers} == {pair[side].number}
    assert named in " | ".join(each.what for each in compared.ledgers)


def test_an_opening_that_did_not_come_over_is_named(store: Store, pair: tuple[Generation, Generation]) -> None:
    """Its total would fall at the cutover."""
    live, rebuilt = pair
    log = GroupsLog()
    done(log, *pair)
    opening = dict.fromkeys(KPIS, 7)
    bins: dict[str, object] = {"c-id": ONE, "stats": opening, "opening": opening, "seal": 0, "prev": 0, "rev": 0}
    store.write([Write(RowKey(live.campaigns, ONE), [Put(k, v) for k, v in bins.items()], Presence.ABSENT)])  # type: ignore[arg-type]  # bins of any type
    compared = Comparer(log, store, CONFIG, live, rebuilt).compare()
    assert "opening of clicks is 0, not 7" in {each.what for each in compared.ledgers}
    assert {cell.difference for cell in compared.cells} == {-7}
    assert compared.blocks


def test_a_store_that_forgot_is_read_anew() -> None:
    """After a crash a row may come to the same `rev` and `stats` with other ids; only the incarnation tells."""
    now = [0.0]
    store = MemoryStore(lambda: now[0], flush_ms=1_000, settle_ms=1_000)
    log = GroupsLog()
    done(log, LIVE, REBUILT)
    create_campaigns(store, (ONE,))
    workers = [Counting(store, generation, page_ids=1_000) for generation in (LIVE, REBUILT)]
    for worker in workers:
        worker.count(ONE, ids(3))
    now[0] = 10_000
    for worker in workers:
        worker.count(ONE, ids(1, first=3))
    comparer = Comparer(log, store, CONFIG, LIVE, REBUILT)
    assert comparer.compare().same
    store.crash(Oldest())
    Counting(store, LIVE, page_ids=1_000).count(ONE, ids(1, first=7))
    Counting(store, REBUILT, page_ids=1_000).count(ONE, ids(1, first=11))
    assert comparer.compare().counts == {Cause.UNEXPLAINED: 2}


def test_only_some_campaigns_up_to_some_offsets(store: Store, pair: tuple[Generation, Generation]) -> None:
    """A scratch generation of one campaign's first records, held against all of the live one."""
    live, scratch = pair
    log = GroupsLog()
    log.commit(live, {0: 10_000})
    log.commit(scratch, {0: 30})
    Counting(store, live).count(ONE, ids(IDS))
    Counting(store, live).count(TWO, ids(IDS))
    Counting(store, scratch).count(ONE, ids(30))
    scope = Scope(campaigns=[ONE], until={0: 30})
    assert Comparer(log, store, CONFIG, live, scratch, scope).compare().same
    lost = Comparer(log, store, CONFIG, live, scratch, Scope([ONE], {0: 31})).compare()
    assert [(each.live or [])[3] for each in lost.ids] == [30]
    assert [(cell.campaign, cell.live, cell.rebuilt) for cell in lost.cells] == [(ONE, 8, 7)]
