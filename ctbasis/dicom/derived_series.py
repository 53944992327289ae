"""The derived instance around the stored pixels of a rank-k image, as CT Image Storage (PS3.3 A.3).

Nothing here reads a clock or draws a number: the same factors and rank give the same UIDs and the same bytes. A step
that is retried therefore replaces its instances in an archive instead of doubling them. Factors computed anew differ,
if only in the last digit, and so do their UIDs: one SOPInstanceUID never names two pixel arrays.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import uuid
from dataclasses import dataclass, replace
from io import BytesIO
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
    LegacyConvertedEnhancedCTImageStorage,
)
from pydicom.valuerep import DSfloat

from ctbasis.dicom import ct_image
from ctbasis.dicom.stored import BITS

if TYPE_CHECKING:
    from ctbasis.dicom.results import DenoisedMatrix, Factors
    from ctbasis.dicom.stored import Stored

PRODUCT = "ctbasis"

MULTI_FRAME = {EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage}
"""Their frames are columns of A each, with the object's SOPInstanceUID and their own number as InstanceNumber."""

# What is true of the source's pixels or of the moment it was made, and not of ours; or vouches for the source's bytes.
STALE = (
    "InstanceCreationDate",
    "InstanceCreationTime",
    "InstanceCreatorUID",
    "SeriesDate",
    "SeriesTime",
    "ContentDate",
    "ContentTime",
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "SmallestPixelValueInSeries",
    "LargestPixelValueInSeries",
    "IconImageSequence",
    "ICCProfile",
    "ColorSpace",
    "ModalityLUTSequence",
    "NumberOfFrames",
    "PixelDataProviderURL",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "MACParametersSequence",
    "DigitalSignaturesSequence",
    "OriginalAttributesSequence",
    "EncryptedAttributesSequence",
    "ConversionSourceAttributesSequence",
    "QueryRetrieveView",
    "ReferencedSeriesSequence",
    "StudiesContainingOtherReferencedInstancesSequence",
    "DataSetTrailingPadding",
)

# Colours that a multi-frame object may lay over its greys; a CT image has none.
OF_COLOUR = tuple(
    f"{colour}PaletteColorLookupTable{part}" for colour in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")
)

SCHEME = Dataset()
SCHEME.CodingSchemeDesignator = "99CTBASIS"
SCHEME.CodingSchemeName = "ctbasis derivations"
SCHEME.CodingSchemeResponsibleOrganization = "ctbasis"

LOW_RANK = Code("RANK-K", SCHEME.CodingSchemeDesignator, "Low-rank approximation by singular value decomposition")
BASIS_IMAGE = Code("BASIS", SCHEME.CodingSchemeDesignator, "Basis image of a singular value decomposition")
PATCHES = Code("PATCH-SVD", SCHEME.CodingSchemeDesignator, "Denoising by singular value decomposition of patches")
SIMULATED_DOSE = Code("DOSE", SCHEME.CodingSchemeDesignator, "Simulation of a lower dose")
NOISE_MAP = Code("NOISE", SCHEME.CodingSchemeDesignator, "Estimated standard deviation of noise")
"""No code of CID 7203 says any of them, and it may be extended."""

# Transfer syntaxes that always lose information, by LossyImageCompressionMethod: once lossy, always to be said.
LOSSY_SYNTAXES = {JPEGBaseline8Bit: "ISO_10918_1", JPEGExtended12Bit: "ISO_10918_1", JPEGLSNearLossless: "ISO_14495_1"}


@dataclass(frozen=True)
class Made:
    """What a derived series is, beside others of the same source.

    Attributes:
        title: At the end of SeriesDescription.
        number: Added to SeriesNumber, below 10,000.
        contribution: For ContributingEquipmentSequence.
        code: For DerivationCodeSequence.
    """

    title: str
    number: int
    contribution: str
    code: Code


LONGEST_DESCRIPTION = 900
"""Characters of DerivationDescription before `rounding` is added to it; an ST holds 1024."""

OF_PATCHES = Made("SVD of patches", 9_998, "Denoising by SVD of patches", PATCHES)
OF_NOISE = Made("noise sigma (HU)", 9_999, "Estimate of the noise", NOISE_MAP)
"""Numbers that hardly any rank has."""


