"""Audit: what the projector has counted is clean, whatever came in, and beside whatever goes on meanwhile."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from projector.adoption import adopt
from projector.audit.finding import Kind, Remedy
from projector.errors import Misconfigured
from projector.event import KPIS
from projector.generation import Generation
from projector.log import Message
from projector.pointer import PointerRow
from projector.rewind import rewind
from projector.store import Presence, Put, RowKey, Write
from tests.audits import CAMPAIGNS, EVERYTHING, PARKED_TAG, Site, count_everything, kinds, some_id, text, without


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which `count_everything` was called."""
    directory = tmp_path_factory.mktemp("counted")
    count_everything(directory)
    return directory


@pytest.fixture
def site(counted: Path, tmp_path: Path) -> Iterator[Site]:
    """A copy of its own."""
    for file in counted.iterdir():
        shutil.copy(file, tmp_path)
    with closing(Site(tmp_path)) as copy:
        yield copy


def test_what_the_projector_counted_is_clean(site: Site) -> None:
    """With duplicates, conflicts, parked, rejected and rotated: nothing differs, and each is accounted for."""
    with site.audited() as audit:
        assert audit.clean
        assert list(audit.findings()) == []
        assert not audit.skipped
        assert audit.campaigns == CAMPAIGNS
        assert audit.ids == EVERYTHING
        assert audit.records == sum(audit.checkpoint.values())
        assert audit.excused.conflicts == 1
        assert audit.excused.duplicates > 100
        assert audit.excused.past_checkpoint == audit.excused.before_head == audit.excused.parked == 0
        assert {"parked:unknown-tag", "rejected:delete", "rejected:not-json"} <= audit.excused.reasons.keys()
        cells = list(audit.cells())
    assert len(cells) == CAMPAIGNS * len(KPIS)
    assert sum(cell.topic for cell in cells) == EVERYTHING
    assert all(cell.topic == cell.ledger == cell.stats == cell.published for cell in cells)
    assert len(site.pages(1)) > 10


def test_the_topics_figures_are_the_simulators_truth(tmp_path: Path) -> None:
    """Per campaign and KPI, by an oracle that nothing was counted from."""
    with closing(Site(tmp_path)) as site:
        site.prepare()
        truth = site.simulate(400, seed_number=3)
        site.run()
        with site.audited() as audit:
            topic = {(cell.campaign, cell.kpi): cell.topic for cell in audit.cells() if cell.topic}
    assert topic == {
        (int(campaign), kpi): count
        for campaign, held in truth.campaigns.items()
        for kpi, count in held.items()
        if count
    }


def test_a_tag_that_came_later_is_no_difference(site: Site) -> None:
    """Its parked records are listed apart, each id once, and `quarantine retry` is what counts them."""
    site.store.write([Write(RowKey("tags", PARKED_TAG), [Put("t-id", PARKED_TAG), Put("c-id", 1)], Presence.ABSENT)])
    with site.audited() as audit:
        assert audit.clean
        assert audit.excused.parked == 1
        (parked,) = audit.parked()
        assert all(cell.difference == 0 for cell in audit.cells())
    assert (parked.id, parked.campaign, parked.kpi) == ("parked-1", 1, "clicks")
    assert (parked.remedy, parked.verdict, parked.reason) == (Remedy.RETRY, "parked", "unknown-tag")


def test_a_parked_id_that_should_have_been_counted_at_another_position_is_missing(site: Site) -> None:
    """The tag was known when the second record came, and that one was not set aside."""
    site.append("parked-1", tag=PARKED_TAG, partition=2)
    site.run()
    site.store.write([Write(RowKey("tags", PARKED_TAG), [Put("t-id", PARKED_TAG), Put("c-id", 1)], Presence.ABSENT)])
    last = site.log.ends(site.config.input_topic)[2] - 1
    site.set_aside(2, last)
    found = site.found()
    assert kinds(found) == {Kind.MISSING: 1}
    (missing,) = found[Kind.MISSING]
    assert (missing.partition, missing.offset, missing.remedy) == (2, last, Remedy.REPAIR)


