"""One write or read of one row as the Aerospike client takes it, and what its answer means."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, TypeAlias

import aerospike
from aerospike_helpers import expressions as exp  # type: ignore[import-untyped]  # no stubs
from aerospike_helpers.batch import records as batch  # type: ignore[import-untyped]  # no stubs
from aerospike_helpers.expressions.map import MapSize  # type: ignore[import-untyped]  # no stubs
from aerospike_helpers.operations.expression_operations import (  # type: ignore[import-untyped]  # no stubs
    expression_read,
    expression_write,
)

from projector.backends.aerospike_errors import translated
from projector.errors import InDoubt, Retryable
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
    MapKey,
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
    Write,
    counted,
)

Sent: TypeAlias = dict[str, Any]

OPERATIONS_MAX = 65_535  # of one row in one write; the client drops the rest silently
KEY_ORDERED = {"map_order": aerospike.MAP_KEY_ORDERED}
CREATE_ONLY = {**KEY_ORDERED, "map_write_flags": aerospike.MAP_WRITE_FLAGS_CREATE_ONLY}
EXISTS_POLICY = {
    Presence.PRESENT: aerospike.POLICY_EXISTS_UPDATE,
    Presence.ABSENT: aerospike.POLICY_EXISTS_CREATE,
    Presence.EITHER: aerospike.POLICY_EXISTS_IGNORE,
}

PROOF = "~proof"  # no bin: what a write without Measure has read back
UNCHANGED = "~unchanged"
PROVE: Sent = expression_read(PROOF, exp.Val(1).compile())
MEASURE: Sent = expression_read(ROW_BYTES, exp.RecordSize().compile())
DELETE: Sent = {"op": aerospike.OPERATOR_DELETE}

DONE = 0
RECORD_NOT_FOUND = 2
OUTCOMES = {
    RECORD_NOT_FOUND: Outcome.ABSENT,
    5: Outcome.PRESENT,
    13: Outcome.TOO_BIG,
    24: Outcome.EXISTS,
    27: Outcome.REFUSED,
}
PLAIN = frozenset({int, bytes})
BIN_TYPES = (exp.IntBin, exp.StrBin, exp.BlobBin, exp.ListBin, exp.MapBin)


def write_record(namespace: str, write: Write) -> batch.Write:
    """What to send for `write`. Raises `ValueError` or `TypeError` for what the store cannot hold."""
    key = row_key(namespace, write.row)
    sent: list[Sent] = []
    if _deletes(write):
        sent += PROVE, DELETE
    else:
        overwritten = _overwritten(write.operations)
        for position, operation in enumerate(write.operations):
            if isinstance(operation, Fetch) and position in overwritten:
                sent += _fetch_aside(operation.bin, position)
            else:
                _compile(operation, sent)
        sent.append(PROVE)
    if len(sent) > OPERATIONS_MAX:
        raise ValueError(f"{len(sent)} operations on one row; {OPERATIONS_MAX} at most")
    conditions = tuple((type(condition), *condition) for condition in write.conditions)
    return batch.Write(key, sent, policy=_policy(write.presence, conditions))


def answer(write: Write, record: batch.BatchRecord) -> Answer:
    """What became of `write`; an acknowledgement without what it had to read back is none."""
    if record.result == DONE:
        if record.record is not None:
            _, meta, found = record.record
            if found.get(PROOF) == 1 and (meta["gen"] > 0 or _deletes(write)):
                return Answer(Outcome.APPLIED, _asked(write.operations, found))
        return Answer(Outcome.FAILED, error=InDoubt(f"Aerospike: {_name(record)} acknowledged without proof"))
    outcome = OUTCOMES.get(record.result)
    if outcome is None:
        return Answer(Outcome.FAILED, error=translated(record.result, _said(record), in_doubt=True))
    if outcome is Outcome.ABSENT and write.presence is Presence.EITHER:
        return Answer(Outcome.REFUSED if write.conditions else Outcome.APPLIED)
    return Answer(outcome)


def read_record(namespace: str, read: Read) -> batch.Read:
    """What to send for `read`. Raises `ValueError` or `TypeError` for a key that the store cannot hold."""
    key = row_key(namespace, read.row)
    sent: list[Sent] = [{"op": aerospike.OPERATOR_READ, "bin": name} for name in read.bins]
    for name, keys in read.entries.items():
        _check_all(keys)
        if name not in read.bins:
            sent.append(
                {
                    "op": aerospike.OP_MAP_GET_BY_KEY_LIST,
                    "bin": name,
                    "val": list(keys),
                    "return_type": aerospike.MAP_RETURN_UNORDERED_MAP,
                    "inverted": False,
                }
            )
    sent += map(_count, read.counts)
    if read.unchanged_ms:
        sent.append(_unchanged_for(read.unchanged_ms))
    if read.measure:
        sent.append(MEASURE)
    return batch.Read(key, sent or [PROVE])


def row_key(namespace: str, key: RowKey) -> tuple[str, str, int | str]:
    """The key as the client takes it. Raises `ValueError` or `TypeError` for one that the store cannot hold."""
    check(key.key)
    return (namespace, *key)


def bins_alone(reads: Sequence[Read]) -> list[str]:
    """The bins, if every read asks for these, expected alike, and nothing else; else none."""
    bins = reads[0].bins if reads else ()
    expected = reads[0].expected if reads else {}
    return list(bins) if all(read[1:] == (bins, {}, (), 0, False, expected) for read in reads) else []


def bins_row(bins: Sequence[str], record: batch.BatchRecord) -> Row | None:
    """What was read of `bins`. Raises the translated error if it could not be read."""
    held = answered(record)
    return None if held is None else Row(held_bins(bins, held))


def row(read: Read, record: batch.BatchRecord) -> Row | None:
    """What was read. Raises the translated error if it could not be read."""
    found = answered(record)
    if found is None:
        return None
    bins = held_bins(read.bins, found)
    bins.update({counted(name): found[counted(name)] for name in read.counts})
    if read.measure:
        bins[ROW_BYTES] = found[ROW_BYTES]
    entries = {}
    for name, keys in read.entries.items():
        held = found.get(name) or {}
        entries[name] = {key: held[key] for key in keys if key in held} if name in read.bins else held
    return Row(bins, entries, unchanged=not read.unchanged_ms or found.get(UNCHANGED) is True)


def answered(record: batch.BatchRecord) -> dict[str, Any] | None:
    """The bins as the client has them, None if there is no row. Raises the translated error."""
    if record.result == RECORD_NOT_FOUND:
        return None
    if record.result != DONE:
        raise translated(record.result, _said(record))
    if record.record is None or record.record[1]["gen"] == 0:
        raise Retryable(f"Aerospike: {_name(record)} answered without the row")
    held: dict[str, Any] = record.record[2]
    return held


def held_bins(names: Iterable[str], found: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the bins that are there."""
    return {name: _plain_value(found[name]) for name in names if found.get(name) is not None}


