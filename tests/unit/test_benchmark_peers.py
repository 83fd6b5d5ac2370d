"""How the comparison with peers measures: the totals of an output, the steady part of a run, the report."""

from collections.abc import Sequence
from typing import Any

from benchmarks.peers.race import Point, steady
from benchmarks.peers.tables import tables
from benchmarks.peers.totals import Totals
from benchmarks.report import render


class _Source:
    """Messages given, one list a poll."""

    def __init__(self, *polls: Sequence[str]) -> None:
        self._polls = list(polls)
        self._offset = 0

    def poll(self, seconds: float) -> Sequence[tuple[int, int, bytes]]:  # noqa: ARG002  # the port's signature
        came = []
        for value in self._polls.pop(0) if self._polls else ():
            came.append((0, self._offset, value.encode()))
            self._offset += 1
        return came

    def ends(self) -> dict[int, int]:
        return {0: self._offset + 1}

    def close(self) -> None:
        pass


def _message(value: int, rev: int = 0, kpi: str = "clicks") -> str:
    return f'{{"campaignId": 7, "kpi": "{kpi}", "value": {value}, "rev": {rev}}}'


def test_of_a_peer_the_last_value_counts_and_of_the_projector_the_highest_rev() -> None:
    """A total that falls is seen; an older word of the projector is not taken for a new one."""
    peer = Totals(_Source([_message(3), _message(9), _message(4), _message(1, kpi="visits")]))
    assert peer.poll(0)
    assert (peer.counted, peer.messages, peer.cells()) == (5, 4, {7: {"clicks": 4, "visits": 1}})
    projector = Totals(_Source([_message(9, rev=2), _message(4, rev=1)]))
    assert projector.poll(0)
    assert projector.counted == 9


def test_a_mark_is_passed_by_what_was_written_after_it() -> None:
    """What a killed program had written before does not count as its recovery."""
    totals = Totals(_Source([_message(1)], [_message(2)], [_message(3)]))
    totals.poll(0)
    totals.mark()
    totals.poll(0)
    assert not totals.passed_mark
    totals.poll(0)
    assert totals.passed_mark


def test_the_steady_part() -> None:
    """All but the start; of bursts, from where reading began, for all that was read ahead is in the first one."""
    flowing = [Point(0, 0, 0, 0, 0), *(Point(5 + at / 10, 1 + at, 0, 0, 0) for at in range(100))]
    first, last = steady(flowing)
    assert (first.at, last.at) == (5.6, 14.9)
    bursts = [Point(at, counted, 0, 0, 0) for at, counted in [(1, 0), (5, 10), (5.1, 75), (10, 90), (10.1, 150)]]
    assert steady(bursts) == (bursts[0], bursts[-1])


def _figures(**changed: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"turn": 1, "steady_per_s": 50_000.0, "whole_per_s": 30_000.0, "cpu_whole_us": 30.0}
    found |= {"cpu_program_us": 20.0, "cpu_broker_us": 2.0, "cpu_store_us": 3.0, "peak_mib": 100.0, "messages": 9}
    return (
        found
        | {
            "wrong_cells": 0,
            "difference": 0,
            "own_checks": None,
            "out_of_time": False,
            "kills": 3,
            "recoveries_s": [5.0, 7.0],
        }
        | changed
    )


def test_the_tables_and_the_report() -> None:
    """Ratios within a turn, wrong counts in bold, and all of it in one page."""
    loop = _figures(steady_per_s=5_000.0, wrong_cells=3, difference=900)
    raw: dict[str, Any] = {"events": 10, "events_checked": 10, "duplicate_share": 0.02, "kills": 3, "failures": []}
    raw |= {"ceiling": [{"turn": 1, "rate": 500_000.0, "cpu_us": 3.0}], "duplicates": {}, "latency": {}}
    raw |= {"clean": {"projector-aerospike": [_figures(own_checks=True)], "loop": [loop]}, "killed": {"loop": [loop]}}
    made = tables(raw)
    result: dict[str, Any] = {
        "text": "",
        "name": "Peers",
        "about": "All of them.",
        "command": "python -m benchmarks.peers",
        "began": "then",
    }
    result |= {"ended": "now", "machine": {"cores": "2"}, "versions": {"Python": "3"}}
    page = render([{**result, "tables": [table._asdict() for table in made]}], "## Notes")
    assert page.endswith("## Notes\n")
    assert "| hand-written loop, plain | 5,000 | 30,000 | 0.01 | 10.00 |" in page
    assert "| hand-written loop, plain | **+900** (3 cells) | - | **+900** (3 cells) |" in page
    assert "| hand-written loop, plain | 2 | 6.0 | 5.0-7.0 |" in page
    assert "| projector, Aerospike | 20.0 | 30.0 | 2.0 | 3.0 | 25.0 | 100 | 9 |" in page
