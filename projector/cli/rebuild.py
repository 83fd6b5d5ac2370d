"""`projector rebuild`, `cutover` and `rollback`: another generation is built, compared and made live."""

import logging
import signal
import socket
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from projector.cli.app import AsJson, ConfigFile, Settings, app, configured, console, print_json, progress
from projector.cli.generations import Number, Yes, confirmed, offsets, who
from projector.cli.limits import limits_of
from projector.errors import Refused

if TYPE_CHECKING:
    from projector.building import Result
    from projector.config import Config
    from projector.differences import Comparison
    from projector.generations import Build
    from projector.lease import Lease
    from projector.log import Log
    from projector.plan import Plan
    from projector.store import Store

IDS_SHOWN = 20
logger = logging.getLogger(__name__)

WorkerCount = Annotated[int, typer.Option(min=1, max=256, help="So many worker processes build it.")]


def _stated(reason: str | None) -> str | None:
    """A reason that says something. Raises `BadParameter`."""
    if reason is not None and not reason.strip():
        raise typer.BadParameter("say why: the history keeps it")
    return reason


Accept = Annotated[
    str | None,
    typer.Option(
        "--accept-differences", help="Switch although ids differ, for this reason.", metavar="REASON", callback=_stated
    ),
]


class _System:
    """What every command here works on."""

    def __init__(self, config_file: Path | None, settings: list[str] | None, config: "Config") -> None:
        from projector import logs
        from projector.backends import open_log, open_store
        from projector.pointer import PointerRow
        from projector.settling import settle_seconds

        logs.begin("text")
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        self.config = config
        self.options = ["--config", str(config_file)] if config_file else []
        for setting in settings or []:
            self.options += ["--set", setting]
        self.log: Log = open_log(config)
        self.store: Store = open_store(config)
        settle_s = settle_seconds(self.store, config.settle_ms, config.allow_volatile_store)
        self.row = PointerRow(self.store, settle_s)

    def close(self) -> None:
        self.log.close()
        self.store.close()

    def built(
        self, build: "Build", workers: int, lease: "Lease", what: str, accept: str | None, switch: bool
    ) -> "Result":
        """Build it with muted workers under a supervisor in a thread, compare, switch; shows how it gets on."""
        from projector.building import Building, Workers
        from projector.cli.building_progress import BuildingProgress
        from projector.supervisor import supervise, worker_command

        slots = [f"{socket.gethostname()}-rebuild-{n}" for n in range(workers)]
        command = worker_command([*self.options, "--building", str(build.number)])
        with closing(BuildingProgress(build.number)) as shown:

            def comparing(done: int, total: int) -> None:
                lease.renew()
                shown.compared(done, total)

            return Building(
                self.log,
                self.store,
                self.config,
                self.row,
                lease,
                build,
                Workers(lambda stops: supervise(slots, command, stops, quiet=True)),
                shown=shown,
                comparing=comparing,
            ).run(who=who(), what=what, why=accept or "", accept=accept is not None, switch=switch)


