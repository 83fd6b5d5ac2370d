"""`projector statement`: what was counted in a period, signed; verified, proven and compared from its files alone."""

import json
import signal
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from projector.cli.app import AsJson, ConfigFile, Settings, app, configured, console, print_json, progress
from projector.errors import Misconfigured
from projector.printable import printable

if TYPE_CHECKING:
    from projector.statement.difference import Change, Comparison, Difference
    from projector.statement.leaf import Leaf
    from projector.statement.manifest import Manifest
    from projector.statement.verification import Verification

Directory = Annotated[Path, typer.Argument(help="Directory of a statement.", metavar="DIR")]

statement_app = typer.Typer(invoke_without_command=True, rich_markup_mode="rich")
app.add_typer(statement_app, name="statement")


@statement_app.callback()
def statement(
    context: typer.Context,
    begin: Annotated[
        str | None, typer.Option("--from", help="First second: ISO 8601 (UTC), or epoch ms.", metavar="TIME")
    ] = None,
    end: Annotated[
        str | None, typer.Option("--to", help="The second after the last; it must be past.", metavar="TIME")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory to create. Default: statement-FROM-TO in the working directory.", metavar="DIR"),
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option(help="Ed25519 private key in PEM to sign with: projector statement keygen.", metavar="FILE"),
    ] = None,
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Write a signed statement of what was counted in a period, per campaign and KPI, closed at the checkpoint.

    Counts as CSV and Parquet, every counted id, and a manifest with totals, checkpoint and Merkle root. A period is of
    whole seconds, UTC, by the Kafka timestamp. What comes later with a timestamp in it is in a later statement.

    Example: [bold]projector statement --from 2026-01-01 --to 2026-02-01 --key billing.pem[/bold]
    """
    if context.invoked_subcommand is not None:
        if any((begin, end, out, key, config_file, settings, as_json)):
            raise typer.BadParameter(f"options before {context.invoked_subcommand} are for a new statement alone")
        return
    if begin is None or end is None:
        raise typer.BadParameter("it is missing", param_hint="--from" if begin is None else "--to")
    from projector.backends import open_log, open_store
    from projector.generations import totals
    from projector.reading import live_generation
    from projector.statement.creation import create
    from projector.statement.period import Period
    from projector.statement.signature import KEYGEN, private_key

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that what is half written goes away
    period = Period.parsed(begin, end)
    if key is None:
        raise Misconfigured(f"a statement is signed: name the private key with --key ({KEYGEN})")
    signing = private_key(key)
    directory = out or Path("statement-" + "-".join(text.replace(":", "") for text in period.texts()))
    config = configured(config_file, settings)
    with closing(open_log(config)) as log, closing(open_store(config)) as store:
        ids = sum(totals(store, live_generation(store, config)).values())
        with progress("ids read", ids) as advance:
            manifest = create(log, store, config, period, signing, directory, advance)
    if as_json:
        print_json({"directory": str(directory), **manifest.model_dump()})
        return
    _print_manifest(manifest)
    print(f"written: {directory}")


@statement_app.command("verify")
def verify_command(
    public_key_file: Annotated[
        Path, typer.Option("--public-key", help="The signer's Ed25519 public key in PEM.", metavar="FILE")
    ],
    directory: Annotated[Path | None, typer.Argument(help="Directory of a statement.", metavar="DIR")] = None,
    proof: Annotated[
        Path | None, typer.Option(help="Check a proof made by `prove` instead of a directory.", metavar="FILE")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check a statement, or the proof of one id, with the signer's public key and nothing else; exit 1 if it fails.

    Example: [bold]projector statement verify DIR --public-key billing.pem.pub[/bold]
    """
    from projector.statement.proof import verify_proof
    from projector.statement.signature import public_key
    from projector.statement.verification import verify

    if (directory is None) == (proof is None):
        raise typer.BadParameter("give either DIR or --proof FILE")
    key = public_key(public_key_file)
    shown: dict[str, Any] = {}
    counted: list[Leaf] = []
    if proof is not None:
        proven = verify_proof(proof, key)
        found = proven.verification
        if proven.proof is not None and not found.failures:
            counted = [each.leaf for each in proven.proof.leaves]
            shown = {"counted": [leaf._asdict() for leaf in counted]}
    elif directory is not None:
        found = verify(directory, key)
    if as_json:
        manifest = None if found.manifest is None else found.manifest.model_dump()
        print_json({"verified": not found.failures, "failures": found.failures, "manifest": manifest, **shown})
    else:
        _print_verification(found, counted)
    if found.failures:
        raise typer.Exit(1)


@statement_app.command("prove")
def prove_command(
    directory: Directory,
    event_id: Annotated[str, typer.Argument(help="Id of the event; a UUID in any spelling.", metavar="EVENT-ID")],
    out: Annotated[
        Path | None, typer.Option(help="File to write the proof to. Default: standard output.", metavar="FILE")
    ] = None,
) -> None:
    """Prove that an event was counted in a statement's period, without showing the other ids; exit 1 if it was not.

    Example: [bold]projector statement prove DIR 0d33124c-beca-4b4f-a833-8c9646167e8c --out proof.json[/bold]
    """
    from projector.statement.proof import prove

    proof = prove(directory, event_id)
    if proof is None:
        print(f"error: {printable(event_id)} was not counted in this period", file=sys.stderr)
        raise typer.Exit(1)
    if out is None:
        sys.stdout.buffer.write(proof.encoded())
        return
    try:
        out.write_bytes(proof.encoded())
    except OSError as error:
        raise Misconfigured(f"cannot write {out}: {error.strerror}") from None
    print(f"written: {out}; check it with: projector statement verify --proof {out} --public-key FILE")


@statement_app.command("compare")
def compare_command(
    first: Annotated[Path, typer.Argument(help="Directory of the earlier statement.", metavar="DIR")],
    second: Annotated[Path, typer.Argument(help="Directory of the later one, of the same period.", metavar="DIR")],
    as_json: AsJson = False,
) -> None:
    """List, id by id, how two statements of the same period differ; exit 1 where they do.

    Example: [bold]projector statement compare january january-again[/bold]
    """
    from projector.statement.difference import compared

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the sorted ids go away
    with compared(first, second) as comparison:
        counts = comparison.counts()
        if as_json:
            _write_comparison(comparison, counts)
        else:
            _print_comparison(comparison, counts)
    if counts.total():
        raise typer.Exit(1)


@statement_app.command("keygen")
def keygen_command(
    file: Annotated[
        Path, typer.Argument(help="File of the private key; the public one goes to FILE.pub.", metavar="FILE")
    ],
    as_json: AsJson = False,
) -> None:
    """Make an Ed25519 key pair to sign statements with. The private key is for its owner alone (mode 0600).

    Example: [bold]projector statement keygen billing.pem[/bold]
    """
    from projector.statement.signature import generate

    public = generate(file)
    if as_json:
        print_json({"private_key": str(file), "public_key": str(public)})
    else:
        print(f"private key: {file}, keep it secret\npublic key: {public}, for whoever verifies")


# --- what is printed


def _print_manifest(manifest: "Manifest") -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("KPI", "counted", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for kpi, total in manifest.totals.items():
        table.add_row(Text(printable(kpi)), f"{total:,}")
    table.add_row("all", f"{manifest.leaves:,}")
    console().print(table)
    checkpoint = " ".join(f"{partition}:{offset}" for partition, offset in manifest.checkpoint.items())
    for name, text in (
        ("period", f"{manifest.period_from} to {manifest.period_to}"),
        ("topic", manifest.topic),
        ("campaigns", f"{manifest.campaigns:,}"),
        ("generation", f"{manifest.generation}, epoch {manifest.epoch}"),
        ("checkpoint", checkpoint),
        ("created", f"{manifest.created} by {manifest.program}"),
        ("root", manifest.root),
    ):
        print(f"{name + ':':<12}{printable(text)}")


def _print_verification(found: "Verification", counted: "list[Leaf]") -> None:
    if found.manifest is not None:
        _print_manifest(found.manifest)
    for leaf in counted:
        print(f"counted:    {_shown(leaf)}")
    for failure in found.failures:
        print(f"FAILED: {printable(failure)}")
    if not found.failures:
        print("verified")


def _print_comparison(comparison: "Comparison", counts: "dict[Change, int]") -> None:
    for difference in comparison.differences():
        parts = (difference.change.value, *(_shown(leaf) for leaf in difference[1:] if leaf is not None))
        print(f"{parts[0]}: {' -> '.join(parts[1:])}")
    cells = comparison.cells()
    if cells:
        from rich.table import Table
        from rich.text import Text

        table = Table("campaign", "KPI", "before", "after", "came", "went", box=None, pad_edge=False)
        for column in table.columns[2:]:
            column.justify = "right"
        for cell in cells:
            table.add_row(str(cell.campaign), Text(printable(cell.kpi)), *(f"{value:,}" for value in cell[2:]))
        console().print(table)
    manifest = comparison.first.manifest
    said = ", ".join(f"{count:,} {change.value}" for change, count in counts.items())
    print(f"{manifest.period_from} to {manifest.period_to}: {said if any(counts.values()) else 'equal'}")


def _write_comparison(comparison: "Comparison", counts: "dict[Change, int]") -> None:
    """One JSON document, written as it is read: there may be more differences than fit into memory."""
    head = {
        "equal": not any(counts.values()),
        "period_from": comparison.first.manifest.period_from,
        "period_to": comparison.first.manifest.period_to,
        "checkpoints": [dict(each.manifest.checkpoint) for each in (comparison.first, comparison.second)],
        **{change.value: count for change, count in counts.items()},
        "cells": [cell._asdict() for cell in comparison.cells()],
    }
    sys.stdout.write(json.dumps(head, ensure_ascii=False)[:-1] + ', "differences": [')
    for number, line in enumerate(map(_difference, comparison.differences())):
        sys.stdout.write((", " if number else "") + json.dumps(line, ensure_ascii=False))
    sys.stdout.write("]}\n")


def _difference(difference: "Difference") -> dict[str, Any]:
    return {
        "change": difference.change.value,
        "before": difference.before._asdict() if difference.before else None,
        "after": difference.after._asdict() if difference.after else None,
    }


def _shown(leaf: "Leaf") -> str:
    from projector.statement.period import iso

    where = f"{leaf.partition}/{leaf.offset}"
    return f"{printable(leaf.id)} campaign {leaf.campaign} {printable(leaf.kpi)} at {where}, {iso(leaf.second)}"
