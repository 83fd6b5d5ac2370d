"""The store in one SQLite file: a row's bins are one small value, the entries of its maps are SQL rows."""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from projector.backends.embedded_file import EmbeddedFile
from projector.errors import Retryable
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
    Limits,
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
    StoreState,
    Write,
    counted,
)

ROW_BYTES_MAX = 8 << 20
ENTRY_BYTES = 4  # of an entry beside its key and value
SCHEMA = """
CREATE TABLE IF NOT EXISTS store_rows (
    id INTEGER PRIMARY KEY, set_name TEXT NOT NULL, key NOT NULL, updated_ms INTEGER NOT NULL, content BLOB NOT NULL,
    UNIQUE (set_name, key));
CREATE TABLE IF NOT EXISTS store_entries (
    map INTEGER NOT NULL, key NOT NULL, value BLOB NOT NULL, PRIMARY KEY (map, key)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS store_maps (id INTEGER PRIMARY KEY AUTOINCREMENT);
CREATE TABLE IF NOT EXISTS store_indexes (set_name TEXT, bin TEXT, PRIMARY KEY (set_name, bin))"""
SELECT_ENTRY = "SELECT value FROM store_entries WHERE map = ? AND key = ?"
INSERT_ENTRY = "INSERT INTO store_entries VALUES (?, ?, ?)"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class _Map(msgspec.Struct, array_like=True):
    """A map bin as its row keeps it: where the entries are (0: nowhere yet), how many, how large with their keys."""

    id: int = 0
    count: int = 0
    bytes: int = 0


class _Content(msgspec.Struct, array_like=True):
    """What `store_rows.content` holds, as msgpack."""

    bins: dict[str, Any]
    maps: dict[str, _Map]


_decode_content = msgspec.msgpack.Decoder(_Content).decode


class _UnfitError(Exception):
    """The write being applied must not be: undo what it did."""

    def __init__(self, outcome: Outcome) -> None:
        self.outcome = outcome


class _Draft:
    """A row while a write is applied to it: its bins in memory, the entries of its maps already in the tables."""

    def __init__(self, db: sqlite3.Connection, content: _Content) -> None:
        self._db = db
        self.content = content
        self.fetched: dict[str, Any] = {}
        self.measured = False
        self.changed = False

    def apply(self, operation: Operation) -> None:
        self.changed = self.changed or not isinstance(operation, Fetch | Count | Measure)
        match operation:
            case PutNew(name, entries):
                self._put_new(self._map(name), entries)
            case Put(name, value):
                self._drop(name)
                if isinstance(value, dict):
                    self._put_new(self._map(name), value)
                else:
                    self.content.bins[name] = value
            case Add(name, amount):
                self.content.bins[name] = _sum(self.content.bins.get(name, 0), amount)
            case AddEntry(name, key, amount):
                self._add_entry(self._map(name), key, amount)
            case Move(source, target):
                self._drop(target)
                self.content.maps[target] = self._map(source)
                self.content.maps[source] = _Map()
            case Clear(name):
                self._drop(name)
                self.content.maps[name] = _Map()
            case Fetch(name):
                self.fetched.pop(name, None)
                self.fetched.update(_bins(self._db, self.content, [name]))
            case Count(name):
                self.fetched[counted(name)] = self._map(name).count
            case Measure():
                self.measured = True
            case Delete():
                raise ValueError("Delete stands alone in its write")

    def _map(self, name: str) -> _Map:
        if name in self.content.bins:
            raise TypeError(f"bin {name} is not a map")
        return self.content.maps.setdefault(name, _Map())

    def _put_new(self, target: _Map, entries: Mapping[Any, Any]) -> None:
        self._allot(target)
        rows = [(target.id, key, _encode(value)) for key, value in entries.items()]
        try:
            self._db.executemany(INSERT_ENTRY, rows)
        except sqlite3.IntegrityError:
            raise _UnfitError(Outcome.EXISTS) from None
        target.count += len(rows)
        target.bytes += sum([_key_bytes(key) + len(value) for _, key, value in rows])

    def _add_entry(self, target: _Map, key: MapKey, amount: int) -> None:
        key_bytes = _key_bytes(key)
        self._allot(target)
        found = self._db.execute(SELECT_ENTRY, (target.id, key)).fetchone()
        value = _encode(_sum(_decode(found[0]) if found else 0, amount))
        self._db.execute("INSERT OR REPLACE INTO store_entries VALUES (?, ?, ?)", (target.id, key, value))
        target.count += not found
        target.bytes += len(value) - len(found[0]) if found else len(value) + key_bytes

    def _allot(self, target: _Map) -> None:
        if not target.id:
            (target.id,) = self._db.execute("INSERT INTO store_maps DEFAULT VALUES RETURNING id").fetchone()
            self._db.execute("DELETE FROM store_maps WHERE id = ?", (target.id,))

    def _drop(self, name: str) -> None:
        self.content.bins.pop(name, None)
        if dropped := self.content.maps.pop(name, None):
            self._db.execute("DELETE FROM store_entries WHERE map = ?", (dropped.id,))


