"""Generations: a row for each that there ever was, so that no number is used again, and where each of them stands.

The pointer row alone says which one is live; these rows say the rest.
"""

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

from projector.config import Config
from projector.errors import Refused
from projector.event import KPIS
from projector.generation import Generation
from projector.log import Log
from projector.patience import checkpoint_patiently, patiently, scan_patiently, write_patiently
from projector.pointer import read_pointer
from projector.settling import outlives, settle_seconds
from projector.store import Operation, Presence, Put, Read, Row, RowKey, Store, Write

SET = "projector"
FIRST = 1
"""Generation 1 is there from the first migration on, without a row of its own until something becomes of it."""
_BINS = ("number", "state", "created-ms", "built-ms", "version", "source", "campaigns", "until", "totals", "nonce")
_ATTEMPTS = 10
_RESTARTING = "the store keeps restarting, or does not keep up with its writes: try again later"


class State(Enum):
    """Where a generation stands."""

    BUILDING = "building"
    SCRATCH = "scratch"  # built for a comparison only, never to be live
    READY = "ready"  # built and compared
    LIVE = "live"
    RETIRED = "retired"  # was live
    ABANDONED = "abandoned"  # its rows are, or are being, dropped


class Build(NamedTuple):
    """What is known of one generation. Times are ms since 1970, by the clock of who wrote them; None: not yet."""

    number: int
    state: State
    created_ms: int | None = None
    built_ms: int | None = None
    version: str = ""
    """Of the program that built it."""
    source: Mapping[int, int] = {}
    """Per partition the checkpoint of the generation that it was compared with."""
    campaigns: Sequence[int] | None = None
    until: Mapping[int, int] | None = None
    """What a scratch generation is made of: these campaigns, positions below these offsets; None: all."""
    totals: Mapping[str, int] = {}
    """Ids per KPI, as last recorded."""

    def generation(self, config: Config) -> Generation:
        """The names that it owns."""
        return Generation(self.number, config.group)


class Standing(NamedTuple):
    """A generation as it is now: its ids per KPI, and its checkpoint."""

    build: Build
    totals: Mapping[str, int]
    checkpoint: Mapping[int, int]

    @property
    def ids(self) -> int:
        """All ids that it counts."""
        return sum(self.totals.values())


def bounded(offsets: Mapping[int, int], until: Mapping[int, int]) -> dict[int, int]:
    """The lower of both, per partition of `offsets`; of one that `until` does not name nothing is read."""
    return {partition: min(offset, until.get(partition, 0)) for partition, offset in offsets.items()}


def row_key(number: int) -> RowKey:
    """Where the row of a generation stands."""
    return RowKey(SET, f"generation/{number}")


