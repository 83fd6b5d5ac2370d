"""The programs that the benchmark compares with count right: what is fast and wrong is no comparison."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from benchmarks.peers.contender import Contender, chosen
from benchmarks.peers.race import race
from benchmarks.peers.stand import Backlog, Stand
from benchmarks.peers.tools import Unavailable

EVENTS = 600


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    """A broker of its own, which the benchmark measures."""
    try:
        made = Stand(tmp_path_factory.mktemp("peers"))
    except RuntimeError as error:
        pytest.skip(f"the peers were NOT exercised: {error}")
    with closing(made):
        yield made


@pytest.fixture(scope="module")
def backlog(stand: Stand) -> Backlog:
    """Events, and a tenth of duplicates."""
    return stand.backlog("smoke", EVENTS, seed=1, duplicates=0.1)


@pytest.mark.long
@pytest.mark.parametrize("contender", chosen(["kafka-streams", "loop"]), ids=lambda contender: contender.name)
def test_peer_counts_right(stand: Stand, backlog: Backlog, contender: Contender) -> None:
    """With deduplication the truth, without it every record."""
    try:
        with stand.run(contender, backlog) as run:
            found = race(run, backlog, stand, kills=(), quiet_s=0.5, seconds_max=60)
    except Unavailable as error:
        pytest.skip(f"{contender.title} was NOT exercised: {error}")
    assert backlog.records > backlog.events == EVENTS
    assert found["difference"] == (0 if contender.deduplicates else backlog.records - backlog.events)
    assert (found["wrong_cells"] == 0) is contender.deduplicates
