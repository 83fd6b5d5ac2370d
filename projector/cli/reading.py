"""`projector campaigns`, `show`, `watch`: what the rows and the KPI topic say."""

import sys
import time
from collections.abc import Iterator
from contextlib import closing
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from projector.cli.app import (
    AsJson,
    ConfigFile,
    Settings,
    app,
    configured,
    console,
    moment,
    plain_table,
    print_json,
)
from projector.errors import Retryable
from projector.printable import printable

if TYPE_CHECKING:
    from rich.table import Table

    from projector.feed import Feed, Total
    from projector.log import Log

_LINES_AROUND = 6  # of the live table: title, head, what stands below it


class Order(StrEnum):
    """What `projector campaigns` sorts by."""

    ID = "id"
    NAME = "name"
    VISITS = "visits"
    IMPRESSIONS = "impressions"
    CLICKS = "clicks"
    CONVERSIONS = "conversions"


@app.command("campaigns")
def campaigns_command(
    sort: Annotated[Order, typer.Option(help="KPIs sort from the highest down.")] = Order.ID,
    top: Annotated[int | None, typer.Option(min=1, help="Show only the first so many; totals are of all.")] = None,
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """List all campaigns with their KPIs, and the totals.

    Example: [bold]projector campaigns --sort impressions --top 10[/bold]
    """
    from projector.backends import open_store
    from projector.reading import campaigns, live_generation, total

    config = configured(config_file, settings)
    with closing(open_store(config)) as store:
        generation = live_generation(store, config)
        rows = campaigns(store, generation)
    totals = total(rows)
    if sort is Order.NAME:
        rows.sort(key=lambda row: row.name)
    elif sort is not Order.ID:
        rows.sort(key=lambda row: -row.stats[sort.value])
    shown = rows[:top]
    if as_json:
        listed = [row._asdict() for row in shown]
        print_json({"generation": generation.number, "campaigns": listed, "totals": totals})
        return
    from rich.text import Text

    from projector.event import KPIS

    table = plain_table("campaign", "name", *KPIS)
    table.show_footer = True
    for column, footer in zip(table.columns, ("total", f"{len(rows):,} campaigns", *_figures(totals)), strict=True):
        column.footer = footer
    for row in shown:
        table.add_row(str(row.campaign), Text(printable(row.name)), *_figures(row.stats))
    console().print(table)
    if not rows:
        print("no campaigns yet: projector seed creates the reference data set", file=sys.stderr)


@app.command("show")
def show_command(
    campaign_id: Annotated[int, typer.Argument(help="Id of the campaign.", metavar="ID")],
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Show one campaign's row: KPIs, ledger, size.

    Example: [bold]projector show 41[/bold]
    """
    from projector.backends import open_store
    from projector.event import KPIS
    from projector.reading import campaign, live_generation

    config = configured(config_file, settings)
    with closing(open_store(config)) as store:
        detail = campaign(store, live_generation(store, config), campaign_id)
    if as_json:
        rest = detail._asdict()
        print_json({**rest.pop("row")._asdict(), **rest})
        return
    row = detail.row
    table = plain_table("", *KPIS)
    for name, counts in (
        ("total", row.stats),
        ("opening", row.opening),
        ("ids in seen", detail.seen),
        ("ids in sealed", detail.sealed),
    ):
        table.add_row(name, *_figures(counts))
    out = console()
    out.print(f"{row.campaign} {printable(row.name)}", markup=False, highlight=False)
    out.print(table)
    ids = sum(detail.seen.values()) + sum(detail.sealed.values())
    ledger = (
        "none: nothing was counted yet" if row.rev is None else f"{ids:,} ids in the row, {detail.pages} pages sealed"
    )
    created = "" if row.date_ms is None else moment(row.date_ms)
    for name, text in (
        ("created", created),
        ("generation", str(detail.generation)),
        ("rev", "" if row.rev is None else str(row.rev)),
        ("ledger", ledger),
        ("seal", _seal(detail.seal)),
        ("prev", _seal(detail.prev)),
        ("row", f"{detail.row_bytes:,} bytes"),
    ):
        print(f"{name + ':':<12}{text}")


@app.command("watch")
def watch_command(
    from_start: Annotated[
        bool, typer.Option("--from-start/--from-end", help="Begin with the totals as they are, or only with new ones.")
    ] = True,
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Follow the totals on the KPI topic until Ctrl-C: a live table, or plain lines when piped.

    Example: [bold]projector watch --json | jq .value[/bold]
    """
    from projector.backends import open_log
    from projector.feed import Feed

    config = configured(config_file, settings)
    feed = Feed()
    try:
        with closing(open_log(config)) as log:
            if from_start:
                feed.catch_up(log, config.kpi_topic)
            else:
                feed.skip(log, config.kpi_topic)
            if sys.stdout.isatty() and not as_json:
                _watch_live(feed, log, config.kpi_topic)
            else:
                _watch_lines(feed, log, config.kpi_topic, as_json)
    except KeyboardInterrupt:
        return


def _watch_lines(feed: "Feed", log: "Log", topic: str, as_json: bool) -> None:
    def tell(total: "Total") -> None:
        if as_json:
            message = {"campaignId": total.campaign, **total._asdict()}
            del message["campaign"]
            print_json(message)
        else:
            kpi = printable(total.kpi)
            print(f"campaign {total.campaign} {kpi} {total.value} epoch {total.epoch} rev {total.rev}")

    for total in sorted(feed.totals.values()):
        tell(total)
    sys.stdout.flush()
    for news in _followed(feed, log, topic):
        for total in news:
            tell(total)
        sys.stdout.flush()


def _watch_live(feed: "Feed", log: "Log", topic: str) -> None:
    from rich.live import Live

    recent: dict[int, None] = dict.fromkeys(sorted({campaign for campaign, _ in feed.totals}, reverse=True))
    out = console()
    with Live(_totals_table(feed, recent, out.height), console=out, auto_refresh=False) as live:
        drawn = time.monotonic()
        for news in _followed(feed, log, topic):
            for total in news:
                recent.pop(total.campaign, None)
                recent[total.campaign] = None
            if not news or time.monotonic() - drawn > 0.25:
                live.update(_totals_table(feed, recent, out.height), refresh=True)
                drawn = time.monotonic()


def _totals_table(feed: "Feed", recent: dict[int, None], lines: int) -> "Table":
    """Those campaigns that changed last, as many as fit, in the order of their ids."""
    from projector.event import KPIS

    shown = sorted(list(recent)[-max(1, lines - _LINES_AROUND) :])
    table = plain_table("campaign", *KPIS, "rev")
    table.caption = f"{len(shown):,} of {len(recent):,} campaigns, those that changed last; Ctrl-C ends"
    for campaign in shown:
        held = [feed.totals.get((campaign, kpi)) for kpi in KPIS]
        rev = max(((total.epoch, total.rev) for total in held if total), default=(0, 0))[1]
        table.add_row(str(campaign), *("" if total is None else f"{total.value:,}" for total in held), str(rev))
    return table


def _followed(feed: "Feed", log: "Log", topic: str) -> Iterator[list["Total"]]:
    """`Feed.follow`, taken up again when the log was away."""
    while True:
        try:
            yield from feed.follow(log, topic)
        except Retryable as error:
            print(f"warning: {error}; trying again", file=sys.stderr)
            time.sleep(1)


def _figures(counts: dict[str, int]) -> list[str]:
    from projector.event import KPIS

    return [f"{counts[kpi]:,}" for kpi in KPIS]


def _seal(seal: int | None) -> str:
    return "" if seal is None else f"{seal:016x}"
