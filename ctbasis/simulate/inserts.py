"""Disc inserts for task-based image quality: rods of known contrast, in a phantom or drawn into any background.

An insert is a cylinder along the slices: in every slice a disc of diameter d and of contrast c to its surroundings, or
an ellipse of the same area. With f the fraction of a pixel inside,

    image with insert = background + c f

The insert phantom is made like the phantoms of AAPM TG-233: a cylinder of water with rods of four contrasts (those of
polystyrene, acrylic, Delrin and Teflon in the module CTP404 of the Catphan) in three sizes, around a uniform centre in
which noise is measured.

Positions are pixel indices from 0: rows, columns.

References:
    E. Samei et al., "Performance evaluation of computed tomography systems: summary of AAPM Task Group 233", Med. Phys.
        46(11), e735-e756, 2019 (section on task-based resolution).
    J. B. Winslow, Y. Zhang, E. Samei, "A method for characterizing and matching CT image quality across CT scanners
        from different manufacturers", Med. Phys. 44(11), 5705-5717, 2017 (Mercury phantom).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.simulate.lists import read_list, write_list
from ctbasis.simulate.nodules import pixel_means, sampled_distances

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ctbasis.simulate.nodules import Spacing

CONTRASTS = (-35.0, 120.0, 340.0, 950.0)
"""Contrasts to water in HU: polystyrene, acrylic, Delrin, Teflon."""

DIAMETERS = (10.0, 15.0, 25.0)
"""Diameters in mm."""

PHANTOM_DIAMETER, RING_DIAMETER = 210.0, 144.0
"""Diameters in mm of the phantom, and of the circle on which the centres of the rods lie."""

UNIFORM_DIAMETER = 100.0
"""Diameter in mm of the centre of the phantom without a rod."""

INSERTS = "inserts.json"
"""Name of the file with the list of inserts."""

SMALLEST = 2 * PHANTOM_DIAMETER / DIAMETERS[0]
"""Fewest pixels of a phantom in rows and columns: a fifth of them show the smallest rod as two pixels."""


@dataclass(frozen=True)
class Insert:
    """A disc of constant contrast in a range of slices.

    Attributes:
        row: Position of the centre in rows, from 0.
        column: Position of the centre in columns, from 0.
        diameter_mm: Diameter, mm.
        contrast_hu: Contrast to the surroundings, HU.
        slices: Slices that the insert crosses; None for all.
        aspect: Ratio of the axis along the columns to the one along the rows; the area is that of the disc.

    Raises:
        CtbasisError: The diameter or the aspect is not positive, or the contrast is 0 or not finite.
    """

    row: float
    column: float
    diameter_mm: float
    contrast_hu: float
    slices: range | None = None
    aspect: float = 1.0

    def __post_init__(self) -> None:
        finite = math.isfinite(self.contrast_hu) and self.contrast_hu != 0
        if not (finite and all(value > 0 and math.isfinite(value) for value in (self.diameter_mm, self.aspect))):
            raise CtbasisError(
                f"an insert of {self.diameter_mm} mm, {self.contrast_hu} HU and aspect {self.aspect}",
                expected="a positive diameter_mm and aspect, and a finite contrast_hu other than 0",
            )

    def crosses(self, z: int) -> bool:
        """Return whether the insert is in slice `z`."""
        return self.slices is None or z in self.slices


@dataclass(frozen=True)
class InsertPhantom:
    """A cylinder of water with rods.

    Attributes:
        hu: HU, (slices, rows, columns).
        spacing: mm between slices, rows and columns.
        inserts: The rods, in all slices.
        uniform: Mask of the centre without a rod, (rows, columns).
    """

    hu: NDArray[np.float32]
    spacing: Spacing
    inserts: tuple[Insert, ...]
    uniform: NDArray[np.bool_]


def disc_coverage(
    insert: Insert, image: tuple[int, int], pixel_spacing: tuple[float, float]
) -> tuple[tuple[slice, slice], NDArray[np.float64]] | None:
    """Return the window that an insert covers, and f in the window; None if it is outside the image.

    Args:
        insert: The disc.
        image: Rows and columns.
        pixel_spacing: mm between rows and between columns.
    """
    radius, stretch = insert.diameter_mm / 2, math.sqrt(insert.aspect)
    # On axes that are scaled by the stretch, the ellipse is a circle.
    scaled = (pixel_spacing[0] * stretch, pixel_spacing[1] / stretch)
    sampled = sampled_distances((insert.row, insert.column), radius, image, scaled)
    if sampled is None:
        return None
    window, squared = sampled
    return window, pixel_means(squared <= radius**2)


def draw_inserts(
    hu: NDArray[np.floating[Any]], inserts: Iterable[Insert], pixel_spacing: tuple[float, float], *, first: int = 0
) -> None:
    """Add inserts to slices, in place.

    Args:
        hu: HU, (slices, rows, columns).
        inserts: Discs; parts outside the image are ignored.
        pixel_spacing: mm between rows and between columns.
        first: Index of the first slice.
    """
    for insert in inserts:
        covered = disc_coverage(insert, (hu.shape[1], hu.shape[2]), pixel_spacing)
        crossed = [z for z in range(len(hu)) if insert.crosses(first + z)]
        if covered is not None and crossed:
            window, f = covered
            hu[(crossed, *window)] += (insert.contrast_hu * f).astype(hu.dtype)


def insert_phantom(slices: int = 32, size: int = 256, *, spacing: float = 2.5) -> InsertPhantom:
    """Make the phantom: water in air, with a rod of every contrast of CONTRASTS and diameter of DIAMETERS.

    Args:
        slices: Number of slices.
        size: Rows and columns; they span PHANTOM_DIAMETER and a border of a twentieth of it.
        spacing: mm between slices.

    Raises:
        CtbasisError: There is no slice, there are too few pixels, or the spacing is not positive.
    """
    if slices < 1 or size < SMALLEST or not spacing > 0:
        raise CtbasisError(
            f"an insert phantom of {slices} slices of {size} x {size} at {spacing} mm was requested",
            expected=f"at least 1 slice, {SMALLEST:.0f} x {SMALLEST:.0f} pixels, and a positive spacing",
        )
    pixel = 1.1 * PHANTOM_DIAMETER / size
    centre = (size - 1) / 2
    body = Insert(centre, centre, PHANTOM_DIAMETER, 1000.0)
    inserts = _ring(centre, pixel)
    image = np.full((1, size, size), -1000.0, np.float32)
    draw_inserts(image, (body, *inserts), (pixel, pixel))
    offset = (np.arange(size) - centre) * pixel
    uniform = np.hypot(offset[:, None], offset) <= UNIFORM_DIAMETER / 2
    return InsertPhantom(np.repeat(image, slices, axis=0), (spacing, pixel, pixel), inserts, uniform)


def _ring(centre: float, pixel: float) -> tuple[Insert, ...]:
    """Return the rods on a circle with equal gaps between them."""
    kinds = list(product(DIAMETERS, CONTRASTS))
    radius = RING_DIAMETER / 2
    # Angle of a rod seen from the centre; the rest of the circle is divided into equal gaps.
    widths = [2 * math.asin(diameter / 2 / radius) for diameter, _ in kinds]
    gap = (2 * math.pi - sum(widths)) / len(kinds)
    inserts, angle = [], 0.0
    for (diameter, contrast), width in zip(kinds, widths, strict=True):
        middle = angle + width / 2
        row, column = (centre + radius / pixel * turned for turned in (math.sin(middle), math.cos(middle)))
        inserts.append(Insert(row, column, diameter, contrast))
        angle += width + gap
    return tuple(inserts)


def write_inserts(inserts: Sequence[Insert], path: Path) -> None:
    """Write the list as JSON: `{"inserts": [{row, column, diameter_mm, contrast_hu, slices, aspect}, ...]}`."""
    listed = [
        {**asdict(insert), "slices": [insert.slices.start, insert.slices.stop] if insert.slices else None}
        for insert in inserts
    ]
    write_list(path, "inserts", listed)


def read_inserts(path: Path) -> list[Insert]:
    """Read the list that `write_inserts` wrote.

    Raises:
        CtbasisError: The file does not exist, or holds no such list.
    """
    expected = (
        '{"inserts": [{"row", "column", "diameter_mm", "contrast_hu", "aspect"}, ...]} of numbers, with "slices": null '
        "or [first, end]"
    )
    return read_list(path, "inserts", _parsed, expected=expected)


def _parsed(entry: Mapping[str, Any]) -> Insert:
    row, column, diameter, contrast = (float(entry[key]) for key in ("row", "column", "diameter_mm", "contrast_hu"))
    ends = entry.get("slices")
    slices = None if ends is None else range(int(ends[0]), int(ends[1]))
    if not (math.isfinite(row) and math.isfinite(column)) or slices == range(0):
        raise ValueError("a position is not finite, or slices is empty")
    return Insert(row, column, diameter, contrast, slices, float(entry.get("aspect", 1.0)))
