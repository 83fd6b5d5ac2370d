"""`projector repair` and `projector audit --history`: what they print, and how they exit."""

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from projector.cli.app import app, main
from projector.event import KPIS
from projector.pointer import PointerRow
from tests.damages import (
    Scene,
    assert_true,
    counter_changed,
    foreign_id,
    id_removed_with_its_count,
    published_wrongly,
)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Filled, and closed: the commands open it."""
    scene = Scene(tmp_path)
    scene.fill(250)
    scene.close()
    return scene


def invoke(scene: Scene, *arguments: str) -> tuple[int, str]:
    """Exit code and standard output."""
    result = CliRunner().invoke(app, [*arguments, "--set", f"file={scene.config.file}", "--set", "batch_records=100"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout


def found(scene: Scene, *arguments: str) -> tuple[int, Any]:
    code, text = invoke(scene, *arguments, "--json")
    return code, json.loads(text)


def damaged(scene: Scene, *damages: Any) -> None:
    with closing(scene.reopened(scene.config.file.parent)) as site:
        for damage in damages:
            damage(site)


def test_a_dry_run_shows_and_execute_does_it(scene: Scene) -> None:
    """Exit 1 with what would be done; then 0 with what was done, which the history shows with who and why."""
    assert invoke(scene, "repair") == (0, "generation 1, the audit found: nothing\nnothing to repair\n")
    damaged(scene, counter_changed, newest_dropped)
    code, text = invoke(scene, "repair")
    assert code == 1
    assert "restored" in text
    assert "nothing was changed" in text
    code, document = found(scene, "repair")
    assert (code, document["executed"], document["clean"], document["pages"]) == (1, False, False, 1)
    assert invoke(scene, "audit")[0] == 1
    assert found(scene, "audit", "--history") == (0, [])
    code, document = found(scene, "repair", "--execute", "--reason", "a \x1b[31mdisk")
    assert (code, document["executed"], document["clean"]) == (0, True, True)
    assert {change["what"] for change in document["changes"]} == {"page", "row", "publication"}
    code, told = found(scene, "audit", "--history")
    assert code == 0
    assert [(each["reason"], each["ended"] is not None) for each in told] == [("a \x1b[31mdisk", True)]
    assert told[0]["outcome"] == document["changes"]
    code, text = invoke(scene, "audit", "--history")
    assert "\x1b" not in text
    assert "disk" in text
    with closing(scene.reopened(scene.config.file.parent)) as site:
        assert_true(site)
    assert invoke(scene, "repair", "--execute", "--reason", "again")[0] == 0
    assert len(found(scene, "audit", "--history")[1]) == 1


def test_what_is_counted_and_published_is_named_field_by_field(scene: Scene) -> None:
    """In the dry run, in what was done, and in the history."""
    damaged(scene, id_removed_with_its_count, published_wrongly)
    _, planned = found(scene, "repair")
    ids = [each for change in planned["changes"] if change["what"] == "ids" for each in change["ids"]]
    assert [sorted(each) for each in ids] == [["id", "kpi", "offset", "partition", "second"]]
    assert isinstance(ids[0]["id"], str)
    assert ids[0]["kpi"] in KPIS
    code, done = found(scene, "repair", "--execute", "--reason", "a test")
    assert code == 0
    before = [change["before"] for change in done["changes"] if change["what"] == "publication"]
    totals = [total for each in before for total in each.values()]
    assert totals
    assert all(sorted(total) == ["epoch", "rev", "value"] for total in totals)
    _, (told,) = found(scene, "audit", "--history")
    assert [each for change in told["intent"] if change["what"] == "ids" for each in change["ids"]] == ids
    assert told["outcome"] == done["changes"]


def newest_dropped(site: Scene) -> None:
    site.drop_page(1, site.pages(1)[0])


def test_a_reason_is_wanted(scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 2."""
    assert ended(scene, monkeypatch, "repair", "--execute") == 2
    assert "--reason" in capsys.readouterr().err


def test_what_it_refuses(scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit 3 with the way out: the rebuild, workers to be stopped, a cutover to be waited for."""
    with closing(scene.reopened(scene.config.file.parent)) as site:
        worker = site.worker()
        worker.join()
        assert ended(scene, monkeypatch, "repair") == 3
        assert "stop the workers first" in capsys.readouterr().err
        worker.leave()
        pointer = PointerRow(site.store, 0.0)
        own = pointer.close(pointer.settled(), 60.0)
        assert ended(scene, monkeypatch, "repair") == 3
        assert "being closed" in capsys.readouterr().err
        pointer.reopen(own)
    damaged(scene, foreign_id)
    assert ended(scene, monkeypatch, "repair", "--execute", "--reason", "try") == 3
    assert "projector rebuild" in capsys.readouterr().err


def ended(scene: Scene, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """Exit code of the whole process."""
    monkeypatch.setattr("sys.argv", ["projector", *arguments, "--set", f"file={scene.config.file}"])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code
