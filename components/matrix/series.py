"""Slices to series: told apart by SeriesInstanceUID, ordered along the normal, refused where they are no volume."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from components.errors import CtbasisError
from components.matrix.instance import SetAside

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from components.matrix.instance import Slice

ORIENTATION_TOLERANCE = 1e-3
"""Direction cosines of one series differ by no more: scanners write them with 4 to 6 digits."""

POSITION_TOLERANCE = 1e-3
"""mm; slices nearer than this along the normal are at one place."""

GAP = 1.5
"""A step along the normal of more than so many usual ones is a gap."""

UNEVEN = 0.02
"""Share of the usual step by which others may differ before the spacing is said to vary: positions are rounded."""

TILT = 0.1
"""Degrees from which a drift of the slices' origins is said to be the gantry's tilt."""


@dataclass(frozen=True)
class Gap:
    """A place where slices are missing.

    Attributes:
        after: Position of the slice before the gap, mm along the normal.
        before: Position of the slice behind it.
        missing: How many slices the usual spacing would put between.
    """

    after: float
    before: float
    missing: int


@dataclass(frozen=True)
class CTSeries:
    """The slices of one series in order along the normal of ImageOrientationPatient.

    Attributes:
        SeriesInstanceUID: Of the series.
        slices: In ascending order of `positions`.
        positions: mm along the normal, one a slice.
        spacing: Median step, mm; 0 for a single slice.
        gaps: Where slices are missing.
        tilt: Degrees between the normal and the line through the slices' origins.
        oddities: What was tolerated in the series as a whole, in words for the user.
    """

    SeriesInstanceUID: str
    slices: tuple[Slice, ...]
    positions: tuple[float, ...]
    spacing: float
    gaps: tuple[Gap, ...]
    tilt: float
    oddities: tuple[str, ...]

    @property
    def image(self) -> tuple[int, int]:
        """Rows and Columns of every slice."""
        return self.slices[0].Rows, self.slices[0].Columns


def set_copies_aside(slices: Iterable[Slice]) -> tuple[list[Slice], list[SetAside]]:
    """Keep one of the files that hold the same instance at the same place: exports repeat them in several folders."""
    kept: dict[tuple[str, str, tuple[float, ...]], Slice] = {}
    aside = []
    for entry in slices:
        key = entry.SeriesInstanceUID, entry.SOPInstanceUID, entry.ImagePositionPatient
        if key in kept:
            aside.append(SetAside(entry.file, f"a copy of {kept[key].file}: the same SOPInstanceUID"))
        else:
            kept[key] = entry
    return list(kept.values()), aside


def arrange(slices: Iterable[Slice]) -> list[CTSeries]:
    """Tell the series apart and order the slices of each.

    Returns:
        Ordered by SeriesNumber, then SeriesInstanceUID.

    Raises:
        CtbasisError: A series has several orientations or image sizes or two slices at one place, or two series differ
            in image size.
    """
    grouped: defaultdict[str, list[Slice]] = defaultdict(list)
    for entry in slices:
        grouped[entry.SeriesInstanceUID].append(entry)
    found = [_ordered(uid, group) for uid, group in grouped.items()]
    found.sort(key=lambda series: (series.slices[0].SeriesNumber, series.SeriesInstanceUID))
    for other in found[1:]:
        if other.image != found[0].image:
            raise CtbasisError(
                f"series {found[0].SeriesInstanceUID} has images of {_size(found[0].image)} and series "
                f"{other.SeriesInstanceUID} of {_size(other.image)} (Rows x Columns)",
                expected="one image size: the rows of A are the voxels of a slice",
                cause="several examinations under one source",
                remedy="select the series: give as source the prefix or folder that holds it alone, or those alike",
            )
    return found


def _ordered(uid: str, slices: Sequence[Slice]) -> CTSeries:
    _refuse_mixed_sizes(uid, slices)
    normal = _normal(uid, slices)
    origins = np.asarray([entry.ImagePositionPatient for entry in slices])
    along = origins @ normal
    order = np.argsort(along, kind="stable")
    slices, positions, origins = [slices[index] for index in order], along[order], origins[order]
    steps = np.diff(positions)
    _refuse_one_place(uid, slices, positions, steps)
    spacing = statistics.median(steps.tolist()) if len(steps) else 0.0
    wide = steps > GAP * spacing
    tilt = _tilt(origins[-1] - origins[0], normal)
    return CTSeries(
        SeriesInstanceUID=uid,
        slices=tuple(slices),
        positions=tuple(float(position) for position in positions),
        spacing=spacing,
        gaps=tuple(
            Gap(float(positions[index]), float(positions[index + 1]), round(float(steps[index]) / spacing) - 1)
            for index in np.flatnonzero(wide)
        ),
        tilt=tilt,
        oddities=tuple(_oddities(slices, steps[~wide], spacing, tilt)),
    )


def _size(image: tuple[int, int]) -> str:
    return f"{image[0]} x {image[1]}"


def _refuse_mixed_sizes(uid: str, slices: Sequence[Slice]) -> None:
    first = slices[0]
    for entry in slices:
        if (entry.Rows, entry.Columns) != (first.Rows, first.Columns):
            raise CtbasisError(
                f"series {uid} has images of {_size((first.Rows, first.Columns))} ({first.file}) and of "
                f"{_size((entry.Rows, entry.Columns))} ({entry.file}) (Rows x Columns)",
                expected="one image size in a series: the rows of A are the voxels of a slice",
                cause="images of different reconstructions were given one SeriesInstanceUID",
                remedy="take the images of the other size out of the source",
            )


def _normal(uid: str, slices: Sequence[Slice]) -> NDArray[np.float64]:
    """Return the unit normal of the slices, which must share their ImageOrientationPatient (PS3.3 C.7.6.2.1.1)."""
    cosines = np.asarray([entry.ImageOrientationPatient for entry in slices])
    off = np.abs(cosines - cosines[0]).max(axis=1)
    if off.max() > ORIENTATION_TOLERANCE:
        other = slices[int(off.argmax())]
        raise CtbasisError(
            f"series {uid} has two orientations: ImageOrientationPatient of {slices[0].file} and of {other.file} "
            f"differ by {off.max():.3g}",
            expected=f"direction cosines that agree within {ORIENTATION_TOLERANCE:g}",
            cause="a localizer or a reformat was given the SeriesInstanceUID of the axial images",
            remedy="take the images of the other orientation out of the source",
        )
    normal = np.cross(cosines[0, :3], cosines[0, 3:])
    return np.asarray(normal / np.linalg.norm(normal))


def _refuse_one_place(
    uid: str, slices: Sequence[Slice], positions: NDArray[np.float64], steps: NDArray[np.float64]
) -> None:
    same = np.flatnonzero(steps < POSITION_TOLERANCE)
    if same.size:
        index = int(same[0])
        raise CtbasisError(
            f"series {uid} has several slices at one position ({same.size} times): {slices[index].file} and "
            f"{slices[index + 1].file} are both at {positions[index]:.3f} mm along the normal",
            expected="one slice at each ImagePositionPatient",
            cause="several phases or reconstructions were given one SeriesInstanceUID",
            remedy="take all but one of them out of the source",
        )


def _tilt(drift: NDArray[np.float64], normal: NDArray[np.float64]) -> float:
    length = float(np.linalg.norm(drift))
    if length == 0:
        return 0.0
    # atan2 keeps its digits where acos near 1 loses them.
    forward = float(drift @ normal)
    return float(np.degrees(np.arctan2(np.linalg.norm(drift - forward * normal), abs(forward))))


def _oddities(slices: Sequence[Slice], steps: NDArray[np.float64], spacing: float, tilt: float) -> Iterable[str]:
    if len(slices) == 1:
        yield "one slice: its matrix has one column, and nothing can be told from noise"
    if steps.size and float(np.abs(steps - spacing).max()) > UNEVEN * spacing:
        yield f"the spacing varies, from {steps.min():.3f} to {steps.max():.3f} mm"
    if tilt > TILT:
        yield f"the gantry is tilted, by {tilt:.1f} degrees: columns are compared voxel by voxel, sheared as they are"
    if len({entry.PixelSpacing for entry in slices}) > 1:
        yield "PixelSpacing varies: the first slice's is taken for all"
    if len({entry.SOPInstanceUID for entry in slices}) < len(slices):
        yield "a SOPInstanceUID is given to several slices"
