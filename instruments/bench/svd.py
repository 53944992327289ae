"""The engines and their peers on one matrix: time, memory, and their rank-k residual over the optimal one."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from components.errors import CtbasisError, refusal_in
from components.matrix.ingest import ingest
from components.matrix.store import MatrixStore
from instruments.bench.contenders import CONTENDERS
from instruments.bench.matrices import write_decaying

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CHECKOUT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Sizes:
    """What `ctbasis bench svd` factors, and how.

    Attributes:
        rows: m of a made matrix.
        cols: n of it.
        dtypes: Of it, one matrix each.
        rank: k.
        oversample: p.
        power_iters: q.
        memory: That the engine numpy may take, as the user writes it.
        contenders: Who factors, in this order; those of `CONTENDERS`.
    """

    rows: int = 262_144
    cols: int = 300
    dtypes: Sequence[str] = ("float64", "int16")
    rank: int = 244
    oversample: int = 15
    power_iters: int = 2
    memory: str = ""
    contenders: Sequence[str] = CONTENDERS


def bench_svd(series: Path | None, sizes: Sizes | None = None) -> list[dict[str, Any]]:
    """Factor the matrix of `series`, or made ones with singular values 1/i, by every contender in turn.

    Returns:
        A row a contender: engine, rows, cols, dtype, rank, oversample, power_iters, seconds, cpu_seconds, peak_mib
        (of all processes; for peers and bare BLAS with the matrix, which they need in memory), residual_over_optimal
        = ||A - A_k||_F / sqrt(sum_{i>k} sigma_i^2), and what it is over scikit-learn and over bare BLAS where they
        ran.
    """
    wanted = sizes or Sizes()
    with tempfile.TemporaryDirectory() as scratch:
        rows: list[dict[str, Any]] = []
        for matrix in _matrices(series, wanted, Path(scratch)):
            rows += _measured(matrix, wanted, Path(scratch))
        return rows


def _matrices(series: Path | None, sizes: Sizes, scratch: Path) -> Iterator[MatrixStore]:
    if series is not None:
        uri = str(scratch / "matrix.zarr")
        ingest(series, uri, scratch / "qc.json")
        yield MatrixStore.open(uri)
        return
    for dtype in sizes.dtypes:
        yield write_decaying(str(scratch / "matrix.zarr"), rows=sizes.rows, cols=sizes.cols, dtype=dtype)


def _measured(matrix: MatrixStore, sizes: Sizes, scratch: Path) -> list[dict[str, Any]]:
    rank = min(sizes.rank, matrix.cols, matrix.rows)
    optimal = optimal_residual(matrix, rank)
    rows: list[dict[str, Any]] = []
    for name in sizes.contenders:
        found = contend(name, matrix, sizes, rank, scratch)
        rows.append(
            {
                "bench": "svd",
                "engine": name,
                "rows": matrix.rows,
                "cols": matrix.cols,
                "dtype": str(matrix.dtype),
                "rank": rank,
                "oversample": min(sizes.oversample, min(matrix.rows, matrix.cols) - rank),
                "power_iters": sizes.power_iters,
                "seconds": found["seconds"],
                "cpu_seconds": found["cpu_seconds"],
                "peak_mib": found["peak_mib"],
                "residual_over_optimal": found["residual"] / optimal if optimal > 0 else None,
            }
        )
    seconds = {row["engine"]: row["seconds"] for row in rows}
    for row in rows:
        for peer, key in (("scikit-learn", "over_scikit_learn"), ("bare-blas", "over_bare_blas")):
            if peer in seconds:
                row[key] = row["seconds"] / seconds[peer]
    return rows


def contend(name: str, matrix: MatrixStore, sizes: Sizes, rank: int, scratch: Path) -> dict[str, float]:
    """Run one contender in a process of its own and return what it measured.

    Raises:
        CtbasisError: It failed; the text says why.
    """
    command = [sys.executable, "-m", "instruments.bench.contenders", name, "--matrix", matrix.uri]
    command += ["--scratch", str(scratch), "--rank", str(rank), "--oversample", str(sizes.oversample)]
    command += ["--power-iters", str(sizes.power_iters)]
    if sizes.memory:
        command += ["--memory", sizes.memory]
    sys.stderr.write(f"bench: {name} on {matrix.rows} x {matrix.cols} {matrix.dtype}\n")
    sys.stderr.flush()
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        told = done.stderr.splitlines()
        raise CtbasisError(refusal_in(told) or f"contender {name} failed:\n" + "\n".join(told[-15:]))
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def optimal_residual(matrix: MatrixStore, rank: int) -> float:
    """Return sqrt(sum of sigma_i^2 for i > rank), from the Gram matrix added up block by block."""
    G = np.zeros((matrix.cols, matrix.cols))
    for index in range(matrix.block_count):
        A = matrix.read_block(index)
        G += A.T @ A
    squared = np.linalg.eigvalsh(G)[::-1]
    return float(np.sqrt(np.maximum(squared[rank:], 0).sum()))
