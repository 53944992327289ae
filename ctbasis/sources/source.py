"""The interface of a source: listing and downloading objects, whatever the protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class RemoteObject:
    """One object of a source.

    Attributes:
        key: Name relative to the URI of the source; it may contain any characters.
        location: Identifies the object within the source.
        size: Size in bytes; None if the listing of the source states none, as DICOMweb's.
        etag: Changes whenever the content changes; a digest of the content if it has the form of one (see `Digest`).
    """

    key: str
    location: str
    size: int | None
    etag: str

    @property
    def marks_folder(self) -> bool:
        """Whether this is an empty object that a web console creates to show a folder."""
        return self.size == 0 and (not self.key or self.key.endswith("/"))


class Source(Protocol):
    """A source of objects, constructed from a URI and the number of parallel connections."""

    def objects(self) -> Iterator[RemoteObject]:
        """Yield every object as the listing arrives, always in the same order.

        Raises:
            CtbasisError: The source does not exist, cannot be reached or denies access.
        """
        ...

    def download(self, entry: RemoteObject, target: Path) -> bool:
        """Write the content of `entry` to the new file `target`.

        Returns:
            Whether the content was checked against a digest, not only its size.

        Raises:
            TransientError: The download failed, and another attempt may succeed.
            CtbasisError: The download failed, and another attempt would fail too.
            OSError: `target` cannot be written.
        """
        ...

    def read(self, entry: RemoteObject, start: int, stop: int) -> bytes:
        """Return the bytes from `start` to before `stop` of the content of `entry`; fewer at its end.

        No other byte of the object is transferred, as far as the protocol permits.

        Raises:
            TransientError: The read failed, and another attempt may succeed.
            CtbasisError: The read failed, and another attempt would fail too.
        """
        ...
