"""The contract's table, read a second time: what a record of the topic says by itself.

Written for the audit from the contract alone. Nothing here comes from `projector.event`, which the running program
decodes with: a fault of one of the two shows where they differ.
"""

import json
import re
import uuid
from binascii import unhexlify
from typing import Any, NoReturn, TypeAlias

import orjson

NESTING_MAX = 500
ID_BYTES_MAX = 128
CODES = {"visit": 0, "impression": 1, "click": 2, "conversion": 3}
"""The code of a kind; its KPI is the kind + "s"."""

Said: TypeAlias = tuple[bytes | None, int | None, str | None, str | None]
"""What a record says: id (see `packed`), code, tag, reason. A proper event has no reason; one of an unknown kind has
no code; of what is rejected there is the reason alone."""

_TOMBSTONE: Said = (None, None, None, "rejected:tombstone")
_NOT_JSON: Said = (None, None, None, "rejected:not-json")
_NOT_AN_EVENT: Said = (None, None, None, "rejected:not-an-event")
_DELETE: Said = (None, None, None, "rejected:delete")
_OTHER_SET: Said = (None, None, None, "rejected:other-set")
_NO_ID: Said = (None, None, None, "rejected:no-id")
_BAD_ID: Said = (None, None, None, "rejected:bad-id")
_BAD_TAG: Said = (None, None, None, "rejected:bad-tag")
_NO_KIND: Said = (None, None, None, "rejected:no-kind")


# --- ids


def packed(text: str) -> bytes:
    """An id as the audit keeps it: `u` and the 16 bytes of a UUID in any spelling, or `s` and the UTF-8 of another.

    Raises `UnicodeEncodeError` for an unpaired surrogate.
    """
    return _packed_uuid(text) or b"s" + text.encode()


def _packed_uuid(text: str) -> bytes | None:
    # 8:24:5 are the four places of the dashes.
    bare = text.replace("-", "") if len(text) == 36 and text[8:24:5] == "----" else text
    if len(bare) != 32:
        return None
    try:
        return b"u" + unhexlify(bare)
    except ValueError:  # not all of it is hex digits
        return None


def canonical(packed_id: bytes) -> str:
    """A packed id as text: a UUID in lower case with dashes, any other as it is."""
    if packed_id[:1] == b"u":
        return str(uuid.UUID(bytes=packed_id[1:]))
    return packed_id[1:].decode()


# --- the table


