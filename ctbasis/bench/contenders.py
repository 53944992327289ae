"""Contenders of `ctbasis bench svd`, which factor a matrix, each in its own process.

    python -m ctbasis.bench.contenders NAME --matrix URI --scratch DIR --rank K --oversample P --power-iters Q

prints one line of JSON. Preparations are not measured: imports, the start of a Spark session or a Ray cluster, and
reading the matrix for contenders that need it in memory. The engines of ctbasis read the store and write the factors
within the measured time. With `--runs` a contender runs several times in its process, and the fastest run counts. Free
memory is touched before each run, or before the matrix is read into memory, so that all contenders find it in the same
state (`touch_free_memory`).

Two entries are bounds: `bare-blas`, the products on float64 in memory of the exact method or, for many columns, of the
randomized one, and `bare-read`, reading the bytes of A from disk.
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
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from threadpoolctl import threadpool_limits

from ctbasis.bench.bounds import exact_products, randomized_products, read_bytes
from ctbasis.bench.meter import Meter, touch_free_memory
from ctbasis.errors import CtbasisError, exit_on_error
from ctbasis.jobs.spark_application import SparkApplication
from ctbasis.matrix.store import MatrixStore
from ctbasis.parsing import parse_memory
from ctbasis.printable import show
from ctbasis.spark.launch_local import spark_submit
from ctbasis.svd.engines import engine_named
from ctbasis.svd.factors import FactorStore, FactorWriter
from ctbasis.svd.method import EXACT_COLUMNS
from ctbasis.svd.plan import plan_factorization
from ctbasis.threads import available_cpus, in_order

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    Blocks = Callable[[int], NDArray[Any]]
    """Function that returns a row block of U by its index."""

T = TypeVar("T")

BOUNDS = ("bare-read", "bare-blas")
"""Names of the bounds."""

MOST_HELD = 2 << 30
"""Bytes of a float64 matrix above which `bare-blas` multiplies one row block repeatedly, to save memory."""

MOST_TOUCHED = 4 << 30
"""Largest number of bytes of free memory that are touched before a run; see `touch_free_memory`."""

MATRICES_TOUCHED = 4
"""The same as a number of float64 matrices; the contender with the largest memory holds three and a half."""

IN_MEMORY = ("bare-blas", "scikit-learn", "scikit-learn-pca", "dask")
"""Contenders that get A as a float64 array: scikit-learn is `randomized_svd`, scikit-learn-pca is
`PCA(svd_solver="covariance_eigh")`, the exact method by the covariance, and dask is
`dask.array.linalg.svd_compressed(compute=True)`."""

DASK_CHUNKS = (1, 2, 4, 8)
"""Row chunks per core among which dask gets the fastest, found on the same matrix before the measured run."""

OURS = {
    "numpy": "numpy",
    "spark": "spark",
    "ctbasis-dask": "dask",
    "ray": "ray",
    "mahout": "mahout",
    "mahout-stock": "mahout",
}
"""Names of the rows of ctbasis, and their engines. The engine dask has another name here, since Dask is a peer too."""

EXTRAS = {
    "scikit-learn": ("sklearn", "demo"),
    "scikit-learn-pca": ("sklearn", "demo"),
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
    """Factor the matrix, and return seconds, cpu_seconds, peak_mib, and the residual ||A - U diag(s) V^T||_F.

    With several runs also first_seconds; with a reference also the differences from it, see `agreement`.
    """
    matrix = MatrixStore.open(options.matrix)

    def settle() -> None:
        touch_free_memory(min(MATRICES_TOUCHED * 8 * matrix.rows * matrix.cols, MOST_TOUCHED))

    if options.name == "bare-read":
        return _bound(lambda: read_bytes(matrix), options.runs, before=settle)
    if options.name == "bare-blas" and matrix.cols > EXACT_COLUMNS:
        width = options.rank + options.oversample
        return _bound(lambda: randomized_products(matrix, width, options.power_iters), options.runs, before=settle)
    if options.name == "bare-blas" and 8 * matrix.rows * matrix.cols > MOST_HELD:
        return _bound(lambda: exact_products(matrix, options.rank), options.runs, before=settle)
    if options.name in IN_MEMORY:
        # The peak memory includes the matrix, because these contenders need it in memory.
        settle()
        with Meter() as held:
            A = _whole(matrix)
            (U, weights), row = measured(_prepared(options, A), options.runs)
        row["peak_mib"] = held.peak_mib

        def blocks(index: int) -> NDArray[Any]:
            return np.asarray(U[matrix.block(index)])
    else:
        factors_uri = str(Path(options.scratch) / "factors.zarr")

        def cleared() -> None:
            shutil.rmtree(factors_uri, ignore_errors=True)
            settle()

        with _started(options) as factorize:
            _, row = measured(lambda: factorize(matrix, factors_uri), options.runs, before=cleared)
        factors = FactorStore.open(factors_uri)
        weights = factors.weights

        blocks = factors.read_block

    row["residual"] = residual(matrix, blocks, weights)
    if options.reference:
        row |= agreement(FactorStore.open(options.reference), blocks, weights)
    return row


def measured(
    work: Callable[[], T], runs: int, *, before: Callable[[], None] = lambda: None
) -> tuple[T, dict[str, Any]]:
    """Run `work` several times, and return the last result and the measurements of the fastest run.

    Args:
        work: The measured function.
        runs: Number of runs.
        before: Function that is called before each run and not measured.

    Returns:
        The last result of `work`; seconds and cpu_seconds of the fastest run, peak_mib of all runs, and, with several
        runs, first_seconds.
    """

    def once() -> tuple[T, Meter]:
        before()
        with Meter() as meter:
            return work(), meter

    # Each result is discarded before the next run, so that no run holds two of them.
    meters = [once()[1] for _ in range(runs - 1)]
    result, last = once()
    meters.append(last)
    fastest = min(meters, key=lambda meter: meter.seconds)
    measurements = {
        "seconds": fastest.seconds,
        "cpu_seconds": fastest.cpu_seconds,
        "peak_mib": max(meter.peak_mib for meter in meters),
    }
    return result, measurements | ({"first_seconds": meters[0].seconds} if runs > 1 else {})


def _bound(work: Callable[[], None], runs: int, *, before: Callable[[], None]) -> dict[str, Any]:
    """Measure a bound, which computes no factors."""
    return measured(work, runs, before=before)[1] | {"residual": None}


def agreement(reference: FactorStore, blocks: Blocks, weights: NDArray[np.float64]) -> dict[str, float]:
    """Compare factors with the exact factors of the engine numpy.

    Returns:
        `sigma`: largest |s_i - s_i'| / s_1. `angle`: largest principal angle between the spans of the right singular
        vectors, degrees. `hu_rms` and `hu_max`: of the difference of the rank-k matrices, HU.
    """
    # U is orthonormal, so these are the singular values of the rank-k matrix.
    s, exact = np.linalg.svd(weights, compute_uv=False), reference.s
    V, V_exact = np.linalg.qr(weights)[0], reference.V
    # The sine is accurate for small angles.
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
    """Compute ||A - U diag(s) V^T||_F in one pass over A and U."""

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
    """Import the modules of a contender, and return the function to measure."""
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
    if options.name == "scikit-learn-pca":
        from sklearn.decomposition import PCA

        def pca() -> tuple[NDArray[Any], NDArray[np.float64]]:
            # PCA subtracts the mean row, which is one of the k dimensions here. The scores sum to 0, so a constant
            # column completes them to an orthonormal U.
            fitted = PCA(n_components=k - 1, svd_solver="covariance_eigh", copy=False)
            scores, m = fitted.fit_transform(A), len(A)
            U = np.empty((m, k))
            np.divide(scores, fitted.singular_values_, out=U[:, :-1])
            U[:, -1] = 1 / math.sqrt(m)
            components = fitted.components_.T * fitted.singular_values_
            return U, np.column_stack([components, fitted.mean_ * math.sqrt(m)])

        return pca

    import dask.array as da

    def factorized(per_core: int) -> tuple[NDArray[Any], NDArray[np.float64]]:
        chunks = -(-len(A) // (per_core * available_cpus()))
        array = da.from_array(A, chunks=(chunks, A.shape[1]))
        u, s, vt = da.linalg.svd_compressed(array, k, n_oversamples=p, n_power_iter=q, seed=0, compute=True)
        U, singular, Vt = da.compute(u, s, vt)
        return U, Vt.T * singular

    def seconds(per_core: int) -> float:
        start = time.perf_counter()
        factorized(per_core)
        return time.perf_counter() - start

    return partial(factorized, min(DASK_CHUNKS, key=seconds))


@contextmanager
def _started(options: argparse.Namespace) -> Iterator[Callable[[MatrixStore, str], None]]:
    """Start the runtime of an engine, and yield the function to measure."""
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
        result = load(matrix, factors, plan)
        factors.finish(s=result.s, V=result.V, plan=plan, matrix=matrix, accuracy=result.accuracy)

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
    """Start a Spark session and one Python worker per core, as a running application has them."""
    from pyspark.sql import SparkSession

    from ctbasis.svd.engines.spark import without_tables

    os.environ["PYSPARK_PYTHON"] = sys.executable
    if mahout:
        _apply_manifest(stock=stock)
        builder = SparkSession.builder
    else:
        settings = {"spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false", "spark.log.level": "ERROR"}
        settings |= {"spark.driver.memory": "512m", "spark.driver.maxResultSize": "0"}
        settings |= {"spark.python.daemon.module": "ctbasis.spark.worker_daemon"}
        settings |= {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
        builder = SparkSession.builder.master("local[*]")
        for key, value in settings.items():
            builder = builder.config(key, value)
    with without_tables():
        session = builder.getOrCreate()
    cores = session.sparkContext.defaultParallelism
    engine = "ctbasis.svd.engines.mahout" if mahout else "ctbasis.svd.engines.spark"
    # The workers import the engine before anything is measured, as the peers do.
    session.sparkContext.parallelize(range(cores), cores).map(lambda _: bool(import_module(engine))).count()
    return session


def _apply_manifest(*, stock: bool) -> None:
    """Give the next Spark session the settings, Java options and memory of a run on this machine.

    It also gets all cores and the environment variables of the driver, whose process is the executor too.
    """
    from ctbasis.svd.engines.mahout_bridge import KERNELS

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
        show(json.dumps(run(parse(sys.argv[1:]))))
