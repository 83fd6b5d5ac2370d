"""Audit: damage of each kind, done by hand to what the projector has counted, is named exactly."""

import shutil
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from projector.audit.finding import Finding, Kind, Remedy
from projector.event import KPIS
from projector.log import Message
from projector.page import Page
from projector.store import Delete, Presence, Put, RowKey, Write
from tests.audits import PARKED_TAG, PARTITIONS, Site, count_everything, kinds, some_id, text, without


@pytest.fixture(scope="module")
def counted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which `count_everything` was called."""
    directory = tmp_path_factory.mktemp("counted")
    count_everything(directory)
    return directory


@pytest.fixture(params=[False, True], ids=["maps", "columns"])
def site(counted: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A copy of its own; pages come in either form that a store may answer in."""
    for file in counted.iterdir():
        shutil.copy(file, tmp_path)
    with closing(Site(tmp_path, columns=request.param)) as copy:
        yield copy


def test_a_counter_changed(site: Site) -> None:
    """The row contradicts its ids, and what was published from it contradicts the row."""
    site.put(2, stats=site.counted(2, "clicks", 5))
    found = site.found()
    assert kinds(found) == {Kind.TOTAL: 1, Kind.PUBLISHED: 1}
    (total,) = found[Kind.TOTAL]
    assert (total.campaign, total.kpi, total.remedy) == (2, "clicks", Remedy.REPAIR)
    held = site.row(2)["stats"]["clicks"]
    assert f"is {held:,}, but opening 0 + {held - 5:,} ids" in total.detail


def test_an_id_removed(site: Site) -> None:
    """It is named with its position; the counter and the balance say so as well."""
    seen = site.row(1)["seen"]
    event_id, (code, second, partition, offset) = some_id(seen)
    site.put(1, seen=without(seen, event_id))
    found = site.found()
    assert kinds(found) == {Kind.MISSING: 1, Kind.TOTAL: 1, Kind.BALANCE: 1}
    (missing,) = found[Kind.MISSING]
    assert missing == Finding(
        Kind.MISSING,
        Remedy.REPAIR,
        missing.detail,
        1,
        KPIS[code],
        text(event_id),
        partition,
        offset,
        second,
    )
    assert found[Kind.BALANCE][0].partition == partition


def test_over_time_both_sides_differ_where_ids_do(site: Site) -> None:
    """The parts of the series add up to the cells; an id that is missing is missing at its own time."""
    seen = site.row(1)["seen"]
    event_id, (code, second, *_) = some_id(seen, "impressions")
    site.put(1, seen=without(seen, event_id))
    with site.audited() as audit:
        cells = list(audit.cells())
        for number, kpi in enumerate(KPIS):
            series = audit.series(number, 7)
            assert 1 < len(series) <= 7
            assert sum(topic for _, topic, _ in series) == sum(cell.topic for cell in cells if cell.kpi == kpi)
            assert sum(ledger for *_, ledger in series) == sum(cell.ledger for cell in cells if cell.kpi == kpi)
            off = [began for began, topic, ledger in series if topic != ledger]
            assert off == ([max(began for began, *_ in series if began <= second)] if number == code else [])


def test_findings_of_one_kind_and_so_many(site: Site) -> None:
    """They are read as they are asked for."""
    site.put(1, seen={})
    with site.audited() as audit:
        assert audit.counts[Kind.MISSING] == len(list(audit.findings(Kind.MISSING))) > 3
        assert len(list(audit.findings(Kind.MISSING, 2))) == 2
        assert {each.kind for each in audit.findings(limit=2)} == {Kind.MISSING}
        assert list(audit.findings(Kind.TWICE)) == []
        assert Remedy.REPAIR in audit.remedies


def test_an_id_and_its_count_removed(site: Site) -> None:
    """So that the row adds up by itself: only the topic and the balance can tell, and what was published."""
    seen = site.row(1)["seen"]
    event_id, (code, *_) = some_id(seen)
    site.put(1, seen=without(seen, event_id), stats=site.counted(1, KPIS[code], -1))
    found = site.found()
    assert kinds(found) == {Kind.MISSING: 1, Kind.BALANCE: 1, Kind.PUBLISHED: 1}
    assert found[Kind.MISSING][0].id == text(event_id)


