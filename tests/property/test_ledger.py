"""The ledger under any interleaving of two workers, their crashes and replays, and a store in doubt."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projector.errors import Retryable
from projector.fold import Change, Sighting
from projector.ledger import Ledger
from projector.store import Read
from tests.fault.faults import Crash, Fate, FaultyStore, Late
from tests.unit.test_ledger import ROW, ledger, made

KPIS = ("visits", "impressions", "clicks", "conversions")
TOPIC = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=12)
"""Ids and kinds, by offset: duplicates and conflicts at any distance."""
BATCH = st.tuples(
    st.integers(0, 1),  # which worker
    st.integers(0, 11),  # from which offset
    st.integers(1, 6),  # how many records
    st.lists(st.sampled_from(list(Fate)), max_size=6),  # what its first writes meet
    st.integers(0, 4),  # after how many writes a late one lands
)


class _Fates:
    """The next fates of row writes."""

    def __init__(self) -> None:
        self.next: list[Fate] = []

    def fate(self, call: str) -> Fate:
        return self.next.pop(0) if call == "row" and self.next else Fate.FINE


def _change(topic: list[tuple[int, int]], start: int, count: int) -> Change:
    change = Change()
    for offset, (number, code) in list(enumerate(topic))[start : start + count]:
        sighting: Sighting = [code, 0, 0, offset]
        if f"id-{number}" in change.ids:
            change.again.append((f"id-{number}", sighting))
        else:
            change.ids[f"id-{number}"] = sighting
    return change


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(topic=TOPIC, batches=st.lists(BATCH, max_size=15), write_ids_max=st.integers(1, 4), retries=st.booleans())
def test_stats_are_the_distinct_ids(
    topic: list[tuple[int, int]], batches: Any, write_ids_max: int, retries: bool
) -> None:
    """After every apply stats == ids held; each verdict is `counted` exactly for the position that the ledger holds.

    At the end, when all was read once more, every id counts once, with the kind of one of its records.
    """
    store = made()
    delay = [0]
    late, fates = Late(lambda: delay[0]), (_Fates(), _Fates())

    def start(worker: int) -> Ledger:
        faulty = FaultyStore(store, fates[worker], late)
        return ledger(faulty, write_ids_max, 5.0 if retries else 0.0)

    workers = [start(0), start(1)]

    def held() -> dict[Any, Sighting]:
        (row,) = store.read([Read(ROW, ("stats", "seen"))])
        assert row is not None
        seen: dict[Any, Sighting] = row.bins.get("seen", {})
        codes = [sighting[0] for sighting in seen.values()]
        assert row.bins["stats"] == {kpi: codes.count(code) for code, kpi in enumerate(KPIS)}
        return seen

    def apply(worker: int, change: Change) -> None:
        if not change.ids:
            return
        judgement = workers[worker].apply({1: change})[1]
        counted = {f"id-{topic[sighting[3]][0]}": sighting for sighting in judgement.counted}
        ledger_holds = held()
        assert all(ledger_holds[event_id] == sighting for event_id, sighting in counted.items())
        for sighting, first in judgement.duplicates:
            assert ledger_holds[f"id-{topic[sighting[3]][0]}"] == first != sighting
        judged = len(judgement.counted) + len(judgement.duplicates)
        assert judged == len(change.ids) + len(change.again)
        assert len(counted) == len(judgement.counted)

    for worker, first, count, fate, delay[0] in batches:
        fates[worker].next = list(fate)
        try:
            apply(worker, _change(topic, first, count))
        except Crash:
            workers[worker] = start(worker)
        except Retryable:
            pass  # the batch will be replayed
        held()
    fates[0].next = []
    apply(0, _change(topic, 0, len(topic)))
    late.land(store, everything=True)
    ledger_holds = held()
    assert ledger_holds.keys() == {f"id-{number}" for number, _ in topic}
    for event_id, (code, _, _, offset) in ledger_holds.items():
        assert topic[offset] == (int(event_id.removeprefix("id-")), code)
