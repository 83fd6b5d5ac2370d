"""Many seeds. SIMULATION_SEED=<n> runs that one alone; SIMULATION_SEEDS=<n> so many from a random one.

A seed that fails is told with its last steps; `python -m tests.fault.simulation <seed>` shows all of them.
"""

import os
import random

import pytest

from tests.fault.simulation import run

CHUNK = 25
SEEDS = range(300)
LONG_SEEDS = range(1_000, 6_000)


@pytest.mark.parametrize("first", range(SEEDS.start, SEEDS.stop, CHUNK))
def test_seeds(first: int) -> None:
    """Whatever happens, in whatever order: each id counted once, nothing published that is not so, rest is reached."""
    one = os.environ.get("SIMULATION_SEED")
    for seed in [int(one)] if one else range(first, first + CHUNK):
        run(seed)


@pytest.mark.long
@pytest.mark.parametrize("first", range(LONG_SEEDS.start, LONG_SEEDS.stop, 250))
def test_many_seeds(first: int) -> None:
    """The same, thousands of times."""
    for seed in range(first, first + 250):
        run(seed)


@pytest.mark.long
@pytest.mark.timeout(3_600)
def test_new_seeds() -> None:
    """Seeds that nobody has run yet."""
    first = random.SystemRandom().randrange(1 << 40)
    for seed in range(first, first + int(os.environ.get("SIMULATION_SEEDS", "500"))):
        run(seed)


def test_a_seed_is_reproducible() -> None:
    """The same seed takes the same steps."""
    assert [run(seed) for seed in (7, 11)] == [run(seed) for seed in (7, 11)]
