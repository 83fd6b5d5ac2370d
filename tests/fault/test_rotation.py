"""The ledger with its archive as a model test: two workers, any interleaving, every crash, late writes, forgetting.

Oracle: an id counts once per campaign, however often and wherever it comes. After every single step `stats` is the
number of ids that the ledger holds, no id stands in two places, and nothing is counted that was not sent.
"""

import itertools
import os
import random
from collections.abc import Sequence

import pytest

from projector.batch import Batch
from projector.chain import Chains
from projector.errors import Retryable
from projector.fold import Change
from projector.generation import Generation
from projector.ledger import Judgement, Ledger
from projector.page import page_key
from projector.patience import Patience
from projector.settling import Settling
from projector.store import Presence, Put, RowKey, Write
from tests.fault.memory_store import MemoryStore
from tests.fault.stepped import FAULTS, Stepped, SteppedStore, Time, choose_fault

CAMPAIGN = 7
ROW = RowKey("campaigns", CAMPAIGN)
GENERATION = Generation(1, "projector")
FLUSH_MS, SETTLE_S = 20.0, 0.03
STEPS_MAX = 20_000


class _Queue:
    """The loop of one worker: applied batches wait until they have settled, in one incarnation with the caches."""

    def __init__(self, world: "World", partition: int, ledger: Ledger, settling: Settling) -> None:
        self._world = world
        self._partition = partition
        self._ledger = ledger
        self._settling = settling
        self._applied: list[tuple[Batch, int, Judgement]] = []
        self._position = world.committed[partition]

    def drop(self) -> None:
        """Back to the checkpoint."""
        self._applied.clear()
        self._position = self._world.committed[self._partition]

    def turn(self, stepped: Stepped) -> None:
        """Commit what has settled, else apply one more batch, else wait."""
        settled = self._settling.settled([batch for batch, _, _ in self._applied])
        if settled is None:
            self._ledger.forget()
            self.drop()
            return
        for _, end, judgement in self._applied[:settled]:
            verdicts = self._world.verdicts[self._partition]
            verdicts.update({sighting[3]: True for sighting in judgement.counted})
            verdicts.update({sighting[3]: False for sighting, _ in judgement.duplicates})
            self._world.committed[self._partition] = end
        del self._applied[:settled]
        if len(self._applied) < self._world.queue and self._position < len(self._world.logs[self._partition]):
            self._apply()
        elif not settled:
            stepped.wait()

    def _apply(self) -> None:
        log = self._world.logs[self._partition]
        change = Change()
        end = min(self._position + self._world.batch, len(log))
        for offset in range(self._position, end):
            event_id, sighting = log[offset], [2, offset % 5, self._partition, offset]
            if event_id in change.ids:
                change.again.append((event_id, sighting))
            else:
                change.ids[event_id] = sighting
        if not self._applied and not self._ledger:
            self._settling.renew()
        judgement = self._ledger.apply({CAMPAIGN: change})[CAMPAIGN]
        self._applied.append((Batch({}, self._world.time.monotonic()), end, judgement))
        self._position = end


