"""Measurement of what a factorization sends between the executors of Spark, at several numbers of columns.

    python -m ctbasis.bench.traffic ENGINE --matrix URI --factors URI --executors E
        --rank K --oversample P --power-iters Q

factors a matrix on executors of one core, each with a process of its own on this machine (Spark's master
`local-cluster`), with the settings of manifests/application/sparkapplication.yaml and with Spark's event log in
CTBASIS_EVENTS. `bench_traffic` runs it for each engine and number of columns, and reads the event logs.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ctbasis.bench.event_log import SETTINGS, Spent
from ctbasis.bench.matrices import write_low_rank
from ctbasis.errors import CtbasisError, error_in_log, exit_on_error
from ctbasis.installed import LAYOUT
from ctbasis.jobs.spark_application import SparkApplication
from ctbasis.matrix.store import MatrixStore
from ctbasis.printable import say
from ctbasis.spark.launch_local import spark_submit
from ctbasis.svd.engines import engine_named
from ctbasis.svd.factors import FactorWriter
from ctbasis.svd.plan import plan_factorization

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pyspark import SparkContext

EVENTS = "CTBASIS_EVENTS"
"""Environment variable: the folder of the event log."""

ENGINES = ("spark", "mahout")

EXECUTOR_MEMORY = 3072
"""MiB of a worker in `local-cluster`; the executor of the manifest takes all of it."""


@dataclass(frozen=True)
class TrafficCase:
    """The factorizations whose traffic is measured.

    Attributes:
        cols: Numbers of columns n.
        rows: Number of rows m. The traffic does not depend on it, so few are enough.
        executors: Number of executors of one core.
        rank: Rank k.
        oversample: Oversampling p.
        power_iters: Power iterations q.
        contenders: Engines, some of `ENGINES`.
    """

    cols: Sequence[int] = (1_000, 4_000, 16_000, 64_000)
    rows: int = 16_384
    executors: int = 2
    rank: int = 50
    oversample: int = 15
    power_iters: int = 2
    contenders: Sequence[str] = ENGINES

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Return the case that the user describes by attributes, of which `cols` may be one number.

        Raises:
            CtbasisError: An engine is none of `ENGINES`.
        """
        known = {key: given[key] for key in cls.__dataclass_fields__ if key in given}
        if "cols" in known:
            known["cols"] = (known["cols"],)
        return cls(**known)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.contenders) - set(ENGINES))
        if unknown:
            raise CtbasisError(
                f"the traffic of {', '.join(unknown)} cannot be measured", expected=f"some of {', '.join(ENGINES)}"
            )


def bench_traffic(case: TrafficCase) -> list[dict[str, Any]]:
    """Measure the traffic of each engine at each number of columns.

    Returns:
        A row for each: engine, rows, cols, executors, products (A^T Y for the power iterations), shuffle_mib (written
        to shuffles by all tasks), expected_mib (executors x products x n (k + p) doubles), ratio of the two, driver_mib
        (results of all tasks), one_sum_mib (n (k + p) doubles), driver_heap_mib (peak), seconds.

    Raises:
        CtbasisError: The disk is too small, Spark does not start, or an engine failed.
    """
    rows: list[dict[str, Any]] = []
    for cols in case.cols:
        with tempfile.TemporaryDirectory(prefix="ctbasis-bench-") as scratch:
            need, free = 2 * case.rows * cols, shutil.disk_usage(scratch).free
            if 2 * need > free:
                raise CtbasisError(
                    f"a matrix of {case.rows} x {cols} needs {need / 1e9:.1f} GB, and there are {free / 1e9:.1f} GB",
                    expected="room for the matrix, and as much for Spark",
                    remedy="set TMPDIR to a folder on a larger disk, or choose fewer --rows or --cols",
                )
            uri = str(Path(scratch) / "matrix.zarr")
            matrix = write_low_rank(uri, rows=case.rows, cols=cols, dtype="int16")
            rows += [measured(engine, matrix, case, Path(scratch)) for engine in case.contenders]
    return rows


