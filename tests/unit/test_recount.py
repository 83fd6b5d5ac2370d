"""The audit's own reading of a topic: records written by hand, with the answer that the contract gives each."""

import os
import random
import signal
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import duckdb
import pytest

from projector.audit.contract import NESTING_MAX, Table
from projector.audit.reading import Part
from projector.audit.recount import canonical, packed, recounting
from projector.backends.embedded_log import EmbeddedLog
from projector.errors import OffsetsGone, Retryable
from projector.log import Log, Message, Record
from tests.fault.memory_log import MemoryLog

UUID = "0d33124c-beca-4b4f-a833-8c9646167e8c"
ID = b"u" + bytes.fromhex("0d33124cbeca4b4fa8338c9646167e8c")
TAG = "0a3ca7c5-b845-49ed-ab3a-129f9eca23d6"
DIGEST = "AvYAdzrOmm1xwvWZFyGwEvgjwnk="
ID_BIN = f'{{"name": "event-id", "type": "str", "value": "{UUID}"}}'
DATA_BIN = (
    '{"name": "event-data", "type": "map", "value": {"geo": [52.366521, 4.894981],'
    f' "tag": "{TAG}", "publisher": "p", "event": "click", "userAgent": "Mozilla/5.0 (X11)"}}}}'
)
TAG_BIN = '{"name": "event-tag-id", "type": "str", "value": "another-tag"}'
TYPE_BIN = '{"name": "event-type", "type": "str", "value": "visit"}'
LISTED = (
    f'{{"msg": "write", "key": ["test", "events", "{DIGEST}", null], "gen": 0, "exp": 0, "lut": 0,'
    f' "bins": [{ID_BIN}, {DATA_BIN}, {TAG_BIN}, {{"name": "event-source", "type": "str", "value": "p"}}, {TYPE_BIN}]}}'
)
ABOUT = (
    '{"msg": "write", "namespace": "test", "set": "events", "userKey": null,'
    f' "digest": "{DIGEST}", "gen": 1, "lut": 1698586936461, "exp": 0}}'
)
FLAT = (
    f'{{"metadata": {ABOUT}, "event-id": "{UUID}", "event-data": {{"geo": [52.366521, 4.894981], "tag": "{TAG}",'
    ' "publisher": "p", "event": "click", "userAgent": "Mozilla/5.0 (X11)"}, "event-tag-id": "another-tag",'
    ' "event-source": "p", "event-type": "visit"}'
)
CLICK = (ID, 2, TAG, None)


def without(text: str, *parts: str) -> str:
    for part in parts:
        assert part in text
        text = text.replace(part, "", 1)
    return text


def instead(text: str, part: str, other: str) -> str:
    assert text.count(part) == 1
    return text.replace(part, other)


def both(listed_part: str, flat_part: str, listed_other: str, flat_other: str) -> tuple[str, str]:
    """The sample in both forms, with a part changed in each."""
    return instead(LISTED, listed_part, listed_other), instead(FLAT, flat_part, flat_other)


def with_id(written: str) -> tuple[str, str]:
    return both(
        ID_BIN, f'"event-id": "{UUID}"', f'{{"name": "event-id", "value": {written}}}', f'"event-id": {written}'
    )


def with_data(written: str) -> tuple[str, str]:
    """With this in the place of tag and kind in `event-data`."""
    return tuple(  # type: ignore[return-value]  # two of them
        instead(without(form, '"event": "click", '), f'"tag": "{TAG}"', written) for form in (LISTED, FLAT)
    )


def with_tag(written: str) -> tuple[str, str]:
    return with_data(f'"tag": {written}, "event": "click"')


def with_kind(written: str) -> tuple[str, str]:
    return with_data(f'"tag": "{TAG}", "event": {written}')


def deep(levels: int) -> tuple[str, str]:
    """With a list in `geo` that makes the whole nest so deep."""
    return tuple(  # type: ignore[return-value]  # two of them
        instead(form, "52.366521", "[" * inner + "]" * inner)
        for form, inner in ((LISTED, levels - 5), (FLAT, levels - 3))
    )


