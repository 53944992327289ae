"""The noise of a series, estimated from the series alone: sigma at every place, and its covariance within a patch.

Anatomy only ever adds to what looks like noise, so it is kept out three times:

1. Flat cells alone count. How flat a cell of slice z is, is told by the slices before and after it, whose noise is
   not its own: choosing flat cells does not choose quiet noise.
2. The spread of a cell is a median absolute deviation, of the slice less its neighbours and its own surroundings.
3. The map is not what was measured here or there, but the variance that physics allows (see components/patch/path.py),
   with few numbers to fit: photons, electronic noise, and the tube current slice by slice. A smooth correction, which
   flat cells must agree on and which is bounded, takes what the physics leaves out (bow-tie, adaptive filters).

The covariance is that of the noise over its sigma, averaged over flat cells of soft tissue.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d, uniform_filter

from components.patch.path import variance_shapes
from components.patch.volume import slabs

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from components.patch.volume import Slab, Volume

CELL = 8
"""Pixels along the edge of a cell: 64 values give a spread to a tenth, and sigma is smooth over it."""

SURROUNDINGS = 17
"""Pixels along the edge of the square whose mean is taken off before a variance is measured."""

FINE = 5
"""The same for the residual that anatomy hardly reaches, along with the slices before and after."""

LEAST_TISSUE = -920.0
"""HU of a cell's mean above which it is lung or denser, and not the air around the patient."""

SOFT = (-150.0, 150.0)
"""HU of cells that may be flat soft tissue."""

FLATTEST = 0.15
"""Share of the cells of soft tissue that count as flat at most."""

CALM = (0.6, 1.0, 1.6)
"""Structure over spread below which a cell may be flat, one after the other until enough are; noise alone gives 0.2."""

LEAST_CORRELATION = 0.05
"""Correlation between slices below which they count as independent."""

MOST_CELLS = 4000
"""Flat cells that the covariance is measured on."""

MAD = 1.4826
"""Median absolute deviation of a normal variable to its standard deviation."""

LEAST = 0.5
"""HU: the least sigma, near the rounding of whole HU (0.29)."""

ELECTRONIC = tuple(float(share) for share in np.linspace(0, 1, 21))
"""Shares of the variance that electronic noise may have, averaged over the body."""

BINS = 10
"""Groups of cells by what their rays passed through."""

QUIETEST = 0.15
"""Quantile of the cells of a group that anatomy reaches least, in lung as in soft tissue."""

LOWER = 0.48
"""Quantile of flat cells that is taken for the noise: anatomy lies above, so the median would be too high."""

FEW = 5
"""Flat cells of a slice below which it says nothing of the tube current; also how many speak for a constant one."""

AGREED = 0.35
"""Log of the ratio between a flat cell's spread and the map's beyond which the cell does not count."""

FEWEST = 64
"""Flat cells without which nothing is fitted."""

UPWARDS = 0.15
"""The most that a single flat cell may speak for more noise than the physics has: anatomy only ever adds."""

BOUND = 0.35
"""The most that the smooth correction may change log sigma."""


