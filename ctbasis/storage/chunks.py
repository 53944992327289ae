"""Rows of an array in a folder, read and written as whole chunks with their checksums, past zarr's machinery.

zarr hands every chunk to an event loop in another thread and copies it four times on its way: 0.3 us a row of 300
int16, and twice that where threads wait for one another, which beside the products of a pass over A is not little. A
chunk whose codecs are `bytes` and `crc32c` is a file of its values and four bytes of CRC-32C (zarr 3, codecs bytes and
crc32c), and needs none of it. What is not of that kind, or does not check out, is zarr's, and so are its errors.
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

CHECKSUM = 4
"""Bytes of the CRC-32C at the end of a chunk, little-endian."""

MATRIX = 2
"""Dimensions of an array that is read by rows."""


def read_rows(array: zarr.Array[Any], rows: slice) -> NDArray[Any]:
    """Return array[rows] of a two-dimensional array, all columns.

    Raises:
        ValueError: A chunk is damaged.
    """
    values = _read_plain(array, rows)
    return np.asarray(array[rows]) if values is None else values


def write_rows(array: zarr.Array[Any], rows: slice, values: NDArray[Any]) -> None:
    """Write array[rows], all columns, in the array's dtype."""
    values = np.ascontiguousarray(values, array.dtype)
    folder, chunks = _folder(array), _chunk_rows(array, rows)
    if folder is None or chunks is None or values.shape != array.chunks or values.shape[1] != array.shape[1]:
        array[rows] = values
        return
    path = folder / array.metadata.encode_chunk_key((chunks.start, 0))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{uuid.uuid4().hex}.partial")
    try:
        with part.open("wb") as file:
            file.write(values.data)
            file.write(int(google_crc32c.value(values)).to_bytes(CHECKSUM, "little"))
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _read_plain(array: zarr.Array[Any], rows: slice) -> NDArray[Any] | None:
    """Return array[rows] from the files of its chunks; None where that is not possible or one does not check out."""
    folder = _folder(array)
    if folder is None or (chunks := _chunk_rows(array, rows)) is None:
        return None
    height, width = array.chunks
    cols = array.shape[1]
    size = height * width * array.dtype.itemsize
    raw = np.empty(size + CHECKSUM, np.uint8)
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
            below, right = out[first : first + height], slice(group * width, min((group + 1) * width, cols))
            below[:, right] = values[: len(below), : right.stop - right.start]
    return out


def _read_checked(path: Path, raw: NDArray[np.uint8]) -> bool:
    """Read a chunk into `raw` and tell whether it is there, whole and of its checksum."""
    try:
        with path.open("rb", buffering=0) as file:
            if file.readinto(raw.data) != raw.size or file.read(1):
                return False
    except FileNotFoundError:
        return False
    checksum = int.from_bytes(raw[-CHECKSUM:].tobytes(), "little")
    return int(google_crc32c.value(raw[:-CHECKSUM])) == checksum


def _chunk_rows(array: zarr.Array[Any], rows: slice) -> range | None:
    """Return the chunks that `rows` are, None where they are not whole ones."""
    height = array.chunks[0]
    if rows.start is None or rows.stop is None or rows.start % height:
        return None
    if rows.stop % height and rows.stop != array.shape[0]:
        return None
    return range(rows.start // height, -(-rows.stop // height))


def _folder(array: zarr.Array[Any]) -> Path | None:
    """Return where the chunks of `array` are files of values and checksum, None where they are anything else."""
    store = array.store
    plain = tuple(getattr(array.metadata, "codecs", ())) == (BytesCodec(endian="little"), Crc32cCodec())
    if array.ndim != MATRIX or not plain or sys.byteorder != "little" or not isinstance(store, LocalStore):
        return None
    return Path(store.root, array.path)