def create(
    log: Log,
    store: Store,
    config: Config,
    campaigns: Sequence[int] | None = None,
    until: Mapping[int, int] | None = None,
    scratch: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Build:
    """Allot the next number, for ever: nothing is written under it before the store can no longer forget its row.

    Creates the index on `c-date` too. Two at once get two numbers. Raises `Refused` if the store keeps restarting,
    `Misconfigured` if it cannot keep a write, and `Retryable`.
    """
    number = max(build.number for build in builds(store)) + 1
    # Of a store that was lost the log still knows groups: their checkpoints are not those of empty rows.
    while checkpoint_patiently(partial(log.checkpoint, Generation(number, config.group).group, config.input_topic)):
        number += 1
    for _ in range(_ATTEMPTS):
        build = Build(
            number,
            State.SCRATCH if scratch else State.BUILDING,
            time.time_ns() // 1_000_000,
            version=version("projector"),
            campaigns=campaigns,
            until=until,
        )
        # Before its row: whoever goes on with a generation does not look whether the one who made it was killed here.
        store.create_index(build.generation(config).campaigns, "c-date")
        nonce = secrets.randbelow(1 << 63)
        write = Write(row_key(number), [*_operations(build), Put("nonce", nonce)], Presence.ABSENT)
        settled = _written(store, config, write, sleep)
        (row,) = patiently(lambda: store.read([Read(write.row, ("nonce",))]))  # noqa: B023  # called now
        if row is not None and row.bins.get("nonce") == nonce and settled:
            return build
        if row is not None:
            number += 1  # another's, or one that may still be forgotten: an unused number is no loss
    raise Refused(_RESTARTING)


def builds(store: Store) -> list[Build]:
    """All that there ever were, in the order of their numbers, as their rows say. Raises `Retryable`."""
    found = {FIRST: Build(FIRST, State.RETIRED)}
    live = read_pointer(store, 0)
    for row in scan_patiently(store, SET, _BINS):
        if "number" in row.bins:
            build = _parsed(row)
            found[build.number] = build
    if live is not None:
        were_live = {entry.before for entry in live.entries}
        for number, build in found.items():
            if number == live.live:
                found[number] = build._replace(state=State.LIVE)
            elif build.state is State.LIVE or (number in were_live and build.state is not State.ABANDONED):
                found[number] = build._replace(state=State.RETIRED)
        if live.live not in found:
            found[live.live] = Build(live.live, State.LIVE)
    return [found[number] for number in sorted(found)]


def read(store: Store, number: int) -> Build:
    """One of them. Raises `Refused` if there never was one with this number, and `Retryable`."""
    for build in builds(store):
        if build.number == number:
            return build
    raise Refused(f"there is no generation {number}: projector generations lists all")


def unfinished(store: Store, campaigns: Sequence[int] | None, until: Mapping[int, int] | None) -> Build | None:
    """The generation that an earlier run for the same, of the same version, has left half built; None: there is none.

    One that is or was live is none, whatever its own row says. Raises `Retryable`.
    """
    wanted = State.SCRATCH if campaigns is not None or until is not None else State.BUILDING
    for build in reversed(builds(store)):
        same = build.campaigns == campaigns and build.until == until and build.version == version("projector")
        if build.state is wanted and build.built_ms is None and same:
            return build
    return None


def record(store: Store, build: Build) -> None:
    """Write down where a generation stands now. Raises `Retryable`."""
    write_patiently(store, [Write(row_key(build.number), _operations(build), Presence.EITHER)])


def record_settled(store: Store, config: Config, build: Build, sleep: Callable[[float], None] = time.sleep) -> None:
    """The same; returns once the store can no longer forget it. Raises `Refused` if it keeps restarting."""
    for _ in range(_ATTEMPTS):
        if _written(store, config, Write(row_key(build.number), _operations(build), Presence.EITHER), sleep):
            return
    raise Refused(_RESTARTING)


def _written(store: Store, config: Config, write: Write, sleep: Callable[[float], None]) -> bool:
    """Write, and wait until the store can no longer forget it; False if it may have."""
    settle_s = patiently(lambda: settle_seconds(store, config.settle_ms, config.allow_volatile_store))
    before = patiently(store.state)
    write_patiently(store, [write])
    return outlives(store, before, settle_s, sleep)


def standings(log: Log, store: Store, config: Config) -> list[Standing]:
    """All that there ever were, with what each holds now; an abandoned one as it was recorded. Raises `Retryable`."""
    found = []
    for build in builds(store):
        if build.state is State.ABANDONED:
            found.append(Standing(build, build.totals, {}))
            continue
        generation = build.generation(config)
        committed = checkpoint_patiently(lambda g=generation: log.checkpoint(g.group, config.input_topic))  # type: ignore[misc]
        checkpoint = {partition: offset.offset for partition, offset in committed.items()}
        found.append(Standing(build, totals(store, generation), checkpoint))
    return found


def totals(store: Store, generation: Generation) -> dict[str, int]:
    """Per KPI how many ids a generation counts, by its rows. Raises `Retryable`."""
    added = dict.fromkeys(KPIS, 0)
    for row in scan_patiently(store, generation.campaigns, ("seal", "stats", "opening")):
        if "seal" in row.bins:
            stats, opening = row.bins.get("stats", {}), row.bins.get("opening", {})
            for kpi in KPIS:
                added[kpi] += stats.get(kpi, 0) - opening.get(kpi, 0)
    return added


def _operations(build: Build) -> list[Operation]:
    operations: list[Operation] = [
        Put("number", build.number),
        Put("state", build.state.value),
        Put("version", build.version),
        Put("source", dict(build.source)),
        Put("totals", dict(build.totals)),
    ]
    if build.created_ms is not None:
        operations.append(Put("created-ms", build.created_ms))
    if build.built_ms is not None:
        operations.append(Put("built-ms", build.built_ms))
    if build.campaigns is not None:
        operations.append(Put("campaigns", list(build.campaigns)))
    if build.until is not None:
        operations.append(Put("until", dict(build.until)))
    return operations


def _parsed(row: Row) -> Build:
    bins: Mapping[str, Any] = row.bins
    try:
        state = State(bins.get("state"))
    except ValueError:
        raise Refused(f"the row of generation {bins['number']} is damaged: restore it from a backup") from None
    return Build(
        bins["number"],
        state,
        bins.get("created-ms"),
        bins.get("built-ms"),
        bins.get("version", ""),
        bins.get("source", {}),
        bins.get("campaigns"),
        bins.get("until"),
        bins.get("totals", {}),
    )
