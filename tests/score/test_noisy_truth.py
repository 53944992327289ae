"""`ctbasis score` against a truth with noise: the noise is noticed, and scores without its influence are given."""

from __future__ import annotations

import functools
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter

from ctbasis.cli import main
from ctbasis.errors import CtbasisError
from ctbasis.report.noisy_truth import smooth_regions
from ctbasis.report.smoothed_removal import correlation, interior, low_contrast, smoothed
from ctbasis.score.score import compare_with_truth, score_image
from ctbasis.score.score_page import render
from ctbasis.score.sure import anatomy_correlation, continued_field, sure
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.phantom import chest
from ctbasis.simulate.projection import ParallelBeam

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SPACING = (20.0, 0.75, 0.75)


@functools.cache
def scans() -> dict[str, NDArray[np.float64]]:
    """Return anatomy, a full dose of it, a low dose of the same scan, and the low dose denoised: HU, (2, 512, 512)."""
    anatomy = gaussian_filter(chest(2, 512, 512, spacing=20.0, structured=True).hu.astype(np.float64), (0, 0.8, 0.8))
    beam = ParallelBeam.around((512, 512), SPACING[1:], 300)
    n, m = (
        image_noise(anatomy.astype(np.float32), beam, Dose(photons, electronic=2.0, seed=seed))
        for photons, seed in ((1e5, 1), (5e4, 2))
    )
    noisy = anatomy + n + m
    return {
        "anatomy": anatomy,
        "full": anatomy + n,
        "noisy": noisy,
        "image": gaussian_filter(noisy, (0, 0.8, 0.8)),
        "m": m,
    }


def true_error(image: NDArray[np.float64], region: str = "soft") -> float:
    anatomy = scans()["anatomy"]
    inside = np.stack([smooth_regions(true)[region] for true in anatomy])
    return float(np.sqrt(np.square(image - anatomy)[inside].mean()))


@functools.cache
def scores() -> dict[str, Any]:
    return score_image(scans()["full"], scans()["image"], scans()["noisy"], spacing=SPACING)


def test_the_noise_of_a_truth_called_clean_is_noticed_and_measured() -> None:
    full, anatomy = scans()["full"], scans()["anatomy"]
    assert scores()["truth_noise"]["sigma_soft_hu"] == pytest.approx(true_error(full), rel=0.1)
    assert scores()["truth_noise"]["given"] is False
    assert true_error(full) == pytest.approx((full - anatomy).std(), rel=0.5)


def test_the_corrected_errors_are_those_against_the_anatomy() -> None:
    corrected = scores()["noise_corrected"]
    assert corrected["rmse_soft"] == pytest.approx(true_error(scans()["image"]), rel=0.06)
    assert corrected["rmse_body"] == pytest.approx(true_error(scans()["image"], "body"), rel=0.06)
    assert corrected["before"]["rmse_soft"] == pytest.approx(true_error(scans()["noisy"]), rel=0.06)
    # The uncorrected score is another number: the truth's own noise is in it.
    assert scores()["rmse_body"] > 1.1 * corrected["rmse_body"]


def test_a_clean_truth_has_no_corrected_errors() -> None:
    clean = score_image(scans()["anatomy"], scans()["image"], scans()["noisy"], spacing=SPACING)
    assert clean["noise_corrected"] is None
    follows = clean["removed"]["low_contrast"]
    assert follows["removed"] > follows["noise"] + 0.1, "the Gaussian removed soft anatomy"


def test_without_the_input_independent_noise_of_the_truth_is_subtracted() -> None:
    full, image = scans()["full"], scans()["anatomy"] + 10.0
    sigma = true_error(full)
    alone = score_image(full, image, spacing=SPACING, truth_noise=sigma)
    assert alone["truth_noise"] == {
        "sigma_soft_hu": sigma,
        "given": True,
        "ratio": None,
        "covariance": None,
        "weight": None,
    }
    assert alone["noise_corrected"]["rmse_soft"] == pytest.approx(10.0, rel=0.25)
    assert alone["rmse_body"] > 1.4 * alone["noise_corrected"]["rmse_body"]


def test_page_and_command_state_the_noise_of_the_truth(tmp_path: Path, write_series: Any) -> None:
    def at(ds: Any, z: int) -> None:
        ds.ImagePositionPatient = [0, 0, SPACING[0] * z]

    for name in ("full", "image", "noisy"):
        write_series(tmp_path / name, np.round(scans()[name]), edit=at, PixelSpacing=[0.75, 0.75])
    page = render(compare_with_truth(tmp_path / "full", tmp_path / "image", tmp_path / "noisy"))
    assert "The truth has noise of its own" in page
    assert "Noise-corrected" in page
    arguments = [
        "score",
        *(f"--{key}={tmp_path / name}" for key, name in (("truth", "full"), ("image", "image"), ("noisy", "noisy"))),
    ]
    result = CliRunner().invoke(main, [*arguments, "--truth-noise", "15"])
    assert result.exit_code == 0
    assert "The truth has noise of its own, about 15.0 HU" in result.stderr
    assert json.loads(result.stdout)["truth_noise"]["given"] is True
    for bad in ("-1", "much", "nan", "1e9"):
        assert CliRunner().invoke(main, [*arguments, "--truth-noise", bad]).exit_code == 2


