"""Each rule broken on purpose is seen; without this the simulation might be one that cannot fail."""

from collections.abc import Callable

import pytest

from tests.fault.mutations import MUTATIONS, caught


@pytest.mark.long
@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.__name__)
def test_a_broken_rule_is_seen(mutation: Callable[[pytest.MonkeyPatch], None]) -> None:
    """Some order of two workers or some seed turns red."""
    assert caught(mutation), f"{mutation.__name__} survives"
