"""The watchdog: a client call that never comes back ends the process, so that its supervisor can start it anew."""

import faulthandler
import os
import signal
import sys
import threading
import time

from projector.errors import Hung


class Watchdog:
    """Ends the process with exit code 7 when `beat` was not called for `seconds`.

    A call that hangs while it holds the interpreter's lock is ended by SIGALRM, twice as late.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._beaten_at = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self) -> None:
        """Begin to watch."""
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        self._thread.start()
        self.beat()

    def beat(self) -> None:
        """The loop is alive."""
        self._beaten_at = time.monotonic()
        if self._thread.is_alive():
            signal.setitimer(signal.ITIMER_REAL, 2 * self._seconds)

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _watch(self) -> None:
        while not self._stopped.wait(min(1.0, self._seconds / 4)):
            silent_s = time.monotonic() - self._beaten_at
            if silent_s > self._seconds:
                print(f"error: a client call hangs since {silent_s:.0f} s: ended by the watchdog", file=sys.stderr)
                faulthandler.dump_traceback(file=sys.stderr)
                sys.stderr.flush()
                os._exit(Hung.exit_code)
