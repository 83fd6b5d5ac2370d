"""The simulator says the truth about what it sends, and sends the same again for the same seed."""

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest

from projector.errors import Misconfigured
from projector.log import Message
from projector.reference import tag_id
from projector.simulator import CLEAN, Shares, Simulation, Truth, differences, load_truth, simulate
from tests.property.event_oracle import judge

PARTITIONS = 12
MANY_FLAWS = Shares(*[0.08] * 8)


def simulated(seed: int = 1, events: int = 3_000, shares: Shares = MANY_FLAWS) -> tuple[list[Message], Truth]:
    truth = Truth()
    simulation = Simulation(events, seed, campaigns=5, tags=20, shares=shares)
    return list(simulate(simulation, "in", PARTITIONS, truth)), truth


def test_the_same_seed_gives_the_same_messages() -> None:
    """Bytes, partitions and timestamps follow from the seed alone; another seed shares no event."""
    messages, truth = simulated()
    assert (messages, truth) == simulated()
    good = {message.value for message in simulated(shares=CLEAN)[0]}
    assert good.isdisjoint(message.value for message in simulated(seed=2, shares=CLEAN)[0])
    assert all(message.partition in range(PARTITIONS) for message in messages)


def test_the_truth_is_what_the_records_say() -> None:
    """Judged by the contract's table and counted once by id, the records give the truth: cells, verdicts, reasons."""
    messages, truth = simulated()
    campaigns = {tag_id(1, campaign, number): campaign for campaign in range(1, 6) for number in range(1, 21)}
    cells: dict[str, Counter[str]] = {}
    verdicts, reasons, ids = Counter[str](), Counter[str](), set()
    for message in messages:
        found = judge(message.value)
        verdicts["consumed"] += 1
        if found[0] != "event":
            verdicts[found[0]] += 1
            reasons[found[1]] += 1
        elif found[3] not in campaigns:
            verdicts["parked"] += 1
            reasons["unknown-tag"] += 1
        elif found[1] in ids:
            verdicts["duplicate"] += 1
        else:
            ids.add(found[1])
            verdicts["counted"] += 1
            cells.setdefault(str(campaigns[found[3]]), Counter())[found[2]] += 1
    assert truth.campaigns == cells
    assert truth.verdicts == verdicts
    assert truth.reasons == reasons
    assert verdicts["counted"] == 3_000
    assert min(verdicts["duplicate"], verdicts["parked"], verdicts["rejected"]) > 100


def test_the_mix_is_the_references() -> None:
    """Of 34 events 25 are impressions, 5 clicks, 3 visits, 1 conversion, within what chance allows."""
    _, truth = simulated(events=34_000, shares=CLEAN)
    kpis: Counter[str] = Counter()
    for cells in truth.campaigns.values():
        kpis.update(cells)
    for kpi, share in {"impressions": 25, "clicks": 5, "visits": 3, "conversions": 1}.items():
        assert abs(kpis[kpi] - share * 1_000) < 500


def test_the_truth_adds_up_over_runs(tmp_path: Path) -> None:
    """A second seed adds to a truth kept in a file; the same seed again is refused: its events would be duplicates."""
    file = tmp_path / "truth.json"
    _, truth = simulated(events=100)
    truth.save(file)
    both = load_truth(file)
    list(simulate(Simulation(100, 2, campaigns=5, tags=20), "in", PARTITIONS, both))
    assert both.verdicts["counted"] == sum(sum(kpis.values()) for kpis in both.campaigns.values()) == 200
    with pytest.raises(Misconfigured, match="seed 1"):
        list(simulate(Simulation(100, 1, campaigns=5, tags=20), "in", PARTITIONS, load_truth(file)))


def test_one_cell_off_by_one_is_a_difference() -> None:
    """The comparison finds a count too low, one too high, a row that is missing, and one that should not be there."""
    truth = Truth(campaigns={"1": {"clicks": 5, "visits": 2}, "2": {"clicks": 1}})
    assert differences(truth, {1: {"clicks": 5, "visits": 2, "impressions": 0}, 2: {"clicks": 1}, 3: {}}) == []
    held = {1: {"clicks": 4, "visits": 3}, 3: {"visits": 1}}
    assert differences(truth, held) == [
        (1, "clicks", 5, 4),
        (1, "visits", 2, 3),
        (2, "clicks", 1, 0),
        (3, "visits", 0, 1),
    ]


def test_records_come_one_by_one() -> None:
    """A simulation of any size begins at once: nothing is made before it is asked for."""
    endless = simulate(Simulation(10**12, 1, campaigns=5, tags=20), "in", PARTITIONS, Truth())
    assert len(list(islice(endless, 100))) == 100


def test_shares_that_leave_no_room_are_refused() -> None:
    """Negative shares, and shares of almost everything, are a setting's error."""
    for wrong in (-0.1, 0.95):
        with pytest.raises(Misconfigured, match="shares"):
            Shares(duplicates_near=wrong)
