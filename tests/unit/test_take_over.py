"""A generation from 2 on takes campaigns over from the set `campaigns`, each once, with its opening."""

from projector.adoption import REGISTRY, adopt, take_over, take_over_all
from projector.event import KPIS
from projector.fold import Change
from projector.generation import Generation
from projector.store import AddEntry, Presence, Put, Read, RowKey, Write
from tests.fault.memory_store import MemoryStore
from tests.generations import LIVE, REBUILT, Counting, create_campaigns

ZEROS = dict.fromkeys(sorted(KPIS), 0)
ALL = ("c-id", "c-date", "c-name", "stats", "opening", "seal", "prev", "pages", "rev", "seen", "sealed")
EMPTY = {"seal": 0, "prev": 0, "pages": 0, "rev": 0, "seen": {}, "sealed": {}}


def bins(store: MemoryStore, generation: Generation, campaign: int) -> dict[str, object] | None:
    """The campaign's row."""
    (row,) = store.read([Read(RowKey(generation.campaigns, campaign), ALL)])
    return None if row is None else dict(row.bins)


def counted_by_others(store: MemoryStore, campaign: int, count: int) -> None:
    """Another program's counts."""
    store.write([Write(RowKey(REGISTRY, campaign), [AddEntry("stats", kpi, count) for kpi in KPIS])])


def test_the_first_event_creates_the_row_and_counts() -> None:
    """With the campaign's own bins; what generation 1 counted stays there."""
    store = MemoryStore(lambda: 0.0)
    create_campaigns(store, (1, 2))
    Counting(store, LIVE).count(1, {"a": [0, 0, 0, 0], "b": [1, 0, 0, 1]})
    before = bins(store, LIVE, 1)
    Counting(store, REBUILT).count(1, {"a": [0, 0, 0, 0]})
    held = bins(store, REBUILT, 1)
    assert held == {
        "c-id": 1,
        "c-date": 1_001,
        "c-name": "Campaign 1",
        "stats": {**ZEROS, "visits": 1},
        **EMPTY,
        "rev": 1,
        "seen": {"a": [0, 0, 0, 0]},
    }
    assert bins(store, LIVE, 1) == before
    assert bins(store, REBUILT, 2) is None


def test_a_campaign_that_is_nowhere_or_not_adopted_is_parked_until_it_is() -> None:
    """The same verdicts as in generation 1; once it is adopted, in `campaigns`, its opening comes over."""
    store = MemoryStore(lambda: 0.0)
    create_campaigns(store, (1,))
    counted_by_others(store, 1, 5)
    worker = Counting(store, REBUILT)

    def reasons() -> list[str]:
        changes = {campaign: Change({"a": [0, 0, 0, 0]}) for campaign in (1, 9)}
        return [judgement.reason for _, judgement in sorted(worker.ledger.apply(changes).items())]

    assert reasons() == ["campaign-not-adopted", "unknown-campaign"]
    assert bins(store, REBUILT, 1) is None
    list(adopt(store, REGISTRY))
    create_campaigns(store, (9,))
    assert reasons() == ["", ""]
    held = bins(store, REBUILT, 1)
    assert held is not None
    assert (held["opening"], held["stats"]) == (dict.fromkeys(KPIS, 5), {**dict.fromkeys(KPIS, 5), "visits": 6})


def test_taking_over_again_changes_nothing() -> None:
    """Create-only: the counts of the new generation are never touched, whatever the source says by then."""
    store = MemoryStore(lambda: 0.0)
    create_campaigns(store, (1,))
    Counting(store, REBUILT).count(1, {"a": [0, 0, 0, 0]})
    before = bins(store, REBUILT, 1)
    store.write([Write(RowKey(REGISTRY, 1), [Put("c-name", "renamed")])])
    assert take_over(store, REBUILT.campaigns, [1]) == {}
    assert take_over_all(store, LIVE.campaigns, REBUILT.campaigns) == {}
    assert bins(store, REBUILT, 1) == before


def test_all_that_have_a_ledger_come_over_and_no_others() -> None:
    """Those with an opening and no event too; one that nobody adopted is not there in the live one either."""
    store = MemoryStore(lambda: 0.0)
    create_campaigns(store, (1, 2, 3))
    counted_by_others(store, 2, 7)
    list(adopt(store, REGISTRY))
    counted_by_others(store, 3, 7)
    Counting(store, LIVE).count(1, {"a": [0, 0, 0, 0]})
    told: list[int] = []
    assert take_over_all(store, LIVE.campaigns, REBUILT.campaigns, told.append) == {}
    assert sum(told) == 2
    one, two = bins(store, REBUILT, 1), bins(store, REBUILT, 2)
    assert one is not None
    assert two is not None
    assert (one["stats"], two["stats"], two["opening"]) == (ZEROS, dict.fromkeys(KPIS, 7), dict.fromkeys(KPIS, 7))
    assert bins(store, REBUILT, 3) is None


def test_a_campaign_of_the_live_generation_that_is_not_in_campaigns_is_told() -> None:
    """It was deleted there; whoever rebuilds hears of it."""
    store = MemoryStore(lambda: 0.0)
    store.write([Write(RowKey(REBUILT.campaigns, 5), [Put("c-id", 5), Put("seal", 0)], Presence.ABSENT)])
    third = Generation(3, "projector")
    assert take_over_all(store, REBUILT.campaigns, third.campaigns) == {5: "unknown-campaign"}
