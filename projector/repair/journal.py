"""Journal: what repairs were about to do and what they did, in rows that are only ever added."""

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple

import msgspec

from projector.errors import Refused
from projector.patience import Patience, patiently
from projector.store import Outcome, Presence, Put, Read, Row, RowKey, Store, Write

SET = "projector"
CHANGES_BYTES_MAX = 128 << 10
"""Of the changes in one row."""
ROWS_PER_CALL = 64
"""After so many numbers that are not there, none is looked for: a store that forgot may have left a gap."""
_TYPES: Mapping[str, type] = {
    "repair": int,
    "run": int,
    "phase": str,
    "final": int,
    "nonce": int,
    "generation": int,
    "who": str,
    "when": int,
    "reason": str,
    "changes": list,
}


class Phase(Enum):
    """What a row tells."""

    INTENT = "intent"  # what is about to be done
    OUTCOME = "outcome"  # what was done


_PHASES = {phase.value for phase in Phase}


class Run(NamedTuple):
    """One repair. `when`: ms since 1970, by the clock of who did it."""

    run: int
    generation: int
    who: str
    when: int
    reason: str


class Entry(NamedTuple):
    """One row: a part of what a repair was about to do, or did; `final`: the last part of its phase."""

    number: int
    run: Run
    phase: Phase
    final: bool
    when: int
    changes: Sequence[Mapping[str, Any]]


class Told(NamedTuple):
    """A repair as the journal tells it. Not `ended`: killed, or running; the intents say what it may have done."""

    run: Run
    ended: bool
    ended_when: int
    intents: Sequence[Mapping[str, Any]]
    outcomes: Sequence[Mapping[str, Any]]


def new_run(generation: int, who: str, when: int, reason: str) -> Run:
    """A repair that begins now."""
    return Run(secrets.randbelow(1 << 62) + 1, generation, who, when, reason)


def add(
    store: Store,
    run: Run,
    phase: Phase,
    changes: Iterable[Mapping[str, Any]],
    when: int,
    patience: Patience = patiently,
) -> None:
    """Add rows with these changes under the next numbers; at least one. Values are text, whole numbers, lists, maps.

    Raises `Retryable`.
    """
    number = 1
    for part, final in _parts(changes):
        number = _add(store, Entry(_free(store, number, patience), run, phase, final, when, part), patience) + 1


def entries(store: Store, patience: Patience = patiently) -> Iterator[Entry]:
    """All rows in the order of their numbers. Raises `Refused` where one is damaged, and `Retryable`."""
    first = 1
    while True:
        numbers = range(first, first + ROWS_PER_CALL)
        reads = [Read(_key(number), tuple(_TYPES)) for number in numbers]
        rows = patience(lambda reads=reads: store.read(reads))  # type: ignore[misc]  # bound now
        if not any(rows):
            return
        for number, row in zip(numbers, rows, strict=True):
            if row is not None:
                yield _parsed(number, row)
        first += ROWS_PER_CALL


def history(store: Store, patience: Patience = patiently) -> list[Told]:
    """All repairs, oldest first. Raises as `entries`."""
    found: dict[int, list[Entry]] = {}
    for entry in entries(store, patience):
        found.setdefault(entry.run.run, []).append(entry)
    told = []
    for rows in found.values():
        outcomes = [entry for entry in rows if entry.phase is Phase.OUTCOME]
        ended = any(entry.final for entry in outcomes)
        told.append(
            Told(
                rows[0].run,
                ended,
                max(entry.when for entry in rows) if ended else 0,
                [change for entry in rows if entry.phase is Phase.INTENT for change in entry.changes],
                [change for entry in outcomes for change in entry.changes],
            )
        )
    return sorted(told, key=lambda each: each.run.when)


def _parts(changes: Iterable[Mapping[str, Any]]) -> Iterator[tuple[list[Mapping[str, Any]], bool]]:
    """In pieces that fit into a row each, and whether it is the last one."""
    part: list[Mapping[str, Any]] = []
    held = 0
    for change in changes:
        size = len(msgspec.msgpack.encode(change))
        if part and held + size > CHANGES_BYTES_MAX:
            yield part, False
            part, held = [], 0
        part.append(change)
        held += size
    yield part, True


def _free(store: Store, number: int, patience: Patience) -> int:
    """The first number from `number` on that is not taken."""
    while True:
        reads = [Read(_key(each), ("repair",)) for each in range(number, number + ROWS_PER_CALL)]
        rows = patience(lambda reads=reads: store.read(reads))  # type: ignore[misc]  # bound now
        if None in rows:
            return number + rows.index(None)
        number += ROWS_PER_CALL


def _add(store: Store, entry: Entry, patience: Patience) -> int:
    """Create-only; where another row has the number by now, the next one."""
    nonce = secrets.randbelow(1 << 62) + 1
    number = entry.number
    while True:
        bins: dict[str, Any] = {
            "repair": number,
            "run": entry.run.run,
            "phase": entry.phase.value,
            "final": int(entry.final),
            "nonce": nonce,
            "generation": entry.run.generation,
            "who": entry.run.who,
            "when": entry.when,
            "reason": entry.run.reason,
            "changes": [dict(change) for change in entry.changes],
        }
        operations = [Put(name, value) for name, value in bins.items()]
        (answer,) = patience.write(store, [Write(_key(number), operations, Presence.ABSENT)])
        if answer.outcome is Outcome.APPLIED:
            return number
        if answer.outcome is Outcome.TOO_BIG:
            raise Refused("a row of the history does not fit into the store: shorten the reason, raise max-record-size")
        (row,) = patience(lambda: store.read([Read(_key(number), ("nonce",))]))  # noqa: B023  # called now
        if row is not None and row.bins.get("nonce") == nonce:
            return number
        number += 1


def _key(number: int) -> RowKey:
    return RowKey(SET, f"repair/{number}")


def _parsed(number: int, row: Row) -> Entry:
    bins = row.bins
    fits = all(isinstance(bins.get(name), expected) for name, expected in _TYPES.items())
    if not fits or bins["phase"] not in _PHASES:
        raise Refused(f"row repair/{number} (set {SET}) is damaged: restore it from a backup")
    run = Run(bins["run"], bins["generation"], bins["who"], bins["when"], bins["reason"])
    return Entry(number, run, Phase(bins["phase"]), bool(bins["final"]), bins["when"], bins["changes"])
