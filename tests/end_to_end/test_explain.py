"""`projector explain` over traffic with everything in it, counted by a real worker: it says what the topic says.

The oracle is the raw topic, read with a plain client, and the rows.
"""

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from tests.aerospike_server import Server
from tests.end_to_end import oracle
from tests.end_to_end.harness import Pipeline

SETTINGS = {"page_ids": 32, "batch_records": 300}
KINDS = ("impression", "click", "visit", "conversion")


@pytest.fixture(params=["embedded", pytest.param("aerospike", marks=pytest.mark.long)])
def small_pages(request: pytest.FixtureRequest, make_pipeline: Callable[..., Pipeline], bootstrap: str) -> Pipeline:
    """Pages of 32 ids."""
    if request.param == "embedded":
        return make_pipeline(bootstrap, settings=SETTINGS).prepare()
    server: Server = request.getfixturevalue("aerospike_server")
    return make_pipeline(bootstrap, aerospike=server.properties, settings=SETTINGS).prepare()


def raw(pipeline: Pipeline) -> dict[str, list[tuple[int, int, str, str]]]:
    """By canonical id: partition, offset, tag and kind of each record that names it."""
    found: dict[str, list[tuple[int, int, str, str]]] = {}
    for message in oracle.messages(pipeline.bootstrap, pipeline.input_topic):
        try:
            document: Any = json.loads(message.value() or b"")
            bins = {each["name"]: each["value"] for each in document["bins"]} if "bins" in document else document
            event_id, data = str(uuid.UUID(bins["event-id"])), bins["event-data"]
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
        place = (message.partition() or 0, message.offset() or 0)
        found.setdefault(event_id, []).append((*place, data["tag"], data["event"]))
    return found


def test_a_hundred_ids_of_the_topic_and_a_hundred_never_sent(small_pages: Pipeline) -> None:
    """In one pass over pages and topic, right on each: counted once or not at all, each position with its verdict."""
    pipeline = small_pages
    pipeline.produce(pipeline.traffic.take(4_000))
    pipeline.run_to_end("--slot", "a")
    topic = raw(pipeline)
    sample = pipeline.rng.sample(sorted(topic), 100)
    never = [str(uuid.UUID(int=pipeline.rng.getrandbits(128))) for _ in range(100)]
    file = pipeline.directory / "ids"
    file.write_text("\n".join(sample + never))
    done = pipeline.run("explain", "--file", str(file), "--scan", "--json")
    assert done.returncode == 1, done.stderr
    entries = json.loads(done.stdout)["ids"]
    assert [entry["id"] for entry in entries] == sample + never
    for entry in entries:
        records = topic.get(entry["id"], [])
        good = [each for each in records if each[3] in KINDS and each[2] in pipeline.campaign_of]
        assert len(entry["counted"]) == bool(good)
        for counted in entry["counted"]:
            (at,) = [each for each in good if each[:2] == (counted["partition"], counted["offset"])]
            assert (pipeline.campaign_of[at[2]], f"{at[3]}s") == (counted["campaign"], counted["kpi"])
        verdicts = [(each["partition"], each["offset"], each["verdict"]) for each in entry["positions"]]
        here = [(each["partition"], each["offset"]) for each in entry["counted"]]
        assert verdicts == sorted(
            (*each[:2], "parked" if each not in good else "counted" if each[:2] in here else "duplicate")
            for each in records
        )
        parked = {each[:2]: "unknown-kind" if each[3] not in KINDS else "unknown-tag" for each in records}
        told = {(each["partition"], each["offset"]): each["reason"] for each in entry["quarantined"]}
        assert told == {each[:2]: parked[each[:2]] for each in records if each not in good}
    places = {counted["place"] for entry in entries for counted in entry["counted"]}
    assert len(places) > 5, "hardly any page"
    counted = next(entry["id"] for entry in entries if entry["counted"])
    assert pipeline.run("explain", counted.upper()).returncode == 0
    assert pipeline.run("explain", never[0]).returncode == 1
