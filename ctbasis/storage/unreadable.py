"""Errors of files and objects that exist, and that cannot be read or are not read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from pathlib import Path

MAX_OBJECT_BYTES = 1 << 32
"""Largest object in bytes that is read as a whole; a chunk and its checksum take less."""


class UnreadableError(CtbasisError):
    """A file or object of a store exists and cannot be read."""


def too_large(place: str, size: int, most: int) -> UnreadableError:
    """Return the error of a file or object that is larger than what a store has there."""
    return UnreadableError(
        f"{place} has {size:,} bytes",
        expected=f"at most {most:,} bytes",
        cause="the file or object was damaged, or is not that of a store of ctbasis",
        remedy="run the step again that writes the store",
    )


def unreadable(path: Path, why: str) -> UnreadableError:
    """Return the error of a file that the system does not read, for the reason `why`."""
    return UnreadableError(
        f"{path} cannot be read ({why})",
        expected="a file of a store that this user may read",
        cause="the file belongs to another user, was replaced by something else, or the disk fails",
        remedy="check the path and its permissions, or run the step again that writes the store",
    )
