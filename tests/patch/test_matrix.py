"""Patch mode on a stored matrix: every engine, any row blocks, and learned or stored bases give the core's result."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctbasis.errors import CtbasisError
from ctbasis.patch.bases import PatchBases
from ctbasis.patch.denoise import denoise
from ctbasis.patch.learn import learn_shared_basis
from ctbasis.patch.matrix import denoise_matrix, retained_noise_notes, row_runs
from ctbasis.patch.noise_fit import MIN_SIGMA, fit_noise
from ctbasis.patch.plan import PatchPlan
from ctbasis.patch.rows import patch_shape
from ctbasis.patch.volume import StoredVolume
from ctbasis.storage.voxels import is_absent
from ctbasis.svd.factors import FactorStore
from tests.patch.conftest import EDGE, SIGMA, SLICES, Noisy, body, noisy, write

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ctbasis.matrix.store import MatrixStore
    from ctbasis.patch.result import PatchStore

PLAN = PatchPlan(engine="numpy", tau=2.3, wiener=False, stride=2, classes=6)


def denoised(matrix: MatrixStore, place: Path, plan: PatchPlan = PLAN) -> PatchStore:
    return denoise_matrix(matrix.uri, str(place / "denoised.zarr"), str(place / "bases.zarr"), plan)


def values(matrix: MatrixStore) -> NDArray[np.float32]:
    return matrix.read_columns(slice(0, matrix.cols)).astype(np.float32)


@pytest.fixture(scope="module")
def by_numpy(two_series: Noisy, tmp_path_factory: pytest.TempPathFactory) -> tuple[PatchStore, Path]:
    place = tmp_path_factory.mktemp("numpy")
    return denoised(two_series.matrix, place), place


def test_every_voxel_equals_the_result_of_the_core_on_the_series_alone(
    two_series: Noisy, by_numpy: tuple[PatchStore, Path]
) -> None:
    matrix = two_series.matrix
    volumes = [StoredVolume(matrix, series) for series in matrix.series]
    shape = patch_shape(volumes[0].shape, volumes[0].spacing)
    noises = [fit_noise(volume, reach=(shape[0] - 1, shape[1] - 1, shape[2] - 1)) for volume in volumes]
    basis = learn_shared_basis(volumes, noises, shape=shape, classes=6)
    for volume, noise in zip(volumes, noises, strict=True):
        alone = np.concatenate([hu for _, hu in denoise(volume, noise, basis, tau=2.3, wiener=False, stride=2)])
        result = by_numpy[0].read_columns(volume.series.columns).reshape(alone.shape)
        np.testing.assert_allclose(result, alone, atol=1e-3)


def test_noise_falls_and_masked_voxels_are_kept(two_series: Noisy, by_numpy: tuple[PatchStore, Path]) -> None:
    clean, _ = by_numpy
    inside = two_series.truth > -300
    after = values(clean).reshape(two_series.truth.shape) - two_series.truth
    assert after[inside].std() < 0.7 * SIGMA
    assert (clean.read_aside(slice(0, clean.cols))[:50] == -2000).all()
    assert is_absent(clean.read_aside(slice(0, clean.cols))[50:]).all()
    assert clean.series == two_series.matrix.series
    assert clean.header(3) == two_series.matrix.header(3)


def test_the_result_stores_the_noise_of_every_slice(two_series: Noisy, by_numpy: tuple[PatchStore, Path]) -> None:
    clean, _ = by_numpy
    volume = StoredVolume(two_series.matrix, two_series.matrix.series[1])
    alone = fit_noise(volume, reach=tuple(edge - 1 for edge in patch_shape(volume.shape, volume.spacing)))  # type: ignore[arg-type]
    np.testing.assert_allclose(clean.noise(1).sigma, alone.sigma, rtol=1e-5)
    np.testing.assert_allclose(clean.noise(1).covariance, alone.covariance, atol=1e-5)
    assert clean.noise(1).scanner == alone.scanner
    assert "electronic noise" in alone.scanner
    sigma = clean.noise(1).sigma_rows(0, EDGE, EDGE)[..., 2]
    np.testing.assert_array_equal(clean.sigma_image(SLICES[0] + 2), sigma)


def test_similar_series_share_a_basis_and_others_get_their_own(
    by_numpy: tuple[PatchStore, Path], tmp_path: Path
) -> None:
    clean, place = by_numpy
    assert clean.plan.bases == [1, 1]
    assert PatchBases.open(str(place / "bases.zarr")).bases[0].provenance["series"] == 2
    truth = body(EDGE, 6)
    sharp, soft = noisy(truth, smooth=0.3), noisy(truth, smooth=1.2, seed=2)
    unlike = write(str(tmp_path / "matrix.zarr"), np.concatenate([sharp, soft], axis=2), (6, 6))
    assert denoised(unlike, tmp_path).plan.bases == [1, 2]


def test_runs_of_row_blocks_cover_every_row_once_in_whole_blocks(two_series: Noisy) -> None:
    runs = row_runs(two_series.matrix)
    assert [row for run in runs for row in range(run.start, run.stop)] == list(range(EDGE * EDGE))
    assert all(run.start % two_series.matrix.block_rows == 0 for run in runs)
    assert len(runs) > 2


@pytest.mark.parametrize(
    "engine",
    [
        pytest.param("dask", marks=pytest.mark.filterwarnings("ignore::ResourceWarning")),
        pytest.param(
            "spark", marks=[pytest.mark.java, pytest.mark.filterwarnings("ignore:unclosed.*socket:ResourceWarning")]
        ),
        pytest.param(
            "mahout", marks=[pytest.mark.java, pytest.mark.filterwarnings("ignore:unclosed.*socket:ResourceWarning")]
        ),
    ],
)
def test_all_engines_give_the_same_result(
    engine: str, two_series: Noisy, by_numpy: tuple[PatchStore, Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if engine != "dask":
        request.getfixturevalue("spark_application")
    clean, place = by_numpy
    other = denoised(two_series.matrix, tmp_path, replace(PLAN, engine=engine))
    difference = np.abs(values(other) - values(clean))
    # Rounding decides about a coefficient very close to tau, and basis vectors of equal energy are not unique. All else
    # is equal up to the rounding of sums.
    assert np.quantile(difference, 0.99) < (0.1 * SIGMA if engine == "mahout" else 0.01)
    assert np.median(difference) < (0.02 * SIGMA if engine == "mahout" else 0.01)
    expected, basis = (PatchBases.open(str(at / "bases.zarr")).bases[0] for at in (place, tmp_path))
    for one, another in zip(basis.textures, expected.textures, strict=True):
        np.testing.assert_allclose(one.energy, another.energy, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(basis.provenance["patches"], expected.provenance["patches"])
    if engine == "mahout":
        assert "dssvd of 6 classes" in other.plan.factored_by
        assert sorted(path.name for path in tmp_path.iterdir()) == ["bases.zarr", "denoised.zarr"]


def test_applying_the_stored_basis_of_a_series_to_it_gives_the_same_result(
    two_series: Noisy, by_numpy: tuple[PatchStore, Path], tmp_path: Path
) -> None:
    clean, place = by_numpy
    again = denoised(two_series.matrix, tmp_path, replace(PLAN, basis=str(place / "bases.zarr")))
    np.testing.assert_array_equal(values(again), values(clean))
    assert again.plan.notes == clean.plan.notes


def test_a_stored_basis_denoises_another_series(by_numpy: tuple[PatchStore, Path], tmp_path: Path) -> None:
    truth = body(EDGE, 5)[::-1]
    other = write(str(tmp_path / "matrix.zarr"), noisy(truth, seed=9), (5,))
    clean = denoised(other, tmp_path, replace(PLAN, basis=str(by_numpy[1] / "bases.zarr")))
    inside = truth > -300
    assert (values(clean).reshape(truth.shape) - truth)[inside].std() < 0.75 * SIGMA


def test_equal_runs_give_equal_bits(two_series: Noisy, by_numpy: tuple[PatchStore, Path], tmp_path: Path) -> None:
    np.testing.assert_array_equal(values(denoised(two_series.matrix, tmp_path)), values(by_numpy[0]))


@pytest.mark.parametrize("slices", [1, 2])
def test_a_volume_with_fewer_slices_than_a_patch_gets_thinner_patches(slices: int, tmp_path: Path) -> None:
    truth = body(EDGE, slices)
    matrix = write(str(tmp_path / "matrix.zarr"), noisy(truth), (slices,))
    clean = denoised(matrix, tmp_path)
    # A patch of one slice sees further within the slice.
    assert clean.plan.patches == [[5, 5, 2] if slices == 2 else [7, 7, 1]]
    assert np.isfinite(values(clean)).all()


def test_a_basis_with_thicker_patches_than_the_volume_is_rejected(
    by_numpy: tuple[PatchStore, Path], tmp_path: Path
) -> None:
    matrix = write(str(tmp_path / "matrix.zarr"), noisy(body(EDGE, 2)), (2,))
    with pytest.raises(CtbasisError, match=r"a patch has 5 x 5 x \d voxels, the volume only 200 x 200 x 2"):
        denoised(matrix, tmp_path, replace(PLAN, basis=str(by_numpy[1] / "bases.zarr")))
    assert not (tmp_path / "denoised.zarr").exists()


@pytest.mark.parametrize("level", [0, 40])
def test_a_constant_series_is_returned_unchanged_with_a_note(level: int, tmp_path: Path) -> None:
    matrix = write(str(tmp_path / "matrix.zarr"), np.full((64, 64, 4), level, np.int16), (4,))
    clean = denoised(matrix, tmp_path)
    np.testing.assert_allclose(values(clean), level, atol=0.01)
    assert clean.plan.notes


def test_a_note_reports_noise_that_is_kept_on_purpose(two_series: Noisy, tmp_path: Path) -> None:
    matrix = two_series.matrix
    untouched = denoised(matrix, tmp_path, replace(PLAN, target_noise=2 * SIGMA))
    np.testing.assert_array_equal(values(untouched), values(matrix))
    assert next(note for note in untouched.plan.notes if "nothing is removed" in note).startswith("series 1: noise: ")
    assert untouched.noise(0).soft_tissue_sigma == pytest.approx(SIGMA, rel=0.1)
    few = replace(untouched.noise(0), quiet_cells=10)
    assert retained_noise_notes(few, untouched.plan)
    assert not retained_noise_notes(few, replace(untouched.plan, target_noise=SIGMA / 4))
    assert not retained_noise_notes(replace(few, soft_tissue_sigma=MIN_SIGMA), untouched.plan)
    (flat,) = retained_noise_notes(replace(few, soft_tissue_sigma=MIN_SIGMA, noise_floor=0.3), untouched.plan)
    assert "30% of the variance" in flat


def test_a_series_of_air_only_is_rejected(tmp_path: Path) -> None:
    matrix = write(str(tmp_path / "matrix.zarr"), np.full((64, 64, 4), -1000, np.int16), (4,))
    with pytest.raises(CtbasisError, match="nothing but air"):
        denoised(matrix, tmp_path)


@pytest.mark.parametrize(
    ("parameter", "message"),
    [
        ({"tau": -1.0}, "tau is"),
        ({"tau": float("nan")}, "tau is"),
        ({"stride": 0}, "stride is 0"),
        ({"stride": 9}, "9"),
        ({"target_noise": -1.0}, "target_noise is"),
        ({"target_noise": float("inf")}, "target_noise is"),
    ],
)
def test_parameters_out_of_range_are_rejected(parameter: dict[str, float], message: str) -> None:
    with pytest.raises(CtbasisError, match=message):
        PatchPlan(engine="numpy", **parameter)  # type: ignore[arg-type]


def test_a_basis_of_patches_is_rejected_as_a_basis_of_slices(by_numpy: tuple[PatchStore, Path]) -> None:
    with pytest.raises(CtbasisError, match="a basis of patches, from a run in patch mode"):
        FactorStore.open(str(by_numpy[1] / "bases.zarr"))
