"""Rows written before pages existed go on counting and shrink; rows born since stay within their bound."""

import time
import uuid
from contextlib import closing
from pathlib import Path

import pytest

from projector.backends.embedded_store import EmbeddedStore
from projector.chain import Chains
from projector.event import KPIS
from projector.fold import Change, EventId, Sighting
from projector.footing import check, summaries
from projector.generation import Generation
from projector.ledger import ROW_SHARE, Ledger, row_bound
from projector.patience import Patience
from projector.settling import Settling
from projector.store import ROW_BYTES, Presence, Put, Read, RowKey, Write
from tests.fault.stepped import Time

GENERATION = Generation(1, "projector")
ROW = RowKey("campaigns", 41)
PAGE_IDS = 100


def ids(first: int, count: int) -> dict[EventId, Sighting]:
    """Distinct ids with their sightings."""
    numbers = range(first, first + count)
    return {uuid.uuid5(uuid.NAMESPACE_OID, str(n)).bytes: [n % 4, 1_767_225_600 + n, 0, n] for n in numbers}


def again(held: dict[EventId, Sighting]) -> dict[EventId, Sighting]:
    """The same ids at other positions."""
    return {event_id: [*sighting[:2], 1, sighting[3]] for event_id, sighting in held.items()}


def ledger(store: EmbeddedStore, row_bytes_max: int | None = None) -> Ledger:
    """A worker's, with nothing cached."""
    clock, patience = Time(), Patience(0)
    settling = Settling(store, 0, patience, clock.monotonic)
    chains = Chains(store, GENERATION, patience, settling, clock.monotonic, PAGE_IDS, 1 << 24)
    return Ledger(store, chains, GENERATION.pages, patience, row_bytes_max or row_bound(store, "auto"), time.sleep)


def write_old_row(store: EmbeddedStore, seen: dict[EventId, Sighting]) -> None:
    """A row as the version before pages left it: one open page with every id, and no `head`."""
    stats = dict.fromkeys(sorted(KPIS), 0)
    for sighting in seen.values():
        stats[KPIS[sighting[0]]] += 1
    bins = {"c-id": 41, "stats": stats, "seen": seen, "sealed": {}, "seal": 0, "prev": 0, "pages": 0, "rev": 7}
    store.write([Write(ROW, [Put(name, value) for name, value in bins.items()], Presence.ABSENT)])  # type: ignore[arg-type]  # bins of any type


def row_bytes(store: EmbeddedStore) -> int:
    """As the store measures the row."""
    (row,) = store.read([Read(ROW, measure=True)])
    assert row is not None
    return int(row.bins[ROW_BYTES])


def stats_total(store: EmbeddedStore) -> int:
    """All that is counted."""
    (row,) = store.read([Read(ROW, ("stats",))])
    assert row is not None
    return sum(row.bins["stats"].values())


@pytest.mark.parametrize("old", [1, PAGE_IDS - 1, 5_000])
def test_an_old_row_goes_on(tmp_path: Path, old: int) -> None:
    """Its ids are still duplicates, before and after they are archived; what is new counts; the ledger foots."""
    with closing(EmbeddedStore(tmp_path / "store.db")) as store:
        write_old_row(store, ids(0, old))
        worker = ledger(store)
        judgement = worker.apply({41: Change(again(ids(0, old)))})[41]
        assert (len(judgement.counted), len(judgement.duplicates)) == (0, old)
        for batch in range(4):
            judgement = worker.apply({41: Change(ids(old + batch * 150, 150))})[41]
            assert (len(judgement.counted), len(judgement.duplicates)) == (150, 0)
        for judging in (worker, ledger(store)):
            judgement = judging.apply({41: Change(again(ids(0, old + 600)))})[41]
            assert (len(judgement.counted), len(judgement.duplicates)) == (0, old + 600)
            replayed = judging.apply({41: Change(ids(0, old + 600))})[41]
            assert (len(replayed.counted), len(replayed.duplicates)) == (old + 600, 0)
        assert stats_total(store) == old + 600
        assert check(store, GENERATION, 41) == []
        (summary,) = summaries(store, GENERATION, [41])
        assert summary.ids == old + 600
        assert summary.archived >= old


@pytest.mark.parametrize("share", [0.5, 0.85])
def test_a_full_old_row_is_sealed_before_it_grows(tmp_path: Path, share: float) -> None:
    """A row as near to the store's limit as the version before let it come is archived, never too big."""
    limit = 128 * 1024
    with closing(EmbeddedStore(tmp_path / "probe.db")) as store:
        write_old_row(store, ids(0, 1_000))
        per_id = row_bytes(store) / 1_000
    old = int(limit * share / per_id)
    with closing(EmbeddedStore(tmp_path / "store.db", row_bytes_max=limit)) as store:
        write_old_row(store, ids(0, old))
        assert row_bytes(store) > 0.95 * share * limit
        worker = ledger(store)
        for batch in range(20):
            judgement = worker.apply({41: Change(ids(old + batch * 200, 200))})[41]
            assert len(judgement.counted) == 200
            assert row_bytes(store) <= limit
        judgement = ledger(store).apply({41: Change(again(ids(0, old + 4_000)))})[41]
        assert (len(judgement.counted), len(judgement.duplicates)) == (0, old + 4_000)
        assert stats_total(store) == old + 4_000
        assert check(store, GENERATION, 41) == []
        assert row_bytes(store) < 0.5 * limit


@pytest.mark.parametrize("row_bytes_max", [8_192, 65_536, None])
@pytest.mark.parametrize("batch", [1, 90, 3_000])
def test_a_row_born_now_stays_within_its_bound(tmp_path: Path, row_bytes_max: int | None, batch: int) -> None:
    """After every batch of a hot campaign the row is at most `row_bytes_max`; a change too large is split."""
    limit = 128 * 1024
    with closing(EmbeddedStore(tmp_path / "store.db", row_bytes_max=limit)) as store:
        stats = dict.fromkeys(sorted(KPIS), 0)
        store.write([Write(ROW, [Put("c-id", 41), Put("stats", stats)], Presence.ABSENT)])
        bound = row_bytes_max or int(limit * ROW_SHARE)
        worker = ledger(store, row_bytes_max)
        largest = 0
        total = 0
        while total < max(batch * 3, 500):
            assert len(worker.apply({41: Change(ids(total, batch))})[41].counted) == batch
            total += batch
            largest = max(largest, row_bytes(store))
        assert largest <= bound
        assert check(store, GENERATION, 41) == []
        assert stats_total(store) == total
