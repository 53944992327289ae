"""Patch bases computed by Mahout: `dssvd` of the whitened patches of each class, on Spark.

    pass over slabs    each task writes the rows of its slab, sorted by class, and returns their moments
                       (ctbasis/patch/sampling.py)
    class by class     each task reads a part of the rows of the class, subtracts the mean of the class, and passes them
                       to Mahout: A (rows x voxels) ~ U diag(s) V^T with k = voxels, so that V is a complete basis and
                       s^2 gives its energies

U is never requested. At k = n the random projection Omega is square, so no power iteration is needed and nothing is
lost. During the run, the rows are stored below the run's folder; they are deleted at the end. The tall matrix never
passes through the driver.

Mahout orthonormalizes with a Cholesky decomposition (ctbasis/svd/engines/mahout.py). Classes whose rows it finds
rank-deficient, as in a series without noise, and classes with too few rows get the eigenvectors of their Gram matrix
instead. The basis records how many classes these are.
"""

from __future__ import annotations

import math
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ctbasis.patch.learn import ClassBases, bases_of_moments
from ctbasis.patch.sampling import sampling_slabs
from ctbasis.patch.volume import SLAB_HEIGHT
from ctbasis.progress import progress
from ctbasis.storage import stores
from ctbasis.storage.array_store import StoreWriter
from ctbasis.storage.schemas import PATCH_ROWS
from ctbasis.svd.engines.mahout import is_orthonormal
from ctbasis.svd.engines.mahout_bridge import (
    check_limits,
    decode,
    encode,
    java_class,
    resolve_kernels,
    spark_context,
)
from ctbasis.svd.engines.spark import errors_of_tasks
from ctbasis.threads import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray
    from pyspark import SparkContext

    from ctbasis.patch.sampling import ClassRows
    from ctbasis.patch.volume import Slab, Sums, Volume

CHUNK_ROWS = 4096
"""Rows of a chunk: 2 MB at 125 voxels. A class has a few chunks in a slab."""

MIN_BLOCK_ROWS = 16384
"""Rows of a block that is passed to Mahout, at least: a task takes a tenth of a second however small it is."""

MAX_CONCURRENT_CLASSES = 16
"""Classes that are factored at the same time, at most; the driver computes the small matrices of each."""

JOB_LOG_MANY = "ctbasis.log.many"
"""Local property of Spark that makes JobLog.java log only long jobs. There are about a thousand jobs, and the progress
bar counts classes."""

Part: TypeAlias = "tuple[str, int, int]"
"""Rows of one class in one slab: the name of the array, the first row, and one past the last row."""


@dataclass(frozen=True)
class MahoutFactor:
    """A function that computes the bases with Mahout, in the Spark application that this process drives.

    Attributes:
        scratch: URI of the group in which the rows are stored during the run.
        attempt: Name of the attempt, see `encode_rows`.
    """

    scratch: str
    attempt: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __call__(self, volumes: Sequence[Volume], rows: Sequence[ClassRows]) -> ClassBases:
        """Return the bases of the rows of several volumes.

        Raises:
            CtbasisError: Mahout is missing from the Spark application, or a task failed.
        """
        spark = spark_context()
        # Chosen in this thread, because the threads below do not inherit its local properties.
        kernels = resolve_kernels(spark)
        StoreWriter.create(self.scratch, PATCH_ROWS)
        try:
            moments = [
                volume.sum_slabs(
                    RowWriter(own, self.scratch, number), sampling_slabs(volume, own.sampler.shape), "patch rows"
                )
                for number, (volume, own) in enumerate(zip(volumes, rows, strict=True))
            ]
            sums, grams, counts = (np.sum([one[index] for one in moments], axis=0) for index in range(3))
            bases = bases_of_moments(sums, grams, counts, rows[0].texture_of_class)

            def factored(label: int) -> bool:
                parts = [part for number, one in enumerate(moments) for part in _parts(number, one[3], label)]
                return bool(counts[label] >= 2 * sums.shape[1]) and self._factor(spark, kernels, parts, bases, label)

            # A class takes a few jobs with few tasks each. The scheduler accounts for most of the time.
            concurrent = min(2 * spark.defaultParallelism, MAX_CONCURRENT_CLASSES)
            with ThreadPoolExecutor(concurrent) as pool:
                results = in_order(pool, factored, range(len(counts)), ahead=concurrent)
                done = sum(progress(results, "patch basis: Mahout", total=len(counts), unit="factorization"))
        finally:
            stores.delete(self.scratch)
        method = f"Mahout 14.1 dssvd of {done} classes"
        if done < len(counts):
            method += f", {len(counts) - done} by Gram matrices (too few rows, or rank-deficient rows)"
        return ClassBases(bases.mean, bases.vectors, bases.energy, counts, method)

    def _factor(self, spark: SparkContext, kernels: str, parts: list[Part], bases: ClassBases, label: int) -> bool:
        """Replace the basis of class `label` by Mahout's; return whether Mahout could compute one."""
        from py4j.protocol import Py4JJavaError
        from pyspark.serializers import NoOpSerializer

        m, n = sum(stop - first for _, first, stop in parts), bases.mean.shape[1]
        blocks = gather_blocks(parts, min(spark.defaultParallelism, math.ceil(m / MIN_BLOCK_ROWS)))
        check_limits(m, n, max(sum(stop - first for _, first, stop in block) for _, block in blocks))
        rows = partial(encode_rows, self.scratch, self.attempt, bases.mean[label])
        # PySpark has no public access to the Java side of a context or of an RDD.
        A = spark.parallelize(blocks, len(blocks)).flatMap(rows)._reserialize(NoOpSerializer())  # noqa: SLF001
        run = java_class(spark, "DsSvd")(spark._jsc, kernels)  # noqa: SLF001
        try:
            with errors_of_tasks():
                spark.setJobDescription(f"dssvd of class {label + 1}")
                spark.setLocalProperty(JOB_LOG_MANY, "true")
                run.run(A._jrdd, m, n, n, 0, 0, label)  # noqa: SLF001
                s, V = decode(run.s())[1][0], decode(run.V())[1]
        except Py4JJavaError as error:
            if error.java_exception.getClass().getSimpleName() == "RankDeficientException":
                return False
            raise
        finally:
            run.close()
        if not is_orthonormal(V.T @ V):
            return False
        bases.vectors[label], bases.energy[label] = V, s**2 / m
        return True


