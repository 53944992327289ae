"""Mahout's DS-SVD with every kernel set: the cases of upstream's own tests, and random matrices (Hypothesis).

The bound of the residual is theorem 10.7 of Halko, Martinsson and Tropp. It holds for a Gaussian Omega; Mahout's Omega
is uniform.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctbasis.errors import CtbasisError
from ctbasis.matrix import store
from ctbasis.parameters import LARGEST_SEED
from ctbasis.svd.engines import mahout, mahout_bridge
from ctbasis.svd.factors import FactorStore, FactorWriter
from ctbasis.svd.plan import plan_factorization
from tests.svd.conftest import write_matrix

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from pyspark.sql import SparkSession

pytestmark = [
    pytest.mark.java,
    # PySpark leaves the sockets of its results to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed.*socket:ResourceWarning"),
]


class Factors(NamedTuple):
    """The factors as whole arrays."""

    U: NDArray[Any]
    s: NDArray[np.float64]
    V: NDArray[np.float64]
    note: str

    @property
    def product(self) -> NDArray[np.float64]:
        """U diag(s) V^T."""
        return np.asarray((self.U * self.s) @ self.V.T)


@pytest.fixture(scope="module")
def spark(spark_application: None) -> SparkSession:  # noqa: ARG001 - it starts the session that is returned here
    from pyspark.sql import SparkSession

    return SparkSession.builder.getOrCreate()


@pytest.fixture
def kernels(spark: SparkSession, request: pytest.FixtureRequest) -> Iterator[str]:
    """Select the kernels for a test."""
    spark.sparkContext.setLocalProperty(mahout_bridge.KERNELS, request.param)
    yield request.param
    spark.sparkContext.setLocalProperty(mahout_bridge.KERNELS, None)


def factored(
    A: NDArray[Any], *, rank: int, oversample: int = 15, power_iters: int = 1, block_rows: int = 256, seed: int = 0
) -> Factors:
    """Factor A in row blocks of `block_rows` rows with the selected kernels."""
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "block_rows_for", lambda _: block_rows)
        matrix = write_matrix(f"{scratch}/matrix.zarr", A)
        assert matrix.block_count == -(-len(A) // block_rows)
        plan = plan_factorization(
            engine="mahout",
            rows=matrix.rows,
            cols=matrix.cols,
            rank=rank,
            oversample=oversample,
            power_iters=power_iters,
            seed=seed,
        )
        uri = str(Path(scratch) / "factors.zarr")
        writer = FactorWriter.create(uri, matrix, rank=plan.rank, dtype=np.float64)
        spectrum = mahout.factorize(matrix, writer, plan)
        writer.finish(s=spectrum.s, V=spectrum.V, plan=plan, matrix=matrix)
        factors = FactorStore.open(uri)
        U = np.vstack([factors.read_block(index) for index in range(factors.block_count)])
        return Factors(U, factors.s, factors.V, spectrum.note)


@pytest.mark.parametrize("kernels", mahout_bridge.KERNEL_SETS, indirect=True)
@pytest.mark.parametrize("power_iters", [0, 1, 2])
def test_a_small_matrix_in_two_blocks_is_the_product_of_its_factors(power_iters: int, kernels: str) -> None:
    A = np.array([[2.0, 0, 1, 3], [1, -4, 2, 2], [5, 1, 0, -1], [3, 3, 7, 1], [-2, 6, 1, 4]])
    factors = factored(A, rank=4, power_iters=power_iters, block_rows=3)
    assert np.linalg.norm(A - factors.product) < 1e-5
    assert ("own kernels" in factors.note) == (kernels == "stock")
    assert ("blas" in factors.note.lower()) == (kernels != "stock")
    assert kernels != "java" or "libopenblas" not in factors.note


@pytest.mark.parametrize("kernels", mahout_bridge.KERNEL_SETS, indirect=True)
@pytest.mark.usefixtures("kernels")
def test_the_leading_factors_of_an_exponentially_decaying_spectrum_are_those_of_the_exact_svd() -> None:
    rng = np.random.default_rng(5)
    s = np.maximum(300 * np.exp(-np.arange(40.0)), 1e-3)
    U, _ = np.linalg.qr(np.where(rng.random((500, 40)) < 0.2, 0, rng.random((500, 40)) + 5))
    V, _ = np.linalg.qr(rng.uniform(-1, 1, (40, 40)) - 10)
    A = (U * s) @ V.T
    # dqrThin squares the condition number, which is 300000 here, and so does eigen(B B^T).
    factors = factored(A, rank=8, oversample=4, power_iters=1, block_rows=250)
    np.testing.assert_allclose(factors.s, s[:8], rtol=1e-5)
    np.testing.assert_allclose(np.abs((A @ factors.V)[:10]), np.abs((U * s)[:10, :8]), atol=1e-4)


@pytest.mark.parametrize("kernels", mahout_bridge.KERNEL_SETS, indirect=True)
@pytest.mark.usefixtures("kernels")
def test_the_residual_of_a_500_by_100_matrix_is_nearly_optimal() -> None:
    rng = np.random.default_rng(6)
    s = 100 * 0.8 ** np.arange(100)
    U, V = (np.linalg.qr(rng.standard_normal((rows, 100)))[0] for rows in (500, 100))
    A = (U * s) @ V.T
    factors = factored(A, rank=20, oversample=15, power_iters=1, block_rows=128)
    optimal = float(np.linalg.norm(s[20:]))
    assert optimal <= np.linalg.norm(A - factors.product) <= 1.001 * optimal


def drm_of_blocks(spark: SparkSession, A: NDArray[np.float64], block_rows: int, *, stock: bool) -> Any:
    """Return a DRM of A, for Mahout's own engine (`stock`) or for the block engine."""
    gateway = spark.sparkContext._gateway
    jvm = gateway.jvm
    blocks = jvm.java.util.ArrayList()
    for first in range(0, len(A), block_rows):
        values = A[first : first + block_rows]
        rows = gateway.new_array(jvm.double, *values.shape)
        keys = gateway.new_array(jvm.int, len(values))
        for i, row in enumerate(values):
            keys[i] = first + i
            for j, value in enumerate(row):
                rows[i][j] = float(value)
        blocks.add(jvm.scala.Tuple2(keys, jvm.org.apache.mahout.math.DenseMatrix(rows)))
    rdd = spark.sparkContext._jsc.parallelize(blocks, len(blocks)).rdd()
    return jvm.org.apache.mahout.sparkbindings.blocks.BlockDrm.of(rdd, len(A), A.shape[1], stock)


