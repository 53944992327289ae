"""Grouping slices into series: by SeriesInstanceUID and phase, ordered along the normal, checked to form a volume."""

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
"""Largest difference of direction cosines within a series, as in highdicom: scanners write them with 4 to 6 digits."""

POSITION_TOLERANCE = 1e-3
"""Distance along the normal in mm below which two slices are at the same position."""

GAP_FACTOR = 1.5
"""A step along the normal that exceeds the usual step by this factor is a gap."""

UNEVEN, UNEVEN_MM = 0.01, 0.01 + 1e-9
"""Deviations from the usual step, relative and in mm, above which the spacing is reported as varying. highdicom allows
the relative deviation, 3D Slicer the hundredth of a mm, to which many scanners round positions."""

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
"""Traits that differ between volumes but never within one. Slices are always separated by them."""

MIN_PHASE_SLICES = 2
"""Slices of a phase at least. A trait with fewer slices per value numbers the slices, not the phases."""

MIN_REPORTED_TILT = 0.1
"""Angle in degrees from which a gantry tilt is reported."""


@dataclass(frozen=True)
class Gap:
    """A gap between two slices.

    Attributes:
        after: Position of the slice before the gap, in mm along the normal.
        before: Position of the slice after the gap, in mm along the normal.
        missing: Number of missing slices, estimated from the usual spacing.
    """

    after: float
    before: float
    missing: int


