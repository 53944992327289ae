"""The matrix A (voxels x slices, HU) as a chunked zarr 3 store. No other module knows the layout of the store.

zarr 3 is an open, documented format. Its chunks are plain files or objects, so NumPy, Spark executors, Dask and Ray can
read and write separate blocks in parallel without a server, on a PVC and on S3. Each chunk has a checksum, and the
metadata is readable JSON.

    A               (m, n) int16 or float32   HU, clipped to at least AIR; row i of column j is voxel i of slice j
    aside           (m, n) like A             the original HU of voxels that A does not hold (padding, HU below AIR)
    headers         (bytes,) uint8            the DICOM header of each slice (without PixelData), concatenated
    header_offsets  (n + 1,) int64            the first byte of each header
    attributes      complete, image (Rows, Columns), series ([{SeriesInstanceUID, first, count, ...}])

The store is in a folder or below `s3://bucket/prefix` (see ctbasis/storage/stores.py).

A chunk is the intersection of a row block and a column group of A (`block_rows` x `column_chunk`, at most
`COLUMN_CHUNK`). A task of any engine reads one row block, and a writer holds one column group in memory. Both have a
bounded size for any m and n.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from zarr.codecs import Crc32cCodec

from ctbasis.matrix.slice_store import SliceArrays, array_of, create_array, create_aside, open_complete, write_headers
from ctbasis.storage import stores
from ctbasis.storage.chunks import write_rows

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Literal

    import zarr
    from numpy.typing import DTypeLike, NDArray

    from ctbasis.matrix.slice_store import Series

COLUMN_CHUNK = 128
"""Maximum columns per chunk. A writer buffers this many slices: 64 MiB for int16 and 512 x 512 pixels."""

GROUP_ELEMENTS = COLUMN_CHUNK * 512 * 512
"""Maximum elements per column group. Larger images get fewer slices per group, which bounds a writer's memory."""

BLOCK_ELEMENTS = 4 * 1024 * 1024
"""Target elements of a row block over all columns: 32 MiB as float64, which engines compute in."""


