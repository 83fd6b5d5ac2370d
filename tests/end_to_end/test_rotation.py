"""Ledgers that rotate all the time, with real workers and stores that die: every id counted once, known for ever."""

import random
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from projector.backends import open_log, open_store
from projector.backends.embedded_store import EmbeddedStore
from projector.config import Config, load
from projector.log import Message
from projector.migrate import migrate
from projector.page import page_key
from projector.seed import seed
from projector.store import Delete, Put, Read, RowKey, Store, Write
from tests.aerospike_server import Server
from tests.end_to_end.harness import ENVIRONMENT, Pipeline, Worker, eventually, wait_until
from tests.end_to_end.traffic import Traffic

KINDS = ("impression", "impression", "impression", "click", "visit", "conversion")
PAGE_IDS = 50
BATCH_RECORDS = 500
"""A write is never split between pages: small batches make small pages."""
CAMPAIGNS, TAGS = 5, 2
VALUE = (
    '{"msg":"write","key":["test","events","AvYA",null],"bins":['
    '{"name":"event-id","type":"str","value":"%s"},{"name":"event-tag-id","type":"str","value":"%s"},'
    '{"name":"event-type","type":"str","value":"%s"}]}'
)


def uuid4(rng: random.Random) -> str:
    """Random in all bits."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def uuid7(rng: random.Random) -> str:
    """One of a few milliseconds: the first six bytes of all ids are nearly the same."""
    return str(uuid.UUID(int=(0x0190_0000_0000 + rng.randrange(4)) << 80 | 7 << 76 | 2 << 62 | rng.getrandbits(62)))


def mixed(rng: random.Random) -> str:
    """UUIDs, and strings of up to 128 bytes, ASCII or not, that share long prefixes."""
    match rng.randrange(3):
        case 0:
            return uuid4(rng)
        case 1:
            return ("long-prefix-" * 9 + f"{rng.getrandbits(80):020x}").ljust(128, "x")
        case _:
            return f"é{rng.getrandbits(64):x}"


class Line:
    """An embedded log, a store and workers; `truth` and `ids` are what must be in the rows."""

    def __init__(self, directory: Path, rng: random.Random, server: Server | None = None, **settings: str | int):
        self.directory, self.rng = directory, rng
        self.settings = {"file": str(directory / "projector.db"), "republish_ms": "500", "page_ids": str(PAGE_IDS)}
        self.settings["batch_records"] = str(BATCH_RECORDS)
        if server:
            self.settings |= {"store": "aerospike"}
            self.settings |= {f"aerospike.{name}": str(value) for name, value in server.properties.items()}
        self.settings |= {name: str(value) for name, value in settings.items()}
        self.config: Config = load(None, self.settings)
        self.truth: Counter[tuple[int, str]] = Counter()
        self.ids: dict[int, set[str]] = {}
        self.sent: list[tuple[str, str, str]] = []
        self.duplicates = 0
        self.workers: list[Worker] = []
        self.log = open_log(self.config)
        with closing(open_store(self.config)) as store:
            list(migrate(self.log, store, self.config))
            seed(store, CAMPAIGNS, TAGS, 1, lambda _: None)
            numbers = [Read(RowKey("tags", n), ("t-id",)) for n in range(1, CAMPAIGNS * TAGS + 1)]
            self.tags = [row.bins["t-id"] for row in store.read(numbers) if row]
            rows = store.read([Read(RowKey("tags", tag), ("c-id",)) for tag in self.tags])
            self.campaign_of = {tag: row.bins["c-id"] for tag, row in zip(self.tags, rows, strict=True) if row}

    def produce(
        self,
        records: int,
        make_id: Callable[[random.Random], str] = uuid4,
        duplicates: float = 0.05,
        hot: bool = False,
    ) -> None:
        """Append `records` events, `duplicates` of them repeating any event sent before; `hot`: for one campaign."""
        values = []
        for _ in range(records):
            if self.sent and self.rng.random() < duplicates:
                self.duplicates += 1
                values.append(VALUE % self.rng.choice(self.sent))
                continue
            tag = self.tags[0] if hot else self.rng.choice(self.tags)
            event = (make_id(self.rng), tag, self.rng.choice(KINDS))
            campaign = self.campaign_of[tag]
            self.sent.append(event)
            self.truth[campaign, event[2] + "s"] += 1
            self.ids.setdefault(campaign, set()).add(event[0].replace("-", "") if len(event[0]) == 36 else event[0])
            values.append(VALUE % event)
        self.append(values)

    def append(self, values: list[str]) -> None:
        """Append to partitions in turn."""
        self.log.append([Message(self.config.input_topic, None, value.encode()) for value in values])

    def repeat(self, number: int) -> None:
        """Append once more the event that was sent as that one."""
        self.duplicates += 1
        self.append([VALUE % self.sent[number]])

    def command(self, *words: str) -> list[str]:
        """A command of the projector on this line."""
        given = [word for name, value in self.settings.items() for word in ("--set", f"{name}={value}")]
        return [sys.executable, "-m", "projector", words[0], *given, *words[1:]]

    def start(self, *options: str) -> Worker:
        """A worker process."""
        worker = Worker(self.command("run", "--slot", "a", *options), self.directory)
        self.workers.append(worker)
        return worker

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command, to its end."""
        return subprocess.run(self.command(*words), capture_output=True, text=True, env=ENVIRONMENT, check=False)

    def committed(self) -> int:
        """Records before the checkpoint."""
        return sum(place.offset for place in self.log.checkpoint(self.config.group, self.config.input_topic).values())

    def wait_committed(self, records: int, worker: Worker) -> None:
        """Until the checkpoint is that far in all."""
        wait_until(lambda: self.committed() >= records, f"{records} records are committed", worker)

    def appended(self) -> int:
        """Records in the topic."""
        return len(self.sent) + self.duplicates

    def finish(self) -> None:
        """A worker to the end, then the judgement."""
        self.start("--until-end").ends(0)
        self.exact()

    def exact(self) -> None:
        """Truth == rows == ids in rows and pages, each once; balance and ledger foot; rotation has happened."""
        self.counted()
        balance = self.run("balance", "--json")
        assert balance.returncode == 0, balance.stdout
        assert f'"duplicate": {self.duplicates}' in balance.stdout
        check = self.run("ledger", "--check")
        assert check.returncode == 0, check.stdout

    def counted(self) -> None:
        """Truth == rows == ids in rows and pages, read without the ledger's code."""
        cells: Counter[tuple[int, str]] = Counter()
        ids: dict[int, list[str]] = {}
        pages = 0
        with closing(open_store(self.config)) as store:
            for part in store.scan("campaigns", ("c-id", "stats", "seen", "sealed", "seal", "prev")):
                for row in part:
                    bins = row.bins
                    campaign = bins["c-id"]
                    cells.update({(campaign, kpi): value for kpi, value in bins["stats"].items()})
                    held = ids.setdefault(campaign, [])
                    held += [_spelled(i) for name in ("seen", "sealed") for i in bins.get(name, {})]
                    for page in _pages(store, campaign, bins["prev"] if bins.get("sealed") else bins.get("seal", 0)):
                        held += [_spelled(i) for i in page]
                        pages += 1
        assert +cells == self.truth
        for campaign, held in ids.items():
            assert len(held) == len(set(held)), f"campaign {campaign} holds an id twice"
            assert set(held) == self.ids.get(campaign, set())
        assert pages > 2 * CAMPAIGNS, "next to nothing rotated: the test shows nothing"

    def close(self) -> None:
        """End what runs."""
        for worker in self.workers:
            if worker.running:
                worker.kill()
        self.log.close()


