"""Noise maps as DICOM series: the standard deviation of the noise, in HU, on the pixel grid of the source.

The maps are CT images, so every viewer that shows the source can show them, registered with it. ImageType,
SeriesDescription, DerivationCodeSequence and ImageComments state that they are not anatomy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydicom.valuerep import DSfloat

from ctbasis.choices import UNCOMPRESSED
from ctbasis.dicom.derived_series import derive, read_header
from ctbasis.dicom.series_writer import header_errors, replacing_folders, save, slice_paths, source_of
from ctbasis.dicom.stored_values import SPAN, UNSIGNED, StoredImage
from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from ctbasis.dicom.derived_series import Derivation
    from ctbasis.dicom.source_series import SourceSeries
    from ctbasis.dicom.volume import Volume

SLOPES = (0.01, 0.1, 1.0)
"""Values of RescaleSlope; the smallest one is used that can represent the largest sigma of a series."""

WINDOW_KEYWORDS = ("WindowCenterWidthExplanation", "VOILUTSequence", "VOILUTFunction")

WINDOW_PERCENTILE = 99.5
"""Percentile of sigma at the upper end of the window."""


def noise_slope(sigma: NDArray[np.floating[Any]]) -> float:
    """Return the RescaleSlope of a series of noise maps from sigma of all slices, HU, any shape."""
    largest = float(sigma.max())
    return next((slope for slope in SLOPES if largest <= slope * SPAN), SLOPES[-1])


def write_noise_series(volume: Volume, sigma: NDArray[np.float32], folder: Path) -> None:
    """Write the maps of the noise of a denoised volume, as slice-0001.dcm and so on, complete or not at all.

    Args:
        volume: The denoised volume, with its derivation and the headers of its source.
        sigma: Standard deviation of the noise of its source, HU, (slices, rows, columns).
        folder: Folder to write; one that holds nothing but series that ctbasis wrote is replaced.

    Raises:
        CtbasisError: The volume was not denoised, a header cannot be written, the folder holds other files, or the disk
            is full.
    """
    if volume.derivation is None or not volume.headers:
        raise CtbasisError(
            "the volume was not denoised, or has no DICOM headers",
            expected="a volume that was read from DICOM and denoised in patch mode",
            remedy="give the volume of the result of `denoise`",
        )
    derivation, slope = volume.derivation.of_noise(), noise_slope(sigma)
    with header_errors(1):
        source = source_of(volume)
    with replacing_folders([folder]) as (partial,):
        for number, path in enumerate(slice_paths(partial, len(sigma)), start=1):
            with header_errors(number):
                header = read_header(volume.headers[number - 1])
                image = noise_instance(header, sigma[number - 1], derivation, slope, series=source, number=number)
                save(image, path, UNCOMPRESSED)


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
