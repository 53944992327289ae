"""Whether what a method removed holds anatomy: its correlation with the truth, against what noise alone gives.

Removed is r = noisy - image. Over body and lung of every slice, with t the truth and rho Pearson's correlation,

    with_truth     rho(r, t)                   a change of grey scale
    with_gradient  rho(|r|, |grad t|)          more removed where there are edges
    with_detail    rho(r, t - Gaussian(t))     edges made softer: what a blur removes

Noise alone has rho near zero, but not zero: it is correlated from voxel to voxel, and stronger behind dense paths. So
where the true noise is known (noisy - truth) each number is given for it as well, and the difference is tested slice by
slice:

    z = mean(rho_removed - rho_noise) / (standard deviation of it over slices / sqrt(slices))

A |z| up to 3 is what noise gives; slices of one patient are alike, so take a much larger one for what it is and not for
its digits. Together with the edge ratio (ctbasis/report/quality.py) it says that anatomy went, and by its sign and
kind, how.

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

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.score.regions import Regions

DETAIL = 1.0
"""Pixels of the Gaussian that detail is finer than."""

MEASURES = ("with_truth", "with_gradient", "with_detail")

FEWEST = 100
"""Voxels of body and lung without which a slice has no say; one from which nothing was removed has none either."""


class StructureContent:
    """The correlations, slice by slice."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[float, float]]] = {name: [] for name in MEASURES}

    def add(self, regions: Regions, removed: NDArray[Any], noise: NDArray[Any]) -> None:
        """Take a slice.

        Args:
            regions: Of the truth.
            removed: noisy - image, HU.
            noise: noisy - truth, HU.
        """
        inside = regions.patient
        if np.count_nonzero(inside) < FEWEST or not np.ptp(removed[inside]):
            return
        truth = np.clip(regions.truth, *SSIM_WINDOW)
        guides = {
            "with_truth": truth[inside],
            "with_gradient": regions.gradient[inside],
            "with_detail": (truth - gaussian_filter(truth, DETAIL))[inside],
        }
        for name, guide in guides.items():
            values = [component[inside] for component in (removed, noise)]
            if name == "with_gradient":
                values = [np.abs(entry) for entry in values]
            self._found[name].append((correlation(values[0], guide), correlation(values[1], guide)))

    def to_dict(self) -> dict[str, Any]:
        """Return of every measure: removed, noise, z; None where nothing was measured."""
        return {name: _tested(np.array(pairs)) for name, pairs in self._found.items()}


def correlation(one: NDArray[Any], other: NDArray[Any]) -> float:
    """Return Pearson's correlation; 0 where one of the two is constant."""
    x, y = (np.asarray(values, np.float64) - np.mean(values, dtype=np.float64) for values in (one, other))
    power = float(x @ x) * float(y @ y)
    return float(x @ y) / math.sqrt(power) if power > 0 else 0.0


def _tested(pairs: NDArray[np.float64]) -> dict[str, float | None]:
    if not len(pairs):
        return {"removed": None, "noise": None, "z": None}
    removed, noise = pairs.mean(axis=0).tolist()
    difference = pairs[:, 0] - pairs[:, 1]
    error = float(difference.std(ddof=1)) / math.sqrt(len(pairs)) if len(pairs) > 1 else 0.0
    return {"removed": removed, "noise": noise, "z": float(difference.mean()) / error if error > 0 else None}
