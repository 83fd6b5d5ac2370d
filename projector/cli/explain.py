"""`projector explain`: what became of an event id, or of many."""

import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from projector.cli.app import (
    AsJson,
    ConfigFile,
    Settings,
    app,
    configured,
    moment,
    print_json,
    progress,
)
from projector.errors import LedgerDamaged, Misconfigured, Refused
from projector.printable import printable

if TYPE_CHECKING:
    from projector.explain import Explanation, Explanations
    from projector.fold import EventId
    from projector.generations import Build
    from projector.store import Store
    from projector.whereabouts import Counted

NO_ID = "is no event id: one is text of 1 to 128 bytes of UTF-8, not blank, without U+0000"
STANDARD_INPUT = Path("-")


@app.command("explain")
def explain_command(
    event_id: Annotated[
        str | None, typer.Argument(help="The event id; a UUID in any spelling.", metavar="EVENT-ID")
    ] = None,
    campaign: Annotated[int | None, typer.Option(help="Look in this campaign's ledger alone.", metavar="ID")] = None,
    tag: Annotated[str | None, typer.Option(help="Look in the ledger of this tag's campaign alone.")] = None,
    scan: Annotated[
        bool, typer.Option("--scan", help="Read the topic, too: every position of the id, with its verdict.")
    ] = False,
    file: Annotated[
        Path | None, typer.Option(help="Explain the ids in this file, one a line; - is standard input.", metavar="FILE")
    ] = None,
    generation: Annotated[
        int | None, typer.Option(min=1, help="Look in this generation, not the live one.", metavar="NUMBER")
    ] = None,
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Say where an event id was counted, and what quarantine holds of it. Exit 1 if any id was not counted.

    Without --campaign or --tag the ledgers of all campaigns are looked through. A damaged page met there is exit 4.

    Example: [bold]projector explain 0d33124c-beca-4b4f-a833-8c9646167e8c --scan[/bold]
    """
    from projector.backends import open_log, open_store
    from projector.explain import Explanations, explain

    if (event_id is None) == (file is None):
        raise typer.BadParameter("give an event id, or --file FILE")
    if campaign is not None and tag is not None:
        raise typer.BadParameter("give --campaign or --tag, not both")
    ids, bad = _asked(event_id, file)
    config = configured(config_file, settings)
    with closing(open_log(config)) as log, closing(open_store(config)) as store:
        build = _build(store, config, generation)
        if tag is not None:
            campaign = _campaign_of(store, tag)
        found = Explanations(build.number, [], [])
        if ids:
            found = explain(log, store, config, build, ids, campaign, scan, progress)
    if as_json:
        print_json(_document(found, bad))
    else:
        for each in found.of:
            _tell(each, found, campaign)
    for line, why in bad:
        print(f"line {line}: {why}", file=sys.stderr)
    for damage in found.damage:
        print(f"error: {damage}", file=sys.stderr)
    if found.damage:
        raise typer.Exit(LedgerDamaged.exit_code)
    if bad or not all(each.counted for each in found.of):
        raise typer.Exit(1)


def _asked(event_id: str | None, file: Path | None) -> "tuple[list[EventId], list[tuple[int, str]]]":
    """The ids, each once, and the lines of the file that are none. Raises `Misconfigured`."""
    from projector.event import id_of

    if file is None:
        found = id_of(event_id)
        if found is None:
            raise Misconfigured(f"{_ascii(event_id or '')} {NO_ID}")
        return [found], []
    ids: dict[EventId, None] = {}
    bad: list[tuple[int, str]] = []
    for number, line in _lines(file):
        try:
            text = line.decode()
        except UnicodeDecodeError:
            bad.append((number, f"it is not UTF-8, so it {NO_ID}"))
            continue
        found = id_of(text)
        if found is None:
            bad.append((number, f"{_ascii(text)} {NO_ID}"))
        else:
            ids[found] = None
    return list(ids), bad


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, by number. Raises `Misconfigured`."""
    try:
        content = sys.stdin.buffer.read() if file == STANDARD_INPUT else file.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{file}: {error.strerror}: give a readable file of event ids, one a line") from None
    for number, line in enumerate(content.split(b"\n"), 1):
        if line := line.removesuffix(b"\r"):
            yield number, line


def _ascii(text: str) -> str:
    return ascii(text if len(text) <= 140 else text[:140] + "...")


def _build(store: "Store", config: Any, number: int | None) -> "Build":
    """The generation to look in. Raises `Refused` for one that never was, or is no more."""
    from projector.generations import State, read
    from projector.reading import live_generation

    build = read(store, live_generation(store, config).number if number is None else number)
    if build.state is State.ABANDONED:
        raise Refused(f"generation {number} is abandoned, its rows are dropped: projector generations lists all")
    return build


def _campaign_of(store: "Store", tag: str) -> int:
    """Raises `Refused` for a tag that is not known."""
    from projector.campaign import Tags
    from projector.patience import patiently

    campaign = Tags(store, patiently).resolve([tag])[0] if tag.isprintable() else None
    if campaign is None:
        raise Refused(f"tag {_ascii(tag)} is not known: leave out --tag to look in all campaigns")
    return campaign


def _document(found: "Explanations", bad: list[tuple[int, str]]) -> dict[str, Any]:
    return {
        "generation": found.generation,
        "ids": [_entry(each) for each in found.of],
        "bad": [{"line": line, "why": why} for line, why in bad],
        "damage": found.damage,
    }


def _entry(each: "Explanation") -> dict[str, Any]:
    from projector.event import KPIS, spelled

    entry: dict[str, Any] = {"id": spelled(each.id)}
    entry["counted"] = [
        {"campaign": at.campaign, "kpi": KPIS[at.code], **dict(zip(at._fields[2:], at[2:], strict=True))}
        for at in each.counted
    ]
    entry["quarantined"] = [
        {name: held for name, held in record._asdict().items() if name != "value"} for record in each.quarantined
    ]
    if each.positions is not None:
        entry["positions"] = [position._asdict() for position in each.positions]
    return entry


def _tell(each: "Explanation", found: "Explanations", campaign: int | None) -> None:
    from projector.event import spelled

    generation = found.generation
    where = f"generation {generation}" if campaign is None else f"generation {generation} for campaign {campaign}"
    uncounted = f"not found in what could be searched of {where}" if found.damage else f"not counted in {where}"
    said = "counted" if each.counted else uncounted
    print(f"{printable(spelled(each.id))}: {said}")
    for at in each.counted:
        print(f"  {_where(at)}, generation {generation}")
    for record in each.quarantined:
        detail = f" ({record.detail})" if record.detail else ""
        told = f"{record.key} of {moment(record.timestamp_ms)}, {record.verdict} {record.reason}{detail}"
        print(printable(f"  quarantine: {told}, generation {record.generation}"))
    if each.positions is None:
        if not each.counted and not each.quarantined:
            print("  quarantine holds nothing of it: --scan looks for it in the topic")
        return
    for position in each.positions:
        told = f"{position.partition}/{position.offset} of {moment(position.timestamp_ms)}, {position.verdict}"
        more = f" {position.reason}" if position.reason else ""
        print(printable(f"  topic: {told}{more}{f' ({position.detail})' if position.detail else ''}"))
    if not each.positions:
        print("  topic: it is not there")


def _where(at: "Counted") -> str:
    from projector.event import KPIS

    place = at.place if at.place in ("seen", "sealed") else f"page {at.place}"
    position = f"{at.partition}/{at.offset} of {moment(at.second * 1000)}"
    return f"campaign {at.campaign}, {KPIS[at.code]}, at {position}, in {place}"
