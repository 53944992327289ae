"""Lists of what was drawn into a volume, as JSON files beside it: nodules.json and inserts.json."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

Entry = TypeVar("Entry")


def write_list(path: Path, name: str, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write `{NAME: [{...}, ...]}`."""
    path.write_text(json.dumps({name: list(entries)}, indent=2) + "\n", encoding="utf-8")


def read_list(path: Path, name: str, parse: Callable[[Mapping[str, Any]], Entry], *, expected: str) -> list[Entry]:
    """Read a list that `write_list` wrote.

    Args:
        path: The file.
        name: What the list holds, in the plural.
        parse: Returns an entry; raises ValueError, KeyError or TypeError if it is none.
        expected: Form of the list, for the error.

    Raises:
        CtbasisError: The file does not exist, or holds no such list or an empty one.
    """
    try:
        entries = [parse(entry) for entry in json.loads(path.read_text(encoding="utf-8"))[name]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CtbasisError(
            f"{path} is no list of {name} ({type(error).__name__}: {error})", expected=expected
        ) from error
    if not entries:
        raise CtbasisError(f"{path} lists no {name.removesuffix('s')}", expected=expected)
    return entries
