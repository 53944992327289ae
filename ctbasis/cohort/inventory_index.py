"""The index file of an inventory: one row for each object of the source, in an SQLite database.

An inventory that is interrupted continues from its index, and one that is repeated reads only headers of objects that
are new or changed. The index keeps memory bounded: it holds the objects, whatever their number.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

from ctbasis.cohort.object_header import ObjectHeader
from ctbasis.cohort.series_row import SeriesRow
from ctbasis.errors import CtbasisError
from ctbasis.sources.source import RemoteObject

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

APPLICATION = 0x43544249
"""SQLite's application_id of an index: CTBI."""

VERSION = 1
"""Version of the tables, and of what is read from a header. An index of another version is made anew."""

LOCK_SECONDS = 2.0

TABLES = """
CREATE TABLE about (identity TEXT NOT NULL, generation INTEGER NOT NULL);
CREATE TABLE objects (
  id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, archive BLOB NOT NULL, location BLOB NOT NULL, size INTEGER,
  etag TEXT NOT NULL, generation INTEGER NOT NULL, patient TEXT NOT NULL DEFAULT '', study TEXT NOT NULL DEFAULT '',
  series TEXT NOT NULL DEFAULT '', slices INTEGER NOT NULL DEFAULT 0, header BLOB, row INTEGER
);
CREATE INDEX objects_by_archive ON objects (archive) WHERE archive != x'';
CREATE INDEX objects_by_series ON objects (series);
CREATE INDEX objects_by_row ON objects (row);
CREATE TABLE rows (
  id INTEGER PRIMARY KEY, digest TEXT NOT NULL, patient TEXT NOT NULL, study TEXT NOT NULL, series TEXT NOT NULL,
  document TEXT NOT NULL
);
CREATE INDEX rows_by_digest ON rows (digest);
"""


