"""Repair: damage of each kind, done by hand, is mended to the truth, or refused with nothing changed."""

import pickle
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from projector.audit.finding import Kind, Remedy
from projector.balance import Totals, parse_totals, read_balance
from projector.errors import Refused
from projector.event import KPIS
from projector.feed import Feed
from projector.footing import check
from projector.log import Message
from projector.page import Page
from projector.pointer import PointerRow
from projector.repair.execution import Execution, refuse_busy
from projector.repair.journal import history
from projector.repair.plan import Planner
from tests.audits import CAMPAIGNS, GENERATION, Site, some_id, without
from tests.generations import Counting

OLDER = "older.pickle"
STATS = "truth.pickle"
EVENTS = 250


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which all was counted, in many pages; with the rows as they were half way, and the truth."""
    directory = tmp_path_factory.mktemp("counted")
    with closing(Site(directory)) as site:
        site.prepare()
        truth = site.simulate(EVENTS)
        site.run()
        older = {campaign: site.row(campaign) for campaign in range(1, CAMPAIGNS + 1)}
        more = site.simulate(EVENTS, seed_number=2)
        site.run()
        stats = {
            campaign: {
                kpi: sum(each.campaigns.get(str(campaign), {}).get(kpi, 0) for each in (truth, more)) for kpi in KPIS
            }
            for campaign in range(1, CAMPAIGNS + 1)
        }
        for campaign, row in stats.items():
            while not site.row(campaign)["seen"]:
                site.append(f"{campaign}-{row['clicks']}", "click", campaign)
                site.run()
                row["clicks"] += 1
        (directory / OLDER).write_bytes(pickle.dumps(older))
        (directory / STATS).write_bytes(pickle.dumps(stats))
    return directory


@pytest.fixture
def site(counted: Path, tmp_path: Path) -> Iterator[Site]:
    """A copy of its own."""
    for file in counted.iterdir():
        shutil.copy(file, tmp_path)
    with closing(Site(tmp_path)) as copy:
        yield copy


def older(site: Site, campaign: int) -> dict[str, Any]:
    """A row as it was half way."""
    rows: dict[int, dict[str, Any]] = pickle.loads((site.config.file.parent / OLDER).read_bytes())  # ours
    return rows[campaign]


def truth(site: Site) -> dict[int, dict[str, int]]:
    """What the simulator says that each campaign must have."""
    stats: dict[int, dict[str, int]] = pickle.loads((site.config.file.parent / STATS).read_bytes())  # ours
    return stats


def dumped(site: Site) -> list[str]:
    """Every row of log and store."""
    with closing(sqlite3.connect(site.config.file)) as database:
        return list(database.iterdump())


def mend(site: Site) -> list[dict[str, Any]]:
    """Audit and execute, once."""
    with site.audited() as audit:
        planner = Planner(audit, site.log, site.store, site.config)
        plan = planner.plan()
        return Execution(planner, plan, site.log, site.store, site.config).run("somebody", "a test")


def assert_true(site: Site, stats: dict[int, dict[str, int]]) -> None:
    """Rows, publications, balance and ledgers are what they must be, and an audit is clean."""
    assert {campaign: site.row(campaign)["stats"] for campaign in stats} == stats
    feed = Feed()
    feed.catch_up(site.log, site.config.kpi_topic)
    published = {(campaign, kpi): value for campaign, row in stats.items() for kpi, value in row.items() if value}
    assert {key: total.value for key, total in feed.totals.items() if total.value} == published
    highest: dict[tuple[int, str], tuple[int, int, int]] = {}
    for records in site.log.read(site.config.kpi_topic):
        for record in records:
            (total,) = Feed().take([record])
            key = (total.campaign, total.kpi)
            # A reader that keeps the highest, and the first of equals.
            if key not in highest or (total.epoch, total.rev) > highest[key][:2]:
                highest[key] = (total.epoch, total.rev, total.value)
    assert {key: value for key, (_, _, value) in highest.items() if value} == published
    balance = read_balance(site.log, site.store, site.config, GENERATION)
    assert balance.holds
    assert balance.difference == 0
    assert [check(site.store, GENERATION, campaign) for campaign in stats] == [[]] * len(stats)
    with site.audited() as audit:
        assert audit.clean, list(audit.findings())
        assert Planner(audit, site.log, site.store, site.config).plan().empty
    assert site.log.members(GENERATION.group) == []


# --- damage that is mended


def counter_changed(site: Site) -> None:
    site.put(1, stats=site.counted(1, "impressions", 1))


def counter_lowered(site: Site) -> None:
    site.put(2, stats=site.counted(2, "clicks", -1))


def id_removed(site: Site) -> None:
    seen = site.row(1)["seen"]
    site.put(1, seen=without(seen, next(iter(seen))))


def id_removed_with_its_count(site: Site) -> None:
    seen = site.row(1)["seen"]
    event_id, sighting = some_id(seen)
    site.put(1, seen=without(seen, event_id), stats=site.counted(1, KPIS[sighting[0]], -1))


def newest_page_dropped(site: Site) -> None:
    site.drop_page(1, site.pages(1)[0])


def page_dropped(site: Site) -> None:
    site.drop_page(1, site.pages(1)[3])


def oldest_page_dropped(site: Site) -> None:
    site.drop_page(2, site.pages(2)[-1])


def pages_of_two_campaigns_dropped(site: Site) -> None:
    for campaign in (1, 2):
        site.drop_page(campaign, site.pages(campaign)[1])


def page_with_another_kind(site: Site) -> None:
    seal = site.pages(1)[2]
    ids = site.page(1, seal)["ids"]
    event_id, (code, *at) = some_id(ids)
    site.put_page(1, seal, ids={**ids, event_id: [(code + 1) % 4, *at]})


def page_that_lost_an_id(site: Site) -> None:
    seal = site.pages(1)[0]
    ids = site.page(1, seal)["ids"]
    site.put_page(1, seal, ids=without(ids, next(iter(ids))))


def page_with_a_foreign_id(site: Site) -> None:
    seal = site.pages(1)[1]
    ids = site.page(1, seal)["ids"]
    site.put_page(1, seal, ids={**ids, "nobody": [0, 1, 0, 1]})


def page_with_other_prints(site: Site) -> None:
    site.put_page(1, site.pages(1)[2], prints=b"\0" * 16)


def page_with_other_neighbours(site: Site) -> None:
    site.put_page(1, site.pages(1)[2], before=[1, 2], head=b"x" * 32)


def page_emptied(site: Site) -> None:
    site.put_page(2, site.pages(2)[1], ids={}, prints=b"", counts={}, before=[], head=b"", digest=b"")


def two_pages_altered(site: Site) -> None:
    for seal in site.pages(1)[1:3]:
        ids = site.page(1, seal)["ids"]
        site.put_page(1, seal, ids=without(ids, next(iter(ids))))


def page_altered_and_another_dropped(site: Site) -> None:
    altered, _, dropped = site.pages(1)[1:4]
    site.put_page(1, altered, ids={})
    site.drop_page(1, dropped)


def page_dropped_and_id_removed(site: Site) -> None:
    site.drop_page(1, site.pages(1)[2])
    id_removed_with_its_count(site)


def row_reset(site: Site) -> None:
    site.put(1, **{name.replace("-", "_"): value for name, value in older(site, 1).items()})


def unpublished(site: Site) -> None:
    """Counted and committed; but the last totals were never published."""
    event_id = "a-last-one"
    offset = site.append(event_id, "click", campaign=3, partition=0)
    Counting(site.store, GENERATION, 1_000).add(3, {event_id: [2, 1_767_225_700, 0, offset]})
    committed = site.log.checkpoint(GENERATION.group, site.config.input_topic)[0]
    totals = parse_totals(committed.metadata)
    assert totals is not None
    metadata = totals.plus(Totals(1, 1)).metadata()
    moved = {0: committed._replace(offset=offset + 1, metadata=metadata)}
    site.log.set_checkpoint(GENERATION.group, site.config.input_topic, moved)
    stats = truth(site)
    stats[3]["clicks"] += 1
    (site.config.file.parent / STATS).write_bytes(pickle.dumps(stats))


def published_wrongly(site: Site) -> None:
    """A total of the row's own rev, one less."""
    row = site.row(2)
    value = b'{"campaignId": 2, "kpi": "clicks", "value": %d, "epoch": 1, "rev": %d}'
    message = value % (row["stats"]["clicks"] - 1, row["rev"])
    site.log.append([Message(site.config.kpi_topic, b"2:clicks", message)])


