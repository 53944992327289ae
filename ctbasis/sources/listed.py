"""The source `objects:///path/list.json`: objects of another source that a file lists, such as those of one series.

A cohort writes such a file for each of its series, and the fetch step reads it like any source.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from ctbasis.errors import CtbasisError
from ctbasis.sources.source import RemoteObject

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ctbasis.sources.source import Source

SCHEME = "objects"


class ListedSource:
    """The objects of another source that a file lists, in the order of the file.

    Attributes:
        source: The other source, from which the objects are read.

    Args:
        uri: `objects:///path/list.json`, a file that `write_list` wrote.
        connections: Parallel downloads.
        open_source: Opens the other source from its URI and the number of connections.

    Raises:
        CtbasisError: The file cannot be read or is no such list, or the other source refuses its URI.
    """

    def __init__(self, uri: str, connections: int, open_source: Callable[[str, int], Source]) -> None:
        place, self._objects = read_list(uri)
        self.source = open_source(place, connections)

    def objects(self) -> Iterator[RemoteObject]:
        """Yield the objects of the list; whether they still exist is known when they are downloaded."""
        yield from self._objects

    def download(self, entry: RemoteObject, target: Path) -> bool:
        """Download from the other source; see `Source.download`."""
        return self.source.download(entry, target)

    def read(self, entry: RemoteObject, start: int, stop: int) -> bytes:
        """Read a range of bytes from the other source; see `Source.read`."""
        return self.source.read(entry, start, stop)


def read_list(uri: str) -> tuple[str, tuple[RemoteObject, ...]]:
    """Return the URI of the source and the objects of a list that `write_list` wrote.

    Args:
        uri: `objects:///path/list.json`.

    Raises:
        CtbasisError: The file cannot be read or is no such list, or names another list.
    """
    path = Path(unquote(uri.partition("://")[2]))
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        place = str(stored["source"])
        objects = tuple(_remote_object(entry) for entry in stored["objects"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CtbasisError(
            f"the list of objects at {path} cannot be read ({type(error).__name__})",
            expected="a file that a cohort wrote for one of its series",
            cause="the path is misspelt, or the file was changed",
            remedy="name the source itself, or run the cohort again",
        ) from None
    if place.lower().startswith(f"{SCHEME}://"):
        raise CtbasisError(f"the list of objects at {path} names another list", expected="a source of objects")
    return place, objects


def write_list(path: Path, source: str, objects: Iterable[RemoteObject]) -> str:
    """Write the list of `objects` of the source `source` to the file `path`, and return its URI.

    Args:
        path: The file, in a folder that exists.
        source: URI of the source that lists the objects.
        objects: The objects.

    Raises:
        OSError: The file system refuses to write.
    """
    content = {"source": source, "objects": [asdict(entry) for entry in objects]}
    path.write_text(json.dumps(content), encoding="utf-8")
    return f"{SCHEME}://{quote(str(path.resolve()))}"


def _remote_object(stored: dict[str, object]) -> RemoteObject:
    size = stored["size"]
    if size is not None and (type(size) is not int or size < 0):
        raise ValueError("size")
    return RemoteObject(str(stored["key"]), str(stored["location"]), size, str(stored["etag"]))