class InventoryIndex:
    """The index of one source. One process at a time has it open.

    Args:
        path: The file; it is created if it does not exist, readable by its owner alone.
        identity: Names the source and the de-identification. An index of another identity is refused.
        opaque: Whether results name objects by numbers, because keys may contain a patient's name.

    Raises:
        CtbasisError: The file is no index, of another source, in use, or cannot be written.
    """

    def __init__(self, path: Path, identity: str, *, opaque: bool = False) -> None:
        self._path = path
        self._opaque = opaque
        with self._explained():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._database = sqlite3.connect(path, timeout=LOCK_SECONDS, isolation_level=None)
        try:
            with self._explained():
                self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._database.execute("PRAGMA temp_store = MEMORY")
                self._database.execute("PRAGMA synchronous = NORMAL")
                self._database.execute("BEGIN EXCLUSIVE")
                self._prepare(identity)
                self._database.execute("COMMIT")
                # The single statements of a listing then wait for no disk.
                self._database.execute("PRAGMA journal_mode = WAL")
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def start(self) -> int:
        """Begin a listing and return its number. Objects that it does not name are deleted by `finish`."""
        with self.transaction():
            self._execute("UPDATE about SET generation = generation + 1")
        return int(self._execute("SELECT generation FROM about").fetchone()[0])

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write everything that the context writes, or nothing."""
        self._execute("BEGIN")
        try:
            yield
        except BaseException:
            self._execute("ROLLBACK")
            raise
        self._execute("COMMIT")

    def is_known(self, entry: RemoteObject, generation: int) -> bool:
        """Return whether the index has the header of an object, or the members of an archive; note that it is listed.

        An object that has another size or ETag than before is not known.
        """
        found = self._execute(
            "UPDATE objects SET generation = ?, location = ? WHERE key = ? AND size IS ? AND etag = ? RETURNING header",
            (generation, _packed(entry.location), _packed(entry.key), entry.size, entry.etag),
        ).fetchone()
        if found is not None and found[0] is None:
            self._execute("UPDATE objects SET generation = ? WHERE archive = ?", (generation, _packed(entry.key)))
        return found is not None

    def add(self, entry: RemoteObject, header: ObjectHeader | None, generation: int, archive: str = "") -> None:
        """Write an object with its header, in place of an earlier one of its key.

        Args:
            entry: The object.
            header: Its header; None for an archive, whose members are objects of their own.
            generation: Number of the listing.
            archive: Key of the archive of which the object is a member; empty for none.
        """
        attributes = {} if header is None else header.attributes
        uid = header.slices[0].SeriesInstanceUID if header is not None and header.slices else ""
        self._execute(
            "INSERT OR REPLACE INTO objects (key, archive, location, size, etag, generation, patient, study, series, "
            "slices, header) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *(_packed(entry.key), _packed(archive), _packed(entry.location), entry.size, entry.etag, generation),
                *(_text(attributes.get(name, "")) for name in ("patient", "study")),
                _text(uid or attributes.get("series", "")),
                0 if header is None else len(header.slices),
                None if header is None else header.pack(),
            ),
        )

    def finish(self, generation: int) -> None:
        """Delete the objects that the listing `generation` did not name."""
        self._execute("DELETE FROM objects WHERE generation != ?", (generation,))

    def count(self) -> int:
        """Return the number of objects, archives not counted."""
        return int(self._execute("SELECT COUNT(*) FROM objects WHERE header IS NOT NULL").fetchone()[0])

    def series(self) -> Iterator[tuple[str, str, str, int]]:
        """Yield patient, study, SeriesInstanceUID and number of slices of each series, by patient and study."""
        yield from self._select(
            "SELECT MIN(patient) AS p, MIN(study) AS s, series, SUM(slices) FROM objects "
            "WHERE header IS NOT NULL AND series != '' GROUP BY series ORDER BY p, s, series"
        )

    def headers(self, series: str) -> Iterator[tuple[int, RemoteObject, ObjectHeader]]:
        """Yield number, object and header of each object with a SeriesInstanceUID; "" for objects of no series.

        Raises:
            CtbasisError: The index is damaged.
        """
        found = self._select(
            "SELECT key, location, size, etag, id, header FROM objects WHERE series = ? AND header IS NOT NULL "
            "ORDER BY key",
            (series,),
        )
        for *stored, number, header in found:
            entry = _object(stored)
            try:
                unpacked = ObjectHeader.unpack(header, name_of(number) if self._opaque else entry.key)
            except Exception as error:  # noqa: BLE001 - another program may have written anything
                raise self._damaged(type(error).__name__) from None
            yield number, entry, unpacked

    def forget_rows(self) -> None:
        """Delete all rows."""
        self._execute("DELETE FROM rows")

    def add_row(self, row: SeriesRow, objects: Iterable[int]) -> None:
        """Write a row and the numbers of its objects."""
        cursor = self._execute(
            "INSERT INTO rows (digest, patient, study, series, document) VALUES (?, ?, ?, ?, ?)",
            (row.digest, *(_text(value) for value in (row.patient, row.study, row.series)), json.dumps(row.to_json())),
        )
        number = cursor.lastrowid
        with self._explained():
            self._database.executemany("UPDATE objects SET row = ? WHERE id = ?", ((number, one) for one in objects))

    def rows(self) -> Iterator[SeriesRow]:
        """Yield the rows by patient, study and series.

        Raises:
            CtbasisError: The index is damaged.
        """
        for (document,) in self._select("SELECT document FROM rows ORDER BY patient, study, series, id"):
            try:
                parsed = json.loads(document)
            except ValueError:
                raise self._damaged("a row is no JSON") from None
            yield SeriesRow.from_json(parsed)

    def objects_of(self, row: SeriesRow) -> Iterator[RemoteObject]:
        """Yield the objects of the source that hold a series, in the order of their keys; an archive is one object."""
        found = self._select(
            "SELECT DISTINCT o.key, o.location, o.size, o.etag FROM objects o JOIN ("
            "  SELECT CASE WHEN archive != x'' THEN archive ELSE key END AS name FROM objects"
            "  WHERE row = (SELECT id FROM rows WHERE digest = ?)"
            ") ON o.key = name ORDER BY o.key",
            (row.digest,),
        )
        yield from map(_object, found)

    def _prepare(self, identity: str) -> None:
        """Create the tables; refuse a database of another program or source."""
        application = self._execute("PRAGMA application_id").fetchone()[0]
        version = self._execute("PRAGMA user_version").fetchone()[0]
        names = [name for (name,) in self._execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        if names and application != APPLICATION:
            raise self._refusal("is a database of another program")
        if names and version == VERSION:
            stored = self._execute("SELECT identity FROM about").fetchone()
            if stored is None or stored[0] != identity:
                raise self._refusal("is the index of another source, or of another de-identification")
            return
        for name in names:
            self._execute(f'DROP TABLE "{name}"')  # the names are those of our own tables
        for statement in TABLES.split(";"):
            self._execute(statement)
        self._execute("INSERT INTO about VALUES (?, 0)", (identity,))
        self._execute(f"PRAGMA application_id = {APPLICATION}")
        self._execute(f"PRAGMA user_version = {VERSION}")

    def _select(self, statement: str, values: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        cursor = self._execute(statement, values)
        while True:
            with self._explained():
                found = cursor.fetchone()
            if found is None:
                return
            yield found

    def _execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        with self._explained():
            return self._database.execute(statement, values)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of SQLite and of the file system into errors for the user."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if getattr(error, "sqlite_errorcode", 0) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
                raise CtbasisError(
                    f"the index {self._path} is in use",
                    expected="one inventory of a source at a time",
                    cause="another ctbasis makes an inventory of this source",
                    remedy="wait for it, or name another index file",
                ) from None
            raise self._not_writable(str(error)) from None
        except sqlite3.DatabaseError as error:
            raise self._damaged(type(error).__name__) from None
        except OSError as error:
            raise self._not_writable(error.strerror or type(error).__name__) from None

    def _refusal(self, found: str) -> CtbasisError:
        return CtbasisError(
            f"{self._path} {found}",
            expected="a file that does not exist yet, or the index of an earlier inventory of this source",
            cause="the file is misnamed, or the salt of the pseudonyms has changed",
            remedy="name another index file",
        )

    def _damaged(self, reason: str) -> CtbasisError:
        return CtbasisError(
            f"{self._path} is no index of an inventory, or is damaged ({reason})",
            expected="a file that an earlier inventory wrote",
            cause="another program wrote it, or the disk was full",
            remedy="delete it, or name another index file; the inventory is then made anew",
        )

    def _not_writable(self, reason: str) -> CtbasisError:
        return CtbasisError(
            f"the index {self._path} cannot be written: {reason}",
            expected="a writable file with room for about 1 KiB per object",
            cause="the disk is full, or the folder is read-only",
            remedy="free space, or name another index file",
        )


def name_of(number: int) -> str:
    """Return the name of an object that stands for its key."""
    return f"object-{number:06d}"


def content_digest(objects: Iterable[RemoteObject]) -> str:
    """Return a SHA-256 of the keys, sizes and ETags of objects, in any order."""
    lines = sorted(json.dumps([entry.key, entry.size, entry.etag]) for entry in objects)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _object(stored: Iterable[Any]) -> RemoteObject:
    key, location, size, etag = stored
    return RemoteObject(_unpacked(key), _unpacked(location), size, etag)


def _packed(text: str) -> bytes:
    # File names may hold bytes that are no UTF-8, which Python represents by lone surrogates.
    return text.encode("utf-8", "surrogatepass")


def _unpacked(stored: bytes) -> str:
    return stored.decode("utf-8", "surrogatepass")


def _text(value: object) -> str:
    return str(value).encode("utf-8", "replace").decode()
