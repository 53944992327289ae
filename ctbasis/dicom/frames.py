"""Splitting an enhanced (multi-frame) CT object into slices with the attributes of a single-frame CT image.

PS3.3 C.7.6.16: SharedFunctionalGroupsSequence holds the attributes that all frames share, and
PerFrameFunctionalGroupsSequence those that differ. Each attribute is in the sequence of its functional group. Software
that converts single-frame images puts attributes without a functional group into the "unassigned" sequences.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from ctbasis.dicom import ct_image
from ctbasis.dicom.resource_limits import MAX_FRAMES
from ctbasis.dicom.set_aside import UnusableFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataelem import DataElement

SHARED, PER_FRAME = "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"

FLATTENED = {
    "PixelMeasuresSequence": ("PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    "PlanePositionSequence": ("ImagePositionPatient",),
    "PlaneOrientationSequence": ("ImageOrientationPatient",),
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept", "RescaleType"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "WindowCenterWidthExplanation", "VOILUTFunction"),
    "CTReconstructionSequence": ("ConvolutionKernel", "ReconstructionDiameter"),
    "CTAcquisitionDetailsSequence": (
        "GantryDetectorTilt",
        "TableHeight",
        "RotationDirection",
        "DataCollectionDiameter",
    ),
    "CTXRayDetailsSequence": ("KVP", "FilterType"),
    "CardiacSynchronizationSequence": ("NominalPercentageOfCardiacPhase", "NominalCardiacTriggerDelayTime"),
    "RespiratorySynchronizationSequence": ("NominalPercentageOfRespiratoryPhase",),
    "TemporalPositionSequence": ("TemporalPositionTimeOffset",),
    "FrameContentSequence": ("StackID", "TemporalPositionIndex", "FrameAcquisitionDateTime"),
}
"""Attributes to copy from a functional group to the top level, by the sequence of the group."""

RENAMED = {
    "CTImageFrameTypeSequence": {"FrameType": "ImageType"},
    "FrameContentSequence": {"FrameAcquisitionNumber": "AcquisitionNumber", "FrameComments": "ImageComments"},
}
"""Likewise, for attributes that have another keyword in a single-frame CT image."""

UNASSIGNED = ("UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence")

MULTI_FRAME = {EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage}
"""SOP classes whose objects consist of frames."""

OWN_MODULES = {
    "patient",
    "patient-study",
    "clinical-trial-subject",
    "clinical-trial-study",
    "clinical-trial-series",
    "general-study",
    "sop-common",
    "frame-of-reference",
    "common-instance-reference",
}
"""Modules whose attributes describe the object itself, at its top level only (PS3.3 A.38.1 and A.70.1)."""

SERIES_MODULE = "general-series"
"""The module whose attributes are taken from a functional group only if the top level lacks them."""

MULTI_FRAME_ONLY = (
    SHARED,
    PER_FRAME,
    "NumberOfFrames",
    "DimensionOrganizationSequence",
    "DimensionIndexSequence",
    "DimensionOrganizationType",
    "ConcatenationUID",
    "InConcatenationNumber",
    "InConcatenationTotalNumber",
    "ConcatenationFrameOffsetNumber",
    "SOPInstanceUIDOfConcatenationSource",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
"""Attributes of the multi-frame object that do not apply to a single slice."""


def single_frames(ds: Dataset, frames: int) -> Iterator[Dataset]:
    """Yield a single-frame CT data set for each frame; InstanceNumber is the frame number, SOPInstanceUID is kept.

    NumberOfFrames is kept if the SOP class does not tell that the slice is a frame; see `is_frame`.

    Args:
        ds: The multi-frame object without PixelData.
        frames: NumberOfFrames.

    Raises:
        UnusableFileError: NumberOfFrames is too large, or differs from the number of per-frame functional groups.
    """
    if not 0 < frames <= MAX_FRAMES:
        raise UnusableFileError(f"NumberOfFrames is {frames}, at most {MAX_FRAMES} are supported", broken=True)
    per_frame = list(ds.get(PER_FRAME) or [])
    if len(per_frame) != frames:
        raise UnusableFileError(f"{PER_FRAME} has {len(per_frame)} items, NumberOfFrames is {frames}", broken=True)
    common = Dataset()
    common.update(ds)
    for keyword in MULTI_FRAME_ONLY:
        if keyword in common and not (keyword == "NumberOfFrames" and ds.SOPClassUID not in MULTI_FRAME):
            delattr(common, keyword)
    for groups in ds.get(SHARED) or []:
        _flatten(groups, common)
    for number, groups in enumerate(per_frame, start=1):
        frame = Dataset()
        frame.update(common)
        _flatten(groups, frame)
        frame.InstanceNumber = number
        yield frame


def is_frame(header: Dataset) -> bool:
    """Return whether the header of a slice is that of a frame; its InstanceNumber is the frame number."""
    return header.get("SOPClassUID") in MULTI_FRAME or int(header.get("NumberOfFrames") or 0) > 0


def _may_set(element: DataElement, target: Dataset) -> bool:
    """Return whether an attribute without a functional group is taken over to the top level.

    The object's own identity, and the attributes that describe its pixels, are taken from its top level only. Software
    that converted single-frame images may have left theirs in the group.
    """
    if element.tag.group in {0x0028, 0x7FE0} or element.tag in _own_tags():
        return False
    known = ct_image.attributes().get(int(element.tag))
    return known is None or known.module != SERIES_MODULE or element.tag not in target


@cache
def _own_tags() -> frozenset[int]:
    own = {tag for tag, attribute in ct_image.attributes().items() if attribute.module in OWN_MODULES}
    return frozenset(own | {int(tag_for_keyword("SeriesInstanceUID") or 0)})


def _flatten(groups: Dataset, target: Dataset) -> None:
    """Copy the attributes in the functional groups `groups` to the top level of `target`."""
    for keyword in UNASSIGNED:
        for item in groups.get(keyword) or []:
            target.update({element.tag: element for element in item if _may_set(element, target)})
    for keyword, names in FLATTENED.items():
        for item in groups.get(keyword) or []:
            target.update({item[name].tag: item[name] for name in names if name in item})
    for keyword, renamed in RENAMED.items():
        for item in groups.get(keyword) or []:
            for name, single_frame_name in renamed.items():
                if name in item:
                    setattr(target, single_frame_name, item[name].value)
