"""What a process and its descendants take, from /proc: seconds on a CPU, and memory. Linux only."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
LOOK_S = 1.0
"""How often descendants are looked for and memory is read."""


class Tree:
    """A process with its descendants, as they are found once a second."""

    def __init__(self, pid: int) -> None:
        self.pids = [pid]
        self._peak_mib = 0.0
        self._looked = 0.0
        self._cpu_s = 0.0

    def cpu_s(self) -> float:
        """Seconds on a CPU so far, user and system, with those of children that ended. Never falls."""
        self._look()
        ticks = 0
        for pid in self.pids:
            with suppress(OSError):
                ticks += sum(map(int, _stat(pid)[11:15]))  # utime, stime, cutime, cstime
        self._cpu_s = max(self._cpu_s, ticks / TICKS)
        return self._cpu_s

    @property
    def peak_mib(self) -> float:
        """The most memory that they held so far: the peaks of those that live, added."""
        self._looked = 0.0
        self._look()
        return self._peak_mib

    def kill(self) -> None:
        """SIGKILL to all of them."""
        self._looked = 0.0
        self._look()
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _look(self) -> None:
        if time.monotonic() - self._looked < LOOK_S:
            return
        self._looked = time.monotonic()
        parents: dict[int, int] = {}
        for directory in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                parents[int(directory.name)] = int(_stat(int(directory.name))[1])
        found = self.pids[:1]
        for pid in found:  # grows while it is gone through
            found += [child for child, parent in parents.items() if parent == pid]
        self.pids = found
        self._peak_mib = max(self._peak_mib, sum(map(_peak_kib, found)) / 1024)


def _stat(pid: int) -> list[str]:
    """The fields of /proc/<pid>/stat after the name, which may hold blanks and brackets: state first."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _peak_kib(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0
