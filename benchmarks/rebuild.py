"""A rebuild beside `projector run` on the same backlog, and how long a switch stops the totals under live traffic.

    python -m benchmarks.rebuild --events 400000 --rate 10000

Rates are between the first and the last committed offset: without start and join. The switch is timed from the pointer
row's `closing` to the first message of the new epoch, read_committed.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from benchmarks.latency import event
from benchmarks.system import System, systems, table
from projector.backends import open_log, open_store
from projector.cli.app import configured
from projector.config import Config
from projector.event import KPIS
from projector.generation import Generation
from projector.pointer import read_pointer

CAMPAIGNS = 100
LOOK_S = 0.01
WAIT_S = 60.0


def rate(config: Config, generation: Generation, done: Callable[[], bool]) -> float:
    """Offsets a second that a group commits, between the first commit seen and the last."""
    commits: list[tuple[float, int]] = []
    with closing(open_log(config)) as log:
        while not done():
            offset = sum(each.offset for each in log.checkpoint(generation.group, config.input_topic).values())
            if offset and (not commits or commits[-1][1] != offset):
                commits.append((time.monotonic(), offset))
            time.sleep(LOOK_S)
    (first, begin), (last, end) = commits[0], commits[-1]
    return (end - begin) / (last - first) if last > first else 0.0


def counted(target: System, *words: str, generation: int) -> float:
    """The rate of a command that counts for a generation until it ends."""
    config = configured(None, list(target.settings))
    process = subprocess.Popen(target.command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    found = rate(config, Generation(generation, config.group), lambda: process.poll() is not None)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    return found


def traffic(config: Config, events_a_second: int, done: threading.Event) -> None:
    """Live events of the seeded campaigns until `done`."""
    producer = Producer({**config.kafka, "linger.ms": 5})
    began, number = time.monotonic(), 0
    while not done.is_set():
        for _ in range(int((time.monotonic() - began) * events_a_second) - number):
            campaign, code = number % CAMPAIGNS + 1, number // CAMPAIGNS % len(KPIS)
            producer.produce(config.input_topic, event(number, code, campaign))
            number += 1
        producer.poll(0)
        time.sleep(0.005)
    producer.flush()


def first_of_epoch(config: Config, epoch: int, found: list[float]) -> None:
    """When the first message of an epoch can be read."""
    consumer = Consumer({**config.kafka, "group.id": "switch", "isolation.level": "read_committed"})
    partitions = consumer.list_topics(config.kpi_topic).topics[config.kpi_topic].partitions
    consumer.assign([TopicPartition(config.kpi_topic, partition, OFFSET_BEGINNING) for partition in partitions])
    while not found:
        for message in consumer.consume(10_000, 0.01):
            if json.loads(message.value() or b"{}").get("epoch") == epoch:
                found.append(time.monotonic())
                break
    consumer.close()


def switch(target: System, events_a_second: int) -> dict[str, float]:
    """Seconds from `closing` to the flip and to the first message after it, with a rebuild that is ready to switch."""
    config = configured(None, list(target.settings))
    done = threading.Event()
    sending = threading.Thread(target=traffic, args=(config, events_a_second, done))
    worker = subprocess.Popen(target.command("run", "--slot", "bench-0"), stderr=subprocess.DEVNULL)
    sending.start()
    published: list[float] = []
    reader = threading.Thread(target=first_of_epoch, args=(config, 2, published), daemon=True)
    reader.start()
    rebuilding = subprocess.Popen(target.command("rebuild", "--yes"), stdout=sys.stderr, stderr=subprocess.DEVNULL)
    closed_at = flipped_at = 0.0
    try:
        with closing(open_store(config)) as store:
            while not flipped_at and rebuilding.poll() in (None, 0):
                pointer = read_pointer(store, 0)
                if pointer and pointer.closing and not closed_at:
                    closed_at = time.monotonic()
                if pointer and pointer.live != 1:
                    flipped_at = time.monotonic()
                time.sleep(LOOK_S)
        reader.join(WAIT_S)
        rebuilding.wait()
    finally:
        done.set()
        sending.join()
        worker.terminate()
        worker.wait()
        rebuilding.kill()
    return {"flip": flipped_at - closed_at, "published": published[0] - closed_at if published else float("inf")}


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--rate", type=int, default=10_000, help="live events a second during the switch")
    parser.add_argument("--pairs", nargs="*", default=("kafka+aerospike", "kafka+embedded"))
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for target in systems(arguments.pairs, Path(name)):
            target.run("migrate")
            target.run("seed")
            target.run("simulate", "--events", str(arguments.events), "--clean")
            running = counted(target, "run", "--until-end", generation=1)
            rebuilding = counted(target, "rebuild", "--yes", "--no-cutover", generation=2)
            target.run("abandon", "2", "--yes")
            timed = switch(target, arguments.rate)
            target.run("balance")
            rows.append(
                [
                    target.name,
                    f"{running:,.0f}",
                    f"{rebuilding:,.0f}",
                    f"{rebuilding / running:.2f}",
                    f"{timed['flip']:.2f}",
                    f"{timed['published']:.2f}",
                ]
            )
    head = ("log+store", "run, events/s", "rebuild, events/s", "ratio", "closing to flip, s", "to the first total, s")
    print(table(head, rows))


if __name__ == "__main__":
    main()
