"""`projector quarantine`: the records that were not counted, and why."""

import base64
import sys
from contextlib import closing
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

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
    printable,
)

if TYPE_CHECKING:
    from projector.quarantined import Quarantined


class Action(StrEnum):
    """What `projector quarantine` does."""

    LIST = "list"
    SHOW = "show"


@app.command("quarantine")
def quarantine_command(
    action: Annotated[Action, typer.Argument(help="`list` them, or `show` one.")] = Action.LIST,
    key: Annotated[str | None, typer.Argument(help="To show: topic/partition/offset, as listed.")] = None,
    reason: Annotated[str | None, typer.Option(help="List only this reason, such as unknown-tag.")] = None,
    verdict: Annotated[str | None, typer.Option(help="List only parked, rejected or duplicate.")] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="List only this partition of the input.")] = None,
    since: Annotated[str | None, typer.Option(help="List only from this time on: ISO 8601 (UTC), or epoch ms.")] = None,
    until: Annotated[str | None, typer.Option(help="List only before this time.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="With show: the original bytes and nothing else.")] = False,
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """List the records that were not counted, and why; or show one with its original bytes.

    Example: [bold]projector quarantine --reason unknown-tag[/bold], then
    [bold]projector quarantine show edge-to-core/3/1234[/bold]
    """
    from projector.backends import open_log
    from projector.quarantined import Wanted, moment_ms, quarantined, quarantined_record

    if (action is Action.SHOW) != (key is not None):
        raise typer.BadParameter("show needs a key, list takes none: projector quarantine show edge-to-core/3/1234")
    config = configured(config_file, settings)
    since_ms, until_ms = (None if text is None else moment_ms(text) for text in (since, until))
    with closing(open_log(config)) as log:
        if key is not None:
            record = quarantined_record(log, config.quarantine_topic, key)
        else:
            wanted = Wanted(reason, verdict, partition, since_ms, until_ms)
            records, foreign = quarantined(log, config.quarantine_topic, wanted)
    if key is not None:
        _print_record(record, raw, as_json)
    elif as_json:
        print_json([_headers(record) for record in records])
    else:
        _print_records(records)
    if key is None and foreign:
        print(f"warning: {foreign} messages of {config.quarantine_topic} are not a projector's", file=sys.stderr)


def _print_records(records: "list[Quarantined]") -> None:
    from rich.text import Text

    table = plain_table(
        "record", "verdict", "reason", "time", "bytes", "detail", text=("verdict", "reason", "time", "detail")
    )
    for record in records:
        time_text = moment(record.timestamp_ms)
        columns = (record.key, record.verdict, record.reason, time_text, f"{record.value_bytes:,}", record.detail)
        table.add_row(*(Text(printable(column)) for column in columns))
    if records:
        console().print(table)
    print(f"{len(records):,} records", file=sys.stderr)


def _print_record(record: "Quarantined", raw: bool, as_json: bool) -> None:
    if raw:
        sys.stdout.buffer.write(record.value or b"")
        sys.stdout.buffer.flush()
    elif as_json:
        print_json({**_headers(record), **_json_value(record.value)})
    else:
        for name in ("key", "verdict", "reason", "detail", "generation"):
            print(f"{name + ':':<12}{printable(str(getattr(record, name)))}")
        print(f"{'time:':<12}{moment(record.timestamp_ms)}")
        print(f"{'bytes:':<12}{record.value_bytes:,}{' (a tombstone)' if record.value is None else ''}")
        print(_shown_value(record.value or b""))


def _headers(record: "Quarantined") -> dict[str, Any]:
    """For JSON: everything but the value."""
    headers = record._asdict()
    del headers["value"]
    return headers


def _json_value(value: bytes | None) -> dict[str, str | None]:
    """The value as text where it is UTF-8, else in base64 under another name."""
    try:
        return {"value": None if value is None else value.decode()}
    except UnicodeDecodeError:
        return {"value_base64": base64.b64encode(value or b"").decode()}


def _shown_value(value: bytes) -> str:
    """Text where it is UTF-8, with what a terminal would obey escaped; else a hex dump."""
    try:
        return printable(value.decode())
    except UnicodeDecodeError:
        pass
    lines = []
    for start in range(0, len(value), 16):
        part = value[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:08x}  {part.hex(' '):<47}  {text}")
    return "\n".join(lines)
