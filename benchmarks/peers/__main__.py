"""The projector and programs that others would write for the same work, in turns on one broker and one topic.

    python -m benchmarks.peers --events 200000 --runs 1 --only kafka-streams quix loop projector --json peers.json

Prints Markdown tables; a program that cannot be run here is told and left out. Linux, Java 17 and Maven are needed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.latency import Flow, measure
from benchmarks.peers.contender import CONTENDERS, Contender, chosen
from benchmarks.peers.race import Failed, race
from benchmarks.peers.stand import Backlog, Run, Stand
from benchmarks.peers.tables import ABOUT, tables
from benchmarks.peers.tools import Unavailable, kafka_version, quix_version
from benchmarks.result import Result, command
from benchmarks.system import table

DUPLICATES = 0.02
KILLS = (0.1, 0.3, 0.5)
"""At which shares of the events counted."""
QUIET_S = 1.0
QUIET_CHECKED_S = 7.0
"""What is counted twice may come with the commit after the next: those of Quix Streams are 5 s apart."""


class Comparison:
    """All runs; `raw` grows with them, and `--json` is written after each."""

    def __init__(self, stand: Stand, arguments: argparse.Namespace) -> None:
        self.stand = stand
        self.arguments = arguments
        self.left = chosen(arguments.only)
        self.turn = 0
        self.began = datetime.now(UTC)
        self.raw: dict[str, Any] = {
            "events": arguments.events,
            "events_checked": arguments.events_checked,
            "duplicate_share": DUPLICATES,
            "kills": len(KILLS),
            "turns": 0,
            "ceiling": [],
            "clean": {},
            "duplicates": {},
            "killed": {},
            "latency": {},
            "failures": [],
        }
        self.command = command()

    def resume(self, file: Path) -> None:
        """Add to what an earlier run found, with as many events. Raises `ValueError` for another one's."""
        held = json.loads(file.read_bytes())
        for name in ("events", "events_checked", "duplicate_share", "kills"):
            if held["raw"][name] != self.raw[name]:
                raise ValueError(f"{file} has {name} {held['raw'][name]}, not {self.raw[name]}")
        self.raw = held["raw"]
        self.began = datetime.fromisoformat(held["began"])
        self.command = f"{held['command']}; {self.command}"

    def rates(self) -> None:
        """The ceiling and each program on one clean backlog."""
        backlog = self.stand.backlog(f"clean-{self.turn}", self.arguments.events, seed=self.turn)
        self.raw["ceiling"].append({"turn": self.turn, **self._ceiling(backlog)})
        self._races("clean", backlog, (), QUIET_S)

    def checks(self) -> None:
        """Each program on a backlog with duplicates, and on one without while it is killed."""
        events = self.arguments.events_checked
        seed = 1_000 + self.turn
        backlog = self.stand.backlog(f"duplicates-{self.turn}", events, seed, DUPLICATES)
        self._races("duplicates", backlog, (), QUIET_CHECKED_S)
        self._races("killed", self.stand.backlog(f"killed-{self.turn}", events, seed), KILLS, QUIET_CHECKED_S)

    def latencies(self) -> None:
        """Each program at each rate, on topics of its own."""
        kafka = {"bootstrap.servers": self.stand.broker.bootstrap}
        for rate in self.arguments.rates:
            held = self.raw["latency"].setdefault(str(rate), {})
            for contender in [each for each in self.left if each.in_kafka]:
                with self._run(contender, None) as run:
                    if run is None:
                        continue
                    flow = Flow(kafka, run.input_topic, run.output_topic, run.start)
                    delays = measure(flow, rate, self.arguments.latency_seconds)
                    found: dict[str, Any] = {"sent": delays.sent, "included": delays.included}
                    found["events"] = len(delays.found_ms)
                    if len(delays.found_ms) > 1:
                        cuts = statistics.quantiles(delays.found_ms, n=100)
                        found |= {"p50_ms": cuts[49], "p99_ms": cuts[98], "max_ms": max(delays.found_ms)}
                    self._keep(held, contender, f"{rate:,} events/s", found)

    def save(self) -> None:
        """Write what there is by now."""
        if self.arguments.json:
            versions = {"Kafka and Kafka Streams": kafka_version(), "Quix Streams": quix_version()}
            made = tables(self.raw)
            Result("Peers", ABOUT, self.began, self.command, versions, made, raw=self.raw).save(self.arguments.json)

    def _ceiling(self, backlog: Backlog) -> dict[str, float]:
        settings = (
            "log=kafka",
            f"kafka.bootstrap.servers={self.stand.broker.bootstrap}",
            f"input_topic={backlog.topic}",
        )
        words = [sys.executable, "-m", "benchmarks.throughput", "--one", "ceiling"]
        words += [word for setting in settings for word in ("--set", setting)]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        found: dict[str, float] = json.loads(done.stdout)
        return found

    def _races(self, kind: str, backlog: Backlog, kills: tuple[float, ...], quiet_s: float) -> None:
        for contender in list(self.left):
            with self._run(contender, backlog) as run:
                if run is None:
                    continue
                try:
                    found = race(
                        run,
                        backlog,
                        self.stand,
                        kills=kills,
                        quiet_s=quiet_s,
                        seconds_max=self.arguments.seconds_max,
                    )
                except Failed as error:
                    what, said = error.args
                    print(f"{contender.title}, {kind}: FAILED: {what}:\n{said}", file=sys.stderr, flush=True)
                    failure = {"name": contender.name, "kind": kind, "turn": self.turn, "error": what, "said": said}
                    self.raw["failures"].append(failure)
                    continue
                self._keep(self.raw[kind], contender, kind, found)
        self.stand.drop(backlog)

    @contextmanager
    def _run(self, contender: Contender, backlog: Backlog | None) -> Iterator[Run | None]:
        """None, and left out from now on, where it cannot be run here."""
        try:
            with self.stand.run(contender, backlog) as run:
                yield run
        except Unavailable as error:
            print(f"{contender.title}: NOT measured: {error}", file=sys.stderr, flush=True)
            self.left.remove(contender)
            yield None

    def _keep(self, held: dict[str, list[Any]], contender: Contender, kind: str, found: dict[str, Any]) -> None:
        held.setdefault(contender.name, []).append({"turn": self.turn, **found})
        print(f"{contender.title}, {kind}: {json.dumps(found)}", file=sys.stderr, flush=True)
        self.save()


