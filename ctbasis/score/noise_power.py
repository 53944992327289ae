"""The noise power spectrum (NPS) within a slice, radially averaged, and its mean frequency.

Over squares of Nx x Ny pixels, about SQUARE mm wide, of an error image (image - truth, so that anatomy is not in it),

    NPS(u, v) = dx dy / (Nx Ny) < |DFT(square - its mean)|^2 >           HU^2 mm^2
    integral of NPS over u and v = variance of the squares               HU^2
    f_mean = sum f NPS(f) / sum NPS(f)                                   1/mm

with NPS(f) the mean over directions, in rings of one frequency step from the first to the Nyquist frequency of the
coarser axis. Squares overlap by half and lie at least SHARE within the region that is measured. White noise has a flat
NPS and f_mean at the middle of the rings, half the Nyquist frequency; blurring moves it down.

References:
    ICRU Report 87, "Radiation dose and image-quality assessment in computed tomography", J. ICRU 12(1), 2012.
    E. Samei et al., "Performance evaluation of computed tomography systems: summary of AAPM Task Group 233", Med. Phys.
        46(11), e735-e756, 2019 (average frequency of the NPS).
    J. H. Siewerdsen, I. A. Cunningham, D. A. Jaffray, "A framework for noise-power spectrum analysis of
        multidimensional images", Med. Phys. 29(11), 2655-2671, 2002.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

if TYPE_CHECKING:
    from numpy.typing import NDArray

SQUARE = 22.4
"""mm along the edge of a square, as near as an even number of pixels comes: 32 of 0.7 mm. Fits between the lungs."""

SMALLEST = 8
"""Pixels along the edge of a square at least."""

SHARE = 0.98
"""Of a square's pixels that lie in the region."""


class NoisePower:
    """The spectrum of noise in a region, slice by slice.

    Args:
        pixel_spacing: mm between rows and between columns.
    """

    def __init__(self, pixel_spacing: tuple[float, float]) -> None:
        self.pixel_spacing = pixel_spacing
        self.edge = edge = max(SMALLEST, 2 * round(SQUARE / min(pixel_spacing) / 2))
        self.squares = 0
        self._power = np.zeros((edge, edge))

    def add(self, error: NDArray[Any], region: NDArray[np.bool_]) -> None:
        """Take a slice of image - truth, HU, and where in it noise is measured."""
        if min(error.shape) < self.edge:
            return
        step = (slice(None, None, self.edge // 2),) * 2
        windows = sliding_window_view(error, (self.edge, self.edge))[step]
        inside = sliding_window_view(region, (self.edge, self.edge))[step].mean(axis=(2, 3)) >= SHARE
        squares = windows[inside].astype(np.float64)
        if len(squares):
            squares -= squares.mean(axis=(1, 2), keepdims=True)
            self._power += (np.abs(np.fft.fft2(squares)) ** 2).sum(axis=0)
            self.squares += len(squares)

    @property
    def spectrum(self) -> NDArray[np.float64]:
        """NPS(u, v), HU^2 mm^2, (edge, edge), frequencies in the order of numpy.fft; zeros where none was measured."""
        dy, dx = self.pixel_spacing
        return self._power * (dy * dx / self.edge**2 / max(1, self.squares))

    @property
    def std(self) -> float | None:
        """Standard deviation within the squares, HU."""
        dy, dx = self.pixel_spacing
        # A square's mean took one of its edge^2 degrees of freedom.
        area = dy * dx * (self.edge**2 - 1)
        return math.sqrt(float(self.spectrum.sum()) / area) if self.squares else None

    def radial(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the rings' frequencies, 1/mm, and NPS(f), HU^2 mm^2."""
        v, u = (np.fft.fftfreq(self.edge, step) for step in self.pixel_spacing)
        f = np.hypot(v[:, None], u)
        width = 1 / (self.edge * max(self.pixel_spacing))
        ring = np.rint(f / width).astype(np.intp)
        # The ring at the Nyquist frequency itself is cut by the corners; zero holds what the mean took away.
        last = self.edge // 2
        count = np.bincount(ring.ravel(), minlength=last)[1:last]
        power = np.bincount(ring.ravel(), self.spectrum.ravel(), minlength=last)[1:last] / count
        return np.asarray(np.arange(1, last) * width, np.float64), power

    @property
    def mean_frequency(self) -> float | None:
        """f_mean, 1/mm; None where nothing was measured or there is no noise."""
        f, power = self.radial()
        total = float(power.sum())
        return float((f * power).sum() / total) if total > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, fit for JSON."""
        f, power = self.radial()
        return {
            "squares": self.squares,
            "std": self.std,
            "mean_frequency": self.mean_frequency,
            "frequencies": np.round(f, 5).tolist(),
            "power": [float(f"{value:.5g}") for value in power],
        }
