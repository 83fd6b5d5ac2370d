"""Several workers under one supervisor, which starts anew those that a watchdog or a signal ended, and adds up."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence

from projector.errors import Fatal, Hung, SlotTaken
from projector.progress import Progress, Sample

BACKOFF_S_MAX = 30.0
LAST_LINES_S = 2.0
STEADY_S = 60.0
TICK_S = 0.1
logger = logging.getLogger(__name__)


class _Worker:
    """One slot: its process, and what the processes before it had done."""

    def __init__(self, slot: str, command: Sequence[str]) -> None:
        self.slot = slot
        self._command = [*command, "--slot", slot]
        self._process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self._sample = Sample(0, 0, 0, 0, 0, None)
        self._before = Sample(0, 0, 0, 0, 0, 0)
        self._started_at = 0.0
        self._failures = 0
        self.start_at: float | None = 0.0
        """When to start it next, in monotonic seconds; None while it runs or has ended for good."""

    @property
    def sample(self) -> Sample:
        return Sample.sum([self._before, self._sample])

    @property
    def running(self) -> bool:
        return self._process is not None

    def start(self) -> None:
        """Start the process; it has a session of its own, so that a Ctrl-C reaches it through the supervisor alone."""
        self.start_at = None
        self._started_at = time.monotonic()
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()

    def ended(self) -> int | None:
        """The exit code, once, of a process that has ended; its last lines are told before."""
        code = self._process.poll() if self._process else None
        if code is not None:
            self._process = None
            if self._listener:
                self._listener.join(LAST_LINES_S)  # bounded: a child of the process may hold the pipe open
            self._before = Sample.sum([self._before, self._sample._replace(lag=0)])
            self._sample = Sample(0, 0, 0, 0, 0, 0)
        return code

    def start_again(self) -> float:
        """Plan the next start; answers the pause in seconds, which grows while it does not last."""
        self._failures = 0 if time.monotonic() - self._started_at > STEADY_S else self._failures + 1
        pause = min(BACKOFF_S_MAX, math.ldexp(0.25, self._failures))
        self.start_at = time.monotonic() + pause
        return pause

    def signal(self, number: int) -> None:
        if self._process:
            self._process.send_signal(number)

    def _listen(self, process: "subprocess.Popen[str]") -> None:
        assert process.stderr
        for line in process.stderr:
            try:
                told = json.loads(line)
                progress = told.get("progress")
            except (ValueError, AttributeError):
                logger.warning("%s: %s", self.slot, line.rstrip())
                continue
            if progress:
                progress.pop("rate")
                self._sample = Sample(**progress)
            else:
                level = logging.getLevelName(str(told.get("level", "info")).upper())
                logger.log(level if isinstance(level, int) else logging.INFO, "%s: %s", self.slot, told.get("message"))


def supervise(
    slots: Sequence[str],
    command: Sequence[str],
    signals: Callable[[], int],
    quiet: bool = False,
    metrics_port: int | None = None,
) -> int:
    """Run one worker process per slot until all have ended; answers the exit code.

    `command` starts a worker, `--slot` is added. `signals` counts the stop signals so far: the first stops all in
    order, the second at once. A worker is started again after the watchdog's exit code and after signals only; slot
    taken ends that worker alone, any other failure ends all, with its code; with 70 after 1, which only Python itself
    ends a worker with, and which would say that a difference was found. `quiet`: the caller shows how they get on.
    `metrics_port`: of the first worker; each has the next one.
    """
    ports = [[] if metrics_port is None else ["--metrics-port", str(metrics_port + n)] for n in range(len(slots))]
    workers = [_Worker(slot, [*command, *port]) for slot, port in zip(slots, ports, strict=True)]
    progress = None if quiet else Progress(lambda: Sample.sum(worker.sample for worker in workers))
    told = 0
    result = 0
    while True:
        while told < min(signals(), 2):
            told += 1
            for worker in workers:
                worker.start_at = None
                worker.signal(signal.SIGTERM)
        for worker in workers:
            if worker.start_at is not None and time.monotonic() >= worker.start_at:
                worker.start()
            code = worker.ended()
            if code is None or code == 0:
                continue
            if told:
                logger.warning("%s: ended with %s while stopping", worker.slot, _how(code))
            elif code < 0 or code == Hung.exit_code:
                logger.warning("%s: %s; starting again in %.1f s", worker.slot, _how(code), worker.start_again())
            else:
                logger.error("%s: %s; not started again", worker.slot, _how(code))
                result = result or (Fatal.exit_code if code == 1 else code)
                if code != SlotTaken.exit_code:
                    told = 1
                    for other in workers:
                        other.start_at = None
                        other.signal(signal.SIGTERM)
        if not any(worker.running or worker.start_at is not None for worker in workers):
            if progress:
                progress.close()
            return result
        if progress:
            progress()
        time.sleep(TICK_S)


def _how(code: int) -> str:
    return f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def worker_command(options: Sequence[str]) -> list[str]:
    """How to start one worker of this program."""
    return [sys.executable, "-m", "projector", "run", "--supervised-by", str(os.getpid()), *options]
