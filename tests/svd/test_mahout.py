"""Mahout's DS-SVD on Spark: against NumPy's SVD, and within the bounds of Halko, Martinsson and Tropp."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctbasis.errors import CtbasisError
from ctbasis.matrix import store
from ctbasis.svd.engines import mahout, mahout_bridge
from ctbasis.svd.factors import FactorStore, FactorWriter
from ctbasis.svd.plan import plan_factorization
from tests.svd.factoring import tail, with_spectrum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from pyspark.sql import SparkSession

    from ctbasis.matrix.store import MatrixStore

    StoreMatrix = Callable[..., MatrixStore]

pytestmark = [
    pytest.mark.java,
    # PySpark leaves the sockets of its results to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed.*socket:ResourceWarning"),
]

JAR = Path(__file__).parents[2] / "images" / "spark" / "mahout" / "target" / "ctbasis-mahout.jar"

COLUMNS = 30
K, P = 10, 10
SPECTRA = {
    "slowly decaying": 1e5 / np.arange(1, COLUMNS + 1),
    "fast decaying": 1e5 * np.exp(-np.arange(COLUMNS) / 3),
    "rank 5": np.concatenate([[500.0, 400, 300, 200, 100], np.zeros(COLUMNS - 5)]),
}


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    if not JAR.exists():
        pytest.fail(f"{JAR.name} is missing; `make setup` builds it")
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.master("local[2]").config("spark.jars", str(JAR))
    settings = {
        **mahout_bridge.REQUIRED_CONF,
        "spark.driver.memory": "1g",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
    }
    for key, value in settings.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    yield session
    session.stop()


@pytest.fixture(autouse=True)
def small_blocks(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - every test needs Spark
    """Give stores the smallest possible row blocks, 256 rows, so that small matrices have several."""
    monkeypatch.setattr(store, "BLOCK_ELEMENTS", 1)


def factored(
    matrix: MatrixStore, uri: Path, *, rank: int, oversample: int = P, power_iters: int = 2, seed: int | None = 0
) -> tuple[FactorStore, NDArray[Any], str]:
    """Factor `matrix`; return the factor store, the whole U, and the engine's note."""
    plan = plan_factorization(
        engine="mahout",
        rows=matrix.rows,
        cols=matrix.cols,
        rank=rank,
        oversample=oversample,
        power_iters=power_iters,
        seed=seed,
    )
    writer = FactorWriter.create(str(uri), matrix, rank=plan.rank, dtype=np.float64)
    spectrum = mahout.factorize(matrix, writer, plan)
    writer.finish(s=spectrum.s, V=spectrum.V, plan=plan, matrix=matrix)
    factors = FactorStore.open(str(uri))
    U = np.vstack([factors.read_block(index) for index in range(factors.block_count)])
    return factors, U, spectrum.note


def residual(A: NDArray[Any], factors: FactorStore, U: NDArray[Any]) -> float:
    """Return ||A - U diag(s) V^T||_F."""
    return float(np.linalg.norm(A - U @ factors.weights.T))


