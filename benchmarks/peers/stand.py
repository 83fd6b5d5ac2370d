"""The stand: one broker and its topics, and on it one program at a time, with a store and an output of its own."""

import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import ConsumerGroupState, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from benchmarks.peers import tools
from benchmarks.peers.contender import Contender
from benchmarks.peers.totals import EmbeddedTopic, KafkaTopic, Totals
from benchmarks.system import System
from projector.cli.app import configured
from projector.reference import CAMPAIGNS, TAGS, tag_id
from projector.simulator import Truth, load_truth
from projector.topics import OUTPUT_PARTITIONS, PARTITIONS
from tests.aerospike_server import Server, server_available
from tests.kafka_broker import Broker

HERE = Path(__file__).parent
JVM_FLAGS = ("-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn")
SESSION_MS = 6_000
TOPIC_S = 30.0
NOT_DUPLICATES = ("reshipped", "deletes", "unknown-tags", "unknown-kinds", "malformed")
DUPLICATES = {"duplicates-near": 0.5, "duplicates-far": 0.4, "duplicates-very-far": 0.1}


class Backlog(NamedTuple):
    """A topic of simulated events, and what a correct program makes of them."""

    topic: str
    options: tuple[str, ...]
    truth_file: Path
    truth: Truth

    @property
    def events(self) -> int:
        """Distinct ones."""
        return self.truth.verdicts.get("counted", 0)

    @property
    def records(self) -> int:
        """All of them, duplicates included."""
        return self.truth.verdicts.get("consumed", 0)


class Run(NamedTuple):
    """One program on the stand, ready to be started and started again. `name` is its consumer group."""

    name: str
    contender: Contender
    command: list[str]
    input_topic: str
    output_topic: str
    totals: Totals
    directory: Path
    server: Server | None
    system: System | None

    def start(self) -> subprocess.Popen[bytes]:
        """Start it. It ends with the thread that started it."""
        die_with_parent = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
        with open(self.directory / "program.log", "ab") as log:
            return subprocess.Popen([*die_with_parent, *self.command], stdout=log, stderr=log, cwd=tools.TOP)

    def said(self) -> str:
        """The end of what it wrote."""
        return (self.directory / "program.log").read_text(errors="replace")[-3000:]

    def holds(self, backlog: Backlog) -> bool | None:
        """What the projector's own `verify` and `balance` say, both; None for a peer."""
        if self.system is None:
            return None
        words = (("verify", "--truth", str(backlog.truth_file)), ("balance",))
        return all(subprocess.run(self.system.command(*each), capture_output=True).returncode == 0 for each in words)


