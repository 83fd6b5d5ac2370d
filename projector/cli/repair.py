"""`projector repair`: what an audit finds is put right, or shown."""

import signal
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from projector.cli.app import AsJson, ConfigFile, Settings, app, configured, print_json, progress
from projector.cli.audit import MEMORY_MIB, OVERHEAD_MIB, parts
from projector.cli.generations import who
from projector.cli.history import LINES_MAX, lines, named
from projector.errors import Misconfigured

if TYPE_CHECKING:
    from projector.audit.result import Audit
    from projector.config import Config
    from projector.lease import Lease
    from projector.log import Log
    from projector.store import Store

CHANGES_MAX = 1_000
"""In the JSON and on the terminal; the history has them all."""


@app.command("repair", epilog='Example: [bold]projector repair --execute --reason "a page was lost with a disk"[/bold]')
def repair_command(
    execute: Annotated[bool, typer.Option("--execute/--dry-run", help="Do it; else only show it.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the history.", metavar="TEXT")] = "",
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
    """Audit, and put right what is found, from the topic and the ledger. All workers must be stopped.

    Missing ids are counted, lost pages restored, wrong totals set, lagging publications published; an audit follows.
    Where the ledger itself holds what it should not, nothing is changed: the remedy is [bold]projector rebuild[/bold].
    What was done stands in [bold]projector audit --history[/bold]. Killed, the same command goes on where it was.
    Exit codes: 0 nothing to do, or mended; 1 there is something to do (dry run), or left; 3 refused.
    """
    from projector.backends import open_log, open_store
    from projector.repair.execution import refuse_busy

    if execute and not reason.strip():
        raise Misconfigured("--execute changes the ledger: say why with --reason TEXT, which the history keeps")
    config = configured(config_file, settings)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the database's directory goes away
    with closing(open_log(config)) as log, closing(open_store(config)) as store:
        refuse_busy(log, store, config)
        with _leased(store, execute) as lease:
            done = _repair(log, store, config, memory, lease, reason)
    if as_json:
        print_json({**done, "changes": [named(change) for change in done["changes"]]})
    else:
        _show(done)
    raise typer.Exit(0 if done["clean"] else 1)


def _repair(
    log: "Log", store: "Store", config: "Config", memory: int, lease: "Lease | None", reason: str
) -> dict[str, Any]:
    """What was found, and what was done about it; without a lease, what would be done."""
    from projector.repair.execution import Execution
    from projector.repair.plan import Planner

    with _audited(log, store, config, memory, lease) as audit:
        planner = Planner(audit, log, store, config)
        plan = planner.plan()
        done: dict[str, Any] = {
            "generation": plan.generation.number,
            "found": _counts(audit),
            "pages": plan.pages,
            "ids": plan.missing,
            "rows": len(plan.rows),
            "partitions": len(plan.balance),
            "publications": len(plan.publish),
            "executed": lease is not None and not plan.empty,
            "clean": audit.clean and plan.empty,
        }
        if lease is None:
            return {**done, "changes": list(islice(planner.changes(plan), CHANGES_MAX))}
        with progress("ids counted and read", None) as shown:

            def advance(ids: int) -> None:
                shown(ids)
                lease.renew()

            changes = Execution(planner, plan, log, store, config).run(who(), reason, advance)
    if plan.empty:
        return {**done, "changes": []}
    with _audited(log, store, config, memory, lease) as audit:
        return {**done, "changes": changes[:CHANGES_MAX], "left": _counts(audit), "clean": audit.clean}


@contextmanager
def _leased(store: "Store", execute: bool) -> "Iterator[Lease | None]":
    """The operator's lease, if anything is to be changed."""
    from projector.lease import Lease

    if not execute:
        yield None
        return
    with Lease(store, "a repair").held() as lease:
        yield lease


@contextmanager
def _audited(log: "Log", store: "Store", config: "Config", memory: int, lease: "Lease | None") -> "Iterator[Audit]":
    """An audit of all campaigns, for the time of a `with` block."""
    from projector.audit.audit import Progress, audit
    from projector.audit.database import open_database
    from projector.backends import log_opener

    with (
        tempfile.TemporaryDirectory(prefix="projector-audit-") as directory,
        closing(open_database(Path(directory), memory - OVERHEAD_MIB)) as database,
    ):
        with parts() as shown:

            def advance(amount: int) -> None:
                shown.advance(amount)
                if lease is not None:
                    lease.renew()

            told = Progress(shown.expect, advance)
            found = audit(log, store, config, database, progress=told, open_log=log_opener(config))
        yield found


def _counts(audit: "Audit") -> dict[str, int]:
    return {kind.value: count for kind, count in audit.counts.items() if count}


def _show(done: Mapping[str, Any]) -> None:
    print(f"generation {done['generation']}, the audit found: {_listed(done['found'])}")
    shown: Counter[str] = Counter()
    for change in done["changes"]:
        shown[change["what"]] += 1
        if shown[change["what"]] <= LINES_MAX:
            print("\n".join(lines(change)))
    for what, count in shown.items():
        if count > LINES_MAX:
            print(f"... and {count - LINES_MAX:,} more of: {what}")
    if done["executed"]:
        clean = "mended: the audit after it is clean"
        print(clean if done["clean"] else f"not all is mended; the audit after it found: {_listed(done['left'])}")
    elif done["changes"]:
        print('nothing was changed; to do this: projector repair --execute --reason "..."')
    elif done["clean"]:
        print("nothing to repair")
    else:
        print("nothing of that is for repair to mend: projector audit names the remedies")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in counts.items()) or "nothing"
