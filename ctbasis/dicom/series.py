"""Grouping slices into series: by SeriesInstanceUID and phase, ordered along the normal, checked to form a volume."""

from __future__ import annotations

import statistics
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ctbasis.dicom.joining import join_single_slices
from ctbasis.dicom.separation import (
    GAP_FACTOR,
    POSITION_TOLERANCE,
    Part,
    alternates,
    is_even,
    positions_of,
    separate,
    separate_phases,
)
from ctbasis.dicom.set_aside import SetAside
from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ctbasis.dicom.instance import Slice

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of direction cosines within a series, as in highdicom: scanners write them with 4 to 6 digits."""

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
    def breaks(self) -> tuple[int, ...]:
        """Indices of the slices that follow a gap."""
        before = {gap.before for gap in self.gaps}
        return tuple(index for index, position in enumerate(self.positions) if position in before)

    @property
    def image(self) -> tuple[int, int]:
        """Rows and Columns of every slice."""
        return self.slices[0].Rows, self.slices[0].Columns


def set_copies_aside(slices: Iterable[Slice]) -> tuple[list[Slice], list[SetAside]]:
    """Keep one of several files with the same instance at the same position; exports often contain it repeatedly.

    A SOPInstanceUID that slices at several positions share identifies no instance. Slices with such a UID are kept.

    Returns:
        The slices to keep, and the copies.
    """
    listed = list(slices)
    places: defaultdict[tuple[str, int], set[tuple[float, ...]]] = defaultdict(set)
    for entry in listed:
        places[entry.SOPInstanceUID, entry.frame].add(entry.ImagePositionPatient)
    kept: dict[tuple[object, ...], Slice] = {}
    aside = []
    for entry in listed:
        instance = entry.SOPInstanceUID, entry.frame
        shared = len(places[instance]) > 1
        key = entry.SeriesInstanceUID, entry.traits, entry.ImagePositionPatient, *(entry.place if shared else instance)
        if key in kept:
            reason = "a copy of another file: the same SOPInstanceUID"
            aside.append(SetAside(entry.file, reason, frame=entry.frame, twin=kept[key].name))
        else:
            kept[key] = entry
    return list(kept.values()), aside


def arrange(slices: Iterable[Slice]) -> list[CTSeries]:
    """Group slices into series, separate the volumes within each series, and order the slices of each volume.

    Returns:
        The series, ordered by SeriesNumber, then SeriesInstanceUID, then the order of `slices`.

    Raises:
        CtbasisError: A series has several orientations or image sizes, several slices at the same position, or two
            volumes whose slices lie between each other's; or two series have different image sizes.
    """
    series = [_ordered(uid, part) for uid, whole in _whole_series(slices) for part in separate(whole)]
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


def slices_at_same_position(slices: Iterable[Slice]) -> list[list[Slice]]:
    """Return the groups of slices that are at the same position of the same phase of a series.

    They may belong to different acquisitions, and may be the same image with another SOPInstanceUID.
    """
    groups: list[list[Slice]] = []
    for _, whole in _whole_series(slices):
        for part in separate_phases(whole):
            positions = positions_of(part.slices)
            order = np.argsort(positions, kind="stable")
            starts = np.flatnonzero(np.diff(positions[order]) >= POSITION_TOLERANCE) + 1
            groups += [[part.slices[at] for at in group] for group in np.split(order, starts) if len(group) > 1]
    return groups


def _whole_series(slices: Iterable[Slice]) -> Iterator[tuple[str, Part]]:
    """Yield the SeriesInstanceUID and the slices of each series."""
    grouped: defaultdict[str, list[Slice]] = defaultdict(list)
    for entry in slices:
        grouped[entry.SeriesInstanceUID].append(entry)
    yield from join_single_slices(grouped).items()


def _ordered(uid: str, part: Part) -> CTSeries:
    slices: Sequence[Slice] = part.slices
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
            *((f"separated from other slices of its series by {part.label}",) if part.label else ()),
            *part.remarks,
            *_tolerated(slices, steps[~wide], spacing, tilt),
        ),
        part=part.label,
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
    if alternates(steps):
        raise CtbasisError(
            f"series {uid} has slices at alternating distances of {np.median(steps[::2]):.3f} and "
            f"{np.median(steps[1::2]):.3f} mm",
            expected="slices at one distance",
            cause="two volumes whose slices lie between each other's have the same SeriesInstanceUID, and no attribute "
            "separates them",
            remedy="remove the slices of one of them from the source",
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
    if not is_even(steps, spacing):
        yield f"the spacing varies, from {steps.min():.3f} to {steps.max():.3f} mm"
    if tilt > MIN_REPORTED_TILT:
        yield f"the gantry is tilted by {tilt:.1f} degrees: slices are compared voxel by voxel without correction"
    if len({entry.PixelSpacing for entry in slices}) > 1:
        yield "PixelSpacing varies: that of the first slice is used for all"
    if len({(entry.SOPInstanceUID, entry.frame) for entry in slices}) < len(slices):
        yield "several slices have the same SOPInstanceUID"
