"""The factors U, s, V of A = U diag(s) V^T as a zarr 3 store (`basis/`), and the only code that knows its layout.

    U         (m, k) float32 or float64  basis images (left singular vectors), in the row blocks of A
    s         (k,)   float64             singular values, descending
    V         (n, k) float64             right singular vectors
    weights   (n, k) float64             V diag(s): how much of each basis image a slice holds; A ~ U weights^T
    aside, headers, header_offsets       taken over from the matrix, so that DICOM can be written from the factors alone
    attributes                           complete, image, series; `plan`: what was asked and what was run; `accuracy`:
                                         how wrong the factors may be (ctbasis/svd/accuracy.py); `projection`: how
                                         much a basis of other slices leaves out, where one was given;
                                         `choice`: how a rule chose the denoised series' rank, if one did

U and aside are tall and never pass through a driver: each engine's workers write their own blocks of U, and aside is
copied chunk by chunk as it is stored, by hard links or by the S3 server itself. The store lies in a folder or below
`s3://bucket/prefix` (see ctbasis/storage/stores.py).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from zarr.codecs import Crc32cCodec

from ctbasis.errors import CtbasisError
from ctbasis.matrix.store import MatrixStore, SliceArrays, array_of, create_aside, open_complete, write_headers
from ctbasis.storage import stores
from ctbasis.storage.chunks import read_rows, write_rows
from ctbasis.storage.voxels import holds_absent
from ctbasis.svd.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Literal

    import zarr
    from numpy.typing import DTypeLike, NDArray

    from ctbasis.matrix.store import Series
    from ctbasis.svd.rank import Choice
    from ctbasis.svd.spectrum import Accuracy


SKETCH = "sketch"
"""What a single pass over A leaves for U, and is removed once U is made of it."""


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
    """Factors that are complete, open for reading."""

    step = "svd"

    def __init__(self, group: zarr.Group, uri: str) -> None:
        super().__init__(group, uri)
        self._U = array_of(group, "U")
        self.s: NDArray[np.float64] = np.asarray(array_of(group, "s")[:], np.float64)
        self.V: NDArray[np.float64] = np.asarray(array_of(group, "V")[:], np.float64)
        self.plan = Plan(**group.attrs["plan"])  # type: ignore[arg-type]
        attributes: dict[str, Any] = dict(group.attrs)
        self.choice: dict[str, Any] = dict(attributes.get("choice", {}))
        self.accuracy: dict[str, Any] = dict(attributes.get("accuracy", {}))
        self.projection: dict[str, Any] = dict(attributes.get("projection", {}))

    @classmethod
    def open(cls, uri: str) -> Self:
        """Open the factors at `uri`.

        Raises:
            CtbasisError: There are none, the step that wrote them did not finish, or it is the basis of patch mode.
        """
        group = open_complete(uri, "basis")
        if group.attrs.get("kind") == "patch":
            raise CtbasisError(
                f"the basis at {uri} is of patches, of a run in patch mode",
                expected="basis images of slices, of a run in global mode",
                remedy="apply it by `ctbasis denoise --basis`, or run with --mode patch",
            )
        return cls(group, uri)

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
            CtbasisError: A chunk is missing or its checksum does not hold.
        """
        columns = slice(None) if rank in {None, self.rank} else slice(rank)
        return self._read(self._U, self.block(index), columns)

    def read_basis_image(self, index: int) -> NDArray[Any]:
        """Return column `index` of U as an image, (Rows, Columns)."""
        return np.asarray(self._U[:, index]).reshape(self.image)


