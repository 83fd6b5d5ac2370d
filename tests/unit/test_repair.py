"""Repair: damage of each kind, done by hand, is mended to the truth, or refused with nothing changed."""

import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from projector.audit.finding import Remedy
from projector.errors import Refused
from projector.event import KPIS
from projector.pointer import PointerRow
from projector.repair.content import foot
from projector.repair.execution import Execution, refuse_busy
from projector.repair.journal import history
from projector.repair.plan import Planner
from projector.store import Answer, Write
from tests.audits import GENERATION, without
from tests.damages import MENDED, REFUSED, Scene, assert_true, counter_changed, counter_lowered, everything
from tests.generations import Counting

EVENTS = 250


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Filled, and closed."""
    scene = Scene(tmp_path_factory.mktemp("counted"))
    scene.fill(EVENTS)
    scene.close()
    return scene


@pytest.fixture
def site(counted: Scene, tmp_path: Path) -> Iterator[Scene]:
    """A copy of its own."""
    for file in counted.config.file.parent.iterdir():
        shutil.copy(file, tmp_path)
    with closing(counted.reopened(tmp_path)) as copy:
        yield copy


def dumped(site: Scene) -> list[str]:
    """Every row of log and store."""
    with closing(sqlite3.connect(site.config.file)) as database:
        return list(database.iterdump())


@pytest.mark.parametrize("damage", MENDED, ids=lambda damage: damage.__name__)
def test_what_the_audit_names_is_mended(site: Scene, damage: Callable[[Scene], None]) -> None:
    """To the truth: a second audit is clean, and a second repair has nothing to do. Planning changes nothing."""
    damage(site)
    with site.audited() as audit:
        assert {kind for kind, count in audit.counts.items() if count} == MENDED[damage]
        assert {each.remedy for each in audit.findings()} == {Remedy.REPAIR}
        before, stats = dumped(site), {campaign: site.row(campaign)["stats"] for campaign in site.truth}
        planner = Planner(audit, site.log, site.store, site.config)
        plan = planner.plan()
        assert not plan.empty
        assert dumped(site) == before
        done = Execution(planner, plan, site.log, site.store, site.config).run("somebody", "a test")
    assert_true(site)
    (told,) = history(site.store)
    assert told.ended
    assert told.outcomes == done
    for intended in (each for each in told.intents if each["what"] == "row"):
        assert (intended["before"], intended["after"]) == (
            stats[intended["campaign"]],
            site.truth[intended["campaign"]],
        )
    for change in (each for each in done if each["what"] == "row"):
        assert change["before"]["stats"] == stats[change["campaign"]]
        assert change["after"]["stats"] == site.truth[change["campaign"]]


def test_what_is_clean_is_left_alone(site: Scene) -> None:
    """Nothing to do, and the truth stands."""
    assert_true(site)


@pytest.mark.parametrize("damage", REFUSED, ids=lambda damage: damage.__name__)
def test_what_the_ledger_should_not_hold_is_refused(site: Scene, damage: Callable[[Scene], None]) -> None:
    """The rebuild is named; neither this nor what else could be mended is touched."""
    damage(site)
    counter_lowered(site)
    before = dumped(site)
    with pytest.raises(Refused, match="projector rebuild"):
        site.mend()
    assert dumped(site) == before


@pytest.mark.parametrize("lost", [True, False])
def test_before_the_head_nothing_is_lost_or_won_in_silence(site: Scene, lost: bool) -> None:
    """The topic no longer has the records: an id that is gone there, or was added by hand, is not made right."""
    topic = site.config.input_topic
    campaign, held = next((c, seen) for c in site.truth if (seen := site.row(c)["seen"]))
    event_id, sighting = next(iter(held.items()))
    code, second, partition, offset = sighting
    site.log.delete_before(topic, {partition: offset + 1})
    assert site.found() == {}
    added: dict[Any, Any] = {b"0123456789abcdef": [code, second, partition, offset]}
    kept = without(held, event_id) if lost else {**held, **added}
    site.put(campaign, seen=kept, stats=site.counted(campaign, KPIS[code], -1 if lost else 1))
    before = dumped(site)
    with pytest.raises(Refused, match="1 ids fewer" if lost else "1 ids more"):
        site.mend()
    assert dumped(site) == before


def test_workers_must_be_stopped(site: Scene) -> None:
    """A member of the group, or a generation that is being closed, refuses it before anything is written."""
    counter_changed(site)
    with site.audited() as audit:
        planner = Planner(audit, site.log, site.store, site.config)
        execution = Execution(planner, planner.plan(), site.log, site.store, site.config)
        worker = site.worker()
        worker.join()
        with pytest.raises(Refused, match="stop the workers first"):
            refuse_busy(site.log, site.store, site.config)
        with pytest.raises(Refused, match="stop the workers first"):
            execution.run("somebody", "a test")
        worker.leave()
        pointer = PointerRow(site.store, 0.0)
        own = pointer.close(pointer.settled(), 60.0)
        with pytest.raises(Refused, match="being closed"):
            execution.run("somebody", "a test")
    pointer.reopen(own)
    assert history(site.store) == []
    site.mend()
    assert_true(site)


def test_a_checkpoint_that_moves_after_the_audit_is_not_overwritten(site: Scene) -> None:
    """What a worker counted meanwhile stays committed."""
    counter_changed(site)
    with site.audited() as audit:
        planner = Planner(audit, site.log, site.store, site.config)
        plan = planner.plan()
        site.append("in-between", "click", campaign=1)
        site.run()
        before = site.log.checkpoint(GENERATION.group, site.config.input_topic)
        with pytest.raises(Refused, match="moved"):
            Execution(planner, plan, site.log, site.store, site.config).run("somebody", "a test")
    assert site.log.checkpoint(GENERATION.group, site.config.input_topic) == before
    (told,) = history(site.store)
    assert not told.ended


def test_a_worker_goes_on_after_it(site: Scene) -> None:
    """From the same checkpoint, with the truth as its base."""
    everything(site)
    site.mend()
    more = site.simulate(200, seed_number=5)
    site.run()
    for campaign, row in site.truth.items():
        for kpi in KPIS:
            row[kpi] += more.campaigns.get(str(campaign), {}).get(kpi, 0)
    assert_true(site)


class Beside:
    """A store in which something else is done right before the first write."""

    def __init__(self, scene: Scene, deed: Callable[[], None]) -> None:
        self._store = scene.store
        self._deed: Callable[[], None] | None = deed

    def write(self, writes: Sequence[Write]) -> list[Answer]:
        """Once."""
        deed, self._deed = self._deed, None
        if deed is not None:
            deed()
        return self._store.write(writes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def test_totals_are_set_for_the_ids_that_they_were_read_with(site: Scene) -> None:
    """A worker that counts between the read and the write loses nothing."""
    counter_changed(site)
    stats = site.truth[1]
    stats["clicks"] += 1

    def count() -> None:
        Counting(site.store, GENERATION, 1_000).add(1, {"in-between": [2, 5, 0, 1_000_000]})

    foot(Beside(site, count), GENERATION, 1, {})
    assert site.row(1)["stats"] == stats


def test_what_a_killed_worker_left_uncommitted_is_no_matter_of_repair(site: Scene) -> None:
    """Its rows are ahead of checkpoint and publications; the next worker commits and publishes them."""
    offset = site.append("a-last-one", "click", campaign=3, partition=0)
    Counting(site.store, GENERATION, 1_000).add(3, {"a-last-one": [2, 1_767_225_700, 0, offset]})
    assert site.mend() == []
    site.run()
    site.truth[3]["clicks"] += 1
    assert_true(site)
