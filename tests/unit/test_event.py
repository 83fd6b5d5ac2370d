"""The bad input of the contracts, case by case, with the answer written out."""

import json
from typing import Any

import pytest

from projector.event import Decoder, Event, Unfit

ID = "0d33124c-beca-4b4f-a833-8c9646167e8c"
KEY = bytes.fromhex(ID.replace("-", ""))
TAG = "0a3ca7c5-b845-49ed-ab3a-129f9eca23d6"
DIGEST = "AvYAdzrOmm1xwvWZFyGwEvgjwnk="
DATA = {"geo": [52.366521, 4.894981], "tag": TAG, "publisher": "p", "event": "impression", "userAgent": "Mozilla/5.0"}
BINS = {"event-id": ID, "event-data": DATA, "event-tag-id": TAG, "event-source": "p", "event-type": "impression"}
GOOD = Event(KEY, 1, TAG)
ABSENT = object()


def record(extra: dict[str, Any] | None = None, msg: str = "write", set_name: Any = "events", **bins: Any) -> bytes:
    """A record in the `json` form; bins are named with `_` for `-`, ABSENT takes one away."""
    changed = BINS | {name.replace("_", "-"): value for name, value in bins.items()}
    items = [{"name": name, "type": "str", "value": value} for name, value in changed.items() if value is not ABSENT]
    top = {"msg": msg, "key": ["test", set_name, DIGEST, None], "gen": 0, "exp": 0, "lut": 0, "bins": items}
    return json.dumps(top | (extra or {})).encode()


def flat(metadata_key: str = "metadata", msg: str = "write", set_name: str = "events", **bins: Any) -> bytes:
    """A record in the `flat-json` form."""
    metadata = {"msg": msg, "namespace": "test", "set": set_name, "userKey": None, "digest": DIGEST, "gen": 1}
    changed = BINS | {name.replace("_", "-"): value for name, value in bins.items()}
    return json.dumps(
        {metadata_key: metadata} | {name: value for name, value in changed.items() if value is not ABSENT}
    ).encode()


def data(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in (DATA | fields).items() if value is not ABSENT}


def decode(value: bytes | None) -> Event | Unfit:
    return Decoder("events").decode(value)


ITEMS = json.loads(record())["bins"]
GOOD_RECORDS = {
    "as in the contract": record(),
    "flat": flat(),
    "flat under another key": flat(metadata_key="meta"),
    "upper case": record(event_id=ID.upper()),
    "without dashes": record(event_id=ID.replace("-", "")),
    "an extra bin": record(other={"a": [1]}),
    "extra fields": record({"extra": {"a": None}}),
    "gen, exp, lut null": record({"gen": None, "exp": None, "lut": None}),
    "a user key": record({"key": ["test", "events", DIGEST, 7]}),
    "tag by its bin": record(event_data=data(tag=ABSENT)),
    "kind by its bin": record(event_data=data(event=ABSENT)),
    "no event-data": record(event_data=ABSENT),
    "event-data before event-tag-id": record(event_tag_id="another"),
    "event-data before event-type": record(event_type=5),
    "bins reversed": record({"bins": ITEMS[::-1]}),
    "bins with order": record({"bins": [item | {"order": "K", "ordered": True} for item in ITEMS]}),
    "an integer of 100 digits": record({"lut": 10**99}),
}  # fmt: skip


@pytest.mark.parametrize("value", GOOD_RECORDS.values(), ids=GOOD_RECORDS.keys())
def test_these_are_the_same_event(value: bytes) -> None:
    """Every form and spelling of the contract's sample is the one event."""
    assert decode(value) == GOOD


def test_the_usual_record_takes_the_fast_path() -> None:
    """The contract's sample does not need the slow path, whatever the order of its bins."""
    assert Decoder("events").decode_listed(record()) == GOOD
    assert Decoder("events").decode_listed(GOOD_RECORDS["bins reversed"]) == GOOD
    assert Decoder("events").decode_flat(flat()) == GOOD
    assert Decoder("events").decode_flat(json.dumps(dict(reversed(json.loads(flat()).items()))).encode()) == GOOD


@pytest.mark.parametrize(
    "more",
    [
        b', "event-id": "x"}',
        b', "event-id" : "x"}',
        b', "event-i\\u0064": "x"}',
        b', "metadata": {}}',
        b', "m\\u0065tadata": {}}',
        b', "msg": "write"}',
        b', "other": 1}',
    ],
)
def test_a_key_of_any_other_spelling_is_none_of_the_usual(more: bytes) -> None:
    """What might be a name that comes twice, or a bin more, is left to the whole rule."""
    value = flat()[:-1] + more
    json.loads(value)
    assert Decoder("events").decode_flat(value) is None


