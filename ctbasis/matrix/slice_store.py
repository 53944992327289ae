"""The parts that matrix stores and factor stores have in common: `aside`, headers, image size and series.

See ctbasis/matrix/store.py for the layout of these arrays.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.storage.voxels import holds_absent

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from ctbasis.storage.array_store import ArrayStore, StoreWriter
    from ctbasis.storage.stored_array import StoredArray

HEADER_CHUNK_BYTES = 1 << 22
"""Bytes of headers in a chunk, at most."""


@dataclass(frozen=True)
class Series:
    """The columns of A that hold one DICOM series.

    Attributes:
        SeriesInstanceUID: SeriesInstanceUID of the source images.
        first: Index of the first column.
        count: Number of columns (slices), which are ordered along the slice normal.
        spacing: Distance between neighbouring slices along the normal in mm; 0 for a single slice.
        pixel_spacing: Distance between rows and between columns in mm (PixelSpacing).
        breaks: Indices within the series, ascending, of the slices before which slices are missing.
        positions: Position of every slice along the normal, mm, ascending; empty if they are not known.
    """

    SeriesInstanceUID: str
    first: int
    count: int
    spacing: float = 0.0
    pixel_spacing: tuple[float, float] = (1.0, 1.0)
    breaks: tuple[int, ...] = ()
    positions: tuple[float, ...] = ()

    @classmethod
    def from_attributes(cls, entry: Mapping[str, Any]) -> Self:
        """Return the series from an attribute of a store, the `vars` of a series.

        Raises:
            TypeError, ValueError: An attribute is unknown, missing or no number.
        """
        known = cls(**entry)
        pixel_spacing, breaks, positions = tuple(known.pixel_spacing), tuple(known.breaks), tuple(known.positions)
        if not isinstance(known.SeriesInstanceUID, str):
            raise TypeError("a SeriesInstanceUID is no text")
        if not all(type(number) is int for number in (known.first, known.count, *breaks)):
            raise TypeError("a number of slices is no whole number")
        if [0, *breaks, known.count] != sorted({0, *breaks, known.count}):
            raise ValueError(f"breaks at {breaks} of {known.count} slices")
        if not all(math.isfinite(number) for number in (known.spacing, *pixel_spacing, *positions)):
            raise ValueError("a spacing or a position is not finite")
        if known.spacing < 0 or len(pixel_spacing) != 2 or min(pixel_spacing) <= 0:  # noqa: PLR2004 - rows and columns
            raise ValueError(f"the spacing is {known.spacing} and {pixel_spacing} mm")
        if len(positions) not in {0, known.count}:
            raise ValueError(f"there are {len(positions)} positions for {known.count} slices")
        return replace(known, pixel_spacing=pixel_spacing, breaks=breaks, positions=positions)

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
        store: A complete store.

    Raises:
        CtbasisError: An attribute does not fit the arrays.
    """

    def __init__(self, store: ArrayStore) -> None:
        attributes = store.attributes
        self.uri = store.uri
        self._store = store
        self._aside = store.array("aside")
        self._last_headers = (-1, b"")
        with checked_attributes(store):
            rows, columns = map(int, attributes["image"])
            self.image: tuple[int, int] = (rows, columns)
            self.series = [Series.from_attributes(entry) for entry in attributes["series"]]
            firsts = np.cumsum([0, *(entry.count for entry in self.series)]).tolist()
            if rows * columns != self.rows or min(rows, columns) < 1:
                raise ValueError(f"image is {rows} x {columns}, but a slice has {self.rows} voxels")
            if [*(entry.first for entry in self.series), self.cols] != firsts:
                raise ValueError(f"the series do not cover the {self.cols} columns")

    @property
    def rows(self) -> int:
        """m, the number of voxels per slice."""
        return self._aside.shape[0]

    @property
    def cols(self) -> int:
        """n, the total number of slices."""
        return self._aside.shape[1]

    @property
    def block_rows(self) -> int:
        """Rows per block; the last block may have fewer."""
        return self._aside.chunks[0]

    @property
    def column_groups(self) -> list[slice]:
        """The columns in groups that share chunks, to be processed one group at a time to bound memory."""
        width = self._aside.chunks[1]
        return [slice(first, min(first + width, self.cols)) for first in range(0, self.cols, width)]

    @property
    def block_count(self) -> int:
        """Number of row blocks."""
        return -(-self.rows // self.block_rows)

    def block(self, index: int) -> slice:
        """Return the rows of block `index` as a slice object."""
        start = index * self.block_rows
        return slice(start, min(start + self.block_rows, self.rows))

    def _read(self, array: StoredArray, rows: slice, columns: slice) -> NDArray[Any]:
        """Read from an array that never contains `absent`, and raise an error if it does; `read` refuses NaN itself."""
        values = array.read(rows, columns)
        if values.dtype.kind == "i" and holds_absent(values):
            raise CtbasisError(
                f"{array.name} of {self.uri}, rows {rows.start or 0} to {rows.stop or self.rows}: values are missing",
                expected="a value for every voxel",
                cause="another program wrote the store",
                remedy=self._store.schema.remedy,
            )
        return values

    def read_aside(self, columns: slice) -> NDArray[Any]:
        """Return the original HU of the voxels that A does not hold, (m, columns); `absent` elsewhere.

        Raises:
            CtbasisError: A chunk is missing, damaged or exchanged.
        """
        return self._aside.read(slice(None), columns)

    def header(self, column: int) -> bytes:
        """Return the header of a slice: a DICOM file (Part 10) without PixelData.

        Raises:
            CtbasisError: A chunk is missing, damaged or exchanged.
        """
        start, end = (int(offset) for offset in self._header_offsets[column : column + 2])
        size = self._headers.chunks[0]
        first, last = start // size, max(start, end - 1) // size
        joined = b"".join(self._header_chunk(index) for index in range(first, last + 1))
        return joined[start - first * size : end - first * size]

    @cached_property
    def _headers(self) -> StoredArray:
        return self._store.array("headers")

    @cached_property
    def _header_offsets(self) -> NDArray[np.int64]:
        """The first byte of each header and the end of the last one, checked to lie in order within the headers."""
        offsets = self._store.array("header_offsets").read()
        if offsets[0] != 0 or offsets[-1] != self._headers.shape[0] or (np.diff(offsets) < 0).any():
            raise CtbasisError(
                f"header_offsets of {self.uri} are not in order",
                expected=f"offsets that rise from 0 to {self._headers.shape[0]}, the bytes of all headers",
                cause="another program wrote the store",
                remedy=self._store.schema.remedy,
            )
        return offsets

    def _header_chunk(self, index: int) -> bytes:
        """Return a chunk of headers. The last chunk is cached, as it holds hundreds of headers, read in turn."""
        number, content = self._last_headers
        if number != index:
            size = self._headers.chunks[0]
            content = self._headers.read(slice(index * size, (index + 1) * size)).tobytes()
            self._last_headers = index, content
        return content


@contextmanager
def checked_attributes(store: ArrayStore) -> Iterator[None]:
    """Translate what fails while the attributes of a store are parsed.

    Raises:
        CtbasisError: An attribute is missing, has another type or an invalid value.
    """
    try:
        yield
    except (AttributeError, KeyError, IndexError, OverflowError, TypeError, ValueError) as error:
        raise CtbasisError(
            f"the attributes of the {store.schema.title} at {store.uri} are not valid: {error!r}",
            expected=f"the attributes of a store of kind {store.kind}",
            cause="another program wrote the store",
            remedy=store.schema.remedy,
        ) from None


def write_headers(writer: StoreWriter, headers: Sequence[bytes]) -> None:
    """Write the headers, one per column, concatenated, and their offsets."""
    offsets = np.concatenate([[0], np.cumsum([len(header) for header in headers])]).astype(np.int64)
    writer.put("header_offsets", offsets)
    writer.put("headers", np.frombuffer(b"".join(headers), np.uint8), chunks=(HEADER_CHUNK_BYTES,))