class Stand:
    """A broker of our own for all runs; `close` ends it."""

    def __init__(self, directory: Path) -> None:
        self.broker = Broker()
        self.broker.start()
        self._directory = directory
        self._admin = AdminClient({"bootstrap.servers": self.broker.bootstrap, "log_level": 0})
        self._tags = directory / "tags.txt"
        with open(self._tags, "w", encoding="ascii") as file:
            for campaign in range(1, CAMPAIGNS + 1):
                file.writelines(f"{tag_id(1, campaign, number)} {campaign}\n" for number in range(1, TAGS + 1))

    def close(self) -> None:
        """End the broker and remove its data."""
        self.broker.close()

    def topic(self, name: str, partitions: int = PARTITIONS, policy: str = "delete") -> str:
        """A new empty topic that keeps everything."""
        topic = NewTopic(name, partitions, 1, config={"cleanup.policy": policy, "retention.ms": "-1"})
        self._admin.create_topics([topic])[name].result(30)
        deadline = time.monotonic() + TOPIC_S
        while len(self._admin.list_topics(name, timeout=10).topics[name].partitions) < partitions:
            if time.monotonic() > deadline:
                raise RuntimeError(f"topic {name} was created, and is not there after {TOPIC_S:.0f} s")
            time.sleep(0.05)  # acknowledged, and not yet told to all: a reader would find no partition
        return name

    def backlog(self, name: str, events: int, seed: int, duplicates: float = 0.0) -> Backlog:
        """A topic of `events` distinct events, and of duplicates as a share of all records."""
        options = ["--events", str(events), "--seed", str(seed)]
        options += [word for each in NOT_DUPLICATES for word in (f"--{each}", "0")]
        options += [word for each, part in DUPLICATES.items() for word in (f"--{each}", str(part * duplicates))]
        truth_file = self._directory / f"{name}.truth"
        topic = self.topic(name)
        writer = System(name, (*self._kafka(), "store=embedded", f"input_topic={topic}"), None)
        writer.run("simulate", *options, "--truth", str(truth_file))
        return Backlog(topic, tuple(options), truth_file, load_truth(truth_file))

    def assembled(self, run: Run) -> bool:
        """Whether the program's group has its partitions, and so begins to read."""
        if not run.contender.in_kafka:
            return False
        (answer,) = self._admin.describe_consumer_groups([run.name], request_timeout=10).values()
        try:
            return bool(answer.result().state == ConsumerGroupState.STABLE)
        except KafkaException:  # no such group yet
            return False

    def drop(self, backlog: Backlog) -> None:
        """Remove its topic, for the room on the disk."""
        self._admin.delete_topics([backlog.topic])

    @contextmanager
    def run(self, contender: Contender, backlog: Backlog | None) -> Iterator[Run]:
        """The program on a backlog, or on an empty topic. Raises `Unavailable`."""
        name = f"peers-{uuid.uuid4().hex[:8]}"
        directory = self._directory / name
        directory.mkdir()
        server = None
        if contender.store == "aerospike":
            if not server_available():
                raise tools.Unavailable("put the Aerospike server (asd) on the PATH")
            server = Server().start()
        try:
            input_topic = backlog.topic if backlog else self.topic(f"{name}-in")
            if contender.kind == "projector":
                run = self._projector(contender, name, input_topic, directory, server, backlog)
            else:
                output = self.topic(f"{name}-out", OUTPUT_PARTITIONS, "compact")
                command = self._command(contender, name, input_topic, output, directory, server)
                totals = Totals(KafkaTopic(self.broker.bootstrap, output))
                run = Run(name, contender, command, input_topic, output, totals, directory, server, None)
            with closing(run.totals):
                yield run
        finally:
            if server:
                server.remove()
            shutil.rmtree(directory, ignore_errors=True)
            made = [each for each in self._admin.list_topics(timeout=10).topics if name in each]
            if made:
                self._admin.delete_topics(made)

    def _kafka(self) -> list[str]:
        return [
            "log=kafka",
            f"kafka.bootstrap.servers={self.broker.bootstrap}",
            f"kafka.session.timeout.ms={SESSION_MS}",
        ]

    def _projector(
        self,
        contender: Contender,
        name: str,
        input_topic: str,
        directory: Path,
        server: Server | None,
        backlog: Backlog | None,
    ) -> Run:
        settings = [f"store={contender.store}", f"file={directory / 'projector.db'}", f"group={name}"]
        settings += [f"input_topic={input_topic}", f"kpi_topic={name}-out", f"quarantine_topic={name}-quarantine"]
        settings += self._kafka() if contender.in_kafka else ["log=embedded"]
        settings += [f"aerospike.{key}={value}" for key, value in (server.properties if server else {}).items()]
        system = System(name, tuple(settings), None)
        system.run("migrate")
        system.run("seed")
        if backlog and not contender.in_kafka:
            system.run("simulate", *backlog.options)
        words = ["--slot", "peers-0"] if contender.workers == 1 else ["--workers", str(contender.workers)]
        topic = f"{name}-out"
        source = (
            KafkaTopic(self.broker.bootstrap, topic)
            if contender.in_kafka
            else EmbeddedTopic(configured(None, settings))
        )
        command = system.command("run", *words)
        return Run(name, contender, command, input_topic, topic, Totals(source), directory, server, system)

    def _command(
        self, contender: Contender, name: str, input_topic: str, output: str, directory: Path, server: Server | None
    ) -> list[str]:
        bootstrap, state = self.broker.bootstrap, str(directory / "state")
        if contender.kind == "kafka-streams":
            mode = "deduplicate" if contender.deduplicates else "plain"
            arguments = [bootstrap, input_topic, output, name, str(self._tags), state, str(SESSION_MS)]
            return [*tools.streams_command(*JVM_FLAGS), *arguments, str(contender.workers), mode]
        options = ["--bootstrap", bootstrap, "--input", input_topic, "--output", output, "--group", name]
        options += ["--tags", str(self._tags), "--session-ms", str(SESSION_MS)]
        options += ["--deduplicate"] * contender.deduplicates
        if contender.kind == "quix":
            return [str(tools.quix_python()), str(HERE / "quix.py"), *options, "--state", state]
        assert server is not None, "the loop has a store"
        options += ["--hosts", server.hosts, "--namespace", server.namespace]
        return [sys.executable, str(HERE / "loop.py"), *options]
