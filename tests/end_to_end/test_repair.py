"""A store that was damaged by hand is audited, repaired by the commands, killed or not, and is the truth again."""

import json
import time
from contextlib import closing
from typing import Any
from uuid import uuid4

import pytest

from projector.backends import open_store
from projector.event import KPIS, spelled
from projector.generation import Generation
from projector.page import page_key
from projector.store import Delete, Put, Read, RowKey, Store, Write
from tests.end_to_end.harness import Pipeline

REASON = ("--execute", "--reason", "a test")


def bins_of(store: Store, pipeline: Pipeline, campaign: int) -> dict[str, Any]:
    """Of a row."""
    names = ("stats", "seen", "sealed", "seal", "prev")
    (row,) = store.read([Read(RowKey(pipeline.live.campaigns, campaign), names)])
    assert row is not None
    return dict(row.bins)


def damage(pipeline: Pipeline) -> None:
    """A page dropped, an id removed with its count, a counter changed."""
    with closing(open_store(pipeline.config)) as store:
        # Those last that have just been sealed: they have no id in `seen` that could be lost.
        campaigns = sorted(pipeline.rows().ids, key=lambda each: not bins_of(store, pipeline, each)["seen"])
        first = bins_of(store, pipeline, campaigns[0])
        store.write([Write(page_key(pipeline.live.pages, campaigns[0], newest(first)), [Delete()])])
        second = bins_of(store, pipeline, campaigns[1])
        lost = next(iter(second["seen"]))
        kept = {key: sighting for key, sighting in second["seen"].items() if key != lost}
        kpi = ("visits", "impressions", "clicks", "conversions")[second["seen"][lost][0]]
        stats = second["stats"] | {kpi: second["stats"][kpi] - 1}
        store.write([Write(RowKey(pipeline.live.campaigns, campaigns[1]), [Put("seen", kept), Put("stats", stats)])])
        third = bins_of(store, pipeline, campaigns[2])
        stats = third["stats"] | {"impressions": third["stats"]["impressions"] + 5}
        store.write([Write(RowKey(pipeline.live.campaigns, campaigns[2]), [Put("stats", stats)])])


def ends(pipeline: Pipeline, code: int, *words: str) -> str:
    """A command, which must end so; what it printed."""
    done = pipeline.run(*words)
    assert done.returncode == code, f"{words}: {done.returncode}, not {code}: {done.stdout}{done.stderr}"
    return done.stdout


def test_a_damaged_store_is_mended(case: Pipeline) -> None:
    """Refused beside a worker; then shown, done, told, and a worker goes on from it."""
    case.settings |= {"page_ids": "200", "batch_records": "1000"}
    case.produce(case.traffic.take(12_000))
    worker = case.start("--slot", "a")
    case.wait_caught_up(worker)
    ends(case, 3, "repair", *REASON)
    worker.stop()
    ends(case, 0, "audit")
    damage(case)
    found = json.loads(ends(case, 1, "audit", "--json"))
    assert {kind for kind, count in found["counts"].items() if count} >= {"damaged", "missing", "total"}
    assert "nothing was changed" in ends(case, 1, "repair")
    ends(case, 1, "audit")
    assert "mended" in ends(case, 0, "repair", *REASON)
    case.exact()
    ends(case, 0, "audit")
    (told,) = json.loads(ends(case, 0, "audit", "--history", "--json"))
    assert told["ended"]
    assert {change["what"] for change in told["outcome"]} >= {"page", "ids", "row", "publication"}
    case.produce(case.traffic.take(2_000))
    case.run_to_end("--slot", "a")
    case.exact()


def test_a_ledger_that_holds_what_it_should_not_is_rebuilt(pipeline: Pipeline) -> None:
    """An id that was never sent, one in two places, one of another kind: named, not repaired, right after a rebuild."""
    pipeline.settings |= {"page_ids": "200", "batch_records": "1000"}
    pipeline.produce(pipeline.traffic.take(8_000))
    pipeline.run_to_end("--slot", "a")
    expected = spoil(pipeline)
    found = json.loads(ends(pipeline, 1, "audit", "--json"))
    assert {(each["kind"], each["id"]) for each in found["findings"] if each["id"]} == expected
    assert {each["kind"] for each in found["findings"] if not each["id"]} == {"balance", "published"}
    refused = pipeline.run("repair", *REASON)
    assert refused.returncode == 3, refused.stdout
    assert "projector rebuild" in refused.stderr
    assert json.loads(ends(pipeline, 1, "audit", "--json"))["findings"] == found["findings"]
    ends(pipeline, 1, "rebuild", "--yes")
    ends(pipeline, 0, "cutover", "2", "--yes", "--accept-differences", "the ledger was damaged")
    pipeline.live = Generation(2, pipeline.group)
    pipeline.run_to_end("--slot", "a")
    ends(pipeline, 0, "audit")
    pipeline.exact()


def newest(row: dict[str, Any]) -> int:
    """The seal of the newest page in the archive; 0 for none."""
    seal: int = row["prev"] if row["sealed"] else row["seal"]
    return seal


def spoil(pipeline: Pipeline) -> set[tuple[str, str]]:
    """Damage three campaigns such that each ledger foots by itself; the kinds and ids to be found."""
    foreign = uuid4()
    with closing(open_store(pipeline.config)) as store:

        def put(campaign: int, seen: dict[Any, Any], stats: dict[str, int]) -> None:
            store.write([Write(RowKey(pipeline.live.campaigns, campaign), [Put("seen", seen), Put("stats", stats)])])

        rows = {campaign: bins_of(store, pipeline, campaign) for campaign in sorted(pipeline.rows().ids)}
        one, two = [campaign for campaign, row in rows.items() if row["seen"]][:2]
        archived = next(n for n, row in rows.items() if n not in (one, two) and newest(row))
        sighting = next(iter(rows[one]["seen"].values()))
        more = {KPIS[sighting[0]]: rows[one]["stats"][KPIS[sighting[0]]] + 1}
        put(one, {**rows[one]["seen"], foreign.bytes: sighting}, rows[one]["stats"] | more)
        (page,) = store.read([Read(page_key(pipeline.live.pages, archived, newest(rows[archived])), ("ids",))])
        assert page is not None
        twice, sighting = next(iter(page.bins["ids"].items()))
        more = {KPIS[sighting[0]]: rows[archived]["stats"][KPIS[sighting[0]]] + 1}
        put(archived, {**rows[archived]["seen"], twice: sighting}, rows[archived]["stats"] | more)
        changed, (code, *where) = next(iter(rows[two]["seen"].items()))
        other = (code + 1) % len(KPIS)
        stats = rows[two]["stats"]
        moved = {KPIS[code]: stats[KPIS[code]] - 1, KPIS[other]: stats[KPIS[other]] + 1}
        put(two, {**rows[two]["seen"], changed: [other, *where]}, stats | moved)
    return {
        ("foreign", str(foreign)),
        ("twice", spelled(twice)),
        ("other-kind", spelled(changed)),
    }


@pytest.mark.long
def test_a_repair_that_is_killed(case: Pipeline) -> None:
    """At random moments, again and again; at last it is the truth."""
    case.settings |= {"page_ids": "200", "batch_records": "1000"}
    case.produce(case.traffic.take(12_000))
    case.run_to_end("--slot", "a")
    damage(case)
    for _ in range(4):
        process = case.begin("repair", *REASON)
        time.sleep(case.rng.uniform(1.0, 4.0))
        process.kill()
    ends(case, 0, "repair", *REASON)
    case.exact()
    case.produce(case.traffic.take(2_000))
    case.run_to_end("--slot", "b")
    case.exact()