def test_an_id_that_quarantine_holds_is_missing_with_its_verdict(site: Site) -> None:
    """Rejected by the projector, and proper by the recount: that is a difference, with what was said of it."""
    seen = site.row(1)["seen"]
    event_id, (_, _, partition, offset) = some_id(seen)
    site.put(1, seen=without(seen, event_id))
    site.set_aside(partition, offset)
    (missing,) = site.found()[Kind.MISSING]
    assert (missing.verdict, missing.reason, missing.remedy) == ("duplicate", "conflict", Remedy.REPAIR)


@pytest.mark.parametrize("place", [(0, 10**6), (99, 0)])
def test_a_foreign_id_where_the_topic_has_no_position(site: Site, place: tuple[int, int]) -> None:
    """Neither past its end nor in a partition that it has not: nobody can have counted that."""
    seen = site.row(1)["seen"]
    site.put(1, seen={**seen, "made-up": [2, 5, *place]}, stats=site.counted(1, "clicks", 1))
    found = site.found()
    assert kinds(found) == {Kind.FOREIGN: 1, Kind.PUBLISHED: 1}
    assert (found[Kind.FOREIGN][0].id, found[Kind.FOREIGN][0].place) == ("made-up", "seen")
    assert "no such position" in found[Kind.FOREIGN][0].detail


def test_a_foreign_id_at_the_position_of_another(site: Site) -> None:
    """Rebuild is the remedy."""
    seen = site.row(1)["seen"]
    _, sighting = some_id(seen, "impressions")
    made_up = uuid.uuid4().bytes
    site.put(1, seen={**seen, made_up: sighting}, stats=site.counted(1, "impressions", 1))
    found = site.found()
    assert kinds(found) == {Kind.FOREIGN: 1, Kind.PUBLISHED: 1, Kind.BALANCE: 1}
    (foreign,) = found[Kind.FOREIGN]
    assert (foreign.id, foreign.kpi, foreign.remedy) == (text(made_up), "impressions", Remedy.REBUILD)
    assert (foreign.partition, foreign.offset) == tuple(sighting[2:])
    assert "another id" in foreign.detail


def test_a_foreign_id_where_the_record_is_no_event(site: Site) -> None:
    """What the recount makes of that record is said."""
    offset = site.append("", partition=1)
    site.run()
    seen = site.row(1)["seen"]
    site.put(1, seen={**seen, "made-up": [2, 5, 1, offset]})
    (foreign,) = site.found()[Kind.FOREIGN]
    assert foreign.detail == "the record at that position is no event: rejected:bad-id"


def test_an_id_in_a_form_that_the_projector_never_writes(site: Site) -> None:
    """A UUID as text is foreign, whatever it looks like; bytes that are no UUID are no id at all."""
    seen = site.row(1)["seen"]
    event_id, sighting = next((key, each) for key, each in seen.items() if isinstance(key, bytes))
    held = {**without(seen, event_id), b"short": sighting, text(event_id): sighting}
    site.put(1, seen=held, stats=site.counted(1, KPIS[sighting[0]], 1))
    found = site.found()
    assert kinds(found) == {Kind.MISSING: 1, Kind.FOREIGN: 1, Kind.DAMAGED: 1, Kind.PUBLISHED: 1, Kind.TOTAL: 1}
    assert found[Kind.MISSING][0].id == found[Kind.FOREIGN][0].id == text(event_id)
    assert "b'short'" in found[Kind.DAMAGED][0].detail


def test_an_id_at_another_of_its_positions_is_foreign_there(site: Site) -> None:
    """It is counted once, but the ledger says a position at which the topic does not have it."""
    seen = site.row(1)["seen"]
    event_id, (code, second, partition, offset) = some_id(seen)
    site.put(1, seen={**seen, event_id: [code, second, partition, offset - 1]})
    found = site.found()
    assert kinds(found) == {Kind.FOREIGN: 1}
    assert f"the topic has this id at {partition}/{offset}" in found[Kind.FOREIGN][0].detail


