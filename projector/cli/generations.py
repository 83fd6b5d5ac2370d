"""`projector generations`, `abandon` and `rewind`: the builds of the projection."""

import getpass
import sys
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from projector.cli.app import AsJson, ConfigFile, Settings, app, configured, console, print_json, progress
from projector.errors import Refused

if TYPE_CHECKING:
    from projector.generations import Standing
    from projector.pointer import Pointer

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Number = Annotated[int, typer.Argument(min=1, metavar="NUMBER", help="See: projector generations.")]


def who() -> str:
    """The operator, as the history names one."""
    return getpass.getuser()


def confirmed(question: str, yes: bool) -> None:
    """Go on only if the operator says so. Raises `Refused`."""
    try:
        if yes or typer.confirm(question, err=True):
            return
    except typer.Abort:
        print(file=sys.stderr)
    raise Refused("not confirmed: nothing was done (--yes does not ask)")


@app.command("generations", epilog="Example: [bold]projector generations[/bold]")
def generations_command(config_file: ConfigFile = None, settings: Settings = None, as_json: AsJson = False) -> None:
    """List the generations: state, ids, totals, checkpoint, when built and by which version; and the history."""
    from projector.backends import open_log, open_store
    from projector.generations import standings
    from projector.pointer import read_pointer

    config = configured(config_file, settings)
    with closing(open_log(config)) as log, closing(open_store(config)) as store:
        found = standings(log, store, config)
        pointer = read_pointer(store, 0)
    if as_json:
        print_json(_document(found, pointer))
    else:
        _print(found, pointer)


def _document(found: "list[Standing]", pointer: "Pointer | None") -> dict[str, object]:
    return {
        "live": pointer.live if pointer else None,
        "state": pointer.state if pointer else None,
        "epoch": pointer.epoch if pointer else None,
        "generations": [
            {
                "number": each.build.number,
                "state": each.build.state.value,
                "ids": each.ids,
                "totals": dict(each.totals),
                "checkpoint": {str(partition): offset for partition, offset in sorted(each.checkpoint.items())},
                "created": when(each.build.created_ms),
                "built": when(each.build.built_ms),
                "version": each.build.version,
                "campaigns": each.build.campaigns,
                "until": each.build.until,
            }
            for each in found
        ],
        "history": [entry.written() for entry in pointer.entries] if pointer else [],
    }


def _print(found: "list[Standing]", pointer: "Pointer | None") -> None:
    from rich.table import Table

    table = Table("generation", "state", "ids", "totals", "checkpoint", "built", "version")
    table.columns[2].justify = "right"
    for each in found:
        build = each.build
        totals = ", ".join(f"{kpi} {total:,}" for kpi, total in each.totals.items() if total)
        cells = (str(build.number), build.state.value, f"{each.ids:,}", totals, offsets(each.checkpoint))
        table.add_row(*cells, when(build.built_ms) or "", build.version)
    out = console()
    out.print(table)
    if pointer is None:
        return
    out.print(f"live: generation {pointer.live}, {pointer.state}, epoch {pointer.epoch}")
    for entry in pointer.entries[-10:]:
        line = f"{when(entry.when)}  {entry.what}  {entry.before} -> {entry.after}, epoch {entry.epoch}, by {entry.who}"
        out.print(f"{line}: {entry.why}" if entry.why else line, soft_wrap=True, markup=False)


def when(ms: int | None) -> str | None:
    """A time as text, UTC."""
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def offsets(of: Mapping[int, int]) -> str:
    """Offsets by partition as text."""
    return " ".join(f"{partition}:{offset}" for partition, offset in sorted(of.items()))


@app.command(epilog="Example: [bold]projector abandon 2[/bold]")
def abandon(
    number: Number,
    yes: Yes = False,
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Drop a generation that is not live: its rows, pages and checkpoints. Its number is never used again.

    Killed, the same command goes on where it was.
    """
    from projector.abandonment import abandon as drop
    from projector.backends import open_log, open_store
    from projector.generations import read, totals
    from projector.lease import Lease
    from projector.pointer import Entry, PointerRow
    from projector.settling import settle_seconds

    config = configured(config_file, settings)
    with closing(open_log(config)) as log, closing(open_store(config)) as store:
        build = read(store, number)
        ids = sum(totals(store, build.generation(config)).values())
        confirmed(f"Drop generation {number} ({build.state.value}) with {ids:,} ids, for ever?", yes)
        dropped = 0
        with Lease(store, f"abandon {number}").held() as lease, progress(f"rows of generation {number}", None) as shown:

            def advance(rows: int) -> None:
                nonlocal dropped
                dropped += rows
                shown(rows)
                lease.renew()

            drop(log, store, config, number, advance)
            row = PointerRow(store, settle_seconds(store, config.settle_ms, config.allow_volatile_store))
            row.record(lambda at: Entry(f"abandon {number}", who(), row.now_ms(), at.live, at.live, at.epoch))
    if as_json:
        print_json({"number": number, "state": "abandoned", "ids": ids, "rows": dropped})
    else:
        print(f"generation {number} is abandoned: {dropped:,} rows dropped")


@app.command(epilog='Example: [bold]projector rewind --reason "the store was restored from a backup"[/bold]')
def rewind(
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the pointer's history.", metavar="TEXT")] = "",
    yes: Yes = False,
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Let the live generation read its topic again from the beginning. All workers must be stopped.

    The ledger holds back what it has counted, and a store that lost rows is healed. Every total is published again.
    """
    from projector.backends import open_log, open_store
    from projector.lease import Lease
    from projector.pointer import PointerRow
    from projector.rewind import rewind as start_over
    from projector.settling import settle_seconds

    config = configured(config_file, settings)
    with closing(open_log(config)) as log, closing(open_store(config)) as store:
        row = PointerRow(store, settle_seconds(store, config.settle_ms, config.allow_volatile_store))
        live = row.settled().live
        confirmed(f"Read topic {config.input_topic} again from offset 0 for generation {live}?", yes)
        with Lease(store, "a rewind").held():
            rewound = start_over(row, log, store, config, who=who(), why=reason)
    if as_json:
        print_json({"live": live, "epoch": rewound.pointer.epoch, "before": rewound.before})
    else:
        print(
            f"generation {live} starts again at 0, epoch {rewound.pointer.epoch} (it was at {offsets(rewound.before)})"
        )
        print("next: projector run")