@app.command(
    epilog="Example: [bold]projector rebuild --workers 2[/bold], or only to look: "
    "[bold]projector rebuild --no-cutover[/bold]"
)
def rebuild(
    workers: WorkerCount = 1,
    no_cutover: Annotated[bool, typer.Option("--no-cutover", help="Stop after the comparison.")] = False,
    accept_differences: Accept = None,
    carry: Annotated[
        bool,
        typer.Option(
            "--carry", help="Carry over from the live ledger what was counted from records that the topic has no more."
        ),
    ] = False,
    campaign: Annotated[
        list[int] | None,
        typer.Option("--campaign", help="Build these campaigns alone, for a comparison. Repeatable.", metavar="ID"),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            help="Build up to these offsets, for a comparison: 0:1200,1:900, or a time as 2026-01-31T00:00Z.",
            metavar="OFFSETS|TIME",
        ),
    ] = None,
    yes: Yes = False,
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Build the projection again from the whole topic, beside the live one, compare both by id, and switch.

    Nothing is published before the switch, and the live one goes on. Stopped or killed at any moment, the same command
    goes on where it was. With --campaign or --until a scratch generation is built, which never becomes live.
    Exit codes: 0 switched (or equal), 1 something differs and nothing was switched, 3 refused.
    """
    from projector.carry import carry as carry_over
    from projector.carry import gone
    from projector.generations import create, unfinished
    from projector.lease import Lease
    from projector.plan import plan
    from projector.preflight import preflight

    system = _System(config_file, settings, configured(config_file, settings))
    with closing(system):
        log, store, config = system.log, system.store, system.config
        live = preflight(log, store, config).generation
        scratch = bool(campaign) or until is not None
        limits = limits_of(log, config.input_topic, until) if until is not None else None
        only = sorted({*campaign}) if campaign else None
        planned = plan(log, config, live, unfinished(store, only, limits), workers, limits)
        _show_plan(planned)
        if planned.gone and not carry:
            missing = ", ".join(f"{each.partition}: {each.first} to {each.head - 1}" for each in planned.gone)
            raise Refused(
                f"topic {config.input_topic} has no more what a rebuild must read (partition: offsets {missing}): "
                "carry over what the live ledger counted there with: projector rebuild --carry"
            )
        confirmed("Begin?", yes)
        with Lease(store, "a rebuild").held() as lease:
            live = system.row.settled().generation(config)
            build = unfinished(store, only, limits) or create(log, store, config, only, limits, scratch)
            if carry and gone(log, config, build.generation(config)):
                with progress("ids of the live ledger", None) as shown:

                    def advance(ids: int) -> None:
                        shown(ids)
                        lease.renew()

                    carry_over(log, store, config, live, build.generation(config), advance, campaigns=only)
            switch = not (no_cutover or scratch)
            result = system.built(build, workers, lease, "rebuild", accept_differences, switch)
    _end(result, build.number, as_json)


@app.command(epilog="Example: [bold]projector cutover 2[/bold]")
def cutover(
    number: Number,
    workers: WorkerCount = 1,
    accept_differences: Accept = None,
    yes: Yes = False,
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Bring a generation up to the live one, compare both by id, and make it live.

    Exit codes: 0 switched, 1 something differs and nothing was switched, 3 refused.
    """
    system = _System(config_file, settings, configured(config_file, settings))
    with closing(system):
        _make_live(system, number, "cutover", workers, accept_differences, yes, as_json)


