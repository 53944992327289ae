"""Slices to series: told apart by SeriesInstanceUID, ordered along the normal, refused where they are no volume."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctbasis.dicom.instance import TRAITS
from ctbasis.dicom.set_aside import SetAside
from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from ctbasis.dicom.instance import Slice

ORIENTATION_TOLERANCE = 1e-3
"""Direction cosines of one series differ by no more, as in highdicom: scanners write them with 4 to 6 digits."""

POSITION_TOLERANCE = 1e-3
"""mm; slices nearer than this along the normal are at one place."""

GAP = 1.5
"""A step along the normal of more than so many usual ones is a gap."""

UNEVEN, UNEVEN_MM = 0.01, 0.01 + 1e-9
"""By what share of the usual step, or by how many mm, others may differ before the spacing is said to vary: highdicom
allows the share, 3D Slicer the hundredth of a mm, to which many scanners round positions."""

PHASES = (
    "StackID",
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "TemporalPositionTimeOffset",
    "NominalPercentageOfCardiacPhase",
    "NominalPercentageOfRespiratoryPhase",
    "NominalCardiacTriggerDelayTime",
    "ConvolutionKernel",
)
"""Traits that differ between volumes and never within one: slices are told apart by them wherever they differ."""

FEWEST = 2
"""Slices that a phase has at least; a trait that leaves fewer counts slices and not phases."""

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
        tolerated: What was tolerated in the series as a whole, in words for the user.
        part: What tells it from other parts of its series, such as `AcquisitionNumber 2`; empty where it is the whole.
    """

    SeriesInstanceUID: str
    slices: tuple[Slice, ...]
    positions: tuple[float, ...]
    spacing: float
    gaps: tuple[Gap, ...]
    tilt: float
    tolerated: tuple[str, ...]
    part: str = ""

    @property
    def image(self) -> tuple[int, int]:
        """Rows and Columns of every slice."""
        return self.slices[0].Rows, self.slices[0].Columns


def set_copies_aside(slices: Iterable[Slice]) -> tuple[list[Slice], list[SetAside]]:
    """Keep one of the files that hold the same instance at the same place: exports repeat them in several folders."""
    kept: dict[tuple[str, str, int, tuple[float, ...]], Slice] = {}
    aside = []
    for entry in slices:
        key = entry.SeriesInstanceUID, entry.SOPInstanceUID, entry.frame, entry.ImagePositionPatient
        if key in kept:
            reason = "a copy of another file: the same SOPInstanceUID"
            aside.append(SetAside(entry.file, reason, frame=entry.frame, twin=kept[key].name))
        else:
            kept[key] = entry
    return list(kept.values()), aside


def arrange(slices: Iterable[Slice]) -> list[CTSeries]:
    """Tell the series apart, and phases, kernels and acquisitions within one, and order the slices of each.

    Returns:
        Ordered by SeriesNumber, then SeriesInstanceUID, then as the files come.

    Raises:
        CtbasisError: A series has several orientations or image sizes or two slices at one place, or two series differ
            in image size.
    """
    grouped: defaultdict[str, list[Slice]] = defaultdict(list)
    for entry in slices:
        grouped[entry.SeriesInstanceUID].append(entry)
    found = [_ordered(uid, part, label) for uid, group in grouped.items() for label, part in _parts(group)]
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


def slices_at_one_place(slices: Sequence[Slice]) -> list[tuple[Slice, Slice]]:
    """Return pairs of slices of one series and part that lie at one position and show the same direction."""
    grouped: defaultdict[str, list[Slice]] = defaultdict(list)
    for entry in slices:
        grouped[entry.SeriesInstanceUID].append(entry)
    pairs: list[tuple[Slice, Slice]] = []
    for group in grouped.values():
        for _, part in _parts(group):
            along = _along(part)
            order = np.argsort(along, kind="stable")
            near = np.flatnonzero(np.diff(along[order]) < POSITION_TOLERANCE)
            pairs += [(part[order[index]], part[order[index + 1]]) for index in near]
    return pairs


