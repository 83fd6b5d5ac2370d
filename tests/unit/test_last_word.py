"""The last word: which rows are owed a publication, and when."""

import json
import random
from collections.abc import Sequence

import pytest

from projector.config import Config
from projector.errors import Retryable
from projector.kpi import ALL_CODES, Value
from projector.last_word import LastWord
from projector.log import Message
from projector.patience import Patience
from projector.projector import Projector
from projector.store import Add, AddEntry, Presence, Put, Read, Row, RowKey, Write
from tests.fault.memory_log import MemoryLog
from tests.fault.memory_store import MemoryStore
from tests.fault.oracle import INPUT, KPI
from tests.fault.script import IDS, event, prepare
from tests.fault.simulation import GENERATION, VirtualClock

STATS = {"visits": 1, "impressions": 0, "clicks": 0, "conversions": 0}


class World:
    """Rows 1 to 3 with `rev` 1, and a worker that owes nothing yet; a last word is due after 5 s, or when idle."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store = MemoryStore(lambda: self.clock.now * 1000, flush_ms=50)
        for campaign in (1, 2, 3):
            row = RowKey("campaigns", campaign)
            bins = [Put("c-id", campaign), Put("stats", STATS), Put("rev", 1)]
            self.store.write([Write(row, bins, Presence.EITHER)])
        self.word = LastWord(self.store, "campaigns", Patience(0.0), 5.0, self.clock.monotonic)

    def move(self, campaign: int, kpi: str = "visits") -> None:
        """Another worker adds to a row."""
        self.store.write([Write(RowKey("campaigns", campaign), [Add("rev", 1), AddEntry("stats", kpi, 1)])])


@pytest.fixture
def world() -> World:
    """Three rows."""
    return World()


def published(rev: int, visits: int = 1, code: int = 0) -> Value:
    """What a batch published."""
    return Value(STATS | {"visits": visits}, rev, {code})


def test_nothing_is_owed_at_first(world: World) -> None:
    """A worker that published nothing and got no partition reads nothing."""
    assert not world.word
    assert world.word.due(idle=True) == {}


def test_a_row_that_did_not_move_is_done(world: World) -> None:
    """Its `rev` is the one published last: nothing to publish, nothing owed."""
    world.word.owe({1: published(1)}, published=True)
    assert world.word.published == 1
    assert world.word.due(idle=True) == {}
    assert not world.word


def test_a_row_that_moved_is_published_with_all_kpis(world: World) -> None:
    """Another worker's value, and every KPI of it; once published it is looked at again."""
    world.word.owe({1: published(1)}, published=True)
    world.move(1)
    assert world.word.due(idle=True) == {1: Value(STATS | {"visits": 2}, 2, set(ALL_CODES))}


def test_each_kpi_has_a_last_word_of_its_own(world: World) -> None:
    """A later publication that names another KPI, at the row's newest `rev`, does not settle the debt of the first."""
    world.word.owe({1: published(1)}, published=True)
    world.move(1)
    world.word.owe({1: published(2, visits=2, code=2)}, published=True)
    assert world.word.due(idle=True) == {1: Value(STATS | {"visits": 2}, 2, set(ALL_CODES))}


def test_a_kpi_that_others_moved_is_their_debt(world: World) -> None:
    """Nothing is said again while what this worker said is so."""
    world.word.owe({1: published(1)}, published=True)
    world.move(1, "clicks")
    assert world.word.due(idle=True) == {}
    assert not world.word


def test_what_was_not_committed_is_owed_even_if_the_row_did_not_move(world: World) -> None:
    """Its transaction is not known to be committed."""
    world.word.owe({1: published(1)}, published=False)
    assert world.word.due(idle=True) == {1: Value(STATS, 1, set(ALL_CODES))}


def test_a_busy_worker_waits(world: World) -> None:
    """Only rows whose publication is old are looked at while there is other work."""
    world.word.owe({1: published(0, visits=0)}, published=True)
    assert world.word.due(idle=False) == {}
    world.clock.sleep(5.1)
    assert world.word.due(idle=False).keys() == {1}


def test_a_row_that_is_published_again_waits_anew(world: World) -> None:
    """The others are looked at when their time has come, whichever was published first."""
    world.word.owe({1: published(0, visits=0), 2: published(0, visits=0)}, published=True)
    world.clock.sleep(3.0)
    world.word.owe({1: published(0, visits=0)}, published=True)
    world.clock.sleep(3.0)
    assert world.word.due(idle=False).keys() == {2}
    world.clock.sleep(3.0)
    assert world.word.due(idle=False).keys() == {1}


