"""What only a real Aerospike server can show: killed, frozen, in memory, and rows that others wrote."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from projector.errors import InDoubt, Misconfigured, Retryable
from projector.store import (
    Add,
    AddEntry,
    Answer,
    BinEqual,
    BinNotEmpty,
    Condition,
    Delete,
    Fetch,
    Measure,
    Operation,
    Outcome,
    Presence,
    Put,
    PutNew,
    Read,
    RowKey,
    Store,
    Write,
)
from tests.aerospike_server import NOT_EXERCISED, Server, server_available

pytestmark = pytest.mark.skipif(not server_available(), reason=NOT_EXERCISED)

ROWS = [RowKey("campaigns", campaign) for campaign in range(20)]
IDS = 5  # of each row in each round
SEAL = 7


@pytest.fixture
def server() -> Iterator[Server]:
    """A server of the test's own, on a device."""
    server = Server()
    try:
        yield server.start()
    finally:
        server.remove()


@pytest.fixture(scope="module")
def lasting_server() -> Iterator[Server]:
    """One for the tests that do it no harm."""
    server = Server()
    try:
        yield server.start()
    finally:
        server.remove()


def connect(server: Server) -> Store:
    from projector.backends.aerospike import AerospikeStore

    return AerospikeStore(server.properties)


def until(done: Callable[[], bool], what: str) -> None:
    """Wait, at most a minute, until `done`."""
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


class Counting:
    """A thread that counts ids into every row, round by round, each round retried identically until it is applied.

    `settled`: the rounds that can no longer be lost: `settle_ms` after the answer the same incarnation, and drained.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        settle_ms = store.limits().settle_ms
        assert settle_ms is not None
        self._settle_s = settle_ms / 1000
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.acknowledged: list[tuple[float, int, str]] = []
        self.settled: set[int] = set()
        self.failed: BaseException | None = None

    def __enter__(self) -> "Counting":
        made = self._store.write(
            [Write(row, [Put("seal", SEAL), Put("rev", 0), Put("stats", {})], Presence.ABSENT) for row in ROWS]
        )
        assert {each.outcome for each in made} == {Outcome.APPLIED}
        time.sleep(self._settle_s + 0.2)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self.failed is not None:
            raise self.failed

    def advance(self, rounds: int) -> None:
        """Wait for so many more."""
        target = len(self.acknowledged) + rounds
        until(lambda: len(self.acknowledged) >= target or self.failed is not None, "no progress")

    def _run(self) -> None:
        number = 0
        try:
            while not self._stop.is_set():
                if (incarnation := self._ask()) is None:
                    continue
                self._count(number)
                self.acknowledged.append((time.monotonic(), number, incarnation))
                number += 1
                time.sleep(0.01)
                self._settle()
        except BaseException as error:
            self.failed = error

    def _ask(self) -> str | None:
        try:
            return self._store.state().incarnation
        except Retryable:
            time.sleep(0.02)
            return None

    def _count(self, number: int) -> None:
        """Write a round until every row has it; a row that has the ids already has their counts."""
        pending = [self._write(row, number) for row in ROWS]
        deadline = time.monotonic() + 60
        while pending and time.monotonic() < deadline:
            answers = self._store.write(pending)
            again = []
            for write, answer in zip(pending, answers, strict=True):
                if answer.outcome is Outcome.FAILED:
                    assert isinstance(answer.error, Retryable)
                    again.append(write)
                else:
                    assert answer.outcome in (Outcome.APPLIED, Outcome.EXISTS)
            pending = again
            time.sleep(0.02 if pending else 0)
        if pending:
            raise RuntimeError("a round does not end")

    def _write(self, row: RowKey, number: int) -> Write:
        ids = {event_id(row, number, n): [1, 0, 0, number] for n in range(IDS)}
        operations: list[Operation] = [
            PutNew("seen", ids),
            AddEntry("stats", "clicks", IDS),
            Add("rev", 1),
            Fetch("stats"),
        ]
        return Write(row, operations, conditions=[BinEqual("seal", SEAL)])

    def _settle(self) -> None:
        now = time.monotonic()
        ripe = [each for each in self.acknowledged if each[0] + self._settle_s <= now and each[1] not in self.settled]
        try:
            state = self._store.state()
        except Retryable:
            return
        if state.drained:
            self.settled.update(number for _, number, incarnation in ripe if incarnation == state.incarnation)


def event_id(row: RowKey, number: int, n: int) -> bytes:
    return b"".join(int(part).to_bytes(5, "big") for part in (row.key, number, n)) + b"\0"


def check(store: Store, settled: set[int]) -> None:
    """Every settled round is in every row, and every row's counts are its ids."""
    for row, held in zip(ROWS, store.read([Read(row, ["seen", "stats", "rev"]) for row in ROWS]), strict=True):
        assert held is not None, row
        seen = held.bins.get("seen", {})
        rounds = {value[3] for value in seen.values()}
        assert settled <= rounds, f"{row} lost {sorted(settled - rounds)}"
        assert held.bins["stats"].get("clicks", 0) == len(seen)
        assert held.bins["rev"] * IDS == len(seen)


