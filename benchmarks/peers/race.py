"""One program on one backlog: how fast, at what price, whether its totals are the truth, how soon after a kill -9."""

import subprocess
import time
from contextlib import suppress
from itertools import pairwise
from typing import Any, NamedTuple

from benchmarks.peers.processes import Tree
from benchmarks.peers.stand import Backlog, Run, Stand
from projector.simulator import differences

POLL_S = 0.05
STALLED_S = 90.0
"""A program that publishes nothing for so long is taken to be at its end."""
STOP_S = 30.0
STEADY_S = 1.0
"""Over less time a rate says nothing."""
BURST_S = 1.0
"""Messages with a longer pause between them are not of one burst."""


class Failed(Exception):
    """The program ended by itself, or published nothing; with the end of what it said."""


class Point(NamedTuple):
    """Where the totals stood, and what had been spent."""

    at: float
    counted: int
    program_s: float
    broker_s: float
    store_s: float


def race(
    run: Run, backlog: Backlog, stand: Stand, *, kills: tuple[float, ...], quiet_s: float, seconds_max: float
) -> dict[str, Any]:
    """Start it, kill it with -9 at each share of the events counted, until all is counted and `quiet_s` nothing came.

    Raises `Failed`.
    """
    target = backlog.events if run.contender.deduplicates else backlog.records
    totals = run.totals
    broker, store = Tree(stand.broker.pid), Tree(run.server.pid) if run.server else None
    began = moved = time.monotonic()
    process = run.start()
    program = Tree(process.pid)
    peaks_mib: list[float] = []
    broker_before_s, store_before_s = broker.cpu_s(), store.cpu_s() if store else 0.0
    points: list[Point] = []

    def point() -> Point:
        store_s = store.cpu_s() - store_before_s if store else 0.0
        return Point(time.monotonic(), totals.counted, program.cpu_s(), broker.cpu_s() - broker_before_s, store_s)

    recoveries_s: list[float] = []
    killed_at, left = 0.0, list(kills)
    try:
        while True:
            came = totals.poll(POLL_S)
            now = time.monotonic()
            if came:
                moved = now
                points.append(point())
            elif not points and stand.assembled(run):
                points.append(point())
            if killed_at and totals.passed_mark:
                recoveries_s.append(now - killed_at)
                killed_at = 0.0
            if left and not killed_at and left[0] * target <= totals.counted < target:
                left.pop(0)
                peaks_mib.append(program.peak_mib)
                program.kill()
                process.wait()
                killed_at = time.monotonic()
                process = run.start()
                program = Tree(process.pid)
                totals.mark()
            if process.poll() is not None:
                raise Failed(f"ended with {process.returncode}", run.said())
            done = totals.counted >= target and now - moved > quiet_s
            out_of_time = now - began > seconds_max and totals.counted < target
            if done or out_of_time or now - moved > STALLED_S:
                break
        peaks_mib.append(program.peak_mib)
        process.terminate()
        with suppress(subprocess.TimeoutExpired):  # it is killed below, and has committed what is looked at
            process.wait(STOP_S)
        while totals.poll(1.0):
            pass
    finally:
        if process.poll() is None:
            program.kill()
            process.wait()
    return _found(
        run, backlog, target, began, points, recoveries_s, max(peaks_mib), out_of_time, len(kills) - len(left)
    )


def _found(
    run: Run,
    backlog: Backlog,
    target: int,
    began: float,
    points: list[Point],
    recoveries_s: list[float],
    peak_mib: float,
    out_of_time: bool,
    kills: int,
) -> dict[str, Any]:
    if not points or not points[-1].counted:
        raise Failed(f"published nothing for {STALLED_S:.0f} s", run.said())
    last = next(point for point in points if point.counted == points[-1].counted)
    first, until = steady([point for point in points if point.at <= last.at])
    counted = until.counted - first.counted if until.at - first.at > STEADY_S else 0
    wrong = differences(backlog.truth, run.totals.cells())
    found: dict[str, Any] = {
        "target": target,
        "counted": last.counted,
        "out_of_time": out_of_time,
        "seconds": last.at - began,
        "steady_per_s": counted / (until.at - first.at) if counted else None,
        "whole_per_s": last.counted / (last.at - began),
        "cpu_whole_us": None if kills else last.program_s * 1e6 / last.counted,
        "peak_mib": peak_mib,
        "messages": run.totals.messages,
        "wrong_cells": len(wrong),
        "difference": sum(held - true for _, _, true, held in wrong),
        "own_checks": run.holds(backlog),
        "kills": kills,
        "recoveries_s": recoveries_s,
    }
    for name in ("program_s", "broker_s", "store_s"):
        spent = getattr(until, name) - getattr(first, name)
        found[f"cpu_{name.removesuffix('_s')}_us"] = spent * 1e6 / counted if counted and not kills else None
    return found


def steady(points: list[Point]) -> tuple[Point, Point]:
    """From where to where rate and CPU are taken. The first point may be that where the program began to read.

    Of a program whose totals flow, from half a second after the first ones on: without start and warming up. Of one
    that publishes in bursts (most of the time in pauses: commits far apart) from where it began to read: before its
    first burst it has read far ahead.
    """
    flow = [point for point in points if point.counted]
    pauses = [then.at - point.at for point, then in pairwise(flow) if then.at - point.at > BURST_S]
    if sum(pauses) > (flow[-1].at - flow[0].at) / 2:
        return points[0], points[-1]
    return next((point for point in flow if point.at > flow[0].at + BURST_S / 2), flow[0]), points[-1]
