"""Attributes that distinguish the volumes within a series: patient, reconstruction, phase and acquisition.

`Slice.traits` holds their values as text. A value that may identify a patient is replaced by a digest when it is read,
so that neither qc.json nor an error message can repeat it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pydicom

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

STUDY = ("PatientID", "StudyInstanceUID")
"""Attributes that identify a study. Slices of several patients or studies are never of one series."""

IDENTITY = (*STUDY, "FrameOfReferenceUID")
"""Attributes of which a series has one value (PS3.3 A.1.2 and C.7.4.1). Slices are always separated by them."""

RECONSTRUCTION = ("ConvolutionKernel", "SliceThickness")
"""Attributes on which noise and sharpness depend. Slices are always separated by them."""

PHASES = (
    "StackID",
    "TemporalPositionIndex",
    "TemporalPositionIdentifier",
    "TemporalPositionTimeOffset",
    "NominalPercentageOfCardiacPhase",
    "NominalPercentageOfRespiratoryPhase",
    "NominalCardiacTriggerDelayTime",
)
"""Attributes that number volumes in time. They separate volumes that overlap; where volumes abut, they tell slabs."""

ACQUISITIONS = (
    "AcquisitionNumber",
    "SeriesNumber",
    "SeriesDescription",
    "KVP",
    "ImageType",
    "ContrastBolusAgent",
    "IrradiationEventUID",
)
"""Attributes of an acquisition or reconstruction. They separate volumes that overlap, and may vary within one."""

TIMES = ("TriggerTime", "FrameAcquisitionDateTime", "AcquisitionTime")
"""Attributes that may have a value of their own for every slice of a volume. They are used if no other attribute
separates slices."""

TRAITS = (*IDENTITY, *RECONSTRUCTION, *PHASES, *ACQUISITIONS, *TIMES)

HIDDEN = frozenset(
    {
        *IDENTITY,
        "SeriesDescription",
        "ContrastBolusAgent",
        "IrradiationEventUID",
        "FrameAcquisitionDateTime",
        "AcquisitionTime",
    }
)
"""Attributes whose values may identify a patient."""

DIGEST_BYTES = 12

_TAGS = {keyword: int(pydicom.datadict.tag_for_keyword(keyword) or 0) for keyword in TRAITS}
_BINARY = {tag for tag in _TAGS.values() if pydicom.datadict.dictionary_VR(tag) in {"FD", "FL", "SL", "SS", "UL", "US"}}


def traits_of(ds: Dataset) -> tuple[tuple[str, str], ...]:
    """Return keyword and value (as text) of the traits of a slice that have a value."""
    pairs = ((keyword, _text(ds, tag)) for keyword, tag in _TAGS.items() if tag in ds)
    return tuple((keyword, _digest(text) if keyword in HIDDEN else text) for keyword, text in pairs if text)


def label_of(trait: str, value: str | None, *, number: int, count: int) -> str:
    """Return the text that names one of the volumes which a trait distinguishes.

    Args:
        trait: Keyword.
        value: Value of the trait; None if the slices have none.
        number: Number of the volume among those that the trait distinguishes, from 1.
        count: Number of these volumes.
    """
    if value is None:
        return f"no {trait}"
    return f"{trait} number {number} of {count}" if trait in HIDDEN else f"{trait} {value}"


def _text(ds: Dataset, tag: int) -> str:
    """Return a value as text for comparison. A value that is text in the file is not parsed, to save time."""
    raw = ds.get_item(tag).value
    if isinstance(raw, bytes) and tag not in _BINARY:
        return raw.decode("latin-1").strip("\0 ")
    value = ds[tag].value
    return "" if value is None else str(value).strip("\0 ")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[: 2 * DIGEST_BYTES]
