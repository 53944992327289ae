"""Receiving the content of an object: never more than was listed, and compared with size and digest at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctbasis.errors import TransientError
from ctbasis.sources.disk_space import require_space
from ctbasis.sources.etag import Digest, Verdict

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from ctbasis.sources.source import RemoteObject

READ_BYTES = 1 << 20
"""Bytes per read from the network."""

MAX_UNSTATED_BYTES = (4 << 30) + (64 << 20)
"""Bytes of an object whose size the source does not state, at most: DICOM limits uncompressed pixel data to 4 GiB."""


def receive(content: Iterable[bytes], entry: RemoteObject, target: Path, *, has_digest: bool = True) -> bool:
    """Write the content of an object to the new file `target`, and compare its size and digest with the listing.

    Args:
        content: The content in pieces, as they arrive.
        entry: The object.
        target: The file.
        has_digest: Whether an ETag in the form of a digest is one of the content.

    Returns:
        Whether the content was checked against a digest, not only its size.

    Raises:
        TransientError: Size or content differs from the listing.
        CtbasisError: The volume has no room for the object.
        OSError: `target` cannot be written.
    """
    if entry.size is not None:
        require_space(entry.size, target.parent, f"{entry.key!r}")
    limit = MAX_UNSTATED_BYTES if entry.size is None else entry.size
    digest = Digest(entry.etag, entry.size)
    received = 0
    with target.open("wb") as file:
        for data in content:
            received += len(data)
            if received > limit:
                raise TransientError(
                    "it has more bytes than the listing states; the content differs"
                    if entry.size is not None
                    else f"it has more than {limit:,} bytes, the size of the largest DICOM file"
                )
            digest.update(data)
            file.write(data)
    verdict = digest.verdict()
    if not has_digest:
        if entry.size not in {None, received}:
            raise TransientError("the size differs from the listing")
        return False
    if verdict is Verdict.DIFFERS:
        raise TransientError("the size or the content differs from the listing")
    return verdict is Verdict.MATCHES


def require_range(data: bytes, start: int, stop: int, entry: RemoteObject) -> bytes:
    """Return the content of the range [start, stop) of an object, after a check of its length.

    Raises:
        TransientError: The range is shorter or longer than the object and the range allow.
    """
    end = stop if entry.size is None else min(stop, entry.size)
    expected = max(0, end - start)
    if len(data) != expected and (entry.size is not None or len(data) > expected):
        raise TransientError("a range of it has another length than was asked for")
    return data
