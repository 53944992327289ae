"""Changes to stored stores, as damage or a hostile writer makes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ctbasis.storage.array_layout import ROOT, encode_json
from ctbasis.storage.objects import open_objects
from ctbasis.storage.root import sign

if TYPE_CHECKING:
    from collections.abc import Callable


def edit_root(uri: str, **attributes: Any) -> None:
    """Change attributes of a store's root and make its checksum fit, as another program could."""
    objects = open_objects(uri)
    document = json.loads(objects.read(ROOT) or b"")
    document["attributes"].update(attributes)
    objects.write(ROOT, encode_json(sign(document)))


def edit_object(uri: str, key: str, edit: Callable[[bytes], bytes]) -> None:
    """Change the content of an object of a store."""
    objects = open_objects(uri)
    content = objects.read(key)
    assert content is not None, key
    objects.write(key, edit(content))


def flip_bit(content: bytes, bit: int) -> bytes:
    """Return `content` with one bit inverted."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)