@app.command(epilog="Example: [bold]projector rollback[/bold]")
def rollback(
    workers: WorkerCount = 1,
    accept_differences: Accept = None,
    yes: Yes = False,
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Make the generation live again that was live before. It is brought up to date and compared first.

    Exit codes: 0 switched, 1 something differs and nothing was switched, 3 refused.
    """
    from projector.pointer import ROLLBACK

    system = _System(config_file, settings, configured(config_file, settings))
    with closing(system):
        pointer = system.row.settled()
        if pointer.previous is None:
            raise Refused(f"generation {pointer.live} is live, and none before it: there is nothing to go back to")
        _make_live(system, pointer.previous, ROLLBACK, workers, accept_differences, yes, as_json)


def _make_live(
    system: _System, number: int, what: str, workers: int, accept: str | None, yes: bool, as_json: bool
) -> None:
    from projector.carry import gone
    from projector.generations import State, read
    from projector.lease import Lease

    build = read(system.store, number)
    if build.state in (State.SCRATCH, State.ABANDONED):
        raise Refused(f"generation {number} is {build.state.value} and can never be live: run: projector rebuild")
    live = system.row.settled().live
    if gone(system.log, system.config, build.generation(system.config)):
        raise Refused(
            f"topic {system.config.input_topic} has no more what generation {number} would have to read: "
            "run: projector rebuild --carry"
        )
    if live != number:
        confirmed(f"Make generation {number} live instead of {live}?", yes)
    with Lease(system.store, f"a {what}").held() as lease:
        result = system.built(build, workers, lease, what, accept, switch=True)
    _end(result, number, as_json)


def _show_plan(planned: "Plan") -> None:
    number = f"goes on with generation {planned.number}" if planned.number else "builds a new generation"
    lines = [
        f"{number} beside generation {planned.live}, which stays live",
        f"topic {planned.topic}: {len(planned.heads)} partitions, {planned.records:,} records, "
        f"about {planned.bytes / 2**20:,.0f} MiB",
        f"first offsets: {offsets(planned.heads)}",
        f"reads from: {offsets(planned.starts)}, up to: {offsets(planned.goals)}",
        f"estimated time: {planned.seconds:,.0f} s with {planned.workers} worker{'s' * (planned.workers > 1)}",
    ]
    print("\n".join(lines), file=sys.stderr)


def _end(result: "Result", number: int, as_json: bool) -> None:
    """Report, and exit."""
    from projector.cutover import Ending

    if as_json:
        print_json(_document(result, number))
    else:
        _print(result, number)
    if result.ending is Ending.DIFFERENT or (result.ending is None and result.comparison and _differs(result)):
        raise typer.Exit(1)


def _differs(result: "Result") -> bool:
    from projector.building import lasts

    return result.comparison is not None and lasts(result.comparison)


def _document(result: "Result", number: int) -> dict[str, object]:
    from projector.differences import shown

    comparison = result.comparison
    document: dict[str, object] = {
        "generation": number,
        "result": result.ending.value if result.ending else "compared",
        "live": result.pointer.live,
        "epoch": result.pointer.epoch,
        "closed_seconds": round(result.closed_s, 3),
        "carried": result.carried,
    }
    if comparison:
        document |= {
            "same": comparison.same,
            "ids": {"live": comparison.ids_held[0], "rebuilt": comparison.ids_held[1]},
            "totals": {"live": comparison.totals[0], "rebuilt": comparison.totals[1]},
            "cells": [{**cell._asdict(), "difference": cell.difference} for cell in comparison.cells],
            "causes": {cause.value: count for cause, count in comparison.counts.items()},
            "differences": [
                {
                    "campaign": each.campaign,
                    "id": shown(each.id),
                    "live": _named(each.live),
                    "rebuilt": _named(each.rebuilt),
                    "cause": each.cause.value,
                    "detail": each.detail,
                }
                for each in comparison.ids
            ],
            "ledgers": [each._asdict() for each in comparison.ledgers],
        }
    return document


def _named(sighting: list[int] | None) -> dict[str, object] | None:
    """A sighting with its fields: the KPI, and second and place of the record that was counted."""
    from projector.event import KPIS

    if sighting is None:
        return None
    code, second, partition, offset = sighting
    return {"kpi": KPIS[code], "second": second, "partition": partition, "offset": offset}


def _print(result: "Result", number: int) -> None:
    from projector.cutover import Ending

    comparison = result.comparison
    if comparison:
        _print_comparison(comparison)
    if result.carried and comparison:
        recounted = comparison.ids_held[1] - result.carried
        print(f"{result.carried:,} ids were carried over from the live ledger, {recounted:,} recounted")
    match result.ending:
        case Ending.SWITCHED:
            print(f"generation {number} is live, epoch {result.pointer.epoch} (closed for {result.closed_s:.1f} s)")
            print("next: projector balance; back again with: projector rollback")
        case Ending.ALREADY:
            print(f"generation {number} is live already, epoch {result.pointer.epoch}")
        case Ending.DIFFERENT:
            print(f"nothing was switched: generation {result.pointer.live} goes on")
            print(
                f'next: projector cutover {number} --accept-differences "why they are right", '
                f"or: projector abandon {number}"
            )
        case None:
            print(f"generation {result.pointer.live} goes on; next: projector cutover {number}, or abandon {number}")


def _print_comparison(comparison: "Comparison") -> None:
    from rich.table import Table

    from projector.differences import shown

    out = console()
    live, rebuilt = comparison.ids_held
    out.print(f"generation {comparison.live}: {live:,} ids; generation {comparison.rebuilt}: {rebuilt:,} ids")
    if comparison.same:
        out.print("they agree in every id")
        return
    table = Table("campaign", "KPI", f"generation {comparison.live}", f"generation {comparison.rebuilt}", "difference")
    table.add_column("excused")
    for column in table.columns[2:]:
        column.justify = "right"
    for cell in comparison.cells:
        values = (cell.live, cell.rebuilt, cell.difference, cell.excused)
        table.add_row(str(cell.campaign), cell.kpi, *(f"{value:,}" for value in values))
    out.print(table)
    for cause, count in comparison.counts.items():
        out.print(f"{count:,} ids: {cause.value}")
    for each in comparison.ids[:IDS_SHOWN]:
        out.print(
            f"  campaign {each.campaign}, {ascii(shown(each.id))[1:-1]}: {_sighted(each.live)} in {comparison.live}, "
            f"{_sighted(each.rebuilt)} in {comparison.rebuilt}: {each.cause.value} {ascii(each.detail)[1:-1]}",
            soft_wrap=True,
            markup=False,
        )
    if len(comparison.ids) > IDS_SHOWN:
        out.print("  all of them with --json")
    for flaw in comparison.ledgers:
        out.print(f"generation {flaw.generation}, campaign {flaw.campaign}: {flaw.what}", soft_wrap=True, markup=False)


def _sighted(sighting: list[int] | None) -> str:
    from projector.event import KINDS

    return "none" if sighting is None else f"a {KINDS[sighting[0]]} at {sighting[2]}/{sighting[3]}"
