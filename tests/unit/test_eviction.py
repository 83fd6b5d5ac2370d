"""Campaigns that were not touched for long are let go when memory is short, and are known again when needed."""

import uuid
from pathlib import Path

from projector.backends.embedded_store import EmbeddedStore
from projector.chain import Chains
from projector.fold import Change
from projector.generation import Generation
from projector.ledger import Judgement, Ledger
from projector.patience import Patience
from projector.settling import Settling
from projector.store import Presence, Put, RowKey, Write
from tests.fault.stepped import Time

GENERATION = Generation(1, "projector")
CAMPAIGNS = range(1, 41)


def test_an_evicted_campaign_still_knows_its_ids(tmp_path: Path) -> None:
    """Memory stays within its bound over 40 campaigns, and a duplicate of each first event is a duplicate."""
    store = EmbeddedStore(tmp_path / "store.db")
    stats = dict.fromkeys(("clicks", "conversions", "impressions", "visits"), 0)
    rows = [RowKey("campaigns", campaign) for campaign in CAMPAIGNS]
    store.write([Write(row, [Put("c-id", int(row.key)), Put("stats", stats)], Presence.ABSENT) for row in rows])
    time, patience = Time(), Patience(0)
    settling = Settling(store, 0, patience, time.monotonic)
    bound = 20_000
    chains = Chains(store, GENERATION, patience, settling, time.monotonic, 5, bound)
    ledger = Ledger(store, chains, GENERATION.pages, patience, 1 << 20, lambda _: None)

    def apply(campaign: int, number: int, offset: int) -> Judgement:
        event_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{campaign}/{number}").bytes
        return ledger.apply({campaign: Change({event_id: [1, 0, 0, offset]})})[campaign]

    for number in range(20):
        for campaign in CAMPAIGNS:
            assert apply(campaign, number, campaign * 100 + number).counted
            assert sum(chain.memory_bytes for chain in chains._chains.values()) <= bound
    assert len(chains._chains) < len(CAMPAIGNS)
    for campaign in CAMPAIGNS:
        again = apply(campaign, 0, 9_999)
        assert (len(again.counted), len(again.duplicates)) == (0, 1)
        assert again.stats["impressions"] == 20
