"""What every store does, held against each backend."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from projector.columns import Columns
from projector.store import (
    ROW_BYTES,
    Add,
    AddEntry,
    Answer,
    BinEmpty,
    BinEqual,
    BinMissing,
    BinNotEmpty,
    Clear,
    Condition,
    Count,
    Delete,
    Fetch,
    Measure,
    Move,
    Operation,
    Outcome,
    Presence,
    Put,
    PutNew,
    Read,
    Row,
    RowKey,
    Store,
    Write,
    counted,
)

LARGEST = (1 << 63) - 1
UUID = bytes(range(16))


def write(store: Store, row: RowKey, *operations: Operation, **how: Any) -> Answer:
    """One write of one row, present or not unless `how` says so."""
    (answer,) = store.write([Write(row, operations, **({"presence": Presence.EITHER} | how))])
    return answer


def bins(store: Store, row: RowKey, *names: str) -> dict[str, Any] | None:
    """Bins of one row, None without the row."""
    (found,) = store.read([Read(row, names)])
    return None if found is None else dict(found.bins)


def put(store: Store, row: RowKey, **values: Any) -> None:
    """Make the row hold these bins, in any case."""
    answer = write(store, row, *(Put(name, value) for name, value in values.items()))
    assert answer.outcome is Outcome.APPLIED


@pytest.fixture
def row(name: str) -> RowKey:
    """A row that is not there yet."""
    return RowKey(name, 41)


# --- values and keys


@pytest.mark.parametrize(
    "value",
    [0, -1, LARGEST, -LARGEST - 1, "", "Acme campaign 6", "ünï", b"", UUID, [], [1, "a", b"b", [LARGEST, [2]]], {}],
)
def test_a_bin_comes_back_as_it_was_put(store: Store, row: RowKey, value: Any) -> None:
    """Ints to 64 bits, strings, bytes, nested lists and empty maps come back equal and of the same type."""
    put(store, row, b=value)
    held = bins(store, row, "b")
    assert held == {"b": value}
    assert type(held["b"]) is type(value)


def test_map_entries_keep_key_types_values_and_order(store: Store, row: RowKey) -> None:
    """6, "6" and b"6" are three keys; ints come before strings before bytes, each in order; list values stay lists."""
    entries = {b"6": 1, "b": [1, LARGEST, 3, 4], UUID: [0], 7: "seven", "6": b"six", 6: -1, "": 2, -5: [], b"": 3}
    put(store, row, m=entries)
    held = bins(store, row, "m")
    assert held is not None
    assert held["m"] == entries
    assert list(held["m"]) == [-5, 6, 7, "", "6", "b", b"", UUID, b"6"]
    assert [type(value) for value in held["m"].values()] == [list, int, str, int, bytes, list, int, list, int]


def test_a_list_of_maps_comes_back(store: Store, row: RowKey) -> None:
    """With maps in these, whose keys are ints: what the pointer row keeps as its history."""
    history = [{"who": "me", "when": LARGEST, "checkpoint": {0: 5, 11: 0}}, {"who": "", "when": 0, "checkpoint": {}}]
    put(store, row, h=history)
    assert bins(store, row, "h") == {"h": history}


def test_row_keys_keep_their_type(store: Store, name: str) -> None:
    """The int 6 and the str "6" are two rows, also of two sets."""
    put(store, RowKey(name, 6), b="int")
    put(store, RowKey(name, "6"), b="str")
    put(store, RowKey(name + "x", 6), b="other set")
    assert bins(store, RowKey(name, 6), "b") == {"b": "int"}
    assert bins(store, RowKey(name, "6"), "b") == {"b": "str"}
    assert bins(store, RowKey(name + "x", 6), "b") == {"b": "other set"}


def test_unusual_row_keys(store: Store, name: str) -> None:
    """Negative, largest and string keys with slashes and other scripts address their own rows."""
    keys: list[int | str] = [0, -1, LARGEST, "41/00c0ffee12345678", "pointer", "ключ", "a b"]
    for number, key in enumerate(keys):
        put(store, RowKey(name, key), b=number)
    for number, key in enumerate(keys):
        assert bins(store, RowKey(name, key), "b") == {"b": number}


# --- operations


def test_put_new_adds_entries(store: Store, row: RowKey) -> None:
    """PutNew makes the map where it is missing, and adds to what is there."""
    assert write(store, row, PutNew("m", {"a": 1})).outcome is Outcome.APPLIED
    assert write(store, row, PutNew("m", {"b": [1, 2], 3: 4})).outcome is Outcome.APPLIED
    assert bins(store, row, "m") == {"m": {3: 4, "a": 1, "b": [1, 2]}}


@pytest.mark.parametrize("first", [True, False])
def test_put_new_of_an_entry_that_is_there_applies_nothing(store: Store, row: RowKey, first: bool) -> None:
    """EXISTS, and no operation of that write is applied, wherever it stands and whatever the value."""
    put(store, row, seen={UUID: [1, 2, 3, 4]}, sealed={"x": 1}, stats={"clicks": 5}, rev=1)
    collision = PutNew("seen", {b"new": [0, 0, 0, 0], UUID: [1, 2, 3, 4]})
    others: list[Operation] = [Add("rev", 1), AddEntry("stats", "clicks", 1), Put("new", 1), Clear("sealed")]
    answer = write(store, row, *([collision, *others] if first else [*others, collision]))
    assert answer.outcome is Outcome.EXISTS
    assert not answer.bins
    assert bins(store, row, "seen", "sealed", "stats", "rev", "new") == {
        "seen": {UUID: [1, 2, 3, 4]},
        "sealed": {"x": 1},
        "stats": {"clicks": 5},
        "rev": 1,
    }


def test_put_new_twice_in_one_write_collides_with_itself(store: Store, row: RowKey) -> None:
    """The second PutNew sees what the first one put: EXISTS, and the row stays as it was."""
    put(store, row, rev=1)
    answer = write(store, row, PutNew("m", {"a": 1, "b": 2}), PutNew("m", {"c": 3, "b": 2}))
    assert answer.outcome is Outcome.EXISTS
    assert bins(store, row, "m", "rev") == {"rev": 1}


def test_the_same_write_again_is_refused_by_its_ids(store: Store, row: RowKey) -> None:
    """A retry of an applied write gives EXISTS and counts nothing: what makes retries safe."""
    put(store, row, rev=0)
    operations: list[Operation] = [PutNew("seen", {bytes([n]) * 16: [1, 2, 3, n] for n in range(50)}), Add("rev", 1)]
    outcomes = [write(store, row, *operations).outcome for _ in range(5)]
    assert outcomes == [Outcome.APPLIED] + [Outcome.EXISTS] * 4
    assert bins(store, row, "rev") == {"rev": 1}


def test_put_new_after_clear_in_one_write(store: Store, row: RowKey) -> None:
    """Operations apply in order: what Clear removed is new again."""
    put(store, row, m={"a": 1, "b": 1})
    assert write(store, row, Clear("m"), PutNew("m", {"a": 2})).outcome is Outcome.APPLIED
    assert bins(store, row, "m") == {"m": {"a": 2}}


def test_put_replaces_a_bin_of_any_type(store: Store, row: RowKey) -> None:
    """A map replaces an int, another map, and is replaced by a string; nothing of the former stays."""
    for value in (1, {"a": 1, "b": 2}, {"c": [3]}, "text", {"a": 1}, [1]):
        put(store, row, b=value)
        assert bins(store, row, "b") == {"b": value}


def test_add_counts_from_what_is_there(store: Store, row: RowKey) -> None:
    """Add and AddEntry start from 0 where nothing is, take negative amounts and reach the largest int."""
    write(store, row, Add("n", 5), AddEntry("m", "a", 7))
    write(store, row, Add("n", -2), Add("n", LARGEST - 3), AddEntry("m", "a", -8), AddEntry("m", 1, LARGEST))
    assert bins(store, row, "n", "m") == {"n": LARGEST, "m": {1: LARGEST, "a": -1}}


def test_move_empties_the_source_and_replaces_the_target(store: Store, row: RowKey) -> None:
    """After Move the target holds exactly what the source held, and both are maps that take entries."""
    put(store, row, seen={1: [1], "b": 2}, sealed={"old": 0})
    assert write(store, row, Move("seen", "sealed")).outcome is Outcome.APPLIED
    assert bins(store, row, "seen", "sealed") == {"seen": {}, "sealed": {1: [1], "b": 2}}
    assert write(store, row, PutNew("seen", {1: 3}), PutNew("sealed", {2: 4})).outcome is Outcome.APPLIED
    assert bins(store, row, "seen", "sealed") == {"seen": {1: 3}, "sealed": {1: [1], 2: 4, "b": 2}}


def test_move_to_a_bin_that_is_missing(store: Store, row: RowKey) -> None:
    """Move makes its target."""
    put(store, row, seen={"a": 1})
    write(store, row, Move("seen", "sealed"))
    assert bins(store, row, "seen", "sealed") == {"seen": {}, "sealed": {"a": 1}}


def test_a_rotation_in_one_write(store: Store, row: RowKey) -> None:
    """Move, put new ids, change the seal: one write, in order, with what it left behind fetched."""
    put(store, row, seen={"a": 1}, sealed={}, seal=7, prev=0, pages=0)
    answer = write(
        store,
        row,
        Move("seen", "sealed"),
        Put("prev", 7),
        Put("seal", LARGEST),
        Add("pages", 1),
        PutNew("seen", {"b": 2}),
        Fetch("seen"),
        Fetch("sealed"),
        conditions=[BinEqual("seal", 7), BinEmpty("sealed"), BinNotEmpty("seen")],
    )
    assert answer.outcome is Outcome.APPLIED
    assert answer.bins == {"seen": {"b": 2}, "sealed": {"a": 1}}
    assert bins(store, row, "seal", "prev", "pages") == {"seal": LARGEST, "prev": 7, "pages": 1}


def test_clear_makes_an_empty_map(store: Store, row: RowKey) -> None:
    """Of a full map, and of a bin that is missing."""
    put(store, row, m={"a": 1})
    write(store, row, Clear("m"), Clear("n"))
    assert bins(store, row, "m", "n") == {"m": {}, "n": {}}


def test_fetch_sees_what_stands_before_it(store: Store, row: RowKey) -> None:
    """Fetch gives the value after the operations before it and before those after it; a missing bin is left out."""
    put(store, row, n=1, m={"a": 1})
    answer = write(
        store, row, Add("n", 1), Fetch("n"), Add("n", 10), AddEntry("m", "a", 1), Fetch("m"), Fetch("missing")
    )
    assert answer.outcome is Outcome.APPLIED
    assert {name: value for name, value in answer.bins.items() if value is not None} == {"n": 2, "m": {"a": 2}}
    assert bins(store, row, "n") == {"n": 12}


def test_measure_grows_with_the_content(store: Store, row: RowKey) -> None:
    """ROW_BYTES, in a write and in a read, grows by about what is put in, and shrinks when a map is cleared."""

    def row_bytes() -> int:
        (found,) = store.read([Read(row, measure=True)])
        assert found is not None
        return int(found.bins[ROW_BYTES])

    put(store, row, seen={}, n=1)
    small = row_bytes()
    write(store, row, PutNew("seen", {n.to_bytes(16, "big"): [1, 1_700_000_000, 3, n] for n in range(1000)}))
    large = row_bytes()
    assert small < 1_000
    assert 16_000 < large - small < 100_000
    answer = write(store, row, Add("n", 1), Measure())
    assert large * 0.9 < answer.bins[ROW_BYTES] < large * 1.1
    write(store, row, Clear("seen"))
    assert row_bytes() < 1_000


def test_delete_removes_the_row(store: Store, row: RowKey) -> None:
    """With all of its maps: a row made anew under the key is empty."""
    put(store, row, m={"a": 1}, n=1)
    assert write(store, row, Delete(), presence=Presence.PRESENT).outcome is Outcome.APPLIED
    assert bins(store, row, "n") is None
    assert write(store, row, Delete(), presence=Presence.PRESENT).outcome is Outcome.ABSENT
    assert write(store, row, PutNew("m", {"a": 2}), presence=Presence.ABSENT).outcome is Outcome.APPLIED
    assert bins(store, row, "m", "n") == {"m": {"a": 2}}


def test_delete_under_a_condition(store: Store, row: RowKey) -> None:
    """A condition that does not hold keeps the row."""
    put(store, row, n=1)
    refused = write(store, row, Delete(), presence=Presence.PRESENT, conditions=[BinEqual("n", 2)])
    assert refused.outcome is Outcome.REFUSED
    assert bins(store, row, "n") == {"n": 1}


# --- conditions and presence


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        (BinEqual("n", 7), True),
        (BinEqual("n", 8), False),
        (BinEqual("n", "7"), False),
        (BinEqual("s", "x"), True),
        (BinEqual("s", ""), False),
        (BinEqual("big", LARGEST), True),
        (BinEqual("big", LARGEST - 1), False),
        (BinEqual("missing", 0), False),
        (BinMissing("missing"), True),
        (BinMissing("n"), False),
        (BinMissing("empty"), False),
        (BinEmpty("empty"), True),
        (BinEmpty("missing"), True),
        (BinEmpty("full"), False),
        (BinNotEmpty("full"), True),
        (BinNotEmpty("empty"), False),
        (BinNotEmpty("missing"), False),
    ],
)
def test_conditions(store: Store, row: RowKey, condition: Condition, holds: bool) -> None:
    """A write is applied exactly if its condition holds; REFUSED leaves everything as it was."""
    put(store, row, n=7, s="x", big=LARGEST, empty={}, full={"a": 1})
    answer = write(
        store, row, Add("hits", 1), PutNew("ids", {"a": 1}), presence=Presence.PRESENT, conditions=[condition]
    )
    assert answer.outcome is (Outcome.APPLIED if holds else Outcome.REFUSED)
    assert bins(store, row, "hits", "ids") == ({"hits": 1, "ids": {"a": 1}} if holds else {})


def test_all_conditions_must_hold(store: Store, row: RowKey) -> None:
    """One of three that fails is enough, in any place."""
    put(store, row, a=1, b=2)
    good, bad = BinEqual("a", 1), BinEqual("b", 3)
    for conditions in ([good, bad], [bad, good], [good, bad, BinMissing("c")]):
        answer = write(store, row, Add("a", 1), presence=Presence.PRESENT, conditions=conditions)
        assert answer.outcome is Outcome.REFUSED
    answer = write(store, row, Add("a", 1), presence=Presence.PRESENT, conditions=[good, BinMissing("c")])
    assert answer.outcome is Outcome.APPLIED


def test_conditions_see_the_row_as_before_the_write(store: Store, row: RowKey) -> None:
    """A write that changes what its own condition asks about is applied once."""
    put(store, row, seal=1)
    for expected in (Outcome.APPLIED, Outcome.REFUSED):
        change = write(store, row, Put("seal", 2), presence=Presence.PRESENT, conditions=[BinEqual("seal", 1)])
        assert change.outcome is expected


def test_a_condition_goes_before_a_collision(store: Store, row: RowKey) -> None:
    """REFUSED, not EXISTS: a worker with an old seal must hear that first."""
    put(store, row, seal=2, seen={"a": 1})
    stale = write(store, row, PutNew("seen", {"a": 1}), presence=Presence.PRESENT, conditions=[BinEqual("seal", 1)])
    assert stale.outcome is Outcome.REFUSED


def test_presence(store: Store, row: RowKey) -> None:
    """ABSENT and PRESENT are told, and nothing is made or changed then; EITHER takes both."""
    assert write(store, row, Put("n", 1), presence=Presence.PRESENT).outcome is Outcome.ABSENT
    assert bins(store, row, "n") is None
    assert write(store, row, Put("n", 2), presence=Presence.ABSENT).outcome is Outcome.APPLIED
    assert write(store, row, Put("n", 3), Put("m", {}), presence=Presence.ABSENT).outcome is Outcome.PRESENT
    assert bins(store, row, "n", "m") == {"n": 2}
    assert write(store, row, Put("n", 4), presence=Presence.PRESENT).outcome is Outcome.APPLIED
    assert write(store, row, Put("n", 5), presence=Presence.EITHER).outcome is Outcome.APPLIED
    assert bins(store, row, "n") == {"n": 5}


def test_presence_is_present_unless_said(store: Store, row: RowKey) -> None:
    """The default never makes a row."""
    (answer,) = store.write([Write(row, [Put("n", 1)])])
    assert answer.outcome is Outcome.ABSENT
    assert bins(store, row, "n") is None


@pytest.mark.parametrize("condition", [BinEqual("n", 1), BinMissing("n"), BinEmpty("n"), BinNotEmpty("n")])
def test_a_condition_on_a_missing_row_never_makes_it(store: Store, row: RowKey, condition: Condition) -> None:
    """The row that must be present is ABSENT whatever the condition, and is not made."""
    answer = write(store, row, Put("n", 1), presence=Presence.PRESENT, conditions=[condition])
    assert answer.outcome is Outcome.ABSENT
    assert bins(store, row, "n") is None


# --- many writes and reads in one call


def test_each_write_of_a_call_stands_by_itself(store: Store, name: str) -> None:
    """Every outcome in one call, in the order of the writes; the failed ones do not touch their neighbours."""
    rows = [RowKey(name, number) for number in range(6)]
    for each in rows[:5]:
        put(store, each, n=0, m={"a": 1})
    add, present = Add("n", 1), Presence.PRESENT
    answers = store.write(
        [
            Write(rows[0], [add, Fetch("n")]),
            Write(rows[1], [add, PutNew("m", {"a": 2}), Fetch("n")]),
            Write(rows[2], [add], present, [BinEqual("n", 5)]),
            Write(rows[3], [add], Presence.ABSENT),
            Write(rows[5], [add]),
            Write(rows[4], [add, PutNew("m", {"b": 2}), Fetch("n")]),
        ]
    )
    assert [each.outcome for each in answers] == [
        Outcome.APPLIED,
        Outcome.EXISTS,
        Outcome.REFUSED,
        Outcome.PRESENT,
        Outcome.ABSENT,
        Outcome.APPLIED,
    ]
    assert (answers[0].bins["n"], answers[5].bins["n"]) == (1, 1)
    held = store.read([Read(each, ["n"]) for each in rows])
    assert [each and each.bins["n"] for each in held] == [1, 0, 0, 0, 1, None]


def test_a_large_call(store: Store, name: str) -> None:
    """100 rows with 100 ids each in one call: all are applied, and all are found again."""
    rows = [RowKey(name, number) for number in range(100)]
    made = store.write([Write(each, [Put("seal", 1)], Presence.ABSENT) for each in rows])
    assert {each.outcome for each in made} == {Outcome.APPLIED}
    ids = {each.key: {f"{each.key}-{n}": [1, 2, 3, n] for n in range(100)} for each in rows}
    answers = store.write(
        [
            Write(
                each,
                [PutNew("seen", ids[each.key]), AddEntry("stats", "clicks", 100), Fetch("stats")],
                Presence.PRESENT,
                [BinEqual("seal", 1)],
            )
            for each in rows
        ]
    )
    assert [(each.outcome, each.bins["stats"]) for each in answers] == [(Outcome.APPLIED, {"clicks": 100})] * 100
    found = store.read([Read(each, ["seen"]) for each in rows])
    assert [each and each.bins["seen"] for each in found] == [ids[each.key] for each in rows]


def test_empty_calls(store: Store) -> None:
    """Nothing asked, nothing answered."""
    assert store.write([]) == []
    assert store.read([]) == []


def test_a_row_that_would_be_too_big(store: Store, row: RowKey) -> None:
    """TOO_BIG, nothing of the write is applied, and the row goes on."""
    put(store, row, n=1)
    chunk = b"x" * (store.limits().row_bytes_max // 4)
    answer = write(store, row, Add("n", 1), PutNew("m", dict.fromkeys(range(4), chunk)))
    assert answer.outcome is Outcome.TOO_BIG
    assert bins(store, row, "n", "m") == {"n": 1}
    assert write(store, row, Add("n", 1), PutNew("m", {0: chunk})).outcome is Outcome.APPLIED


# --- reads


def test_read_of_bins_and_entries(store: Store, row: RowKey) -> None:
    """Only what is asked for; what is not there is left out; entries of a missing map are none."""
    put(store, row, n=1, other=2, seen={UUID: [1, 2, 3, 4], "a": 5, 6: 7})
    (found,) = store.read([Read(row, ["n", "missing"], {"seen": [UUID, "nope", 6, "6"], "missing": ["a"]})])
    assert found is not None
    assert found.bins == {"n": 1}
    assert found.entries["seen"] == {UUID: [1, 2, 3, 4], 6: 7}
    assert found.entries.get("missing", {}) == {}
    assert found.unchanged


def test_entries_of_a_map_that_is_empty(store: Store, row: RowKey) -> None:
    """None of the wanted keys: an empty mapping, also where no key was wanted."""
    put(store, row, seen={})
    (found,) = store.read([Read(row, entries={"seen": ["a"]})])
    assert found is not None
    assert found.entries.get("seen", {}) == {}


def test_read_of_rows_in_order(store: Store, name: str) -> None:
    """Answers stand in the order of the reads, None where there is no row; one row may be read twice."""
    put(store, RowKey(name, 1), n=1)
    put(store, RowKey(name, 2), n=2)
    found = store.read([Read(RowKey(name, key), ["n"]) for key in (2, 3, 1, 2)])
    assert [each and each.bins["n"] for each in found] == [2, None, 1, 2]


def test_read_of_a_row_with_none_of_the_bins(store: Store, row: RowKey) -> None:
    """The row is there: an empty answer, not None."""
    put(store, row, n=1)
    (found,) = store.read([Read(row, ["missing"])])
    assert found is not None
    assert found.bins == {}


def test_many_reads(store: Store, name: str) -> None:
    """1,000 rows in one call."""
    store.write([Write(RowKey(name, f"tag-{n}"), [Put("c-id", n)], Presence.EITHER) for n in range(1000)])
    found = store.read([Read(RowKey(name, f"tag-{n}"), ["c-id"]) for n in range(1000)])
    assert [each and each.bins["c-id"] for each in found] == list(range(1000))


def test_unchanged_ms(store: Store, row: RowKey) -> None:
    """Whether the last update is so long ago, by the store's clock; any rewrite starts that anew."""

    def unchanged(ms: int) -> bool:
        (found,) = store.read([Read(row, ["n"], unchanged_ms=ms)])
        assert found is not None
        assert found.bins["n"] == 1
        return found.unchanged

    put(store, row, n=1)
    assert not unchanged(600_000)
    deadline = time.monotonic() + 30
    while not unchanged(1_500):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert not unchanged(600_000)
    put(store, row, n=1)
    assert not unchanged(1_500)


