"""Whereabouts: the ledger says of each id where it is, and no page that is not as it was archived stays unnamed."""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from projector.adoption import COUNTS_WITHOUT_LEDGER, UNKNOWN
from projector.fold import EventId, Sighting
from projector.page import Page
from projector.store import Delete, Presence, Put, Read, Row, RowKey, Store, Write
from projector.whereabouts import ENTRIES_MAX, Counted, Whereabouts, pages_sealed
from tests.fault.memory_store import MemoryStore
from tests.generations import LIVE, Counting, create_campaigns

IDS: dict[EventId, Sighting] = {uuid.UUID(int=n * 2**64 + n).bytes: [n % 4, 100 + n, n % 3, n] for n in range(80)}
"""Enough; as many are counted as it takes."""
NEVER = [uuid.UUID(int=n * 2**64 + 7).bytes for n in range(100, 140)]


def bins_of(store: Store, row: RowKey, *names: str) -> dict[str, Any]:
    (found,) = store.read([Read(row, names)])
    assert found is not None
    return dict(found.bins)


def seals(store: Store, campaign: int) -> list[int]:
    """Of the archived pages, newest first, one by one."""
    row = bins_of(store, RowKey("campaigns", campaign), "seal", "prev", "sealed")
    found: list[int] = []
    seal = row.get("prev", 0) if row.get("sealed") else row.get("seal", 0)
    while seal:
        found.append(seal)
        before = bins_of(store, page(campaign, seal), "before")["before"]
        seal = before[0] if before else 0
    return found


def page(campaign: int, seal: int) -> RowKey:
    return RowKey("campaigns-seen", f"{campaign}/{seal:016x}")


def by_hand(store: Store, campaign: int) -> dict[EventId, Counted]:
    """Every id of a campaign, as its rows say."""
    row = bins_of(store, RowKey("campaigns", campaign), "seen", "sealed")
    held = {"seen": row["seen"], "sealed": row["sealed"]}
    held |= {f"{seal:016x}": bins_of(store, page(campaign, seal), "ids")["ids"] for seal in seals(store, campaign)}
    return {each: Counted._make((campaign, *at, place)) for place, ids in held.items() for each, at in ids.items()}


@pytest.fixture
def store() -> MemoryStore:
    """Campaign 1 with ids in `seen`, in `sealed` and in pages; 2 with one id; 3 and 4 without a ledger."""
    store = MemoryStore(lambda: 0.0)
    create_campaigns(store, (1, 2, 3, 4))
    store.write([Write(RowKey("campaigns", 4), [Put("stats", {"clicks": 5})])])
    counting = Counting(store, LIVE)
    counting.count(2, {"an id, no UUID": [0, 7, 0, 99]})
    left = dict(IDS)
    while not bins_of(store, RowKey("campaigns", 1), "sealed").get("sealed") or len(seals(store, 1)) < 5:
        counting.count(1, dict([left.popitem()]))
    Counting(store, LIVE).count(1, dict([left.popitem()]))
    assert {"seen", "sealed"} < {each.place for each in by_hand(store, 1).values()}
    return store


def search(store: Store, ids: Sequence[EventId], campaigns: Sequence[int] = (1, 2)) -> Whereabouts:
    found = Whereabouts(store, LIVE, ids)
    found.search(campaigns)
    return found


@pytest.mark.parametrize("together", [1, 5, ENTRIES_MAX + 1])
def test_each_id_is_found_where_it_is(store: MemoryStore, together: int) -> None:
    """In `seen`, `sealed` or a page, with its position, asked alone or with others; one never counted is nowhere."""
    held: Mapping[EventId, Counted] = by_hand(store, 1) | by_hand(store, 2)
    asked = [*IDS, *NEVER, "an id, no UUID", "another"]
    more = [b"%016d" % n for n in range(ENTRIES_MAX)] if together > ENTRIES_MAX else []
    for first in range(0, len(asked), together):
        part = asked[first : first + together]
        found = search(store, [*part, *more])
        assert not found.damage
        for event_id in part:
            assert found.counted[event_id] == ([held[event_id]] if event_id in held else [])


def test_an_id_of_two_campaigns(store: MemoryStore) -> None:
    """It is told of both."""
    Counting(store, LIVE).count(1, {"both": [1, 5, 0, 500]})
    Counting(store, LIVE).count(2, {"both": [1, 5, 0, 501]})
    assert [each[:5] for each in search(store, ["both"]).counted["both"]] == [(1, 1, 5, 0, 500), (2, 1, 5, 0, 501)]


def test_campaigns_without_a_ledger(store: MemoryStore) -> None:
    """No row, a row that counts without a ledger, a row that never counted: each is told apart, none is damage."""
    found = search(store, ["x"], (1, 3, 4, 5))
    assert found.searched == {1: "", 3: "", 4: COUNTS_WITHOUT_LEDGER, 5: UNKNOWN}
    assert not found.damage
    assert pages_sealed(store, LIVE) == {1: len(seals(store, 1)) + 1, 2: 0}


