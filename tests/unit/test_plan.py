"""The plan of a rebuild: what is left to read, and how far."""

import pytest

from projector.carry import Gone
from projector.generations import Build, State
from projector.log import Message
from projector.plan import plan
from tests.generations import CONFIG, LIVE, REBUILT, GroupsLog

BUILD = Build(REBUILT.number, State.BUILDING)


@pytest.fixture
def log() -> GroupsLog:
    """Partitions of 100 and 50 records of 10 bytes; the live generation has counted 90 and 50 of them."""
    made = GroupsLog()
    for partition, records in ((0, 100), (1, 50)):
        made.append([Message(CONFIG.input_topic, None, b"0123456789", (), partition, 0) for _ in range(records)])
    made.commit(LIVE, {0: 90, 1: 50})
    made.checkpoints[REBUILT.group] = {}
    return made


def test_a_new_generation_reads_all_that_the_live_one_has_counted(log: GroupsLog) -> None:
    """From the heads; two workers take half the time."""
    planned = plan(log, CONFIG, LIVE, None, 1)
    assert (planned.live, planned.number, planned.gone) == (1, None, [])
    assert (planned.heads, planned.starts, planned.goals) == ({0: 0, 1: 0}, {0: 0, 1: 0}, {0: 90, 1: 50})
    assert (planned.records, planned.bytes) == (140, 1_400)
    assert planned.seconds == 2 * plan(log, CONFIG, LIVE, None, 2).seconds


def test_a_half_built_one_goes_on_at_its_own_checkpoint(log: GroupsLog) -> None:
    """A partition that it has not begun is read from the head; nothing is less than nothing."""
    log.commit(REBUILT, {0: 60})
    planned = plan(log, CONFIG, LIVE, BUILD, 1)
    assert (planned.number, planned.starts, planned.records) == (2, {0: 60, 1: 0}, 30 + 50)
    log.commit(REBUILT, {0: 60, 1: 50})
    log.commit(LIVE, {0: 90, 1: 20})
    assert plan(log, CONFIG, LIVE, BUILD, 1).records == 30


def test_limits_bound_what_is_read(log: GroupsLog) -> None:
    """A partition without one is not read; what the live one has not counted is not, either."""
    assert plan(log, CONFIG, LIVE, None, 1, {0: 30}).records == 30
    planned = plan(log, CONFIG, LIVE, None, 1, {0: 95, 1: 20})
    assert (planned.goals, planned.records) == ({0: 90, 1: 20}, 110)


def test_what_is_gone_is_not_read(log: GroupsLog) -> None:
    """It is named, and what is left begins at the head, wherever the half-built one stands."""
    log.delete_before(CONFIG.input_topic, 0, 40)
    assert plan(log, CONFIG, LIVE, None, 1).gone == [Gone(0, 0, 40)]
    assert plan(log, CONFIG, LIVE, None, 1).records == 50 + 50
    log.commit(REBUILT, {0: 25, 1: 10})
    planned = plan(log, CONFIG, LIVE, BUILD, 1)
    assert (planned.starts, planned.gone, planned.records) == ({0: 40, 1: 10}, [Gone(0, 25, 40)], 50 + 40)
