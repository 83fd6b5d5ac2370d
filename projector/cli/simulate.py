"""`projector simulate` and `projector verify`: events with a known truth, and whether the rows hold it."""

import time
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from projector.cli.app import AsJson, ConfigFile, Settings, app, configured, console, print_json, progress
from projector.errors import InDoubt, Misconfigured
from projector.reference import CAMPAIGNS, TAGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from projector.log import Log, Message

CHUNK = 5_000
TRUTH_HELP = "File with the truth, as JSON."
Share = Annotated[float, typer.Option(min=0, max=0.9)]


@app.command("simulate")
def simulate_command(
    events: Annotated[
        int, typer.Option(min=1, help="Distinct events that count; the other records come on top.")
    ] = 10_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same records.")] = 1,
    rate: Annotated[int | None, typer.Option(min=1, help="Records a second.  [default: as fast as it goes]")] = None,
    campaigns: Annotated[int, typer.Option(min=1, help="Campaigns of the reference data set.")] = CAMPAIGNS,
    tags: Annotated[int, typer.Option(min=1, help="Tags of each campaign.")] = TAGS,
    tags_seed: Annotated[int, typer.Option(help="The seed that `projector seed` was given.")] = 1,
    duplicates_near: Share = 0.02,
    duplicates_far: Share = 0.01,
    duplicates_very_far: Share = 0.002,
    reshipped: Share = 0.005,
    deletes: Share = 0.005,
    unknown_tags: Share = 0.005,
    unknown_kinds: Share = 0.002,
    malformed: Share = 0.002,
    clean: Annotated[bool, typer.Option("--clean", help="Good new events only: all shares 0.")] = False,
    truth: Annotated[
        Path | None, typer.Option(help=f"{TRUTH_HELP} A further run with another seed adds to it.", metavar="FILE")
    ] = None,
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Append seeded ad events to the input topic, with shares of everything that goes wrong, and write the truth.

    Example: [bold]projector simulate --events 200000 --seed 7 --truth truth.json[/bold]
    """
    from projector.backends import open_log
    from projector.simulator import CLEAN, Shares, Simulation, Truth, load_truth, simulate

    config = configured(config_file, settings)
    shares = Shares(
        duplicates_near,
        duplicates_far,
        duplicates_very_far,
        reshipped,
        deletes,
        unknown_tags,
        unknown_kinds,
        malformed,
    )
    simulation = Simulation(events, seed, campaigns, tags, tags_seed, CLEAN if clean else shares)
    told = load_truth(truth) if truth and truth.exists() else Truth()
    with closing(open_log(config)) as log:
        topic = log.topic(config.input_topic)
        if topic is None:
            raise Misconfigured(f"topic {config.input_topic} is not there: run: projector migrate")
        with progress("events", events) as advance:
            before = told.verdicts.get("counted", 0)
            for count in _append(log, simulate(simulation, config.input_topic, topic.partitions, told), rate):
                done = told.verdicts.get("counted", 0)
                advance(done - before)
                before = done
                sent = count
    if truth:
        told.save(truth)
    if as_json:
        print_json(
            {"records": sent, "events": events, "seed": seed, "verdicts": told.verdicts, "reasons": told.reasons}
        )
    else:
        print(f"{sent:,} records, {events:,} of them new events, appended to {config.input_topic}")


def _append(log: "Log", messages: "Iterator[Message]", rate: int | None) -> "Iterator[int]":
    """Append in chunks, at `rate` records a second; yields how many there are by now."""
    began, count = time.monotonic(), 0
    chunk_size = max(1, min(CHUNK, rate // 50)) if rate else CHUNK
    while chunk := list(islice(messages, chunk_size)):
        try:
            log.append(chunk)
        except InDoubt as error:
            # Sent again, they might be there twice at once: harmless for counting, but not what the truth says.
            raise Misconfigured(
                f"the log did not acknowledge the records: {error}: begin again on a new topic"
            ) from error
        count += len(chunk)
        if rate:
            time.sleep(max(0.0, began + count / rate - time.monotonic()))
        yield count


@app.command("verify")
def verify_command(
    truth: Annotated[Path, typer.Option(help=TRUTH_HELP, metavar="FILE")],
    config_file: ConfigFile = None,
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """Compare the campaign rows with the simulator's truth, cell by cell; exit 1 on any difference.

    Example: [bold]projector verify --truth truth.json[/bold]
    """
    from projector.backends import open_store
    from projector.reading import campaigns, live_generation
    from projector.simulator import differences, load_truth

    expected = load_truth(truth)
    config = configured(config_file, settings)
    with closing(open_store(config)) as store:
        rows = campaigns(store, live_generation(store, config))
    held = {row.campaign: {kpi: count - row.opening.get(kpi, 0) for kpi, count in row.stats.items()} for row in rows}
    found = differences(expected, held)
    events = sum(sum(kpis.values()) for kpis in expected.campaigns.values())
    if as_json:
        names = ("campaign", "kpi", "true", "held")
        listed = [dict(zip(names, each, strict=True)) for each in found]
        print_json({"events": events, "campaigns": len(expected.campaigns), "differences": listed})
    elif found:
        from rich.table import Table

        table = Table("campaign", "KPI", "true", "held", "difference")
        for campaign, kpi, true, there in found:
            table.add_row(str(campaign), kpi, f"{true:,}", f"{there:,}", f"{there - true:+,}")
        console().print(table)
        print(f"{len(found):,} cells differ from the truth")
    else:
        print(f"{events:,} events in {len(expected.campaigns):,} campaigns: every cell is the truth")
    if found:
        raise typer.Exit(1)
