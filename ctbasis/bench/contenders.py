"""Who factors a matrix in `ctbasis bench svd`, each in a process of its own.

    python -m ctbasis.bench.contenders NAME --matrix URI --scratch DIR --rank K --oversample P --power-iters Q

prints one line of JSON. What a contender needs first is not measured: imports, a Spark session, a Ray cluster; for
those that want the matrix in memory, reading it. Ours read the store and write the factors within the time that is
measured. With `--runs` it is done so often in that process, and the fastest run counts. Free memory is touched
before each run, or before the matrix is read by those that want it, so that all find it alike (`touch_free_memory`).

Two are no contenders but what bounds them: `bare-blas`, the products of the exact method on float64 in memory, and
`bare-read`, the bytes of A as they lie on disk.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import shlex
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from ctbasis.bench.meter import Meter, touch_free_memory
from ctbasis.errors import CtbasisError, exit_on_error
from ctbasis.matrix.store import MatrixStore
from ctbasis.parsing import parse_memory
from ctbasis.spark.application import SparkApplication
from ctbasis.spark.launch_local import spark_submit
from ctbasis.svd.engines import engine_named
from ctbasis.svd.factors import FactorStore, FactorWriter
from ctbasis.svd.plan import plan_factorization
from ctbasis.threads import available_cpus, in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    Blocks = Callable[[int], NDArray[Any]]
    """U, row block by row block."""

T = TypeVar("T")

BOUNDS = ("bare-read", "bare-blas")

MOST_HELD = 2 << 30
"""Bytes of a float64 matrix beyond which `bare-blas` multiplies one row block again and again, for want of memory."""

MOST_TOUCHED = 4 << 30
"""Bytes of free memory that are touched before a run, at most; see `touch_free_memory`."""

MATRICES_TOUCHED = 4
"""The same, in matrices of float64: the hungriest contender holds three and a half."""

IN_MEMORY = ("bare-blas", "scikit-learn", "dask")
"""Contenders that are given A as a float64 array; dask is `dask.array.linalg.svd_compressed`."""

OURS = {
    "numpy": "numpy",
    "spark": "spark",
    "ctbasis-dask": "dask",
    "ray": "ray",
    "mahout": "mahout",
    "mahout-stock": "mahout",
}
"""Names of our rows, and the engine of each. Ours on Dask has a name of its own, for the package has one too."""

EXTRAS = {
    "scikit-learn": ("sklearn", "demo"),
    "dask": ("dask", "dask"),
    "ctbasis-dask": ("distributed", "dask"),
    "ray": ("ray", "ray"),
}
"""Contenders that need an optional package: the module that they import, and the extra of ctbasis that installs it."""

CONTENDERS = (*BOUNDS, *(name for name in IN_MEMORY if name not in BOUNDS), *OURS)


def require_installed(names: Iterable[str]) -> None:
    """Check that the optional packages of contenders are installed.

    Args:
        names: Of `CONTENDERS`.

    Raises:
        CtbasisError: A package is missing.
    """
    for name in names:
        module, extra = EXTRAS.get(name, ("", ""))
        if module and importlib.util.find_spec(module) is None:
            raise CtbasisError(
                f"{name} cannot be measured: the Python package {module} is missing",
                expected=f"the packages of the extra `{extra}`",
                cause=f"ctbasis was installed without its extra `{extra}`",
                remedy=f"pip install 'ctbasis[{extra}]', run `make setup` in a checkout, or choose others by --engine",
            )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Factor, and return seconds, cpu_seconds, peak_mib, and the residual ||A - U diag(s) V^T||_F.

    With several runs, also first_seconds; with a reference, also how far from it: largest principal angle, sigma and
    HU, as in `agreement`.
    """
    matrix = MatrixStore.open(options.matrix)

    def settle() -> None:
        touch_free_memory(min(MATRICES_TOUCHED * 8 * matrix.rows * matrix.cols, MOST_TOUCHED))

    if options.name == "bare-read":
        return _bound(lambda: _read(matrix), options.runs, before=settle)
    if options.name == "bare-blas" and 8 * matrix.rows * matrix.cols > MOST_HELD:
        return _bound(lambda: _products(matrix, options.rank), options.runs, before=settle)
    if options.name in IN_MEMORY:
        # What the process holds at its peak includes the matrix: without it these cannot begin.
        settle()
        with Meter() as held:
            A = _whole(matrix)
            (U, weights), found = measured(_prepared(options, A), options.runs)
        found["peak_mib"] = held.peak_mib

        def blocks(index: int) -> NDArray[Any]:
            return np.asarray(U[matrix.block(index)])
    else:
        factors_uri = str(Path(options.scratch) / "factors.zarr")

        def cleared() -> None:
            shutil.rmtree(factors_uri, ignore_errors=True)
            settle()

        with _started(options) as factorize:
            _, found = measured(lambda: factorize(matrix, factors_uri), options.runs, before=cleared)
        factors = FactorStore.open(factors_uri)
        weights = factors.weights

        blocks = factors.read_block

    found["residual"] = residual(matrix, blocks, weights)
    if options.reference:
        found |= agreement(FactorStore.open(options.reference), blocks, weights)
    return found