def test_a_killed_server_loses_nothing_that_settled(server: Server) -> None:
    """SIGKILL under load, five times: no settled round is lost, counts equal ids, each start is another incarnation."""
    store = connect(server)
    incarnations = {store.state().incarnation}
    with Counting(store) as counting:
        for _ in range(5):
            counting.advance(20)
            time.sleep(random.uniform(0.1, 0.8))
            server.kill()
            server.start()
            until(lambda: isinstance(attempt(store.state), tuple), "the client does not find its server again")
            incarnations.add(store.state().incarnation)
        until(lambda: attempt(lambda: check(store, set(counting.settled))) is None, "unreadable")
        counting.advance(5)
    assert len(incarnations) == 6
    assert len(counting.settled) > 20
    check(store, counting.settled)


def test_a_frozen_server_loses_and_doubles_nothing(server: Server) -> None:
    """Frozen for 3 s under load, it keeps its incarnation and all that was counted, once."""
    store = connect(server)
    incarnation = store.state().incarnation
    with Counting(store) as counting:
        for _ in range(2):
            counting.advance(10)
            server.pause()
            time.sleep(3)
            server.resume()
        counting.advance(10)
    check(store, {number for _, number, _ in counting.acknowledged})
    assert store.state().incarnation == incarnation


def test_a_write_in_doubt_that_lands_later_counts_once(server: Server) -> None:
    """The server wakes up after the client gave up: the identical write, sent again and again, is counted once."""
    store = connect(server)
    made = Write(ROWS[0], [Put("seal", SEAL), Put("rev", 0)], Presence.ABSENT)
    assert one(store, made).outcome is Outcome.APPLIED
    write = Write(ROWS[0], [PutNew("seen", {b"id": [1]}), Add("rev", 1)], conditions=[BinEqual("seal", SEAL)])
    server.pause()
    answers = [one(store, write), one(store, write)]
    server.resume()
    assert [each.outcome for each in answers] == [Outcome.FAILED] * 2
    assert all(isinstance(each.error, InDoubt) for each in answers)
    until(lambda: one(store, write).outcome is Outcome.EXISTS, "the write is never there")
    (held,) = store.read([Read(ROWS[0], ["rev", "seen"])])
    assert held is not None
    assert held.bins == {"rev": 1, "seen": {b"id": [1]}}


def test_an_acknowledgement_without_a_server_is_not_believed(server: Server) -> None:
    """Long after the server died the client acknowledges whatever it is given: in doubt all the same; reads fail."""
    store = connect(server)
    row = ROWS[0]
    assert one(store, Write(row, [Put("rev", 1)], Presence.ABSENT)).outcome is Outcome.APPLIED
    time.sleep((store.limits().settle_ms or 0) / 1000)
    server.kill()
    until(lambda: "no node" in str(attempt(store.state)), "the client never gives its node up")
    attempts: list[list[Operation]] = [[Add("rev", 1)], [Add("rev", 1), Fetch("rev"), Measure()], [Delete()]]
    for operations in attempts:
        answer = one(store, Write(row, operations))
        assert answer.outcome is Outcome.FAILED
        assert isinstance(answer.error, InDoubt)
    with pytest.raises(Retryable):
        store.read([Read(row, ["rev"])])
    with pytest.raises(Retryable):
        list(store.scan(row.set, ["rev"]))
    server.start()
    until(lambda: isinstance(attempt(store.state), tuple), "the client does not find its server again")
    (held,) = store.read([Read(row, ["rev"])])
    assert held is not None
    assert held.bins == {"rev": 1}


def test_an_orderly_stop_loses_nothing(server: Server) -> None:
    """SIGTERM right after an acknowledgement: the write is there after the restart, under another incarnation."""
    store = connect(server)
    incarnation = store.state().incarnation
    assert one(store, Write(ROWS[0], [Put("rev", 5)], Presence.ABSENT)).outcome is Outcome.APPLIED
    server.restart()
    until(lambda: isinstance(attempt(store.state), tuple), "the client does not find its server again")
    assert store.state().incarnation != incarnation
    (held,) = store.read([Read(ROWS[0], ["rev"])])
    assert held is not None
    assert held.bins == {"rev": 5}


