"""Comparing the slices of two stores: the patient, and the position and orientation of each slice.

Volumes that were made from arrays have no headers, and their places are unknown. Only slices with headers are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
import pydicom

from ctbasis.dicom.tolerance import tolerant
from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.matrix.slice_store import SliceArrays

POSITION_TOLERANCE = 0.01
"""Distance in mm up to which two slices are at the same position: positions are written with two digits or more."""

ORIENTATION_TOLERANCE = 1e-3
"""Largest difference of direction cosines, as within a series."""

SPACING_TOLERANCE = 1e-3
"""Largest difference of PixelSpacing in mm."""

PREAMBLE = 128
"""Bytes before the prefix of a DICOM file."""

KEYWORDS = [
    "PatientID",
    "FrameOfReferenceUID",
    "PatientIdentityRemoved",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
]


@dataclass(frozen=True)
class SlicePlace:
    """Patient and place of a slice.

    Attributes:
        patient: PatientID; empty if it is unknown or was replaced by de-identification.
        frame_of_reference: FrameOfReferenceUID; empty if it is unknown or was replaced by de-identification.
        position: ImagePositionPatient, mm.
        orientation: ImageOrientationPatient.
        pixel_spacing: PixelSpacing, mm.
    """

    patient: str
    frame_of_reference: str
    position: tuple[float, ...]
    orientation: tuple[float, ...]
    pixel_spacing: tuple[float, ...]

    @classmethod
    def of(cls, header: bytes) -> SlicePlace | None:
        """Read a header, a DICOM file without PixelData. None if it is no DICOM file or has no position."""
        if header[PREAMBLE : PREAMBLE + 4] != b"DICM":
            return None
        with tolerant():
            ds = pydicom.dcmread(BytesIO(header), specific_tags=KEYWORDS)
            if not ds.get("ImagePositionPatient") or not ds.get("ImageOrientationPatient"):
                return None
            known = ds.get("PatientIdentityRemoved") != "YES"
            return cls(
                str(ds.get("PatientID") or "").strip() if known else "",
                str(ds.get("FrameOfReferenceUID") or "").strip() if known else "",
                tuple(map(float, ds.ImagePositionPatient)),
                tuple(map(float, ds.ImageOrientationPatient)),
                tuple(map(float, ds.get("PixelSpacing") or ())),
            )


def match_slices(truth: SliceArrays, other: SliceArrays, name: str) -> NDArray[np.intp] | None:
    """Return the column of `other` that is at the position of each column of `truth`.

    Args:
        truth: A store.
        other: A store with as many columns.
        name: Name of `other` in error messages.

    Returns:
        The columns, (n,); None if a store has slices without headers, whose places are unknown.

    Raises:
        CtbasisError: The patient, the frame of reference, the orientation, the pixel spacing or a position differs.
    """
    places = [[SlicePlace.of(store.header(column)) for column in range(store.cols)] for store in (truth, other)]
    first, second = ([place for place in some if place is not None] for some in places)
    if len(first) < truth.cols or len(second) < other.cols:
        return None
    order = _matched(first, second)
    for number, (one, column) in enumerate(zip(first, order, strict=True), start=1):
        place = second[column]
        difference = _difference(one, place)
        if difference:
            raise CtbasisError(
                f"slice {number} of the truth and slice {column + 1} of the {name} differ: {difference}",
                expected="two series of the same slices of the same patient",
                cause="they are not copies of one scan: one is of another place or patient, or was moved or mirrored",
                remedy="give a series and its own clean copy",
            )
    if len(set(order)) < len(order):
        raise CtbasisError(
            f"several slices of the truth are at the position of one slice of the {name}",
            expected="two series of the same slices",
            cause="one of the folders holds several volumes of one place",
            remedy="give folders of one volume each",
        )
    return np.asarray(order, np.intp)


def _matched(first: list[SlicePlace], second: list[SlicePlace]) -> list[int]:
    """Return for each place the index of the nearest other place, its own index if that is near enough."""
    positions = np.asarray([place.position for place in second])
    order = []
    for index, place in enumerate(first):
        distances = np.abs(positions - place.position).max(axis=1)
        near = index < len(second) and distances[index] <= POSITION_TOLERANCE
        order.append(index if near else int(distances.argmin()))
    return order


def _difference(one: SlicePlace, other: SlicePlace) -> str:
    """Return what differs between two places, as text for the user; empty if nothing does."""
    if one.patient and other.patient and one.patient != other.patient:
        return "PatientID is of another patient"
    if one.frame_of_reference and other.frame_of_reference and one.frame_of_reference != other.frame_of_reference:
        return "FrameOfReferenceUID is of another frame of reference"
    if np.abs(np.subtract(one.orientation, other.orientation)).max() > ORIENTATION_TOLERANCE:
        return f"ImageOrientationPatient is {_numbers(one.orientation)} and {_numbers(other.orientation)}"
    if np.abs(np.subtract(one.position, other.position)).max() > POSITION_TOLERANCE:
        return f"ImagePositionPatient is {_numbers(one.position)} and {_numbers(other.position)} mm"
    spacings = one.pixel_spacing, other.pixel_spacing
    if all(spacings) and np.abs(np.subtract(*spacings)).max() > SPACING_TOLERANCE:
        return f"PixelSpacing is {_numbers(one.pixel_spacing)} and {_numbers(other.pixel_spacing)} mm"
    return ""


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
