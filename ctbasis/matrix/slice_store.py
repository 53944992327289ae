"""The parts that matrix stores and factor stores have in common: `aside`, headers, image size and series.

See ctbasis/matrix/store.py for the layout of these arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from ctbasis.errors import CtbasisError
from ctbasis.storage import stores
from ctbasis.storage.chunks import read_rows
from ctbasis.storage.voxels import absent, holds_absent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray


@dataclass(frozen=True)
class Series:
    """The columns of A that hold one DICOM series.

    Attributes:
        SeriesInstanceUID: SeriesInstanceUID of the source images.
        first: Index of the first column.
        count: Number of columns (slices), which are ordered along the slice normal.
        spacing: Distance between neighbouring slices along the normal in mm; 0 for a single slice.
        pixel_spacing: Distance between rows and between columns in mm (PixelSpacing).
    """

    SeriesInstanceUID: str
    first: int
    count: int
    spacing: float = 0.0
    pixel_spacing: tuple[float, float] = (1.0, 1.0)

    @property
    def columns(self) -> slice:
        """The columns as a slice object."""
        return slice(self.first, self.first + self.count)


class SliceArrays:
    """The parts that matrix stores and factor stores have in common: `aside`, headers, image size and series.

    Attributes:
        uri: URI of the store.
        image: Rows and Columns of the slices.
        series: The series in the order of their columns.

    Args:
        group: The zarr group of a complete store.
        uri: URI of the store.
    """

    step = ""
    """Name of the step that writes the store, for error messages."""

    def __init__(self, group: zarr.Group, uri: str) -> None:
        attributes: dict[str, Any] = dict(group.attrs)
        self.uri = uri
        self._group = group
        self._aside = array_of(group, "aside")
        self._last_headers = (-1, b"")
        self.image: tuple[int, int] = (attributes["image"][0], attributes["image"][1])
        self.series = [
            Series(**{**entry, "pixel_spacing": tuple(entry["pixel_spacing"])}) for entry in attributes["series"]
        ]

    @property
    def rows(self) -> int:
        """m, the number of voxels per slice."""
        return int(self._aside.shape[0])

    @property
    def cols(self) -> int:
        """n, the total number of slices."""
        return int(self._aside.shape[1])

    @property
    def block_rows(self) -> int:
        """Rows per block; the last block may have fewer."""
        return int(self._aside.chunks[0])

    @property
    def column_groups(self) -> list[slice]:
        """The columns in groups that share chunks, to be processed one group at a time to bound memory."""
        width = int(self._aside.chunks[1])
        return [slice(first, min(first + width, self.cols)) for first in range(0, self.cols, width)]

    @property
    def block_count(self) -> int:
        """Number of row blocks."""
        return -(-self.rows // self.block_rows)

    def block(self, index: int) -> slice:
        """Return the rows of block `index` as a slice object."""
        start = index * self.block_rows
        return slice(start, min(start + self.block_rows, self.rows))

    def _read(self, array: zarr.Array[Any], rows: slice, columns: slice) -> NDArray[Any]:
        """Read from an array that never contains `absent`, and raise an error if a chunk is missing or damaged."""
        location = f"{array.basename} of {self.uri}, rows {rows.start or 0} to {rows.stop or self.rows}"
        remedy = f"run the {self.step} step again"
        try:
            values = read_rows(array, rows) if columns == slice(None) else np.asarray(array[rows, columns])
        except ValueError as error:
            raise CtbasisError(
                f"{location}: a chunk does not decode ({error})",
                expected=f"chunks as the {self.step} step wrote them",
                cause="a file or object of the store was corrupted or truncated",
                remedy=remedy,
            ) from error
        if holds_absent(values):
            raise CtbasisError(
                f"{location}: values are missing",
                expected="every chunk present",
                cause=f"a chunk was deleted after the {self.step} step had written it",
                remedy=remedy,
            )
        return values

    def read_aside(self, columns: slice) -> NDArray[Any]:
        """Return the original HU of the voxels that A does not hold, (m, columns); `absent` elsewhere."""
        return np.asarray(self._aside[:, columns])

    def header(self, column: int) -> bytes:
        """Return the header of a slice: a DICOM file (Part 10) without PixelData."""
        start, end = (int(offset) for offset in self._header_offsets[column : column + 2])
        size = int(self._headers.chunks[0])
        first, last = start // size, max(start, end - 1) // size
        joined = b"".join(self._header_chunk(index) for index in range(first, last + 1))
        return joined[start - first * size : end - first * size]

    @cached_property
    def _headers(self) -> zarr.Array[Any]:
        return array_of(self._group, "headers")

    @cached_property
    def _header_offsets(self) -> NDArray[np.int64]:
        return np.asarray(array_of(self._group, "header_offsets")[:])

    def _header_chunk(self, index: int) -> bytes:
        """Return a chunk of headers. The last chunk is cached, as it holds hundreds of headers, read in turn."""
        number, content = self._last_headers
        if number != index:
            size = int(self._headers.chunks[0])
            content = np.asarray(self._headers[index * size : (index + 1) * size]).tobytes()
            self._last_headers = index, content
        return content


def create_aside(group: zarr.Group, shape: tuple[int, int], chunks: tuple[int, int], dtype: DTypeLike) -> None:
    """Create the array `aside` in `group`, with the shape (m, n), the chunks and the dtype of A.

    The array is nearly constant, so it is compressed. LZ4 with bit shuffling takes a third of the time of Zstandard and
    yields twice the size, which is small in both cases.
    """
    codecs = [BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle"), Crc32cCodec()]
    create_array(group, "aside", shape, chunks, dtype, codecs)


def create_array(
    group: zarr.Group, name: str, shape: tuple[int, int], chunks: tuple[int, int], dtype: DTypeLike, codecs: list[Any]
) -> None:
    """Create an array of `shape` in `group`, with `absent` as its fill value."""
    group.create_array(
        name, shape=shape, chunks=chunks, dtype=np.dtype(dtype), fill_value=absent(dtype), compressors=codecs
    )


def write_headers(group: zarr.Group, headers: Sequence[bytes]) -> None:
    """Write the headers, one per column, concatenated, and their offsets."""
    offsets = np.concatenate([[0], np.cumsum([len(header) for header in headers])]).astype(np.int64)
    joined = np.frombuffer(b"".join(headers), np.uint8)
    group.create_array("header_offsets", data=offsets)
    group.create_array("headers", data=joined, chunks=(max(1, min(len(joined), 1 << 22)),))


def array_of(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """Return the array `name` of `group`.

    Raises:
        CtbasisError: It is a group instead.
    """
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise CtbasisError(
            f"{name} of the store is not an array",
            expected="a store that ctbasis wrote",
            cause="another program wrote the store",
            remedy="run the step that writes the store again",
        )
    return array


def open_complete(uri: str, what: str) -> zarr.Group:
    """Open the zarr group of a complete store for reading.

    Args:
        uri: URI of the store.
        what: What the store holds, for error messages: matrix, basis.

    Raises:
        CtbasisError: There is no group at `uri`, or its writer did not finish.
    """
    try:
        group = stores.open_group(uri, mode="r")
    except (FileNotFoundError, OSError) as error:
        raise CtbasisError(
            f"no {what} at {uri}",
            expected="a zarr 3 group that ctbasis wrote",
            cause="the path is misspelt, or the step that writes it has not run",
            remedy="check the path",
        ) from error
    if group.attrs.get("complete") is not True:
        raise CtbasisError(
            f"the {what} at {uri} is not complete",
            expected="attribute complete: true, which is written last",
            cause="the step that writes it was interrupted",
            remedy="run that step again; it starts over",
        )
    return group
