"""`projector repair`: what an audit finds is put right; and the history of that, for `projector audit --history`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from projector.cli.app import AsJson, ConfigFile, Settings, app, configured, console, print_json, progress
from projector.cli.generations import when, who
from projector.cli.reading import _printable
from projector.errors import Misconfigured

if TYPE_CHECKING:
    from projector.audit.result import Audit
    from projector.config import Config
    from projector.lease import Lease
    from projector.log import Log
    from projector.repair.journal import Told
    from projector.store import Store

LINES_MAX = 20
"""Of a kind, on the terminal."""
CHANGES_MAX = 1_000
"""In the JSON; the journal has them all."""


@app.command("repair", epilog='Example: [bold]projector repair --execute --reason "page lost with a disk"[/bold]')
def repair_command(
    execute: Annotated[
        bool, typer.Option("--execute/--dry-run", help="Do it; else only show what it would do.")
    ] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why; kept in the history.", metavar="TEXT")] = "",
    memory_mib: Annotated[
        int, typer.Option("--memory", min=128, help="Mebibytes of memory for the comparison.", metavar="MIB")
    ] = 1_024,
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Audit, and put right what is found, from the topic and the ledger. All workers must be stopped.

    Missing ids are counted, lost pages restored, wrong totals set, lagging publications published. Where the ledger
    holds what it should not, nothing is changed, and the remedy is [bold]projector rebuild[/bold]. What is done stands
    in [bold]projector audit --history[/bold]. Killed, the same command goes on where it was.
    Exit codes: 0 nothing to do, or mended; 1 something is to be mended (dry run), or is left; 3 refused.
    """
    from projector.backends import open_log, open_store
    from projector.repair.execution import Execution, refuse_busy
    from projector.repair.plan import Planner

    if execute and not reason.strip():
        raise Misconfigured("--execute changes the ledger: say why with --reason TEXT, which the history keeps")
    config = configured(config_file, settings)
    with closing(open_log(config)) as log, closing(open_store(config)) as store:
        refuse_busy(log, store, config)
        with _lease(store, execute) as lease:
            with _audited(log, store, config, memory_mib, lease) as audit:
                planner = Planner(audit, log, store, config)
                plan = planner.plan()
                clean = audit.clean
                document: dict[str, Any] = {
                    "generation": plan.generation.number,
                    "found": {kind.value: count for kind, count in audit.counts.items() if count},
                    "pages": plan.pages,
                    "ids": plan.missing,
                    "rows": len(plan.rows),
                    "partitions": len(plan.balance),
                    "publications": len(plan.publish),
                    "executed": False,
                }
                if execute and not plan.empty:
                    with progress("ids counted and read", None) as shown:

                        def advance(ids: int) -> None:
                            shown(ids)
                            if lease is not None:
                                lease.renew()

                        changes = Execution(planner, plan, log, store, config).run(who(), reason, advance)
                    document["executed"] = True
                else:
                    changes = list(islice(planner.changes(plan), CHANGES_MAX))
            document["changes"] = changes[:CHANGES_MAX]
            if document["executed"]:
                with _audited(log, store, config, memory_mib, lease) as audit:
                    clean = audit.clean
                    document["left"] = {kind.value: count for kind, count in audit.counts.items() if count}
    document["clean"] = clean
    if as_json:
        print_json(document)
    else:
        _show(document)
    raise typer.Exit(0 if clean else 1)


@contextmanager
def _lease(store: "Store", execute: bool) -> "Iterator[Lease | None]":
    """The operator's lease, if anything is to be changed."""
    from projector.lease import Lease

    if not execute:
        yield None
        return
    with Lease(store, "a repair").held() as lease:
        yield lease


@contextmanager
def _audited(log: "Log", store: "Store", config: "Config", memory_mib: int, lease: "Lease | None") -> "Iterator[Audit]":
    """An audit of everything, for the time of a `with` block."""
    raise NotImplementedError
    yield


