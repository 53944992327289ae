"""What one pass over A computes of a row block, and how the results of two blocks come together; no engine is in here.

A pass is a small picklable object. An engine calls it with every row block, wherever the block is, and merges what
comes back in any order and any tree: every result is small (n x n at most), and what is tall is written by the pass
itself, where the block is. Letters as in Halko, Martinsson, Tropp, Finding structure with randomness, SIAM Review
53(2), 2011.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from components.errors import CtbasisError
from components.svd.basis import complete_basis
from components.svd.factors import FactorWriter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

Parts: TypeAlias = "tuple[NDArray[np.float64], ...]"
"""The small arrays that a pass makes of a row block, or of many."""

PIECE_ELEMENTS = 1 << 18
"""Elements of a row block that are float64 at a time: 2 MiB, which stay in the processor's cache from the conversion to
the product."""

LEAST_PIECE_ROWS = 256
"""Rows of a piece at least, however many columns: with fewer, what is added to W takes longer than what is in it."""


class Pass(Protocol):
    """One pass over A.

    Attributes:
        what: A short name, for progress and Spark's jobs.
        reads: Whether it reads A; where it does not, it is called with no columns of it.
    """

    @property
    def what(self) -> str:
        """Its name."""
        ...

    @property
    def reads(self) -> bool:
        """Whether it reads A."""
        ...

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:
        """Return what the pass makes of row block A[rows], in the dtype on disk."""
        ...

    def merge(self, one: Parts, other: Parts) -> Parts:
        """Return what it makes of both blocks' rows; the memory of `one` may be used for it."""
        ...


def fold(work: Pass, blocks: Iterable[tuple[slice, NDArray[Any]]]) -> Parts | None:
    """Return what `work` makes of all `blocks` together, None where there are none."""
    total: Parts | None = None
    for rows, A in blocks:
        part = work(rows, A)
        total = part if total is None else work.merge(total, part)
    return total


def merged(work: Pass, parts: Iterable[Parts]) -> Parts:
    """Return what `work` makes of several results, none of which is changed: they may be another process's."""
    rest = iter(parts)
    total = tuple(np.array(array) for array in next(rest))
    for part in rest:
        total = work.merge(total, part)
    return total


def nbytes(parts: Parts) -> int:
    """Return the size of a result."""
    return sum(int(array.nbytes) for array in parts)


def add(one: Parts, other: Parts) -> Parts:
    """Add up results that are sums over rows."""
    for mine, yours in zip(one, other, strict=True):
        np.add(mine, yours, out=mine)
    return one


