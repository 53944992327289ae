"""The layout of one stored array: dtype, shape, chunks and codecs, as zarr 3 metadata, and the manifest of its chunks.

The metadata is that of zarr 3 (https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html), so that any zarr
library reads the arrays. A chunk is the values in C order, little-endian, compressed or not, and a four-byte CRC-32C
(codecs bytes, blosc and crc32c). The attribute `manifest` of a complete array lists the checksums of all chunks.
"""

from __future__ import annotations

import itertools
import json
import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np

from ctbasis.storage.objects import CHECKSUM_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

ROOT = "zarr.json"
"""Name of the metadata of a group or array."""

MANIFEST = "manifest"
"""Attribute of an array that holds its `Manifest`."""

MAX_CHUNK_BYTES = 1 << 31
"""Largest chunk in bytes: the limit of Blosc."""

MAX_METADATA_BYTES = 1 << 26
"""Largest metadata file in bytes; a manifest takes eight bytes a chunk."""

DTYPES = ("uint8", "int16", "int64", "float32", "float64")
"""The dtypes of stored arrays."""

BLOSC_HEADER = struct.Struct("<4BIII")
"""Header of a Blosc buffer: versions, flags, type size, decoded size, block size, encoded size."""


def crc32c(content: bytes | NDArray[Any]) -> int:
    """Return the CRC-32C of bytes, or of the bytes of a contiguous array."""
    return int(google_crc32c.value(content))


def encode_json(document: Mapping[str, Any]) -> bytes:
    """Return metadata as indented JSON, the form in which it is stored."""
    return json.dumps(document, indent=1).encode()


@dataclass(frozen=True)
class Manifest:
    """Checksum and size of every chunk of an array, in C order of the chunk grid.

    Attributes:
        checksums: CRC-32C, (chunks,) uint32.
        sizes: Sizes in bytes, (chunks,) int64.
    """

    checksums: NDArray[np.uint32]
    sizes: NDArray[np.int64]