@dataclass(frozen=True)
class Derivation:
    """What was done to every slice, and the names that follow from it.

    Attributes:
        rank: k; 0 where there is none.
        version: Of ctbasis.
        description: For DerivationDescription.
        fingerprint: Of the factors and the rank: what UIDs are made from, beside the source's.
        made: What comes of it; None for a rank-k approximation.
    """

    rank: int
    version: str
    description: str
    fingerprint: str
    made: Made | None = None

    @property
    def names(self) -> Made:
        """What comes of it."""
        return self.made or Made(
            f"SVD rank {self.rank}", self.rank % 10_000, f"Rank-{self.rank} approximation by SVD", LOW_RANK
        )

    @classmethod
    def of_patches(cls, store: DenoisedMatrix) -> tuple[Self, Self]:
        """Describe the denoised series of patch mode, and the maps of its noise."""
        version = importlib.metadata.version(PRODUCT)
        digest = hashlib.sha256(f"{version} {json.dumps(vars(store.plan), sort_keys=True)}".encode())
        for index in range(store.block_count):
            digest.update(np.ascontiguousarray(store.read_block(index, dtype=np.float32)).tobytes())
        denoised = cls(
            rank=0,
            version=version,
            description=f"Denoised by SVD: {store.plan.summary}; {PRODUCT} {version}. Not for diagnosis.",
            fingerprint=digest.hexdigest(),
            made=OF_PATCHES,
        )
        noise = cls(
            rank=0,
            version=version,
            description=(
                "Standard deviation of the noise at every voxel, HU, estimated from the series itself; no image of the "
                f"patient; {PRODUCT} {version}."
            ),
            fingerprint=hashlib.sha256(f"noise {digest.hexdigest()}".encode()).hexdigest(),
            made=OF_NOISE,
        )
        return denoised, noise

    @classmethod
    def of(cls, basis: Factors, rank: int) -> Self:
        """Describe A_k from the factors in `basis`."""
        plan = basis.plan
        version = importlib.metadata.version(PRODUCT)
        seed = "" if plan.seed is None else f", seed {plan.seed}"
        digest = hashlib.sha256(f"{version} {rank}".encode())
        digest.update(np.ascontiguousarray(basis.s).tobytes())
        digest.update(np.ascontiguousarray(basis.V).tobytes())
        return cls(
            rank=rank,
            version=version,
            description=(
                f"Rank-{rank} approximation of {plan.cols} slices (voxels x slices) by singular value decomposition: "
                f"engine {plan.engine}, factored at rank {plan.rank}, oversample {plan.oversample}, "
                f"power iterations {plan.power_iters}{seed}; {PRODUCT} {version}. Not for diagnosis."
            ),
            fingerprint=digest.hexdigest(),
        )

    def after(self, earlier: Derivation | None) -> Self:
        """Return the derivation of images on which `earlier` was done first; None returns this one unchanged."""
        if earlier is None:
            return self
        # DerivationDescription holds 1024 characters, and the last step is the one to keep.
        room = LONGEST_DESCRIPTION - len(self.description) - 1
        return replace(
            self,
            description=f"{earlier.description[: max(0, room)]} {self.description}".strip(),
            fingerprint=f"{earlier.fingerprint} {self.fingerprint}",
        )

    def uid(self, source: str) -> str:
        """Return the UID of what is derived from the object called `source`: a name-based UUID (PS3.5 B.2)."""
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{source} {self.fingerprint}').int}"


def read_header(header: bytes) -> Dataset:
    """Parse one stored header, a DICOM file without pixel data."""
    return pydicom.dcmread(BytesIO(header))


def derive(source: Dataset, image: Stored, derivation: Derivation) -> Dataset:
    """Turn the data set of a slice into that of the derived slice, in place, ready to be saved.

    Study, patient, frame of reference, geometry and windows stay, so that a viewer shows the two series side by side
    and in register. What is no attribute of the CT Image IOD goes, and so do private elements: some vendors keep
    statistics or copies of the pixels there, and which ones do is not public. What the IOD wants and the source lacks
    is added empty where it may be; geometry is never made up.

    Args:
        source: From `read_header`.
        image: What is stored.
        derivation: What was done.

    Returns:
        `source`, changed: Explicit VR Little Endian, with pixel data.
    """
    lossy = lossy_history(source)
    reference, origin = reference_to(source), _origin(source)
    ct_image.drop_foreign(source)
    for keyword in (*STALE, *OF_COLOUR):
        if keyword in source:
            delattr(source, keyword)
    ct_image.repair(source)
    _drop_overlays_in_pixels(source)
    identify(source, derivation, series=source.SeriesInstanceUID, instance=origin)
    _name(source, derivation)
    source.update(lossy)
    source.SourceImageSequence = Sequence([reference])
    source.DerivationDescription = f"{derivation.description} {rounding(image)}"
    names = derivation.names
    source.DerivationCodeSequence = Sequence([*source.get("DerivationCodeSequence", []), coded(names.code)])
    add_coding_scheme(source)
    source.ContributingEquipmentSequence = Sequence(
        [
            *source.get("ContributingEquipmentSequence", []),
            equipment(derivation, names.contribution),
        ]
    )
    set_pixels(source, image)
    ct_image.fill_empty(source)
    return source


def identify(dataset: Dataset, derivation: Derivation, *, series: str, instance: str) -> None:
    """Make `dataset` a CT image of its own, derived from the source objects `series` and `instance`."""
    dataset.SOPClassUID = CTImageStorage
    dataset.Modality = "CT"
    dataset.SOPInstanceUID = derivation.uid(instance)
    dataset.SeriesInstanceUID = derivation.uid(series)
    if not dataset.get("FrameOfReferenceUID"):
        # Without one, positions hold within the series alone.
        dataset.FrameOfReferenceUID = derivation.uid(f"frame of reference of {series}")
    meta = FileMetaDataset()  # pydicom adds its own implementation: it is the writer now
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    dataset.preamble = b"\0" * 128


