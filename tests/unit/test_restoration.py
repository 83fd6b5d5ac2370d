"""Restoration: which of its positions an id of a lost page was counted at, told from what is left of the ledgers."""

import random
from collections import Counter

import duckdb
import pytest

from projector.errors import Refused
from projector.fold import EventId, Sighting
from projector.page import NO_PAGE, page_key
from projector.repair.evidence import Evidence, packed_id
from projector.repair.restoration import Candidates, restore, write_page
from projector.store import Delete, Presence, Read, RowKey, Write
from tests.fault.memory_store import MemoryStore
from tests.generations import LIVE, Counting, create_campaigns, ids_of

TABLES = """
CREATE TABLE topic (
    partition INTEGER, position BIGINT, second BIGINT, id BLOB, code UTINYINT, tag VARCHAR, reason VARCHAR);
CREATE TABLE ledger (
    campaign BIGINT, id BLOB, code UTINYINT, second BIGINT, partition INTEGER, position BIGINT, place VARCHAR);
CREATE TABLE tags (tag VARCHAR, campaign BIGINT);
INSERT INTO tags VALUES ('one', 1), ('two', 2);
"""
QUARANTINED = "CREATE TABLE quarantined (partition INTEGER, position BIGINT, verdict VARCHAR, reason VARCHAR)"
CHECKPOINT = {0: 10_000, 1: 10_000}


def filled(ids: dict[EventId, Sighting], page_ids: int) -> tuple[MemoryStore, list[int]]:
    """A store in which these are counted one by one, and its pages, newest first."""
    store = MemoryStore(lambda: 0.0)
    create_campaigns(store, [1])
    Counting(store, LIVE, page_ids).count(1, ids)
    (row,) = store.read([Read(RowKey("campaigns", 1), ("seal", "prev", "sealed"))])
    assert row is not None
    seals = [row.bins["prev"] if row.bins["sealed"] else row.bins["seal"]]
    while True:
        (page,) = store.read([Read(page_key(LIVE.pages, 1, seals[-1]), ("before",))])
        assert page is not None
        if not page.bins["before"]:
            return store, seals
        seals.append(page.bins["before"][0])


def drop(store: MemoryStore, seal: int) -> None:
    assert seal != NO_PAGE
    store.write([Write(page_key(LIVE.pages, 1, seal), [Delete()], Presence.EITHER)])


def test_positions_that_are_not_between_the_neighbours_are_left_out() -> None:
    """Of ids that the topic has twice, thirty in one page, by turns counted in the one and in the other partition."""
    counted: dict[EventId, Sighting] = {f"id-{n}": [0, n, n % 2, n] for n in range(200)}
    store, seals = filled(counted, 30)
    before = ids_of(store, LIVE, 1)
    drop(store, seals[2])
    twice = {key: [[0, at[1], 1 - at[2], at[3] + 5_000], at] for key, at in counted.items()}
    restoration = restore(store, LIVE, 1, CHECKPOINT, lambda _: Candidates(twice))
    (restored,) = restoration.pages
    assert restored.missing
    assert len(restored.page.ids) > 20
    assert restoration.missing == {}
    assert restoration.below == Counter({0: 100, 1: 100})
    assert write_page(store, LIVE, restored.page)
    assert not write_page(store, LIVE, restored.page)
    assert ids_of(store, LIVE, 1) == before


def test_pages_that_are_apart_are_told_apart() -> None:
    """Two missing ones, with a page between them."""
    counted: dict[EventId, Sighting] = {f"id-{n}": [0, n, 0, n] for n in range(200)}
    store, seals = filled(counted, 20)
    before = ids_of(store, LIVE, 1)
    for seal in (seals[1], seals[3]):
        drop(store, seal)
    restoration = restore(store, LIVE, 1, CHECKPOINT, lambda _: Candidates({key: [at] for key, at in counted.items()}))
    for restored in restoration.pages:
        write_page(store, LIVE, restored.page)
    assert ids_of(store, LIVE, 1) == before


