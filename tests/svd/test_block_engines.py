"""The block engines meet the theorems' error bounds, report their errors, and give the same factors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctbasis.errors import CtbasisError
from ctbasis.matrix import store
from ctbasis.svd import method
from ctbasis.svd.basis import complete_basis
from ctbasis.svd.engines import numpy
from ctbasis.svd.plan import plan_factorization
from tests.svd.factoring import factored, orthonormality_error, tail, with_spectrum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from ctbasis.matrix.store import MatrixStore

    StoreMatrix = Callable[..., MatrixStore]

EPS = float(np.finfo(np.float64).eps)

METHODS = ["exact", "randomized", "single-pass"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give stores the smallest possible row blocks, 256 rows, so that small matrices have several."""
    monkeypatch.setattr(store, "BLOCK_ELEMENTS", 1)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Start Ray once for all tests, since its processes start slowly."""
    from ctbasis.svd.engines import ray

    with ray.connected(""):
        yield


@pytest.fixture(
    params=[
        pytest.param(
            "spark",
            marks=[pytest.mark.java, pytest.mark.filterwarnings("ignore:unclosed.*socket:ResourceWarning")],
        ),
        pytest.param("dask", marks=pytest.mark.filterwarnings("ignore::ResourceWarning")),
        pytest.param("ray", marks=pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning")),
    ]
)
def distributed(request: pytest.FixtureRequest) -> str:
    """Return the name of an engine with several processes or threads, ready to run."""
    fixture = {"spark": "spark_application", "ray": "ray_cluster"}.get(request.param)
    if fixture:
        request.getfixturevalue(fixture)
    return str(request.param)


@pytest.mark.parametrize("ratio", [1e-3, 1e-8, 1e-12])
@pytest.mark.parametrize("method", ["exact", "randomized"])
def test_singular_values_are_accurate_down_to_the_guaranteed_ratio(
    method: str, ratio: float, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    n, k = 24, 24
    s = 1e5 * np.geomspace(1, ratio, n)
    factors, U, spectrum = factored(store_matrix(with_spectrum(900, s)), tmp_path / "f", rank=k, method=method)
    assert spectrum.accuracy is not None
    # Relative error of sigma_k: 1e-9 by the Gram matrix at 1e-3, and eps / ratio by orthogonal transformations.
    np.testing.assert_allclose(spectrum.s, s, rtol=max(1e-8, 40 * n * EPS / ratio))
    assert orthonormality_error(U) < 1e-8
    assert orthonormality_error(factors.V) < 1e-13
    assert np.linalg.norm(with_spectrum(900, s) - U @ factors.weights.T) < 1e-12 * s[0] * n
    if method == "exact":
        assert spectrum.accuracy.valid_to < max(ratio, 1e-12) * 1.001


def test_singular_values_below_the_resolution_are_zero_and_the_basis_is_complete(
    store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    s = 1e5 * np.geomspace(1, 1e-18, 24)
    factors, U, spectrum = factored(store_matrix(with_spectrum(900, s)), tmp_path / "f", rank=24, method="exact")
    zeros = int(np.count_nonzero(spectrum.s == 0))
    assert zeros == np.count_nonzero(s < 4 * 24 * EPS * s[0])
    assert f"{zeros} of the 24 singular values are zero" in spectrum.note
    assert orthonormality_error(U) < 1e-13
    assert orthonormality_error(factors.V) < 1e-13


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 9), (300, 2), (257, 40), (40, 257), (600, 31)])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_every_shape_and_dtype_gives_the_optimal_rank_k_error(
    method: str, shape: tuple[int, int], dtype: str, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    A = np.random.default_rng(2).integers(-1000, 3000, shape).astype(dtype)
    k = min(3, *shape)
    factors, U, _ = factored(store_matrix(A), tmp_path / "f", rank=k, method=method, oversample=50, power_iters=2)
    s = np.linalg.svd(A.astype(float), compute_uv=False)
    # k + p = 53 directions span the whole row space, unless both m and n are larger.
    slack = 1.1 if min(shape) > 53 else 1 + 1e-9
    assert np.linalg.norm(A - U @ factors.weights.T) <= slack * tail(s, k) + 1e-9 * s[0]
    assert orthonormality_error(U) < 1e-7
    assert orthonormality_error(factors.V) < 1e-9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [np.zeros((600, 6)), np.full((600, 6), -1000.0)])
def test_a_matrix_of_zeros_or_of_air_has_orthonormal_bases(
    method: str, values: NDArray[Any], store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    factors, U, _ = factored(store_matrix(values), tmp_path / "f", rank=4, method=method)
    assert orthonormality_error(U) < 1e-12
    assert orthonormality_error(factors.V) < 1e-12
    np.testing.assert_allclose(U @ factors.weights.T, values, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_a_matrix_gives_the_same_factors_in_its_dtype_on_disk_and_in_float64(
    method: str, dtype: str, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    # More rows than a panel and an odd number of columns: several panels, and the last is shorter.
    A = np.random.default_rng(0).integers(-1000, 3000, (3 * 256 + 7, 41)).astype(dtype)
    narrow, U, _ = factored(store_matrix(A), tmp_path / "f", rank=6, method=method)
    wide, U_wide, _ = factored(store_matrix(A.astype(float), name="wide.zarr"), tmp_path / "g", rank=6, method=method)
    np.testing.assert_allclose(narrow.s, wide.s, rtol=1e-13)
    np.testing.assert_allclose(U, U_wide, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_the_factors_are_the_same_bits_for_any_number_of_threads(
    method: str, store_matrix: StoreMatrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = store_matrix(with_spectrum(5000, 1e4 / np.arange(1, 41)))
    runs = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(numpy, "available_cpus", lambda threads=threads: threads)
        factors, U, _ = factored(matrix, tmp_path / "f", rank=6, method=method)
        runs.append((U, factors.s, factors.V))
    for run in runs[1:]:
        for array, expected in zip(run, runs[0], strict=True):
            np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("method", METHODS)
def test_a_slice_of_zeros_has_zero_weights_and_equal_slices_have_equal_weights(
    method: str, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    A = np.random.default_rng(3).integers(-1000, 3000, (600, 6)).astype("int16")
    A[:, 2], A[:, 5] = 0, A[:, 1]
    factors, U, _ = factored(store_matrix(A), tmp_path / "f", rank=6, method=method)
    assert np.count_nonzero(factors.s > 1e-6 * factors.s[0]) == 4
    assert np.abs(factors.weights[2]).max() < 1e-8 * factors.s[0]
    np.testing.assert_allclose(factors.weights[1], factors.weights[5], atol=1e-8 * factors.s[0])
    assert orthonormality_error(U) < 1e-7
    np.testing.assert_allclose(U @ factors.weights.T, A, atol=1e-6 * factors.s[0])


@pytest.mark.parametrize("power_iters", [0, 1, 2])
def test_the_randomized_error_is_within_the_bound_of_halko_martinsson_and_tropp(
    power_iters: int, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    s = 1e4 / np.arange(1, 81)
    A = with_spectrum(1000, s)
    k, p = 10, 10
    factors, U, _ = factored(
        store_matrix(A), tmp_path / "f", rank=k, oversample=p, power_iters=power_iters, method="randomized"
    )
    # Theorem 10.5 bounds the expected error of k + p directions without power iterations, before the truncation to k.
    expected = np.sqrt(1 + k / (p - 1)) * tail(s, k)
    assert tail(s, k) <= np.linalg.norm(A - U @ factors.weights.T) * (1 + 1e-12)
    assert np.linalg.norm(A - U @ factors.weights.T) <= 1.05 * expected
    if power_iters == 2:
        assert np.linalg.norm(A - U @ factors.weights.T) <= 1.01 * tail(s, k)


@pytest.mark.parametrize("method", ["randomized", "single-pass"])
def test_equal_seeds_give_equal_factors_and_other_seeds_give_others(
    method: str, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    matrix = store_matrix(with_spectrum(700, 1e4 / np.arange(1, 41)))
    runs = [
        factored(matrix, tmp_path / "f", rank=5, oversample=2, power_iters=0, seed=seed, method=method)
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    np.testing.assert_array_equal(runs[0][0].V, runs[1][0].V)
    assert np.abs(runs[0][0].s - runs[2][0].s).max() > 1e-6


def test_the_note_names_a_randomly_drawn_seed_and_the_seed_repeats_the_run(
    store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    matrix = store_matrix(with_spectrum(700, 1e4 / np.arange(1, 41)))
    first, _, spectrum = factored(matrix, tmp_path / "f", rank=5, seed=None, method="randomized")
    seed = int(spectrum.note.partition("seed ")[2].partition(";")[0])
    again, _, _ = factored(matrix, tmp_path / "g", rank=5, seed=seed, method="randomized")
    np.testing.assert_array_equal(first.V, again.V)


@pytest.mark.parametrize("method", ["randomized", "single-pass"])
def test_the_sketch_is_removed_from_the_factor_store(method: str, store_matrix: StoreMatrix, tmp_path: Path) -> None:
    matrix = store_matrix(with_spectrum(700, 1e4 / np.arange(1, 41)))
    factored(matrix, tmp_path / "f", rank=5, method=method)
    assert {path.name for path in (tmp_path / "f").iterdir() if path.is_dir()} >= {"U", "V"}
    assert not (tmp_path / "f" / "sketch").exists()


def test_a_matrix_that_fits_in_memory_is_read_once_and_a_larger_one_in_every_pass(
    store_matrix: StoreMatrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = store_matrix(np.random.default_rng(0).integers(-1000, 3000, (3000, 9), dtype=np.int16))
    size = 3000 * 9 * 2
    fits = factored(matrix, tmp_path / "f", rank=3)[2].accuracy
    plan = plan_factorization(
        engine="numpy", rows=3000, cols=9, rank=3, oversample=5, power_iters=1, seed=0, method="auto"
    )
    held = numpy.held_memory()
    monkeypatch.setattr(numpy, "held_memory", lambda: held)
    tight = factored(matrix, tmp_path / "g", rank=3, memory=held + numpy.thread_bytes(matrix, plan))[2].accuracy
    assert fits is not None
    assert tight is not None
    assert (fits.bytes_read, tight.bytes_read) == (size, 2 * size)


def test_a_memory_limit_too_small_for_one_block_is_an_error_that_names_the_required_size(
    store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    with pytest.raises(CtbasisError, match=r"memory is limited to 1 MiB(.|\n)*expected: \d+ MiB for one thread"):
        factored(store_matrix(np.ones((600, 3))), tmp_path / "f", rank=2, memory=2**20)


def test_auto_chooses_the_randomized_method_for_many_columns_and_the_exact_one_for_few() -> None:
    plan = plan_factorization(
        engine="numpy", rows=9000, cols=method.EXACT_COLUMNS, rank=5, oversample=5, power_iters=1, seed=0
    )
    assert method.resolve_method(plan) == "exact"
    assert method.resolve_method(replace(plan, cols=plan.cols + 1)) == "randomized"


def test_a_row_block_with_too_few_rows_to_complete_the_basis_is_an_error() -> None:
    with pytest.raises(CtbasisError, match="a row block has 3 rows"):
        complete_basis(np.eye(3)[:, :2], 4)


def test_an_unknown_method_is_an_error(store_matrix: StoreMatrix, tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match="method is 'lanczos'"):
        factored(store_matrix(np.ones((600, 3))), tmp_path / "f", rank=2, method="lanczos")


def test_a_matrix_that_changes_between_two_passes_is_an_error(
    store_matrix: StoreMatrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = store_matrix(with_spectrum(700, 1e4 / np.arange(1, 41)))
    read = type(matrix).read_block
    blocks_read: list[int] = []

    def changing(self: MatrixStore, index: int, **options: Any) -> NDArray[Any]:
        blocks_read.append(index)
        return np.asarray(read(self, index, **options) * (1 if blocks_read.count(index) == 1 else 3))

    monkeypatch.setattr(type(matrix), "read_block", changing)
    held = numpy.held_memory()
    monkeypatch.setattr(numpy, "held_memory", lambda: held)
    plan = plan_factorization(engine="numpy", rows=700, cols=40, rank=5, oversample=5, power_iters=1, seed=0)
    # So little memory that no block is cached, and every pass reads every block.
    memory = held + numpy.thread_bytes(matrix, plan)
    with pytest.raises(CtbasisError, match=r"the residual of the factors is"):
        factored(matrix, tmp_path / "f", rank=5, memory=memory)


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_or_damaged_chunk_is_an_error_that_names_its_rows(
    method: str, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    matrix = store_matrix(np.random.default_rng(0).standard_normal((700, 5)))
    chunk = Path(matrix.uri) / "A" / "c" / "1" / "0"
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(CtbasisError, match=r"rows 256 to 512: the chunk A/c/1/0 has the checksum"):
        factored(matrix, tmp_path / "f", rank=2, method=method)
    chunk.unlink()
    with pytest.raises(CtbasisError, match=r"rows 256 to 512: the chunk A/c/1/0 is missing"):
        factored(matrix, tmp_path / "f", rank=2, method=method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinity_is_an_error(method: str, value: float, store_matrix: StoreMatrix, tmp_path: Path) -> None:
    A = np.ones((600, 3))
    A[300, 1] = value
    with pytest.raises(CtbasisError, match="NaN or Inf in rows 256 to 512"):
        factored(store_matrix(A), tmp_path / "f", rank=2, method=method)


def test_every_engine_gives_the_same_factors_as_numpy(
    distributed: str, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    matrix = store_matrix(with_spectrum(1300, 1e4 / np.arange(1, 41)))
    for name in METHODS:
        expected, U, _ = factored(matrix, tmp_path / "f", rank=6, method=name)
        factors, U_distributed, spectrum = factored(matrix, tmp_path / "g", rank=6, method=name, engine=distributed)
        np.testing.assert_allclose(factors.s, expected.s, rtol=1e-12)
        np.testing.assert_allclose(factors.V, expected.V, atol=1e-9)
        np.testing.assert_allclose(U_distributed, U, atol=1e-9)
        assert spectrum.note == factored(matrix, tmp_path / "f", rank=6, method=name)[2].note


def test_every_engine_is_accurate_at_small_singular_values(
    distributed: str, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    s = 1e5 * np.geomspace(1, 1e-12, 20)
    _, U, spectrum = factored(store_matrix(with_spectrum(900, s)), tmp_path / "f", rank=20, engine=distributed)
    np.testing.assert_allclose(spectrum.s, s, rtol=1e-2)
    assert orthonormality_error(U) < 1e-12


def test_every_engine_passes_on_the_error_of_a_worker(
    distributed: str, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    A = np.ones((600, 3))
    A[300, 1] = np.inf
    with pytest.raises(CtbasisError, match="NaN or Inf in rows 256 to 512"):
        factored(store_matrix(A), tmp_path / "f", rank=2, engine=distributed)
