"""Scores against the truth, on images for which their values are known."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from ctbasis.report.quality import FIELD_OF_VIEW, LUNG, SSIM_WINDOW, TISSUE, compare, edge_ratio

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


@pytest.fixture
def truth() -> NDArray[np.float64]:
    """Return a volume of padding, air, a body and a lung in it, HU, (3, 48, 40)."""
    volume = np.full((3, 48, 40), -1000.0)
    volume[:, 8:40, 6:34] = 40.0
    volume[:, 14:34, 12:20] = -850.0
    volume[:, :3] = -3024.0
    return volume


def test_an_image_equal_to_the_truth_has_zero_error_full_similarity_and_no_psnr(truth: NDArray[np.float64]) -> None:
    quality = compare(truth, truth)
    assert (quality.rmse, quality.rmse_body, quality.rmse_lung, quality.psnr) == (0, 0, 0, None)
    assert quality.ssim == pytest.approx(1)
    assert quality.slices == 3


def test_the_rmse_of_a_constant_error_is_that_error_and_twenty_hu_are_forty_db(truth: NDArray[np.float64]) -> None:
    quality = compare(truth, truth + 20)
    assert quality.rmse == quality.rmse_body == quality.rmse_lung == pytest.approx(20)
    assert quality.psnr == pytest.approx(20 * math.log10(2000 / 20))


def test_errors_are_separated_by_the_tissue_of_the_truth_and_padding_is_not_used(
    truth: NDArray[np.float64],
) -> None:
    image = truth.copy()
    body, lung = truth > TISSUE, (truth > LUNG[0]) & (truth < LUNG[1])
    image[body] += 3
    image[lung] -= 7
    image[truth < FIELD_OF_VIEW] += 5000
    quality = compare(truth, image)
    assert quality.rmse_body == pytest.approx(3)
    assert quality.rmse_lung == pytest.approx(7)
    inside = np.count_nonzero(truth >= FIELD_OF_VIEW)
    assert quality.rmse == pytest.approx(math.sqrt((9 * body.sum() + 49 * lung.sum()) / inside))


def test_regions_are_defined_by_the_truth_and_not_by_the_image(truth: NDArray[np.float64]) -> None:
    image = np.full_like(truth, -850.0)
    assert compare(truth, image).rmse_body == pytest.approx(890)


def test_ssim_is_that_of_wang_in_the_documented_window(truth: NDArray[np.float64]) -> None:
    image = truth + np.random.default_rng(0).normal(0, 60, truth.shape)
    low, high = SSIM_WINDOW
    expected = np.mean(
        [
            structural_similarity(
                *(np.clip(values, low, high) for values in pair),
                data_range=1400,
                gaussian_weights=True,
                sigma=1.5,
                use_sample_covariance=False,
            )
            for pair in zip(truth, image, strict=True)
        ]
    )
    assert compare(truth, image).ssim == pytest.approx(expected)
    assert 0 < compare(truth, image).ssim < 0.95


def test_more_noise_worsens_every_score(truth: NDArray[np.float64]) -> None:
    noise = np.random.default_rng(1).normal(0, 1, truth.shape)
    little, much = compare(truth, truth + 20 * noise), compare(truth, truth + 80 * noise)
    assert much.rmse == pytest.approx(4 * little.rmse)
    assert little.psnr is not None
    assert much.psnr is not None
    assert much.psnr == pytest.approx(little.psnr - 20 * math.log10(4))
    assert much.ssim < little.ssim


def test_slices_may_come_from_a_generator_in_any_dtype(truth: NDArray[np.float64]) -> None:
    def slices(offset: int) -> Iterator[NDArray[np.int16]]:
        for image in truth:
            yield (image + offset).astype(np.int16)

    streamed, whole = compare(slices(0), slices(11)), compare(truth, truth + 11)
    assert streamed == whole


def test_a_difference_beyond_the_range_of_int16_does_not_overflow() -> None:
    truth = np.full((1, 16, 16), -1000, np.int16)
    assert compare(truth, np.full((1, 16, 16), 32767, np.int16)).rmse == 33767


def test_a_region_that_the_truth_lacks_has_no_score() -> None:
    quality = compare(np.full((1, 16, 16), 40.0), np.full((1, 16, 16), 41.0))
    assert quality.rmse_lung is None
    assert quality.rmse_body == 1


def test_the_scores_are_valid_json_and_include_their_windows(truth: NDArray[np.float64]) -> None:
    content = json.loads(json.dumps(compare(truth, truth + 1).to_dict()))
    assert content["rmse"] == pytest.approx(1)
    assert content["ssim_window"] == [-1000, 400]
    assert content["psnr_range"] == 2000


def test_volumes_of_different_size_are_rejected(truth: NDArray[np.float64]) -> None:
    with pytest.raises(ValueError, match="shorter"):
        compare(truth, truth[:-1])
    with pytest.raises(ValueError, match="shape"):
        compare(truth, truth[:, :-1])
    with pytest.raises(ValueError, match="nothing to compare"):
        compare([], [])
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(np.full((1, 16, 16), -3024.0), np.zeros((1, 16, 16)))


def test_removed_noise_has_an_edge_ratio_of_one(truth: NDArray[np.float64]) -> None:
    volume = np.repeat(truth, 8, axis=0)
    removed = np.random.default_rng(2).normal(0, 30, volume.shape)
    measured = edge_ratio(removed, volume)
    assert measured.ratio == pytest.approx(1, abs=0.1)
    assert measured.flat_rms == pytest.approx(30, rel=0.05)


def test_the_edge_ratio_grows_with_the_amount_of_removed_anatomy(truth: NDArray[np.float64]) -> None:
    noise = np.random.default_rng(3).normal(0, 30, truth.shape)
    anatomy = truth - gaussian_filter(truth, (0, 1.5, 1.5))
    ratios = [edge_ratio(noise + share * anatomy, truth).ratio for share in (0, 0.25, 0.5, 1)]
    assert ratios == sorted(ratios)
    assert ratios[-1] > 2


def test_the_edge_ratio_is_infinite_if_nothing_was_removed_in_flat_regions(
    truth: NDArray[np.float64],
) -> None:
    removed = np.where(np.abs(truth - gaussian_filter(truth, (0, 1, 1))) > 100, truth, 0.0)
    assert edge_ratio(removed, truth).ratio == math.inf


def test_an_edge_ratio_without_a_body_is_rejected() -> None:
    air = np.full((2, 16, 16), -1000.0)
    with pytest.raises(ValueError, match="nothing to measure"):
        edge_ratio(air, air)