class World:
    """A store, two partitions of ids, a worker for each, and what was committed."""

    def __init__(self, logs: Sequence[str], page_ids: int, batch: int, queue: int, forgetful: bool) -> None:
        self.time = Time()
        settle_ms = round(SETTLE_S * 1000) if forgetful else 0
        self.store = MemoryStore(self.time.now_ms, FLUSH_MS if forgetful else 0, settle_ms)
        self.settle_s = settle_ms / 1000
        self.logs = logs
        self.page_ids = page_ids
        self.batch = batch
        self.queue = queue
        self.late: list[Write] = []
        self.committed = [0 for _ in logs]
        self.verdicts: list[dict[int, bool]] = [{} for _ in logs]
        stats = dict.fromkeys(("clicks", "conversions", "impressions", "visits"), 0)
        self.store.write([Write(ROW, [Put("c-id", CAMPAIGN), Put("stats", stats)], Presence.ABSENT)])
        self.time.now += 1
        self.workers = [self.worker(partition) for partition in range(len(logs))]

    def worker(self, partition: int) -> Stepped:
        """A worker that takes one partition from its checkpoint to the end, as the loop does."""

        def body(stepped: Stepped) -> None:
            store = SteppedStore(self.store, stepped, self.late)
            patience = Patience(0)
            settling = Settling(store, self.settle_s, patience, self.time.monotonic)
            chains = Chains(store, GENERATION, patience, settling, self.time.monotonic, self.page_ids, 1 << 30)
            chains.pages_wanted = lambda: self.page_ids  # type: ignore[method-assign]  # no jitter in a model

            def sleep(_seconds: float) -> None:
                stepped.wait()

            ledger = Ledger(store, chains, GENERATION.pages, patience, 1 << 18, sleep, write_ids_max=2)
            queue = _Queue(self, partition, ledger, settling)
            while self.committed[partition] < len(self.logs[partition]):
                try:
                    queue.turn(stepped)
                except Retryable:
                    queue.drop()
                    stepped.wait()

        return Stepped(f"worker {partition}", body)

    def pages(self) -> list[dict[str, list[int]]]:
        """The ids of every place of the ledger, each once: `seen`, `sealed`, and the chain of pages before it."""
        bins = self.store._current(ROW) or {}
        places = [bins.get("seen", {}), bins.get("sealed", {})]
        seal = bins.get("prev", 0) if places[1] else bins.get("seal", 0)
        while seal:
            page = self.store._current(page_key(GENERATION.pages, CAMPAIGN, seal))
            assert page is not None, f"page {seal:x} is missing"
            places.append(page["ids"])
            seal = page["before"][0] if page["before"] else 0
        return places

    def check(self) -> None:
        """The invariants of every state."""
        bins = self.store._current(ROW) or {}
        places = self.pages()
        held = [event_id for place in places for event_id in place]
        assert len(held) == len(set(held)), f"an id in two places: {places}"
        assert sum(bins["stats"].values()) == len(held), f"stats {bins['stats']}, ids {held}"
        assert set(held) <= set("".join(self.logs))

    def rest(self) -> None:
        """Everything is committed: each id counted once, at the position that the ledger names."""
        held = {event_id: sighting for place in self.pages() for event_id, sighting in place.items()}
        assert set(held) == set("".join(self.logs))
        for partition, log in enumerate(self.logs):
            for offset, event_id in enumerate(log):
                counted = held[event_id][2:] == [partition, offset]
                assert self.verdicts[partition][offset] is counted, (partition, offset, event_id)

    @property
    def done(self) -> bool:
        """Both partitions are committed to their ends."""
        return all(committed == len(log) for committed, log in zip(self.committed, self.logs, strict=True))

    def end(self) -> None:
        """Let every thread end."""
        for worker in self.workers:
            if not worker.ended:
                worker.crash()


