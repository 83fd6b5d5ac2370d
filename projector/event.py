"""Decode: the value of a record -> an event, or the reason why it is none.

The rules are a list; the first that fits decides. Nothing is guessed: a value that is there and of the wrong type is
judged as it stands, a fall-back is for what is absent.

    not-json      no value in UTF-8 JSON (RFC 8259: no NaN, no byte order mark), or nested deeper than `DEPTH_MAX`
    not-an-event  no object; neither form of the connector; no bins; a bin without name or value; two bins of one name
    delete        `msg` is "delete" (then bins may be absent)
    other-set     the set is not `source_set`, or none is named
    no-id         no bin `event-id`, and no digest
    bad-id        the id (`event-id`, else the digest) is not a string, blank, over 128 bytes of UTF-8, or unstorable
    bad-tag       the tag (`event-data.tag`, else `event-tag-id`) is absent, not a string, empty, or unstorable
    no-kind       the kind (`event-data.event`, else `event-type`) is absent or not a string
    unknown-kind  the kind is none of `KINDS`, exactly; parked

- Unstorable: with U+0000 or an unpaired surrogate, which no store keeps as it is.
- A bin `event-data` that is no map has no tag that could be believed: bad-tag.
- Which form: `json` if `msg` at the top is "write" or "delete"; else `flat-json`, whose metadata is the one object
  at the top with `msg`, `namespace`, `set` and `digest`, whatever its key, and in doubt the one under "metadata".
  In both, a `msg` that is neither "write" nor "delete" makes it not-an-event.
- A JSON key that comes twice in one object: the last stands, as in most parsers; at the top of `flat-json`, where keys
  name bins, it is not-an-event. The `type` that the connector gives a bin is not looked at.
"""

import json
from collections.abc import Callable, Mapping
from functools import partial
from itertools import accumulate
from typing import Any, Literal, NamedTuple, NoReturn

import msgspec
from msgspec import UNSET, Struct, UnsetType, field

KINDS = ("visit", "impression", "click", "conversion")
"""Kind of an event by its code."""
KPIS = ("visits", "impressions", "clicks", "conversions")
"""KPI that an event adds to, by its code."""
ID_BYTES_MAX = 128
DEPTH_MAX = 500

_CODES = {kind: code for code, kind in enumerate(KINDS)}
_ID, _DATA, _TAG, _SOURCE, _TYPE = "event-id", "event-data", "event-tag-id", "event-source", "event-type"


class Event(NamedTuple):
    """One event: `id` is 16 bytes for a UUID, in whatever spelling, else a str; `code` indexes `KINDS` and `KPIS`."""

    id: bytes | str
    code: int
    tag: str


class Unfit(NamedTuple):
    """A record that cannot be counted: `verdict` is "rejected" or "parked", `detail` short, printable ASCII."""

    verdict: str
    reason: str
    detail: str


_event: Callable[[tuple[bytes | str, int, str]], Event] = partial(tuple.__new__, Event)  # a third faster than Event()


class Named(NamedTuple):
    """What a record's value names, whatever its verdict: the id as the ledger would keep it, and the tag."""

    id: bytes | str | None
    tag: str | None


def named(value: bytes | None) -> Named:
    """The id and the tag in a record's value, each None where it has none that could be counted. Raises nothing."""
    try:
        row = _row(_parse(value or b""))
    except ValueError:
        return Named(None, None)
    tag, _ = _tag_and_kind(row)
    return Named(id_of(row.bins.get(_ID, row.digest)), tag if _is_storable(tag) else None)


def id_of(text: Any) -> bytes | str | None:
    """A text as the ledger keeps an id: the 16 bytes of a UUID in any spelling, else the text; None if it is no id."""
    return _uuid_bytes(text) or (text if _is_id(text) else None)


def spelled(event_id: bytes | str) -> str:
    """An id of the ledger as text, the same for all spellings: a UUID in lower case with dashes, else the text."""
    if isinstance(event_id, str):
        return event_id
    digits = event_id.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


