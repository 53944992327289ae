"""The local texture of CT noise: how the noise is correlated within a slice at each place of the image.

By the central-slice theorem, the spatial frequencies of one direction come from the view of that direction alone. Where
the rays of some views are noisier, because the body is wider along them, the noise is stronger at the frequencies of
those views. It then appears as streaks. The local noise power spectrum at frequency f and direction phi is modelled as

    S(x; f, phi) = v(x, phi) (s(f) + w)

  * v is the variance of the rays through x, which follows from the image (ctbasis/patch/ray_paths.py).
  * s is the spectrum that the ramp filter and the reconstruction kernel produce, the same everywhere: f times a
    decreasing window, represented as a non-negative sum of Hann windows.
  * w is a noise floor that does not depend on frequency. Filtered back-projection does not produce one. It comes from
    later processing (pixels too wide for the kernel, so that higher frequencies alias; rounding) and from anatomy that
    is too fine to distinguish from noise.

s and w are fitted by non-negative least squares to the covariance that was measured over quiet cells. Processing that
makes the noise more uniform, beyond what the variance model accounts for (ctbasis/patch/variance_model.py), is unknown.
So v enters as v^g, with the exponent g that explains the covariances of the individual quiet cells best; g = 0 is
noise without a preferred direction.

Cells with similar v over the directions are grouped into a few textures, so that each texture has enough patches.

References:
    S. J. Riederer, N. J. Pelc, D. A. Chesler, "The noise power spectrum in computed x-ray tomography", Phys. Med. Biol.
        23(3), 446-454, 1978.
    K. M. Hanson, "Detectability in computed tomographic images", Med. Phys. 6(5), 441-451, 1979.
    A. Wunderlich, F. Noo, "Image covariance and lesion detectability in direct fan-beam x-ray computed tomography",
        Phys. Med. Biol. 53(10), 2471-2493, 2008.
    M. Gies, W. A. Kalender, H. Wolf, C. Suess, "Dose reduction in CT by anatomically adapted tube current modulation.
        I. Simulation studies", Med. Phys. 26(11), 2235-2247, 1999.
    C. L. Lawson, R. J. Hanson, "Solving Least Squares Problems", SIAM, 1995, chapter 23.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.cluster.vq import kmeans2
from scipy.optimize import nnls

from ctbasis.patch.ray_paths import DIRECTIONS, VIEWS

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_TEXTURES = 8
"""Textures of a series, at most. Twice as many reduce the error by less than one percent."""

WINDOWS = 18
"""Hann windows whose sum represents s."""

LOWEST_CUTOFF = 0.15
"""Cut-off of the narrowest window, relative to the highest frequency of the image; the widest has cut-off 1."""

FREQUENCIES = 64
"""Radial frequencies at which spectra are sampled."""

DIRECTIONALITIES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Candidate exponents g."""

MAX_RESIDUAL = 0.2
"""Relative residual of the fitted covariance above which the model is rejected for this noise."""

MIN_CELLS = 64
"""Cells that an estimate and each texture need."""

MAX_CLUSTERED_CELLS = 20_000
"""Cells on which the textures are clustered, at most."""


