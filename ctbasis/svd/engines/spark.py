"""NumPy blocks on plain Spark: each task reads its own row blocks of A and writes its own row blocks of U.

Each task combines the results of its row blocks, and executors combine those of the tasks (spark_tasks.py); Spark's
shuffle carries nothing tall. The engine needs neither a jar nor Mahout's settings, and runs in any Spark application:
one that the Spark operator or `spark-submit` starts, one on a master given by its address (`cluster`, or Spark's own
`spark.master`), or one in this process.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, cast

from threadpoolctl import threadpool_limits

from ctbasis.errors import CtbasisError
from ctbasis.svd.engines.spark_broadcast import broadcast
from ctbasis.svd.engines.spark_tasks import bytes_sent, combined, is_local, merge_of, slots, task_count, task_cpus
from ctbasis.svd.method import factorize_with
from ctbasis.svd.passes import fold
from ctbasis.svd.workers import Workers, block_reader, operands

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark import RDD, SparkContext

    from ctbasis.matrix.store import MatrixStore
    from ctbasis.svd.engines.spark_broadcast import Shared
    from ctbasis.svd.factors import FactorWriter
    from ctbasis.svd.passes import Parts, Pass
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.spectrum import Spectrum
    from ctbasis.svd.workers import RowBlocks, WorkersFactory


def factorize(matrix: MatrixStore, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Factor `matrix` by the plan's method, on the executors of the Spark application that this process drives.

    Raises:
        CtbasisError: Spark cannot be started or reached, the matrix contains NaN or Inf, or a block is missing.
    """
    spark = spark_context(plan.cluster)
    return factorize_with(SparkWorkers(spark, matrix, StoredBlocks(spark, matrix)), factors, plan)


@contextmanager
def open_workers(cluster: str = "", memory: int = 0) -> Iterator[WorkersFactory]:
    """Yield a function that returns the executors of the Spark application as workers on a matrix.

    Args:
        cluster: Address of the Spark master; empty for the one that Spark's settings name.
        memory: Ignored; the settings of the Spark application decide.
    """
    del memory
    spark = spark_context(cluster)
    yield lambda matrix, _bytes: SparkWorkers(spark, matrix, StoredBlocks(spark, matrix))


class BlockSource(Protocol):
    """Where executors get row blocks from."""

    def blocks(self, *, reads: bool) -> RDD[Any]:
        """Return an RDD of (rows, values); unless `reads`, the values have no columns."""
        ...


class StoredBlocks:
    """Row blocks that the tasks read from a matrix store."""

    def __init__(self, spark: SparkContext, matrix: RowBlocks) -> None:
        self._spark, self._count = spark, matrix.block_count
        self._reader = block_reader(matrix)

    def blocks(self, *, reads: bool) -> RDD[Any]:
        """Return an RDD of (rows, values), which reads each block when and where a task uses it."""
        reader = self._reader
        tasks = tasks_for(self._spark, self._count)
        return self._spark.parallelize(range(self._count), tasks).mapPartitions(
            lambda indices: reader.blocks(indices, reads=reads)
        )


def tasks_for(spark: SparkContext, blocks: int) -> int:
    """Return the number of tasks of a pass over `blocks` row blocks in the application of `spark`."""
    return task_count(blocks, slots(spark), local=is_local(spark))


class SparkWorkers(Workers):
    """The executors of a Spark application.

    Args:
        spark: Context of the application.
        matrix: A.
        source: Gives the row blocks of A to the executors.
    """

    def __init__(self, spark: SparkContext, matrix: RowBlocks, source: BlockSource) -> None:
        super().__init__(matrix)
        self._spark, self._source = spark, source

    def _run(self, work: Pass) -> Parts:
        shared = broadcast(self._spark, work)
        self._spark.setJobDescription(f"svd: {work.name}")
        blocks = self._source.blocks(reads=work.reads)
        parts = blocks.mapPartitions(lambda partition: fold_partition(shared, partition))
        try:
            with errors_of_tasks():
                total = combined(parts, merge_of(work, shared))
        finally:
            shared.destroy()
        self.count_sent(operands(work), self._executors())
        self.bytes_shuffled += bytes_sent(total, parts.getNumPartitions(), local=is_local(self._spark))
        return total

    def _executors(self) -> int:
        # The Java side of a context is private in PySpark, and there is no public way to it.
        return max(1, int(self._spark._jsc.sc().getExecutorMemoryStatus().size()))  # noqa: SLF001


