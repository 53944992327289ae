"""The texture of noise, place by place: in which directions it is correlated, and how far.

All that an image holds at the spatial frequencies of one direction comes from the view of that direction (the
central-slice theorem). So where the rays of some views are noisier than others, because the body is wider along
them, noise is stronger at the frequencies of those views: streaks. The power of the noise about a place is

    S(x; f, phi) = v(x, phi) (s(f) + w)

with v the variance of the rays through x, which the image itself tells (ctbasis/patch/ray_paths.py), and s what ramp and
kernel of the reconstruction make of it, the same everywhere: f times a window that falls, of which any sum of Hann's
will do. w is flat: filtered back-projection gives no such noise; it comes with what was done to the image later (fewer
pixels than the kernel needs, so that the frequencies beyond theirs fold back; rounding), and with anatomy too fine to
be told from noise. s and w are what explain the covariance that was measured over quiet cells, by non-negative least
squares. What evens noise out, beyond what was found of the scanner (ctbasis/patch/variance_model.py), is unknown: v goes in as
v^g, with the g under which the quiet cells' own covariances are explained best; 0 is noise that has no direction.

Cells whose v is alike over the directions are of one texture; there are few, so that each has patches enough.

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

TEXTURES = 8
"""At most. Twice as many lower the error by less than a hundredth."""

WINDOWS = 18
"""Of Hann, that s is put together from."""

NARROWEST = 0.15
"""Cut-off of the first of them over the highest frequency of the image; that of the last is the highest."""

FREQUENCIES = 64
"""That they are summed over."""

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""g that are tried."""

UNEXPLAINED = 0.2
"""Share of the measured covariance that no s and w explain, beyond which the model is not that of this noise."""

FEWEST = 64
"""Cells that a texture and an estimate need."""

SAMPLE = 20_000
"""Cells that textures are found on."""