def piece_rows(columns: int) -> int:
    """Return the rows of a piece of a block of so many columns."""
    return max(LEAST_PIECE_ROWS, PIECE_ELEMENTS // max(1, columns))


def pieces(rows: slice, A: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """Yield row block A in float64, a few rows at a time.

    Raises:
        CtbasisError: It holds NaN or Inf, or values whose squares are Inf.
    """
    step = piece_rows(A.shape[1])
    for start in range(0, len(A), step):
        piece = np.ascontiguousarray(A[start : start + step], np.float64)
        # One sum of squares tells: it is finite if every value is, and costs nothing beside the products.
        if A.dtype.kind == "f" and not np.isfinite(np.vdot(piece, piece)):
            raise CtbasisError(
                f"NaN or Inf in rows {rows.start + start} to {rows.start + start + len(piece)} of the matrix",
                expected="finite HU, and squares that are",
                cause="the matrix was not written by the matrix step, or its source holds them",
                remedy="run the matrix step again and look at qc.json",
            )
        yield piece


@dataclass(frozen=True)
class Gram:
    """(A Z)^T (A Z) and ||A||_F^2; without Z, A^T A.

    Attributes:
        Z: (n, l), or None for the identity.
    """

    Z: NDArray[np.float64] | None = None
    what: str = "Gram"
    reads: bool = True
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:
        """Return the Gram matrix, (l, l), and the energy, ()."""
        width = A.shape[1] if self.Z is None else self.Z.shape[1]
        G, energy = np.zeros((width, width)), np.zeros(())
        for piece in pieces(rows, A):
            Y = piece if self.Z is None else piece @ self.Z
            G += Y.T @ Y
            energy += np.vdot(piece, piece)
        return G, energy


@dataclass(frozen=True)
class Triangle:
    """R of the QR of A Z; without Z, of A: orthogonal transformations alone, so that small singular values are right.

    Tall-skinny QR: the R of two stacked R is that of both blocks' rows (Demmel, Grigori, Hoemmen, Langou,
    Communication-optimal parallel and sequential QR, SIAM J. Sci. Comput. 34(1), 2012).
    """

    Z: NDArray[np.float64] | None = None
    what: str = "R of QR"
    reads: bool = True

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:
        """Return R, (min(rows, l), l)."""
        tall = np.vstack([piece if self.Z is None else piece @ self.Z for piece in pieces(rows, A)])
        return (np.asarray(np.linalg.qr(tall, mode="r")),)

    def merge(self, one: Parts, other: Parts) -> Parts:
        """Return the R of both."""
        return (np.asarray(np.linalg.qr(np.vstack([one[0], other[0]]), mode="r")),)


@dataclass(frozen=True)
class Normal:
    """A^T (A Z) and ||A||_F^2: one power iteration of the row space, in one pass.

    Attributes:
        Z: (n, l).
    """

    Z: NDArray[np.float64]
    what: str = "power iteration"
    reads: bool = True
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:
        """Return A^T A Z, (n, l), and the energy, ()."""
        W, energy = np.zeros(self.Z.shape), np.zeros(())
        for piece in pieces(rows, A):
            W += piece.T @ (piece @ self.Z)
            energy += np.vdot(piece, piece)
        return W, energy


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
    """Y = A Omega, written beside the factors, with Y^T Y, A^T Y and ||A||_F^2: all that a single pass over A leaves.

    Attributes:
        Omega: (n, l).
        factors_uri: Where `FactorWriter.create_sketch` made room for Y.
    """

    Omega: NDArray[np.float64]
    factors_uri: str
    what: str = "sketch"
    reads: bool = True
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:
        """Write Y[rows] and return Y^T Y (l, l), A^T Y (n, l) and the energy ()."""
        width = self.Omega.shape[1]
        Y = np.empty((len(A), width))
        H, W, energy = np.zeros((width, width)), np.zeros(self.Omega.shape), np.zeros(())
        first = 0
        for piece in pieces(rows, A):
            part = Y[first : first + len(piece)]
            np.matmul(piece, self.Omega, out=part)
            H += part.T @ part
            W += piece.T @ part
            energy += np.vdot(piece, piece)
            first += len(piece)
        self._writer.write_sketch(rows, Y)
        return H, W, energy


@dataclass(frozen=True)
class FinishSketch(WithFactors):
    """U = Y X from the sketch, without A, and the answers of the columns of Y that were held out as probes.

    Attributes:
        X: (l, j).
        rank: k; columns from j on belong to singular values of zero and complete the basis in the first block.
        weighted: diag(s) V^T Omega of the columns held out, (k, r).
        basis: Random vectors, (k, r).
        factors_uri: Where the factors and the sketch are.
        dtype: Of U there.
    """

    X: NDArray[np.float64]
    rank: int
    weighted: NDArray[np.float64]
    basis: NDArray[np.float64]
    factors_uri: str
    dtype: str
    what: str = "U from the sketch"
    reads: bool = False
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:  # noqa: ARG002 - A is not read
        """Write U[rows] and return ||(A - U diag(s) V^T) Omega||^2 (r,) and U^T U Omega_k (k, r)."""
        Y = self._writer.read_sketch(rows)
        used, found = self.X.shape
        U = completed(np.asarray(Y[:, :used] @ self.X, self.dtype), rows, found, self.rank)
        self._writer.write_block(rows, U)
        stored = np.asarray(U, np.float64)
        difference = Y[:, used:] - stored @ self.weighted
        return np.einsum("ij,ij->j", difference, difference), stored.T @ (stored @ self.basis)


@dataclass(frozen=True)
class Probes:
    """Random vectors with which the last pass asks how wrong the factors are, as stored.

    Attributes:
        columns: Omega, (n, r), standard normal.
        outside: (I - V V^T) Omega, (n, r).
        weighted: diag(s) V^T Omega, (k, r).
        basis: (k, r), standard normal.
    """

    columns: NDArray[np.float64]
    outside: NDArray[np.float64]
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
        """Write U[rows] and return the answers.

        Returns:
            ||(A - U diag(s) V^T) Omega||^2 of each probe (r,); A^T A (I - V V^T) Omega (n, r); U^T U Omega_k (k, r).
        """
        probes, found = self.probes, self.X.shape[1]
        U = np.zeros((len(A), self.rank), self.dtype)
        squares, normal = np.zeros(probes.columns.shape[1]), np.zeros(probes.columns.shape)
        gram = np.zeros(probes.basis.shape)
        both = np.hstack([probes.outside, probes.columns])
        width = probes.columns.shape[1]
        first = 0
        for piece in pieces(rows, A):
            # On its own: the very product that `Gram` took, to the last bit, or T would not fit it.
            Y = piece @ self.X
            asked = piece @ both
            outside, along = asked[:, :width], asked[:, width:]
            stored = U[first : first + len(piece)]
            stored[:, :found] = Y if self.T is None else Y @ self.T
            normal += piece.T @ outside
            as_stored = np.asarray(stored[:, :found], np.float64)
            difference = along - as_stored @ probes.weighted[:found]
            squares += np.einsum("ij,ij->j", difference, difference)
            gram[:found] += as_stored.T @ (as_stored @ probes.basis[:found])
            first += len(piece)
        if found < self.rank:
            U = completed(U[:, :found], rows, found, self.rank)
            stored = np.asarray(U, np.float64)
            gram = stored.T @ (stored @ probes.basis)
        self._writer.write_block(rows, U)
        return squares, normal, gram


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
        for piece in pieces(rows, A):
            part = np.asarray(U[first : first + len(piece)], np.float64)
            difference = piece - part @ self.weights.T
            residual += np.vdot(difference, difference)
            energy += np.vdot(piece, piece)
            normal += difference.T @ (difference @ self.probes.columns)
            gram += part.T @ (part @ self.probes.basis)
            first += len(piece)
        return residual, energy, normal, gram
