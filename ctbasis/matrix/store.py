"""The matrix A (voxels x slices, HU) as a chunked zarr 3 store, and the only code that knows its layout.

Why zarr 3: an open, documented format whose chunks are plain files or objects, so that NumPy, Spark executors, Dask and
Ray read and write their own blocks in parallel and without a server, from a PVC or from S3 alike; each chunk carries a
checksum; metadata is JSON that a person can read.

    A               (m, n) int16 or float32   HU, clipped to at least AIR; row i of column j is voxel i of slice j
    aside           (m, n) like A             what a voxel's HU was where it is not what A holds (padding, below AIR)
    headers         (bytes,) uint8            every slice's DICOM data set without its pixels, one after the other
    header_offsets  (n + 1,) int64            where each begins
    attributes      complete, image (Rows, Columns), series ([{SeriesInstanceUID, first, count, ...}])

It lies in a folder or below `s3://bucket/prefix` (see ctbasis/storage/stores.py).

A chunk is a row block of A x a column group (`block_rows` x `column_chunk`, at most `COLUMN_CHUNK`): a row block is
what one task of any engine reads, and a column group is what a writer holds in memory at once, so both are bounded
whatever m and n are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from ctbasis.errors import CtbasisError
from ctbasis.storage import stores
from ctbasis.storage.chunks import read_rows, write_rows
from ctbasis.storage.voxels import absent, holds_absent

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Literal

    from numpy.typing import DTypeLike, NDArray

COLUMN_CHUNK = 128
"""Columns a chunk holds at most: a writer buffers this many slices (64 MiB of 512 x 512 int16)."""

GROUP_ELEMENTS = COLUMN_CHUNK * 512 * 512
"""Elements of a column group at most: larger images come in groups of fewer slices, to bound a writer's memory."""

BLOCK_ELEMENTS = 4 * 1024 * 1024
"""Elements of a row block over all columns: 32 MiB once an engine has made it float64."""