def test_an_id_with_another_time_is_foreign(site: Site) -> None:
    """A statement of a period rests on it."""
    seen = site.row(1)["seen"]
    event_id, (code, second, partition, offset) = some_id(seen)
    site.put(1, seen={**seen, event_id: [code, second + 1, partition, offset]})
    found = site.found()
    assert kinds(found) == {Kind.FOREIGN: 1}
    assert found[Kind.FOREIGN][0].detail == f"counted with the second {second + 1}; the record has {second}"


def test_an_id_whose_tag_is_gone_is_foreign(site: Site) -> None:
    """A rebuild would not count it again."""
    site.append("lone", tag=PARKED_TAG)
    tag = Write(RowKey("tags", PARKED_TAG), [Put("t-id", PARKED_TAG), Put("c-id", 1)], Presence.ABSENT)
    site.store.write([tag])
    site.run()
    site.store.write([Write(RowKey("tags", PARKED_TAG), [Delete()])])
    found = site.found()
    assert kinds(found) == {Kind.FOREIGN: 1}
    assert found[Kind.FOREIGN][0].detail == f"its tag belongs to no campaign: {PARKED_TAG}"


def test_an_id_of_another_campaign_is_foreign(site: Site) -> None:
    """Taken from the one whose tag it has: missing there, foreign here, and both are named."""
    ones, twos = site.row(1)["seen"], site.row(2)["seen"]
    event_id, sighting = some_id(ones, "impressions")
    site.put(1, seen=without(ones, event_id), stats=site.counted(1, "impressions", -1))
    site.put(2, seen={**twos, event_id: sighting}, stats=site.counted(2, "impressions", 1))
    found = site.found()
    assert kinds(found) == {Kind.MISSING: 1, Kind.FOREIGN: 1, Kind.PUBLISHED: 2}
    assert found[Kind.MISSING][0].campaign == 1
    assert found[Kind.FOREIGN][0].campaign == 2
    assert found[Kind.FOREIGN][0].detail == "its tag belongs to campaign 1"


def test_an_id_in_two_places(site: Site) -> None:
    """In a page and in `seen`, counted in both."""
    seal = site.pages(1)[-1]
    event_id, sighting = some_id(site.page(1, seal)["ids"])
    seen = site.row(1)["seen"]
    site.put(1, seen={**seen, event_id: sighting}, stats=site.counted(1, KPIS[sighting[0]], 1))
    found = site.found()
    assert kinds(found) == {Kind.TWICE: 1, Kind.PUBLISHED: 1, Kind.BALANCE: 1}
    (twice,) = found[Kind.TWICE]
    assert (twice.id, twice.campaign, twice.remedy) == (text(event_id), 1, Remedy.REBUILD)
    assert f"{seal:016x}" in twice.detail
    assert "seen" in twice.detail
    with site.audited() as audit:
        assert [(cell.kpi, cell.difference) for cell in audit.cells(differing=True)] == [(KPIS[sighting[0]], 1)]


def test_an_id_in_two_pages(site: Site) -> None:
    """The oldest page, and the newest one made anew with it: row and chain agree, the totals too."""
    newest, oldest = site.pages(1)[0], site.pages(1)[-1]
    event_id, sighting = some_id(site.page(1, oldest)["ids"])
    held = site.page(1, newest)
    page = Page(1, newest, {**held["ids"], event_id: sighting}, held["before"], held["head"])
    site.put_page(1, newest, page.bins())
    site.put(1, head=page.digest, stats=site.counted(1, KPIS[sighting[0]], 1))
    found = site.found()
    assert kinds(found) == {Kind.TWICE: 1, Kind.PUBLISHED: 1, Kind.BALANCE: 1}
    assert {f"{newest:016x}", f"{oldest:016x}"} <= set(found[Kind.TWICE][0].detail.split())


