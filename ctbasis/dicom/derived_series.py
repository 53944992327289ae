"""Data sets of derived images, written as CT Image Storage (PS3.3 A.3).

UIDs and file contents are deterministic: this module uses neither the clock nor random numbers. The same factors and
rank give the same UIDs and the same bytes, so a step that is retried replaces its instances in an archive instead of
duplicating them. Factors that are computed again differ at least in the last digit, and so do their UIDs: one
SOPInstanceUID never identifies two different images.
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
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)
from pydicom.valuerep import DSfloat

from ctbasis.dicom import ct_image
from ctbasis.dicom.frames import is_frame
from ctbasis.dicom.source_series import SourceSeries
from ctbasis.dicom.stored_values import BITS

if TYPE_CHECKING:
    from ctbasis.dicom.results import DenoisedMatrix, Factors
    from ctbasis.dicom.stored_values import StoredImage

PRODUCT = "ctbasis"

# Attributes that describe the pixels or the creation of the source, or that certify its bytes.
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

# Colours that a multi-frame object may assign to its grey values; a CT image has none.
PALETTE_KEYWORDS = tuple(
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
INSERTED_NODULES = Code("NODULES", SCHEME.CodingSchemeDesignator, "Insertion of synthetic nodules")
NOISE_MAP = Code("NOISE", SCHEME.CodingSchemeDesignator, "Estimated standard deviation of noise")
"""CID 7203 has no codes for these derivations. The context group is extensible."""

# Transfer syntaxes that are always lossy, with LossyImageCompressionMethod. A lossy image must stay marked as such.
LOSSY_SYNTAXES = {JPEGBaseline8Bit: "ISO_10918_1", JPEGExtended12Bit: "ISO_10918_1", JPEGLSNearLossless: "ISO_14495_1"}


@dataclass(frozen=True)
class SeriesKind:
    """What distinguishes a derived series from other series derived from the same source.

    Attributes:
        title: Text at the end of SeriesDescription.
        number: Added to SeriesNumber; below 10,000.
        contribution: ContributionDescription in ContributingEquipmentSequence.
        code: Code in DerivationCodeSequence.
    """

    title: str
    number: int
    contribution: str
    code: Code


MAX_DESCRIPTION = 900
"""Characters of DerivationDescription before the text of `rounding`; the VR ST allows 1024."""

PATCH_DENOISED = SeriesKind("SVD of patches", 9_998, "Denoising by SVD of patches", PATCHES)
NOISE_MAPS = SeriesKind("noise sigma (HU)", 9_999, "Estimate of the noise", NOISE_MAP)
"""The numbers are unlikely to be a rank."""


@dataclass(frozen=True)
class Derivation:
    """How the images of a series were computed, and the names and UIDs that follow from it.

    Attributes:
        rank: k; 0 if there is none.
        version: Version of ctbasis.
        description: Text of DerivationDescription.
        fingerprint: Digest of the factors and the rank, from which UIDs are derived together with the source's UIDs.
        kind: Kind of the derived series; None for a rank-k approximation.
    """

    rank: int
    version: str
    description: str
    fingerprint: str
    kind: SeriesKind | None = None

    @property
    def series_kind(self) -> SeriesKind:
        """Kind of the derived series."""
        return self.kind or SeriesKind(
            f"SVD rank {self.rank}", self.rank % 10_000, f"Rank-{self.rank} approximation by SVD", LOW_RANK
        )

    @classmethod
    def of_patch_mode(cls, store: DenoisedMatrix) -> tuple[Self, Self]:
        """Return the derivations of the denoised series of patch mode and of its noise maps."""
        version = importlib.metadata.version(PRODUCT)
        digest = hashlib.sha256(f"{version} {json.dumps(vars(store.plan), sort_keys=True)}".encode())
        for index in range(store.block_count):
            digest.update(np.ascontiguousarray(store.read_block(index, dtype=np.float32)).tobytes())
        denoised = cls(
            rank=0,
            version=version,
            description=f"Denoised by SVD: {store.plan.summary}; {PRODUCT} {version}. Not for diagnosis.",
            fingerprint=digest.hexdigest(),
            kind=PATCH_DENOISED,
        )
        return denoised, denoised.of_noise()

    def of_noise(self) -> Self:
        """Return the derivation of the maps of the noise that a denoised series of patch mode was freed of."""
        return replace(
            self,
            description=(
                "Standard deviation of the noise at every voxel, HU, estimated from the series itself; no image of the "
                f"patient; {PRODUCT} {self.version}."
            ),
            fingerprint=hashlib.sha256(f"noise {self.fingerprint}".encode()).hexdigest(),
            kind=NOISE_MAPS,
        )

    @classmethod
    def of(cls, basis: Factors, rank: int) -> Self:
        """Return the derivation of the rank-`rank` approximation from the factors in `basis`."""
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
        """Return the derivation of images that were processed by `earlier` first; None leaves it unchanged."""
        if earlier is None:
            return self
        # The text of the last step is kept if both do not fit.
        room = MAX_DESCRIPTION - len(self.description) - 1
        return replace(
            self,
            description=f"{earlier.description[: max(0, room)]} {self.description}".strip(),
            fingerprint=f"{earlier.fingerprint} {self.fingerprint}",
        )

    def uid(self, source: str) -> str:
        """Return the UID of the object derived from the object `source`: a name-based UUID (PS3.5 B.2)."""
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{source} {self.fingerprint}').int}"


def read_header(header: bytes) -> Dataset:
    """Parse a header from a store: a DICOM file without PixelData."""
    return pydicom.dcmread(BytesIO(header))


def derive(
    source: Dataset,
    image: StoredImage,
    derivation: Derivation,
    *,
    series: SourceSeries | None = None,
    number: int = 0,
) -> Dataset:
    """Turn the data set of a slice into that of the derived slice, in place.

    Study, patient, frame of reference, geometry and windows are kept, so that viewers show both series side by side and
    registered. Attributes outside of the CT Image IOD are removed, and so are private elements: some vendors store
    statistics or copies of the pixels in them. Required attributes that the source lacks are added with empty values
    where that is allowed; geometry is never invented.

    Args:
        source: Header of the slice, from `read_header`.
        image: Stored values of the derived slice.
        derivation: How it was computed.
        series: The series of the slice; by default the one that its header names.
        number: Number of the slice in its matrix or volume. Slices with the same SOPInstanceUID need different numbers,
            because the SOPInstanceUID of the derived slice follows from both.

    Returns:
        `source`, ready to be saved: Explicit VR Little Endian, with PixelData.
    """
    lossy = lossy_compression_attributes(source)
    frame = f" frame {source.InstanceNumber}" if is_frame(source) else ""
    reference, instance = reference_to(source), f"{source.SOPInstanceUID}{frame} slice {number}"
    series = series or SourceSeries(str(source.SeriesInstanceUID))
    ct_image.drop_other_attributes(source)
    for keyword in (*STALE, *PALETTE_KEYWORDS):
        if keyword in source:
            delattr(source, keyword)
    ct_image.repair(source)
    _drop_overlays_in_pixels(source)
    series.unify(source)
    identify(source, derivation, series=series.key, instance=instance)
    _name(source, derivation)
    source.update(lossy)
    source.SourceImageSequence = Sequence([reference])
    source.DerivationDescription = f"{derivation.description} {rounding(image)}"
    kind = derivation.series_kind
    source.DerivationCodeSequence = Sequence([*source.get("DerivationCodeSequence", []), code_item(kind.code)])
    add_coding_scheme(source)
    source.ContributingEquipmentSequence = Sequence(
        [
            *source.get("ContributingEquipmentSequence", []),
            equipment(derivation, kind.contribution),
        ]
    )
    set_pixels(source, image)
    ct_image.fill_empty(source)
    return source


def identify(dataset: Dataset, derivation: Derivation, *, series: str, instance: str) -> None:
    """Give `dataset` the UIDs of a CT image derived from the source objects `series` and `instance`, in place."""
    dataset.SOPClassUID = CTImageStorage
    dataset.Modality = "CT"
    dataset.SOPInstanceUID = derivation.uid(instance)
    dataset.SeriesInstanceUID = derivation.uid(series)
    if not dataset.get("FrameOfReferenceUID"):
        # Without a FrameOfReferenceUID, positions are valid within one series only.
        dataset.FrameOfReferenceUID = derivation.uid(f"frame of reference of {series}")
    meta = FileMetaDataset()  # pydicom adds ImplementationClassUID
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta = meta
    dataset.preamble = b"\0" * 128


def series_description(description: Any, suffix: str) -> str:
    """Return a SeriesDescription of at most 64 characters (VR LO); the suffix is never truncated."""
    described = str(description or "").strip()
    return f"{described[: 61 - len(suffix)]} - {suffix}" if described else suffix


def series_number(source: Any, offset: int) -> int:
    """Return a SeriesNumber that is different for each source series and rank, and fits the VR IS (32 bits)."""
    return abs(int(source or 0)) % 100_000 * 10_000 + offset


def reference_to(source: Dataset) -> Dataset:
    """Return an item of SourceImageSequence that refers to `source`."""
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.get("SOPClassUID") or CTImageStorage
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    if is_frame(source):
        reference.ReferencedFrameNumber = source.InstanceNumber
    purpose = codes.cid7202.SourceImageForImageProcessingOperation
    reference.PurposeOfReferenceCodeSequence = Sequence([code_item(purpose)])
    return reference


def equipment(derivation: Derivation, contribution: str) -> Dataset:
    """Return an item of ContributingEquipmentSequence for ctbasis."""
    item = Dataset()
    item.PurposeOfReferenceCodeSequence = Sequence([code_item(codes.cid7005.ProcessingEquipment)])
    item.Manufacturer = PRODUCT
    item.ManufacturerModelName = PRODUCT
    item.SoftwareVersions = derivation.version
    item.ContributionDescription = contribution
    return item


def code_item(code: Code) -> Dataset:
    """Return a code as an item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def add_coding_scheme(dataset: Dataset) -> None:
    """Add an item to CodingSchemeIdentificationSequence that defines the scheme of `LOW_RANK` and the other codes."""
    dataset.CodingSchemeIdentificationSequence = Sequence(
        [*dataset.get("CodingSchemeIdentificationSequence", []), SCHEME]
    )