class Table:
    """The lines of the contract's table that a record decides alone, for one `source_set`."""

    def __init__(self, source_set: str) -> None:
        """`source_set`: records of any other Aerospike set are rejected."""
        self._source_set = source_set

    def judge(self, value: bytes | None) -> Said:
        """What a record with this value says, by the first line that fits. Raises nothing, whatever the bytes are."""
        if value is None:
            return _TOMBSTONE
        if len(value) > 2 * NESTING_MAX and _nests_too_deep(value):
            return _NOT_JSON
        repeats = None
        try:
            top = orjson.loads(value)
        except orjson.JSONDecodeError:
            try:
                top, repeats = _parsed_in_full(value)
            except ValueError:
                return _NOT_JSON
        if type(top) is not dict:
            return _NOT_AN_EVENT
        msg = top.get("msg")
        if msg == "write" or msg == "delete":
            return (self._event(top) if msg == "write" else None) or self._judge_listed(top, msg)
        return self._judge_flat(top, repeats, value)

    def _event(self, top: dict[str, Any]) -> Said | None:
        """An event with the bins that the contract shows, in that order, a UUID and plain text; None: look closer.

        Says of a "write" what `_judge_listed` would, in half the time; most records of a topic are like that.
        """
        try:
            key = top["key"]
            first, second, third, fourth, fifth = top["bins"]
            named = (
                first["name"] == "event-id"
                and second["name"] == "event-data"
                and third["name"] == "event-tag-id"
                and fourth["name"] == "event-source"
                and fifth["name"] == "event-type"
            )
            event_id, data, _, _, _ = first["value"], second["value"], third["value"], fourth["value"], fifth["value"]
            tag, code = data["tag"], CODES[data["event"]]
            if not named or type(key) is not list or key[1] != self._source_set:
                return None
            if len(event_id) != 36 or event_id[8:24:5] != "----" or not tag or not tag.isascii() or "\0" in tag:
                return None
            id_ = b"u" + unhexlify(event_id.replace("-", ""))
        except (LookupError, TypeError, ValueError, AttributeError):
            return None
        return (id_, code, tag, None) if len(id_) == 17 else None

    def _judge_listed(self, top: dict[str, Any], msg: str) -> Said:
        """The `json` form: bins in a list."""
        listed = top.get("bins", [])
        if type(listed) is not list:
            return _NOT_AN_EVENT
        try:
            bins = {each["name"]: each["value"] for each in listed}
            "".join(bins)
        except (KeyError, TypeError):  # no object, without name or value, or a name that is not a string
            return _NOT_AN_EVENT
        if len(bins) < len(listed):
            return _NOT_AN_EVENT
        key = top.get("key")
        if type(key) is not list:
            key = []
        return self._judge_row(msg, bins, key[1] if len(key) > 1 else None, key[2] if len(key) > 2 else None)

    def _judge_flat(self, top: dict[str, Any], repeats: bool | None, value: bytes) -> Said:
        """The `flat-json` form: bins at the top, beside what the connector says of them."""
        places = [name for name, held in top.items() if type(held) is dict and held.keys() >= _METADATA]
        place = places[0] if len(places) == 1 else "metadata"
        about = top.get(place)
        if type(about) is not dict:
            return _NOT_AN_EVENT
        msg = about.get("msg")
        if msg != "write" and msg != "delete":
            return _NOT_AN_EVENT
        if repeats is None:
            repeats = _may_repeat(top, value) and _parsed_in_full(value)[1]
        if repeats:
            return _NOT_AN_EVENT
        del top[place]
        return self._judge_row(msg, top, about.get("set"), about.get("digest"))

    def _judge_row(self, msg: str, bins: dict[str, Any], set_name: Any, digest: Any) -> Said:
        """A row of either form, from the line of the missing bins on."""
        if msg == "delete":
            return _DELETE
        if not bins:
            return _NOT_AN_EVENT
        if set_name != self._source_set:
            return _OTHER_SET
        event_id = bins.get("event-id", digest)
        if type(event_id) is not str:
            return _NO_ID if event_id is None and "event-id" not in bins else _BAD_ID
        id_ = _packed_uuid(event_id)
        if id_ is None:
            if not _is_text(event_id) or event_id.isspace():
                return _BAD_ID
            id_ = packed(event_id)
            if len(id_) > 1 + ID_BYTES_MAX:
                return _BAD_ID
        data = bins.get("event-data", _NO_DATA)
        if type(data) is not dict:
            return _BAD_TAG
        tag = data["tag"] if "tag" in data else bins.get("event-tag-id")
        if not _is_text(tag):
            return _BAD_TAG
        kind = data["event"] if "event" in data else bins.get("event-type")
        if type(kind) is not str:
            return _NO_KIND
        code = CODES.get(kind)
        return id_, code, tag, None if code is not None else "parked:unknown-kind"


_NO_DATA: dict[str, Any] = {}
_METADATA = {"msg", "namespace", "set", "digest"}


def _is_text(held: Any) -> bool:
    """Whether it is a string that says something and can be kept: not empty, no U+0000, no unpaired surrogate."""
    if type(held) is not str or not held or "\0" in held:
        return False
    return held.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in held)


# --- JSON


_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)


def _nests_too_deep(value: bytes) -> bool:
    """Whether a JSON text nests deeper than `NESTING_MAX`; also what names twice, and so loses, a deep value."""
    if value.count(b"[") + value.count(b"{") <= NESTING_MAX:
        return False
    level = 0
    for letter in _STRING.sub(b"", value):
        if letter in b"[{":
            level += 1
            if level > NESTING_MAX:
                return True
        elif letter in b"]}":
            level -= 1
    return False


def _parsed_in_full(value: bytes) -> tuple[Any, bool]:
    """A JSON text, also one that orjson does not take, and whether its outermost object has a name twice.

    orjson refuses escapes of unpaired surrogates and numbers beyond a double; numbers are floats here, as nobody reads
    them. Raises `ValueError` for what is no JSON.
    """
    repeats = False

    def gathered(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal repeats
        held = dict(pairs)
        repeats = len(held) < len(pairs)  # the outermost object is the last to end
        return held

    top = json.loads(value.decode(), object_pairs_hook=gathered, parse_int=float, parse_constant=_refuse)
    return top, repeats


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


def _may_repeat(top: dict[str, Any], value: bytes) -> bool:
    """False if surely no name at the top comes twice: each is written once, and none is spelt with escapes."""
    return b"\\" in value or any(value.count(f'"{name}"'.encode()) > 1 for name in top)
