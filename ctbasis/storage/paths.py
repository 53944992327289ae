"""Paths that a user names: made absolute, and refused early if nothing can be written there or an input is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Iterable


def absolute_path(place: str | Path) -> Path:
    """Return the absolute path of a file or folder, with links resolved so that one place has one name.

    Raises:
        CtbasisError: `place` is a text that no path can be, or a circle of links.
    """
    try:
        return Path(place).resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise CtbasisError(
            f"{str(place)[:100]} is no path ({type(error).__name__})",
            expected="a folder, a file or s3://bucket/prefix",
            cause="a NUL, a name that is too long, or a circle of symbolic links",
            remedy="correct the path",
        ) from None


def refuse_unwritable(path: Path, *, folder: bool) -> None:
    """Refuse a path at which no file or folder can be written, before hours of work for its content.

    Args:
        path: The file or folder to write; it and its parents need not exist.
        folder: Whether a folder is written.

    Raises:
        CtbasisError: There is a folder where a file is to be written or the reverse, a parent is a file, or this user
            may not write there.
    """
    kind, other = ("folder", "file") if folder else ("file", "folder")
    if path.exists() and (path.is_file() if folder else path.is_dir()):
        raise CtbasisError(f"{path} is a {other}", expected=f"the path of a {kind}", remedy="choose another path")
    existing = next(place for place in (path, *absolute_path(path).parents) if place.exists())
    if existing != path and not existing.is_dir():
        raise CtbasisError(
            f"{path} lies below the file {existing}", expected=f"a {kind} in a folder", remedy="choose another path"
        )
    if not os.access(existing, os.W_OK):
        raise CtbasisError(
            f"{existing} is write-protected", expected=f"a {kind} that can be written", remedy="choose another path"
        )


def refuse_overlap(out: Path, inputs: Iterable[str | Path]) -> None:
    """Refuse an output folder that holds an input, or lies in one, or is one.

    Args:
        out: Folder to write.
        inputs: Folders and files to read; URIs of other schemes than `file` are skipped.

    Raises:
        CtbasisError: `out` and an input overlap.
    """
    resolved = absolute_path(out)
    for given in inputs:
        text = str(given)
        if not text or ("://" in text and not text.startswith("file://")):
            continue
        place = absolute_path(text.removeprefix("file://"))
        if place == resolved or resolved in place.parents or place in resolved.parents:
            raise CtbasisError(
                f"the output folder {out} and the input {given} lie in each other",
                expected="an output folder outside every input, and every input outside the output folder",
                cause="the output folder is replaced as a whole, and what it holds would be lost",
                remedy="choose another output folder",
            )
