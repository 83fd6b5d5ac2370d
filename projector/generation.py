"""Generations: the physical builds of the projection, and the pointer row that says which of them is live."""

import random
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

from projector.config import Config
from projector.errors import Misconfigured, Refused
from projector.patience import patiently, write_patiently
from projector.store import Presence, Put, Read, Row, RowKey, Store, Write

OPEN = "open"
CLOSING = "closing"
POINTER = RowKey("projector", "pointer")
_BINS = ("live", "state", "epoch", "nonce", "lease", "topic-id", "history")
_POLL_SECONDS = 0.05


class Generation(NamedTuple):
    """One build of the projection and the names it owns; a number is never used again."""

    number: int
    base_group: str

    @property
    def campaigns(self) -> str:
        """Set of the campaign rows."""
        return f"campaigns{self._suffix}"

    @property
    def pages(self) -> str:
        """Set of the archived pages of the ledger."""
        return f"campaigns{self._suffix}-seen"

    @property
    def group(self) -> str:
        """Consumer group whose checkpoint belongs to these rows."""
        return f"{self.base_group}{self._suffix}"

    @property
    def _suffix(self) -> str:
        return "" if self.number == 1 else f"-g{self.number}"


@dataclass(frozen=True)
class Pointer:
    """The pointer row as read. Only a `settled` one may be acted on: the store could still take another one back."""

    live: int
    state: str
    epoch: int
    nonce: int
    lease: int
    """Until when `closing` may not be taken back, in milliseconds since 1970."""
    topic_id: str
    history: list[Any]
    settled: bool

    def generation(self, config: Config) -> Generation:
        """The live generation."""
        return Generation(self.live, config.group)


def create_pointer(store: Store, topic_id: str) -> bool:
    """Create the pointer row: generation 1, epoch 1, open. False, and nothing changed, if there is one.

    Create-only under a random nonce; it counts once it is read back settled. Raises `Retryable`.
    """
    nonce = random.SystemRandom().randrange(1, 2**63)
    bins: dict[str, Any] = dict(zip(_BINS, (1, OPEN, 1, nonce, 0, topic_id, []), strict=True))
    operations = [Put(name, value) for name, value in bins.items()]
    write_patiently(store, [Write(POINTER, operations, Presence.ABSENT)])
    pointer = read_pointer(store, 0)
    return pointer is not None and pointer.nonce == nonce


def read_pointer(store: Store, settle_ms: int) -> Pointer | None:
    """The pointer row now, and whether it was last changed at least `settle_ms` ago by the store's clock.

    None if there is none. Raises `Refused` if it is no pointer, and `Retryable`.
    """
    (row,) = patiently(lambda: store.read([Read(POINTER, _BINS, unchanged_ms=settle_ms)]))
    return None if row is None else _parsed(row)


def settled_pointer(store: Store, settle_ms: int, wait_ms: int = 20_000) -> Pointer:
    """The pointer row, read settled; waits for that, `settle_ms` + `wait_ms` at most.

    Raises `Misconfigured` if there is none, `Refused` if it keeps changing, and `Retryable`.
    """
    deadline = time.monotonic() + (settle_ms + wait_ms) / 1000
    while True:
        pointer = read_pointer(store, settle_ms)
        if pointer is None:
            raise Misconfigured("the store holds no pointer row (set projector): run: projector migrate")
        if pointer.settled:
            return pointer
        if time.monotonic() > deadline:
            raise Refused("the pointer row keeps changing: wait until the cutover or rollback under way has ended")
        time.sleep(_POLL_SECONDS)


def _parsed(row: Row) -> Pointer:
    types = (int, str, int, int, int, str, list)
    values = [row.bins.get(name) for name in _BINS]
    for name, value, expected in zip(_BINS, values, types, strict=True):
        if not isinstance(value, expected):
            raise Refused(f"the pointer row (set projector) is damaged: {name} is {value!r}: restore it from a backup")
    live, state, epoch, nonce, lease, topic_id, history = values
    return Pointer(live, state, epoch, nonce, lease, topic_id, history, row.unchanged)  # type: ignore[arg-type]  # checked above
