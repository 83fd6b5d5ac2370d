"""A deterministic simulation: several workers, a log and a store that do their worst, in an order drawn from a seed.

python -m tests.fault.simulation 1234    # one seed, with every step it takes
"""

import json
import logging
import random
import sys
import uuid
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

from projector import batch, last_word
from projector.config import Config
from projector.errors import Retryable, SlotTaken
from projector.generation import Generation
from projector.log import Message
from projector.projector import Projector
from projector.store import Clear, Operation, Presence, Put, RowKey, Write
from tests.fault.faults import Crash, Fate, FaultyLog, FaultyStore, Late
from tests.fault.memory_log import MemoryLog
from tests.fault.memory_store import MemoryStore
from tests.fault.oracle import INPUT, KINDS, KPI, QUARANTINE, Oracle

GENERATION = Generation(1, "projector")
SLOTS = ("a", "b", "c", "d")
NO_ROW, FOREIGN = 98, 99
STEPS = 250
REST_ROUNDS = 400
DEPTH_MAX = 2


class VirtualClock:
    """Time passes when somebody waits or calls."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    def sleep(self, seconds: float) -> None:
        """At once."""
        self.now += seconds


class Worker:
    """A worker's process, and what its port calls meet."""

    def __init__(self, simulation: "Simulation", slot: str) -> None:
        self.slot = slot
        self.busy = False
        self.doomed = False
        self.joined = False
        self._simulation = simulation
        sim = simulation
        self.projector = Projector(
            FaultyLog(sim.log, self),
            FaultyStore(sim.store, self, sim.late),
            sim.config,
            GENERATION,
            1,
            slot,
            sim.settle_ms / 1000,
            clock=sim.clock,
            patience_s=sim.patience_s,
        )
        self.projector._judge._ledger._write_ids_max = sim.write_ids_max  # not a setting: small, to split batches

    def fate(self, call: str) -> Fate:
        """Time passes, others act, and perhaps something fails."""
        self._simulation.pass_time()
        self._simulation.interrupt()
        if self.doomed:
            raise Crash(call)
        return self._simulation.draw_fate(self.slot, call)


