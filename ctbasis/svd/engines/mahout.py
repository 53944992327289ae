"""Apache Mahout's DS-SVD on Spark: blocks of A go into a Mahout DRM, Mahout's own `dssvd` runs, blocks of U come back.

The Python here feeds and checks; the algorithm is Mahout's (images/spark/mahout). What it can and cannot do:

- It orthonormalizes by the Cholesky factor of Y^T Y and takes s from eigen(B B^T). Both square the condition number:
  singular values much below the largest lose half their digits, and from `RESOLUTIONS` down they cannot be told from
  zero. Such are stored as zeros, with vectors that complete the orthonormal bases, and the note says how many.
- What comes back is checked before it is declared: U^T U and V^T V are formed on the way and must be the identity.
  The tasks that write U read A from the store again, and U as they wrote it, for the report on how wrong they are.
- `dssvd` has no parameter for a seed: it asks Mahout's RandomUtils for that of Omega. That class is replaced by one
  that is told what to draw from, and so the plan's seed decides Omega, whichever the kernels.
- Row keys are Java ints, and a block is one Java array: at most 2^31 - 1 rows, and as many bytes in a block.
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
from ctbasis.svd.engines.spark import TASKS_PER_CORE, Executors, Stored, refusal_of_task
from ctbasis.svd.factor_passes import completed
from ctbasis.svd.factors import FactorWriter
from ctbasis.svd.randomized import drawn
from ctbasis.svd.spectrum import Spectrum
from ctbasis.svd.verify import question, report
from ctbasis.svd.workers import StoredMatrix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark import RDD, Broadcast, SparkContext

    from ctbasis.matrix.store import MatrixStore
    from ctbasis.svd.factor_passes import Residual
    from ctbasis.svd.passes import Parts
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.spectrum import Accuracy
    from ctbasis.svd.workers import Gather

KERNELS = "spark.ctbasis.mahout.kernels"
"""Spark property, of the application or local to a thread, one of `KERNEL_SETS`; `replaced` where it is not set."""

KERNEL_SETS = ("replaced", "java", "stock")
"""BLAS, native where it is installed; the same in Java alone; Mahout's own in-core loops and shuffles, many times
slower."""

REQUIRED_CONF = {
    "spark.serializer": "org.apache.spark.serializer.KryoSerializer",
    "spark.kryo.registrator": "org.apache.mahout.sparkbindings.io.MahoutKryoRegistrator",
}
"""What a Spark application must be started with: Mahout's matrices are not java.io.Serializable."""

ORTHONORMAL = 1e-6
"""How far an element of U^T U or V^T V may be from that of the identity."""

RESOLUTIONS = (1e-5, 1e-4)
"""Parts of the largest singular value below which one is not told from zero; tried in turn once a run has failed."""

JAVA_MAX = 2**31 - 1
JAVA_LONG_MAX = 2**63 - 1

PIECE_BYTES = 1 << 20
"""Of a block, sent to the JVM at a time: little enough that neither side holds it twice."""

BLOCKS_PER_TASK = 8
"""At most: what a partition has of A is kept in memory, or put out of it, as one."""

REDUCE_FLAT = 64
"""Partitions up to which the driver alone adds up their small matrices; beyond, executors do so in two levels."""

HEADER = np.dtype([("first_row", "<i4"), ("rows", "<i4"), ("columns", "<i4"), ("value_bytes", "<i4")])
"""What a block begins with on its way between Python and the JVM; the values follow, row by row."""


