"""Apache Mahout's DS-SVD on Spark: blocks of A become a Mahout DRM, Mahout's own `dssvd` runs, and blocks of U return.

This module passes data to Mahout and checks the results; the algorithm is Mahout's (images/spark/mahout). These are its
properties and limits:

- `dssvd` orthonormalizes by the Cholesky factor of Y^T Y and computes s from eigen(B B^T). Both square the condition
  number: singular values much smaller than the largest lose half their digits, and from `RESOLUTIONS` down they cannot
  be distinguished from zero. Those are stored as zeros, with vectors that complete the orthonormal bases, and the note
  says how many there are.
- The factors are checked before the store is marked as complete: U^T U and V^T V, formed on the way, must be the
  identity. The tasks that write U read A from the store again, and U as stored, for the error report.
- `dssvd` has no seed parameter: it takes the seed of Omega from Mahout's class RandomUtils. The jar replaces this class
  by one whose seed can be set, so the plan's seed determines Omega with all kernels.
- Row keys are Java ints, and a block is one Java array: a matrix has at most 2^31 - 1 rows, and a block has at most
  2^31 - 1 bytes.

`ctbasis/svd/engines/mahout_bridge.py` has the settings, the limits and the byte format of row blocks.
"""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from ctbasis.errors import CtbasisError
from ctbasis.svd.basis import complete_basis, fixed_signs
from ctbasis.svd.engines.mahout_bridge import (
    check_limits,
    decode,
    encode,
    java_class,
    resolve_kernels,
    spark_context,
)
from ctbasis.svd.engines.spark import SparkWorkers, StoredBlocks, errors_of_tasks
from ctbasis.svd.engines.spark_broadcast import broadcast
from ctbasis.svd.engines.spark_tasks import TASKS_PER_CORE, combined, configured_slots, slots
from ctbasis.svd.factor_passes import completed
from ctbasis.svd.factors import FactorWriter
from ctbasis.svd.passes import add
from ctbasis.svd.randomized import resolve_seed
from ctbasis.svd.spectrum import Spectrum
from ctbasis.svd.verify import accuracy_of, residual_pass
from ctbasis.svd.workers import StoredMatrix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark import RDD, SparkContext

    from ctbasis.matrix.store import MatrixStore
    from ctbasis.svd.engines.spark_broadcast import Shared
    from ctbasis.svd.factor_passes import Residual
    from ctbasis.svd.passes import Parts
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.spectrum import Accuracy
    from ctbasis.svd.workers import WorkersFactory

ORTHONORMALITY_TOLERANCE = 1e-6
"""Largest accepted difference between an element of U^T U or V^T V and that of the identity."""

RESOLUTIONS = (1e-5, 1e-4)
"""Fractions of the largest singular value below which a singular value counts as zero; tried in turn after a run has
failed."""

JAVA_LONG_MAX = 2**63 - 1

BLOCKS_PER_TASK = 8
"""Largest number of row blocks of a partition: Spark keeps a partition in memory, or evicts it, as a whole."""


