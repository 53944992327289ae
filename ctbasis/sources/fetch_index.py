"""Index of a fetch: which file holds which object. One JSON line per object, in a file beside the fetched files."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ctbasis.sources.file_names import OWN_PREFIX
from ctbasis.storage.outputs import replaced_file

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

INDEX = f"{OWN_PREFIX}fetch.jsonl"

UNSAFE_NAME = re.compile(r"[\x00-\x1f\x7f\\]|[\ud800-\udfff]")
"""Characters that no name in an index has, because `FileNames` encodes them."""


@dataclass(frozen=True)
class Record:
    """A fetched file at the time of the fetch.

    Attributes:
        key: Key of the object.
        name: Path of the file relative to the destination.
        size: Size in bytes.
        etag: ETag in the listing of the source.
        mtime_ns: Modification time of the file in ns, to detect later changes.
        checked: Whether the content was checked against the ETag, not only its size.
    """

    key: str
    name: str
    size: int
    etag: str
    mtime_ns: int
    checked: bool


def _is_valid(record: Record, destination: Path) -> bool:
    """Tell whether a record is one that the fetch step writes.

    Its attributes have their types, and its name is one that `FileNames` could give: a file in the destination, not one
    above it, elsewhere, behind a symbolic link or of the fetch itself.
    """
    values: dict[str, Any] = vars(record)
    kinds = {"key": str, "name": str, "etag": str, "size": int, "mtime_ns": int, "checked": bool}
    if any(type(values[name]) is not kind for name, kind in kinds.items()) or UNSAFE_NAME.search(record.name):
        return False
    parts = record.name.split("/")
    if {"", ".", ".."} & set(parts) or any(part.startswith(OWN_PREFIX) for part in parts):
        return False
    return (destination / record.name).parent.resolve().is_relative_to(destination.resolve())


class FetchIndex:
    """The index of one destination.

    A line is added before its file gets its name, so that a later fetch recognizes every file that it may replace. If a
    key has several lines, the last one is valid.

    Attributes:
        exists: Whether the index file existed.
        records: The last record of each key.
        names: Names of all files, including files of objects that were removed from the source.

    Args:
        destination: The folder of the fetched files.
    """

    def __init__(self, destination: Path) -> None:
        self._path = destination / INDEX
        self._lock = threading.Lock()
        self.exists = self._path.exists()
        self.records: dict[str, Record] = {}
        self.names: set[str] = set()
        text = self._path.read_text(encoding="utf-8", errors="replace") if self.exists else ""
        # If the last line is incomplete, the next record starts on a new line.
        self._start = "" if not text or text.endswith("\n") else "\n"
        for line in text.splitlines():
            try:
                record = Record(**json.loads(line))
            except (ValueError, TypeError, RecursionError):
                # The fetch that wrote this line was killed while it wrote.
                continue
            if not _is_valid(record, destination):
                # Another program wrote this line. The object is fetched again; its file, if any, is not touched.
                continue
            self.records[record.key] = record
            self.names.add(record.name)

    def add(self, record: Record) -> None:
        """Append the record of a file, before the file gets its name."""
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(f"{self._start}{json.dumps(asdict(record))}\n")
            self._start = ""
            self.names.add(record.name)

    def rewrite(self, records: Iterable[Record]) -> None:
        """Replace all records by `records`."""
        with replaced_file(self._path) as temporary:
            lines = [f"{json.dumps(asdict(record))}\n" for record in records]
            temporary.write_text("".join(lines), encoding="utf-8")
