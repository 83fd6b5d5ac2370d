"""The command line's frame: the app that commands register on, the options they share, how errors end the process."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from projector.errors import Fatal, Misconfigured, ProjectorError, Refused, Retryable, Superseded
from projector.printable import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from projector.config import Config

PROGRESS_SECONDS = 10
PIPED_COLUMNS = 200
READER_GONE = 128 + 13
"""As of one whom SIGPIPE ends: 1 would say that a difference was found."""

app = typer.Typer(
    name="projector",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Counts ad events exactly once: Kafka in, campaign KPIs in Aerospike, new totals out to Kafka.",
    epilog="Start with [bold]projector migrate[/bold], then [bold]projector run[/bold].",
)

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="Settings file. Default: PROJECTOR_CONFIG, else projector.toml in the working directory, if there.",
        metavar="FILE",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        help="Override a setting. Repeatable: --set batch_ms=50 --set kafka.bootstrap.servers=host:9092",
        metavar="NAME=VALUE",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def configured(config_file: Path | None, settings: list[str] | None = None, **flags: Any) -> "Config":
    """The settings in force: `settings` from `--set`, then `flags` by setting name; a flag that is None is not given.

    Raises `Misconfigured`.
    """
    from projector.config import load

    given: dict[str, Any] = {}
    for setting in settings or []:
        name, equals, value = setting.partition("=")
        if not equals:
            raise Misconfigured(f"--set {name}: no value; write --set NAME=VALUE")
        given[name.strip()] = value
    given.update({name: value for name, value in flags.items() if value is not None})
    return load(config_file, given)


def print_json(obj: Any) -> None:
    """Print `obj` on standard output: one JSON document on one line, keys as given, text as it is."""
    sys.stdout.write(json.dumps(obj, ensure_ascii=False, default=str) + "\n")


def console() -> "Console":
    """Where tables are printed: as wide as the terminal, or wide enough for all columns where there is none."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPED_COLUMNS)


def plain_table(*columns: str, text: tuple[str, ...] = ()) -> "Table":
    """A table: the first column, `name` and those in `text` to the left, figures to the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        left = number == 0 or column == "name" or column in text
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    return table


def moment(ms: int) -> str:
    """A Kafka timestamp as text, UTC; "none" for -1."""
    try:
        return "none" if ms < 0 else f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms"  # past the year 9999


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Show how a long command gets on, on stderr; yields `advance(n)`, to be called with what was done since.

    `total` None: not known.

    A bar on a terminal; elsewhere plain lines, at most one every 10 s, and one at the end.
    """
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task(description, total=total)
            yield lambda amount: bar.advance(task, amount)
        return

    done, told = 0, time.monotonic()
    whole = "" if total is None else f" of {total:,}"

    def advance(amount: int) -> None:
        nonlocal done, told
        done += amount
        if time.monotonic() - told >= PROGRESS_SECONDS:
            told = time.monotonic()
            print(f"{description}: {done:,}{whole}", file=sys.stderr, flush=True)

    yield advance
    print(f"{description}: {done:,}{whole}", file=sys.stderr, flush=True)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"projector {version('projector')}")
        raise typer.Exit


@app.callback()
def _projector(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line and end the process.

    0, the error's exit code, 2 for usage, 70 for an error that nobody foresaw, 130 when interrupted.
    """
    code: str | int | None = 0
    try:
        app()
    except SystemExit as end:
        code = READER_GONE if isinstance(end.__context__, BrokenPipeError) else end.code
    except KeyboardInterrupt:
        code = 130
    except ProjectorError as error:
        code = _told(error)
    except Exception as error:
        code = _confessed(error)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has gone. Without this the interpreter would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = code or READER_GONE
    sys.exit(code)


def _told(error: ProjectorError) -> int:
    """Print the error as one line; its exit code."""
    text = " ".join(str(error).split())
    code = error.exit_code if isinstance(error, Fatal) else Misconfigured.exit_code
    if isinstance(error, Retryable):
        text = f"cannot reach the log or the store: {text}; check that it runs, and its address with 'projector config'"
    elif isinstance(error, Superseded):
        text = f"{text}: see what with 'projector generations', then run the same command again"
        code = Refused.exit_code
    print(f"error: {printable(text)}", file=sys.stderr)
    return code


def _confessed(error: Exception) -> int:
    """Print the traceback of an error that nobody foresaw, and one line; its exit code."""
    lines = "".join(traceback.format_exception(error))
    text = " ".join(f"{type(error).__name__}: {error}".split())
    print(printable(lines, "\n\t"), end="", file=sys.stderr)
    print(
        f"error: a fault of the projector itself: {printable(text)}; please report it with the lines above",
        file=sys.stderr,
    )
    return Fatal.exit_code
