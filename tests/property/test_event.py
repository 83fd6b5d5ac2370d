"""Whatever the record, both paths of the decoder answer as the contract's table does."""

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from projector.event import KPIS, Decoder, Event, Unfit
from tests.property.event_oracle import judge

DECODER = Decoder("events")
SPELLINGS = [
    "0d33124c-beca-4b4f-a833-8c9646167e8c",
    "0D33124CBECA4B4FA8338C9646167E8C",
    "0d33124c-BECA-4b4f-a833-8c9646167e8C",
]
NEAR_UUIDS = [
    "0d33124cbeca-4b4f-a833-8c96-46167e8c",
    "0d33124c-beca-4b4f-a833-8c9646167e8",
    "0d33124c-beca-4b4f-a833-8c9646167e8g",
    "{0d33124c-beca-4b4f-a833-8c9646167e8c}",
    " 0d33124c-beca-4b4f-a833-8c9646167e8",
    "0d 33124c-beca-4b4f-a833-8c9646167e8",
    "0d33124cbeca4b4fa8338c964616 7e8",
    "0d33124c-beca-4b4f-a833-8c 964616 7e",
    "0d 33124cbeca4b4fa8338c 964616 7",
    "0d 33124cbeca4b4fa8338c964616 7e",
    "\t0d33124cbeca4b4fa8338c96461 67",
    "0d33124c-beca-4b4f-a833-8c96461\u0661\u0662\u0663\u0664\u0665",
    "urn:uuid:0d33124c-beca-4b4f-a833-8c9646167e8c",
    "-" * 36,
]
WRONG = st.one_of(
    st.none(), st.booleans(), st.integers(), st.just(10**30), st.floats(), st.just([]), st.just({}), st.just(["a"]),
    st.sampled_from(["", " ", "\t\u3000", "a\0b", "\ud800", "\udc00\ud800"]),
    st.sampled_from(["x" * 128, "x" * 129, "\u00e9" * 64, "\u00e9" * 65]),
    st.text(max_size=5),
)  # fmt: skip
IDS = st.one_of(st.sampled_from(SPELLINGS), st.uuids().map(str), st.sampled_from(NEAR_UUIDS), WRONG)
TAGS = st.one_of(st.uuids().map(str), WRONG)
KINDS = st.one_of(st.sampled_from(["impression", "click", "visit", "conversion", "Click", "hack", ""]), WRONG)
JUNK = st.recursive(
    WRONG,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
EXTRA_BINS = st.sampled_from(["other", "msg", "bins", "key", "name", "metadata", "", "\ud800", "\u00e9"])


@st.composite
def event_datas(draw: st.DrawFn) -> Any:
    if draw(st.integers(0, 9)) == 0:
        return draw(JUNK)
    fields: list[tuple[str, Any]] = [("geo", [52.3, 4.8])]
    if draw(st.integers(0, 5)):
        fields.append(("tag", draw(TAGS)))
    if draw(st.integers(0, 5)):
        fields.append(("event", draw(KINDS)))
    if draw(st.integers(0, 5)) == 0:
        fields.append((draw(st.sampled_from(["tag", "event", "userAgent"])), draw(JUNK)))
    return Written(draw(st.permutations(fields)))


class Written(list[tuple[str, Any]]):
    """A JSON object as it will be written: ordered, and a key may come twice."""


def write(thing: Any, ascii_only: bool) -> str:
    """JSON text, also of what json cannot hold: `Written` objects, unpaired surrogates as escapes."""
    if isinstance(thing, Written):
        return "{" + ", ".join(f"{write(key, ascii_only)}: {write(value, ascii_only)}" for key, value in thing) + "}"
    if isinstance(thing, list):
        return "[" + ",".join(write(item, ascii_only) for item in thing) + "]"
    if isinstance(thing, dict):
        return write(Written(thing.items()), ascii_only)
    text = json.dumps(thing, ensure_ascii=ascii_only)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(thing)
    return text


@st.composite
def bin_lists(draw: st.DrawFn) -> list[tuple[str, Any]]:
    """Our bins, mostly there and mostly right, and now and then another one, or one twice."""
    bins: list[tuple[str, Any]] = [
        (name, draw(values))
        for name, values in (
            ("event-id", IDS),
            ("event-data", event_datas()),
            ("event-tag-id", TAGS),
            ("event-source", st.one_of(st.text(max_size=3), JUNK)),
            ("event-type", KINDS),
        )
        if draw(st.integers(0, 7))
    ]
    if draw(st.integers(0, 3)) == 0:
        bins.append((draw(EXTRA_BINS), draw(JUNK)))
    if bins and draw(st.integers(0, 9)) == 0:
        bins.append((draw(st.sampled_from(bins))[0], draw(JUNK)))
    return draw(st.permutations(bins))


MSGS = st.one_of(
    st.just("write"), st.just("write"), st.just("write"), st.sampled_from(["delete", "Write", "upsert", None])
)
SETS = st.one_of(st.just("events"), st.just("events"), st.just("events"), st.sampled_from(["other", "", None, 1]))
DIGESTS = st.one_of(st.just("AvYAdzrOmm1xwvWZFyGwEvgjwnk="), WRONG)
NUMBERS = st.sampled_from([0, 1, 1698586936461, None, 10**30])


@st.composite
def json_records(draw: st.DrawFn) -> Any:
    items: Any = []
    for name, value in draw(bin_lists()):
        item = [("name", name), ("value", value)]
        if draw(st.integers(0, 3)):
            item.append(("type", draw(st.sampled_from(["str", "map", "list", None]))))
        if draw(st.integers(0, 9)) == 0:
            item.append(("order", "KEY_ORDERED"))
        if draw(st.integers(0, 19)) == 0:
            item.append((draw(st.sampled_from(["name", "value"])), draw(JUNK)))
        if draw(st.integers(0, 29)) == 0:
            item.pop(0)
        items.append(Written(draw(st.permutations(item))))
    if draw(st.integers(0, 19)) == 0:
        items = draw(JUNK)
    key: Any = ["test", draw(SETS), draw(DIGESTS), draw(st.sampled_from([None, "user-key", 7]))]
    if draw(st.integers(0, 19)) == 0:
        key = draw(st.one_of(JUNK, st.just(key[:2]), st.just(key[:3]), st.just([*key, 1])))
    fields = [("msg", draw(MSGS)), ("key", key), ("bins", items)]
    fields += [(name, draw(NUMBERS)) for name in ("gen", "exp", "lut") if draw(st.booleans())]
    if draw(st.integers(0, 9)) == 0:
        fields.append((draw(st.sampled_from(["msg", "bins", "key", "metadata", "ordered"])), draw(JUNK)))
    if draw(st.integers(0, 9)) == 0:
        fields.pop(draw(st.integers(0, 2)))
    return Written(draw(st.permutations(fields)))


@st.composite
def flat_records(draw: st.DrawFn) -> Any:
    metadata = [("msg", draw(MSGS)), ("namespace", "test"), ("set", draw(SETS)), ("digest", draw(DIGESTS))]
    metadata += [(name, draw(NUMBERS)) for name in ("gen", "exp", "lut", "userKey") if draw(st.booleans())]
    if draw(st.integers(0, 9)) == 0:
        metadata.pop(draw(st.integers(0, 3)))
    place = draw(st.sampled_from(["metadata", "metadata", "meta", "\u00e9", "bins"]))
    fields: list[tuple[str, Any]] = [*draw(bin_lists()), (place, Written(metadata))]
    if draw(st.integers(0, 9)) == 0:
        fields.append((draw(st.sampled_from(["metadata", "second"])), Written(metadata)))
    return Written(draw(st.permutations(fields)))


FLAWS = st.lists(st.sampled_from(["drop", "twice", "wrong", "data-drop", "data-twice", "data-wrong"]), max_size=2)


@st.composite
def nearly_good_records(draw: st.DrawFn) -> Any:
    """A good record of either form with at most two flaws, each of which decides alone."""
    tag, kind = str(draw(st.uuids())), draw(st.sampled_from(["impression", "click"]))
    data = Written([("geo", [52.3, 4.8]), ("tag", tag), ("event", kind)])
    bins: dict[str, Any] = {
        "event-id": draw(st.sampled_from(SPELLINGS)),
        "event-data": data,
        "event-tag-id": str(draw(st.uuids())),
        "event-source": "p",
        "event-type": draw(st.sampled_from(["visit", "conversion"])),
    }
    fields = list(bins.items())
    for flaw in draw(FLAWS):
        part = data if flaw.startswith("data") else fields
        at = draw(st.integers(0, len(part) - 1))
        name, value = part[at]
        if flaw.endswith("drop"):
            del part[at]
        elif flaw.endswith("twice"):
            part.append((name, value if draw(st.booleans()) else bins.get(name, tag)))
        else:
            part[at] = (name, draw(WRONG))
        if not data or not fields:
            break
    fields = draw(st.permutations(fields))
    if draw(st.booleans()):
        metadata = {"msg": "write", "namespace": "test", "set": "events", "digest": "AvYAdzrOmm1xwvWZFyGwEvgjwnk="}
        return Written([("metadata", metadata), *fields])
    items = [{"name": name, "type": "str", "value": value} for name, value in fields]
    return {"msg": "write", "key": ["test", "events", "AvYAdzrOmm1xwvWZFyGwEvgjwnk=", None], "bins": items}


def answer(found: Event | Unfit) -> tuple[Any, ...]:
    return ("event", found.id, KPIS[found.code], found.tag) if isinstance(found, Event) else tuple(found[:2])


def check(value: bytes | None) -> tuple[Any, ...]:
    """Hold all paths against the table; returns what it says."""
    expected = judge(value)
    assert answer(DECODER.decode_any(value)) == expected
    for usual in (DECODER.decode_listed(value), DECODER.decode_flat(value)):
        assert usual is None or answer(usual) == expected
    found = DECODER.decode(value)
    assert answer(found) == expected
    if isinstance(found, Unfit):
        assert found.detail.isascii()
        assert found.detail.isprintable()
        assert len(found.detail) <= 300
    return expected


@settings(max_examples=1_500, deadline=None)
@given(st.one_of(nearly_good_records(), json_records(), flat_records(), JUNK), st.booleans())
@example(None, True)
def test_both_paths_answer_as_the_table_does(record: Any, ascii_only: bool) -> None:
    """Any record of either form, with every kind of wrongness, gets the table's answer from both paths."""
    check(write(record, ascii_only).encode())


@settings(max_examples=500, deadline=None)
@given(st.text("0123456789abcdefABCDEF -\u0661\n", min_size=31, max_size=37) | IDS | st.sampled_from(NEAR_UUIDS))
def test_a_uuid_is_exactly_its_spellings(event_id: Any) -> None:
    """Only 8-4-4-4-12 and 32 ASCII hex digits become 16 bytes; near misses stay the text they are."""
    record = {
        "msg": "write",
        "key": ["test", "events", "AvYAdzrOmm1xwvWZFyGwEvgjwnk=", None],
        "bins": [
            {"name": "event-id", "value": event_id},
            {"name": "event-data", "value": {"tag": "t", "event": "click"}},
        ],
    }
    check(json.dumps(record).encode())


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60))
def test_any_bytes_get_an_answer(value: bytes) -> None:
    """Bytes that were never JSON are judged, not raised."""
    check(value)
