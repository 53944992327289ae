"""Image quality against a known truth, in HU: RMSE, PSNR and SSIM, and whether anatomy was removed.

All measures are computed slice by slice, so memory holds a few slices only. The truth alone decides the region of a
voxel:

    field of view   truth at least FIELD_OF_VIEW; the other voxels are padding and are not used
    body            truth above TISSUE: soft tissue, fat and bone, without lungs and air
    lung            truth within LUNG: aerated lung, without the air around the patient and in the airways

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
"""HU below which a voxel of the truth is padding: nothing attenuates less than air, and noise hardly goes so low."""

TISSUE = -300.0
"""HU above which a voxel of the truth is body."""

LUNG = (-950.0, -600.0)
"""HU between which a voxel of the truth is aerated lung."""

PSNR_RANGE = 2000.0
"""Peak value of PSNR in HU: the range from air to dense bone."""

SSIM_WINDOW = (-1000.0, 400.0)
"""HU to which both images are clipped for SSIM. The width of the window is the dynamic range of SSIM."""

SSIM_SIGMA = 1.5
"""Standard deviation in pixels of the Gaussian window of SSIM, as in Wang et al."""

EDGE_SMOOTHING = 1.0
"""Standard deviation in pixels of the Gaussian filter before edge detection, so that noise is not detected."""

EDGE_SHARE = 0.05
"""Fraction of the voxels of body and lung in a slice, those with the steepest gradient, that are edges of anatomy."""

FLAT_SHARE = 0.50
"""Fraction of the voxels of body and lung in a slice, those with the smallest gradient, that are flat regions."""

ANATOMY_REMOVED = 1.5
"""Edge ratio from which the report warns that anatomy was removed: noise alone measures 1.0 to 1.1."""


@dataclass(frozen=True)
class Quality:
    """Scores of an image against the truth.

    Attributes:
        slices: Number of slices compared.
        rmse: Root mean square error over the field of view, HU.
        rmse_body: The same over the body; None where the truth has no body.
        rmse_lung: The same over the lung; None where the truth has no lung.
        psnr: Peak signal-to-noise ratio, PSNR_RANGE over `rmse`, in dB; None where the image equals the truth.
        ssim: Structural similarity in SSIM_WINDOW, averaged over slices.
    """

    slices: int
    rmse: float
    rmse_body: float | None
    rmse_lung: float | None
    psnr: float | None
    ssim: float

    def to_dict(self) -> dict[str, Any]:
        """Return the scores, with the windows and thresholds that define them, in a form fit for JSON."""
        return {
            **asdict(self),
            "psnr_range": PSNR_RANGE,
            "ssim_window": list(SSIM_WINDOW),
            "body_above": TISSUE,
            "lung_within": list(LUNG),
        }


@dataclass(frozen=True)
class EdgeRatio:
    """Strength of the removed component on edges of anatomy and in flat regions.

    Attributes:
        edge_rms: Root mean square of the removed component on edges, HU.
        flat_rms: Root mean square of the removed component in flat regions, HU.
    """

    edge_rms: float
    flat_rms: float

    @property
    def ratio(self) -> float:
        """`edge_rms` / `flat_rms`: near 1 if only noise was removed, well above 1 if anatomy was removed too."""
        return self.edge_rms / self.flat_rms if self.flat_rms else math.inf


def compare(truth: Iterable[NDArray[Any]], image: Iterable[NDArray[Any]]) -> Quality:
    """Compare an image series with the truth, slice by slice.

    Args:
        truth: Slices in HU, each (rows, columns), at least 11 x 11; for example a volume (slices, rows, columns).
        image: The same number of slices with the same shapes.

    Raises:
        ValueError: Number or shape of slices differ, there is no slice, or every voxel of the truth is padding.
    """
    errors = {"all": _MeanSquare(), "body": _MeanSquare(), "lung": _MeanSquare()}
    similarities = []
    for true, measured in _pairs(truth, image):
        inside = true >= FIELD_OF_VIEW
        difference = measured - true
        errors["all"].add(difference[inside])
        errors["body"].add(difference[true > TISSUE])
        errors["lung"].add(difference[(true > LUNG[0]) & (true < LUNG[1])])
        similarities.append(_similarity(true, measured))
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
    """Measure whether the removed component follows the edges of anatomy.

    In each slice, `anatomy` is clipped to SSIM_WINDOW and smoothed by a Gaussian filter of EDGE_SMOOTHING pixels. The
    voxels of body and lung are ranked by the magnitude of its gradient (Sobel): the EDGE_SHARE with the steepest
    gradient are edges, the FLAT_SHARE with the smallest are flat. The root mean square of `removed` is computed over
    the edges and over the flat voxels of all slices. It is taken about zero, not about the mean, because a blurred edge
    is darker on its whole bright side. Air around the patient is excluded, because it would be flat everywhere.

    Noise is slightly stronger inside the body than at the skin. Where the true noise is known, compare with its ratio.

    Args:
        removed: Noisy minus denoised image, HU, slices of (rows, columns).
        anatomy: Image whose edges are used, HU: the truth where it is known, else the denoised image. In the noisy
            image, the steepest voxels are noise.

    Raises:
        ValueError: Number or shape of slices differ, or there is no voxel of body or lung.
    """
    edge, flat = _MeanSquare(), _MeanSquare()
    for image, difference in _pairs(anatomy, removed):
        inside = (image > TISSUE) | ((image > LUNG[0]) & (image < LUNG[1]))
        if not inside.any():
            continue
        gradient = sobel(gaussian(np.clip(image, *SSIM_WINDOW), EDGE_SMOOTHING, preserve_range=True))[inside]
        least, most = np.quantile(gradient, [FLAT_SHARE, 1 - EDGE_SHARE])
        values = difference[inside]
        edge.add(values[gradient >= most])
        flat.add(values[gradient <= least])
    if edge.rms is None or flat.rms is None:
        raise ValueError("nothing to measure: no slice, or no voxel of body or lung")
    return EdgeRatio(edge.rms, flat.rms)


def finite_edge_ratio(removed: Iterable[NDArray[Any]], anatomy: Iterable[NDArray[Any]]) -> float | None:
    """Return the ratio of `edge_ratio`; None if there is no body in the slices, or nothing was removed from it."""
    try:
        ratio = edge_ratio(removed, anatomy).ratio
    except ValueError:
        return None
    return ratio if math.isfinite(ratio) else None


class _MeanSquare:
    """Accumulator of the root mean square of values that arrive slice by slice."""

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
                f"slices of shape {np.shape(one)} and {np.shape(other)}, expected two equal shapes (rows, columns)"
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
