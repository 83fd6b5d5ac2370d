"""Metrics: what is written down, what of it Prometheus reads, and what health is made of it."""

import json
import random
import re
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event

import pytest
import yaml
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from projector import lag as lag_module
from projector.backends.embedded_store import EmbeddedStore
from projector.balance import Totals
from projector.batch import Batch, Queue
from projector.chain import Chains
from projector.config import Config
from projector.endpoint import signs
from projector.errors import InDoubt, Retryable
from projector.exposition import REASONS, Exposition
from projector.fold import Change
from projector.generation import Generation
from projector.health import Signs, stuck, unready
from projector.lag import KNOWN_S, Lag, watch
from projector.ledger import Ledger
from projector.log import Message, Offset
from projector.metrics import Held, Histogram, Metrics
from projector.patience import Patience
from projector.projector import Projector
from projector.settling import Settling
from projector.store import Answer, Move, Outcome, Presence, Put, RowKey, Write
from tests.fault.memory_log import MemoryLog
from tests.fault.memory_store import MemoryStore
from tests.fault.oracle import INPUT
from tests.fault.script import event, prepare
from tests.fault.simulation import GENERATION, VirtualClock
from tests.fault.stepped import Time

ROOT = Path(__file__).parents[2]
WALL = 1_800_000_000.0
BOUND = 120.0


def exposed(metrics: Metrics, lag: Lag | None = None, now: float = 0.0, stuck: bool = False) -> dict[str, float]:
    """What a scrape reads: `name{label,...}`, with the values of the labels by their names, -> value."""
    registry = CollectorRegistry()
    registry.register(Exposition(metrics, lag or Lag(metrics), stuck, now, WALL))
    families = list(text_string_to_metric_families(generate_latest(registry).decode()))
    assert all(family.documentation for family in families)
    found = {}
    for family in families:
        for sample in family.samples:
            labels = ",".join(value for _, value in sorted(sample.labels.items()))
            name = f"{sample.name}{{{labels}}}" if labels else sample.name
            assert name not in found
            found[name] = sample.value
    return found


def offsets(**next_offsets: int) -> dict[int, Offset]:
    return {int(partition[1:]): Offset(offset, "") for partition, offset in next_offsets.items()}


# --- written down


def test_a_duration_that_is_a_bound_belongs_below_it() -> None:
    """As Prometheus' `le` says."""
    held = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.10001, 1.0, 7.0):
        held.observe(seconds)
    assert held.counts == [2, 2, 1]
    assert held.sum == pytest.approx(8.25001)


def test_committed_batches_add_up() -> None:
    """Verdicts, reasons, offsets and times of every batch of a transaction, and nothing of what is given up."""
    metrics = Metrics()
    metrics.assigned({0: 0, 1: 5})
    first = Batch({}, 0.0, verdicts=Totals(6, 3, 1, 1, 1), newest_ms={0: 1_000, 1: 2_000})
    first.reasons.update({("parked", "unknown-tag"): 1, ("rejected", "delete"): 1})
    second = Batch({}, 0.0, verdicts=Totals(2, 1, 0, 0, 1), newest_ms={0: 3_000})
    second.reasons.update({("rejected", "delete"): 1})
    metrics.committed([first, second], offsets(p0=6, p1=7), 0.02)
    assert (metrics.consumed, metrics.counted, metrics.duplicate, metrics.parked, metrics.rejected) == (8, 4, 1, 1, 2)
    assert metrics.reasons == {("parked", "unknown-tag"): 1, ("rejected", "delete"): 2}
    assert (metrics.offsets, metrics.newest_ms) == ({0: 6, 1: 7}, {0: 3_000, 1: 2_000})
    metrics.given_up([1])
    assert (metrics.offsets, metrics.newest_ms) == ({0: 6}, {0: 3_000})


def test_only_a_commit_that_moves_on_is_an_advance() -> None:
    """A last word, published again at the same offsets, does not make a stuck worker look alive."""
    metrics = Metrics()
    metrics.assigned({0: 6})
    metrics.committed([], offsets(p0=6), 0.0)
    assert metrics.advanced_at == float("-inf")
    assert metrics.committed_at is not None
    metrics.committed([], offsets(p0=7), 0.0)
    assert metrics.advanced_at > 0


def test_a_worker_of_the_next_generation_goes_on_counting_pages() -> None:
    """Counters of the process do not fall; what is held begins anew."""
    metrics = Metrics()
    metrics.attach(Queue(1), Held(100, 800, 3))
    metrics.attach(Queue(1), Held())
    assert (metrics.held.ids, metrics.held.rotations) == (0, 3)


