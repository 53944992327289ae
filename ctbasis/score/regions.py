"""Regions of a slice: body, lung, bone and edges of anatomy, defined by the truth only.

    body    above TISSUE: soft tissue, fat and bone, without lungs and air
    lung    within LUNG: aerated lung, without airways and the air around the patient
    bone    above BONE: cortical and dense trabecular bone, calcification and contrast agent
    edges   the fraction EDGE_SHARE of body and lung with the steepest gradient
    flat    the fraction FLAT_SHARE of body and lung with the smallest gradient

The gradient is the Sobel gradient of the truth, clipped to SSIM_WINDOW and smoothed by a Gaussian of EDGE_SMOOTHING
pixels. Gradient and thresholds are those of the edge ratio in ctbasis/report/quality.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage.filters import gaussian, sobel

from ctbasis.report.quality import EDGE_SHARE, EDGE_SMOOTHING, FLAT_SHARE, LUNG, SSIM_WINDOW, TISSUE

if TYPE_CHECKING:
    from numpy.typing import NDArray

BONE = 250.0
"""HU above which a voxel of the truth is bone; no unenhanced soft tissue is above it."""


@dataclass(frozen=True)
class Regions:
    """Regions of one slice, each a mask, (rows, columns).

    Attributes:
        truth: HU, (rows, columns).
    """

    truth: NDArray[np.float64]

    @cached_property
    def body(self) -> NDArray[np.bool_]:
        """Voxels above TISSUE."""
        return np.asarray(self.truth > TISSUE)

    @cached_property
    def lung(self) -> NDArray[np.bool_]:
        """Voxels within LUNG."""
        return np.asarray((self.truth > LUNG[0]) & (self.truth < LUNG[1]))

    @cached_property
    def bone(self) -> NDArray[np.bool_]:
        """Voxels above BONE."""
        return np.asarray(self.truth > BONE)

    @cached_property
    def patient(self) -> NDArray[np.bool_]:
        """Body and lung."""
        return np.asarray(self.body | self.lung)

    @cached_property
    def gradient(self) -> NDArray[np.float64]:
        """Magnitude of the gradient, HU per pixel, (rows, columns)."""
        smooth = gaussian(np.clip(self.truth, *SSIM_WINDOW), EDGE_SMOOTHING, preserve_range=True)
        return np.asarray(sobel(smooth), np.float64)

    @cached_property
    def edges(self) -> NDArray[np.bool_]:
        """Voxels of the patient with the steepest gradient."""
        return self._of_gradient(1 - EDGE_SHARE, steep=True)

    @cached_property
    def flat(self) -> NDArray[np.bool_]:
        """Voxels of the patient with the smallest gradient."""
        return self._of_gradient(FLAT_SHARE, steep=False)

    def _of_gradient(self, quantile: float, *, steep: bool) -> NDArray[np.bool_]:
        if not self.patient.any():
            return self.patient
        limit = np.quantile(self.gradient[self.patient], quantile)
        return np.asarray(self.patient & (self.gradient >= limit if steep else self.gradient <= limit))


REGIONS = ("bone", "edges")
"""Regions whose RMSE `score` gives in addition to the regions of `ctbasis.report.quality.compare`."""


class RegionErrors:
    """Root mean square error over regions, accumulated slice by slice."""

    def __init__(self, names: tuple[str, ...] = REGIONS) -> None:
        self._sums = {name: np.zeros(2) for name in names}

    def add(self, regions: Regions, error: NDArray[Any]) -> None:
        """Add a slice of image - truth, HU, (rows, columns)."""
        for name, sums in self._sums.items():
            values = error[getattr(regions, name)]
            sums[:] += values.size, np.square(values, dtype=np.float64).sum()

    @property
    def rms(self) -> dict[str, float | None]:
        """Root mean square error by region, HU; None for a region without a voxel."""
        return {name: math.sqrt(square / count) if count else None for name, (count, square) in self._sums.items()}
