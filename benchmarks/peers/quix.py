"""The projector's work in Quix Streams, processing_guarantee="exactly-once": ad events in, totals out.

Run by the Python of an environment of its own (`tools.quix_python`): Quix Streams pins another Kafka client than ours.
One repartitioning (`group_by`), by campaign and KPI, serves both the deduplication and the count; ids are in its state.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quixstreams import Application, State  # type: ignore[import-not-found]  # lives in an environment of its own

KINDS = frozenset({"impression", "click", "visit", "conversion"})


def main() -> None:
    """Count until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bootstrap", "input", "output", "group", "tags", "state"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--session-ms", type=int, required=True)
    parser.add_argument("--deduplicate", action="store_true")
    arguments = parser.parse_args()
    lines = Path(arguments.tags).read_text(encoding="ascii").splitlines()
    campaigns = {tag: int(campaign) for tag, campaign in (line.split() for line in lines)}

    def named(record: Any) -> Iterator[dict[str, Any]]:
        bins = {each["name"]: each["value"] for each in record.get("bins", ())}
        data = bins.get("event-data", {})
        campaign, kind = campaigns.get(data.get("tag")), data.get("event")
        if campaign is not None and kind in KINDS:
            yield {"campaignId": campaign, "kpi": f"{kind}s", "id": bins["event-id"]}

    application = Application(
        broker_address=arguments.bootstrap,
        consumer_group=arguments.group,
        processing_guarantee="exactly-once",
        auto_offset_reset="earliest",
        state_dir=arguments.state,
        consumer_extra_config={"session.timeout.ms": arguments.session_ms},
        # Random by default, and then a killed worker's transaction stays open until its timeout, a minute.
        producer_extra_config={"transactional.id": arguments.group},
        loglevel="WARNING",
    )
    totals = application.topic(arguments.output, key_serializer="str")
    frame = application.dataframe(application.topic(arguments.input))
    frame = frame.apply(named, expand=True)
    frame = frame.group_by(_campaign_and_kpi, name="campaign", key_serializer="str", key_deserializer="str")
    if arguments.deduplicate:
        frame = frame.filter(_first, stateful=True)
    frame = frame.apply(_total, stateful=True)
    frame.to_topic(totals)
    application.run()


def _campaign_and_kpi(event: dict[str, Any]) -> str:
    return f"{event['campaignId']}:{event['kpi']}"


def _first(event: dict[str, Any], state: State) -> bool:
    """Whether the id is new; state is by message key: campaign and KPI."""
    if state.exists(event["id"]):
        return False
    state.set(event["id"], 1)
    return True


def _total(event: dict[str, Any], state: State) -> dict[str, Any]:
    value = state.get("total", 0) + 1
    state.set("total", value)
    return {"campaignId": event["campaignId"], "kpi": event["kpi"], "value": value}


if __name__ == "__main__":
    main()