def test_the_queue_knows_its_oldest_batch() -> None:
    """After batches come, go in front, and are dropped."""
    queue = Queue(10)
    ages = [queue.oldest_at]
    for answered_at in (3.0, 4.0):
        queue.append(Batch({}, answered_at, verdicts=Totals(5)))
        ages.append(queue.oldest_at)
    queue.remove(1)
    ages.append(queue.oldest_at)
    assert queue.records == 5
    queue.clear()
    assert [*ages, queue.oldest_at] == [None, 3.0, 3.0, 4.0, None]
    assert queue.records == 0


def test_the_ledger_counts_its_ids_and_pages(tmp_path: Path) -> None:
    """Ids of what is in memory, through sealing, letting go and forgetting; pages by our own count of the rows."""
    store = EmbeddedStore(tmp_path / "store.db")
    rows = [RowKey("campaigns", campaign) for campaign in (1, 2, 3)]
    stats = dict.fromkeys(("clicks", "conversions", "impressions", "visits"), 0)
    store.write([Write(row, [Put("c-id", int(row.key)), Put("stats", stats)], Presence.ABSENT) for row in rows])
    time, patience, generation = Time(), Patience(0), Generation(1, "projector")
    settling = Settling(store, 0, patience, time.monotonic)
    chains = Chains(store, generation, patience, settling, time.monotonic, 5, 1 << 20)
    ledger = Ledger(store, chains, generation.pages, patience, 1 << 20, lambda _: None)
    for number in range(40):
        for campaign in (1, 2, 3):
            event_id = uuid.uuid5(uuid.NAMESPACE_OID, f"{campaign}/{number}").bytes
            ledger.apply({campaign: Change({event_id: [1, 0, 0, campaign * 100 + number]})})
            ledger.apply({campaign: Change({event_id: [1, 0, 1, 7]})})  # a duplicate is no further id
    pages = sum(row.bins["pages"] for part in store.scan("campaigns", ["pages"]) for row in part)
    assert pages > 3
    assert (chains.held.ids, chains.held.rotations) == (120, pages)
    assert chains.held.index_bytes == sum(chains[campaign].memory_bytes for campaign in (1, 2, 3))
    chains._drop(2)
    assert chains.held.ids == 80
    ledger.forget()
    assert (chains.held.ids, chains.held.index_bytes, chains.held.rotations) == (0, 0, pages)


def test_a_page_whose_sealing_is_in_doubt_is_told(tmp_path: Path) -> None:
    """Such a write is never sent again, the row is read instead; it counts all the same."""

    class Doubtful(EmbeddedStore):
        doubted = 0

        def write(self, writes: Sequence[Write]) -> list[Answer]:
            answers = super().write(writes)
            if not self.doubted and any(isinstance(part, Move) for write in writes for part in write.operations):
                self.doubted += 1
                return [Answer(Outcome.FAILED, error=InDoubt("?"))] * len(writes)
            return answers

    store, heard = Doubtful(tmp_path / "store.db"), list[BaseException]()
    stats = dict.fromkeys(("clicks", "conversions", "impressions", "visits"), 0)
    store.write([Write(RowKey("campaigns", 1), [Put("c-id", 1), Put("stats", stats)], Presence.ABSENT)])
    time, patience, generation = Time(), Patience(0, heard.append), Generation(1, "projector")
    settling = Settling(store, 0, patience, time.monotonic)
    chains = Chains(store, generation, patience, settling, time.monotonic, 5, 1 << 20)
    ledger = Ledger(store, chains, generation.pages, patience, 1 << 20, lambda _: None)
    for number in range(20):
        event_id = uuid.uuid5(uuid.NAMESPACE_OID, str(number)).bytes
        assert ledger.apply({1: Change({event_id: [1, 0, 0, number]})})[1].counted
    assert (store.doubted, [type(error) for error in heard]) == (1, [InDoubt])