def published_ahead(site: Site) -> None:
    """Totals of a rev that the row has not."""
    row = site.row(2)
    value = b'{"campaignId": 2, "kpi": "clicks", "value": %d, "epoch": 1, "rev": %d}'
    message = value % (row["stats"]["clicks"] + 3, row["rev"] + 100)
    site.log.append([Message(site.config.kpi_topic, b"2:clicks", message)])


def totals_of(site: Site, partition: int) -> Totals:
    found = parse_totals(site.log.checkpoint(GENERATION.group, site.config.input_topic)[partition].metadata)
    assert found is not None
    return found


def carried_changed(site: Site) -> None:
    totals = totals_of(site, 0)
    site.set_totals(0, totals._replace(carried=7).metadata())


def counted_changed(site: Site) -> None:
    totals = totals_of(site, 1)
    site.set_totals(1, totals._replace(counted=totals.counted - 2).metadata())


def counted_for_duplicate(site: Site) -> None:
    totals = totals_of(site, 1)
    site.set_totals(1, totals._replace(counted=totals.counted + 1, duplicate=totals.duplicate - 1).metadata())


def totals_unknown(site: Site) -> None:
    site.set_totals(2, "")


def consumed_changed(site: Site) -> None:
    totals = totals_of(site, 1)
    site.set_totals(1, totals._replace(consumed=totals.consumed + 1, parked=totals.parked + 1).metadata())


