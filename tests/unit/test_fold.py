"""Fold: the events of a batch become one change per campaign."""

from projector.event import Event
from projector.fold import Change, fold
from projector.log import Record


def at(partition: int, offset: int, timestamp_ms: int = 5_999) -> Record:
    """A record whose value does not matter."""
    return Record(partition, offset, timestamp_ms, None)


def test_events_are_grouped_by_campaign() -> None:
    """Each id once per campaign, with kind, whole seconds and position."""
    a, b = Event(b"a" * 16, 1, "t"), Event("b", 2, "u")
    assert fold([(at(0, 7), a, 41), (at(1, 3), b, 42), (at(0, 8), b, 41)]) == {
        41: Change({b"a" * 16: [1, 5, 0, 7], "b": [2, 5, 0, 8]}),
        42: Change({"b": [2, 5, 1, 3]}),
    }


def test_no_position_of_an_id_is_lost() -> None:
    """The first position stands for the id, all others follow in order, whatever their kind."""
    events = [(at(0, 1), Event("a", 0, "t"), 1), (at(2, 5), Event("a", 3, "t"), 1), (at(0, 9), Event("a", 0, "t"), 1)]
    assert fold(events) == {1: Change({"a": [0, 5, 0, 1]}, [("a", [3, 5, 2, 5]), ("a", [0, 5, 0, 9])])}


def test_an_id_under_two_campaigns_is_two_ids() -> None:
    """Each campaign has its own ledger."""
    event = Event("a", 0, "t")
    assert fold([(at(0, 1), event, 1), (at(0, 2), event, 2)]).keys() == {1, 2}


def test_a_missing_timestamp_is_second_0() -> None:
    """Kafka says -1."""
    assert fold([(at(0, 1, -1), Event("a", 0, "t"), 1)])[1].ids == {"a": [0, 0, 0, 1]}


def test_what_has_no_campaign_is_left_out() -> None:
    """Its neighbours are folded all the same."""
    event = Event("a", 0, "t")
    assert fold([(at(0, 1), event, None), (at(0, 2), event, 2)]) == {2: Change({"a": [0, 5, 0, 2]})}


def test_nothing() -> None:
    """No events, no changes."""
    assert fold([]) == {}
