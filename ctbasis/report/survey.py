"""One pass over A and U that gathers all the report needs: sums over every voxel, and whole images of a few slices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.progress import progress
from ctbasis.report.quality import LUNG, TISSUE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctbasis.matrix.store import MatrixStore
    from ctbasis.svd.factors import FactorStore

SAMPLED = 16
"""Slices kept as images, evenly over the columns: scores are taken over them, and figures choose among them."""

BASIS_IMAGES = 8
"""Basis images that are kept."""

NOISY_AIR = -900.0
"""HU up to which the mean of a small square may be air: clipped at -1000, with 100 HU of noise, its mean is -960."""


@dataclass
class Removed:
    """What A - A_k amounts to, summed over the whole matrix.

    Attributes:
        energy: ||A - A_k||_F^2, HU^2.
        count: Voxels of the body (above `TISSUE` in A).
        total: Sum of A - A_k over them, HU.
        squares: Sum of its squares, HU^2.
    """

    energy: float = 0.0
    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, difference: NDArray[np.float32], body: NDArray[np.bool_]) -> None:
        """Add a piece of A - A_k, with the mask of the body."""
        self.energy += float(np.vdot(difference, difference))
        inside = difference * body
        self.count += int(np.count_nonzero(body))
        self.total += float(inside.sum(dtype=np.float64))
        self.squares += float(np.vdot(inside, inside))

    @property
    def std(self) -> float:
        """Standard deviation of A - A_k in the body, HU; 0 where there is no body."""
        if self.count == 0:
            return 0.0
        mean = self.total / self.count
        return float(np.sqrt(max(0.0, self.squares / self.count - mean**2)))


@dataclass
class Survey:
    """What one pass found.

    Attributes:
        columns: Columns of A that `original`, `truth` and `approximations` show, ascending.
        original: Their images in A, HU, (columns, Rows, Columns).
        truth: The same of the true matrix, where there is one.
        approximations: The same of A_k, by k.
        basis: The first basis images, (up to BASIS_IMAGES, Rows, Columns).
        removed: By k.
        energy: ||A||_F^2, HU^2.
    """

    columns: NDArray[np.intp]
    original: NDArray[np.float32]
    truth: NDArray[np.float32] | None
    approximations: dict[int, NDArray[np.float32]]
    basis: NDArray[np.float32]
    removed: dict[int, Removed] = field(default_factory=dict)
    energy: float = 0.0

    @property
    def representative(self) -> int:
        """Index into `columns` of the slice that shows most lung, the middle one if none does."""
        middle = (len(self.columns) - 1) / 2
        shares = [lung_share(image) for image in self.original]
        return max(range(len(shares)), key=lambda index: (shares[index], -abs(index - middle)))


def survey(matrix: MatrixStore, basis: FactorStore, ranks: Sequence[int], truth: MatrixStore | None = None) -> Survey:
    """Go once over A and U (and the truth), row block by row block, for all `ranks` together.

    In memory: one row block of each, and `SAMPLED` images of each rank.

    Args:
        matrix: A.
        basis: Its factors.
        ranks: Ranks from 1 to `basis.rank`.
        truth: A matrix of the same shape.

    Raises:
        CtbasisError: A chunk is missing or corrupt.
    """
    ranks = sorted(set(ranks))
    weights = basis.weights.astype(np.float32)
    columns = sampled_columns(matrix.cols)
    found = _empty(matrix, basis, ranks, columns, with_truth=truth is not None)
    for index in progress(range(matrix.block_count), "report", unit="row block"):
        rows = matrix.block(index)
        A = matrix.read_block(index, dtype=np.float32)
        U = basis.read_block(index, rank=max(ranks, default=1)).astype(np.float32, copy=False)
        found.energy += _energy(A)
        _images(found.original)[:, rows] = A[:, columns].T
        if found.truth is not None and truth is not None:
            _images(found.truth)[:, rows] = truth.read_block(index, dtype=np.float32)[:, columns].T
        _images(found.basis)[:, rows] = U[:, : len(found.basis)].T
        for k in ranks:
            _images(found.approximations[k])[:, rows] = weights[columns, :k] @ U[:, :k].T
        for group in matrix.column_groups:
            _subtract(A[:, group], U, weights[group], found.removed)
    return found


def sampled_columns(n: int) -> NDArray[np.intp]:
    """Return the columns to keep: the centres of up to `SAMPLED` equal parts of n."""
    parts = min(SAMPLED, n)
    return ((np.arange(parts) + 0.5) * n / parts).astype(np.intp)


def lung_share(image: NDArray[Any]) -> float:
    """Return the share of a slice that looks like lung, by means of small squares, so that noisy air does not."""
    edge = max(1, min(8, min(image.shape) // 16))
    rows, columns = image.shape[0] // edge, image.shape[1] // edge
    squares = image[: rows * edge, : columns * edge].reshape(rows, edge, columns, edge).mean(axis=(1, 3))
    return float(np.mean((squares > NOISY_AIR) & (squares < LUNG[1])))


def _empty(
    matrix: MatrixStore, basis: FactorStore, ranks: Sequence[int], columns: NDArray[np.intp], *, with_truth: bool
) -> Survey:
    def images(count: int) -> NDArray[np.float32]:
        return np.empty((count, *matrix.image), np.float32)

    return Survey(
        columns=columns,
        original=images(len(columns)),
        truth=images(len(columns)) if with_truth else None,
        approximations={k: images(len(columns)) for k in ranks},
        basis=images(min(BASIS_IMAGES, max(ranks, default=1), basis.rank)),
        removed={k: Removed() for k in ranks},
    )


def _images(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """View (slices, Rows, Columns) as (slices, m)."""
    return volume.reshape(len(volume), -1)


def _energy(A: NDArray[np.float32]) -> float:
    # In float64: the energy beyond k is what remains of two nearly equal sums.
    return float(np.einsum("ij,ij->", A, A, dtype=np.float64))


def _subtract(
    A: NDArray[np.float32], U: NDArray[np.float32], weights: NDArray[np.float32], removed: dict[int, Removed]
) -> None:
    """Take one rank after the other off a piece of A: together they cost one product at the largest rank."""
    body = A > TISSUE
    difference = A.copy()
    taken = 0
    for k in sorted(removed):
        difference -= U[:, taken:k] @ weights[:, taken:k].T
        taken = k
        removed[k].add(difference, body)
