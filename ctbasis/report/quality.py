"""How near an image series comes to a known truth, in HU: RMSE, PSNR, SSIM, and whether anatomy was removed.

Everything runs slice by slice, so memory holds a few slices whatever the volume. Which voxel is body or lung is told
from the truth alone:

    seen   truth at least FIELD_OF_VIEW: the rest is padding and counts nowhere
    body   truth above TISSUE: soft tissue, fat and bone, without lungs and air
    lung   truth within LUNG: aerated lung, without the air around the patient and in the airways

References:
    Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error visibility to structural
        similarity", IEEE Transactions on Image Processing 13(4), 600-612, 2004.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage.filters import gaussian, sobel
from skimage.metrics import structural_similarity

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

FIELD_OF_VIEW = -1100.0
"""HU below which a voxel of the truth is padding: nothing attenuates less than air, and noise hardly reaches there."""

TISSUE = -300.0
"""HU above which a voxel of the truth is body."""

LUNG = (-950.0, -600.0)
"""HU between which a voxel of the truth is aerated lung."""

PSNR_RANGE = 2000.0
"""HU that PSNR is related to: from air to dense bone."""

SSIM_WINDOW = (-1000.0, 400.0)
"""HU to which both images are clipped for SSIM, and whose difference is its dynamic range."""

SSIM_SIGMA = 1.5
"""Pixels of the Gaussian weight of SSIM, as in Wang et al."""

EDGE_SMOOTHING = 1.0
"""Pixels of the Gaussian under which an edge is looked for, so that noise is not taken for one."""

EDGE_SHARE = 0.05
"""Share of a slice's body and lung, the voxels of the steepest gradient, that counts as anatomy edges."""

FLAT_SHARE = 0.50
"""Share of a slice's body and lung, the voxels of the least gradient, that counts as flat."""


@dataclass(frozen=True)
class Quality:
    """An image against the truth.

    Attributes:
        slices: Number of slices compared.
        rmse: HU, over all voxels seen.
        rmse_body: HU, over body; None where the truth has none.
        rmse_lung: HU, over lung; None where the truth has none.
        psnr: dB, of PSNR_RANGE over `rmse`; None where the image equals the truth.
        ssim: Mean over slices of the structural similarity in SSIM_WINDOW.
    """

    slices: int
    rmse: float
    rmse_body: float | None
    rmse_lung: float | None
    psnr: float | None
    ssim: float

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers with the windows and thresholds that they hold for, fit for JSON."""
        return {
            **asdict(self),
            "psnr_range": PSNR_RANGE,
            "ssim_window": list(SSIM_WINDOW),
            "body_above": TISSUE,
            "lung_within": list(LUNG),
        }


@dataclass(frozen=True)
class EdgeRatio:
    """The component that a method removed, on anatomy edges against flat regions.

    Attributes:
        edge_rms: HU, root mean square of what was removed on edges.
        flat_rms: HU, the same in flat regions.
    """

    edge_rms: float
    flat_rms: float

    @property
    def ratio(self) -> float:
        """`edge_rms` over `flat_rms`: near 1 where only noise was removed, well above where anatomy went with it."""
        return self.edge_rms / self.flat_rms if self.flat_rms else math.inf


def compare(truth: Iterable[NDArray[Any]], image: Iterable[NDArray[Any]]) -> Quality:
    """Compare an image series with the truth, slice by slice.

    Args:
        truth: Slices in HU, each (rows, columns), at least 11 x 11; a volume (z, y, x) will do.
        image: As many, of the same shapes.

    Raises:
        ValueError: The two differ in number or shape, there is no slice, or every voxel of the truth is padding.
    """
    errors = {"all": _MeanSquare(), "body": _MeanSquare(), "lung": _MeanSquare()}
    similarities = []
    for true, seen in _pairs(truth, image):
        inside = true >= FIELD_OF_VIEW
        difference = seen - true
        errors["all"].add(difference[inside])
        errors["body"].add(difference[true > TISSUE])
        errors["lung"].add(difference[(true > LUNG[0]) & (true < LUNG[1])])
        similarities.append(_similarity(true, seen))
    rmse = errors["all"].rms
    if rmse is None:
        raise ValueError("nothing to compare: no slice, or every voxel of the truth is padding")
    return Quality(
        slices=len(similarities),
        rmse=rmse,
        rmse_body=errors["body"].rms,
        rmse_lung=errors["lung"].rms,
        psnr=20 * math.log10(PSNR_RANGE / rmse) if rmse else None,
        ssim=float(np.mean(similarities)),
    )


def edge_ratio(removed: Iterable[NDArray[Any]], anatomy: Iterable[NDArray[Any]]) -> EdgeRatio:
    """Measure whether what was removed follows the anatomy's edges.

    In each slice the magnitude of the gradient (Sobel) of `anatomy`, clipped to SSIM_WINDOW and smoothed by a Gaussian
    of EDGE_SMOOTHING pixels, sorts the voxels of body and lung: the steepest EDGE_SHARE of them are edges, the least
    steep FLAT_SHARE are flat. Over all slices the root mean square of `removed` is taken on each: about zero, not about
    its mean, since a blurred edge is darker on its whole bright side. Air around the patient is left out, since it
    would be flat everywhere.

    Noise itself is a little stronger inside the body than at its skin, so compare with the ratio of the true noise
    where that is known.

    Args:
        removed: Noisy minus denoised, HU, slices of (rows, columns).
        anatomy: Where the edges are, HU: the truth where it is known, else the denoised image, not the noisy one, whose
            steepest voxels are noise.

    Raises:
        ValueError: The two differ in number or shape, or hold no voxel of body or lung.
    """
    edge, flat = _MeanSquare(), _MeanSquare()
    for guide, gone in _pairs(anatomy, removed):
        inside = (guide > TISSUE) | ((guide > LUNG[0]) & (guide < LUNG[1]))
        if not inside.any():
            continue
        gradient = sobel(gaussian(np.clip(guide, *SSIM_WINDOW), EDGE_SMOOTHING, preserve_range=True))[inside]
        least, most = np.quantile(gradient, [FLAT_SHARE, 1 - EDGE_SHARE])
        values = gone[inside]
        edge.add(values[gradient >= most])
        flat.add(values[gradient <= least])
    if edge.rms is None or flat.rms is None:
        raise ValueError("nothing to measure: no slice, or no voxel of body or lung")
    return EdgeRatio(edge.rms, flat.rms)


class _MeanSquare:
    """Root mean square of values that come slice by slice."""

    def __init__(self) -> None:
        self.count = 0
        self.squares = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        self.count += values.size
        self.squares += float(np.square(values).sum())

    @property
    def rms(self) -> float | None:
        return math.sqrt(self.squares / self.count) if self.count else None


def _pairs(
    first: Iterable[NDArray[Any]], second: Iterable[NDArray[Any]]
) -> Iterable[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    for one, other in zip(first, second, strict=True):
        if np.shape(one) != np.shape(other) or np.ndim(one) != 2:  # noqa: PLR2004 - a slice
            raise ValueError(
                f"slices of shape {np.shape(one)} and {np.shape(other)}, expected two alike, rows x columns"
            )
        yield np.asarray(one, np.float64), np.asarray(other, np.float64)


def _similarity(truth: NDArray[np.float64], image: NDArray[np.float64]) -> float:
    low, high = SSIM_WINDOW
    return float(
        structural_similarity(
            np.clip(truth, low, high),
            np.clip(image, low, high),
            data_range=high - low,
            gaussian_weights=True,
            sigma=SSIM_SIGMA,
            use_sample_covariance=False,
        )
    )
