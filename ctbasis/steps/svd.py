"""The svd step: fit the wanted rank to the matrix, run the engine where it belongs, and publish the basis."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.matrix.store import MatrixStore
from ctbasis.patch.noise import estimate
from ctbasis.patch.volume import StoredVolume
from ctbasis.storage import stores
from ctbasis.svd.engines import ENGINES, engine_named
from ctbasis.svd.factors import FactorStore, FactorWriter
from ctbasis.svd.plan import MODES, plan_factorization
from ctbasis.svd.project import project_matrix
from ctbasis.svd.rank import Rule, choose_rank, factored_rank

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.spark.placement import Placement
    from ctbasis.svd.plan import Plan


CLUSTERS = {"spark": "spark", "yarn": "spark", "k8s": "spark", "tcp": "dask", "tls": "dask", "ray": "ray"}
"""What the address of a cluster begins with, and the engine that runs on such."""


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
    basis: str = "",
    rank: int | Rule,
    ranks: list[int],
    oversample: int = 15,
    power_iters: int = 2,
    engine: str = "auto",
    seed: int | None = None,
    method: str = "auto",
    memory: int = 0,
    cluster: str = "",
    run: str = "local",
    placement: Placement | None = None,
) -> Outcome:
    """Factor the matrix at `matrix_uri` into the store at `factors_uri`.

    Args:
        matrix_uri: A complete `MatrixStore`.
        factors_uri: Where the `FactorStore` goes; replaced if it is there.
        mode: global; patch mode has a step of its own, ctbasis/steps/patch.py.
        basis: URI of a `FactorStore` of other slices on which this matrix is projected; empty to factor it itself.
        rank: k of the denoised series, or the rule that chooses it by the singular values, which costs a factorization
            at full rank.
        ranks: Further ranks that pictures will be made of; k is the largest of all that lie below the slice count.
        oversample: p, columns of the random projection beyond k. More is a little safer and a little slower.
        power_iters: q. Each costs two passes over A; CT spectra decay slowly, so 1 at least.
        engine: A row of `ENGINES`, or `auto`.
        seed: Of the random test matrix, for engines that take one.
        method: A row of `METHODS`, for the block engines: exact, randomized, single-pass, or auto by the slice count.
        memory: Bytes that the engine numpy may take; 0 for a share of what is free.
        cluster: Address of the engine's own cluster (Spark master, Dask scheduler, Ray head); empty for what its
            environment says (DASK_SCHEDULER_ADDRESS, RAY_ADDRESS), for the operator's SparkApplication in a pod, or for
            this machine.
        run: Name of the run; the Spark application is named after it, so that a retried step finds its own.
        placement: What Kubeflow decided for the step's pod; the Spark application's pods share it.

    Raises:
        CtbasisError: The matrix is missing or incomplete, the parameters make no sense, or the engine failed.
    """
    if mode != "global":
        raise CtbasisError(f"mode {mode!r} is unknown", expected=f"one of {', '.join(MODES)}")
    matrix = MatrixStore.open(matrix_uri)
    full = min(matrix.rows, matrix.cols)
    if basis:
        return _projected(matrix, basis, factors_uri, rank=rank, ranks=ranks)
    name = choose_engine(cluster) if engine == "auto" else engine
    k = factored_rank(rank, ranks, full)
    wanted: dict[str, Any] = {"rank": k, "oversample": oversample, "power_iters": power_iters, "method": method}
    # Refuses nonsense here, before a cluster is asked for anything.
    plan_factorization(engine=name, rows=matrix.rows, cols=matrix.cols, seed=seed, **wanted)
    arguments = ["--matrix", matrix_uri, "--factors", factors_uri, "--engine", name]
    optional = {"seed": seed, "memory": memory or None, "cluster": cluster or None}
    for option, value in {**wanted, **optional}.items():
        if value is not None:
            arguments += [f"--{option.replace('_', '-')}", str(value)]
    if engine_named(name).on_spark:
        from ctbasis.spark.launch import launch

        launch(arguments, run=run, placement=placement, master=cluster)
    else:
        from ctbasis.spark import job

        job.run(job.parse(arguments))
    factors = FactorStore.open(factors_uri)
    return Outcome(plan=factors.plan, rank=_denoising_rank(rank, factors, full))


def factorize_source(
    source: str,
    factors_uri: str,
    *,
    rank: int,
    oversample: int = 15,
    power_iters: int = 2,
    seed: int | None = None,
    method: str = "auto",
    cluster: str = "",
    deidentify: bool = False,
    retain: str = "",
    qc: str | None = None,
    run: str = "fused",
) -> None:
    """Factor DICOM files on Spark executors that decode them themselves, without a matrix store in between.

    Args:
        source: `s3://bucket/prefix`, or a folder that the executors see.
        factors_uri: As for `factorize`, and so are k, p, q, seed, method, cluster and run; a negative seed draws one.
        rank: k.
        oversample: p.
        power_iters: q.
        seed: Of the random test matrix.
        method: A row of `METHODS`.
        cluster: Spark master by address.
        deidentify: Whether headers lose what identifies the patient before they are stored.
        retain: Options of the profile by which they do.
        qc: Where to write what was read, set aside and tolerated.
        run: Name of the run.

    Raises:
        CtbasisError: The source holds no CT, or archives; the parameters make no sense; Spark failed.
    """
    from ctbasis.spark.launch import launch

    arguments = ["--source", source, "--factors", factors_uri, "--engine", "spark", "--rank", str(rank)]
    optional = {
        "oversample": oversample,
        "power-iters": power_iters,
        "seed": None if seed is None or seed < 0 else seed,
        "method": method,
        "cluster": cluster or None,
        "retain": retain or None,
        "qc": qc,
    }
    for option, value in optional.items():
        if value is not None:
            arguments += [f"--{option}", str(value)]
    launch([*arguments, *(["--deidentify"] if deidentify else [])], run=run, master=cluster)


def _projected(matrix: MatrixStore, basis: str, factors_uri: str, *, rank: int | Rule, ranks: list[int]) -> Outcome:
    """Project the matrix on a stored basis; its rank is the largest that there can be."""
    stored = FactorStore.open(basis)
    full = min(stored.rank, matrix.cols)
    k = factored_rank(rank, ranks, full)
    factors = project_matrix(matrix, stored, factors_uri, rank=k, noise_norm=noise_norm)
    return Outcome(plan=factors.plan, rank=_denoising_rank(rank, factors, full))


def noise_norm(matrix: MatrixStore) -> float:
    """Estimate ||N||_F of the noise N in a matrix, HU, from the series themselves.

    A basis of other slices does not hold this noise, and is not meant to: the report compares with it what the basis
    leaves out.
    """
    squares = 0.0
    for series in matrix.series:
        sigma = estimate(StoredVolume(matrix, series)).sigma
        squares += float(np.mean(np.square(sigma, dtype=np.float64))) * matrix.rows * series.count
    return float(np.sqrt(squares))


def choose_engine(cluster: str = "") -> str:
    """Choose the engine for `auto` and say why on standard error: the cluster's own, else Mahout where Spark can run.

    Args:
        cluster: Address of a cluster, if the user gave one.

    Raises:
        CtbasisError: The address is of no engine's kind.
    """
    from ctbasis.spark.launch import local_java

    if found := chosen_engine(cluster):
        name, why = found
    elif (java := local_java()) is not None:
        name, why = "mahout", f"Java {java} is here; numpy is exact, and the faster one on one machine"
    else:
        name, why = "numpy", "no Java 17 is here for Spark"
    sys.stderr.write(f"engine: auto chose {name} ({ENGINES[name].summary}): {why}\n")
    return name


def chosen_engine(cluster: str) -> tuple[str, str] | None:
    """Return the engine of the cluster that is there and why, None where there is none but this machine.

    Raises:
        CtbasisError: The address is of no engine's kind.
    """
    if cluster:
        scheme = cluster.partition("://")[0]
        if scheme not in CLUSTERS:
            raise CtbasisError(
                f"the cluster is {cluster!r}, and engine is auto",
                expected=f"an address that begins with {', '.join(f'{known}://' for known in CLUSTERS)}",
                remedy="name the engine that the cluster runs by --engine",
            )
        return CLUSTERS[scheme], f"the cluster's address begins with {scheme}://"
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "mahout", "this is a Kubernetes cluster, whose Spark operator runs it"
    return None


def _denoising_rank(rank: int | Rule, factors: FactorStore, full: int) -> int:
    if not isinstance(rank, Rule):
        return min(rank, full)
    choice = choose_rank(rank, factors.s, (factors.rows, factors.cols))
    FactorWriter(factors.uri).explain(choice)
    sys.stderr.write(f"rank: auto chose {choice.rank}, as {choice.why}; {choice.assumptions}\n")
    return choice.rank


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
