"""The audit against "consume in batches and decode with msgspec, nothing else", on one broker and one topic.

    python -m benchmarks.audit --events 2000000 --runs 3

`recount` is its reading of the topic alone, `audit` the whole command on a topic that was counted. Every run is a
process of its own, taken from start to end; the ceiling is taken between its first and its last batch. CPU time is of
all its processes; memory and disk are looked at ten times a second.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from threading import Event
from typing import NamedTuple

from benchmarks import throughput
from benchmarks.system import System, system, table
from projector.backends import log_opener, open_log
from projector.cli.app import configured
from projector.config import Config

MEMORY_MIB = 1_024
LOOK_S = 0.1
MIB = 1 << 20


class Spent(NamedTuple):
    """What a command took: the largest process alone, all of them at one moment, and the most that lay on disk."""

    seconds: float
    cpu_s: float
    rss_mib: float
    rss_all_mib: float
    disk_mib: float


def recount(config: Config) -> None:
    """Read the topic as it is now into a database that is thrown away."""
    from projector.audit.database import open_database
    from projector.audit.recount import recounting

    with (
        tempfile.TemporaryDirectory() as name,
        closing(open_log(config)) as log,
        closing(open_database(Path(name), MEMORY_MIB)) as database,
    ):
        topic = config.input_topic
        start, until = log.heads(topic), log.ends(topic)
        with recounting(
            database,
            log,
            topic,
            source_set=config.source_set,
            start=start,
            until=until,
            advance=lambda _: None,
            open_log=log_opener(config),
        ) as finish:
            finish()
        found = database.execute("SELECT count(*), count(*) FILTER (reason IS NULL) FROM topic").fetchall()
        assert found == [(sum(until.values()) - sum(start.values()),) * 2], found


def command(of: str, target: System) -> list[str]:
    """What is measured, as a command."""
    if of == "audit":
        return target.command("audit")
    settings = [word for setting in target.settings for word in ("--set", setting)]
    return [sys.executable, "-m", "benchmarks.audit", "--one", *settings]


def spent(words: list[str]) -> Spent:
    """Run a command to its end, with a directory of its own for what it spills. Raises `CalledProcessError`."""
    with tempfile.TemporaryDirectory() as name:
        began = time.monotonic()
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, env={**os.environ, "TMPDIR": name})
        ended = Event()
        with ThreadPoolExecutor(1) as thread:
            watching = thread.submit(_watched, process.pid, Path(name), ended)
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.monotonic() - began
            ended.set()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words)
    return Spent(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, *watching.result())


def _watched(pid: int, directory: Path, ended: Event) -> tuple[float, float]:
    """The most MiB that a process and all below it held in memory at once, and in files of the directory."""
    memory = disk = 0
    while not ended.wait(LOOK_S):
        memory = max(memory, sum(map(_resident, _family(pid))))
        disk = max(disk, sum(map(_allotted, directory.rglob("*"))))
    return memory / MIB, disk / MIB


def _family(pid: int) -> list[int]:
    """A process, its children, theirs, ..."""
    found = [pid]
    for each in found:
        with suppress(OSError):
            for task in Path(f"/proc/{each}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _resident(pid: int) -> int:
    """Bytes in memory; what several processes share counts for each."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _allotted(file: Path) -> int:
    with suppress(OSError):
        return file.stat().st_blocks * 512
    return 0


def main() -> None:
    """Measure, and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--pairs", nargs="*", default=("kafka+embedded",), choices=throughput.PAIRS)
    parser.add_argument("--of", default="audit", choices=("recount", "audit"))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--set", action="append", default=[], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        recount(configured(None, arguments.set))
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for pair in arguments.pairs:
            target = system(pair, Path(name))
            if target is None:
                print(f"{pair}: NOT measured, the store cannot be had here", file=sys.stderr)
                continue
            target.run("migrate")
            target.run("seed")
            target.run("simulate", "--events", str(arguments.events), "--clean")
            if arguments.of == "audit":
                target.run("run", "--until-end")
            ceilings, runs = [], []
            for _ in range(arguments.runs):
                ceilings.append(throughput.measured("ceiling", target)["rate"])
                runs.append(spent(command(arguments.of, target)))
            target.close()
            rates = [arguments.events / run.seconds for run in runs]
            ratios = [rate / ceiling for rate, ceiling in zip(rates, ceilings, strict=True)]
            rows.append(
                [
                    pair,
                    f"{arguments.events:,}",
                    f"{statistics.median(ceilings):,.0f}",
                    f"{statistics.median(rates):,.0f}",
                    f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
                    f"{statistics.median(run.cpu_s for run in runs) * 1e6 / arguments.events:.1f}",
                    f"{max(run.rss_mib for run in runs):,.0f}",
                    f"{max(run.rss_all_mib for run in runs):,.0f}",
                    f"{max(run.disk_mib for run in runs):,.0f}",
                ]
            )
    head = (
        "log+store",
        "events",
        "ceiling, events/s",
        f"{arguments.of}, events/s",
        "ratio",
        "CPU us/event",
        "RSS of one process, MiB",
        "of all at once, MiB",
        "disk, MiB",
    )
    print(table(head, rows))


if __name__ == "__main__":
    main()
