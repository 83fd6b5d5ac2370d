"""Migrate: the numbered files of `migrations/` are applied in order, each recorded in the store once it has settled.

A migration is a module `NNNN_name.py` with a docstring, `apply(log, store, config)`, idempotent, and perhaps
`holds(log, store, config)`, which says whether what it made is still there: if not, it is applied again.
"""

import importlib.util
import re
import time
from collections.abc import Callable, Iterator
from enum import Enum
from importlib.resources import as_file, files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple, TypeAlias

import projector
from projector.config import Config
from projector.errors import Misconfigured, Refused
from projector.log import Log
from projector.patience import patiently, write_patiently
from projector.pointer import read_pointer
from projector.settling import outlives, settle_seconds
from projector.store import Presence, Put, Read, RowKey, Store, Write

Apply: TypeAlias = Callable[[Log, Store, Config], None]
Holds: TypeAlias = Callable[[Log, Store, Config], bool]

_NAME = re.compile(r"(\d{4})_(\w+)\.py")
_ATTEMPTS = 10


class Migration(NamedTuple):
    """One numbered file."""

    number: str
    name: str
    title: str
    apply: Apply
    holds: Holds | None

    @property
    def row(self) -> RowKey:
        """The row that records it."""
        return RowKey("projector", f"migration/{self.number}")


class State(Enum):
    """Where a migration stands."""

    PENDING = "pending"
    APPLIED = "applied"
    GONE = "gone"  # recorded, but what it made is not there any more


class Standing(NamedTuple):
    """A migration, where it stands, and when it was recorded (ms since 1970, by the clock of who did it)."""

    migration: Migration
    state: State
    applied_ms: int | None


def migrations() -> list[Migration]:
    """All migrations of this installation, in their order. Raises `Misconfigured` if there are none."""
    found = sorted((file for file in _directory().iterdir() if _NAME.fullmatch(file.name)), key=lambda file: file.name)
    loaded = [_loaded(file) for file in found]
    if not loaded:
        raise Misconfigured("this installation has no migrations: install projector again")
    return loaded


def standings(log: Log, store: Store, config: Config) -> list[Standing]:
    """Where each migration stands; changes nothing. Raises `Misconfigured`, `Retryable`."""
    known = migrations()
    rows = patiently(lambda: store.read([Read(migration.row, ("applied-ms",)) for migration in known]))
    found: list[Standing] = []
    for migration, row in zip(known, rows, strict=True):
        holds = row is None or migration.holds is None or migration.holds(log, store, config)
        state = State.PENDING if row is None else State.APPLIED if holds else State.GONE
        found.append(Standing(migration, state, None if row is None else row.bins.get("applied-ms")))
    return found


def migrate(log: Log, store: Store, config: Config) -> Iterator[Migration]:
    """Apply what is pending or gone, in order; yields each migration once it is applied and recorded.

    Two may run at once: each may apply, one records. Raises `Misconfigured`, `Refused`, `Retryable`.
    """
    for standing in standings(log, store, config):
        if standing.state is not State.APPLIED:
            _apply(standing.migration, log, store, config)
            yield standing.migration
    if read_pointer(store, 0) is None:
        raise Refused(
            "the pointer row was created once and is gone: restore the store from its backup, "
            "or delete the row of its migration in set projector if there was never more than generation 1"
        )


def _apply(migration: Migration, log: Log, store: Store, config: Config) -> None:
    """Apply, wait until the store can no longer take it back, then record: a record never outlives what it records."""
    settle_s = patiently(lambda: settle_seconds(store, config.settle_ms, config.allow_volatile_store))
    for _ in range(_ATTEMPTS):
        before = patiently(store.state)
        patiently(lambda: migration.apply(log, store, config))
        if outlives(store, before, settle_s, time.sleep):
            break
    else:
        raise Refused(f"migration {migration.number}: the store keeps restarting: run projector migrate again later")
    operations = [
        Put("name", migration.name),
        Put("title", migration.title),
        Put("applied-ms", time.time_ns() // 1_000_000),
    ]
    write_patiently(store, [Write(migration.row, operations, Presence.ABSENT)])


def _directory() -> Traversable:
    """In the wheel `projector/migrations`; in a checkout beside `projector`."""
    packaged = files(projector) / "migrations"
    if packaged.is_dir():
        return packaged
    beside = Path(projector.__file__).parent.parent / "migrations"
    if beside.is_dir():
        return beside
    raise Misconfigured("this installation has no migrations: install projector again")


def _loaded(file: Traversable) -> Migration:
    match = _NAME.fullmatch(file.name)
    assert match is not None
    with as_file(file) as path:
        spec = importlib.util.spec_from_file_location(f"projector_migration_{match[1]}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    title = (module.__doc__ or match[2]).strip().splitlines()[0].removesuffix(".")
    return Migration(match[1], match[2], title, module.apply, getattr(module, "holds", None))
