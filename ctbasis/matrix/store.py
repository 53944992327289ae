"""The matrix A (voxels x slices, HU) as a chunked zarr 3 store. No other module knows the layout of the store.

zarr 3 is an open, documented format. Its chunks are plain files or objects, so NumPy, Spark executors, Dask and Ray can
read and write separate blocks in parallel without a server, on a PVC and on S3. Each chunk has a checksum, a manifest
lists the checksums of all chunks (ctbasis/storage/array_store.py), and the metadata is readable JSON.

    A               (m, n) int16 or float32   HU, AIR where a voxel is excluded; row i of column j is voxel i of slice j
    aside           (m, n) like A             the original HU of excluded voxels (padding, air around the patient)
    headers         (bytes,) uint8            the DICOM header of each slice (without PixelData), concatenated
    header_offsets  (n + 1,) int64            the first byte of each header
    attributes      complete, image (Rows, Columns), series ([{SeriesInstanceUID, first, count, ...}])

The store is in a folder or below `s3://bucket/prefix`.

A chunk is the intersection of a row block and a column group of A (`block_rows` x `column_chunk`, at most
`COLUMN_CHUNK`). A task of any engine reads one row block, and a writer holds one column group in memory. Both have a
bounded size for any m and n.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from ctbasis.matrix.slice_store import SliceArrays, write_headers
from ctbasis.storage.array_store import ArrayStore, StoreWriter
from ctbasis.storage.schemas import DENOISED, MATRIX, StoreSchema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import DTypeLike, NDArray

    from ctbasis.matrix.slice_store import Series
    from ctbasis.storage.stored_array import StoredArray

COLUMN_CHUNK = 128
"""Maximum columns per chunk. A writer buffers this many slices, and the mask of their excluded voxels: 96 MiB for int16
and 512 x 512 pixels."""

GROUP_ELEMENTS = COLUMN_CHUNK * 512 * 512
"""Maximum elements per column group. Larger images get fewer slices per group, which bounds a writer's memory."""

BLOCK_ELEMENTS = 4 * 1024 * 1024
"""Target elements of a row block over all columns: 32 MiB as float64, which engines compute in."""

MIN_BLOCK_ROWS = 256
MAX_BLOCK_ROWS = 65536

COHORT_COLUMNS = 8192
"""Most columns at which a block has `BLOCK_ELEMENTS`: several times the slices of one patient."""

COHORT_BLOCK_ROWS = 512
"""Rows of a block of more columns."""

MAX_BLOCK_BYTES = 2**31 - 2**16
"""Most bytes of a block as float64. A Java array ends at 2 GiB; the rest is room for headers."""

COPIED = ("aside", "headers", "header_offsets")
"""Arrays that a store copies from the matrix from which it is computed."""


