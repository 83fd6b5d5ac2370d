"""`projector ledger`: what each campaign's ledger holds and how it grows; whether it adds up."""

from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from projector.cli.app import AsJson, ConfigFile, Settings, app, configured, console, print_json, progress

if TYPE_CHECKING:
    from projector.footing import Difference, Summary


@app.command("ledger")
def ledger_command(
    campaign: Annotated[int | None, typer.Option(help="Only this campaign.", metavar="ID")] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Read every id and foot each ledger: counts, pages, chain, no id twice. Exit 1 if not."
        ),
    ] = False,
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Show per campaign the ids in `seen`, `sealed` and pages, bytes, age and growth; with --check foot the ledgers.

    Example: [bold]projector ledger --check --campaign 41[/bold]
    """
    from projector.backends import open_store
    from projector.errors import Refused
    from projector.footing import check as foot
    from projector.footing import ids_held, ledgers, summaries
    from projector.reading import live_generation

    config = configured(config_file, settings)
    with closing(open_store(config)) as store:
        generation = live_generation(store, config)
        campaigns = ledgers(store, generation)
        if campaign is not None:
            if campaign not in campaigns:
                raise Refused(f"campaign {campaign} has no ledger: nothing was counted for it yet")
            campaigns = [campaign]
        if check:
            differences: list[Difference] = []
            with progress("ids checked", sum(ids_held(store, generation, each) for each in campaigns)) as advance:
                for each in campaigns:
                    differences += foot(store, generation, each, advance)
            _tell(differences, len(campaigns), as_json)
            raise typer.Exit(1 if differences else 0)
        with progress("campaigns", len(campaigns)) as advance:
            found = []
            for summary in summaries(store, generation, campaigns):
                found.append(summary)
                advance(1)
    if as_json:
        print_json([summary._asdict() for summary in found])
    else:
        _show(found)


def _tell(differences: "list[Difference]", campaigns: int, as_json: bool) -> None:
    if as_json:
        print_json({"campaigns": campaigns, "differences": [difference._asdict() for difference in differences]})
        return
    for difference in differences:
        print(f"campaign {difference.campaign}: {difference.what}")
    print(
        f"{campaigns:,} ledgers checked: {len(differences):,} differences"
        if differences
        else f"{campaigns:,} ledgers foot"
    )


def _show(found: "list[Summary]") -> None:
    from rich.table import Table

    names = "campaign", "seen", "sealed", "archived", "pages", "row bytes", "archive bytes", "first", "last"
    table = Table(*names, "ids/day", "bytes/year")
    for column in table.columns:
        column.justify = "right"
    for row in found:
        table.add_row(
            str(row.campaign),
            *(f"{value:,}" for value in row[1:7]),
            _day(row.first),
            _day(row.last),
            f"{row.ids_per_day:,.0f}",
            f"{row.bytes_per_year:,}",
        )
    console().print(table)


def _day(second: int | None) -> str:
    return "" if second is None else f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d}"
