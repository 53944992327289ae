"""The basis of patches by Mahout: `dssvd` of each class's whitened rows, a tall-skinny matrix that executors make.

    pass over slabs   each task writes its slab's rows, sorted by class, and returns sums (ctbasis/patch/basis.py)
    class by class    each task reads its part of the class's rows, takes the class's mean off, and hands it to Mahout:
                      A (rows x voxels) ~ U diag(s) V^T at k = voxels, so that V is a whole basis and s^2 its energies

U is never asked for. At k = n the projection Omega is square, so no power iteration is needed and nothing is left out.
The rows lie below the run's folder meanwhile and are removed. What is tall never passes through the driver.

Mahout orthonormalizes by Cholesky (ctbasis/svd/engines/mahout.py): a class whose rows it finds deficient, as a
noiseless series has, and one of too few rows, get the eigenvectors of the Gram matrix, and the basis says how many did.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from ctbasis.matrix.store import array_of
from ctbasis.patch.basis import HEIGHT, Bases, bases_of, row_slabs
from ctbasis.progress import progress
from ctbasis.storage import stores
from ctbasis.svd.engines.mahout import (
    check_limits,
    chosen_kernels,
    decode,
    encode,
    java_class,
    orthonormal,
    spark_context,
)
from ctbasis.svd.engines.spark import refusal_of_task
from ctbasis.threads import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import zarr
    from numpy.typing import NDArray
    from pyspark import SparkContext

    from ctbasis.patch.basis import ClassRows
    from ctbasis.patch.volume import Slab, Sums, Volume

CHUNK_ROWS = 4096
"""Rows of a chunk: 2 MB of 125 voxels, of which a class of a slab has a few."""

BLOCK_ROWS = 16384
"""Of a block that is handed to Mahout, at least: a task takes a tenth of a second whatever it does."""

AT_ONCE = 16
"""Classes at most that are factored at once; the driver does the small matrices of each."""

JOB_LOG_MANY = "ctbasis.log.many"
"""Spark's local property by which JobLog.java says long jobs only: there are a thousand, and classes are counted."""

Part: TypeAlias = "tuple[str, int, int]"
"""Rows of one class in one slab: the array's name, the first row and one past the last."""


@dataclass(frozen=True)
class MahoutFactor:
    """What makes the bases by Mahout, in the Spark application that this process drives.

    Attributes:
        scratch: URI below which rows are kept meanwhile.
    """

    scratch: str

    def __call__(self, volumes: Sequence[Volume], rows: Sequence[ClassRows]) -> Bases:
        """Return the bases of the rows of several volumes.

        Raises:
            CtbasisError: The Spark application lacks Mahout, or a task failed.
        """
        spark = spark_context()
        # Here, as local properties of this thread are not those of the threads below.
        kernels = chosen_kernels(spark)
        stores.open_group(self.scratch, mode="w")
        try:
            every = [
                volume.total(RowWriter(of, self.scratch, number), row_slabs(volume, of.drawn.shape), "patch rows")
                for number, (volume, of) in enumerate(zip(volumes, rows, strict=True))
            ]
            sums, grams, counts = (np.sum([one[index] for one in every], axis=0) for index in range(3))
            bases = bases_of(sums, grams, counts, rows[0].texture)

            def factored(chosen: int) -> bool:
                parts = [part for number, one in enumerate(every) for part in _parts(number, one[3], chosen)]
                return bool(counts[chosen] >= 2 * sums.shape[1]) and self._factor(spark, kernels, parts, bases, chosen)

            # A class is a few jobs of a task or a few: most of its time is the scheduler's.
            at_once = min(2 * spark.defaultParallelism, AT_ONCE)
            with ThreadPoolExecutor(at_once) as pool:
                found = in_order(pool, factored, range(len(counts)), ahead=at_once)
                done = sum(progress(found, "patch basis: Mahout", total=len(counts), unit="factorization"))
        finally:
            stores.delete(self.scratch)
        by = f"Mahout 14.1 dssvd of {done} classes"
        if done < len(counts):
            by += f", {len(counts) - done} by Gram matrices: of too few or of deficient rows"
        return Bases(bases.mean, bases.vectors, bases.energy, counts, by)

    def _factor(self, spark: SparkContext, kernels: str, parts: list[Part], bases: Bases, chosen: int) -> bool:
        """Put Mahout's basis of a class in the place of that of its Gram matrix; say whether it gave one."""
        from py4j.protocol import Py4JJavaError
        from pyspark.serializers import NoOpSerializer

        m, n = sum(stop - first for _, first, stop in parts), bases.mean.shape[1]
        blocks = gathered_blocks(parts, min(spark.defaultParallelism, math.ceil(m / BLOCK_ROWS)))
        check_limits(m, n, max(sum(stop - first for _, first, stop in block) for _, block in blocks))
        rows = partial(encode_rows, self.scratch, bases.mean[chosen])
        # The Java side of a context and of an RDD is private in PySpark, and there is no public way to it.
        A = spark.parallelize(blocks, len(blocks)).flatMap(rows)._reserialize(NoOpSerializer())  # noqa: SLF001
        run = java_class(spark, "DsSvd")(spark._jsc, kernels)  # noqa: SLF001
        try:
            spark.setJobDescription(f"dssvd of class {chosen + 1}")
            spark.setLocalProperty(JOB_LOG_MANY, "true")
            run.run(A._jrdd, m, n, n, 0, 0, chosen)  # noqa: SLF001
            s, V = decode(run.s())[1][0], decode(run.V())[1]
        except Py4JJavaError as error:
            if error.java_exception.getClass().getSimpleName() == "RankDeficientException":
                return False
            raise refusal_of_task(error) or error from error
        finally:
            run.close()
        if not orthonormal(V.T @ V):
            return False
        bases.vectors[chosen], bases.energy[chosen] = V, s**2 / m
        return True


