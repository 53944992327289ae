"""Patches as rows: a slab of a volume gives one row per place, one column per voxel of the patch, and takes them back.

The matrix of all rows is as tall as the volume has voxels and never exists: each block of it is generated from a slab
with its halo where it is needed, by any engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import correlate1d

from ctbasis.patch.kernels import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

THICK = 1.6
"""Slice distance over pixel size from which a patch spans three slices and not five."""

Shape = tuple[int, int, int]


def patch_shape(volume: Shape, spacing: tuple[float, float, float]) -> Shape:
    """Return rows, columns and slices of a patch: five voxels, or about as many mm along the slices, at least three.

    No more than the volume has.
    """
    along = 3 if spacing[2] > THICK * min(spacing[:2]) else 5
    rows, columns, slices = volume
    return min(5, rows), min(5, columns), min(along, slices)


def places(length: int, edge: int, stride: int) -> NDArray[np.intp]:
    """Return where patches begin along an axis: every `stride`, and the last, so that every voxel is in one."""
    last = length - edge
    return np.unique(np.append(np.arange(0, last + 1, stride), last))


def chequered(at: NDArray[np.intp], line: int, last: int) -> NDArray[np.intp]:
    """Return every other one of the places `at` of a line, in turn as on a chessboard, and all that lie at an edge.

    Args:
        at: First columns, every one there is.
        line: First row.
        last: The last there is.
    """
    if line in {0, last}:
        return at
    return np.unique(np.concatenate([at[:1], at[line % 2 :: 2], at[-1:]]))


@dataclass(frozen=True)
class Grid:
    """The patches of a slab, each known by the number of its first voxel in the slab, read row by row.

    Attributes:
        shape: Of a patch.
        slab: Rows, columns and slices of the slab; arrays of it are C-contiguous.
    """

    shape: Shape
    slab: Shape

    @cached_property
    def _voxels(self) -> NDArray[np.intp]:
        """Of a patch, counted from its first."""
        return np.asarray(np.ravel_multi_index(tuple(np.indices(self.shape)), self.slab).ravel())

    def line(self, row: int, at: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the patches that begin in row `row` and columns `at`; along the slices every place is taken."""
        along = np.arange(self.slab[2] - self.shape[2] + 1)
        return np.asarray(((row * self.slab[1] + at)[:, None] * self.slab[2] + along).ravel())

    def middles(self, of: NDArray[Any], patches: NDArray[np.intp]) -> NDArray[Any]:
        """Return what an array of the slab has in the middle of patches."""
        middle = np.ravel_multi_index([edge // 2 for edge in self.shape], self.slab)
        return np.asarray(of.ravel()[patches + middle])

    def rows(self, of: NDArray[np.float32], patches: NDArray[np.intp]) -> NDArray[np.float32]:
        """Return patches of an array of the slab as rows, (patches, voxels of a patch)."""
        return _gathered(of.ravel(), patches, self._voxels)

    def add_back(
        self,
        total: NDArray[np.float32],
        rows: NDArray[np.float32],
        certainty: NDArray[np.float32],
        patches: NDArray[np.intp],
    ) -> None:
        """Add `certainty` times `rows`, (patches, voxels of a patch), to where they came from.

        Args:
            total: Of the slab, changed.
            rows: Estimates of the patches.
            certainty: Of each, (patches,).
            patches: Which.
        """
        _add(total.reshape(-1), rows, certainty, patches, self._voxels)

    def held(self, certainty: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return for each voxel the sum of `certainty`, of the slab, by first voxel, over all patches that hold it."""
        for axis, edge in enumerate(self.shape):
            # Sums of a few, not running ones: where no patch is, the sum is exactly 0.
            certainty = correlate1d(certainty, np.ones(edge), axis, mode="constant", origin=(edge - 1) // 2)
        return certainty


@compiled
def _gathered(values: NDArray[np.float32], patches: NDArray[np.intp], voxels: NDArray[np.intp]) -> NDArray[np.float32]:
    out = np.empty((len(patches), len(voxels)), np.float32)
    for row in range(len(patches)):
        for i in range(len(voxels)):
            out[row, i] = values[patches[row] + voxels[i]]
    return out


@compiled
def _add(
    total: NDArray[np.float32],
    rows: NDArray[np.float32],
    certainty: NDArray[np.float32],
    patches: NDArray[np.intp],
    voxels: NDArray[np.intp],
) -> None:
    for row in range(len(patches)):
        for i in range(len(voxels)):
            total[patches[row] + voxels[i]] += certainty[row] * rows[row, i]
