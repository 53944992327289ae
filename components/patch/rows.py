"""Patches as rows: a slab of a volume gives one row per place, one column per voxel of the patch, and takes them back.

The matrix of all rows is as tall as the volume has voxels and never exists: each block of it is generated from a slab
with its halo where it is needed, by any engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from components.patch.kernels import compiled

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


def rows_at(slab: NDArray[np.float32], first: int, shape: Shape, at: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return the patches whose first row is row `first` of the slab, (places, voxels of a patch).

    Args:
        slab: (rows, columns, slices).
        first: Row.
        shape: Of a patch.
        at: First columns; along the slices every place is taken.
    """
    windows = sliding_window_view(slab[first : first + shape[0]], shape)[0]
    chosen = windows if len(at) == len(windows) else windows[at]
    return np.ascontiguousarray(chosen.reshape(len(at) * windows.shape[1], -1))


def add_back(
    total: NDArray[np.float32],
    weight: NDArray[np.float32],
    rows: NDArray[np.float32],
    certainty: NDArray[np.float32],
    first: int,
    *,
    shape: Shape,
    at: NDArray[np.intp],
) -> None:
    """Add estimates of the patches that `rows_at` gave to where they came from.

    Args:
        total: Sum of certainty times estimate, (rows, columns, slices), changed.
        weight: Sum of certainty, changed.
        rows: Estimates, (places, voxels of a patch).
        certainty: Of each, (places,).
        first: As given to `rows_at`.
        shape: Of a patch.
        at: As given to `rows_at`.
    """
    _add(total, weight, rows, certainty, first, at, np.array([*shape, total.shape[2] - shape[2] + 1]))


@compiled
def _add(
    total: NDArray[np.float32],
    weight: NDArray[np.float32],
    rows: NDArray[np.float32],
    certainty: NDArray[np.float32],
    first: int,
    at: NDArray[np.intp],
    size: NDArray[np.intp],
) -> None:
    height, width, depth, along = size
    for place in range(len(at)):
        for z in range(along):
            row = place * along + z
            share = certainty[row]
            voxel = 0
            for i in range(height):
                for j in range(width):
                    for k in range(depth):
                        total[first + i, at[place] + j, z + k] += share * rows[row, voxel]
                        weight[first + i, at[place] + j, z + k] += share
                        voxel += 1
