"""The noise of a series, estimated from the series alone: sigma at every place, and its covariance within a patch.

Anatomy only ever adds to what looks like noise, so it is kept out three times:

1. What is measured is the variance, cell by cell, of each slice less its neighbours and less its own surroundings.
2. The map is not what was measured here or there, but the variance that physics allows (see ctbasis/patch/ray_paths.py)
   with few numbers to fit: what the scanner did (ctbasis/patch/variance_model.py).
3. How much noise there is, is told by the quietest cells over that map. The least of many measurements is less than
   the noise by chance; so the chance, whose distribution is known (chi-square), is taken out by deconvolution first.

The covariance is that of the noise over its sigma, averaged over the quietest cells; how it differs from place to place
is told by which rays are noisy there (ctbasis/patch/texture.py).

References:
    B. Efron, "Empirical Bayes deconvolution estimates", Biometrika 103(1), 1-20, 2016.
    N. Laird, "Nonparametric maximum likelihood estimation of a mixing distribution", J. Am. Stat. Assoc. 73(364),
        805-811, 1978.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import distance_transform_edt, uniform_filter, uniform_filter1d
from scipy.special import gammaln

from ctbasis.errors import CtbasisError
from ctbasis.patch.plan import TARGET_NOISE
from ctbasis.patch.texture import Seen, find_textures
from ctbasis.patch.variance_model import SLICES, find_scan
from ctbasis.patch.volume import slabs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.patch.volume import Slab, Volume

CELL = 8
"""Pixels along the edge of a cell: small enough to lie between organs' edges; sigma is smooth over it."""

SURROUNDINGS = 17
"""Pixels along the edge of the square whose mean is taken off before a variance is measured."""

FINE = 5
"""The same where slices are compared, so that hardly any anatomy is left."""

AIR = -995.0
"""HU at and below which a voxel may have been clipped."""

MOST_AIR = 0.02
"""Share of such voxels in a cell beyond which its spread is not that of noise."""

TISSUE = (-920.0, 150.0)
"""HU of a cell's mean that is lung, soft tissue or between."""

SOFT = (-150.0, 150.0)
"""HU of a cell's mean that is soft tissue."""

QUIET = 0.05
"""Share of the cells of soft tissue that is taken to hold nothing but noise. Chests have more of them in thin slices
and less in thick ones; the level that it gives is 0.95 to 1.1 of the truth in either."""

FREEDOM = 20.0
"""Degrees of freedom of a cell's variance in one slice while the covariance is not known."""

LEAST = 0.5
"""HU: the least sigma, near the rounding of whole HU (0.29)."""

LITTLE = 4.0
"""HU in soft tissue up to which the user is told that there is hardly anything to remove."""

FEWEST = 64
"""Cells without which nothing is estimated."""

MOST_LEFT = 2.0
"""Flat noise over the target noise, up to which it is left: it is not what few photons make
(ctbasis/patch/texture.py), and all the finest anatomy is in it."""

MOST_CELLS = 1500
"""Quietest cells that the covariance is measured on."""

DOUBTED, BELIEVED = 0.25, 0.5
"""Correlations of neighbouring slices up to which anatomy alone may be seen, and from which it is noise's."""


