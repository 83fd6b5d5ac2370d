"""A log that does not answer at once: whatever a command asks of it is asked again, and the end is the same."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest

from projector.balance import read_balance
from projector.building import Building, Result, Workers
from projector.carry import gone
from projector.cutover import LEASE_S, Ending
from projector.errors import Retryable
from projector.generations import create, standings
from projector.lease import Lease
from projector.log import Log, Offset
from projector.plan import plan
from tests.fault.simulation import VirtualClock
from tests.generations import CONFIG, LIVE, REBUILT
from tests.unit.test_building import Place

ASKED = {"heads", "ends", "offsets_at", "checkpoint", "members", "topic"}
EXPIRED_S = 25.0
"""A transaction that a killed worker left open: its timeout, 15 s, and the broker's look for such, every 10 s."""


class Stumbling:
    """A log whose call number `at` is not answered."""

    def __init__(self, log: Log, at: int) -> None:
        self._log = log
        self._at = at
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return partial(self._asked, name) if name in ASKED else getattr(self._log, name)

    def _asked(self, name: str, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls == self._at:
            raise Retryable(f"{name}: no answer")
        return getattr(self._log, name)(*arguments)


def _built(place: Place, log: Log, switch: bool) -> Result:
    place.log.commit(REBUILT, {0: 12, 1: 12})
    with Lease(place.store, "a rebuild", clock=place.clock).held() as lease:
        workers = Workers(lambda _: 0)
        building = Building(log, place.store, CONFIG, place.row, lease, place.build, workers, clock=place.clock)
        return building.run(who="me", what="rebuild", switch=switch)


COMMANDS: Mapping[str, Callable[[Place, Log], object]] = {
    "rebuild": lambda place, log: _built(place, log, switch=True).ending,
    "rebuild --no-cutover": lambda place, log: _built(place, log, switch=False).ending,
    "plan": lambda place, log: plan(log, CONFIG, LIVE, place.build, 1),
    "gone": lambda _, log: gone(log, CONFIG, REBUILT),
    "create": lambda place, log: create(log, place.store, CONFIG).number,
    "balance": lambda place, log: read_balance(log, place.store, CONFIG, LIVE),
    "generations": lambda place, log: [(each.ids, each.checkpoint) for each in standings(log, place.store, CONFIG)],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_every_call_that_is_not_answered_is_made_again(command: Callable[[Place, Log], object]) -> None:
    """One after the other."""
    place = Place()
    whole = Stumbling(place.log, -1)
    answer = command(place, whole)
    assert whole.calls > 0
    for at in range(1, whole.calls + 1):
        place = Place()
        assert command(place, Stumbling(place.log, at)) == answer, f"call {at}"


class HeldBack:
    """A log whose checkpoint of one group is held back for `seconds`, from when it is first asked in a cutover."""

    def __init__(self, place: Place, group: str, seconds: float) -> None:
        self._place = place
        self._group = group
        self._seconds = seconds
        self._until = float("inf")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._place.log, name)

    def checkpoint(self, group: str, topic: str) -> dict[int, Offset]:
        """Not while it is held back."""
        clock: VirtualClock = self._place.clock
        if group == self._group and self._place.row.read().closing:
            self._until = min(self._until, clock.monotonic() + self._seconds)
            if clock.monotonic() < self._until:
                raise Retryable(f"no answer yet to what group {group} has committed")
        return self._place.log.checkpoint(group, topic)


@pytest.mark.parametrize("group", [LIVE.group, REBUILT.group])
def test_a_cutover_waits_for_the_transaction_of_a_killed_worker(group: str) -> None:
    """Of a live or a muted one: nobody takes its place to end it while the generation is closed."""
    place = Place()
    log = HeldBack(place, group, EXPIRED_S)
    assert _built(place, log, switch=True).ending is Ending.SWITCHED
    assert place.live() == 2


def test_a_cutover_whose_checkpoint_never_comes_gives_up_before_its_lease_is_over() -> None:
    """The generation that was live goes on."""
    place = Place()
    began = place.clock.monotonic()
    with pytest.raises(Retryable, match="no answer yet"):
        _built(place, HeldBack(place, LIVE.group, 1_000), switch=True)
    pointer = place.row.settled()
    assert (pointer.live, pointer.closing) == (1, False)
    assert place.clock.monotonic() - began < LEASE_S
