"""Paths inside a YAML document, and the values at them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

Document: TypeAlias = Mapping[str, Any]
"""A YAML document as plain data."""

Places: TypeAlias = Iterator[tuple[str, Any]]
"""Paths and the values at them."""

Faults: TypeAlias = Iterator[tuple[str, str, str]]
"""Faults without their file: path, message, remedy."""


def join_path(where: str, *keys: Any) -> str:
    """Return the path of nested keys below a path.

    An index, or a key that contains a dot, a slash or white space, is written in brackets.

    >>> join_path("spec.containers", 0, "image")
    'spec.containers[0].image'
    """
    for key in keys:
        if isinstance(key, int) or re.search(r"[./\s]", str(key)):
            where = f"{where}[{key}]"
        else:
            where = f"{where}.{key}" if where else str(key)
    return where


def look_up(value: Any, path: str) -> Any:
    """Return the value at a path of nested mappings, or None if there is none."""
    for key in path.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return value


def children(value: Any) -> Iterable[tuple[Any, Any]]:
    """Return the (key, value) pairs of a mapping or the (index, value) pairs of a list; nothing for other values."""
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, list) else ()


def select(value: Any, path: str, where: str = "") -> Places:
    """Yield the values at a path below `value`, with their paths.

    Args:
        value: The value to search.
        path: Keys separated by dots; `*` stands for every key or index.
        where: The path of `value`.
    """
    key, _, rest = path.partition(".")
    for name, item in children(value):
        if key in (name, "*"):
            place = join_path(where, name)
            yield from select(item, rest, place) if rest else [(place, item)]


def walk(value: Any, where: str = "") -> Places:
    """Yield a value and all values nested in it, with their paths.

    Args:
        value: The value.
        where: Its path.
    """
    yield where, value
    for key, item in children(value):
        yield from walk(item, join_path(where, key))
