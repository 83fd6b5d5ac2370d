"""The frame of the command line: how it starts, how it ends, and what it prints where."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import projector.cli.app as frame
from projector.errors import (
    Fatal,
    Hung,
    InDoubt,
    LedgerDamaged,
    Misconfigured,
    OffsetsGone,
    ProjectorError,
    Refused,
    Retryable,
    RowTooBig,
    SlotTaken,
    Superseded,
)


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("PROJECTOR_")]:
        monkeypatch.delenv(name)


def projector(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from projector.cli.app import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def end(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], object]:
    """The exit code of a command that raises."""

    def end(error: BaseException) -> object:
        def command() -> None:
            raise error

        monkeypatch.setattr(frame, "app", command)
        with pytest.raises(SystemExit) as ended:
            frame.main()
        return ended.value.code

    return end


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (Fatal, 70),
        (Misconfigured, 2),
        (Refused, 3),
        (LedgerDamaged, 4),
        (OffsetsGone, 5),
        (RowTooBig, 6),
        (Hung, 7),
        (SlotTaken, 8),
    ],
)
def test_an_error_ends_with_its_code_and_one_line(
    kind: type[ProjectorError], code: int, end: Callable[[BaseException], object], capsys: pytest.CaptureFixture[str]
) -> None:
    """One line on standard error, whatever the error's text, and nothing on standard output."""
    assert end(kind("first\n  second")) == code
    assert capsys.readouterr() == ("", "error: first second\n")


@pytest.mark.parametrize("kind", [Retryable, InDoubt])
def test_what_cannot_be_reached_ends_with_2(
    kind: type[ProjectorError], end: Callable[[BaseException], object], capsys: pytest.CaptureFixture[str]
) -> None:
    """A retryable error that nobody retried is a server that is not there."""
    assert end(kind("127.0.0.1:9: refused")) == 2
    words = capsys.readouterr().err
    assert words.startswith("error: cannot reach the log or the store: 127.0.0.1:9: refused; ")
    assert words.count("\n") == 1