def test_a_page_that_is_missing(store: MemoryStore) -> None:
    """It is named, whatever was asked; what stands in newer pages is found all the same."""
    names = seals(store, 1)
    held = by_hand(store, 1)
    store.write([Write(page(1, names[2]), [Delete()])])
    newer = {"seen", "sealed", *(f"{seal:016x}" for seal in names[:2])}
    found = search(store, [*IDS, *NEVER])
    assert [f"campaign 1: page {names[2]:016x} is missing" in each for each in found.damage] == [True]
    assert {each for each in IDS if found.counted[each]} == {each for each, at in held.items() if at.place in newer}
    assert search(store, NEVER[:1]).damage == found.damage


def test_a_page_whose_ids_were_altered(store: MemoryStore) -> None:
    """An id in it is not said to be counted: the page is named."""
    seal = seals(store, 1)[1]
    ids = bins_of(store, page(1, seal), "ids")["ids"]
    event_id = next(iter(ids))
    store.write([Write(page(1, seal), [Put("ids", {**ids, event_id: [0, 1, 2, 3]})])])
    found = search(store, list(IDS))
    assert f"page {seal:016x} is not what was archived" in found.damage[0]
    assert not found.counted[event_id]


@pytest.mark.parametrize("what", ["an id removed", "an id added", "prints removed", "no prints", "made anew"])
def test_a_page_that_cannot_be_trusted_is_named_whatever_is_asked(store: MemoryStore, what: str) -> None:
    """Its prints are not those of its ids, or it is not the page that its successor names."""
    seal = seals(store, 1)[1]
    held = bins_of(store, page(1, seal), "ids", "prints", "before", "head")
    event_id = next(iter(held["ids"]))
    fewer = {each: at for each, at in held["ids"].items() if each != event_id}
    changed: dict[str, Any] = {
        "an id removed": {"ids": fewer},
        "an id added": {"ids": {**held["ids"], b"0" * 16: [0, 1, 2, 3]}},
        "prints removed": {"prints": held["prints"][4:]},
        "no prints": {"prints": "none"},
        "made anew": Page(1, seal, fewer, held["before"], held["head"]).bins(),
    }[what]
    store.write([Write(page(1, seal), [Put(name, value) for name, value in changed.items()])])
    found = search(store, NEVER[:1])
    assert len(found.damage) == 1
    assert f"{seal:016x}" in found.damage[0]


def test_a_page_that_forgets_those_before_it(store: MemoryStore) -> None:
    """A chain that was cut off is no shorter chain."""
    store.write([Write(page(1, seals(store, 1)[0]), [Put("before", [])])])
    assert "the chain is broken" in search(store, NEVER[:1]).damage[0]


def test_a_sighting_that_is_none(store: MemoryStore) -> None:
    """An id without a position on the row is named as damage, and is not said to be counted."""
    store.write([Write(RowKey("campaigns", 2), [Put("seen", {"odd": "x", "code": [4, 1, 2, 3]})])])
    found = search(store, ["odd", "code"])
    assert len(found.damage) == 2
    assert found.counted == {"odd": [], "code": []}


class Moving:
    """A store in which something happens right before the first read of pages."""

    def __init__(self, store: MemoryStore, happen: Any) -> None:
        self._store = store
        self._happen = happen

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def read(self, reads: Sequence[Read]) -> list[Row | None]:
        """Of the store."""
        if self._happen and any(each.row.set == "campaigns-seen" for each in reads):
            happen, self._happen = self._happen, None
            happen()
        return self._store.read(reads)


def test_beside_a_worker_that_seals(store: MemoryStore) -> None:
    """What moves from the row into pages between two reads is found once, where the first read had it."""
    held = by_hand(store, 1)
    more: dict[EventId, Sighting] = {uuid.UUID(int=2**100 + n).bytes: [1, 5, 0, 1000 + n] for n in range(30)}
    counting = Counting(store, LIVE)
    found = search(Moving(store, lambda: counting.count(1, more)), [*IDS, *more])
    assert not found.damage
    assert {each: found.counted[each] for each in held} == {each: [at] for each, at in held.items()}
    now = by_hand(store, 1)
    assert search(store, list(more)).counted == {each: [now[each]] for each in more}


def test_a_row_that_fell_back_is_read_again(store: MemoryStore) -> None:
    """Pages that are gone with a row that has changed since are no damage: the row as it is now decides."""
    old = bins_of(store, RowKey("campaigns", 2), "c-id", "stats", "seal", "prev", "pages", "rev", "seen", "sealed")
    Counting(store, LIVE).count(2, IDS)

    def fall_back() -> None:
        for seal in seals(store, 2):
            store.write([Write(page(2, seal), [Delete()])])
        row = RowKey("campaigns", 2)
        store.write([Write(row, [Delete()])])
        store.write([Write(row, [Put(name, value) for name, value in old.items()], Presence.ABSENT)])

    found = search(Moving(store, fall_back), ["an id, no UUID", *IDS], (2,))
    assert not found.damage
    assert [each for each, at in found.counted.items() if at] == ["an id, no UUID"]
