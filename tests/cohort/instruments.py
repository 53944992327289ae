"""Instruments of the tests of inventories: a source that records what is read from it, and cheap copies of series."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ctbasis.sources.source import RemoteObject, Source


class Recorded:
    """A source that records the ranges which are read from it.

    Attributes:
        reads: Key, start and number of bytes of each read, in any order.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self.reads: list[tuple[str, int, int]] = []

    def objects(self) -> Iterator[RemoteObject]:
        return self._source.objects()

    def download(self, entry: RemoteObject, target: Path) -> bool:
        raise AssertionError(f"{entry.key} is downloaded as a whole, to {target}")

    def read(self, entry: RemoteObject, start: int, stop: int) -> bytes:
        content = self._source.read(entry, start, stop)
        self.reads.append((entry.key, start, len(content)))
        return content

    @property
    def bytes(self) -> int:
        """Bytes that were read."""
        return sum(count for _, _, count in self.reads)


def copies(template: Path, folder: Path, *, series: int, slices: int) -> None:
    """Write many series of many slices from one file, whose UIDs and position are replaced in its bytes.

    The template has the SeriesInstanceUID 2.25.1000000000, the SOPInstanceUID 2.25.2000000000, the StudyInstanceUID
    2.25.3000000000 and the position -1000.0.
    """
    content = template.read_bytes()
    for number in range(series):
        place = folder / f"{number:05d}"
        place.mkdir(parents=True)
        for z in range(slices):
            mine = content.replace(b"2.25.1000000000", b"2.25.1%09d" % number)
            mine = mine.replace(b"2.25.2000000000", b"2.25.2%09d" % (number * slices + z))
            mine = mine.replace(b"2.25.3000000000", b"2.25.3%09d" % number).replace(b"-1000.0", b"%07.1f" % (z - 500.0))
            (place / f"{z:05d}.dcm").write_bytes(mine)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a user's cache of the test's own."""
    place = tmp_path / f"cache-{uuid.uuid4().hex[:6]}"
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    return place