def test_an_id_in_two_campaigns(site: Site) -> None:
    """Counted for both although its tag belongs to one: it is foreign in the other."""
    event_id, sighting = some_id(site.row(1)["seen"], "impressions")
    twos = site.row(2)["seen"]
    site.put(2, seen={**twos, event_id: sighting}, stats=site.counted(2, "impressions", 1))
    found = site.found()
    assert kinds(found) == {Kind.FOREIGN: 1, Kind.TWO_CAMPAIGNS: 1, Kind.PUBLISHED: 1, Kind.BALANCE: 1}
    (both,) = found[Kind.TWO_CAMPAIGNS]
    assert both.id == text(event_id)
    assert both.remedy is Remedy.REBUILD
    assert "campaigns 1 (" in both.detail
    assert " and 2 (" in both.detail


def test_an_id_that_the_topic_itself_gives_to_two_campaigns(site: Site) -> None:
    """It is reported; nothing mends it, for a rebuild would count it again for both."""
    for campaign in (1, 2):
        site.append("shared", campaign=campaign)
    site.run()
    found = site.found()
    assert kinds(found) == {Kind.TWO_CAMPAIGNS: 1}
    assert found[Kind.TWO_CAMPAIGNS][0].remedy is Remedy.NONE
    assert "the topic itself" in found[Kind.TWO_CAMPAIGNS][0].detail


def test_two_campaigns_of_one_id_stay_what_they_are_once_a_record_is_gone(site: Site) -> None:
    """What the topic once gave to both is no damage because retention took one of its records."""
    first = site.append("shared", campaign=1)
    site.append("shared", campaign=2)
    site.run()
    site.log.delete_before(site.config.input_topic, {0: first + 1})
    found = site.found()
    assert kinds(found) == {Kind.TWO_CAMPAIGNS: 1}
    assert found[Kind.TWO_CAMPAIGNS][0].remedy is Remedy.NONE


def test_a_checkpoint_that_is_lost(site: Site) -> None:
    """Nothing is compared then, so nothing is clean: the copies in the store tell that there was one."""
    site.log.drop_group(site.generation.group)
    found = site.found()
    assert kinds(found) == {Kind.BALANCE: PARTITIONS}
    assert {each.remedy for each in found[Kind.BALANCE]} == {Remedy.NONE}
    assert "--restore-checkpoint" in found[Kind.BALANCE][0].detail


def test_an_id_of_two_campaigns_past_the_checkpoint_is_excused(site: Site) -> None:
    """One of its two sightings is not yet to be judged."""
    first = site.append("shared", campaign=1)
    site.append("shared", campaign=2)
    site.run()
    limits = dict(site.log.ends(site.config.input_topic))
    assert site.found(until={**limits, 0: first + 1}) == {}


def test_counted_as_another_kind(site: Site) -> None:
    """Both kinds are said, and both KPIs are off by one."""
    seen = site.row(1)["seen"]
    event_id, (code, *rest) = some_id(seen, "impressions")
    stats = site.counted(1, "impressions", -1)
    site.put(1, seen={**seen, event_id: [2, *rest]}, stats={**stats, "clicks": stats["clicks"] + 1})
    found = site.found()
    assert kinds(found) == {Kind.OTHER_KIND: 1, Kind.PUBLISHED: 2}
    (other,) = found[Kind.OTHER_KIND]
    assert (other.id, other.kpi, other.remedy) == (text(event_id), "clicks", Remedy.REBUILD)
    assert other.detail == "counted as a click; the topic has an impression"
    with site.audited() as audit:
        differences = {cell.kpi: cell.difference for cell in audit.cells(differing=True)}
    assert differences == {"impressions": -1, "clicks": 1}
    assert code == 1


