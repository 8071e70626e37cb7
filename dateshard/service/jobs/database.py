"""The service's database: SQLite in WAL mode, written by the server and by the process of each job.

What is committed outlives a killed process. The log of events is append-only, and its ids rise in the order of commits.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from dateshard.shardstore.errors import DamagedError, Where

FILE = "service.sqlite"
VERSION = 1
WAIT_SECONDS = 20.0  # for another process's write
SCHEMA = """
CREATE TABLE jobs(
    id TEXT PRIMARY KEY, name TEXT NOT NULL, body TEXT NOT NULL, settings TEXT NOT NULL, save_dir TEXT,
    state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', created REAL NOT NULL, queued REAL NOT NULL, ended REAL,
    attempt INTEGER NOT NULL DEFAULT 0, pid INTEGER, pid_started INTEGER, boot TEXT);
CREATE INDEX jobs_by_state ON jobs(state, queued);
CREATE TABLE events(
    id INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL, type TEXT NOT NULL, at REAL NOT NULL, data TEXT NOT NULL);
CREATE INDEX events_of_job ON events(job, id);
CREATE INDEX events_of_type ON events(job, type, id);
CREATE TABLE tokens(id TEXT PRIMARY KEY, hash BLOB NOT NULL, scope TEXT NOT NULL, name TEXT NOT NULL, created REAL NOT NULL);
CREATE TABLE idempotency(key TEXT PRIMARY KEY, hash BLOB NOT NULL, job TEXT NOT NULL, created REAL NOT NULL);
"""


def _make(path: Path) -> None:
    """Makes the file, for its user alone, where there is none; SQLite's files beside it take its mode over.

    A file that is there is not opened: closing it would let go of the locks that SQLite holds on it in this process.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


class Database:
    """One connection, which the threads of a process share.

    Args:
        folder: the service's folder; made, for its user alone, if it is missing.

    Raises:
        DamagedError: the file is no database of this version.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = folder / FILE
        self._lock = threading.RLock()
        _make(self.path)
        self._connection = sqlite3.connect(
            self.path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        self._connection.row_factory = sqlite3.Row
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            if isinstance(error, sqlite3.OperationalError):
                raise
            raise DamagedError(
                f"is no database ({error})", where=Where(file=str(self.path)), todo="Move it away; runs are not in it"
            ) from None

    def _prepare(self) -> None:
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")
        with self.writing():
            version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                what = f"was written by a newer version of dateshard (format {version})"
                raise DamagedError(what, where=Where(file=str(self.path)), todo="Start that version")
            if version < VERSION:
                for statement in SCHEMA.split(";\n"):
                    self._connection.execute(statement)
                self._connection.execute(f"PRAGMA user_version={VERSION}")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """One transaction that writes: all of it is committed, or nothing."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """One transaction that reads: what it sees is of one moment."""
        with self._lock:
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("COMMIT")

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """Runs one statement and returns its rows."""
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def changed(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Runs one statement and returns how many rows it changed."""
        with self._lock:
            return self._connection.execute(sql, values).rowcount

    def version(self) -> int:
        """A number that changes with every commit of another connection."""
        return int(self.rows("PRAGMA data_version")[0][0])

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            self._connection.close()
