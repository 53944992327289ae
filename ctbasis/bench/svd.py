"""Benchmark of the engines and their peers on one matrix: time, memory, and rank-k residual relative to the optimum."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.bench.contenders import require_installed
from ctbasis.bench.matrices import write_decaying, write_low_rank
from ctbasis.errors import CtbasisError, error_in_log
from ctbasis.installed import LAYOUT
from ctbasis.matrix.ingest import ingest
from ctbasis.matrix.store import MatrixStore
from ctbasis.printable import say
from ctbasis.svd.engines.numpy import factorize
from ctbasis.svd.factors import FactorWriter
from ctbasis.svd.method import EXACT_COLUMNS
from ctbasis.svd.plan import plan_factorization

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctbasis.bench.cases import Case

PEERS = (("scikit-learn", "over_scikit_learn"), ("bare-blas", "over_bare_blas"), ("mahout-stock", "over_mahout_stock"))
"""Contenders to which the time of others is compared, and the columns of the ratios."""

EXACT_PASSES = 2
"""Passes over A of the exact method by the Gram matrix; the time of `bare-read` counts as often in the bound."""

MOST_GRAM_COLUMNS = 6_000
"""Most columns at which the matrix and its optimal residual are computed from n x n matrices."""


def bench_svd(series: Path | None, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Factor the matrix of each case, or that of `series`, by every contender in turn.

    Args:
        series: Folder of a CT series; None for generated matrices.
        cases: Cases to run.

    Returns:
        A row for each contender: case, engine, rows, cols, dtype, rank, oversample, power_iters, seconds, cpu_seconds,
        peak_mib (of all processes; for peers and bare BLAS including the matrix, which they need in memory), up to
        `MOST_GRAM_COLUMNS` columns residual_over_optimal = ||A - A_k||_F / sqrt(sum_{i>k} sigma_i^2), us_per_row, and
        its seconds divided by those of scikit-learn, bare BLAS and Mahout's stock kernels if they ran. With several
        runs also first_seconds; for `series` also the differences from the exact factors (`contenders.agreement`); with
        both bounds also share_of_bound, the seconds of the larger bound divided by its own.

    Raises:
        CtbasisError: An optional package or disk space is missing, or a contender failed.
    """
    rows: list[dict[str, Any]] = []
    require_installed(name for case in cases for name in case.contenders)
    for case in cases:
        with tempfile.TemporaryDirectory(prefix="ctbasis-bench-") as scratch:
            rows += _measured(_matrix(series, case, Path(scratch)), case, Path(scratch), compared=series is not None)
    return rows


def _matrix(series: Path | None, case: Case, scratch: Path) -> MatrixStore:
    uri = str(scratch / "matrix.zarr")
    if series is not None:
        ingest(series, uri, scratch / "qc.json")
        return MatrixStore.open(uri)
    matrix = 0 if case.distinct else case.rows * case.cols * np.dtype(case.dtype).itemsize
    need = matrix + case.rows * case.rank * np.dtype(np.float32).itemsize
    free = shutil.disk_usage(scratch).free
    if need > free:
        raise CtbasisError(
            f"case {case.name} needs {need / 1e9:.0f} GB of disk, and {scratch.parent} has {free / 1e9:.0f} GB free",
            expected="room for the matrix and its factors",
            remedy="set TMPDIR to a folder on a larger disk, or choose fewer --rows",
        )
    if case.cols > MOST_GRAM_COLUMNS:
        return write_low_rank(uri, rows=case.rows, cols=case.cols, dtype=case.dtype)
    return write_decaying(uri, rows=case.rows, cols=case.cols, dtype=case.dtype, distinct=case.distinct)