def block_rows_for(n: int) -> int:
    """Return the rows per block for `n` columns: a power of two, 256 to 65536, for about `BLOCK_ELEMENTS` elements."""
    rows = max(1, BLOCK_ELEMENTS // max(1, n))
    return int(min(65536, max(256, 1 << (rows.bit_length() - 1))))


def column_chunk_for(n: int, m: int = 1) -> int:
    """Return the columns per group for `n` columns of `m` voxels: equal groups, as chunks are stored at full size."""
    max_columns = max(1, min(COLUMN_CHUNK, GROUP_ELEMENTS // m))
    groups = max(1, -(-n // max_columns))
    return -(-n // groups)


class MatrixStore(SliceArrays):
    """A complete matrix, opened for reading.

    Args:
        group: The zarr group of the store.
        uri: URI of the store.
    """

    step = "matrix"

    def __init__(self, group: zarr.Group, uri: str) -> None:
        super().__init__(group, uri)
        self._A = array_of(group, "A")

    @classmethod
    def open(cls, uri: str) -> Self:
        """Open the matrix at `uri`.

        Raises:
            CtbasisError: There is no matrix, or the step that wrote it did not finish.
        """
        return cls(open_complete(uri, "matrix"), uri)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored dtype: int16 if every HU is a whole number, else float32."""
        return np.dtype(self._A.dtype)

    def read_block(self, index: int, *, dtype: DTypeLike = np.float64) -> NDArray[Any]:
        """Return row block `index` of A, (block rows, n), HU.

        Raises:
            CtbasisError: A chunk is missing, or its checksum does not match.
        """
        return self._read(self._A, self.block(index), slice(None)).astype(dtype, copy=False)

    @property
    def chunks(self) -> tuple[int, int]:
        """Rows and columns per chunk of A."""
        rows, columns = self._A.chunks
        return int(rows), int(columns)

    def read_rows(self, rows: slice, columns: slice) -> NDArray[Any]:
        """Return A[rows, columns], HU, in the stored dtype. Only the chunks that overlap are read.

        Raises:
            CtbasisError: A chunk is missing, or its checksum does not match.
        """
        return self._read(self._A, rows, columns)

    def read_columns(self, columns: slice) -> NDArray[Any]:
        """Return `columns` of A, (m, columns), HU, in the stored dtype.

        Raises:
            CtbasisError: A chunk is missing, or its checksum does not match.
        """
        return self._read(self._A, slice(None), columns)


class MatrixWriter:
    """Writes a matrix. Any number of processes may write disjoint row blocks of a column group concurrently.

    Args:
        uri: URI of the store.
        mode: `r+` opens a store that another process created; `w` replaces what exists.

    Raises:
        CtbasisError: S3 denies access or does not answer.
        OSError: The folder cannot be written.
    """

    def __init__(self, uri: str, *, mode: Literal["r+", "w"] = "r+") -> None:
        self.uri = uri
        self._group = stores.open_group(uri, mode=mode)

    @classmethod
    def create(
        cls, uri: str, *, image: tuple[int, int], cols: int, dtype: DTypeLike, column_chunk: int | None = None
    ) -> Self:
        """Create an incomplete matrix at `uri` and replace what exists there.

        Args:
            uri: URI of the store.
            image: Rows and Columns of the slices.
            cols: n, the number of slices.
            dtype: int16 or float32.
            column_chunk: Columns per chunk; by default as many as a writer may hold in memory.

        Raises:
            CtbasisError: S3 denies access or does not answer.
            OSError: The folder cannot be written.
        """
        writer = cls(uri, mode="w")
        writer._group.attrs.update({"complete": False, "image": [int(edge) for edge in image]})
        m = int(image[0]) * int(image[1])
        chunks = (min(block_rows_for(cols), m), column_chunk or column_chunk_for(cols, m))
        # A is not compressed: its values are noisy, so compression would save little and cost time.
        create_array(writer._group, "A", (m, cols), chunks, dtype, [Crc32cCodec()])
        create_aside(writer._group, (m, cols), chunks, dtype)
        return writer

    @classmethod
    def like(cls, uri: str, matrix: MatrixStore, *, dtype: DTypeLike) -> Self:
        """Create a matrix at `uri` with the shape, chunks and columns of `matrix`; complete it with `finish_like`."""
        writer = cls(uri, mode="w")
        writer._group.attrs.update({"complete": False, "image": list(matrix.image)})
        create_array(writer._group, "A", (matrix.rows, matrix.cols), matrix.chunks, dtype, [Crc32cCodec()])
        return writer

    @cached_property
    def _arrays(self) -> tuple[zarr.Array[Any], zarr.Array[Any]]:
        """The arrays A and aside, opened once, because opening an array reads its metadata from the store."""
        return array_of(self._group, "A"), array_of(self._group, "aside")

    @property
    def block_rows(self) -> int:
        """Rows per block; the last block may have fewer."""
        return int(self._arrays[0].chunks[0])

    @property
    def column_chunk(self) -> int:
        """Columns per column group; the last group may have fewer."""
        return int(self._arrays[0].chunks[1])

    def write(self, rows: slice, columns: slice, A: NDArray[Any], aside: NDArray[Any] | None) -> None:
        """Write whole chunks of A and of `aside`.

        Args:
            rows: One or more whole row blocks.
            columns: One whole column group.
            A: HU, clipped to at least AIR, (rows, columns).
            aside: The original HU of voxels that were clipped or are padding, else `absent`, (rows, columns). None if
                there are no such voxels, because a chunk that is not written reads as `absent`.
        """
        A_array, aside_array = self._arrays
        A_array[rows, columns] = A
        if aside is not None:
            aside_array[rows, columns] = aside

    def finish(self, *, series: Sequence[Series], headers: Sequence[bytes]) -> None:
        """Write the series and the headers, one per column, and mark the matrix as complete: readers now accept it."""
        write_headers(self._group, headers)
        self._group.attrs.update({"series": [vars(entry) for entry in series], "complete": True})

    def write_block(self, rows: slice, A: NDArray[Any]) -> None:
        """Write one row block of A, HU, (block rows, all n columns)."""
        write_rows(self._values, rows, A)

    @cached_property
    def _values(self) -> zarr.Array[Any]:
        return array_of(self._group, "A")

    def finish_like(
        self, matrix: MatrixStore, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
    ) -> None:
        """Copy `aside` and the headers from `matrix`, add arrays and attributes, and mark the matrix as complete."""
        stores.copy_arrays(matrix.uri, self.uri, ("aside", "headers", "header_offsets"))
        for name, values in arrays.items():
            self._group.create_array(name, data=np.ascontiguousarray(values))
        all_attributes: dict[str, Any] = {"series": [vars(entry) for entry in matrix.series], **attributes}
        self._group.attrs.update({**all_attributes, "complete": True})
