"""`projector migrate` and `projector seed`: what must be there before the first event."""

import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from projector.cli.app import AsJson, ConfigFile, Settings, app, configured, print_json, progress
from projector.reference import CAMPAIGNS, TAGS

PIPED_COLUMNS = 160

if TYPE_CHECKING:
    from projector.adoption import Adoption
    from projector.migrate import Standing
    from projector.topics import Difference


@app.command("migrate")
def migrate_command(
    status: Annotated[bool, typer.Option("--status", help="Show where each migration stands; change nothing.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done; change nothing.")] = False,
    adopt: Annotated[
        bool,
        typer.Option("--adopt", help="Also give campaigns that others counted a ledger, their counts as its opening."),
    ] = False,
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Create topics, index and pointer row: the numbered migrations, in order, each once.

    A topic that is there is never changed: one that would lose records is named, and nothing is done (exit 3).

    Example: [bold]projector migrate --dry-run[/bold], then [bold]projector migrate[/bold]
    """
    from projector.adoption import REGISTRY, adoptable
    from projector.adoption import adopt as adopt_rows
    from projector.backends import open_log, open_store
    from projector.migrate import migrate, standings
    from projector.patience import patiently
    from projector.topics import Weight, check_topics

    config = configured(config_file, settings)
    with closing(open_log(config)) as log, closing(open_store(config)) as store:
        differences = [d for d in patiently(lambda: check_topics(log, config)) if d.weight is not Weight.MISSING]
        wrong = any(difference.weight is Weight.WRONG for difference in differences)
        adopted: list[Adoption] = []
        if not (status or dry_run or wrong):
            for migration in migrate(log, store, config):
                if not as_json:
                    print(f"applied {migration.number} {migration.name}: {migration.title}", flush=True)
            if adopt:
                for row in adopt_rows(store, REGISTRY):
                    adopted.append(row)
                    if not as_json:
                        print(f"adopted {_adoption_line(row)}", flush=True)
        elif adopt:
            adopted = adoptable(store, REGISTRY)
        found = patiently(lambda: standings(log, store, config))
    if as_json:
        print_json(_report(found, differences, adopted))
    elif status:
        _print_standings(found)
    if dry_run and not as_json:
        _print_dry_run(found, adopted)
    for difference in differences:
        kind = "error" if difference.weight is Weight.WRONG else "warning"
        print(f"{kind}: {difference}", file=sys.stderr)
    if wrong and not status:
        raise typer.Exit(3)
    if not (as_json or status or dry_run):
        print(f"{len(found)} migrations, all applied" + (f", {len(adopted)} campaigns adopted" if adopt else ""))


@app.command("seed")
def seed_command(
    campaigns: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many campaigns.")] = CAMPAIGNS,
    tags: Annotated[int, typer.Option(min=1, max=1_000_000, help="How many tags for each campaign.")] = TAGS,
    seed: Annotated[int, typer.Option(help="Other numbers give other tags.")] = 1,
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Create the reference data set; doing it twice changes nothing, a half-done one is completed.

    Example: [bold]projector seed --campaigns 10 --tags 100[/bold]
    """
    from projector.backends import open_store
    from projector.seed import rows_total
    from projector.seed import seed as create

    config = configured(config_file, settings)
    with closing(open_store(config)) as store, progress("seed", rows_total(campaigns, tags)) as advance:
        seeded = create(store, campaigns, tags, seed, advance)
    if as_json:
        counts = {"campaigns": campaigns, "tags": campaigns * tags, "seed": seed}
        print_json({**counts, "rows_created": seeded.created, "rows_present": seeded.present})
    else:
        print(
            f"{campaigns:,} campaigns, {campaigns * tags:,} tags: "
            f"{seeded.created:,} rows created, {seeded.present:,} were there"
        )


def _report(
    found: "Sequence[Standing]", differences: "Sequence[Difference]", adopted: "Sequence[Adoption]"
) -> dict[str, Any]:
    return {
        "migrations": [
            {
                "number": standing.migration.number,
                "name": standing.migration.name,
                "title": standing.migration.title,
                "state": standing.state.value,
                "applied_ms": standing.applied_ms,
            }
            for standing in found
        ],
        "differences": [{**d._asdict(), "weight": d.weight.value} for d in differences],
        "adopted": [row._asdict() for row in adopted],
    }


def _print_standings(found: "Sequence[Standing]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("number", "name", "state", "applied", "what", box=None)
    for migration, state, applied_ms in found:
        when = "" if applied_ms is None else f"{datetime.fromtimestamp(applied_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"
        table.add_row(migration.number, migration.name, state.value, when, migration.title)
    Console(width=None if sys.stdout.isatty() else PIPED_COLUMNS).print(table)


def _print_dry_run(found: "Sequence[Standing]", adopted: "Sequence[Adoption]") -> None:
    from projector.migrate import State

    pending = [standing.migration for standing in found if standing.state is not State.APPLIED]
    for migration in pending:
        print(f"would apply {migration.number} {migration.name}: {migration.title}")
    for row in adopted:
        print(f"would adopt {_adoption_line(row)}")
    if not (pending or adopted):
        print("nothing to do")


def _adoption_line(row: "Adoption") -> str:
    return f"campaign {row.campaign}: " + ", ".join(f"{kpi} {count}" for kpi, count in row.opening.items())