@dataclass(frozen=True)
class Noise:
    """What is known of a series' noise.

    Attributes:
        sigma: HU, on cells of CELL pixels, (rows, columns, slices).
        covariance: Of the noise over sigma, by lag: `covariance[dy, dx, dz]` for lags from -reach to reach,
            (2 ry + 1, 2 rx + 1, 2 rz + 1); 1 at lag 0.
        cells: Number of quiet cells that it rests on.
        notes: What is to be said to the user.
        textures: Covariances of what is to be removed in different places, over the same sigma, (textures, 2 ry + 1,
            2 rx + 1, 2 rz + 1); at lag 0 in the mean 1 less `left`. By default `covariance` is that of all.
        texture: Which of them a cell has, (rows, columns, slices).
        scanner: What the scanner did to how it is distributed, in words, as the noise tells.
        soft: Sigma in soft tissue, its median, HU; by default that of all cells.
        left: Share of the variance that is not to be removed.
    """

    sigma: NDArray[np.float32]
    covariance: NDArray[np.float64]
    cells: int
    notes: tuple[str, ...] = field(default=())
    textures: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    texture: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    scanner: str = ""
    soft: float = 0.0
    left: float = 0.0

    def __post_init__(self) -> None:
        """Fill holes of sigma, where it is no number or not above 0, from the nearest cell that has one.

        Raises:
            CtbasisError: No cell has one.
        """
        holes = ~(np.isfinite(self.sigma) & (self.sigma > 0))
        if holes.all():
            raise CtbasisError("sigma is nowhere a number above 0", expected="HU, on cells", remedy="estimate it again")
        if holes.any():
            nearest = distance_transform_edt(holes, return_distances=False, return_indices=True)
            object.__setattr__(self, "sigma", self.sigma[tuple(nearest)])
        if not self.soft:
            object.__setattr__(self, "soft", float(np.median(self.sigma)))
        if not self.textures.size:
            object.__setattr__(self, "textures", self.covariance[None])
            object.__setattr__(self, "texture", np.zeros(self.sigma.shape, np.uint8))

    def sigma_rows(self, first: int, stop: int, columns: int) -> NDArray[np.float32]:
        """Return sigma of image rows `first` to `stop`, HU, (rows, columns, slices), linear between cells' centres."""
        along = _between(np.arange(first, stop), self.sigma.shape[0])
        across = _between(np.arange(columns), self.sigma.shape[1])
        narrow = _mix(self.sigma, along, 0)
        return _mix(narrow, across, 1)

    def texture_rows(self, first: int, stop: int, columns: int) -> NDArray[np.uint8]:
        """Return the texture of image rows `first` to `stop`, (rows, columns, slices), that of the nearest cell."""
        y, x = np.arange(first, stop) // CELL, np.arange(columns) // CELL
        return np.asarray(self.texture[y[:, None], x])

    def patch_covariance(self, shape: tuple[int, int, int]) -> NDArray[np.float64]:
        """Return the covariance of a whole patch of noise over sigma, (voxels, voxels)."""
        return np.asarray(self._of_patches(self.covariance[None], shape)[0])

    def patch_covariances(self, shape: tuple[int, int, int]) -> NDArray[np.float64]:
        """Return that of what is to be removed, of every texture, (textures, voxels, voxels)."""
        return self._of_patches(self.textures, shape)

    @staticmethod
    def _of_patches(covariances: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.float64]:
        places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
        lags = places[:, None] - places[None]
        reach = (np.array(covariances.shape[1:]) - 1) // 2
        known = (np.abs(lags) <= reach).all(axis=-1)
        y, x, z = np.moveaxis(np.clip(lags + reach, 0, 2 * reach), -1, 0)
        return np.asarray(np.where(known, covariances[:, y, x, z], 0.0))