def test_a_topic_in_which_the_forms_alternate() -> None:
    """Whichever form came last, the other is read as well."""
    decoder = Decoder("events")
    forms = [record(), flat(), flat(), record(), b"{", record(), b"{", flat()]
    assert [type(decoder.decode(value)) is Unfit for value in forms] == [value == b"{" for value in forms]


NEAR_UUID = "0d33124cb-eca-4b4f-a833-8c9646167e8c"
GAPPED = "0d 33124cbeca4b4fa8338c964616 7e"
DASHED_GAPPED = "0d 33124-beca-4b4f-a833-8c964616 67e"
OTHER_EVENTS = {
    "digest as id": (record(event_id=ABSENT), Event(DIGEST, 1, TAG)),
    "flat, digest as id": (flat(event_id=ABSENT), Event(DIGEST, 1, TAG)),
    "dashes elsewhere": (record(event_id=NEAR_UUID), Event(NEAR_UUID, 1, TAG)),
    "blanks around": (record(event_id=f" {ID}"), Event(f" {ID}", 1, TAG)),
    "blanks inside": (record(event_id=GAPPED), Event(GAPPED, 1, TAG)),
    "blanks inside, dashed": (record(event_id=DASHED_GAPPED), Event(DASHED_GAPPED, 1, TAG)),
    "128 bytes": (record(event_id="\u00e9" * 64), Event("\u00e9" * 64, 1, TAG)),
    "surrogates in a pair": (record(event_id="\U0001f600"), Event("\U0001f600", 1, TAG)),
    "a visit": (record(event_data=data(event="visit")), Event(KEY, 0, TAG)),
    "a click": (record(event_data=data(event="click")), Event(KEY, 2, TAG)),
    "a conversion": (record(event_data=data(event="conversion")), Event(KEY, 3, TAG)),
    "a blank tag": (record(event_data=data(tag=" ")), Event(KEY, 1, " ")),
}  # fmt: skip


@pytest.mark.parametrize(("value", "event"), OTHER_EVENTS.values(), ids=OTHER_EVENTS.keys())
def test_these_are_events_of_their_own(value: bytes, event: Event) -> None:
    """Near misses of a UUID are texts, kinds have their codes, other ids stay as they are."""
    assert decode(value) == event


