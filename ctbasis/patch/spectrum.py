"""The noise power spectrum of filtered back-projection, fitted to covariances in the fine band.

By the central-slice theorem, the spatial frequencies of one direction come from the view of that direction alone. The
noise power spectrum at frequency f and direction phi is modelled as

    S(x; f, phi) = v(x, phi)^g a(phi) f W(f)^2 + w

  * v is the variance of the rays through x, which follows from the image (ctbasis/patch/ray_paths.py). Processing that
    makes the noise more uniform is unknown, so v enters with the exponent g that explains the covariances of the
    individual quiet cells best; g = 0 is noise without a preferred direction.
  * a is an angular factor, the same everywhere: what v does not explain, such as tube current modulation.
  * f is the ramp filter. W is the product of the reconstruction kernel and of all blurring, the same everywhere. W^2
    is not negative.
  * w is a noise floor that does not depend on frequency or direction. Filtered back-projection does not produce one. It
    comes from later processing (pixels too wide for the kernel, so that higher frequencies alias; rounding) and from
    anatomy that is too fine to distinguish from noise.

Anatomy would dominate a covariance at low frequencies. So only the fine band (ctbasis/patch/bands.py) is fitted, and
the model extends it to low frequencies: there the ramp goes to zero, and W^2 is smooth and symmetric about frequency
zero, because the response of a kernel is. So W^2 is a Gaussian times a spline, and the least-squares problem has
additional rows, with a small weight, for the slope of the spline at zero and its second differences. The Gaussian with
which the spline is smoothest is chosen.

References:
    S. J. Riederer, N. J. Pelc, D. A. Chesler, "The noise power spectrum in computed x-ray tomography", Phys. Med. Biol.
        23(3), 446-454, 1978.
    K. M. Hanson, "Detectability in computed tomographic images", Med. Phys. 6(5), 441-451, 1979.
    A. Wunderlich, F. Noo, "Image covariance and lesion detectability in direct fan-beam x-ray computed tomography",
        Phys. Med. Biol. 53(10), 2471-2493, 2008.
    C. L. Lawson, R. J. Hanson, "Solving Least Squares Problems", SIAM, 1995, chapter 23.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.optimize import nnls

from ctbasis.patch.ray_paths import DIRECTIONS, VIEWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.patch.bands import Bands

NODES = 16
"""Nodes of the linear spline in W^2, from frequency zero to the highest frequency of the image."""

FREQUENCIES = 64
"""Radial frequencies at which spectra are sampled."""

DIRECTIONALITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Candidate exponents g."""

GAUSSIANS = (0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 1.0, float("inf"))
"""Candidate widths of the Gaussian in W^2, relative to the highest frequency of the image: exp(-(f / width)^2)."""

SMOOTHNESS = 1.0
"""Weight of the slope at zero and of the second differences of the spline. It predicts the low end of the spectrum of
known kernels to a percent; with a tenth of it, to ten percent."""

ANGULAR_SMOOTHNESS = 0.6
"""Weight of the differences of the angular factor between neighbouring directions."""

ALTERNATIONS = 4
"""Times that the spline and the angular factor are fitted in turn."""