GOOD: dict[str, Sequence[str]] = {
    "as in the contract": (LISTED, FLAT),
    "upper case": with_id(f'"{UUID.upper()}"'),
    "mixed case": with_id('"0d33124C-BECA-4b4f-A833-8c9646167E8c"'),
    "without dashes": with_id('"0d33124cbeca4b4fa8338c9646167e8c"'),
    "spelt with escapes": with_id(f'"\\u0030{UUID[1:]}"'),
    "other metadata keys": (instead(FLAT, '"metadata"', '"m\u00e9ta"'), instead(FLAT, '"metadata"', '"bins"')),
    "complete metadata elsewhere": (instead(FLAT[:-1], '"metadata"', '"about"') + ', "metadata": {"msg": 1}}',),
    "a bin more": (instead(LISTED, TYPE_BIN, TYPE_BIN + ', {"name": "x", "value": {"a": 1}}'), FLAT[:-1] + ', "x": 1}'),
    "bins in another order": (instead(instead(LISTED, DATA_BIN + ", ", ""), ID_BIN, f"{DATA_BIN}, {ID_BIN}"),),
    "a map with its order": (instead(LISTED, '"type": "map"', '"type": "map", "order": "K", "ordered": true'),),
    "numbers of connectors before 4.0": (without(LISTED, ' "gen": 0,', ' "exp": 0,', ' "lut": 0,'),),
    "a number beyond a double": (
        instead(LISTED, '"lut": 0', '"lut": 1e999'),
        instead(FLAT, '"gen": 1', '"gen": -1e999'),
    ),
    "a number of 5,000 digits": (instead(LISTED, '"lut": 0', f'"lut": {"9" * 5_000}'),),
    "an unpaired surrogate that nobody reads": (instead(LISTED, "(X11)", "\\ud800"), instead(FLAT, "(X11)", "\\ud800")),
    "a quote and a backslash": (instead(LISTED, "(X11)", '\\"\\\\'), instead(FLAT, "(X11)", '\\"\\\\')),
    "a bin's name as a value": (instead(FLAT, "(X11)", 'x", "y": "event-id'),),
    "brackets in a string": (instead(LISTED, "(X11)", "[" * 2_000), instead(FLAT, "(X11)", '\\"[{' * 2_000)),
    "500 levels": deep(NESTING_MAX),
    "an object's key that comes twice: the last": (
        instead(LISTED, f'"tag": "{TAG}"', f'"tag": "x", "tag": "{TAG}"'),
        instead(LISTED, '"msg": "write"', '"msg": "delete", "msg": "write"'),
        instead(FLAT, '"msg": "write"', '"msg": "delete", "msg": "write"'),
    ),
    "a user key": (instead(LISTED, f'"{DIGEST}", null', f'"{DIGEST}", 7'),),
    "no digest": (instead(LISTED, f'"{DIGEST}"', "null"), instead(FLAT, f'"{DIGEST}"', "null")),
}  # fmt: skip


@pytest.mark.parametrize("texts", GOOD.values(), ids=GOOD.keys())
def test_these_are_one_click(texts: Sequence[str]) -> None:
    """The contract's sample, however it is written: one id, its code, and the tag of `event-data`."""
    assert [Table("events").judge(text.encode()) for text in texts] == [CLICK] * len(texts)


