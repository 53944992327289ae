"""Maps of the noise as DICOM series: sigma in HU on the source's own grid, in register with it.

They are CT images because every viewer that shows the source shows those, over it and in its place; and they say in
ImageType, SeriesDescription, DerivationCodeSequence and ImageComments that they are no anatomy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.valuerep import DSfloat

from ctbasis.dicom.derived_series import derive
from ctbasis.dicom.stored import SPAN, UNSIGNED, Stored

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from ctbasis.dicom.derived_series import Derivation

SLOPES = (0.01, 0.1, 1.0)
"""HU of a stored unit: the finest of these that reaches the largest sigma of a series."""

OF_WINDOWS = ("WindowCenterWidthExplanation", "VOILUTSequence", "VOILUTFunction")

SHOWN = 99.5
"""Percentile of sigma that the window shows."""


def noise_slope(sigma: NDArray[np.floating[Any]]) -> float:
    """Return the RescaleSlope for the noise maps of a series, from the sigma of all its slices (HU, any shape)."""
    largest = float(sigma.max())
    return next((slope for slope in SLOPES if largest <= slope * SPAN), SLOPES[-1])


def noise_instance(source: Dataset, sigma: NDArray[np.float32], derivation: Derivation, slope: float) -> Dataset:
    """Turn the data set of a slice into that of its map of the noise, in place, ready to be saved.

    Args:
        source: From `read_header`.
        sigma: HU, (Rows, Columns).
        derivation: From `Derivation.of_patches`.
        slope: From `noise_slope`.
    """
    stored = np.minimum(np.rint(sigma.ravel() / slope), SPAN).astype(UNSIGNED)
    derived = derive(source, Stored(stored, slope, 0.0), derivation)
    derived.PhotometricInterpretation = "MONOCHROME2"
    derived.ImageType = ["DERIVED", "SECONDARY", "AXIAL", "NOISE"]
    derived.ImageComments = "No image of the patient: the estimated standard deviation of the noise at every voxel."
    for keyword in OF_WINDOWS:
        if keyword in derived:
            delattr(derived, keyword)
    top = max(1.0, float(np.percentile(sigma, SHOWN)))
    derived.WindowCenter = DSfloat(float(f"{top / 2:.4g}"), auto_format=True)
    derived.WindowWidth = DSfloat(float(f"{top:.4g}"), auto_format=True)
    return derived