@dataclass(frozen=True)
class RowWriter:
    """What writes a slab's rows, sorted by class, and sums them.

    Attributes:
        rows: Makes them.
        scratch: URI of the group that they are written to.
        number: Of the volume.
    """

    rows: ClassRows
    scratch: str
    number: int

    def __call__(self, volume: Volume, slab: Slab) -> Sums:
        """Write the rows; return sum, Gram matrix and number of every class's, and the numbers by slab."""
        parts = list(self.rows(volume, slab))
        sums, grams, counts = self.rows.summed(parts)
        if parts:
            group = stores.open_group(self.scratch, mode="r+")
            values = np.concatenate([part for _, part in parts])
            group.create_array(
                _name(self.number, slab.first // HEIGHT),
                data=values,
                chunks=(min(CHUNK_ROWS, len(values)), self.rows.size),
                compressors=None,
                overwrite=True,
            )
        by_slab = np.zeros((math.ceil(volume.shape[0] / HEIGHT), len(counts)), np.intp)
        by_slab[slab.first // HEIGHT] = counts
        return sums, grams, counts, by_slab


def _name(number: int, slab: int) -> str:
    return f"rows-{number}-{slab}"


def _parts(number: int, by_slab: NDArray[np.intp], chosen: int) -> list[Part]:
    """Return where the rows of a class are, slab by slab, in one volume."""
    ends = np.cumsum(by_slab, axis=1)
    return [
        (_name(number, slab), int(end[chosen] - count[chosen]), int(end[chosen]))
        for slab, (end, count) in enumerate(zip(ends, by_slab, strict=True))
        if count[chosen]
    ]


def gathered_blocks(parts: Sequence[Part], wanted: int) -> list[tuple[int, list[Part]]]:
    """Gather parts into about `wanted` blocks of as many rows, each with its first row in the class's matrix."""
    total = sum(stop - first for _, first, stop in parts)
    most = math.ceil(total / max(1, wanted))
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


def encode_rows(scratch: str, mean: NDArray[np.float32], block: tuple[int, list[Part]]) -> Iterator[bytes | memoryview]:
    """Yield a block of a class's rows less their mean, as the JVM's Blocks.decode reads it."""
    first_row, parts = block
    group = _opened(scratch)
    values = np.concatenate([np.asarray(array_of(group, name)[first:stop]) for name, first, stop in parts]) - mean
    yield from encode(first_row, np.asarray(values, np.float32))


@lru_cache(maxsize=1)
def _opened(scratch: str) -> zarr.Group:
    return stores.open_group(scratch, mode="r")
