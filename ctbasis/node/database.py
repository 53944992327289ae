"""The database of a node: one SQLite file with a write-ahead log, in which every change of state is one transaction.

A transaction is on the disk when it returns (`synchronous=FULL`). So what a node has acknowledged to a sender survives
a killed process and a power failure, and what it had not finished is not there at all.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DATABASE = "node.db"
"""Name of the file, by which the folder of a node is known."""

APPLICATION = 0x4354424E
"""SQLite's application_id of a node's database: CTBN."""

VERSION = 1
"""Version of the tables."""

LOCK_SECONDS = 30.0
"""Seconds that a transaction waits for one of another process, such as a tool that looks at the database."""

TABLES = """
CREATE TABLE instances (
  sop TEXT PRIMARY KEY, sop_class TEXT NOT NULL, study TEXT NOT NULL, series TEXT NOT NULL, file TEXT NOT NULL,
  digest TEXT NOT NULL, size INTEGER NOT NULL, sender TEXT NOT NULL, received REAL NOT NULL,
  job INTEGER REFERENCES jobs (id)
) WITHOUT ROWID;
CREATE INDEX instances_by_series ON instances (series);
CREATE INDEX instances_by_study ON instances (study);
CREATE INDEX instances_without_job ON instances (study, received) WHERE job IS NULL;
CREATE TABLE jobs (
  id INTEGER PRIMARY KEY AUTOINCREMENT, study TEXT NOT NULL, series TEXT NOT NULL, instances INTEGER NOT NULL,
  state TEXT NOT NULL, stage TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL,
  ended REAL, record TEXT NOT NULL DEFAULT '{}'
);
CREATE INDEX jobs_by_state ON jobs (state);
CREATE TABLE deliveries (
  id INTEGER PRIMARY KEY AUTOINCREMENT, job INTEGER NOT NULL REFERENCES jobs (id), destination TEXT NOT NULL,
  sop TEXT NOT NULL, file TEXT NOT NULL, state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0,
  due REAL NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '', UNIQUE (destination, sop)
);
CREATE INDEX deliveries_by_state ON deliveries (destination, state, due);
CREATE TABLE commitments (
  id INTEGER PRIMARY KEY AUTOINCREMENT, transaction_uid TEXT NOT NULL, title TEXT NOT NULL, instances TEXT NOT NULL,
  state TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, due REAL NOT NULL DEFAULT 0, created REAL NOT NULL,
  UNIQUE (transaction_uid, title)
);
"""


class Database:
    """The database of one node. Threads share it; one transaction runs at a time.

    Args:
        path: The file; it is created if it does not exist, readable by its owner alone.

    Raises:
        CtbasisError: The file is no database of a node, of another version, damaged, or cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False
            )
            self._connection.row_factory = sqlite3.Row
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise CtbasisError(
                f"the node's database {path} cannot be opened ({error})",
                expected="a database that a node of this version made, on a disk with free space",
                cause="another program wrote the file, it is damaged, or the disk is full",
                remedy="name another --state folder; the instances that were received stay in the old one",
            ) from error

    def _prepare(self) -> None:
        (application,), (version,) = (
            self._connection.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
        )
        known = (application, version) == (APPLICATION, VERSION)
        if not known and (application or version or self._connection.execute("SELECT 1 FROM sqlite_master").fetchone()):
            raise sqlite3.DatabaseError("the tables are of another program or version")
        if known and self._connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("damaged")
        # The first statements that write.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._connection.execute(f"PRAGMA {pragma}")
        if not known:
            self._connection.executescript(
                f"BEGIN IMMEDIATE; {TABLES} PRAGMA application_id={APPLICATION}; PRAGMA user_version={VERSION}; COMMIT;"
            )

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Run the statements of the context as one transaction, which is on the disk when the context ends.

        Raises:
            sqlite3.Error: The disk is full or fails; nothing is changed then.
        """
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def rows(self, statement: str, *values: Any) -> list[sqlite3.Row]:
        """Return the rows that a query finds."""
        with self._lock:
            return self._connection.execute(statement, values).fetchall()

    def close(self) -> None:
        """Close the database; transactions that have returned are kept."""
        with self._lock:
            self._connection.close()
