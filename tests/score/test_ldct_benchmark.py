"""Scores in the definitions of ldct-benchmark: windows, ranges, means, and the pixel-domain VIF."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from ctbasis.cli import main
from ctbasis.errors import CtbasisError
from ctbasis.score.ldct_benchmark import WINDOWS, score_ldct_benchmark, slice_scores, vif

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SPACING = (2.5, 1.0, 1.0)


def images(slices: int = 2) -> dict[str, NDArray[np.float64]]:
    """Return anatomy, the anatomy with noise, and that blurred: HU, (slices, 64, 64)."""
    rng = np.random.default_rng(0)
    truth = gaussian_filter(rng.normal(0, 3000, (slices, 64, 64)), (0, 2, 2)) - 300
    noisy = truth + rng.normal(0, 60, truth.shape)
    return {"truth": truth, "noisy": noisy, "image": gaussian_filter(noisy, (0, 0.7, 0.7))}


def reference_vif(reference: NDArray[np.float64], image: NDArray[np.float64]) -> float:
    """Compute VIF by full two-dimensional windows, for references that vary in every window."""
    kept, whole = 0.0, 0.0
    for size in (17, 9, 5, 3):
        x = np.arange(size) - size // 2
        weights = np.exp(-(x[:, None] ** 2 + x**2) / (2 * (size / 5) ** 2))

        def mean(values: NDArray[np.float64], weights: NDArray[np.float64] = weights) -> NDArray[np.float64]:
            return np.asarray(convolve2d(values, weights / weights.sum(), mode="valid"))

        if size < 17:
            reference, image = mean(reference)[::2, ::2], mean(image)[::2, ::2]
        s = mean(reference**2) - mean(reference) ** 2
        covariance = mean(reference * image) - mean(reference) * mean(image)
        v = mean(image**2) - mean(image) ** 2
        g = np.maximum(covariance / s, 0)
        rest = np.where(g > 0, v - covariance**2 / s, v)
        kept += np.log2(1 + g**2 * s / (rest + 2)).sum()
        whole += np.log2(1 + s / 2).sum()
    return kept / whole


def test_vif_is_that_of_its_definition_and_one_for_equal_images() -> None:
    hu = images()
    for name in ("noisy", "image"):
        assert vif(hu["truth"][0], hu[name][0]) == pytest.approx(reference_vif(hu["truth"][0], hu[name][0]), rel=1e-6)
    assert vif(hu["truth"][0], hu["truth"][0]) == pytest.approx(1, abs=1e-6)
    assert vif(hu["truth"][0], 0.5 * hu["truth"][0]) < 1 < vif(hu["truth"][0], 2 * hu["truth"][0])
    # Signals far below the visual noise: log(1 + a) = a, and half the contrast has a quarter of the information.
    faint = np.random.default_rng(1).normal(0, 1e-3, (64, 64))
    assert vif(faint, 0.5 * faint) == pytest.approx(0.25, rel=1e-3)


def test_a_constant_image_has_no_vif_and_a_constant_truth_has_none_of_its_information() -> None:
    hu, flat = images()["noisy"][0], np.zeros((64, 64))
    assert slice_scores(hu, flat, "chest")["vif"] is None
    assert slice_scores(flat, hu, "chest")["vif"] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("exam", list(WINDOWS))
def test_ssim_and_psnr_are_those_of_the_window_of_the_exam(exam: Any) -> None:
    truth, image = images()["truth"][0], images()["image"][0]
    center, width = WINDOWS[exam]
    # DICOM PS3.3 C.11.2.1.2.1, the linear window, in units of 1.
    shown = [np.clip((hu - (center - 0.5)) / (width - 1) + 0.5, 0, 1) for hu in (truth, image)]
    scores = slice_scores(truth, image, exam)
    assert scores["ssim"] == pytest.approx(structural_similarity(*shown, data_range=1.0))
    assert scores["psnr"] == pytest.approx(peak_signal_noise_ratio(*shown, data_range=1.0))
    clipped = [np.clip(hu, -1024, 1900) for hu in (truth, image)]
    assert scores["rmse"] == pytest.approx(math.sqrt(np.square(clipped[0] - clipped[1]).mean()))
    # The package calls VIF with the denoised image as the reference.
    assert scores["vif"] == pytest.approx(vif(clipped[1] + 1024, clipped[0] + 1024))


def test_scores_are_means_over_slices_and_the_input_stands_beside_them() -> None:
    hu = images(3)
    scores = score_ldct_benchmark(hu["truth"], hu["image"], hu["noisy"], exam="abdomen", spacing=SPACING)
    assert (scores["protocol"], scores["exam"], scores["slices"]) == ("ldct-benchmark", "abdomen", 3)
    single = hu["truth"].astype(np.float32), hu["image"].astype(np.float32)
    for key in ("ssim", "psnr", "rmse", "vif"):
        own = [slice_scores(*pair, "abdomen")[key] for pair in zip(*single, strict=True)]
        assert scores[key] == pytest.approx(np.mean(own), rel=1e-5)
    assert scores["before"]["rmse"] > scores["rmse"]
    same = score_ldct_benchmark(hu["truth"], hu["truth"], spacing=SPACING)
    assert (same["ssim"], same["psnr"], same["rmse"]) == (pytest.approx(1), None, 0)
    json.dumps(same, allow_nan=False)


def test_small_images_and_unknown_exams_are_refused() -> None:
    with pytest.raises(CtbasisError, match="at least 41 x 41"):
        score_ldct_benchmark(np.zeros((1, 40, 64)), np.zeros((1, 40, 64)), spacing=SPACING)
    with pytest.raises(CtbasisError, match="the exam is foot"):
        score_ldct_benchmark(np.zeros((1, 64, 64)), np.zeros((1, 64, 64)), exam="foot", spacing=SPACING)  # type: ignore[arg-type]


def test_the_verb_prints_the_scores_of_the_protocol(write_series: Any, tmp_path: Path) -> None:
    for name, hu in images().items():
        write_series(tmp_path / name, np.round(hu))
    folders = [word for name in ("truth", "image", "noisy") for word in (f"--{name}", str(tmp_path / name))]
    protocol = ["--protocol", "ldct-benchmark", "--exam", "neuro"]
    done = CliRunner().invoke(main, ["score", *folders, *protocol, "--out", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "score.json").read_text())
    assert json.loads(done.stdout)["exam"] == "neuro"
    refused = CliRunner().invoke(main, ["score", *folders, *protocol, "--page", str(tmp_path / "page.html")])
    assert refused.exit_code == 2
    assert "--page" in refused.output
