"""The Python side of ctbasis-mahout.jar: Spark context, kernels, limits, and the byte format of row blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.svd.engines.spark import without_tables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from pyspark import SparkContext

KERNELS = "spark.ctbasis.mahout.kernels"
"""Spark property, of the application or local to a thread: one of `KERNEL_SETS`; the default is `replaced`."""

KERNEL_SETS = ("replaced", "java", "stock")
"""replaced: products by BLAS, native where it is installed. java: the same in Java alone. stock: Mahout's own in-core
loops and shuffles, many times slower."""

REQUIRED_CONF = {
    "spark.serializer": "org.apache.spark.serializer.KryoSerializer",
    "spark.kryo.registrator": "org.apache.mahout.sparkbindings.io.MahoutKryoRegistrator",
}
"""Settings that a Spark application must be started with, since Mahout's matrices are not java.io.Serializable."""

JAVA_MAX = 2**31 - 1

TRANSFER_BYTES = 1 << 20
"""Bytes of a block that are sent to the JVM at a time, so that neither side holds the block twice."""

HEADER = np.dtype([("first_row", "<i4"), ("rows", "<i4"), ("columns", "<i4"), ("value_bytes", "<i4")])
"""Header of a block that is exchanged between Python and the JVM; the values follow, row by row."""


def encode(first_row: int, values: NDArray[Any]) -> Iterator[bytes | memoryview]:
    """Yield one block in the form that the JVM's Blocks.decode reads: a header, then the values, a part at a time."""
    yield np.array((first_row, *values.shape, values.itemsize), HEADER).tobytes()
    whole = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).data.cast("B")
    for start in range(0, len(whole), TRANSFER_BYTES):
        yield whole[start : start + TRANSFER_BYTES]


def decode(encoded: bytes) -> tuple[int, NDArray[Any]]:
    """Return the first row and the values, (rows, columns), of a block that the JVM's Blocks.encode wrote."""
    header = np.frombuffer(encoded, HEADER, count=1)[0]
    values = np.frombuffer(encoded, f"<f{header['value_bytes']}", offset=HEADER.itemsize)
    return int(header["first_row"]), values.reshape(header["rows"], header["columns"])


def check_limits(rows: int, cols: int, block_rows: int) -> None:
    """Check that the matrix fits Mahout's Int row keys and Java's arrays.

    Raises:
        CtbasisError: The matrix has more than 2^31 - 1 rows, or a row block has more bytes than that in float64.
    """
    if rows > JAVA_MAX:
        raise CtbasisError(
            f"the matrix has {rows} rows",
            expected=f"at most {JAVA_MAX}: Mahout's row keys are Java ints",
            remedy="choose another engine",
        )
    if block_rows * cols * 8 + HEADER.itemsize > JAVA_MAX:
        raise CtbasisError(
            f"a row block has {block_rows} x {cols} values, {block_rows * cols * 8} bytes as float64",
            expected=f"at most {JAVA_MAX} bytes: a block is one Java array",
            remedy="write the matrix with smaller row blocks",
        )


def spark_context() -> SparkContext:
    """Return the context of the Spark application, with its log reduced to errors and one line for each finished job.

    The function does not create a Spark session: it would load Spark SQL, a thousand classes, and Mahout uses none.

    Raises:
        CtbasisError: The application was started without a required setting or without the jar.
    """
    from pyspark import SparkContext

    with without_tables():
        spark = SparkContext.getOrCreate()
    conf = spark.getConf()
    settings = {key: conf.get(key, None) for key in REQUIRED_CONF}
    wrong = [key for key, value in REQUIRED_CONF.items() if settings[key] != value]
    if wrong:
        raise CtbasisError(
            f"Spark was started with {', '.join(f'{key}={settings[key]}' for key in wrong)}",
            expected=", ".join(f"{key}={REQUIRED_CONF[key]}" for key in wrong),
            remedy="start Spark from manifests/sparkapplication.yaml, or pass these settings with --conf",
        )
    java_class(spark, "JobLog").attach(spark._jsc)  # noqa: SLF001 - private in PySpark, no public way to it
    return spark


def resolve_kernels(spark: SparkContext) -> str:
    """Return the kernels to use, from the property `KERNELS` of the thread or of the application.

    Raises:
        CtbasisError: The property is not one of `KERNEL_SETS`.
    """
    kernels = spark.getLocalProperty(KERNELS) or spark.getConf().get(KERNELS) or KERNEL_SETS[0]
    if kernels not in KERNEL_SETS:
        raise CtbasisError(f"{KERNELS}={kernels}", expected=f"one of {', '.join(KERNEL_SETS)}")
    return kernels


def java_class(spark: SparkContext, name: str) -> Any:
    """Return a class of the package org.ctbasis.mahout, the Java side of this module.

    Raises:
        CtbasisError: The jar is not on the driver's class path.
    """
    from py4j.java_gateway import JavaClass

    value = getattr(spark._jvm.org.ctbasis.mahout, name)  # noqa: SLF001 - private in PySpark, no public way to it
    if not isinstance(value, JavaClass):
        raise CtbasisError(
            "Spark was started without Mahout",
            expected="ctbasis-mahout.jar among its jars",
            remedy="run `make setup`, which builds it in images/spark/mahout/target, and pass it with --jars",
        )
    return value