def _spelled(event_id: bytes | str) -> str:
    return event_id.hex() if isinstance(event_id, bytes) else event_id


def _pages(store: Store, campaign: int, seal: int) -> Iterator[dict[bytes | str, list[int]]]:
    while seal:
        (row,) = store.read([Read(RowKey("campaigns-seen", f"{campaign}/{seal:016x}"), ("ids", "before"))])
        assert row is not None, f"campaign {campaign}: page {seal:016x} is missing"
        yield row.bins["ids"]
        seal = row.bins["before"][0] if row.bins["before"] else 0


@pytest.fixture
def line(tmp_path: Path, rng: random.Random) -> Iterator[Line]:
    """On the embedded store."""
    made = Line(tmp_path, rng)
    yield made
    made.close()


@pytest.fixture(params=["embedded", "aerospike"])
def either_line(request: pytest.FixtureRequest, tmp_path: Path, rng: random.Random) -> Iterator[Line]:
    """On each store."""
    server = None if request.param == "embedded" else request.getfixturevalue("aerospike_server")
    made = Line(tmp_path, rng, server)
    yield made
    made.close()


def _kill_workers(line: Line, kills: int) -> None:
    for _ in range(kills):
        line.settings["batch_records"] = str(line.rng.choice((200, 500, 1_000)))
        before = line.committed()
        line.produce(8_000, mixed)
        worker = line.start()
        line.wait_committed(before + line.rng.randrange(1, 6_000), worker)
        time.sleep(line.rng.random() * 0.05)
        assert worker.running, worker.said
        worker.kill()
    worker = line.start()
    for _ in range(4):  # each waits until it has settled, and so has the page that was sealed in it
        line.produce(1_000, mixed)
        line.wait_committed(line.appended(), worker)
    worker.stop()
    line.finish()