def test_a_worker_writes_down_what_it_commits() -> None:
    """Offsets and times as the log has them, from its checkpoint on; of no partition after it has left."""
    clock = VirtualClock()
    clock.sleep(1_000)
    store = MemoryStore(lambda: clock.now * 1000, flush_ms=0, settle_ms=0)
    log = MemoryLog(lambda: clock.now * 1000, random.Random(1))
    prepare(log, store)
    log.append([Message(INPUT, None, event(5 + p, "click", "tag-1"), (), p, 5_000 + p) for p in (0, 1)])
    metrics = Metrics()
    config = Config(batch_records=5, batch_ms=1)
    worker = Projector(log, store, config, GENERATION, 1, "a", 0.0, clock=clock, patience_s=0.0, metrics=metrics)
    worker.join()
    worker.turn()
    assert metrics.offsets == dict.fromkeys(log.ends(INPUT), 0)
    for _ in range(50):
        worker.turn()
        clock.sleep(0.1)
    assert metrics.offsets == {p: offset.offset for p, offset in log.offsets.items()} == log.ends(INPUT)
    assert metrics.newest_ms == {0: 5_000, 1: 5_001}
    assert (metrics.counted, metrics.duplicate, metrics.parked, metrics.rejected) == (7, 3, 1, 1)
    assert metrics.reasons == {
        ("duplicate", "conflict"): 1,
        ("parked", "unknown-tag"): 1,
        ("rejected", "not-json"): 1,
    }
    assert sum(metrics.batch_seconds.counts) >= 3  # 12 records
    assert metrics.held.ids == 7
    worker.leave()
    assert (metrics.offsets, metrics.newest_ms) == ({}, {})


@pytest.mark.parametrize("order", [(InDoubt("?"), Retryable("no")), (Retryable("no"), InDoubt("?"))])
def test_of_several_failed_writes_the_one_in_doubt_is_told(order: tuple[Exception, Exception], tmp_path: Path) -> None:
    """Or a write that may have been applied would be missing in the count of these."""

    class Failing(EmbeddedStore):
        calls = 0

        def write(self, writes: object) -> list[Answer]:  # noqa: ARG002  # the port's
            self.calls += 1
            if self.calls == 1:
                return [Answer(Outcome.FAILED, error=error) for error in order]
            return [Answer(Outcome.APPLIED)] * 2

    heard: list[BaseException] = []
    patience = Patience(5.0, heard.append, sleep=lambda _: None)
    patience.write(Failing(tmp_path / "store.db"), [Write(RowKey("s", n), ()) for n in range(2)])
    assert [type(error) for error in heard] == [InDoubt]


# --- exposed


def test_what_is_exposed_is_what_was_written_down() -> None:
    """Every number, read as Prometheus reads it."""
    metrics = Metrics(
        counted=7,
        duplicate=5,
        parked=2,
        rejected=3,
        reasons=Counter({("duplicate", "conflict"): 1, ("parked", "unknown-tag"): 2, ("rejected", "not-json"): 3}),
        retries=11,
        in_doubt=4,
        fenced=3,
        incarnation_changes=2,
        queues_dropped=6,
        assignments=1,
        committed_at=WALL - 1,
    )
    metrics.assigned({0: 40, 3: 7})
    queue = Queue(10)
    queue.append(Batch({}, 98.0, verdicts=Totals(9)))
    metrics.attach(queue, Held(1_000, 8_000, 2))
    for seconds in (0.004, 0.005, 70.0):
        metrics.batch_seconds.observe(seconds)
    metrics.newest_ms[0] = round((WALL - 30) * 1000)
    lag = Lag(metrics)
    lag.look({0: 50, 1: 99, 3: 7}, 99.0, WALL)
    found = exposed(metrics, lag, now=100.0, stuck=True)
    records = {name: value for name, value in found.items() if name.startswith("projector_records") and value}
    assert records == {
        "projector_records_total{,counted}": 7,
        "projector_records_total{,duplicate}": 4,
        "projector_records_total{conflict,duplicate}": 1,
        "projector_records_total{unknown-tag,parked}": 2,
        "projector_records_total{not-json,rejected}": 3,
    }
    assert found["projector_batch_seconds_bucket{0.0025}"] == 0
    assert found["projector_batch_seconds_bucket{0.005}"] == found["projector_batch_seconds_bucket{40.0}"] == 2
    assert found["projector_batch_seconds_bucket{+Inf}"] == found["projector_batch_seconds_count"] == 3
    assert found["projector_batch_seconds_sum"] == pytest.approx(70.009)
    assert found["projector_transaction_seconds_count"] == 0
    expected = {
        "projector_lag_records{0}": 10,
        "projector_lag_records{3}": 0,
        "projector_lag_seconds{0}": 30,
        "projector_lag_seconds{3}": 0,
        "projector_queue_age_seconds": 2,
        "projector_queue_records": 9,
        "projector_last_commit_timestamp_seconds": WALL - 1,
        "projector_assigned_partitions": 2,
        "projector_stuck": 1,
        "projector_ledger_ids": 1_000,
        "projector_index_bytes": 8_000,
        "projector_rotations_total": 2,
        "projector_retries_total": 11,
        "projector_in_doubt_total": 4,
        "projector_fenced_total": 3,
        "projector_incarnation_changes_total": 2,
        "projector_queues_dropped_total": 6,
        "projector_assignments_total": 1,
    }
    others = ("projector_records", "projector_batch", "projector_transaction")
    assert {name: value for name, value in found.items() if not name.startswith(others)} == expected


