"""The watchdog ends a process that hangs, and no other."""

import subprocess
import sys

HANG = """
import time
from projector.watchdog import Watchdog
dog = Watchdog({seconds})
dog.start()
{body}
"""


def run(body: str, seconds: float = 0.3) -> "subprocess.CompletedProcess[str]":
    """A process with a watchdog that does this."""
    program = HANG.format(body=body, seconds=seconds)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


def test_a_hang_ends_with_exit_code_7() -> None:
    """The line says what happened, and the traceback where."""
    ended = run("time.sleep(50)")
    assert ended.returncode == 7
    assert "a client call hangs" in ended.stderr
    assert "time.sleep" in ended.stderr or "line" in ended.stderr


def test_beats_keep_it_alive() -> None:
    """However long it runs."""
    assert run("for _ in range(60):\n    dog.beat(); time.sleep(0.02)\ndog.stop()", 1.0).returncode == 0


def test_a_hang_with_the_interpreter_s_lock_ends_by_signal() -> None:
    """No thread of ours can run then; the supervisor starts again after signals too."""
    ended = run("import ctypes; ctypes.PyDLL(None).sleep(50)")
    assert ended.returncode == -14


def test_a_stopped_watchdog_watches_no_longer() -> None:
    """An orderly end may take its time."""
    assert run("dog.stop(); time.sleep(1.5)").returncode == 0
