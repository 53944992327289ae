"""The svd step: fit the wanted rank to the matrix, run the engine where it belongs, and publish the basis."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components import stores
from components.errors import CtbasisError
from components.matrix.store import MatrixStore
from components.svd.engines import ENGINES, engine_named
from components.svd.factors import FactorStore
from components.svd.plan import MODES, plan_factorization
from components.svd.rank import factored_rank, gavish_donoho_rank

if TYPE_CHECKING:
    from pathlib import Path

    from components.svd.placement import Placement
    from components.svd.plan import Plan


@dataclass(frozen=True)
class Outcome:
    """What the steps after the factorization need.

    Attributes:
        plan: As run.
        rank: k of the denoised series: as asked, found by `auto`, or clamped to the slice count.
    """

    plan: Plan
    rank: int


def factorize(
    matrix_uri: str,
    factors_uri: str,
    *,
    mode: str = "global",
    rank: int | None,
    ranks: list[int],
    oversample: int = 15,
    power_iters: int = 2,
    engine: str = "auto",
    seed: int | None = None,
    run: str = "local",
    placement: Placement | None = None,
) -> Outcome:
    """Factor the matrix at `matrix_uri` into the store at `factors_uri`.

    Args:
        matrix_uri: A complete `MatrixStore`.
        factors_uri: Where the `FactorStore` goes; replaced if it is there.
        mode: A row of `MODES`.
        rank: k of the denoised series; None chooses by the singular values, which costs a factorization at full rank.
        ranks: Further ranks that pictures will be made of; k is the largest of all that lie below the slice count.
        oversample: p, columns of the random projection beyond k. More is a little safer and a little slower.
        power_iters: q. Each costs two passes over A; CT spectra decay slowly, so 1 at least.
        engine: A row of `ENGINES`, or `auto`.
        seed: Of the random test matrix, for engines that take one.
        run: Name of the run; the Spark application is named after it, so that a retried step finds its own.
        placement: What Kubeflow decided for the step's pod; the Spark application's pods share it.

    Raises:
        CtbasisError: The matrix is missing or incomplete, the parameters make no sense, or the engine failed.
    """
    if mode not in MODES:
        raise CtbasisError(f"mode {mode!r} is unknown", expected=f"one of {', '.join(MODES)}")
    matrix = MatrixStore.open(matrix_uri)
    full = min(matrix.rows, matrix.cols)
    name = choose_engine() if engine == "auto" else engine
    k = factored_rank(rank, ranks, full)
    wanted = {"rank": k, "oversample": oversample, "power_iters": power_iters}
    # Refuses nonsense here, before a cluster is asked for anything.
    plan_factorization(engine=name, rows=matrix.rows, cols=matrix.cols, seed=seed, **wanted)
    arguments = ["--matrix", matrix_uri, "--factors", factors_uri, "--engine", name]
    for option, value in {**wanted, "seed": seed}.items():
        if value is not None:
            arguments += [f"--{option.replace('_', '-')}", str(value)]
    if engine_named(name).on_spark:
        from components.svd.launch import launch

        launch(arguments, run=run, placement=placement)
    else:
        from components.svd import job

        job.run(job.parse(arguments))
    factors = FactorStore.open(factors_uri)
    return Outcome(plan=factors.plan, rank=_denoising_rank(rank, factors, full))


def choose_engine() -> str:
    """Choose the engine for `auto` and say why on standard error: Mahout wherever Spark can run it, else NumPy."""
    from components.svd.launch import local_java

    on_cluster = "KUBERNETES_SERVICE_HOST" in os.environ
    java = None if on_cluster else local_java()
    name, why = (
        ("mahout", "this is a cluster")
        if on_cluster
        else ("mahout", f"Java {java} is here")
        if java
        else ("numpy", "no Java 17 is here for Spark")
    )
    sys.stderr.write(f"engine: auto chose {name} ({ENGINES[name].summary}): {why}\n")
    return name


def _denoising_rank(rank: int | None, factors: FactorStore, full: int) -> int:
    if rank is not None:
        return min(rank, full)
    found = gavish_donoho_rank(factors.s, (factors.rows, factors.cols))
    sys.stderr.write(
        f"rank: auto chose {found} of {full} by the hard threshold of Gavish and Donoho, which assumes white noise\n"
    )
    return found


def publish(factors_uri: str, folder: Path) -> None:
    """Copy the factor store to `folder`, from S3 or, by hard links where the file system has them, from a folder.

    Raises:
        CtbasisError: The disk is full, or S3 stays away.
    """
    try:
        stores.copy(factors_uri, str(folder))
    except OSError as error:
        raise CtbasisError(
            f"the basis cannot be copied to {folder} ({error})", cause="the disk is full", remedy="free some space"
        ) from error
