"""Pages: what is archived is what was sealed, and any change of it shows."""

from typing import Any

import pytest

from projector.errors import LedgerDamaged
from projector.page import ROOT, Page, page_key, parsed

PAGE = Page(41, 77, {b"0123456789abcdef": [1, 10, 3, 4], "order-1": [2, 20, 0, 9]}, [5, 4], b"\x01" * 32)


def test_a_page_is_read_back_as_it_was_written() -> None:
    """With its counts, its seconds and its name."""
    held = PAGE.bins()
    assert parsed(41, 77, held) == PAGE
    assert held["counts"] == {1: 1, 2: 1}
    assert (held["first"], held["last"]) == (10, 20)
    assert page_key("campaigns-seen", 41, 77) == ("campaigns-seen", "41/000000000000004d")


def test_the_digest_does_not_depend_on_the_order_of_the_ids() -> None:
    """Two workers that read one row make one page."""
    assert PAGE._replace(ids=dict(reversed(list(PAGE.ids.items())))).digest == PAGE.digest


@pytest.mark.parametrize(
    "change",
    [
        {"ids": {b"0123456789abcdef": [1, 10, 3, 4]}},
        {"ids": {b"0123456789abcdef": [1, 10, 3, 5], "order-1": [2, 20, 0, 9]}},
        {"prints": b""},
        {"counts": {1: 2}},
        {"before": [5]},
        {"head": ROOT},
        {"seal": 78},
        {"digest": b"\x00" * 32},
        {"ids": None},
    ],
)
def test_any_change_of_a_page_is_damage(change: dict[str, Any]) -> None:
    """The error names the campaign, the page and the way out."""
    with pytest.raises(LedgerDamaged, match=r"campaign 41: page 000000000000004d .*restore"):
        parsed(41, 77, {**PAGE.bins(), **change})


def test_a_page_under_another_name_is_damage() -> None:
    """A page belongs to one campaign and one seal."""
    with pytest.raises(LedgerDamaged):
        parsed(42, 77, PAGE.bins())