@dataclass(frozen=True)
class Textures:
    """How noise is correlated within a slice.

    Attributes:
        covariances: Of the noise over its sigma, by texture and lag, (textures, 2 ry + 1, 2 rx + 1), 1 at lag 0.
        flat: The same of what is flat in it alone.
        where: Which texture every cell has, (rows, columns, slices).
    """

    covariances: NDArray[np.float64]
    flat: NDArray[np.float64]
    where: NDArray[np.uint8]

    @property
    def share(self) -> float:
        """What the flat part is of the variance, in the mean of all textures."""
        return float(self.flat[:, self.flat.shape[1] // 2, self.flat.shape[2] // 2].mean())


@dataclass(frozen=True)
class Seen:
    """What was measured on quiet cells.

    Attributes:
        places: Of the cells, (cells, 3).
        lags: Along rows and columns, (lags, 2).
        products: Mean product of voxels at every lag, of the noise over sigma, (cells, lags).
    """

    places: NDArray[np.intp]
    lags: NDArray[np.intp]
    products: NDArray[np.float64]


def find_textures(
    variances: NDArray[np.float32],
    tissue: NDArray[np.bool_],
    seen: Seen,
    *,
    spacing: tuple[float, float],
    reach: tuple[int, int],
) -> Textures | None:
    """Return the textures of a series' noise.

    Args:
        variances: Of the rays through every cell, by direction, up to a factor a cell, (DIRECTIONS, rows, columns,
            slices).
        tissue: Cells on which textures are found; all cells get one of them.
        seen: On quiet cells.
        spacing: mm between rows and columns.
        reach: Largest lag along rows and columns.

    Returns:
        They, one where noise shows no direction; or None where there is too little to tell, or nothing explains it.
    """
    if min(len(seen.places), int(tissue.sum())) < FEWEST:
        return None
    patterns = correlations(spacing, reach)
    at = patterns[..., seen.lags[:, 0] + reach[0], seen.lags[:, 1] + reach[1]]
    here = variances[:, *seen.places.T].T.astype(np.float64)
    best = _explained(here, at, seen.products)
    if best is None:
        return None
    if best.strength == 0:
        centres, where = np.ones((1, DIRECTIONS)), np.zeros(tissue.size, np.uint8)
    else:
        centres, where = _gathered(_shares(variances.reshape(DIRECTIONS, -1).T, best.strength), tissue.ravel())
    flat = np.einsum("td,dij->tij", centres, patterns[:, -1] * best.power[-1])
    covariances = flat + np.einsum("td,dwij,w->tij", centres, patterns[:, :-1], best.power[:-1])
    variance = covariances[:, reach[0], reach[1], None, None]
    return Textures(covariances / variance, flat / variance, where.reshape(tissue.shape))


def correlations(spacing: tuple[float, float], reach: tuple[int, int]) -> NDArray[np.float64]:
    """Return the correlation by lag of the noise of one direction under one window, and of such as is flat.

    Args:
        spacing: mm between rows and columns.
        reach: Largest lag along rows and columns.

    Returns:
        (DIRECTIONS, WINDOWS + 1, 2 ry + 1, 2 rx + 1), the flat one last. Over all directions, each adds up to 1 at lag
        0.
    """
    dy, dx = spacing
    y, x = (np.arange(-edge, edge + 1) for edge in reach)
    angles = np.arange(VIEWS) * (np.pi / VIEWS)
    share = (np.arange(FREQUENCIES) + 0.5) / FREQUENCIES
    f = share * np.hypot(0.5 / dy, 0.5 / dx)
    along = f * np.cos(angles)[:, None] * dx, f * np.sin(angles)[:, None] * dy
    # Cycles a pixel beyond one half are not in the image. What a frequency holds goes with the area about it: f.
    area = np.where((np.abs(along[0]) <= 0.5) & (np.abs(along[1]) <= 0.5), f, 0.0)  # noqa: PLR2004 - Nyquist's
    phase = along[1][..., None, None] * y[:, None] + along[0][..., None, None] * x
    waves = area[..., None, None] * np.cos(2 * np.pi * phase)
    waves = waves.reshape(DIRECTIONS, -1, FREQUENCIES, len(y), len(x)).sum(axis=1)
    found = np.einsum("dfij,wf->dwij", waves, np.vstack([_windows(share), np.ones(FREQUENCIES)]))
    return np.asarray(found / found[:, :, reach[0], reach[1]].sum(axis=0)[:, None, None])


def _windows(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the power of ramp and window at frequencies over the highest: f W(f)^2, W^2 Hann's, (WINDOWS, ...)."""
    ends = np.linspace(NARROWEST, 1, WINDOWS)[:, None]
    return np.asarray(share * np.where(share < ends, np.cos(np.pi / 2 * share / ends) ** 2, 0.0))


@dataclass(frozen=True)
class _Explanation:
    """What explains the quiet cells best.

    Attributes:
        strength: g.
        power: What every window has of s, and w last, (WINDOWS + 1,).
    """

    strength: float
    power: NDArray[np.float64]


def _explained(
    variances: NDArray[np.float64], patterns: NDArray[np.float64], products: NDArray[np.float64]
) -> _Explanation | None:
    """Return what explains the products of quiet cells best, or None where nothing does."""
    mean = products.mean(axis=0)
    best: tuple[float, _Explanation] | None = None
    for strength in STRENGTHS:
        share = _shares(variances, strength)
        power, rest = nnls(np.einsum("d,dwl->lw", share.mean(axis=0), patterns), mean)
        if rest > UNEXPLAINED * np.linalg.norm(mean):
            continue
        modelled = share @ np.einsum("dwl,w->dl", patterns, power)
        unlike = float(np.square(products - modelled).sum())
        if best is None or unlike < best[0]:
            best = unlike, _Explanation(strength, power)
    return best[1] if best else None


def _shares(variances: NDArray[np.floating], strength: float) -> NDArray[Any]:
    """Return v^g over its mean over the directions, (cells, DIRECTIONS)."""
    weakened = np.maximum(variances, 1e-12) ** strength
    return np.asarray(weakened / weakened.mean(axis=1, keepdims=True))


def _gathered(share: NDArray[Any], tissue: NDArray[np.bool_]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Return the mean shares of every texture, (textures, DIRECTIONS), and which one every cell has."""
    rng = np.random.default_rng(0)
    sample = share[tissue]
    if len(sample) > SAMPLE:
        sample = sample[np.sort(rng.choice(len(sample), SAMPLE, replace=False))]
    number = min(TEXTURES, len(sample) // FEWEST)
    centres, labels = kmeans2(sample, number, minit="++", rng=rng)
    filled = np.bincount(labels, minlength=number) >= min(FEWEST, len(sample) // number)
    centres = centres[filled]
    # Squares of the distances, but for what is the same for all textures.
    apart = np.square(centres).sum(axis=1) - 2 * share @ centres.T
    return centres, apart.argmin(axis=1).astype(np.uint8)
