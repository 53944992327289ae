"""Noise maps as DICOM series: the standard deviation of the noise, in HU, on the pixel grid of the source.

The maps are CT images, so every viewer that shows the source can show them, registered with it. ImageType,
SeriesDescription, DerivationCodeSequence and ImageComments state that they are not anatomy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.valuerep import DSfloat

from ctbasis.dicom.derived_series import derive
from ctbasis.dicom.stored_values import SPAN, UNSIGNED, StoredImage

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from ctbasis.dicom.derived_series import Derivation
    from ctbasis.dicom.source_series import SourceSeries

SLOPES = (0.01, 0.1, 1.0)
"""Values of RescaleSlope; the smallest one is used that can represent the largest sigma of a series."""

WINDOW_KEYWORDS = ("WindowCenterWidthExplanation", "VOILUTSequence", "VOILUTFunction")

WINDOW_PERCENTILE = 99.5
"""Percentile of sigma at the upper end of the window."""


def noise_slope(sigma: NDArray[np.floating[Any]]) -> float:
    """Return the RescaleSlope of a series of noise maps from sigma of all slices, HU, any shape."""
    largest = float(sigma.max())
    return next((slope for slope in SLOPES if largest <= slope * SPAN), SLOPES[-1])


def noise_instance(
    source: Dataset,
    sigma: NDArray[np.float32],
    derivation: Derivation,
    slope: float,
    *,
    series: SourceSeries | None = None,
    number: int = 0,
) -> Dataset:
    """Turn the data set of a slice into that of its noise map, in place.

    Args:
        source: Header of the slice, from `read_header`.
        sigma: Standard deviation of the noise, HU, (Rows, Columns).
        derivation: From `Derivation.of_patch_mode`.
        slope: From `noise_slope`.
        series: As in `derive`.
        number: As in `derive`.

    Returns:
        `source`, ready to be saved.
    """
    stored = np.minimum(np.rint(sigma.ravel() / slope), SPAN).astype(UNSIGNED)
    derived = derive(source, StoredImage(stored, slope, 0.0), derivation, series=series, number=number)
    derived.PhotometricInterpretation = "MONOCHROME2"
    derived.ImageType = ["DERIVED", "SECONDARY", "AXIAL", "NOISE"]
    derived.ImageComments = "No image of the patient: the estimated standard deviation of the noise at every voxel."
    for keyword in WINDOW_KEYWORDS:
        if keyword in derived:
            delattr(derived, keyword)
    top = max(1.0, float(np.percentile(sigma, WINDOW_PERCENTILE)))
    derived.WindowCenter = DSfloat(float(f"{top / 2:.4g}"), auto_format=True)
    derived.WindowWidth = DSfloat(float(f"{top:.4g}"), auto_format=True)
    return derived