def scan_operations(bins: Iterable[str]) -> list[Sent]:
    """What to read of each row of a scan; something of every row, so that it returns rows without any of the bins."""
    return [*({"op": aerospike.OPERATOR_READ, "bin": name} for name in bins), PROVE]


def _compile(operation: Operation, sent: list[Sent]) -> None:
    match operation:
        case PutNew(name, entries):
            _check_map(entries)
            # A plain dict: the client's own function sorts the entries in Python first.
            sent.append({"op": aerospike.OP_MAP_PUT_ITEMS, "bin": name, "map_policy": CREATE_ONLY, "val": entries})
        case AddEntry(name, key, amount):
            check(key)
            sent.append(
                {"op": aerospike.OP_MAP_INCREMENT, "bin": name, "key": key, "val": amount, "map_policy": KEY_ORDERED}
            )
        case Add(name, amount):
            sent.append({"op": aerospike.OPERATOR_INCR, "bin": name, "val": amount})
        case Fetch(name):
            sent.append({"op": aerospike.OPERATOR_READ, "bin": name})
        case Count(name):
            sent.append(_count(name))
        case Measure():
            sent.append(MEASURE)
        case Put(name, value):
            check(value)
            kept = aerospike.KeyOrderedDict(value) if isinstance(value, dict) else value
            sent.append({"op": aerospike.OPERATOR_WRITE, "bin": name, "val": kept})
        case Clear(name):
            sent.append({"op": aerospike.OPERATOR_WRITE, "bin": name, "val": aerospike.KeyOrderedDict()})
        case Move(source, target):
            sent.append(_create(source))
            sent.append(_copy(source, target))
            _compile(Clear(source), sent)
        case Delete():
            raise ValueError("Delete stands alone in its write")


def _create(name: str) -> Sent:
    """Make a missing bin an empty map, leave one that is there."""
    return {
        "op": aerospike.OP_MAP_CREATE,
        "bin": name,
        "map_order": aerospike.MAP_KEY_ORDERED,
        "persist_index": False,
    }


@lru_cache(maxsize=64)
def _copy(source: str, target: str) -> Sent:
    copy: Sent = expression_write(target, exp.MapBin(source).compile())
    return copy


@lru_cache(maxsize=64)
def _count(name: str) -> Sent:
    size: Sent = expression_read(counted(name), exp.Cond(exp.BinExists(name), _entries(name), 0).compile())
    return size


@lru_cache(maxsize=64)
def _unchanged_for(ms: int) -> Sent:
    unchanged: Sent = expression_read(UNCHANGED, exp.GE(exp.SinceUpdateTime(), ms).compile())
    return unchanged


