"""The pointer row: which generation is live, and in which epoch; changed by compare-and-set on its nonce alone.

    open --close--> closing --flip--> open, another generation, epoch + 1
                       |
                       +--take back, reopen--> open, the same generation and epoch

A nonce is random and new at every change, so that no change is ever taken for another one, also where the store has
forgotten some. A change counts once it is read back settled; no acknowledgement does (design section 8).
"""

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from projector.clock import Clock
from projector.config import Config
from projector.errors import Misconfigured, Refused, Retryable, Superseded
from projector.generation import Generation
from projector.patience import Patience, patiently, write_patiently
from projector.store import BinEqual, Presence, Put, Read, Row, RowKey, Store, Write

OPEN = "open"
ROLLBACK = "rollback"
CLOSING = "closing"
POINTER = RowKey("projector", "pointer")
HISTORY_MAX = 50
WAIT_S = 20.0
RECORD_ATTEMPTS = 10
_BINS = ("live", "state", "epoch", "nonce", "lease", "topic-id", "history")
_POLL_S = 0.05


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

    @property
    def closing(self) -> bool:
        """Whether the live generation is being closed: its workers finish and leave."""
        return self.state == CLOSING

    @property
    def previous(self) -> int | None:
        """The generation that was live before this one, rollbacks undone; None if there was none."""
        before: list[int] = []
        for entry in self.entries:
            if entry.before == entry.after:
                continue
            if before and entry.after == before[-1] and entry.what == ROLLBACK:
                before.pop()
            else:
                before.append(entry.before)
        return before[-1] if before else None

    @property
    def entries(self) -> "list[Entry]":
        """The history, oldest first. Raises `Refused` where an entry is damaged."""
        return [Entry.parsed(entry) for entry in self.history]


class Entry(NamedTuple):
    """One line of the history: `who` did `what`, when (ms since 1970) and why, and at which checkpoint."""

    what: str
    who: str
    when: int
    before: int
    """The live generation before it."""
    after: int
    """The live generation after it."""
    epoch: int
    """The epoch after it."""
    why: str = ""
    checkpoint: Mapping[int, int] = {}
    """Next offsets per partition of the generation that was live before."""

    def written(self) -> dict[str, Any]:
        """As it stands in the row."""
        return {
            "what": self.what,
            "who": self.who,
            "when": self.when,
            "from": self.before,
            "to": self.after,
            "epoch": self.epoch,
            "why": self.why,
            "checkpoint": dict(self.checkpoint),
        }

    @classmethod
    def parsed(cls, held: Any) -> "Entry":
        """From the row. Raises `Refused`."""
        names = ("what", "who", "when", "from", "to", "epoch", "why", "checkpoint")
        if not isinstance(held, dict) or not all(name in held for name in names):
            raise Refused(f"the pointer row (set projector) is damaged: its history holds {held!r}")
        return cls(*(held[name] for name in names))


class Closing(NamedTuple):
    """A `closing` of one's own, settled: what a flip, and nothing else, is made from."""

    pointer: Pointer


