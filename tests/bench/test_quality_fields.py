"""A field of real noise gives every method its true errors on a series without a truth."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter

from ctbasis.bench.denoisers import Denoiser
from ctbasis.bench.quality_fields import bench_field, slice_correlation
from ctbasis.cli import main
from ctbasis.errors import CtbasisError
from ctbasis.report.noisy_truth import smooth_regions
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.phantom import chest
from ctbasis.simulate.projection import ParallelBeam

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SPACING = (30.0, 0.75, 0.75)

Arrays = tuple["NDArray[np.float32]", "NDArray[np.float32]", "NDArray[np.float32]"]


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    """Return the anatomy, a full dose, and a noise field that only the second slice has: HU, (2, 512, 512)."""
    drawn = chest(2, 512, 512, spacing=SPACING[0], structured=True).hu.astype(np.float32)
    anatomy = gaussian_filter(drawn, (0, 0.8, 0.8))
    beam = ParallelBeam.around((512, 512), SPACING[1:], 300)
    n, m = (image_noise(anatomy, beam, Dose(photons, electronic=2.0, seed=int(photons))) for photons in (1e5, 5e4))
    m[0] = 0
    return anatomy, anatomy + n, m


@pytest.fixture(scope="module")
def files(arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("field")
    for name, array in zip(("series", "field"), arrays[1:], strict=True):
        np.save(folder / name, array)
    return folder / "series.npy", folder / "field.npy"


@pytest.fixture(scope="module")
def rows(files: tuple[Path, Path]) -> list[dict[str, Any]]:
    return bench_field(*files, ("gaussian", "patch one stage"), SPACING)


def test_the_error_of_a_method_is_its_true_error_over_the_noise(rows: list[dict[str, Any]], arrays: Arrays) -> None:
    anatomy, full, _ = (array[1] for array in arrays)
    blurred = gaussian_filter(full, 0.7)
    usual = rows[0]
    assert usual["setting"] == "pixels 0.7, slices 0.0"
    for region in ("body", "soft"):
        inside = smooth_regions(full)[region]
        error, noise, change = (
            float(np.sqrt(np.square(one - other)[inside].mean()))
            for one, other in ((blurred, anatomy), (full, anatomy), (blurred, full))
        )
        assert usual[f"error_{region}"] == pytest.approx(error / noise, rel=0.1)
        assert usual[f"change_{region}"] == pytest.approx(change / noise, rel=0.1)


def test_patch_mode_is_measured_without_and_with_its_target_noise(rows: list[dict[str, Any]]) -> None:
    gaussian = next(row for row in rows if row["method"] == "gaussian")
    none, default = (row for row in rows if row["method"] == "patch one stage")
    assert (none["setting"], default["setting"]) == ("wiener False, target_noise 0.0", "wiener False")
    assert default["error_body"] < gaussian["error_body"]
    assert default["change_soft"] < none["change_soft"]


def test_the_correlation_between_slices_is_that_of_the_series(rows: list[dict[str, Any]]) -> None:
    assert rows[0]["correlation"] == 0.0, "slices of 30 mm apart share no noise"
    drawn = np.random.default_rng(3).normal(size=(9, 128, 128)).astype(np.float32)
    overlapping = np.float32(20 / np.sqrt(1.18)) * (0.3 * drawn[:-2] + drawn[1:-1] + 0.3 * drawn[2:])
    first, second, *further = slice_correlation(overlapping, (2.0, 0.75, 0.75))
    assert first == pytest.approx(0.6 / 1.18, abs=0.05)
    assert second == pytest.approx(0.09 / 1.18, abs=0.05)
    assert np.abs(further).max() < 0.05
    assert slice_correlation(overlapping, SPACING) == []


def test_a_field_that_is_zero_or_of_another_shape_is_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "zero", np.zeros((2, 512, 512), np.float32))
    np.save(tmp_path / "one", np.zeros((1, 512, 512), np.float32))
    with pytest.raises(CtbasisError, match="zero in every slice"):
        bench_field(files[0], tmp_path / "zero.npy", ("gaussian",), SPACING)
    with pytest.raises(CtbasisError, match="voxels"):
        bench_field(files[0], tmp_path / "one.npy", ("gaussian",), SPACING)
    np.save(tmp_path / "air", np.full((1, 64, 64), -1000, np.float32))
    np.save(tmp_path / "field", np.ones((1, 64, 64), np.float32))
    with pytest.raises(CtbasisError, match="noise of slice 1 cannot be measured"):
        bench_field(tmp_path / "air.npy", tmp_path / "field.npy", ("gaussian",), SPACING)


def test_the_command_takes_series_field_and_spacing(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Denoiser, "absent", property(lambda self: bool(self.module)))
    arguments = ["bench", "quality", "--field", *map(str, files), "--spacing", "30", "0.75", "0.75"]
    out = tmp_path / "rows.json"
    result = CliRunner().invoke(main, [*arguments, "--method", "bm3d", "--json", str(out)])
    assert result.exit_code == 0, result.output
    assert json.loads(out.read_text())["rows"] == [
        {"bench": "field", "method": "bm3d", "setting": "bm3d is not installed"}
    ]
    assert CliRunner().invoke(main, [*arguments[:-1], "0", "--method", "bm3d"]).exit_code == 2