TWO_OF_A_NAME = [*ITEMS, {"name": "event-source", "type": "str", "value": "p"}]
BAD = {
    "tombstone": (None, "tombstone"),
    "empty": (b"", "not-json"),
    "truncated": (record()[:-20], "not-json"),
    "more behind it": (record() + b"}", "not-json"),
    "invalid UTF-8 in what nobody reads": (record().replace(b"Mozilla", b"Mozill\xe9"), "not-json"),
    "an encoded surrogate": (record().replace(b"Mozilla", b"\xed\xa0\x80"), "not-json"),
    "byte order mark": (b"\xef\xbb\xbf" + record(), "not-json"),
    "UTF-16": (record().decode().encode("utf-16"), "not-json"),
    "NaN": (record({"lut": float("nan")}), "not-json"),
    "Infinity": (record(event_data=data(geo=[float("inf"), 1])), "not-json"),
    "a control character": (record().replace(b"Mozilla", b"Moz\nilla"), "not-json"),
    "100,000 arrays": (b"[" * 100_000 + b"]" * 100_000, "not-json"),
    "a list": (b"[]", "not-an-event"),
    "a number": (b"12", "not-an-event"),
    "an empty object": (b"{}", "not-an-event"),
    "bins missing": (b'{"msg": "write", "key": ["test", "events", "d", null]}', "not-an-event"),
    "bins an object": (record({"bins": {}}), "not-an-event"),
    "bins null": (record({"bins": None}), "not-an-event"),
    "bins empty": (record({"bins": []}), "not-an-event"),
    "a bin that is a text": (record({"bins": ["event-id"]}), "not-an-event"),
    "a bin without value": (record({"bins": [{"name": "event-id", "type": "str"}]}), "not-an-event"),
    "a bin without name": (record({"bins": [{"value": "x"}]}), "not-an-event"),
    "two bins of one name": (record({"bins": TWO_OF_A_NAME}), "not-an-event"),
    "two keys of one name, flat": (flat()[:-1] + b', "event-id": "x"}', "not-an-event"),
    "another msg": (record(msg="upsert"), "not-an-event"),
    "another msg, flat": (flat(msg="upsert"), "not-an-event"),
    "two metadata, flat": (flat()[:-1].replace(b'"metadata"', b'"one"') + b", " + flat("two")[1:], "not-an-event"),
    "delete": (b'{"msg": "delete", "key": ["test", "events", "d", null], "durable": false}', "delete"),
    "delete, flat": (b'{"metadata": {"msg": "delete", "namespace": "test", "set": "events"}}', "delete"),
    "delete of another set": (b'{"msg": "delete", "key": ["test", "other", "d", null]}', "delete"),
    "another set": (record(set_name="sessions"), "other-set"),
    "no set": (record(set_name=None), "other-set"),
    "no key": (record({"key": None}), "other-set"),
    "another set, flat": (flat(set_name="sessions"), "other-set"),
    "no id, no digest": (record({"key": ["test", "events", None, None]}, event_id=ABSENT), "no-id"),
    "id null": (record(event_id=None), "bad-id"),
    "id an int": (record(event_id=7), "bad-id"),
    "id empty": (record(event_id=""), "bad-id"),
    "id blank": (record(event_id=" \t\u3000"), "bad-id"),
    "id of 129 bytes": (record(event_id="x" * 129), "bad-id"),
    "id of 130 bytes in 65 characters": (record(event_id="\u00e9" * 65), "bad-id"),
    "id of 10 kB": (record(event_id="x" * 10_240), "bad-id"),
    "id with U+0000": (record(event_id="a\0b"), "bad-id"),
    "id with an unpaired surrogate": (record(event_id="a\ud800"), "bad-id"),
    "tag absent": (record(event_data=data(tag=ABSENT), event_tag_id=ABSENT), "bad-tag"),
    "tag null is not replaced": (record(event_data=data(tag=None)), "bad-tag"),
    "tag an int": (record(event_data=data(tag=7)), "bad-tag"),
    "tag empty is not replaced": (record(event_data=data(tag="")), "bad-tag"),
    "tag with U+0000": (record(event_data=data(tag="a\0")), "bad-tag"),
    "tag with an unpaired surrogate": (record(event_data=data(tag="\udfff")), "bad-tag"),
    "event-data a text": (record(event_data="click"), "bad-tag"),
    "event-data null": (record(event_data=None), "bad-tag"),
    "kind absent": (record(event_data=data(event=ABSENT), event_type=ABSENT), "no-kind"),
    "kind an int is not replaced": (record(event_data=data(event=7)), "no-kind"),
    "kind unknown": (record(event_data=data(event="hack")), "unknown-kind"),
    "kind in another case": (record(event_data=data(event="Click")), "unknown-kind"),
    "kind empty is not replaced": (record(event_data=data(event="")), "unknown-kind"),
    "kind with an unpaired surrogate": (record(event_data=data(event="\ud800")), "unknown-kind"),
    "no id before no tag": (record({"key": [1, "events"]}, event_id=ABSENT, event_data=7), "no-id"),
    "another set before no id": (record({"key": [1, "x"]}, event_id=ABSENT), "other-set"),
}  # fmt: skip


@pytest.mark.parametrize(("value", "reason"), BAD.values(), ids=BAD.keys())
def test_bad_input_gets_its_reason(value: bytes | None, reason: str) -> None:
    """Each line of the table, and which of two that fit comes first."""
    found = decode(value)
    assert isinstance(found, Unfit)
    assert (found.verdict, found.reason) == ("parked" if reason == "unknown-kind" else "rejected", reason)
    assert found.detail.isascii()


@pytest.mark.parametrize("name", BINS)
def test_two_bins_of_one_name_are_no_event(name: str) -> None:
    """Whichever of our bins comes twice, and be it with the same value, no path takes the last."""
    (again,) = (item for item in ITEMS if item["name"] == name)
    found = decode(record({"bins": [*ITEMS, again]}))
    assert isinstance(found, Unfit)
    assert found.reason == "not-an-event"


def test_the_source_set_is_a_setting() -> None:
    """Another `source_set` takes the events of that set, and of that set only."""
    assert Decoder("sessions").decode(record(set_name="sessions")) == GOOD
    assert isinstance(Decoder("sessions").decode(record()), Unfit)
