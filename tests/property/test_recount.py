"""The audit and the running program read the contract alike, each by its own code."""

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from projector.audit.contract import Table, canonical, packed
from projector.event import KINDS, Decoder, Event
from tests.property.test_event import (
    IDS,
    JUNK,
    NEAR_UUIDS,
    flat_records,
    json_records,
    nearly_good_records,
    write,
)
from tests.property.test_event_fuzz import damaged

SEED = 31_415_926
DECODER = Decoder("events")
TABLE = Table("events")


def check(value: bytes | None) -> str:
    """Hold the two readings against each other; returns the reason, "" for an event."""
    decoded = DECODER.decode(value)
    id_, code, tag, reason = TABLE.judge(value)
    if isinstance(decoded, Event):
        kept = b"u" + decoded.id if isinstance(decoded.id, bytes) else b"s" + decoded.id.encode()
        assert (id_, code, tag, reason) == (kept, decoded.code, decoded.tag, None)
        assert packed(canonical(kept)) == kept
    else:
        assert reason == f"{decoded.verdict}:{decoded.reason}"
        assert code is None
        assert (id_ is None) == (tag is None) == (decoded.verdict == "rejected")
    return reason or ""


@settings(max_examples=1_500, deadline=None)
@given(st.one_of(nearly_good_records(), json_records(), flat_records(), JUNK), st.booleans())
@example(None, True)
def test_both_read_any_record_alike(record: Any, ascii_only: bool) -> None:
    """Records of either form, with every kind of wrongness."""
    check(write(record, ascii_only).encode())


@settings(max_examples=500, deadline=None)
@given(st.text("0123456789abcdefABCDEF -\u0661\n_", min_size=31, max_size=37) | IDS | st.sampled_from(NEAR_UUIDS))
def test_both_know_the_same_uuids(event_id: Any) -> None:
    """Spellings and near misses, as an id."""
    event = {"name": "event-data", "value": {"tag": "t", "event": KINDS[2]}}
    named = {"name": "event-id", "value": event_id}
    record = {"msg": "write", "key": ["test", "events", None, None], "bins": [named, event]}
    check(write(record, ascii_only=True).encode())


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60))
def test_both_answer_to_any_bytes(value: bytes) -> None:
    """Bytes that were never JSON."""
    check(value)


def fuzz(rounds: int, seed: int) -> Counter[str]:
    draw = random.Random(seed)
    return Counter(check(damaged(draw)) for _ in range(rounds))


def test_both_read_damaged_records_alike() -> None:
    """3,000 good records after random changes; among them events, and most of the reasons."""
    reasons = fuzz(3_000, SEED)
    assert reasons[""] > 100
    assert len(reasons) > 6


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_both_read_a_hundred_thousand_damaged_records_alike() -> None:
    """The same for 100,000, with another seed."""
    fuzz(100_000, SEED + 1)
