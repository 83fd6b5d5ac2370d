"""The supervisor: which ends of a worker start it again, which end all. Its workers here are small scripts."""

import sys
from pathlib import Path

import pytest

from projector import supervisor

STARTED = "import sys, pathlib; p = pathlib.Path(sys.argv[1]) / sys.argv[3]; p.write_text(p.read_text() + 'x' if p.exists() else 'x')"  # noqa: E501  # a program in one line
WAIT = "; import time; time.sleep(60)"


def supervise(program: str, folder: Path, slots: tuple[str, ...] = ("a", "b"), stops: int = 0) -> tuple[int, list[int]]:
    """The exit code, and how often each slot was started."""
    command = [sys.executable, "-c", f"{STARTED}\n{program}", str(folder)]
    code = supervisor.supervise(slots, command, lambda: stops)
    return code, [len((folder / slot).read_text()) if (folder / slot).exists() else 0 for slot in slots]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "BACKOFF_S_MAX", 0.01)


def test_all_end_well(tmp_path: Path) -> None:
    """Exit code 0, each started once."""
    assert supervise("", tmp_path) == (0, [1, 1])


def test_a_hang_starts_it_again(tmp_path: Path) -> None:
    """After the watchdog's code, that worker alone."""
    assert supervise("sys.exit(7 if sys.argv[3] == 'a' and p.read_text() == 'x' else 0)", tmp_path) == (0, [2, 1])


def test_a_signal_starts_it_again(tmp_path: Path) -> None:
    """kill -9 is no reason to stop counting."""
    program = "import os\nif sys.argv[3] == 'b' and len(p.read_text()) < 3: os.kill(os.getpid(), 9)"
    assert supervise(program, tmp_path) == (0, [1, 3])


def test_a_slot_that_is_taken_ends_that_worker_alone(tmp_path: Path) -> None:
    """The others go on, and the code tells."""
    assert supervise("sys.exit(8 if sys.argv[3] == 'a' else 0)", tmp_path) == (8, [1, 1])


def test_each_worker_serves_its_metrics_at_the_next_port(tmp_path: Path) -> None:
    """The first at the one that was given; none has the option where none was given."""
    program = "import sys, pathlib; (pathlib.Path(sys.argv[1]) / sys.argv[-1]).write_text(' '.join(sys.argv[2:-2]))"
    command = [sys.executable, "-c", program, str(tmp_path)]
    said = []
    for port in (9_000, None):
        assert supervisor.supervise(("a", "b"), command, lambda: 0, metrics_port=port) == 0
        said.append([(tmp_path / slot).read_text() for slot in ("a", "b")])
    assert said == [["--metrics-port 9000", "--metrics-port 9001"], ["", ""]]


@pytest.mark.parametrize("code", [2, 3, 4, 5, 6, 70])
def test_any_other_failure_ends_all(tmp_path: Path, code: int) -> None:
    """With its code; nobody is started again."""
    assert supervise(f"sys.exit({code}) if sys.argv[3] == 'a' else None{WAIT}", tmp_path)[0] == code
    assert (tmp_path / "a").read_text() == "x"


@pytest.mark.parametrize("program", ["raise ZeroDivisionError", "sys.exit(1)"])
def test_a_worker_that_python_itself_ends_is_no_difference(tmp_path: Path, program: str) -> None:
    """As one that breaks before its own frame stands: 70, and all end."""
    assert supervise(f"if sys.argv[3] == 'a': {program}{WAIT}", tmp_path)[0] == 70
    assert (tmp_path / "a").read_text() == "x"


def test_a_worker_with_a_fault_ends_all_with_70(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Through the command line's own frame; its traceback is in the supervisor's log."""
    caplog.set_level("WARNING", "projector")
    broken = "import projector.config as c; c.load = lambda *_: {}[1]"
    program = f"{broken}\nsys.argv[1:] = ['run', '--slot', sys.argv[3]]\nfrom projector.cli.app import main\nmain()"
    assert supervise(program, tmp_path, ("a",)) == (70, [1])
    assert "a: error: a fault of the projector itself: KeyError: 1;" in caplog.text
    assert "a: Traceback (most recent call last):" in caplog.text
