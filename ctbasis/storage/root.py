"""The root metadata of a store (`zarr.json`): kind, version, attributes, and the manifest of what the store holds.

The root of a complete store lists the checksum and the size of the metadata of each array and each inner store, and its
own checksum. The metadata of an array lists the checksums of its chunks. So the root vouches for every byte of a store.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ctbasis.errors import CtbasisError
from ctbasis.storage.array_layout import MAX_METADATA_BYTES, ROOT, crc32c, encode_json, parse_json
from ctbasis.storage.schemas import FORMAT, SCHEMAS, VERSION, StoreSchema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctbasis.storage.objects import Objects

COMPLETE = "complete"
"""Attribute that becomes true when everything else of the store is written."""

CONTENT = "manifest"
"""Attribute that lists `[size, CRC-32C]` of the metadata of each array and inner store by its name."""

CHECKSUM = "checksum"
"""Attribute with the CRC-32C of the root metadata without this attribute, as canonical JSON."""

OWN_ATTRIBUTES = ("format", "kind", "version", COMPLETE, CONTENT, CHECKSUM)
"""Attributes that belong to the store's layout; all others belong to its content."""


def encode_root(
    schema: StoreSchema, attributes: Mapping[str, Any], content: Mapping[str, Sequence[int]] | None
) -> bytes:
    """Return the root metadata of a store.

    Args:
        schema: Schema of the store.
        attributes: Attributes of the content.
        content: The manifest of a complete store; None for a store that is being written.
    """
    own: dict[str, Any] = {"format": FORMAT, "kind": schema.kind, "version": VERSION, COMPLETE: content is not None}
    if content is not None:
        own[CONTENT] = {name: list(entry) for name, entry in content.items()}
    # Attributes may hold tuples and integer keys, which JSON changes; the checksum must be that of what is read back.
    document = json.loads(json.dumps({"attributes": {**own, **attributes}, "zarr_format": 3, "node_type": "group"}))
    return encode_json(sign(document))


def sign(document: dict[str, Any]) -> dict[str, Any]:
    """Return root metadata with the attribute `checksum`, computed from everything else."""
    return {**document, "attributes": {**document["attributes"], CHECKSUM: _checksum(document)}}


def is_marked(content: bytes | None) -> bool:
    """Tell whether root metadata is that of a store of ctbasis, of this or a former version, complete or not."""
    attributes = _attributes(content)
    return attributes.get("format") == FORMAT or isinstance(attributes.get(COMPLETE), bool)


def read_root(objects: Objects, uri: str, schemas: Sequence[StoreSchema], *, complete: bool) -> dict[str, Any]:
    """Read and check the root metadata of a store; return its attributes.

    Args:
        objects: The objects of the store.
        uri: URI of the store, for error messages.
        schemas: The schemas that the store may have.
        complete: Whether the store must be complete.

    Raises:
        CtbasisError: There is no store, it is of another kind or version, its checksum is wrong, or it is not complete.
    """
    title = schemas[0].title
    content = objects.read(ROOT, most=MAX_METADATA_BYTES)
    if content is None:
        raise CtbasisError(
            f"no {title} at {uri}",
            expected="a store that ctbasis wrote",
            cause="the path is misspelt, or the step that writes it has not run",
            remedy="check the path",
        )
    attributes = _attributes(content)
    if not is_marked(content):
        raise CtbasisError(
            f"{uri} holds no store of ctbasis: {ROOT} is damaged, or another program wrote it",
            expected=f"a {title} that ctbasis wrote",
            cause="the path is misspelt, or the file was damaged",
            remedy=f"check the path, or {schemas[0].remedy}",
        )
    version = attributes.get("version", 1)
    if attributes.get("format") != FORMAT or version != VERSION:
        shown = version if type(version) is int else "unknown"
        raise CtbasisError(
            f"the {title} at {uri} is a store of version {shown}",
            expected=f"version {VERSION}, whose manifest proves that nothing is missing or exchanged",
            cause="another version of ctbasis wrote it",
            remedy=schemas[0].remedy,
        )
    if attributes.get(CHECKSUM) != _checksum(parse_json(content)):
        raise CtbasisError(
            f"{ROOT} of the {title} at {uri} fails its checksum",
            expected=f"the checksum {attributes.get(CHECKSUM)!s:.20}, which is stored in it",
            cause="the file was damaged or changed by another program",
            remedy=schemas[0].remedy,
        )
    kind = str(attributes.get("kind"))
    if kind not in {schema.kind for schema in schemas}:
        raise CtbasisError(
            f"the store at {uri} is a {SCHEMAS[kind].title} of kind {kind}"
            if kind in SCHEMAS
            else f"the store at {uri} is of an unknown kind",
            expected=f"a store of kind {' or '.join(schema.kind for schema in schemas)}",
            cause="the path names another store of a run",
            remedy="check the path",
        )
    if complete and attributes.get(COMPLETE) is not True:
        raise CtbasisError(
            f"the {title} at {uri} is not complete",
            expected="attribute complete: true, which is written last",
            cause="the step that writes it was interrupted",
            remedy="run that step again; it starts over",
        )
    return attributes


def _checksum(document: Mapping[str, Any]) -> str:
    attributes = {key: value for key, value in document["attributes"].items() if key != CHECKSUM}
    canonical = json.dumps({**document, "attributes": attributes}, sort_keys=True, separators=(",", ":"))
    return f"{crc32c(canonical.encode()):08x}"


def _attributes(content: bytes | None) -> dict[str, Any]:
    """Return the attributes of root metadata; empty if it is not the metadata of a zarr 3 group."""
    if content is None or len(content) > MAX_METADATA_BYTES:
        return {}
    try:
        document = parse_json(content)
    except ValueError:
        return {}
    attributes = document.get("attributes")
    if document.get("zarr_format") != 3 or document.get("node_type") != "group":  # noqa: PLR2004 - zarr's version
        return {}
    return attributes if isinstance(attributes, dict) else {}