def test_a_page_dropped(site: Site) -> None:
    """It is named with its seal; how many ids it takes along is said, and they do not flood what is missing."""
    seal = site.pages(1)[3]
    ids = site.page(1, seal)["ids"]
    site.drop_page(1, seal)
    found = site.found()
    assert kinds(found) == {Kind.DAMAGED: 1}
    (damaged,) = found[Kind.DAMAGED]
    assert (damaged.campaign, damaged.place, damaged.remedy) == (1, f"{seal:016x}", Remedy.REPAIR)
    assert f"page {seal:016x} is missing; {len(ids):,} ids" in damaged.detail
    with site.audited() as audit:
        assert audit.unread == len(ids)
        assert {each.id for each in audit.missing_unread(1)} == {text(each) for each in ids}
        assert list(audit.missing_unread(2)) == []


def test_two_pages_dropped_and_another_altered(site: Site) -> None:
    """Each of them is named, and what is older is still read."""
    seals = site.pages(1)
    gone = [seals[2], seals[3]]
    ids = [key for seal in (*gone, seals[6]) for key in site.page(1, seal)["ids"]]
    for seal in gone:
        site.drop_page(1, seal)
    site.put_page(1, seals[6], {"ids": {"x": [0, 0, 0, 0]}})
    found = site.found()
    assert kinds(found) == {Kind.DAMAGED: 3}
    assert [each.place for each in found[Kind.DAMAGED]] == [f"{seal:016x}" for seal in (*gone, seals[6])]
    with site.audited() as audit:
        assert audit.unread == len(ids)


def test_the_newest_page_dropped(site: Site) -> None:
    """Nothing names the older ones then: all are counted as unread."""
    archived = [site.page(1, seal)["ids"] for seal in site.pages(1)]
    site.drop_page(1, site.pages(1)[0])
    assert kinds(site.found()) == {Kind.DAMAGED: 1}
    with site.audited() as audit:
        assert audit.unread == sum(map(len, archived))


def test_a_page_altered(site: Site) -> None:
    """One id less in it."""
    seal = site.pages(2)[1]
    held = site.page(2, seal)["ids"]
    site.put_page(2, seal, {"ids": without(held, some_id(held)[0])})
    found = site.found()
    assert kinds(found) == {Kind.DAMAGED: 1}
    (damaged,) = found[Kind.DAMAGED]
    assert (damaged.campaign, damaged.place, damaged.remedy) == (2, f"{seal:016x}", Remedy.REPAIR)
    assert "its digest differs" in damaged.detail


def test_a_chain_that_is_broken(site: Site) -> None:
    """A page made anew without an id of it: it is whole by itself, but not what its successor names."""
    seal = site.pages(1)[1]
    held = site.page(1, seal)
    event_id, _ = some_id(held["ids"])
    page = Page(1, seal, without(held["ids"], event_id), held["before"], held["head"])
    site.put_page(1, seal, page.bins())
    found = site.found()
    assert kinds(found) == {Kind.DAMAGED: 1, Kind.MISSING: 1, Kind.TOTAL: 1, Kind.BALANCE: 1}
    assert found[Kind.DAMAGED][0].remedy is Remedy.REBUILD
    assert found[Kind.MISSING][0].id == text(event_id)


def test_a_page_unhooked(site: Site) -> None:
    """The row says how many pages there must be."""
    site.put(1, pages=site.row(1)["pages"] + 1)
    found = site.found()
    assert kinds(found) == {Kind.DAMAGED: 1}
    assert "pages" in found[Kind.DAMAGED][0].detail


@pytest.mark.parametrize("entry", [[9, 0, 0, 0], [1, 2, 3], "text", [1, 0, 1 << 40, 0]])
def test_what_is_no_sighting_is_named(site: Site, entry: object) -> None:
    """And the ids beside it are read."""
    seen = site.row(1)["seen"]
    site.put(1, seen={**seen, "odd": entry})
    found = site.found()
    assert kinds(found) == {Kind.DAMAGED: 1}
    assert "'odd'" in found[Kind.DAMAGED][0].detail
    assert (found[Kind.DAMAGED][0].place, found[Kind.DAMAGED][0].remedy) == ("seen", Remedy.REBUILD)


