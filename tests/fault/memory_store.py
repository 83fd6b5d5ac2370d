"""A store in memory that forgets: every row keeps its older complete versions until they have been flushed."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

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

_KEY_ORDER = {int: 0, str: 1, bytes: 2}
_NEVER = float("-inf")


class _Version(NamedTuple):
    """A row as one write left it (None: no row), when, and when it left the device's queue, if that is known."""

    bins: dict[str, Any] | None
    at_ms: float
    left_ms: float | None = None


class _ExistsError(Exception):
    """An entry of a PutNew is there."""


class MemoryStore:
    """A `Store` whose crash takes back what was not flushed, each row by itself, to a complete older version.

    A version leaves the write buffer `flush_ms` after it was written and is then on the device, unless that is
    stalled: then it waits in the device's queue (`drained` is False) until the device goes on. From when it left the
    queue it takes `writing_ms` until it is on the device, stalled or not. With `flush_ms` 0 every write is on the
    device when it is answered, and nothing stalls.
    """

    def __init__(
        self,
        now_ms: Callable[[], float],
        flush_ms: float = 0,
        settle_ms: int | None = 0,
        row_bytes_max: int = 1 << 20,
        writing_ms: int = 0,
    ) -> None:
        self._now_ms = now_ms
        self._flush_ms = flush_ms
        self._limits = Limits(row_bytes_max, settle_ms, writing_ms)
        self._rows: dict[RowKey, list[_Version]] = {}
        """Per row the version on the device, then those that a crash may take back."""
        self._stalled = False
        self._going_since_ms = _NEVER
        """When the device last went on."""
        self._incarnation = 1
        self._indexes: set[tuple[str, str]] = set()

    # --- what happens to it

    def crash(self, choose: random.Random) -> None:
        """Each row falls back to one of its versions from the flushed one on; the device goes on."""
        self._flush()
        for key, versions in self._rows.items():
            self._rows[key] = [versions[choose.randrange(len(versions))]._replace(at_ms=_NEVER)]
        self._incarnation += 1
        self._stalled, self._going_since_ms = False, _NEVER

    def stall(self, stalled: bool) -> None:
        """Whether the device takes nothing."""
        self._flush()
        if stalled and not self._stalled:
            for versions in self._rows.values():
                versions[:] = [version._replace(left_ms=self._left_ms(version)) for version in versions]
        elif self._stalled and not stalled:
            self._going_since_ms = self._now_ms()
        self._stalled = stalled and self._flush_ms > 0

    def durable(self, row: RowKey) -> Mapping[str, Any] | None:
        """What no crash can take back."""
        self._flush()
        return self._rows[row][0].bins if row in self._rows else None

    def _left_ms(self, version: _Version) -> float | None:
        """When it left the device's queue; None: it has not."""
        if version.left_ms is not None or self._stalled or version.at_ms > self._now_ms() - self._flush_ms:
            return version.left_ms
        return max(version.at_ms + self._flush_ms, self._going_since_ms)

    def _flush(self) -> None:
        before_ms = self._now_ms() - self._limits.writing_ms + 1e-6  # sums of seconds are not exact
        for key, versions in self._rows.items():
            if len(versions) > 1:
                left = [self._left_ms(version) for version in versions]
                flushed = max(n for n, at_ms in enumerate(left) if n == 0 or (at_ms is not None and at_ms <= before_ms))
                self._rows[key] = versions[flushed:]

    # --- the port

    def write(self, writes: Sequence[Write]) -> list[Answer]:
        """Apply each by itself."""
        assert len({each.row for each in writes}) == len(writes), "one write a row"
        self._flush()
        return [self._write(each) for each in writes]

    def _write(self, write: Write) -> Answer:
        held = self._current(write.row)
        if held is None and write.presence is Presence.PRESENT:
            return Answer(Outcome.ABSENT)
        if held is not None and write.presence is Presence.ABSENT:
            return Answer(Outcome.PRESENT)
        if not all(_holds(held or {}, condition) for condition in write.conditions):
            return Answer(Outcome.REFUSED)
        if list(write.operations) == [Delete()]:
            self._save(write.row, None)
            return Answer(Outcome.APPLIED)
        bins = {name: dict(value) if isinstance(value, dict) else value for name, value in (held or {}).items()}
        fetched: dict[str, Any] = {}
        try:
            for operation in write.operations:
                self._apply(bins, operation, fetched)
        except _ExistsError:
            return Answer(Outcome.EXISTS)
        size = _size(bins)
        if size > self._limits.row_bytes_max:
            return Answer(Outcome.TOO_BIG)
        if ROW_BYTES in fetched:
            fetched[ROW_BYTES] = size
        self._save(write.row, bins)
        return Answer(Outcome.APPLIED, fetched)

    def _apply(self, bins: dict[str, Any], operation: Operation, fetched: dict[str, Any]) -> None:
        match operation:
            case PutNew(name, entries):
                self._put_new(bins.setdefault(name, {}), entries)
            case Put(name, value):
                bins[name] = _copy(value)
            case Add(name, amount):
                bins[name] = bins.get(name, 0) + amount
            case AddEntry(name, key, amount):
                held = bins.setdefault(name, {})
                held[key] = held.get(key, 0) + amount
            case Move(source, target):
                bins[target] = bins.get(source, {})
                bins[source] = {}
            case Clear(name):
                bins[name] = {}
            case Fetch(name):
                if name in bins:
                    fetched[name] = _copy(bins[name])
            case Count(name):
                fetched[counted(name)] = len(bins.get(name, {}))
            case Measure():
                fetched[ROW_BYTES] = 0
            case Delete():
                raise ValueError("Delete stands alone")

    def _put_new(self, held: dict[Any, Any], entries: Mapping[Any, Any]) -> None:
        if held.keys() & entries.keys():
            raise _ExistsError
        held.update(_copy(dict(entries)))

    def _current(self, row: RowKey) -> dict[str, Any] | None:
        versions = self._rows.get(row)
        return versions[-1].bins if versions else None

    def _save(self, row: RowKey, bins: dict[str, Any] | None) -> None:
        self._rows.setdefault(row, [_Version(None, _NEVER)]).append(_Version(bins, self._now_ms()))

    def read(self, reads: Sequence[Read]) -> list[Row | None]:
        """The newest version of each, flushed or not."""
        return [self._read(each) for each in reads]

    def _read(self, read: Read) -> Row | None:
        held = self._current(read.row)
        if held is None:
            return None
        bins = {name: _copy(held[name]) for name in read.bins if name in held}
        bins.update({counted(name): len(held.get(name, {})) for name in read.counts})
        if read.measure:
            bins[ROW_BYTES] = _size(held)
        entries: dict[str, dict[MapKey, Any]] = {}
        for name, keys in read.entries.items():
            there: dict[MapKey, Any] = held.get(name, {})
            entries[name] = {key: _copy(there[key]) for key in keys if key in there}
        return Row(bins, entries, self._now_ms() - self._rows[read.row][-1].at_ms >= read.unchanged_ms)

    def scan(self, set_name: str, bins: Sequence[str], page_rows: int = 500) -> Iterator[list[Row]]:
        """The rows that are there now, each as it is when its page is read."""
        keys = [key for key in self._rows if key.set == set_name]
        for first in range(0, len(keys), page_rows):
            found = self.read([Read(key, bins) for key in keys[first : first + page_rows]])
            if page := [row for row in found if row is not None]:
                yield page

    def state(self) -> StoreState:
        """Not drained: what has left the write buffer waits for a stalled device."""
        self._flush()
        before_ms = self._now_ms() - self._flush_ms
        queued = self._stalled and any(
            version.at_ms <= before_ms and version.left_ms is None
            for versions in self._rows.values()
            for version in versions[1:]
        )
        return StoreState(str(self._incarnation), drained=not queued)

    def limits(self) -> Limits:
        """As made."""
        return self._limits

    def create_index(self, set_name: str, bin_name: str) -> None:
        """Remembered, of no use."""
        self._indexes.add((set_name, bin_name))

    def has_index(self, set_name: str, bin_name: str) -> bool:
        """Whether it was made."""
        return (set_name, bin_name) in self._indexes

    def expiring_sets(self) -> list[str]:
        """None: nothing expires here."""
        return []

    def close(self) -> None:
        """Nothing to let go of."""


def _holds(bins: Mapping[str, Any], condition: Condition) -> bool:
    held = bins.get(condition.bin)
    match condition:
        case BinEqual(_, value):
            return type(held) is type(value) and bool(held == value)
        case BinMissing():
            return held is None
        case BinEmpty():
            return held is None or held == {}
        case BinNotEmpty():
            return isinstance(held, dict) and bool(held)


def _copy(value: Any) -> Any:
    """The value with maps in the order of their keys; nothing of it is shared."""
    if isinstance(value, dict):
        return {key: _copy(value[key]) for key in sorted(value, key=lambda key: (_KEY_ORDER[type(key)], key))}
    return [_copy(each) for each in value] if isinstance(value, list) else value


def _size(bins: Mapping[str, Any]) -> int:
    return len(msgspec.msgpack.encode(bins))
