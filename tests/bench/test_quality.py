"""Peers get the true noise, are tuned on another case, and are reported if they are not installed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ctbasis.bench.denoisers import METHODS, PEERS, Denoiser, global_modes
from ctbasis.bench.quality import bench_quality, measure, scores, tuned
from ctbasis.bench.quality_cases import (
    Case,
    QualitySettings,
    Truth,
    crop_to_patient,
    make_case,
    phantom_truth,
    read_truth,
)
from ctbasis.bench.quality_page import write_quality_page
from ctbasis.bench.run import BENCHES, COLUMNS, table
from ctbasis.cli import main
from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

LEVEL = 40.0
FAST = QualitySettings(slices=2, levels=(LEVEL,), kernels=("hann",), methods=("gaussian", "tv", "global", "bm3d"))


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    truths = [phantom_truth(seed, edge=160, slices=10) for seed in (0, 1)]
    return [make_case(truth, "native", "hann", LEVEL, FAST) for truth in truths]


def test_the_noise_has_the_requested_level_and_peers_get_its_true_values(cases: list[Case]) -> None:
    case = cases[0]
    assert case.row["noise_body"] == pytest.approx(LEVEL, rel=0.15)
    noise = (case.noisy.scored_slices - case.scored_truth)[case.scored_truth > -300]
    assert case.noisy.sigma == pytest.approx(noise.std(), rel=0.25)
    assert case.noisy.power.mean() == pytest.approx(case.noisy.sigma**2)
    assert case.noisy.power.shape == case.scored_truth.shape[1:]
    # Reconstructed noise has little power near frequency zero and most at medium frequencies.
    power, edge = case.noisy.power, case.noisy.power.shape[1]
    assert power[0, : edge // 40].mean() < 0.5 * power[0, edge // 8 : edge // 4].mean()


def test_the_noise_of_a_truth_is_measured_on_all_its_slices_and_taken_off_two_scored_ones() -> None:
    clean = make_case(phantom_truth(0, edge=256, slices=40), "native", "hann", LEVEL, FAST)
    # The inserted noise of the next slice has the same spectrum, and is independent.
    own = np.float32(0.5) * np.roll(clean.noisy.hu - clean.truth, 1, axis=0)
    case = replace(clean, truth=clean.truth + own, noisy=replace(clean.noisy, hu=clean.noisy.hu + own))
    assert case.truth_noise is not None
    assert case.truth_noise.ratio == pytest.approx(4, rel=0.25)
    anatomy = clean.scored_truth
    row = scores(case, anatomy, case.noisy.scored_slices - anatomy)
    assert row["rmse_body"] == pytest.approx(0.5 * LEVEL, rel=0.25)
    assert row["rmse_body_corrected"] < 0.4 * row["rmse_body"]


def test_what_a_method_makes_of_the_air_around_the_patient_changes_no_score(cases: list[Case]) -> None:
    case = cases[0]
    image = case.scored_truth + np.float32(5)
    air = ~case.patient
    assert 0.1 < air.mean() < 0.9
    with_noise = np.where(air, case.noisy.scored_slices, image)
    removed = case.noisy.scored_slices - image
    assert scores(case, with_noise, removed) == scores(case, image, removed)


def test_binned_pixels_are_twice_as_wide_and_the_crop_keeps_the_patient() -> None:
    truth = Truth("made", np.full((2, 96, 128), -1000, np.float32), (2.5, 1.0, 0.5))
    truth.hu[:, 30:60, 40:90] = 40
    cropped = crop_to_patient(truth)
    assert cropped.hu.shape == (2, 64, 96)
    assert (cropped.hu == 40).sum() == 2 * 30 * 50
    binned = cropped.binned()
    assert binned.hu.shape == (2, 32, 48)
    assert binned.spacing == (2.5, 2.0, 1.0)
    assert binned.hu.mean() == pytest.approx(cropped.hu.mean())
    with pytest.raises(CtbasisError, match="shows no tissue"):
        crop_to_patient(replace(truth, hu=np.full((2, 64, 64), -1000, np.float32)))


def test_a_setting_is_chosen_by_the_error_on_the_other_case_only(cases: list[Case]) -> None:
    case, other = cases
    calls: list[tuple[bool, float]] = []

    def towards_truth(noisy: Any, setting: Mapping[str, Any]) -> tuple[NDArray[np.float32], int]:
        calls.append((noisy.hu is case.noisy.hu, setting["share"]))
        truth = case.truth if noisy.hu is case.noisy.hu else other.truth
        part = truth[noisy.scored.start : noisy.scored.stop]
        return part + setting["share"] * (noisy.scored_slices - part), len(part)

    settings = [{"share": share} for share in (0.8, 0.1, 0.5)]
    assert tuned(Denoiser("made", towards_truth, settings), other) == {"share": 0.1}
    assert calls == [(False, 0.8), (False, 0.1), (False, 0.5)]


def test_every_method_has_a_row_with_every_number_and_a_missing_peer_is_reported(
    cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Denoiser, "absent", property(lambda self: bool(self.module)))
    rows = measure(cases[0], cases[1], FAST).rows
    names = [row["method"] for row in rows]
    assert names == ["noisy", "gaussian", "tv", "bm3d", *(mode.name for mode in global_modes(10))]
    by_name = {row["method"]: row for row in rows}
    assert by_name["bm3d"]["setting"] == "bm3d is not installed"
    assert "rmse_body" not in by_name["bm3d"]
    for name in ("gaussian", "tv"):
        row = by_name[name]
        assert row["tuned_on"] == "phantom 1"
        assert row["rmse_body"] < by_name["noisy"]["rmse_body"]
        assert row["nodule_600"] is not None
        assert row["seconds"] > 0
    assert by_name["noisy"]["nodule_600"] == pytest.approx(1, abs=0.25)
    assert by_name["noisy"]["edge_ratio"] == pytest.approx(1, abs=0.3)
    text = table(rows)
    assert "bm3d is not installed" in text
    assert all(column in text for column in COLUMNS["quality"])


def test_global_mode_is_the_identity_at_full_rank_and_the_best_approximation_below(cases: list[Case]) -> None:
    noisy = replace(cases[0].noisy, scored=range(len(cases[0].noisy.hu)))
    run = global_modes(10)[0].run
    whole, _ = run(noisy, {"k": 10})
    np.testing.assert_allclose(whole, noisy.hu, atol=0.1)
    part, processed = run(noisy, {"k": 4})
    assert processed == 10
    A = noisy.hu.reshape(10, -1).astype(np.float64)
    optimal = np.sqrt((np.linalg.svd(A, compute_uv=False)[4:] ** 2).sum())
    assert np.linalg.norm(part.reshape(10, -1) - A) == pytest.approx(optimal, rel=1e-4)


def test_all_peers_are_swept_and_have_different_names() -> None:
    assert len(set(METHODS)) == len(METHODS)
    assert all(len(peer.settings) > 1 for peer in PEERS)


@pytest.mark.parametrize(
    "settings",
    [{"slices": 0}, {"levels": ()}, {"levels": (-3.0,)}, {"methods": ("magic",)}, {"resolutions": ("fine",)}],
)
def test_settings_out_of_bounds_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(CtbasisError):
        QualitySettings(**settings)


def test_the_verb_refuses_unknown_methods_and_runs_quality_only_if_it_is_named() -> None:
    done = CliRunner().invoke(main, ["bench", "quality", "--method", "magic"])
    assert done.exit_code == 2
    assert "unknown methods: magic" in done.stderr
    assert "quality" not in BENCHES


def test_a_folder_without_a_series_of_enough_slices_is_refused(series: Path, tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match="is no folder"):
        bench_quality([tmp_path / "absent"], FAST)
    with pytest.raises(CtbasisError, match="holds 6 slices"):
        read_truth(series)


def test_the_page_has_a_table_a_picture_and_patch_mode_relative_to_the_best_peer(
    cases: list[Case], tmp_path: Path
) -> None:
    result = measure(cases[0], cases[1], replace(FAST, methods=("gaussian", "tv", "global", "patch")))
    write_quality_page([result], tmp_path)
    page = (tmp_path / "quality.md").read_text()
    rows = {row["method"]: row for row in result.rows}
    best = min(("gaussian", "tv"), key=lambda name: rows[name]["rmse_body"])
    ratio = rows["patch"]["rmse_body"] / rows[best]["rmse_body"] - 1
    assert f"| {ratio:+.0%} ({best}) |" in page
    least = min(rows.values(), key=lambda row: row["rmse_body"])["rmse_body"]
    assert f"| **{least:.3g}** |" in page
    with Image.open(tmp_path / "quality-1.jpg") as picture:
        assert picture.width > 500