def measured(
    work: Callable[[], T], runs: int, *, before: Callable[[], None] = lambda: None
) -> tuple[T, dict[str, Any]]:
    """Do it so often, and return what the last run gave, and what the fastest took.

    Args:
        work: Is measured.
        runs: How often.
        before: Done before each run, and not measured.

    Returns:
        What `work` returns; seconds and cpu_seconds of the fastest run, peak_mib of all, and first_seconds if there are
        several.
    """

    def once() -> tuple[T, Meter]:
        before()
        with Meter() as meter:
            return work(), meter

    # What a run gave is let go of before the next: no run holds the factors of two.
    meters = [once()[1] for _ in range(runs - 1)]
    given, last = once()
    meters.append(last)
    fastest = min(meters, key=lambda meter: meter.seconds)
    found = {
        "seconds": fastest.seconds,
        "cpu_seconds": fastest.cpu_seconds,
        "peak_mib": max(meter.peak_mib for meter in meters),
    }
    return given, found | ({"first_seconds": meters[0].seconds} if runs > 1 else {})


def _bound(work: Callable[[], None], runs: int, *, before: Callable[[], None]) -> dict[str, Any]:
    """Measure a bound, which leaves no factors."""
    return measured(work, runs, before=before)[1] | {"residual": None}


def _read(matrix: MatrixStore) -> None:
    """Read the bytes of A once, in as many threads as there are cores, decoding nothing."""
    files = [path for path in Path(matrix.uri, "A").rglob("*") if path.is_file()]

    def one(path: Path) -> int:
        with path.open("rb", buffering=0) as file:
            return sum(iter(lambda: len(file.read(1 << 20)), 0))

    with ThreadPoolExecutor(available_cpus()) as pool:
        for _ in pool.map(one, files):
            pass


def _products(matrix: MatrixStore, rank: int) -> None:
    """Do A^T A and A V of every row block, on one block that is held: no conversion, no reading, no writing."""
    A = matrix.read_block(0)
    V = np.linalg.qr(np.random.default_rng(0).standard_normal((matrix.cols, rank)))[0]
    G, U = np.empty((matrix.cols, matrix.cols)), np.empty((len(A), rank))
    for _ in range(matrix.block_count):
        np.matmul(A.T, A, out=G)
    for _ in range(matrix.block_count):
        np.matmul(A, V, out=U)


def agreement(reference: FactorStore, blocks: Blocks, weights: NDArray[np.float64]) -> dict[str, float]:
    """Compare factors with those of the engine numpy, which are exact.

    Returns:
        `sigma`: largest |s_i - s_i'| / s_1. `angle`: largest principal angle between the spans of the right singular
        vectors, degrees. `hu_rms` and `hu_max`: of the difference of the rank-k matrices, HU.
    """
    s, exact = np.linalg.norm(weights, axis=0), reference.s
    V, V_exact = np.linalg.qr(weights)[0], reference.V
    # By the sine, which is right for small angles.
    sine = np.linalg.norm(V - V_exact @ (V_exact.T @ V), 2)
    squared, largest, count = 0.0, 0.0, 0
    for index in range(reference.block_count):
        difference: NDArray[np.float64] = blocks(index) @ weights.T - reference.read_block(index) @ reference.weights.T
        squared += float(np.vdot(difference, difference))
        largest = max(largest, float(np.abs(difference).max()))
        count += difference.size
    return {
        "sigma": float(np.abs(s - exact).max() / exact[0]),
        "angle": math.degrees(math.asin(min(1.0, float(sine)))),
        "hu_rms": math.sqrt(squared / count),
        "hu_max": largest,
    }


def residual(matrix: MatrixStore, blocks: Blocks, weights: NDArray[np.float64]) -> float:
    """Return ||A - U diag(s) V^T||_F by one pass over A and U."""

    def squared(index: int) -> float:
        difference = matrix.read_block(index) - blocks(index) @ weights.T
        return float(np.vdot(difference, difference))

    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(available_cpus()) as pool:
        return math.sqrt(sum(in_order(pool, squared, range(matrix.block_count), ahead=available_cpus())))


def _whole(matrix: MatrixStore) -> NDArray[np.float64]:
    A = np.empty((matrix.rows, matrix.cols))
    for index in range(matrix.block_count):
        A[matrix.block(index)] = matrix.read_block(index)
    return A


