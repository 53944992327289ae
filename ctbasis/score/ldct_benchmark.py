"""Scores as the package ldct-benchmark defines them, to place a method in its table of the Mayo data.

With x = HU + 1024 in a slice, for the exam chest, abdomen or neuro with its window (center, width),

    w(x)   = clip((x - (center - 1/2)) / (width - 1) + 1/2, 0, 1)           DICOM's linear window, in units of 1
    SSIM   = of w(reference) and w(image), uniform window of 7 x 7 pixels, data range 1 (Wang et al.)
    PSNR   = -10 log10 mean (w(image) - w(reference))^2                     dB
    RMSE   = of x, clipped to 0 ... 2924                                    HU
    VIF    = of x, clipped to 0 ... 2924, pixel domain, four scales, noise variance 2 (Sheikh and Bovik)

Each is the mean over all slices; the reference is the full dose. ldct-benchmark calls the function of VIF with its two
images in exchanged places: the denoised image is what VIF calls the reference. The same is done here, so that numbers
compare; `vif` itself has the usual order. ldct-benchmark computes in single precision, which changes its VIF by up to
3e-5 of its value; SSIM, PSNR and RMSE by less. It has no number (NaN) where this module has None.

References:
    E. Eulig, B. Ommer, M. Kachelriess, "Benchmarking deep learning-based low-dose CT image denoising algorithms", Med.
        Phys. 51(12), 8776-8788, 2024, and the package ldct-benchmark (ldctbench.evaluate.utils).
    H. R. Sheikh, A. C. Bovik, "Image information and visual quality", IEEE Trans. Image Process. 15(2), 430-444, 2006.
    Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error visibility to structural
        similarity", IEEE Trans. Image Process. 13(4), 600-612, 2004.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from scipy.ndimage import correlate1d
from skimage.metrics import structural_similarity

from ctbasis.errors import CtbasisError
from ctbasis.progress import progress
from ctbasis.score.slices import images_of, opened

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.matrix.read import ImageLike

Exam: TypeAlias = Literal["chest", "abdomen", "neuro"]
"""Exams of the Mayo data."""

WINDOWS: dict[str, tuple[float, float]] = {"chest": (-600.0, 1500.0), "abdomen": (50.0, 400.0), "neuro": (40.0, 80.0)}
"""Center and width in HU of the window of every exam."""

OFFSET, MOST = 1024.0, 2924.0
"""x - HU, and the largest x: bone of 1900 HU."""

VIF_NOISE, VIF_SCALES, VIF_SMALLEST = 2.0, 4, 41
"""Variance of the visual noise, number of scales, and smallest edge of an image in pixels."""

TINY = 1e-10
"""Variance that counts as 0."""


def score_ldct_benchmark(
    truth: ImageLike,
    image: ImageLike,
    noisy: ImageLike | None = None,
    *,
    exam: Exam = "chest",
    spacing: tuple[float, float, float] | None = None,
) -> dict[str, Any]:
    """Score a series against its full dose: `ctbasis score --protocol ldct-benchmark`.

    Args:
        truth: The full dose: a volume, an array of HU (slices, rows, columns), or the folder or URI of a series.
        image: The denoised low dose, of the same geometry.
        noisy: The low dose, to score it too.
        exam: Whose window is applied.
        spacing: mm between slices, rows and columns, for volumes given as arrays.

    Returns:
        protocol, exam, slices, ssim, psnr (dB; None where a slice equals its reference), rmse (HU) and vif (None where
        the scored slice is constant), means over slices; with `noisy` also before, its scores.

    Raises:
        CtbasisError: The exam is unknown, the geometries differ, or images are smaller than VIF_SMALLEST.
    """
    if exam not in WINDOWS:
        raise CtbasisError(f"the exam is {exam}", expected=", ".join(WINDOWS))
    images = {"truth": truth, "image": image} | ({} if noisy is None else {"noisy": noisy})
    with opened(images, spacing) as slices:
        if min(slices["truth"].image) < VIF_SMALLEST:
            raise CtbasisError(
                f"the images have {slices['truth'].image[0]} x {slices['truth'].image[1]} pixels",
                expected=f"at least {VIF_SMALLEST} x {VIF_SMALLEST}, which the scales of VIF need",
            )
        names, scores = list(images)[1:], []
        stacked = zip(*(images_of(slices[name]) for name in images), strict=True)
        for reference, *others in progress(stacked, "score", total=slices["truth"].cols, unit="slice"):
            scores.append([slice_scores(reference, other, exam) for other in others])
    means = [
        {key: _mean([row[number][key] for row in scores]) for key in scores[0][number]} for number in range(len(names))
    ]
    before = {"before": means[1]} if noisy is not None else {}
    return {"protocol": "ldct-benchmark", "exam": exam, "slices": len(scores), **means[0], **before}


def slice_scores(reference: NDArray[Any], image: NDArray[Any], exam: Exam) -> dict[str, float | None]:
    """Return ssim, psnr, rmse and vif of one slice.

    Args:
        reference: Full dose, HU, (rows, columns).
        image: The image to score, HU, (rows, columns).
        exam: Whose window is applied.
    """
    x, y = (np.asarray(hu, np.float64) + OFFSET for hu in (reference, image))
    center, width = WINDOWS[exam]
    windowed = [np.clip((one - (center + OFFSET - 0.5)) / (width - 1) + 0.5, 0, 1) for one in (x, y)]
    squared = float(np.square(windowed[0] - windowed[1]).mean())
    clipped = [np.clip(one, 0, MOST) for one in (x, y)]
    # In exchanged places, as ldct-benchmark has it.
    fidelity = vif(clipped[1], clipped[0])
    return {
        "ssim": float(structural_similarity(*windowed, data_range=1.0)),
        "psnr": -10 * math.log10(squared) if squared else None,
        "rmse": math.sqrt(float(np.square(clipped[0] - clipped[1]).mean())),
        "vif": None if math.isnan(fidelity) else fidelity,
    }


def vif(reference: NDArray[np.float64], image: NDArray[np.float64]) -> float:
    """Return the visual information fidelity in the pixel domain.

    In Gaussian windows of 17, 9, 5 and 3 pixels on images that are halved from scale to scale, the image is taken as
    g reference + v. With the variance s of the reference in a window,

        VIF = sum log(1 + g^2 s / (var v + VIF_NOISE)) / sum log(1 + s / VIF_NOISE)

    It is NaN for a constant reference, which has no information.

    Args:
        reference: (rows, columns), at least VIF_SMALLEST.
        image: (rows, columns).
    """
    kept, whole = 0.0, 0.0
    for scale in range(VIF_SCALES):
        size = 2 ** (VIF_SCALES - scale) + 1
        if scale:
            reference, image = (_windowed(one, size)[::2, ::2] for one in (reference, image))
        mean, mean_image = _windowed(reference, size), _windowed(image, size)
        s = np.maximum(_windowed(reference**2, size) - mean**2, 0)
        s_image = np.maximum(_windowed(image**2, size) - mean_image**2, 0)
        covariance = _windowed(reference * image, size) - mean * mean_image
        g = covariance / (s + TINY)
        v = s_image - g * covariance
        # Without variance in the reference, or against its direction, nothing of the image is information.
        empty = s < TINY
        g, v, s = np.where(empty, 0, g), np.where(empty, s_image, v), np.where(empty, 0, s)
        empty = s_image < TINY
        g, v = np.where(empty, 0, g), np.where(empty, 0, v)
        v = np.maximum(np.where(g < 0, s_image, v), TINY)
        g = np.maximum(g, 0)
        kept += float(np.log10(1 + g**2 * s / (v + VIF_NOISE)).sum())
        whole += float(np.log10(1 + s / VIF_NOISE).sum())
    return kept / whole if whole else math.nan


def _windowed(image: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """Return means in Gaussian windows of `size` pixels and a standard deviation of a fifth of it, without borders."""
    offset = np.arange(size) - (size - 1) / 2
    weights = np.exp(-(offset**2) / (2 * (size / 5) ** 2))
    weights /= weights.sum()
    means = correlate1d(correlate1d(image, weights, axis=0), weights, axis=1)
    border = size // 2
    return np.asarray(means[border : image.shape[0] - border, border : image.shape[1] - border])


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
