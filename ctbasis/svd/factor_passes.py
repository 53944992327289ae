"""Passes that write a tall matrix block by block, or read it back: U, and the sketch Y = A Omega.

See ctbasis/svd/passes.py for what a pass is.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.svd.basis import complete_basis
from ctbasis.svd.factors import FactorWriter
from ctbasis.svd.passes import ProductSum, add, panels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.svd.passes import Parts, Pass


class FactorPass:
    """Base of the passes that write factors, or read them back.

    Attributes:
        factors_uri: URI of the factor store.
    """

    factors_uri: str

    @cached_property
    def _writer(self) -> FactorWriter:
        """The factor store, opened once in each process."""
        return FactorWriter(self.factors_uri)


@dataclass(frozen=True)
class WriteSketch(FactorPass):
    """Y = A Omega, written beside the factors, together with Y^T Y, A^T Y and ||A||_F^2.

    Attributes:
        Omega: (n, l).
        factors_uri: Where `FactorWriter.create_sketch` created the array for Y.
        first_back_projected: A^T Y is computed for the columns of Y from this one on.
        name: See `Pass`.
        reads: See `Pass`.
    """

    Omega: NDArray[np.float64]
    factors_uri: str
    first_back_projected: int = 0
    name: str = "sketch"
    reads: bool = True
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:
        """Write Y[rows]; return Y^T Y (l, l), A^T Y (n, l - first_back_projected) and ||A||_F^2 () of the block."""
        n, width = self.Omega.shape
        first_column = self.first_back_projected
        Y = np.empty((len(A), width))
        H, W, energy = ProductSum(width, width), ProductSum(n, width - first_column), np.zeros(())
        first = 0
        for panel in panels(A):
            Y_panel = Y[first : first + len(panel)]
            np.matmul(panel, self.Omega, out=Y_panel)
            H.add_product(Y_panel.T, Y_panel)
            W.add_product(panel.T, Y_panel[:, first_column:])
            energy += np.vdot(panel, panel)
            first += len(panel)
        self._writer.write_sketch(rows, Y)
        return H.total, W.total, energy


@dataclass(frozen=True)
class OnSketch(FactorPass):
    """Another pass, run over the sketch Y instead of A.

    Attributes:
        work: The other pass.
        factors_uri: Where the sketch is.
        reads: See `Pass`.
    """

    work: Pass
    factors_uri: str
    reads: bool = False

    @property
    def name(self) -> str:
        """Short name, for progress and for Spark's job description."""
        return f"{self.work.name} of the sketch"

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:  # noqa: ARG002 - A is not read
        """Return the result of the other pass for Y[rows]."""
        return self.work(rows, self._writer.read_sketch(rows))

    def merge(self, one: Parts, other: Parts) -> Parts:
        """Combine two results of the other pass."""
        return self.work.merge(one, other)


@dataclass(frozen=True)
class Probes:
    """Random vectors by which the last pass estimates the errors of the stored factors.

    Attributes:
        columns: Omega, (n, r), standard normal.
        weighted: diag(s) V^T Omega, (k, r).
        basis: (k, r), standard normal.
    """

    columns: NDArray[np.float64]
    weighted: NDArray[np.float64]
    basis: NDArray[np.float64]


@dataclass(frozen=True)
class WriteU(FactorPass):
    """U = A X T, written block by block, together with the products that bound its errors.

    Attributes:
        X: (n, j): V diag(1/s) for the j singular values that are not zero.
        T: (j, j): the correction that makes A X orthonormal where A is too ill-conditioned; None where it is not.
        rank: k; the columns from j on belong to singular values of zero, and complete the basis in the first block.
        probes: The random vectors.
        factors_uri: URI of the factor store.
        dtype: dtype of U in the store.
        name: See `Pass`.
        reads: See `Pass`.
    """

    X: NDArray[np.float64]
    T: NDArray[np.float64] | None
    rank: int
    probes: Probes
    factors_uri: str
    dtype: str
    name: str = "U"
    reads: bool = True
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:
        """Write U[rows]; return ||(A - U diag(s) V^T) w||^2 of each probe w, (r,), and U^T U `probes.basis`, (k, r)."""
        probes, nonzero = self.probes, self.X.shape[1]
        U = np.zeros((len(A), self.rank), self.dtype)
        width = probes.columns.shape[1]
        squares, gram = np.zeros(width), np.zeros(probes.basis.shape)
        X_and_probes = np.hstack([self.X, probes.columns])
        probes_of_U = np.hstack([probes.weighted[:nonzero], probes.basis[:nonzero]])
        first = 0
        for panel in panels(A):
            if self.T is None:
                product = panel @ X_and_probes
                Y, A_probes = product[:, :nonzero], product[:, nonzero:]
            else:
                # T fits the product A X only if that product is the same to the last bit as in the pass `Gram`, so it
                # is computed by itself.
                Y, A_probes = (panel @ self.X) @ self.T, panel @ probes.columns
            stored = U[first : first + len(panel)]
            stored[:, :nonzero] = Y
            as_stored = np.asarray(stored[:, :nonzero], np.float64)
            U_probes = as_stored @ probes_of_U
            difference = A_probes - U_probes[:, :width]
            squares += np.einsum("ij,ij->j", difference, difference)
            gram[:nonzero] += as_stored.T @ U_probes[:, width:]
            first += len(panel)
        if nonzero < self.rank:
            U = completed(U[:, :nonzero], rows, self.rank)
            as_stored = np.asarray(U, np.float64)
            gram = as_stored.T @ (as_stored @ probes.basis)
        self._writer.write_block(rows, U)
        return squares, gram


def completed(U: NDArray[Any], rows: slice, rank: int) -> NDArray[Any]:
    """Append columns to a row block of U until it has `rank` columns.

    The appended columns complete the orthonormal basis in the first row block and are zero in all others.

    Args:
        U: (block rows, j) with j <= `rank`.
        rows: The rows of the block.
        rank: k.

    Raises:
        CtbasisError: The first row block has fewer rows than `rank`.
    """
    missing = rank - U.shape[1]
    if missing == 0:
        return U
    if rows.start == 0:
        return complete_basis(np.asarray(U, np.float64), rank).astype(U.dtype)
    return np.pad(U, ((0, 0), (0, missing)))


@dataclass(frozen=True)
class Residual(FactorPass):
    """||A - U diag(s) V^T||_F^2 and ||A||_F^2 for U as stored, with A^T A (I - V V^T) Omega and U^T U `probes.basis`.

    Attributes:
        weights: V diag(s), (n, k).
        probes: The random vectors.
        factors_uri: URI of the factor store.
        name: See `Pass`.
        reads: See `Pass`.
    """

    weights: NDArray[np.float64]
    probes: Probes
    factors_uri: str
    name: str = "residual"
    reads: bool = True
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:
        """Return for a row block the two squared norms, () and (), and the two products, (n, r) and (k, r)."""
        U = self._writer.read_back(rows)
        residual, energy = np.zeros(()), np.zeros(())
        normal, gram = np.zeros(self.probes.columns.shape), np.zeros(self.probes.basis.shape)
        first = 0
        for panel in panels(A):
            U_panel = np.asarray(U[first : first + len(panel)], np.float64)
            difference = panel - U_panel @ self.weights.T
            residual += np.vdot(difference, difference)
            energy += np.vdot(panel, panel)
            normal += difference.T @ (difference @ self.probes.columns)
            gram += U_panel.T @ (U_panel @ self.probes.basis)
            first += len(panel)
        return residual, energy, normal, gram