# --- scans


def test_a_scan_gives_every_row_once(store: Store, name: str) -> None:
    """1,234 rows with keys of both types, in pages of at most the size asked for, while others are written."""
    keys: list[int | str] = [n if n % 2 else f"key-{n}" for n in range(1234)]
    for first in range(0, 1234, 500):
        store.write(
            [
                Write(RowKey(name, key), [Put("n", first + n), Put("big", "x"), Put("m", {1: 2})], Presence.EITHER)
                for n, key in enumerate(keys[first : first + 500])
            ]
        )
    put(store, RowKey(name + "x", 1), n=-1)
    seen: list[int] = []
    for page in store.scan(name, ["n", "m"], page_rows=100):
        assert 0 < len(page) <= 100
        assert all(each.bins["m"] == {1: 2} and "big" not in each.bins for each in page)
        seen += [each.bins["n"] for each in page]
        put(store, RowKey(name, keys[seen[0]]), n=seen[0])
    assert sorted(seen) == list(range(1234))


def test_a_scan_of_an_unknown_set(store: Store, name: str) -> None:
    """No rows, no error."""
    assert [each for page in store.scan(name, ["n"]) for each in page] == []


def test_a_scan_gives_rows_without_some_of_the_bins(store: Store, name: str) -> None:
    """What is not there is left out."""
    put(store, RowKey(name, 1), a=1)
    put(store, RowKey(name, 2), a=2, b=2)
    rows = [each.bins for page in store.scan(name, ["a", "b"]) for each in page]
    assert sorted(rows, key=lambda each: int(each["a"])) == [{"a": 1}, {"a": 2, "b": 2}]


