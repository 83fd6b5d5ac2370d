"""Building: what it refuses, what it reports when it goes on, and how its workers' failures end."""

from collections.abc import Callable, Mapping

import pytest

from projector.balance import Totals
from projector.building import Building, Result, Workers, WorkersFailed
from projector.cutover import Ending
from projector.errors import Fatal, LedgerDamaged, Refused
from projector.generations import State, create, read, row_key, unfinished
from projector.lease import Lease
from projector.log import Offset
from projector.pointer import ROLLBACK, Entry, PointerRow, create_pointer
from projector.store import Answer, Store, Write
from tests.fault.faults import Crash
from tests.fault.memory_store import MemoryStore
from tests.fault.simulation import VirtualClock
from tests.generations import CONFIG, LIVE, REBUILT, Counting, GroupsLog, create_campaigns

IDS = 24


class Place:
    """Generation 1 is live at 12 in both partitions; 2, of the same ids, is half built as far as a test commits it."""

    def __init__(self, until: Mapping[int, int] | None = None) -> None:
        self.clock = VirtualClock()
        self.log = GroupsLog()
        self.store = MemoryStore(lambda: self.clock.now * 1000)
        create_pointer(self.store, CONFIG.input_topic)
        create_campaigns(self.store, (1, 2))
        self.log.commit(LIVE, {0: 12, 1: 12})
        self.build = create(self.log, self.store, CONFIG, until=until, scratch=until is not None)
        for generation in (LIVE, REBUILT):
            ledger = Counting(self.store, generation)
            for campaign in (1, 2):
                ids = range(campaign - 1, IDS, 2)
                ledger.count(campaign, {f"id-{n}": [n % 4, 100, n % 2, n // 2] for n in ids})
        self.row = PointerRow(self.store, 0, clock=self.clock)

    def run(
        self, work: Callable[[Callable[[], int]], int] = lambda _: 0, store: Store | None = None, switch: bool = True
    ) -> Result:
        """The whole build. `work` is its workers'."""
        with Lease(self.store, "a rebuild", clock=self.clock).held() as lease:
            building = Building(
                self.log,
                store or self.store,
                CONFIG,
                self.row,
                lease,
                self.build,
                Workers(work),
                clock=self.clock,
            )
            return building.run(who="me", what="rebuild", switch=switch)

    def live(self) -> int:
        return self.row.settled().live


def test_a_generation_that_is_ahead_of_the_live_one_is_refused() -> None:
    """The live one was rewound: it must not give way to one with more, or be compared with it."""
    place = Place()
    place.log.commit(REBUILT, {0: 12, 1: 15})
    with pytest.raises(Refused, match=r"2 is ahead of 1 in partitions \[1\]"):
        place.run()
    assert place.live() == 1


def test_a_scratch_generation_that_was_carried_past_its_limit_is_not_ahead() -> None:
    """The head is at 8, the limit at 5: nothing is to be read, and what is past the limit is not compared."""
    place = Place(until={0: 5, 1: 5})
    place.log.commit(REBUILT, {0: 8, 1: 5})
    result = place.run(switch=False)
    assert result.comparison is not None
    assert (result.comparison.same, result.comparison.ids_held) == (True, (10, 10))


@pytest.mark.parametrize("switch", [True, False])
def test_what_was_carried_is_reported_by_whichever_run_ends_it(switch: bool) -> None:
    """The checkpoint keeps it: a run that goes on has carried nothing itself."""
    place = Place()
    carried = {0: Totals(consumed=5, counted=5, carried=7), 1: Totals(consumed=8, counted=8, carried=4)}
    place.log.checkpoints[REBUILT.group] = {p: Offset(12, totals.metadata()) for p, totals in carried.items()}
    result = place.run(switch=switch)
    assert (result.ending, result.carried) == (Ending.SWITCHED if switch else None, 11)
    again = place.run(switch=switch)
    assert (again.ending, again.carried) == (Ending.ALREADY if switch else None, 11)


@pytest.mark.parametrize("code", [LedgerDamaged.exit_code, Fatal.exit_code])
def test_workers_that_fail_end_it_with_their_code(code: int) -> None:
    """Nothing is switched."""
    place = Place()
    place.log.commit(REBUILT, {0: 3})
    with pytest.raises(WorkersFailed, match=f"exit code {code};") as failed:
        place.run(lambda _: code)
    assert failed.value.exit_code == code
    assert place.live() == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_supervisor_that_breaks_ends_it_with_70() -> None:
    """1 would say that something differs."""
    place = Place()
    place.log.commit(REBUILT, {0: 3})

    def broken(_: Callable[[], int]) -> int:
        raise ZeroDivisionError

    with pytest.raises(WorkersFailed) as failed:
        place.run(broken)
    assert failed.value.exit_code == 70


def test_workers_that_end_well_are_started_again_until_it_is_done() -> None:
    """As those of a generation that the live one runs ahead of."""
    place = Place()
    starts: list[int] = []

    def work(_: Callable[[], int]) -> int:
        starts.append(len(starts))
        place.log.commit(REBUILT, {0: 4 * len(starts), 1: 4 * len(starts)})
        return 0

    assert place.run(work).ending is Ending.SWITCHED
    assert starts == [0, 1, 2]
    assert place.live() == 2


class Dying:
    """A store that its operator dies at, once it would write what became of generation 2."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def write(self, writes: list[Write]) -> list[Answer]:
        """Dies."""
        if any(write.row == row_key(REBUILT.number) for write in writes):
            raise Crash
        return self._store.write(writes)


def test_a_rebuild_that_died_after_its_flip_is_not_gone_on_with() -> None:
    """Its row says building for ever; the pointer says that it is live, and its history that it was."""
    place = Place()
    place.log.commit(REBUILT, {0: 12, 1: 12})
    assert unfinished(place.store, None, None) == place.build
    with pytest.raises(Crash):
        place.run(store=Dying(place.store))  # type: ignore[arg-type]  # passes all on
    assert place.live() == 2
    assert read(place.store, 2).state is State.LIVE
    assert unfinished(place.store, None, None) is None
    own = place.row.close(place.row.settled(), 60)
    place.row.flip(own, Entry(ROLLBACK, "me", 5, 2, 1, 3))
    assert read(place.store, 2).state is State.RETIRED
    assert unfinished(place.store, None, None) is None
