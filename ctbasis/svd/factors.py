"""The factors U, s, V of A = U diag(s) V^T as a zarr 3 store (`basis/`), and the only code that knows its layout.

    U         (m, k) float32 or float64  basis images (left singular vectors), in the row blocks of A
    s         (k,)   float64             singular values, descending
    V         (n, k) float64             right singular vectors
    weights   (n, k) float64             V diag(s): the share of each basis image in a slice; A ~ U weights^T
    aside, headers, header_offsets       copied from the matrix, so that DICOM can be written from the factors alone
    attributes                           complete, image, series; `plan`: the parameters as given and as run;
                                         `accuracy`: the error report (ctbasis/svd/spectrum.py); `projection`: how much
                                         a basis of other slices leaves out, if one was given; `choice`: how a rule
                                         chose the rank of the denoised series, if one did

U and aside are tall and never pass through a driver. The workers of each engine write their own blocks of U, and aside
is copied chunk by chunk as it is stored, by hard links or by the S3 server itself. The store is in a folder or below
`s3://bucket/prefix`. ctbasis/storage/array_store.py checks arrays on opening, and every chunk that is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.matrix.slice_store import SliceArrays, checked_attributes, write_headers
from ctbasis.matrix.store import COPIED, MatrixStore
from ctbasis.storage.array_store import ArrayStore, StoreWriter
from ctbasis.storage.schemas import FACTORS, PATCH_BASES, PATCH_BASIS
from ctbasis.svd.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

    from ctbasis.matrix.slice_store import Series
    from ctbasis.storage.stored_array import StoredArray
    from ctbasis.svd.rank import Choice
    from ctbasis.svd.spectrum import Accuracy


SKETCH = "sketch"
"""Name of the array Y = A Omega, from which U is computed without another pass over A; it is removed afterwards."""


class UnstoredMatrix(Protocol):
    """A matrix that exists in no store, so that its headers are passed to `FactorWriter` from memory."""

    @property
    def image(self) -> tuple[int, int]:
        """Rows and Columns of every slice."""
        ...

    @property
    def series(self) -> Sequence[Series]:
        """The columns of each DICOM series."""
        ...

    @property
    def headers(self) -> Sequence[bytes]:
        """The header of each column: a DICOM file without pixel data."""
        ...

    @property
    def rows(self) -> int:
        """m, the number of voxels of a slice."""
        ...

    @property
    def block_rows(self) -> int:
        """Rows of every block but the last."""
        ...


class FactorStore(SliceArrays):
    """A complete factor store, open for reading.

    Attributes:
        s: Singular values in descending order, (k,), HU.
        V: Right singular vectors, (n, k).
        plan: The parameters of the factorization, as given and as run.
        choice: How a rule chose the rank of the denoised series; empty if no rule did.
        accuracy: The error report, the attributes of an `Accuracy`.
        projection: How much the basis of other slices leaves out; empty if the matrix itself was factored.
    """

    def __init__(self, store: ArrayStore) -> None:
        super().__init__(store)
        self._U = store.array("U")
        self.s: NDArray[np.float64] = store.array("s").read()
        self.V: NDArray[np.float64] = store.array("V").read()
        attributes = store.attributes
        with checked_attributes(store):
            self.plan = Plan(**attributes["plan"])
            self.choice: dict[str, Any] = dict(attributes.get("choice", {}))
            self.accuracy: dict[str, Any] = dict(attributes.get("accuracy", {}))
            self.projection: dict[str, Any] = dict(attributes.get("projection", {}))
            if not (np.isfinite(self.s).all() and np.isfinite(self.V).all()):
                raise ValueError("s or V holds NaN or Inf")
            if len(self.s) > min(self.rows, self.cols):
                raise ValueError(f"the rank {len(self.s)} exceeds the size of the matrix")

    @classmethod
    def open(cls, uri: str) -> Self:
        """Open the factors at `uri`.

        Raises:
            CtbasisError: There is no store, the step that wrote it did not finish, it is a basis of patch mode, or it
                is damaged.
        """
        store = ArrayStore.open(uri, FACTORS, PATCH_BASES, PATCH_BASIS)
        if store.schema is not FACTORS:
            raise CtbasisError(
                f"the basis at {uri} is a basis of patches, from a run in patch mode",
                expected="a basis of slices, from a run in global mode",
                remedy="apply it with `ctbasis denoise --basis`, or run with --mode patch",
            )
        return cls(store)

    @property
    def rank(self) -> int:
        """k, the number of basis vectors stored."""
        return len(self.s)

    @property
    def weights(self) -> NDArray[np.float64]:
        """V diag(s), (n, k), HU."""
        return self.V * self.s

    def read_block(self, index: int, *, rank: int | None = None) -> NDArray[Any]:
        """Return row block `index` of U, (block rows, rank).

        Raises:
            CtbasisError: A chunk is missing or its checksum is wrong.
        """
        columns = slice(None) if rank in {None, self.rank} else slice(rank)
        return self._read(self._U, self.block(index), columns)

    def read_basis_image(self, index: int) -> NDArray[Any]:
        """Return column `index` of U as an image, (Rows, Columns)."""
        return self._read(self._U, slice(None), slice(index, index + 1)).reshape(self.image)


class FactorWriter:
    """A factor store that is being written. Any number of workers may write disjoint row blocks of U at once.

    Args:
        uri: URI of a store that `create` started, in this or another process.
        store: The store, if this process has created it.

    Raises:
        CtbasisError: There is no store, or S3 denies access or does not answer.
    """

    def __init__(self, uri: str, *, store: StoreWriter | None = None) -> None:
        self.uri = uri
        self._store = store or StoreWriter(uri, FACTORS)

    @classmethod
    def create(
        cls, uri: str, matrix: MatrixStore | UnstoredMatrix, *, rank: int, dtype: DTypeLike = np.float32
    ) -> Self:
        """Start the factors of `matrix` at `uri`, replacing any store that is there.

        Args:
            uri: URI of the store.
            matrix: The matrix; U gets the same row blocks.
            rank: k, the number of columns of U.
            dtype: dtype of U. float32 gives a reconstruction to about 1e-3 HU at half the size of float64, which is for
                proofs.
        """
        store = StoreWriter.create(uri, FACTORS)
        store.create_array("U", (matrix.rows, rank), dtype, chunks=(matrix.block_rows, rank))
        return cls(uri, store=store)

    @property
    def dtype(self) -> str:
        """The dtype of U on disk."""
        return str(self._left_vectors.dtype)

    def write_block(self, rows: slice, U: NDArray[Any]) -> None:
        """Write one row block of U.

        Args:
            rows: Rows of the block, as `MatrixStore.block` gives them.
            U: (block rows, k).
        """
        self._left_vectors.write(U, rows)

    def read_back(self, rows: slice) -> NDArray[Any]:
        """Return a row block of U as it was stored, (block rows, k), to check it.

        Raises:
            CtbasisError: Its chunk is missing or damaged.
        """
        return self._left_vectors.read(rows)

    def create_sketch(self, width: int) -> None:
        """Create the array of a sketch of A beside U, (m, width) float64, with the row blocks of U."""
        rows, block_rows = self._left_vectors.shape[0], self._left_vectors.chunks[0]
        self._store.create_array(SKETCH, (rows, width), np.float64, chunks=(block_rows, width))

    def write_sketch(self, rows: slice, Y: NDArray[np.float64]) -> None:
        """Write a row block of the sketch, (block rows, width)."""
        self._sketch.write(Y, rows)

    def read_sketch(self, rows: slice) -> NDArray[np.float64]:
        """Return a row block of the sketch, (block rows, width).

        Raises:
            CtbasisError: Its chunk is missing or damaged.
        """
        return self._sketch.read(rows)

    def drop_sketch(self) -> None:
        """Remove the sketch."""
        self._store.drop(SKETCH)

    @property
    def _sketch(self) -> StoredArray:
        return self._store.array(SKETCH)

    @property
    def _left_vectors(self) -> StoredArray:
        return self._store.array("U")

    def create_aside(self, cols: int, column_chunk: int, dtype: DTypeLike) -> None:
        """Create the array `aside` for a matrix that is in no store, from which it could be copied.

        Args:
            cols: n.
            column_chunk: Columns of a chunk, as in a matrix store.
            dtype: dtype of A.
        """
        rows, block_rows = self._left_vectors.shape[0], self._left_vectors.chunks[0]
        self._store.create_array("aside", (rows, cols), dtype, chunks=(block_rows, column_chunk))

    def write_aside(self, rows: slice, aside: NDArray[Any]) -> None:
        """Write a row block of `aside`, (block rows, n)."""
        self._store.array("aside").write(aside, rows)

    def record_choice(self, choice: Choice) -> None:
        """Store how a rule chose the rank of the denoised series, for the report."""
        self._store.update({"choice": vars(choice)})

    def record_projection(self, projection: dict[str, Any]) -> None:
        """Store that A was projected onto a basis of other slices, and how much this leaves out, for the report."""
        self._store.update({"projection": projection})

    def finish(
        self,
        *,
        s: NDArray[np.float64],
        V: NDArray[np.float64],
        plan: Plan,
        matrix: MatrixStore | UnstoredMatrix,
        accuracy: Accuracy | None = None,
    ) -> None:
        """Write the small arrays, copy `aside` and the headers from the matrix, and mark the store as complete.

        For an `UnstoredMatrix` the caller has written `aside` before, and the headers come from the object.

        Args:
            s: Singular values, (k,), HU.
            V: Right singular vectors, (n, k).
            plan: The parameters as run.
            matrix: The matrix that was factored.
            accuracy: The error report, if there is one.
        """
        self._store.put("s", np.asarray(s, np.float64))
        self._store.put("V", np.asarray(V, np.float64))
        self._store.put("weights", np.asarray(V * s, np.float64))
        if isinstance(matrix, MatrixStore):
            self._store.copy_arrays(ArrayStore.open(matrix.uri, *MatrixStore.schemas), COPIED)
        else:
            write_headers(self._store, matrix.headers)
        described: dict[str, Any] = {"image": list(matrix.image), "series": [vars(entry) for entry in matrix.series]}
        if accuracy is not None:
            described["accuracy"] = vars(accuracy)
        self._store.finish({**described, "plan": plan.attributes()})