@pytest.mark.parametrize("number", [0, 1, 3, -2, -1])
def test_an_id_that_stands_elsewhere(number: int) -> None:
    """One of the page was counted at its second position; another one is missing beside the page."""
    counted: dict[EventId, Sighting] = {f"id-{n}": [n % 4, n, 0, n] for n in range(60)}
    store, seals = filled(counted, 8)
    (page,) = store.read([Read(page_key(LIVE.pages, 1, seals[number]), ("ids",))])
    assert page is not None
    key, at = next(iter(page.bins["ids"].items()))
    drop(store, seals[number])
    found = {each: [sighting] for each, sighting in counted.items()}
    found[key] = [[at[0], at[1], 1, 7], at]
    found["beside"] = [[0, 1, 1, 8]]
    restoration = restore(store, LIVE, 1, CHECKPOINT, lambda _: Candidates(found))
    assert [restored.page.ids for restored in restoration.pages] == [page.bins["ids"]]
    assert restoration.missing == {"beside": [0, 1, 1, 8]}


def test_a_page_of_which_the_topic_lacks_an_id() -> None:
    """Is refused: its digest does not come about."""
    counted: dict[EventId, Sighting] = {f"id-{n}": [0, n, 0, n] for n in range(60)}
    store, seals = filled(counted, 8)
    (page,) = store.read([Read(page_key(LIVE.pages, 1, seals[1]), ("ids",))])
    assert page is not None
    drop(store, seals[1])
    lacking = {key: [at] for key, at in counted.items() if key != next(iter(page.bins["ids"]))}
    with pytest.raises(Refused, match="projector rebuild"):
        restore(store, LIVE, 1, CHECKPOINT, lambda _: Candidates(lacking))


# --- evidence


def test_the_position_that_was_read_first() -> None:
    """A held id, whose two positions were read between those of a lost one, tells which of these was the first."""
    choose = random.Random(4)
    offsets = [0, 0]
    topic: list[tuple[int, int, int, bytes, int, str, str | None]] = []
    ledger: list[tuple[int, bytes, int, int, int, int, str]] = []
    truth: dict[EventId, Sighting] = {}
    for number in range(100):
        first = choose.randrange(2)
        for partition in (first, 1 - first):
            for tag, name in (("one", f"lost-{number}"), ("two", f"held-{number}"))[:: 1 if partition == first else -1]:
                offset = offsets[partition]
                offsets[partition] += 1
                topic.append((partition, offset, 50, packed_id(name), 2, tag, None))
                if partition == first and tag == "two":
                    ledger.append((2, packed_id(name), 2, 50, partition, offset, "seen"))
                elif partition == first:
                    truth[name] = [2, 50, partition, offset]
    with duckdb.connect() as database:
        database.execute(TABLES)
        database.execute(QUARANTINED)
        database.executemany("INSERT INTO topic VALUES (?, ?, ?, ?, ?, ?, ?)", topic)
        database.executemany("INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?)", ledger)
        candidates = Evidence(database, CHECKPOINT, lambda: None).candidates(1, [])
    assert {key: at[0] for key, at in candidates.ids.items()} == truth
    assert all(len(at) == 1 for at in candidates.ids.values())


def test_what_was_parked_is_not_what_was_counted() -> None:
    """The position that quarantine has comes apart from the later one of the same partition."""
    with duckdb.connect() as database:
        database.execute(TABLES)

        def read_quarantine() -> None:
            database.execute(f"{QUARANTINED}; INSERT INTO quarantined VALUES (0, 3, 'parked', 'unknown-tag')")

        for offset in (3, 5, 6):
            database.execute("INSERT INTO topic VALUES (0, ?, 9, ?, 1, 'one', NULL)", [offset, packed_id("a")])
        candidates = Evidence(database, {0: 6}, read_quarantine).candidates(1, [])
    assert candidates.counted() == {"a": [[1, 9, 0, 5]]}
    assert sorted(candidates.ids["a"]) == [[1, 9, 0, 3], [1, 9, 0, 5]]
