"""The loop that an engineer writes in an afternoon: consume, one `operate` an event, produce; commit every 1,000.

At least once: what was counted after the last commit is counted again after a crash. With --deduplicate each event's id
is put create-only into a map of the same row in the same `operate`, so that one that is there counts nothing.
"""

import argparse
import json
import signal
from pathlib import Path
from typing import Any

import aerospike
from aerospike import exception
from aerospike_helpers.operations import map_operations  # type: ignore[import-untyped]  # no hints
from confluent_kafka import Consumer, KafkaException, Producer

COMMIT_EVENTS = 1_000
IDLE_S = 0.2
KINDS = frozenset({"impression", "click", "visit", "conversion"})
ORDERED = {"map_order": aerospike.MAP_KEY_ORDERED}
CREATE_ONLY = {**ORDERED, "map_write_flags": aerospike.MAP_WRITE_FLAGS_CREATE_ONLY}


def main() -> None:
    """Count until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("bootstrap", "input", "output", "group", "tags", "hosts", "namespace"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--session-ms", type=int, required=True)
    parser.add_argument("--deduplicate", action="store_true")
    arguments = parser.parse_args()
    lines = Path(arguments.tags).read_text(encoding="ascii").splitlines()
    campaigns = {tag: int(campaign) for tag, campaign in (line.split() for line in lines)}
    host, _, port = arguments.hosts.partition(":")
    store = aerospike.client({"hosts": [(host, int(port))]}).connect()
    consumer = Consumer(
        {
            "bootstrap.servers": arguments.bootstrap,
            "group.id": arguments.group,
            "session.timeout.ms": arguments.session_ms,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    producer = Producer({"bootstrap.servers": arguments.bootstrap, "enable.idempotence": True})
    consumer.subscribe([arguments.input])
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    uncommitted = 0
    while not stopped:
        message = consumer.poll(IDLE_S)
        if message is not None:
            if message.error():
                raise KafkaException(message.error())
            counted = _counted(store, arguments.namespace, campaigns, message.value(), arguments.deduplicate)
            if counted:
                key, total = counted
                producer.produce(arguments.output, total, key)
            producer.poll(0)
            uncommitted += 1
        if uncommitted and (uncommitted == COMMIT_EVENTS or message is None or stopped):
            producer.flush()
            consumer.commit(asynchronous=False)
            uncommitted = 0
    consumer.close()


def _counted(
    store: Any, namespace: str, campaigns: dict[str, int], value: bytes | None, deduplicate: bool
) -> tuple[str, bytes] | None:
    """Count one record: the key and the new total to publish; None for a duplicate and for what is no event."""
    record = json.loads(value or b"{}")
    bins = {each["name"]: each["value"] for each in record.get("bins", ())}
    data = bins.get("event-data", {})
    campaign, kind = campaigns.get(data.get("tag")), data.get("event")
    if campaign is None or kind not in KINDS:
        return None
    kpi = f"{kind}s"
    operations = [
        map_operations.map_increment("stats", kpi, 1, ORDERED),
        map_operations.map_get_by_key("stats", kpi, aerospike.MAP_RETURN_VALUE),
    ]
    if deduplicate:
        operations.insert(0, map_operations.map_put("ids", bins["event-id"], 1, CREATE_ONLY))
    try:
        _, _, row = store.operate((namespace, "loop", campaign), operations)
    except exception.ElementExistsError:
        return None
    return f"{campaign}:{kpi}", json.dumps({"campaignId": campaign, "kpi": kpi, "value": row["stats"]}).encode()


if __name__ == "__main__":
    main()
