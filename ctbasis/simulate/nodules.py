"""Synthetic nodules in a lung whose truth is known, and the fraction of their contrast that an image keeps.

A nodule is a sphere of constant contrast c to its surroundings. With f the fraction of a voxel inside the sphere,

    truth with nodule = truth + c f,

so small nodules are blurred by voxel and slice as in a scanner. The nodule in an image is measured by a least-squares
fit of f to the difference between the image and the truth without the nodule, within MARGIN of the sphere:

    image - (truth - c f) = a f + b + rest,      contrast recovery = a / c

A contrast recovery of 1 means that the nodule is kept, 0 that it is removed. The fit is unbiased for noise with zero
mean. Its standard error is large for a single small nodule, so use the mean of several. The offset b absorbs a constant
change around the nodule.

Positions are voxel indices from 0: slices in the pipeline's order along the normal, rows, columns.

References:
    H. H. Barrett, K. J. Myers, "Foundations of Image Science", Wiley, 2004, chapter 13 (linear estimation of a known
        signal's amplitude).
    J. Solomon, E. Samei, "A generic framework to simulate realistic lung, liver and renal pathologies in CT imaging",
        Phys. Med. Biol. 59(21), 6637-6657, 2014.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt, label

from ctbasis.errors import CtbasisError
from ctbasis.simulate.lists import read_list, write_list

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

Spacing: TypeAlias = "tuple[float, float, float]"
"""mm between slices, rows and columns."""

NODULES = "nodules.json"
"""Name of the file with the list of nodules."""

DIAMETERS = (3.0, 5.0, 8.0)
"""Diameters in mm."""

CONTRASTS = (150.0, 600.0)
"""Contrasts to the lung in HU: a faint nodule, and soft tissue in lung of -600 HU."""

EACH = 4
"""Number of nodules of every diameter and contrast."""

LUNG_WITHIN = (-950.0, -700.0)
"""Range of the mean HU of 2 x 2 pixels in lung without noticeable vessels."""

TISSUE = -500.0
"""HU above which a voxel belongs to the body that encloses the lungs; mattress and clothes have the HU of lung too."""

CLEARANCE = 1.5
"""Smallest width in mm of lung without vessels around a nodule."""

APART = 8.0
"""Smallest distance in mm between the surfaces of two nodules."""

CANDIDATES = 24
"""Random positions that are drawn for a nodule, which takes the position farthest from the nodules before it."""

MARGIN = 3.0
"""Width in mm around a sphere of the region in which the nodule is fitted."""

SAMPLES = 7
"""Sampling points along each edge of a voxel, from which the fraction inside a sphere is computed."""


@dataclass(frozen=True)
class InsertedNodule:
    """A sphere of constant contrast.

    Attributes:
        slice: Position of the centre in slices along the normal, from 0.
        row: Position of the centre in rows, from 0.
        column: Position of the centre in columns, from 0.
        diameter_mm: Diameter, mm.
        contrast_hu: Contrast to the surroundings, HU.

    Raises:
        CtbasisError: The diameter is not positive, or the contrast is 0 or not finite.
    """

    slice: float
    row: float
    column: float
    diameter_mm: float
    contrast_hu: float

    def __post_init__(self) -> None:
        if not (self.diameter_mm > 0 and math.isfinite(self.diameter_mm) and math.isfinite(self.contrast_hu)):
            raise CtbasisError(
                f"a nodule of {self.diameter_mm} mm and {self.contrast_hu} HU",
                expected="a positive diameter_mm and a finite contrast_hu",
            )
        if self.contrast_hu == 0:
            raise CtbasisError("a nodule of 0 HU contrast", expected="a contrast, such as 150 or 600 HU")


def coverage(
    nodule: InsertedNodule, z: int, image: tuple[int, int], spacing: Spacing, *, margin: float = 0.0
) -> tuple[tuple[slice, slice], NDArray[np.float64]] | None:
    """Return the window of slice `z` that a nodule covers, and f in the window; None if it does not reach the slice.

    Args:
        nodule: The sphere.
        z: Index of the slice.
        image: Rows and columns.
        spacing: mm between slices, rows and columns; the slice thickness equals the distance between slices.
        margin: Additional width of the window around the sphere, mm.
    """
    dz = spacing[0]
    reach = nodule.diameter_mm / 2 + margin
    if abs(z - nodule.slice) * dz > reach + dz / 2:
        return None
    sampled = sampled_distances((nodule.row, nodule.column), reach, image, spacing[1:])
    if sampled is None:
        return None
    window, disc = sampled
    radius = (nodule.diameter_mm / 2) ** 2
    fraction = np.mean([disc + ((z + w - nodule.slice) * dz) ** 2 <= radius for w in _within()], axis=0)
    return window, pixel_means(fraction)


def sampled_distances(
    centre: tuple[float, float], reach: float, image: tuple[int, int], pixel_spacing: tuple[float, float]
) -> tuple[tuple[slice, slice], NDArray[np.float64]] | None:
    """Return the window of an image around a point, and squared distances in mm^2 at SAMPLES x SAMPLES points a pixel.

    Args:
        centre: Row and column of the point, from 0.
        reach: Half the width of the window, mm.
        image: Rows and columns.
        pixel_spacing: mm between rows and between columns.

    Returns:
        The window, and an array of SAMPLES times its rows and columns; None if the window is outside the image.
    """
    rows, columns = (
        slice(max(0, math.floor(place - reach / step)), min(edge, math.ceil(place + reach / step) + 1))
        for place, step, edge in zip(centre, pixel_spacing, image, strict=True)
    )
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    down, across = (
        (((np.arange(along.start, along.stop)[:, None] + _within()).reshape(-1) - place) * step) ** 2
        for along, place, step in zip((rows, columns), centre, pixel_spacing, strict=True)
    )
    return (rows, columns), down[:, None] + across


def pixel_means(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the means over the SAMPLES x SAMPLES points of every pixel."""
    rows, columns = (edge // SAMPLES for edge in values.shape)
    return np.asarray(values.reshape(rows, SAMPLES, columns, SAMPLES).mean(axis=(1, 3)), np.float64)


def _within() -> NDArray[np.float64]:
    """Return the positions of the sampling points within a pixel, in pixels from its centre."""
    return np.asarray((np.arange(SAMPLES) + 0.5) / SAMPLES - 0.5)


def insert(
    hu: NDArray[np.floating[Any]], nodules: Iterable[InsertedNodule], spacing: Spacing, *, first: int = 0
) -> None:
    """Add the nodules to slices, in place.

    Args:
        hu: HU, (slices, rows, columns).
        nodules: Spheres; parts outside the volume are ignored.
        spacing: mm between slices, rows and columns.
        first: Index of the first slice.
    """
    image = (hu.shape[1], hu.shape[2])
    for nodule, z in product(nodules, range(len(hu))):
        covered = coverage(nodule, first + z, image, spacing)
        if covered is not None:
            window, f = covered
            hu[z][window] += (nodule.contrast_hu * f).astype(hu.dtype)


def place(
    images: Iterable[NDArray[Any]],
    spacing: Spacing,
    *,
    seed: int = 0,
    each: int = EACH,
    diameters: Sequence[float] = DIAMETERS,
    contrasts: Sequence[float] = CONTRASTS,
    within: range | None = None,
) -> list[InsertedNodule]:
    """Choose positions for nodules in the lungs, in parenchyma away from vessels and from each other.

    Args:
        images: Slices, HU, in order.
        spacing: mm between slices, rows and columns.
        seed: Seed of the choice.
        each: Number of nodules of every diameter and contrast; fewer if there is no room for more.
        diameters: Diameters, mm.
        contrasts: Contrasts, HU.
        within: Slices in which centres may lie; by default all.

    Raises:
        CtbasisError: There is no room for a single nodule.
    """
    dz, dy, dx = spacing
    lung = np.stack([_parenchyma(np.asarray(image, np.float32)) for image in images])
    # The tissue beyond the first and the last slice is unknown, and counts as not free.
    closed = np.pad(lung, ((1, 1), (0, 0), (0, 0)))
    room = distance_transform_edt(closed, sampling=(dz, 2 * dy, 2 * dx))[1:-1]
    if within is not None:
        room[: within.start] = room[within.stop :] = 0
    rng = np.random.default_rng(seed)
    placed: list[InsertedNodule] = []
    # Large nodules come first, because room for them is scarce.
    for diameter, _ in product(sorted(diameters, reverse=True), range(each)):
        free = np.argwhere(room >= diameter / 2 + CLEARANCE)
        for contrast in contrasts:
            if not len(free):
                break
            candidates = free[rng.choice(len(free), min(CANDIDATES, len(free)), replace=False)]
            nodule = _farthest(candidates, placed, spacing, diameter, contrast)
            if nodule is not None:
                placed.append(nodule)
    if not placed:
        raise CtbasisError(
            f"there is no room for a nodule of {min(diameters):g} mm in {len(lung)} slices",
            expected=f"lung without vessels within at least {min(diameters) / 2 + CLEARANCE:g} mm of a nodule's centre",
            cause="the slices do not show the lungs, or are too few or too thick",
            remedy="list positions in a JSON file, or insert no nodules",
        )
    return sorted(placed, key=lambda one: (one.diameter_mm, one.contrast_hu, one.slice, one.row, one.column))


def _parenchyma(image: NDArray[np.float32]) -> NDArray[np.bool_]:
    rows, columns = image.shape[0] // 2, image.shape[1] // 2
    mean = image[: 2 * rows, : 2 * columns].reshape(rows, 2, columns, 2).mean(axis=(1, 3))
    parts, count = label(mean > TISSUE)
    if not count:
        return np.zeros(mean.shape, np.bool_)
    largest = int(np.argmax(np.bincount(parts.ravel())[1:])) + 1
    within = binary_fill_holes(parts == largest)
    return np.asarray(within & (mean > LUNG_WITHIN[0]) & (mean < LUNG_WITHIN[1]))


def _farthest(
    candidates: NDArray[np.intp],
    placed: Sequence[InsertedNodule],
    spacing: Spacing,
    diameter: float,
    contrast: float,
) -> InsertedNodule | None:
    """Return a nodule at the candidate farthest from all placed nodules; None if every candidate is too near to one."""
    # A candidate is a square of 2 x 2 pixels; its centre lies between them.
    places = candidates * [1, 2, 2] + [0, 0.5, 0.5]
    gaps = np.full(len(places), np.inf)
    for other in placed:
        offset = (places - [other.slice, other.row, other.column]) * spacing
        gaps = np.minimum(gaps, np.linalg.norm(offset, axis=1) - (other.diameter_mm + diameter) / 2)
    best = int(np.argmax(gaps))
    if gaps[best] < APART:
        return None
    z, y, x = places[best].tolist()
    return InsertedNodule(z, y, x, diameter, contrast)


def check_places(nodules: Sequence[InsertedNodule], images: Iterable[NDArray[Any]], *, air: float) -> None:
    """Refuse nodules outside the volume or the body.

    Args:
        nodules: Spheres.
        images: Slices, HU, in order, with padding of at least -1000 HU.
        air: Largest mean HU around a centre that counts as air.

    Raises:
        CtbasisError: The centre of a nodule is outside the volume, or in air.
    """
    count, image = 0, (0, 0)
    for z, hu in enumerate(images):
        count, image = z + 1, (hu.shape[0], hu.shape[1])
        for nodule in nodules:
            row, column = round(nodule.row), round(nodule.column)
            if round(nodule.slice) == z and 0 <= row < image[0] and 0 <= column < image[1]:
                around = hu[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
                if float(np.mean(around)) <= air:
                    raise _outside(nodule, "in air, outside the body or in an airway")
    for nodule in nodules:
        inside = 0 <= nodule.slice <= count - 1
        if not (inside and 0 <= nodule.row <= image[0] - 1 and 0 <= nodule.column <= image[1] - 1):
            raise _outside(nodule, f"outside the {count} slices of {image[0]} x {image[1]}")


def _outside(nodule: InsertedNodule, where: str) -> CtbasisError:
    return CtbasisError(
        f"the nodule at slice {nodule.slice:g}, row {nodule.row:g}, column {nodule.column:g} is {where}",
        expected="a centre inside the body, in voxel indices from 0, slices along the normal",
        cause="the position is in mm, or belongs to another series",
        remedy="correct the list of nodules",
    )


class Contrast:
    """Contrast recovery of nodules by a matched fit, accumulated slice by slice.

    Args:
        nodules: The nodules in the truth.
        image: Rows and columns.
        spacing: mm between slices, rows and columns.
    """

    def __init__(self, nodules: Sequence[InsertedNodule], image: tuple[int, int], spacing: Spacing) -> None:
        self.nodules = nodules
        self._image, self._spacing = image, spacing
        # For every nodule: sums of 1, f, d, f f, f d.
        self._sums = np.zeros((len(nodules), 5))

    def add(self, z: int, truth: NDArray[np.floating[Any]], image: NDArray[np.floating[Any]]) -> None:
        """Add slice `z` of the truth, which holds the nodules, and of the image, HU."""
        for index, nodule in enumerate(self.nodules):
            covered = coverage(nodule, z, self._image, self._spacing, margin=MARGIN)
            if covered is not None:
                window, f = covered
                d = image[window] - (truth[window] - nodule.contrast_hu * f)
                self._sums[index] += f.size, f.sum(), d.sum(), (f * f).sum(), (f * d).sum()

    @property
    def recovered(self) -> list[float | None]:
        """Contrast recovery a / c of every nodule; None if no slice shows the nodule."""
        recovered: list[float | None] = []
        for (n, f, d, ff, fd), nodule in zip(self._sums.tolist(), self.nodules, strict=True):
            variance = n * ff - f * f
            recovered.append((n * fd - f * d) / variance / nodule.contrast_hu if variance > 0 else None)
        return recovered

    def kinds(self) -> list[dict[str, Any]]:
        """Return a row for every diameter and contrast: count, mean recovery, standard deviation of the recovery."""
        groups: dict[tuple[float, float], list[float]] = {}
        for nodule, value in zip(self.nodules, self.recovered, strict=True):
            if value is not None:
                groups.setdefault((nodule.diameter_mm, nodule.contrast_hu), []).append(value)
        return [
            {
                "diameter_mm": diameter,
                "contrast_hu": contrast,
                "count": len(values),
                "recovered": float(np.mean(values)),
                "spread": float(np.std(values, ddof=1)) if len(values) > 1 else None,
            }
            for (diameter, contrast), values in sorted(groups.items())
        ]


def write_nodules(nodules: Sequence[InsertedNodule], path: Path) -> None:
    """Write the list as JSON: `{"nodules": [{slice, row, column, diameter_mm, contrast_hu}, ...]}`."""
    write_list(path, "nodules", map(asdict, nodules))


def read_nodules(path: Path) -> list[InsertedNodule]:
    """Read the list that `write_nodules` wrote.

    Raises:
        CtbasisError: The file does not exist, or holds no such list.
    """
    expected = '{"nodules": [{"slice", "row", "column", "diameter_mm", "contrast_hu"}, ...]} of numbers'
    return read_list(path, "nodules", _parsed, expected=expected)


def _parsed(entry: Mapping[str, Any]) -> InsertedNodule:
    return InsertedNodule(**{key: float(entry[key]) for key in InsertedNodule.__dataclass_fields__})
