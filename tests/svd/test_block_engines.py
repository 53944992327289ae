"""The engines on NumPy blocks hold the theorems, say how wrong they are, and agree wherever they run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctbasis.errors import CtbasisError
from ctbasis.matrix import store
from ctbasis.svd import accuracy, method
from ctbasis.svd.basis import complete_basis
from ctbasis.svd.engines import engine_named, numpy
from ctbasis.svd.factors import FactorStore, FactorWriter
from ctbasis.svd.plan import plan_factorization

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from ctbasis.matrix.store import MatrixStore
    from ctbasis.svd.spectrum import Spectrum

    StoreMatrix = Callable[..., MatrixStore]

EPS = float(np.finfo(np.float64).eps)

METHODS = ["exact", "randomized", "single-pass"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stores have the smallest row blocks there are, 256 rows, so that small matrices have several."""
    monkeypatch.setattr(store, "BLOCK_ELEMENTS", 1)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """Start Ray once: its processes take a while."""
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
    """Return the name of an engine that is not in this process alone, ready to run."""
    fixture = {"spark": "spark_application", "ray": "ray_cluster"}.get(request.param)
    if fixture:
        request.getfixturevalue(fixture)
    return str(request.param)


def with_spectrum(rows: int, s: NDArray[np.float64], seed: int = 0) -> NDArray[np.float64]:
    """Return a matrix (rows, len(s)) with the singular values s and random singular vectors."""
    rng = np.random.default_rng(seed)
    U, _ = np.linalg.qr(rng.standard_normal((rows, len(s))))
    V, _ = np.linalg.qr(rng.standard_normal((len(s), len(s))))
    return np.asarray((U * s) @ V.T)


def factored(
    matrix: MatrixStore,
    uri: Path,
    *,
    rank: int,
    engine: str = "numpy",
    oversample: int = 5,
    power_iters: int = 1,
    seed: int | None = 0,
    method: str = "auto",
    memory: int = 0,
    dtype: str = "float64",
) -> tuple[FactorStore, NDArray[Any], Spectrum]:
    """Factor and return the store, U as a whole, and what the engine returned."""
    plan = plan_factorization(
        engine=engine,
        rows=matrix.rows,
        cols=matrix.cols,
        rank=rank,
        oversample=oversample,
        power_iters=power_iters,
        seed=seed,
        method=method,
        memory=memory,
    )
    writer = FactorWriter.create(str(uri), matrix, rank=plan.rank, dtype=dtype)
    spectrum = engine_named(engine).load()(matrix, writer, plan)
    writer.finish(s=spectrum.s, V=spectrum.V, plan=plan, matrix=matrix, accuracy=spectrum.accuracy)
    factors = FactorStore.open(str(uri))
    return factors, np.vstack([factors.read_block(index) for index in range(factors.block_count)]), spectrum


def tail(s: NDArray[np.float64], k: int) -> float:
    """Return the Frobenius residual of the optimal rank-k approximation."""
    return float(np.sqrt((s[k:] ** 2).sum()))


def orthonormality(Q: NDArray[Any]) -> float:
    return float(np.linalg.norm(Q.T @ Q - np.eye(Q.shape[1]), 2))