@lru_cache(maxsize=8192)
def _policy(presence: Presence, conditions: tuple[tuple[Any, ...], ...]) -> dict[str, Any]:
    """The policy of a write under conditions, given as (type, *fields): as bare tuples some of them would be equal.

    Aerospike evaluates no filter on a missing row: a condition that no missing row meets makes the row required.
    """
    policy: dict[str, Any] = {"ttl": aerospike.TTL_NEVER_EXPIRE, "exists": EXISTS_POLICY[presence]}
    if any(kind in (BinEqual, BinNotEmpty) for kind, *_ in conditions):
        if presence is Presence.ABSENT:
            raise ValueError("a row that must be absent holds nothing that a condition could ask for")
        policy["exists"] = aerospike.POLICY_EXISTS_UPDATE
    filters = [_filter(kind(*fields)) for kind, *fields in conditions]
    if filters:
        policy["expressions"] = (exp.And(*filters) if len(filters) > 1 else filters[0]).compile()
    return policy


def _filter(condition: Condition) -> Any:
    match condition:
        case BinEqual(name, value):
            check(value)
            return exp.Eq(exp.StrBin(name) if isinstance(value, str) else exp.IntBin(name), value)
        case BinMissing(name):
            return exp.Not(exp.BinExists(name))
        case BinEmpty(name):
            return exp.Or(exp.Not(exp.BinExists(name)), exp.Eq(_entries(name), 0))
        case BinNotEmpty(name):
            return exp.GT(_entries(name), 0)


def _entries(name: str) -> Any:
    return MapSize(None, exp.MapBin(name))


def check(value: Any) -> None:
    """Raise `ValueError` for a str that the client would cut (U+0000) or crash on, `TypeError` for other types."""
    kind = type(value)
    if kind is str:
        if "\0" in value:
            raise ValueError(f"a row cannot hold U+0000: {value!r}")
        value.encode()
    elif kind is list:
        _check_all(value)
    elif kind is dict:
        _check_map(value)
    elif kind not in PLAIN:
        raise TypeError(f"a row cannot hold a {kind.__name__}: {value!r}")


def _check_map(entries: Mapping[MapKey, Any]) -> None:
    """Keys and values, fast for maps of lists of ints."""
    _check_all(entries)
    values = entries.values()
    if set(map(type, values)) != {list} or not _plain(chain.from_iterable(values)):
        _check_all(values)


def _check_all(values: Iterable[Any]) -> None:
    if not _plain(values):
        for value in values:
            check(value)


def _plain(values: Iterable[Any]) -> bool:
    return PLAIN.issuperset(map(type, values))


def _deletes(write: Write) -> bool:
    return len(write.operations) == 1 and isinstance(write.operations[0], Delete)


def _asked(operations: Sequence[Operation], found: Mapping[str, Any]) -> dict[str, Any]:
    bins: dict[str, Any] = {}
    overwritten = _overwritten(operations)
    for position, operation in enumerate(operations):
        if isinstance(operation, Fetch):
            names = _aside(position) if position in overwritten else (operation.bin,)
            bins.update((operation.bin, _plain_value(found[name])) for name in names if found.get(name) is not None)
        elif isinstance(operation, Count):
            bins[counted(operation.bin)] = found[counted(operation.bin)]
        elif isinstance(operation, Measure):
            bins[ROW_BYTES] = found[ROW_BYTES]
    return bins


def _overwritten(operations: Sequence[Operation]) -> set[int]:
    """Positions of each Fetch whose bin is changed after it: a bin has one result in the answer, the last."""
    positions = set()
    changed: set[str] = set()
    for position in range(len(operations) - 1, -1, -1):
        operation = operations[position]
        if isinstance(operation, Fetch):
            if operation.bin in changed:
                positions.add(position)
        elif isinstance(operation, Move):
            changed.update(operation)
        elif not isinstance(operation, Measure | Delete):
            changed.add(operation.bin)
    return positions


def _aside(position: int) -> list[str]:
    return [f"~{position}.{kind}" for kind in range(len(BIN_TYPES))]


def _fetch_aside(name: str, position: int) -> list[Sent]:
    """Read the bin under names of its own, once as each type: all but one of them fail, which is no error."""
    return [
        expression_read(aside, bin_type(name).compile(), aerospike.EXP_READ_EVAL_NO_FAIL)
        for aside, bin_type in zip(_aside(position), BIN_TYPES, strict=True)
    ]


def _plain_value(value: Any) -> Any:
    """Maps come as a subclass of dict."""
    return dict(value) if isinstance(value, dict) else value


def _name(record: batch.BatchRecord) -> str:
    return f"row {record.key[2]!r} of {record.key[1]}"


def _said(record: batch.BatchRecord) -> str:
    return f"{_name(record)}: {record.message or 'no answer'}"