@dataclass(frozen=True)
class RowWriter:
    """A picklable callable that stores the rows of a slab, sorted by class, and returns their moments.

    Attributes:
        rows: Generates the rows.
        scratch: URI of the group to which they are written.
        number: Index of the volume.
    """

    rows: ClassRows
    scratch: str
    number: int

    def __call__(self, volume: Volume, slab: Slab) -> Sums:
        """Write the rows of a slab.

        Returns:
            Sum, Gram matrix and number of the rows of every class, and the numbers by slab, (slabs, classes).
        """
        parts = list(self.rows(volume, slab))
        sums, grams, counts = self.rows.moments_of(parts)
        if parts:
            values = np.concatenate([part for _, part in parts])
            name = _array_name(self.number, slab.first // SLAB_HEIGHT)
            StoreWriter(self.scratch, PATCH_ROWS).put(name, values, chunks=(CHUNK_ROWS, self.rows.size))
        by_slab = np.zeros((math.ceil(volume.shape[0] / SLAB_HEIGHT), len(counts)), np.intp)
        by_slab[slab.first // SLAB_HEIGHT] = counts
        return sums, grams, counts, by_slab


def _array_name(volume: int, slab: int) -> str:
    return f"rows-{volume}-{slab}"


def _parts(volume: int, by_slab: NDArray[np.intp], label: int) -> list[Part]:
    """Return where the rows of class `label` of one volume are stored, slab by slab."""
    ends = np.cumsum(by_slab, axis=1)
    return [
        (_array_name(volume, slab), int(end[label] - count[label]), int(end[label]))
        for slab, (end, count) in enumerate(zip(ends, by_slab, strict=True))
        if count[label]
    ]


def gather_blocks(parts: Sequence[Part], count: int) -> list[tuple[int, list[Part]]]:
    """Combine parts into about `count` blocks of similar size, each with its first row in the matrix of the class."""
    total = sum(stop - first for _, first, stop in parts)
    most = math.ceil(total / max(1, count))
    blocks: list[tuple[int, list[Part]]] = []
    at, held = 0, most
    for part in parts:
        if held >= most:
            blocks.append((at, []))
            held = 0
        blocks[-1][1].append(part)
        held += part[2] - part[1]
        at += part[2] - part[1]
    return blocks


def encode_rows(
    scratch: str, attempt: str, mean: NDArray[np.float32], block: tuple[int, list[Part]]
) -> Iterator[bytes | memoryview]:
    """Yield a block of rows of a class, minus their mean, in the encoding that Blocks.decode reads in the JVM.

    Args:
        scratch: URI of the group that holds the rows.
        attempt: Name of the attempt, which distinguishes groups created at the same URI one after the other: a worker
            outlives them, and keeps what it has opened.
        mean: Mean of the class.
        block: First row of the block in the matrix of the class, and its parts.
    """
    first_row, parts = block
    store = _open_rows(scratch, attempt)
    values = np.concatenate([store.array(name).read(slice(first, stop)) for name, first, stop in parts]) - mean
    yield from encode(first_row, np.asarray(values, np.float32))


@lru_cache(maxsize=1)
def _open_rows(scratch: str, attempt: str) -> StoreWriter:
    del attempt
    return StoreWriter(scratch, PATCH_ROWS)
