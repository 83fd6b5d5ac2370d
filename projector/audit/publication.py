"""Publication: the last published totals held against the rows that they were read from."""

import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from projector.audit.holdings import counts
from projector.clock import Clock
from projector.event import KPIS
from projector.feed import Feed, Total
from projector.generation import Generation
from projector.log import Log
from projector.patience import patiently, scan_patiently
from projector.store import Store

LOOK_S = 0.5


class Snapshot(NamedTuple):
    """A KPI of a row as the audit read it. `past`: ids at or past the checkpoint, not yet due to be published."""

    stats: int
    rev: int
    past: int


class Wrong(NamedTuple):
    """A last published total (None: there is none) that its row contradicts."""

    campaign: int
    code: int
    published: Total | None
    what: str


class Publication:
    """What readers of the KPI topic know, and whether it follows from the rows.

    A total may be older than its row if its value is the same: only KPIs that a batch named are published with it.
    """

    def __init__(self, log: Log, store: Store, topic: str, generation: Generation, epoch: int) -> None:
        self._log = log
        self._store = store
        self._topic = topic
        self._generation = generation
        self._epoch = epoch
        self.feed = Feed()

    def wrong(self, rows: Mapping[tuple[int, int], Snapshot], wait_s: float, clock: Clock = time) -> list[Wrong]:
        """Which totals contradict their rows, by (campaign, KPI code); those that lag are waited for, `wait_s` at most.

        Raises `Misconfigured`, `Retryable`.
        """
        patiently(lambda: self.feed.catch_up(self._log, self._topic))
        deadline = clock.monotonic() + wait_s
        while True:
            found = list(self._contradictions(rows))
            if not found or clock.monotonic() >= deadline:
                return found
            clock.sleep(LOOK_S)
            for records in self._log.read(self._topic, self.feed.positions):
                self.feed.take(records)

    def _contradictions(self, rows: Mapping[tuple[int, int], Snapshot]) -> Iterator[Wrong]:
        # Read after the feed: what is published was read from the row before.
        now = {
            row.bins["c-id"]: row.bins
            for row in scan_patiently(self._store, self._generation.campaigns, ("c-id", "stats", "rev"))
            if "c-id" in row.bins
        }
        for (campaign, code), then in rows.items():
            bins = now.get(campaign, {})
            held = Snapshot(counts(bins, "stats")[KPIS[code]] or 0, bins.get("rev", 0), 0)
            published = self.feed.totals.get((campaign, KPIS[code]))
            if what := self._contradiction(published, then, held):
                yield Wrong(campaign, code, published, what)

    def _contradiction(self, published: Total | None, then: Snapshot, now: Snapshot) -> str | None:
        if published is None:
            due = then.stats - then.past
            return f"never published; the row has {then.stats:,}" if then.rev and due > 0 else None
        if published.epoch == 0 and not then.rev:
            return None  # another program's, from before the row was adopted
        said = f"{published.value:,} was published with epoch {published.epoch}, rev {published.rev}"
        if published.epoch > self._epoch:
            return f"{said}; the epoch is {self._epoch}"
        if published.epoch == self._epoch and published.rev > now.rev:
            return f"{said}; the row is at rev {now.rev} and has {now.stats:,}"
        if published.epoch == self._epoch and published.rev > then.rev:
            fits = then.stats <= published.value <= now.stats
            fits = fits and (published.rev < now.rev or published.value == now.stats)
        elif published.epoch == self._epoch and published.rev == then.rev:
            fits = published.value == then.stats
        else:
            fits = then.stats - then.past <= published.value <= then.stats
        return None if fits else f"{said}; the row had {then.stats:,} at rev {then.rev}"
