"""The noise of an image by one yardstick that needs no noise model: the global noise level.

The standard deviation is computed in a square around every voxel of soft tissue. Squares that hold nothing but one
tissue have that of the noise, others a larger one, and the most frequent value, the mode of the histogram, is the noise
of the image. It is measured in the same squares before and after denoising, in both modes alike.

A square averages noise whose correlation is longer than its edge, so that the level of such noise is too low. Noise and
fine texture of a tissue cannot be told apart: the level after denoising is an upper bound of the noise that is left.

References:
    O. Christianson, J. Winslow, D. P. Frush, E. Samei, "Automated technique to measure noise in clinical CT
        examinations", American Journal of Roentgenology 205(1), W93-W99, 2015.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter1d, uniform_filter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

SOFT_TISSUE = (0.0, 170.0)
"""Mean HU of the squares that are measured."""

EDGE_MM = 6.0
"""Length of the edge of a square, mm."""

FEWEST_PIXELS = 5
"""Smallest length of the edge of a square, pixels: fewer values give no standard deviation that can be relied on."""

FEWEST_SQUARES = 200
"""Smallest number of squares for which there is a mode."""

BINS = 200
"""Bins of the histogram, from 0 to the 90th percentile of the standard deviations."""

SMOOTHING = 4.0
"""Standard deviation, in bins, of the Gaussian that smooths the histogram before its mode is searched."""


def noise_levels(
    before: Iterable[NDArray[np.float32]],
    after: Iterable[NDArray[np.float32]],
    pixel_spacings: Iterable[tuple[float, float]],
) -> dict[str, float | None]:
    """Return `noise_before_hu` and `noise_after_hu`, the noise in soft tissue; None where there is too little of it.

    The squares of soft tissue are those of the denoised image, because noise shifts no mean there.

    Args:
        before: Slices in HU, each (Rows, Columns).
        after: The same slices after denoising.
        pixel_spacings: Distance in mm between rows and between columns, of each slice.
    """
    low, high = SOFT_TISSUE
    noisy, denoised = [], []
    for first, second, pixel_spacing in zip(before, after, pixel_spacings, strict=True):
        size = [max(FEWEST_PIXELS, round(EDGE_MM / spacing)) for spacing in pixel_spacing]
        mean, deviation = _local(second, size)
        inside = (mean >= low) & (mean <= high)
        noisy.append(_local(first, size)[1][inside])
        denoised.append(deviation[inside])
    enough = sum(map(len, noisy)) >= FEWEST_SQUARES
    return {
        "noise_before_hu": _mode(np.concatenate(noisy)) if enough else None,
        "noise_after_hu": _mode(np.concatenate(denoised)) if enough else None,
    }


def _local(image: NDArray[np.float32], size: list[int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation in the square around every voxel, HU, both (Rows, Columns)."""
    values = image.astype(np.float64)
    mean = uniform_filter(values, size)
    variance = uniform_filter(values**2, size) - mean**2
    count = size[0] * size[1]
    return mean, np.sqrt(np.maximum(variance, 0.0) * count / (count - 1))


def _mode(values: NDArray[np.float64]) -> float:
    """Return the most frequent value."""
    most = float(np.quantile(values, 0.9))
    if most == 0:
        return 0.0
    counts, edges = np.histogram(values, BINS, (0.0, most))
    peak = int(np.argmax(gaussian_filter1d(counts.astype(np.float64), SMOOTHING, mode="constant")))
    return float(edges[peak] + edges[peak + 1]) / 2
