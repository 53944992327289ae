"""The bench of tasks: independent regions at known sites, doses on the scale of the input, and a page that says so."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner

from ctbasis.bench import task as bench
from ctbasis.bench.denoisers import Denoiser, NoisyVolume, global_modes
from ctbasis.bench.quality_cases import Truth
from ctbasis.bench.task import measure_case
from ctbasis.bench.task_cases import (
    APART,
    DOSES,
    EDGE,
    INPUT_DOSES,
    KNOWN,
    LAYER,
    TASKS,
    THICK,
    TaskCase,
    TaskSettings,
    make_case,
)
from ctbasis.bench.task_images import INPUT, KeptImages, TaskImage, images
from ctbasis.bench.task_page import write_task_page
from ctbasis.cli import main
from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PIXEL = 1.5
SETTINGS = TaskSettings(realisations=4, methods=("global", "bm3d"))


def water(slices: int = 18, edge: int = 96) -> Truth:
    """Return a cylinder of soft tissue."""
    offset = (np.arange(edge) - (edge - 1) / 2) * PIXEL
    inside = np.hypot(offset[:, None], offset) < 66
    hu = np.where(inside, np.float32(40), np.float32(-1000))
    return Truth("water", np.repeat(hu[None], slices, axis=0), (2.5, PIXEL, PIXEL))


@pytest.fixture(scope="module")
def case() -> TaskCase:
    return make_case(SETTINGS, water())


@pytest.fixture(scope="module")
def rows(case: TaskCase) -> list[dict[str, Any]]:
    return measure_case(case, SETTINGS)


def test_every_site_shows_both_patterns_equally_often_and_no_region_holds_another_signal(case: TaskCase) -> None:
    assert len(case.layers) == 3
    assert np.diff(case.layers).min() >= LAYER > THICK
    for number, sites in enumerate(case.sites):
        shown = np.stack([case.shows_one(number, r) for r in range(SETTINGS.realisations)])
        assert (shown.sum(axis=0) == 2).all()
        assert len(sites) >= 8
    signals = case.truth(0) - case.background.hu
    for number, (task, sites) in enumerate(zip(TASKS, case.sites, strict=True)):
        for site, one in zip(sites, case.shows_one(number, 0), strict=True):
            region = site.region(signals)
            assert region.shape == (EDGE, EDGE)
            pattern = task.one if one else task.other
            area = 0.0 if pattern is None else np.pi / 4 * pattern.diameter_mm**2 * pattern.contrast_hu / PIXEL**2
            assert region.sum() == pytest.approx(area, rel=0.02, abs=1e-3)
    every = [site for sites in case.sites for site in sites]
    for site in every:
        for other in every:
            if other is not site and other.slice == site.slice:
                assert max(abs(site.row - other.row), abs(site.column - other.column)) * PIXEL >= APART


def test_d_prime_of_the_input_grows_with_the_root_of_the_dose(rows: list[dict[str, Any]]) -> None:
    for task in TASKS:
        own = {
            row["dose"]: row
            for row in rows
            if row["method"] == INPUT and row["task"] == task.name and row["observer"] == "NPWE"
        }
        assert set(own) == set(INPUT_DOSES)
        # Four times the dose: half the noise or less, as read-out noise counts too, and d' that grows as much.
        for dose in (2.0, 1.0):
            less = own[dose / 4]
            noise = less["noise_hu"] / own[dose]["noise_hu"]
            assert 1.9 < noise < 3
            assert less["d_prime_low"] * noise < own[dose]["d_prime_high"]
            assert less["d_prime_high"] * noise > own[dose]["d_prime_low"]
        assert own[1.0]["noise_hu"] == pytest.approx(24, rel=0.15)
        assert "equivalent_dose" not in own[1.0]


def test_a_method_that_changes_nothing_is_worth_the_dose_of_its_images_and_halved_noise_four_times_it(
    case: TaskCase, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With uniform tissue, the truth of a realisation is known to a stand-in method by the volumes it was made of.
    truths = {case.noisy(r, dose)[1].hu.tobytes(): case.truth(r) for r in range(4) for dose in DOSES}

    def halved(noisy: NoisyVolume, setting: Any) -> tuple[NDArray[np.float32], int]:
        del setting
        truth = truths[noisy.hu.tobytes()]
        return truth + (noisy.hu - truth) / 2, len(noisy.hu)

    stand_ins = (Denoiser("tv", lambda noisy, _: (noisy.hu, 1)), Denoiser("gaussian", halved))
    monkeypatch.setattr(bench, "PEERS", stand_ins)
    measured = measure_case(case, TaskSettings(methods=("tv", "gaussian")))
    ratios: dict[str, list[float]] = {"tv": [], "gaussian": []}
    for row in measured:
        if row["method"] != INPUT:
            ratios[row["method"]].append(row["equivalent_dose"])
            if row["method"] == "tv":
                same = next(
                    one
                    for one in measured
                    if one["method"] == INPUT and all(one[key] == row[key] for key in ("task", "observer", "dose"))
                )
                assert row["d_prime"] == same["d_prime"]
                assert row["equivalent_low"] < 1 < row["equivalent_high"]
    assert np.median(ratios["tv"]) == pytest.approx(1, abs=0.2)
    assert np.median(ratios["gaussian"]) == pytest.approx(4, rel=0.4)


def test_channels_and_internal_noise_are_those_of_the_settings_and_a_size_is_discriminated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "BOOTSTRAPS", 4)
    chosen: dict[str, Any] = {"methods": ("global",), "tasks": ("detect-3mm", "size-8mm", "shape-8mm")}
    plain = TaskSettings(**chosen, channels=("auto", "dog", "gabor"))
    case = make_case(plain, water())
    assert [task.name for task in case.tasks] == [KNOWN[name].name for name in chosen["tasks"]]
    rows = measure_case(case, plain, tmp_path / "kept")
    seen = {(row["task"], row["observer"]) for row in rows}
    symmetric = {"CHO", "CHO, DoG", "CHO, Gabor", "NPWE"}
    for task in case.tasks:
        # DoG channels do not see a shape.
        assert {name for of, name in seen if of == task.name} == (
            symmetric - {"CHO, DoG"} if task.directed else symmetric
        )
    difference = KNOWN["size-8mm"].difference((PIXEL, PIXEL))
    assert difference.sum() * PIXEL**2 == pytest.approx(np.pi / 4 * (64 - 36) * -50, rel=0.02)
    assert abs(difference[7:9, 7:9]).max() == 0
    noisy = measure_case(case, replace(plain, internal_noise=np.sqrt(3)), tmp_path / "kept")
    for row, other in zip(rows, noisy, strict=True):
        assert other["d_prime"] == pytest.approx(row["d_prime"] / 2)
        assert other["d_prime_high"] == pytest.approx(row["d_prime_high"] / 2)
    write_task_page(noisy, tmp_path)
    page = (tmp_path / "task-detect-3mm-size-8mm-shape-8mm.md").read_text(encoding="utf-8")
    command = "ctbasis bench task --task detect-3mm --task size-8mm --task shape-8mm --method global --page"
    assert f"Written by `{command}`" in page
    assert "internal noise of 1.73" in page
    assert f"## {KNOWN['size-8mm'].name}: CHO, Gabor" in page


def test_a_run_that_was_killed_goes_on_with_what_it_kept(
    case: TaskCase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made: list[float] = []
    most = 3

    class KilledError(Exception):
        """The end of the process."""

    def noisy(self: TaskCase, realisation: int, dose: float) -> tuple[NDArray[np.float32], NoisyVolume]:
        if len(made) == most:
            raise KilledError
        made.append(dose)
        return real(self, realisation, dose)

    def all_images(folder: Path | None) -> list[TaskImage]:
        return list(images(case, [None, global_modes(18)[2]], 0, KeptImages(folder, case)))

    real = TaskCase.noisy
    monkeypatch.setattr(TaskCase, "noisy", noisy)
    with pytest.raises(KilledError):
        all_images(tmp_path)
    made.clear()
    most = 100
    again = all_images(tmp_path)
    # Three inputs were kept; the doses 1 and 0.5 are made again to be denoised.
    assert sorted(made) == [0.125, 0.25, 0.5, 1.0]
    made.clear()
    kept = all_images(tmp_path)
    assert not made
    for one, other, whole in zip(again, kept, all_images(None), strict=True):
        assert (one.method, one.dose) == (other.method, other.dose) == (whole.method, whole.dose)
        np.testing.assert_array_equal(one.hu, whole.hu)
        np.testing.assert_array_equal(other.hu, whole.hu)
    with pytest.raises(CtbasisError, match="holds images of another case"):
        KeptImages(tmp_path, replace(case, seed=1))
    damaged = next(tmp_path.glob("input-*.npz"))
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(CtbasisError, match="cannot be read"):
        all_images(tmp_path)
    (tmp_path / "case.json").unlink()
    with pytest.raises(CtbasisError, match="holds other files"):
        KeptImages(tmp_path, case)


def test_a_slow_method_has_fewer_images_and_the_page_says_so(
    case: TaskCase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(bench, "BOOTSTRAPS", 4)
    fewer = measure_case(case, TaskSettings(realisations=6, methods=("nlm",), fewer=(("nlm", 4),)))
    regions = {row["method"]: row["images"] for row in fewer if row["task"] == TASKS[0].name}
    assert regions["nlm"] / regions[INPUT] == pytest.approx(4 / 6)
    write_task_page(fewer, tmp_path)
    assert f"nlm: {regions['nlm']} regions" in (tmp_path / "task.md").read_text(encoding="utf-8")


def test_the_page_has_curves_tables_and_what_is_not_installed(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    write_task_page(rows, tmp_path)
    page = (tmp_path / "task.md").read_text(encoding="utf-8")
    assert (tmp_path / "task.png").read_bytes()[1:4] == b"PNG"
    assert "bm3d: bm3d is not installed." in page
    for task in TASKS:
        assert f"## {task.name}: CHO" in page
        assert f"## {task.name}: NPWE" in page
    assert "| global k=9/18 |" in page
    assert "f_peak" in page
    patch = [{**row, "method": "patch"} for row in rows if row["method"] == "global k=9/18"]
    for row in patch:
        row.update(equivalent_dose=0.5, equivalent_low=0.4, equivalent_high=0.6)
    write_task_page([*rows, *patch], tmp_path)
    told = (tmp_path / "task.md").read_text(encoding="utf-8")
    assert "Patch mode **loses**" in told
    assert f"- {TASKS[0].name}, CHO, at 0.25: -50% (-60% to -40%)" in told
    assert "Patch mode is worth **more**" not in told
    assert f"At 0.25 of the full dose, patch mode equals **50% less dose** for {TASKS[0].name} (CHO), " in told


def test_the_verb_takes_noise_realisations_and_methods(
    case: TaskCase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen: list[TaskSettings] = []

    def made(settings: TaskSettings, series: Truth | None) -> TaskCase:
        seen.append(settings)
        assert series is None
        return case

    monkeypatch.setattr(bench, "make_case", made)
    arguments = ["bench", "task", "--noise", "30", "--realisations", "4", "--method", "global"]
    arguments += ["--channels", "auto", "--internal-noise", "0.5"]
    done = CliRunner().invoke(main, [*arguments, "--json", str(tmp_path / "rows.json"), "--page", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert seen == [
        TaskSettings(level=30.0, realisations=4, methods=("global",), channels=("auto",), internal_noise=0.5)
    ]
    assert len(json.loads((tmp_path / "rows.json").read_text())["rows"]) == len(TASKS) * 2 * (5 + 2 * 3)
    assert (tmp_path / "task.md").is_file()


def test_settings_and_backgrounds_that_allow_no_measurement_are_refused() -> None:
    for change in (
        {"level": 0.0},
        {"realisations": 3},
        {"slices": 5},
        {"methods": ("cat",)},
        {"fewer": (("nlm", 3),)},
        {"tasks": ()},
        {"tasks": ("cat",)},
        {"channels": ("dog", "dog")},
        {"internal_noise": -1.0},
    ):
        with pytest.raises(CtbasisError):
            replace(SETTINGS, **change)  # type: ignore[arg-type]
    lung = Truth("lung", np.full((18, 96, 96), -850, np.float32), (2.5, PIXEL, PIXEL))
    with pytest.raises(CtbasisError, match="room for 0 signals"):
        make_case(SETTINGS, lung)
