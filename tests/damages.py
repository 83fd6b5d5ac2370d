"""Damage of each kind that a ledger can take, done by hand to what the projector itself counted; and the truth."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from projector.audit.finding import Kind
from projector.balance import Totals, parse_totals, read_balance
from projector.config import Config
from projector.event import KPIS
from projector.feed import Feed
from projector.footing import check
from projector.log import Message
from projector.page import Page
from projector.repair.execution import Execution
from projector.repair.plan import Planner
from tests.audits import CAMPAIGNS, GENERATION, Site, some_id, without
from tests.fault.memory_log import MemoryLog
from tests.fault.memory_store import MemoryStore
from tests.generations import Counting


class Scene(Site):
    """A site with all counted, in many pages; with the rows as they were half way, and the truth."""

    def __init__(self, directory: Path, page_ids: int = 16) -> None:
        super().__init__(directory)
        self.config = self.config.model_copy(update={"page_ids": page_ids})
        self.older: dict[int, dict[str, Any]] = {}
        self.truth: dict[int, dict[str, int]] = {}

    def fill(self, events: int) -> None:
        """Twice so many events, counted; every campaign has ids in its `seen`."""
        self.prepare()
        truths = [self.simulate(events)]
        self.run()
        self.older = {campaign: self.row(campaign) for campaign in range(1, CAMPAIGNS + 1)}
        truths.append(self.simulate(events, seed_number=2))
        self.run()
        for campaign in range(1, CAMPAIGNS + 1):
            counts = [truth.campaigns.get(str(campaign), {}) for truth in truths]
            row = {kpi: sum(each.get(kpi, 0) for each in counts) for kpi in KPIS}
            self.truth[campaign] = row
            while not self.row(campaign)["seen"]:
                self.append(f"{campaign}-{row['clicks']}", "click", campaign)
                self.run()
                row["clicks"] += 1

    def reopened(self, directory: Path) -> "Scene":
        """The same on a copy of its file."""
        scene = Scene(directory, self.config.page_ids)
        scene.older, scene.truth = copy.deepcopy((self.older, self.truth))
        return scene

    def mend(self) -> list[dict[str, Any]]:
        """Audit and execute, once."""
        with self.audited() as audit:
            planner = Planner(audit, self.log, self.store, self.config)
            plan = planner.plan()
            return Execution(planner, plan, self.log, self.store, self.config).run("somebody", "a test")


class MemoryScene(Scene):
    """The same on the pair in memory; its copies are deep."""

    def __init__(self, now_ms: Callable[[], float], page_ids: int, flush_ms: float = 0, settle_ms: int = 0) -> None:
        self.config = Config(page_ids=page_ids, batch_records=8)
        self.generation = GENERATION
        self.older, self.truth = {}, {}
        self.log = MemoryLog(now_ms, random.Random(0))  # type: ignore[assignment]  # as good a log
        self.store = MemoryStore(now_ms, flush_ms, settle_ms)  # type: ignore[assignment]  # as good a store


def assert_true(site: Scene) -> None:
    """Rows, publications, balance and ledgers are what they must be, and an audit is clean."""
    stats = site.truth
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


def counter_changed(site: Scene) -> None:
    site.put(1, stats=site.counted(1, "impressions", 1))


def counter_lowered(site: Scene) -> None:
    site.put(2, stats=site.counted(2, "clicks", -1))


def id_removed(site: Scene) -> None:
    seen = site.row(1)["seen"]
    site.put(1, seen=without(seen, next(iter(seen))))


def id_removed_with_its_count(site: Scene) -> None:
    seen = site.row(1)["seen"]
    event_id, sighting = some_id(seen)
    site.put(1, seen=without(seen, event_id), stats=site.counted(1, KPIS[sighting[0]], -1))


def newest_page_dropped(site: Scene) -> None:
    site.drop_page(1, site.pages(1)[0])


def page_dropped(site: Scene) -> None:
    site.drop_page(1, site.pages(1)[3])


def oldest_page_dropped(site: Scene) -> None:
    site.drop_page(2, site.pages(2)[-1])


def pages_of_two_campaigns_dropped(site: Scene) -> None:
    for campaign in (1, 2):
        site.drop_page(campaign, site.pages(campaign)[1])


def page_with_another_kind(site: Scene) -> None:
    seal = site.pages(1)[2]
    ids = site.page(1, seal)["ids"]
    event_id, (code, *at) = some_id(ids)
    site.put_page(1, seal, {"ids": {**ids, event_id: [(code + 1) % 4, *at]}})


def page_that_lost_an_id(site: Scene) -> None:
    seal = site.pages(1)[0]
    ids = site.page(1, seal)["ids"]
    site.put_page(1, seal, {"ids": without(ids, next(iter(ids)))})


def page_with_a_foreign_id(site: Scene) -> None:
    seal = site.pages(1)[1]
    ids = site.page(1, seal)["ids"]
    site.put_page(1, seal, {"ids": {**ids, "nobody": [0, 1, 0, 1]}})


def page_with_other_prints(site: Scene) -> None:
    site.put_page(1, site.pages(1)[2], {"prints": b"\0" * 16})


def page_with_other_neighbours(site: Scene) -> None:
    site.put_page(1, site.pages(1)[2], {"before": [1, 2], "head": b"x" * 32})


def page_emptied(site: Scene) -> None:
    site.put_page(
        2, site.pages(2)[1], {"ids": {}, "prints": b"", "counts": {}, "before": [], "head": b"", "digest": b""}
    )


def two_pages_altered(site: Scene) -> None:
    for seal in site.pages(1)[1:3]:
        ids = site.page(1, seal)["ids"]
        site.put_page(1, seal, {"ids": without(ids, next(iter(ids)))})


def page_altered_and_another_dropped(site: Scene) -> None:
    altered, _, dropped = site.pages(1)[1:4]
    site.put_page(1, altered, {"ids": {}})
    site.drop_page(1, dropped)


def page_dropped_and_id_removed(site: Scene) -> None:
    site.drop_page(1, site.pages(1)[2])
    id_removed_with_its_count(site)


def row_reset(site: Scene) -> None:
    site.put(1, **{name.replace("-", "_"): value for name, value in site.older[1].items()})


def unpublished(site: Scene) -> None:
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
    site.truth[3]["clicks"] += 1


def published_wrongly(site: Scene) -> None:
    """A total of the row's own rev, one less."""
    row = site.row(2)
    value = b'{"campaignId": 2, "kpi": "clicks", "value": %d, "epoch": 1, "rev": %d}'
    message = value % (row["stats"]["clicks"] - 1, row["rev"])
    site.log.append([Message(site.config.kpi_topic, b"2:clicks", message)])