@pytest.mark.parametrize("bins", [{"seal": "x"}, {"seen": 5}, {"prev": "x"}, {"rev": "x"}])
def test_a_row_that_is_no_ledger_is_named(site: Site, bins: dict[str, object]) -> None:
    """Its ids count as unread."""
    site.put(1, **bins)
    found = site.found()
    assert kinds(found) == {Kind.DAMAGED: 1}
    assert found[Kind.DAMAGED][0].remedy is Remedy.REBUILD


def test_stats_that_are_no_number_are_named(site: Site) -> None:
    """Repair sets them from the ledger."""
    site.put(1, stats={**site.row(1)["stats"], "clicks": "many"})
    found = site.found()
    assert kinds(found) == {Kind.TOTAL: 1, Kind.PUBLISHED: 1}
    assert "is no number" in found[Kind.TOTAL][0].detail


def test_a_row_reset_to_an_older_version(site: Site) -> None:
    """Complete by itself, as a store that forgot leaves it: only topic, publications and balance can tell."""
    older = site.row(1)
    for n in range(9):
        site.append(f"late-{n}", "visit", partition=n % 3)
    site.run()
    site.put(1, **{name.replace("-", "_"): value for name, value in older.items()})
    found = site.found()
    assert kinds(found) == {Kind.MISSING: 9, Kind.PUBLISHED: 1, Kind.BALANCE: 3}
    assert {each.id for each in found[Kind.MISSING]} == {f"late-{n}" for n in range(9)}
    assert found[Kind.PUBLISHED][0].kpi == "visits"
    assert "the row is at rev" in found[Kind.PUBLISHED][0].detail


def test_a_row_dropped(site: Site) -> None:
    """All its ids are missing; that quarantine does not hold them shows that its campaign was known."""
    ids = sum(site.row(3)["stats"].values())
    site.store.write([Write(RowKey("campaigns", 3), [Delete()])])
    found = site.found()
    assert len(found[Kind.MISSING]) == ids
    assert found.keys() == {Kind.MISSING, Kind.BALANCE}


def test_the_published_total_is_one_behind(site: Site) -> None:
    """The last message of the topic that readers believe has another value than the row."""
    site.append("one-more", "visit")
    site.log.create_topic("elsewhere", 1, {})
    site.run(kpi_topic="elsewhere")
    found = site.found()
    assert kinds(found) == {Kind.PUBLISHED: 1}
    (behind,) = found[Kind.PUBLISHED]
    assert (behind.campaign, behind.kpi, behind.remedy) == (1, "visits", Remedy.REPAIR)


def test_another_value_under_the_same_rev_is_named(site: Site) -> None:
    """Readers keep the last of the highest (epoch, rev)."""
    rev, value = site.row(1)["rev"], site.row(1)["stats"]["clicks"]
    body = {"campaignId": 1, "kpi": "clicks", "value": value + 1, "epoch": 1, "rev": rev}
    site.log.append([Message(site.config.kpi_topic, b"1:clicks", msgspec.json.encode(body))])
    found = site.found()
    assert kinds(found) == {Kind.PUBLISHED: 1}
    with site.audited() as audit:
        (cell,) = audit.cells(differing=True)
    assert (cell.kpi, cell.published) == ("clicks", value + 1)


@pytest.mark.parametrize(
    ("totals", "said"),
    [
        ("", "not known"),
        ("consumed", "with a verdict"),
        ("counted", "were committed"),
    ],
)
def test_a_wrong_balance(site: Site, totals: str, said: str) -> None:
    """Each partition for itself."""
    committed = site.log.checkpoint("projector", site.config.input_topic)[1]
    held = msgspec.json.decode(committed.metadata)
    if totals == "consumed":
        held["consumed"] += 1
    elif totals == "counted":
        held |= {"counted": held["counted"] + 1, "duplicate": held["duplicate"] - 1}
    site.set_totals(1, msgspec.json.encode(held).decode() if totals else "")
    found = site.found()
    assert found.keys() == {Kind.BALANCE}
    assert all(each.partition == 1 and each.remedy is Remedy.REPAIR for each in found[Kind.BALANCE])
    assert any(said in each.detail for each in found[Kind.BALANCE])