def test_before_the_first_commit() -> None:
    """Counters stand at 0, so that the first increase is one; what is not known is absent, not 0."""
    found = exposed(Metrics())
    assert found["projector_records_total{unknown-tag,parked}"] == 0
    assert "projector_last_commit_timestamp_seconds" not in found
    assert not [name for name in found if name.startswith("projector_lag")]


def test_every_reason_is_shown_from_the_start() -> None:
    """Those that the source gives; `other-campaign` is for scratch generations, whose workers serve nothing."""
    source = "".join((ROOT / "projector" / name).read_text() for name in ("event.py", "judge.py", "ledger.py"))
    given = {(verdict, reason) for verdict, reason in re.findall(r'Unfit\("(\w+)", "([\w-]+)"', source)}
    given |= {("parked", reason) for reason in re.findall(r'_park\(item, "([\w-]+)"\)', source)}
    adoption = (ROOT / "projector" / "adoption.py").read_text()
    named = re.search(r'UNKNOWN, COUNTS_WITHOUT_LEDGER = "([\w-]+)", "([\w-]+)"', adoption)
    assert named
    given |= {("parked", reason) for reason in named.groups()}
    given |= {("counted", ""), ("duplicate", ""), ("duplicate", "conflict")}
    given.remove(("rejected", "other-campaign"))
    assert {(verdict, reason) for verdict in REASONS for reason in REASONS[verdict]} == given


# --- lag


def test_lag_in_seconds_is_no_more_than_what_is_known() -> None:
    """Bounded by the last committed record and by the last look without lag, whichever is later; never negative."""
    metrics = Metrics()
    metrics.assigned({0: 10})
    lag = Lag(metrics)
    lag.look({0: 20}, 0.0, WALL)
    assert lag.seconds(0.0, WALL) == {}  # nothing tells how old they are
    metrics.newest_ms[0] = round((WALL - 500) * 1000)
    assert lag.seconds(0.0, WALL) == {0: 500}
    lag.look({0: 10}, 1.0, WALL + 1)
    lag.look({0: 12}, 3.0, WALL + 3)
    assert lag.seconds(4.0, WALL + 4) == {0: 3}  # it was idle until then: the new ones are younger
    metrics.newest_ms[0] = round((WALL + 900) * 1000)
    assert lag.seconds(4.0, WALL + 4) == {0: 0}  # a producer's clock that is fast
    metrics.newest_ms[0] = -1
    assert lag.seconds(4.0, WALL + 4) == {0: 3}


def test_lag_that_nobody_tells_any_more_is_absent() -> None:
    """A broker that is away does not look like a topic that is counted; the last look still counts for health."""
    metrics = Metrics()
    metrics.assigned({0: 10})
    lag = Lag(metrics)
    lag.look({0: 20}, 0.0, WALL)
    assert lag.records(KNOWN_S) == {0: 10}
    assert lag.records(KNOWN_S + 1) == lag.seconds(KNOWN_S + 1, WALL) == {}
    assert lag.last() == 10


def test_behind_since_the_first_look_that_shows_it() -> None:
    """An outage before that is not held against the worker; others' partitions are not its own."""
    metrics = Metrics()
    metrics.assigned({0: 10})
    lag = Lag(metrics)
    seen = []
    for now, ends in ((0.0, {0: 10, 1: 99}), (600.0, {0: 11}), (601.0, {0: 12}), (602.0, {0: 10}), (603.0, {0: 11})):
        lag.look(ends, now, WALL + now)
        seen.append(lag.behind_since)
    assert seen == [None, 600.0, 600.0, None, 603.0]
    metrics.given_up([0])
    lag.look({0: 99}, 604.0, WALL)
    assert (lag.behind_since, lag.last()) == (None, 0)