# --- the store itself


def test_two_handles_are_one_store(connect_store: Callable[[], Store], row: RowKey) -> None:
    """What one wrote the other reads at once, and its conditions and ids hold for both."""
    one, two = connect_store(), connect_store()
    put(one, row, seal=1)
    guarded: dict[str, Any] = {"presence": Presence.PRESENT, "conditions": [BinEqual("seal", 1)]}
    assert write(two, row, PutNew("seen", {"a": 1}), **guarded).outcome is Outcome.APPLIED
    assert write(one, row, PutNew("seen", {"a": 1}), **guarded).outcome is Outcome.EXISTS
    assert bins(one, row, "seen") == {"seen": {"a": 1}}
    assert write(two, row, Put("seal", 2)).outcome is Outcome.APPLIED
    assert write(one, row, PutNew("seen", {"b": 1}), **guarded).outcome is Outcome.REFUSED


def test_the_state_is_the_same_for_all(connect_store: Callable[[], Store], row: RowKey) -> None:
    """Handles agree on the incarnation, writes do not change it, and at rest the store comes to be drained."""
    one, two = connect_store(), connect_store()
    incarnation = one.state().incarnation
    assert incarnation
    put(two, row, n=1)
    assert two.state().incarnation == incarnation
    deadline = time.monotonic() + 30
    while not one.state().drained:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_limits(store: Store) -> None:
    """A row may take some KiB at least; a store fit for this keeps what it has after a bounded time."""
    limits = store.limits()
    assert limits.row_bytes_max >= 1 << 16
    assert limits.settle_ms is not None
    assert limits.settle_ms >= 0