def factorize(matrix: MatrixStore, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Factor `matrix` by Mahout's `dssvd` in the Spark application that this process drives.

    Args:
        matrix: A; each partition reads its own row block.
        factors: U; each partition writes its own row block.
        plan: k, p, q and seed; if the seed is None, one is drawn, and the note names it.

    Raises:
        CtbasisError: The seed is negative; Spark lacks the jar or a setting; A is too large for Mahout, is zero, or
            contains NaN or Inf; or the singular values decay so fast that no orthonormal factors come out.
    """
    check_limits(matrix.rows, matrix.cols, min(matrix.block_rows, matrix.rows))
    run = _DsSvdRun(spark_context(), matrix, factors, plan)
    k, p = plan.rank, plan.oversample
    spectrum = run.dssvd(k, p)
    if spectrum is not None:
        return spectrum
    sigma = run.projected_singular_values(k + p)
    for resolution in RESOLUTIONS:
        present = min(k + p, int(np.count_nonzero(sigma > resolution * sigma[0])))
        if not present:
            raise CtbasisError(
                f"matrix {matrix.uri} contains nothing but zeros",
                expected="HU; air is -1000",
                cause="the pixels of the source are all 0 HU",
                remedy="look at qc.json of the matrix step, and check the source",
            )
        if present == k + p:
            continue  # k and p would be those of the run that failed.
        k_run = min(k, present)
        p_run = present - k_run
        spectrum = run.dssvd(k_run, p_run)
        if spectrum is not None:
            note = (
                f"{spectrum.note}; only {present} singular values are above {resolution:g} of the largest, so "
                f"k={k_run} and p={p_run} were run and {k - k_run} of the {k} are stored as zero"
            )
            return replace(spectrum, note=note)
    raise CtbasisError(
        f"matrix {matrix.uri}: Mahout's DS-SVD gives no orthonormal factors at rank {k}, nor at a smaller rank whose "
        "singular values are distinguishable from zero",
        expected="factors with U^T U = V^T V = I",
        cause="the singular values decay so fast that the Cholesky factor of Y^T Y has no correct digits",
        remedy="ask for a smaller rank, or choose --engine numpy, which is exact",
    )


@contextmanager
def open_workers(cluster: str = "", memory: int = 0) -> Iterator[WorkersFactory]:
    """Yield a function that returns the executors of a Spark application that can run Mahout as workers on a matrix.

    Args:
        cluster: Ignored; the application is the one that this process drives.
        memory: Ignored; the settings of the Spark application decide.

    Raises:
        CtbasisError: Spark lacks the jar or a setting.
    """
    del cluster, memory
    spark = spark_context()
    yield lambda matrix, _bytes: SparkWorkers(spark, matrix, StoredBlocks(spark, matrix))


class _DsSvdRun:
    """The passes over one matrix for one plan, in one Spark application."""

    def __init__(self, spark: SparkContext, matrix: MatrixStore, factors: FactorWriter, plan: Plan) -> None:
        self.spark, self.matrix, self.factors, self.plan = spark, matrix, factors, plan
        self.seed = resolve_seed(plan)
        self.stored = StoredMatrix(matrix.uri, uuid.uuid4().hex)
        self.kernels = resolve_kernels(spark)
        self.reads = 0

    def blocks(self) -> RDD[int]:
        """Return an RDD of the indices of the row blocks.

        It has one partition for each block with Mahout's stock kernels, and fewer otherwise, because starting a task
        and its Python worker takes as long as multiplying a block.
        """
        count = self.matrix.block_count
        stock = self.kernels == "stock"
        return self.spark.parallelize(range(count), partitions(count, cores=slots(self.spark), stock=stock))

    def dssvd(self, k: int, p: int) -> Spectrum | None:
        """Run Mahout's dssvd at k and p and write U; return None if the factors are not orthonormal.

        Columns from k up to the plan's rank belong to singular values of zero and complete the bases.
        """
        from py4j.protocol import Py4JJavaError
        from pyspark.serializers import NoOpSerializer

        self.reads += 1
        # The Java side of a context and of an RDD is private in PySpark, and there is no public way to it.
        A = self.blocks().mapPartitions(partial(encode_blocks, self.stored))._reserialize(NoOpSerializer())  # noqa: SLF001
        groups = configured_slots(self.spark.getConf(), self.spark.master) or None
        run = java_class(self.spark, "DsSvd")(self.spark._jsc, self.kernels, groups)  # noqa: SLF001
        try:
            with errors_of_tasks():
                self.spark.setJobDescription(f"dssvd k={k} p={p} q={self.plan.power_iters}")
                seed = self.seed % (JAVA_LONG_MAX + 1)
                run.run(A._jrdd, self.matrix.rows, self.matrix.cols, k, p, self.plan.power_iters, seed)  # noqa: SLF001
                note = f"Mahout 14.1 dssvd, {run.kernels()}; Omega drawn from seed {self.seed}"
                s, V = decode(run.s())[1][0], decode(run.V())[1]
                if not is_orthonormal(V.T @ V):
                    return None
                signs = fixed_signs(V)
                s, V = np.pad(s, (0, self.plan.rank - k)), complete_basis(V * signs, self.plan.rank)
                check = residual_pass(s, V, self.factors.uri, seed=self.seed)
                self.spark.setJobDescription("write U")
                gram, *residual = self.write(run.U(np.dtype(self.factors.dtype).itemsize), signs, check)
                if not is_orthonormal(gram):
                    return None
                return Spectrum(s=s, V=V, note=note, accuracy=self.accuracy(check, tuple(residual), s, V))
        except Py4JJavaError as error:
            if error.java_exception.getClass().getSimpleName() == "RankDeficientException":
                return None
            raise
        finally:
            run.close()

    def write(self, U: Any, signs: NDArray[np.float64], check: Residual) -> Parts:
        """Write U, each row block by the task that has it; return U^T U, followed by the result of `check`."""
        from pyspark import RDD
        from pyspark.serializers import NoOpSerializer

        task = partial(write_blocks, matrix=self.stored, signs=signs)
        shared = broadcast(self.spark, check)
        self.reads += 1
        return self.total(RDD(U, self.spark, NoOpSerializer()).mapPartitions(lambda blocks: task(blocks, check=shared)))

    def projected_singular_values(self, width: int) -> NDArray[np.float64]:
        """Return the singular values of A Omega in descending order.

        Omega is wide enough that the first `width` of them are close to those of A.
        """
        n = self.matrix.cols
        Omega = np.eye(n)
        if 2 * width < n:
            Omega = np.random.default_rng(self.seed).standard_normal((n, 2 * width))
        self.spark.setJobDescription("count the singular values above zero")
        task = partial(project_blocks, self.stored, broadcast(self.spark, Omega))
        self.reads += 1
        (gram,) = self.total(self.blocks().mapPartitions(task))
        return np.asarray(np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0)))

    def accuracy(self, check: Residual, parts: Parts, s: NDArray[np.float64], V: NDArray[np.float64]) -> Accuracy:
        """Return the error report of the factors."""
        return accuracy_of(
            check,
            parts,
            s=s,
            V=V,
            dtype=self.factors.dtype,
            # 2 for each power iteration, 2 before them, and 2 for U: one computes Y from A again (unless Y is narrow
            # and was kept), and one compares U with A.
            passes=4 + 2 * self.plan.power_iters,
            # The executors keep A in memory or on their own disks, so not every pass reads the store.
            bytes_read=self.reads * self.matrix.rows * self.matrix.cols * self.matrix.dtype.itemsize,
            valid_to=RESOLUTIONS[0],
        )

    def total(self, parts: RDD[Parts]) -> Parts:
        """Add up the small matrices of all partitions."""
        return combined(parts, add)


def partitions(blocks: int, *, cores: int, stock: bool) -> int:
    """Return the number of partitions for `blocks` row blocks; `stock` is whether Mahout's stock kernels run."""
    return blocks if stock else min(blocks, max(TASKS_PER_CORE * cores, -(-blocks // BLOCKS_PER_TASK)))


def encode_blocks(matrix: StoredMatrix, indices: Iterable[int]) -> Iterator[bytes | memoryview]:
    """Yield the row blocks of `indices`, encoded by `encode`."""
    for rows, values in matrix.blocks(indices):
        check_finite(values, rows)
        yield from encode(rows.start, values)


def check_finite(values: NDArray[Any], rows: slice) -> None:
    """Check that the values of a row block are finite.

    Raises:
        CtbasisError: The values contain NaN or Inf.
    """
    # The sum needs no second array. It is finite if all values are, unless it overflows; then each value is checked.
    if values.dtype.kind == "f" and not np.isfinite(values.sum()) and not np.isfinite(values).all():
        raise CtbasisError(
            f"NaN or Inf in rows {rows.start} to {rows.stop} of the matrix",
            expected="finite HU",
            cause="the matrix was not written by the matrix step, or its source contains such values",
            remedy="run the matrix step again and look at qc.json",
        )


def project_blocks(matrix: StoredMatrix, Omega: Shared[NDArray[np.float64]], indices: Iterable[int]) -> Iterator[Parts]:
    """Yield Y_b^T Y_b, with Y_b = A_b Omega, for each row block A_b."""
    for rows, values in matrix.blocks(indices):
        check_finite(values, rows)
        Y = np.asarray(values, np.float64) @ Omega.value
        yield (np.asarray(Y.T @ Y),)


def write_blocks(
    parts: Iterable[bytes], *, matrix: StoredMatrix, signs: NDArray[np.float64], check: Shared[Residual]
) -> Iterator[Parts]:
    """Write the row blocks of U in a partition; yield U^T U and the result of `check` for each, from A and U as stored.

    Missing columns complete the basis in the first row block and are zero in the others (see `completed`).
    """
    residual = check.value
    rank = residual.weights.shape[1]
    factors = FactorWriter(residual.factors_uri)
    with threadpool_limits(1, user_api="blas"):
        for index, computed in join_blocks(parts, matrix.open(), signs):
            ((rows, A),) = matrix.blocks([index])
            U = completed(computed, rows, rank)
            factors.write_block(rows, U)
            yield (U.T @ U, *residual(rows, A))


def join_blocks(
    parts: Iterable[bytes], matrix: MatrixStore, signs: NDArray[np.float64]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Join encoded parts of row blocks, which arrive in order, to whole row blocks of U.

    Args:
        parts: Encoded parts; a part may span several row blocks, and a row block several parts.
        matrix: The matrix, whose row blocks are used.
        signs: Sign of each column, (k,).

    Yields:
        Index and values of each row block, (block rows, k) float64.
    """
    for encoded in parts:
        row, part = decode(encoded)
        while len(part):
            index = row // matrix.block_rows
            rows = matrix.block(index)
            if row == rows.start:
                U = np.empty((rows.stop - rows.start, len(signs)))
            values = part[: rows.stop - row]
            np.multiply(values, signs, out=U[row - rows.start : row - rows.start + len(values)])
            row += len(values)
            part = part[len(values) :]
            if row == rows.stop:
                yield index, U


def is_orthonormal(gram: NDArray[np.float64]) -> bool:
    """Return whether Q^T Q, (k, k), is the identity to `ORTHONORMALITY_TOLERANCE`; a matrix with NaN is not."""
    return bool((np.abs(gram - np.eye(len(gram))) <= ORTHONORMALITY_TOLERANCE).all())
