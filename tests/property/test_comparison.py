"""The comparison against a plain oracle of sets, refreshed at any time while both generations go on."""

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projector.comparison import Comparer
from projector.differences import Cause
from projector.event import KPIS
from projector.fold import EventId, Sighting
from projector.tally import Scope
from tests.fault.memory_store import MemoryStore
from tests.generations import CONFIG, LIVE, REBUILT, Counting, GroupsLog, create_campaigns, set_aside

CAMPAIGNS = (1, 2)
EVENT = st.tuples(
    st.integers(0, 1),  # which generation counts it
    st.sampled_from(CAMPAIGNS),
    st.integers(0, 25),  # which id
    st.integers(0, 3),  # kind
    st.integers(0, 1),  # partition
    st.integers(0, 30),  # offset
)
STEP = st.one_of(st.lists(EVENT, min_size=1, max_size=30), st.sampled_from(["refresh", "compare"]))
END = st.tuples(st.integers(0, 31), st.integers(0, 31))
ASIDE = st.tuples(st.integers(0, 1), st.integers(0, 30), st.sampled_from(["parked", "rejected", "conflict"]))


def name(number: int) -> EventId:
    """Ids of both types."""
    return number.to_bytes(16, "big") if number % 2 else f"id-{number}"


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    steps=st.lists(STEP, max_size=8),
    ends=st.tuples(END, END),
    aside=st.lists(ASIDE, max_size=12),
    until=st.one_of(st.none(), END),
    only=st.one_of(st.none(), st.sampled_from(CAMPAIGNS)),
)
def test_every_id_that_differs_is_named_with_its_cause(
    steps: list[Any], ends: tuple[Any, Any], aside: list[Any], until: Any, only: int | None
) -> None:
    """Whatever was refreshed or compared before, the last comparison names what sets of ids say, and nothing else."""
    store, log = MemoryStore(lambda: 0.0), GroupsLog()
    create_campaigns(store, CAMPAIGNS)
    for generation, end in zip((LIVE, REBUILT), ends, strict=True):
        log.commit(generation, dict(enumerate(end)))
    for partition, offset, what in aside:
        verdict, reason = ("duplicate", "conflict") if what == "conflict" else (what, "unknown-tag")
        set_aside(log, partition, offset, verdict, reason)
    limits = dict(enumerate(until)) if until else None
    scope = Scope(None if only is None else [only], limits)
    comparer = Comparer(log, store, CONFIG, LIVE, REBUILT, scope)
    workers = (Counting(store, LIVE), Counting(store, REBUILT))
    held: tuple[dict[Any, Sighting], dict[Any, Sighting]] = ({}, {})
    for step in steps:
        if step == "refresh":
            comparer.refresh()
        elif step == "compare":
            comparer.compare()
        else:
            for side, campaign, number, code, partition, offset in step:
                sighting: Sighting = [code, 0, partition, offset]
                workers[side].count(campaign, {name(number): sighting})
                held[side].setdefault((campaign, name(number)), sighting)

    compared = comparer.compare()

    def inside(sighting: Sighting) -> bool:
        return limits is None or sighting[3] < limits[sighting[2]]

    messages = {(partition, offset, what == "conflict") for partition, offset, what in aside}
    expected: dict[Any, Any] = {}
    scoped: tuple[dict[Any, Sighting], dict[Any, Sighting]] = ({}, {})
    for side in (0, 1):
        scoped[side].update({key: s for key, s in held[side].items() if inside(s) and only in (None, key[0])})
    for key in held[0].keys() | held[1].keys():
        if only not in (None, key[0]):
            continue
        live, rebuilt = held[0].get(key), held[1].get(key)
        if live and rebuilt:
            if live[0] != rebuilt[0]:
                if limits is not None and not (inside(live) or inside(rebuilt)):
                    continue
                conflict = any((*s[2:], True) in messages for s in (live, rebuilt))
                expected[key] = Cause.CONFLICT if conflict else Cause.UNEXPLAINED
            elif inside(live) != inside(rebuilt):
                expected[key] = Cause.PAST_CHECKPOINT
            continue
        one = live or rebuilt
        assert one is not None
        if not inside(one):
            continue
        if one[3] >= ends[1 if live else 0][one[2]]:
            expected[key] = Cause.PAST_CHECKPOINT
        elif rebuilt and (*rebuilt[2:], False) in messages:
            expected[key] = Cause.SET_ASIDE
        else:
            expected[key] = Cause.UNEXPLAINED
    assert {(each.campaign, each.id): each.cause for each in compared.ids} == expected
    assert compared.blocks == (Cause.UNEXPLAINED in expected.values())
    assert compared.ledgers == []
    assert compared.ids_held == (len(scoped[0]), len(scoped[1]))
    for side in (0, 1):
        for code, kpi in enumerate(KPIS):
            assert compared.totals[side].get(kpi, 0) == sum(s[0] == code for s in scoped[side].values())
    for cell in compared.cells:
        ids = [
            {key for key, s in scoped[side].items() if (key[0], KPIS[s[0]]) == (cell.campaign, cell.kpi)}
            for side in (0, 1)
        ]
        assert (cell.live, cell.rebuilt) == tuple(map(len, ids))
        assert ids[0] != ids[1]
    if Cause.UNEXPLAINED not in expected.values() and limits is None:
        assert all(cell.difference == cell.excused for cell in compared.cells)
