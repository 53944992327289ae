"""Program of test_spark_cluster.py: factorizations on two executors, one of which is killed in the last run.

    python -m tests.svd.spark_cluster_program FOLDER

The event log is in FOLDER/events. The program prints one line of JSON: the bytes that each engine shuffled at each
number of columns, and whether the run that lost an executor gave the same bits as the one that did not.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil

from ctbasis.bench.event_log import SETTINGS, Spent
from ctbasis.bench.matrices import write_low_rank
from ctbasis.bench.traffic import start
from ctbasis.matrix import store
from ctbasis.printable import show
from ctbasis.svd.engines import engine_named
from ctbasis.svd.engines.spark import SparkWorkers, StoredBlocks
from ctbasis.svd.factors import FactorStore, FactorWriter
from ctbasis.svd.method import factorize_with
from ctbasis.svd.plan import Plan, plan_factorization
from ctbasis.svd.workers import StoredMatrix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import DTypeLike, NDArray
    from pyspark import SparkContext

    from ctbasis.matrix.store import MatrixStore

ROWS, RANK, OVERSAMPLE, POWER_ITERS = 4096, 50, 15, 2
COLUMNS = (1000, 4000)
EXECUTORS = 2

DEADLY_BLOCK, DEADLY_PASS = 11, 2
"""The row block, in the middle of the second task, at which an executor dies, and the pass in which it does."""


@dataclass(frozen=True)
class DeadlyMatrix:
    """A stored matrix; the executor that reads its `DEADLY_BLOCK` for the `DEADLY_PASS`-th time is killed.

    Attributes:
        matrix: The matrix.
        visits: File that counts how often the block was read.
    """

    matrix: StoredMatrix
    visits: str
    uri: str
    rows: int
    cols: int
    block_count: int
    block_rows: int

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.int16)

    def block(self, index: int) -> slice:
        return slice(index * self.block_rows, (index + 1) * self.block_rows)

    def read_block(self, index: int, *, dtype: DTypeLike = np.float64) -> NDArray[Any]:
        return self.matrix.open().read_block(index, dtype=dtype)

    def blocks(self, indices: Iterable[int], *, reads: bool = True) -> Iterator[tuple[slice, NDArray[Any]]]:
        for index in indices:
            if reads and index == DEADLY_BLOCK:
                with Path(self.visits).open("a", encoding="ascii") as file:
                    file.write("x")
                if Path(self.visits).stat().st_size == DEADLY_PASS:
                    executor = next(one for one in psutil.Process().parents() if one.name() == "java")
                    os.kill(executor.pid, signal.SIGKILL)
                    time.sleep(60)
            yield from self.matrix.blocks([index], reads=reads)


def plan_for(engine: str, matrix: MatrixStore) -> Plan:
    return plan_factorization(
        engine=engine,
        rows=matrix.rows,
        cols=matrix.cols,
        rank=RANK,
        oversample=OVERSAMPLE,
        power_iters=POWER_ITERS,
        seed=0,
        method="randomized" if engine == "spark" else "auto",
    )


def shuffled(spark: SparkContext, events: Path, before: int) -> tuple[int, int]:
    """Return the bytes shuffled since line `before` of the event log, and its number of lines now."""
    spark._jsc.sc().listenerBus().waitUntilEmpty()
    (log,) = events.iterdir()
    lines = log.read_text(encoding="utf-8").splitlines()
    return sum(Spent.of(lines[before:]).shuffled.values()), len(lines)


def main(folder: Path) -> None:
    store.BLOCK_ELEMENTS = 1
    events = folder / "events"
    events.mkdir()
    spark = start(EXECUTORS, {**SETTINGS, "spark.eventLog.dir": events.as_uri()})
    matrices = [write_low_rank(str(folder / f"matrix-{n}.zarr"), rows=ROWS, cols=n, dtype="int16") for n in COLUMNS]
    sent: dict[str, list[int]] = {"spark": [], "mahout": []}
    line = 0
    for engine, amounts in sent.items():
        for matrix in matrices:
            plan = plan_for(engine, matrix)
            factors = FactorWriter.create(str(folder / f"{engine}-{matrix.cols}.zarr"), matrix, rank=plan.rank)
            spectrum = engine_named(engine).load()(matrix, factors, plan)
            factors.finish(s=spectrum.s, V=spectrum.V, plan=plan, matrix=matrix, accuracy=spectrum.accuracy)
            amount, line = shuffled(spark, events, line)
            amounts.append(amount)
    matrix = matrices[0]
    deadly = DeadlyMatrix(
        StoredMatrix(matrix.uri, "deadly"),
        str(folder / "visits"),
        matrix.uri,
        matrix.rows,
        matrix.cols,
        matrix.block_count,
        matrix.block_rows,
    )
    plan = plan_for("spark", matrix)
    factors = FactorWriter.create(str(folder / "deadly.zarr"), matrix, rank=plan.rank)
    spectrum = factorize_with(SparkWorkers(spark, deadly, StoredBlocks(spark, deadly)), factors, plan)
    factors.finish(s=spectrum.s, V=spectrum.V, plan=plan, matrix=matrix, accuracy=spectrum.accuracy)
    ours, theirs = (FactorStore.open(str(folder / name)) for name in (f"spark-{matrix.cols}.zarr", "deadly.zarr"))
    pairs = [(ours.s, theirs.s), (ours.V, theirs.V)]
    pairs += [(ours.read_block(index), theirs.read_block(index)) for index in range(ours.block_count)]
    visits = (folder / "visits").stat().st_size
    show(json.dumps({**sent, "equal": all(np.array_equal(*pair) for pair in pairs), "visits": visits}))
    spark.stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
