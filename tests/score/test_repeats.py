"""Two scans of the same anatomy give the true error of a method, its noise and its bias, without a truth."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter

from ctbasis.cli import main
from ctbasis.report.noisy_truth import smooth_regions
from ctbasis.score.repeats import score_repeats
from ctbasis.simulate.phantom import chest

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SIGMA = 30.0
SPACING = (4.0, 1.5, 1.5)


def blurred(volume: NDArray[np.float64], pixels: float = 1.0) -> NDArray[np.float64]:
    return np.asarray(gaussian_filter(volume, (0, pixels, pixels)))


@pytest.fixture(scope="module")
def scans() -> dict[str, NDArray[np.float64]]:
    """Return the anatomy, two scans of it, and both blurred."""
    truth = blurred(chest(4, 256, 256, spacing=4.0).hu.astype(np.float64))
    rng = np.random.default_rng(0)
    noisy, repeat = (truth + rng.normal(0, SIGMA, truth.shape) for _ in range(2))
    named = {"truth": truth, "noisy": noisy, "repeat": repeat}
    return {**named, "image": blurred(noisy), "image_repeat": blurred(repeat)}


def test_error_noise_and_bias_are_the_true_ones(scans: dict[str, NDArray[np.float64]]) -> None:
    names = ("image", "noisy", "repeat", "image_repeat")
    scores = score_repeats(*(scans[name] for name in names), spacing=SPACING)
    # White noise of standard deviation s blurred by b pixels has s / (2 b sqrt(pi)).
    left = SIGMA / (2 * math.sqrt(math.pi))
    for region in ("body", "soft", "lung", "edges"):
        masks = [smooth_regions(image)[region] for image in scans["truth"]]
        values = [(x - t)[mask] for x, t, mask in zip(scans["image"], scans["truth"], masks, strict=True)]
        error = math.sqrt(np.square(np.concatenate(values)).mean())
        changed = [(x - t)[mask] for x, t, mask in zip(blurred(scans["truth"]), scans["truth"], masks, strict=True)]
        bias = math.sqrt(np.square(np.concatenate(changed)).mean())
        assert scores["noise"][region] == pytest.approx(SIGMA, rel=0.03)
        assert scores["remaining"][region] == pytest.approx(left, rel=0.05)
        assert scores["error"][region] == pytest.approx(error, rel=0.05)
        assert scores["relative"][region] == pytest.approx(error / SIGMA, rel=0.06)
        assert scores["bias"][region] == pytest.approx(bias, rel=0.1, abs=3)
    assert scores["nps"]["std"] == pytest.approx(SIGMA, rel=0.03)
    assert scores["nps_remaining"]["mean_frequency"] < 0.8 * scores["nps"]["mean_frequency"]


def test_one_denoised_scan_gives_the_error_alone(scans: dict[str, NDArray[np.float64]]) -> None:
    scores = score_repeats(*(scans[name] for name in ("image", "noisy", "repeat")), spacing=SPACING)
    assert set(scores) == {"slices", "noise", "error", "relative", "nps"}
    both = score_repeats(*(scans[name] for name in ("image", "noisy", "repeat", "image_repeat")), spacing=SPACING)
    assert scores["error"]["body"] == pytest.approx(both["error"]["body"], rel=0.05)
    # A method that returns its input has the error of the noise, and the other scan would have none of it.
    same = score_repeats(scans["noisy"], scans["noisy"], scans["repeat"], spacing=SPACING)
    assert same["relative"]["body"] == pytest.approx(1, abs=0.02)
    empty = score_repeats(*(np.full((1, 64, 64), -1000.0) for _ in range(3)), spacing=SPACING)
    assert empty["error"]["body"] is None
    json.dumps(empty, allow_nan=False)


def test_the_verb_takes_a_repeat_instead_of_a_truth(
    scans: dict[str, NDArray[np.float64]], write_series: Any, tmp_path: Path
) -> None:
    for name, hu in scans.items():
        write_series(tmp_path / name, np.round(hu[:2]), PixelSpacing=[1.5, 1.5])
    given = {option: f"--{option.replace('_', '-')}={tmp_path / option}" for option in scans}
    repeats = [given[name] for name in ("image", "noisy", "repeat", "image_repeat")]
    done = CliRunner().invoke(main, ["score", *repeats])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["remaining"]["body"] == pytest.approx(SIGMA / (2 * math.sqrt(math.pi)), rel=0.1)
    for wrong in (
        [given["image"]],
        [given["image"], given["truth"], given["repeat"]],
        [given["image"], given["repeat"]],
        [given["image"], given["truth"], given["image_repeat"]],
        [*repeats, "--protocol=ldct-benchmark"],
        [*repeats, f"--page={tmp_path / 'page.html'}"],
    ):
        refused = CliRunner().invoke(main, ["score", *wrong])
        assert refused.exit_code == 2, refused.output
