"""The demo: 200,000 events, a projector killed three times with -9 while it counts, and totals that are exact.

`make demo` runs it on the embedded log and store, in `demo-data/`, anew each time. DEMO_BACKEND=real runs it against
Kafka at DEMO_KAFKA (127.0.0.1:9092) and Aerospike at DEMO_AEROSPIKE (127.0.0.1:3000), namespace DEMO_NAMESPACE (test):
on topics of its own, and only in a namespace without campaigns.
Ends with 0 if every total is exact, with 1 if anything differs, with 2 or 3 if it could not begin.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.text import Text

from projector.backends import open_log, open_store
from projector.balance import read_balance
from projector.config import Config, load
from projector.errors import Fatal, ProjectorError, Refused, Retryable
from projector.event import KPIS
from projector.feed import Feed
from projector.generation import Generation
from projector.log import Log
from projector.patience import patiently
from projector.pointer import POINTER
from projector.reading import campaigns
from projector.store import Read, RowKey, Store

KILLS = 3
KILL_SHARES = (0.1, 0.3, 0.5)  # each kill falls into the tenth and a half of the topic that begins here
KILL_SPREAD = 0.15
KILL_DELAY_S_MAX = 0.05
POLL_S = 0.005
RUN_S_MAX = 600
CAMPAIGNS = 100
TAGS = 1_000
SHARES = {
    "duplicates-near": 0.04,
    "duplicates-far": 0.02,
    "deletes": 0.01,
    "unknown-tags": 0.01,
    "malformed": 0.01,
}
PROJECTOR = [sys.executable, "-m", "projector"]


class NotShownError(Exception):
    """The demo did not show what it is there to show; the text says what."""


class Demo:
    """One demo in `directory`, which holds the settings, the truth and the worker's log lines."""

    def __init__(self, directory: Path, events: int, seed: int, console: Console) -> None:
        self.directory = directory
        self.events = events
        self.seed = seed
        self.console = console
        self.random = random.Random(seed)

    def tell(self, name: str, text: str, seconds: float | None = None) -> None:
        """One line of the story."""
        line = Text(f"  {name:<10}", style="bold").append(text, style="not bold")
        if seconds is not None:
            line.append(f"  {seconds:.1f} s", style="dim not bold")
        self.console.print(line, soft_wrap=True)

    def report(self, *arguments: str) -> dict[str, Any]:
        """What a command says with --json. Raises `NotShownError` with its error if it fails."""
        done = subprocess.run(
            [*PROJECTOR, *arguments, "--json"],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise NotShownError(f"projector {arguments[0]}: {done.stderr.strip() or f'exit code {done.returncode}'}")
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    def show(self, *arguments: str) -> bool:
        """Run a command before the reader's eyes; whether it found everything as it must be."""
        self.console.print()
        self.console.print(Text(f"$ projector {' '.join(arguments)}", style="bold"), soft_wrap=True)
        self.console.file.flush()
        done = subprocess.run([*PROJECTOR, *arguments], cwd=self.directory, check=False)
        return done.returncode == 0

    # --- the run and its kills

    def count(self, log: Log, store: Store, config: Config) -> None:
        """Run the projector to the end of the topic, and kill it on the way. Raises `NotShownError`."""
        generation = Generation(1, config.group)
        total = sum(log.ends(config.input_topic).values())

        def committed() -> int:
            checkpoint = patiently(lambda: log.checkpoint(generation.group, config.input_topic))
            return sum(offset.offset for offset in checkpoint.values())

        with (self.directory / "run.log").open("w") as lines:
            for number, share in enumerate(KILL_SHARES, 1):
                moment = round(total * (share + self.random.uniform(0, KILL_SPREAD)))
                delay_s = self.random.uniform(0, KILL_DELAY_S_MAX)
                with self.worker(lines) as process:
                    self.follow(process, committed, total, moment)
                    time.sleep(delay_s)
                    process.kill()
                    if process.wait() != -signal.SIGKILL:
                        raise NotShownError(f"kill {number} came too late: the run had ended")
                reached = committed()
                if reached >= total:
                    raise NotShownError(f"kill {number} came too late: everything was committed")
                ahead = read_balance(log, store, config, generation).difference
                self.tell(
                    f"kill -9 {number}",
                    f"with {reached:,} of {total:,} records committed"
                    + (f", and {ahead:,} events more in the rows than that" if ahead else ""),
                )
            began = time.monotonic()
            with self.worker(lines) as process:
                code = self.follow(process, committed, total, None)
            if code != 0:
                raise NotShownError(f"projector run ended with {code}: see {self.directory / 'run.log'}")
            self.tell("run", f"to the end: {committed():,} records committed", time.monotonic() - began)

    @contextmanager
    def worker(self, lines: IO[str]) -> Iterator["subprocess.Popen[bytes]"]:
        """A projector as an operator starts it, always in the same slot; gone when this is left."""
        process = subprocess.Popen(
            [*PROJECTOR, "run", "--until-end", "--slot", "demo"],
            cwd=self.directory,
            stderr=lines,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()

    def follow(
        self, process: "subprocess.Popen[bytes]", committed: Callable[[], int], total: int, until: int | None
    ) -> int | None:
        """Watch the checkpoint move up to `until`, else to the end of the process; its exit code."""
        deadline = time.monotonic() + RUN_S_MAX
        with self.console.status("") as status:
            while (code := process.poll()) is None:
                reached = committed()
                if until is not None and reached >= until:
                    return None
                if time.monotonic() > deadline:
                    raise NotShownError(f"projector run is not at the end after {RUN_S_MAX} s")
                status.update(f"{reached:,} of {total:,} records committed")
                time.sleep(POLL_S)
        if until is not None:
            raise NotShownError(f"projector run ended with {code} before its kill: see {self.directory / 'run.log'}")
        return code

    def verdicts(self, log: Log, store: Store, config: Config, true: dict[str, int]) -> bool:
        """Whether each verdict was given exactly as often as the simulator says it must be."""
        found = read_balance(log, store, config, Generation(1, config.group)).sum._asdict()
        wrong = [
            f"{found[verdict]:,} {verdict}, not {count:,}" for verdict, count in true.items() if found[verdict] != count
        ]
        self.console.print(
            "; ".join(wrong) or f"{found['consumed']:,} records: every verdict is the truth", soft_wrap=True
        )
        return not wrong

    def published(self, log: Log, store: Store, config: Config) -> bool:
        """Whether the last total published for each campaign and KPI is what the row holds."""
        feed = Feed()
        feed.catch_up(log, config.kpi_topic)
        rows = campaigns(store, Generation(1, config.group))
        cells = {(row.campaign, kpi): row.stats[kpi] for row in rows for kpi in KPIS}
        last = {cell: feed.totals[cell].value if cell in feed.totals else 0 for cell in cells}
        wrong = sum(last[cell] != cells[cell] for cell in cells)
        if wrong:
            self.console.print(f"{wrong} totals on {config.kpi_topic} differ from their rows", soft_wrap=True)
        else:
            self.console.print(
                f"{len(cells):,} totals, as last published on {config.kpi_topic}: every one equals its row",
                soft_wrap=True,
            )
        return not wrong


def settings(backend: str, directory: Path, events: int, seed: int) -> dict[str, dict[str, str | int]]:
    """The settings of a demo, table by table; batches small enough that a kill finds some done and some not."""
    batch = {"batch_records": max(100, events // 100)}
    if backend == "embedded":
        return {"": {"file": str(directory / "demo.db"), **batch}}
    # Topics are new each time: a number of their own in the name, so that nothing that is there is touched.
    prefix = f"demo-{time.time_ns() // 1_000_000_000:x}-{seed}"
    return {
        "": {
            "log": "kafka",
            "store": "aerospike",
            "input_topic": f"{prefix}-edge-to-core",
            "kpi_topic": f"{prefix}-subscription-events",
            "quarantine_topic": f"{prefix}-projector-quarantine",
            "group": f"{prefix}-projector",
            **batch,
        },
        "kafka": {"bootstrap.servers": os.environ.get("DEMO_KAFKA", "127.0.0.1:9092")},
        "aerospike": {
            "hosts": os.environ.get("DEMO_AEROSPIKE", "127.0.0.1:3000"),
            "namespace": os.environ.get("DEMO_NAMESPACE", "test"),
        },
    }


def write_settings(path: Path, tables: dict[str, dict[str, str | int]]) -> None:
    """As a TOML file."""
    lines: list[str] = []
    for table, entries in tables.items():
        if table:
            lines += ["", f"[{table}]"]
        lines += [f"{name} = {json.dumps(value)}" for name, value in entries.items()]
    path.write_text("\n".join(lines) + "\n")


def refuse_used(store: Store, config: Config) -> None:
    """Raises `Refused` unless the store is as good as new: the demo adds to nobody's counts."""
    reads = [Read(POINTER, ("live",)), Read(RowKey("tags", "tag-count"), ("tag-count",))]
    if any(patiently(lambda: store.read(reads))) or any(store.scan("campaigns", ["c-id"])):
        namespace = config.aerospike.get("namespace")
        raise Refused(
            f"namespace {namespace} holds campaigns already: name an empty one with DEMO_NAMESPACE, "
            f"or empty it: asinfo -v 'truncate-namespace:namespace={namespace}'"
        )


def play(demo: Demo, config: Config) -> bool:
    """The whole demo; whether everything is exact. Raises `NotShownError`, `ProjectorError`."""
    with closing(open_log(config)) as log, closing(open_store(config)) as store:
        refuse_used(store, config)
        began = time.monotonic()
        migrations = demo.report("migrate")["migrations"]
        demo.tell("migrate", f"{len(migrations)} migrations: topics, index, pointer row", time.monotonic() - began)
        began = time.monotonic()
        seeded = demo.report("seed", "--campaigns", str(CAMPAIGNS), "--tags", str(TAGS))
        demo.tell("seed", f"{seeded['campaigns']:,} campaigns, {seeded['tags']:,} tags", time.monotonic() - began)
        began = time.monotonic()
        simulated = demo.report(*simulation(demo))
        verdicts: dict[str, int] = simulated["verdicts"]
        others = ", ".join(
            f"{count:,} {verdict}" for verdict, count in verdicts.items() if verdict not in ("consumed", "counted")
        )
        text = f"{simulated['records']:,} records: {demo.events:,} events to count, and {others}"
        demo.tell("simulate", text, time.monotonic() - began)
        demo.count(log, store, config)
        shown = [
            demo.show("campaigns", "--sort", "impressions", "--top", "10"),
            demo.show("balance"),
            demo.show("verify", "--truth", "truth.json"),
            demo.verdicts(log, store, config, verdicts),
            demo.published(log, store, config),
        ]
    return all(shown)


def simulation(demo: Demo) -> list[str]:
    """The simulator's command: the mix, its shares, the truth beside it."""
    numbers = {"events": demo.events, "seed": demo.seed, "campaigns": CAMPAIGNS, "tags": TAGS, **SHARES}
    return ["simulate", *(f"--{name}={value}" for name, value in numbers.items()), "--truth=truth.json"]


def try_next(directory: Path, real: bool) -> str:
    """What a reader may do now, with what is there."""
    command = os.path.relpath(Path(sys.executable).parent / "projector", directory)
    ideas = [
        ("run --until-end", "nothing is left to count"),
        ("show 41", "one campaign: KPIs, ledger, size"),
        ("quarantine --reason unknown-tag", "what was not counted, and why"),
        ("watch", "the totals as they were published"),
        ("rebuild", "all of it counted again beside the live one, compared, switched"),
    ]
    width = max(len(arguments) for arguments, _ in ideas)
    lines = ["Try next:", f"  cd {os.path.relpath(directory)}"]
    lines += [f"  {command} {arguments:<{width}}  # {what}" for arguments, what in ideas]
    if not real:
        lines.append("or, where Kafka and Aerospike are running: DEMO_BACKEND=real make demo")
    return "\n".join(lines)


def main() -> int:
    """Play it; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--events", type=int, default=200_000, help="how many events (default 200,000)")
    parser.add_argument("--seed", type=int, help="of events and kills (default: random, and shown)")
    parser.add_argument("--directory", type=Path, default=Path("demo-data"), help="made anew (default demo-data)")
    arguments = parser.parse_args()
    seed = random.SystemRandom().randrange(1, 10_000) if arguments.seed is None else arguments.seed
    backend = os.environ.get("DEMO_BACKEND", "embedded")
    console = Console(highlight=False)
    if backend not in ("embedded", "real"):
        print(f"error: DEMO_BACKEND is {backend!r}: give embedded or real", file=sys.stderr)
        return 2
    directory: Path = arguments.directory.absolute()
    marker = directory / ".made-by-demo"
    if directory.exists() and any(directory.iterdir()) and not marker.exists():
        print(f"error: {directory} is not a demo's: name another one with --directory", file=sys.stderr)
        return 2
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / ".gitignore").write_text("*\n")
    marker.touch()
    write_settings(directory / "projector.toml", settings(backend, directory, arguments.events, seed))

    began = time.monotonic()
    where = "the embedded log and store" if backend == "embedded" else "Kafka and Aerospike"
    console.print(f"{arguments.events:,} events and {KILLS} kill -9 on {where}, seed {seed}", style="bold")
    # Only what the settings file says: a variable of the surroundings could point at another broker.
    for name in [name for name in os.environ if name.startswith("PROJECTOR_")]:
        del os.environ[name]
    try:
        config = load(directory / "projector.toml")
        exact = play(Demo(directory, arguments.events, seed, console), config)
    except (NotShownError, ProjectorError) as error:
        unreachable = "cannot reach the log or the store: " if isinstance(error, Retryable) else ""
        print(f"error: {unreachable}{error}", file=sys.stderr)
        return error.exit_code if isinstance(error, Fatal) else 2 if unreachable else 1
    except KeyboardInterrupt:
        return 130
    console.print()
    if not exact:
        console.print(f"DIFFERENT: see above. Seed {seed}, files in {directory}", style="bold red", soft_wrap=True)
        return 1
    seconds = time.monotonic() - began
    console.print(f"Exact, through {KILLS} kills, in {seconds:.0f} s.", style="bold green")
    console.print()
    console.print(try_next(directory, backend == "real"), soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
