"""Reading and writing rows of an array in a folder as whole chunks with checksums, without zarr's event loop.

zarr passes each chunk to an event loop in another thread and copies it four times: 0.3 us per row of 300 int16 values,
and twice that if threads wait for one another, which is not small compared with the matrix products of a pass over A. A
chunk with the codecs `bytes` and `crc32c` is simply a file of the values and a four-byte CRC-32C (zarr 3, codecs bytes
and crc32c). This module reads and writes such files directly. Arrays with other codecs, and chunks that are missing or
damaged, are left to zarr, which also raises the errors.
"""

from __future__ import annotations

import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from zarr.codecs import BytesCodec, Crc32cCodec
from zarr.storage import LocalStore

if TYPE_CHECKING:
    import zarr
    from numpy.typing import NDArray

CHECKSUM_BYTES = 4
"""Size in bytes of the CRC-32C at the end of a chunk, little-endian."""

MATRIX_NDIM = 2
"""Number of dimensions of the arrays that this module handles."""


def read_rows(array: zarr.Array[Any], rows: slice) -> NDArray[Any]:
    """Return array[rows] of a two-dimensional array, (rows, all columns), in the array's dtype.

    Raises:
        ValueError: A chunk is damaged: its size or its checksum is wrong.
    """
    values = _read_direct(array, rows)
    return np.asarray(array[rows]) if values is None else values


def write_rows(array: zarr.Array[Any], rows: slice, values: NDArray[Any]) -> None:
    """Write `values`, (rows, all columns), to array[rows], converted to the array's dtype.

    Raises:
        OSError: The folder cannot be written; an incomplete file is removed.
    """
    values = np.ascontiguousarray(values, array.dtype)
    folder, chunks = _folder(array), _chunk_rows(array, rows)
    if folder is None or chunks is None or values.shape != array.chunks or values.shape[1] != array.shape[1]:
        array[rows] = values
        return
    path = folder / array.metadata.encode_chunk_key((chunks.start, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{uuid.uuid4().hex}.partial")
    try:
        with temporary.open("wb") as file:
            file.write(values.data)
            file.write(int(google_crc32c.value(values)).to_bytes(CHECKSUM_BYTES, "little"))
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _read_direct(array: zarr.Array[Any], rows: slice) -> NDArray[Any] | None:
    """Return array[rows] from the chunks' files, or None if another store or codec, or a bad chunk, prevents it."""
    folder = _folder(array)
    if folder is None or (chunks := _chunk_rows(array, rows)) is None:
        return None
    height, width = array.chunks
    cols = array.shape[1]
    size = height * width * array.dtype.itemsize
    raw = np.empty(size + CHECKSUM_BYTES, np.uint8)
    whole = width == cols and len(chunks) == 1
    out = None if whole else np.empty((rows.stop - rows.start, cols), array.dtype)
    for index in chunks:
        for group in range(-(-cols // width)):
            if not _read_checked(folder / array.metadata.encode_chunk_key((index, group)), raw):
                return None
            values = raw[:size].view(array.dtype).reshape(height, width)
            first = index * height - rows.start
            if out is None:
                return values[: rows.stop - rows.start]
            target, columns = out[first : first + height], slice(group * width, min((group + 1) * width, cols))
            target[:, columns] = values[: len(target), : columns.stop - columns.start]
    return out


def _read_checked(path: Path, raw: NDArray[np.uint8]) -> bool:
    """Read a chunk's file into `raw`; return whether it exists, has the right size and a matching checksum."""
    try:
        with path.open("rb", buffering=0) as file:
            if file.readinto(raw.data) != raw.size or file.read(1):
                return False
    except FileNotFoundError:
        return False
    checksum = int.from_bytes(raw[-CHECKSUM_BYTES:].tobytes(), "little")
    return int(google_crc32c.value(raw[:-CHECKSUM_BYTES])) == checksum


def _chunk_rows(array: zarr.Array[Any], rows: slice) -> range | None:
    """Return the indices of the chunks that `rows` covers, or None if it does not cover whole chunks."""
    height = array.chunks[0]
    if rows.start is None or rows.stop is None or rows.start % height:
        return None
    if rows.stop % height and rows.stop != array.shape[0]:
        return None
    return range(rows.start // height, -(-rows.stop // height))


def _folder(array: zarr.Array[Any]) -> Path | None:
    """Return the folder of the chunks' files, or None if the array has another store, codec or number of dimensions."""
    store = array.store
    direct = tuple(getattr(array.metadata, "codecs", ())) == (BytesCodec(endian="little"), Crc32cCodec())
    if array.ndim != MATRIX_NDIM or not direct or sys.byteorder != "little" or not isinstance(store, LocalStore):
        return None
    return Path(store.root, array.path)
