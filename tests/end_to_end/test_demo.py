"""The demo: what a new user sees first."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DEMO = Path(__file__).parents[2] / "demo" / "demo.py"


@pytest.mark.parametrize("events", [20_000, pytest.param(200_000, marks=pytest.mark.long)])
def test_the_demo_is_exact_through_three_kills(tmp_path: Path, events: int) -> None:
    """It kills three times while it counts, compares everything with the truth, says so and ends with 0."""
    done = _play(tmp_path / "data", "--events", str(events))
    assert done.returncode == 0, done.stdout + done.stderr
    assert [f"kill -9 {number}" in done.stdout for number in (1, 2, 3)] == [True] * 3
    assert f"{events:,} events in 100 campaigns: every cell is the truth" in done.stdout
    assert "the balance holds" in done.stdout
    assert "every verdict is the truth" in done.stdout
    assert "every one equals its row" in done.stdout
    assert "Exact, through 3 kills" in done.stdout


def test_a_demo_touches_no_directory_but_its_own(tmp_path: Path) -> None:
    """A directory that holds something else is left alone."""
    kept = tmp_path / "projector.toml"
    kept.write_text("mine")
    done = _play(tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: {tmp_path} is not a demo's: name another one with --directory\n"
    assert kept.read_text() == "mine"


def test_real_backends_that_are_not_there_end_the_demo(tmp_path: Path) -> None:
    """One line that names the address, and 2."""
    done = _play(tmp_path / "data", DEMO_BACKEND="real", DEMO_KAFKA="127.0.0.1:1", DEMO_AEROSPIKE="127.0.0.1:1")
    assert done.returncode == 2
    assert "127.0.0.1:1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def _play(directory: Path, *arguments: str, **variables: str) -> "subprocess.CompletedProcess[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DEMO_")}
    return subprocess.run(
        [sys.executable, str(DEMO), "--directory", str(directory), *arguments],
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