class Decoder:
    """Decodes the values of one topic. Fast paths give the same answer as `decode_any`, or decline."""

    def __init__(self, source_set: str) -> None:
        """`source_set`: the set that edge rows are written to."""
        self._source_set = source_set
        self._read_listed = msgspec.json.Decoder(_Listed).decode
        self._read_flat = msgspec.json.Decoder(_Flat).decode
        self._usual, self._other = self.decode_listed, self.decode_flat

    def decode(self, value: bytes | None) -> Event | Unfit:
        """The event in a record's value, or why there is none. Raises nothing, whatever the bytes are."""
        event = self._usual(value)
        if event is None:
            event = self._other(value)
            if event is None:
                return self.decode_any(value)
            self._usual, self._other = self._other, self._usual  # a topic has one form
        return event

    def decode_listed(self, value: bytes | None) -> Event | None:
        """The fast path: a good event in the `json` form with no bins but our own. None: ask `decode_any`."""
        if value is None or (len(value) > 2 * DEPTH_MAX and _brackets(value) > DEPTH_MAX):
            return None
        try:
            if not value.isascii():
                value.decode()  # msgspec does not look at strings that it skips
            record = self._read_listed(value)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        bins = record.bins
        _, set_name, digest, _ = record.key
        if len(bins) == 5 and (
            type(bins[0]) is _IdBin
            and type(bins[1]) is _DataBin
            and type(bins[2]) is _TagBin
            and type(bins[3]) is _SourceBin
            and type(bins[4]) is _TypeBin
        ):  # in the connector's order, nothing has to be sorted out
            return self._usual_event(set_name, bins[0].value, bins[1].value, bins[2].value, bins[4].value)
        found: dict[type, Any] = {type(each): each.value for each in bins}
        if len(found) < len(bins) or not bins:  # a name that comes again is left to `decode_any`
            return None
        event_id, data, tag, kind = map(found.get, (_IdBin, _DataBin, _TagBin, _TypeBin))
        return self._usual_event(set_name, digest if event_id is None else event_id, data, tag, kind)

    def decode_flat(self, value: bytes | None) -> Event | None:
        """The same for the `flat-json` form, under the key "metadata" and with all our bins."""
        if value is None or (len(value) > 2 * DEPTH_MAX and _brackets(value) > DEPTH_MAX):
            return None
        # No key may come twice, in no spelling: five different ones are there that begin so, and no others.
        if b"\\" in value or value.count(b'"event-') != 5 or value.count(b'"metadata"') != 1:
            return None
        try:
            if not value.isascii():
                value.decode()
            record = self._read_flat(value)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return self._usual_event(record.metadata.set, record.id, record.data, record.tag, record.type)

    def _usual_event(self, set_name: Any, event_id: Any, data: Any, tag: Any, kind: Any) -> Event | None:
        if data is not None:
            if data.tag is not UNSET:
                tag = data.tag
            if data.event is not UNSET:
                kind = data.event
        code = _CODES.get(kind)
        key: Any = _uuid_bytes(event_id)
        if key is None and _is_id(event_id):
            key = event_id
        if key is None or code is None or not tag or "\0" in tag or set_name != self._source_set:
            return None
        return _event((key, code, tag))

    def decode_any(self, value: bytes | None) -> Event | Unfit:
        """The whole rule, for any bytes."""
        if value is None:
            return Unfit("rejected", "tombstone", "")
        try:
            top = _parse(value)
        except ValueError as error:
            return Unfit("rejected", "not-json", str(error))
        try:
            row = _row(top)
        except _ShapeError as error:
            return Unfit("rejected", "not-an-event", str(error))
        if row.deleted:
            return Unfit("rejected", "delete", "")
        tag, kind = _tag_and_kind(row)
        return self._judge(row.set_name, row.bins.get(_ID, row.digest), tag, kind)

    def _judge(self, set_name: Any, event_id: Any, tag: Any, kind: Any) -> Event | Unfit:
        """The rules from other-set on; UNSET is absent."""
        if set_name != self._source_set:
            return Unfit("rejected", "other-set", _shown(set_name))
        if event_id is UNSET:
            return Unfit("rejected", "no-id", "")
        key = _uuid_bytes(event_id) or event_id
        if key is event_id and not _is_id(event_id):
            return Unfit("rejected", "bad-id", _shown(event_id))
        if not _is_storable(tag):
            return Unfit("rejected", "bad-tag", _shown(tag))
        if type(kind) is not str:
            return Unfit("rejected", "no-kind", _shown(kind))
        code = _CODES.get(kind)
        if code is None:
            return Unfit("parked", "unknown-kind", _shown(kind))
        return _event((key, code, tag))


# --- what an id, a tag and a detail may be


def _uuid_bytes(text: Any) -> bytes | None:
    """The 16 bytes of a UUID spelt as 8-4-4-4-12 or 32 hex digits; None for anything else."""
    if type(text) is not str:
        return None
    if len(text) == 36 and text[8:24:5] == "----":
        text = text.replace("-", "")
    if len(text) != 32:
        return None
    try:
        key = bytes.fromhex(text)
    except ValueError:
        return None
    return key if len(key) == 16 else None  # fromhex skips blanks: fewer than 32 digits give fewer bytes


def _is_id(text: Any) -> bool:
    return _is_storable(text) and bool(text.strip()) and len(text.encode()) <= ID_BYTES_MAX


def _is_storable(text: Any) -> bool:
    """Whether it is a str, not empty, that a store keeps as it is."""
    if type(text) is not str or not text or "\0" in text:
        return False
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


_DETAIL_MAX = 100


def _shown(value: Any) -> str:
    """A short, printable form, all ASCII."""
    if value is UNSET:
        return "absent"
    if isinstance(value, str):
        return ascii(value[:_DETAIL_MAX])[: 2 * _DETAIL_MAX]
    return type(value).__name__


# --- the fast path: the usual record, as types


