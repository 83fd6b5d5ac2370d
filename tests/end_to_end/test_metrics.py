"""`run --metrics-port`: real workers on the embedded pair, scraped while they count."""

import http.client
import random
import signal
import socket
import sqlite3
import struct
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from projector.backends import open_log, open_store
from projector.config import Config, load
from projector.log import Message
from projector.migrate import migrate
from projector.seed import seed
from projector.store import Read, RowKey
from tests.end_to_end.harness import Pipeline, Worker, wait_until
from tests.end_to_end.traffic import CLEAN, CONNECTOR, DELETE, Traffic
from tests.ports import free_ports

TAGS = 20
BOUND_S = 2.0
IMPATIENT = f"""
from projector import health, lag
from projector.cli.app import main
health.STUCK_S, lag.LOOK_S = {BOUND_S}, 0.1
main()
"""
"""The program, but that it calls a worker stuck sooner, so that a test need not wait."""


class Place:
    """An embedded log and store with campaigns and tags, and workers that end with the test."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self.directory = directory
        self.config: Config = load(None, {"file": str(directory / "projector.db")})
        self.workers: list[Worker] = []
        with closing(open_log(self.config)) as log, closing(open_store(self.config)) as store:
            list(migrate(log, store, self.config))
            seed(store, 2, TAGS // 2, 1, lambda _: None)
            numbers = store.read([Read(RowKey("tags", n), ("t-id",)) for n in range(1, TAGS + 1)])
            tags = [row.bins["t-id"] for row in numbers if row]
            rows = store.read([Read(RowKey("tags", tag), ("c-id",)) for tag in tags])
        self.campaign_of = {tag: row.bins["c-id"] for tag, row in zip(tags, rows, strict=True) if row}
        self.traffic = Traffic(rng, self.campaign_of)

    def append(self, values: list[bytes | None]) -> None:
        """To partitions by turns."""
        now_ms = round(time.time() * 1000)
        with closing(open_log(self.config)) as log:
            topic = self.config.input_topic
            log.append([Message(topic, None, value, (), n % 3, now_ms) for n, value in enumerate(values)])

    def command(self, *options: str, program: str | None = None) -> list[str]:
        begin = ["-m", "projector"] if program is None else ["-c", program]
        return [sys.executable, *begin, "run", "--set", f"file={self.config.file}", *options]

    def start(self, *options: str, program: str | None = None) -> Worker:
        worker = Worker(self.command(*options, program=program), self.directory)
        self.workers.append(worker)
        return worker


@pytest.fixture
def place(tmp_path: Path, rng: random.Random) -> Iterator[Place]:
    """Prepared, and empty."""
    made = Place(tmp_path, rng)
    yield made
    for worker in made.workers:
        if worker.running:
            worker.kill()
        print(f"--- a worker, exit code {worker.process.returncode}:\n{worker.said[-1500:]}")


def get(port: int, page: str) -> tuple[int, str]:
    """Status and body; 0 while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (OSError, http.client.HTTPException):  # a port that nobody has may connect to itself
        return 0, ""


def scrape(port: int) -> dict[tuple[str, ...], float]:
    """(name, values of the labels by their names) -> value."""
    status, text = get(port, "metrics")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in (text_string_to_metric_families(text) if status == 200 else ())
        for sample in family.samples
    }


def records(found: dict[tuple[str, ...], float]) -> dict[tuple[str, str], float]:
    """(verdict, reason) -> records, where there are any."""
    return {(key[2], key[1]): value for key, value in found.items() if key[0] == "projector_records_total" and value}


def lag(found: dict[tuple[str, ...], float]) -> float | None:
    """Over all partitions; None while it is not known."""
    each = [value for key, value in found.items() if key[0] == "projector_lag_records"]
    return sum(each) if each else None