# --- what is shown


def _show(document: Mapping[str, Any]) -> None:
    changes: Sequence[Mapping[str, Any]] = document["changes"]
    found = ", ".join(f"{kind} {count:,}" for kind, count in document["found"].items())
    print(f"generation {document['generation']}, the audit found: {found or 'nothing'}")
    shown: dict[str, int] = {}
    for change in changes:
        shown[change["what"]] = shown.get(change["what"], 0) + 1
        if shown[change["what"]] <= LINES_MAX:
            for line in lines(change):
                print(line)
    for what, count in shown.items():
        if count > LINES_MAX:
            print(f"... and {count - LINES_MAX:,} more of {what}")
    if document["executed"]:
        left = ", ".join(f"{kind} {count:,}" for kind, count in document["left"].items())
        print("mended: the audit after it is clean" if document["clean"] else f"not all is mended, left: {left}")
    elif changes:
        print('nothing was changed; to do it: projector repair --execute --reason "..."')
    elif document["clean"]:
        print("nothing to repair")
    else:
        print("nothing that repair mends: projector audit names the remedies")


def lines(change: Mapping[str, Any]) -> Iterator[str]:
    """A change of the journal as text: planned, or done."""
    match change:
        case {"what": "page", "campaign": campaign, "page": page, "before": before, "after": after}:
            yield f"campaign {campaign}: page {page} {before} -> restored, digest {after[:16]}..."
        case {"what": "ids", "campaign": campaign, "ids": ids}:
            yield f"campaign {campaign}: {len(ids):,} ids to be counted from the topic"
        case {"what": "ids", "campaign": campaign, "counted": counted}:
            yield f"campaign {campaign}: {counted:,} ids counted from the topic"
        case {"what": "row", "campaign": campaign, "before": before, "after": after}:
            yield f"campaign {campaign}: {_changed(_flat(before), _flat(after))}"
        case {"what": "balance", "partition": partition, "before": before, "after": after}:
            yield f"partition {partition}: {_changed(before if isinstance(before, dict) else {}, after)}"
        case {"what": "publication", "campaigns": campaigns}:
            yield f"{len(campaigns):,} campaigns to be published"
        case {"what": "publication", "campaign": campaign, "after": after}:
            yield f"campaign {campaign}: published, epoch {after['epoch']}, rev {after['rev']}"


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row["stats"], "rev": row["rev"]} if "stats" in row else dict(row)


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    changed = [
        f"{name} {before.get(name, '?')} -> {value}" for name, value in after.items() if before.get(name) != value
    ]
    return ", ".join(changed) or "stays as it is"


# --- projector audit --history


def show_history(told: "Sequence[Told]", as_json: bool) -> None:
    """Every repair that there was: who, when, why, what; one that was begun and not ended is shown as such."""
    if as_json:
        print_json(
            [
                {
                    "generation": each.run.generation,
                    "who": each.run.who,
                    "begun": when(each.run.when),
                    "ended": when(each.ended_when) if each.ended else None,
                    "reason": each.run.reason,
                    "intent": each.intents,
                    "outcome": each.outcomes,
                }
                for each in told
            ]
        )
        return
    from rich.table import Table
    from rich.text import Text

    table = Table("begun (UTC)", "ended", "generation", "who", "reason", "what")
    for each in told:
        ended = when(each.ended_when) or "" if each.ended else "NOT ENDED"
        what = [line for change in (each.outcomes if each.ended else each.intents) for line in lines(change)]
        more = [f"... and {len(what) - LINES_MAX:,} more"] if len(what) > LINES_MAX else []
        cells = (when(each.run.when) or "", ended, str(each.run.generation), each.run.who, each.run.reason)
        table.add_row(*(Text(_printable(cell)) for cell in cells), Text("\n".join([*what[:LINES_MAX], *more])))
    console().print(table)
    if not told:
        print("no repair was ever begun")
