"""A row that cannot take another id ends the worker: counting without recording the id is not an option."""

import uuid
from pathlib import Path

import pytest

from projector.backends.embedded_store import EmbeddedStore
from projector.chain import Chains
from projector.errors import RowTooBig
from projector.fold import Change
from projector.generation import Generation
from projector.ledger import Ledger
from projector.patience import Patience
from projector.settling import Settling
from projector.store import Presence, Put, Read, RowKey, Write
from tests.fault.stepped import Time

GENERATION = Generation(1, "projector")
ROW = RowKey("campaigns", 41)


def test_a_row_at_the_stores_limit_stops_with_exit_code_6_and_counts_nothing_more(tmp_path: Path) -> None:
    """The error names the campaign and what to change; the ids that fit are counted, the others are not."""
    store = EmbeddedStore(tmp_path / "store.db", row_bytes_max=4_096)
    stats = dict.fromkeys(("clicks", "conversions", "impressions", "visits"), 0)
    store.write([Write(ROW, [Put("c-id", 41), Put("stats", stats)], Presence.ABSENT)])
    time, patience = Time(), Patience(0)
    settling = Settling(store, 0, patience, time.monotonic)
    chains = Chains(store, GENERATION, patience, settling, time.monotonic, 100_000, 1 << 20)
    ledger = Ledger(store, chains, GENERATION.pages, patience, 1 << 20, lambda _: None)

    def count_all() -> None:
        for number in range(100):
            ids = {uuid.uuid5(uuid.NAMESPACE_OID, f"{number}/{n}").bytes: [1, 0, 0, number * 10 + n] for n in range(10)}
            ledger.apply({41: Change(ids)})  # type: ignore[arg-type]  # bytes are event ids

    with pytest.raises(RowTooBig, match=r"campaign 41: .*max-record-size") as raised:
        count_all()
    assert raised.value.exit_code == 6
    (row,) = store.read([Read(ROW, ("stats", "seen"))])
    assert row is not None
    assert row.bins["stats"]["impressions"] == len(row.bins["seen"]) > 0
