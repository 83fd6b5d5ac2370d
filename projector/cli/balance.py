"""`projector balance`: the committed totals against the rows."""

import time
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from projector.cli.app import AsJson, ConfigFile, Settings, app, configured, console, print_json

if TYPE_CHECKING:
    from projector.balance import Balance

PAUSE_S = 0.25


@app.command(epilog="Example: [bold]projector balance --json[/bold]")
def balance(
    wait_s: Annotated[
        float, typer.Option("--wait", min=0, help="Seconds to wait for live workers to commit what they applied.")
    ] = 5.0,
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Compare what was committed as counted with what the campaign rows hold; exit 1 where they differ.

    At rest both sides are equal. While workers count, the rows may be ahead of the committed totals, never behind.
    """
    from projector.backends import open_log, open_store
    from projector.balance import read_balance
    from projector.reading import live_generation

    config = configured(config_file, settings)
    with closing(open_log(config)) as log, closing(open_store(config)) as store:
        generation = live_generation(store, config)
        deadline = time.monotonic() + wait_s
        while True:
            found = read_balance(log, store, config, generation)
            if found.holds or not found.workers or time.monotonic() > deadline:
                break
            time.sleep(PAUSE_S)
    if as_json:
        print_json(_document(found))
    else:
        _print(found)
    if not found.holds:
        raise typer.Exit(1)


def _document(found: "Balance") -> dict[str, object]:
    return {
        "holds": found.holds,
        "in_motion": found.in_motion,
        "committed": found.sum._asdict(),
        "rows": found.rows,
        "difference": found.difference,
        "unknown_partitions": found.unknown,
        "lag": found.lag,
        "workers": found.workers,
        "partitions": {
            str(partition): {"offset": found.offsets[partition], **(totals._asdict() if totals else {"unknown": True})}
            for partition, totals in sorted(found.totals.items())
        },
    }


def _print(found: "Balance") -> None:
    from rich.table import Table

    table = Table("", "offset", "consumed", "counted", "duplicate", "parked", "rejected", "carried")
    for column in table.columns:
        column.justify = "right"
    for partition, totals in sorted(found.totals.items()):
        cells = [f"{value:,}" for value in totals] if totals else ["unknown"] * 6
        table.add_row(str(partition), f"{found.offsets[partition]:,}", *cells)
    table.add_section()
    table.add_row("all", "", *(f"{value:,}" for value in found.sum))
    out = console()
    out.print(table)
    out.print(f"committed: counted + carried  {found.sum.counted + found.sum.carried:>15,}")
    out.print(f"rows: stats - opening         {found.rows:>15,}")
    if found.unknown:
        out.print(f"unknown: partitions {found.unknown}: another tool moved their offsets")
    elif found.holds and found.difference:
        out.print(f"in motion: {found.difference:,} applied and not yet committed, lag {found.lag:,}")
    elif found.holds:
        out.print("the balance holds")
    elif found.difference < 0:
        out.print(f"DIFFERENCE: {-found.difference:,} counted events are missing in the rows: the store has forgotten")
    elif found.difference > 0:
        out.print(f"DIFFERENCE: the rows hold {found.difference:,} more than was committed as counted")
    else:
        out.print("DIFFERENCE: records without a verdict, see the partitions above")