def never_counted(site: Site) -> None:
    """A record that was consumed, and of which nothing came: as a fault of the program would."""
    offset = site.append("never-counted", "visit", campaign=2, partition=1)
    committed = site.log.checkpoint(GENERATION.group, site.config.input_topic)[1]
    totals = totals_of(site, 1).plus(Totals(consumed=1, rejected=1))
    moved = {1: committed._replace(offset=offset + 1, metadata=totals.metadata())}
    site.log.set_checkpoint(GENERATION.group, site.config.input_topic, moved)
    stats = truth(site)
    stats[2]["visits"] += 1
    (site.config.file.parent / STATS).write_bytes(pickle.dumps(stats))


def everything(site: Site) -> None:
    unpublished(site)
    row_reset(site)
    page_dropped_of_2 = site.pages(2)[2]
    site.drop_page(2, page_dropped_of_2)
    site.put(3, stats=site.counted(3, "visits", 5))
    published_wrongly(site)
    carried_changed(site)


MENDED: dict[Callable[[Site], None], set[Kind]] = {
    counter_changed: {Kind.TOTAL, Kind.PUBLISHED},
    counter_lowered: {Kind.TOTAL, Kind.PUBLISHED},
    id_removed: {Kind.MISSING, Kind.TOTAL, Kind.BALANCE},
    id_removed_with_its_count: {Kind.MISSING, Kind.PUBLISHED, Kind.BALANCE},
    newest_page_dropped: {Kind.DAMAGED},
    page_dropped: {Kind.DAMAGED},
    oldest_page_dropped: {Kind.DAMAGED},
    pages_of_two_campaigns_dropped: {Kind.DAMAGED},
    page_with_another_kind: {Kind.DAMAGED},
    page_that_lost_an_id: {Kind.DAMAGED},
    page_with_a_foreign_id: {Kind.DAMAGED},
    page_with_other_prints: {Kind.DAMAGED},
    page_with_other_neighbours: {Kind.DAMAGED},
    page_emptied: {Kind.DAMAGED},
    two_pages_altered: {Kind.DAMAGED},
    page_altered_and_another_dropped: {Kind.DAMAGED},
    page_dropped_and_id_removed: {Kind.DAMAGED, Kind.PUBLISHED},
    row_reset: {Kind.MISSING, Kind.PUBLISHED, Kind.BALANCE},
    unpublished: {Kind.PUBLISHED},
    published_wrongly: {Kind.PUBLISHED},
    published_ahead: {Kind.PUBLISHED},
    carried_changed: {Kind.BALANCE},
    counted_changed: {Kind.BALANCE},
    counted_for_duplicate: {Kind.BALANCE},
    totals_unknown: {Kind.BALANCE},
    consumed_changed: {Kind.BALANCE},
    never_counted: {Kind.MISSING},
    everything: {Kind.DAMAGED, Kind.MISSING, Kind.TOTAL, Kind.PUBLISHED},
}