def test_beside_a_worker_what_it_counts_meanwhile_is_excused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the checkpoint and the ledgers the rows go on, and so does what is published."""
    site.simulate(200, seed_number=9)
    worker = site.worker()
    worker.join()
    scan = site.store.scan

    def applying(*arguments: object, **named: object) -> Iterator[object]:
        with monkeypatch.context() as unpatched:
            unpatched.setattr(site.store, "scan", scan)
            for _ in range(3):
                worker.turn()
        yield from scan(*arguments, **named)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(site.store, "scan", applying)
    with site.audited(published_wait_s=0.0) as audit:
        assert audit.live
        assert audit.clean, list(audit.findings())
        assert audit.excused.past_checkpoint > 0
    worker.leave()
    monkeypatch.undo()
    with site.audited() as audit:
        assert audit.clean
        assert audit.excused.past_checkpoint == 0


def test_up_to_given_offsets(site: Site) -> None:
    """Ids at or past them are excused, what is missing there is not looked at, and publications are not compared."""
    seen = site.row(1)["seen"]
    event_id, (_, _, partition, offset) = some_id(seen)
    site.put(1, seen=without(seen, event_id))
    limits = dict(site.log.ends(site.config.input_topic))
    with site.audited(until={**limits, partition: offset}) as audit:
        assert Kind.MISSING not in {each.kind for each in audit.findings()}
        assert audit.checkpoint[partition] == offset
        assert audit.excused.past_checkpoint > 0
        assert any("published" in each for each in audit.skipped)
    found = site.found(until={**limits, partition: offset + 1})
    assert [each.id for each in found[Kind.MISSING]] == [text(event_id)]


def test_one_campaign_alone(site: Site) -> None:
    """Differences of others are not looked for."""
    site.put(2, stats=site.counted(2, "clicks", 1))
    assert site.found(campaigns=[1]) == {}
    assert kinds(site.found(campaigns=[2])) == {Kind.TOTAL: 1, Kind.PUBLISHED: 1}


def test_another_generation(site: Site) -> None:
    """One that never counted: everything is past its checkpoint, which is nowhere."""
    with site.audited(generation=Generation(7, "projector")) as audit:
        assert audit.clean
        assert audit.records == 0
        assert any("generation 7" in each for each in audit.skipped)


def test_another_topic_is_not_audited(site: Site) -> None:
    """Exit code 2: the pointer row names another one."""
    site.store.write([Write(RowKey("projector", "pointer"), [Put("topic-id", "another")])])
    with pytest.raises(Misconfigured, match="is not the one that was counted"):
        site.found()


def test_what_retention_took_away_is_counted_apart(site: Site) -> None:
    """Ids before the head cannot be shown by the topic; a second record of one after it is its duplicate."""
    topic = site.config.input_topic
    sightings = [each for campaign in (1, 2, 3) for each in site.ids(campaign).values()]
    site.append("click-1", "click")
    site.run()
    site.log.delete_before(topic, {0: 200, 1: site.log.ends(topic)[1]})
    gone = sum(p == 1 or (p == 0 and offset < 200) for _, _, p, offset in sightings)
    with site.audited() as audit:
        assert audit.clean, list(audit.findings())
        assert audit.excused.before_head == gone > 0
        assert all(cell.difference == 0 for cell in audit.cells())
    ends = site.log.ends(topic)
    site.log.delete_before(topic, {0: ends[0] - 1, 2: ends[2]})
    with site.audited() as audit:
        assert audit.clean, list(audit.findings())
        assert audit.excused.before_head == len(sightings)
        cells = list(audit.cells())
    assert {(cell.campaign, cell.kpi) for cell in cells if cell.topic} == {(1, "clicks")}
    assert sum(cell.apart for cell in cells) == len(sightings) - 1


def test_retention_at_work_meanwhile(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read of the topic and is gone by the end is before its head like all else there."""
    scan = site.store.scan

    def deleting(*arguments: object, **named: object) -> Iterator[object]:
        site.log.delete_before(site.config.input_topic, {0: 300})
        yield from scan(*arguments, **named)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(site.store, "scan", deleting)
    with site.audited() as audit:
        assert audit.clean, list(audit.findings())
        assert audit.heads[0] == 300
        assert audit.excused.before_head > 0
        assert all(cell.difference == 0 for cell in audit.cells())


def test_totals_from_before_the_ledger_are_its_opening(site: Site) -> None:
    """An adopted row is clean before anything was counted for it, and after."""
    stats = {"clicks": 7, "conversions": 0, "impressions": 1, "visits": 0}
    site.put(4, c_id=4, c_name="Old", c_date=0, stats=stats)
    body = {"campaignId": 4, "kpi": "clicks", "value": 5}
    site.log.append([Message(site.config.kpi_topic, b"4:clicks", msgspec.json.encode(body))])
    list(adopt(site.store, "campaigns"))
    assert site.found() == {}
    tag = str(uuid.uuid4())
    site.store.write([Write(RowKey("tags", tag), [Put("t-id", tag), Put("c-id", 4)], Presence.ABSENT)])
    site.append("fresh", "click", tag=tag)
    site.run()
    with site.audited(campaigns=[4]) as audit:
        assert audit.clean
        cells = {cell.kpi: (cell.topic, cell.opening, cell.stats, cell.published) for cell in audit.cells()}
    assert cells["clicks"] == (1, 7, 8, 8)
    assert cells["impressions"] == (0, 1, 1, 1)


def test_after_a_rewind(site: Site) -> None:
    """At once, when all is past the checkpoint, and when the topic was read again."""
    row = PointerRow(site.store, 0.0)
    rewind(row, site.log, site.store, site.config, who="a test")
    with site.audited() as audit:
        assert audit.clean, list(audit.findings())
        assert audit.excused.past_checkpoint == audit.ids
    site.run()
    with site.audited() as audit:
        assert audit.clean, list(audit.findings())
        assert audit.epoch == 2


def test_what_a_killed_worker_left_uncommitted_is_excused(site: Site) -> None:
    """It stands in the rows, past the checkpoint, and was not published: the next worker will see to it."""
    site.append("late", "visit")
    committed = site.log.checkpoint("projector", site.config.input_topic)
    site.run(kpi_topic="projector-quarantine")
    site.log.set_checkpoint("projector", site.config.input_topic, committed)
    with site.audited() as audit:
        assert audit.clean, list(audit.findings())
        assert audit.excused.past_checkpoint == 1


def test_a_generation_that_was_built_beside_it(site: Site) -> None:
    """It has rows, pages, group and balance of its own; its damage is its own as well."""
    site.log.create_topic("elsewhere", 1, {})
    site.generation = Generation(2, "projector")
    site.run(kpi_topic="elsewhere", page_ids=16)
    with site.audited(generation=site.generation) as audit:
        assert audit.clean, list(audit.findings())
        assert audit.ids == EVERYTHING
    seal = site.pages(1)[1]
    site.drop_page(1, seal)
    assert kinds(site.found(generation=site.generation)) == {Kind.DAMAGED: 1}
    assert site.found() == {}
