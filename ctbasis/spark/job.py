"""The Spark driver program of the svd step: plan, factor with one engine, write the factors; or denoise by patches.

    spark-submit ... ctbasis/spark/job.py --matrix URI --factors URI --engine mahout --rank 50
    spark-submit ... ctbasis/spark/job.py --source s3://bucket/prefix --factors URI --engine spark --rank 50
    spark-submit ... ctbasis/spark/job.py --mode patch --matrix URI --denoised URI --factors URI --engine spark

The program itself knows no Spark: an engine that needs a session gets it from the application it is run in, and one
that needs none runs here without.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctbasis.errors import exit_on_error
from ctbasis.matrix.store import MatrixStore
from ctbasis.patch.plan import TARGET_NOISE, TAU, PatchPlan, parse_target_noise, parse_tau
from ctbasis.svd.engines import ENGINES, engine_named
from ctbasis.svd.factors import FactorWriter
from ctbasis.svd.memory import parse_memory
from ctbasis.svd.plan import METHODS, MODES, plan_factorization

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctbasis.spark.fused import FusedMatrix
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.spectrum import Spectrum


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line; a wrong one exits with code 2 and says how it is to be."""
    parser = argparse.ArgumentParser(prog="job.py", description="Factor a matrix store into a factor store.")
    data = parser.add_mutually_exclusive_group(required=True)
    data.add_argument("--matrix", metavar="URI", help="a complete matrix store")
    data.add_argument("--source", metavar="URI", help="DICOM files, decoded by Spark executors; no matrix is written")
    parser.add_argument(
        "--factors", required=True, metavar="URI", help="where the factor store goes, or the patch bases; replaced"
    )
    parser.add_argument("--engine", required=True, help=f"one of {', '.join(ENGINES)}")
    parser.add_argument("--mode", choices=MODES, default="global", help="what is factored, see MODES")
    parser.add_argument("--rank", type=int, help="k, basis vectors to keep")
    parser.add_argument("--oversample", type=int, default=15, help="p, columns projected on beyond k")
    parser.add_argument("--power-iters", type=int, default=2, help="q, each two more passes over the matrix")
    parser.add_argument("--seed", type=int, default=None, help="of the random test matrix; drawn where it is left out")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32", help="of U on disk")
    parser.add_argument("--method", choices=METHODS, default="auto", help="of the block engines, see METHODS")
    parser.add_argument("--memory", type=parse_memory, default=0, help="that engine numpy may take, such as 3GiB")
    parser.add_argument("--cluster", default="", metavar="ADDRESS", help="of the engine's own cluster")
    parser.add_argument("--qc", type=Path, metavar="FILE", help="with --source: what was read, set aside and tolerated")
    parser.add_argument("--deidentify", action="store_true", help="with --source: headers, before they are stored")
    parser.add_argument("--retain", default="", metavar="OPTIONS", help="with --deidentify: of the profile")
    patch = parser.add_argument_group("--mode patch")
    patch.add_argument("--denoised", metavar="URI", help="where the denoised matrix goes; replaced")
    patch.add_argument("--basis", default="", metavar="URI", help="patch basis to apply; learned where it is left out")
    patch.add_argument("--tau", type=parse_tau, default=TAU, help="threshold, sigmas of noise")
    patch.add_argument("--stride", type=int, default=1, help="voxels between patches within the slice")
    patch.add_argument(
        "--target-noise", type=parse_target_noise, default=TARGET_NOISE, help="HU in soft tissue, that may stay"
    )
    patch.add_argument("--wiener", action="store_true", help="a second stage")
    options = parser.parse_args(arguments)
    if options.mode == "patch":
        if not options.matrix or not options.denoised:
            parser.error("--mode patch wants --matrix and --denoised")
    elif options.rank is None:
        parser.error("the following arguments are required: --rank")
    if options.source and options.engine != "spark":
        parser.error("--source goes with --engine spark alone")
    if options.deidentify and not options.source:
        parser.error("--deidentify goes with --source: a matrix's headers are what the matrix step made them")
    if options.retain and not options.deidentify:
        parser.error("--retain goes with --deidentify")
    return options


