"""What each record gets, straight from the table of the contracts, in plain ifs: shares no code with the decoder."""

import json
import re
from typing import Any

UUID = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}", re.ASCII)
NESTING_MAX = 500
NOTHING = object()


class Pairs(list[tuple[str, Any]]):
    """A JSON object with nothing thrown away."""

    def has(self, wanted: str) -> bool:
        return wanted in [key for key, _ in self]

    def last(self, wanted: str) -> Any:
        found = NOTHING
        for key, value in self:
            if key == wanted:
                found = value
        return found


def refuse(constant: str) -> None:
    raise ValueError(constant)


def nesting(thing: Any) -> int:
    level, deepest = [thing], 0
    while True:
        containers = [item for item in level if type(item) in (list, Pairs)]
        if not containers:
            return deepest
        deepest += 1
        level = []
        for container in containers:
            level += [value for _, value in container] if type(container) is Pairs else container


def storable(text: Any) -> bool:
    return type(text) is str and text != "" and not any(c == "\0" or 0xD800 <= ord(c) <= 0xDFFF for c in text)


def judge(value: bytes | None, source_set: str = "events") -> tuple[Any, ...]:
    """`("event", id, KPI, tag)`, or `(verdict, reason)`."""
    if value is None:
        return "rejected", "tombstone"
    try:
        top = json.loads(
            str(value, "utf-8", "strict"),
            object_pairs_hook=Pairs,
            parse_constant=refuse,
            parse_int=lambda text: len(text),
        )
    except (ValueError, RecursionError):
        return "rejected", "not-json"
    if nesting(top) > NESTING_MAX:
        return "rejected", "not-json"

    if type(top) is not Pairs:
        return "rejected", "not-an-event"
    msg = top.last("msg")
    names, values = [], {}
    if msg == "write" or msg == "delete":
        bins = top.last("bins")
        if bins is NOTHING:
            bins = []
        if type(bins) is not list:
            return "rejected", "not-an-event"
        for one in bins:
            if type(one) is not Pairs or type(one.last("name")) is not str or not one.has("value"):
                return "rejected", "not-an-event"
            names.append(one.last("name"))
            values[one.last("name")] = one.last("value")
        key = top.last("key")
        set_name = key[1] if type(key) is list and len(key) >= 2 else NOTHING
        digest = key[2] if type(key) is list and len(key) >= 3 else None
    else:
        places = []
        for name in dict.fromkeys(key for key, _ in top):
            about = top.last(name)
            if type(about) is Pairs and all(about.has(field) for field in ("msg", "namespace", "set", "digest")):
                places.append(name)
        place = places[0] if len(places) == 1 else "metadata"
        about = top.last(place)
        if type(about) is not Pairs:
            return "rejected", "not-an-event"
        msg = about.last("msg")
        if msg != "write" and msg != "delete":
            return "rejected", "not-an-event"
        if len({key for key, _ in top}) < len(top):
            return "rejected", "not-an-event"
        for name, bin_value in top:
            if name != place:
                names.append(name)
                values[name] = bin_value
        set_name, digest = about.last("set"), about.last("digest")
    if len(set(names)) < len(names):
        return "rejected", "not-an-event"
    if not names and msg == "write":
        return "rejected", "not-an-event"

    if msg == "delete":
        return "rejected", "delete"
    if set_name != source_set:
        return "rejected", "other-set"
    if "event-id" in values:
        event_id = values["event-id"]
    elif digest is None or digest is NOTHING:
        return "rejected", "no-id"
    else:
        event_id = digest
    if not storable(event_id) or event_id.isspace() or len(event_id.encode()) > 128:
        return "rejected", "bad-id"

    tag = kind = NOTHING
    data = values.get("event-data", NOTHING)
    if type(data) is Pairs:
        tag, kind = data.last("tag"), data.last("event")
    elif data is not NOTHING:
        return "rejected", "bad-tag"
    if tag is NOTHING:
        tag = values.get("event-tag-id", NOTHING)
    if kind is NOTHING:
        kind = values.get("event-type", NOTHING)
    if not storable(tag):
        return "rejected", "bad-tag"
    if type(kind) is not str:
        return "rejected", "no-kind"
    if kind not in ("impression", "click", "visit", "conversion"):
        return "parked", "unknown-kind"
    if UUID.fullmatch(event_id):
        event_id = bytes(int(event_id.replace("-", "")[at : at + 2], 16) for at in range(0, 32, 2))
    return "event", event_id, kind + "s", tag