def test_indexes(connect_store: Callable[[], Store], row: RowKey) -> None:
    """Made once, seen by all; making it again does nothing."""
    one, two = connect_store(), connect_store()
    put(one, row, date=1)
    assert not one.has_index(row.set, "date")
    one.create_index(row.set, "date")
    two.create_index(row.set, "date")
    assert two.has_index(row.set, "date")
    assert not two.has_index(row.set, "other")
    assert not two.has_index(row.set + "x", "date")


def test_nothing_expires(store: Store, row: RowKey) -> None:
    """A set that this program wrote holds no row with a time to live."""
    put(store, row, n=1)
    assert row.set not in store.expiring_sets()


def test_close_twice(connect_store: Callable[[], Store]) -> None:
    """The second time does nothing, and another handle lives on."""
    one, two = connect_store(), connect_store()
    one.close()
    one.close()
    assert two.state().incarnation


def test_answers_are_plain(store: Store, row: RowKey) -> None:
    """Bins come as dict, list, int, str and bytes, fit for equality and for JSON where it can hold them."""
    put(store, row, m={"a": [1]}, n=1)
    (found,) = store.read([Read(row, ["m", "n"])])
    assert isinstance(found, Row)
    assert type(found.bins["m"]) is dict
    assert type(found.bins["m"]["a"]) is list