def run_random(seed: int, forgetful: bool) -> None:
    """A random world: schedule, crashes, faults, late writes and, if `forgetful`, crashes of the store."""
    choose = random.Random(seed)
    letters = "abcdefghijklmnop"[: choose.randint(1, 16)]
    logs = ["".join(choose.choices(letters, k=choose.randint(0, 14))) for _ in range(2)]
    world = World(
        logs, page_ids=choose.randint(1, 3), batch=choose.randint(1, 5), queue=choose.randint(1, 4), forgetful=forgetful
    )
    faults_left, crashes_left, forgets_left = 12, 6, 2 if forgetful else 0  # as the model: budgets, so that it ends
    share = choose.choice((0.0, 0.05, 0.3))
    try:
        for _ in range(STEPS_MAX):
            world.time.now += choose.choice((0.0, 0.001, 0.01))
            if world.done and not world.late:
                break
            if world.late and choose.random() < 0.2:
                world.store.write([world.late.pop(choose.randrange(len(world.late)))])
                world.check()
            if forgets_left and choose.random() < 0.02:
                forgets_left -= 1
                world.store.crash(choose)
            number = choose.randrange(2)
            worker = world.workers[number]
            if worker.ended:
                continue
            if crashes_left and choose.random() < 0.03:
                crashes_left -= 1
                worker.crash()
                world.workers[number] = world.worker(number)
                continue
            worker.fault = choose_fault(choose, share) if faults_left else None
            faults_left -= worker.fault is not None
            worker.step()
            if not forgetful:
                world.check()
        else:
            pytest.fail(f"seed {seed}: stuck at {world.committed} of {[len(log) for log in logs]}")
        world.check()
        world.rest()
    except BaseException as error:
        error.add_note(
            f"seed {seed}, forgetful {forgetful}, logs {logs}, page_ids {world.page_ids}, batch {world.batch}"
        )
        raise
    finally:
        world.end()


SEED = int(os.environ.get("ROTATION_SEED", "0"))


@pytest.mark.parametrize("forgetful", [False, True])
@pytest.mark.parametrize("seed", range(SEED, SEED + 300))
def test_any_interleaving_counts_each_id_once(seed: int, forgetful: bool) -> None:
    """Whatever two workers, crashes, late writes and a forgetful store do, each id is counted exactly once."""
    run_random(seed, forgetful)


@pytest.mark.long
@pytest.mark.parametrize("forgetful", [False, True])
@pytest.mark.parametrize("hundred", range(100, 200))
def test_any_interleaving_counts_each_id_once_at_length(hundred: int, forgetful: bool) -> None:
    """The same, at length."""
    for seed in range(hundred * 100, hundred * 100 + 100):
        run_random(seed, forgetful)


def one_fault(logs: Sequence[str], page_ids: int, at: int, fault: str, land_after: int, other_at: int) -> bool:
    """Worker 0 meets one fault at call `at`; worker 1 runs whole when worker 0 is at call `other_at`.

    A late write lands after `land_after` more steps, or at the end. False if there is no such call.
    """
    world = World(logs, page_ids, batch=2, queue=1, forgetful=False)
    met, since = False, 0
    try:
        for _ in range(STEPS_MAX):
            if world.done and not world.late:
                break
            first, second = world.workers
            if world.late and (since >= land_after or world.done):
                world.store.write([world.late.pop(0)])
                world.check()
            since += bool(world.late)
            if first.ended or first.calls >= other_at:
                while not second.ended:
                    second.step()
                    world.check()
            if first.ended:
                continue
            if not met and first.calls == at:
                met = True
                if fault in FAULTS:
                    first.fault = fault
                elif fault == "crash":
                    first.crash()
                    world.workers[0] = world.worker(0)
                    continue
            first.step()
            world.check()
        else:
            pytest.fail(f"stuck: {logs}, page {page_ids}, {fault} at {at}, lands after {land_after}")
        world.rest()
    except BaseException as error:
        error.add_note(f"logs {logs}, page_ids {page_ids}, {fault} at {at}, lands after {land_after}, other {other_at}")
        raise
    finally:
        world.end()
    return met


@pytest.mark.parametrize("page_ids", [1, 2, 3])
@pytest.mark.parametrize("logs", [("aba", ""), ("abcab", "ca"), ("ab", "ba"), ("abcd", "dcba")])
def test_every_single_fault_at_every_call(logs: tuple[str, str], page_ids: int) -> None:
    """Exhaustive: every call of a worker x every fault x every moment for a late write and for the other worker."""
    for fault, other_at in itertools.product((*FAULTS, "crash"), (0, 3, 6, 10, 10_000)):
        for land_after in (0, 1, 2, 3, 5, 8, 10_000) if fault == "land late" else (0,):
            at = 0
            while one_fault(logs, page_ids, at, fault, land_after, other_at):
                at += 1