def main() -> None:
    """Measure, and print Markdown tables."""
    names = sorted({each.kind for each in CONTENDERS}) + [each.name for each in CONTENDERS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000, help="clean events a run, for the rates")
    parser.add_argument("--events-checked", type=int, default=400_000, help="events a run with duplicates and kills")
    parser.add_argument("--runs", type=int, default=3, help="turns")
    parser.add_argument(
        "--rates", type=int, nargs="*", default=(2_000, 20_000), help="events a second, for the latency"
    )
    parser.add_argument("--latency-seconds", type=float, default=40, help="of each latency run, 10 s warm-up included")
    parser.add_argument("--seconds-max", type=float, default=900, help="a run that takes longer is stopped there")
    parser.add_argument(
        "--only", nargs="*", default=[], choices=names, metavar="NAME", help=", ".join(dict.fromkeys(names))
    )
    parser.add_argument(
        "--skip", nargs="*", default=[], choices=("rates", "checks", "latency"), help="parts to leave out"
    )
    parser.add_argument("--json", type=Path, help="file for the raw figures and the tables")
    parser.add_argument("--resume", action="store_true", help="add further turns to what is in the file of --json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="peers-") as name, closing(Stand(Path(name))) as stand:
        comparison = Comparison(stand, arguments)
        if arguments.resume:
            comparison.resume(arguments.json)
        first = comparison.raw["turns"] + 1
        for comparison.turn in range(first, first + arguments.runs):
            if "rates" not in arguments.skip:
                comparison.rates()
            if "checks" not in arguments.skip:
                comparison.checks()
            if "latency" not in arguments.skip:
                comparison.latencies()
            comparison.raw["turns"] = comparison.turn
        comparison.save()
        for each in tables(comparison.raw):
            print(f"\n### {each.title}\n\n{each.note}\n\n{table(each.head, each.rows)}", flush=True)


if __name__ == "__main__":
    main()
