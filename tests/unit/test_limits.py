"""What an operator may write after --until and --accept-differences, and what is refused before anything is done."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from projector.backends.embedded_log import EmbeddedLog
from projector.cli.app import app
from projector.cli.limits import limits_of
from projector.errors import Refused
from projector.log import Message

MINUTE_MS = 60_000


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    """Two partitions with a record each minute, from 1970 on: three in the first, one in the second."""
    made = EmbeddedLog(tmp_path / "log.db")
    made.create_topic("in", 2, {})
    made.append([Message("in", None, b"{}", (), 0, minute * MINUTE_MS) for minute in range(3)])
    made.append([Message("in", None, b"{}", (), 1, 0)])
    yield made
    made.close()


def test_offsets_and_times(log: EmbeddedLog) -> None:
    """A partition that is not named is left out; at a time, the first offset that is not before it."""
    assert limits_of(log, "in", "0:2") == {0: 2}
    assert limits_of(log, "in", "1:0,0:3") == {0: 3, 1: 0}
    assert limits_of(log, "in", "1970-01-01T00:01:00Z") == {0: 1, 1: 1}
    assert limits_of(log, "in", "1970-01-01T02:01:00+02:00") == {0: 1, 1: 1}


@pytest.mark.parametrize(
    ("until", "named"),
    [
        ("0:1,0:2", "named twice"),
        ("2:1", "topic in has no partition 2"),
        ("-1:1", "topic in has no partition -1"),
        ("0:-1", "0 or more"),
        ("0:1,", "neither offsets"),
        ("soon", "neither offsets"),
        ("1970-01-01T00:01:00", "no time zone"),
    ],
)
def test_limits_that_mean_nothing(log: EmbeddedLog, until: str, named: str) -> None:
    """Wrong usage, and it says which."""
    with pytest.raises(typer.BadParameter, match=named):
        limits_of(log, "in", until)


def test_a_time_that_has_not_come(log: EmbeddedLog) -> None:
    """What is to be read is not there yet: another run would read more."""
    with pytest.raises(Refused, match="future"):
        limits_of(log, "in", (datetime.now(UTC) + timedelta(hours=1)).isoformat())


@pytest.mark.parametrize("command", [["rebuild"], ["cutover", "2"], ["rollback"]])
@pytest.mark.parametrize("reason", ["", "  "])
def test_a_reason_that_says_nothing(command: list[str], reason: str) -> None:
    """Wrong usage: whoever reads the history later has nothing else."""
    ended = CliRunner().invoke(app, [*command, "--yes", "--accept-differences", reason])
    assert ended.exit_code == 2
    assert "say why" in ended.stderr
