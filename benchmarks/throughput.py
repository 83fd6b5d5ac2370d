"""The whole path against "consume in batches and decode with msgspec, nothing else", on one broker and one topic.

    python -m benchmarks.throughput --events 400000 --runs 3

Every run is a process of its own; the runs take turns, so that a slow moment of the machine hits all alike. The rate is
that between the first and the last batch: without start, join and leave. The ratio is taken within each turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.system import System, systems, table
from projector.backends import open_log, open_store
from projector.cli.app import configured
from projector.cli.run import spare_the_collector
from projector.config import Config

PAIRS = ("kafka+aerospike", "kafka+embedded", "embedded+embedded")


class _Bin(msgspec.Struct):
    name: str
    value: Any


class _Record(msgspec.Struct):
    msg: str
    bins: list[_Bin]


def batches(config: Config) -> Iterator[list[bytes]]:
    """The values of the input topic as they come, by the client alone."""
    log = open_log(config)
    if config.log == "embedded":
        for records in log.read(config.input_topic):
            yield [record.value or b"" for record in records]
        return
    from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

    ends = log.ends(config.input_topic)
    left = sum(ends.values())
    consumer = Consumer(
        {
            **config.kafka,
            "group.id": "ceiling",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.queue.backoff.ms": 2,
            "queued.min.messages": 1_000_000,
        }
    )
    consumer.assign([TopicPartition(config.input_topic, partition, OFFSET_BEGINNING) for partition in ends])
    while left > 0:
        values = [message.value() or b"" for message in consumer.consume(config.batch_records, 1.0)]
        left -= len(values)
        yield values
    consumer.close()


def ceiling(config: Config) -> dict[str, float]:
    """Consume every record in batches and decode it with msgspec, nothing else."""
    decode = msgspec.json.Decoder(_Record).decode
    consumed, first, last, first_count, first_cpu_s, last_cpu_s = 0, 0.0, 0.0, 0, 0.0, 0.0
    for values in batches(config):
        for value in values:
            decode(value)
        consumed += len(values)
        last, last_cpu_s = time.monotonic(), time.process_time()
        if values and not first:
            first, first_count, first_cpu_s = last, consumed, last_cpu_s
    counted = consumed - first_count
    if not counted:
        raise SystemExit(f"{consumed} events are one batch, and no rate: give more than {config.batch_records}")
    return {
        "rate": counted / (last - first),
        "cpu_us": (last_cpu_s - first_cpu_s) * 1e6 / counted,
        "events": consumed,
    }


def projector(config: Config) -> dict[str, float]:
    """One worker from the beginning of the topic to its end."""
    from projector.preflight import preflight
    from projector.projector import Projector

    spare_the_collector()
    log, store = open_log(config), open_store(config)
    cleared = preflight(log, store, config)
    worker = Projector(log, store, config, cleared.generation, cleared.epoch, "bench-0", cleared.settle_s)
    commits: list[tuple[float, int]] = []

    def watch() -> None:
        if worker.metrics.consumed and (not commits or commits[-1][1] != worker.metrics.consumed):
            commits.append((time.monotonic(), worker.metrics.consumed))

    began = time.monotonic()
    worker.run(until_end=True, stopping=lambda: False, progress=watch)
    ended = time.monotonic()
    times = os.times()
    (first, first_count), (last, count) = commits[0], commits[-1]
    return {
        "rate": (count - first_count) / (last - first) if last > first else count / (ended - began),
        "whole": count / (ended - began),
        "cpu_us": (times.user + times.system) * 1e6 / count,
        "events": count,
    }


def measured(what: str, target: System) -> dict[str, float]:
    """Run `what` in a process of its own."""
    settings = [word for setting in target.settings for word in ("--set", setting)]
    command = [sys.executable, "-m", "benchmarks.throughput", "--one", what, *settings]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=400_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--pairs", nargs="*", default=PAIRS, choices=PAIRS)
    parser.add_argument("--one", choices=("ceiling", "projector"), help=argparse.SUPPRESS)
    parser.add_argument("--set", action="append", default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        config = configured(None, arguments.set)
        print(json.dumps(ceiling(config) if arguments.one == "ceiling" else projector(config)))
        return
    with tempfile.TemporaryDirectory() as name:
        rows = []
        for pair in arguments.pairs:
            rates: list[dict[str, float]] = []
            ceilings: list[dict[str, float]] = []
            for turn, target in enumerate(systems([pair], Path(name), arguments.runs)):
                target.run("migrate")
                target.run("seed")
                target.run("simulate", "--events", str(arguments.events), "--seed", str(turn + 1), "--clean")
                ceilings.append(measured("ceiling", target))
                rates.append(measured("projector", target))
                target.run("balance")
            if rates:
                ratios = [mine["rate"] / top["rate"] for mine, top in zip(rates, ceilings, strict=True)]
                rows.append(
                    [
                        pair,
                        f"{statistics.median(top['rate'] for top in ceilings):,.0f}",
                        f"{statistics.median(mine['rate'] for mine in rates):,.0f}",
                        f"{statistics.median(mine['whole'] for mine in rates):,.0f}",
                        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
                        f"{statistics.median(mine['cpu_us'] for mine in rates):.1f}",
                    ]
                )
        head = ("log+store", "ceiling, events/s", "projector, events/s", "from start to end", "ratio", "CPU us/event")
        print(table(head, rows))


if __name__ == "__main__":
    main()