OTHERS: dict[str, tuple[Sequence[str], tuple[Any, ...]]] = {
    "digest as id": (
        (without(LISTED, f"{ID_BIN}, "), without(FLAT, f'"event-id": "{UUID}", ')),
        (b"s" + DIGEST.encode(), 2, TAG, None),
    ),
    "tag by its bin": (with_data('"event": "click"'), (ID, 2, "another-tag", None)),
    "kind by its bin": (with_data(f'"tag": "{TAG}"'), (ID, 0, TAG, None)),
    "no event-data": (
        (without(LISTED, f"{DATA_BIN}, "), FLAT[: FLAT.index('"event-data"')] + FLAT[FLAT.index('"event-tag-id"') :]),
        (ID, 0, "another-tag", None),
    ),
    "an impression": (with_kind('"impression"'), (ID, 1, TAG, None)),
    "a visit": (with_kind('"visit"'), (ID, 0, TAG, None)),
    "a conversion": (with_kind('"conversion"'), (ID, 3, TAG, None)),
    "a blank tag": (with_tag('" "'), (ID, 2, " ", None)),
    "a tag in pairs of surrogates": (with_tag('"\\ud83d\\ude00"'), (ID, 2, "\U0001f600", None)),
    "an id in 128 bytes": (with_id(f'"{"é" * 64}"'), (b"s" + "é".encode() * 64, 2, TAG, None)),
    "blanks around a UUID": (with_id(f'" {UUID}"'), (f"s {UUID}".encode(), 2, TAG, None)),
    "a UUID in braces": (with_id(f'"{{{UUID}}}"'), (f"s{{{UUID}}}".encode(), 2, TAG, None)),
    "dashes in other places": (
        with_id('"0d33124cb-eca-4b4f-a833-8c9646167e8c"'),
        (b"s0d33124cb-eca-4b4f-a833-8c9646167e8c", 2, TAG, None),
    ),
    "a dash too many": (
        with_id('"0d33124c-beca-4b4f-a833-8c96-6167e8c"'),
        (b"s0d33124c-beca-4b4f-a833-8c96-6167e8c", 2, TAG, None),
    ),
    "blanks among 32": (
        with_id('"0d 33124cbeca4b4fa8338c964616 7e"'),
        (b"s0d 33124cbeca4b4fa8338c964616 7e", 2, TAG, None),
    ),
    "other digits": (with_id(f'"{UUID[:-1]}\u0661"'), (b"s" + UUID[:-1].encode() + "\u0661".encode(), 2, TAG, None)),
    "an unknown kind": (with_kind('"hack"'), (ID, None, TAG, "parked:unknown-kind")),
    "a kind in another case": (with_kind('"Click"'), (ID, None, TAG, "parked:unknown-kind")),
    "an empty kind": (with_kind('""'), (ID, None, TAG, "parked:unknown-kind")),
    "a kind with an unpaired surrogate": (with_kind('"\\ud800"'), (ID, None, TAG, "parked:unknown-kind")),
}  # fmt: skip


@pytest.mark.parametrize(("texts", "said"), OTHERS.values(), ids=OTHERS.keys())
def test_these_say_something_else(texts: Sequence[str], said: tuple[Any, ...]) -> None:
    """What the id, the tag and the kind are, and that near misses of a UUID are texts of their own."""
    assert [Table("events").judge(text.encode()) for text in texts] == [said] * len(texts)