def test_numbers_are_the_truth(place: Place) -> None:
    """Counted by verdict and reason while it runs, exact at the end; a connection that hangs holds up nobody."""
    tag = next(iter(place.campaign_of))
    good = place.traffic.take(20_000, CLEAN)

    def event(event_id: str, kind: str = "click", of: str = tag) -> bytes:
        return (CONNECTOR % ("digest", 0, event_id, of, kind, of, kind)).encode()

    a, b = str(uuid.UUID(int=1)), str(uuid.UUID(int=2))
    odd: list[bytes | None] = [event(a), event(b), event(a), event(a), event(b, "visit")]
    odd += [event(str(uuid.UUID(int=9)), of="nobody's"), event(str(uuid.UUID(int=8)), "hack")] * 2
    odd += [None, DELETE, DELETE, b"{", b"[]", event(""), event(str(uuid.UUID(int=7)), of="")]
    truth = {
        ("counted", ""): 20_002,
        ("duplicate", ""): 2,
        ("duplicate", "conflict"): 1,
        ("parked", "unknown-tag"): 2,
        ("parked", "unknown-kind"): 2,
        ("rejected", "tombstone"): 1,
        ("rejected", "delete"): 2,
        ("rejected", "not-json"): 1,
        ("rejected", "not-an-event"): 1,
        ("rejected", "bad-id"): 1,
        ("rejected", "bad-tag"): 1,
    }
    place.append(good + odd)
    port = free_ports(1)[0]
    worker = place.start("--metrics-port", str(port), "--set", "batch_records=500")
    worker.wait_said(f"http://127.0.0.1:{port}")
    seen = [0.0]
    with socket.create_connection(("127.0.0.1", port)) as hanging:
        hanging.sendall(b"GET /metr")

        def counted() -> bool:
            found = scrape(port)
            seen.append(sum(records(found).values()))
            assert seen[-1] >= seen[-2]
            return seen[-1] >= len(good + odd)

        wait_until(counted, "all is counted", worker)
    assert [each for each in seen if 0 < each < len(good)], "it was never scraped while it counted"

    for request in (b"GET /metr", b"GET /metrics HTTP/1.0\r\n\r\n", b"\x16\x03\x01 no HTTP\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port)) as rude:
            rude.sendall(request)
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset, not an end
    wait_until(lambda: lag(scrape(port)) == 0, "there is no lag", worker)
    found = scrape(port)
    assert records(found) == truth
    assert found["projector_ledger_ids",] == 20_002
    assert found["projector_rotations_total",] >= 10
    assert found["projector_batch_seconds_count",] >= 40
    assert found["projector_transaction_seconds_count",] >= 1
    assert found["projector_queue_age_seconds",] == found["projector_queue_records",] == 0
    assert found["projector_assigned_partitions",] == len([k for k in found if k[0] == "projector_lag_records"]) == 12
    assert abs(time.time() - found["projector_last_commit_timestamp_seconds",]) < 300
    assert found["projector_retries_total",] == found["projector_stuck",] == 0
    assert (get(port, "livez")[0], get(port, "readyz")[0], get(port, "else")[0]) == (200, 200, 404)
    worker.stop()
    assert get(port, "livez")[0] == 0
    assert "Traceback" not in worker.said


def test_stuck_and_idle(place: Place) -> None:
    """Idle for longer than the bound is fine; with records to go and a store that takes no write it is stuck."""
    port = free_ports(1)[0]
    worker = place.start("--metrics-port", str(port), program=IMPATIENT)
    place.append(place.traffic.take(100, CLEAN))
    wait_until(lambda: records(scrape(port)).get(("counted", "")) == 100, "all is counted", worker)
    idle_until = time.monotonic() + 2 * BOUND_S
    while time.monotonic() < idle_until:
        assert get(port, "livez") == (200, "ok\n")
        time.sleep(0.2)

    worker.freeze(place.config.file)
    place.append(place.traffic.take(300, CLEAN))
    with closing(sqlite3.connect(place.config.file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        worker.signal(signal.SIGCONT)
        wait_until(lambda: get(port, "livez")[0] == 503, "it is stuck", worker)
        assert get(port, "livez")[1].startswith(("300 records to go", "the loop has not turned"))
        assert scrape(port)["projector_stuck",] == 1
        assert lag(scrape(port)) == 300
        assert get(port, "readyz")[0] == 200
        other.execute("ROLLBACK")
    wait_until(lambda: get(port, "livez")[0] == 200, "it goes on", worker)
    wait_until(lambda: records(scrape(port)) == {("counted", ""): 400}, "all is counted", worker)
    worker.stop()


def test_not_ready_before_it_has_partitions(place: Place) -> None:
    """A worker whose supervisor lets it wait for the slot of another lives, and is not ready."""
    first = place.start("--slot", "a")
    first.wait_said("assigned partitions")
    port = free_ports(1)[0]
    with closing(sqlite3.connect(place.config.file, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        second = place.start("--slot", "a", "--metrics-port", str(port))
        wait_until(lambda: get(port, "readyz")[0], "it answers", second)
        assert get(port, "readyz") == (503, "no partitions are assigned\n")
        assert get(port, "livez")[0] == 200
        other.execute("ROLLBACK")
    wait_until(lambda: get(port, "readyz")[0] == 200, "it is ready", second)
    second.stop()


def test_each_worker_has_its_port(place: Place) -> None:
    """Under a supervisor worker k serves at the port and k, and says so."""
    port = free_ports(2)[0]
    worker = place.start("--workers", "1", "--metrics-port", str(port))
    worker.wait_said(f"-0: metrics, livez and readyz at http://127.0.0.1:{port}")
    place.append(place.traffic.take(50, CLEAN))
    wait_until(lambda: records(scrape(port)) == {("counted", ""): 50}, "all is counted", worker)
    worker.stop()


def test_workers_add_up(pipeline: Pipeline) -> None:
    """On Kafka: two workers share the partitions and the records; what one loses, with its life, the other shows."""
    port = free_ports(2)[0]
    slots = {slot: pipeline.start("--slot", slot, "--metrics-port", str(port + n)) for n, slot in enumerate("ab")}
    ports = (port, port + 1)

    def assigned() -> list[float]:
        return [scrape(each).get(("projector_assigned_partitions",), 0) for each in ports]

    wait_until(lambda: all(assigned()) and sum(assigned()) == pipeline.partitions, "all are shared", *slots.values())
    pipeline.produce(pipeline.traffic.take(5_000))
    pipeline.wait_caught_up(*slots.values())
    wait_until(lambda: [lag(scrape(each)) for each in ports] == [0, 0], "there is no lag", *slots.values())
    counted: Counter[str] = Counter()
    for each in ports:
        found = scrape(each)
        for (verdict, _), count in records(found).items():
            counted.update({verdict: int(count)})
        ages = [value for key, value in found.items() if key[0] == "projector_lag_seconds"]
        assert set(ages) == {0.0}
    counted["consumed"] = counted.total()
    assert counted == +pipeline.traffic.verdicts
    slots["b"].stop()
    wait_until(lambda: assigned() == [pipeline.partitions, 0], "the other has them all", slots["a"])
    slots["a"].stop()


@pytest.mark.parametrize("options", [(), ("--workers", "2")])
def test_a_port_that_is_taken_stops_at_once(place: Place, options: tuple[str, ...]) -> None:
    """One line that names it, exit code 2, nothing started; with workers also where it is the second one's."""
    first = free_ports(2)[0]
    number = first + 1 if options else first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", number))
        taken.listen()
        worker = place.start("--metrics-port", str(first), *options)
        worker.ends(2)
    (line,) = worker.said.splitlines()
    assert line.startswith(f"error: metrics cannot be served at 127.0.0.1, port {number}: ")
    assert "--metrics-port" in line


def test_an_address_that_is_not_ours(place: Place) -> None:
    """Named as such."""
    worker = place.start("--metrics-port", str(free_ports(1)[0]), "--metrics-address", "192.0.2.1")
    worker.ends(2)
    (line,) = worker.said.splitlines()
    assert line.startswith("error: metrics cannot be served at 192.0.2.1, ")
