"""Frames of an enhanced (multi-frame) CT object as slices: functional groups flattened to what a CT image would say.

PS3.3 C.7.6.16: what all frames share is in SharedFunctionalGroupsSequence, what differs is in
PerFrameFunctionalGroupsSequence, each attribute in the sequence of its functional group. A converter that made the
object from single images put those of their attributes that have no group into the "unassigned" ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.dataset import Dataset

from ctbasis.dicom.limits import MOST_FRAMES
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
"""Attributes of a functional group that go to the top, by its sequence."""

RENAMED = {
    "CTImageFrameTypeSequence": {"FrameType": "ImageType"},
    "FrameContentSequence": {"FrameAcquisitionNumber": "AcquisitionNumber", "FrameComments": "ImageComments"},
}
"""The same for those that a CT image calls otherwise."""

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
"""What is true of the object as a whole, and of no slice alone."""


def flattened(ds: Dataset, frames: int) -> Iterator[Dataset]:
    """Yield each frame as the data set of a CT image: same SOPInstanceUID, InstanceNumber is the frame's number.

    Args:
        ds: The multi-frame object without PixelData.
        frames: NumberOfFrames.

    Raises:
        UnusableFileError: The functional groups are not those of so many frames.
    """
    if not 0 < frames <= MOST_FRAMES:
        raise UnusableFileError(f"NumberOfFrames {frames}: at most {MOST_FRAMES} are read", broken=True)
    per_frame = list(ds.get(PER_FRAME) or [])
    if len(per_frame) != frames:
        raise UnusableFileError(f"{PER_FRAME} is of {len(per_frame)} frames, NumberOfFrames says {frames}", broken=True)
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
    """Copy what the functional groups in `groups` say of a frame to the top of `target`."""
    for keyword in UNASSIGNED:
        for item in groups.get(keyword) or []:
            # Not what describes pixels: that is said of all frames at the top.
            target.update({element.tag: element for element in item if element.tag.group not in {0x0028, 0x7FE0}})
    for keyword, names in FLATTENED.items():
        for item in groups.get(keyword) or []:
            target.update({item[name].tag: item[name] for name in names if name in item})
    for keyword, renamed in RENAMED.items():
        for item in groups.get(keyword) or []:
            for name, known_as in renamed.items():
                if name in item:
                    setattr(target, known_as, item[name].value)
