"""The protocol of generations: whatever happens to whom, one generation is live in the end, and it is right.

CUTOVER_SEED=<n> runs that seed alone; `python -m tests.fault.generations <seed>` shows every step of it.
"""

import os
import random
from collections.abc import Callable

import pytest

from tests.fault.cutover_mutations import MUTATIONS, caught
from tests.fault.generations import run

SHORT_STEPS = 700
CALLS_MAX = 150
THERE_AND_BACK = ((2, 1),)


@pytest.mark.parametrize("first", range(0, 14, 7))
def test_seeds(first: int) -> None:
    """One generation is live, its rows hold every id once, readers and the quarantine know it, rest is reached."""
    one = os.environ.get("CUTOVER_SEED")
    for seed in [int(one)] if one else range(first, first + 7):
        run(seed, SHORT_STEPS)


@pytest.mark.parametrize("name", ["op0", "a", "m"])
def test_a_death(name: str) -> None:
    """An operator, a worker or a muted worker dies at some of the calls that it makes there and back."""
    for call in range(5, 165, 40):
        run(call, SHORT_STEPS, THERE_AND_BACK, (name, call))


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("name", ["op0", "a", "m"])
def test_a_death_at_every_call(name: str) -> None:
    """The same at every call."""
    for call in range(CALLS_MAX):
        run(call % 7, SHORT_STEPS, THERE_AND_BACK, (name, call))


@pytest.mark.long
@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("first", range(1_000, 1_600, 100))
def test_many_seeds(first: int) -> None:
    """The same as the short one, hundreds of times."""
    for seed in range(first, first + 100):
        run(seed)


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_new_seeds() -> None:
    """Seeds that nobody has run yet."""
    first = random.SystemRandom().randrange(1 << 40)
    for seed in range(first, first + 100):
        run(seed)


@pytest.mark.long
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_broken_rule_is_seen(mutation: Callable[[pytest.MonkeyPatch], None]) -> None:
    """Some seed turns red."""
    assert caught(mutation), f"{mutation.__name__} survives"
