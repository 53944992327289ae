"""Voxels that are excluded from denoising: padding, the air around the patient, and areas that the scanner clipped.

Excluded voxels come back as they were. Whether a voxel is excluded depends on what it is and not on its value: noise
takes voxels of the lung below the HU of air, and these are denoised like their neighbours.

    padding     the file declares it (PixelPaddingValue, PixelPaddingRangeLimit)
    outside     air that is connected to the image border or to padding. Walls that are thinner than the patient's, such
                as the shell of the table, a blanket or a tube, do not separate air from the air around the patient
    clipped     areas of one and the same value below air, at least FLAT x FLAT pixels: a measurement has noise, so such
                an area is the end of the range of the scanner or of the format, or padding that is not declared

A slice is decided on its own, so that memory is that of one slice. The air is found on a local mean, which averages the
noise away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import label, maximum_filter, minimum_filter, uniform_filter

from ctbasis.storage.voxels import AIR, absent

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOCAL = 5
"""Pixels along the edge of the square over which the local mean is taken."""

AIR_BELOW = -900.0
"""HU. A pixel whose local mean is lower is air if it is connected to the outside. Noise and scattered radiation raise
air at the skin to about -960 HU. A lung as light as this is connected to the outside only where the image cuts it."""

BORDER_AIR_BELOW = -950.0
"""HU. The outside begins at border pixels with a lower local mean: a lung that the image border cuts is not outside."""

POCKET_BELOW = -960.0
"""HU. Air behind a thin wall is outside if its mean is lower. Emphysematous lung is not, nor is the foam in a table."""

RANGE = (-1100.0, 3000.0)
"""HU to which values are limited for the local mean, so that a single defective voxel does not decide about others."""

TISSUE_ABOVE = -500.0
"""HU. A mean over 3 x 3 pixels that is higher is tissue, or another wall."""

THIN_WALL = 4.0
"""Thickness in mm below which a wall is no wall of the patient: tables have shells of 1 to 3 mm, chests walls of 8 mm
and more."""

BRIDGE = 7
"""Pixels along the edge of the square by which a thin wall is widened to reach the air on both sides of its blurred
edges."""

FLAT = 5
"""Pixels along the edge of the smallest area of one value that counts as clipped."""


def excluded_voxels(
    hu: NDArray[Any], pixel_spacing: tuple[float, float], padded: NDArray[np.bool_] | None = None
) -> NDArray[np.bool_]:
    """Return the mask of the voxels of one slice that are excluded from denoising.

    Args:
        hu: HU of the slice as measured, (rows, columns).
        pixel_spacing: Distance in mm between rows and between columns.
        padded: Mask of the declared padding, (rows, columns); None if there is none.

    Returns:
        The mask, (rows, columns).
    """
    values = np.clip(hu, *RANGE).astype(np.float32)
    solid = np.zeros(hu.shape, np.bool_)
    if padded is not None and padded.any():
        # Single voxels that happen to have a padding value within the range of tissue lead nowhere.
        solid = _widened(minimum_filter(padded.view(np.uint8), FLAT).view(np.bool_), FLAT)
        values[solid] = AIR
    mean = uniform_filter(values, LOCAL, mode="nearest")
    area, count = label((mean < AIR_BELOW) | solid)
    outside = np.zeros(count + 1, np.bool_)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        outside[area[edge][mean[edge] < BORDER_AIR_BELOW]] = True
    outside[area[solid]] = True
    outside[0] = False
    if outside.any() and not outside[1:].all():
        outside |= _pockets(values, mean, area, outside, min(pixel_spacing))
    excluded: NDArray[np.bool_] = outside[area]
    # The local mean of the pixels next to the skin and to the table holds a part of these.
    excluded |= _widened(excluded, LOCAL) & (values < AIR_BELOW)
    below = (hu < AIR) & ~excluded
    if below.any():
        excluded |= _clipped(hu, below)
    if padded is not None:
        excluded |= padded
    return excluded


def _pockets(
    values: NDArray[np.float32],
    mean: NDArray[np.float32],
    area: NDArray[np.int32],
    outside: NDArray[np.bool_],
    pixel: float,
) -> NDArray[np.bool_]:
    """Return which areas of air only thin walls separate from the outside, such as that between table and back.

    Args:
        values: HU, limited to RANGE, (rows, columns).
        mean: Their local mean.
        area: Number of the area of air of every pixel; 0 where there is none.
        outside: For every area, whether it is outside, (areas + 1,).
        pixel: Edge of a pixel in mm.
    """
    nothing = np.zeros(len(outside), np.bool_)
    edge = 2 * round(THIN_WALL / pixel / 2) + 1
    counts = np.bincount(area.ravel(), minlength=len(outside))
    sums = np.bincount(area.ravel(), mean.ravel(), minlength=len(outside))
    candidates = ~outside & (sums < POCKET_BELOW * counts)
    candidates[0] = False
    if edge == 1 or not candidates.any():
        return nothing
    tissue = uniform_filter(values, 3, mode="nearest") > TISSUE_ABOVE
    thick = _widened(minimum_filter(tissue.view(np.uint8), edge).view(np.bool_), edge)
    thin = tissue & ~_widened(thick, 3)
    way, count = label((area > 0) | (_widened(thin, BRIDGE) & ~thick))
    open_ways, reached = np.zeros(count + 1, np.bool_), nothing
    open_ways[way[outside[area]]] = True
    reached[area[open_ways[way]]] = True
    return reached & candidates


def _clipped(hu: NDArray[Any], below: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the mask of areas of one value, at least FLAT x FLAT pixels, whose middles are in `below`."""
    middle = (minimum_filter(hu, FLAT) == maximum_filter(hu, FLAT)) & below
    return _widened(middle, FLAT) if middle.any() else middle


def _widened(mask: NDArray[np.bool_], edge: int) -> NDArray[np.bool_]:
    """Return `mask` widened by a square of `edge` x `edge` pixels."""
    return np.asarray(maximum_filter(mask.view(np.uint8), edge).view(np.bool_))


def exclude(hu: NDArray[Any], aside: NDArray[Any], excluded: NDArray[np.bool_]) -> bool:
    """Replace the HU of excluded voxels by `AIR` and keep the original values.

    Args:
        hu: HU as measured, modified in place.
        aside: Receives the original HU of excluded voxels and `absent` elsewhere; dtype and shape of `hu`.
        excluded: Mask of the excluded voxels, of the shape of `hu`.

    Returns:
        Whether any voxel is excluded.
    """
    if hu.dtype.kind == "i":
        # Arithmetic on whole arrays: masked assignment takes several times as long.
        np.multiply(hu, excluded, out=aside)
        aside += np.multiply(~excluded, absent(hu.dtype), dtype=hu.dtype, casting="unsafe")
    else:
        aside.fill(absent(hu.dtype))
        np.copyto(aside, hu, where=excluded)
    np.copyto(hu, hu.dtype.type(AIR), where=excluded)
    return bool(excluded.any())
