"""Which file holds which object: fetch's note beside the files, one JSON line an object, written as they arrive."""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from ctbasis.sources.names import OWN_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

INDEX = f"{OWN_PREFIX}fetch.jsonl"


@dataclass(frozen=True)
class Record:
    """A file as it was when it was fetched.

    Attributes:
        key: Of the object.
        name: Of the file, below the destination.
        size: Bytes.
        etag: As the source listed it.
        mtime_ns: Of the file, to notice that it was touched since.
        checked: Whether its content was checked, not its size alone.
    """

    key: str
    name: str
    size: int
    etag: str
    mtime_ns: int
    checked: bool


class Index:
    """The note of one destination.

    Lines are added before the file gets its name, so that nothing of ours is ever unknown to a later run, and the last
    line of a key holds.
    """

    def __init__(self, destination: Path) -> None:
        self._path = destination / INDEX
        self._lock = threading.Lock()
        self.exists = self._path.exists()
        self.records: dict[str, Record] = {}
        self.names: set[str] = set()
        text = self._path.read_text(encoding="utf-8") if self.exists else ""
        # The next line begins a new one even where the last one broke off.
        self._start = "" if not text or text.endswith("\n") else "\n"
        for line in text.splitlines():
            try:
                record = Record(**json.loads(line))
            except (ValueError, TypeError):
                # The run that wrote it was killed in the middle of a line.
                continue
            self.records[record.key] = record
            self.names.add(record.name)

    def add(self, record: Record) -> None:
        """Note a file that is about to get its name."""
        with self._lock, self._path.open("a", encoding="utf-8") as file:
            file.write(f"{self._start}{json.dumps(asdict(record))}\n")
            self._start = ""
            self.names.add(record.name)

    def rewrite(self, records: Iterable[Record]) -> None:
        """Replace the note by `records` alone."""
        fresh = self._path.with_suffix(".partial")
        with fresh.open("w", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(asdict(record))}\n" for record in records)
        fresh.replace(self._path)
