"""How a run gets on: one live line on a terminal, elsewhere a log line every 10 s."""

import logging
import sys
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from projector.metrics import Metrics

LINE_S = 10.0
LIVE_S = 0.5
logger = logging.getLogger(__name__)


class Sample(NamedTuple):
    """The state of one worker, or of several added up. `lag` None: not known now."""

    consumed: int
    counted: int
    duplicate: int
    parked: int
    rejected: int
    lag: int | None
    retries: int = 0
    in_doubt: int = 0
    fenced: int = 0
    incarnation_changes: int = 0

    @classmethod
    def of(cls, metrics: Metrics, lag: int | None) -> "Sample":
        """One worker now."""
        return cls(
            metrics.consumed,
            metrics.counted,
            metrics.duplicate,
            metrics.parked,
            metrics.rejected,
            lag,
            metrics.retries,
            metrics.in_doubt,
            metrics.fenced,
            metrics.incarnation_changes,
        )

    @classmethod
    def sum(cls, samples: Iterable["Sample"]) -> "Sample":
        """Several workers as one; the lag is unknown where any is."""
        rows = list(samples)
        lags = [row.lag for row in rows]
        lag = None if None in lags else sum(lag or 0 for lag in lags)
        added = [sum(column) for column in zip(*((*row[:5], *row[6:]) for row in rows), strict=True)] or [0] * 9
        return cls._make([*added[:5], lag, *added[5:]])


class Progress:
    """Shows samples at their intervals. `interval_s` None: live on a terminal, else every 10 s."""

    def __init__(self, sample: Callable[[], Sample], interval_s: float | None = None) -> None:
        self._sample = sample
        self._live = None
        self._interval_s = interval_s or LINE_S
        self._at = self._started_at = time.monotonic()
        self._before = 0
        if interval_s is None and sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._interval_s = LIVE_S
            self._live = Live(console=Console(stderr=True), refresh_per_second=4, transient=True)
            self._live.start()

    def __call__(self) -> None:
        """Show the next sample, if it is time."""
        now = time.monotonic()
        if now - self._at < self._interval_s:
            return
        sample = self._sample()
        rate = (sample.consumed - self._before) / (now - self._at)
        self._at, self._before = now, sample.consumed
        self._show(sample, rate)

    def close(self) -> None:
        """Show the last sample, with the rate of the whole run."""
        if self._live:
            self._live.stop()
            self._live = None
        sample = self._sample()
        self._show(sample, sample.consumed / max(time.monotonic() - self._started_at, 0.001))

    def _show(self, sample: Sample, rate: float) -> None:
        text = (
            f"{rate:,.0f} records/s, lag {'?' if sample.lag is None else format(sample.lag, ',')}, "
            f"counted {sample.counted:,}, duplicate {sample.duplicate:,}, parked {sample.parked:,}, "
            f"rejected {sample.rejected:,}"
        )
        if self._live:
            from rich.text import Text

            self._live.update(Text(text, no_wrap=True, overflow="ellipsis"))
        else:
            logger.info("%s", text, extra={"progress": {"rate": round(rate), **sample._asdict()}})