def _prepared(
    options: argparse.Namespace, A: NDArray[np.float64]
) -> Callable[[], tuple[NDArray[Any], NDArray[np.float64]]]:
    """Import what the contender needs, and return what is to be measured."""
    k, p, q = options.rank, options.oversample, options.power_iters

    def bare() -> tuple[NDArray[Any], NDArray[np.float64]]:
        squared, V = np.linalg.eigh(A.T @ A)
        s, V = np.sqrt(np.maximum(squared[::-1][:k], 0)), V[:, ::-1][:, :k]
        return A @ (V / s), V * s

    if options.name == "bare-blas":
        return bare
    if options.name == "scikit-learn":
        from sklearn.utils.extmath import randomized_svd

        def scikit_learn() -> tuple[NDArray[Any], NDArray[np.float64]]:
            U, s, Vt = randomized_svd(A, n_components=k, n_oversamples=p, n_iter=q, random_state=0)
            return U, Vt.T * s

        return scikit_learn

    import dask.array as da

    def dask() -> tuple[NDArray[Any], NDArray[np.float64]]:
        array = da.from_array(A, chunks=(max(1, len(A) // 16), A.shape[1]))
        u, s, vt = da.linalg.svd_compressed(array, k, n_oversamples=p, n_power_iter=q, seed=0)
        U, singular, Vt = da.compute(u, s, vt)
        return U, Vt.T * singular

    return dask


@contextmanager
def _started(options: argparse.Namespace) -> Iterator[Callable[[MatrixStore, str], None]]:
    """Start what the engine runs on, and yield what is to be measured."""
    engine = OURS[options.name]

    def factorize(matrix: MatrixStore, factors_uri: str) -> None:
        plan = plan_factorization(
            engine=engine,
            rows=matrix.rows,
            cols=matrix.cols,
            rank=options.rank,
            oversample=options.oversample,
            power_iters=options.power_iters,
            seed=0,
            memory=options.memory,
        )
        factors = FactorWriter.create(factors_uri, matrix, rank=plan.rank)
        found = load(matrix, factors, plan)
        factors.finish(s=found.s, V=found.V, plan=plan, matrix=matrix, accuracy=found.accuracy)

    load = engine_named(engine).load()
    if engine in {"spark", "mahout"}:
        session = _spark(stock=options.name == "mahout-stock", mahout=engine == "mahout")
        try:
            yield factorize
        finally:
            session.stop()
    elif engine == "ray":
        from ctbasis.svd.engines import ray

        with ray.connected(""):
            yield factorize
    else:
        yield factorize


def _spark(*, stock: bool, mahout: bool) -> Any:
    """Start a session and one Python worker a core, as an application that has been running has them."""
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    if mahout:
        _as_the_manifest_says(stock=stock)
        builder = SparkSession.builder
    else:
        settings = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.log.level": "ERROR"}
        settings |= {"spark.driver.memory": "512m", "spark.driver.maxResultSize": "0"}
        settings |= {"spark.python.daemon.module": "ctbasis.spark.worker_daemon"}
        settings |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
        builder = SparkSession.builder.master("local[*]")
        for key, value in settings.items():
            builder = builder.config(key, value)
    session = builder.getOrCreate()
    cores = session.sparkContext.defaultParallelism
    engine = "ctbasis.svd.engines.mahout" if mahout else "ctbasis.svd.engines.spark"
    # The workers import what they run, as the peers do, before anything is measured.
    session.sparkContext.parallelize(range(cores), cores).map(lambda _: bool(import_module(engine))).count()
    return session


def _as_the_manifest_says(*, stock: bool) -> None:
    """Let the session that starts next have the settings, the Java options and the memory of a run on this machine.

    It is given all cores, and the variables of the driver, whose process is the executor too.
    """
    from ctbasis.svd.engines.mahout import KERNELS

    manifest = SparkApplication.read().to_manifest()
    _, *options = spark_submit(manifest)[: -1 - len(manifest["spec"].get("arguments", []))]
    options += ["--master", "local[*]", "--conf", f"{KERNELS}={'stock' if stock else 'replaced'}"]
    options += ["--conf", "spark.log.level=ERROR"]
    os.environ["PYSPARK_SUBMIT_ARGS"] = shlex.join([*options, "pyspark-shell"])
    variables = manifest["spec"]["driver"].get("env", [])
    os.environ.update({entry["name"]: entry["value"] for entry in variables if "value" in entry})


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="contenders")
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("--matrix", required=True)
    parser.add_argument("--scratch", required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--oversample", type=int, required=True)
    parser.add_argument("--power-iters", type=int, required=True)
    parser.add_argument("--memory", type=parse_memory, default=0)
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--reference", default="", help="factors to compare with")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    with exit_on_error():
        sys.stdout.write(json.dumps(run(parse(sys.argv[1:]))) + "\n")