def _parts(slices: Sequence[Slice]) -> list[tuple[str, list[Slice]]]:
    """Split a series into its phases, each with what tells it from the others.

    By the traits of `PHASES` wherever they differ; by all others where slices would otherwise be at one place, and
    only if each part is then as regular as the whole.
    """
    parts = [("", list(slices))]
    for trait in PHASES:
        parts = [piece for label, part in parts for piece in _split(part, trait, label)]
    return [piece for label, part in parts for piece in _untangled(part, label)]


def _split(slices: list[Slice], trait: str, label: str) -> list[tuple[str, list[Slice]]]:
    values: defaultdict[str | None, list[Slice]] = defaultdict(list)
    for entry in slices:
        values[dict(entry.traits).get(trait)].append(entry)
    if len(values) == 1 or min(map(len, values.values())) < FEWEST:
        return [(label, slices)]
    return [(f"{label}, {_told(trait, value)}".removeprefix(", "), part) for value, part in values.items()]


def _told(trait: str, value: str | None) -> str:
    if value is None:
        return f"no {trait}"
    # When a patient was examined is nobody's business here.
    return f"another {trait}" if trait.endswith("Time") else f"{trait} {value}"


def _untangled(slices: list[Slice], label: str) -> list[tuple[str, list[Slice]]]:
    usual = _usual_step(slices)
    if usual is None:
        return [(label, slices)]
    for trait in TRAITS:
        parts = _split(slices, trait, label)
        steps = [_usual_step(part, distinct=True) for _, part in parts]
        if len(parts) > 1 and all(step is not None and step <= GAP * usual for step in steps):
            return parts
    return [(label, slices)]


def _usual_step(slices: Sequence[Slice], *, distinct: bool = False) -> float | None:
    """Return the median step between places, mm; None unless slices share a place, or share none if `distinct`."""
    steps = np.diff(np.sort(_along(slices)))
    same = steps < POSITION_TOLERANCE
    if same.any() == distinct:
        return None
    return float(np.median(steps[~same])) if not same.all() else 0.0


def _along(slices: Sequence[Slice]) -> NDArray[np.float64]:
    """Return the positions along the normal of the first slice, mm."""
    cosines = np.asarray(slices[0].ImageOrientationPatient)
    along: NDArray[np.float64] = np.asarray([entry.ImagePositionPatient for entry in slices]) @ np.cross(
        cosines[:3], cosines[3:]
    )
    return along


def _ordered(uid: str, slices: Sequence[Slice], part: str) -> CTSeries:
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
        tolerated=(
            *((f"told apart from other slices of its series by {part}",) if part else ()),
            *_tolerated(slices, steps[~wide], spacing, tilt),
        ),
        part=part,
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
            f"series {uid} has two orientations: ImageOrientationPatient of {slices[0].name} and of {other.name} "
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
            f"series {uid} has several slices at one position ({same.size} times): {slices[index].name} and "
            f"{slices[index + 1].name} are both at {positions[index]:.3f} mm along the normal",
            expected="one slice at each ImagePositionPatient",
            cause="several phases or reconstructions were given one SeriesInstanceUID, and nothing tells them apart",
            remedy="take all but one of them out of the source",
        )


def _tilt(drift: NDArray[np.float64], normal: NDArray[np.float64]) -> float:
    length = float(np.linalg.norm(drift))
    if length == 0:
        return 0.0
    # atan2 keeps its digits where acos near 1 loses them.
    forward = float(drift @ normal)
    return float(np.degrees(np.arctan2(np.linalg.norm(drift - forward * normal), abs(forward))))


def _tolerated(slices: Sequence[Slice], steps: NDArray[np.float64], spacing: float, tilt: float) -> Iterable[str]:
    if len(slices) == 1:
        yield "one slice: its matrix has one column, and nothing can be told from noise"
    if steps.size and float(np.abs(steps - spacing).max()) > max(UNEVEN * spacing, UNEVEN_MM):
        yield f"the spacing varies, from {steps.min():.3f} to {steps.max():.3f} mm"
    if tilt > TILT:
        yield f"the gantry is tilted, by {tilt:.1f} degrees: columns are compared voxel by voxel, sheared as they are"
    if len({entry.PixelSpacing for entry in slices}) > 1:
        yield "PixelSpacing varies: the first slice's is taken for all"
    if len({entry.SOPInstanceUID for entry in slices}) < len(slices):
        yield "a SOPInstanceUID is given to several slices"
