"""The store port: atomic writes to one row each, reads, scans, and what tells whether a write can still be forgotten.

A backend translates; it decides nothing. All that can go wrong between two calls is handled above this port, once.
Vocabulary: a *row* has a key in a *set* and named *bins*; a bin holds an int, a str, bytes, a list or a map.
Map bins are key-ordered; their keys are int, str or bytes.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol, TypeAlias

MapKey: TypeAlias = int | str | bytes


class RowKey(NamedTuple):
    """Address of a row. The int 6 and the str "6" are different keys."""

    set: str
    key: int | str


# --- the operations of a write, applied in order, all or none


class PutNew(NamedTuple):
    """Add `entries` to a map bin, create-only: one that is there fails the whole write (`Outcome.EXISTS`)."""

    bin: str
    entries: Mapping[Any, Any]


class Put(NamedTuple):
    """Set a bin. A dict becomes a key-ordered map."""

    bin: str
    value: int | str | bytes | list[Any] | dict[Any, Any]


class Add(NamedTuple):
    """Add `amount` to an int bin (missing: 0)."""

    bin: str
    amount: int


class AddEntry(NamedTuple):
    """Add `amount` to the int under `key` in a map bin (missing: 0)."""

    bin: str
    key: MapKey
    amount: int


class Move(NamedTuple):
    """Replace map bin `target` by the content of map bin `source`, and empty `source`."""

    source: str
    target: str


class Clear(NamedTuple):
    """Make a bin an empty map."""

    bin: str


class Fetch(NamedTuple):
    """Return the bin's value as it is after the operations before this one."""

    bin: str


class Count(NamedTuple):
    """Return the number of entries of a map bin, 0 without it, after the operations before this one, as `counted`."""

    bin: str


class Measure(NamedTuple):
    """Return the row's size in bytes as the store holds it, before or after this write, as `ROW_BYTES`."""


class Delete(NamedTuple):
    """Remove the row. Alone in its write. A store may bring a deleted row back after a crash."""


Operation: TypeAlias = PutNew | Put | Add | AddEntry | Move | Clear | Fetch | Count | Measure | Delete
ROW_BYTES = "row-bytes"


def counted(name: str) -> str:
    """Under which name the number of entries of map bin `name`, of at most 14 characters, is answered."""
    return f"#{name}"


# --- the condition of a write: all must hold, or nothing is applied (`Outcome.REFUSED`)


class BinEqual(NamedTuple):
    """The bin holds exactly this value."""

    bin: str
    value: int | str


class BinMissing(NamedTuple):
    """The row has no such bin."""

    bin: str


class BinEmpty(NamedTuple):
    """The bin is a map without entries, or missing."""

    bin: str


class BinNotEmpty(NamedTuple):
    """The bin is a map with entries."""

    bin: str


Condition: TypeAlias = BinEqual | BinMissing | BinEmpty | BinNotEmpty


class Presence(Enum):
    """Whether the row must be there before the write."""

    PRESENT = "present"
    ABSENT = "absent"
    EITHER = "either"


class Write(NamedTuple):
    """One atomic write of one row."""

    row: RowKey
    operations: Sequence[Operation]
    presence: Presence = Presence.PRESENT
    conditions: Sequence[Condition] = ()


class Outcome(Enum):
    """What became of a write. Nothing is applied but for APPLIED, and perhaps, now or later, for FAILED."""

    APPLIED = "applied"
    EXISTS = "exists"  # an entry of a PutNew is there
    REFUSED = "refused"  # a condition does not hold
    ABSENT = "absent"  # the row had to be present
    PRESENT = "present"  # the row had to be absent
    TOO_BIG = "too big"  # the row would exceed the store's limit
    FAILED = "failed"  # see `error`: Retryable, or InDoubt


class Answer(NamedTuple):
    """The answer to one `Write`: `bins` holds what Fetch, Count and Measure asked for, if APPLIED."""

    outcome: Outcome
    bins: Mapping[str, Any] = {}
    error: Exception | None = None


class Read(NamedTuple):
    """What to read of one row, from one version of it.

    `bins` are read whole; `entries` names map bins and the keys wanted of each;
    `counts` names map bins whose number of entries is wanted, answered as `counted` among the bins;
    `unchanged_ms` > 0 also asks whether the row was last updated at least so long ago, by the store's own clock;
    `expected` names the bins that should be maps or lists, by type, all others being neither: what is answered is the
    same without it, but a map that is expected as `Columns` may come as that, which is cheaper, and reads as the map.
    """

    row: RowKey
    bins: Sequence[str] = ()
    entries: Mapping[str, Sequence[MapKey]] = {}
    counts: Sequence[str] = ()
    unchanged_ms: int = 0
    measure: bool = False
    expected: Mapping[str, type] = {}


class Row(NamedTuple):
    """What was read: bins and entries that are not there are left out. `ROW_BYTES` stands among `bins` if measured."""

    bins: Mapping[str, Any]
    entries: Mapping[str, Mapping[MapKey, Any]] = {}
    unchanged: bool = True


class StoreState(NamedTuple):
    """`incarnation` changes when the store may have forgotten; `drained`: no acknowledged write waits for a device."""

    incarnation: str
    drained: bool


class Limits(NamedTuple):
    """What a backend's store can take. `settle_ms` None: this store can never promise to keep a write.

    `writing_ms`: for so long a device may still be writing what has left its queue, when that is seen empty. It is part
    of `settle_ms`.
    """

    row_bytes_max: int
    settle_ms: int | None
    writing_ms: int = 0


class Store(Protocol):
    """Every call is bounded in time and raises `Retryable` (reads, scans, state) or answers FAILED (writes)."""

    def write(self, writes: Sequence[Write]) -> list[Answer]:
        """Apply each write, at most one a row, in no promised order; answers in the order of `writes`.

        An answer is APPLIED only if the store is known to have applied it: an acknowledgement alone is not believed.
        """
        ...

    def read(self, reads: Sequence[Read]) -> list[Row | None]:
        """Read each; None where there is no such row. Raises `Retryable` if any of them cannot be read."""
        ...

    def scan(self, set_name: str, bins: Sequence[str], page_rows: int = 500) -> Iterator[list[Row]]:
        """All rows of a set in pages of at most `page_rows`. Keys are not returned: keep them in a bin.

        A row that is there throughout comes exactly once; page by page, so that a caller may do other work between.
        """
        ...

    def state(self) -> StoreState:
        """The state now, asked of the store, never cached."""
        ...

    def limits(self) -> Limits:
        """Limits as configured in the store now."""
        ...

    def create_index(self, set_name: str, bin_name: str) -> None:
        """Create a numeric index, if it is not there."""
        ...

    def has_index(self, set_name: str, bin_name: str) -> bool:
        """Whether the numeric index is there."""
        ...

    def expiring_sets(self) -> list[str]:
        """Sets, or the whole namespace (""), that hold or would give rows a time to live."""
        ...

    def close(self) -> None:
        """Let go of the store. Calling it again does nothing."""
        ...
