"""Passes that write U or a sketch block by block, or read U back; passes.py has the interface."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.svd.basis import complete_basis
from ctbasis.svd.factors import FactorWriter
from ctbasis.svd.passes import Sum, add, pieces

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.svd.passes import Parts, Pass


class WithFactors:
    """A pass that writes factors, or reads them back, where they are.

    Attributes:
        factors_uri: Where they are.
    """

    factors_uri: str

    @cached_property
    def _writer(self) -> FactorWriter:
        """The factors, opened once in each process."""
        return FactorWriter(self.factors_uri)


@dataclass(frozen=True)
class Sketch(WithFactors):
    """Y = A Omega, written beside the factors, with Y^T Y, A^T Y and ||A||_F^2.

    Attributes:
        Omega: (n, l).
        factors_uri: Where `FactorWriter.create_sketch` made room for Y.
        back: Column of Y from which on A^T Y is taken.
    """

    Omega: NDArray[np.float64]
    factors_uri: str
    back: int = 0
    what: str = "sketch"
    reads: bool = True
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:
        """Write Y[rows] and return Y^T Y (l, l), A^T Y (n, l - back) and the energy ()."""
        n, width = self.Omega.shape
        Y = np.empty((len(A), width))
        H, W, energy = Sum(width, width), Sum(n, width - self.back), np.zeros(())
        first = 0
        for piece in pieces(A):
            part = Y[first : first + len(piece)]
            np.matmul(piece, self.Omega, out=part)
            H.add_product(part.T, part)
            W.add_product(piece.T, part[:, self.back :])
            energy += np.vdot(piece, piece)
            first += len(piece)
        self._writer.write_sketch(rows, Y)
        return H.total, W.total, energy


@dataclass(frozen=True)
class Sketched(WithFactors):
    """Another pass over the sketch, as if that were A.

    Attributes:
        work: That pass.
        factors_uri: Where the sketch is.
    """

    work: Pass
    factors_uri: str
    reads: bool = False

    @property
    def what(self) -> str:
        """Its name."""
        return f"{self.work.what} of the sketch"

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:  # noqa: ARG002 - A is not read
        """Return what the pass makes of Y[rows]."""
        return self.work(rows, self._writer.read_sketch(rows))

    def merge(self, one: Parts, other: Parts) -> Parts:
        """Return what it makes of both blocks' rows."""
        return self.work.merge(one, other)


@dataclass(frozen=True)
class Probes:
    """Random vectors with which the last pass asks how wrong the factors are, as stored.

    Attributes:
        columns: Omega, (n, r), standard normal.
        weighted: diag(s) V^T Omega, (k, r).
        basis: (k, r), standard normal.
    """

    columns: NDArray[np.float64]
    weighted: NDArray[np.float64]
    basis: NDArray[np.float64]


@dataclass(frozen=True)
class WriteU(WithFactors):
    """U = A X T, written block by block, and the answers to `probes`.

    Attributes:
        X: (n, j): V diag(1/s) of the singular values that are not zero.
        T: (j, j): what makes A X orthonormal where A is so ill-conditioned that A X alone is not; else None.
        rank: k; columns from j on belong to singular values of zero and complete the basis in the first block.
        probes: What is asked on the way.
        factors_uri: Where the factors go.
        dtype: Of U there.
    """

    X: NDArray[np.float64]
    T: NDArray[np.float64] | None
    rank: int
    probes: Probes
    factors_uri: str
    dtype: str
    what: str = "U"
    reads: bool = True
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:
        """Write U[rows] and return ||(A - U diag(s) V^T) Omega||^2 of each probe (r,), and U^T U Omega_k (k, r)."""
        probes, found = self.probes, self.X.shape[1]
        U = np.zeros((len(A), self.rank), self.dtype)
        width = probes.columns.shape[1]
        squares, gram = np.zeros(width), np.zeros(probes.basis.shape)
        both = np.hstack([self.X, probes.columns])
        asked = np.hstack([probes.weighted[:found], probes.basis[:found]])
        first = 0
        for piece in pieces(A):
            if self.T is None:
                product = piece @ both
                Y, along = product[:, :found], product[:, found:]
            else:
                # On its own: the very product that `Gram` took, to the last bit, or T would not fit it.
                Y, along = (piece @ self.X) @ self.T, piece @ probes.columns
            stored = U[first : first + len(piece)]
            stored[:, :found] = Y
            as_stored = np.asarray(stored[:, :found], np.float64)
            answers = as_stored @ asked
            difference = along - answers[:, :width]
            squares += np.einsum("ij,ij->j", difference, difference)
            gram[:found] += as_stored.T @ answers[:, width:]
            first += len(piece)
        if found < self.rank:
            U = completed(U[:, :found], rows, found, self.rank)
            as_stored = np.asarray(U, np.float64)
            gram = as_stored.T @ (as_stored @ probes.basis)
        self._writer.write_block(rows, U)
        return squares, gram


def completed(U: NDArray[Any], rows: slice, found: int, rank: int) -> NDArray[Any]:
    """Return rows of U with columns up to `rank`: in the first block they complete the basis, below they are zero."""
    if found == rank:
        return U
    if rows.start == 0:
        return complete_basis(np.asarray(U, np.float64), rank).astype(U.dtype)
    return np.pad(U, ((0, 0), (0, rank - found)))


@dataclass(frozen=True)
class Residual(WithFactors):
    """||A - U diag(s) V^T||_F^2 and ||A||_F^2 with U as stored, and A^T A (I - V V^T) Omega, U^T U Omega_k.

    Attributes:
        weights: V diag(s), (n, k).
        probes: What is asked on the way.
        factors_uri: Where U is.
    """

    weights: NDArray[np.float64]
    probes: Probes
    factors_uri: str
    what: str = "residual"
    reads: bool = True
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:
        """Return the squares () and (), and the answers (n, r) and (k, r)."""
        U = self._writer.read_back(rows)
        residual, energy = np.zeros(()), np.zeros(())
        normal, gram = np.zeros(self.probes.columns.shape), np.zeros(self.probes.basis.shape)
        first = 0
        for piece in pieces(A):
            part = np.asarray(U[first : first + len(piece)], np.float64)
            difference = piece - part @ self.weights.T
            residual += np.vdot(difference, difference)
            energy += np.vdot(piece, piece)
            normal += difference.T @ (difference @ self.probes.columns)
            gram += part.T @ (part @ self.probes.basis)
            first += len(piece)
        return residual, energy, normal, gram
