"""`projector audit`: the topic recounted, and held against the ledger, the rows and what was published."""

import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from projector.cli.app import AsJson, ConfigFile, Settings, app, configured, console, moment, print_json, progress
from projector.cli.generations import offsets
from projector.cli.history import show_history
from projector.cli.limits import limits_of
from projector.errors import Misconfigured, Refused

if TYPE_CHECKING:
    from projector.audit.audit import Progress
    from projector.audit.finding import Finding
    from projector.audit.result import Audit
    from projector.config import Config
    from projector.generation import Generation
    from projector.store import Store

SHOWN = 20
LISTED = 10_000
CELLS_SHOWN = 100
MEMORY_MIB = 2_048
OVERHEAD_MIB = 512
"""Of the process beside the database: the program, its clients, and a part of the topic on its way."""


@app.command(
    "audit",
    epilog="Example: [bold]projector audit --report audit.html[/bold], or: "
    "[bold]projector audit --campaign 41 --until 2026-02-01T00:00Z[/bold]",
)
def audit_command(
    campaign: Annotated[
        list[int] | None, typer.Option("--campaign", help="These campaigns alone. Repeatable.", metavar="ID")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            help="Only up to these offsets: 0:1200,1:900, or a time as 2026-01-31T00:00Z.  "
            "[default: the committed checkpoint]",
            metavar="OFFSETS|TIME",
        ),
    ] = None,
    generation: Annotated[
        int | None, typer.Option(min=1, help="Another generation than the live one.", metavar="NUMBER")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write all of it as one self-contained page.", metavar="FILE.html")
    ] = None,
    history: Annotated[
        bool, typer.Option("--history", help="Instead show what repairs were made: who, when, why, what.")
    ] = False,
    memory: Annotated[
        int,
        typer.Option(
            min=OVERHEAD_MIB + 256, help="About how much memory to use; the rest is spilled to TMPDIR.", metavar="MIB"
        ),
    ] = MEMORY_MIB,
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Recount the topic up to the checkpoint, and compare topic, ledger, rows and published totals, id by id.

    All is only read: a live projector may go on. Exit codes: 0 clean, 1 differences, 2 could not run.
    """
    from projector.audit.audit import audit
    from projector.audit.database import open_database
    from projector.backends import log_opener, open_log, open_store
    from projector.repair.journal import history as repairs

    config = configured(config_file, settings)
    if history:
        with closing(open_store(config)) as store:
            told = repairs(store)
        show_history(told, as_json)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the directory below goes away
    with ExitStack() as stack:
        log = stack.enter_context(closing(open_log(config)))
        store = stack.enter_context(closing(open_store(config)))
        limits = None if until is None else limits_of(log, config.input_topic, until)
        chosen, scope = _chosen(store, config, generation, campaign)
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="projector-audit-"))
        database = stack.enter_context(closing(open_database(Path(directory), memory - OVERHEAD_MIB)))
        with parts() as shown:
            found = audit(
                log,
                store,
                config,
                database,
                generation=chosen,
                campaigns=scope,
                until=limits,
                progress=shown,
                open_log=log_opener(config),
            )
        if report is not None:
            from projector.audit.report import write_report

            write_report(found, report)
        if as_json:
            print_json(_document(found))
        else:
            _print(found)
        if report is not None:
            print(f"report: {report}", file=sys.stderr)
        if not found.clean:
            raise typer.Exit(1)


def _chosen(
    store: "Store", config: "Config", number: int | None, campaigns: list[int] | None
) -> "tuple[Generation | None, list[int] | None]":
    """The generation (None: the live one) and the campaigns (None: all) to look at. Raises `Misconfigured`."""
    from projector.generations import State, read

    only = sorted(set(campaigns)) if campaigns else None
    if number is None:
        return None, only
    try:
        build = read(store, number)
    except Refused as error:
        raise Misconfigured(str(error)) from error
    if build.state is State.ABANDONED:
        raise Misconfigured(f"generation {number} is abandoned: its rows are dropped")
    return build.generation(config), only or (list(build.campaigns) if build.campaigns else None)


@contextmanager
def parts() -> "Iterator[Progress]":
    """A bar for each part of the audit, one after the other."""
    from projector.audit.audit import Progress

    with ExitStack() as current:
        advance: Callable[[int], None] = lambda _: None  # noqa: E731  # until a part begins

        def expect(what: str, total: int) -> None:
            nonlocal advance
            current.close()
            advance = current.enter_context(progress(what, total))

        yield Progress(expect, lambda amount: advance(amount))


def _document(found: "Audit") -> dict[str, object]:
    from projector.audit.finding import Kind

    return {
        "clean": found.clean,
        "generation": found.generation.number,
        "epoch": found.epoch,
        "live": found.live,
        "checkpoint": {str(partition): offset for partition, offset in sorted(found.checkpoint.items())},
        "heads": {str(partition): offset for partition, offset in sorted(found.heads.items())},
        "campaigns": found.campaigns,
        "records": found.records,
        "ids": found.ids,
        "counts": {kind.value: count for kind, count in found.counts.items()},
        "unread": found.unread,
        "excused": {
            "before_head": found.excused.before_head,
            "past_checkpoint": found.excused.past_checkpoint,
            "parked": found.excused.parked,
            "duplicates": found.excused.duplicates,
            "conflicts": found.excused.conflicts,
            "reasons": dict(found.excused.reasons),
        },
        "skipped": list(found.skipped),
        "remedies": [remedy.value for remedy in found.remedies if remedy.value],
        "cells": [{**cell._asdict(), "difference": cell.difference} for cell in found.cells(differing=True)],
        "findings": [_entry(each) for kind in Kind for each in found.findings(kind, LISTED)],
        "parked": [_entry(each) for each in found.parked(LISTED)],
        "seconds": round(found.elapsed_s, 3),
    }


def _entry(finding: "Finding") -> dict[str, object]:
    return {**finding._asdict(), "kind": finding.kind.value, "remedy": finding.remedy.value}


def _print(found: "Audit") -> None:
    out = console()
    if not found.clean:
        _print_differences(found)
    excused = found.excused
    apart = [
        f"{count:,} {what}"
        for what, count in (
            ("duplicates", excused.duplicates),
            ("of them of another kind", excused.conflicts),
            ("ids counted before the topic's head", excused.before_head),
            ("ids counted past the checkpoint", excused.past_checkpoint),
            *((reason.partition(":")[2] or reason, count) for reason, count in excused.reasons.items()),
        )
        if count
    ]
    out.print(
        f"{'clean' if found.clean else f'{sum(found.counts.values()):,} DIFFERENCES'}: generation "
        f"{found.generation.number}, {found.campaigns:,} campaigns, {found.records:,} records of the topic, "
        f"{found.ids:,} ids counted, up to {offsets(found.checkpoint)} ({found.elapsed_s:,.1f} s)",
        soft_wrap=True,
        markup=False,
    )
    if apart:
        out.print(f"in order: {', '.join(apart)}", soft_wrap=True, markup=False)
    if excused.parked:
        out.print(
            f"{excused.parked:,} ids are parked and could be counted by now: projector quarantine retry",
            soft_wrap=True,
        )
    for what in found.skipped:
        out.print(f"not compared: {what}", soft_wrap=True, markup=False)
    if not found.clean:
        _print_remedies(found)


def _print_differences(found: "Audit") -> None:
    from rich.table import Table

    from projector.audit.finding import Kind

    out = console()
    cells = list(islice(found.cells(differing=True), CELLS_SHOWN + 1))
    if cells:
        names = "topic", "ledger", "apart", "opening", "stats", "published", "difference", "findings"
        table = Table("campaign", "KPI", *names)
        for column in table.columns[2:]:
            column.justify = "right"
        for cell in cells[:CELLS_SHOWN]:
            values = (cell.topic, cell.ledger, cell.apart, cell.opening, cell.stats, cell.published)
            figures = ["" if value is None else f"{value:,}" for value in (*values, cell.difference, cell.findings)]
            table.add_row(str(cell.campaign), cell.kpi, *figures)
        out.print(table)
        if len(cells) > CELLS_SHOWN:
            out.print("more of them with --json")
    for kind in Kind:
        count = found.counts[kind]
        for finding in found.findings(kind, SHOWN):
            out.print(_line(finding), soft_wrap=True, markup=False)
        if count > SHOWN:
            out.print(f"{kind.value}: {count:,} in all; {min(count, LISTED):,} of them with --json", soft_wrap=True)


def _line(finding: "Finding") -> str:
    words = [f"{finding.kind.value}:"]
    if finding.campaign is not None:
        words.append(f"campaign {finding.campaign}")
    if finding.kpi is not None:
        words.append(finding.kpi)
    if finding.id is not None:
        words.append(ascii(finding.id)[1:-1])
    if finding.offset is not None:
        words.append(f"at {finding.partition}/{finding.offset}")
    if finding.second:
        words.append(moment(finding.second * 1000))
    return " ".join(words) + f": {ascii(finding.detail)[1:-1]}"


def _print_remedies(found: "Audit") -> None:
    from projector.audit.finding import Remedy

    out = console()
    remedies = found.remedies
    if Remedy.REBUILD in remedies:
        carry = " --carry" if any(found.heads.values()) else ""
        out.print(
            f"next: {Remedy.REBUILD.value}{carry}: the ledger holds what it should not, which no repair takes out"
        )
    elif Remedy.REPAIR in remedies:
        out.print(f'next: {Remedy.REPAIR.value}, which only shows; then with --execute --reason "..."')
    if remedies == [Remedy.NONE]:
        out.print("nothing mends that: it is what the topic says")
