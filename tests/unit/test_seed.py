"""`projector seed`, on the embedded store."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from projector.backends.embedded_store import EmbeddedStore
from projector.errors import InDoubt, Refused
from projector.reference import tag_id
from projector.seed import Seeded, rows_total, seed
from projector.store import Answer, Delete, Outcome, Presence, Put, Read, Row, RowKey, Store, Write

COUNT = RowKey("tags", "tag-count")
ROWS = 3 + 2 * 3 * 500 + 1


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    return EmbeddedStore(tmp_path / "projector.db")


def seeded(store: Store, campaigns: int = 3, tags: int = 500, seed_number: int = 1) -> Seeded:
    return seed(store, campaigns, tags, seed_number, lambda _rows: None)


def contents(store: EmbeddedStore) -> list[Row | None]:
    """Every row that the data set of 3 campaigns x 500 tags has."""
    tags = [tag_id(1, campaign, number) for campaign in (1, 2, 3) for number in range(1, 501)]
    keys: list[int | str] = [*tags, *range(1, 1501), "tag-count"]
    reads = [Read(RowKey("campaigns", campaign), ("c-id", "c-date", "c-name", "stats")) for campaign in (1, 2, 3)]
    return store.read([*reads, *(Read(RowKey("tags", key), ("t-id", "c-id", "tag-count")) for key in keys)])


def test_what_is_created(store: EmbeddedStore) -> None:
    """Campaigns, tags by id, tags by number, and their count, as the contract says."""
    advanced: list[int] = []
    assert seed(store, 3, 500, 1, advanced.append) == Seeded(ROWS, 0)
    assert sum(advanced) == rows_total(3, 500) == ROWS
    rows = [row.bins if row else None for row in contents(store)]
    assert None not in rows
    dates = [bins["c-date"] for bins in rows[:3] if bins]
    zeros = {"visits": 0, "impressions": 0, "clicks": 0, "conversions": 0}
    assert rows[1] == {"c-id": 2, "c-date": dates[1], "c-name": "Acme campaign 2", "stats": zeros}
    assert rows[3 + 500] == {"t-id": tag_id(1, 2, 1), "c-id": 2}
    assert rows[3 + 1500 + 500] == {"t-id": tag_id(1, 2, 1)}
    assert rows[-1] == {"tag-count": 1500}
    assert len(set(dates)) == 3


def test_twice_changes_nothing(store: EmbeddedStore) -> None:
    """The second time no row is created or changed, not even that of a campaign that has counted since."""
    seeded(store)
    store.write([Write(RowKey("campaigns", 2), [Put("stats", {"clicks": 5}), Put("c-name", "Renamed")])])
    before = contents(store)
    assert seeded(store) == Seeded(0, ROWS)
    assert contents(store) == before


def test_a_half_done_one_is_completed(store: EmbeddedStore, tmp_path: Path) -> None:
    """Whatever rows are missing are created, and then the data set is what an undisturbed creation makes."""
    whole = EmbeddedStore(tmp_path / "whole.db")
    seeded(whole)
    seeded(store)
    missing = [RowKey("campaigns", 3), RowKey("tags", 700), RowKey("tags", tag_id(1, 3, 1)), COUNT]
    store.write([Write(row, [Delete()]) for row in missing])
    assert seeded(store) == Seeded(4, ROWS - 4)
    assert contents(store) == contents(whole)


class CutOffError(Exception):
    """The process ends."""


class FailingStore:
    """The store; each write call is applied, and `after` says what then becomes of its answers."""

    def __init__(self, store: EmbeddedStore, after: Any) -> None:
        self._store = store
        self._after = after
        self._calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def write(self, writes: Sequence[Write]) -> list[Answer]:
        self._calls += 1
        answers: list[Answer] = self._after(self._calls, self._store.write(writes))
        return answers


def test_the_count_comes_last(store: EmbeddedStore) -> None:
    """A creation that is cut off at any write leaves no `tag-count`, so nobody takes a part for the whole."""
    for calls in (1, 2, 3, 4):

        def cut(call: int, answers: list[Answer], calls: int = calls) -> list[Answer]:
            if call == calls:
                raise CutOffError
            return answers

        with pytest.raises(CutOffError):
            seeded(FailingStore(store, cut))
        assert store.read([Read(COUNT, ("tag-count",))]) == [None]
    assert seeded(store).created > 0
    assert None not in contents(store)


def test_lost_answers_are_asked_again(store: EmbeddedStore) -> None:
    """Writes that were applied while their answers were lost are sent again, and the data set is whole."""

    def lose(call: int, answers: list[Answer]) -> list[Answer]:
        failed = Answer(Outcome.FAILED, error=InDoubt("no answer"))
        return [failed if call % 2 and number % 7 == 0 else answer for number, answer in enumerate(answers)]

    seeded(FailingStore(store, lose))
    assert None not in contents(store)


@pytest.mark.parametrize(("campaigns", "tags", "seed_number"), [(4, 500, 1), (3, 500, 2), (5, 300, 1)])
def test_another_data_set_is_refused(store: EmbeddedStore, campaigns: int, tags: int, seed_number: int) -> None:
    """With other numbers nothing is mixed into the data set that is there."""
    seeded(store)
    before = contents(store)
    with pytest.raises(Refused, match="data set"):
        seeded(store, campaigns, tags, seed_number)
    assert contents(store) == before


def test_another_half_done_data_set_is_refused(store: EmbeddedStore) -> None:
    """Also one that was cut off before its `tag-count`: its tags are recognised."""
    seeded(store)
    store.write([Write(COUNT, [Delete()])])
    with pytest.raises(Refused, match="another data set"):
        seeded(store, campaigns=5, tags=300)


def test_a_foreign_tag_is_not_overwritten(store: EmbeddedStore) -> None:
    """A tag's campaign is written once: one that another program gave to another campaign stays, and is named."""
    tag = RowKey("tags", tag_id(1, 1, 1))
    store.write([Write(tag, [Put("t-id", tag.key), Put("c-id", 99)], Presence.ABSENT)])
    with pytest.raises(Refused, match=str(tag.key)):
        seeded(store)
    (row,) = store.read([Read(tag, ("c-id",))])
    assert row is not None
    assert row.bins == {"c-id": 99}