def numpy_matrix(java: Any) -> NDArray[np.float64]:
    return np.array([[java.get(i, j) for j in range(java.columnSize())] for i in range(java.rowSize())])


@pytest.mark.parametrize("stock", [False, True])
def test_thin_qr_keeps_the_partitioning_and_gives_q_and_r_of_householder_qr(
    *, stock: bool, spark: SparkSession
) -> None:
    A = np.array([[2.0, 0, 1, 3], [1, -4, 2, 2], [5, 1, 0, -1], [3, 3, 7, 1], [-2, 6, 1, 4]])
    math = spark.sparkContext._jvm.org.apache.mahout.math
    none = math.drm.CacheHint.NONE()
    drm = drm_of_blocks(spark, A, 3, stock=stock)
    result = math.decompositions.DQR.dqrThin(drm, True, none)
    assert result._1().partitioningTag() == drm.partitioningTag()
    Q, R = numpy_matrix(result._1().checkpoint(none).collect()), numpy_matrix(result._2())
    Q_exact, R_exact = np.linalg.qr(A)
    signs = np.sign(np.diag(R_exact))
    np.testing.assert_allclose(Q, Q_exact * signs, atol=1e-10)
    np.testing.assert_allclose(R, signs[:, None] * R_exact, atol=1e-10)
    np.testing.assert_allclose(Q.T @ Q, np.eye(4), atol=1e-10)


