"""Basis images, the columns of U, as a DICOM series.

A basis image is not a slice: it has the pixel grid of the source but no position in the patient. It is written as CT
Image Storage, because every viewer that shows the source supports that. Three measures prevent confusion with anatomy:

- The unit is defined: image i is u_i s_i / sqrt(n), in HU. This is the contribution of component i to a slice whose
  coefficient equals the root mean square over all slices.
- The images have a frame of reference of their own, in which they lie 1 mm apart in the order of their singular values.
  Viewers therefore do not register them with the patient.
- ImageType contains BASIS, and DerivationCodeSequence and ImageComments describe the images.

Parametric Map Storage could hold floating-point values, but few viewers support it. The basis store has these values.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.valuerep import DSfloat

from ctbasis.dicom import ct_image
from ctbasis.dicom.derived_series import (
    BASIS_IMAGE,
    add_coding_scheme,
    code_item,
    equipment,
    identify,
    lossy_compression_attributes,
    read_header,
    reference_to,
    rounding,
    series_description,
    series_number,
    set_pixels,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ctbasis.dicom.derived_series import Derivation
    from ctbasis.dicom.results import Factors
    from ctbasis.dicom.stored_values import StoredImage

IMAGES_IN_MEMORY = 64
"""Basis images that are in memory at the same time: 64 MiB for float32 and 512 x 512 pixels."""

STUDY_MODULES = {
    "patient",
    "clinical-trial-subject",
    "general-study",
    "patient-study",
    "clinical-trial-study",
}
"""Modules whose attributes describe the patient and the study and are copied from the source."""

COPIED_KEYWORDS = (
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
    "LongitudinalTemporalInformationModified",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)

GRID_KEYWORDS = ("PixelSpacing", "ImageOrientationPatient", "Rows", "Columns")

SERIES_NUMBER_OFFSET = 1_000_000_000
"""Added to SeriesNumber, so that it is larger than that of any denoised series."""

WINDOW_PERCENTILE = 99.5
"""Percentile of the absolute values at the end of the window."""


def basis_images_hu(basis: Factors, rank: int) -> Iterator[NDArray[Any]]:
    """Yield u_i s_i / sqrt(n), HU, (m,), for i = 1 ... rank. U is read once for every `IMAGES_IN_MEMORY` images."""
    scale = (basis.s / np.sqrt(basis.cols)).astype(np.float32)
    for first in range(0, rank, IMAGES_IN_MEMORY):
        group = slice(first, min(first + IMAGES_IN_MEMORY, rank))
        images = np.empty((group.stop - group.start, basis.rows), np.float32)
        for index in range(basis.block_count):
            images[:, basis.block(index)] = (basis.read_block(index, rank=group.stop)[:, group] * scale[group]).T
        yield from images


@dataclass(frozen=True)
class BasisTemplate:
    """The attributes that all basis images of a run share.

    Attributes:
        common: Data set of the shared attributes.
        derivation: How the images were computed.
        study: StudyInstanceUIDs of the sources, from which UIDs are derived.
    """

    common: Dataset
    derivation: Derivation
    study: str

    @classmethod
    def of(cls, basis: Factors, derivation: Derivation) -> Self:
        """Create the template. Patient and study are copied from the source if all slices are of one of each."""
        firsts = [read_header(basis.header(series.first)) for series in basis.series]
        studies = sorted({str(header.get("StudyInstanceUID", "")) for header in firsts})
        common = Dataset()
        patients = {str(header.get("PatientID") or "") for header in firsts}
        if len(studies) == len(patients) == 1:
            _copy_study(firsts[0], common)
        else:
            common.StudyInstanceUID = derivation.uid(" ".join(studies))
        for header in firsts:
            common.update(lossy_compression_attributes(header))
        for keyword in GRID_KEYWORDS:
            if keyword in firsts[0]:
                common[keyword] = firsts[0][keyword]
        for keyword in ("BurnedInAnnotation", "RecognizableVisualFeatures"):
            if {header.get(keyword) for header in firsts} == {"NO"}:
                setattr(common, keyword, "NO")
        common.FrameOfReferenceUID = derivation.uid(f"frame of reference of basis images of {' '.join(studies)}")
        common.ImageType = ["DERIVED", "SECONDARY", "AXIAL", "BASIS"]
        common.SeriesDescription = series_description(
            firsts[0].get("SeriesDescription"), f"SVD rank {derivation.rank} basis"
        )
        common.SeriesNumber = SERIES_NUMBER_OFFSET + series_number(
            firsts[0].get("SeriesNumber"), derivation.rank % 10_000
        )
        common.SourceImageSequence = Sequence(
            [reference_to(read_header(basis.header(column))) for column in range(basis.cols)]
        )
        common.DerivationCodeSequence = Sequence([code_item(BASIS_IMAGE)])
        common.CodingSchemeIdentificationSequence = Sequence()
        add_coding_scheme(common)
        common.ContributingEquipmentSequence = Sequence([equipment(derivation, "Basis images of an SVD")])
        common.Manufacturer = common.ContributingEquipmentSequence[0].Manufacturer
        return cls(common, derivation, " ".join(studies))

    def instance(self, number: int, image: StoredImage) -> Dataset:
        """Return the data set of a basis image.

        Args:
            number: Number of the basis image, from 1.
            image: Its stored values.
        """
        dataset = Dataset()
        dataset.update(deepcopy(self.common))
        identify(
            dataset,
            self.derivation,
            series=f"basis images of {self.study}",
            instance=f"basis image {number} of {self.study}",
        )
        dataset.InstanceNumber = number
        dataset.ImagePositionPatient = [0, 0, number - 1]
        dataset.DerivationDescription = (
            f"Basis image {number}: u_i s_i / sqrt(n), HU, of this factorization: "
            f"{self.derivation.description} {rounding(image)}"
        )
        dataset.ImageComments = "No slice of the patient: what one component of a singular value decomposition adds."
        dataset.WindowCenter, dataset.WindowWidth = 0, _window(image)
        set_pixels(dataset, image)
        ct_image.fill_empty(dataset)
        return dataset


def _copy_study(header: Dataset, common: Dataset) -> None:
    """Copy the attributes of patient and study from `header` to `common`."""
    tags = {tag for tag, attribute in ct_image.attributes().items() if attribute.module in STUDY_MODULES}
    for element in header:
        if element.tag in tags or element.keyword in COPIED_KEYWORDS:
            common.add(element)
    ct_image.repair(common)


def _window(image: StoredImage) -> DSfloat:
    hu = image.values * np.float64(image.RescaleSlope) + image.RescaleIntercept
    # WindowWidth must be at least 1.
    return DSfloat(float(f"{max(1.0, 2 * np.percentile(np.abs(hu), WINDOW_PERCENTILE)):.4g}"), auto_format=True)