def test_an_assignment_owes_every_row(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Page by page; a new assignment begins anew; rows that were never adopted are left out."""
    monkeypatch.setattr("projector.last_word.PAGE_ROWS", 2)
    world.store.write([Write(RowKey("campaigns", 9), [Put("c-id", 9), Put("stats", STATS)], Presence.EITHER)])
    world.word.assigned()
    assert world.word.due(idle=False).keys() == {1, 2}
    world.word.assigned()
    assert world.word.due(idle=False).keys() == {1, 2}
    assert world.word.due(idle=False).keys() == {3}
    assert world.word.due(idle=False) == {}
    assert not world.word


def test_a_worker_without_partitions_owes_nothing(world: World) -> None:
    """Its successors do."""
    world.word.assigned()
    world.word.owe({1: published(0, visits=0)}, published=True)
    world.word.clear()
    assert not world.word


def test_a_row_whose_adoption_was_forgotten_is_not_published(world: World) -> None:
    """It holds no `rev`, what it counted is counted again: nothing to say, and no error."""
    row = RowKey("campaigns", 9)
    world.clock.sleep(1)
    world.store.write([Write(row, [Put("c-id", 9), Put("stats", dict.fromkeys(STATS, 0))], Presence.EITHER)])
    world.clock.sleep(1)
    world.store.write([Write(row, [Put("rev", 1)])])
    first = random.Random(0)
    first.randrange = lambda _: 0  # type: ignore[method-assign, misc, assignment]  # falls back as far as it can
    world.store.crash(first)
    world.word.owe({9: published(1)}, published=False)
    assert world.word.due(idle=True) == {}


class _Away(MemoryStore):
    away = True

    def read(self, reads: Sequence[Read]) -> list[Row | None]:
        if self.away:
            raise Retryable("away")
        return super().read(reads)


def test_a_store_that_does_not_answer_forgets_no_debt() -> None:
    """Neither of a sweep nor of what was published."""
    store = _Away(lambda: 0.0)
    store.write([Write(RowKey("campaigns", 1), [Put("c-id", 1), Put("stats", STATS), Put("rev", 2)], Presence.EITHER)])
    word = LastWord(store, "campaigns", Patience(0.0), 5.0, lambda: 0.0)
    word.owe({1: published(1, visits=0)}, published=True)
    with pytest.raises(Retryable):
        word.due(idle=True)
    word.assigned()
    with pytest.raises(Retryable):
        word.due(idle=True)
    store.away = False
    assert word.due(idle=True).keys() == {1}
    assert word.due(idle=True) == {}
    assert word.due(idle=True).keys() == {1}


def test_a_worker_that_begins_publishes_before_it_counts() -> None:
    """After a switch readers have the totals at once, however long the caches take to load."""
    clock = VirtualClock()
    store = MemoryStore(lambda: clock.now * 1000, flush_ms=100, settle_ms=300)
    log = MemoryLog(lambda: clock.now * 1000, random.Random(1))
    prepare(log, store)
    clock.sleep(10)

    def worker(epoch: int) -> Projector:
        made = Projector(log, store, Config(batch_records=2, batch_ms=1), GENERATION, epoch, "a", 0.3, clock=clock)
        made.join()
        return made

    def clicks() -> list[tuple[int, int]]:
        """Of campaign 1, with their epochs."""
        messages = [json.loads(record.value or b"") for records in log.read(KPI) for record in records]
        told = [each for each in messages if (each["campaignId"], each["kpi"]) == (1, "clicks")]
        return [(each["epoch"], each["value"]) for each in told]

    first = worker(1)
    for _ in range(100):
        first.turn()
        clock.sleep(0.1)
    first.leave()
    before = clicks()[-1][1]
    new = event(0, "click", "tag-1").replace(IDS[0].encode(), b"new")
    log.append([Message(INPUT, None, new, (), 0, 0)])
    second = worker(2)
    for _ in range(100):
        second.turn()
        clock.sleep(0.1)
    assert [each for each in dict.fromkeys(clicks()) if each[0] == 2] == [(2, before), (2, before + 1)]
