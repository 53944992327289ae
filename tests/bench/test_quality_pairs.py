"""A pair of doses gives every method its true errors relative to the low dose."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter

from ctbasis.bench.denoisers import PEERS, Denoiser
from ctbasis.bench.quality_pairs import USUAL, bench_pair, read_pair
from ctbasis.cli import main
from ctbasis.errors import CtbasisError
from ctbasis.report.noisy_truth import smooth_regions
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.phantom import chest
from ctbasis.simulate.projection import ParallelBeam

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

Arrays = tuple["NDArray[np.float32]", "NDArray[np.float32]", "NDArray[np.float32]"]


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    """Return the anatomy, a low dose and a full dose of a chest, HU, (2, 512, 512)."""
    drawn = chest(2, 512, 512, spacing=30.0, structured=True).hu.astype(np.float32)
    anatomy = gaussian_filter(drawn, (0, 0.8, 0.8))
    beam = ParallelBeam.around((512, 512), (0.75, 0.75), 300)
    n, m = (image_noise(anatomy, beam, Dose(photons, electronic=2.0, seed=int(photons))) for photons in (1e5, 5e4))
    return anatomy, anatomy + n + m, anatomy + n


@pytest.fixture(scope="module")
def pair(arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    for name, array in zip(("low", "full"), arrays[1:], strict=True):
        np.save(folder / name, array)
    return folder / "low.npy", folder / "full.npy"


@pytest.fixture(scope="module")
def rows(pair: tuple[Path, Path]) -> dict[str, dict[str, Any]]:
    return {row["method"]: row for row in bench_pair(*pair, ("gaussian", "patch"))}


def test_every_method_has_its_true_error_relative_to_the_low_dose(
    rows: dict[str, dict[str, Any]], arrays: Arrays
) -> None:
    anatomy, low, _ = arrays
    assert list(rows) == ["full dose", "full dose, patch", "low dose", "gaussian", "gaussian, tuned", "patch"]
    soft = np.stack([smooth_regions(true)["soft"] for true in anatomy])
    blurred = gaussian_filter(low, (0, 0.7, 0.7))
    error, noise = (float(np.sqrt(np.square(image - anatomy)[soft].mean())) for image in (blurred, low))
    assert rows["gaussian"]["error_soft"] == pytest.approx(error / noise, rel=0.06)
    assert rows["low dose"]["error_soft"] == pytest.approx(1)
    assert rows["gaussian, tuned"]["error_body"] <= rows["gaussian"]["error_body"]
    assert rows["patch"]["error_body"] < rows["gaussian, tuned"]["error_body"]
    assert 0 < rows["patch"]["smoothed_removal"] < 3
    assert rows["patch"]["laa_950"] == pytest.approx(rows["full dose, patch"]["laa_950"], abs=0.3)


def test_a_missing_peer_is_reported(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Denoiser, "absent", property(lambda self: bool(self.module)))
    row = bench_pair(*pair, ("bm3d",))[-1]
    assert row["setting"] == "bm3d is not installed"
    assert set(USUAL) == {peer.name for peer in PEERS}
    monkeypatch.setattr(Denoiser, "absent", property(lambda _: False))
    mp_pca = next(peer for peer in PEERS if peer.name == "mp-pca")
    assert (mp_pca.missing(1), mp_pca.missing(2)) == ("needs 2 slices that lie together", "")


def test_the_command_prints_and_writes_the_table(pair: tuple[Path, Path], tmp_path: Path) -> None:
    low, full = map(str, pair)
    arguments = ["bench", "quality", "--pair", low, full, "--method", "gaussian", "--json", str(tmp_path / "rows.json")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "gaussian, tuned" in result.stdout
    assert len(json.loads((tmp_path / "rows.json").read_text())["rows"]) == 4


def test_what_is_no_pair_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    low, full = pair
    np.save(tmp_path / "one.npy", np.load(full)[:1])
    with pytest.raises(CtbasisError, match=r"low\.npy has \(2, 512, 512\) voxels .*one\.npy \(1, 512, 512\)"):
        read_pair(low, tmp_path / "one.npy")
    (tmp_path / "text.npy").write_text("no array")
    with pytest.raises(CtbasisError, match="cannot be read"):
        read_pair(low, tmp_path / "text.npy")
    np.save(tmp_path / "flat.npy", np.zeros((4, 4)))
    with pytest.raises(CtbasisError, match="shape"):
        read_pair(low, tmp_path / "flat.npy")
    with pytest.raises(CtbasisError, match="cannot be measured"):
        bench_pair(full, full, ("gaussian",))
