"""The balance: totals that travel with the offsets, and both sides of the equation."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projector.balance import Balance, Totals, parse_totals, read_balance, total
from projector.config import Config
from projector.generation import Generation
from projector.log import Message, Offset
from projector.store import Presence, Put, RowKey, Write
from tests.fault.memory_log import MemoryLog
from tests.fault.memory_store import MemoryStore

COUNTED = Totals(consumed=7, counted=4, duplicate=1, parked=1, rejected=1)


@given(st.lists(st.integers(0, 2**62), min_size=6, max_size=6))
def test_totals_come_back_from_the_metadata(counts: list[int]) -> None:
    """Whatever the numbers, in at most the 4,095 bytes that Kafka takes."""
    totals = Totals(*counts)
    assert parse_totals(totals.metadata()) == totals
    assert len(totals.metadata()) <= 4_095


def test_the_metadata_is_the_contract_s() -> None:
    """Field by field."""
    assert COUNTED.metadata() == ('{"v":1,"consumed":7,"counted":4,"duplicate":1,"parked":1,"rejected":1,"carried":0}')


@pytest.mark.parametrize(
    "metadata",
    [
        "",
        "text",
        "{}",
        "null",
        '{"v":2,"consumed":7,"counted":4,"duplicate":1,"parked":1,"rejected":1,"carried":0}',
        '{"v":1,"consumed":7}',
        '{"v":1,"consumed":7.5,"counted":4,"duplicate":1,"parked":1,"rejected":1,"carried":0}',
        "\ud800",
    ],
)
def test_what_others_wrote_is_unknown(metadata: str) -> None:
    """No error, and no totals."""
    assert parse_totals(metadata) is None


def test_sums() -> None:
    """Field by field; `judged` is what `consumed` must equal."""
    assert COUNTED.plus(COUNTED) == total([COUNTED, COUNTED]) == Totals(14, 8, 2, 2, 2, 0)
    assert COUNTED.judged == COUNTED.consumed
    assert total([]) == Totals()


@pytest.mark.parametrize(
    ("change", "holds"),
    [
        ({}, True),
        ({"rows": 3}, False),  # the store has forgotten
        ({"rows": 5}, False),  # applied and not committed, at rest
        ({"rows": 5, "workers": 1}, False),  # nobody is behind, so nothing is under way
        ({"rows": 5, "workers": 1, "ends": {0: 9}}, True),
        ({"rows": 3, "workers": 1, "ends": {0: 9}}, False),
        ({"totals": {0: COUNTED, 1: None}}, False),
        ({"totals": {0: COUNTED._replace(consumed=8)}}, False),  # a record without a verdict
        ({"totals": {0: COUNTED._replace(carried=1)}, "rows": 5}, True),
    ],
)
def test_when_it_holds(change: dict[str, Any], holds: bool) -> None:
    """At rest to the unit; in motion the rows may be ahead, never behind."""
    sides: dict[str, Any] = {"totals": {0: COUNTED}, "offsets": {0: 7}, "ends": {0: 7}, "rows": 4, "workers": 0}
    assert Balance(**(sides | change)).holds is holds


def test_read_from_log_and_store() -> None:
    """Rows without a ledger do not count; an offset 0 without metadata on a whole topic has counted nothing."""
    log, store = MemoryLog(lambda: 0.0, random.Random(0)), MemoryStore(lambda: 0.0)
    config = Config()
    log.create_topic(config.input_topic, 3, {})
    log.append([Message(config.input_topic, None, b"", (), 0, 0) for _ in range(7)])
    log.offsets = {0: Offset(7, COUNTED.metadata()), 1: Offset(0, "")}
    stats = {"visits": 3, "impressions": 5, "clicks": 0, "conversions": 0}
    rows = [
        [Put("seal", 0), Put("stats", stats), Put("opening", {"impressions": 4})],
        [Put("stats", stats)],
    ]
    store.write([Write(RowKey("campaigns", n), row, Presence.EITHER) for n, row in enumerate(rows)])
    balance = read_balance(log, store, config, Generation(1, "projector"))
    assert balance.totals == {0: COUNTED, 1: Totals()}
    assert (balance.rows, balance.difference, balance.lag, balance.holds) == (4, 0, 0, True)
    log.offsets[2] = Offset(3, "")
    balance = read_balance(log, store, config, Generation(1, "projector"))
    assert balance.unknown == [2]
    assert not balance.holds
