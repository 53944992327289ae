"""Basis images, the columns of U, as a DICOM series of their own.

A basis image is no slice: it has the source's pixel grid and no place along the patient. It is written as CT Image
Storage because every viewer that shows the source shows that, and it is kept from being taken for anatomy in its place:

- the unit is honest: the i-th image is u_i s_i / sqrt(n), in HU, what component i adds to a slice that holds as much of
  it as the slices do in the root mean square;
- it has a frame of reference of its own, in which the images lie 1 mm apart in the order of their singular values, so
  no viewer puts them in register with the patient;
- ImageType says BASIS, DerivationCodeSequence and ImageComments say what it is.

Parametric Map Storage would hold the floats as they are, but few viewers open it; they are in the basis store.
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
    coded,
    equipment,
    identify,
    lossy_history,
    read_header,
    reference_to,
    rounding,
    series_number,
    set_pixels,
    titled,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ctbasis.dicom.derived_series import Derivation
    from ctbasis.dicom.results import Factors
    from ctbasis.dicom.stored import Stored

TOGETHER = 64
"""Basis images in memory at once: 64 MiB of 512 x 512 float32."""

OF_THE_STUDY = {
    "patient",
    "clinical-trial-subject",
    "general-study",
    "patient-study",
    "clinical-trial-study",
}
"""Modules whose attributes are those of the study, whatever was made in it."""

OF_THE_IDENTITY = (
    "SpecificCharacterSet",
    "TimezoneOffsetFromUTC",
    "LongitudinalTemporalInformationModified",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)

OF_THE_GRID = ("PixelSpacing", "ImageOrientationPatient", "Rows", "Columns")

BEYOND_RANKS = 1_000_000_000
"""Added to SeriesNumber: that of a denoised series is smaller."""

SHOWN = 99.5
"""Percentile of magnitudes that the window shows."""


def basis_images_hu(basis: Factors, rank: int) -> Iterator[NDArray[Any]]:
    """Yield u_i s_i / sqrt(n), HU, flat, for i = 1 ... rank; a pass over U for every `TOGETHER` of them."""
    scale = (basis.s / np.sqrt(basis.cols)).astype(np.float32)
    for first in range(0, rank, TOGETHER):
        some = slice(first, min(first + TOGETHER, rank))
        images = np.empty((some.stop - some.start, basis.rows), np.float32)
        for index in range(basis.block_count):
            images[:, basis.block(index)] = (basis.read_block(index, rank=some.stop)[:, some] * scale[some]).T
        yield from images


@dataclass(frozen=True)
class BasisTemplate:
    """What all basis images of a run share.

    Attributes:
        common: Their data set but for what is an image's own.
        derivation: What was done.
        study: What their UIDs are derived from.
    """

    common: Dataset
    derivation: Derivation
    study: str

    @classmethod
    def of(cls, basis: Factors, derivation: Derivation) -> Self:
        """Take patient and study from the slices; where these are of several studies, from none of them."""
        firsts = [read_header(basis.header(series.first)) for series in basis.series]
        studies = sorted({str(header.get("StudyInstanceUID", "")) for header in firsts})
        common = Dataset()
        if len(studies) == 1:
            _take_over(firsts[0], common)
        else:
            common.StudyInstanceUID = derivation.uid(" ".join(studies))
        for header in firsts:
            common.update(lossy_history(header))
        for keyword in OF_THE_GRID:
            if keyword in firsts[0]:
                common[keyword] = firsts[0][keyword]
        for keyword in ("BurnedInAnnotation", "RecognizableVisualFeatures"):
            if {header.get(keyword) for header in firsts} == {"NO"}:
                setattr(common, keyword, "NO")
        common.FrameOfReferenceUID = derivation.uid(f"frame of reference of basis images of {' '.join(studies)}")
        common.ImageType = ["DERIVED", "SECONDARY", "AXIAL", "BASIS"]
        common.SeriesDescription = titled(firsts[0].get("SeriesDescription"), f"SVD rank {derivation.rank} basis")
        common.SeriesNumber = BEYOND_RANKS + series_number(firsts[0].get("SeriesNumber"), derivation.rank % 10_000)
        common.SourceImageSequence = Sequence(
            [reference_to(read_header(basis.header(column))) for column in range(basis.cols)]
        )
        common.DerivationCodeSequence = Sequence([coded(BASIS_IMAGE)])
        common.CodingSchemeIdentificationSequence = Sequence()
        add_coding_scheme(common)
        common.ContributingEquipmentSequence = Sequence([equipment(derivation, "Basis images of an SVD")])
        common.Manufacturer = common.ContributingEquipmentSequence[0].Manufacturer
        return cls(common, derivation, " ".join(studies))

    def instance(self, number: int, image: Stored) -> Dataset:
        """Return the data set of basis image `number`, from 1 on."""
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


def _take_over(header: Dataset, common: Dataset) -> None:
    kept = {tag for tag, attribute in ct_image.attributes().items() if attribute.module in OF_THE_STUDY}
    for element in header:
        if element.tag in kept or element.keyword in OF_THE_IDENTITY:
            common.add(element)
    ct_image.repair(common)


def _window(image: Stored) -> DSfloat:
    hu = image.values * np.float64(image.RescaleSlope) + image.RescaleIntercept
    # A width is 1 at least.
    return DSfloat(float(f"{max(1.0, 2 * np.percentile(np.abs(hu), SHOWN)):.4g}"), auto_format=True)