def measured(engine: str, matrix: MatrixStore, case: TrafficCase, scratch: Path) -> dict[str, Any]:
    """Factor the matrix by one engine in a Spark application of its own, and return the row of `bench_traffic`.

    Raises:
        CtbasisError: Spark does not start, or the engine failed.
    """
    events = scratch / f"events-{engine}"
    events.mkdir()
    command = [sys.executable, "-m", "ctbasis.bench.traffic", engine, "--matrix", matrix.uri]
    command += ["--factors", str(scratch / f"factors-{engine}.zarr"), "--executors", str(case.executors)]
    command += ["--rank", str(case.rank), "--oversample", str(case.oversample)]
    command += ["--power-iters", str(case.power_iters)]
    say(f"bench: {engine} on {matrix.rows} x {matrix.cols}, {case.executors} executors")
    environment = {**os.environ, "PYTHONPATH": LAYOUT.python_path(), EVENTS: str(events)}
    environment |= {"SPARK_LOCAL_DIRS": str(scratch), "SPARK_WORKER_DIR": str(scratch), "SPARK_LOCAL_IP": "127.0.0.1"}
    started = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        log = done.stderr.splitlines()
        if refused := error_in_log(log):
            raise CtbasisError.from_text(refused)
        raise CtbasisError(f"the engine {engine} failed; its last lines:", details=log[-15:])
    (log_file,) = events.iterdir()
    spent = Spent.of(log_file.read_text(encoding="utf-8").splitlines())
    one_sum = 8 * matrix.cols * (case.rank + case.oversample)
    products = case.power_iters + 1
    expected = case.executors * products * one_sum
    shuffled = sum(spent.shuffled.values())
    return {
        "bench": "traffic",
        "engine": engine,
        "rows": matrix.rows,
        "cols": matrix.cols,
        "executors": case.executors,
        "products": products,
        "shuffle_mib": shuffled / 2**20,
        "expected_mib": expected / 2**20,
        "ratio": shuffled / expected,
        "driver_mib": spent.results / 2**20,
        "one_sum_mib": one_sum / 2**20,
        "driver_heap_mib": spent.heap["driver"] / 2**20,
        "seconds": seconds,
    }


def start(executors: int, settings: dict[str, str] | None = None) -> SparkContext:
    """Start a Spark application on `executors` executors of one core on this machine, with the manifest's settings.

    Args:
        executors: Number of executors.
        settings: More settings of the application.
    """
    manifest = SparkApplication.read().to_manifest()
    master = f"local-cluster[{executors},1,{EXECUTOR_MEMORY}]"
    # The first part is the program, and the last is the program that a step runs.
    _, *options = spark_submit(manifest, master=master)[: -1 - len(manifest["spec"].get("arguments", []))]
    conf = {
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.log.level": "ERROR",
        # The first task waits for all executors.
        "spark.scheduler.minRegisteredResourcesRatio": "1.0",
        "spark.scheduler.maxRegisteredResourcesWaitingTime": "120s",
        **(settings or {}),
    }
    for key, value in conf.items():
        options += ["--conf", f"{key}={value}"]
    os.environ["PYSPARK_SUBMIT_ARGS"] = shlex.join([*options, "pyspark-shell"])
    os.environ["PYSPARK_PYTHON"] = sys.executable
    from pyspark import SparkContext

    return SparkContext()


def main(arguments: Sequence[str]) -> None:
    """Factor a matrix by one engine; see the docstring of the module."""
    parser = argparse.ArgumentParser(prog="traffic")
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--matrix", required=True)
    parser.add_argument("--factors", required=True)
    for name in ("executors", "rank", "oversample", "power-iters"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args(arguments)
    spark = start(options.executors, {**SETTINGS, "spark.eventLog.dir": Path(os.environ[EVENTS]).as_uri()})
    try:
        matrix = MatrixStore.open(options.matrix)
        # The exact method sums n x n matrices, and serves few columns.
        plan = plan_factorization(
            engine=options.engine,
            rows=matrix.rows,
            cols=matrix.cols,
            rank=options.rank,
            oversample=options.oversample,
            power_iters=options.power_iters,
            seed=0,
            method="randomized" if options.engine == "spark" else "auto",
        )
        factors = FactorWriter.create(options.factors, matrix, rank=plan.rank)
        spectrum = engine_named(options.engine).load()(matrix, factors, plan)
        factors.finish(s=spectrum.s, V=spectrum.V, plan=plan, matrix=matrix, accuracy=spectrum.accuracy)
    finally:
        spark.stop()


if __name__ == "__main__":
    with exit_on_error():
        main(sys.argv[1:])
