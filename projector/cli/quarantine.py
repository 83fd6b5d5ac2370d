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
    progress,
)
from projector.cli.generations import Yes, confirmed
from projector.errors import Refused
from projector.printable import printable

if TYPE_CHECKING:
    from projector.config import Config
    from projector.log import Log
    from projector.quarantined import Quarantined, Wanted


class Action(StrEnum):
    """What `projector quarantine` does."""

    LIST = "list"
    SHOW = "show"
    RETRY = "retry"


@app.command("quarantine")
def quarantine_command(
    action: Annotated[Action, typer.Argument(help="`list` them, `show` one, or `retry` parked ones.")] = Action.LIST,
    key: Annotated[str | None, typer.Argument(help="To show: topic/partition/offset, as listed.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only those of this reason, such as unknown-tag.")] = None,
    verdict: Annotated[str | None, typer.Option(help="List only parked, rejected or duplicate.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only those that name this tag.")] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="Only those of this partition of the input.")] = None,
    since: Annotated[str | None, typer.Option(help="Only from this time on: ISO 8601 (UTC), or epoch ms.")] = None,
    until: Annotated[str | None, typer.Option(help="Only before this time.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="With show: the original bytes and nothing else.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With retry: say what would go back, do nothing.")] = False,
    yes: Yes = False,
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """List the records that were not counted, and why; show one with its original bytes; or retry parked ones.

    A retry sends parked records back to the input topic, each once, however often it is run or killed: with their
    bytes, partition and timestamp, and headers that say where they came from. There they get a verdict again. One that
    the topic does not take, being too large, stays parked and is named; the exit code is 3 then.

    Example: [bold]projector quarantine --reason unknown-tag[/bold], then
    [bold]projector quarantine show edge-to-core/3/1234[/bold], and once the tag is there
    [bold]projector quarantine retry --reason unknown-tag[/bold]
    """
    from projector.backends import open_log
    from projector.quarantined import Wanted, moment_ms, quarantined, quarantined_record

    if (action is Action.SHOW) != (key is not None):
        raise typer.BadParameter("show needs a key, others take none: projector quarantine show edge-to-core/3/1234")
    if action is Action.RETRY and verdict is not None:
        raise typer.BadParameter("retry takes parked records, and no others: leave out --verdict")
    if dry_run and action is not Action.RETRY:
        raise typer.BadParameter("--dry-run goes with retry")
    config = configured(config_file, settings)
    since_ms, until_ms = (None if text is None else moment_ms(text) for text in (since, until))
    wanted = Wanted(reason, verdict, partition, since_ms, until_ms, tag)
    with closing(open_log(config)) as log:
        if action is Action.RETRY:
            _retry(log, config, wanted, dry_run, yes, as_json)
            return
        if key is not None:
            record = quarantined_record(log, config.quarantine_topic, key)
        else:
            records, foreign = quarantined(log, config.quarantine_topic, wanted)
    if key is not None:
        _print_record(record, raw, as_json)
    elif as_json:
        print_json([_headers(record) for record in records])
    else:
        _print_records(records)
    if key is None and foreign:
        print(f"warning: {foreign} messages of {config.quarantine_topic} are not a projector's", file=sys.stderr)


def _retry(log: "Log", config: "Config", wanted: "Wanted", dry_run: bool, yes: bool, as_json: bool) -> None:
    from projector.backends import open_store
    from projector.preflight import check_topic_id
    from projector.reading import settled_pointer
    from projector.retry import by_reason, parked, retry

    with closing(open_store(config)) as store:
        pointer = settled_pointer(store, config)
    check_topic_id(log, config, pointer)
    with progress("quarantined records", None) as advance:
        found = parked(log, config, wanted, advance)
    reasons = by_reason(found)
    sent = 0
    left: list[tuple[Quarantined, str]] = []
    if found and not dry_run:
        told = ", ".join(f"{reason} {count:,}" for reason, count in reasons.items())
        confirmed(f"Send {len(found):,} parked records ({printable(told)}) back to {config.input_topic}?", yes)
        check_topic_id(log, config, pointer)  # whoever was asked may have taken long
        with progress("records sent", len(found)) as advance:
            sent = retry(log, config, wanted, advance, lambda record, why: left.append((record, why)))
    if as_json:
        records = [_headers(each.record) for each in found.values()]
        stays = [{**_headers(record), "why": why} for record, why in left]
        document = {"dry_run": dry_run, "sent": sent, "reasons": reasons, "left": stays}
        print_json({**document, **({"records": records} if dry_run else {})})
    elif dry_run:
        for reason, count in reasons.items():
            print(printable(f"{reason}: {count:,}"))
        print(f"{len(found):,} records would go back to {config.input_topic}")
    else:
        for record, why in left:
            print(printable(f"{record.key}, {record.value_bytes:,} bytes, stays parked: {why}"))
        print(f"{sent:,} records went back to {config.input_topic}{f', {len(left):,} stay parked' if left else ''}")
    if left:
        raise typer.Exit(Refused.exit_code)


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
        return printable(value.decode(), "\n\t")
    except UnicodeDecodeError:
        pass
    lines = []
    for start in range(0, len(value), 16):
        part = value[start : start + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        lines.append(f"{start:08x}  {part.hex(' '):<47}  {text}")
    return "\n".join(lines)