REJECTED: dict[str, Sequence[str | bytes | None]] = {
    "tombstone": [None],
    "not-json: nothing": ["", " "],
    "not-json: cut, or more behind it": [LISTED[:-1], FLAT[:-1], LISTED + "}", FLAT + "0"],
    "not-json: UTF-8": [
        LISTED.encode().replace(b"Mozilla", b"Mozill\xe9"),
        FLAT.encode().replace(b"Mozilla", b"\xed\xa0\x80"),
        b"\xef\xbb\xbf" + LISTED.encode(),
        LISTED.encode("utf-16"),
    ],
    "not-json: no number": [instead(LISTED, "52.366521", number) for number in ("NaN", "Infinity", "-Infinity", "01")],
    "not-json: a control character": [instead(LISTED, "(X11)", "\n"), instead(FLAT, "(X11)", "\0")],
    "not-json: NaN beside what orjson refuses": [instead(LISTED, "52.366521", "NaN, 1e999"), '["\\ud800", NaN]'],
    "not-json: 501 levels": deep(NESTING_MAX + 1),
    "not-json: deep, and replaced by a key that comes again": [
        instead(LISTED, '"gen": 0', '"gen": ' + "[" * 500 + "]" * 500 + ', "gen": 0')
    ],
    "not-json: 100,000 levels": ["[" * 100_000, "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000],
    "not-an-event: no object": ["[]", "null", "12", '"write"', "true", f"[{LISTED}]", "1e999", '"\\ud800"'],
    "not-an-event: neither form": ["{}", '{"msg": "upsert"}', instead(LISTED, '"write"', '"upsert"')],
    "not-an-event: neither form, flat": [
        instead(FLAT, '"write"', '"upsert"'),
        instead(FLAT, ABOUT, "7"),
        instead(instead(FLAT, '"metadata"', '"about"'), '"namespace": "test", ', ""),
        FLAT[:-1].replace('"metadata"', '"one"') + f', "two": {ABOUT}}}',
    ],
    "not-an-event: no bins": [
        '{"msg": "write", "key": ["test", "events", "d", null]}',
        '{"msg": "write", "key": ["test", "events", "d", null], "bins": []}',
        f'{{"metadata": {ABOUT}}}',
    ],
    "not-an-event: bins of another shape": [
        f'{{"msg": "write", "key": ["test", "events", "d", null], "bins": {bins}}}'
        for bins in ("{}", "null", '"none"', "[1]", '["event-id"]', "[[]]", '[{"name": "event-id"}]', '[{"value": 1}]',
                     '[{"name": 1, "value": 1}]', '[{"name": null, "value": 1}]', '[{"name": [], "value": 1}]')
    ],
    "not-an-event: two bins of one name": [
        *(instead(LISTED, TYPE_BIN, f"{TYPE_BIN}, {again}") for again in (ID_BIN, DATA_BIN, TAG_BIN, TYPE_BIN)),
        instead(LISTED, TYPE_BIN, f'{TYPE_BIN}, {{"name": "x", "value": 1}}, {{"name": "x", "value": 1}}'),
        instead(LISTED, TYPE_BIN, f'{TYPE_BIN}, {{"name": "event-i\\u0064", "value": "x"}}'),
        *(FLAT[:-1] + f', "{name}": "x"}}' for name in ("event-id", "event-source", "event-i\\u0064", "metadata")),
        FLAT[:-1] + ', "x": 1, "x": 1}',
        FLAT[:-1] + ', "x": 1e999, "x": 1}',
    ],
    "not-an-event: before a delete": [
        '{"msg": "delete", "key": ["test", "events", "d", null], "bins": 7}',
        '{"metadata": {"msg": "delete"}, "x": 1, "x": 2}',
    ],
    "delete": [
        f'{{"msg": "delete", "key": ["test", "events", "{DIGEST}", null], "durable": false}}',
        '{"msg": "delete"}',
        instead(LISTED, '"write"', '"delete"'),
        instead(FLAT, '"write"', '"delete"'),
        '{"metadata": {"msg": "delete", "namespace": "test", "set": "events"}}',
        '{"msg": "delete", "key": ["test", "sessions", "d", null]}',
    ],
    "other-set": [
        *(instead(LISTED, '"events"', name) for name in ('"sessions"', '"Events"', "null", "7", "[]")),
        *(instead(FLAT, '"events"', name) for name in ('"sessions"', '"Events"', "null", "7", "[]")),
        instead(LISTED, f'["test", "events", "{DIGEST}", null]', "null"),
        instead(LISTED, f'["test", "events", "{DIGEST}", null]', '["test"]'),
        instead(without(LISTED, f"{ID_BIN}, "), f'["test", "events", "{DIGEST}", null]', '{"1": "events"}'),
    ],
    "no-id": [
        instead(without(LISTED, f"{ID_BIN}, "), f'"{DIGEST}", null', "null, null"),
        instead(without(LISTED, f"{ID_BIN}, "), f', "{DIGEST}", null', ""),
        instead(without(FLAT, f'"event-id": "{UUID}", '), f'"{DIGEST}"', "null"),
        instead(without(FLAT, f'"event-id": "{UUID}", '), f' "digest": "{DIGEST}",', ""),
    ],
    "bad-id": [
        text
        for written in ("null", "7", "true", "[]", "{}", '""', '" "', '" \\t\u3000"', f'"{"x" * 129}"', f'"{"é" * 65}"',
                        '"a\\u0000b"', '"a\\ud800"', '"\\ude00\\ud83d"')
        for text in with_id(written)
    ],
    "bad-id: digest": [
        instead(without(LISTED, f"{ID_BIN}, "), f'"{DIGEST}"', "7"),
        instead(without(FLAT, f'"event-id": "{UUID}", '), f'"{DIGEST}"', '""'),
    ],
    "bad-tag": [
        text
        for written in ("null", "7", "[]", '""', '"a\\u0000"', '"\\udfff"')
        for text in with_tag(written)
    ],
    "bad-tag: none": [
        without(with_data('"event": "click"')[0], f"{TAG_BIN}, "),
        without(with_data('"event": "click"')[1], '"event-tag-id": "another-tag", '),
        instead(with_data('"event": "click"')[0], '"another-tag"', "null"),
    ],
    "bad-tag: event-data is no map": [
        instead(LISTED, DATA_BIN, f'{{"name": "event-data", "value": {data}}}')
        for data in ("null", '"click"', "[]", "1")
    ],
    "no-kind": [text for written in ("null", "7", "[]", '{"a": 1}') for text in with_kind(written)],
    "no-kind: none": [
        without(with_data(f'"tag": "{TAG}"')[0], f", {TYPE_BIN}"),
        without(with_data(f'"tag": "{TAG}"')[1], ', "event-type": "visit"'),
        instead(with_data(f'"tag": "{TAG}"')[1], '"visit"', "7"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("line", REJECTED)
def test_each_line_rejects(line: str) -> None:
    """What a line of the table rejects, and that it comes before the lines that would fit as well."""
    values = [text.encode() if isinstance(text, str) else text for text in REJECTED[line]]
    reason = f"rejected:{line.split(':')[0]}"
    assert [Table("events").judge(value) for value in values] == [(None, None, None, reason)] * len(values)


def test_every_line_that_a_record_decides_alone_is_tried() -> None:
    """The table has eleven such lines: nine here, the unknown kind and the event above."""
    lines = {line.split(":")[0] for line in REJECTED}
    assert lines == {
        "tombstone", "not-json", "not-an-event", "delete", "other-set", "no-id", "bad-id", "bad-tag", "no-kind",
    }  # fmt: skip


def test_the_first_line_that_fits_decides() -> None:
    """A record with every flaw, which lose one after the other, from the table's head down."""
    flaws = [
        ('"set": 1', '"set": "events"', "other-set"),
        ('"digest": null', '"digest": ""', "no-id"),
        ('"digest": ""', f'"digest": "{DIGEST}"', "bad-id"),
        ('"tag": 1', f'"tag": "{TAG}"', "bad-tag"),
        ('"event": 1', '"event": "hack"', "no-kind"),
    ]
    text = '{"m": {"msg": "write", "namespace": "n", "set": 1, "digest": null}, "event-data": {"tag": 1, "event": 1}}'
    for flaw, mended, reason in flaws:
        assert Table("events").judge(text.encode()) == (None, None, None, f"rejected:{reason}")
        text = instead(text, flaw, mended)
    assert Table("events").judge(text.encode()) == (b"s" + DIGEST.encode(), None, TAG, "parked:unknown-kind")


def test_the_source_set_is_a_setting() -> None:
    """Another `source_set` takes the events of that set, and of that set only."""
    other = Table("sessions")
    assert other.judge(instead(LISTED, '"events"', '"sessions"').encode()) == CLICK
    assert other.judge(LISTED.encode())[3] == "rejected:other-set"


@pytest.mark.parametrize(
    "value",
    [b'"' * 1_000_000, b'\\"' * 500_000, b'"[' * 500_000, b'"\\' * 500_000, b"{" * 1_000_000, b'[{"":' * 200_000],
    ids=["quotes", "escaped quotes", "quotes and brackets", "quotes and backslashes", "braces", "openings"],
)
def test_a_million_bytes_of_nonsense_do_not_stop_it(value: bytes) -> None:
    """No value makes it try again and again what it has seen."""
    assert Table("events").judge(value) == (None, None, None, "rejected:not-json")


@pytest.mark.parametrize(
    ("text", "kept", "shown"),
    [
        (UUID, ID, UUID),
        (UUID.upper().replace("-", ""), ID, UUID),
        ("caf\u00e9", "scaf\u00e9".encode(), "caf\u00e9"),
        ("u", b"su", "u"),
        (f"{UUID}-", f"s{UUID}-".encode(), f"{UUID}-"),
        ("-" * 36, b"s" + b"-" * 36, "-" * 36),
        ("z" * 32, b"s" + b"z" * 32, "z" * 32),
        ("", b"s", ""),
    ],
)
def test_an_id_is_kept_in_one_form_and_shown_in_one(text: str, kept: bytes, shown: str) -> None:
    """A UUID by its 16 bytes, any other by its text; no text is kept as a UUID is."""
    assert packed(text) == kept
    assert canonical(kept) == shown


# --- the topic


@pytest.fixture
def database() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def event(number: int) -> bytes:
    return instead(LISTED, UUID, f"event-{number}").encode()


def rows(database: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    return database.execute("SELECT * FROM topic ORDER BY partition, position").fetchall()


def positions(database: duckdb.DuckDBPyConnection) -> list[tuple[int, int]]:
    return [row[:2] for row in rows(database)]


def memory_log(*counts: int) -> MemoryLog:
    """A topic "in" with so many events in each partition."""
    log = MemoryLog(lambda: 0.0, random.Random(1))
    log.create_topic("in", len(counts), {})
    for partition, count in enumerate(counts):
        log.append([Message("in", None, event(number), (), partition, 1_000 * number) for number in range(count)])
    return log


def recount(database: duckdb.DuckDBPyConnection, log: Log, topic: str, **options: Any) -> None:
    with recounting(database, log, topic, **options) as finish:
        finish()


def counted(
    database: duckdb.DuckDBPyConnection, log: Log, start: dict[int, int], until: dict[int, int]
) -> tuple[list[tuple[int, int]], list[int]]:
    """The positions in the table, and what `advance` heard."""
    heard: list[int] = []
    recount(database, log, "in", source_set="events", start=start, until=until, advance=heard.append)
    return positions(database), heard


def test_a_topic_becomes_a_table(database: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    """Every record has its row, rejected ones too; seconds are whole, and 0 where the timestamp is none."""
    log = EmbeddedLog(tmp_path / "log.db")
    log.create_topic("in", 2, {})
    log.append(
        [
            Message("in", None, LISTED.encode(), (), 0, 1_767_225_600_999),
            Message("in", None, None, (), 0, 5_000),
            Message("in", None, FLAT.encode(), (), 1, -1),
            Message("in", None, instead(FLAT, '"click"', '"hack"').encode(), (), 1, 999),
            Message("in", None, b"{", (), 1, -5_000),
        ]
    )
    until = log.ends("in")
    recount(database, log, "in", source_set="events", start={}, until=until, advance=lambda _: None)
    assert rows(database) == [
        (0, 0, 1_767_225_600, ID, 2, TAG, None),
        (0, 1, 5, None, None, None, "rejected:tombstone"),
        (1, 0, 0, ID, 2, TAG, None),
        (1, 1, 0, ID, None, TAG, "parked:unknown-kind"),
        (1, 2, 0, None, None, None, "rejected:not-json"),
    ]
    log.close()


def test_the_columns_are_those_that_the_audit_asks(database: duckdb.DuckDBPyConnection) -> None:
    """Names and types, also where there was nothing to read."""
    assert counted(database, memory_log(0), {}, {0: 0}) == ([], [])
    assert database.execute("SELECT column_name, column_type FROM (DESCRIBE topic)").fetchall() == [
        ("partition", "INTEGER"),
        ("position", "BIGINT"),
        ("second", "BIGINT"),
        ("id", "BLOB"),
        ("code", "UTINYINT"),
        ("tag", "VARCHAR"),
        ("reason", "VARCHAR"),
    ]


def test_it_begins_at_start_and_ends_before_until(database: duckdb.DuckDBPyConnection) -> None:
    """Of each partition exactly its part; none of one that `until` leaves out, or that begins at its end."""
    found, heard = counted(database, memory_log(9, 9, 9, 9), {0: 3, 1: 0, 2: 0, 3: 7}, {0: 5, 1: 2, 3: 7})
    assert found == [(0, 3), (0, 4), (1, 0), (1, 1)]
    assert sum(heard) == 4


def test_a_partition_without_a_start_begins_at_its_head(database: duckdb.DuckDBPyConnection) -> None:
    """What retention took is neither read nor waited for."""
    log = memory_log(5)
    log.delete_before("in", 0, 3)
    found, heard = counted(database, log, {}, {0: 5})
    assert found == [(0, 3), (0, 4)]
    assert sum(heard) == 2


def test_offsets_that_are_no_records_count_as_done(database: duckdb.DuckDBPyConnection) -> None:
    """Markers and aborted records have no row, and `advance` still hears of every offset, the last ones too."""
    log = memory_log(2)
    log.end(log.begin("s", [Message("in", None, event(7), (), 0)]), "aborted")
    log.append([Message("in", None, event(8), (), 0)])
    log.end(log.begin("s", [Message("in", None, event(9), (), 0)]), "committed")
    found, heard = counted(database, log, {}, {0: 7})
    assert found == [(0, 0), (0, 1), (0, 4), (0, 5)]
    assert sum(heard) == 7


class CountingLog:
    """Hands out a topic of two partitions in pages of one record each, and counts them."""

    def __init__(self) -> None:
        self.pages = 0

    def heads(self, topic: str) -> dict[int, int]:  # noqa: ARG002  # the port's
        return {0: 0, 1: 0}

    def ends(self, topic: str) -> dict[int, int]:  # noqa: ARG002  # the port's
        return {0: 1_000, 1: 1_000}

    def read(self, topic: str, start: dict[int, int]) -> Iterator[list[Record]]:  # noqa: ARG002  # the port's
        for offset in range(1_000):
            for partition in (0, 1):
                if offset >= start.get(partition, 0):
                    self.pages += 1
                    yield [Record(partition, offset, 0, event(offset))]


def test_it_stops_when_every_partition_is_past(database: duckdb.DuckDBPyConnection) -> None:
    """What was written since the checkpoint is not read through."""
    log: Any = CountingLog()
    found, heard = counted(database, log, {0: 0, 1: 0}, {0: 3, 1: 2})
    assert len(found) == sum(heard) == 5
    assert log.pages <= 6


def test_what_is_not_to_be_recounted_is_not_read(database: duckdb.DuckDBPyConnection) -> None:
    """A partition that has nothing to recount costs nothing, however long it is."""
    log: Any = CountingLog()
    found, _ = counted(database, log, {0: 990, 1: 0}, {0: 992})
    assert found == [(0, 990), (0, 991)]
    assert log.pages == 2


def test_more_rows_than_are_inserted_at_once(
    database: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many batches make one table, with no row lost or doubled between two."""
    monkeypatch.setattr("projector.audit.recount.ROWS", 7)
    log: Any = CountingLog()
    found, _ = counted(database, log, {}, {0: 25, 1: 31})
    assert found == [(0, offset) for offset in range(25)] + [(1, offset) for offset in range(31)]


def test_large_rows_are_inserted_sooner(database: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tag may be as long as a message: by bytes, too, what waits in memory is bounded."""
    monkeypatch.setattr("projector.audit.recount.ROW_BYTES", 1)
    inserted: list[int] = []

    def heard(_: int) -> None:
        inserted.append(len(positions(database)))

    log: Any = CountingLog()
    recount(database, log, "in", source_set="events", start={}, until={0: 2, 1: 2}, advance=heard)
    assert inserted[:4] == [1, 2, 3, 4]


@pytest.mark.parametrize("until", [{0: 6}, {1: 1}, {0: 5, 1: 1}])
def test_a_checkpoint_past_the_topics_end_is_not_recounted(
    database: duckdb.DuckDBPyConnection, until: dict[int, int]
) -> None:
    """A topic that lost records, or a partition, is not taken for one in which they never were."""
    with pytest.raises(OffsetsGone, match="in/"):
        counted(database, memory_log(5), {}, until)


def test_what_retention_took_since_is_not_left_out_in_silence(
    database: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    """A start below the head is an error: rows would be missing."""
    log = EmbeddedLog(tmp_path / "log.db")
    log.create_topic("in", 1, {})
    log.append([Message("in", None, event(number), (), 0) for number in range(5)])
    log.delete_before("in", {0: 2})
    with pytest.raises(OffsetsGone):
        counted(database, log, {0: 1}, {0: 5})
    log.close()


def test_other_processes_read_alike(
    database: duckdb.DuckDBPyConnection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several readers make the very table that this process makes by itself: every row at its own position."""
    values = [text.encode() if isinstance(text, str) else text for texts in REJECTED.values() for text in texts]
    values += [event(number) for number in range(300)]
    random.Random(1).shuffle(values)
    log = EmbeddedLog(tmp_path / "log.db")
    log.create_topic("in", 5, {})
    log.append([Message("in", None, value, (), number % 4, 1_000 * number) for number, value in enumerate(values)])
    log.delete_before("in", {2: 7})
    until = {**log.ends("in"), 1: 20}
    recount(database, log, "in", source_set="events", start={3: 9}, until=until, advance=lambda _: None)
    alone = rows(database)
    assert len(alone) == sum(until.values()) - 7 - 9
    database.execute("DROP TABLE topic")
    monkeypatch.setattr("projector.audit.recount.READERS_FROM", 1)
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    heard: list[int] = []
    opened = partial(EmbeddedLog, tmp_path / "log.db")
    recount(database, log, "in", source_set="events", start={3: 9}, until=until, advance=heard.append, open_log=opened)
    assert rows(database) == alone
    assert sum(heard) == len(alone)
    assert not active_children()
    log.close()


def test_readers_have_about_as_much_to_read() -> None:
    """And every partition has one reader."""
    part = Part("in", "events", {0: 0, 1: 5, 2: 0, 3: 0, 4: 8}, {0: 10, 1: 15, 2: 25, 3: 5, 4: 8})
    shares = part.shared(2)
    assert sorted(partition for share in shares for partition in share.start) == [0, 1, 2, 3, 4]
    assert [share.offsets for share in shares] == [25, 25]
    assert len(part.shared(9)) == 5


class ListLog:
    """Hands out values as the records of one partition, in pages."""

    def __init__(self, values: Sequence[bytes | None], page: int) -> None:
        self.values = values
        self.page = page

    def heads(self, topic: str) -> dict[int, int]:  # noqa: ARG002  # the port's
        return {0: 0}

    def ends(self, topic: str) -> dict[int, int]:  # noqa: ARG002  # the port's
        return {0: len(self.values)}

    def read(self, topic: str, start: dict[int, int]) -> Iterator[list[Record]]:  # noqa: ARG002  # the port's
        records = [Record(0, offset, 0, value) for offset, value in enumerate(self.values)]
        for first in range(0, len(records), self.page):
            yield records[first : first + self.page]


class BrokenLog(ListLog):
    """Fails when it is read."""

    def read(self, topic: str, start: dict[int, int]) -> Iterator[list[Record]]:
        """See `Log.read`."""
        yield from islice(super().read(topic, start), 3)
        raise Retryable("the broker is away")

    def close(self) -> None:
        """Nothing is open."""


class KilledLog(BrokenLog):
    """Its process is killed when it is read."""

    def read(self, topic: str, start: dict[int, int]) -> Iterator[list[Record]]:
        """See `Log.read`."""
        yield from islice(ListLog.read(self, topic, start), 3)
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("kind", "said"), [(BrokenLog, "the broker is away"), (KilledLog, "killed")])
def test_a_reader_that_ends_early_ends_the_recount(
    database: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch, kind: type[BrokenLog], said: str
) -> None:
    """What it was to read is never left out in silence; no process stays behind."""
    monkeypatch.setattr("projector.audit.recount.READERS_FROM", 1)
    values = [event(number) for number in range(200)]
    log: Any = ListLog(values, 10)
    opened: Any = partial(kind, values, 10)
    with pytest.raises(Retryable, match=said):
        recount(
            database,
            log,
            "in",
            source_set="events",
            start={},
            until={0: 200},
            advance=lambda _: None,
            open_log=opened,
        )
    assert not active_children()