def factorize(matrix: MatrixStore, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Factor `matrix` by Mahout's `dssvd` in the Spark application that this process drives.

    Args:
        matrix: A; each partition reads its own row block.
        factors: U; each partition writes its own row block.
        plan: k, p, q and seed; a seed of None is drawn and named in the note.

    Raises:
        CtbasisError: The seed is negative; Spark lacks the jar or a setting; A is too large for Mahout, is zero, or
            holds NaN or Inf; or its singular values fall so fast that no orthonormal factors come out.
    """
    check_limits(matrix.rows, matrix.cols, min(matrix.block_rows, matrix.rows))
    run = _Run(spark_context(), matrix, factors, plan)
    k, p = plan.rank, plan.oversample
    found = run.dssvd(k, p)
    if found is not None:
        return found
    sigma = run.projected_singular_values(k + p)
    for resolution in RESOLUTIONS:
        present = min(k + p, int(np.count_nonzero(sigma > resolution * sigma[0])))
        if not present:
            raise CtbasisError(f"matrix {matrix.uri} holds nothing but zeros", expected="HU; air is -1000")
        if present == k + p:
            continue  # That is what failed.
        k_run = min(k, present)
        p_run = present - k_run
        found = run.dssvd(k_run, p_run)
        if found is not None:
            note = (
                f"{found.note}; only {present} singular values stand out above {resolution:g} of the largest, so "
                f"k={k_run} and p={p_run} were run and {k - k_run} of the {k} are stored as zero"
            )
            return replace(found, note=note)
    raise CtbasisError(
        f"matrix {matrix.uri}: Mahout's DS-SVD gives no orthonormal factors at rank {k}, nor at any that stands out",
        cause="the singular values fall so fast that the Cholesky factor of Y^T Y has no correct digits left",
        remedy="ask for a smaller rank, or take the engine numpy, which is exact",
    )


@contextmanager
def gathered(cluster: str = "", memory: int = 0) -> Iterator[Gather]:
    """Yield what gives the executors of the Spark application that this process drives, once it can run Mahout."""
    del cluster, memory
    spark = spark_context()
    yield lambda matrix, _each: Executors(spark, matrix, Stored(spark, matrix))


class _Run:
    """One matrix and one plan in one Spark application: the passes over A."""

    def __init__(self, spark: SparkContext, matrix: MatrixStore, factors: FactorWriter, plan: Plan) -> None:
        self.spark, self.matrix, self.factors, self.plan = spark, matrix, factors, plan
        self.seed = drawn(plan)
        self.stored = StoredMatrix(matrix.uri, uuid.uuid4().hex)
        self.kernels = chosen_kernels(spark)
        self.reads = 0

    def blocks(self) -> RDD[int]:
        """Return the numbers of the row blocks in partitions: in as many as blocks for Mahout's own engine, else fewer.

        A task costs Spark and a Python worker as much as a block takes to be multiplied.
        """
        count = self.matrix.block_count
        cores = self.spark.defaultParallelism
        return self.spark.parallelize(range(count), partitions(count, cores=cores, stock=self.kernels == "stock"))

    def dssvd(self, k: int, p: int) -> Spectrum | None:
        """Run Mahout's dssvd at k and p and write U; None where what came out is not orthonormal.

        Columns up to the plan's k belong to singular values of zero and complete the bases.
        """
        from py4j.protocol import Py4JJavaError
        from pyspark.serializers import NoOpSerializer

        self.reads += 1
        # The Java side of a context and of an RDD is private in PySpark, and there is no public way to it.
        A = self.blocks().mapPartitions(partial(encode_blocks, self.stored))._reserialize(NoOpSerializer())  # noqa: SLF001
        run = java_class(self.spark, "DsSvd")(self.spark._jsc, self.kernels)  # noqa: SLF001
        try:
            self.spark.setJobDescription(f"dssvd k={k} p={p} q={self.plan.power_iters}")
            seed = self.seed % (JAVA_LONG_MAX + 1)
            run.run(A._jrdd, self.matrix.rows, self.matrix.cols, k, p, self.plan.power_iters, seed)  # noqa: SLF001
            note = f"Mahout 14.1 dssvd, {run.kernels()}; Omega drawn from seed {self.seed}"
            s, V = decode(run.s())[1][0], decode(run.V())[1]
            if not orthonormal(V.T @ V):
                return None
            signs = fixed_signs(V)
            s, V = np.pad(s, (0, self.plan.rank - k)), complete_basis(V * signs, self.plan.rank)
            asked = question(s, V, self.factors.uri, seed=self.seed)
            self.spark.setJobDescription("write U")
            gram, *answers = self.write(run.U(np.dtype(self.factors.dtype).itemsize), signs, asked)
            if not orthonormal(gram):
                return None
            return Spectrum(s=s, V=V, note=note, accuracy=self.accuracy(asked, tuple(answers), s, V))
        except Py4JJavaError as error:
            if error.java_exception.getClass().getSimpleName() == "RankDeficientException":
                return None
            raise refusal_of_task(error) or error from error
        finally:
            run.close()

    def write(self, U: Any, signs: NDArray[np.float64], asked: Residual) -> Parts:
        """Write U in its blocks, each by the task that has it; return U^T U, and what `asked` is of A and U."""
        from pyspark import RDD
        from pyspark.serializers import NoOpSerializer

        task = partial(write_blocks, matrix=self.stored, signs=signs)
        shared = self.spark.broadcast(asked)
        self.reads += 1
        return self.total(RDD(U, self.spark, NoOpSerializer()).mapPartitions(lambda blocks: task(blocks, asked=shared)))

    def projected_singular_values(self, width: int) -> NDArray[np.float64]:
        """Return the singular values of A Omega, descending, with Omega wide enough that `width` of them are A's."""
        n = self.matrix.cols
        Omega = np.eye(n)
        if 2 * width < n:
            Omega = np.random.default_rng(self.seed).standard_normal((n, 2 * width))
        self.spark.setJobDescription("count the singular values that stand out")
        task = partial(project_blocks, self.stored, self.spark.broadcast(Omega))
        self.reads += 1
        (gram,) = self.total(self.blocks().mapPartitions(task))
        return np.asarray(np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0)))

    def accuracy(self, asked: Residual, answers: Parts, s: NDArray[np.float64], V: NDArray[np.float64]) -> Accuracy:
        """Return how wrong the factors are."""
        return report(
            asked,
            answers,
            s=s,
            V=V,
            dtype=self.factors.dtype,
            # 2 an iteration and 2 before; the one that writes U makes Y of A again, unless it is narrow and was kept.
            passes=4 + 2 * self.plan.power_iters,
            # The executors keep A in memory, or on their own disks.
            bytes_read=self.reads * self.matrix.rows * self.matrix.cols * self.matrix.dtype.itemsize,
            valid_to=RESOLUTIONS[0],
        )

    def total(self, parts: RDD[Parts]) -> Parts:
        """Add up small matrices, a set of them a partition."""
        depth = 1 if parts.getNumPartitions() <= REDUCE_FLAT else 2
        total: Parts = parts.treeReduce(added, depth=depth)
        return total