def block_rows_for(n: int) -> int:
    """Rows of a block for `n` columns: the power of two that keeps a block near `BLOCK_ELEMENTS`."""
    rows = max(1, BLOCK_ELEMENTS // max(1, n))
    return int(min(65536, max(256, 1 << (rows.bit_length() - 1))))


def column_chunk_for(n: int, m: int = 1) -> int:
    """Columns of a group for `n` columns of `m` voxels: all alike, for a chunk is stored at full size."""
    most = max(1, min(COLUMN_CHUNK, GROUP_ELEMENTS // m))
    groups = max(1, -(-n // most))
    return -(-n // groups)


@dataclass(frozen=True)
class Series:
    """The columns that one DICOM series takes in A.

    Attributes:
        SeriesInstanceUID: Of the source.
        first: Its first column.
        count: Its number of columns (slices), in order along the normal.
        spacing: mm between neighbouring slices along the normal, 0 for a single slice.
        pixel_spacing: mm between rows and between columns.
    """

    SeriesInstanceUID: str
    first: int
    count: int
    spacing: float = 0.0
    pixel_spacing: tuple[float, float] = (1.0, 1.0)

    @property
    def columns(self) -> slice:
        """Its columns of A as a slice."""
        return slice(self.first, self.first + self.count)


class SliceArrays:
    """What matrix and factor stores hold alike: voxels set aside, headers, image shape and series."""

    step = ""
    """The step that writes the store."""

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
        """m, the number of voxels of a slice."""
        return int(self._aside.shape[0])

    @property
    def cols(self) -> int:
        """n, the number of slices of all series."""
        return int(self._aside.shape[1])

    @property
    def block_rows(self) -> int:
        """Rows of every block but the last."""
        return int(self._aside.chunks[0])

    @property
    def column_groups(self) -> list[slice]:
        """Ranges of columns to go through one at a time: they share chunks, and are what fits into memory."""
        width = int(self._aside.chunks[1])
        return [slice(first, min(first + width, self.cols)) for first in range(0, self.cols, width)]

    @property
    def block_count(self) -> int:
        """Number of row blocks."""
        return -(-self.rows // self.block_rows)

    def block(self, index: int) -> slice:
        """Return the rows of block `index`."""
        start = index * self.block_rows
        return slice(start, min(start + self.block_rows, self.rows))

    def _read(self, array: zarr.Array[Any], rows: slice, columns: slice) -> NDArray[Any]:
        """Read from an array that never holds `absent` itself, so that a chunk that is gone is not taken for values."""
        where = f"{array.basename} of {self.uri}, rows {rows.start or 0} to {rows.stop or self.rows}"
        again = f"run the {self.step} step again"
        try:
            values = read_rows(array, rows) if columns == slice(None) else np.asarray(array[rows, columns])
        except ValueError as error:
            raise CtbasisError(
                f"{where}: a chunk does not decode ({error})",
                expected=f"chunks as the {self.step} step wrote them",
                cause="the storage corrupted or truncated a file or object",
                remedy=again,
            ) from error
        if holds_absent(values):
            raise CtbasisError(
                f"{where}: values are missing",
                expected="every chunk present",
                cause=f"a chunk was deleted after the {self.step} step had written it",
                remedy=again,
            )
        return values

    def read_aside(self, columns: slice) -> NDArray[Any]:
        """Return the HU set aside in `columns`, (m, columns), `absent` where a voxel is what A holds."""
        return np.asarray(self._aside[:, columns])

    def header(self, column: int) -> bytes:
        """Return slice `column`'s DICOM file (Part 10) without pixel data."""
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
        """Return a chunk of headers; the last is kept, for a chunk holds hundreds that are asked for one by one."""
        number, content = self._last_headers
        if number != index:
            size = int(self._headers.chunks[0])
            content = np.asarray(self._headers[index * size : (index + 1) * size]).tobytes()
            self._last_headers = index, content
        return content


class MatrixStore(SliceArrays):
    """A matrix that is complete, open for reading."""

    step = "matrix"

    def __init__(self, group: zarr.Group, uri: str) -> None:
        super().__init__(group, uri)
        self._A = array_of(group, "A")

    @classmethod
    def open(cls, uri: str) -> Self:
        """Open the matrix at `uri`.

        Raises:
            CtbasisError: There is none, or the step that wrote it did not finish.
        """
        return cls(open_complete(uri, "matrix"), uri)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype on disk: int16 where every HU is a whole number, else float32."""
        return np.dtype(self._A.dtype)

    def read_block(self, index: int, *, dtype: DTypeLike = np.float64) -> NDArray[Any]:
        """Return row block `index` of A, (block rows, n), HU.

        Raises:
            CtbasisError: A chunk is missing or its checksum does not hold.
        """
        return self._read(self._A, self.block(index), slice(None)).astype(dtype, copy=False)

    @property
    def chunks(self) -> tuple[int, int]:
        """Rows and columns of a chunk of A."""
        rows, columns = self._A.chunks
        return int(rows), int(columns)

    def read_rows(self, rows: slice, columns: slice) -> NDArray[Any]:
        """Return A[rows, columns], HU, in the dtype on disk; chunks that hold none of it are not read.

        Raises:
            CtbasisError: A chunk is missing or its checksum does not hold.
        """
        return self._read(self._A, rows, columns)

    def read_columns(self, columns: slice) -> NDArray[Any]:
        """Return `columns` of A, (m, columns), HU, in the dtype on disk.

        Raises:
            CtbasisError: A chunk is missing or its checksum does not hold.
        """
        return self._read(self._A, slice(None), columns)


class MatrixWriter:
    """A matrix in the making; any number of processes may write disjoint row blocks of a column group at once."""

    def __init__(self, uri: str, *, mode: Literal["r+", "w"] = "r+") -> None:
        self.uri = uri
        self._group = stores.open_group(uri, mode=mode)

    @classmethod
    def create(
        cls, uri: str, *, image: tuple[int, int], cols: int, dtype: DTypeLike, column_chunk: int | None = None
    ) -> Self:
        """Start a matrix of `image` (Rows, Columns) voxels by `cols` slices at `uri`, replacing what was there.

        Args:
            uri: Where it goes.
            image: Rows and Columns.
            cols: n.
            dtype: int16 or float32.
            column_chunk: Columns of a chunk; without it as many as bound what a writer of column groups holds.
        """
        writer = cls(uri, mode="w")
        writer._group.attrs.update({"complete": False, "image": [int(edge) for edge in image]})
        m = int(image[0]) * int(image[1])
        chunks = (min(block_rows_for(cols), m), column_chunk or column_chunk_for(cols, m))
        # A is noise and does not compress at a price worth paying.
        _create(writer._group, "A", (m, cols), chunks, dtype, [Crc32cCodec()])
        create_aside(writer._group, (m, cols), chunks, dtype)
        return writer

    @classmethod
    def like(cls, uri: str, matrix: MatrixStore, *, dtype: DTypeLike) -> Self:
        """Start a matrix at `uri` of the shape, the chunks and the columns of `matrix`; `finish_like` ends it."""
        writer = cls(uri, mode="w")
        writer._group.attrs.update({"complete": False, "image": list(matrix.image)})
        _create(writer._group, "A", (matrix.rows, matrix.cols), matrix.chunks, dtype, [Crc32cCodec()])
        return writer

    @cached_property
    def _arrays(self) -> tuple[zarr.Array[Any], zarr.Array[Any]]:
        """A and aside, opened once: a writer is asked for every block, and each opening reads metadata."""
        return array_of(self._group, "A"), array_of(self._group, "aside")

    @property
    def block_rows(self) -> int:
        """Rows of every block but the last."""
        return int(self._arrays[0].chunks[0])

    @property
    def column_chunk(self) -> int:
        """Columns of every column group but the last."""
        return int(self._arrays[0].chunks[1])

    def write(self, rows: slice, columns: slice, A: NDArray[Any], aside: NDArray[Any] | None) -> None:
        """Write whole chunks: `rows` is one or more row blocks, `columns` one column group (`column_chunk`).

        Args:
            rows: Row range of A, aligned to blocks.
            columns: Column range of A, one column group.
            A: HU, clipped to at least AIR, (rows, columns).
            aside: The HU before clipping where it differs from A or was padding, else `absent`, (rows, columns). None
                where that is nowhere: a chunk never written reads as `absent`.
        """
        whole, rest = self._arrays
        whole[rows, columns] = A
        if aside is not None:
            rest[rows, columns] = aside

    def finish(self, *, series: Sequence[Series], headers: Sequence[bytes]) -> None:
        """Write what belongs to the columns and declare the matrix complete; readers refuse it before."""
        write_headers(self._group, headers)
        self._group.attrs.update({"series": [vars(entry) for entry in series], "complete": True})

    def write_block(self, rows: slice, A: NDArray[Any]) -> None:
        """Write one row block of A over all columns, HU, (block rows, n)."""
        write_rows(self._whole, rows, A)

    @cached_property
    def _whole(self) -> zarr.Array[Any]:
        return array_of(self._group, "A")

    def finish_like(
        self, matrix: MatrixStore, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
    ) -> None:
        """Take over what was set aside of `matrix` and its headers, add what goes with it, and declare it complete."""
        stores.copy_arrays(matrix.uri, self.uri, ("aside", "headers", "header_offsets"))
        for name, values in arrays.items():
            self._group.create_array(name, data=np.ascontiguousarray(values))
        described: dict[str, Any] = {"series": [vars(entry) for entry in matrix.series], **attributes}
        self._group.attrs.update({**described, "complete": True})


def create_aside(group: zarr.Group, shape: tuple[int, int], chunks: tuple[int, int], dtype: DTypeLike) -> None:
    """Make the array `aside` in `group`: (m, n), in the chunks and the dtype of A.

    It is nearly constant and compresses; LZ4 on shuffled bits takes a third of the time of Zstandard for twice its
    size, which is small either way.
    """
    codecs = [BloscCodec(cname="lz4", clevel=1, shuffle="bitshuffle"), Crc32cCodec()]
    _create(group, "aside", shape, chunks, dtype, codecs)


def _create(
    group: zarr.Group, name: str, shape: tuple[int, int], chunks: tuple[int, int], dtype: DTypeLike, codecs: list[Any]
) -> None:
    group.create_array(
        name, shape=shape, chunks=chunks, dtype=np.dtype(dtype), fill_value=absent(dtype), compressors=codecs
    )


def write_headers(group: zarr.Group, headers: Sequence[bytes]) -> None:
    """Store one header a column, back to back."""
    offsets = np.concatenate([[0], np.cumsum([len(header) for header in headers])]).astype(np.int64)
    joined = np.frombuffer(b"".join(headers), np.uint8)
    group.create_array("header_offsets", data=offsets)
    group.create_array("headers", data=joined, chunks=(max(1, min(len(joined), 1 << 22)),))


def array_of(group: zarr.Group, name: str) -> zarr.Array[Any]:
    """Return the array `name` of `group`."""
    found = group[name]
    if not isinstance(found, zarr.Array):
        raise CtbasisError(f"{name} is not an array", expected="a store that ctbasis wrote")
    return found


def open_complete(uri: str, what: str) -> zarr.Group:
    """Open a zarr group for reading and refuse one that its writer did not finish.

    Raises:
        CtbasisError: There is no group at `uri`, or it is not complete.
    """
    try:
        group = stores.open_group(uri, mode="r")
    except (FileNotFoundError, OSError) as error:
        raise CtbasisError(
            f"no {what} at {uri}", expected="a zarr 3 group that ctbasis wrote", remedy="check where it is"
        ) from error
    if group.attrs.get("complete") is not True:
        raise CtbasisError(
            f"the {what} at {uri} is not complete",
            expected="attribute complete: true, which is written last",
            cause="the step that writes it was interrupted",
            remedy="run that step again; it starts over",
        )
    return group