@dataclass(frozen=True)
class CTSeries:
    """The slices of one series, or of one phase of it, in the order of their positions.

    Attributes:
        SeriesInstanceUID: SeriesInstanceUID of the images.
        slices: The slices in ascending order of `positions`.
        positions: Position of each slice along the normal of ImageOrientationPatient, in mm.
        spacing: Median distance between neighbouring slices in mm; 0 for a single slice.
        gaps: Gaps with missing slices.
        tilt: Angle in degrees between the normal and the line through the positions of the slices.
        tolerated: Deviations of the series as a whole that were tolerated, as text for the user.
        part: The trait that distinguishes this part of the series, such as `AcquisitionNumber 2`; empty for a series
            that was not split.
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
    """Keep one of several files with the same instance at the same position; exports often contain it repeatedly.

    Returns:
        The slices to keep, and the copies.
    """
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
    """Group slices into series, split series by phase, kernel and acquisition, and order the slices of each part.

    Returns:
        The series, ordered by SeriesNumber, then SeriesInstanceUID, then the order of `slices`.

    Raises:
        CtbasisError: A series has several orientations or image sizes, or several slices at the same position; or two
            series have different image sizes.
    """
    grouped: defaultdict[str, list[Slice]] = defaultdict(list)
    for entry in slices:
        grouped[entry.SeriesInstanceUID].append(entry)
    series = [_ordered(uid, part, label) for uid, group in grouped.items() for label, part in _parts(group)]
    series.sort(key=lambda entry: (entry.slices[0].SeriesNumber, entry.SeriesInstanceUID))
    for other in series[1:]:
        first = series[0]
        if other.image != first.image:
            raise CtbasisError(
                f"series {first.SeriesInstanceUID} has images of {_size(first.image)} and series "
                f"{other.SeriesInstanceUID} of {_size(other.image)} (Rows x Columns)",
                expected="one image size: the rows of A are the voxels of a slice",
                cause="the source contains several examinations",
                remedy="select the series: use the prefix or folder of this series, or of series of equal size",
            )
    return series


def slices_at_same_position(slices: Sequence[Slice]) -> list[tuple[Slice, Slice]]:
    """Return the pairs of slices that are at the same position of the same part of a series."""
    grouped: defaultdict[str, list[Slice]] = defaultdict(list)
    for entry in slices:
        grouped[entry.SeriesInstanceUID].append(entry)
    pairs: list[tuple[Slice, Slice]] = []
    for group in grouped.values():
        for _, part in _parts(group):
            positions = _positions(part)
            order = np.argsort(positions, kind="stable")
            close = np.flatnonzero(np.diff(positions[order]) < POSITION_TOLERANCE)
            pairs += [(part[order[index]], part[order[index + 1]]) for index in close]
    return pairs


def _parts(slices: Sequence[Slice]) -> list[tuple[str, list[Slice]]]:
    """Split a series into its parts (phases, kernels, acquisitions), each with a label.

    The traits in `PHASES` always split a series. The other traits split it only if slices would otherwise be at the
    same position, and only if the spacing of each part is then as regular as that of the whole.
    """
    parts = [("", list(slices))]
    for trait in PHASES:
        parts = [smaller for label, part in parts for smaller in _split(part, trait, label)]
    return [smaller for label, part in parts for smaller in _split_overlapping(part, label)]


def _split(slices: list[Slice], trait: str, label: str) -> list[tuple[str, list[Slice]]]:
    values: defaultdict[str | None, list[Slice]] = defaultdict(list)
    for entry in slices:
        values[dict(entry.traits).get(trait)].append(entry)
    if len(values) == 1 or min(map(len, values.values())) < MIN_PHASE_SLICES:
        return [(label, slices)]
    return [(f"{label}, {_trait_label(trait, value)}".removeprefix(", "), part) for value, part in values.items()]


def _trait_label(trait: str, value: str | None) -> str:
    if value is None:
        return f"no {trait}"
    # The label does not repeat the time of the examination, which may identify the patient.
    return f"another {trait}" if trait.endswith("Time") else f"{trait} {value}"


def _split_overlapping(slices: list[Slice], label: str) -> list[tuple[str, list[Slice]]]:
    """Split slices by the first trait that separates slices at the same position into regular parts."""
    usual = _usual_step(slices)
    if usual is None:
        return [(label, slices)]
    for trait in TRAITS:
        parts = _split(slices, trait, label)
        steps = [_usual_step(part, distinct=True) for _, part in parts]
        if len(parts) > 1 and all(step is not None and step <= GAP_FACTOR * usual for step in steps):
            return parts
    return [(label, slices)]


def _usual_step(slices: Sequence[Slice], *, distinct: bool = False) -> float | None:
    """Return the median distance in mm between different positions of the slices.

    Args:
        slices: The slices.
        distinct: Return None if two slices are at the same position. Otherwise return None if no two slices are.
    """
    steps = np.diff(np.sort(_positions(slices)))
    same = steps < POSITION_TOLERANCE
    if same.any() == distinct:
        return None
    return float(np.median(steps[~same])) if not same.all() else 0.0


def _positions(slices: Sequence[Slice]) -> NDArray[np.float64]:
    """Return the positions along the normal of the first slice, in mm."""
    cosines = np.asarray(slices[0].ImageOrientationPatient)
    positions: NDArray[np.float64] = np.asarray([entry.ImagePositionPatient for entry in slices]) @ np.cross(
        cosines[:3], cosines[3:]
    )
    return positions


def _ordered(uid: str, slices: Sequence[Slice], part: str) -> CTSeries:
    _check_sizes(uid, slices)
    normal = _normal(uid, slices)
    origins = np.asarray([entry.ImagePositionPatient for entry in slices])
    unordered = origins @ normal
    order = np.argsort(unordered, kind="stable")
    slices, positions, origins = [slices[index] for index in order], unordered[order], origins[order]
    steps = np.diff(positions)
    _check_positions(uid, slices, positions, steps)
    spacing = statistics.median(steps.tolist()) if len(steps) else 0.0
    wide = steps > GAP_FACTOR * spacing
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
            *((f"separated from other slices of its series by {part}",) if part else ()),
            *_tolerated(slices, steps[~wide], spacing, tilt),
        ),
        part=part,
    )


def _size(image: tuple[int, int]) -> str:
    return f"{image[0]} x {image[1]}"


def _check_sizes(uid: str, slices: Sequence[Slice]) -> None:
    first = slices[0]
    for entry in slices:
        if (entry.Rows, entry.Columns) != (first.Rows, first.Columns):
            raise CtbasisError(
                f"series {uid} has images of {_size((first.Rows, first.Columns))} ({first.file}) and of "
                f"{_size((entry.Rows, entry.Columns))} ({entry.file}) (Rows x Columns)",
                expected="one image size per series: the rows of A are the voxels of a slice",
                cause="images of different reconstructions have the same SeriesInstanceUID",
                remedy="remove the images of the other size from the source",
            )


def _normal(uid: str, slices: Sequence[Slice]) -> NDArray[np.float64]:
    """Return the unit normal of the slices, which must have the same ImageOrientationPatient (PS3.3 C.7.6.2.1.1)."""
    cosines = np.asarray([entry.ImageOrientationPatient for entry in slices])
    deviations = np.abs(cosines - cosines[0]).max(axis=1)
    if deviations.max() > ORIENTATION_TOLERANCE:
        other = slices[int(deviations.argmax())]
        raise CtbasisError(
            f"series {uid} has two orientations: ImageOrientationPatient of {slices[0].name} and of {other.name} "
            f"differ by {deviations.max():.3g}",
            expected=f"direction cosines that agree within {ORIENTATION_TOLERANCE:g}",
            cause="a localizer or a reformat has the SeriesInstanceUID of the axial images",
            remedy="remove the images of the other orientation from the source",
        )
    normal = np.cross(cosines[0, :3], cosines[0, 3:])
    return np.asarray(normal / np.linalg.norm(normal))


def _check_positions(
    uid: str, slices: Sequence[Slice], positions: NDArray[np.float64], steps: NDArray[np.float64]
) -> None:
    same = np.flatnonzero(steps < POSITION_TOLERANCE)
    if same.size:
        index = int(same[0])
        raise CtbasisError(
            f"series {uid} has several slices at one position ({same.size} times): {slices[index].name} and "
            f"{slices[index + 1].name} are both at {positions[index]:.3f} mm along the normal",
            expected="one slice per ImagePositionPatient",
            cause="several phases or reconstructions have the same SeriesInstanceUID, and no attribute separates them",
            remedy="remove all but one of them from the source",
        )


def _tilt(drift: NDArray[np.float64], normal: NDArray[np.float64]) -> float:
    """Return the angle in degrees between the normal and the vector from the first to the last slice."""
    length = float(np.linalg.norm(drift))
    if length == 0:
        return 0.0
    # atan2 is accurate for small angles, acos is not.
    forward = float(drift @ normal)
    return float(np.degrees(np.arctan2(np.linalg.norm(drift - forward * normal), abs(forward))))


def _tolerated(slices: Sequence[Slice], steps: NDArray[np.float64], spacing: float, tilt: float) -> Iterable[str]:
    if len(slices) == 1:
        yield "one slice: its matrix has one column, so signal and noise cannot be separated"
    if steps.size and float(np.abs(steps - spacing).max()) > max(UNEVEN * spacing, UNEVEN_MM):
        yield f"the spacing varies, from {steps.min():.3f} to {steps.max():.3f} mm"
    if tilt > MIN_REPORTED_TILT:
        yield f"the gantry is tilted by {tilt:.1f} degrees: slices are compared voxel by voxel without correction"
    if len({entry.PixelSpacing for entry in slices}) > 1:
        yield "PixelSpacing varies: that of the first slice is used for all"
    if len({entry.SOPInstanceUID for entry in slices}) < len(slices):
        yield "several slices have the same SOPInstanceUID"
