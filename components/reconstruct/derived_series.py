"""From HU back to DICOM: stored pixels, and the derived instance around them.

Nothing here reads a clock or draws a number: the same factors and rank give the same UIDs and the same bytes. A step
that is retried therefore replaces its instances in an archive instead of doubling them. Factors computed anew differ,
if only in the last digit, and so do their UIDs: one SOPInstanceUID never names two pixel arrays.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import uuid
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless

from components.reconstruct.rank_k import restore

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.sr.coding import Code

    from components.matrix.hounsfield import Pixels
    from components.svd.factors import FactorStore

PRODUCT = "ctbasis"

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
    "PixelDataProviderURL",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "MACParametersSequence",
    "DigitalSignaturesSequence",
    "DataSetTrailingPadding",
)

# Transfer syntaxes that always lose information, by LossyImageCompressionMethod: once lossy, always to be said.
LOSSY_SYNTAXES = {JPEGBaseline8Bit: "ISO_10918_1", JPEGExtended12Bit: "ISO_10918_1", JPEGLSNearLossless: "ISO_14495_1"}


@dataclass(frozen=True)
class Derivation:
    """What was done to every slice, and the names that follow from it.

    Attributes:
        rank: k.
        version: Of ctbasis.
        description: For DerivationDescription.
        fingerprint: Of the factors and the rank: what UIDs are made from, beside the source's.
    """

    rank: int
    version: str
    description: str
    fingerprint: str

    @classmethod
    def of(cls, basis: FactorStore, rank: int) -> Self:
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

    def uid(self, source: str) -> str:
        """Return the UID of what is derived from the object called `source`: a name-based UUID (PS3.5 B.2)."""
        return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'{source} {self.fingerprint}').int}"


def read_header(header: bytes) -> Dataset:
    """Parse one stored header, a DICOM file without pixel data."""
    return pydicom.dcmread(BytesIO(header))


def stored_pixels(hu: NDArray[Any], aside: NDArray[Any], pixels: Pixels) -> NDArray[Any]:
    """Return what a slice of `pixels` stores for `hu`: the nearest values, halves to even.

    What was computed is clipped to BitsStored. What was set aside comes back as it was, within BitsAllocated: some
    scanners pad with a value that BitsStored cannot hold.

    Args:
        hu: HU of A_k; overwritten.
        aside: What was set aside before the factorization, `absent` elsewhere.
        pixels: What stored values mean in the source.
    """
    np.clip(hu, *sorted(map(pixels.hounsfield, pixels.stored_range)), out=hu)
    restore(hu, aside)
    stored = np.rint((hu.astype(np.float64) - pixels.RescaleIntercept) / pixels.RescaleSlope)
    kind = "i" if pixels.PixelRepresentation else "u"
    return stored.astype(f"<{kind}{pixels.BitsAllocated // 8}")


def derive(source: Dataset, pixels: NDArray[Any], derivation: Derivation) -> Dataset:
    """Turn the data set of a slice into that of the derived slice, in place, ready to be saved.

    Study, patient, frame of reference, geometry, rescale and windows stay, so that a viewer shows the two series side
    by side and in register. No code of CID 7203 says "low-rank approximation", so DerivationCodeSequence stays what
    the source had and the words are in DerivationDescription. Private elements go: some vendors keep statistics or
    copies of the pixels there, and which ones do is not public.

    Args:
        source: From `read_header`.
        pixels: Stored values, (Rows, Columns), from `stored_pixels`.
        derivation: What was done.

    Returns:
        `source`, changed: Explicit VR Little Endian, with pixel data.
    """
    _keep_lossy_history(source)
    reference = _reference_to(source)
    source.remove_private_tags()
    for keyword in STALE:
        if keyword in source:
            delattr(source, keyword)
    _drop_overlays_in_pixels(source)
    _name(source, derivation)
    source.SourceImageSequence = Sequence([reference])
    source.DerivationDescription = derivation.description
    source.ContributingEquipmentSequence = Sequence(
        [*source.get("ContributingEquipmentSequence", []), _equipment(derivation)]
    )
    _set_pixels(source, pixels)
    return source


def _name(dataset: Dataset, derivation: Derivation) -> None:
    """Give the derived instance and series their own identity."""
    dataset.SOPInstanceUID = derivation.uid(dataset.SOPInstanceUID)
    dataset.SeriesInstanceUID = derivation.uid(dataset.SeriesInstanceUID)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for element in ("ImplementationClassUID", "ImplementationVersionName", "SourceApplicationEntityTitle"):
        if element in dataset.file_meta:
            delattr(dataset.file_meta, element)  # pydicom writes its own: it is the writer now
    kind = list(dataset.get("ImageType") or [])
    dataset.ImageType = ["DERIVED", "SECONDARY", *(kind[2:] or ["AXIAL"])]
    suffix = f"SVD rank {derivation.rank}"
    described = str(dataset.get("SeriesDescription") or "").strip()
    # LO holds 64 characters, and what was done matters more than the end of a long protocol name.
    dataset.SeriesDescription = f"{described[: 61 - len(suffix)]} - {suffix}" if described else suffix
    # Tells series and rank apart, and stays in the 32 bits of IS.
    dataset.SeriesNumber = int(dataset.get("SeriesNumber") or 0) % 100_000 * 10_000 + derivation.rank % 10_000


def _reference_to(source: Dataset) -> Dataset:
    reference = Dataset()
    reference.ReferencedSOPClassUID = source.SOPClassUID
    reference.ReferencedSOPInstanceUID = source.SOPInstanceUID
    reference.PurposeOfReferenceCodeSequence = Sequence([_coded(codes.cid7202.SourceImageForImageProcessingOperation)])
    return reference


def _equipment(derivation: Derivation) -> Dataset:
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = Sequence([_coded(codes.cid7005.ProcessingEquipment)])
    equipment.Manufacturer = PRODUCT
    equipment.ManufacturerModelName = PRODUCT
    equipment.SoftwareVersions = derivation.version
    equipment.ContributionDescription = f"Rank-{derivation.rank} approximation by SVD"
    return equipment


def _coded(code: Code) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code.value, code.scheme_designator, code.meaning
    return item


def _keep_lossy_history(source: Dataset) -> None:
    """Say what a lossy transfer syntax did to the source, where the source leaves it to the syntax (PS3.3 C.7.6.1.1.5).

    JPEG 2000 may be either, and is taken at the source's own word.
    """
    method = LOSSY_SYNTAXES.get(source.file_meta.TransferSyntaxUID)
    if method is not None and source.get("LossyImageCompression") != "01":
        source.LossyImageCompression = "01"
        source.LossyImageCompressionMethod = method


def _drop_overlays_in_pixels(dataset: Dataset) -> None:
    """Drop overlay planes that lived in the unused bits of the source's pixels (retired, and gone from ours)."""
    for group in range(0x6000, 0x6020, 2):
        if (group, 0x0010) in dataset and (group, 0x3000) not in dataset:
            for tag in list(dataset.group_dataset(group).keys()):
                del dataset[tag]


def _set_pixels(dataset: Dataset, pixels: NDArray[Any]) -> None:
    dataset.HighBit = dataset.BitsStored - 1
    # An element of the wrong sign, such as a US 63536 beside signed pixels, is written as what it means.
    signed = bool(dataset.get("PixelRepresentation", 0))
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        if dataset.get(keyword) is not None:
            value = np.int64(dataset[keyword].value).astype(np.int16 if signed else np.uint16)
            dataset[keyword].VR, dataset[keyword].value = ("SS" if signed else "US"), int(value)
    dataset.add_new("PixelData", "OW", pixels.tobytes())