def test_truth_and_image_of_other_geometry_are_refused() -> None:
    full = scans()["full"]
    for other in (full[:1], full[:, :256], full[:, :, :256]):
        with pytest.raises(CtbasisError, match="slices, rows and columns"):
            score_image(full, other, spacing=SPACING)


@pytest.mark.parametrize("width", [0.7, 1.5])
def test_sure_along_a_noise_field_is_the_true_error(width: float) -> None:
    full, m = scans()["full"], scans()["m"]
    n = full - scans()["anatomy"]
    inside = np.stack([smooth_regions(true)["soft"] for true in scans()["anatomy"]])
    ratio = float(np.mean(m[inside] ** 2) / np.mean(n[inside] ** 2))
    risk = sure(lambda y: gaussian_filter(y, (0, width, width)), full, m, ratio=ratio)
    assert np.sqrt(risk.squares[inside].mean()) == pytest.approx(true_error(risk.denoised), rel=0.06)


def test_sure_of_a_method_that_measures_the_noise_itself_needs_a_small_step() -> None:
    """The method removes all of the series, which is noise, unless the second run makes it find more than noise."""
    rng = np.random.default_rng(0)
    series, field = rng.normal(0, 20, (1, 256, 256)), rng.normal(0, 40, (1, 256, 256))

    def wiener(y: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(y * max(0.0, 1 - 20**2 / np.var(y)))

    risks = [sure(wiener, series, field, ratio=4.0, **step) for step in ({}, {"epsilon": 0.3})]
    assert np.mean(np.square(risks[0].denoised)) < 0.01 * 20**2
    default, large = (risk.squares.mean() / 20**2 for risk in risks)
    assert abs(default) < 0.12
    assert large > 0.4


@pytest.mark.parametrize("lags", [1, 2])
def test_sure_along_a_lone_slice_counts_the_noise_that_overlapping_slices_share(lags: int) -> None:
    slices, edge = 9, 256
    rng = np.random.default_rng(0)
    kernel = np.array([0.3, 0.9, 0.3]) if lags == 2 else np.array([0.5, 0.8])
    shared = np.correlate(kernel, kernel, "full")[len(kernel) :] / np.sum(kernel**2)

    def noise() -> NDArray[np.float64]:
        drawn = rng.normal(size=(slices + 2, edge, edge)) * (10 / np.sqrt(np.sum(kernel**2)))
        return np.sum([weight * drawn[k : k + slices] for k, weight in enumerate(kernel)], axis=0, dtype=np.float64)

    series = noise()
    lone = np.zeros_like(series)
    lone[4] = 2 * noise()[4]

    def blurred(y: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(gaussian_filter(y, (0.8, 0.6, 0.6)))

    risk = sure(blurred, series, lone, ratio=4.0, correlation=shared.tolist())
    true = float(np.sqrt(np.mean(risk.denoised[4] ** 2)))
    assert np.sqrt(risk.squares[4].mean()) == pytest.approx(true, rel=0.06)
    # As if slices were independent, an average over slices seems to remove more noise than it does.
    independent = sure(blurred, series, lone, ratio=4.0)
    assert np.sqrt(max(independent.squares[4].mean(), 0.0)) < 0.8 * true


@pytest.mark.parametrize(("width", "anatomy"), [(0.7, False), (4.0, True)])
def test_the_correlation_of_the_removed_with_anatomy_is_free_of_the_noise_of_the_series(
    width: float, anatomy: bool
) -> None:
    """A method that removes half of the noise, and one that removes the anatomy below a scale with it."""
    true, full, m = (scans()[name] for name in ("anatomy", "full", "m"))
    ratio = float(np.var(m) / np.var(full - true))

    def method(y: NDArray[Any]) -> NDArray[Any]:
        halved = true + (y - true) / 2
        return np.asarray(halved - 0.3 * (y - gaussian_filter(y, (0, width, width)))) if anatomy else halved

    risk = sure(method, full, m, ratio=ratio)
    for z in range(len(full)):
        contrast, soft = low_contrast(true[z], interior(true[z]))
        removed = smoothed(full[z] - risk.denoised[z])
        expected = correlation(removed[soft], contrast[soft])
        found = anatomy_correlation(full[z], risk.denoised[z], m[z], risk.response[z], ratio)
        assert found == pytest.approx(expected, abs=0.06)
        assert abs(expected) > 0.2 if anatomy else abs(expected) < 0.05
        shown, inside = low_contrast(full[z], interior(full[z]))
        assert correlation(removed[inside], shown[inside]) > expected + 0.03, "the series shows its noise"


def test_a_field_goes_on_in_unknown_slices_with_the_correlation_of_the_noise() -> None:
    field = np.zeros((6, 4, 4))
    field[1], field[3] = 8.0, -8.0
    assert np.array_equal(continued_field(field, []), field)
    near = continued_field(field, [0.5, 0.0])[:, 0, 0]
    assert near == pytest.approx([4, 8, 0, -8, -4, 0])
    full = np.ones((3, 4, 4))
    assert np.array_equal(continued_field(full, [0.5]), full)


def test_sure_refuses_a_field_of_another_shape_and_a_ratio_of_zero() -> None:
    full = scans()["full"]
    with pytest.raises(CtbasisError, match="shape"):
        sure(lambda y: y, full, full[:1], ratio=1.0)
    with pytest.raises(CtbasisError, match="ratio"):
        sure(lambda y: y, full, full, ratio=0.0)
