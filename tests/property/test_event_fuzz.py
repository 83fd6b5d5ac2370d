"""Good records, damaged at random: the decoder always answers, and as the contract's table does."""

import json
import random
from collections import Counter

import pytest

from projector.event import Decoder
from tests.property.test_event import check

SEED = 20_240_607
DATA = {
    "geo": [52.366521, 4.894981],
    "tag": "0a3ca7c5-b845-49ed-ab3a-129f9eca23d6",
    "publisher": "e5b08db3-07b5-456b-aaac-1e59f76c4dd6",
    "event": "impression",
    "userAgent": 'Mozilla/5.0 "X11"; caf\u00e9 \U0001f600',
}
BINS = {
    "event-id": "0d33124c-beca-4b4f-a833-8c9646167e8c",
    "event-data": DATA,
    "event-tag-id": DATA["tag"],
    "event-source": DATA["publisher"],
    "event-type": "impression",
}
DIGEST = "AvYAdzrOmm1xwvWZFyGwEvgjwnk="
JSON = {
    "msg": "write",
    "key": ["test", "events", DIGEST, None],
    "gen": 0,
    "exp": 0,
    "lut": 0,
    "bins": [{"name": name, "type": "str", "value": value} for name, value in BINS.items()],
}
METADATA = {"msg": "write", "namespace": "test", "set": "events", "userKey": None, "digest": DIGEST, "gen": 1}
FLAT = {"metadata": METADATA, **BINS}
DELETE = {"msg": "delete", "key": ["test", "events", DIGEST, None], "durable": False}
GOOD = [json.dumps(form, ensure_ascii=escaped).encode() for form in (JSON, FLAT, DELETE) for escaped in (True, False)]
JUNK = [
    b"null", b"{}", b"[]", b'""', b"0", b"NaN", b"-Infinity", b"1e999", b"9" * 5_000, b"[" * 600 + b"]" * 600,
    b'"\\ud800"', b'"\\u0000"', b'"\x00"', b"\xff", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\\", b'"', b",", b"{", b"}",
    b'{"name":"event-id","value":"x"},', b'"msg":"delete",', b'"bins":[],', b'"value":null,', b'"tag":"",', b"\\u0064",
]  # fmt: skip


def damaged(draw: random.Random) -> bytes:
    """A good record after one to three random changes."""
    value = bytearray(draw.choice(GOOD))
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        at = draw.randrange(len(value) + 1)
        to = min(len(value), at + draw.choice((1, 2, 8, 40, 200)))
        match draw.randrange(7):
            case 0 if at < len(value):
                value[at] ^= 1 << draw.randrange(8)
            case 1:
                del value[at : draw.choice((to, len(value)))]
            case 2:
                value[at:at] = value[at:to]
            case 3:
                other = draw.choice(GOOD)
                start = draw.randrange(len(other))
                value[at:to] = other[start : start + to - at]
            case 4:
                value[at:at] = draw.choice(JUNK)
            case 5:  # one JSON value for another
                marks = [spot for spot, byte in enumerate(value) if byte in b':,["']
                if marks:
                    spot = draw.choice(marks) + 1
                    value[spot : draw.choice([mark for mark in marks if mark >= spot] or [spot])] = draw.choice(JUNK)
            case _:
                letter = draw.choice(b'"\\ {}[]:,-0aE\x00\x7f\x80')
                value[at:at] = bytes([letter])
    return bytes(value)


def fuzz(rounds: int, seed: int) -> Counter[str]:
    draw = random.Random(seed)
    return Counter(check(damaged(draw))[0] for _ in range(rounds))


def test_damaged_records_get_the_tables_answer() -> None:
    """2,000 damaged records: no exception, one answer each, the table's, from both paths."""
    answers = fuzz(2_000, SEED)
    assert answers["event"] > 100
    assert answers["rejected"] > 100


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_a_hundred_thousand_damaged_records_get_the_tables_answer() -> None:
    """The same for 100,000, with another seed."""
    fuzz(100_000, SEED + 1)


@pytest.mark.parametrize(
    "value",
    [
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
        GOOD[0].replace(b'"geo": [', b'"geo": [' + b"[" * 100_000 + b"]" * 100_000 + b", "),
        GOOD[0].replace(b'"geo": [', b'"geo": [' + b"[" * 495 + b"]" * 495 + b", "),
        GOOD[0].replace(b'"geo": [', b'"geo": [' + b"[" * 496 + b"]" * 496 + b", "),
        GOOD[0].replace(b'"gen": 0', b'"gen": [' + b"[]," * 5_000 + b"[]]"),
        GOOD[0].replace(b'"gen": 0', b'"gen": "' + b'[\\"{' * 5_000 + b'\\\\"'),
        GOOD[0].replace(b'"name": "event-type"', b'"namnulle": "event-type"'),
        GOOD[0].replace(b"Mozilla", b"M" * 5_000_000),
        GOOD[0].replace(b'"gen": 0', b'"gen": ' + b"9" * 5_000_000),
        GOOD[0][:-1] + b" " * 5_000_000 + b"}",
        b"\\" * 5_000_000,
        b'"' * 5_000_000,
        b"\0" * 5_000_000,
    ],
    ids=lambda value: f"{value[:12]!r}-{len(value)}",
)
def test_size_and_depth_do_not_stop_the_line(value: bytes) -> None:
    """Values of 5 MB, 100,000 levels and millions of digits get the table's answer."""
    check(value)


@pytest.mark.parametrize(("levels", "reason"), [(500, "not-an-event"), (501, "not-json")])
def test_the_depth_limit_is_the_same_at_any_stack_depth(levels: int, reason: str) -> None:
    """How deep JSON may nest is a number, not what the caller's stack has left."""

    def deeper(calls: int) -> str:
        return deeper(calls - 1) if calls else str(Decoder("events").decode(b"[" * levels + b"]" * levels)[1])

    assert deeper(0) == deeper(200) == reason
