"""What a place that images come from has to offer, whatever its protocol."""

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
        key: Its name below what the URI names; it may hold anything.
        location: What the source itself finds it by.
        size: Bytes.
        etag: What changes when its content does; an MD5 where it looks like one.
    """

    key: str
    location: str
    size: int
    etag: str


class Source(Protocol):
    """A place that objects come from, opened from a URI and a number of parallel connections."""

    def objects(self) -> Iterator[RemoteObject]:
        """Yield every object as the listing arrives, always in the same order.

        Raises:
            CtbasisError: The place does not exist, cannot be reached or refuses.
        """
        ...

    def download(self, entry: RemoteObject, target: Path) -> bool:
        """Write the content of `entry` to the new file `target`.

        Returns:
            Whether the content was checked, not only its size.

        Raises:
            TransientError: It may work when tried again.
            CtbasisError: It will not.
            OSError: `target` cannot be written.
        """
        ...