@dataclass(frozen=True)
class Noise:
    """What is known of a series' noise.

    Attributes:
        sigma: HU, on cells of CELL pixels, (rows, columns, slices).
        covariance: Of the noise over sigma, by lag: `covariance[dy, dx, dz]` for lags from -reach to reach,
            (2 ry + 1, 2 rx + 1, 2 rz + 1); 1 at lag 0.
        cells: Number of flat cells that it rests on.
        notes: What is to be said to the user.
    """

    sigma: NDArray[np.float32]
    covariance: NDArray[np.float64]
    cells: int
    notes: tuple[str, ...] = field(default=())

    def sigma_rows(self, first: int, stop: int, columns: int) -> NDArray[np.float32]:
        """Return sigma of image rows `first` to `stop`, HU, (rows, columns, slices), linear between cells' centres."""
        along = _between(np.arange(first, stop), self.sigma.shape[0])
        across = _between(np.arange(columns), self.sigma.shape[1])
        narrow = _mix(self.sigma, along, 0)
        return _mix(narrow, across, 1)

    def patch_covariance(self, shape: tuple[int, int, int]) -> NDArray[np.float64]:
        """Return the covariance of a whole patch of noise over sigma, (voxels, voxels)."""
        places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
        lags = places[:, None] - places[None]
        reach = (np.array(self.covariance.shape) - 1) // 2
        known = (np.abs(lags) <= reach).all(axis=-1)
        y, x, z = np.moveaxis(np.clip(lags + reach, 0, 2 * reach), -1, 0)
        return np.where(known, self.covariance[y, x, z], 0.0)


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
        spread: Robust standard deviation of the slice less its neighbours and less its surroundings, HU.
        fine: The same less its nearest surroundings, where anatomy hardly reaches; smaller, as the filter keeps less.
        structure: Standard deviation of the neighbours' mean, smoothed, around the cell where it is largest, HU.
    """

    mean: NDArray[np.float32]
    spread: NDArray[np.float32]
    fine: NDArray[np.float32]
    structure: NDArray[np.float32]


SLAB_CELLS = 8
"""Rows of cells that are measured together."""


def estimate(volume: Volume, *, reach: tuple[int, int, int] = (4, 4, 2)) -> Noise:
    """Estimate the noise of `volume`, blind.

    Args:
        volume: HU.
        reach: Largest lag of the covariance along rows, columns and slices; what a patch spans, less one.

    Returns:
        The noise. Where nothing is flat enough to measure it, sigma is LEAST everywhere, with a note, so that nothing
        will be removed.
    """
    cells = survey(volume)
    flat = flat_cells(cells)
    reach = (reach[0], reach[1], min(reach[2], volume.shape[2] - 1))
    if int(flat.sum()) < FEWEST:
        note = f"noise: {int(flat.sum())} flat cells of soft tissue, {FEWEST} are needed; nothing is removed"
        return Noise(np.full_like(cells.mean, LEAST), _white(reach), int(flat.sum()), (note,))
    sigma = fit_sigma(volume, cells, flat)
    # A cell that is calm by its neighbours and spread by an edge of its own does not count.
    ratio = cells.spread / sigma
    middle = float(np.quantile(ratio[flat], LOWER))
    flat &= np.abs(np.log(np.maximum(ratio, 1e-6) / middle)) < AGREED
    rough = Noise(sigma, _white(reach), int(flat.sum()))
    covariance, scale = measure_covariance(volume, rough, flat, reach)
    notes = []
    sigma = np.maximum(sigma * np.float32(scale), np.float32(LEAST))
    if float(np.median(sigma[flat])) <= 2 * LEAST:
        notes.append("noise: the series holds almost no noise (already denoised or made); little will be removed")
    return Noise(sigma, covariance, int(flat.sum()), tuple(notes))


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
    near, alone = _neighbours(x)
    smooth = gaussian_filter1d(gaussian_filter1d(near, 1.5, axis=0), 1.5, axis=1)
    edge = (SURROUNDINGS, SURROUNDINGS, 1)
    mean = uniform_filter(smooth, edge)
    square = uniform_filter((smooth - mean) ** 2, edge)
    return (
        np.asarray(_tiles(x[own]).mean(axis=-1), np.float32),
        _cell_spread((alone - uniform_filter(alone, edge))[own]),
        _cell_spread((alone - uniform_filter(alone, (FINE, FINE, 1)))[own]),
        np.asarray(np.sqrt(np.maximum(_tiles(square[own]).max(axis=-1), 0)), np.float32),
    )


def _neighbours(x: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the mean of the slices before and after each, and each less that mean; a single slice stays itself."""
    if x.shape[2] == 1:
        return x, x
    before = np.concatenate([x[..., 1:2], x[..., :-1]], axis=2)
    after = np.concatenate([x[..., 1:], x[..., -2:-1]], axis=2)
    near = (before + after) / 2
    alone = x - near
    # The first and the last have one neighbour, whose whole variance they take: 1 + 1 in the place of 1 + 1/2.
    alone[..., [0, -1]] *= np.float32(np.sqrt(0.75))
    return near, alone


