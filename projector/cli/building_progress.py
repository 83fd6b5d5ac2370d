"""How the building of a generation gets on: one bar on a terminal, elsewhere a line every 10 s."""

import sys
import time
from typing import TYPE_CHECKING

from projector.cli.app import PROGRESS_SECONDS

if TYPE_CHECKING:
    from rich.progress import Progress

    from projector.building import Advance

PARTITIONS_SHOWN = 12


class Lines:
    """Lines on stderr, at most one every 10 s."""

    def __init__(self) -> None:
        self._told_at = time.monotonic()

    def __call__(self, line: str) -> None:
        """Tell it, if it is time."""
        if time.monotonic() - self._told_at >= PROGRESS_SECONDS:
            self._told_at = time.monotonic()
            print(line, file=sys.stderr, flush=True)


class BuildingProgress:
    """Call it with every `Advance`: records, rate, time left, lag by partition."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._lines = Lines()
        self._bar: Progress | None = None
        self._began = time.monotonic()
        self._first: int | None = None

    def __call__(self, advance: "Advance") -> None:
        """Show it; a bar ends with its total."""
        if self._first is None:
            self._first = advance.done
        seconds = max(time.monotonic() - self._began, 0.001)
        rate = (advance.done - self._first) / seconds
        left = f"{(advance.total - advance.done) / rate:,.0f} s left" if rate else "? s left"
        lag = " ".join(f"{partition}:{behind}" for partition, behind in list(advance.lag.items())[:PARTITIONS_SHOWN])
        text = f"{rate:,.0f} records/s, {left}, lag by partition {lag or 'none'}"
        if not sys.stderr.isatty():
            percent = 100 * advance.done // max(advance.total, 1)
            done = f"generation {self._number}: {advance.done:,} of {advance.total:,} records ({percent} %)"
            self._lines(f"{done}, {text}")
            return
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[text]}"),
            )
            self._bar = Progress(*columns, console=Console(stderr=True))
            self._bar.add_task(f"generation {self._number}", text=text)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=advance.done, total=advance.total, text=text)

    def compared(self, done: int, total: int) -> None:
        """How the comparison gets on, which comes after."""
        self.close()
        self._lines(f"comparing: {done:,} of {total:,} ids")

    def close(self) -> None:
        """End the bar, if there is one."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