class _Data(Struct, gc=False):
    tag: str | UnsetType = UNSET
    event: str | UnsetType = UNSET


class _IdBin(Struct, tag_field="name", tag=_ID, gc=False):
    value: str


class _DataBin(Struct, tag_field="name", tag=_DATA, gc=False):
    value: _Data


class _TagBin(Struct, tag_field="name", tag=_TAG, gc=False):
    value: str


class _SourceBin(Struct, tag_field="name", tag=_SOURCE, gc=False):
    value: str


class _TypeBin(Struct, tag_field="name", tag=_TYPE, gc=False):
    value: str


class _Listed(Struct, gc=False):
    msg: Literal["write"]
    key: tuple[str, str, str, str | None]
    bins: list[_IdBin | _DataBin | _TagBin | _SourceBin | _TypeBin]


class _Metadata(Struct, gc=False):
    msg: Literal["write"]
    namespace: str
    set: str
    digest: str


class _Flat(Struct, gc=False, forbid_unknown_fields=True):
    metadata: _Metadata
    id: str = field(name=_ID)
    data: _Data = field(name=_DATA)
    tag: str = field(name=_TAG)
    source: str = field(name=_SOURCE)
    type: str = field(name=_TYPE)


# --- any record


class _ShapeError(ValueError):
    """JSON, but not what the connector writes."""


class _Row(NamedTuple):
    """What either form of the connector says of one edge row; UNSET is absent."""

    deleted: bool
    set_name: Any
    digest: Any
    bins: Mapping[str, Any]


class _TwiceNamed(dict[str, Any]):
    """A JSON object in which a key came twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else _TwiceNamed(found)


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


def _brackets(value: bytes) -> int:
    return value.count(b"[") + value.count(b"{")


def _depth(value: bytes) -> int:
    """How deep a JSON text nests; of other bytes nothing is promised."""
    outside_strings = value.replace(rb"\\", b"").replace(rb"\"", b"").split(b'"')[::2]
    brackets = b"".join(outside_strings).translate(None, _NOT_BRACKETS)
    return max(accumulate(map(_STEPS.__getitem__, brackets)), default=0)


def _parse(value: bytes) -> Any:
    """JSON, strictly, with integers as floats (theirs is a value that nobody reads, and may be a million digits long).

    Raises ValueError.
    """
    if _brackets(value) > DEPTH_MAX and _depth(value) > DEPTH_MAX:
        raise ValueError(f"nested deeper than {DEPTH_MAX}")
    return json.loads(value.decode(), object_pairs_hook=_object, parse_int=float, parse_constant=_no_constant)


def _row(top: Any) -> _Row:
    """Either form of the connector. Raises `_ShapeError`."""
    if not isinstance(top, dict):
        raise _ShapeError(f"{_shown(top)} at the top, not an object")
    if top.get("msg") in ("write", "delete"):
        return _json_row(top)
    return _flat_row(top)


def _json_row(top: dict[str, Any]) -> _Row:
    deleted = top["msg"] == "delete"
    items = top.get("bins", [])
    if not isinstance(items, list):
        raise _ShapeError("bins is not a list")
    bins = {}
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str) or "value" not in item:
            raise _ShapeError("a bin has no name or no value")
        if item["name"] in bins:
            raise _ShapeError(f"two bins {_shown(item['name'])}")
        bins[item["name"]] = item["value"]
    if not bins and not deleted:
        raise _ShapeError("no bins")
    key = top.get("key")
    parts = dict(enumerate(key)) if isinstance(key, list) else {}
    return _Row(deleted, parts.get(1, UNSET), _present(parts.get(2)), bins)


def _flat_row(top: dict[str, Any]) -> _Row:
    complete = [
        name
        for name, value in top.items()
        if isinstance(value, dict) and value.keys() >= {"msg", "namespace", "set", "digest"}
    ]
    name = complete[0] if len(complete) == 1 else "metadata"
    metadata = top.get(name)
    if not isinstance(metadata, dict) or metadata.get("msg") not in ("write", "delete"):
        raise _ShapeError("neither form of the connector: no `msg`")
    if isinstance(top, _TwiceNamed):
        raise _ShapeError("two bins of one name")
    bins = {bin_name: value for bin_name, value in top.items() if bin_name != name}
    deleted = metadata["msg"] == "delete"
    if not bins and not deleted:
        raise _ShapeError("no bins")
    return _Row(deleted, metadata.get("set", UNSET), _present(metadata.get("digest")), bins)


def _tag_and_kind(row: _Row) -> tuple[Any, Any]:
    tag, kind = row.bins.get(_TAG, UNSET), row.bins.get(_TYPE, UNSET)
    if _DATA not in row.bins:
        return tag, kind
    data = row.bins[_DATA]
    return (data.get("tag", tag), data.get("event", kind)) if isinstance(data, dict) else (None, kind)


def _present(value: Any) -> Any:
    """A digest of null is none."""
    return UNSET if value is None else value