def added(one: Parts, other: Parts) -> Parts:
    """Return the sums of two sets of small matrices."""
    return tuple(mine + yours for mine, yours in zip(one, other, strict=True))


def partitions(blocks: int, *, cores: int, stock: bool) -> int:
    """Return how many partitions the row blocks go into."""
    return blocks if stock else min(blocks, max(TASKS_PER_CORE * cores, -(-blocks // BLOCKS_PER_TASK)))


def encode_blocks(matrix: StoredMatrix, indices: Iterable[int]) -> Iterator[bytes | memoryview]:
    """Yield row blocks of A as `encode` makes them."""
    for rows, values in matrix.blocks(indices):
        check_finite(values, rows)
        yield from encode(rows.start, values)


def encode(first_row: int, values: NDArray[Any]) -> Iterator[bytes | memoryview]:
    """Yield one block as the JVM's Blocks.decode reads it: a header, then the values in pieces."""
    yield np.array((first_row, *values.shape, values.itemsize), HEADER).tobytes()
    whole = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data.cast("B")
    for start in range(0, len(whole), PIECE_BYTES):
        yield whole[start : start + PIECE_BYTES]


def decode(encoded: bytes) -> tuple[int, NDArray[Any]]:
    """Return the first row and the values of a block that the JVM's Blocks.encode wrote."""
    header = np.frombuffer(encoded, HEADER, count=1)[0]
    values = np.frombuffer(encoded, f"<f{header['value_bytes']}", offset=HEADER.itemsize)
    return int(header["first_row"]), values.reshape(header["rows"], header["columns"])


def check_finite(values: NDArray[Any], rows: slice) -> None:
    """Refuse values that are not finite.

    Raises:
        CtbasisError: NaN or Inf is among them.
    """
    # Their sum is finite if every one is, unless it overflows; it takes no second array.
    if values.dtype.kind == "f" and not np.isfinite(values.sum()) and not np.isfinite(values).all():
        raise CtbasisError(f"NaN or Inf in rows {rows.start} to {rows.stop} of the matrix", expected="finite HU")


def project_blocks(
    matrix: StoredMatrix, Omega: Broadcast[NDArray[np.float64]], indices: Iterable[int]
) -> Iterator[Parts]:
    """Yield Y_b^T Y_b of row blocks."""
    for rows, values in matrix.blocks(indices):
        check_finite(values, rows)
        Y = np.asarray(values, np.float64) @ Omega.value
        yield (np.asarray(Y.T @ Y),)


def write_blocks(
    parts: Iterable[bytes], *, matrix: StoredMatrix, signs: NDArray[np.float64], asked: Broadcast[Residual]
) -> Iterator[Parts]:
    """Write the blocks of U that a partition holds, and yield U^T U and what is asked of A and U, both as stored.

    Columns that are missing complete the basis within the first row block, as far as it has rows, and are zero below.
    """
    residual = asked.value
    rank = residual.weights.shape[1]
    factors = FactorWriter(residual.factors_uri)
    with threadpool_limits(1, user_api="blas"):
        for index, found in whole_blocks(parts, matrix.open(), signs):
            ((rows, A),) = matrix.blocks([index])
            U = completed(found, rows, found.shape[1], rank)
            factors.write_block(rows, U)
            yield (U.T @ U, *residual(rows, A))


def whole_blocks(
    parts: Iterable[bytes], matrix: MatrixStore, signs: NDArray[np.float64]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """Yield numbers and values of whole row blocks, float64, of their encoded parts, which come one after the other."""
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


def orthonormal(gram: NDArray[np.float64]) -> bool:
    """Tell whether Q^T Q is the identity to `ORTHONORMAL`; NaN is not."""
    return bool((np.abs(gram - np.eye(len(gram))) <= ORTHONORMAL).all())


def check_limits(rows: int, cols: int, block_rows: int) -> None:
    """Refuse what Mahout's Int row keys and Java's arrays cannot hold.

    Raises:
        CtbasisError: More than 2^31 - 1 rows, or a block of as many bytes once it is float64.
    """
    if rows > JAVA_MAX:
        raise CtbasisError(
            f"the matrix has {rows} rows", expected=f"at most {JAVA_MAX}: Mahout's row keys are Java ints"
        )
    if block_rows * cols * 8 + HEADER.itemsize > JAVA_MAX:
        raise CtbasisError(
            f"a row block has {block_rows} x {cols} values, {block_rows * cols * 8} bytes as float64",
            expected=f"at most {JAVA_MAX} bytes: a block is one Java array",
            remedy="write the matrix with smaller row blocks",
        )


def spark_context() -> SparkContext:
    """Return the context of the Spark application, with its log kept to errors and a line for each job that ends.

    A session would load Spark SQL, a thousand classes of which Mahout uses none.

    Raises:
        CtbasisError: The application was started without a setting or without the jar.
    """
    from pyspark import SparkContext

    spark = SparkContext.getOrCreate()
    settings = spark.getConf()
    found = {key: settings.get(key, None) for key in REQUIRED_CONF}
    missing = [key for key, value in REQUIRED_CONF.items() if found[key] != value]
    if missing:
        raise CtbasisError(
            f"Spark was started with {', '.join(f'{key}={found[key]}' for key in missing)}",
            expected=", ".join(f"{key}={REQUIRED_CONF[key]}" for key in missing),
            remedy="start it from manifests/sparkapplication.yaml, or pass these by --conf",
        )
    java_class(spark, "JobLog").attach(spark._jsc)  # noqa: SLF001 - private in PySpark, no public way to it
    return spark


def chosen_kernels(spark: SparkContext) -> str:
    """Return the kernels that the thread's local property or the application's setting `KERNELS` chooses.

    Raises:
        CtbasisError: There are none of that name.
    """
    kernels = spark.getLocalProperty(KERNELS) or spark.getConf().get(KERNELS) or KERNEL_SETS[0]
    if kernels not in KERNEL_SETS:
        raise CtbasisError(f"{KERNELS}={kernels}", expected=f"one of {', '.join(KERNEL_SETS)}")
    return kernels


def java_class(spark: SparkContext, name: str) -> Any:
    """Return a class of the bridge.

    Raises:
        CtbasisError: The jar is not on the driver's class path.
    """
    from py4j.java_gateway import JavaClass

    found = getattr(spark._jvm.org.ctbasis.mahout, name)  # noqa: SLF001 - private in PySpark, no public way to it
    if not isinstance(found, JavaClass):
        raise CtbasisError(
            "Spark was started without Mahout",
            expected="ctbasis-mahout.jar among its jars",
            remedy="run `make setup`, which builds it in images/spark/mahout/target, and pass it by --jars",
        )
    return found
