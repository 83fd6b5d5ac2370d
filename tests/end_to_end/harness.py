"""A pipeline of its own for each test: topics, group and store, workers as real processes, and the judgement."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]  # public, the package has no __all__
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from projector.backends import open_log, open_store
from projector.balance import Balance, read_balance
from projector.config import Config, load
from projector.event import KPIS
from projector.generation import Generation
from projector.migrate import migrate
from projector.seed import seed
from projector.store import Put, Read, RowKey, Store, Write
from tests.end_to_end import oracle
from tests.end_to_end.traffic import Traffic

T = TypeVar("T")

SEED = int(os.environ.get("E2E_SEED", random.SystemRandom().randrange(2**31)))
CAMPAIGNS = 10
TAGS = 5
PARTITIONS = 3
PATIENCE_S = 120.0
LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # no hints
DIE_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PROJECTOR_")}


def heed_interrupts() -> None:
    """In a process to be: tests that run in the background ignore SIGINT, and would pass that on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def eventually(check: Callable[[], T], seconds: float = PATIENCE_S) -> T:
    """What `check` returns once it raises no AssertionError; the last of those if that never happens."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


class Worker:
    """A process of `projector run`; a worker, or a supervisor with its workers."""

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        self._log = directory / f"worker-{uuid.uuid4().hex[:8]}.log"
        self.command = command
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*DIE_WITH_PARENT, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=directory,
                env=ENVIRONMENT,
                preexec_fn=heed_interrupts,
            )

    @property
    def said(self) -> str:
        """Everything it has printed."""
        return self._log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def freeze(self, file: Path) -> None:
        """SIGSTOP it at a moment at which it does not hold the write lock of this SQLite file."""
        with closing(sqlite3.connect(file, timeout=PATIENCE_S, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            self.signal(signal.SIGSTOP)
            stat = Path(f"/proc/{self.process.pid}/stat")
            wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", "it is frozen", self)
            other.execute("ROLLBACK")

    def wait_said(self, text: str) -> None:
        """Wait until it has printed this."""
        wait_until(lambda: text in self.said, f"it says {text!r}", self)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """SIGTERM, and it must end with 0."""
        self.signal(signal.SIGTERM)
        self.ends(0)

    def ends(self, code: int) -> None:
        """Wait for its end; it must be this one."""
        try:
            found = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end; it said:\n{self.said[-3000:]}") from None
        assert found == code, f"ended with {found}, not {code}; it said:\n{self.said[-3000:]}"


def wait_until(condition: Callable[[], object], what: str, *workers: Worker) -> None:
    """Return once `condition()` holds; fail if it never does, or one of `workers` ends before."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        for worker in workers:
            assert worker.running, f"ended with {worker.process.returncode} before: {what}"
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.01)


@dataclass
class Rows:
    """The campaign rows: stats per (campaign, KPI), ids of the ledger per campaign."""

    cells: dict[tuple[int, str], int]
    ids: dict[int, set[str]]


def _pages(store: Store, pages: str, campaign: int, seal: int) -> Iterator[Mapping[bytes | str, Any]]:
    """The ids of each archived page, newest first."""
    while seal:
        (page,) = store.read([Read(RowKey(pages, f"{campaign}/{seal:016x}"), ("ids", "before"))])
        assert page is not None, f"campaign {campaign}: page {seal:016x} is missing"
        yield page.bins["ids"]
        seal = page.bins["before"][0] if page.bins["before"] else 0


def miscount(store: Store, campaign: int, kpi: str, other: str) -> str:
    """Count an id of generation 1 as another KPI, by hand, as a bug would have; answers the id. No worker may run."""
    row = RowKey("campaigns", campaign)
    (found,) = store.read([Read(row, ("seen", "stats"))])
    assert found is not None
    seen, stats = dict(found.bins["seen"]), dict(found.bins["stats"])
    event_id = next(each for each, sighting in seen.items() if KPIS[sighting[0]] == kpi)
    seen[event_id] = [KPIS.index(other), *seen[event_id][1:]]
    stats |= {kpi: stats[kpi] - 1, other: stats[other] + 1}
    store.write([Write(row, [Put("seen", seen), Put("stats", stats)])])
    return event_id.hex() if isinstance(event_id, bytes) else str(event_id)