def test_the_watch_goes_on_after_errors_and_closes_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a connection that fails nor a call that does ends it."""
    monkeypatch.setattr(lag_module, "LOOK_S", 0.0)
    stopped = Event()
    answers: Iterator[dict[int, int] | None] = iter([None, {0: 20}])
    connections: list[bool] = []
    closed: list[bool] = []

    class Log:
        def ends(self, topic: str) -> dict[int, int]:
            assert topic == "in"
            answer = next(answers)
            if answer is None:
                raise Retryable("no answer")
            stopped.set()
            return answer

        def close(self) -> None:
            closed.append(True)

    def connect() -> Log:
        connections.append(True)
        if len(connections) == 1:
            raise Retryable("nobody there")
        return Log()

    metrics = Metrics()
    metrics.assigned({0: 10})
    lag = Lag(metrics)
    watch(lag, connect, "in", stopped)
    assert (lag.last(), len(connections), closed) == (10, 2, [True])


# --- health


def test_a_standstill_ends_with_each_commit_that_moves_on() -> None:
    """And begins with the lag, not with the last commit: that may be long ago."""
    metrics = Metrics(turned_at=990.0)
    metrics.assigned({0: 10, 1: 5})
    lag = Lag(metrics)
    assert signs(metrics, lag, 1_000.0) == Signs(10.0, 0, 0.0, 2)
    metrics.advanced_at = 1.0
    lag.look({0: 30, 1: 6}, 900.0, WALL)
    assert signs(metrics, lag, 1_000.0) == Signs(10.0, 21, 100.0, 2)
    metrics.advanced_at = 995.0
    assert signs(metrics, lag, 1_000.0) == Signs(10.0, 21, 5.0, 2)


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (Signs(None, 0, 0.0, 0), None),  # it waits for the store, with its supervisor
        (Signs(1.0, 0, 0.0, 3), None),  # idle
        (Signs(1.0, 0, 9_999.0, 3), None),  # idle, whatever was
        (Signs(1.0, 5_000_000, BOUND, 3), None),  # far behind, and it moves
        (Signs(1.0, 1, BOUND + 1, 3), "1 records to go, and none committed for 121 s"),
        (Signs(BOUND, 0, 0.0, 3), None),
        (Signs(BOUND + 1, 0, 0.0, 3), "the loop has not turned for 121 s"),
    ],
)
def test_stuck(shown: Signs, said: str | None) -> None:
    """With records to go and no commit, or a loop that stands still, for longer than the bound; never where idle."""
    assert stuck(shown, BOUND) == said


def test_ready_with_partitions() -> None:
    """Without any it is not, however it came to that."""
    assert unready(Signs(1.0, 0, 0.0, 0)) == "no partitions are assigned"
    assert unready(Signs(1.0, 99, 999.0, 1)) is None


# --- docs


def names() -> set[str]:
    """Every name of a sample that a worker can expose."""
    metrics = Metrics(committed_at=1.0)
    metrics.assigned({0: 1})
    lag = Lag(metrics)
    lag.look({0: 1}, 0.0, WALL)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    registry.register(Exposition(metrics, lag, False, 0.0, WALL))
    text = generate_latest(registry).decode()
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def named(expression: str) -> set[str]:
    """The metrics of ours that an expression names."""
    without_labels = re.sub(r"\{[^}]*\}", "", expression)
    return set(re.findall(r"\b(?:projector|process)_\w+", without_labels))


def test_alerts_name_metrics_that_exist() -> None:
    """And each says what is the matter and what to do, and how urgent it is."""
    (group,) = yaml.safe_load((ROOT / "docs" / "alerts.yml").read_text())["groups"]
    used = set()
    for rule in group["rules"]:
        assert set(rule) - {"for"} == {"alert", "expr", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("page", "warn", "info")
        assert set(rule["annotations"]) == {"summary", "description"}
        used |= named(rule["expr"])
    assert len(group["rules"]) == len({rule["alert"] for rule in group["rules"]})
    assert "projector_stuck" in used
    assert used <= names()


def test_the_manual_explains_every_metric_and_no_other() -> None:
    """By the name that a query has."""
    page = (ROOT / "docs" / "operating.md").read_text()
    explained = set(re.findall(r"\bprojector_\w+", page))
    assert explained == {re.sub(r"_(bucket|count|sum)$", "", name) for name in names() if name.startswith("projector_")}


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    """So none is collected for nothing."""
    dashboard = json.loads((ROOT / "docs" / "dashboard.json").read_text())
    variables = {each["name"] for each in dashboard["templating"]["list"]}
    targets = [target for panel in dashboard["panels"] for target in panel["targets"]]
    used = set().union(*(named(target["expr"]) for target in targets))
    assert used <= names()
    families = {re.sub(r"_(bucket|count|sum)$", "", name) for name in names() if name.startswith("projector_")}
    assert {re.sub(r"_(bucket|count|sum)$", "", name) for name in used if name.startswith("projector_")} == families
    for target in targets:
        asked = set(re.findall(r"\$(\w+)", target["expr"])) - {"__rate_interval"}
        assert asked <= variables
