"""A store that was damaged by hand is audited, repaired by the commands, killed or not, and is the truth again."""

import json
import time
from contextlib import closing
from typing import Any

import pytest

from projector.backends import open_store
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
    campaigns = sorted(pipeline.rows().ids)
    with closing(open_store(pipeline.config)) as store:
        first = bins_of(store, pipeline, campaigns[0])
        newest = first["prev"] if first["sealed"] else first["seal"]
        store.write([Write(page_key(pipeline.live.pages, campaigns[0], newest), [Delete()])])
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
