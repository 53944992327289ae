"""Two bands of spatial frequency: the fine one shows the noise of an image, the coarse one shows its anatomy.

The noise of filtered back-projection has the spectrum of a ramp: it grows with frequency and vanishes at frequency
zero. The spectrum of anatomy falls steeply (about f^-3). At fine scales an image of soft tissue therefore holds noise
and hardly any anatomy, and at coarse scales it holds the most anatomy for its noise. The noise of one band is
independent of the noise of the other. A place that is chosen because it shows little in the coarse band thus holds
little anatomy, and its noise in the fine band is not biased by the choice.

References:
    S. J. Riederer, N. J. Pelc, D. A. Chesler, "The noise power spectrum in computed x-ray tomography", Phys. Med. Biol.
        23(3), 446-454, 1978.
    A. E. Burgess, "Mammographic structure: data preparation and spatial statistics analysis", Proc. SPIE 3661,
        642-653, 1999 (the power law of anatomy).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self, TypeAlias

import numpy as np
from scipy.ndimage import correlate1d

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FINE_SCALE, MIN_FINE_WIDTH = 0.8, 1.0
"""Standard deviation of the Gaussian average that is subtracted for the fine band: 0.8 mm, and one pixel at least."""

COARSE_RATIOS = 1.5, 4.0
"""Standard deviations of two further averages, relative to that of the fine band; the coarse band is their difference.
The first ratio is above 1, so that the two bands share few frequencies."""

Weights: TypeAlias = "tuple[NDArray[np.float64], NDArray[np.float64]]"
"""Weights of an average along rows and along columns, each of odd length with sum 1."""


@dataclass(frozen=True)
class Bands:
    """The fine and the coarse band of the slices of a volume.

    Attributes:
        fine: Weights of the Gaussian average that is subtracted for the fine band.
        coarse: Weights of the two Gaussian averages whose difference is the coarse band.
    """

    fine: Weights
    coarse: tuple[Weights, Weights]

    @classmethod
    def of(cls, spacing: Sequence[float], widening: float = 1.0) -> Self:
        """Return the bands for given distances in mm between rows and columns; further distances are ignored.

        Args:
            spacing: The distances.
            widening: Factor of all scales, for noise with little power at the finest scales.
        """
        widths = [widening * max(FINE_SCALE / distance, MIN_FINE_WIDTH) for distance in spacing[:2]]
        fine, inner, outer = (
            (_gaussian(ratio * widths[0]), _gaussian(ratio * widths[1])) for ratio in (1.0, *COARSE_RATIOS)
        )
        return cls(fine, (inner, outer))

    @property
    def halo(self) -> int:
        """Number of rows on either side on which a row of a band depends."""
        return len(self.coarse[1][0]) // 2

    def fine_part(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the part of an image in the fine band, (rows, columns, slices)."""
        return np.asarray(x - _average(x, self.fine), np.float32)

    def coarse_part(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the part of an image in the coarse band, (rows, columns, slices)."""
        return np.asarray(_average(x, self.coarse[0]) - _average(x, self.coarse[1]), np.float32)

    def fine_power(self, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the fraction of the power that the fine band keeps at given frequencies.

        Args:
            rows: Frequencies along the row index, in cycles per pixel.
            columns: Frequencies along the column index.
        """
        response = np.ones(np.broadcast_shapes(rows.shape, columns.shape))
        for frequency, weights in zip((rows, columns), self.fine, strict=True):
            offsets = np.arange(len(weights)) - len(weights) // 2
            response *= np.cos(2 * np.pi * frequency[..., None] * offsets) @ weights
        return np.asarray((1 - response) ** 2)

    @property
    def white_fraction(self) -> float:
        """Fraction of the variance of white noise in the fine band."""
        kernel = -np.outer(*self.fine)
        kernel[len(self.fine[0]) // 2, len(self.fine[1]) // 2] += 1
        return float(np.square(kernel).sum())


def _gaussian(width: float) -> NDArray[np.float64]:
    """Return the weights of a Gaussian average with a standard deviation of `width` pixels."""
    reach = math.ceil(3 * width)
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    return np.asarray(weights / weights.sum())


def _average(x: NDArray[np.float32], weights: Weights) -> NDArray[np.float32]:
    for axis, along in enumerate(weights):
        x = correlate1d(x, along, axis, mode="nearest")
    return x