class Case(NamedTuple):
    """A matrix, given by its spectrum, and the parameters of its factorization."""

    rows: int
    cols: int
    block_rows: int
    dtype: str
    decay: float
    rank: int
    oversample: int
    power_iters: int
    seed: int

    def spectrum(self) -> NDArray[np.float64]:
        """Singular values before rounding."""
        return np.asarray(1000 * np.exp(-self.decay * np.arange(min(self.rows, self.cols))))

    def matrix(self) -> NDArray[Any]:
        """Return A, in its dtype."""
        rng = np.random.default_rng(self.seed)
        s = self.spectrum()
        U, V = (np.linalg.qr(rng.standard_normal((size, len(s))))[0] for size in (self.rows, self.cols))
        A = (U * s) @ V.T
        return (np.round(A) if self.dtype == "int16" else A).astype(self.dtype)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Draw a case; the block layouts range from one row per block over a shorter last block to a single block."""
    rows, cols = draw(st.integers(2, 40)), draw(st.integers(1, 10))
    return Case(
        rows=rows,
        cols=cols,
        block_rows=draw(st.sampled_from(sorted({1, 2, max(1, rows // 3), rows - 1, rows}))),
        dtype=draw(st.sampled_from(["int16", "float32", "float64"])),
        # At this decay sigma_n is at least about 10, so rounding to whole numbers keeps the full rank.
        decay=draw(st.sampled_from([0.0, 0.2, 0.5])),
        rank=draw(st.integers(1, min(rows, cols))),
        oversample=draw(st.integers(0, 8)),
        power_iters=draw(st.integers(0, 2)),
        seed=draw(st.integers(0, LARGEST_SEED)),
    )


def by_both(spark: SparkSession, case: Case, A: NDArray[Any]) -> Iterator[Factors]:
    """Yield the factors of the replaced kernels and of Mahout's own."""
    for kernels in ("replaced", "stock"):
        spark.sparkContext.setLocalProperty(mahout_bridge.KERNELS, kernels)
        try:
            yield factored(
                A,
                rank=case.rank,
                oversample=case.oversample,
                power_iters=case.power_iters,
                block_rows=case.block_rows,
                seed=case.seed,
            )
        finally:
            spark.sparkContext.setLocalProperty(mahout_bridge.KERNELS, None)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(case=cases())
def test_both_kernel_sets_give_the_same_factors_within_the_bound_for_any_blocks_and_dtype(
    spark: SparkSession, case: Case
) -> None:
    A = case.matrix()
    exact = np.linalg.svd(A.astype(np.float64), compute_uv=False)
    k, p = case.rank, min(case.oversample, len(exact) - case.rank)
    rounding = 1e-8 * exact[0]
    both = list(by_both(spark, case, A))
    for factors in both:
        np.testing.assert_allclose(factors.U.T @ factors.U, np.eye(k), atol=mahout.ORTHONORMALITY_TOLERANCE)
        np.testing.assert_allclose(factors.V.T @ factors.V, np.eye(k), atol=mahout.ORTHONORMALITY_TOLERANCE)
        assert (np.diff(factors.s) <= 0).all()
        # Cauchy interlacing: no singular value of Q^T A is above that of A.
        assert (factors.s <= exact[:k] + rounding).all()
        optimal, residual = np.linalg.norm(exact[k:]), np.linalg.norm(A - factors.product)
        assert optimal - rounding <= residual
        if k + p == len(exact):
            assert residual <= optimal + rounding
        elif p >= 4:
            # HMT 10.7 with t = u = 4; truncating Q^T A to rank k adds at most the optimal residual.
            t = u = 4.0
            bound = (1 + t * np.sqrt(3 * k / (p + 1))) * optimal
            bound += u * t * np.e * np.sqrt(k + p) / (p + 1) * exact[k]
            assert residual <= bound + optimal + rounding
    replaced, stock = both
    np.testing.assert_allclose(replaced.s, stock.s, atol=rounding)
    if case.decay:  # the order of the vectors of equal singular values is arbitrary
        np.testing.assert_allclose(replaced.product, stock.product, atol=1e-6 * exact[0])


@settings(max_examples=4, deadline=None, derandomize=True)
@given(case=cases(), present=st.integers(1, 3))
def test_both_kernel_sets_store_zeros_for_missing_rank_and_complete_the_bases(
    spark: SparkSession, case: Case, present: int
) -> None:
    shape = (max(case.rows, 12), case.cols + present)
    case = case._replace(rows=shape[0], cols=shape[1], block_rows=11, dtype="float64", decay=0.3)
    rng = np.random.default_rng(case.seed)
    A = rng.standard_normal((shape[0], present)) @ rng.standard_normal((present, shape[1]))
    case = case._replace(rank=min(shape[1], 11))
    for factors in by_both(spark, case, A):
        exact = np.linalg.svd(A, compute_uv=False)
        np.testing.assert_allclose(factors.s[:present], exact[:present], rtol=1e-6)
        assert (factors.s[present:] == 0).all()
        np.testing.assert_allclose(factors.U.T @ factors.U, np.eye(case.rank), atol=mahout.ORTHONORMALITY_TOLERANCE)
        np.testing.assert_allclose(factors.V.T @ factors.V, np.eye(case.rank), atol=mahout.ORTHONORMALITY_TOLERANCE)
        np.testing.assert_allclose(factors.product, A, atol=1e-6 * exact[0])