def block_rows_for(n: int) -> int:
    """Return the rows per block of a matrix with `n` columns, a power of two; ingest and all engines use this function.

    A block is what a task reads at a time. The rows of a block times 128 columns are one chunk, which is a file or an
    object of the store.

    - Up to `COHORT_COLUMNS` columns, a block has about `BLOCK_ELEMENTS` elements: it fits beside its products into the
      memory of any worker. 133 slices of one patient give 16,384 rows.
    - Beyond, a block has `COHORT_BLOCK_ROWS` rows and grows with n. With a fixed number of elements, the rows would
      become so few that a store consists of millions of small chunks, and that adding a product to the n x (k + p) sum
      takes longer than computing it. With more rows, there would be too few blocks for the cores of a cluster: a matrix
      of 512 x 512 voxels has 512 of these blocks. The traffic does not depend on the number of blocks, because a task
      sends one sum for all its blocks.
    - From 524,000 columns on, the rows become fewer again, so that a block stays below `MAX_BLOCK_BYTES` as float64.

    >>> [block_rows_for(n) for n in (133, 1_000, 8_000, 16_000, 133_000, 1_000_000)]
    [16384, 4096, 512, 512, 512, 256]

    Args:
        n: Number of columns.
    """
    rows = power_of_two_up_to(BLOCK_ELEMENTS // max(1, n))
    rows = min(MAX_BLOCK_ROWS, max(MIN_BLOCK_ROWS, rows)) if n <= COHORT_COLUMNS else COHORT_BLOCK_ROWS
    return min(rows, power_of_two_up_to(MAX_BLOCK_BYTES // (8 * max(1, n))))


def power_of_two_up_to(number: int) -> int:
    """Return the largest power of two that is at most `number`; 1 if `number` is smaller than 1."""
    return 1 << (max(1, number).bit_length() - 1)


def column_chunk_for(n: int, m: int = 1) -> int:
    """Return the columns per group for `n` columns of `m` voxels: equal groups, as chunks are stored at full size."""
    max_columns = max(1, min(COLUMN_CHUNK, GROUP_ELEMENTS // m))
    groups = max(1, -(-n // max_columns))
    return -(-n // groups)


class MatrixStore(SliceArrays):
    """A complete matrix, opened for reading.

    Args:
        store: A complete store of the kind `matrix` or `denoised`.
    """

    schemas: ClassVar[tuple[StoreSchema, ...]] = (MATRIX, DENOISED)
    """The kinds of stores that `open` accepts."""

    def __init__(self, store: ArrayStore) -> None:
        super().__init__(store)
        self._A = store.array("A")

    @classmethod
    def open(cls, uri: str, *, listing: bool = True) -> Self:
        """Open the matrix at `uri`.

        Args:
            uri: URI of the store.
            listing: Check that no chunk is missing. A worker omits it if the process that sent it has checked it.

        Raises:
            CtbasisError: There is no matrix, the step that wrote it did not finish, or it is damaged.
        """
        return cls(ArrayStore.open(uri, *cls.schemas, listing=listing))

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
        return rows, columns

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
        uri: URI of the store, which another process has created.
        store: The store, if this process has created it.

    Raises:
        CtbasisError: There is no store, or S3 denies access or does not answer.
    """

    def __init__(self, uri: str, *, store: StoreWriter | None = None) -> None:
        self.uri = uri
        self._store = store or StoreWriter(uri, MATRIX, DENOISED)

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
        store = StoreWriter.create(uri, MATRIX, {"image": [int(edge) for edge in image]})
        m = int(image[0]) * int(image[1])
        chunks = (min(block_rows_for(cols), m), column_chunk or column_chunk_for(cols, m))
        # A is not compressed: its values are noisy, so compression would save little and cost time.
        store.create_array("A", (m, cols), dtype, chunks=chunks)
        store.create_array("aside", (m, cols), dtype, chunks=chunks)
        return cls(uri, store=store)

    @classmethod
    def like(cls, uri: str, matrix: MatrixStore, *, dtype: DTypeLike) -> Self:
        """Create a matrix at `uri` with the shape, chunks and columns of `matrix`; complete it with `finish_like`."""
        store = StoreWriter.create(uri, DENOISED, {"image": list(matrix.image)})
        store.create_array("A", (matrix.rows, matrix.cols), dtype, chunks=matrix.chunks)
        return cls(uri, store=store)

    @cached_property
    def _values(self) -> StoredArray:
        return self._store.array("A")

    @property
    def block_rows(self) -> int:
        """Rows per block; the last block may have fewer."""
        return self._values.chunks[0]

    @property
    def column_chunk(self) -> int:
        """Columns per column group; the last group may have fewer."""
        return self._values.chunks[1]

    def write(self, rows: slice, columns: slice, A: NDArray[Any], aside: NDArray[Any] | None) -> None:
        """Write whole chunks of A and of `aside`.

        Args:
            rows: One or more whole row blocks.
            columns: One whole column group.
            A: HU, `AIR` where a voxel is excluded, (rows, columns).
            aside: The original HU of excluded voxels, else `absent`, (rows, columns). None if there are none.
        """
        self._values.write(A, rows, columns)
        aside_array = self._store.array("aside")
        if aside is None:
            aside_array.write_fill(rows, columns)
        else:
            aside_array.write(aside, rows, columns)

    def finish(self, *, series: Sequence[Series], headers: Sequence[bytes]) -> None:
        """Write the series and the headers, one per column, and mark the matrix as complete: readers now accept it."""
        write_headers(self._store, headers)
        self._store.finish({"series": [vars(entry) for entry in series]})

    def write_block(self, rows: slice, A: NDArray[Any]) -> None:
        """Write one row block of A, HU, (block rows, all n columns)."""
        self._values.write(A, rows)

    def finish_like(
        self, matrix: MatrixStore, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
    ) -> None:
        """Copy `aside` and the headers from `matrix`, add arrays and attributes, and mark the matrix as complete."""
        self._store.copy_arrays(ArrayStore.open(matrix.uri, *MatrixStore.schemas), COPIED)
        for name, values in arrays.items():
            self._store.put(name, values)
        self._store.finish({"series": [vars(entry) for entry in matrix.series], **attributes})
