"""Gathering: the ids of a period, out of every ledger of a generation, while each ledger is footed."""

from collections.abc import Callable, Mapping, Sequence

import duckdb
import numpy as np
import pyarrow  # type: ignore[import-untyped]  # no hints
from numpy.typing import NDArray

from projector.archive import Walk, places, read_rows
from projector.errors import LedgerDamaged
from projector.event import KPIS, spelled
from projector.fold import EventId, Sighting
from projector.footing import check
from projector.prints import Words, mixed
from projector.statement.closing import Closed
from projector.statement.period import Period
from projector.store import Row, Store

ROWS_PER_INSERT = 50_000
_UUID_BYTES = 16


def gather(
    store: Store,
    closed: Closed,
    campaigns: Sequence[int],
    period: Period,
    database: duckdb.DuckDBPyConnection,
    advance: Callable[[int], None],
) -> None:
    """Fill table `ids` with the ids of these campaigns in the period and before the checkpoint, in no order.

    All pages must be there and whole, `stats` must be `opening` plus the ids, no id in two places, and before the
    checkpoint there must be as many ids as were committed. Raises `LedgerDamaged` else, and `Retryable`.
    """
    table = _Table(database)
    sieve = _Sieve(closed.checkpoint, period)
    for campaign, row in read_rows(store, closed.generation, campaigns):
        if row is None or "seal" not in row.bins:
            raise _damaged(campaign, "its row is gone")
        walk = Walk(store, closed.generation, campaign, row.bins)
        counts = np.zeros(len(KPIS), np.int64)
        hashes: list[Words] = []
        for place in places(row.bins, walk):
            if not place:
                continue
            sightings = _sightings(campaign, place)
            counts += np.bincount(sightings[:, 0], minlength=len(KPIS))
            hashes.append(mixed(place))
            table.add(campaign, place, sightings, sieve.wanted(sightings))
            advance(len(place))
        if walk.flaws:
            raise _damaged(campaign, walk.flaws[0])
        _foot(campaign, row, counts)
        if hashes and len(np.unique(np.concatenate(hashes))) < sum(map(len, hashes)):
            # Two ids with one hash of 8 bytes, or an id in two places: this tells.
            for difference in check(store, closed.generation, campaign):
                raise _damaged(campaign, difference.what)
    table.flush()
    if sieve.before != closed.counted:
        raise LedgerDamaged(
            f"before the checkpoint the ledgers hold {sieve.before:,} ids, but {closed.counted:,} were committed as "
            "counted: projector audit names them; no statement was made"
        )


class _Sieve:
    """Lets through what is in the period and before the checkpoint; `before`: how many were before the checkpoint."""

    def __init__(self, checkpoint: Mapping[int, int], period: Period) -> None:
        self._offsets = np.zeros(max(checkpoint, default=0) + 2, np.int64)  # the last one for partitions without any
        for partition, offset in checkpoint.items():
            self._offsets[partition] = offset
        self._period = period
        self.before = 0

    def wanted(self, sightings: NDArray[np.int64]) -> NDArray[np.int64]:
        """Numbers of the rows let through."""
        _, seconds, partitions, offsets = sightings.T
        before = offsets < self._offsets[np.minimum(partitions, len(self._offsets) - 1)]
        self.before += int(before.sum())
        return np.flatnonzero(before & (seconds >= self._period.begin) & (seconds < self._period.end))


class _Table:
    """Table `ids`, filled in large parts."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self._database = database
        database.execute(
            "CREATE TABLE ids (campaign BIGINT, kpi VARCHAR, id VARCHAR, second BIGINT, partition INTEGER, "
            '"offset" BIGINT)'
        )
        self._parts: list[pyarrow.Table] = []
        self._rows = 0

    def add(
        self, campaign: int, place: Mapping[EventId, Sighting], sightings: NDArray[np.int64], rows: NDArray[np.int64]
    ) -> None:
        """Add these rows of a place."""
        if not len(rows):
            return
        ids = list(place)
        codes, seconds, partitions, offsets = sightings[rows].T
        part = {
            "campaign": np.full(len(rows), campaign, np.int64),
            "kpi": [KPIS[code] for code in codes.tolist()],
            "id": [spelled(ids[row]) for row in rows.tolist()],
            "second": np.ascontiguousarray(seconds),
            "partition": np.ascontiguousarray(partitions),
            "offset": np.ascontiguousarray(offsets),
        }
        self._parts.append(pyarrow.table(part))
        self._rows += len(rows)
        if self._rows >= ROWS_PER_INSERT:
            self.flush()

    def flush(self) -> None:
        """Insert what was added."""
        if self._parts:
            self._database.register("part", pyarrow.concat_tables(self._parts))
            self._database.execute("INSERT INTO ids SELECT * FROM part")
            self._database.unregister("part")
        self._parts, self._rows = [], 0


def _sightings(campaign: int, place: Mapping[EventId, Sighting]) -> NDArray[np.int64]:
    """[KPI code, second, partition, offset] of each id. Raises `LedgerDamaged` where an entry is no such thing."""
    types = set(map(type, place))
    if not types <= {bytes, str} or not {len(key) for key in place if type(key) is bytes} <= {_UUID_BYTES}:
        raise _damaged(campaign, "it holds a key that is no event id")
    try:
        sightings = np.array(list(place.values()), np.int64).reshape(len(place), 4)
    except (ValueError, TypeError, OverflowError):
        raise _damaged(campaign, "it holds an id without a KPI, second and position") from None
    if (sightings < 0).any() or (sightings[:, 0] >= len(KPIS)).any():
        raise _damaged(campaign, "it holds an id whose KPI, second or position cannot be")
    return sightings


def _foot(campaign: int, row: Row, counts: NDArray[np.int64]) -> None:
    stats, opening = row.bins.get("stats", {}), row.bins.get("opening", {})
    for code, kpi in enumerate(KPIS):
        total, opened = stats.get(kpi, 0), opening.get(kpi, 0)
        if total != opened + counts[code]:
            raise _damaged(campaign, f"{kpi} is {total}, but opening {opened} + {counts[code]} ids")


def _damaged(campaign: int, what: str) -> LedgerDamaged:
    return LedgerDamaged(f"campaign {campaign}: {what}: projector audit names what mends it; no statement was made")