def test_count_is_the_number_of_entries_after_the_operations_before_it(store: Store, row: RowKey) -> None:
    """In a write it follows the operations; in a read it is 0 without the bin; the bin itself stays unread."""
    answer = write(store, row, Count("seen"), PutNew("seen", {b"a": 1, b"b": 2}))
    assert answer.bins == {counted("seen"): 0}
    answer = write(store, row, PutNew("seen", {b"c": 3}), Count("seen"), Move("seen", "sealed"))
    assert answer.bins == {counted("seen"): 3}
    (found,) = store.read([Read(row, counts=("seen", "sealed", "nothing"))])
    assert found is not None
    assert found.bins == {counted("seen"): 0, counted("sealed"): 3, counted("nothing"): 0}


# --- what is expected of bins

PAGE = {
    "ids": {bytes((n,)) * 16: [n % 4, 1_767_225_600 + n, n, n << n % 60] for n in range(1, 40)},
    "counts": {0: 3, 1: 4},
    "before": [LARGEST, 2, 1],
    "prints": b"\x81\xc7\x00\x01\xc0",
    "seal": 7,
}
EXPECTED = {"ids": Columns, "counts": dict, "before": list}


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"ids": {**PAGE["ids"], "an id": [0, 1, 2, 3]}},  # type: ignore[dict-item]  # a map
        {"ids": {b"x" * 15: [0, 1, 2, 3]}},
        {"ids": {}},
        {"ids": {b"x" * 16: [0, 1, 2, -3]}},
        {"ids": {b"x" * 16: [0, 1, 2]}},
        {"ids": {b"x" * 16: "none"}},
        {"ids": b"\x82\xc7\x00\x01\xc0\xb1\x04" + b"x" * 16 + b"\x94\x00\x01\x02\x03"},
        {"ids": [1, 2]},
        {"ids": None},
        {"counts": {}},
        {"counts": {"visits": 3}},
        {"counts": b"\x82\xc7\x00\x01\xc0\x01\x02"},
        {"before": []},
        {"before": [b"x", "y", [1]]},
        {"before": "1"},
        {"prints": {1: 2}},
        {"prints": [1]},
        {"seal": "7"},
        {"seal": None},
    ],
)
def test_what_is_expected_of_bins_changes_no_answer(store: Store, name: str, change: dict[str, Any]) -> None:
    """Rows that are as expected, others, and none, in one read: equal to what is read without."""
    held = [PAGE, {key: value for key, value in {**PAGE, **change}.items() if value is not None}, PAGE]
    rows = [RowKey(name, number) for number in range(4)]
    for row, values in zip(rows, held, strict=False):
        put(store, row, **values)
    names = tuple(PAGE)
    plain = store.read([Read(row, names) for row in rows])
    found = store.read([Read(row, names, expected=EXPECTED) for row in rows])
    assert plain[3] is None
    assert [row and row.bins for row in plain[:3]] == held
    assert found == plain