def rounding(image: StoredImage) -> str:
    """Return a sentence on the rounding error of stored values, for DerivationDescription."""
    return f"Stored values are the nearest whole ones: off by {abs(image.RescaleSlope) / 2:g} HU at most."


def lossy_compression_attributes(source: Dataset) -> Dataset:
    """Return the attributes that mark lossy compression, if only the transfer syntax says so (PS3.3 C.7.6.1.1.5).

    JPEG 2000 may be lossless or lossy; for it, the attributes of the source are trusted.
    """
    attributes = Dataset()
    method = LOSSY_SYNTAXES.get(source.file_meta.TransferSyntaxUID)
    if method is not None and source.get("LossyImageCompression") != "01":
        attributes.LossyImageCompression = "01"
        attributes.LossyImageCompressionMethod = method
    return attributes


def set_pixels(dataset: Dataset, image: StoredImage) -> None:
    """Set PixelData and the attributes that describe it, in place."""
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


def _name(dataset: Dataset, derivation: Derivation) -> None:
    """Set ImageType, SeriesDescription and SeriesNumber, in place."""
    source_type = dataset.get("ImageType") or []
    further = [] if isinstance(source_type, str) else list(source_type)[2:]
    if further[:1] != ["AXIAL"]:
        # Value 3 of a CT image is AXIAL or LOCALIZER, and localizers were set aside.
        further = ["AXIAL", *filter(None, further)]
    # SECONDARY: created after the examination, not directly by it (PS3.3 C.7.6.1.1.2).
    dataset.ImageType = ["DERIVED", "SECONDARY", *further]
    dataset.SeriesDescription = series_description(dataset.get("SeriesDescription"), derivation.series_kind.title)
    dataset.SeriesNumber = series_number(dataset.get("SeriesNumber"), derivation.series_kind.number)


def _drop_overlays_in_pixels(dataset: Dataset) -> None:
    """Remove overlay planes whose data are in the unused bits of the source's pixels (retired), in place."""
    for group in ct_image.OVERLAY_GROUPS:
        if (group, 0x0010) in dataset and (group, 0x3000) not in dataset:
            for tag in list(dataset.group_dataset(group).keys()):
                del dataset[tag]
