"""The operator's lease: one rebuild, cutover or rollback at a time. It spares work; the pointer's nonce keeps order."""

import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from projector.clock import Clock
from projector.errors import Refused, Retryable
from projector.patience import Patience, patiently
from projector.store import BinEqual, Condition, Outcome, Presence, Put, Read, RowKey, Store, Write

LEASE = RowKey("projector", "rebuild")
LEASE_S = 120.0
RENEW_SHARE = 0.2
NOBODY = 0
_BINS = ("nonce", "host", "pid", "started", "heartbeat", "what")


class Holder(NamedTuple):
    """Who has the lease. Times in milliseconds since 1970; a `pid` of 0 is nobody."""

    nonce: int
    host: str
    pid: int
    started: int
    heartbeat: int
    what: str


class Lease:
    """The row `rebuild` of the set `projector`: who works at generations, and when it last gave a sign of life.

    Dead is who gave none for `lease_s`, by the store's clock, or whose process has ended on this host.
    """

    def __init__(
        self,
        store: Store,
        what: str,
        *,
        lease_s: float = LEASE_S,
        host: str | None = None,
        pid: int | None = None,
        alive: Callable[[int], bool] | None = None,
        patience: Patience = patiently,
        clock: Clock = time,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._store = store
        self._lease_s = lease_s
        self._alive = alive or _alive
        self._patience = patience
        self._clock = clock
        self._now_ms = now_ms
        nonce = random.SystemRandom().randrange(1, 2**63)
        self._own = Holder(nonce, host or socket.gethostname(), pid or os.getpid(), now_ms(), now_ms(), what)
        self._renewed_at = float("-inf")

    def take(self) -> None:
        """Take it, from nobody or from the dead. Raises `Refused`, which says who has it, and `Retryable`."""
        read = Read(LEASE, _BINS, unchanged_ms=round(self._lease_s * 1000))
        (row,) = self._patience(lambda: self._store.read([read]))
        if row is None:
            self._write(Presence.ABSENT)
        else:
            held = Holder(*(row.bins[name] for name in _BINS))
            if held.nonce != self._own.nonce:
                ended = held.host == self._own.host and (held.pid == self._own.pid or not self._alive(held.pid))
                if held.pid != NOBODY and not row.unchanged and not ended:
                    raise Refused(_taken(held))
                self._write(Presence.PRESENT, BinEqual("nonce", held.nonce))
        found = self.holder()
        if found is None or found.nonce != self._own.nonce:
            raise Refused(_taken(found) if found else "the lease of the rebuild is not to be had: try again")
        self._renewed_at = self._clock.monotonic()

    @contextmanager
    def held(self) -> "Iterator[Lease]":
        """Taken for the time of a `with` block. Raises as `take` does."""
        self.take()
        try:
            yield self
        finally:
            with suppress(Retryable):  # it lapses by itself
                self.release()

    def renew(self) -> None:
        """A sign of life; cheap to call often. Raises `Refused` once somebody else has it, and `Retryable`."""
        if self._clock.monotonic() - self._renewed_at < self._lease_s * RENEW_SHARE:
            return
        self._own = self._own._replace(heartbeat=self._now_ms())
        if self._write(Presence.PRESENT, BinEqual("nonce", self._own.nonce)) is Outcome.APPLIED:
            self._renewed_at = self._clock.monotonic()
        else:
            self.take()  # the store may have forgotten it

    def release(self) -> None:
        """Give it back, if it is still one's own. Raises `Retryable`; then it lapses by itself."""
        own, self._own = self._own, self._own._replace(pid=NOBODY, heartbeat=self._now_ms())
        self._write(Presence.PRESENT, BinEqual("nonce", own.nonce))

    def holder(self) -> Holder | None:
        """Who has it, or had it last; None if nobody ever had. Raises `Retryable`."""
        (row,) = self._patience(lambda: self._store.read([Read(LEASE, _BINS)]))
        return None if row is None else Holder(*(row.bins[name] for name in _BINS))

    def _write(self, presence: Presence, *conditions: Condition) -> Outcome:
        values: dict[str, Any] = self._own._asdict()
        write = Write(LEASE, [Put(name, values[name]) for name in _BINS], presence, conditions)
        (answer,) = self._patience.write(self._store, [write])
        return answer.outcome


def _taken(held: Holder) -> str:
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(held.started / 1000))
    return (
        f"{held.what} is running on {held.host} (process {held.pid}, since {began} UTC): wait until it has ended, "
        "or stop it; a dead one is taken over a while after its last sign of life"
    )


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
