"""Separating the slices of a series that cannot be one volume.

A volume has one patient, study, frame of reference, reconstruction kernel, slice thickness, pixel spacing and position
in the plane of its slices. Slices that differ in one of these are always separated. Phases and acquisitions separate
slices only where their extents overlap: scans of the heart in steps, and other scans in blocks, give slabs that abut
and form one volume.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ctbasis.dicom.traits import ACQUISITIONS, PHASES, STUDY, TIMES, label_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from ctbasis.dicom.instance import Slice

POSITION_TOLERANCE = 1e-3
"""Distance along the normal in mm below which two slices are at the same position."""

GAP_FACTOR = 1.5
"""A step along the normal that exceeds the usual step by this factor is a gap."""

UNEVEN, UNEVEN_MM = 0.01, 0.01 + 1e-9
"""Deviations from the usual step, relative and in mm, above which the spacing is reported as varying. highdicom allows
the relative deviation, 3D Slicer the hundredth of a mm, to which many scanners round positions."""

SAME_THICKNESS = 0.05
"""Relative difference up to which two values of SliceThickness are the same: scanners round 0.625 to 0.63 or 0.6."""

MIN_THICKNESS = 1e-3
"""Smallest SliceThickness in mm. A smaller one stands for an unknown thickness."""

SAME_PIXEL_SPACING = 1e-3
"""Relative difference up to which two values of PixelSpacing are the same."""

SAME_PLACE = 0.5
"""Distance in the plane, in pixels, up to which two slices have the same position in the plane."""

MAX_PLACES = 1000
"""Different positions in the plane of slices that are compared. More are a drift, which does not separate slices."""

MIN_DRIFT_SLICES = 4
"""Slices whose drift in the plane can be measured."""

MIN_TABLE_COSINE = 0.3
"""Smallest cosine between the normal and the direction of the table for which slices are stacked along the table."""

MIN_ALTERNATING_STEPS = 4
"""Steps that alternate between two lengths in a series of two interleaved volumes, at least."""

ALTERNATION = 0.2
"""Relative difference from which two alternating steps are different."""

ALL_ALTERNATE = 0.8
"""Share of alternating steps from which they are not taken as due to missing slices."""

MAX_MISSING = 3
"""Slices that may be missing between two slabs of one volume."""


@dataclass(frozen=True)
class Part:
    """Slices that form one volume.

    Attributes:
        slices: The slices, in no particular order.
        label: The traits that distinguish them from other slices of their series; empty if there are no others.
        remarks: Deviations that were tolerated, as text for the user.
    """

    slices: list[Slice]
    label: str = ""
    remarks: tuple[str, ...] = ()

    def divided(self, groups: Iterable[tuple[str, list[Slice]]]) -> list[Part]:
        """Return one part for each label and its slices."""
        return [
            replace(self, slices=slices, label=f"{self.label}, {label}".removeprefix(", ")) for label, slices in groups
        ]


def separate(whole: Part) -> list[Part]:
    """Separate the slices of one series into volumes.

    Returns:
        The volumes. They contain every slice exactly once.
    """
    parts = [smaller for part in separate_phases(whole) for smaller in _by_acquisition(part)]
    return [smaller for part in parts for smaller in _by_time(part)]


def separate_studies(whole: Part) -> list[Part]:
    """Separate slices with one SeriesInstanceUID into patients and studies."""
    parts = [whole]
    for trait in STUDY:
        parts = [smaller for part in parts for smaller in _by_identity(part, trait)]
    return parts


def separate_phases(whole: Part) -> list[Part]:
    """Separate the slices of one series into patients, reconstructions and phases, but not into acquisitions."""
    parts = [smaller for part in separate_studies(whole) for smaller in _by_identity(part, "FrameOfReferenceUID")]
    for by in (_by_pixel_spacing, _by_place, _by_kernel, _by_thickness, _by_phase):
        parts = [smaller for part in parts for smaller in by(part)]
    return parts


def positions_of(slices: Sequence[Slice]) -> NDArray[np.float64]:
    """Return the positions of slices along the normal of the first one, in mm."""
    cosines = np.asarray(slices[0].ImageOrientationPatient)
    normal = np.cross(cosines[:3], cosines[3:])
    positions: NDArray[np.float64] = np.asarray([entry.ImagePositionPatient for entry in slices]) @ (
        normal / np.linalg.norm(normal)
    )
    return positions


def is_even(steps: NDArray[np.float64], spacing: float) -> bool:
    """Return whether all steps agree with the usual step `spacing`, in mm."""
    return not steps.size or float(np.abs(steps - spacing).max()) <= max(UNEVEN * spacing, UNEVEN_MM)


def alternates(steps: NDArray[np.float64]) -> bool:
    """Return whether steps alternate between two lengths, as where two volumes of equal spacing are interleaved.

    Steps of which one is a multiple of the other may also be due to missing slices. They count only if nearly all of
    them alternate.

    Args:
        steps: Distances in mm between neighbouring slices in the order of their positions.
    """
    if steps.size < MIN_ALTERNATING_STEPS:
        return False
    pairs = steps[:-1] + steps[1:]
    alternate = np.abs(steps[1:] - steps[:-1]) > ALTERNATION * pairs / 2
    # The distance between every other slice is that of one volume, and constant.
    alternate[1:] &= np.abs(np.diff(pairs)) <= np.maximum(UNEVEN * pairs[1:], 2 * UNEVEN_MM)
    longest = run = 0
    for value in alternate.tolist():
        run = run + 1 if value else 0
        longest = max(longest, run)
    ratios = steps / max(float(steps.min()), POSITION_TOLERANCE)
    if (np.abs(ratios - np.rint(ratios)) <= ALTERNATION / 4).all():
        return longest + 1 >= max(2 * MIN_ALTERNATING_STEPS, ALL_ALTERNATE * steps.size)
    return longest + 1 >= MIN_ALTERNATING_STEPS


def on_one_step(slices: Sequence[Slice]) -> bool:
    """Return whether slices follow each other at one step, apart from a few that are missing."""
    steps = np.diff(np.sort(positions_of(slices)))
    usual = float(np.median(steps)) if steps.size else 0.0
    if usual < POSITION_TOLERANCE:
        return False
    multiples = np.maximum(np.rint(steps / usual), 1)
    return bool((np.abs(steps / usual - multiples) <= max(UNEVEN, UNEVEN_MM / usual)).all())


def _groups(slices: Sequence[Slice], trait: str) -> dict[str | None, list[Slice]]:
    groups: defaultdict[str | None, list[Slice]] = defaultdict(list)
    for entry in slices:
        groups[dict(entry.traits).get(trait)].append(entry)
    return groups


def _labelled(trait: str, groups: dict[str | None, list[Slice]]) -> list[tuple[str, list[Slice]]]:
    return [
        (label_of(trait, value, number=number, count=len(groups)), slices)
        for number, (value, slices) in enumerate(groups.items(), start=1)
    ]


def _numbers_slices(groups: dict[str | None, list[Slice]]) -> bool:
    """Return whether a trait has so many values that it numbers slices rather than volumes."""
    return len(groups) > max(2, sum(map(len, groups.values())) // 2)


def _by_identity(part: Part, trait: str) -> list[Part]:
    groups = _groups(part.slices, trait)
    if len(groups) == 2 and None in groups:  # noqa: PLR2004 - one value, and slices without it
        # The slices without a value are taken as of the only patient, study or frame of reference that is named.
        return [part]
    every_slice = len(groups) == len(part.slices) > 2 and trait == "FrameOfReferenceUID"  # noqa: PLR2004 - two differ
    if every_slice and on_one_step(part.slices):
        remark = "every slice has a FrameOfReferenceUID of its own: their positions are compared nevertheless"
        return [replace(part, remarks=(*part.remarks, remark))]
    return [part] if len(groups) == 1 else part.divided(_labelled(trait, groups))


def _by_kernel(part: Part) -> list[Part]:
    groups = _groups(part.slices, "ConvolutionKernel")
    return (
        [part] if len(groups) == 1 or _numbers_slices(groups) else part.divided(_labelled("ConvolutionKernel", groups))
    )


def _by_thickness(part: Part) -> list[Part]:
    thickness = np.asarray([_number(dict(entry.traits).get("SliceThickness")) for entry in part.slices])
    clusters = _clusters(np.log(np.maximum(thickness, MIN_THICKNESS))[:, None], SAME_THICKNESS)
    numbers = int(clusters.max()) + 1 > max(2, len(part.slices) // 2)
    one_is_known = len(set(clusters[thickness > 0].tolist())) < 2  # noqa: PLR2004 - two values
    if numbers or one_is_known:
        return [part]
    return _by_cluster(part, clusters, lambda entry: f"SliceThickness {dict(entry.traits).get('SliceThickness') or 0}")


def _by_pixel_spacing(part: Part) -> list[Part]:
    clusters = _clusters(np.log([entry.PixelSpacing for entry in part.slices]), SAME_PIXEL_SPACING)
    return _by_cluster(part, clusters, lambda entry: "PixelSpacing {:g} x {:g} mm".format(*entry.PixelSpacing))


def _by_place(part: Part) -> list[Part]:
    """Separate slices that lie beside each other, such as those before and after a reconstruction was recentred.

    Slices are stacked along their normal, along the table if the gantry is tilted, or along another straight line.
    """
    slices = part.slices
    cosines = np.asarray(slices[0].ImageOrientationPatient)
    row, column = cosines[:3], cosines[3:]
    normal = np.cross(row, column)
    points = np.asarray([entry.ImagePositionPatient for entry in slices])
    heights, places = points @ normal, np.stack([points @ row, points @ column], axis=1)
    drifts = [np.zeros(2)]
    if abs(normal[2]) > MIN_TABLE_COSINE:
        drifts.append(np.array([row[2], column[2]]) / normal[2])
    if len(slices) >= MIN_DRIFT_SLICES:
        order = np.argsort(heights, kind="stable")
        steps = np.diff(heights[order])
        apart = steps > POSITION_TOLERANCE
        if apart.any():
            drifts.append(np.median(np.diff(places[order], axis=0)[apart] / steps[apart, None], axis=0))
    tolerance = SAME_PLACE * min(slices[0].PixelSpacing)
    found = [_clusters(places - heights[:, None] * drift, tolerance) for drift in drifts]
    clusters = min(found, key=lambda labels: int(labels.max()))
    first = {int(label): np.flatnonzero(clusters == label)[0] for label in np.unique(clusters)}
    names = {
        id(slices[index]): f"position in the plane number {label + 1} of {len(first)}" for label, index in first.items()
    }
    return _by_cluster(part, clusters, lambda entry: names[id(entry)])


def _by_cluster(part: Part, clusters: NDArray[np.intp], label: Callable[[Slice], str]) -> list[Part]:
    if not clusters.any():
        return [part]
    groups = [[part.slices[at] for at in np.flatnonzero(clusters == number)] for number in range(clusters.max() + 1)]
    return part.divided((label(group[0]), group) for group in groups)


def _clusters(points: NDArray[np.float64], tolerance: float) -> NDArray[np.intp]:
    """Return the number of the cluster of each point, (n, d): points within `tolerance` of each other share one.

    Clusters are numbered in the order of the points, from 0.
    """
    clusters = np.zeros(len(points), np.intp)
    if not np.isfinite(points).all() or (np.ptp(points, axis=0) <= tolerance).all():
        return clusters
    places, inverse = np.unique(np.round(points / max(tolerance, 1e-12) * 4) / 4, axis=0, return_inverse=True)
    if len(places) > MAX_PLACES:
        return clusters
    labels = np.full(len(places), -1)
    for start in inverse.reshape(-1).tolist():
        if labels[start] >= 0:
            continue
        labels[start] = number = labels.max() + 1
        waiting = [start]
        while waiting:
            near = (np.abs(places - places[waiting.pop()]) <= 1).all(axis=1) & (labels < 0)
            labels[near] = number
            waiting += np.flatnonzero(near).tolist()
    return np.asarray(labels[inverse.reshape(-1)], np.intp)


def _number(text: str | None) -> float:
    try:
        return float((text or "0").replace(",", "."))
    except ValueError:
        return 0.0


def _overlap(groups: Iterable[list[Slice]]) -> bool:
    """Return whether the extents of groups of slices overlap along the normal."""
    listed = list(groups)
    positions = positions_of([entry for group in listed for entry in group])
    extents, start = [], 0
    for group in listed:
        along = positions[start : start + len(group)]
        extents.append((float(along.min()), float(along.max())))
        start += len(group)
    extents.sort()
    return any(after[0] - before[1] < POSITION_TOLERANCE for before, after in pairwise(extents))


def _by_phase(part: Part) -> list[Part]:
    """Separate phases that overlap; a trait of fewer values is used first, because others may number slabs."""
    by_trait = {trait: _groups(part.slices, trait) for trait in PHASES}
    ambiguous = {trait: groups for trait, groups in by_trait.items() if len(groups) > 1 and not _numbers_slices(groups)}
    for trait in sorted(ambiguous, key=lambda trait: len(ambiguous[trait])):
        groups = ambiguous[trait]
        if _overlap(groups.values()):
            return [smaller for one in part.divided(_labelled(trait, groups)) for smaller in _by_phase(one)]
    slabs = [trait for trait, groups in ambiguous.items() if _abut(list(groups.values()))]
    apart = [trait for trait in ambiguous if trait not in slabs]
    if apart:
        trait = apart[0]
        return [smaller for one in part.divided(_labelled(trait, ambiguous[trait])) for smaller in _by_phase(one)]
    remarks = tuple(
        f"put together from {len(ambiguous[trait])} slabs that abut: "
        + ", ".join(label for label, _ in _labelled(trait, ambiguous[trait]))
        for trait in slabs
    )
    return [replace(part, remarks=(*part.remarks, *remarks))]


def _abut(groups: Sequence[list[Slice]]) -> bool:
    """Return whether groups that do not overlap follow each other at the step of their slices."""
    positions = [np.sort(positions_of(group)) for group in groups]
    steps = np.concatenate([np.diff(along) for along in positions])
    if not steps.size:
        return on_one_step([entry for group in groups for entry in group])
    usual = float(np.median(steps))
    own = [float(np.median(np.diff(along))) for along in positions if len(along) > 1]
    whole = np.diff(np.sort(positions_of([entry for group in groups for entry in group])))
    return bool(whole.max() <= (MAX_MISSING + GAP_FACTOR) * usual) and max(own) <= GAP_FACTOR * min(own)


def _by_acquisition(part: Part) -> list[Part]:
    """Separate acquisitions that overlap, by the first trait after which no two slices are at the same position."""
    for trait in ACQUISITIONS:
        groups = _groups(part.slices, trait)
        if len(groups) == 1 or _numbers_slices(groups) or not _overlap(groups.values()):
            continue
        if not any(_coincide(group) for group in groups.values()):
            return [smaller for one in part.divided(_labelled(trait, groups)) for smaller in _by_acquisition(one)]
    return [part]


def _by_time(part: Part) -> list[Part]:
    """Separate slices that are interleaved by the first time that gives volumes with regular steps."""
    steps = np.diff(np.sort(positions_of(part.slices)))
    if not (steps < POSITION_TOLERANCE).any() and not alternates(steps):
        return [part]
    for trait in TIMES:
        groups = _groups(part.slices, trait)
        if len(groups) > 1 and not _numbers_slices(groups) and all(map(_is_regular, groups.values())):
            return part.divided(_labelled(trait, groups))
    return [part]


def _coincide(slices: Sequence[Slice]) -> bool:
    return bool((np.diff(np.sort(positions_of(slices))) < POSITION_TOLERANCE).any())


def _is_regular(slices: Sequence[Slice]) -> bool:
    steps = np.diff(np.sort(positions_of(slices)))
    usual = float(np.median(steps)) if steps.size else 0.0
    return not steps.size or (steps.min() >= POSITION_TOLERANCE and steps.max() <= GAP_FACTOR * usual)
