"""The local texture of CT noise: how the noise is correlated within a slice at each place of the image.

Where the rays of some views are noisier, because the body is wider along them, the noise is stronger at the frequencies
of those views. It then appears as streaks. The variances of the rays through a cell and the noise power spectrum of the
series (ctbasis/patch/spectrum.py) give the covariance of the noise there. Cells with similar variances over the
directions are grouped into a few textures, so that each texture has enough patches.

References:
    M. Gies, W. A. Kalender, H. Wolf, C. Suess, "Dose reduction in CT by anatomically adapted tube current modulation.
        I. Simulation studies", Med. Phys. 26(11), 2235-2247, 1999.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.cluster.vq import kmeans2

from ctbasis.patch.ray_paths import DIRECTIONS
from ctbasis.patch.spectrum import correlation_patterns, direction_weights, fit_spectrum

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.patch.bands import Bands

MAX_TEXTURES = 8
"""Textures of a series, at most. Twice as many reduce the error by less than one percent."""

MIN_CELLS = 64
"""Cells that each texture needs."""

MAX_CLUSTERED_CELLS = 20_000
"""Cells on which the textures are clustered, at most."""


@dataclass(frozen=True)
class Textures:
    """Covariances of the noise within a slice, by texture.

    Attributes:
        covariances: Covariance by lag of the noise divided by its sigma, 1 at lag 0, (textures, 2 ry + 1, 2 rx + 1).
        flat: The part of `covariances` that the noise floor w contributes.
        texture_map: Texture of every cell, (rows, columns, slices).
        average: Covariance by lag over the quiet cells, 1 at lag 0, (2 ry + 1, 2 rx + 1).
        fine_fraction: Fraction of the variance that lies in the fine band, over the quiet cells.
    """

    covariances: NDArray[np.float64]
    flat: NDArray[np.float64]
    texture_map: NDArray[np.uint8]
    average: NDArray[np.float64]
    fine_fraction: float

    @property
    def flat_fraction(self) -> float:
        """Fraction of the variance that belongs to the noise floor, averaged over the textures."""
        return float(self.flat[:, self.flat.shape[1] // 2, self.flat.shape[2] // 2].mean())


@dataclass(frozen=True)
class CellCovariances:
    """Covariances within a slice, measured on individual quiet cells in the fine band.

    Attributes:
        cells: Row, column and slice of each cell, (cells, 3).
        lags: Lags along rows and columns, (lags, 2); lag 0 is first.
        products: Mean product of voxels at every lag, of the noise divided by its sigma, (cells, lags).
    """

    cells: NDArray[np.intp]
    lags: NDArray[np.intp]
    products: NDArray[np.float64]

    @property
    def variance(self) -> float:
        """Variance in the fine band, averaged over the cells; 1 without any cell."""
        return float(self.products[:, 0].mean()) if len(self.products) else 1.0


def fit_textures(
    ray_variances: NDArray[np.float32],
    tissue: NDArray[np.bool_],
    measured: CellCovariances,
    *,
    spacing: tuple[float, float],
    reach: tuple[int, int],
    bands: Bands,
) -> Textures:
    """Fit the noise power spectrum and group the cells into textures.

    Args:
        ray_variances: Variance of the rays through every cell by direction, up to one factor per cell, (DIRECTIONS,
            rows, columns, slices).
        tissue: Cells on which the textures are clustered; every cell is then assigned to one of them.
        measured: Covariances of quiet cells. Without any, the noise is taken to be white.
        spacing: Distance in mm between rows and columns.
        reach: Largest lag along rows and columns.
        bands: Bands in which the covariances were measured.

    Returns:
        The textures: a single one where the noise has no preferred direction.
    """
    if not len(measured.cells):
        white = np.zeros((1, 2 * reach[0] + 1, 2 * reach[1] + 1))
        white[0, reach[0], reach[1]] = 1.0
        return Textures(white, 0 * white, np.zeros(tissue.shape, np.uint8), white[0], bands.white_fraction)
    patterns, fine = correlation_patterns(spacing, reach), correlation_patterns(spacing, reach, bands)
    fine = fine[..., measured.lags[:, 0] + reach[0], measured.lags[:, 1] + reach[1]]
    here = ray_variances[:, *measured.cells.T].T.astype(np.float64)
    spectrum = fit_spectrum(here, fine, measured.products)
    if spectrum.directionality == 0 or tissue.sum() < MIN_CELLS:
        centres, labels = np.ones((1, DIRECTIONS)), np.zeros(tissue.size, np.uint8)
    else:
        weights = direction_weights(ray_variances.reshape(DIRECTIONS, -1).T, spectrum.directionality)
        centres, labels = _cluster(weights, tissue.ravel())
    covariances = spectrum.covariances(centres, patterns)
    flat = np.broadcast_to(spectrum.floor_covariance(patterns), covariances.shape)
    variance = covariances[:, reach[0], reach[1], None, None]
    weights = direction_weights(here, spectrum.directionality).mean(axis=0, keepdims=True)
    average = spectrum.covariances(weights, patterns)[0]
    fine_variance = float(spectrum.covariances(weights, fine)[0, 0])
    return Textures(
        covariances=covariances / variance,
        flat=flat / variance,
        texture_map=labels.reshape(tissue.shape),
        average=average / average[reach],
        fine_fraction=fine_variance / float(average[reach]),
    )


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