@pytest.mark.parametrize(
    ("flush_max_ms", "row_bytes_max", "limits"),
    [(None, "1M", (1 << 20, None)), (0, "2M", (2 << 20, None)), (1000, "8M", (8 << 20, 2250))],
)
def test_limits_are_the_servers(flush_max_ms: int | None, row_bytes_max: str, limits: tuple[int, int | None]) -> None:
    """A namespace in memory, or without a timed flush, can never settle; else twice flush-max-ms and a margin."""
    server = Server(flush_max_ms, row_bytes_max)
    try:
        store = connect(server.start())
        assert store.limits()[:2] == limits
        row_bytes = limits[0]
        assert one(store, Write(ROWS[0], [Put("b", bytes(row_bytes + 1))], Presence.EITHER)).outcome is Outcome.TOO_BIG
        fits = Write(ROWS[0], [Put("b", bytes(row_bytes - 1024))], Presence.EITHER)
        assert one(store, fits).outcome is Outcome.APPLIED
    finally:
        server.remove()


def test_a_write_has_settled_when_it_says_so() -> None:
    """The worst moment: the server has just looked what to flush, a block becomes full, the write is in the next."""
    server = Server(flush_max_ms=1000)
    try:
        store = connect(server.start())

        def flushes() -> str:
            said = str(store._info(f"namespace/{server.namespace}"))  # type: ignore[attr-defined]
            return said[said.index("partial_writes=") :].partition(";")[0]

        before = flushes()
        assert one(store, Write(ROWS[0], [Put("rev", 1)], Presence.ABSENT)).outcome is Outcome.APPLIED
        until(lambda: flushes() != before, "the server never flushes")
        for row in ROWS[1:10]:
            assert one(store, Write(row, [Put("b", bytes(1_000_000))], Presence.ABSENT)).outcome is Outcome.APPLIED
        assert one(store, Write(ROWS[10], [Put("rev", 7)], Presence.ABSENT)).outcome is Outcome.APPLIED
        time.sleep((store.limits().settle_ms or 0) / 1000)
        assert store.state().drained
        server.kill()
        server.start()
        (held,) = connect(server).read([Read(ROWS[10], ["rev"])])
        assert held is not None, "a write that had settled was lost"
    finally:
        server.remove()


def test_sets_and_rows_that_expire_are_named() -> None:
    """Rows that others wrote with a time to live, by their set; a default time to live, of the whole namespace."""
    import aerospike

    server = Server(extra="allow-ttl-without-nsup true")
    try:
        store = connect(server.start())
        host, port = server.hosts.split(":")
        client = aerospike.client({"hosts": [(host, int(port))]})
        lasting, mortal = {"ttl": aerospike.TTL_NEVER_EXPIRE}, {"ttl": 1000}
        for number in range(100):
            client.put((server.namespace, "lasting", number), {"a": 1}, policy=lasting)
            client.put((server.namespace, "mortal", number), {"a": 1}, policy=mortal if number == 7 else lasting)
            client.put((server.namespace, "fleeting", number), {"a": 1}, policy=mortal)
        assert store.expiring_sets() == ["fleeting", "mortal"]
        client.close()
    finally:
        server.remove()
    server = Server(extra="allow-ttl-without-nsup true\n    default-ttl 1d")
    try:
        store = connect(server.start())
        assert one(store, Write(ROWS[0], [Put("n", 1)], Presence.ABSENT)).outcome is Outcome.APPLIED
        assert store.expiring_sets() == [""]
    finally:
        server.remove()


def test_a_scan_gives_rows_without_any_of_the_bins(lasting_server: Server) -> None:
    """They count towards a page in the server: none of them may end the scan early."""
    store = connect(lasting_server)
    rows = [RowKey("mixed", key) for key in range(700)]
    store.write([Write(row, [Put("n" if key % 7 else "other", key)], Presence.ABSENT) for key, row in enumerate(rows)])
    found = [row.bins for page in store.scan("mixed", ["n"], page_rows=50) for row in page]
    assert len(found) == 700
    assert sorted(row["n"] for row in found if row) == [key for key in range(700) if key % 7]


