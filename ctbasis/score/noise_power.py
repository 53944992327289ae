"""Noise power spectrum (NPS) within a slice, radially averaged, with its mean and its peak frequency.

For squares of Nx x Ny pixels, about SQUARE mm wide, of an error image (image - truth, which holds no anatomy),

    NPS(u, v) = dx dy / (Nx Ny) < |DFT(square - its mean)|^2 >           HU^2 mm^2
    integral of NPS over u and v = variance of the squares               HU^2
    f_av   = sum f NPS(f) / sum NPS(f)                                   1/mm
    f_peak = the frequency of the maximum of NPS(f)                      1/mm

where NPS(f) is the mean over directions, in rings of one frequency step up to the Nyquist frequency of the coarser
axis. Squares overlap by half, and at least the fraction SHARE of their pixels is in the measured region. White noise
has a flat NPS and f_av in the middle of the rings, at half the Nyquist frequency; blurring lowers f_av.
f_peak is that of the parabola through the largest of the three-ring means and its neighbours, because a single ring is
noisy; the NPS of filtered back-projection has one maximum.

References:
    ICRU Report 87, "Radiation dose and image-quality assessment in computed tomography", J. ICRU 12(1), 2012.
    E. Samei et al., "Performance evaluation of computed tomography systems: summary of AAPM Task Group 233", Med. Phys.
        46(11), e735-e756, 2019 (average and peak frequency of the NPS).
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
"""Edge of a square in mm, rounded to an even number of pixels: 32 pixels of 0.7 mm. It fits between the lungs."""

SMALLEST = 8
"""Smallest edge of a square in pixels."""

SHARE = 0.98
"""Smallest fraction of the pixels of a square that are in the region."""


class NoisePower:
    """Noise power spectrum in a region, accumulated slice by slice.

    Args:
        pixel_spacing: mm between rows and between columns.
    """

    def __init__(self, pixel_spacing: tuple[float, float]) -> None:
        self.pixel_spacing = pixel_spacing
        self.edge = edge = max(SMALLEST, 2 * round(SQUARE / min(pixel_spacing) / 2))
        self.squares = 0
        self._power = np.zeros((edge, edge))

    def add(self, error: NDArray[Any], region: NDArray[np.bool_]) -> None:
        """Add a slice.

        Args:
            error: image - truth, HU, (rows, columns).
            region: Mask of the pixels in which noise is measured, (rows, columns).
        """
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
        """NPS(u, v), HU^2 mm^2, (edge, edge), frequencies in the order of numpy.fft; zeros without a square."""
        dy, dx = self.pixel_spacing
        return self._power * (dy * dx / self.edge**2 / max(1, self.squares))

    @property
    def std(self) -> float | None:
        """Standard deviation within the squares, HU; None without a square."""
        dy, dx = self.pixel_spacing
        # Subtracting the mean of a square takes one of its edge^2 degrees of freedom.
        area = dy * dx * (self.edge**2 - 1)
        return math.sqrt(float(self.spectrum.sum()) / area) if self.squares else None

    def radial(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the frequencies of the rings, 1/mm, and NPS(f), HU^2 mm^2."""
        v, u = (np.fft.fftfreq(self.edge, step) for step in self.pixel_spacing)
        f = np.hypot(v[:, None], u)
        width = 1 / (self.edge * max(self.pixel_spacing))
        ring = np.rint(f / width).astype(np.intp)
        # The ring at the Nyquist frequency is incomplete, and frequency zero was removed with the mean.
        last = self.edge // 2
        count = np.bincount(ring.ravel(), minlength=last)[1:last]
        power = np.bincount(ring.ravel(), self.spectrum.ravel(), minlength=last)[1:last] / count
        return np.asarray(np.arange(1, last) * width, np.float64), power

    @property
    def mean_frequency(self) -> float | None:
        """f_av, 1/mm; None without a square or without noise."""
        f, power = self.radial()
        total = float(power.sum())
        return float((f * power).sum() / total) if total > 0 else None

    @property
    def peak_frequency(self) -> float | None:
        """f_peak, 1/mm; None without a square or without noise."""
        f, power = self.radial()
        if not power.sum() > 0:
            return None
        smooth = np.convolve(np.pad(power, 1, mode="edge"), np.full(3, 1 / 3), mode="valid")
        top = int(np.argmax(smooth))
        if not 0 < top < len(f) - 1:
            return float(f[top])
        before, most, after = smooth[top - 1 : top + 2].tolist()
        curvature = before - 2 * most + after
        shift = 0.5 * (before - after) / curvature if curvature else 0.0
        return float(f[top] + shift * (f[1] - f[0]))

    def to_dict(self) -> dict[str, Any]:
        """Return all results as values for JSON."""
        f, power = self.radial()
        return {
            "squares": self.squares,
            "std": self.std,
            "mean_frequency": self.mean_frequency,
            "peak_frequency": self.peak_frequency,
            "frequencies": np.round(f, 5).tolist(),
            "power": [float(f"{value:.5g}") for value in power],
        }
