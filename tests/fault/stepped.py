"""Workers as threads of which one runs at a time, each stopped before every call to the store: any interleaving."""

import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from projector.errors import InDoubt, Retryable
from projector.store import Answer, Limits, Outcome, Read, Row, StoreState, Write
from tests.fault.memory_store import MemoryStore

FAULTS = ("fail before", "fail after", "land late")


class CrashError(BaseException):
    """The worker is killed here."""


class Time:
    """A clock that moves when it is told to; `sleep` is a step like a call to the store."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stepped: Stepped | None = None

    def monotonic(self) -> float:
        """Now."""
        return self.now

    def now_ms(self) -> float:
        """The store's own clock."""
        return self.now * 1000


class Stepped:
    """One worker. `step` lets it run up to its next call; `crash` ends it there."""

    def __init__(self, name: str, body: Callable[["Stepped"], None]) -> None:
        self.name = name
        self.calls = 0
        self.error: BaseException | None = None
        self.fault: str | None = None
        """What the next call meets."""
        self._go = threading.Semaphore(0)
        self._stopped = threading.Semaphore(0)
        self._crashed = False
        self.ended = False
        self._thread = threading.Thread(target=self._run, args=(body,), daemon=True)
        self._thread.start()
        self._stopped.acquire()

    def _run(self, body: Callable[["Stepped"], None]) -> None:
        try:
            self.wait()
            body(self)
        except CrashError:
            pass
        except BaseException as error:
            self.error = error
        finally:
            self.ended = True
            self._stopped.release()

    def wait(self) -> None:
        """Called by the worker: stop until the next step."""
        self._stopped.release()
        self._go.acquire()
        if self._crashed:
            raise CrashError

    def step(self) -> None:
        """Run to the next call, or to the end. Raises what the worker raised."""
        self._go.release()
        self._stopped.acquire()
        if self.error is not None:
            raise self.error

    def crash(self) -> None:
        """End it where it stands."""
        self._crashed = True
        self.step()


class SteppedStore:
    """A `Store` as one worker meets it: a stop before each call, and the fault that its worker was given."""

    def __init__(self, store: MemoryStore, worker: Stepped, late: list[Write]) -> None:
        self._store = store
        self._worker = worker
        self._late = late

    def _stop(self) -> str | None:
        self._worker.wait()
        self._worker.calls += 1
        fault, self._worker.fault = self._worker.fault, None
        return fault

    def write(self, writes: Sequence[Write]) -> list[Answer]:
        """As the port's; a write that lands late is kept in `late`."""
        if not writes:
            return []
        fault = self._stop()
        failed = [Answer(Outcome.FAILED, error=InDoubt(f"{fault}")) for _ in writes]
        match fault:
            case "fail before":
                return failed
            case "fail after":
                self._store.write(writes)
                return failed
            case "land late":
                self._late.extend(writes)
                return failed
        return self._store.write(writes)

    def read(self, reads: Sequence[Read]) -> list[Row | None]:
        """As the port's."""
        if not reads:
            return []
        if self._stop():
            raise Retryable("no answer")
        return self._store.read(reads)

    def state(self) -> StoreState:
        """As the port's."""
        if self._stop():
            raise Retryable("no answer")
        return self._store.state()

    def limits(self) -> Limits:
        """As the port's, without a stop."""
        return self._store.limits()

    def scan(self, set_name: str, bins: Sequence[str], page_rows: int = 500) -> Iterator[list[Row]]:
        """As the port's, without a stop."""
        return self._store.scan(set_name, bins, page_rows)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def choose_fault(choose: random.Random, share: float) -> str | None:
    """A fault, in `share` of the calls."""
    return choose.choice(FAULTS) if choose.random() < share else None