def _measured(matrix: MatrixStore, case: Case, scratch: Path, *, compared: bool) -> list[dict[str, Any]]:
    rank = min(case.rank, matrix.cols, matrix.rows)
    optimal = optimal_residual(matrix, rank, case.distinct) if matrix.cols <= MOST_GRAM_COLUMNS else 0.0
    reference = _reference(matrix, rank, scratch) if compared else ""
    rows: list[dict[str, Any]] = []
    for name in case.contenders:
        measurements = contend(name, matrix, case, rank, scratch, reference=reference)
        remaining = measurements.pop("residual")
        rows.append(
            {
                "bench": "svd",
                "case": case.name if not compared else "series",
                "engine": name,
                "rows": matrix.rows,
                "cols": matrix.cols,
                "dtype": str(matrix.dtype),
                "rank": rank,
                "oversample": min(case.oversample, min(matrix.rows, matrix.cols) - rank),
                "power_iters": case.power_iters,
                **measurements,
                "residual_over_optimal": None if remaining is None or optimal == 0 else remaining / optimal,
                "us_per_row": 1e6 * measurements["seconds"] / matrix.rows,
            }
        )
    return _compared(rows)


def _compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    seconds = {row["engine"]: row["seconds"] for row in rows}
    for row in rows:
        for peer, key in PEERS:
            if peer in seconds:
                row[key] = row["seconds"] / seconds[peer]
        if {"bare-read", "bare-blas"} <= set(seconds):
            passes = EXACT_PASSES if row["cols"] <= EXACT_COLUMNS else row["power_iters"] + 2
            row["share_of_bound"] = max(passes * seconds["bare-read"], seconds["bare-blas"]) / row["seconds"]
    return rows


def contend(
    name: str, matrix: MatrixStore, case: Case, rank: int, scratch: Path, *, reference: str = ""
) -> dict[str, Any]:
    """Run one contender in its own process and return its measurements.

    Raises:
        CtbasisError: The contender failed; the message holds its error.
    """
    command = [sys.executable, "-m", "ctbasis.bench.contenders", name, "--matrix", matrix.uri]
    command += ["--scratch", str(scratch), "--rank", str(rank), "--oversample", str(case.oversample)]
    command += ["--power-iters", str(case.power_iters)]
    command += ["--memory", case.memory] if case.memory else []
    command += ["--runs", str(case.runs)]
    command += ["--reference", reference] if reference else []
    say(f"bench: {name} on {matrix.rows} x {matrix.cols} {matrix.dtype}, rank {rank}")
    environment = {**os.environ, "PYTHONPATH": LAYOUT.python_path()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        log = done.stderr.splitlines()
        if refused := error_in_log(log):
            raise CtbasisError.from_text(refused)
        raise CtbasisError(f"contender {name} failed; its last lines:", details=log[-15:])
    measurements: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measurements


def _reference(matrix: MatrixStore, rank: int, scratch: Path) -> str:
    """Factor the matrix by the exact method, and return the URI of the factors."""
    uri = str(scratch / "reference.zarr")
    plan = plan_factorization(
        engine="numpy",
        rows=matrix.rows,
        cols=matrix.cols,
        rank=rank,
        oversample=0,
        power_iters=0,
        seed=0,
        method="exact",
    )
    factors = FactorWriter.create(uri, matrix, rank=rank, dtype=np.float64)
    exact = factorize(matrix, factors, plan)
    factors.finish(s=exact.s, V=exact.V, plan=plan, matrix=matrix, accuracy=exact.accuracy)
    return uri


def optimal_residual(matrix: MatrixStore, rank: int, distinct: int = 0) -> float:
    """Return sqrt(sum of sigma_i^2 for i > rank), from the Gram matrix summed block by block.

    Args:
        matrix: The matrix A.
        rank: Rank k.
        distinct: Number of different row blocks, if they repeat.
    """
    count = matrix.block_count
    repeats = bool(distinct) and count % distinct == 0 and matrix.rows % matrix.block_rows == 0
    different = distinct if repeats else count
    G = np.zeros((matrix.cols, matrix.cols))
    for index in range(different):
        A = matrix.read_block(index)
        G += A.T @ A
    squared = np.linalg.eigvalsh(G * (count / different))[::-1]
    return float(np.sqrt(np.maximum(squared[rank:], 0).sum()))
