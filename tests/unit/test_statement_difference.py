"""Two statements of one period: how they differ, id by id."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from projector.errors import Refused
from projector.statement.difference import Cell, Change, Difference, compared
from projector.statement.leaf import Leaf, leaves
from projector.statement.period import Period
from tests.statements import BEGIN, END, Place, Sent, a_month, number, rewrite, sign

LATE = [
    Sent(number(200), 1, "click", BEGIN + 5, 0),
    Sent(number(201), 3, "visit", BEGIN + 6, 1),
    Sent("late \U0001f553", 2, "conversion", END - 1, 1),
]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    made.send(*a_month())
    made.count()
    yield made
    made.close()


def differences(first: Path, second: Path) -> list[Difference]:
    """All of them; their counts by kind must be those that are told."""
    with compared(first, second) as comparison:
        found = list(comparison.differences())
        assert comparison.counts() == {change: sum(each.change is change for each in found) for change in Change}
        assert bool(comparison.cells()) <= bool(found)
        return found


def cells(first: Path, second: Path) -> list[Cell]:
    """Per campaign and KPI."""
    with compared(first, second) as comparison:
        return comparison.cells()


def test_equal_statements(place: Place, tmp_path: Path) -> None:
    """No difference, also where the checkpoint went on without the period."""
    place.state(tmp_path / "one")
    place.send(Sent(number(300), 1, second=END), Sent(number(301), 2, second=BEGIN - 1))
    place.count()
    place.state(tmp_path / "other")
    assert differences(tmp_path / "one", tmp_path / "other") == []
    assert cells(tmp_path / "one", tmp_path / "other") == []


def test_any_name_of_a_directory(place: Place, tmp_path: Path) -> None:
    """Also one that a pattern or a quote could be read into."""
    for name in ("o'[a]*?b", "o'a*?b", "o'axxb"):
        place.state(tmp_path / name)
    assert differences(tmp_path / "o'[a]*?b", tmp_path / "o'axxb") == []
    place.send(*LATE)
    place.count()
    place.state(tmp_path / "late")
    assert len(differences(tmp_path / "o'[a]*?b", tmp_path / "late")) == len(LATE)


def test_late_events_are_the_difference(place: Place, tmp_path: Path) -> None:
    """Exactly those that were counted after the first: not duplicates of old ones, not those of another period."""
    place.state(tmp_path / "one")
    offsets = place.log.ends("edge-to-core")
    place.send(
        *LATE,
        a_month()[0],
        Sent(number(300), 1, second=END, partition=0),
        Sent(number(301), 1, "hack", partition=0),
        LATE[0],
    )
    place.count()
    place.state(tmp_path / "other")
    expected = [
        Leaf(1, "clicks", number(200), BEGIN + 5, 0, offsets[0]),
        Leaf(3, "visits", number(201), BEGIN + 6, 1, offsets[1]),
        Leaf(2, "conversions", "late \U0001f553", END - 1, 1, offsets[1] + 1),
    ]
    found = differences(tmp_path / "one", tmp_path / "other")
    assert found == [Difference(Change.ADDED, None, leaf) for leaf in sorted(expected, key=lambda leaf: leaf.id)]
    back = differences(tmp_path / "other", tmp_path / "one")
    assert back == [Difference(Change.REMOVED, each.after, None) for each in found]
    before = {(leaf.campaign, leaf.kpi): 0 for leaf in leaves(tmp_path / "one" / "ids.parquet")}
    for leaf in leaves(tmp_path / "one" / "ids.parquet"):
        before[leaf.campaign, leaf.kpi] += 1
    assert cells(tmp_path / "one", tmp_path / "other") == [
        Cell(1, "clicks", before.get((1, "clicks"), 0), before.get((1, "clicks"), 0) + 1, 1, 0),
        Cell(2, "conversions", before.get((2, "conversions"), 0), before.get((2, "conversions"), 0) + 1, 1, 0),
        Cell(3, "visits", 0, 1, 1, 0),
    ]


def test_an_id_that_changed(place: Place, tmp_path: Path) -> None:
    """KPI, position, second or campaign: one difference with both leaves; the cells that it left and came to."""
    place.state(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    at = {leaf.id: leaf for leaf in leaves(tmp_path / "one" / "ids.parquet") if leaf.id != number(0)}
    kpi, position, second, campaign = (at[number(n)] for n in (3, 6, 9, 12))
    assert {leaf.campaign for leaf in (kpi, position, second, campaign)} == {1}
    after = {
        kpi: kpi._replace(kpi="conversions"),
        position: position._replace(offset=position.offset + 1),
        second: second._replace(second=second.second + 1),
        campaign: campaign._replace(campaign=2),
    }
    assert kpi.kpi != "conversions"
    rewrite(
        tmp_path / "other",
        "ids.parquet",
        f"""
        SELECT * REPLACE (
            CASE WHEN id = '{kpi.id}' THEN 'conversions' ELSE kpi END AS kpi,
            CASE WHEN id = '{position.id}' THEN "offset" + 1 ELSE "offset" END AS "offset",
            CASE WHEN id = '{second.id}' THEN second + 1 ELSE second END AS second,
            CASE WHEN id = '{campaign.id}' THEN 2 ELSE campaign END AS campaign
        ) FROM old ORDER BY campaign, id
        """,
    )
    sign(tmp_path / "other")
    found = differences(tmp_path / "one", tmp_path / "other")
    assert found == sorted(
        (Difference(Change.CHANGED, before, leaf) for before, leaf in after.items()),
        key=lambda each: each.before.id if each.before else "",
    )
    moved = {(cell.campaign, cell.kpi): (cell.came, cell.went) for cell in cells(tmp_path / "one", tmp_path / "other")}
    assert moved == {
        (1, kpi.kpi): (0, 1),
        (1, "conversions"): (1, 0),
        (1, campaign.kpi): (0, 1 + (campaign.kpi == kpi.kpi)),
        (2, campaign.kpi): (1, 0),
    }


def test_an_id_of_two_campaigns(place: Place, tmp_path: Path) -> None:
    """Gone from one of them, it is still in the other: one difference."""
    place.state(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    rewrite(tmp_path / "other", "ids.parquet", f"SELECT * FROM old WHERE campaign <> 2 OR id <> '{number(0)}'")
    sign(tmp_path / "other")
    (found,) = differences(tmp_path / "one", tmp_path / "other")
    assert (found.change, found.after) == (Change.REMOVED, None)
    assert found.before is not None
    assert (found.before.campaign, found.before.id) == (2, number(0))


def test_what_cannot_be_compared(place: Place, tmp_path: Path) -> None:
    """Another period, another topic."""
    place.state(tmp_path / "one")
    place.state(tmp_path / "longer", Period(BEGIN - 1, END))
    shutil.copytree(tmp_path / "one", tmp_path / "elsewhere")
    sign(tmp_path / "elsewhere", lambda said: said.update(topic_id="another"))
    for other, named in (("longer", "2025-12-31T23:59:59Z"), ("elsewhere", "not of one topic")):
        with pytest.raises(Refused, match=named), compared(tmp_path / "one", tmp_path / other):
            pass
