"""Anatomy in the component that a method removed: its correlation with the truth, compared with that of pure noise.

The removed component is r = noisy - image. Over body and lung of every slice, with the truth t and Pearson's
correlation rho,

    with_truth     rho(r, t)                   the grey scale changed
    with_gradient  rho(|r|, |grad t|)          more was removed at edges
    with_detail    rho(r, t - Gaussian(t))     edges became softer, as by a blur

For pure noise rho is near zero but not zero, because noise is correlated between voxels and stronger along dense paths.
Each number is therefore also given for the true noise (noisy - truth), and the difference is tested over slices:

    z = mean(rho_removed - rho_noise) / (standard deviation of it over slices / sqrt(slices))

Noise gives |z| up to 3. Slices of one patient are not independent, so a much larger |z| shows that anatomy was removed,
but its exact value means little. Sign and measure show how the anatomy changed; see also the edge ratio in
ctbasis/report/quality.py.

References:
    A. Buades, B. Coll, J. M. Morel, "A review of image denoising algorithms, with a new one", Multiscale Model. Simul.
        4(2), 490-530, 2005 (method noise: the difference should look like noise).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.ndimage import gaussian_filter

from ctbasis.report.quality import SSIM_WINDOW
from ctbasis.report.smoothed_removal import correlation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.score.regions import Regions

DETAIL = 1.0
"""Standard deviation, in pixels, of the Gaussian that separates detail from the rest."""

MEASURES = ("with_truth", "with_gradient", "with_detail")
"""Names of the correlations."""

FEWEST = 100
"""Smallest number of body and lung voxels for which a slice is counted; unchanged slices are not counted either."""


class StructureContent:
    """Correlations of the removed component with anatomy, collected slice by slice."""

    def __init__(self) -> None:
        self._correlations: dict[str, list[tuple[float, float]]] = {name: [] for name in MEASURES}

    def add(self, regions: Regions, removed: NDArray[Any], noise: NDArray[Any]) -> None:
        """Add a slice.

        Args:
            regions: Regions of the truth.
            removed: noisy - image, HU.
            noise: noisy - truth, HU.
        """
        inside = regions.patient
        if np.count_nonzero(inside) < FEWEST or not np.ptp(removed[inside]):
            return
        truth = np.clip(regions.truth, *SSIM_WINDOW)
        patterns = {
            "with_truth": truth[inside],
            "with_gradient": regions.gradient[inside],
            "with_detail": (truth - gaussian_filter(truth, DETAIL))[inside],
        }
        for name, pattern in patterns.items():
            values = [component[inside] for component in (removed, noise)]
            if name == "with_gradient":
                values = [np.abs(entry) for entry in values]
            self._correlations[name].append((correlation(values[0], pattern), correlation(values[1], pattern)))

    def to_dict(self) -> dict[str, Any]:
        """Return removed, noise and z of every correlation; None if no slice was counted."""
        return {name: _tested(np.array(pairs)) for name, pairs in self._correlations.items()}


def _tested(pairs: NDArray[np.float64]) -> dict[str, float | None]:
    if not len(pairs):
        return {"removed": None, "noise": None, "z": None}
    removed, noise = pairs.mean(axis=0).tolist()
    difference = pairs[:, 0] - pairs[:, 1]
    error = float(difference.std(ddof=1)) / math.sqrt(len(pairs)) if len(pairs) > 1 else 0.0
    return {"removed": removed, "noise": noise, "z": float(difference.mean()) / error if error > 0 else None}