def test_what_another_came_before_ends_with_3(
    end: Callable[[BaseException], object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused by the state of things, with the way out in one line."""
    assert end(Superseded("another change of the pointer row came first")) == 3
    words = capsys.readouterr().err
    assert words.startswith("error: another change of the pointer row came first: ")
    assert "projector generations" in words
    assert "again" in words
    assert words.count("\n") == 1


def test_an_interrupt_ends_with_130(end: Callable[[BaseException], object], capsys: pytest.CaptureFixture[str]) -> None:
    """Quietly."""
    assert end(KeyboardInterrupt()) == 130
    assert capsys.readouterr() == ("", "")


def test_a_fault_of_ours_is_not_hidden(
    end: Callable[[BaseException], object], capsys: pytest.CaptureFixture[str]
) -> None:
    """Only errors raised on purpose become one line: a bug keeps its traceback. 1 would be a difference."""
    assert end(ZeroDivisionError("by\x1b[2J\n nothing")) == 70
    out, words = capsys.readouterr()
    assert out == ""
    first, *_, last = words.splitlines()
    assert first == "Traceback (most recent call last):"
    assert "in command\n" in words
    assert last.startswith("error: a fault of the projector itself: ZeroDivisionError: by")
    assert "\x1b" not in words


def test_a_command_that_breaks_ends_with_70() -> None:
    """Through the whole of the command line's own handling of errors."""
    break_it = "import projector.config as c; c.load = lambda *_: {}[1]; from projector.cli.app import main; main()"
    command = [sys.executable, "-c", break_it, "config"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (70, "")
    assert ended.stderr.startswith("Traceback (most recent call last):\n")
    assert ended.stderr.splitlines()[-1].startswith("error: a fault of the projector itself: KeyError: 1;")


@pytest.mark.parametrize("arguments", [["--nonsense"], ["nonsense"], ["config", "--nonsense"], ["config", "extra"]])
def test_wrong_usage_ends_with_2(arguments: list[str]) -> None:
    """Nothing on standard output, the reason on standard error."""
    ended = projector(*arguments)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "Usage: " in ended.stderr


def test_a_wrong_setting_ends_with_2() -> None:
    """From the flag to the process's end: one line."""
    ended = projector("config", "--set", "batch_ms=0")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == "error: flag: batch_ms is '0'; give a whole number from 1 to 60000\n"


def test_a_setting_without_a_value_is_refused() -> None:
    """`--set name` is no setting."""
    assert projector("config", "--set", "batch_ms").stderr == (
        "error: --set batch_ms: no value; write --set NAME=VALUE\n"
    )


def test_version_and_help() -> None:
    """Both end with 0; without a command the help is shown, and the code is that of wrong usage."""
    assert projector("--version").stdout.startswith("projector 0.")
    assert "config" in projector("--help").stdout
    assert projector().returncode == 2


CLIENTS = ("confluent_kafka", "aerospike", "sqlite3")
HEAVY = ("duckdb", "pyarrow", "numpy", "cryptography", "jinja2", "prometheus_client", "msgspec", "orjson", "tenacity")
SETTINGS = ("pydantic_settings", "projector.config")


@pytest.mark.parametrize(
    ("words", "spared"),
    [
        (["--help"], (*CLIENTS, *HEAVY, *SETTINGS, "pydantic", "email")),
        (["--version"], (*CLIENTS, *HEAVY, *SETTINGS, "pydantic", "rich")),
        # typer itself asks pydantic about the options of a command
        (["run", "--help"], (*CLIENTS, *HEAVY, *SETTINGS)),
        (["audit", "--help"], (*CLIENTS, *HEAVY, *SETTINGS)),
        (["rebuild", "--help"], (*CLIENTS, *HEAVY, *SETTINGS)),
        (["config"], (*CLIENTS, *HEAVY)),
    ],
    ids=["help", "version", "run", "audit", "rebuild", "config"],
)
def test_what_is_not_used_is_not_imported(words: list[str], spared: tuple[str, ...]) -> None:
    """Help and completion come at once: clients, settings and large libraries are imported where they are used."""
    program = (
        f"import sys\nfrom projector.cli.app import main\nsys.argv = ['projector', *{words}]\n"
        f"try:\n    main()\nfinally:\n    print([m for m in {spared} if m in sys.modules], file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stderr == "[]\n"


def test_texts_of_others_in_an_error_steer_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An id or a tag in it comes from outside."""

    def fails() -> None:
        raise Refused("foreign: \x1b]0;title\x07")

    monkeypatch.setattr(frame, "app", fails)
    with pytest.raises(SystemExit):
        frame.main()
    assert capsys.readouterr().err == "error: foreign: \\x1b]0;title\\x07\n"


def test_a_moment_past_all_calendars() -> None:
    """A record may bring any timestamp."""
    assert frame.moment(1_767_225_600_000) == "2026-01-01 00:00:00Z"
    assert frame.moment(1 << 62) == f"{1 << 62} ms"
    assert frame.moment(-1) == "none"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_goes_away_is_not_an_error(monkeypatch: pytest.MonkeyPatch, unbuffered: str) -> None:
    """`projector config | head -0` prints no traceback, whether the pipe breaks in the command or at the end.

    Nor does it end with 1, which is a difference.
    """
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    command = [sys.executable, "-c", "from projector.cli.app import main; main()", "config", "--json"]
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_config_as_json_names_value_and_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    """For machines: one document, secrets hidden."""
    monkeypatch.setenv("PROJECTOR_KAFKA_SASL_PASSWORD", "hunter2")
    ended = projector("config", "--json", "--set", "batch_ms=50")
    held: dict[str, dict[str, Any]] = json.loads(ended.stdout)
    assert held["batch_ms"] == {"value": 50, "origin": "flag"}
    assert held["kafka.sasl.password"] == {"value": "***", "origin": "environment"}
    assert held["group"]["origin"] == "default"


def test_config_as_a_table_hides_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """For people: every setting on its own line."""
    monkeypatch.setenv("PROJECTOR_AEROSPIKE_PASSWORD", "hunter2")
    printed = projector("config").stdout
    assert "hunter2" not in printed
    assert "***" in printed
    assert "batch_records" in printed


def test_flags_that_are_not_given_leave_the_lower_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is "not given"; a flag of its own wins over --set."""
    monkeypatch.setenv("PROJECTOR_BATCH_MS", "2")
    assert frame.configured(None, batch_ms=None).batch_ms == 2
    assert frame.configured(None, ["batch_ms=3"], batch_ms=None).batch_ms == 3
    assert frame.configured(None, ["batch_ms=3"], batch_ms=4).batch_ms == 4


def test_json_is_one_line_of_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Paths become text, other alphabets stay readable."""
    frame.print_json({"b": "ü", "a": Path("x")})
    assert capsys.readouterr().out == '{"b": "ü", "a": "x"}\n'


def test_progress_is_plain_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On standard error, at most a line every 10 s, and one at the end with what was done."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with frame.progress("rows", 2_000) as advance:
        for _ in range(21):
            now += 1.0
            advance(50)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["rows: 500 of 2,000", "rows: 1,000 of 2,000", "rows: 1,050 of 2,000"]