class Pipeline:
    """Topics, a group, a store and workers that nobody else has. `settings` go to every worker."""

    def __init__(
        self,
        bootstrap: str,
        directory: Path,
        rng: random.Random,
        aerospike: Mapping[str, Any] | None = None,
        settings: Mapping[str, str | int] | None = None,
    ) -> None:
        name = f"e{uuid.uuid4().hex[:10]}"
        self.bootstrap = bootstrap
        self.directory = directory
        self.rng = rng
        self.workers: list[Worker] = []
        self.input_topic, self.kpi_topic, self.quarantine_topic = f"{name}-in", f"{name}-kpi", f"{name}-quarantine"
        self.group = name
        self.live = Generation(1, name)
        """Which generation is looked at."""
        store = {"store": "embedded", "file": str(directory / "projector.db")}
        if aerospike:
            store = {"store": "aerospike"} | {f"aerospike.{key}": str(value) for key, value in aerospike.items()}
        self.settings: dict[str, str] = {
            "log": "kafka",
            **store,
            "input_topic": self.input_topic,
            "kpi_topic": self.kpi_topic,
            "quarantine_topic": self.quarantine_topic,
            "group": self.group,
            "republish_ms": "500",
            "kafka.bootstrap.servers": bootstrap,
            **{key: str(value) for key, value in (settings or {}).items()},
        }
        self.admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 500})
        # An admin client that is asked for a group's offsets crashes when the coordinator moves.
        self._onlookers: dict[str, Consumer] = {}
        self._producer: Producer | None = None

    # --- before

    @property
    def config(self) -> Config:
        return load(None, self.settings)

    def create_topics(self, partitions: int = PARTITIONS) -> None:
        """The three topics, with fewer partitions than `migrate` makes, so that one broker takes many tests."""
        self.partitions = partitions
        kept = {"retention.ms": "-1", "retention.bytes": "-1"}
        self._done(
            self.admin.create_topics(
                [
                    NewTopic(
                        self.input_topic, num_partitions=partitions, config={**kept, "max.message.bytes": "1048588"}
                    ),
                    NewTopic(self.kpi_topic, num_partitions=2, config={"cleanup.policy": "compact"}),
                    NewTopic(self.quarantine_topic, num_partitions=2, config={**kept, "max.message.bytes": "1114124"}),
                ]
            )
        )

    def prepare(self, partitions: int = PARTITIONS) -> "Pipeline":
        """Topics, migrations, campaigns and tags; then `traffic` draws events for them."""
        self.create_topics(partitions)
        with closing(open_log(self.config)) as log, closing(open_store(self.config)) as store:
            list(migrate(log, store, self.config))
            seed(store, CAMPAIGNS, TAGS, 1, lambda _: None)
            numbers = [Read(RowKey("tags", n), ("t-id",)) for n in range(1, CAMPAIGNS * TAGS + 1)]
            tags = [row.bins["t-id"] for row in store.read(numbers) if row]
            rows = store.read([Read(RowKey("tags", tag), ("c-id",)) for tag in tags])
            self.campaign_of = {tag: row.bins["c-id"] for tag, row in zip(tags, rows, strict=True) if row}
        self.traffic = Traffic(self.rng, self.campaign_of)
        return self

    # --- input

    def produce(self, values: Iterable[bytes | None], partitions: Sequence[int] = ()) -> None:
        """Append to random partitions (of those given); returns when all are acknowledged, however long that takes."""
        if self._producer is None:
            self._producer = Producer(
                {
                    "bootstrap.servers": self.bootstrap,
                    "enable.idempotence": True,
                    "linger.ms": 2,
                    "queue.buffering.max.messages": 1_000_000,
                    "message.timeout.ms": 0,
                    "reconnect.backoff.max.ms": 500,
                    "log_level": 0,
                }
            )
        failures: list[object] = []

        def delivered(error: object, _: object) -> None:
            if error:
                failures.append(error)

        for value in values:
            partition = self.rng.choice(partitions or range(self.partitions))
            self._producer.produce(self.input_topic, value, partition=partition, on_delivery=delivered)
            self._producer.poll(0)
        assert self._producer.flush(PATIENCE_S) == 0
        assert not failures, failures[0]

    def feed(self, per_second: int, values: list[bytes | None] | None = None) -> "Feed":
        """Produce `values` in the background, `per_second` of them; without values: traffic, until it is stopped."""
        return Feed(self, per_second, values)

    # --- workers

    def command(self, *options: str, **settings: str | int) -> list[str]:
        """How to run a worker of this pipeline."""
        given = self.settings | {name.replace("__", "."): str(value) for name, value in settings.items()}
        pairs = [part for name, value in given.items() for part in ("--set", f"{name}={value}")]
        return [sys.executable, "-m", "projector", "run", *pairs, *options]

    def other_command(self, *words: str) -> list[str]:
        """How to run any other command."""
        command = self.command(*words[1:])
        command[command.index("run")] = words[0]
        return command

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Any other command, to its end."""
        command = self.other_command(*words)
        return subprocess.run(
            command, capture_output=True, text=True, env=ENVIRONMENT, cwd=self.directory, timeout=PATIENCE_S
        )

    def begin(self, *words: str) -> Worker:
        """Any other command, in the background."""
        process = Worker(self.other_command(*words), self.directory)
        self.workers.append(process)
        return process

    def supervised(self, building: bool = False) -> dict[str, int]:
        """Process ids of supervised workers that run, by slot; found also where the supervisor is gone.

        Those of the live generation, or those that are `building` another one.
        """
        found: dict[str, int] = {}
        for process in Path("/proc").iterdir():
            with suppress(OSError, ValueError):
                words = (process / "cmdline").read_bytes().decode().split("\0")
                ours = f"group={self.group}" in words and "--supervised-by" in words
                if ours and ("--building" in words) is building:
                    found[words[words.index("--slot") + 1]] = int(process.name)
        return found

    def start(self, *options: str, **settings: str | int) -> Worker:
        """Start a worker; `kafka__session__timeout__ms=...` sets a dotted setting."""
        worker = Worker(self.command(*options, **settings), self.directory)
        self.workers.append(worker)
        return worker

    def run_to_end(self, *options: str, **settings: str | int) -> Worker:
        """One worker with --until-end, which must end with 0."""
        worker = self.start("--until-end", *options, **settings)
        worker.ends(0)
        return worker

    def close(self) -> None:
        for worker in self.workers:
            if worker.running:
                worker.kill()
        for pid in (*self.supervised().values(), *self.supervised(building=True).values()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for onlooker in self._onlookers.values():
            onlooker.close()

    def freeze_in_transaction(self, worker: Worker) -> None:
        """SIGSTOP it at a moment at which it has published what it has not committed; traffic flows until then."""
        feed = self.feed(2_000)
        try:
            wait_until(lambda: self._freezes_in_transaction(worker), "it is seen in a transaction", worker)
        finally:
            feed.stop()

    def _freezes_in_transaction(self, worker: Worker) -> bool:
        time.sleep(self.rng.random() * 0.03)
        worker.signal(signal.SIGSTOP)
        if self._open():
            time.sleep(0.05)  # a commit that was on its way is through by now
            if self._open():
                return True
        worker.signal(signal.SIGCONT)
        return False

    # --- what is there now

    def _ask(self, call: Callable[[], T]) -> T:
        """The broker's answer; a broker that is away is asked again."""
        attempts = Retrying(
            retry=retry_if_exception_type(KafkaException),
            wait=wait_fixed(0.2),
            stop=stop_after_delay(PATIENCE_S),
            reraise=True,
        )
        return attempts(call)

    def _offsets(self, topic: str, partitions: int, isolation: IsolationLevel) -> dict[int, int]:
        places = {TopicPartition(topic, p): LATEST for p in range(partitions)}

        def ask() -> dict[int, int]:
            # Else the client asks for ever with the epoch of a leader that is no more (FENCED_LEADER_EPOCH).
            self.admin.list_topics(topic, timeout=5)
            answers = self.admin.list_offsets(places, isolation_level=isolation, request_timeout=5)
            return {place.partition: answer.result().offset for place, answer in answers.items()}

        return self._ask(ask)

    def _open(self) -> bool:
        """Whether the KPI topic holds messages of an open transaction."""
        stable = self._offsets(self.kpi_topic, 2, IsolationLevel.READ_COMMITTED)
        high = self._offsets(self.kpi_topic, 2, IsolationLevel.READ_UNCOMMITTED)
        return any(high[partition] > stable[partition] for partition in stable)

    @property
    def _onlooker(self) -> Consumer:
        group = self.live.group
        if group not in self._onlookers:
            asks = {"bootstrap.servers": self.bootstrap, "group.id": group, "log_level": 0}
            self._onlookers[group] = Consumer(asks)
        return self._onlookers[group]

    def checkpoint(self) -> dict[int, TopicPartition]:
        """The committed offsets and their metadata, as the broker has them."""
        asked = [TopicPartition(self.input_topic, partition) for partition in range(self.partitions)]
        found = self._ask(lambda: self._onlooker.committed(asked, 5))
        return {place.partition: place for place in found if place.offset >= 0}

    def move_checkpoint(self, offsets: Mapping[int, int]) -> None:
        """Set the group's offsets as other tools do: without metadata. The group must be empty."""
        places = [TopicPartition(self.input_topic, partition, offset) for partition, offset in offsets.items()]
        self._onlooker.commit(offsets=places, asynchronous=False)

    def committed(self) -> int:
        """Records before the checkpoint (or offsets without one)."""
        return sum(place.offset for place in self.checkpoint().values())

    def ends(self) -> dict[int, int]:
        """Where a read_committed reader ends."""
        return self._offsets(self.input_topic, self.partitions, IsolationLevel.READ_COMMITTED)

    def kpi_ends(self) -> dict[int, int]:
        """The same of the KPI topic."""
        return self._offsets(self.kpi_topic, 2, IsolationLevel.READ_COMMITTED)

    def members(self) -> list[str]:
        """Instance ids of the group's members."""
        group = self.live.group

        def ask() -> list[str]:
            try:
                found = self.admin.describe_consumer_groups([group], request_timeout=5)[group].result()
            except KafkaException as error:
                if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                    return []
                raise
            return sorted(member.group_instance_id or member.member_id for member in found.members)

        return self._ask(ask)

    def rows(self) -> Rows:
        """The rows and their archives as the store has them; every id stands in exactly one place."""
        found = Rows({}, {})
        with closing(open_store(self.config)) as store:
            for part in store.scan(self.live.campaigns, ["c-id", "stats", "seen", "sealed", "seal", "prev"]):
                for row in part:
                    campaign, bins = row.bins["c-id"], row.bins
                    found.cells |= {(campaign, kpi): value for kpi, value in bins["stats"].items()}
                    newest = bins.get("prev", 0) if bins.get("sealed") else bins.get("seal", 0)
                    maps = [
                        bins.get("seen", {}),
                        bins.get("sealed", {}),
                        *_pages(store, self.live.pages, campaign, newest),
                    ]
                    ids = [i.hex() if isinstance(i, bytes) else i for held in maps for i in held]
                    found.ids[campaign] = set(ids)
                    assert len(ids) == len(found.ids[campaign]), f"campaign {campaign}: an id stands in two places"
        return found

    def caught_up(self) -> bool:
        """Whether the checkpoint has reached the end."""
        checkpoint = self.checkpoint()
        return all(p in checkpoint and checkpoint[p].offset >= end for p, end in self.ends().items() if end)

    def wait_caught_up(self, *workers: Worker) -> None:
        wait_until(self.caught_up, "the checkpoint reaches the end", *workers)

    def wait_committed(self, records: int, *workers: Worker) -> None:
        """Wait until the checkpoint is that far in all."""
        wait_until(lambda: self.committed() >= records, f"{records} records are committed", *workers)

    # --- the judgement

    def exact(self, totals: bool = True) -> None:
        """Everything that must hold at rest. `totals` False: the checkpoint does not begin at the head of the topic."""
        counted = oracle.recount(self.bootstrap, self.input_topic, self.campaign_of)
        assert counted.cells == +self.traffic.truth, "the oracle and the truth differ: the test is wrong"
        rows = self.rows()
        more, less = Counter(rows.cells) - counted.cells, counted.cells - Counter(rows.cells)
        assert not more + less, f"in the rows too many: {more}, too few: {less}"
        for campaign, ids in rows.ids.items():
            wrong = ids ^ counted.ids.get(campaign, set())
            assert not wrong, f"campaign {campaign}: {len(wrong)} ids only in the ledger, or only in the topic"
        assert self.caught_up(), f"the checkpoint is {self.checkpoint()}, the end {self.ends()}"
        self.balanced(counted.verdicts if totals else None)
        self.published(rows)
        kept = oracle.quarantine(self.bootstrap, self.quarantine_topic)
        keys = kept.keys() | counted.set_aside.keys()
        odd = [key for key in keys if kept.get(key) != counted.set_aside.get(key)]
        assert not odd, f"in quarantine and should not be, or not there, or other bytes: {odd[:10]}"

    def balanced(self, verdicts: Mapping[str, int] | None) -> None:
        """The committed totals agree with the rows, and with `verdicts`: by our own sum and by the projector's."""
        committed: Counter[str] = Counter()
        for place in self.checkpoint().values():
            committed.update(msgspec.json.decode(place.metadata or "{}", type=dict[str, int]))
        committed.pop("v", None)
        held = sum(self.rows().cells.values())
        assert committed["counted"] + committed["carried"] == held, f"committed {dict(committed)}, in the rows {held}"
        if verdicts is not None:
            assert +committed == +Counter(verdicts), f"committed {dict(committed)}, in truth {dict(verdicts)}"
        balance = self.read_balance()
        assert balance.holds, balance

    def read_balance(self) -> Balance:
        """What `projector balance` shows."""
        with closing(open_log(self.config)) as log, closing(open_store(self.config)) as store:
            return read_balance(log, store, self.config, self.live)

    def published(self, rows: Rows) -> None:
        """Readers were never given two values for one (epoch, rev) nor more than the truth, and at last the row."""
        told = oracle.publications(self.bootstrap, self.kpi_topic)
        missing = {cell for cell, value in rows.cells.items() if value} - told.keys()
        assert not missing, f"never published: {missing}"
        for cell, messages in told.items():
            by_rev: dict[tuple[int, int], int] = {}
            for value, epoch, rev in messages:
                assert by_rev.setdefault((epoch, rev), value) == value, f"{cell}: two values at rev {rev}"
                assert value <= self.traffic.truth[cell], f"{cell}: {value} was published"
            assert messages[-1].value == rows.cells[cell], f"{cell}: the last message"
            assert by_rev[max(by_rev)] == rows.cells[cell], f"{cell}: the highest rev"

    @staticmethod
    def _done(futures: Mapping[Any, Any]) -> None:
        for future in futures.values():
            future.result(30)


class Feed:
    """A producer in the background; `join` waits for it and raises what it raised."""

    def __init__(self, pipeline: Pipeline, per_second: int, values: list[bytes | None] | None) -> None:
        self._failure: BaseException | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(pipeline, per_second, values), daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def join(self) -> None:
        self._thread.join()
        if self._failure:
            raise self._failure

    def stop(self) -> None:
        """Produce no more, and join."""
        self._stopped.set()
        self.join()

    def _run(self, pipeline: Pipeline, per_second: int, values: list[bytes | None] | None) -> None:
        try:
            begun = time.monotonic()
            done = 0
            while not self._stopped.is_set() and (values is None or done < len(values)):
                due = int((time.monotonic() - begun) * per_second)
                if due > done:
                    pipeline.produce(pipeline.traffic.take(due - done) if values is None else values[done:due])
                    done = due
                time.sleep(0.01)
        except BaseException as error:  # told to the thread that joins
            self._failure = error
