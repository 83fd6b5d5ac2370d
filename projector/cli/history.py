"""What repairs did, or would do, as text: for `projector repair`, and for `projector audit --history`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from projector.cli.app import console, print_json
from projector.cli.generations import when
from projector.printable import printable

if TYPE_CHECKING:
    from projector.repair.journal import Told

LINES_MAX = 20
"""Of one repair, on the terminal."""
_SIGHTING = ("id", "kpi", "second", "partition", "offset")
_TOTAL = ("value", "epoch", "rev")


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
                    "intent": [named(change) for change in each.intents],
                    "outcome": [named(change) for change in each.outcomes],
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
        table.add_row(*(Text(printable(cell)) for cell in cells), Text("\n".join([*what[:LINES_MAX], *more])))
    console().print(table)
    if not told:
        print("no repair was ever begun")


def named(change: Mapping[str, Any]) -> dict[str, Any]:
    """A change of the journal, which keeps its lists short, with the names of what they hold."""
    match change:
        case {"what": "ids", "ids": ids}:
            return {**change, "ids": [dict(zip(_SIGHTING, each, strict=True)) for each in ids]}
        case {"what": "publication", "before": before}:
            return {**change, "before": {kpi: dict(zip(_TOTAL, each, strict=True)) for kpi, each in before.items()}}
    return dict(change)


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
