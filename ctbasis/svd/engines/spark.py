"""NumPy blocks on plain Spark: each task reads its own row blocks of A and writes its own of U.

What comes back to the driver is small and added up in a tree of executors; Spark's shuffle carries nothing tall. It
needs no jar and none of Mahout's settings, and runs in any Spark application: of the operator, of `spark-submit`, of
a master by address (`cluster`, or Spark's own `spark.master`), or in this process.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from threadpoolctl import threadpool_limits

from ctbasis.errors import CtbasisError
from ctbasis.svd.method import factorize_by
from ctbasis.svd.passes import fold, merged
from ctbasis.svd.workers import Workers, operands, portable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from py4j.protocol import Py4JJavaError
    from pyspark import RDD, Broadcast, SparkContext

    from ctbasis.matrix.store import MatrixStore
    from ctbasis.svd.factors import FactorWriter
    from ctbasis.svd.passes import Parts, Pass
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.spectrum import Spectrum
    from ctbasis.svd.workers import Gather, RowBlocks

TASKS_PER_CORE = 3
"""Enough that no core idles long at the end of a pass, few enough that little has to be added up."""

TASK_BLOCKS = 16
"""Row blocks from which a task is worth its start, where there are cores enough without it."""

REDUCE_FLAT = 16
"""Partial results that the driver adds up alone; beyond, executors do so first, in a tree."""


def factorize(matrix: MatrixStore, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Factor `matrix` by the plan's method on the executors of the Spark application that this process drives.

    Raises:
        CtbasisError: Spark cannot be started or reached, or the matrix holds NaN or Inf, or a block is missing.
    """
    spark = spark_context(plan.cluster)
    return factorize_by(Executors(spark, matrix, Stored(spark, matrix)), factors, plan)


@contextmanager
def gathered(cluster: str = "", memory: int = 0) -> Iterator[Gather]:
    """Yield what gives the executors of the Spark application that this process drives; what they need is its own."""
    del memory
    spark = spark_context(cluster)
    yield lambda matrix, _each: Executors(spark, matrix, Stored(spark, matrix))


class Source(Protocol):
    """Where executors have row blocks from."""

    def blocks(self, *, reads: bool) -> RDD[Any]:
        """Return an RDD of (rows, values); values without columns unless `reads`."""
        ...


class Stored:
    """Row blocks that the tasks read from a matrix store."""

    def __init__(self, spark: SparkContext, matrix: RowBlocks) -> None:
        self._spark, self._count = spark, matrix.block_count
        self._matrix = portable(matrix)

    def blocks(self, *, reads: bool) -> RDD[Any]:
        """Return the row blocks, read where and when they are used."""
        partitions = tasks_for(self._count, self._spark.defaultParallelism)
        matrix = self._matrix
        return self._spark.parallelize(range(self._count), partitions).mapPartitions(
            lambda indices: matrix.blocks(indices, reads=reads)
        )


def tasks_for(blocks: int, cores: int) -> int:
    """Return how many tasks share `blocks` row blocks: one a core at least, while there are blocks.

    >>> [tasks_for(blocks, cores=2) for blocks in (1, 8, 64, 1000)]
    [1, 2, 4, 6]
    """
    return min(blocks, max(cores, min(TASKS_PER_CORE * cores, blocks // TASK_BLOCKS)))


class Executors(Workers):
    """The executors of a Spark application."""

    def __init__(self, spark: SparkContext, matrix: RowBlocks, source: Source) -> None:
        super().__init__(matrix)
        self._spark, self._source = spark, source

    def _run(self, work: Pass) -> Parts:
        from py4j.protocol import Py4JJavaError

        shared = self._spark.broadcast(work)
        self._spark.setJobDescription(f"svd: {work.what}")
        blocks = self._source.blocks(reads=work.reads)
        partial = blocks.mapPartitions(lambda values: folded(shared, values))
        count = partial.getNumPartitions()
        try:
            if count <= REDUCE_FLAT:
                total = merged(work, partial.collect())
            else:
                total = partial.treeReduce(lambda one, other: merged(shared.value, [one, other]), depth=2)
        except Py4JJavaError as error:
            raise refusal_of_task(error) or error from error
        finally:
            shared.destroy()
        self.sent(operands(work), self._executors())
        self.sent(total, count)
        return total

    def _executors(self) -> int:
        # The Java side of a context is private in PySpark, and there is no public way to it.
        return max(1, int(self._spark._jsc.sc().getExecutorMemoryStatus().size()))  # noqa: SLF001


def folded(work: Broadcast[Pass], blocks: Iterable[tuple[slice, NDArray[Any]]]) -> Iterator[Parts]:
    """Yield what a pass makes of the blocks of one partition; a task is one thread, and so is its BLAS."""
    with threadpool_limits(1, user_api="blas"):
        found = fold(work.value, blocks)
    if found is not None:
        yield found


def spark_context(cluster: str = "") -> SparkContext:
    """Return the context of the Spark application, or start one: on `cluster`, or where its settings say.

    A session is not asked for: its catalog and its settings take half a second, and nothing here is SQL.

    Raises:
        CtbasisError: There is no Java, or the master does not answer.
    """
    from pyspark import SparkConf, SparkContext
    from pyspark.errors import PySparkRuntimeError

    # Workers on this machine are to be the interpreter in use; on others it is the same by path or the image's own.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    conf = SparkConf().setAppName("ctbasis-svd").set("spark.ui.showConsoleProgress", "false")
    if cluster:
        conf.setMaster(cluster)
    try:
        spark = SparkContext.getOrCreate(conf)
    except PySparkRuntimeError as error:
        raise CtbasisError(
            "Spark does not start here",
            expected="`java` 17 or newer on PATH or in JAVA_HOME",
            remedy="run `make setup`, or choose --engine numpy",
        ) from error
    if cluster and spark.master != cluster:
        raise CtbasisError(f"this process drives Spark at {spark.master}", expected=f"none, or one at {cluster}")
    return spark


def refusal_of_task(error: Py4JJavaError) -> CtbasisError | None:
    """Return what a task refused, found in the Java exception that carries its Python traceback."""
    kind = f"{CtbasisError.__module__}.{CtbasisError.__qualname__}: "
    _, found, text = str(error.java_exception.getMessage()).rpartition(kind)
    return CtbasisError(text.split("\n\n")[0].strip()) if found else None