@pytest.mark.parametrize("power_iters", [0, 1, 2])
@pytest.mark.parametrize("name", SPECTRA)
def test_the_factors_meet_the_error_bounds_of_the_theory(
    name: str, power_iters: int, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    s = SPECTRA[name]
    A = with_spectrum(1000, s)
    matrix = store_matrix(A)
    assert matrix.block_count == 4
    factors, U, _ = factored(matrix, tmp_path / "f.zarr", rank=K, power_iters=power_iters)

    np.testing.assert_allclose(U.T @ U, np.eye(K), atol=mahout.ORTHONORMALITY_TOLERANCE)
    np.testing.assert_allclose(factors.V.T @ factors.V, np.eye(K), atol=mahout.ORTHONORMALITY_TOLERANCE)
    # Singular values of Q^T A: in descending order, and none above that of A at the same place (Cauchy interlacing).
    assert (np.diff(factors.s) <= 0).all()
    assert (factors.s <= s[:K] + 1e-9 * s[0]).all()
    # HMT theorem 10.5 for the range; truncating Q^T A to rank k adds at most the optimal residual.
    best, rounding = tail(s, K), 1e-9 * s[0]
    assert residual(A, factors, U) <= np.sqrt(2 + K / (P - 1)) * best + rounding
    if power_iters == 2:
        assert residual(A, factors, U) <= 1.01 * best + rounding


def test_power_iterations_reduce_the_residual_towards_the_optimum(store_matrix: StoreMatrix, tmp_path: Path) -> None:
    s = SPECTRA["slowly decaying"]
    A = with_spectrum(1000, s)
    matrix = store_matrix(A)
    residuals = []
    for power_iters in range(3):
        factors, U, _ = factored(matrix, tmp_path / f"{power_iters}", rank=K, oversample=2, power_iters=power_iters)
        residuals.append(residual(A, factors, U))
    assert residuals[0] > residuals[1] > residuals[2] > tail(s, K)


def test_singular_vectors_span_the_subspaces_of_numpys_svd(store_matrix: StoreMatrix, tmp_path: Path) -> None:
    A = with_spectrum(1000, SPECTRA["fast decaying"])
    factors, U, _ = factored(store_matrix(A), tmp_path / "f.zarr", rank=K)
    U_exact, s_exact, Vt_exact = np.linalg.svd(A, full_matrices=False)
    np.testing.assert_allclose(factors.s, s_exact[:K], rtol=1e-9)
    for computed, exact in ((U, U_exact[:, :K]), (factors.V, Vt_exact[:K].T)):
        sines = np.linalg.norm(computed - exact @ (exact.T @ computed), axis=0)
        assert sines.max() < 1e-5


def test_at_full_rank_oversampling_is_reduced_and_the_product_of_the_factors_is_the_matrix(
    store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    A = with_spectrum(1000, SPECTRA["slowly decaying"])
    factors, U, _ = factored(store_matrix(A), tmp_path / "f.zarr", rank=COLUMNS)
    np.testing.assert_allclose(U @ factors.weights.T, A, atol=1e-10 * factors.s[0])
    np.testing.assert_allclose(factors.s, SPECTRA["slowly decaying"], rtol=1e-10)


@pytest.mark.parametrize("shape", [(1000, 1), (300, 2), (40, 30), (30, 30), (20, 30), (1, 5)])
def test_narrow_square_wide_and_one_column_matrices_are_the_products_of_their_factors(
    shape: tuple[int, int], store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    A = np.random.default_rng(1).standard_normal(shape)
    factors, U, _ = factored(store_matrix(A), tmp_path / "f.zarr", rank=min(shape), power_iters=1)
    np.testing.assert_allclose(U @ factors.weights.T, A, atol=1e-8)
    np.testing.assert_allclose(factors.s, np.linalg.svd(A, compute_uv=False), rtol=1e-8)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_values_of_every_dtype_reach_the_jvm_unchanged(dtype: type, store_matrix: StoreMatrix, tmp_path: Path) -> None:
    A = np.random.default_rng(2).integers(-1000, 3072, (600, 6)).astype(dtype)
    factors, U, _ = factored(store_matrix(A), tmp_path / "f.zarr", rank=6)
    np.testing.assert_allclose(U @ factors.weights.T, A, atol=1e-8)


def test_a_rank_deficient_matrix_has_zero_singular_values_and_complete_bases_and_the_note_says_so(
    store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    A = with_spectrum(1000, SPECTRA["rank 5"])
    factors, U, note = factored(store_matrix(A), tmp_path / "f.zarr", rank=COLUMNS)
    np.testing.assert_allclose(factors.s[:5], SPECTRA["rank 5"][:5], rtol=1e-10)
    assert (factors.s[5:] == 0).all()
    np.testing.assert_allclose(U.T @ U, np.eye(COLUMNS), atol=1e-12)
    np.testing.assert_allclose(factors.V.T @ factors.V, np.eye(COLUMNS), atol=1e-12)
    np.testing.assert_allclose(U @ factors.weights.T, A, atol=1e-10 * factors.s[0])
    assert "only 5 singular values are above" in note
    assert "25 of the 30 are stored as zero" in note


def test_the_factors_are_orthonormal_even_if_the_gram_matrix_has_no_correct_digits(
    store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    s = 10.0 ** -np.arange(float(COLUMNS))
    A = with_spectrum(1000, s)
    factors, U, _ = factored(store_matrix(A), tmp_path / "f.zarr", rank=K, power_iters=0)
    np.testing.assert_allclose(U.T @ U, np.eye(K), atol=mahout.ORTHONORMALITY_TOLERANCE)
    np.testing.assert_allclose(factors.V.T @ factors.V, np.eye(K), atol=mahout.ORTHONORMALITY_TOLERANCE)
    assert np.linalg.norm(A - U @ factors.weights.T, 2) <= 10 * max(mahout.RESOLUTIONS)


def test_a_matrix_of_zeros_is_an_error(store_matrix: StoreMatrix, tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match="contains nothing but zeros"):
        factored(store_matrix(np.zeros((300, 4), np.int16)), tmp_path / "f.zarr", rank=2)


def test_infinity_is_an_error_without_a_java_stack_trace(store_matrix: StoreMatrix, tmp_path: Path) -> None:
    A = np.ones((600, 3), np.float32)
    A[300, 1] = np.inf
    with pytest.raises(CtbasisError) as raised:
        factored(store_matrix(A), tmp_path / "f.zarr", rank=2)
    assert "NaN or Inf in rows 256 to 512" in str(raised.value)
    assert "expected: finite numbers" in str(raised.value)
    assert "\tat " not in str(raised.value)


def test_the_seed_determines_the_factors_and_the_note_names_a_randomly_drawn_one(
    store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    matrix = store_matrix(with_spectrum(1000, SPECTRA["slowly decaying"]))

    def factors_for(seed: int | None, name: str) -> tuple[NDArray[np.float64], str]:
        factors, _, note = factored(matrix, tmp_path / name, rank=K, power_iters=0, seed=seed)
        return factors.V, note

    drawn, note = factors_for(None, "drawn")
    named = int(note.split("seed ")[1].split()[0])
    np.testing.assert_allclose(factors_for(named, "again")[0], drawn, atol=1e-8)
    assert np.abs(factors_for(named + 1, "other")[0] - drawn).max() > 1e-3


def test_the_largest_entry_of_each_right_singular_vector_is_positive(store_matrix: StoreMatrix, tmp_path: Path) -> None:
    factors, _, _ = factored(store_matrix(with_spectrum(500, SPECTRA["fast decaying"])), tmp_path / "f.zarr", rank=K)
    assert (factors.V[np.abs(factors.V).argmax(axis=0), range(K)] > 0).all()


def test_stock_and_replaced_kernels_give_the_same_factors(
    spark: SparkSession, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    matrix = store_matrix(with_spectrum(1000, SPECTRA["slowly decaying"]))
    replaced, U_replaced, note = factored(matrix, tmp_path / "replaced", rank=K, power_iters=1)
    assert "replaced kernels" in note
    spark.sparkContext.setLocalProperty(mahout_bridge.KERNELS, "stock")
    try:
        stock, U_stock, note = factored(matrix, tmp_path / "stock", rank=K, power_iters=1)
    finally:
        spark.sparkContext.setLocalProperty(mahout_bridge.KERNELS, None)
    assert "its own kernels" in note
    np.testing.assert_allclose(stock.s, replaced.s, rtol=1e-10)
    np.testing.assert_allclose(stock.V, replaced.V, atol=1e-8)
    np.testing.assert_allclose(U_stock, U_replaced, atol=1e-8)


def java_matrix(spark: SparkSession, values: NDArray[np.float64]) -> Any:
    """Return a Mahout DenseMatrix of `values`."""
    gateway = spark.sparkContext._gateway
    rows = gateway.new_array(gateway.jvm.double, *values.shape)
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            rows[i][j] = float(value)
    return gateway.jvm.org.apache.mahout.math.DenseMatrix(rows)


def numpy_matrix(java: Any) -> NDArray[np.float64]:
    return np.array([[java.get(i, j) for j in range(java.columnSize())] for i in range(java.rowSize())])


@pytest.mark.parametrize("class_name", ["CholeskyDecomposition", "StockCholeskyDecomposition"])
def test_the_replaced_and_the_stock_cholesky_give_the_same_factor_as_numpy(
    class_name: str, spark: SparkSession
) -> None:
    rng = np.random.default_rng(4)
    Y, Z = rng.standard_normal((20, 6)), rng.standard_normal((5, 6))
    gram = Y.T @ Y
    cholesky = getattr(spark.sparkContext._jvm.org.apache.mahout.math, class_name)(java_matrix(spark, gram), False)
    L = np.linalg.cholesky(gram)
    assert cholesky.isPositiveDefinite()
    np.testing.assert_allclose(numpy_matrix(cholesky.getL()), L, atol=1e-12)
    solved = numpy_matrix(cholesky.solveRight(java_matrix(spark, Z)))
    np.testing.assert_allclose(solved, Z @ np.linalg.inv(L.T), atol=1e-12)
    np.testing.assert_allclose(
        numpy_matrix(cholesky.solveLeft(java_matrix(spark, Z.T))), np.linalg.inv(L) @ Z.T, atol=1e-12
    )


@pytest.mark.parametrize("class_name", ["CholeskyDecomposition", "StockCholeskyDecomposition"])
@pytest.mark.parametrize(("pivot", "definite"), [(1e-9, True), (1e-11, False), (0.0, False)])
def test_both_cholesky_classes_call_a_pivot_degenerate_below_1e_minus_10_of_its_column(
    class_name: str, pivot: float, definite: bool, spark: SparkSession
) -> None:
    # The second pivot is `pivot`, and the largest element of its column is the 1 below it.
    gram = np.array([[4.0, 0.0, 0.0], [0.0, pivot, 1.0], [0.0, 1.0, 2.0 / max(pivot, 1e-12)]])
    cholesky = getattr(spark.sparkContext._jvm.org.apache.mahout.math, class_name)(java_matrix(spark, gram), False)
    assert cholesky.isPositiveDefinite() is definite


def test_a_matrix_beyond_javas_index_range_is_an_error_before_anything_runs() -> None:
    mahout_bridge.check_limits(2**31 - 1, 300, 16384)
    with pytest.raises(CtbasisError, match="the matrix has 2147483648 rows"):
        mahout_bridge.check_limits(2**31, 300, 16384)
    with pytest.raises(CtbasisError, match="a row block has 65536 x 5000 values"):
        mahout_bridge.check_limits(2**20, 5000, 65536)
