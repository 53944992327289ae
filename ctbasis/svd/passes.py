"""What one pass over A computes of a row block, and how the results of two blocks come together; no engine is in here.

A pass is a small picklable object. An engine calls it with every row block, wherever the block is, and merges what
comes back in any order and any tree: every result is small (n x n at most), and what is tall is written by the pass
itself, where the block is. Letters as in Halko, Martinsson, Tropp, Finding structure with randomness, SIAM Review
53(2), 2011.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

Parts: TypeAlias = "tuple[NDArray[np.float64], ...]"
"""The small arrays that a pass makes of a row block, or of many."""

PIECE_ELEMENTS = 1 << 18
"""Elements of a row block that are float64 at a time: 2 MiB, which stay in the processor's cache from the conversion to
the product."""

LEAST_PIECE_ROWS = 128
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
    """Return what `work` makes of all `blocks` together, None where there are none.

    Raises:
        CtbasisError: A block holds NaN or Inf, or values whose squares are Inf.
    """
    total: Parts | None = None
    # Numbers that are not finite are refused here, in our words.
    with np.errstate(invalid="ignore", over="ignore"):
        for rows, A in blocks:
            part = work(rows, A)
            if work.reads and A.dtype.kind == "f":
                check_finite(rows, part)
            total = part if total is None else work.merge(total, part)
    return total


def check_finite(rows: slice, part: Parts) -> None:
    """Refuse what a pass made of a row block of which a value is not finite, for it is in every product with it.

    Raises:
        CtbasisError: It holds NaN or Inf.
    """
    if not all(np.isfinite(array).all() for array in part):
        raise CtbasisError(
            f"NaN or Inf in rows {rows.start} to {rows.stop} of the matrix",
            expected="finite HU, and squares that are",
            cause="the matrix was not written by the matrix step, or its source holds them",
            remedy="run the matrix step again and look at qc.json",
        )


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


def pieces(A: NDArray[Any], *, least: int = 0) -> Iterator[NDArray[np.float64]]:
    """Yield row block A in float64, a few rows at a time and `least` rows at least.

    A piece is to be used before the next one is asked for: they are converted in one place.
    """
    step = max(least, piece_rows(A.shape[1]))
    place = None if A.dtype == np.float64 and A.flags.c_contiguous else np.empty((min(step, len(A)), A.shape[1]))
    for start in range(0, len(A), step):
        part = A[start : start + step]
        if place is None:
            yield part
        else:
            np.copyto(place[: len(part)], part)
            yield place[: len(part)]


class Sum:
    """A sum of products of matrices, each of which but the first is made in one place.

    Attributes:
        total: (rows, columns).
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.total = np.zeros((rows, columns))
        self._begun = False
        self._term: NDArray[np.float64] | None = None

    def add_product(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> None:
        """Add `one` @ `other`."""
        if not self._begun:
            self._begun = True
            np.matmul(one, other, out=self.total)
            return
        self._term = np.matmul(one, other, out=self._term)
        self.total += self._term


@dataclass(frozen=True)
class Gram:
    """(A Z)^T (A Z); without Z, A^T A.

    Attributes:
        Z: (n, l), or None for the identity.
    """

    Z: NDArray[np.float64] | None = None
    what: str = "Gram"
    reads: bool = True
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:  # noqa: ARG002 - all rows weigh alike
        """Return the Gram matrix, (l, l)."""
        width = A.shape[1] if self.Z is None else self.Z.shape[1]
        G = Sum(width, width)
        # n rows at least: a sum of n x n takes as long as 2 of them.
        for piece in pieces(A, least=width if self.Z is None else 0):
            Y = piece if self.Z is None else piece @ self.Z
            G.add_product(Y.T, Y)
        return (G.total,)


@dataclass(frozen=True)
class Triangle:
    """R of the QR of A: orthogonal transformations alone, so that small singular values are right.

    Tall-skinny QR: the R of two stacked R is that of both blocks' rows (Demmel, Grigori, Hoemmen, Langou,
    Communication-optimal parallel and sequential QR, SIAM J. Sci. Comput. 34(1), 2012).
    """

    what: str = "R of QR"
    reads: bool = True

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:  # noqa: ARG002 - all rows weigh alike
        """Return R, (min(rows, n), n)."""
        return (np.asarray(np.linalg.qr(np.asarray(A, np.float64), mode="r")),)

    def merge(self, one: Parts, other: Parts) -> Parts:
        """Return the R of both."""
        return (np.asarray(np.linalg.qr(np.vstack([one[0], other[0]]), mode="r")),)


@dataclass(frozen=True)
class Normal:
    """A^T (A Z): one power iteration of the row space, in one pass.

    Attributes:
        Z: (n, l).
    """

    Z: NDArray[np.float64]
    what: str = "power iteration"
    reads: bool = True
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:  # noqa: ARG002 - all rows weigh alike
        """Return A^T A Z, (n, l)."""
        W = Sum(*self.Z.shape)
        for piece in pieces(A):
            W.add_product(piece.T, piece @ self.Z)
        return (W.total,)
