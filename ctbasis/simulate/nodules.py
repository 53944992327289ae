"""Nodules put into a lung whose truth is known, and how much of their contrast an image keeps.

A nodule is a sphere of constant contrast c over what is there. A voxel takes the share f of it that lies in the sphere,

    truth with nodule = truth + c f,

so small ones are blurred by voxel and slice as a scanner blurs them. An image's nodule is measured by the least-squares
fit of the same f to what the image has over the truth without it, within MARGIN of the sphere:

    image - (truth - c f) = a f + b + rest,      contrast recovery = a / c

1 is a nodule that is kept, 0 one that is gone. The fit is unbiased under noise of mean zero, whose standard error is
large for one small nodule: look at several. The offset b takes what a method changes around the nodule alike.

Places are voxel indices, counted from 0: slices as the pipeline orders them along the normal, rows, columns.

References:
    H. H. Barrett, K. J. Myers, "Foundations of Image Science", Wiley, 2004, chapter 13 (linear estimation of a known
        signal's amplitude).
    J. Solomon, E. Samei, "A generic framework to simulate realistic lung, liver and renal pathologies in CT imaging",
        Phys. Med. Biol. 59(21), 6637-6657, 2014.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from scipy.ndimage import binary_fill_holes, distance_transform_edt, label

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

Spacing: TypeAlias = "tuple[float, float, float]"
"""mm between slices, rows and columns."""

NODULES = "nodules.json"

DIAMETERS = (3.0, 5.0, 8.0)
"""mm."""

CONTRASTS = (150.0, 600.0)
"""HU over the lung: a faint one and one of soft tissue in lung of -600."""

EACH = 4
"""Nodules of every diameter and contrast."""

LUNG_WITHIN = (-950.0, -700.0)
"""HU of the mean of 2 x 2 pixels of lung that holds no vessel to speak of."""

TISSUE = -500.0
"""HU above which a voxel belongs to the body that encloses the lungs: mattress and clothes look like lung too."""

CLEARANCE = 1.5
"""mm of such lung around a nodule, at least."""

APART = 8.0
"""mm between the surfaces of two nodules, at least."""

CANDIDATES = 24
"""Random places of which a nodule takes the one farthest from those before it."""

MARGIN = 3.0
"""mm around a sphere over which it is fitted."""

SAMPLES = 7
"""Points along each edge of a voxel at which it is asked whether it lies in a sphere."""


@dataclass(frozen=True)
class InsertedNodule:
    """A sphere.

    Attributes:
        slice: Its centre, in slices along the normal.
        row: The same in rows.
        column: The same in columns.
        diameter_mm: mm.
        contrast_hu: HU over what was there.
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
    """Return where a nodule is in slice `z`, as a window into the image, and f in it; None where it is not.

    Args:
        nodule: The sphere.
        z: Index of the slice.
        image: Rows and columns.
        spacing: mm between slices, rows and columns; a slice is as thick as slices are apart.
        margin: mm around the sphere that the window holds too.
    """
    dz, dy, dx = spacing
    reach = nodule.diameter_mm / 2 + margin
    if abs(z - nodule.slice) * dz > reach + dz / 2:
        return None
    rows, columns = (
        slice(max(0, math.floor(centre - reach / step)), min(edge, math.ceil(centre + reach / step) + 1))
        for centre, step, edge in ((nodule.row, dy, image[0]), (nodule.column, dx, image[1]))
    )
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return None
    within = (np.arange(SAMPLES) + 0.5) / SAMPLES - 0.5
    squared = [
        (((np.arange(start, stop)[:, None] + within).reshape(-1) - centre) * step) ** 2
        for start, stop, centre, step in (
            (rows.start, rows.stop, nodule.row, dy),
            (columns.start, columns.stop, nodule.column, dx),
        )
    ]
    radius = (nodule.diameter_mm / 2) ** 2
    disc = squared[0][:, None] + squared[1]
    share = np.mean([disc + ((z + w - nodule.slice) * dz) ** 2 <= radius for w in within], axis=0)
    shape = (rows.stop - rows.start, SAMPLES, columns.stop - columns.start, SAMPLES)
    return (rows, columns), share.reshape(shape).mean(axis=(1, 3))