@pytest.mark.parametrize("ratio", [1e-3, 1e-8, 1e-12])
@pytest.mark.parametrize("method", ["exact", "randomized"])
def test_singular_values_are_right_down_to_the_ratio_that_is_promised(
    method: str, ratio: float, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    n, k = 24, 24
    s = 1e5 * np.geomspace(1, ratio, n)
    factors, U, spectrum = factored(store_matrix(with_spectrum(900, s)), tmp_path / "f", rank=k, method=method)
    assert spectrum.accuracy is not None
    # Relative to sigma_k itself: 1e-9 by Gram at 1e-3, and eps / ratio by orthogonal transformations.
    np.testing.assert_allclose(spectrum.s, s, rtol=max(1e-8, 40 * n * EPS / ratio))
    assert orthonormality(U) < 1e-8
    assert orthonormality(factors.V) < 1e-13
    assert np.linalg.norm(with_spectrum(900, s) - U @ factors.weights.T) < 1e-12 * s[0] * n
    if method == "exact":
        assert spectrum.accuracy.valid_to < max(ratio, 1e-12) * 1.001


def test_what_is_below_the_resolution_is_zero_and_the_basis_is_whole(store_matrix: StoreMatrix, tmp_path: Path) -> None:
    s = 1e5 * np.geomspace(1, 1e-18, 24)
    factors, U, spectrum = factored(store_matrix(with_spectrum(900, s)), tmp_path / "f", rank=24, method="exact")
    zeros = int(np.count_nonzero(spectrum.s == 0))
    assert zeros == np.count_nonzero(s < 4 * 24 * EPS * s[0])
    assert f"{zeros} of the 24 singular values are zero" in spectrum.note
    assert orthonormality(U) < 1e-13
    assert orthonormality(factors.V) < 1e-13


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (5, 9), (300, 2), (257, 40), (40, 257), (600, 31)])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_every_shape_and_dtype_gives_an_svd(
    method: str, shape: tuple[int, int], dtype: str, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    A = np.random.default_rng(2).integers(-1000, 3000, shape).astype(dtype)
    k = min(3, *shape)
    factors, U, _ = factored(store_matrix(A), tmp_path / "f", rank=k, method=method, oversample=50, power_iters=2)
    s = np.linalg.svd(A.astype(float), compute_uv=False)
    # p leaves nothing out but where there are more than 53 columns of noise.
    slack = 1.1 if min(shape) > 53 else 1 + 1e-9
    assert np.linalg.norm(A - U @ factors.weights.T) <= slack * tail(s, k) + 1e-9 * s[0]
    assert orthonormality(U) < 1e-7
    assert orthonormality(factors.V) < 1e-9


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("values", [np.zeros((600, 6)), np.full((600, 6), -1000.0)])
def test_a_matrix_of_zeros_or_of_air_has_orthonormal_bases_too(
    method: str, values: NDArray[Any], store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    factors, U, _ = factored(store_matrix(values), tmp_path / "f", rank=4, method=method)
    assert orthonormality(U) < 1e-12
    assert orthonormality(factors.V) < 1e-12
    np.testing.assert_allclose(U @ factors.weights.T, values, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_values_on_disk_are_taken_for_the_float64_that_they_are(
    method: str, dtype: str, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    # More rows than a piece and an odd number of columns, so that pieces are cut and one is short.
    A = np.random.default_rng(0).integers(-1000, 3000, (3 * 256 + 7, 41)).astype(dtype)
    narrow, U, _ = factored(store_matrix(A), tmp_path / "f", rank=6, method=method)
    wide, U_wide, _ = factored(store_matrix(A.astype(float), name="wide.zarr"), tmp_path / "g", rank=6, method=method)
    np.testing.assert_allclose(narrow.s, wide.s, rtol=1e-13)
    np.testing.assert_allclose(U, U_wide, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_one_thread_and_many_give_the_same_bits(
    method: str, store_matrix: StoreMatrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = store_matrix(with_spectrum(5000, 1e4 / np.arange(1, 41)))
    found = []
    for threads in (1, 2, 7):
        monkeypatch.setattr(numpy, "available_cpus", lambda threads=threads: threads)
        factors, U, _ = factored(matrix, tmp_path / "f", rank=6, method=method)
        found.append((U, factors.s, factors.V))
    for other in found[1:]:
        for one, same in zip(other, found[0], strict=True):
            np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("method", METHODS)
def test_a_slice_of_zeros_weighs_nothing_and_repeated_slices_weigh_the_same(
    method: str, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    A = np.random.default_rng(3).integers(-1000, 3000, (600, 6)).astype("int16")
    A[:, 2], A[:, 5] = 0, A[:, 1]
    factors, U, _ = factored(store_matrix(A), tmp_path / "f", rank=6, method=method)
    assert np.count_nonzero(factors.s > 1e-6 * factors.s[0]) == 4
    assert np.abs(factors.weights[2]).max() < 1e-8 * factors.s[0]
    np.testing.assert_allclose(factors.weights[1], factors.weights[5], atol=1e-8 * factors.s[0])
    assert orthonormality(U) < 1e-7
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
    # Theorem 10.5 bounds the expectation for the k + p directions without power iterations, before they are cut to k.
    expected = np.sqrt(1 + k / (p - 1)) * tail(s, k)
    assert tail(s, k) <= np.linalg.norm(A - U @ factors.weights.T) * (1 + 1e-12)
    assert np.linalg.norm(A - U @ factors.weights.T) <= 1.05 * expected
    if power_iters == 2:
        assert np.linalg.norm(A - U @ factors.weights.T) <= 1.01 * tail(s, k)


@pytest.mark.parametrize("method", ["randomized", "single-pass"])
def test_a_seed_is_a_run_and_another_seed_another(method: str, store_matrix: StoreMatrix, tmp_path: Path) -> None:
    matrix = store_matrix(with_spectrum(700, 1e4 / np.arange(1, 41)))
    runs = [
        factored(matrix, tmp_path / "f", rank=5, oversample=2, power_iters=0, seed=seed, method=method)
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    np.testing.assert_array_equal(runs[0][0].V, runs[1][0].V)
    assert np.abs(runs[0][0].s - runs[2][0].s).max() > 1e-6


def test_a_drawn_seed_is_named_and_gives_the_run_again(store_matrix: StoreMatrix, tmp_path: Path) -> None:
    matrix = store_matrix(with_spectrum(700, 1e4 / np.arange(1, 41)))
    first, _, drawn = factored(matrix, tmp_path / "f", rank=5, seed=None, method="randomized")
    seed = int(drawn.note.partition("seed ")[2].partition(";")[0])
    again, _, _ = factored(matrix, tmp_path / "g", rank=5, seed=seed, method="randomized")
    np.testing.assert_array_equal(first.V, again.V)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rank", [3, 39, 40])
@pytest.mark.parametrize("method", METHODS)
def test_the_report_says_the_residual_and_bounds_the_rest(
    method: str, rank: int, dtype: str, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    A = with_spectrum(700, 1e4 / np.arange(1, 41))
    factors, U, spectrum = factored(
        store_matrix(A), tmp_path / "f", rank=rank, oversample=2, power_iters=0, method=method, dtype=dtype
    )
    said = spectrum.accuracy
    assert said is not None
    assert factors.accuracy == vars(said)
    E = A - np.asarray(U, float) @ factors.weights.T
    assert said.norm == pytest.approx(np.linalg.norm(A))
    assert said.residual == pytest.approx(np.linalg.norm(E), abs=said.rounding + 1e-7 * np.linalg.norm(A))
    assert np.linalg.norm(E, 2) <= said.spectral_error + said.rounding
    assert orthonormality(np.asarray(U, float)) <= said.basis_error + 1e-15
    assert said.weights_error == pytest.approx(orthonormality(factors.V))
    assert said.ratio == pytest.approx(spectrum.s[-1] / spectrum.s[0])


def test_the_bound_by_random_vectors_fails_no_more_often_than_it_says() -> None:
    rng = np.random.default_rng(0)
    E = np.diag(np.concatenate([[1.0], np.full(9, 1e-3)]))
    failure, trials = 0.1, 2000
    t = accuracy.quantile(2, failure)
    missed = sum(np.linalg.norm(E @ rng.standard_normal((10, 2)), axis=0).max() / t < 1 for _ in range(trials))
    assert 0.07 < missed / trials < 0.13


def test_the_bound_through_the_normal_matrix_is_the_sharper_one() -> None:
    rng = np.random.default_rng(0)
    E = np.diag(1.0 / np.arange(1, 200))
    w = rng.standard_normal((199, accuracy.PROBE_COUNT))
    assert 1 <= accuracy.normal_norm_bound(E.T @ E @ w) < accuracy.norm_bound(E @ w) / 2


def test_passes_are_as_few_as_the_method_needs(store_matrix: StoreMatrix, tmp_path: Path) -> None:
    matrix = store_matrix(with_spectrum(700, 1e4 / np.arange(1, 41)))
    passes = {}
    for name in METHODS:
        said = factored(matrix, tmp_path / "f", rank=5, power_iters=2, method=name)[2].accuracy
        assert said is not None
        passes[name] = said.passes
        assert said.bytes_read <= said.passes * 700 * 40 * 8
    assert passes == {"exact": 2, "randomized": 4, "single-pass": 1}


def test_a_randomized_run_reads_the_matrix_no_oftener_where_small_singular_values_take_a_qr(
    store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    s = 1e5 * np.geomspace(1, 1e-6, 24)
    said = factored(store_matrix(with_spectrum(900, s)), tmp_path / "f", rank=24, method="randomized")[2]
    assert "by tall-skinny QR" in said.note
    assert said.accuracy is not None
    # q + 2, and one that finds the residual, of which the energy has no digits.
    assert (said.accuracy.passes, said.accuracy.residual_by) == (4, "one more pass over A and U")


@pytest.mark.parametrize("method", ["randomized", "single-pass"])
def test_nothing_of_the_sketch_is_left_beside_the_factors(
    method: str, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    matrix = store_matrix(with_spectrum(700, 1e4 / np.arange(1, 41)))
    factored(matrix, tmp_path / "f", rank=5, method=method)
    assert {path.name for path in (tmp_path / "f").iterdir() if path.is_dir()} >= {"U", "V"}
    assert not (tmp_path / "f" / "sketch").exists()


@pytest.mark.parametrize("oversample", [0, 3, 20])
@pytest.mark.parametrize("power_iters", [0, 2])
def test_the_randomized_bound_of_the_spectral_error_is_the_sum_of_what_is_in_the_span_and_what_is_not(
    oversample: int, power_iters: int, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    s = 1e4 / np.arange(1, 81)
    A, k = with_spectrum(1000, s), 8
    factors, U, spectrum = factored(
        store_matrix(A), tmp_path / "f", rank=k, oversample=oversample, power_iters=power_iters, method="randomized"
    )
    assert spectrum.accuracy is not None
    error = np.linalg.norm(A - U @ factors.weights.T, 2)
    assert error <= spectrum.accuracy.spectral_error
    # ||E||_2^2 is overestimated by (sum of sigma^4)^(1/2) / sigma_(l+1)^2 and the quantile of one of 8 normal numbers.
    following = s[k + oversample :]
    most = np.hypot(s[k], 3 * np.sum(following**4) ** 0.25 / accuracy.quantile() ** 0.5)
    assert spectrum.accuracy.spectral_error <= 1.2 * most
    if oversample == 20:
        assert spectrum.accuracy.spectral_error < 0.8 * spectrum.accuracy.residual


def test_a_matrix_that_fits_is_read_once_and_one_that_does_not_is_read_each_time(
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


def test_a_limit_that_holds_no_block_is_refused_with_what_it_takes(store_matrix: StoreMatrix, tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match=r"memory is limited to 1 MiB(.|\n)*expected: \d+ MiB for one thread"):
        factored(store_matrix(np.ones((600, 3))), tmp_path / "f", rank=2, memory=2**20)


def test_many_columns_are_factored_at_random_and_few_exactly() -> None:
    plan = plan_factorization(
        engine="numpy", rows=9000, cols=method.EXACT_COLUMNS, rank=5, oversample=5, power_iters=1, seed=0
    )
    assert method.resolve_method(plan) == "exact"
    assert method.resolve_method(replace(plan, cols=plan.cols + 1)) == "randomized"


def test_a_basis_that_a_block_cannot_complete_is_refused() -> None:
    with pytest.raises(CtbasisError, match="a row block has 3 rows"):
        complete_basis(np.eye(3)[:, :2], 4)


def test_an_unknown_method_is_refused(store_matrix: StoreMatrix, tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match="method is 'lanczos'"):
        factored(store_matrix(np.ones((600, 3))), tmp_path / "f", rank=2, method="lanczos")


def test_factors_of_a_matrix_that_changed_between_two_passes_are_refused(
    store_matrix: StoreMatrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = store_matrix(with_spectrum(700, 1e4 / np.arange(1, 41)))
    read = type(matrix).read_block
    asked: list[int] = []

    def changing(self: MatrixStore, index: int, **options: Any) -> NDArray[Any]:
        asked.append(index)
        return np.asarray(read(self, index, **options) * (1 if asked.count(index) == 1 else 3))

    monkeypatch.setattr(type(matrix), "read_block", changing)
    held = numpy.held_memory()
    monkeypatch.setattr(numpy, "held_memory", lambda: held)
    plan = plan_factorization(engine="numpy", rows=700, cols=40, rank=5, oversample=5, power_iters=1, seed=0)
    # So little that no block is kept, and each is read in each pass.
    memory = held + numpy.thread_bytes(matrix, plan)
    with pytest.raises(CtbasisError, match=r"the residual of the factors is"):
        factored(matrix, tmp_path / "f", rank=5, memory=memory)


@pytest.mark.parametrize("method", METHODS)
def test_a_chunk_that_is_gone_or_damaged_is_named(method: str, store_matrix: StoreMatrix, tmp_path: Path) -> None:
    matrix = store_matrix(np.random.default_rng(0).standard_normal((700, 5)))
    chunk = Path(matrix.uri) / "A" / "c" / "1" / "0"
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(CtbasisError, match=r"rows 256 to 512: a chunk does not decode"):
        factored(matrix, tmp_path / "f", rank=2, method=method)
    chunk.unlink()
    with pytest.raises(CtbasisError, match=r"rows 256 to 512: values are missing"):
        factored(matrix, tmp_path / "f", rank=2, method=method)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_infinity_is_refused(method: str, value: float, store_matrix: StoreMatrix, tmp_path: Path) -> None:
    A = np.ones((600, 3))
    A[300, 1] = value
    with pytest.raises(CtbasisError, match="NaN or Inf in rows 256 to 512"):
        factored(store_matrix(A), tmp_path / "f", rank=2, method=method)


def test_every_engine_gives_the_factors_of_numpy(distributed: str, store_matrix: StoreMatrix, tmp_path: Path) -> None:
    matrix = store_matrix(with_spectrum(1300, 1e4 / np.arange(1, 41)))
    for name in METHODS:
        ours, U, _ = factored(matrix, tmp_path / "f", rank=6, method=name)
        theirs, U_theirs, spectrum = factored(matrix, tmp_path / "g", rank=6, method=name, engine=distributed)
        np.testing.assert_allclose(theirs.s, ours.s, rtol=1e-12)
        np.testing.assert_allclose(theirs.V, ours.V, atol=1e-9)
        np.testing.assert_allclose(U_theirs, U, atol=1e-9)
        assert spectrum.note == factored(matrix, tmp_path / "f", rank=6, method=name)[2].note


def test_every_engine_is_right_at_small_singular_values(
    distributed: str, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    s = 1e5 * np.geomspace(1, 1e-12, 20)
    _, U, spectrum = factored(store_matrix(with_spectrum(900, s)), tmp_path / "f", rank=20, engine=distributed)
    np.testing.assert_allclose(spectrum.s, s, rtol=1e-2)
    assert orthonormality(U) < 1e-12


def test_every_engine_refuses_in_words_what_a_worker_refuses(
    distributed: str, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    A = np.ones((600, 3))
    A[300, 1] = np.inf
    with pytest.raises(CtbasisError, match="NaN or Inf in rows 256 to 512"):
        factored(store_matrix(A), tmp_path / "f", rank=2, engine=distributed)