class EmbeddedStore:
    """A `Store` in the SQLite file at `path`, which is created if it is not there.

    `row_bytes_max`: the largest row that a write may leave behind. Keys with U+0000 or an unpaired surrogate raise
    `ValueError`. Raises `Misconfigured` if the file cannot be used.
    """

    def __init__(self, path: Path, row_bytes_max: int = ROW_BYTES_MAX) -> None:
        self._file = EmbeddedFile(path, SCHEMA)
        self._row_bytes_max = row_bytes_max

    def write(self, writes: Sequence[Write]) -> list[Answer]:
        """Apply each write, or not, by itself; all that applied are on the disk, at once, when this returns."""
        try:
            with self._file.writing() as db:
                return [self._apply(db, write) for write in writes]
        except Retryable as error:
            return [Answer(Outcome.FAILED, error=error) for _ in writes]

    def _apply(self, db: sqlite3.Connection, write: Write) -> Answer:
        address = _address(write.row)
        found = db.execute("SELECT id, content FROM store_rows WHERE set_name = ? AND key = ?", address).fetchone()
        if found is None and write.presence is Presence.PRESENT:
            return Answer(Outcome.ABSENT)
        if found is not None and write.presence is Presence.ABSENT:
            return Answer(Outcome.PRESENT)
        content = _decode_content(found[1]) if found else _Content({}, {})
        if not all(_holds(content, condition) for condition in write.conditions):
            return Answer(Outcome.REFUSED)
        if len(write.operations) == 1 and isinstance(write.operations[0], Delete):
            if found:
                db.executemany(
                    "DELETE FROM store_entries WHERE map = ?", [(each.id,) for each in content.maps.values()]
                )
                db.execute("DELETE FROM store_rows WHERE id = ?", (found[0],))
            return Answer(Outcome.APPLIED)
        draft = _Draft(db, content)
        db.execute("SAVEPOINT row")
        try:
            for operation in write.operations:
                draft.apply(operation)
            encoded = _encode(content)
            row_bytes = _row_bytes(encoded, content)
            if draft.changed:
                if row_bytes > self._row_bytes_max:
                    raise _UnfitError(Outcome.TOO_BIG)
                _save(db, found[0] if found else None, address, encoded)
        except _UnfitError as unfit:
            db.execute("ROLLBACK TO row")
            db.execute("RELEASE row")
            return Answer(unfit.outcome)
        db.execute("RELEASE row")
        if draft.measured:
            draft.fetched[ROW_BYTES] = row_bytes
        return Answer(Outcome.APPLIED, draft.fetched)

    def read(self, reads: Sequence[Read]) -> list[Row | None]:
        """Read each row; all of them as of one moment."""
        with self._file.reading() as db:
            return [_read(db, each) for each in reads]

    def scan(self, set_name: str, bins: Sequence[str], page_rows: int = 500) -> Iterator[list[Row]]:
        """All rows of a set in the order of their keys; each page as of one moment."""
        after: int | str | float = float("-inf")
        while True:
            with self._file.reading() as db:
                found = db.execute(
                    "SELECT key, content FROM store_rows WHERE set_name = ? AND key > ? ORDER BY key LIMIT ?",
                    (set_name, after, page_rows),
                ).fetchall()
                page = [Row(_bins(db, _decode_content(content), bins)) for _, content in found]
            if not page:
                return
            yield page
            after = found[-1][0]

    def state(self) -> StoreState:
        """The file's own mark: a file made anew has another one."""
        with self._file.reading() as db:
            (incarnation,) = db.execute("SELECT incarnation FROM file").fetchone()
        return StoreState(incarnation, drained=True)

    def limits(self) -> Limits:
        """Nothing needs to settle: what is acknowledged is on the disk."""
        return Limits(self._row_bytes_max, settle_ms=0)

    def create_index(self, set_name: str, bin_name: str) -> None:
        """Record the index; nothing here searches by a bin."""
        with self._file.writing() as db:
            db.execute("INSERT OR IGNORE INTO store_indexes VALUES (?, ?)", (set_name, bin_name))

    def has_index(self, set_name: str, bin_name: str) -> bool:
        """Whether `create_index` was called for it, by any process."""
        with self._file.reading() as db:
            found = db.execute("SELECT 1 FROM store_indexes WHERE set_name = ? AND bin = ?", (set_name, bin_name))
            return found.fetchone() is not None

    def expiring_sets(self) -> list[str]:
        """None: rows here have no time to live."""
        return []

    def close(self) -> None:
        """Close the file. Calling it again does nothing."""
        self._file.close()


