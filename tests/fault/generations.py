"""A world of generations 1 and 2: workers, muted workers and operators, each stopped before every call it makes.

python -m tests.fault.generations 7    # one seed, with every step it takes
"""

import json
import logging
import random
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest.mock import patch

from projector import following
from projector.balance import parse_totals
from projector.config import Config
from projector.cutover import Cutover, Ending
from projector.errors import Refused, Retryable
from projector.following import Watch, build, follow
from projector.generation import Generation
from projector.lease import Lease
from projector.log import Message, Offset
from projector.muted import MutedProjector
from projector.patience import Patience
from projector.pointer import POINTER, PointerRow, create_pointer
from projector.projector import Projector
from projector.store import Clear, Operation, Presence, Put, RowKey, Write
from tests.fault.actors import Actor, ActorLog, ActorStore
from tests.fault.grouped_log import GroupedLog
from tests.fault.memory_log import MemoryLog
from tests.fault.memory_store import MemoryStore
from tests.fault.oracle import INPUT, KINDS, KPI, QUARANTINE
from tests.fault.stepped import choose_fault

BASE = "projector"
NUMBERS = (1, 2)
TAGS = {"tag-1": 1, "tag-2": 2}
SESSION_S = 5.0
LEASE_S = 6.0
RESTART_S = 0.5
REST_STEPS = 30_000
JOBS = (((2,),), ((2, 1),), ((2, 1, 2), (1, 2)), ((2,), (2,)))