class PointerRow:
    """The pointer row of a store whose writes settle in `settle_s`. `now_ms`: milliseconds since 1970, for the lease.

    Every call raises `Retryable`, and `Misconfigured` where there is no pointer row.
    """

    def __init__(
        self,
        store: Store,
        settle_s: float,
        *,
        patience: Patience = patiently,
        clock: Clock = time,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._settle_ms = round(settle_s * 1000)
        self._patience = patience
        self._clock = clock
        self.now_ms = now_ms
        self._settled_nonce = 0
        """What stood under it can no longer be forgotten."""

    # --- reading

    def read(self) -> Pointer:
        """The row now. `settled` also says that it does not wait for a device: no crash takes it back."""
        pointer = self._read()
        if pointer.nonce == self._settled_nonce:
            return replace(pointer, settled=True)
        if pointer.settled and self._settle_ms:
            # Flushed by now; the device may not have taken it yet. Read again: the store may have crashed in between.
            drained = self._patience(self._store.state).drained
            self._clock.sleep(self._patience(self._store.limits).writing_ms / 1000)
            again = self._read()
            pointer = replace(again, settled=drained and again.settled and again.nonce == pointer.nonce)
        if pointer.settled:
            self._settled_nonce = pointer.nonce
        return pointer

    def settled(self, wait_s: float = WAIT_S) -> Pointer:
        """The row, read settled; waits for that. Raises `Retryable` if it goes on changing."""
        deadline = self._clock.monotonic() + self._settle_ms / 1000 + wait_s
        while True:
            pointer = self.read()
            if pointer.settled:
                return pointer
            if self._clock.monotonic() > deadline:
                raise Retryable("the pointer row does not settle: it keeps changing, or the store's device is stuck")
            self._clock.sleep(_POLL_S)

    def _read(self) -> Pointer:
        reads = [Read(POINTER, _BINS, unchanged_ms=self._settle_ms)]
        (row,) = self._patience(lambda: self._store.read(reads))
        if row is None:
            raise Misconfigured("the store holds no pointer row (set projector): run: projector migrate")
        return _parsed(row)

    # --- changing; `seen` is the row as read, and any change since then wins

    def close(self, seen: Pointer, lease_s: float, epoch: int | None = None) -> Closing:
        """Close the live generation, for `lease_s` at least; also takes over a `closing` that somebody else left.

        `epoch`: raise it in the same change. Returns once it has settled. Raises `Superseded`.
        """
        lease = self.now_ms() + round(lease_s * 1000)
        changed = replace(seen, state=CLOSING, lease=lease, epoch=seen.epoch if epoch is None else epoch)
        return Closing(self._changed(seen, changed))

    @contextlib.contextmanager
    def closed(self, seen: Pointer, lease_s: float, epoch: int | None = None) -> Iterator[Closing]:
        """`close` for the time of a `with` block, at whose end the same generation is open again, unless it flipped."""
        own = self.close(seen, lease_s, epoch)
        try:
            yield own
        finally:
            # Left in place after a failure here, it would be taken back by a worker once its lease is over.
            with contextlib.suppress(Superseded, Retryable):
                if self._read().nonce == own.pointer.nonce:
                    self.reopen(own)

    def flip(self, own: Closing, entry: Entry) -> Pointer:
        """Make `entry.after` live under the epoch + 1, from one's own `closing` only; returns once that has settled.

        Raises `Superseded` where anybody changed the row since: the lease may have been over.
        """
        closing = own.pointer
        opened = replace(closing, live=entry.after, state=OPEN, epoch=closing.epoch + 1, lease=0)
        return self._changed(closing, _with(opened, entry))

    def reopen(self, own: Closing, entry: Entry | None = None) -> Pointer:
        """Give up one's own `closing`: the same generation goes on. Returns once settled. Raises `Superseded`."""
        opened = replace(own.pointer, state=OPEN, lease=0)
        return self._changed(own.pointer, opened if entry is None else _with(opened, entry))

    def take_back(self, seen: Pointer) -> bool:
        """Open again what an operator left `closing` past its lease: same generation, same epoch, for any worker to do.

        Whether it was tried; what became of it the next read tells.
        """
        if not seen.closing or self.now_ms() <= seen.lease:
            return False
        opened = replace(seen, state=OPEN, lease=0, nonce=_new_nonce())
        self._store.write([_write(seen, opened)])
        return True

    def record(self, entry: Callable[[Pointer], Entry]) -> Pointer:
        """Add to the history and change nothing else, whatever row there is; returns once settled.

        Another's change that comes first stays, and the entry is made for the row after it. Raises `Superseded` if one
        comes first again and again.
        """
        for _ in range(RECORD_ATTEMPTS):
            seen = self.settled()
            with contextlib.suppress(Superseded):
                return self._changed(seen, _with(seen, entry(seen)))
        raise Superseded("the pointer row is changed again and again, so that nothing is added to its history")

    def holds(self, own: Closing) -> bool:
        """Whether one's own `closing` still stands."""
        return self._read().nonce == own.pointer.nonce

    def _changed(self, seen: Pointer, changed: Pointer) -> Pointer:
        """Write until it is read back settled; what is sent again, or lands late, is the identical write."""
        changed = replace(changed, nonce=_new_nonce(), settled=False)
        deadline = self._clock.monotonic() + self._settle_ms / 1000 + WAIT_S
        while self._clock.monotonic() <= deadline:
            self._store.write([_write(seen, changed)])
            pointer = self.read()
            while pointer.nonce == changed.nonce and self._clock.monotonic() <= deadline:
                if pointer.settled:
                    return pointer
                self._clock.sleep(_POLL_S)
                pointer = self.read()
            if pointer.nonce not in (seen.nonce, changed.nonce):
                raise Superseded("another change of the pointer row came first")
            self._clock.sleep(_POLL_S)
        raise Retryable(
            "a change of the pointer row does not settle: the device is stuck, or the store keeps restarting"
        )


def create_pointer(store: Store, topic_id: str) -> bool:
    """Create the pointer row: generation 1, epoch 1, open. False, and nothing changed, if there is one.

    Create-only under a random nonce; it counts once it is read back settled. Raises `Retryable`.
    """
    pointer = Pointer(1, OPEN, 1, _new_nonce(), 0, topic_id, [], settled=False)
    write_patiently(store, [Write(POINTER, _operations(pointer), Presence.ABSENT)])
    found = read_pointer(store, 0)
    return found is not None and found.nonce == pointer.nonce


def read_pointer(store: Store, settle_ms: int) -> Pointer | None:
    """The pointer row now, and whether it was last changed at least `settle_ms` ago by the store's clock.

    For whoever only shows it: a worker or an operator reads it with `PointerRow`. None if there is none. Raises
    `Refused` if it is no pointer, and `Retryable`.
    """
    (row,) = patiently(lambda: store.read([Read(POINTER, _BINS, unchanged_ms=settle_ms)]))
    return None if row is None else _parsed(row)


def _new_nonce() -> int:
    return random.SystemRandom().randrange(1, 2**63)


def _with(pointer: Pointer, entry: Entry) -> Pointer:
    return replace(pointer, history=[*pointer.history, entry.written()][-HISTORY_MAX:])


def _operations(pointer: Pointer) -> Sequence[Put]:
    return [
        Put("live", pointer.live),
        Put("state", pointer.state),
        Put("epoch", pointer.epoch),
        Put("nonce", pointer.nonce),
        Put("lease", pointer.lease),
        Put("topic-id", pointer.topic_id),
        Put("history", pointer.history),
    ]


def _write(seen: Pointer, changed: Pointer) -> Write:
    return Write(POINTER, _operations(changed), conditions=(BinEqual("nonce", seen.nonce),))


def _parsed(row: Row) -> Pointer:
    types = (int, str, int, int, int, str, list)
    values = [row.bins.get(name) for name in _BINS]
    for name, value, expected in zip(_BINS, values, types, strict=True):
        if not isinstance(value, expected):
            raise Refused(f"the pointer row (set projector) is damaged: {name} is {value!r}: restore it from a backup")
    live, state, epoch, nonce, lease, topic_id, history = values
    return Pointer(live, state, epoch, nonce, lease, topic_id, history, row.unchanged)  # type: ignore[arg-type]  # checked above
