"""The wire format of ML Metadata's messages: protobuf in gRPC-Web frames.

The encoding is written out from the published .proto files, independently of the client under test, so that a wrong
field number in the client makes a test fail.
"""

from __future__ import annotations

import io
import json
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def framed(message: bytes, status: int = 0) -> bytes:
    """Return a gRPC-Web response: the frame of the message and the frame of the trailer."""
    trailer = f"grpc-status:{status}\r\n".encode() + (b"grpc-message:not%20implemented\r\n" if status else b"")
    data = b"" if status else b"\0" + len(message).to_bytes(4, "big") + message
    return data + b"\x80" + len(trailer).to_bytes(4, "big") + trailer


def varint(value: int) -> bytes:
    """Return an integer as a base-128 varint."""
    content = bytearray()
    while value > 0x7F:
        content.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*content, value])


def number(tag: int, value: int) -> bytes:
    """Return an integer field."""
    return varint(tag << 3) + varint(value)


def field_of(tag: int, content: bytes) -> bytes:
    """Return a field of bytes, a string or a message."""
    return varint(tag << 3 | 2) + varint(len(content)) + content


def decode(content: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the (tag, value) pairs of a message whose fields are integers and bytes."""
    stream = io.BytesIO(content)

    def read_varint() -> int:
        value = shift = 0
        while True:
            byte = stream.read(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7

    while stream.tell() < len(content):
        key = read_varint()
        if key & 7 not in {0, 2}:
            raise ValueError(f"unexpected wire type {key & 7}")
        yield key >> 3, read_varint() if key & 7 == 0 else stream.read(read_varint())


def encoded(identity: int, name: str, kind: str, uri: str, logged: dict[str, float | int | str]) -> bytes:
    """Return an `ml_metadata.Artifact` as the launcher of KFP 2.17 records it: all numbers are doubles."""

    def value(given: float | str) -> bytes:
        if isinstance(given, str):
            return field_of(3, given.encode())
        return varint(2 << 3 | 1) + struct.pack("<d", given)

    properties = {**logged, "display_name": name, "store_session_info": json.dumps({"Provider": "minio", "Params": {}})}
    entries = (field_of(1, key.encode()) + field_of(2, value(given)) for key, given in properties.items())
    return (
        number(1, identity)
        + number(2, 11)
        + field_of(3, uri.encode())
        + b"".join(field_of(5, entry) for entry in entries)
        + number(6, 2)
        + field_of(8, kind.encode())
        + number(9, 1795474210460)
    )
