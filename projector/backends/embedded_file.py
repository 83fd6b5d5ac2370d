"""The one SQLite file under both embedded backends: opening, transactions, errors.

Durable against kill -9 and power loss (WAL, `synchronous=FULL`); any number of processes may have it open.
"""

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from projector.errors import Fatal, InDoubt, Misconfigured, ProjectorError, Retryable

BUSY_MS = 5_000
APPLICATION_ID = 0x70726A31  # "prj1": tells our file from another program's, and this layout from a later one
SCHEMA = "CREATE TABLE IF NOT EXISTS file (incarnation TEXT NOT NULL)"


class EmbeddedFile:
    """A connection to the file at `path`, with the tables of `schema` created where missing.

    Not for use by two threads at once. Raises `Misconfigured` where the file cannot be opened or is not ours.
    """

    def __init__(self, path: Path, schema: str) -> None:
        self.path = path
        with self._translated():
            self._connection = sqlite3.connect(path, timeout=BUSY_MS / 1000, isolation_level=None)
        try:
            # Several processes may create one file at once, and the switch to WAL does not wait for the others.
            for attempt in Retrying(
                retry=retry_if_exception_type(Retryable), stop=stop_after_delay(10), wait=wait_fixed(0.02), reraise=True
            ):
                with attempt:
                    self._prepare(schema)
        except ProjectorError:
            self._connection.close()
            raise

    def _prepare(self, schema: str) -> None:
        with self._translated():
            db = self._connection
            (application_id,) = db.execute("PRAGMA application_id").fetchone()
            (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
            if application_id != APPLICATION_ID and tables:
                raise Misconfigured(f"{self.path} is a database of something else: name another file")
            (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
            if mode != "wal":
                raise Misconfigured(f"{self.path} is where SQLite cannot use WAL: name a file on a local disk")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA temp_store = MEMORY")
            db.execute("PRAGMA cache_size = -65536")  # KiB
            db.execute("PRAGMA wal_autocheckpoint = 4000")
        with self.writing():
            db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            for statement in (SCHEMA + ";" + schema).split(";"):
                db.execute(statement)
            db.execute(
                "INSERT INTO file SELECT ? WHERE NOT EXISTS (SELECT 1 FROM file)",
                (secrets.token_hex(8),),
            )

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees one state of the file. Raises `Retryable`."""
        with self._translated():
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            finally:
                self._connection.rollback()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that alone writes; committed and on the disk at the end, rolled back on any exception.

        Raises `Retryable` where nothing was written, `InDoubt` where the commit itself failed.
        """
        with self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            with ExitStack() as undo:
                undo.callback(self._connection.rollback)
                yield self._connection
                undo.pop_all()
        try:
            self._connection.execute("COMMIT")
        except sqlite3.OperationalError as error:
            self._connection.rollback()
            raise InDoubt(f"{self.path}: commit failed: {error}") from error

    def close(self) -> None:
        """Close the connection. Calling it again does nothing."""
        self._connection.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn SQLite's errors into ours; those of wrong calls (`ProgrammingError` and the like) pass."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM):
                raise Misconfigured(f"{self.path}: {error}: is its folder there, and may it be written?") from error
            if error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_ERROR:
                raise
            raise Retryable(f"{self.path}: {error}") from error
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code == sqlite3.SQLITE_NOTADB:
                raise Misconfigured(f"{self.path} is not a SQLite file: name another one") from error
            if code is not None and code & 0xFF == sqlite3.SQLITE_CORRUPT:
                raise Fatal(f"{self.path} is damaged ({error}): restore it from a backup") from error
            raise