class FactorWriter:
    """Factors in the making; any number of workers may write disjoint row blocks of U at once."""

    def __init__(self, uri: str, *, mode: Literal["r", "r+", "w"] = "r+") -> None:
        self.uri = uri
        self._group = stores.open_group(uri, mode=mode)

    @classmethod
    def create(
        cls, uri: str, matrix: MatrixStore | UnstoredMatrix, *, rank: int, dtype: DTypeLike = np.float32
    ) -> Self:
        """Start the factors of `matrix` at `uri`, replacing what was there.

        Args:
            uri: Where the store goes.
            matrix: Whose row blocks U takes over.
            rank: k, columns of U.
            dtype: Of U. float32 holds a reconstruction to about 1e-3 HU at half the size; float64 is for proofs.
        """
        writer = cls(uri, mode="w")
        writer._group.attrs.update({"complete": False})
        writer._group.create_array(
            "U",
            shape=(matrix.rows, rank),
            chunks=(matrix.block_rows, rank),
            dtype=np.dtype(dtype),
            fill_value=float("nan"),
            compressors=[Crc32cCodec()],
        )
        return writer

    @property
    def dtype(self) -> str:
        """The dtype of U on disk."""
        return str(self._tall.dtype)

    def write_block(self, rows: slice, U: NDArray[Any]) -> None:
        """Write the row block `rows` of U, (rows, k); `rows` as `MatrixStore.block` gives them."""
        write_rows(self._tall, rows, U)

    def read_back(self, rows: slice) -> NDArray[Any]:
        """Return the row block `rows` of U as it was written, for a check of it."""
        return read_rows(self._tall, rows)

    def create_sketch(self, width: int) -> None:
        """Make room for a sketch of A beside U, (m, width) float64, in its row blocks; `drop_sketch` removes it."""
        rows, block_rows = self._tall.shape[0], self._tall.chunks[0]
        self._group.create_array(
            SKETCH,
            shape=(rows, width),
            chunks=(block_rows, width),
            dtype=np.float64,
            fill_value=float("nan"),
            compressors=[Crc32cCodec()],
            overwrite=True,
        )

    def write_sketch(self, rows: slice, Y: NDArray[np.float64]) -> None:
        """Write a row block of the sketch."""
        write_rows(self._sketch, rows, Y)

    def read_sketch(self, rows: slice) -> NDArray[np.float64]:
        """Return a row block of the sketch.

        Raises:
            CtbasisError: Its chunk is not there.
        """
        Y = read_rows(self._sketch, rows)
        if holds_absent(Y):
            raise CtbasisError(
                f"the sketch beside {self.uri} lacks rows {rows.start} to {rows.stop}",
                cause="somebody deleted a file or object meanwhile",
                remedy="run the svd step again",
            )
        return Y

    def drop_sketch(self) -> None:
        """Remove the sketch."""
        del self._group[SKETCH]

    @cached_property
    def _sketch(self) -> zarr.Array[Any]:
        return array_of(self._group, SKETCH)

    @cached_property
    def _tall(self) -> zarr.Array[Any]:
        """U, opened once: a writer is asked for every block, and each opening reads metadata."""
        return array_of(self._group, "U")

    def create_aside(self, cols: int, column_chunk: int, dtype: DTypeLike) -> None:
        """Make room for what is set aside of A, where there is no matrix to copy it from; laid out as there."""
        rows, block_rows = self._tall.shape[0], self._tall.chunks[0]
        create_aside(self._group, (rows, cols), (block_rows, column_chunk), dtype)

    def write_aside(self, rows: slice, aside: NDArray[Any]) -> None:
        """Write a row block of what is set aside."""
        array_of(self._group, "aside")[rows] = aside

    def explain(self, choice: Choice) -> None:
        """Note how the rank of the denoised series was chosen, for the report."""
        self._group.attrs.update({"choice": vars(choice)})

    def tell_projection(self, found: dict[str, Any]) -> None:
        """Note that A was projected on a basis of other slices, and how much that leaves out, for the report."""
        self._group.attrs.update({"projection": found})

    def finish(
        self,
        *,
        s: NDArray[np.float64],
        V: NDArray[np.float64],
        plan: Plan,
        matrix: MatrixStore | UnstoredMatrix,
        accuracy: Accuracy | None = None,
    ) -> None:
        """Write what is small, take over what belongs to the columns, and declare the factors complete.

        Of a matrix that was never stored `aside` is written already, and the headers are in hand.
        """
        self._group.create_array("s", data=np.ascontiguousarray(s, np.float64))
        self._group.create_array("V", data=np.ascontiguousarray(V, np.float64))
        self._group.create_array("weights", data=np.ascontiguousarray(V * s, np.float64))
        if isinstance(matrix, MatrixStore):
            stores.copy_arrays(matrix.uri, self.uri, ("aside", "headers", "header_offsets"))
        else:
            write_headers(self._group, matrix.headers)
        described: dict[str, Any] = {"image": list(matrix.image), "series": [vars(entry) for entry in matrix.series]}
        if accuracy is not None:
            described["accuracy"] = vars(accuracy)
        self._group.attrs.update({**described, "plan": vars(plan), "complete": True})