class World:
    """One run. `jobs`: per operator the generations that it makes live, one after the other."""

    def __init__(self, seed: int, jobs: Sequence[Sequence[int]] | None = None, verbose: bool = False) -> None:
        self.choose = choose = random.Random(seed)
        self._verbose = verbose
        self.now = 1_000.0
        self.trace: list[str] = []
        flush_ms = choose.choice((0, 100, 100, 300))
        self.settle_s = (flush_ms and flush_ms + 20) / 1000
        self.store = MemoryStore(lambda: self.now * 1000, flush_ms, round(self.settle_s * 1000))
        self.log = GroupedLog(lambda: self.now * 1000, choose)
        self.log.made = self._made
        self.late: list[Write] = []
        self.jobs = [
            list(each) for each in (jobs or choose.choice((((2,),), ((2, 1),), ((2, 1, 2), (1, 2)), ((2,), (2,)))))
        ]
        self.leased = choose.random() < 0.5
        self._fault_rate = choose.choice((0.0, 0.0, 0.01, 0.05))
        self._unrest = choose.choice((0.0, 0.5, 1.0, 3.0))
        self._records_left = choose.choice((20, 40))
        settings: dict[str, Any] = {
            "batch_records": choose.choice((1, 3, 8)),
            "batch_ms": 20,
            "republish_ms": 500,
            "page_ids": choose.choice((2, 1000)),
        }
        self.config = Config(**settings)
        self.muted_config = Config(**settings | {"batch_records": choose.choice((1, 1, 8))})
        self._ids = [str(uuid.UUID(int=choose.getrandbits(128))) for _ in range(choose.choice((6, 25)))]
        self.truth: dict[str, tuple[int, str]] = {}
        self.actors: dict[str, Actor] = {}
        self._born: Counter[str] = Counter()
        self._restart_at: dict[str, float] = {}
        self._vacant: dict[tuple[str, str], float] = {}
        self.wanted: int | None = None
        """The generation for which an operator asked for a muted worker."""
        self.current: Actor | None = None
        self.quiet = False
        self.crash_at: tuple[str, int] | None = None
        """The actor that dies once, and at which of its calls."""
        self._prepare(choose.randint(1, 3))

    def _made(self, _name: str, group: MemoryLog) -> None:
        group.between = self._between

    def _between(self) -> None:
        """Inside a transaction."""
        if self.current is not None:
            self.current.wait()

    def _prepare(self, partitions: int) -> None:
        for topic, count in ((INPUT, partitions), (KPI, 2), (QUARANTINE, 1)):
            self.log.create_topic(topic, count, {})
        ledger: list[Operation] = [Put("seal", 0), Put("prev", 0), Put("pages", 0), Put("rev", 0)]
        ledger += [Clear("seen"), Clear("sealed"), Put("stats", {kind + "s": 0 for kind in KINDS})]
        writes = [
            Write(
                RowKey(Generation(number, BASE).campaigns, campaign), [Put("c-id", campaign), *ledger], Presence.EITHER
            )
            for number in NUMBERS
            for campaign in TAGS.values()
        ]
        for tag, campaign in TAGS.items():
            writes.append(Write(RowKey("tags", tag), [Put("t-id", tag), Put("c-id", campaign)], Presence.EITHER))
        self.store.write(writes)
        create_pointer(self.store, INPUT)
        self.now += 10

    # --- the run

    def run(self, steps: int) -> None:
        """Chaos, then rest, then the checks."""
        with ExitStack() as patches:
            patches.enter_context(patch("random.SystemRandom", lambda: self.choose))
            patches.enter_context(patch("random.uniform", self.choose.uniform))
            patches.enter_context(patch.object(following, "LOOK_S", self.choose.choice((0.25, 1.0, 8.0))))
            try:
                for _ in range(5):
                    self._append()  # a backlog is applied in fewer writes by those who take more of it at a time
                for _ in range(steps):
                    self._step()
                self._come_to_rest()
            finally:
                for actor in self.actors.values():
                    if not actor.ended:
                        self.current = actor
                        actor.crash()

    def say(self, what: str) -> None:
        """Keep, and perhaps print, a line."""
        self.trace.append(f"{self.now:10.3f} {what}")
        if self._verbose:
            print(self.trace[-1])

    def _step(self) -> None:
        self._tend()
        unrest = 0.0 if self.quiet else self._unrest
        acts: tuple[Callable[[], None], ...]
        acts = (self._act, self._append, self._pass, self._kill, self._expel, self._crash_store, self._stall)
        acts += (self._land, self._decide, self._mute, self._ask_to_stop, self._freeze, self._forget_the_pointer)
        weights = [300.0, 2, 6, unrest, unrest, unrest, unrest, 4, 2, 1, unrest / 2, unrest, 2 * unrest]
        self.choose.choices(acts, weights if not self.quiet else [1.0] + [0.0] * (len(acts) - 1))[0]()

    def _tend(self) -> None:
        """Supervisors restart what ended; sessions of the dead end."""
        for name, actor in list(self.actors.items()):
            if actor.ended:
                self.actors.pop(name)
                self._restart_at[name] = self.now + RESTART_S
                self._vacant.update(dict.fromkeys(actor.seats, self.now + SESSION_S))
        for (group, slot), at in list(self._vacant.items()):
            if any((group, slot) in actor.seats for actor in self.actors.values()):
                del self._vacant[group, slot]
            elif at <= self.now:
                del self._vacant[group, slot]
                if slot in self.log.group(group).seats:
                    self.say(f"{slot}: its session in {group} ends")
                    self.log.group(group).expel(slot)
        for name in ("a", "b"):
            self._start(name, "live", self._live)
        for number, jobs in enumerate(self.jobs):
            if jobs and not (self.quiet and any(self.jobs[:number])):
                self._start(f"op{number}", "operator", partial(self._operate, number))
        if self.wanted is not None:
            self._start("m", "muted", partial(self._build, self.wanted))
            self.wanted = None

    def _start(self, name: str, role: str, body: Callable[[Actor], None]) -> None:
        if name in self.actors or self._restart_at.get(name, 0) > self.now:
            return
        self.say(f"{name}: starts")
        self._born[name] += 1
        self.actors[name] = Actor(self, name, role, body)

    def _act(self) -> None:
        """One actor makes its next call."""
        awake = [each for each in self.actors.values() if each.wake <= self.now and not each.ended]
        if not awake:
            self.now = min(each.wake for each in self.actors.values()) + 0.0001 if self.actors else self.now + 0.1
            return
        actor = self.choose.choice(awake)
        if self.crash_at and self._born[actor.name] == 1 and (actor.name, actor.calls) == self.crash_at:
            self.say(f"{actor.name}: dies at call {actor.calls}")
            self.current = actor
            actor.crash()
            self.crash_at = None
            return
        if not self.quiet:
            actor.fault = choose_fault(self.choose, self._fault_rate)
        self.now += 0.001
        self.current = actor
        actor.step()

    # --- bodies

    def _row(self, actor: Actor) -> PointerRow:
        store = ActorStore(self.store, actor, self.late)
        patience = Patience(0.0, sleep=actor.sleep)
        return PointerRow(store, self.settle_s, patience=patience, clock=actor, now_ms=lambda: round(self.now * 1000))

    def _live(self, actor: Actor) -> None:
        def make(generation: Generation, epoch: int, admitted: Callable[[], bool]) -> Projector:
            self.say(f"{actor.name}: live in {generation.number}, epoch {epoch}")
            return Projector(
                ActorLog(self.log, actor),
                ActorStore(self.store, actor, self.late),
                self.config,
                generation,
                epoch,
                actor.name,
                self.settle_s,
                admitted=admitted,
                clock=actor,
                patience_s=0.0,
            )

        try:
            follow(Watch(self._row(actor), actor), self.config, make, False, lambda: actor.stopping)
        except Retryable as error:
            self.say(f"{actor.name}: ends: {error}")

    def _build(self, number: int, actor: Actor) -> None:
        def make(
            generation: Generation, bound: Callable[[], Mapping[int, int]], admitted: Callable[[], bool]
        ) -> MutedProjector:
            self.say(f"{actor.name}: muted in {generation.number}")
            return MutedProjector(
                ActorLog(self.log, actor),
                ActorStore(self.store, actor, self.late),
                self.muted_config,
                generation,
                actor.name,
                self.settle_s,
                bound=bound,
                admitted=admitted,
                clock=actor,
                patience_s=0.0,
            )

        try:
            watch = Watch(self._row(actor), actor)
            build(watch, ActorLog(self.log, actor), self.config, number, make, lambda: actor.stopping, clock=actor)
        except Retryable as error:
            self.say(f"{actor.name}: ends: {error}")

    def _operate(self, number: int, actor: Actor) -> None:
        jobs = self.jobs[number]
        while jobs:
            try:
                lease = self._lease(actor, number) if self.leased else None
                if lease:
                    lease.take()
                done = Cutover(
                    self._row(actor),
                    ActorLog(self.log, actor),
                    self.config,
                    jobs[0],
                    partial(self._catch_up, jobs[0]),
                    partial(self._compare, actor),
                    who=actor.name,
                    lease_s=LEASE_S,
                    heartbeat=lease.renew if lease else lambda: None,
                    clock=actor,
                ).run()
                self.say(f"{actor.name}: {jobs[0]} {done.ending.value}, epoch {done.pointer.epoch}")
                assert done.ending is not Ending.DIFFERENT, done.differences
                self._check_done(jobs[0], done.ending, done.pointer.epoch)
                jobs.pop(0)
                if lease:
                    lease.release()
            except (Retryable, Refused) as error:
                self.say(f"{actor.name}: {error}")
                actor.sleep(self.choose.uniform(0.1, 3))

    def _lease(self, actor: Actor, number: int) -> Lease:
        pids = {f"op{n}": 100 * (n + 1) + self._born[f"op{n}"] for n in range(len(self.jobs))}
        store, patience = ActorStore(self.store, actor, self.late), Patience(0.0, sleep=actor.sleep)
        return Lease(
            store,
            "a cutover",
            lease_s=2.0,
            host="host" if number == 0 else "other",
            pid=pids[actor.name],
            alive=lambda pid: pid in pids.values(),
            patience=patience,
            clock=actor,
            now_ms=lambda: round(self.now * 1000),
        )

    def _catch_up(self, target: int, _final: Mapping[int, int]) -> None:
        if "m" not in self.actors:
            self.wanted = target

    def _compare(self, actor: Actor, old: Generation, new: Generation, final: Mapping[int, int]) -> list[str]:
        if not self.quiet and self.choose.random() < 0.2:
            actor.sleep(2 * LEASE_S)
        actor.wait()
        first, second = (
            {
                (campaign, event_id, sighting[0]): sighting[3] >= final.get(sighting[2], 0)
                for campaign in TAGS.values()
                for event_id, sighting in self.ids(generation, campaign)
            }
            for generation in (old, new)
        )
        # A worker that was expelled may have applied what is past the checkpoint.
        return [str(each) for each in first.keys() ^ second.keys() if not {**first, **second}[each]]

    # --- what happens

    def _append(self) -> None:
        """Live traffic: new ids, duplicates, and what is no event."""
        for _ in range(self.choose.randint(1, 4)):
            if self._records_left <= 0:
                return
            self._records_left -= 1
            value: bytes = b"{"
            if self.choose.random() < 0.8:
                number = self.choose.randrange(len(self._ids))
                name, tag, kind = self._ids[number], sorted(TAGS)[number % 2], KINDS[number % 4]
                self.truth[name] = (TAGS[tag], kind + "s")
                bins: list[dict[str, Any]] = [{"name": "event-id", "type": "str", "value": name}]
                bins.append({"name": "event-data", "type": "map", "value": {"tag": tag, "event": kind}})
                value = json.dumps({"msg": "write", "key": ["test", "events", "x", None], "bins": bins}).encode()
            partition = self.choose.randrange(len(self.log.heads(INPUT)))
            self.log.append([Message(INPUT, None, value, (), partition, 0)])
            if self.choose.random() < 0.2:
                self.log.append_marker(INPUT, partition)

    def _pass(self) -> None:
        self.now += self.choose.choice((0.05, 0.2, 1.0, 7.0))

    def _someone(self) -> Actor | None:
        return self.choose.choice(list(self.actors.values())) if self.actors else None

    def _kill(self) -> None:
        if actor := self._someone():
            self.say(f"{actor.name}: killed")
            self.current = actor
            actor.crash()

    def _ask_to_stop(self) -> None:
        if actor := self._someone():
            actor.stopping = True

    def _expel(self) -> None:
        """A worker that lives, and did not notice."""
        seats = [(group, slot) for group, held in self.log.groups.items() for slot in held.seats]
        if seats:
            group, slot = self.choose.choice(sorted(seats))
            self.say(f"{slot}: expelled from {group}")
            self.log.group(group).expel(slot)

    def _crash_store(self) -> None:
        self.say("the store crashes")
        self.store.crash(self.choose)

    def _forget_the_pointer(self) -> None:
        """The store crashes while it may still take the pointer's last change back."""
        if len(self.store._rows[POINTER]) > 1:
            self._crash_store()

    def _freeze(self) -> None:
        """Somebody notices nothing for a while, whatever call it is about to make."""
        if actor := self._someone():
            actor.wake = self.now + self.choose.choice((0.5, 2.0, 10.0))

    def before_state(self) -> None:
        """What was read of the pointer so far may be forgotten, and the incarnation of now does not tell."""
        if not self.quiet and self._unrest and self.choose.random() < 0.1:
            self._forget_the_pointer()

    def dawdle(self, actor: Actor) -> None:
        """A worker is slow to join: what it read before may be long gone."""
        if not self.quiet and self.choose.random() < 0.15:
            actor.sleep(self.choose.choice((0.5, 2.0, 7.0)))

    def _stall(self) -> None:
        self.store.stall(self.choose.random() < 0.5)

    def _land(self) -> None:
        if self.late:
            write = self.late.pop(self.choose.randrange(len(self.late)))
            answer = self.store.write([write])[0]
            self.say(f"late write of {write.row.key}: {answer.outcome.value}")

    def _decide(self) -> None:
        """A commit whose sender died arrives."""
        for name, group in self.log.groups.items():
            for each in list(group.open):
                busy = any((name, each.slot) in actor.seats for actor in self.actors.values())
                if each.offsets and not busy:
                    group.end(each, "committed")

    def _mute(self) -> None:
        """Somebody builds, whether an operator waits for it or not."""
        if "m" not in self.actors:
            self.wanted = self.choose.choice(NUMBERS)

    # --- what must hold all the time

    def committing(self, actor: Actor, group: str, offsets: Mapping[int, Offset]) -> None:
        """Before a commit is sent: a muted worker is never past the other generation."""
        if actor.role == "muted":
            (other,) = {Generation(number, BASE).group for number in NUMBERS} - {group}
            bound = self.log.group(other).offsets
            for partition, each in offsets.items():
                limit = bound[partition].offset if partition in bound else 0
                assert each.offset <= limit, f"muted {group}/{partition} at {each.offset}, the bound is {limit}"

    def committed(self, actor: Actor, group: str) -> None:
        """A worker with a voice committed: no pointer that may come back says that another generation is live."""
        if actor.role == "live":
            held = {version.bins["live"] for version in self.store._rows[POINTER] if version.bins}
            assert {Generation(number, BASE).group for number in held} == {group}, f"TWO LIVE: {group}, pointer {held}"

    def _check_done(self, target: int, ending: Ending, epoch: int) -> None:
        """What is reported done can no longer be forgotten."""
        pointer = self.store.durable(POINTER)
        assert pointer is not None
        if ending is Ending.SWITCHED:
            entries = [(entry["to"], entry["epoch"]) for entry in pointer["history"]]
            assert (target, epoch) in entries, f"FALSE DONE: {target} in epoch {epoch}, history {entries}"
        assert pointer["epoch"] >= epoch, "FALSE DONE: the epoch may be forgotten"

    # --- rest

    def _come_to_rest(self) -> None:
        self.say("no more faults")
        self.quiet = True
        following.LOOK_S = 0.25  # patched for this run
        self._records_left = 4
        self._append()
        self.store.stall(False)
        while self.late:
            self._land()
        for actor in self.actors.values():
            actor.fault = None
        self._rest()
        # More of it for whoever is live in the end: readers must not hold on to what another generation said.
        self._ids = [str(uuid.UUID(int=self.choose.getrandbits(128))) for _ in range(4)]
        self._records_left = 8
        self._append()
        self._append()
        self._rest()
        until = self.now + 4.0
        while self.now < until:
            self._step()
        self.check()

    def _rest(self) -> None:
        """Until nothing is left to do."""
        for _ in range(REST_STEPS):
            self._step()
            if not any(self.jobs) and self._at_rest():
                return
        raise AssertionError(f"STUCK: jobs {self.jobs}, pointer {self._pointer()}, {self._offsets()}")

    def _pointer(self) -> Mapping[str, Any]:
        bins = self.store._rows[POINTER][-1].bins
        assert bins is not None
        return bins

    def _offsets(self) -> dict[str, dict[int, int]]:
        return {name: {p: each.offset for p, each in group.offsets.items()} for name, group in self.log.groups.items()}

    def _at_rest(self) -> bool:
        pointer = self._pointer()
        group = self.log.group(Generation(pointer["live"], BASE).group)
        ends = self.log.ends(INPUT)
        there = all(p in group.offsets and group.offsets[p].offset == end for p, end in ends.items())
        return pointer["state"] == "open" and there and {"a", "b"} <= group.seats.keys()

    def check(self) -> None:
        """Exactly one generation is live, it holds every id once, and readers know what it holds."""
        pointer = self._pointer()
        assert pointer["state"] == "open"
        generation = Generation(pointer["live"], BASE)
        records = [record for page in self.log.read(INPUT) for record in page]
        rows: dict[tuple[int, str], int] = {}
        for campaign in TAGS.values():
            ids = self.ids(generation, campaign)
            assert len(ids) == len(dict(ids)), "an id is held twice"
            expected = Counter(kpi for of, kpi in self.truth.values() if of == campaign)
            stats = self._bins(generation.campaigns, campaign)["stats"]
            assert stats == {kind + "s": expected[kind + "s"] for kind in KINDS}, f"{stats}, true {expected}"
            assert len(ids) == sum(stats.values())
            rows.update({(campaign, kpi): value for kpi, value in stats.items()})
        totals = [parse_totals(each.metadata) for each in self.log.group(generation.group).offsets.values()]
        assert sum(each.consumed for each in totals if each) == len(records)
        assert sum(each.counted for each in totals if each) == len(self.truth)
        best: dict[tuple[int, str], tuple[int, int, int]] = {}
        for record in (record for page in self.log.read(KPI) for record in page):
            message = json.loads(record.value or b"")
            key = (message["campaignId"], message["kpi"])
            best[key] = max(best.get(key, (0, 0, 0)), (message["epoch"], message["rev"], message["value"]))
        assert {key: value for key, (_, _, value) in best.items()} == rows, f"READER {best}, rows {rows}"
        assert {epoch for epoch, _, _ in best.values()} == {pointer["epoch"]}, f"READER {best}, {pointer['epoch']}"
        said = Counter(record.key for page in self.log.read(QUARANTINE) for record in page)
        unfit = {f"{INPUT}/{r.partition}/{r.offset}".encode(): 1 for r in records if r.value == b"{"}
        assert said == unfit, f"QUARANTINE {said}, must be {unfit}"

    def _bins(self, set_name: str, key: int | str) -> Mapping[str, Any]:
        bins = self.store._rows[RowKey(set_name, key)][-1].bins
        assert bins is not None
        return bins

    def ids(self, generation: Generation, campaign: int) -> list[tuple[Any, tuple[int, int, int, int]]]:
        """What row and pages of a campaign hold."""
        row = self._bins(generation.campaigns, campaign)
        found = [*row["seen"].items(), *row["sealed"].items()]
        seal = row["prev"] if row["sealed"] else row["seal"]
        while seal:
            page = self._bins(generation.pages, f"{campaign}/{seal:016x}")
            found += page["ids"].items()
            seal = next(iter(page["before"]), 0)
        return [(event_id, tuple(sighting)) for event_id, sighting in found]


def run(
    seed: int,
    steps: int = 1_500,
    jobs: Sequence[Sequence[int]] | None = None,
    crash_at: tuple[str, int] | None = None,
    verbose: bool = False,
) -> World:
    """Run one seed. Raises AssertionError, with the seed and the last steps."""
    logging.getLogger("projector").setLevel(logging.CRITICAL)
    world = World(seed, jobs, verbose)
    world.crash_at = crash_at
    try:
        world.run(steps)
    except Exception as error:
        last = "\n".join(world.trace[-15:])
        raise AssertionError(f"seed {seed} (python -m tests.fault.generations {seed}): {error!r}\n{last}") from error
    return world


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        run(int(argument), verbose=True)
        print(f"seed {argument} holds")
