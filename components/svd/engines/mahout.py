"""Apache Mahout's DS-SVD on Spark: blocks of A go into a Mahout DRM, Mahout's own `dssvd` runs, blocks of U come back.

The Python here feeds and checks; the algorithm is Mahout's (images/spark/mahout). What it can and cannot do:

- It orthonormalizes by the Cholesky factor of Y^T Y and takes s from eigen(B B^T). Both square the condition number:
  singular values much below the largest lose half their digits, and from `RESOLUTIONS` down they cannot be told from
  zero. Such are stored as zeros, with vectors that complete the orthonormal bases, and the note says how many.
- What comes back is checked before it is declared: U^T U and V^T V are formed on the way and must be the identity.
- Mahout takes no seed: it draws that of Omega itself. It is held to one draw here, and A's columns are permuted by the
  plan's seed instead: A P has A's singular values, and P Omega is Omega with its rows in another order, as random.
- Row keys are Java ints, and a block is one Java array: at most 2^31 - 1 rows, and as many bytes in a block.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from operator import add
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from components.errors import CtbasisError
from components.matrix.store import MatrixStore
from components.svd.basis import complete_basis, fixed_signs
from components.svd.engines import Spectrum
from components.svd.engines.spark import Executors, Stored, refusal_of_task
from components.svd.factors import FactorWriter
from components.svd.verify import verified

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import DTypeLike, NDArray
    from pyspark import RDD, Broadcast, SparkContext
    from pyspark.sql import SparkSession

    from components.svd.accuracy import Accuracy
    from components.svd.plan import Plan
    from components.svd.workers import Gather

KERNELS = "spark.ctbasis.mahout.kernels"
"""Spark property: `replaced` (default), or `stock` for Mahout's own in-core loops and shuffles, many times slower."""

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

REDUCE_FLAT = 64
"""Partitions up to which the driver alone adds up their small matrices; beyond, executors do so in two levels."""

HEADER = np.dtype([("first_row", "<i4"), ("rows", "<i4"), ("columns", "<i4"), ("value_bytes", "<i4")])
"""What a block begins with on its way between Python and the JVM; the values follow, row by row."""


class Small(NamedTuple):
    """The small factors of one run of dssvd: s (k,) and V (n, k)."""

    s: NDArray[np.float64]
    V: NDArray[np.float64]