def test_three_kills_of_the_worker(either_line: Line) -> None:
    """kill -9 at random moments while pages of 50 ids are sealed, archived and cleared; UUIDs and strings mixed."""
    _kill_workers(either_line, 3)


@pytest.mark.long
def test_twenty_kills_of_the_worker(either_line: Line) -> None:
    """The same with twenty kills."""
    _kill_workers(either_line, 20)


def _kill_server(line: Line, server: Server, kills: int) -> None:
    worker = line.start()
    for _ in range(kills):
        before = line.committed()
        line.produce(8_000)
        line.wait_committed(before + line.rng.randrange(1, 5_000), worker)
        time.sleep(line.rng.random() * 0.3)
        server.kill()
        time.sleep(line.rng.random())
        server.start()
    line.wait_committed(line.appended(), worker)
    line.produce(2_000)
    line.wait_committed(line.appended(), worker)
    worker.stop()
    line.exact()


@pytest.fixture
def on_server(tmp_path: Path, rng: random.Random, aerospike_server: Server) -> Iterator[Line]:
    """On an Aerospike server."""
    made = Line(tmp_path, rng, aerospike_server)
    yield made
    made.close()


@pytest.mark.long
def test_two_kills_of_the_server(on_server: Line, aerospike_server: Server) -> None:
    """kill -9 of Aerospike: rows and pages fall back independently, and the replay mends both."""
    _kill_server(on_server, aerospike_server, 2)


@pytest.mark.long
def test_ten_kills_of_the_server(on_server: Line, aerospike_server: Server) -> None:
    """The same with ten kills."""
    _kill_server(on_server, aerospike_server, 10)


def test_uuid7(line: Line) -> None:
    """Ids that share their first bytes: as exact as any, and again after a restart with a cold index."""
    line.produce(8_000, uuid7, duplicates=0.1)
    line.finish()
    line.produce(2_000, uuid7, duplicates=0.9)
    line.finish()


