"""Scores of a series whose truth has noise of its own (ctbasis/report/noisy_truth.py has the formulas).

With the noisy input, the noise of the truth is measured against the noise that the input has in addition, and errors
are those of the twin. Without it, the noise of the truth is estimated from the truth alone (ctbasis/patch/noise_fit.py)
and must be independent of the image: then its variance is subtracted.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.patch.noise_fit import fit_slice_noise
from ctbasis.progress import progress
from ctbasis.report.noisy_truth import (
    NOTICED_SIGMA,
    REGIONS,
    FlatWindows,
    corrected_rmse,
    smooth_regions,
    twin_scores,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    Images = Callable[[], Iterator[NDArray[np.float32]]]

EXAMINED = 6
"""Number of evenly spaced slices on which the noise of a truth is estimated without a noisy input, at most."""

MEASURED = 24
"""Number of evenly spaced slices on which it is measured with one, at most."""

REACH = 4
"""Largest lag of the covariance that the estimate uses, pixels."""


def against_noisy_truth(
    images: Mapping[str, Images], slices: int, pixel_spacing: tuple[float, float], sigma: float | None
) -> dict[str, Any]:
    """Return `truth_noise` and `noise_corrected`, values for JSON.

    Args:
        images: Functions that return the slices of truth, image and, if there is one, noisy, HU, (rows, columns).
        slices: Number of slices.
        pixel_spacing: mm between rows and between columns.
        sigma: Standard deviation of the noise of the truth in soft tissue, HU, if it is known.
    """
    if "noisy" not in images:
        return _independent(images, slices, pixel_spacing, sigma)
    windows = FlatWindows()
    every = max(1, slices // MEASURED)
    for z, (truth, noisy) in enumerate(zip(images["truth"](), images["noisy"](), strict=True)):
        if z % every == every // 2:
            windows.add(truth, noisy)
    triples = zip(*(images[name]() for name in ("truth", "noisy", "image")), strict=True)
    return twin_scores(windows.measure(sigma), progress(triples, "noise of the truth", total=slices, unit="slice"))


def _independent(
    images: Mapping[str, Images], slices: int, pixel_spacing: tuple[float, float], sigma: float | None
) -> dict[str, Any]:
    """Return the scores where the noise of the truth is independent of the image."""
    every = math.ceil(slices / EXAMINED)
    sums = {region: np.zeros(2) for region in REGIONS}
    levels = []
    for z, (truth, image) in enumerate(zip(images["truth"](), images["image"](), strict=True)):
        if z % every != every // 2:
            continue
        noise = fit_slice_noise(truth, pixel_spacing, reach=REACH)
        levels.append(noise.soft_tissue_sigma)
        scale = 1.0 if sigma is None else sigma / noise.soft_tissue_sigma
        own = scale * noise.sigma_rows(0, *truth.shape)[..., 0].astype(np.float64)
        squares = np.square(image.astype(np.float64) - truth) - own**2
        for region, mask in smooth_regions(truth).items():
            sums[region] += int(np.count_nonzero(mask)), float(squares[mask].sum())
    level = float(np.median(levels)) if sigma is None else sigma
    described = {"sigma_soft_hu": level, "given": sigma is not None, "ratio": None, "covariance": None, "weight": None}
    if sigma is None and level <= NOTICED_SIGMA:
        return {"truth_noise": described, "noise_corrected": None}
    return {"truth_noise": described, "noise_corrected": corrected_rmse(sums)}