def published_ahead(site: Scene) -> None:
    """Totals of a rev that the row has not."""
    row = site.row(2)
    value = b'{"campaignId": 2, "kpi": "clicks", "value": %d, "epoch": 1, "rev": %d}'
    message = value % (row["stats"]["clicks"] + 3, row["rev"] + 100)
    site.log.append([Message(site.config.kpi_topic, b"2:clicks", message)])


def totals_of(site: Scene, partition: int) -> Totals:
    found = parse_totals(site.log.checkpoint(GENERATION.group, site.config.input_topic)[partition].metadata)
    assert found is not None
    return found


def carried_changed(site: Scene) -> None:
    totals = totals_of(site, 0)
    site.set_totals(0, totals._replace(carried=7).metadata())


def counted_changed(site: Scene) -> None:
    totals = totals_of(site, 1)
    site.set_totals(1, totals._replace(counted=totals.counted - 2).metadata())


def counted_for_duplicate(site: Scene) -> None:
    totals = totals_of(site, 1)
    site.set_totals(1, totals._replace(counted=totals.counted + 1, duplicate=totals.duplicate - 1).metadata())


def totals_unknown(site: Scene) -> None:
    site.set_totals(2, "")


def consumed_changed(site: Scene) -> None:
    totals = totals_of(site, 1)
    site.set_totals(1, totals._replace(consumed=totals.consumed + 1, parked=totals.parked + 1).metadata())


def never_counted(site: Scene) -> None:
    """A record that was consumed, and of which nothing came: as a fault of the program would."""
    offset = site.append("never-counted", "visit", campaign=2, partition=1)
    committed = site.log.checkpoint(GENERATION.group, site.config.input_topic)[1]
    totals = totals_of(site, 1).plus(Totals(consumed=1, rejected=1))
    moved = {1: committed._replace(offset=offset + 1, metadata=totals.metadata())}
    site.log.set_checkpoint(GENERATION.group, site.config.input_topic, moved)
    site.truth[2]["visits"] += 1


def everything(site: Scene) -> None:
    unpublished(site)
    row_reset(site)
    page_dropped_of_2 = site.pages(2)[2]
    site.drop_page(2, page_dropped_of_2)
    site.put(3, stats=site.counted(3, "visits", 5))
    published_wrongly(site)
    carried_changed(site)


MENDED: dict[Callable[[Scene], None], set[Kind]] = {
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
"""What an audit names; all of it is for repair to mend."""


# --- damage that is refused


def foreign_id(site: Scene) -> None:
    site.put(1, seen={**site.row(1)["seen"], "nobody": [0, 1, 0, 1]})


def id_in_two_places(site: Scene) -> None:
    event_id, sighting = some_id(site.page(1, site.pages(1)[1])["ids"])
    site.put(1, seen={**site.row(1)["seen"], event_id: sighting})


def other_kind(site: Scene) -> None:
    seen = site.row(1)["seen"]
    event_id, (code, *at) = some_id(seen)
    site.put(1, seen={**seen, event_id: [(code + 1) % 4, *at]})


def counted_for_another_campaign(site: Scene) -> None:
    event_id, sighting = some_id(site.row(1)["seen"])
    site.put(2, seen={**site.row(2)["seen"], event_id: sighting})


def two_pages_dropped(site: Scene) -> None:
    for seal in site.pages(1)[1:3]:
        site.drop_page(1, seal)


def chain_altered(site: Scene) -> None:
    """A page that is consistent in itself, and not the one that its successor names."""
    seal = site.pages(1)[1]
    held = site.page(1, seal)
    ids = {**held["ids"], "nobody": [0, 1, 0, 1]}
    site.put_page(1, seal, Page(1, seal, ids, held["before"], held["head"]).bins())


def page_lost_and_the_topic_with_it(site: Scene) -> None:
    site.drop_page(1, site.pages(1)[-1])
    site.log.delete_before(site.config.input_topic, {0: 50, 1: 50, 2: 50})


def row_misshapen(site: Scene) -> None:
    site.put(1, sealed=7)


REFUSED = [
    foreign_id,
    id_in_two_places,
    other_kind,
    counted_for_another_campaign,
    two_pages_dropped,
    chain_altered,
    page_lost_and_the_topic_with_it,
    row_misshapen,
]
"""What the rebuild alone mends."""
