"""The factors U, s, V of A = U diag(s) V^T as a zarr 3 store (`basis/`), and the only code that knows its layout.

    U         (m, k) float32 or float64  basis images (left singular vectors), in the row blocks of A
    s         (k,)   float64             singular values, descending
    V         (n, k) float64             right singular vectors
    weights   (n, k) float64             V diag(s): how much of each basis image a slice holds; A ~ U weights^T
    aside, headers, header_offsets       taken over from the matrix, so that DICOM can be written from the factors alone
    attributes                           complete, image, series, and `plan`: what was asked and what was run

U and aside are tall and never pass through a driver: each engine's workers write their own blocks of U, and aside is
copied chunk by chunk as it is stored, by hard links or by the S3 server itself. The store lies in a folder or below
`s3://bucket/prefix` (see components/stores.py).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from zarr.codecs import Crc32cCodec

from components import stores
from components.matrix.store import MatrixStore, SliceArrays, array_of, open_complete
from components.svd.plan import Plan

if TYPE_CHECKING:
    from typing import Literal

    import zarr
    from numpy.typing import DTypeLike, NDArray


class FactorStore(SliceArrays):
    """Factors that are complete, open for reading."""

    step = "svd"

    def __init__(self, group: zarr.Group, uri: str) -> None:
        super().__init__(group, uri)
        self._U = array_of(group, "U")
        self.s: NDArray[np.float64] = np.asarray(array_of(group, "s")[:], np.float64)
        self.V: NDArray[np.float64] = np.asarray(array_of(group, "V")[:], np.float64)
        self.plan = Plan(**group.attrs["plan"])  # type: ignore[arg-type]

    @classmethod
    def open(cls, uri: str) -> Self:
        """Open the factors at `uri`.

        Raises:
            CtbasisError: There are none, or the step that wrote them did not finish.
        """
        return cls(open_complete(uri, "basis"), uri)

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
        return self._read(self._U, self.block(index), slice(rank or self.rank))

    def read_basis_image(self, index: int) -> NDArray[Any]:
        """Return column `index` of U as an image, (Rows, Columns)."""
        return np.asarray(self._U[:, index]).reshape(self.image)


class FactorWriter:
    """Factors in the making; any number of workers may write disjoint row blocks of U at once."""

    def __init__(self, uri: str, *, mode: Literal["r+", "w"] = "r+") -> None:
        self.uri = uri
        self._group = stores.open_group(uri, mode=mode)

    @classmethod
    def create(cls, uri: str, matrix: MatrixStore, *, rank: int, dtype: DTypeLike = np.float32) -> Self:
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

    def write_block(self, rows: slice, U: NDArray[Any]) -> None:
        """Write the row block `rows` of U, (rows, k); `rows` as `MatrixStore.block` gives them."""
        self._tall[rows] = np.asarray(U, self._tall.dtype)

    @cached_property
    def _tall(self) -> zarr.Array[Any]:
        """U, opened once: a writer is asked for every block, and each opening reads metadata."""
        return array_of(self._group, "U")

    def finish(self, *, s: NDArray[np.float64], V: NDArray[np.float64], plan: Plan, matrix: MatrixStore) -> None:
        """Write what is small, take over what belongs to the columns, and declare the factors complete."""
        self._group.create_array("s", data=np.ascontiguousarray(s, np.float64))
        self._group.create_array("V", data=np.ascontiguousarray(V, np.float64))
        self._group.create_array("weights", data=np.ascontiguousarray(V * s, np.float64))
        stores.copy_arrays(matrix.uri, self.uri, ("aside", "headers", "header_offsets"))
        described: dict[str, Any] = {"image": list(matrix.image), "series": [vars(entry) for entry in matrix.series]}
        self._group.attrs.update({**described, "plan": vars(plan), "complete": True})
