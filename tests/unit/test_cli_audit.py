"""`projector audit` as an operator meets it: a summary or a table, JSON, exit codes, what is refused."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from projector.audit.database import open_database
from projector.cli.app import app, main
from projector.errors import Misconfigured
from projector.store import Put, RowKey, Write
from tests.audits import Site, some_id, text, without


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A few hundred events, counted."""
    with closing(Site(tmp_path)) as made:
        made.prepare()
        made.simulate(150)
        made.append("\x1b[31mred", "click")
        made.run()
        yield made


def projector(site: Site, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["audit", *arguments, "--set", f"file={site.config.file}"])


def test_a_clean_one_is_a_short_summary(site: Site) -> None:
    """What was compared, up to where; exit 0."""
    done = projector(site)
    assert done.exit_code == 0, done
    first, *rest = done.stdout.splitlines()
    assert first.startswith("clean: generation 1, 3 campaigns, ")
    assert "151 ids counted, up to 0:" in first
    assert len(rest) == 1
    assert "duplicates" in rest[0]
    assert "unknown-tag" in rest[0]
    assert "records of the topic" in done.stderr
    assert "ids of the ledger: 346 of 346" in done.stderr


def test_differences_are_listed_with_what_mends_them(site: Site) -> None:
    """Only the cells that differ, each finding with its id and position; exit 1; a terminal obeys nothing of it."""
    seen = site.row(1)["seen"]
    assert "\x1b[31mred" in seen
    site.put(1, seen=without(seen, "\x1b[31mred"), stats=site.counted(1, "clicks", -1))
    done = projector(site)
    assert done.exit_code == 1
    assert "\x1b" not in done.stdout
    assert "missing: campaign 1 clicks \\x1b[31mred at 0/" in done.stdout
    assert "impressions" not in done.stdout
    assert "next: projector repair" in done.stdout
    assert "rebuild" not in done.stdout


def test_json_names_every_id(site: Site) -> None:
    """Findings, cells, counts and remedies for programs; exit 1."""
    seen = site.row(1)["seen"]
    event_id, sighting = some_id(seen, "impressions")
    site.put(1, seen={**seen, "made-up": sighting})
    done = projector(site, "--json")
    assert done.exit_code == 1
    document = json.loads(done.stdout)
    assert document["clean"] is False
    assert document["counts"]["foreign"] == 1
    (foreign,) = [each for each in document["findings"] if each["kind"] == "foreign"]
    assert (foreign["id"], foreign["campaign"], foreign["kpi"]) == ("made-up", 1, "impressions")
    assert [foreign["partition"], foreign["offset"]] == sighting[2:]
    assert document["remedies"] == ["projector repair", "projector rebuild"]
    (cell,) = [each for each in document["cells"] if each["difference"]]
    assert (cell["campaign"], cell["kpi"], cell["difference"]) == (1, "impressions", 1)
    assert text(event_id) not in done.stdout


def test_json_of_a_clean_one(site: Site) -> None:
    """Nothing is listed; what is excused is counted."""
    document = json.loads(projector(site, "--json").stdout)
    assert document["clean"] is True
    assert document["findings"] == document["cells"] == document["remedies"] == []
    assert document["ids"] == 151
    assert document["checkpoint"] == {str(p): end for p, end in site.log.ends(site.config.input_topic).items()}


def test_until_a_time_and_until_offsets(site: Site) -> None:
    """Both bound it lower."""
    zero = json.loads(projector(site, "--json", "--until", "2020-01-01T00:00Z").stdout)
    assert (zero["clean"], zero["records"], zero["excused"]["past_checkpoint"]) == (True, 0, 151)
    some = json.loads(projector(site, "--json", "--until", "0:20,1:10").stdout)
    assert some["checkpoint"] == {"0": 20, "1": 10, "2": 0}
    assert some["clean"] is True


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--campaign", "99"), "campaign 99 has no row"),
        (("--generation", "9"), "there is no generation 9"),
        (("--set", "input_topic=none"), "is not the one that was counted"),
    ],
)
def test_what_cannot_be_run_exits_2(
    site: Site,
    arguments: tuple[str, ...],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With one line that says why."""
    command = ["projector", "audit", "--set", f"file={site.config.file}", *arguments]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_one_campaign(site: Site) -> None:
    """The same option of others: repeatable."""
    site.store.write([Write(RowKey("campaigns", 2), [Put("stats", site.counted(2, "visits", 3))])])
    assert projector(site, "--campaign", "1", "--campaign", "3").exit_code == 0
    assert projector(site, "--campaign", "2").exit_code == 1


def test_a_database_that_cannot_be_written_names_the_way_out(tmp_path: Path) -> None:
    """A directory that is not there."""
    with pytest.raises(Misconfigured, match="TMPDIR"):
        open_database(tmp_path / "none", 256)


def test_what_does_not_fit_is_spilled(tmp_path: Path) -> None:
    """Ten times the memory that it may use."""
    with closing(open_database(tmp_path, 64)) as database:
        made = "SELECT 'u' || md5(n::VARCHAR) AS id, n FROM range(4000000) t(n)"
        database.execute(f"CREATE TABLE held AS {made}")
        ((joined,),) = database.execute("SELECT count(*) FROM held a JOIN held b ON a.id = b.id").fetchall()
    assert joined == 4_000_000
