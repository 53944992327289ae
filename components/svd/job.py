"""The Spark driver program of the svd step: plan, factor with one engine, write the factors.

    spark-submit ... components/svd/job.py --matrix URI --factors URI --engine mahout --rank 50

The program itself knows no Spark: an engine that needs a session gets it from the application it is run in, and one
that needs none runs here without.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from components.errors import refusing
from components.matrix.store import MatrixStore
from components.svd.engines import ENGINES, engine_named
from components.svd.factors import FactorWriter
from components.svd.plan import plan_factorization

if TYPE_CHECKING:
    from collections.abc import Sequence


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; a wrong one exits with code 2 and says how it is to be."""
    parser = argparse.ArgumentParser(prog="job.py", description="Factor a matrix store into a factor store.")
    parser.add_argument("--matrix", required=True, metavar="URI", help="a complete matrix store")
    parser.add_argument("--factors", required=True, metavar="URI", help="where the factor store goes; replaced")
    parser.add_argument("--engine", required=True, help=f"one of {', '.join(ENGINES)}")
    parser.add_argument("--rank", required=True, type=int, help="k, basis vectors to keep")
    parser.add_argument("--oversample", type=int, default=15, help="p, columns projected on beyond k")
    parser.add_argument("--power-iters", type=int, default=2, help="q, each two more passes over the matrix")
    parser.add_argument("--seed", type=int, default=None, help="of the random test matrix; drawn where it is left out")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="of U on disk")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> None:
    """Factor the matrix as `options` ask; the factors are complete when this returns, and not before.

    Raises:
        CtbasisError: The matrix is missing or incomplete, the parameters make no sense, or the engine refused.
    """
    start = time.monotonic()
    factorize = engine_named(options.engine).load()
    matrix = MatrixStore.open(options.matrix)
    plan = plan_factorization(
        engine=options.engine,
        rows=matrix.rows,
        cols=matrix.cols,
        rank=options.rank,
        oversample=options.oversample,
        power_iters=options.power_iters,
        seed=options.seed,
    )
    for clamp in plan.clamps:
        _say(clamp)
    _say(
        f"{options.engine} factors {plan.rows} x {plan.cols} in {matrix.block_count} blocks: "
        f"k={plan.rank}, p={plan.oversample}, q={plan.power_iters}"
    )
    factors = FactorWriter.create(options.factors, matrix, rank=plan.rank, dtype=options.dtype)
    spectrum = factorize(matrix, factors, plan)
    factors.finish(s=spectrum.s, V=spectrum.V, plan=replace(plan, note=spectrum.note), matrix=matrix)
    _say(f"done in {time.monotonic() - start:.1f} s; {spectrum.note}")


def _say(line: str) -> None:
    sys.stderr.write(f"svd: {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    with refusing():
        run(parse(sys.argv[1:]))
