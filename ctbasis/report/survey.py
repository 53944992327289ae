"""One pass over A and U that collects the data of the report: sums over all voxels, and images of a few slices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.progress import progress
from ctbasis.report.quality import LUNG, TISSUE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctbasis.matrix.slice_store import Series
    from ctbasis.matrix.store import MatrixStore
    from ctbasis.svd.factors import FactorStore

SAMPLED = 16
"""Evenly spaced slices that are kept as images. Scores are computed over them, and the figures show one of them."""

BASIS_IMAGES = 8
"""Basis images that are kept."""

NOISY_AIR = -900.0
"""HU up to which the mean of a small square may belong to air: with 100 HU of noise, clipped at -1000, it is -960."""


@dataclass
class RemovedStatistics:
    """Statistics of the removed component A - A_k, summed over the whole matrix.

    Attributes:
        energy: ||A - A_k||_F^2, HU^2.
        count: Voxels of the body (above `TISSUE` in A).
        total: Sum of A - A_k over the body, HU.
        squares: Sum of the squares of A - A_k over the body, HU^2.
    """

    energy: float = 0.0
    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, difference: NDArray[np.float32], body: NDArray[np.bool_]) -> None:
        """Add a part of A - A_k.

        Args:
            difference: The part of A - A_k, HU.
            body: Mask of the body, of the same shape.
        """
        self.energy += float(np.vdot(difference, difference))
        inside = difference * body
        self.count += int(np.count_nonzero(body))
        self.total += float(inside.sum(dtype=np.float64))
        self.squares += float(np.vdot(inside, inside))

    @property
    def std(self) -> float:
        """Standard deviation of A - A_k in the body, HU; 0 if there is no body."""
        if self.count == 0:
            return 0.0
        mean = self.total / self.count
        return float(np.sqrt(max(0.0, self.squares / self.count - mean**2)))


@dataclass
class Survey:
    """Results of one pass over A and U.

    Attributes:
        columns: Columns of A that are kept as images, ascending.
        original: Their images in A, HU, (columns, Rows, Columns).
        truth: Their images in the true matrix, HU; None where it is not known.
        approximations: Their images in A_k, HU, by k.
        basis: The first basis images, (up to BASIS_IMAGES, Rows, Columns).
        removed: Statistics of A - A_k, by k.
        energy: ||A||_F^2, HU^2.
    """

    columns: NDArray[np.intp]
    original: NDArray[np.float32]
    truth: NDArray[np.float32] | None
    approximations: dict[int, NDArray[np.float32]]
    basis: NDArray[np.float32]
    removed: dict[int, RemovedStatistics] = field(default_factory=dict)
    energy: float = 0.0

    @property
    def representative(self) -> int:
        """Index into `columns` of the slice that the figures show."""
        return representative_slice(self.original)


def survey(matrix: MatrixStore, basis: FactorStore, ranks: Sequence[int], truth: MatrixStore | None = None) -> Survey:
    """Go once over A and U, and the truth if there is one, row block by row block, for all `ranks` together.

    Memory holds one row block of each matrix, and `SAMPLED` images of each rank.

    Args:
        matrix: A.
        basis: Its factors.
        ranks: Ranks from 1 to `basis.rank`.
        truth: True matrix of the same shape; optional.

    Raises:
        CtbasisError: A chunk is missing or corrupt.
    """
    ranks = sorted(set(ranks))
    weights = basis.weights.astype(np.float32)
    columns = sampled_columns(matrix.cols)
    data = _empty(matrix, basis, ranks, columns, with_truth=truth is not None)
    for index in progress(range(matrix.block_count), "report", unit="row block"):
        rows = matrix.block(index)
        A = matrix.read_block(index, dtype=np.float32)
        U = basis.read_block(index, rank=max(ranks, default=1)).astype(np.float32, copy=False)
        data.energy += _energy(A)
        _images(data.original)[:, rows] = A[:, columns].T
        if data.truth is not None and truth is not None:
            _images(data.truth)[:, rows] = truth.read_block(index, dtype=np.float32)[:, columns].T
        _images(data.basis)[:, rows] = U[:, : len(data.basis)].T
        for k in ranks:
            _images(data.approximations[k])[:, rows] = weights[columns, :k] @ U[:, :k].T
        for group in matrix.column_groups:
            _subtract(A[:, group], U, weights[group], data.removed)
    return data


def sampled_columns(n: int) -> NDArray[np.intp]:
    """Return the columns to keep as images: the centres of up to `SAMPLED` equal parts of n columns."""
    parts = min(SAMPLED, n)
    return ((np.arange(parts) + 0.5) * n / parts).astype(np.intp)


def series_of(series: Sequence[Series], column: int) -> int:
    """Return the index of the series to which a column of A belongs."""
    return next(index for index, entry in enumerate(series) if column < entry.first + entry.count)


def representative_slice(images: NDArray[np.float32]) -> int:
    """Return the index of the slice with the largest fraction of lung; the middle one if there is no lung.

    Args:
        images: Slices in HU, (slices, Rows, Columns).
    """
    middle = (len(images) - 1) / 2
    shares = [lung_share(image) for image in images]
    return max(range(len(shares)), key=lambda index: (shares[index], -abs(index - middle)))


def lung_share(image: NDArray[Any]) -> float:
    """Return the fraction of a slice whose local mean is that of lung.

    The means of small squares are used, so that noisy air is not counted.

    Args:
        image: Slice in HU, (Rows, Columns).
    """
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
        removed={k: RemovedStatistics() for k in ranks},
    )


def _images(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """View (slices, Rows, Columns) as (slices, m)."""
    return volume.reshape(len(volume), -1)


def _energy(A: NDArray[np.float32]) -> float:
    # In float64, because the energy beyond k is the difference of two nearly equal sums.
    return float(np.einsum("ij,ij->", A, A, dtype=np.float64))


def _subtract(
    A: NDArray[np.float32], U: NDArray[np.float32], weights: NDArray[np.float32], removed: dict[int, RemovedStatistics]
) -> None:
    """Subtract the ranks one after the other from a part of A; all together cost one product at the largest rank."""
    body = A > TISSUE
    difference = A.copy()
    taken = 0
    for k in sorted(removed):
        difference -= U[:, taken:k] @ weights[:, taken:k].T
        taken = k
        removed[k].add(difference, body)