@dataclass(frozen=True)
class Textures:
    """Covariances of the noise within a slice, by texture.

    Attributes:
        covariances: Covariance by lag of the noise divided by its sigma, 1 at lag 0, (textures, 2 ry + 1, 2 rx + 1).
        flat: The part of `covariances` that the noise floor w contributes.
        texture_map: Texture of every cell, (rows, columns, slices).
    """

    covariances: NDArray[np.float64]
    flat: NDArray[np.float64]
    texture_map: NDArray[np.uint8]

    @property
    def flat_fraction(self) -> float:
        """Fraction of the variance that belongs to the noise floor, averaged over the textures."""
        return float(self.flat[:, self.flat.shape[1] // 2, self.flat.shape[2] // 2].mean())


@dataclass(frozen=True)
class CellCovariances:
    """Covariances within a slice, measured on individual quiet cells.

    Attributes:
        cells: Row, column and slice of each cell, (cells, 3).
        lags: Lags along rows and columns, (lags, 2).
        products: Mean product of voxels at every lag, of the noise divided by its sigma, (cells, lags).
    """

    cells: NDArray[np.intp]
    lags: NDArray[np.intp]
    products: NDArray[np.float64]


def fit_textures(
    ray_variances: NDArray[np.float32],
    tissue: NDArray[np.bool_],
    measured: CellCovariances,
    *,
    spacing: tuple[float, float],
    reach: tuple[int, int],
) -> Textures | None:
    """Fit the model of the local noise power spectrum and group the cells into textures.

    Args:
        ray_variances: Variance of the rays through every cell by direction, up to one factor per cell, (DIRECTIONS,
            rows, columns, slices).
        tissue: Cells on which the textures are clustered; every cell is then assigned to one of them.
        measured: Covariances of quiet cells.
        spacing: Distance in mm between rows and columns.
        reach: Largest lag along rows and columns.

    Returns:
        The textures: a single one where the noise has no preferred direction. None where there are too few cells, or
        where the model does not explain the measured covariance.
    """
    if min(len(measured.cells), int(tissue.sum())) < MIN_CELLS:
        return None
    patterns = correlation_patterns(spacing, reach)
    at = patterns[..., measured.lags[:, 0] + reach[0], measured.lags[:, 1] + reach[1]]
    here = ray_variances[:, *measured.cells.T].T.astype(np.float64)
    best = _fit_spectrum(here, at, measured.products)
    if best is None:
        return None
    if best.directionality == 0:
        centres, labels = np.ones((1, DIRECTIONS)), np.zeros(tissue.size, np.uint8)
    else:
        weights = _direction_weights(ray_variances.reshape(DIRECTIONS, -1).T, best.directionality)
        centres, labels = _cluster(weights, tissue.ravel())
    flat = np.einsum("td,dij->tij", centres, patterns[:, -1] * best.power[-1])
    covariances = flat + np.einsum("td,dwij,w->tij", centres, patterns[:, :-1], best.power[:-1])
    variance = covariances[:, reach[0], reach[1], None, None]
    return Textures(covariances / variance, flat / variance, labels.reshape(tissue.shape))


def correlation_patterns(spacing: tuple[float, float], reach: tuple[int, int]) -> NDArray[np.float64]:
    """Return the correlation by lag of noise from one direction, for each window and for a flat spectrum.

    Args:
        spacing: Distance in mm between rows and columns.
        reach: Largest lag along rows and columns.

    Returns:
        Correlations, (DIRECTIONS, WINDOWS + 1, 2 ry + 1, 2 rx + 1); the flat spectrum is last. Summed over the
        directions, each is 1 at lag 0.
    """
    dy, dx = spacing
    y, x = (np.arange(-edge, edge + 1) for edge in reach)
    angles = np.arange(VIEWS) * (np.pi / VIEWS)
    relative = (np.arange(FREQUENCIES) + 0.5) / FREQUENCIES
    f = relative * np.hypot(0.5 / dy, 0.5 / dx)
    along = f * np.cos(angles)[:, None] * dx, f * np.sin(angles)[:, None] * dy
    # The image holds no frequency above half a cycle per pixel. In polar coordinates, the area element is f df dphi.
    area = np.where((np.abs(along[0]) <= 0.5) & (np.abs(along[1]) <= 0.5), f, 0.0)  # noqa: PLR2004 - Nyquist
    phase = along[1][..., None, None] * y[:, None] + along[0][..., None, None] * x
    waves = area[..., None, None] * np.cos(2 * np.pi * phase)
    waves = waves.reshape(DIRECTIONS, -1, FREQUENCIES, len(y), len(x)).sum(axis=1)
    patterns = np.einsum("dfij,wf->dwij", waves, np.vstack([_window_spectra(relative), np.ones(FREQUENCIES)]))
    return np.asarray(patterns / patterns[:, :, reach[0], reach[1]].sum(axis=0)[:, None, None])


def _window_spectra(relative: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the spectra f W(f)^2 of ramp filter and window at frequencies relative to the highest, (WINDOWS, ...).

    W^2 is a Hann window.
    """
    cutoffs = np.linspace(LOWEST_CUTOFF, 1, WINDOWS)[:, None]
    hann = np.where(relative < cutoffs, np.cos(np.pi / 2 * relative / cutoffs) ** 2, 0.0)
    return np.asarray(relative * hann)


@dataclass(frozen=True)
class _SpectrumFit:
    """The fitted noise power spectrum.

    Attributes:
        directionality: Exponent g.
        power: Contribution of every window to s, and w as the last entry, (WINDOWS + 1,).
    """

    directionality: float
    power: NDArray[np.float64]


def _fit_spectrum(
    ray_variances: NDArray[np.float64], patterns: NDArray[np.float64], products: NDArray[np.float64]
) -> _SpectrumFit | None:
    """Return the fit that explains the products of quiet cells best; None where no fit is acceptable."""
    mean = products.mean(axis=0)
    best: tuple[float, _SpectrumFit] | None = None
    for directionality in DIRECTIONALITIES:
        weights = _direction_weights(ray_variances, directionality)
        power, residual = nnls(np.einsum("d,dwl->lw", weights.mean(axis=0), patterns), mean)
        if residual > MAX_RESIDUAL * np.linalg.norm(mean):
            continue
        modelled = weights @ np.einsum("dwl,w->dl", patterns, power)
        misfit = float(np.square(products - modelled).sum())
        if best is None or misfit < best[0]:
            best = misfit, _SpectrumFit(directionality, power)
    return best[1] if best else None


def _direction_weights(ray_variances: NDArray[np.floating], directionality: float) -> NDArray[Any]:
    """Return v^g divided by its mean over the directions, (cells, DIRECTIONS)."""
    weights = np.maximum(ray_variances, 1e-12) ** directionality
    return np.asarray(weights / weights.mean(axis=1, keepdims=True))


def _cluster(weights: NDArray[Any], tissue: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Return the mean direction weights of every texture, (textures, DIRECTIONS), and the texture of every cell."""
    rng = np.random.default_rng(0)
    sample = weights[tissue]
    if len(sample) > MAX_CLUSTERED_CELLS:
        sample = sample[np.sort(rng.choice(len(sample), MAX_CLUSTERED_CELLS, replace=False))]
    number = min(MAX_TEXTURES, len(sample) // MIN_CELLS)
    centres, labels = kmeans2(sample, number, minit="++", rng=rng)
    large_enough = np.bincount(labels, minlength=number) >= min(MIN_CELLS, len(sample) // number)
    centres = centres[large_enough]
    # Squared distances, without the term that is the same for all textures.
    distances = np.square(centres).sum(axis=1) - 2 * weights @ centres.T
    return centres, distances.argmin(axis=1).astype(np.uint8)
