"""From the moment an event is sent until a read_committed reader has a total that includes it.

    python -m benchmarks.latency --rate 2000 --seconds 20

Events of one campaign and KPI are matched to totals by their number: the k-th is included in the first value >= k.
"""

import argparse
import base64
import json
import statistics
import subprocess
import tempfile
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from benchmarks.system import System, systems, table
from projector.cli.app import configured
from projector.event import KINDS, KPIS
from projector.reference import tag_id

CAMPAIGNS = 100
SLICE_S = 0.002
DRAIN_S = 30.0
WARM_UP_S = 10.0  # from the first total on: before it events pile up, and the broker is still compiling itself


class Flow(NamedTuple):
    """Where events go in and totals come out, and how the program between them is started."""

    kafka: dict[str, Any]
    input_topic: str
    kpi_topic: str
    start: Callable[[], subprocess.Popen[bytes]]


class Delays(NamedTuple):
    """Milliseconds of each event after the warm-up; and how many events were sent in all, and are in totals."""

    found_ms: list[float]
    sent: int
    included: int


def event(number: int, code: int, campaign: int) -> bytes:
    """An event of a seeded campaign, in the connector's form."""
    key = base64.b64encode(number.to_bytes(20)).decode()
    return (
        f'{{"msg": "write", "key": ["test", "events", "{key}", null], "gen": 1, "exp": 0, "lut": 0, "bins": ['
        f'{{"name": "event-id", "type": "str", "value": "latency-{number}"}}, '
        f'{{"name": "event-data", "type": "map", "value": {{"tag": "{_tag(campaign)}", '
        f'"publisher": "p", "event": "{KINDS[code]}", "geo": [52.3, 4.8], "userAgent": "latency"}}}}]}}'
    ).encode()


@cache
def _tag(campaign: int) -> str:
    return tag_id(1, campaign, 1)


def measure(flow: Flow, rate: int, seconds: float) -> Delays:
    """Send `rate` events a second, and wait for the totals that include them, after the last one for `DRAIN_S`."""
    sent: dict[tuple[int, str], deque[float]] = defaultdict(deque)
    taken: dict[tuple[int, str], int] = defaultdict(int)
    latencies: list[float] = []
    done, given_up = threading.Event(), threading.Event()
    warm_at = float("inf")

    def read() -> None:
        nonlocal warm_at
        consumer = Consumer(
            {
                **flow.kafka,
                "group.id": "latency",
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 5,
            }
        )
        partitions = consumer.list_topics(flow.kpi_topic).topics[flow.kpi_topic].partitions
        consumer.assign([TopicPartition(flow.kpi_topic, partition, OFFSET_BEGINNING) for partition in partitions])
        while not given_up.is_set() and (not done.is_set() or any(sent.values())):
            message = consumer.poll(0.1)
            if message is None or message.error():
                continue
            now = time.monotonic()
            warm_at = min(warm_at, now + WARM_UP_S)
            total = json.loads(message.value() or b"{}")
            key = (total["campaignId"], total["kpi"])
            while taken[key] < total["value"] and sent[key]:
                at = sent[key].popleft()
                taken[key] += 1
                if at > warm_at:
                    latencies.append((now - at) * 1000)
        consumer.close()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    producer = Producer({**flow.kafka, "linger.ms": 0})
    worker = flow.start()
    number = 0
    try:
        begin = time.monotonic()
        while (now := time.monotonic()) - begin < seconds:
            for _ in range(int((now - begin) * rate) - number):
                campaign, code = number % CAMPAIGNS + 1, number // CAMPAIGNS % len(KPIS)
                sent[campaign, KPIS[code]].append(time.monotonic())
                producer.produce(flow.input_topic, event(number, code, campaign))
                number += 1
            producer.poll(0)
            time.sleep(SLICE_S)
        producer.flush()
        done.set()
        reader.join(timeout=DRAIN_S)
    finally:
        given_up.set()
        worker.terminate()
        worker.wait()
        reader.join()
    return Delays(latencies, number, sum(taken.values()))


def _start(target: System) -> subprocess.Popen[bytes]:
    return subprocess.Popen(target.command("run", "--slot", "bench-0"), stderr=subprocess.DEVNULL)


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=int, default=2000, help="events a second")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--pairs", nargs="*", default=("kafka+embedded", "kafka+aerospike"))
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for target in systems(arguments.pairs, Path(name)):
            target.run("migrate")
            target.run("seed", "--tags", "10")
            config = configured(None, list(target.settings))
            flow = Flow(config.kafka, config.input_topic, config.kpi_topic, partial(_start, target))
            found = sorted(measure(flow, arguments.rate, arguments.seconds).found_ms)
            cuts = statistics.quantiles(found, n=100)
            rows.append([target.name, f"{len(found):,}", *(f"{ms:.0f}" for ms in (cuts[49], cuts[98], found[-1]))])
    print(table(("log+store", "events", "p50 ms", "p99 ms", "max ms"), rows))


if __name__ == "__main__":
    main()