def _tiles(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return values as (cell rows, cell columns, slices, voxels of a cell), rims filled with their own mirror."""
    rows, columns, slices = values.shape
    pad = [(0, -rows % CELL), (0, -columns % CELL), (0, 0)]
    full = np.pad(values, pad, mode="symmetric" if min(rows, columns) >= CELL else "wrap")
    tiles = full.reshape(full.shape[0] // CELL, CELL, full.shape[1] // CELL, CELL, slices)
    return tiles.transpose(0, 2, 4, 1, 3).reshape(tiles.shape[0], tiles.shape[2], slices, CELL * CELL)


def _cell_spread(values: NDArray[np.float32]) -> NDArray[np.float32]:
    tiles = _tiles(values)
    return np.asarray(MAD * np.median(np.abs(tiles), axis=-1), np.float32)


def flat_cells(cells: Cells) -> NDArray[np.bool_]:
    """Return which cells are flat soft tissue; lung never is, and follows from the physics.

    Where hardly any are, as in a small field of view, what counts as calm is widened.
    """
    tissue = (cells.mean > SOFT[0]) & (cells.mean < SOFT[1]) & (cells.spread > 0)
    # Few cells of a noisy volume are calm by chance and many of a quiet one by right: a share caps both.
    most = np.quantile(cells.structure[tissue], FLATTEST) if tissue.any() else 0.0
    found = np.zeros_like(tissue)
    for calm in CALM:
        found = tissue & (cells.structure < calm * cells.spread) & (cells.structure <= most)
        if found.sum() >= FEWEST:
            break
    return found


def fit_sigma(volume: Volume, cells: Cells, flat: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return sigma on cells, HU, up to a factor near one that `measure_covariance` finds."""
    dy, dx, _ = volume.spacing
    shapes = variance_shapes(cells.mean, (dy * CELL, dx * CELL))
    # What anatomy hardly reaches, in the units of what it does: their ratio in flat tissue is the filter's gain.
    gain = float(np.median(cells.fine[flat] / cells.spread[flat]))
    measured = cells.fine / max(gain, 1e-6)
    variance = np.maximum(measured.astype(np.float64) ** 2, LEAST**2)
    tissue = (cells.mean > LEAST_TISSUE) & (cells.mean < SOFT[1]) & (cells.spread > 0)
    current = np.ones(volume.shape[2])
    model = shapes[0]
    for _ in range(3):
        model = _physics(shapes, variance / current, flat, tissue)
        current = _current(variance / model, flat)
    sigma = np.sqrt(model * current + LEAST**2)
    return np.asarray(sigma * np.exp(_correction(np.log(measured + 1e-6) - np.log(sigma), flat)), np.float32)


def _physics(
    shapes: NDArray[np.float64], variance: NDArray[np.float64], flat: NDArray[np.bool_], tissue: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return a shapes[0] + b shapes[1] that follows `variance` best, HU^2.

    Flat cells are few and in the middle of the body, and would say anything about the lungs. So the share of b is the
    one under which the quietest cells of all tissue are as quiet whatever their rays passed through; flat cells tell
    how much noise there is.
    """
    contrast = shapes[1][tissue] / shapes[0][tissue]
    seen = np.log(variance[tissue] / shapes[0][tissue])
    edges = np.quantile(contrast, np.linspace(0, 1, BINS + 1))
    part = np.clip(np.searchsorted(edges, contrast, side="right") - 1, 0, BINS - 1)
    filled = [index for index in range(BINS) if (part == index).sum() >= FEW]
    quiet = np.array([np.quantile(seen[part == index], QUIETEST) for index in filled])
    middle = np.array([np.median(contrast[part == index]) for index in filled])
    lacking = [np.ptp(np.sort(quiet - np.log(1 - share + share * middle))[1:-1]) for share in ELECTRONIC]
    scattered = [_scatter(variance[flat] / _mixed(shapes[:, flat], share)) for share in ELECTRONIC]
    # The first errs where vessels fill the lungs (too small), the second where flat cells are few (either way).
    share = (2 * ELECTRONIC[int(np.argmin(lacking))] + ELECTRONIC[int(np.argmin(scattered))]) / 3
    shape = _mixed(shapes, share)
    return np.asarray(shape * np.exp(np.quantile(np.log(variance[flat] / shape[flat]), LOWER)))


def _mixed(shapes: NDArray[np.float64], share: float) -> NDArray[np.float64]:
    return np.asarray((1 - share) * shapes[0] + share * shapes[1])


def _scatter(ratio: NDArray[np.float64]) -> float:
    """Return how far apart the logarithms of the middle of `ratio` are."""
    low, high = np.quantile(np.log(ratio), [LOWER - 0.2, LOWER + 0.2])
    return float(high - low)


def _current(ratio: NDArray[np.float64], flat: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the factor of the variance of every slice: tube current, smooth along the patient."""
    slices = ratio.shape[2]
    found = np.zeros(slices)
    weight = np.zeros(slices)
    for z in range(slices):
        values = ratio[..., z][flat[..., z]]
        if len(values) >= FEW:
            found[z], weight[z] = np.log(np.quantile(values, LOWER)), len(values)
    width = min(3.0, slices / 4)
    smooth = gaussian_filter1d(found * weight, width, mode="nearest") / np.maximum(
        gaussian_filter1d(weight, width, mode="nearest") + FEW, 1e-12
    )
    return np.asarray(np.exp(smooth))


def _correction(difference: NDArray[np.float64], flat: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return what flat cells agree on that log sigma lacks: smooth, and bounded by BOUND."""
    usual = float(np.median(difference[flat]))
    values = np.where(flat, np.clip(difference - usual, -2 * BOUND, UPWARDS), 0.0)
    weight = flat.astype(np.float64)
    width = (6.0, 6.0, 4.0)
    total = gaussian_filter(weight, width)
    return np.asarray(np.clip(gaussian_filter(values * weight, width) / (total + 0.02), -BOUND, BOUND))


def measure_covariance(
    volume: Volume, rough: Noise, flat: NDArray[np.bool_], reach: tuple[int, int, int]
) -> tuple[NDArray[np.float64], float]:
    """Return the covariance of the noise over `rough.sigma` by lag, 1 at lag 0, and the factor that sigma lacks.

    Within a slice it is measured on the slice less its neighbours, along the slices on what is fine within the slice,
    so that anatomy is in neither; the two are taken to multiply, as they do where the kernel works on slices and the
    slice profile along them. Every lag is the median over flat cells: some are not as flat as they seem.
    """
    rows, columns, slices = volume.shape
    within = [(dy, dx) for dy in range(reach[0] + 1) for dx in range(-reach[1], reach[1] + 1) if (dy, dx) >= (0, 0)]
    places = _sample(flat, (rows, columns), reach)
    parts = list(slabs(rows, height=SLAB_CELLS * CELL, halo=SURROUNDINGS))
    work = partial(covariance_slab, rough=rough, places=places, within=within, lags=reach[2] + 1)
    found = [pair for pair in volume.each(work, parts, "noise: covariance") if len(pair[0])]
    profile = _profile(np.concatenate([along for _, along in found]) if found else np.empty((0, reach[2] + 1)))
    share = np.median(np.concatenate([plane for plane, _ in found]), axis=0) if found else np.eye(1, len(within))[0]
    covariance = np.zeros([2 * edge + 1 for edge in reach])
    for value, (dy, dx) in zip(share / max(share[0], 1e-12), within, strict=True):
        for dz in range(-reach[2], reach[2] + 1):
            covariance[reach[0] + dy, reach[1] + dx, reach[2] + dz] = value * profile[abs(dz)]
            covariance[reach[0] - dy, reach[1] - dx, reach[2] + dz] = value * profile[abs(dz)]
    # What was measured is the spread of a slice less its neighbours.
    return covariance, float(1 / np.sqrt(_difference_gain(profile, slices)))


def covariance_slab(
    volume: Volume,
    slab: Slab,
    *,
    rough: Noise,
    places: NDArray[np.intp],
    within: list[tuple[int, int]],
    lags: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the products at every lag within the slice and along the slices, of the cells at `places` in a slab."""
    _, columns, slices = volume.shape
    here = places[(places[:, 0] * CELL >= slab.first) & (places[:, 0] * CELL < slab.stop)]
    plane, along = np.empty((len(here), len(within))), np.empty((len(here), lags))
    if not len(here):
        return plane, along
    x = volume.read(slab.low, slab.high) / rough.sigma_rows(slab.low, slab.high, columns)
    _, alone = _neighbours(x)
    alone -= uniform_filter(alone, (SURROUNDINGS, SURROUNDINGS, 1))
    x -= uniform_filter(x, (FINE, FINE, 1))
    for number, (row, column, z) in enumerate(here):
        y0, x0 = row * CELL - slab.low, column * CELL
        own = slice(y0, y0 + CELL), slice(x0, x0 + CELL)
        centre = alone[(*own, z)]
        plane[number] = [
            np.mean(centre * alone[y0 + dy : y0 + dy + CELL, x0 + dx : x0 + dx + CELL, z]) for dy, dx in within
        ]
        fine = x[(*own, z)]
        along[number] = [np.mean(fine * x[(*own, z + dz)]) if z + dz < slices else np.nan for dz in range(lags)]
    return plane, along


def _sample(flat: NDArray[np.bool_], image: tuple[int, int], reach: tuple[int, int, int]) -> NDArray[np.intp]:
    """Return up to MOST_CELLS flat cells away from the image's rim, evenly drawn, (cells, 3), in order."""
    rim = -(-max(reach[:2]) // CELL)
    places = np.argwhere(flat)
    last = np.array([image[0] // CELL - rim, image[1] // CELL - rim])
    places = places[(places[:, :2] >= rim).all(axis=1) & (places[:, :2] < last).all(axis=1)]
    step = max(1, -(-len(places) // MOST_CELLS))
    return np.asarray(places[::step])


def _profile(along: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the correlation between slices by lag from products of cells, (cells, lags)."""
    if len(along) == 0:
        return np.asarray(np.eye(1, along.shape[1])[0])
    profile = np.array([np.median(lag[np.isfinite(lag)]) if np.isfinite(lag).any() else 0.0 for lag in along.T])
    profile /= max(profile[0], 1e-12)
    # Below that no correlation is taken for real.
    profile[1:] = np.where(np.abs(profile[1:]) < LEAST_CORRELATION, 0.0, profile[1:])
    return np.asarray(profile)


def _difference_gain(profile: NDArray[np.float64], slices: int) -> float:
    """Return the variance of a slice less the mean of its two neighbours, for noise of variance one."""
    if slices == 1:
        return 1.0
    one, two = (float(profile[lag]) if lag < len(profile) else 0.0 for lag in (1, 2))
    return max(0.1, 1.5 - 2.0 * one + 0.5 * two)
