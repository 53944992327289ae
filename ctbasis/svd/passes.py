"""Passes over A: what is computed from each row block, and how the results of two blocks are combined.

A pass is a small picklable object. An engine calls it on every row block, wherever that block is, and combines the
results in any order and any tree. Every result is small (n x n at most); a pass writes tall matrices itself, block by
block, on the worker that has the block (ctbasis/svd/factor_passes.py). No pass depends on an engine.

Letters as in Halko, Martinsson, Tropp, Finding structure with randomness, SIAM Review 53(2), 2011.
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
"""The small arrays that a pass computes from one or more row blocks."""

PANEL_ELEMENTS = 1 << 18
"""Elements of a panel: 2 MiB in float64, which stay in the processor's cache from the conversion to the product."""

MIN_PANEL_ROWS = 128
"""Smallest number of rows of a panel: with fewer, adding its product to the total takes longer than computing it."""


class Pass(Protocol):
    """One pass over A."""

    @property
    def name(self) -> str:
        """Short name, for progress and for Spark's job description."""
        ...

    @property
    def reads(self) -> bool:
        """Whether the pass reads A; if not, it is called with blocks that have no columns."""
        ...

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:
        """Return the result for one row block.

        Args:
            rows: The rows of the block in A.
            A: The block, (block rows, n), in the dtype on disk.
        """
        ...

    def merge(self, one: Parts, other: Parts) -> Parts:
        """Return the result for the rows of both; the arrays of `one` may be overwritten."""
        ...


def fold(work: Pass, blocks: Iterable[tuple[slice, NDArray[Any]]]) -> Parts | None:
    """Run a pass on row blocks one after the other.

    Args:
        work: The pass.
        blocks: Rows and values of each block.

    Returns:
        The combined result, or None if `blocks` is empty.

    Raises:
        CtbasisError: A block contains NaN or Inf, or values whose squares overflow.
    """
    total: Parts | None = None
    # check_finite raises our own error for these numbers; NumPy's warnings would only repeat it.
    with np.errstate(invalid="ignore", over="ignore"):
        for rows, A in blocks:
            part = work(rows, A)
            if work.reads and A.dtype.kind == "f":
                check_finite(rows, part)
            total = part if total is None else work.merge(total, part)
    return total


def check_finite(rows: slice, part: Parts) -> None:
    """Check that the result for a row block is finite, and thereby the block: each of its values enters a product.

    Raises:
        CtbasisError: The result contains NaN or Inf.
    """
    if not all(np.isfinite(array).all() for array in part):
        raise CtbasisError(
            f"NaN or Inf in rows {rows.start} to {rows.stop} of the matrix",
            expected="finite HU whose squares are finite",
            cause="the matrix was not written by the matrix step, or its source contains such values",
            remedy="run the matrix step again and look at qc.json",
        )


def merged(work: Pass, parts: Iterable[Parts]) -> Parts:
    """Combine several results of a pass without changing them, since they may belong to another process."""
    rest = iter(parts)
    total = tuple(np.array(array) for array in next(rest))
    for part in rest:
        total = work.merge(total, part)
    return total


def nbytes(parts: Parts) -> int:
    """Return the size of a result in bytes."""
    return sum(int(array.nbytes) for array in parts)


def add(one: Parts, other: Parts) -> Parts:
    """Add `other` to `one` in place; the `merge` of every pass whose result is a sum over rows."""
    for total, term in zip(one, other, strict=True):
        np.add(total, term, out=total)
    return one


def panel_rows(columns: int) -> int:
    """Return the number of rows of a panel of a block with `columns` columns."""
    return max(MIN_PANEL_ROWS, PANEL_ELEMENTS // max(1, columns))


def panels(A: NDArray[Any], *, min_rows: int = 0) -> Iterator[NDArray[np.float64]]:
    """Yield a row block in panels of a few rows, converted to float64.

    All panels share one buffer, so a panel is valid only until the next one is requested.

    Args:
        A: Row block, (block rows, n), any dtype.
        min_rows: Smallest number of rows of each panel but the last.
    """
    step = max(min_rows, panel_rows(A.shape[1]))
    buffer = None if A.dtype == np.float64 and A.flags.c_contiguous else np.empty((min(step, len(A)), A.shape[1]))
    for start in range(0, len(A), step):
        part = A[start : start + step]
        if buffer is None:
            yield part
        else:
            np.copyto(buffer[: len(part)], part)
            yield buffer[: len(part)]


class ProductSum:
    """A sum of matrix products; all products but the first are computed in one reused buffer.

    Attributes:
        total: (rows, columns).
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.total = np.zeros((rows, columns))
        self._started = False
        self._term: NDArray[np.float64] | None = None

    def add_product(self, one: NDArray[np.float64], other: NDArray[np.float64]) -> None:
        """Add `one` @ `other` to the total."""
        if not self._started:
            self._started = True
            np.matmul(one, other, out=self.total)
            return
        self._term = np.matmul(one, other, out=self._term)
        self.total += self._term


@dataclass(frozen=True)
class Gram:
    """The Gram matrix (A Z)^T (A Z), or A^T A if there is no Z.

    Attributes:
        Z: (n, l), or None for the identity.
        name: See `Pass`.
        reads: See `Pass`.
    """

    Z: NDArray[np.float64] | None = None
    name: str = "Gram"
    reads: bool = True
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:  # noqa: ARG002 - the result does not depend on the rows' place
        """Return the Gram matrix of a row block, (l, l)."""
        width = A.shape[1] if self.Z is None else self.Z.shape[1]
        G = ProductSum(width, width)
        # Adding two n x n matrices costs as much as multiplying two rows, so a panel has at least n rows.
        for panel in panels(A, min_rows=width if self.Z is None else 0):
            Y = panel if self.Z is None else panel @ self.Z
            G.add_product(Y.T, Y)
        return (G.total,)


@dataclass(frozen=True)
class TriangularFactor:
    """The factor R of A = Q R. Only orthogonal transformations are used, so small singular values are accurate.

    Tall-skinny QR: the R of two stacked R is the R of all their rows (Demmel, Grigori, Hoemmen, Langou,
    Communication-optimal parallel and sequential QR, SIAM J. Sci. Comput. 34(1), 2012).

    Attributes:
        name: See `Pass`.
        reads: See `Pass`.
    """

    name: str = "R of QR"
    reads: bool = True

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:  # noqa: ARG002 - the result does not depend on the rows' place
        """Return R of a row block, (min(block rows, n), n)."""
        return (np.asarray(np.linalg.qr(np.asarray(A, np.float64), mode="r")),)

    def merge(self, one: Parts, other: Parts) -> Parts:
        """Return R of the rows of both."""
        return (np.asarray(np.linalg.qr(np.vstack([one[0], other[0]]), mode="r")),)


@dataclass(frozen=True)
class PowerIteration:
    """A^T (A Z): one power iteration on the row space of A, in one pass.

    Attributes:
        Z: (n, l).
        name: See `Pass`.
        reads: See `Pass`.
    """

    Z: NDArray[np.float64]
    name: str = "power iteration"
    reads: bool = True
    merge = staticmethod(add)

    def __call__(self, rows: slice, A: NDArray[Any]) -> Parts:  # noqa: ARG002 - the result does not depend on the rows' place
        """Return A^T A Z of a row block, (n, l)."""
        W = ProductSum(*self.Z.shape)
        for panel in panels(A):
            W.add_product(panel.T, panel @ self.Z)
        return (W.total,)
