"""The report: one page that holds the figures, and in which nothing of what others wrote becomes markup."""

from collections.abc import Iterator
from contextlib import closing
from html.parser import HTMLParser
from pathlib import Path

import pytest

from projector.audit.report import FINDINGS_MAX, write_report
from projector.errors import Misconfigured
from projector.event import KPIS
from tests.damages import Scene

EVIL = '<script>alert("1")</script>\u202e'


class Page(HTMLParser):
    """Tags, attributes and the text of a page; every tag is closed in order."""

    VOID = frozenset({"meta", "line", "path", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attributes if name in ("src", "href", "srcset", "action")]
        assert not any(name.startswith("on") for name, _ in attributes)
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.text.append(data.strip())


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Filled, in memory of no other test."""
    with closing(Scene(tmp_path_factory.mktemp("report"))) as scene:
        scene.fill(150)
        yield scene


def reported(scene: Scene, file: Path) -> Page:
    """The page of an audit now."""
    with scene.audited() as audit:
        write_report(audit, file, now_s=1_700_000_000.0)
    text = file.read_text(encoding="utf-8")
    assert "{{" not in text
    return Page(text)


def test_a_clean_audit(scene: Scene, tmp_path: Path) -> None:
    """The verdict, the totals and a chart per KPI; nothing is loaded from elsewhere and nothing runs."""
    page = reported(scene, tmp_path / "clean.html")
    assert any(text.startswith("Clean:") for text in page.text)
    assert "script" not in page.tags
    assert page.links == []
    assert page.tags.count("svg") == sum(any(row[kpi] for row in scene.truth.values()) for kpi in KPIS)
    for kpi in KPIS:
        total = sum(row[kpi] for row in scene.truth.values())
        assert page.text[page.text.index(kpi) + 1] == f"{total:,}"
    assert "What differs" not in page.text
    assert any("2023-11-14 22:13:20 UTC" in text for text in page.text)


def test_differences_and_what_an_id_may_hold(scene: Scene, tmp_path: Path) -> None:
    """Each finding with its remedy, more of them than are shown are counted; an id is text, whatever stands in it."""
    row = scene.row(1)
    foreign = {EVIL: [0, 1_700_000_000, 0, 1]} | {f"x{n}": [0, 0, 0, 1] for n in range(FINDINGS_MAX)}
    scene.put(1, seen={**row["seen"], **foreign})
    page = reported(scene, tmp_path / "differs.html")
    scene.put(1, seen=row["seen"])
    assert "script" not in page.tags
    assert '<script>alert("1")</script>\\u202e' in page.text
    assert any("the first 1,000 of them" in text for text in page.text)
    assert "foreign" in page.text
    assert "projector rebuild" in page.text
    assert f"{FINDINGS_MAX + 1:,}" in page.text
    assert any("differences" in text for text in page.text)


def test_a_file_that_cannot_be_written(scene: Scene, tmp_path: Path) -> None:
    """Is named."""
    with scene.audited() as audit, pytest.raises(Misconfigured, match="nowhere"):
        write_report(audit, tmp_path / "nowhere" / "report.html")
