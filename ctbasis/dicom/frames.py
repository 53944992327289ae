"""Splitting an enhanced (multi-frame) CT object into slices with the attributes of a single-frame CT image.

PS3.3 C.7.6.16: SharedFunctionalGroupsSequence holds the attributes that all frames share, and
PerFrameFunctionalGroupsSequence those that differ. Each attribute is in the sequence of its functional group. Software
that converts single-frame images puts attributes without a functional group into the "unassigned" sequences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.dataset import Dataset

from ctbasis.dicom.resource_limits import MAX_FRAMES
from ctbasis.dicom.set_aside import UnusableFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        if keyword in common:
            delattr(common, keyword)
    for groups in ds.get(SHARED) or []:
        _flatten(groups, common)
    for number, groups in enumerate(per_frame, start=1):
        frame = Dataset()
        frame.update(common)
        _flatten(groups, frame)
        frame.InstanceNumber = number
        yield frame


def _flatten(groups: Dataset, target: Dataset) -> None:
    """Copy the attributes in the functional groups `groups` to the top level of `target`."""
    for keyword in UNASSIGNED:
        for item in groups.get(keyword) or []:
            # Attributes that describe pixels are taken from the top level of the object only.
            target.update({element.tag: element for element in item if element.tag.group not in {0x0028, 0x7FE0}})
    for keyword, names in FLATTENED.items():
        for item in groups.get(keyword) or []:
            target.update({item[name].tag: item[name] for name in names if name in item})
    for keyword, renamed in RENAMED.items():
        for item in groups.get(keyword) or []:
            for name, single_frame_name in renamed.items():
                if name in item:
                    setattr(target, single_frame_name, item[name].value)