@dataclass(frozen=True)
class ArrayLayout:
    """Layout of an array.

    Attributes:
        dtype: Name of the dtype, one of DTYPES.
        shape: Sizes.
        chunks: Edges of a chunk.
        compressed: Whether chunks are compressed.
    """

    dtype: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    compressed: bool = False

    @property
    def fill_value(self) -> Any:
        """The value that zarr gives for a missing chunk, and that pads chunks at the edges: NaN or the lowest integer.

        Readers of ctbasis never see it, because they refuse a missing chunk.
        """
        kind = np.dtype(self.dtype)
        return float("nan") if kind.kind == "f" else int(np.iinfo(kind).min)

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of chunks along each dimension."""
        return tuple(-(-size // edge) for size, edge in zip(self.shape, self.chunks, strict=True))

    @property
    def chunk_bytes(self) -> int:
        """Bytes of the values of a chunk."""
        return math.prod(self.chunks) * np.dtype(self.dtype).itemsize

    @property
    def stored_bytes(self) -> int | None:
        """Bytes of a chunk with its checksum; None if chunks are compressed and have different sizes."""
        return None if self.compressed else self.chunk_bytes + CHECKSUM_BYTES

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Yield the index of every chunk in C order."""
        yield from itertools.product(*map(range, self.grid))

    def position(self, index: Sequence[int]) -> int:
        """Return the position of a chunk in C order."""
        position = 0
        for along, count in zip(index, self.grid, strict=True):
            position = position * count + along
        return position

    def metadata(self, manifest: Manifest | None = None) -> dict[str, Any]:
        """Return the zarr 3 metadata of the array."""
        itemsize = np.dtype(self.dtype).itemsize
        endian = {"configuration": {"endian": "little"}} if itemsize > 1 else {}
        blosc = {"typesize": itemsize, "cname": "lz4", "clevel": 1, "shuffle": "bitshuffle", "blocksize": 0}
        compressor = [{"name": "blosc", "configuration": blosc}] if self.compressed else []
        fill = self.fill_value
        return {
            "shape": list(self.shape),
            "data_type": self.dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(self.chunks)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": "NaN" if isinstance(fill, float) else fill,
            "codecs": [{"name": "bytes", **endian}, *compressor, {"name": "crc32c"}],
            "attributes": {} if manifest is None else {MANIFEST: self._encoded(manifest)},
            "zarr_format": 3,
            "node_type": "array",
            "storage_transformers": [],
        }

    def _encoded(self, manifest: Manifest) -> dict[str, Any]:
        encoded: dict[str, Any] = {"crc32c": manifest.checksums.astype(">u4").tobytes().hex()}
        # Chunks that are not compressed have one size, which the layout gives.
        return {**encoded, "sizes": manifest.sizes.tolist()} if self.compressed else encoded

    @classmethod
    def parse(cls, content: bytes, *, compressed: bool) -> tuple[ArrayLayout, Manifest | None]:
        """Return layout and manifest from the metadata of an array. Allocates no more than the metadata takes.

        Args:
            content: Content of the array's zarr.json.
            compressed: Whether its chunks must be compressed.

        Raises:
            ValueError: The metadata is not that of an array of ctbasis; the message says what differs.
        """
        document = parse_json(content)
        try:
            dtype = document["data_type"]
            shape = tuple(document["shape"])
            chunks = tuple(document["chunk_grid"]["configuration"]["chunk_shape"])
            attributes = dict(document["attributes"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("it lacks the shape, the chunks or the data type") from error
        if dtype not in DTYPES:
            raise ValueError("it has a data type that ctbasis does not write")
        if len(shape) != len(chunks) or not shape:
            raise ValueError("shape and chunks differ in the number of dimensions")
        if not all(type(size) is int and size >= 0 for size in shape) or not all(
            type(edge) is int and 1 <= edge <= max(1, size) for edge, size in zip(chunks, shape, strict=True)
        ):
            raise ValueError("a size is not a positive integer, or a chunk exceeds the array")
        layout = cls(dtype, shape, chunks, compressed)
        if layout.chunk_bytes > MAX_CHUNK_BYTES:
            raise ValueError(f"a chunk has {layout.chunk_bytes} bytes, more than {MAX_CHUNK_BYTES}")
        if document != {**layout.metadata(), "attributes": attributes}:
            raise ValueError("its codecs, its chunk keys or its fill value are not those that ctbasis writes")
        return layout, layout._parse_manifest(attributes)

    def _parse_manifest(self, attributes: Mapping[str, Any]) -> Manifest | None:
        if MANIFEST not in attributes:
            return None
        count = math.prod(self.grid)
        try:
            checksums = bytes.fromhex(attributes[MANIFEST]["crc32c"])
            sizes = attributes[MANIFEST]["sizes"] if self.compressed else None
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError("its manifest is not hexadecimal checksums, or lacks the sizes") from error
        if len(checksums) != count * CHECKSUM_BYTES or (sizes is not None and len(sizes) != count):
            raise ValueError(f"its manifest does not list its {count} chunks")
        if sizes is None:
            sizes = np.broadcast_to(np.int64(self.chunk_bytes + CHECKSUM_BYTES), (count,))
        elif not all(type(size) is int and CHECKSUM_BYTES < size <= 2 * MAX_CHUNK_BYTES for size in sizes):
            raise ValueError("its manifest lists a size that is no size of a chunk")
        return Manifest(np.frombuffer(checksums, ">u4").astype(np.uint32), np.asarray(sizes, np.int64))


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name that an object has twice: of its values, another reader may take the other one."""
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("a name occurs twice")
    return document


def parse_json(content: bytes) -> dict[str, Any]:
    """Return metadata from JSON.

    Raises:
        ValueError: It is not a JSON object.
    """
    try:
        document = json.loads(content, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:
        raise ValueError("it is not JSON") from error
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - callers translate ValueError
    return document


def compress(values: NDArray[Any]) -> bytes:
    """Return the bytes of `values` compressed as the codec of `ArrayLayout.metadata` says.

    LZ4 with bit shuffling takes a third of the time of Zstandard and yields twice the size, small in both cases.
    """
    from numcodecs.blosc import BITSHUFFLE, Blosc  # type: ignore[import-untyped]

    return bytes(Blosc("lz4", clevel=1, shuffle=BITSHUFFLE).encode(values))


def decompress(content: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """Return the `size` bytes that `compress` encoded.

    Raises:
        ValueError: The content is not a Blosc buffer of that size.
    """
    from numcodecs.blosc import decompress as blosc_decompress

    if content.size < BLOSC_HEADER.size:
        raise ValueError("it is shorter than the header of a compressed chunk")
    *_, decoded, _, encoded = BLOSC_HEADER.unpack(content[: BLOSC_HEADER.size].tobytes())
    if (decoded, encoded) != (size, content.size):
        raise ValueError(f"it decodes to {decoded} bytes from {encoded} instead of {size} from {content.size}")
    out = np.empty(size, np.uint8)
    try:
        blosc_decompress(content, out)
    except RuntimeError as error:
        raise ValueError("it does not decompress") from error
    return out