def titled(description: Any, suffix: str) -> str:
    """Return a SeriesDescription: LO holds 64 characters, and what was done matters more than a long name's end."""
    described = str(description or "").strip()
    return f"{described[: 61 - len(suffix)]} - {suffix}" if described else suffix


def series_number(source: Any, offset: int) -> int:
    """Return a SeriesNumber that tells source series and rank apart, and stays in the 32 bits of IS."""
    return abs(int(source or 0)) % 100_000 * 10_000 + offset


def reference_to(source: Dataset) -> Dataset:
    """Return an item of SourceImageSequence."""
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.get("SOPClassUID") or CTImageStorage
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    if reference.ReferencedSOPClassUID in MULTI_FRAME:
        reference.ReferencedFrameNumber = source.InstanceNumber
    reference.PurposeOfReferenceCodeSequence = Sequence([coded(codes.cid7202.SourceImageForImageProcessingOperation)])
    return reference


def equipment(derivation: Derivation, contribution: str) -> Dataset:
    """Return an item of ContributingEquipmentSequence that names us."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Sequence([coded(codes.cid7005.ProcessingEquipment)])
    item.Manufacturer = PRODUCT
    item.ManufacturerModelName = PRODUCT
    item.SoftwareVersions = derivation.version
    item.ContributionDescription = contribution
    return item


def coded(code: Code) -> Dataset:
    """Return the item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def add_coding_scheme(dataset: Dataset) -> None:
    """Say whose codes `LOW_RANK` and the others are."""
    dataset.CodingSchemeIdentificationSequence = Sequence(
        [*dataset.get("CodingSchemeIdentificationSequence", []), SCHEME]
    )


def rounding(image: Stored) -> str:
    """Say how far a stored value may be from the computed one."""
    return f"Stored values are the nearest whole ones: off by {abs(image.RescaleSlope) / 2:g} HU at most."


def lossy_history(source: Dataset) -> Dataset:
    """Return what is to be said of lossy compression, where the source leaves it to the syntax (PS3.3 C.7.6.1.1.5).

    JPEG 2000 may be either, and is taken at the source's own word.
    """
    said = Dataset()
    method = LOSSY_SYNTAXES.get(source.file_meta.TransferSyntaxUID)
    if method is not None and source.get("LossyImageCompression") != "01":
        said.LossyImageCompression = "01"
        said.LossyImageCompressionMethod = method
    return said


def set_pixels(dataset: Dataset, image: Stored) -> None:
    """Give `dataset` the pixels of `image` and all that says what they mean."""
    dataset.SamplesPerPixel = 1
    if dataset.get("PhotometricInterpretation") != "MONOCHROME1":
        dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = BITS
    dataset.HighBit = BITS - 1
    dataset.PixelRepresentation = int(image.signed)
    for keyword, number in (("RescaleSlope", image.RescaleSlope), ("RescaleIntercept", image.RescaleIntercept)):
        if dataset.get(keyword) is None or float(dataset[keyword].value) != number:
            setattr(dataset, keyword, DSfloat(number, auto_format=True))
    dataset.RescaleType = "HU"
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if keyword in dataset:
            delattr(dataset, keyword)
    if image.padding is not None:
        kind = "SS" if image.signed else "US"
        first, last = image.padding
        dataset.add_new("PixelPaddingValue", kind, first)
        if last != first:
            dataset.add_new("PixelPaddingRangeLimit", kind, last)
    dataset.add_new("PixelData", "OW", image.values.tobytes())


def _origin(source: Dataset) -> str:
    """Return what names a slice alone: its SOPInstanceUID, and its frame where it has that of many."""
    instance = str(source.SOPInstanceUID)
    return f"{instance} frame {source.InstanceNumber}" if source.get("SOPClassUID") in MULTI_FRAME else instance


def _name(dataset: Dataset, derivation: Derivation) -> None:
    """Say in words and numbers what the series is."""
    said = dataset.get("ImageType") or []
    further = [] if isinstance(said, str) else list(said)[2:]
    if further[:1] != ["AXIAL"]:
        # Value 3 of a CT image is AXIAL or LOCALIZER, and localizers are set aside.
        further = ["AXIAL", *filter(None, further)]
    # SECONDARY: made after the examination, not as its direct result (PS3.3 C.7.6.1.1.2).
    dataset.ImageType = ["DERIVED", "SECONDARY", *further]
    dataset.SeriesDescription = titled(dataset.get("SeriesDescription"), derivation.names.title)
    dataset.SeriesNumber = series_number(dataset.get("SeriesNumber"), derivation.names.number)


def _drop_overlays_in_pixels(dataset: Dataset) -> None:
    """Drop overlay planes that lived in the unused bits of the source's pixels (retired, and gone from ours)."""
    for group in ct_image.OVERLAY_GROUPS:
        if (group, 0x0010) in dataset and (group, 0x3000) not in dataset:
            for tag in list(dataset.group_dataset(group).keys()):
                del dataset[tag]
