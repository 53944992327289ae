"""Paths inside a document, and what lies there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

Document: TypeAlias = Mapping[str, Any]
"""A YAML document as plain data."""

Places: TypeAlias = Iterator[tuple[str, Any]]
"""Values with their paths."""

Faults: TypeAlias = Iterator[tuple[str, str, str]]
"""Faults before their file is known: path, message, remedy."""


def at(where: str, *keys: Any) -> str:
    """Return the path of `keys` below `where`; a key with dots of its own goes into brackets."""
    for key in keys:
        if isinstance(key, int) or re.search(r"[./\s]", str(key)):
            where = f"{where}[{key}]"
        else:
            where = f"{where}.{key}" if where else str(key)
    return where


def look_up(value: Any, path: str) -> Any:
    """Return what lies at a path of mappings, None where it leads nowhere."""
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def children(value: Any) -> Iterable[tuple[Any, Any]]:
    """Return (key, value) of what a mapping holds, (index, value) of a list, and nothing of anything else."""
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def select(value: Any, path: str, where: str = "") -> Places:
    """Yield what lies at a path below `value`, which is at `where`; `*` in the path is every key or index."""
    key, _, rest = path.partition(".")
    for name, item in children(value):
        if key in (name, "*"):
            yield from select(item, rest, at(where, name)) if rest else [(at(where, name), item)]


def walk(value: Any, where: str = "") -> Places:
    """Yield `value` itself, which is at `where`, and all that it holds, however deep."""
    yield where, value
    for key, item in children(value):
        yield from walk(item, at(where, key))
