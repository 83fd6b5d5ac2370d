"""Publish: which values a transaction carries, and how a message looks."""

import json

from projector.kpi import Value, latest, messages

ROW = {"visits": 4, "impressions": 3, "clicks": 2, "conversions": 1}


def test_a_message_is_the_contract_s() -> None:
    """Key `41:impressions`, an absolute value, epoch and rev."""
    (message,) = messages("totals", {41: Value(ROW, 7, {1})}, 2)
    assert (message.topic, message.key) == ("totals", b"41:impressions")
    assert json.loads(message.value or b"") == {
        "campaignId": 41,
        "kpi": "impressions",
        "value": 3,
        "epoch": 2,
        "rev": 7,
    }


def test_every_kpi_named_and_no_other() -> None:
    """One message per code; a KPI that the row does not have yet is 0."""
    found = messages("totals", {41: Value({"clicks": 2}, 1, {0, 2})}, 1)
    assert [(each.key, json.loads(each.value or b"")["value"]) for each in found] == [
        (b"41:visits", 0),
        (b"41:clicks", 2),
    ]


def test_the_last_batch_gives_the_value_all_give_the_names() -> None:
    """A KPI that an earlier batch named is published with what the last one read back."""
    first, last = Value({"visits": 1, "clicks": 1}, 1, {0}), Value({"visits": 2, "clicks": 2}, 2, {2})
    other = Value(ROW, 5, {3})
    assert latest([{1: first, 2: other}, {1: last}]) == {1: Value(last.stats, 2, {0, 2}), 2: other}


def test_merging_changes_no_batch() -> None:
    """The batches may be committed another time, in another prefix."""
    first, last = Value(ROW, 1, {0}), Value(ROW, 2, {1})
    latest([{1: first}, {1: last}])
    assert (first.codes, last.codes) == ({0}, {1})