def run(options: argparse.Namespace) -> None:
    """Factor the matrix as `options` ask; the factors are complete when this returns, and not before.

    Raises:
        CtbasisError: The matrix is missing or incomplete, the parameters make no sense, or the engine refused.
    """
    start = time.monotonic()
    if options.mode == "patch":
        note = _run_patch(options)
    else:
        note = _run_fused(options) if options.source else _run_staged(options)
    _say(f"done in {time.monotonic() - start:.1f} s; {note}")


def _run_staged(options: argparse.Namespace) -> str:
    factorize = engine_named(options.engine).load()
    matrix = MatrixStore.open(options.matrix)
    plan = _planned(options, matrix)
    factors = FactorWriter.create(options.factors, matrix, rank=plan.rank, dtype=options.dtype)
    spectrum = factorize(matrix, factors, plan)
    _finish(factors, spectrum, plan, matrix)
    return spectrum.note


def _run_patch(options: argparse.Namespace) -> str:
    from ctbasis.patch.matrix import denoise_matrix

    plan = PatchPlan(
        engine=options.engine,
        tau=options.tau,
        wiener=options.wiener,
        stride=options.stride,
        target_noise=options.target_noise,
        basis=options.basis,
        seed=options.seed or 0,
    )
    where = {"cluster": options.cluster, "memory": options.memory}
    return denoise_matrix(options.matrix, options.denoised, options.factors, plan, **where).plan.summary


def _run_fused(options: argparse.Namespace) -> str:
    from ctbasis.dicom.deidentify.deidentification import Deidentification
    from ctbasis.spark.fused import Fused
    from ctbasis.svd.engines.spark import spark_context

    identity = Deidentification.of(options.retain) if options.deidentify else None
    _say(str(identity or "not de-identified: the factors name the patient as the source does"))
    fused = Fused(spark_context(options.cluster), options.source, deidentification=identity)
    try:
        plan = _planned(options, fused.matrix)
        factors, spectrum = fused.factorize(options.factors, plan, dtype=options.dtype)
        if options.qc:
            options.qc.write_text(json.dumps(fused.matrix.qc, indent=1) + "\n", encoding="utf-8")
        _finish(factors, spectrum, plan, fused.matrix)
    finally:
        fused.close()
    return spectrum.note


def _planned(options: argparse.Namespace, matrix: MatrixStore | FusedMatrix) -> Plan:
    plan = plan_factorization(
        engine=options.engine,
        rows=matrix.rows,
        cols=matrix.cols,
        rank=options.rank,
        oversample=options.oversample,
        power_iters=options.power_iters,
        seed=options.seed,
        method=options.method,
        memory=options.memory,
        cluster=options.cluster,
    )
    for clamp in plan.clamps:
        _say(clamp)
    _say(
        f"{options.engine} factors {plan.rows} x {plan.cols} in {matrix.block_count} blocks: "
        f"k={plan.rank}, p={plan.oversample}, q={plan.power_iters}"
    )
    return plan


def _finish(factors: FactorWriter, spectrum: Spectrum, plan: Plan, matrix: MatrixStore | FusedMatrix) -> None:
    factors.finish(
        s=spectrum.s,
        V=spectrum.V,
        plan=replace(plan, note=spectrum.note),
        matrix=matrix,
        accuracy=spectrum.accuracy,
    )
    found = spectrum.accuracy
    if found is not None and found.norm > 0:
        _say(
            f"residual {found.residual / found.norm:.3e} of ||A||_F, spectral error at most "
            f"{found.spectral_error / found.norm:.3e}, {found.passes} passes over A"
        )


def _say(line: str) -> None:
    sys.stderr.write(f"svd: {line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    with exit_on_error():
        run(parse(sys.argv[1:]))