def insert(
    hu: NDArray[np.floating[Any]], nodules: Iterable[InsertedNodule], spacing: Spacing, *, first: int = 0
) -> None:
    """Add the nodules to slices, in place.

    Args:
        hu: HU, (slices, rows, columns).
        nodules: Spheres; parts outside are left out.
        spacing: mm between slices, rows and columns.
        first: Index of the first slice.
    """
    image = (hu.shape[1], hu.shape[2])
    for nodule, z in product(nodules, range(len(hu))):
        found = coverage(nodule, first + z, image, spacing)
        if found is not None:
            where, f = found
            hu[z][where] += (nodule.contrast_hu * f).astype(hu.dtype)


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
    """Find places for nodules in the lungs, in parenchyma away from vessels and from each other.

    Args:
        images: Slices, HU, in order.
        spacing: mm between slices, rows and columns.
        seed: Of the choice.
        each: How many of every diameter and contrast; fewer where there is no room for more.
        diameters: mm.
        contrasts: HU.
        within: Slices that centres may be in; all without it.

    Raises:
        CtbasisError: There is no room for any.
    """
    dz, dy, dx = spacing
    lung = np.stack([_parenchyma(np.asarray(image, np.float32)) for image in images])
    # Beyond the first and the last slice nobody knows what there is.
    closed = np.pad(lung, ((1, 1), (0, 0), (0, 0)))
    room = distance_transform_edt(closed, sampling=(dz, 2 * dy, 2 * dx))[1:-1]
    if within is not None:
        room[: within.start] = room[within.stop :] = 0
    rng = np.random.default_rng(seed)
    placed: list[InsertedNodule] = []
    # The largest first: they find room hardest.
    for diameter, _ in product(sorted(diameters, reverse=True), range(each)):
        free = np.argwhere(room >= diameter / 2 + CLEARANCE)
        for contrast in contrasts:
            if not len(free):
                break
            candidates = free[rng.choice(len(free), min(CANDIDATES, len(free)), replace=False)]
            found = _farthest(candidates, placed, spacing, diameter, contrast)
            if found is not None:
                placed.append(found)
    if not placed:
        raise CtbasisError(
            f"there is no room for a nodule of {min(diameters):g} mm in {len(lung)} slices",
            expected=f"lung without vessels, at least {min(diameters) / 2 + CLEARANCE:g} mm around a nodule's centre",
            cause="the slices do not show the lungs, or are too few or too thick",
            remedy="give places by a JSON file, or leave nodules out",
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
    """Return a nodule at the candidate that is farthest from all before it, None where every one is too near."""
    # A candidate is a square of 2 x 2 pixels; its middle lies between them.
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
        images: Slices, HU, in order, padding as no less than -1000.
        air: HU up to which the place of a centre is not in the body.

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
        expected="its centre in the body, in voxel indices from 0 along the normal",
        cause="its place is in mm, or was made for another series",
    )


class Contrast:
    """The matched fit of nodules, slice by slice.

    Args:
        nodules: Those that the truth holds.
        image: Rows and columns.
        spacing: mm between slices, rows and columns.
    """

    def __init__(self, nodules: Sequence[InsertedNodule], image: tuple[int, int], spacing: Spacing) -> None:
        self.nodules = nodules
        self._image, self._spacing = image, spacing
        # Of every nodule: sums of 1, f, d, f f, f d.
        self._sums = np.zeros((len(nodules), 5))

    def add(self, z: int, truth: NDArray[np.floating[Any]], image: NDArray[np.floating[Any]]) -> None:
        """Take slice `z` of the truth, which holds the nodules, and of the image, HU."""
        for index, nodule in enumerate(self.nodules):
            found = coverage(nodule, z, self._image, self._spacing, margin=MARGIN)
            if found is not None:
                where, f = found
                d = image[where] - (truth[where] - nodule.contrast_hu * f)
                self._sums[index] += f.size, f.sum(), d.sum(), (f * f).sum(), (f * d).sum()

    @property
    def recovered(self) -> list[float | None]:
        """Contrast recovery a / c of every nodule; None for one that no slice shows."""
        found: list[float | None] = []
        for (n, f, d, ff, fd), nodule in zip(self._sums.tolist(), self.nodules, strict=True):
            variance = n * ff - f * f
            found.append((n * fd - f * d) / variance / nodule.contrast_hu if variance > 0 else None)
        return found

    def kinds(self) -> list[dict[str, Any]]:
        """Return a row for every diameter and contrast: count, mean recovery, and its standard deviation."""
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
    path.write_text(json.dumps({"nodules": [asdict(nodule) for nodule in nodules]}, indent=2) + "\n", encoding="utf-8")


def read_nodules(path: Path) -> list[InsertedNodule]:
    """Read what `write_nodules` wrote.

    Raises:
        CtbasisError: There is no such file, or it is no such list.
    """
    expected = '{"nodules": [{"slice", "row", "column", "diameter_mm", "contrast_hu"}, ...]} of numbers'
    try:
        listed = json.loads(path.read_text(encoding="utf-8"))["nodules"]
        keys = InsertedNodule.__dataclass_fields__
        found = [InsertedNodule(**{key: float(entry[key]) for key in keys}) for entry in listed]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CtbasisError(
            f"{path} is no list of nodules ({type(error).__name__}: {error})", expected=expected
        ) from error
    if not found:
        raise CtbasisError(f"{path} lists no nodule", expected=expected)
    return found