class Simulation:
    """One run. Raises AssertionError where an invariant breaks; `trace` tells what happened."""

    def __init__(self, seed: int, verbose: bool = False) -> None:
        self._choose = choose = random.Random(seed)
        self._verbose = verbose
        self.trace: list[str] = []
        self.clock = VirtualClock()
        flush_ms = choose.choice((0, 50, 50, 200))
        writing_ms = flush_ms // 5
        self.settle_ms = flush_ms and flush_ms + 20 + writing_ms
        self.patience_s = choose.choice((0.0, 5.0))
        self.write_ids_max = choose.choice((1, 2, 3, 100))
        self._fault_rate = choose.choice((0.0, 0.01, 0.03, 0.1))
        self._interrupt_rate = choose.choice((0.0, 0.02, 0.1))
        unrest = choose.choice((0.1, 1.0, 1.0))
        rare = [weight * unrest for weight in (2, 2, 1.5, 2, 1, 1.5, 0.5, 2, 0.5)]
        self._weights = [70, 6, 6, 4, *rare]
        self._workers_max = choose.choice((1, 2, 2, 3))
        self._records_max = choose.choice((15, 30, 60))
        self.batches_max = choose.choice((2, 3, 10))
        self.page_rows = choose.choice((1, 2, 500))
        self.store = MemoryStore(lambda: self.clock.now * 1000, flush_ms, self.settle_ms, writing_ms=writing_ms)
        self.log = MemoryLog(lambda: self.clock.now * 1000, choose)
        self.log.between = self.interrupt
        self.late = Late(lambda: choose.choice((0, 1, 3, 10, 40)))
        settings: dict[str, Any] = {
            "batch_records": choose.choice((1, 3, 8)),
            "republish_ms": choose.choice((100, 2000)),
            "page_ids": choose.choice((1, 2, 4, 1000)),
        }
        self.config = Config(**settings)
        self.workers: list[Worker] = []
        self._depth = 0
        self._quiet = False
        self._made = 0
        self._ids = [
            str(uuid.UUID(int=choose.getrandbits(128))) if choose.random() < 0.7 else f"id-{n}"
            for n in range(choose.choice((4, 12, 40)))
        ]
        self._prepare(choose.randint(1, 3), choose.randint(1, 3))

    def _prepare(self, partitions: int, campaigns: int) -> None:
        for topic, count in ((INPUT, partitions), (KPI, 2), (QUARANTINE, 1)):
            self.log.create_topic(topic, count, {})
        adopted: list[Operation] = [
            Put("seal", 0),
            Put("prev", 0),
            Put("pages", 0),
            Put("rev", 0),
            Clear("seen"),
            Clear("sealed"),
        ]
        zeros = {kind + "s": 0 for kind in KINDS}
        writes = []
        for campaign in range(1, campaigns + 1):
            row: list[Operation] = [Put("c-id", campaign), Put("stats", zeros)]
            row += adopted if self._choose.random() < 0.5 else []
            writes.append(Write(RowKey("campaigns", campaign), row, Presence.EITHER))
        foreign = [Put("c-id", FOREIGN), Put("stats", zeros | {"clicks": 7})]
        writes.append(Write(RowKey("campaigns", FOREIGN), foreign, Presence.EITHER))
        self._campaigns = {f"tag-{n}": n for n in (*range(1, campaigns + 1), NO_ROW, FOREIGN)}
        for tag, campaign in self._campaigns.items():
            writes.append(Write(RowKey("tags", tag), [Put("t-id", tag), Put("c-id", campaign)], Presence.EITHER))
        self.store.write(writes)
        self.clock.now += 10
        parked = {NO_ROW: "unknown-campaign", FOREIGN: "campaign-not-adopted"}
        self.oracle = Oracle(self.log, self.store, self._campaigns, parked)
        self.log.committed = self.oracle.always

    # --- one run

    def run(self) -> None:
        """Chaos, then rest."""
        with ExitStack() as patches:
            patches.enter_context(patch.object(batch, "BATCHES_MAX", self.batches_max))
            patches.enter_context(patch.object(last_word, "PAGE_ROWS", self.page_rows))
            patches.enter_context(patch("random.SystemRandom", lambda: self._choose))  # seals, and when to seal
            patches.enter_context(patch("random.uniform", self._choose.uniform))  # the pauses between retries
            self._append()
            for _ in range(self._choose.choice((40, 100, STEPS))):
                self._step()
            self._records_max += 6  # some that are under way when peace comes
            self._append()
            for _ in range(self._choose.randint(0, 12)):
                self._turn()
            self._come_to_rest()

    def _step(self) -> None:
        act = self._choose.choices(
            (
                self._turn,
                self._join,
                self._append,
                self._wait,
                self._kill,
                self._expel,
                self._crash_store,
                self._stall,
                self._leave,
                self._rebalance,
                self._retain,
                self._decide,
                self._stop_the_world,
            ),
            self._weights,
        )[0]
        act()
        self.oracle.always()

    def _say(self, what: str) -> None:
        line = f"{self.clock.now:10.3f} {'  ' * self._depth}{what}"
        self.trace.append(line)
        if self._verbose:
            print(line)

    # --- what port calls meet

    def pass_time(self) -> None:
        """Most calls are fast."""
        self.clock.now += self._choose.choice((0.0, 0.001, 0.002, 0.005, 0.03)) if not self._quiet else 0.001

    def interrupt(self) -> None:
        """Others may act while a worker waits for an answer; it may be a zombie when it comes."""
        if self._quiet or self._depth >= DEPTH_MAX or self._choose.random() >= self._interrupt_rate:
            return
        self._depth += 1
        for _ in range(self._choose.choice((1, 1, 3, 10, 30))):
            self._step()
        self._depth -= 1

    def draw_fate(self, slot: str, call: str) -> Fate:
        """Fine, mostly."""
        if self._quiet or self._choose.random() >= self._fault_rate:
            return Fate.FINE
        fate = self._choose.choice([each for each in Fate if each is not Fate.FINE])
        self._say(f"{slot}: {call}: {fate.value}")
        return fate

    # --- what happens

    def _idle(self) -> list[Worker]:
        return [worker for worker in self.workers if not worker.busy]

    def _turn(self) -> None:
        if idle := self._idle():
            self._work(self._choose.choice(idle))

    def _work(self, worker: Worker, leave: bool = False) -> None:
        worker.busy = True
        try:
            if not worker.joined:
                worker.projector.join()
                worker.joined = True
            elif leave:
                self._say(f"{worker.slot}: leaves")
                worker.projector.leave()
                self.workers.remove(worker)
            else:
                worker.projector.turn()
        except Crash as crash:
            self._say(f"{worker.slot}: dies in {crash}")
            self.workers.remove(worker)
        except SlotTaken:
            self._say(f"{worker.slot}: slot taken")
            self.workers.remove(worker)
            if self._quiet:  # the one that took it is dead by now
                self.workers.append(Worker(self, worker.slot))
        except Retryable:
            if worker.joined and not leave:
                raise  # a turn mends them all
            if leave:
                self.workers.remove(worker)
        finally:
            worker.busy = False

    def _join(self) -> None:
        if len(self.workers) < self._workers_max:
            live = {worker.slot for worker in self.workers if not worker.doomed}
            free = [slot for slot in SLOTS if slot not in live or self._choose.random() < 0.05]
            slot = self._choose.choice(free)
            self._say(f"{slot}: starts")
            self.workers.append(Worker(self, slot))

    def _kill(self) -> None:
        if self.workers:
            worker = self._choose.choice(self.workers)
            self._say(f"{worker.slot}: killed")
            worker.doomed = True
            if not worker.busy:
                self.workers.remove(worker)

    def _expel(self) -> None:
        if self.log.seats:
            slot = self._choose.choice(sorted(self.log.seats))
            self._say(f"{slot}: its session ends")
            self.log.expel(slot)

    def _rebalance(self) -> None:
        self.log.rebalance()

    def _crash_store(self) -> None:
        self._say("the store crashes")
        self.store.crash(self._choose)

    def _stall(self) -> None:
        self.store.stall(self._choose.random() < 0.5)

    def _leave(self) -> None:
        if idle := [worker for worker in self._idle() if worker.joined]:
            self._work(self._choose.choice(idle), leave=True)

    def _wait(self) -> None:
        self.clock.now += self._choose.choice((0.05, 0.3, 1.0, 12.0))

    def _retain(self) -> None:
        number = self._choose.randrange(len(self.log.topics[INPUT]))
        committed = self.log.offsets.get(number)
        if committed and not any(number in each.offsets for each in self.log.open):
            self.log.delete_before(INPUT, number, self._choose.randint(0, committed.offset))

    def _decide(self) -> None:
        """A commit whose sender did not wait for the answer arrives."""
        if hanging := [each for each in self.log.open if each.offsets and not self._sending(each.slot)]:
            self.log.end(self._choose.choice(hanging), "committed")

    def _sending(self, slot: str) -> bool:
        return any(worker.slot == slot and worker.busy for worker in self.workers)

    def _stop_the_world(self) -> None:
        """Everybody goes, and an outside tool sets the group back."""
        if any(worker.busy for worker in self.workers):
            return
        self._say("everybody stops")
        self.workers.clear()
        for slot in sorted(self.log.seats):
            self.log.expel(slot)
        for each in list(self.log.open):
            self.log.end(each, "aborted")
        for number, (end, _) in list(self.log.offsets.items()):
            if self._choose.random() < 0.5:
                head = self.log.topics[INPUT][number].head
                offset = self._choose.choice((head, self._choose.randint(head, end)))
                self._say(f"an outside tool sets {number} back to {offset}")
                self.log.reset({number: offset})
                (self.oracle.unknown.discard if offset == head == 0 else self.oracle.unknown.add)(number)

    def _append(self) -> None:
        """More records: new ids, duplicates near and far, several of one id in a row, and what is no event."""
        for _ in range(self._choose.randint(1, 8)):
            if self._made >= self._records_max:
                return
            self._made += 1
            number = self._choose.randrange(len(self.log.topics[INPUT]))
            self.log.append([Message(INPUT, None, self._value(), (), number, 1_700_000_000_000 + self._made * 1000)])
            if self._choose.random() < 0.1:
                self.log.append_marker(INPUT, number)

    def _value(self) -> bytes | None:
        odd = self._choose.random()
        if odd < 0.1:
            return self._choose.choice((None, b"", b"{", b'{"msg": "delete", "key": ["test", "events", "x", null]}'))
        number = self._choose.randrange(len(self._ids))
        tags = sorted(self._campaigns)
        tag = tags[number % len(tags)] if odd < 0.9 else self._choose.choice([*tags, "tag-unknown"])
        kind = KINDS[number % 4] if odd < 0.8 else self._choose.choice([*KINDS, "hack"])
        name = self._ids[number]
        if self._choose.random() < 0.2:
            name = name.upper().replace("-", "") if len(name) == 36 else name
        bins = [{"name": "event-id", "type": "str", "value": name}]
        bins.append({"name": "event-data", "type": "map", "value": {"tag": tag, "event": kind}})  # type: ignore[dict-item]  # as the connector's
        return json.dumps({"msg": "write", "key": ["test", "events", "x", None], "bins": bins}).encode()

    # --- rest

    def _come_to_rest(self) -> None:
        """No more faults: everything must be counted and published after a bounded number of turns."""
        self._say("no more faults")
        self._quiet = True
        self.store.stall(False)
        self.workers = [worker for worker in self.workers if not worker.doomed]
        if not self.workers:
            self.workers.append(Worker(self, "a"))
        newest = {worker.slot: worker for worker in self.workers}  # of those with one slot the last one lives
        self.workers = list(newest.values())
        for slot in sorted(self.log.seats.keys() - newest.keys()):
            self.log.expel(slot)
        for _ in range(REST_ROUNDS):
            for worker in self._choose.sample(self.workers, len(self.workers)):
                for _ in range(self._choose.choice((0, 1, 1, 4))):
                    self._work(worker)
                    self.oracle.always()
                self.clock.now += 0.25
            ends = self.log.ends(INPUT)
            if all(worker.joined and worker.projector.finished(ends) for worker in self.workers):
                break
        else:
            raise AssertionError("rest is not reached")
        self.oracle.at_rest()
        self.late.land(self.store, everything=True)
        self.oracle.at_rest()


def run(seed: int, verbose: bool = False) -> list[str]:
    """Run one seed; answers its steps. Raises AssertionError, with the seed and the last steps."""
    simulation = Simulation(seed, verbose)
    logging.getLogger("projector").setLevel(logging.CRITICAL)
    try:
        simulation.run()
    except Exception as error:
        last = "\n".join(simulation.trace[-12:])
        raise AssertionError(f"seed {seed} (python -m tests.fault.simulation {seed}): {error!r}\n{last}") from error
    return simulation.trace


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        run(int(argument), verbose=True)
        print(f"seed {argument} holds")