@dataclass(frozen=True)
class Spectrum:
    """A fitted noise power spectrum.

    Attributes:
        directionality: Exponent g.
        angular: Angular factor a, with mean 1, (DIRECTIONS,).
        power: W^2 at the nodes of the spline, and w as the last entry, (NODES + 1,).
    """

    directionality: float
    angular: NDArray[np.float64]
    power: NDArray[np.float64]

    def covariances(self, weights: NDArray[np.float64], patterns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the covariances of the noise where the ray variances have given weights, (places, ...).

        Args:
            weights: v^g of every place, see `direction_weights`, (places, DIRECTIONS).
            patterns: Patterns of `correlation_patterns`, (DIRECTIONS, NODES + 1, ...).
        """
        ramp = np.einsum("d,dw...,w->d...", self.angular, patterns[:, :-1], self.power[:-1])
        return np.asarray(np.einsum("pd,d...->p...", weights, ramp) + self.floor_covariance(patterns))

    def floor_covariance(self, patterns: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the part of `covariances` that belongs to the noise floor w, (...)."""
        return np.asarray(patterns[:, -1].sum(axis=0) * self.power[-1])


def correlation_patterns(
    spacing: tuple[float, float], reach: tuple[int, int], bands: Bands | None = None
) -> NDArray[np.float64]:
    """Return the covariance by lag of noise from one direction, for each node of W^2 and for a flat spectrum.

    Args:
        spacing: Distance in mm between rows and columns.
        reach: Largest lag along rows and columns.
        bands: Bands of an image, for the covariance of the fine part of the noise; None for the whole noise.

    Returns:
        Covariances, (DIRECTIONS, NODES + 1, 2 ry + 1, 2 rx + 1); the flat spectrum is last. Summed over the
        directions, that of the flat spectrum of the whole noise is 1 at lag 0.
    """
    dy, dx = spacing
    y, x = (np.arange(-edge, edge + 1) for edge in reach)
    angles = np.arange(VIEWS) * (np.pi / VIEWS)
    relative = (np.arange(FREQUENCIES) + 0.5) / FREQUENCIES
    f = relative * np.hypot(0.5 / dy, 0.5 / dx)
    across, along = f * np.cos(angles)[:, None] * dx, f * np.sin(angles)[:, None] * dy
    # The image holds no frequency above half a cycle per pixel. In polar coordinates, the area element is f df dphi.
    area = np.where((np.abs(across) <= 0.5) & (np.abs(along) <= 0.5), f, 0.0)  # noqa: PLR2004 - Nyquist
    power = area / area.sum()
    if bands is not None:
        power = power * bands.fine_power(along, across)
    phase = along[..., None, None] * y[:, None] + across[..., None, None] * x
    waves = power[..., None, None] * np.cos(2 * np.pi * phase)
    waves = waves.reshape(DIRECTIONS, -1, FREQUENCIES, len(y), len(x)).sum(axis=1)
    nodes = np.linspace(0, 1, NODES)[:, None]
    ramps = relative * np.maximum(0.0, 1 - (NODES - 1) * np.abs(relative - nodes))
    return np.asarray(np.einsum("dfij,wf->dwij", waves, np.vstack([ramps, np.ones(FREQUENCIES)])))


def direction_weights(ray_variances: NDArray[np.floating], directionality: float) -> NDArray[Any]:
    """Return v^g divided by its mean over the directions, (cells, DIRECTIONS)."""
    weights = np.maximum(ray_variances, 1e-12) ** directionality
    return np.asarray(weights / weights.mean(axis=1, keepdims=True))


def fit_spectrum(
    ray_variances: NDArray[np.float64], patterns: NDArray[np.float64], products: NDArray[np.float64]
) -> Spectrum:
    """Return the spectrum that explains the covariances of quiet cells best.

    Args:
        ray_variances: Variance of the rays through every quiet cell by direction, (cells, DIRECTIONS).
        patterns: Covariances in the fine band at the measured lags, (DIRECTIONS, NODES + 1, lags); lag 0 is first.
        products: Measured covariances in the fine band, (cells, lags).
    """
    fits = (_fit_for(directionality, ray_variances, patterns, products) for directionality in DIRECTIONALITIES)
    return min(fits, key=lambda fit: fit[0])[1]


def _fit_for(
    directionality: float,
    ray_variances: NDArray[np.float64],
    patterns: NDArray[np.float64],
    products: NDArray[np.float64],
) -> tuple[float, Spectrum]:
    """Return the sum of the squared errors of the best spectrum with exponent `directionality`, and that spectrum."""
    weights = direction_weights(ray_variances, directionality)
    mean_weights, mean = weights.mean(axis=0), products.mean(axis=0)
    around = ANGULAR_SMOOTHNESS * (np.eye(DIRECTIONS) - np.roll(np.eye(DIRECTIONS), 1, axis=1))
    angular = np.ones(DIRECTIONS)
    for _ in range(ALTERNATIONS):
        ramps = np.einsum("d,dwl->lw", mean_weights * angular, patterns[:, :-1])
        power = _fit_power(np.column_stack([ramps, patterns[:, -1].sum(axis=0)]), mean)
        by_direction = np.einsum("d,dwl,w->ld", mean_weights, patterns[:, :-1], power[:-1])
        above_floor = mean - patterns[:, -1].sum(axis=0) * power[-1]
        angular, _ = _solve(by_direction, above_floor, np.abs(by_direction[0]).mean() * around)
        level = angular.mean() or 1.0
        power[:-1] *= level
        angular = angular / level
    spectrum = Spectrum(directionality, angular, power)
    return float(np.square(products - spectrum.covariances(weights, patterns)).sum()), spectrum


def _fit_power(by_node: NDArray[np.float64], mean: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return W^2 at the nodes and w for the Gaussian with which the spline fits a mean covariance most smoothly.

    Args:
        by_node: Covariances for W^2 = 1 at each node, and for w = 1, (lags, NODES + 1).
        mean: Measured covariance, (lags,).
    """
    spline = np.eye(NODES, NODES + 1)
    smooth = SMOOTHNESS * np.vstack([spline[1] - spline[0], np.diff(spline, n=2, axis=0)])
    best, least = np.zeros(NODES + 1), np.inf
    for width in GAUSSIANS:
        gaussian = np.append(np.exp(-((np.linspace(0, 1, NODES) / width) ** 2)), 1.0)
        design = by_node * gaussian
        solution, residual = _solve(design, mean, np.abs(design[0, :-1]).mean() * smooth)
        if residual < least:
            best, least = solution * gaussian, residual
    return best


def _solve(
    design: NDArray[np.float64], measured: NDArray[np.float64], penalty: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """Solve a least-squares problem with rows that should be zero; return a non-negative solution and the residual."""
    solution, residual = nnls(np.vstack([design, penalty]), np.append(measured, np.zeros(len(penalty))))
    return np.asarray(solution), float(residual)
