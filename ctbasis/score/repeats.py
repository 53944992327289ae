"""Scores without a truth, from two scans of the same anatomy with independent noise: repeats.

Scan A = t + n_A is denoised to x; scan B = t + n_B shows the same anatomy t with independent noise of the same
strength. In a region,

    error^2  = mean (x - B)^2 - mean (A - B)^2 / 2             of x against the anatomy without noise
    noise^2  = mean (A - B)^2 / 2                              of a scan

because the noise of B is independent of x and has half the variance of A - B. With y, the denoised scan B,

    error^2     = [mean (x - B)^2 + mean (y - A)^2] / 2 - mean (A - B)^2 / 2
    remaining^2 = mean (x - y)^2 / 2                           noise that is left
    bias^2      = error^2 - remaining^2                        anatomy that is lost or changed

The patient must not have moved. For a full-dose scan and low dose that is inserted into it, whose noise is shared, see
ctbasis/score/noisy_truth.py.

References:
    H. H. Barrett, K. J. Myers, "Foundations of Image Science", Wiley, 2004, chapter 14 (bias and variance).
    E. Samei et al., "Performance evaluation of computed tomography systems: summary of AAPM Task Group 233", Med. Phys.
        46(11), e735-e756, 2019 (noise power from repeated scans).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.progress import progress
from ctbasis.report.noisy_truth import FEWEST_VOXELS, REGIONS, smooth_regions
from ctbasis.score.noise_power import NoisePower
from ctbasis.score.slices import images_of, opened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from ctbasis.matrix.read import ImageLike


def score_repeats(
    image: ImageLike,
    noisy: ImageLike,
    repeat: ImageLike,
    image_repeat: ImageLike | None = None,
    *,
    spacing: tuple[float, float, float] | None = None,
) -> dict[str, Any]:
    """Score a denoised scan against a repetition of the scan: `ctbasis score --repeat`.

    Args:
        image: The denoised scan x: a volume, an array of HU (slices, rows, columns), or the folder or URI of a series.
        noisy: The scan A that was denoised, of the same geometry.
        repeat: The other scan B.
        image_repeat: The denoised other scan y, to divide the error into noise and bias.
        spacing: mm between slices, rows and columns, for volumes given as arrays.

    Returns:
        slices; noise, error and relative (error over noise) by region (body, soft, lung, edges), HU, None for a region
        with few voxels; nps of the noise of a scan; with `image_repeat` also remaining and bias by region, and
        nps_remaining. A difference that noise made negative counts as 0.

    Raises:
        CtbasisError: The geometries differ, images are too small, or a series cannot be read.
    """
    images = {"repeat": repeat, "image": image, "noisy": noisy}
    if image_repeat is not None:
        images["image_repeat"] = image_repeat
    with opened(images, spacing) as slices:
        spacings = slices["repeat"].series[0].pixel_spacing
        sums = {region: np.zeros(5) for region in REGIONS}
        power = {"nps": NoisePower(spacings), "nps_remaining": NoisePower(spacings)}
        stacked = zip(*(images_of(slices[name]) for name in images), strict=True)
        count = slices["repeat"].cols
        for hu in progress(stacked, "score", total=count, unit="slice"):
            B, x, A, *y = (one.astype(np.float64) for one in hu)
            # The mean of both scans decides the regions, so that the noise of neither does.
            regions = smooth_regions((A + B) / 2)
            power["nps"].add((A - B) / math.sqrt(2), regions["body"])
            squares = [np.ones_like(B), (x - B) ** 2, (A - B) ** 2]
            if y:
                power["nps_remaining"].add((x - y[0]) / math.sqrt(2), regions["body"])
                squares += [(y[0] - A) ** 2, (x - y[0]) ** 2]
            for region, mask in regions.items():
                sums[region][: len(squares)] += [float(square[mask].sum()) for square in squares]
    both = image_repeat is not None
    return {
        "slices": count,
        **_by_region(sums, both=both),
        **{name: one.to_dict() for name, one in power.items() if both or name == "nps"},
    }


def _by_region(sums: Mapping[str, NDArray[np.float64]], *, both: bool) -> dict[str, dict[str, float | None]]:
    names = ("noise", "error", "relative", *(("remaining", "bias") if both else ()))
    scores: dict[str, dict[str, float | None]] = {name: {} for name in names}
    for region, values in sums.items():
        if values[0] < FEWEST_VOXELS:
            for by_region in scores.values():
                by_region[region] = None
            continue
        of_x, difference, of_y, between = (values[1:] / values[0]).tolist()
        noise = difference / 2
        error = (0.5 * (of_x + of_y) if both else of_x) - noise
        remaining = between / 2
        squares = {"noise": noise, "error": error, "remaining": remaining, "bias": error - remaining}
        squares["relative"] = error / noise if noise else math.nan
        for name, by_region in scores.items():
            known = math.isfinite(squares[name])
            by_region[region] = math.sqrt(max(squares[name], 0)) if known else None
    return scores