def test_a_first_block_with_too_few_rows_to_complete_the_basis_is_an_error() -> None:
    A = np.outer(np.arange(1.0, 7), [1.0, 2, 3])
    with pytest.raises(CtbasisError, match="a row block has 1 rows"):
        factored(A, rank=3, block_rows=1)


def test_unknown_kernels_are_an_error(spark: SparkSession) -> None:
    spark.sparkContext.setLocalProperty(mahout_bridge.KERNELS, "cuda")
    try:
        with pytest.raises(CtbasisError, match="kernels=cuda") as raised:
            factored(np.eye(3), rank=1)
    finally:
        spark.sparkContext.setLocalProperty(mahout_bridge.KERNELS, None)
    assert "one of replaced, java, stock" in str(raised.value)


def test_the_seed_of_the_plan_determines_omega() -> None:
    A = Case(300, 40, 100, "float64", 0.05, 5, 0, 0, 0).matrix()
    one, again, other = (
        factored(A, rank=5, oversample=2, power_iters=0, block_rows=100, seed=seed) for seed in (1, 1, 2)
    )
    assert (one.V == again.V).all()
    assert (one.U == again.U).all()
    assert np.abs(one.V - other.V).max() > 1e-3
    assert "Omega drawn from seed 1" in one.note


@pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
@pytest.mark.usefixtures("spark")
def test_large_blocks_that_are_multiplied_in_parts_give_the_same_factors_as_small_blocks(dtype: str) -> None:
    rng = np.random.default_rng(8)
    spectrum = 4000 * 0.9 ** np.arange(300)
    A = ((rng.standard_normal((4400, 300)) * spectrum) @ rng.standard_normal((300, 300)) / 50).astype(dtype)
    # A part has at most 2^19 values, here 1,747 rows.
    large, small = (factored(A, rank=6, power_iters=1, block_rows=rows) for rows in (4000, 500))
    np.testing.assert_allclose(large.s, small.s, rtol=1e-10)
    np.testing.assert_allclose(large.U, small.U, atol=1e-8)
    again = factored(A, rank=6, power_iters=1, block_rows=4000)
    assert (large.V == again.V).all()
    assert (large.U == again.U).all()


@pytest.mark.parametrize("cols", [40, 6000])
@pytest.mark.usefixtures("spark")
def test_products_that_are_added_up_in_groups_of_partitions_give_the_same_factors(
    cols: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With 6,000 columns the sum of a product has more than 2 MiB, and two tasks of the shuffle share it.
    A = Case(300, cols, 20, "float64", 0.05, 25, 25, 1, 0).matrix()
    apart = factored(A, rank=25, oversample=20, power_iters=1, block_rows=30)
    monkeypatch.setattr(mahout, "configured_slots", lambda *_: 2)
    grouped = factored(A, rank=25, oversample=20, power_iters=1, block_rows=30)
    np.testing.assert_allclose(grouped.s, apart.s, rtol=1e-10)
    np.testing.assert_allclose(grouped.product, apart.product, atol=1e-8 * apart.s[0])


def test_parts_of_row_blocks_of_u_are_joined_to_whole_row_blocks(tmp_path: Path) -> None:
    U = np.random.default_rng(9).standard_normal((7, 2)).astype("<f4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "block_rows_for", lambda _: 4)
        matrix = write_matrix(str(tmp_path / "matrix.zarr"), np.zeros((7, 2)))
    parts = [b"".join(mahout_bridge.encode(first, U[first:last])) for first, last in ((0, 1), (1, 6), (6, 7))]
    blocks = dict(mahout.join_blocks(parts, matrix, np.array([1.0, -1.0])))
    assert list(blocks) == [0, 1]
    np.testing.assert_array_equal(np.vstack(list(blocks.values())), U * [1, -1])


@pytest.mark.usefixtures("spark")
def test_a_partition_has_at_most_a_few_blocks_and_one_with_the_stock_kernels() -> None:
    A = np.random.default_rng(7).standard_normal((100, 3))
    np.testing.assert_allclose(factored(A, rank=3, block_rows=1).product, A, atol=1e-10)
    assert mahout.partitions(100, cores=2, stock=True) == 100
    assert mahout.partitions(100, cores=2, stock=False) == 13
    assert mahout.partitions(5, cores=2, stock=False) == 5
    for blocks, cores in ((7, 1), (10**5, 64), (10**3, 640)):
        assert blocks <= mahout.BLOCKS_PER_TASK * mahout.partitions(blocks, cores=cores, stock=False)