@pytest.mark.parametrize("damage", MENDED, ids=lambda damage: damage.__name__)
def test_what_the_audit_names_is_mended(site: Site, damage: Callable[[Site], None]) -> None:
    """To the truth: a second audit is clean, and a second repair has nothing to do. Planning changes nothing."""
    damage(site)
    with site.audited() as audit:
        assert {kind for kind, count in audit.counts.items() if count} == MENDED[damage]
        assert {each.remedy for each in audit.findings()} == {Remedy.REPAIR}
        before = dumped(site)
        planner = Planner(audit, site.log, site.store, site.config)
        plan = planner.plan()
        assert not plan.empty
        assert dumped(site) == before
        done = Execution(planner, plan, site.log, site.store, site.config).run("somebody", "a test")
    assert_true(site, truth(site))
    (told,) = history(site.store)
    assert told.ended
    assert told.outcomes == done
    assert told.intents


def test_what_is_clean_is_left_alone(site: Site) -> None:
    """Nothing to do, and the truth stands."""
    assert_true(site, truth(site))


# --- damage that is refused


def foreign_id(site: Site) -> None:
    site.put(1, seen={**site.row(1)["seen"], "nobody": [0, 1, 0, 1]})


def id_in_two_places(site: Site) -> None:
    event_id, sighting = some_id(site.page(1, site.pages(1)[1])["ids"])
    site.put(1, seen={**site.row(1)["seen"], event_id: sighting})


def other_kind(site: Site) -> None:
    seen = site.row(1)["seen"]
    event_id, (code, *at) = some_id(seen)
    site.put(1, seen={**seen, event_id: [(code + 1) % 4, *at]})


def counted_for_another_campaign(site: Site) -> None:
    event_id, sighting = some_id(site.row(1)["seen"])
    site.put(2, seen={**site.row(2)["seen"], event_id: sighting})


def two_pages_dropped(site: Site) -> None:
    for seal in site.pages(1)[1:3]:
        site.drop_page(1, seal)


def chain_altered(site: Site) -> None:
    """A page that is consistent in itself, and not the one that its successor names."""
    seal = site.pages(1)[1]
    held = site.page(1, seal)
    ids = {**held["ids"], "nobody": [0, 1, 0, 1]}
    bins = Page(1, seal, ids, held["before"], held["head"]).bins()
    site.put_page(1, seal, **{name: bins[name] for name in bins if name != "seal"})


def page_lost_and_the_topic_with_it(site: Site) -> None:
    site.drop_page(1, site.pages(1)[-1])
    site.log.delete_before(site.config.input_topic, {0: 50, 1: 50, 2: 50})


REFUSED = [
    foreign_id,
    id_in_two_places,
    other_kind,
    counted_for_another_campaign,
    two_pages_dropped,
    chain_altered,
    page_lost_and_the_topic_with_it,
]


@pytest.mark.parametrize("damage", REFUSED, ids=lambda damage: damage.__name__)
def test_what_the_ledger_should_not_hold_is_refused(site: Site, damage: Callable[[Site], None]) -> None:
    """The rebuild is named; neither this nor what else could be mended is touched."""
    damage(site)
    counter_lowered(site)
    before = dumped(site)
    with pytest.raises(Refused, match="projector rebuild"):
        mend(site)
    assert dumped(site) == before


def test_workers_must_be_stopped(site: Site) -> None:
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
    mend(site)
    assert_true(site, truth(site))


def test_a_checkpoint_that_moves_after_the_audit_is_not_overwritten(site: Site) -> None:
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


def test_a_worker_goes_on_after_it(site: Site) -> None:
    """From the same checkpoint, with the truth as its base."""
    everything(site)
    mend(site)
    more = site.simulate(200, seed_number=5)
    site.run()
    stats = truth(site)
    for campaign, row in stats.items():
        for kpi in KPIS:
            row[kpi] += more.campaigns.get(str(campaign), {}).get(kpi, 0)
    assert_true(site, stats)