def _first_again(line: Line, later: int, restart: bool) -> None:
    worker = line.start()
    for _ in range(later // 20_000):
        line.produce(20_000, duplicates=0, hot=True)
    line.wait_committed(line.appended(), worker)
    if restart:
        worker.stop()
        worker = line.start()
    line.repeat(0)
    line.wait_committed(line.appended(), worker)
    worker.stop()
    line.exact()


@pytest.fixture
def long_line(tmp_path: Path, rng: random.Random) -> Iterator[Line]:
    """On the embedded store, with pages of 500 ids."""
    made = Line(tmp_path, rng, page_ids=500, batch_records=2_000)
    yield made
    made.close()


@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_the_first_event_again_after_100_000(long_line: Line, restart: bool) -> None:
    """A duplicate however late: judged so, and the counts stay."""
    _first_again(long_line, 100_000, restart)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("restart", [False, True], ids=["running", "restarted"])
def test_the_first_event_again_after_1_000_000(long_line: Line, restart: bool) -> None:
    """The same after a million."""
    _first_again(long_line, 1_000_000, restart)


@pytest.mark.long
def test_two_workers_on_one_hot_campaign(either: Pipeline) -> None:
    """Both seal and archive one row's pages, and both foresee from their own caches: every number is the truth."""
    tag, campaign = next(iter(either.campaign_of.items()))
    either.traffic = Traffic(either.rng, {tag: campaign})
    options = {"page_ids": PAGE_IDS, "batch_records": 500}
    workers = [either.start("--slot", slot, **options) for slot in "ab"]
    wait_until(lambda: len(either.members()) == 2, "both are members", *workers)
    wait_until(lambda: all("assigned partitions [" in each.said for each in workers), "both have partitions", *workers)
    either.feed(2_000, either.traffic.take(16_000)).join()
    either.wait_caught_up(*workers)
    eventually(lambda: either.balanced(either.traffic.verdicts))
    for worker in workers:
        worker.stop()
    rows = either.rows()
    assert +Counter(rows.cells) == +either.traffic.truth
    either.published(rows)
    for words in (["balance"], ["ledger", "--check"]):
        command = [*either.command(), *words[1:]]
        command[command.index("run")] = words[0]
        done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, check=False)
        assert done.returncode == 0, done.stdout
    with closing(open_store(either.config)) as store:
        (row,) = store.read([Read(RowKey("campaigns", campaign), ("pages",))])
    assert row is not None
    assert row.bins["pages"] > 5


# --- damage: a page of the archive is not what it must be


def _oldest(store: EmbeddedStore, campaign: int, nth: int) -> RowKey:
    """The page of a campaign that is `nth` from the newest in the archive."""
    (row,) = store.read([Read(RowKey("campaigns", campaign), ("seal", "prev", "sealed"))])
    assert row is not None
    seal = row.bins["prev"] if row.bins["sealed"] else row.bins["seal"]
    for _ in range(nth):
        (page,) = store.read([Read(page_key("campaigns-seen", campaign, seal), ("before",))])
        assert page is not None
        seal = page.bins["before"][0]
    return page_key("campaigns-seen", campaign, seal)


def _missing(store: EmbeddedStore, page: RowKey) -> None:
    store.write([Write(page, [Delete()])])


def _altered(store: EmbeddedStore, page: RowKey) -> None:
    store.write([Write(page, [Put("digest", b"x" * 32)])])


def _foreign(store: EmbeddedStore, page: RowKey) -> None:
    bins = ("ids", "prints", "counts", "first", "last", "seal", "before", "head", "digest")
    (other,) = store.read([Read(_oldest(store, 2, 1), bins)])
    assert other is not None
    store.write([Write(page, [Put(name, value) for name, value in other.bins.items()])])


@pytest.mark.parametrize(
    ("damage", "said"),
    [(_missing, "is missing"), (_altered, "does not fit the chain"), (_foreign, "does not fit the chain")],
    ids=["missing", "altered", "foreign"],
)
@pytest.mark.parametrize("nth", [0, 3])
def test_a_damaged_archive_stops_the_worker(
    line: Line, nth: int, damage: Callable[[EmbeddedStore, RowKey], None], said: str
) -> None:
    """Exit 4, one line that names campaign, page and repair; nothing is committed; `ledger --check` names it too."""
    line.produce(5_000)
    line.finish()
    with closing(EmbeddedStore(Path(line.settings["file"]))) as store:
        page = _oldest(store, 1, nth)
        damage(store, page)
    committed = line.committed()
    line.produce(1_000)
    worker = line.start("--until-end")
    worker.ends(4)
    (error,) = [text for text in worker.said.splitlines() if text.startswith("error: ")]
    name = str(page.key).removeprefix("1/")
    for part in ("campaign 1", name, said, "projector repair", "nothing was committed"):
        assert part in error
    assert line.committed() == committed
    check = line.run("ledger", "--check")
    assert check.returncode == 1
    assert "campaign 1: page " in check.stdout
    assert name in check.stdout