def _read(db: sqlite3.Connection, read: Read) -> Row | None:
    found = db.execute(
        "SELECT updated_ms, content FROM store_rows WHERE set_name = ? AND key = ?", _address(read.row)
    ).fetchone()
    if found is None:
        return None
    updated_ms, encoded = found
    content = _decode_content(encoded)
    bins = _bins(db, content, read.bins)
    for name in read.counts:
        held = content.maps.get(name)
        bins[counted(name)] = held.count if held else 0
    if read.measure:
        bins[ROW_BYTES] = _row_bytes(encoded, content)
    entries = {name: _entries(db, content.maps.get(name), keys) for name, keys in read.entries.items()}
    return Row(bins, entries, unchanged=not read.unchanged_ms or _now_ms() - updated_ms >= read.unchanged_ms)


def _bins(db: sqlite3.Connection, content: _Content, names: Iterable[str]) -> dict[str, Any]:
    """Those of the named bins that are there, whole."""
    bins = {}
    for name in names:
        if name in content.bins:
            bins[name] = content.bins[name]
        elif held := content.maps.get(name):
            rows = db.execute("SELECT key, value FROM store_entries WHERE map = ? ORDER BY key", (held.id,))
            bins[name] = {key: _decode(value) for key, value in rows}
    return bins


def _entries(db: sqlite3.Connection, held: _Map | None, keys: Iterable[MapKey]) -> dict[MapKey, Any]:
    entries = {}
    if held:
        for key in keys:
            _key_bytes(key)
            found = db.execute(SELECT_ENTRY, (held.id, key)).fetchone()
            if found:
                entries[key] = _decode(found[0])
    return entries


def _save(db: sqlite3.Connection, row_id: int | None, address: tuple[str, int | str], content: bytes) -> None:
    if row_id is None:
        db.execute(
            "INSERT INTO store_rows (set_name, key, updated_ms, content) VALUES (?, ?, ?, ?)",
            (*address, _now_ms(), content),
        )
    else:
        db.execute("UPDATE store_rows SET updated_ms = ?, content = ? WHERE id = ?", (_now_ms(), content, row_id))


def _holds(content: _Content, condition: Condition) -> bool:
    name = condition.bin
    match condition:
        case BinEqual(_, value):
            held = content.bins.get(name)
            return type(held) is type(value) and held == value
        case BinMissing():
            return name not in content.bins and name not in content.maps
        case BinEmpty():
            return name not in content.bins and (name not in content.maps or content.maps[name].count == 0)
        case BinNotEmpty():
            return name in content.maps and content.maps[name].count > 0


def _row_bytes(encoded: bytes, content: _Content) -> int:
    return len(encoded) + sum(each.bytes for each in content.maps.values())


def _address(row: RowKey) -> tuple[str, int | str]:
    _key_bytes(row.key)
    return row.set, row.key


def _key_bytes(key: MapKey) -> int:
    """What an entry with this key takes beside its value. Raises `ValueError` for a key that no store can hold."""
    kind = type(key)
    if kind is bytes or kind is str:
        if kind is str and "\0" in key:  # type: ignore[operator]  # mypy does not narrow by `kind`
            raise ValueError(f"a key cannot hold U+0000: {key!r}")
        return len(key) + ENTRY_BYTES  # type: ignore[arg-type]  # mypy does not narrow by `kind`
    if kind is int:
        return 8 + ENTRY_BYTES
    raise ValueError(f"a key is an int, a str or bytes, not {kind.__name__}")


def _sum(held: Any, amount: int) -> int:
    """`held + amount`. Raises `TypeError` where no int is held, `OverflowError` beyond 64 bits."""
    if type(held) is not int:
        raise TypeError(f"cannot add to {held!r}")
    total = held + amount
    if not -(1 << 63) <= total < 1 << 63:
        raise OverflowError(f"{held} + {amount} does not fit into 64 bits")
    return total


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
