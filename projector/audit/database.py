"""The database of an audit: DuckDB on a file, so that what does not fit into memory is spilled."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from projector.errors import Misconfigured

THREADS_MAX = 4
"""Each has buffers of its own, and the topic is parsed by one alone."""


def open_database(directory: Path, memory_mib: int) -> duckdb.DuckDBPyConnection:
    """A new database in `directory`, which must be empty, and spills there; `memory_mib` bounds its own memory.

    Raises `Misconfigured` where the directory cannot be written.
    """
    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": f"{memory_mib}MiB",
        "temp_directory": str(directory / "spilled"),
        "threads": min(THREADS_MAX, os.cpu_count() or 1),
        "preserve_insertion_order": False,
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    with translated():
        database = duckdb.connect(directory / "audit.duckdb", config=settings)
        # It takes longer than the rest of an insert. Among the settings above it would be ignored.
        database.execute("SET GLOBAL disabled_compression_methods = 'dict_fsst'")
        return database


@contextmanager
def translated() -> Iterator[None]:
    """What DuckDB raises comes out as `Misconfigured`, with the way out; never as the exit code of a difference."""
    try:
        yield
    except duckdb.InterruptException as error:
        raise KeyboardInterrupt from error
    except duckdb.OutOfMemoryException as error:
        raise Misconfigured(
            f"the comparison does not fit: {error}: give it more memory (--memory), or more disk (TMPDIR)"
        ) from error
    except duckdb.IOException as error:
        raise Misconfigured(
            f"the audit's database cannot be written: {error}: set TMPDIR to a disk with room"
        ) from error
    except duckdb.Error as error:
        raise Misconfigured(f"the audit's database does not answer: {error}") from error