def factorize(matrix: MatrixStore, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Factor `matrix` by Mahout's `dssvd` in the Spark application that this process drives.

    Args:
        matrix: A; each partition reads its own row block.
        factors: U; each partition writes its own row block.
        plan: k, p, q and seed; a seed of None is drawn and named in the note.

    Raises:
        CtbasisError: Spark lacks the jar or a setting; A is too large for Mahout, is zero, or holds NaN or Inf; or its
            singular values fall so fast that no orthonormal factors come out.
    """
    check_limits(matrix.rows, matrix.cols, min(matrix.block_rows, matrix.rows))
    run = _Run(spark_session(), matrix, factors, plan)
    k, p = plan.rank, plan.oversample
    small = run.dssvd(k, p)
    if small is not None:
        return Spectrum(s=small.s, V=small.V, note=run.note, accuracy=run.accuracy(small.s, small.V))
    sigma = run.projected_singular_values(k + p)
    for resolution in RESOLUTIONS:
        present = min(k + p, int(np.count_nonzero(sigma > resolution * sigma[0])))
        if not present:
            raise CtbasisError(f"matrix {matrix.uri} holds nothing but zeros", expected="HU; air is -1000")
        if present == k + p:
            continue  # That is what failed.
        k_run = min(k, present)
        p_run = present - k_run
        small = run.dssvd(k_run, p_run)
        if small is not None:
            note = (
                f"{run.note}; only {present} singular values stand out above {resolution:g} of the largest, so "
                f"k={k_run} and p={p_run} were run and {k - k_run} of the {k} are stored as zero"
            )
            s, V = np.pad(small.s, (0, k - k_run)), complete_basis(small.V, k)
            return Spectrum(s=s, V=V, note=note, accuracy=run.accuracy(s, V))
    raise CtbasisError(
        f"matrix {matrix.uri}: Mahout's DS-SVD gives no orthonormal factors at rank {k}, nor at any that stands out",
        cause="the singular values fall so fast that the Cholesky factor of Y^T Y has no correct digits left",
        remedy="ask for a smaller rank, or take the engine numpy, which is exact",
    )


@contextmanager
def gathered(cluster: str = "", memory: int = 0) -> Iterator[Gather]:
    """Yield what gives the executors of the Spark application that this process drives, once it can run Mahout."""
    del cluster, memory
    spark = spark_session().sparkContext
    yield lambda matrix, _each: Executors(spark, matrix, Stored(spark, matrix))


class _Run:
    """One matrix and one plan in one Spark application: the passes over A."""

    def __init__(self, session: SparkSession, matrix: MatrixStore, factors: FactorWriter, plan: Plan) -> None:
        self.spark, self.matrix, self.factors, self.plan = session.sparkContext, matrix, factors, plan
        self.seed = int(np.random.SeedSequence().generate_state(1)[0]) if plan.seed is None else plan.seed
        self.columns = np.random.default_rng(self.seed).permutation(matrix.cols)
        self.stock = session.conf.get(KERNELS, "replaced") == "stock"
        self.note = ""

    def blocks(self) -> RDD[int]:
        """Return the numbers of the row blocks, each in a partition of its own: Mahout wants one block a partition."""
        return self.spark.parallelize(range(self.matrix.block_count), self.matrix.block_count)

    def dssvd(self, k: int, p: int) -> Small | None:
        """Run Mahout's dssvd at k and p and write U; None where what came out is not orthonormal."""
        from py4j.protocol import Py4JJavaError
        from pyspark import RDD
        from pyspark.serializers import NoOpSerializer

        # The Java side of a context and of an RDD is private in PySpark, and there is no public way to it.
        A = self.blocks().map(partial(encode_block, self.matrix.uri, self.columns))._reserialize(NoOpSerializer())  # noqa: SLF001
        run = java_class(self.spark, "DsSvd")(self.spark._jsc, self.stock)  # noqa: SLF001
        try:
            self.spark.setJobDescription(f"dssvd k={k} p={p} q={self.plan.power_iters}")
            run.run(A._jrdd, self.matrix.rows, self.matrix.cols, k, p, self.plan.power_iters)  # noqa: SLF001
            self.note = (
                f"Mahout 14.1 dssvd, {run.kernels()}; seed {self.seed} permutes the slices, as Mahout itself takes none"
            )
            s = decode(run.s())[1][0]
            V = decode(run.V())[1][np.argsort(self.columns)]
            if not orthonormal(V.T @ V):
                return None
            signs = fixed_signs(V)
            self.spark.setJobDescription("write U")
            gram = self.write(RDD(run.U(), self.spark, NoOpSerializer()), signs)
            return Small(s, V * signs) if orthonormal(gram) else None
        except Py4JJavaError as error:
            if error.java_exception.getClass().getSimpleName() == "RankDeficientException":
                return None
            raise refusal_of_task(error) or error from error
        finally:
            run.close()

    def write(self, U: RDD[bytes], signs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Write U in its blocks, each by the task that has it, and return U^T U."""
        task = partial(
            write_blocks,
            factors_uri=self.factors.uri,
            block_rows=self.matrix.block_rows,
            signs=signs,
            rank=self.plan.rank,
        )
        return self.total(U.mapPartitions(task))

    def projected_singular_values(self, width: int) -> NDArray[np.float64]:
        """Return the singular values of A Omega, descending, with Omega wide enough that `width` of them are A's."""
        n = self.matrix.cols
        Omega = np.eye(n)
        if 2 * width < n:
            Omega = np.random.default_rng(self.seed).standard_normal((n, 2 * width))
        self.spark.setJobDescription("count the singular values that stand out")
        gram = self.total(self.blocks().map(partial(project_block, self.matrix.uri, self.spark.broadcast(Omega))))
        return np.asarray(np.sqrt(np.maximum(np.linalg.eigvalsh(gram)[::-1], 0)))

    def accuracy(self, s: NDArray[np.float64], V: NDArray[np.float64]) -> Accuracy:
        """Return how wrong the factors are, by one more pass over A and U in NumPy blocks."""
        executors = Executors(self.spark, self.matrix, Stored(self.spark, self.matrix))
        passes = 2 + 2 * self.plan.power_iters
        return verified(executors, self.factors, s, V, passes=passes, valid_to=RESOLUTIONS[0])

    def total(self, parts: RDD[NDArray[np.float64]]) -> NDArray[np.float64]:
        """Add up one small matrix a partition."""
        depth = 1 if parts.getNumPartitions() <= REDUCE_FLAT else 2
        return np.asarray(parts.treeReduce(add, depth=depth))


def encode_block(matrix_uri: str, columns: NDArray[np.int64], index: int) -> bytes:
    """Return row block `index` of A with its columns in the order `columns`, as the JVM's Blocks.decode reads it."""
    matrix = MatrixStore.open(matrix_uri)
    values = finite_block(matrix, index, matrix.dtype)[:, columns]
    header = np.array((matrix.block(index).start, *values.shape, values.itemsize), HEADER)
    return header.tobytes() + values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()


def decode(encoded: bytes) -> tuple[int, NDArray[np.float64]]:
    """Return the first row and the values of a block that the JVM's Blocks.encode wrote."""
    header = np.frombuffer(encoded, HEADER, count=1)[0]
    values = np.frombuffer(encoded, "<f8", offset=HEADER.itemsize)
    return int(header["first_row"]), values.reshape(header["rows"], header["columns"])


def finite_block(matrix: MatrixStore, index: int, dtype: DTypeLike) -> NDArray[Any]:
    """Return row block `index` of A.

    Raises:
        CtbasisError: It holds NaN or Inf.
    """
    values = matrix.read_block(index, dtype=dtype)
    if not np.isfinite(values).all():
        raise CtbasisError(f"matrix {matrix.uri}: NaN or Inf in row block {index}", expected="finite HU")
    return values


def project_block(matrix_uri: str, Omega: Broadcast[NDArray[np.float64]], index: int) -> NDArray[np.float64]:
    """Return Y_b^T Y_b of one row block."""
    Y = finite_block(MatrixStore.open(matrix_uri), index, np.float64) @ Omega.value
    return np.asarray(Y.T @ Y)


def write_blocks(
    blocks: Iterable[bytes], *, factors_uri: str, block_rows: int, signs: NDArray[np.float64], rank: int
) -> Iterator[NDArray[np.float64]]:
    """Write the blocks of U that a partition holds, `rank` columns wide, and yield their part of U^T U.

    Columns that are missing complete the basis within the first row block, as far as it has rows, and are zero below.
    """
    factors = FactorWriter(factors_uri)
    gram = np.zeros((rank, rank))
    for encoded in blocks:
        first, values = decode(encoded)
        U = values * signs
        U = complete_basis(U, rank) if first == 0 else np.pad(U, ((0, 0), (0, rank - U.shape[1])))
        for start in range(0, len(U), block_rows):
            rows = U[start : start + block_rows]
            factors.write_block(slice(first + start, first + start + len(rows)), rows)
        gram += U.T @ U
    yield gram


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


def spark_session() -> SparkSession:
    """Return the session of the Spark application, with its log kept to errors and a line for each job that ends.

    Raises:
        CtbasisError: The application was started without a setting or without the jar.
    """
    from pyspark.sql import SparkSession

    session = SparkSession.builder.getOrCreate()
    found = {key: session.conf.get(key, None) for key in REQUIRED_CONF}
    missing = [key for key, value in REQUIRED_CONF.items() if found[key] != value]
    if missing:
        raise CtbasisError(
            f"Spark was started with {', '.join(f'{key}={found[key]}' for key in missing)}",
            expected=", ".join(f"{key}={REQUIRED_CONF[key]}" for key in missing),
            remedy="start it from manifests/sparkapplication.yaml, or pass these by --conf",
        )
    spark = session.sparkContext
    java_class(spark, "JobLog").attach(spark._jsc)  # noqa: SLF001 - private in PySpark, no public way to it
    return session


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