def _between(pixels: NDArray[np.intp], cells: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    place = np.clip((pixels + 0.5) / CELL - 0.5, 0, cells - 1)
    first = np.minimum(place.astype(np.intp), max(0, cells - 2))
    return first, (place - first).astype(np.float32)


def _mix(
    values: NDArray[np.float32], between: tuple[NDArray[np.intp], NDArray[np.float32]], axis: int
) -> NDArray[np.float32]:
    first, after = between
    shape = [1, 1, 1]
    shape[axis] = -1
    weight = after.reshape(shape)
    second = np.minimum(first + 1, values.shape[axis] - 1)
    return np.asarray((1 - weight) * values.take(first, axis) + weight * values.take(second, axis), np.float32)


@dataclass
class Cells:
    """What one pass over the volume finds in every cell, arrays of (rows, columns, slices) of cells.

    Attributes:
        mean: HU.
        variance: Of the slice less its neighbours and less its surroundings, scaled to that of the slice if slices are
            independent, HU^2.
        plane: Of the slice less its surroundings alone, HU^2: more anatomy, but nothing of other slices.
        air: Share of voxels that may have been clipped.
    """

    mean: NDArray[np.float32]
    variance: NDArray[np.float32]
    plane: NDArray[np.float32]
    air: NDArray[np.float32]

    def within(self, hu: tuple[float, float]) -> NDArray[np.bool_]:
        """Return which cells have a mean within `hu` and noise that was not clipped."""
        return np.asarray((self.mean > hu[0]) & (self.mean < hu[1]) & (self.air <= MOST_AIR) & (self.variance > 0))


SLAB_CELLS = 8
"""Rows of cells that are measured together."""


def estimate(volume: Volume, *, reach: tuple[int, int, int] = (4, 4, 2), target_noise: float = TARGET_NOISE) -> Noise:
    """Estimate the noise of `volume`, blind.

    Args:
        volume: HU.
        reach: Largest lag of the covariance along rows, columns and slices; what a patch spans, less one.
        target_noise: HU in soft tissue, of the scan that the series is to look like; 0 leaves nothing.

    Returns:
        The noise. Where there is too little tissue to measure it, sigma is LEAST everywhere, with a note, so that
        nothing will be removed.
    """
    cells = survey(volume)
    reach = (reach[0], reach[1], min(reach[2], volume.shape[2] - 1))
    measured, tissue = cells.within(SOFT), cells.within(TISSUE)
    if measured.sum() < FEWEST:
        measured = tissue
    found = int(measured.sum())
    if found < FEWEST:
        note = f"noise: {found} cells of tissue, {FEWEST} are needed; nothing is removed"
        return Noise(np.full_like(cells.mean, LEAST), _white(reach), found, (note,))
    dy, dx, _ = volume.spacing
    scanned = find_scan(cells.mean, cells.variance, tissue, (dy * CELL, dx * CELL))
    shape = scanned.shape
    pooled = min(SLICES, volume.shape[2])
    # Neighbouring slices share a slice, so three of them are worth two.
    worth = (pooled + 1) / 2
    ratio, plane = (
        np.log(np.maximum(uniform_filter1d(variance.astype(np.float64), pooled, axis=2, mode="nearest"), 1e-6) / shape)
        for variance in (cells.variance, cells.plane)
    )
    level = quiet_level(ratio[measured], FREEDOM * worth)
    quiet = quietest(ratio, measured, level, FREEDOM * worth)
    rough = Noise(np.sqrt(shape * np.exp(level)).astype(np.float32), _white(reach), int(quiet.sum()))
    correlation = measure_covariance(volume, rough, quiet, reach)
    covariance = correlation.covariance
    # Anatomy only adds, to the one and to the other: the lower is nearer. Thick slices differ by more than they hold.
    within, across = (quiet_level(seen[measured], freedom(covariance) * worth) for seen in (plane, ratio))
    sigma = np.sqrt(shape * np.exp(min(within, across + 2 * np.log(correlation.scale))))
    sigma = np.maximum(sigma, LEAST)
    soft = float(np.median(sigma[measured]))
    notes = []
    if soft <= LITTLE:
        notes.append("noise: the series holds little noise (already denoised, or made); little will be removed")
    noise = Noise(
        sigma.astype(np.float32),
        covariance,
        int(quiet.sum()),
        tuple(notes),
        scanner=scanned.words(),
        soft=soft,
    )
    textures = find_textures(
        scanned.rays, tissue, correlation.seen, spacing=volume.spacing[:2], reach=(reach[0], reach[1])
    )
    if textures is None:
        return noise
    along = covariance[reach[0], reach[1]]
    left = min(textures.share, (MOST_LEFT * target_noise / soft) ** 2)
    removed = textures.covariances - left / max(textures.share, 1e-12) * textures.flat
    return replace(noise, textures=removed[..., None] * along, texture=textures.where, left=left)


def _white(reach: tuple[int, int, int]) -> NDArray[np.float64]:
    white = np.zeros([2 * edge + 1 for edge in reach])
    white[reach] = 1.0
    return white


def survey(volume: Volume) -> Cells:
    """Go once over the volume and measure every cell."""
    parts = list(slabs(volume.shape[0], height=SLAB_CELLS * CELL, halo=SURROUNDINGS))
    found = list(volume.each(survey_slab, parts, "noise"))
    return Cells(*(np.concatenate(arrays) for arrays in zip(*found, strict=True)))


def survey_slab(volume: Volume, slab: Slab) -> tuple[NDArray[np.float32], ...]:
    """Measure the cells of a slab: the arrays of `Cells`."""
    x = volume.read(slab.low, slab.high)
    own = slice(slab.first - slab.low, slab.stop - slab.low)
    tiles = _tiles(x[own])
    spreads = (np.square(_tiles(residual[own])).mean(axis=-1) for residual in (_alone(x), _off_surroundings(x)))
    found = tiles.mean(axis=-1), *spreads, (tiles <= AIR).mean(axis=-1)
    return tuple(np.asarray(array, np.float32) for array in found)


def _alone(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return each slice less the mean of its neighbours and less its surroundings; of the variance of the slice."""
    if x.shape[2] == 1:
        return _off_surroundings(x)
    near = np.concatenate([x[..., 1:2], x[..., :-1]], axis=2)
    near += np.concatenate([x[..., 1:], x[..., -2:-1]], axis=2)
    alone = (x - near / 2) * np.float32(np.sqrt(1 / 1.5))
    # The first and the last have one neighbour: 1 + 1 in the place of 1 + 1/2.
    alone[..., [0, -1]] *= np.float32(np.sqrt(0.75))
    return _off_surroundings(np.asarray(alone, np.float32))


def _off_surroundings(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(x - uniform_filter(x, (SURROUNDINGS, SURROUNDINGS, 1)), np.float32)


def _tiles(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return values as (cell rows, cell columns, slices, voxels of a cell), rims filled with their own mirror."""
    rows, columns, slices = values.shape
    pad = [(0, -rows % CELL), (0, -columns % CELL), (0, 0)]
    full = np.pad(values, pad, mode="symmetric" if min(rows, columns) >= CELL else "wrap")
    tiles = full.reshape(full.shape[0] // CELL, CELL, full.shape[1] // CELL, CELL, slices)
    return tiles.transpose(0, 2, 4, 1, 3).reshape(tiles.shape[0], tiles.shape[2], slices, CELL * CELL)


WINDOW = 0.32
"""Log variance about the quietest QUIET whose mean is the level: in a series with much that is flat, the quietest are
where the model is a little too high."""

STEP = 0.05
"""Log variance between two places of the deconvolved distribution."""


def quiet_level(ratio: NDArray[np.float64], freedom: float) -> float:
    """Return the log variance that the quietest QUIET of cells would have if they were measured without chance.

    The distribution of true levels under which the measured ones are likeliest is found by expectation-maximisation.

    Args:
        ratio: Log of measured variances over the model's, one a cell.
        freedom: Degrees of freedom of each.
    """
    middle = float(np.quantile(ratio, QUIET))
    edges = middle + STEP * np.arange(-60, 81)
    places = (edges[:-1] + edges[1:]) / 2
    seen = np.histogram(np.clip(ratio, edges[0], edges[-1]), edges)[0] / len(ratio)
    off = places[:, None] - places
    half = freedom / 2
    chance = np.exp(half * np.log(half) - gammaln(half) + half * (off - np.exp(np.minimum(off, 20.0)))) * STEP
    level = np.full(len(places), 1 / len(places))
    for _ in range(ROUNDS):
        level *= chance.T @ (seen / np.maximum(chance @ level, 1e-12))
    total = np.cumsum(level)
    least = np.interp(QUIET, total / total[-1], places)
    near = level * (np.abs(places - least) <= WINDOW)
    return float(near @ places / near.sum())


ROUNDS = 300


def freedom(covariance: NDArray[np.float64]) -> float:
    """Return the degrees of freedom of the mean square over a cell in one slice of noise of `covariance`."""
    reach = (np.array(covariance.shape) - 1) // 2
    plane = covariance[:, :, reach[2]]
    y, x = (np.maximum(CELL - np.abs(np.arange(-edge, edge + 1)), 0) for edge in reach[:2])
    return float(CELL**4 / np.sum(plane**2 * y[:, None] * x))


def quietest(
    ratio: NDArray[np.float64], measured: NDArray[np.bool_], level: float, freedom: float
) -> NDArray[np.bool_]:
    """Return the cells to measure the covariance on: those whose variance is that of noise, give or take chance."""
    return np.asarray(measured & (np.abs(ratio - level) < np.sqrt(2 / freedom)))


@dataclass(frozen=True)
class Correlation:
    """How noise is correlated.

    Attributes:
        covariance: Of the noise over its sigma by lag, as `Noise` has it.
        scale: The factor that sigma lacks.
        seen: What of it was measured within slices, cell by cell.
    """

    covariance: NDArray[np.float64]
    scale: float
    seen: Seen


def measure_covariance(
    volume: Volume, rough: Noise, quiet: NDArray[np.bool_], reach: tuple[int, int, int]
) -> Correlation:
    """Return the correlation of the noise over `rough.sigma`.

    Within a slice it is measured on the slice less its neighbours, along the slices on how it goes on into
    the next, so that anatomy is in neither; the two are taken to multiply, as they do where the kernel works on
    slices and the slice profile along them.
    """
    rows, columns, slices = volume.shape
    within = [(dy, dx) for dy in range(reach[0] + 1) for dx in range(-reach[1], reach[1] + 1) if (dy, dx) >= (0, 0)]
    places = _sample(quiet, (rows, columns), reach)
    parts = list(slabs(rows, height=SLAB_CELLS * CELL, halo=SURROUNDINGS))
    work = partial(covariance_slab, rough=rough, places=places, within=within)
    found = list(volume.each(work, parts, "noise: covariance"))
    profile = _profile([row for _, products in found for row in products], reach[2])
    plane = np.concatenate([products for products, _ in found])
    share = np.mean(plane, axis=0) if len(plane) else np.eye(1, len(within))[0]
    covariance = np.zeros([2 * edge + 1 for edge in reach])
    for value, (dy, dx) in zip(share / max(share[0], 1e-12), within, strict=True):
        for dz in range(-reach[2], reach[2] + 1):
            covariance[reach[0] + dy, reach[1] + dx, reach[2] + dz] = value * profile[abs(dz)]
            covariance[reach[0] - dy, reach[1] - dx, reach[2] + dz] = value * profile[abs(dz)]
    # What was measured is the variance of a slice less its neighbours, over what it is where slices are independent.
    one, two = (float(profile[lag]) if lag < len(profile) else 0.0 for lag in (1, 2))
    gain = (1.5 - 2 * one + 0.5 * two) / 1.5 if slices > 1 else 1.0
    # The slabs in their order have the cells in theirs.
    return Correlation(covariance, float(1 / np.sqrt(max(gain, 0.05))), Seen(places, np.array(within), plane))


def covariance_slab(
    volume: Volume, slab: Slab, *, rough: Noise, places: NDArray[np.intp], within: list[tuple[int, int]]
) -> tuple[NDArray[np.float64], list[list[np.floating]]]:
    """Return the products at every lag within the slice, and those along the slices, of the cells of a slab."""
    _, columns, slices = volume.shape
    here = places[(places[:, 0] * CELL >= slab.first) & (places[:, 0] * CELL < slab.stop)]
    plane = np.empty((len(here), len(within)))
    products: list[list[np.floating]] = []
    if not len(here):
        return plane, products
    x = volume.read(slab.low, slab.high) / rough.sigma_rows(slab.low, slab.high, columns)
    alone = _alone(x)
    fine = alone - uniform_filter(alone, (FINE, FINE, 1))
    for number, (row, column, z) in enumerate(here):
        y0, x0 = row * CELL - slab.low, column * CELL
        own = slice(y0, y0 + CELL), slice(x0, x0 + CELL)
        centre = alone[(*own, z)]
        plane[number] = [
            np.mean(centre * alone[y0 + dy : y0 + dy + CELL, x0 + dx : x0 + dx + CELL, z]) for dy, dx in within
        ]
        if 0 < z < slices - 2:
            products.append(
                [np.mean(band[(*own, z)] * band[(*own, z + lag)]) for band in (alone, fine) for lag in (0, 1)]
            )
    return plane, products


def _sample(quiet: NDArray[np.bool_], image: tuple[int, int], reach: tuple[int, int, int]) -> NDArray[np.intp]:
    """Return quiet cells away from the image's rim, (cells, 3), in order."""
    rim = -(-max(reach[:2]) // CELL)
    places = np.argwhere(quiet)
    places = places[:: max(1, len(places) // MOST_CELLS)]
    last = np.array([image[0] // CELL - rim, image[1] // CELL - rim])
    return np.asarray(places[(places[:, :2] >= rim).all(axis=1) & (places[:, :2] < last).all(axis=1)], np.intp)


def _profile(products: list[list[np.floating]], reach: int) -> NDArray[np.float64]:
    """Return the correlation between slices by lag up to `reach`, r, r^4, r^9 ...: a Gaussian slice profile.

    A slice less its neighbours' mean, e, has covariances e0 = 1.5 - 2 r1 + 0.5 r2 and e1 = -1 + 1.75 r1 - r2 + 0.25 r3
    over the variance of a slice; r is the one whose e1 / e0 is that of the quiet cells. What anatomy is left is either
    gone with the neighbours' mean or changes from slice to slice as noise does.

    Args:
        products: Mean of e_z e_z and of e_z e_(z+1) of every cell, in a wide band and in a narrow one: the one that
            anatomy reaches less is the lower.
        reach: Largest lag.
    """
    r = CORRELATIONS
    found = 0.0
    if len(products) >= FEWEST:
        expected = (-1 + 1.75 * r - r**4 + 0.25 * r**9) / (1.5 - 2 * r + 0.5 * r**4)
        bands = np.mean(products, axis=0).reshape(-1, 2)
        found = min(float(r[np.argmin(np.abs(expected - e1 / max(e0, 1e-12)))]) for e0, e1 in bands)
    found = float(np.interp(found, (DOUBTED, BELIEVED), (0.0, BELIEVED))) if found < BELIEVED else found
    return np.asarray(np.where(np.arange(reach + 1) == 0, 1.0, found ** (np.arange(reach + 1.0) ** 2)))


CORRELATIONS = np.linspace(0, 0.9, 91)
"""Correlations of neighbouring slices that are tried."""
