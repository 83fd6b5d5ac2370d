"""`projector ledger`: it says what is there, and names every kind of damage."""

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from projector.backends.embedded_store import EmbeddedStore
from projector.chain import Chains
from projector.fold import Change
from projector.footing import check, summaries
from projector.generation import Generation
from projector.ledger import Ledger
from projector.page import page_key
from projector.patience import Patience
from projector.settling import Settling
from projector.store import AddEntry, Delete, Presence, Put, Read, RowKey, Write
from tests.fault.stepped import Time

GENERATION = Generation(1, "projector")
ROW = RowKey("campaigns", 41)
PAGE_IDS = 10
DAY_S = 86_400


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    """One campaign with 95 ids in nine pages and an open one."""
    store = EmbeddedStore(tmp_path / "store.db")
    stats = dict.fromkeys(("clicks", "conversions", "impressions", "visits"), 0)
    store.write([Write(ROW, [Put("c-id", 41), Put("stats", stats)], Presence.ABSENT)])
    time, patience = Time(), Patience(0)
    settling = Settling(store, 0, patience, time.monotonic)
    chains = Chains(store, GENERATION, patience, settling, time.monotonic, PAGE_IDS, 1 << 20)
    chains.pages_wanted = lambda: PAGE_IDS  # type: ignore[method-assign]  # no jitter here
    ledger = Ledger(store, chains, GENERATION.pages, patience, 1 << 20, lambda _: None)
    for offset in range(95):
        change = Change({uuid.uuid5(uuid.NAMESPACE_OID, str(offset)).bytes: [offset % 4, offset * DAY_S, 0, offset]})
        ledger.apply({41: change})
    return store


def row(store: EmbeddedStore) -> dict[str, Any]:
    """The campaign's bins."""
    (found,) = store.read([Read(ROW, ("seal", "prev", "sealed", "seen", "head", "pages"))])
    assert found is not None
    return dict(found.bins)


def newest(store: EmbeddedStore) -> RowKey:
    """The newest page in the archive."""
    bins = row(store)
    return page_key(GENERATION.pages, 41, bins["prev"] if bins["sealed"] else bins["seal"])


def test_a_sound_ledger_foots_and_is_summed_up(store: EmbeddedStore) -> None:
    """Ids, pages, seconds and growth are those that were counted."""
    assert check(store, GENERATION, 41) == []
    (summary,) = summaries(store, GENERATION, [41], now_s=95 * DAY_S)
    assert summary.ids == 95
    assert summary.archived + summary.sealed == 90
    assert summary.pages + bool(summary.sealed) == 9
    assert (summary.first, summary.last) == (0, 94 * DAY_S)
    assert summary.ids_per_day == pytest.approx(1.0, abs=0.1)
    assert summary.archive_bytes > 0


def damage_stats(store: EmbeddedStore) -> None:
    """A counter changed by hand."""
    store.write([Write(ROW, [AddEntry("stats", "clicks", 1)])])


def damage_lost_page(store: EmbeddedStore) -> None:
    """A page dropped."""
    store.write([Write(newest(store), [Delete()])])


def damage_altered_page(store: EmbeddedStore) -> None:
    """A page with another position of an id."""
    (page,) = store.read([Read(newest(store), ("ids",))])
    assert page is not None
    ids = {key: [*value[:3], value[3] + 1] for key, value in page.bins["ids"].items()}
    store.write([Write(newest(store), [Put("ids", ids)])])


def damage_doubled_id(store: EmbeddedStore) -> None:
    """An id of a page put into `seen` as well, counted as the second one."""
    (page,) = store.read([Read(newest(store), ("ids",))])
    assert page is not None
    event_id, sighting = next(iter(page.bins["ids"].items()))
    kpi = ("visits", "impressions", "clicks", "conversions")[sighting[0]]
    seen = {**row(store)["seen"], event_id: [*sighting[:3], 999]}
    store.write([Write(ROW, [Put("seen", seen), AddEntry("stats", kpi, 1)])])


def damage_broken_chain(store: EmbeddedStore) -> None:
    """A head that no page has."""
    store.write([Write(ROW, [Put("head", b"x" * 32)])])


def damage_page_count(store: EmbeddedStore) -> None:
    """A row that says one page more."""
    store.write([Write(ROW, [Put("pages", row(store)["pages"] + 1)])])


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (damage_stats, "clicks is 25, but opening 0 + 24 ids"),
        (damage_lost_page, "is missing"),
        (damage_altered_page, "digest differs"),
        (damage_doubled_id, "stands in seen and page"),
        (damage_broken_chain, "is not the one that its successor names"),
        (damage_page_count, "the row says 10 pages, the chain has 9"),
    ],
)
def test_each_kind_of_damage_is_named(
    store: EmbeddedStore, damage: Callable[[EmbeddedStore], None], named: str
) -> None:
    """And nothing else is."""
    damage(store)
    differences = check(store, GENERATION, 41)
    assert named in " | ".join(difference.what for difference in differences)
    assert all(difference.campaign == 41 for difference in differences)