@pytest.mark.parametrize("condition", [BinEqual("seal", SEAL), BinEqual("name", "x"), BinNotEmpty("seen")])
def test_a_condition_makes_no_row(lasting_server: Server, condition: Condition) -> None:
    """The server evaluates no filter on a missing row; what no missing row meets is refused all the same."""
    store = connect(lasting_server)
    row = RowKey("missing", 1)
    assert one(store, Write(row, [Put("n", 1)], Presence.EITHER, [condition])).outcome is Outcome.REFUSED
    with pytest.raises(ValueError, match="must be absent"):
        store.write([Write(row, [Put("n", 1)], Presence.ABSENT, [condition])])
    assert store.read([Read(row)]) == [None]


@pytest.mark.parametrize("text", ["abc\0x", "\ud800", "a\udfff"])
def test_strings_that_the_client_cannot_carry(lasting_server: Server, text: str) -> None:
    """They raise ValueError, as a row's key, an entry's key, a value or a wanted key; nothing is written."""
    store = connect(lasting_server)
    refused = [
        Write(RowKey("s", text), [Put("n", 1)], Presence.EITHER),
        Write(ROWS[0], [PutNew("m", {text: 1})], Presence.EITHER),
        Write(ROWS[0], [PutNew("m", {1: [1, text]})], Presence.EITHER),
        Write(ROWS[0], [AddEntry("m", text, 1)], Presence.EITHER),
        Write(ROWS[0], [Put("n", text)], Presence.EITHER),
        Write(ROWS[0], [Put("n", {"a": ["b", {text: 1}]})], Presence.EITHER),
        Write(ROWS[0], [Put("n", 1)], Presence.EITHER, [BinEqual("n", text)]),
    ]
    for write in refused:
        with pytest.raises(ValueError):  # noqa: PT011  # also UnicodeEncodeError, with Python's own words
            store.write([write])
    for read in (Read(RowKey("s", text)), Read(ROWS[0], entries={"m": [text]})):
        with pytest.raises(ValueError):  # noqa: PT011  # see above
            store.read([read])
    assert store.read([Read(ROWS[0]), Read(RowKey("s", "abc"))]) == [None, None]


@pytest.mark.parametrize("value", [None, True, 1.5, (1, 2), {"a": None}, [True]])
def test_values_that_a_row_cannot_hold(lasting_server: Server, value: Any) -> None:
    """They raise TypeError before anything is sent: the client would drop or change them silently."""
    store = connect(lasting_server)
    for operation in (Put("n", value), PutNew("m", {1: value})):
        with pytest.raises(TypeError):
            store.write([Write(ROWS[0], [operation], Presence.EITHER)])
    assert store.read([Read(ROWS[0])]) == [None]


def test_too_many_operations_are_refused(lasting_server: Server) -> None:
    """More than 65,535 operations on one row raise ValueError: the client would drop the rest."""
    store = connect(lasting_server)
    with pytest.raises(ValueError, match="operations on one row"):
        store.write([Write(ROWS[0], [Add("n", 1)] * 70_000, Presence.EITHER)])


def test_one_row_twice_in_a_call_is_refused(lasting_server: Server) -> None:
    """The server would run the two in any order, and fail one of them."""
    store = connect(lasting_server)
    with pytest.raises(ValueError, match="two writes to one row"):
        store.write([Write(ROWS[0], [Add("n", 1)], Presence.EITHER)] * 2)


def test_wrong_properties_stop_at_once(server: Server) -> None:
    """One line that names what is wrong."""
    from projector.backends.aerospike import AerospikeStore

    for change, named in (
        ({"namespace": "nope"}, "nope is not on the server; it has test"),
        ({"hosts": "nope"}, "give host:port"),
        ({"bogus": 1}, "bogus"),
    ):
        with pytest.raises(Misconfigured, match=named):
            AerospikeStore(server.properties | change)
    server.kill()
    with pytest.raises(Retryable, match=f"no Aerospike server answers at {server.hosts}"):
        AerospikeStore(server.properties)


def test_a_client_configuration_from_elsewhere_is_refused(
    lasting_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would change timeouts and retries behind our back."""
    monkeypatch.setenv("AEROSPIKE_CLIENT_CONFIG_URL", "file://policies.yml")
    with pytest.raises(Misconfigured, match="unset it"):
        connect(lasting_server)


def one(store: Store, write: Write) -> Answer:
    (answer,) = store.write([write])
    return answer


def attempt(call: Callable[[], Any]) -> Any:
    """What `call` returns, or the Retryable that it raises."""
    try:
        return call()
    except Retryable as error:
        return error