def fold_partition(work: Shared[Pass], blocks: Iterable[tuple[slice, NDArray[Any]]]) -> Iterator[Parts]:
    """Yield the result of a pass for the blocks of one partition; BLAS uses as many threads as the task has cores."""
    with threadpool_limits(task_cpus(), user_api="blas"):
        part = fold(work.value, blocks)
    if part is not None:
        yield part


def spark_context(cluster: str = "") -> SparkContext:
    """Return the context of the Spark application, or start one.

    The function does not create a Spark session: its catalog and its settings take half a second, and no SQL is used.

    Args:
        cluster: Address of the Spark master; empty for the one that Spark's settings name.

    Raises:
        CtbasisError: There is no Java, the master does not answer, or this process drives another master.
    """
    from pyspark import SparkConf, SparkContext
    from pyspark.errors import PySparkRuntimeError

    # Workers on this machine must run this interpreter; others have it at the same path, or that of their image.
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    try:
        with without_tables():
            conf = SparkConf().setAppName("ctbasis-svd").set("spark.ui.showConsoleProgress", "false")
            if cluster:
                conf.setMaster(cluster)
            spark = SparkContext.getOrCreate(conf)
    except PySparkRuntimeError as error:
        raise CtbasisError(
            "Spark does not start on this machine",
            expected="`java` 17 or newer on PATH or in JAVA_HOME",
            remedy="run `make setup`, or choose --engine numpy",
        ) from error
    if cluster and spark.master != cluster:
        raise CtbasisError(
            f"this process already drives Spark at {spark.master}",
            expected=f"no Spark application, or one at {cluster}",
        )
    return spark


@contextmanager
def without_tables() -> Iterator[None]:
    """Hide pandas and Arrow from PySpark while a context starts, unless they are imported already.

    At its first call of the JVM, PySpark 4.2 imports both through a module of its tests. That takes a second and warns
    of pandas 3; no engine uses either.
    """
    hidden = [name for name in ("pandas", "pyarrow") if name not in sys.modules]
    modules = cast("dict[str, object]", sys.modules)
    modules.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        for name in hidden:
            del modules[name]


@contextmanager
def errors_of_tasks() -> Iterator[None]:
    """Raise the `CtbasisError` that a task raised in place of PySpark's exception; others pass through unchanged.

    PySpark raises a `Py4JJavaError` where a job fails. Where this process has a Spark session, it converts the error of
    a Python worker to a `PythonException`.
    """
    from py4j.protocol import Py4JJavaError
    from pyspark.errors import PythonException

    try:
        yield
    except Py4JJavaError as error:
        # The name of the Java exception and the stack of the JVM are not part of its message.
        if raised := error_in_traceback(str(error.java_exception.getMessage())):
            raise raised from error
        raise
    except PythonException as error:
        if raised := error_in_traceback(str(error)):
            raise raised from error
        raise


def error_in_traceback(message: str) -> CtbasisError | None:
    """Return the `CtbasisError` of the Python traceback in the message of Spark's exception; None if none."""
    # The name of the class starts a line of a traceback; within a line, a name from outside could contain it.
    kind = f"\n{CtbasisError.__module__}.{CtbasisError.__qualname__}: "
    _, prefix, text = f"\n{message}".rpartition(kind)
    return CtbasisError.from_text(text.split("\n\n")[0].strip()) if prefix else None
