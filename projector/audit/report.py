"""Report: an audit as one HTML page that needs nothing else, for whoever was not there when it ran."""

import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from projector.audit.finding import Finding, Kind
from projector.audit.result import Audit, Cell
from projector.errors import Misconfigured
from projector.event import KPIS
from projector.printable import printable

FINDINGS_MAX = 1_000
"""Of a kind, on the page."""
CELLS_MAX = 4_000
"""Rows of the table of campaigns, on the page; those that differ come first."""
BUCKETS = 60
WIDTH, HEIGHT = 640, 150
"""Of a chart, without its labels."""
MEANING: Mapping[Kind, str] = {
    Kind.MISSING: "in the topic, and not counted",
    Kind.FOREIGN: "counted, and not in the topic at that position",
    Kind.TWICE: "in two places of one campaign's ledger",
    Kind.TWO_CAMPAIGNS: "counted for two campaigns",
    Kind.OTHER_KIND: "counted as another kind than the topic has",
    Kind.DAMAGED: "a page, or the chain of pages, is damaged",
    Kind.TOTAL: "a row's total does not follow from its opening and its ids",
    Kind.PUBLISHED: "the last published total is not the row's",
    Kind.BALANCE: "the committed totals do not add up",
}


class Section(NamedTuple):
    """The findings of one kind: how many there are, the first of them, and what mends those."""

    kind: Kind
    meaning: str
    total: int
    findings: Sequence[Finding]
    remedies: Sequence[str]


class Bar(NamedTuple):
    """What a part of the time has: as it is drawn, and as it is told. Lengths in the units of the chart."""

    x: float
    width: float
    topic: float
    """Height; of the larger of both where they differ, so that it is seen."""
    ledger: float
    """Height."""
    differs: bool
    told: str


class Chart(NamedTuple):
    """Ids of a KPI over time. `most`: what the full height stands for."""

    kpi: str
    topic: int
    ledger: int
    most: int
    first: str
    last: str
    bars: Sequence[Bar]

    @property
    def line(self) -> str:
        """The ledger, as the steps of an SVG path."""
        steps = [f"M{bar.x:.1f} {HEIGHT - bar.ledger:.1f}h{bar.width:.1f}" for bar in self.bars]
        return "".join(steps)


class Sums(NamedTuple):
    """The cells of a KPI, added up."""

    kpi: str
    topic: int
    apart: int
    ledger: int
    opening: int
    stats: int
    published: int
    differing: int


def write_report(audit: Audit, path: Path, now_s: float | None = None) -> None:
    """Write the page. Raises `Misconfigured` where the file cannot be written."""
    environment = Environment(
        loader=PackageLoader("projector.audit"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": _number, "moment": _moment, "shown": _shown}
    sums, cells = _table(audit)
    page = environment.get_template("report.html").stream(
        audit=audit,
        version=version("projector"),
        written=time.time() if now_s is None else now_s,
        sections=list(_sections(audit)),
        parked=list(audit.parked(FINDINGS_MAX)),
        differences=sum(audit.counts.values()),
        sums=sums,
        cells=cells,
        cells_total=audit.campaigns * len(KPIS),
        charts=[_chart(audit, code, kpi) for code, kpi in enumerate(KPIS)],
        width=WIDTH,
        height=HEIGHT,
    )
    try:
        page.dump(str(path), encoding="utf-8")
    except OSError as error:
        raise Misconfigured(f"{path}: {error.strerror}: give a file that can be written") from None


def _sections(audit: Audit) -> Iterator[Section]:
    for kind, total in audit.counts.items():
        if total:
            findings = list(audit.findings(kind, FINDINGS_MAX))
            remedies = dict.fromkeys(each.remedy.value for each in findings if each.remedy.value)
            yield Section(kind, MEANING[kind], total, findings, list(remedies))


def _table(audit: Audit) -> tuple[list[Sums], list[Cell]]:
    """The sums of each KPI; and the cells that are shown: those that differ, then others, in the order of campaigns."""
    sums = {kpi: Sums(kpi, 0, 0, 0, 0, 0, 0, 0) for kpi in KPIS}
    for cell in audit.cells():
        held = sums[cell.kpi]
        sums[cell.kpi] = Sums(
            cell.kpi,
            held.topic + cell.topic,
            held.apart + cell.apart,
            held.ledger + cell.ledger,
            held.opening + cell.opening,
            held.stats + (cell.stats or 0),
            held.published + (cell.published or 0),
            held.differing + (cell.findings > 0 or cell.difference != 0),
        )
    shown = list(islice(audit.cells(differing=True), CELLS_MAX))
    named = {(cell.campaign, cell.kpi) for cell in shown}
    others = (cell for cell in audit.cells() if (cell.campaign, cell.kpi) not in named)
    shown += islice(others, CELLS_MAX - len(shown))
    return list(sums.values()), sorted(shown, key=lambda cell: (cell.campaign, KPIS.index(cell.kpi)))


def _chart(audit: Audit, code: int, kpi: str) -> Chart:
    series = audit.series(code, BUCKETS)
    if not series:
        return Chart(kpi, 0, 0, 0, "", "", [])
    starts = [began for began, _, _ in series]
    step = min((later - earlier for earlier, later in pairwise(starts)), default=1)
    span = starts[-1] + step - starts[0]
    most = max(max(topic, ledger) for _, topic, ledger in series)
    bars = [
        Bar(
            x=(began - starts[0]) / span * WIDTH,
            width=step / span * WIDTH,
            topic=max(topic, ledger) / most * HEIGHT if most else 0.0,
            ledger=ledger / most * HEIGHT if most else 0.0,
            differs=topic != ledger,
            told=f"{_moment(began)}: {topic:,} in the topic, {ledger:,} in the ledger",
        )
        for began, topic, ledger in series
    ]
    totals = [sum(each[column] for each in series) for column in (1, 2)]
    return Chart(kpi, totals[0], totals[1], most, _moment(starts[0]), _moment(starts[-1] + step), bars)


def _number(value: int | None) -> str:
    return "none" if value is None else f"{value:,}"


def _moment(second: float | None) -> str:
    """A time, UTC; a Kafka timestamp may be anything."""
    if not second:
        return ""
    try:
        return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return f"second {second:.0f}"


def _shown(text: str | None) -> str:
    """Text of others, without what would steer a terminal or the direction of writing."""
    return "" if text is None else printable(text)
