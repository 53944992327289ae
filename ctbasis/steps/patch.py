"""The svd step in patch mode: check what was asked, run it where the engine belongs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ctbasis.matrix.store import MatrixStore
from ctbasis.patch.bases import PatchBases
from ctbasis.patch.plan import TARGET_NOISE, check_stride, parse_target_noise, parse_tau
from ctbasis.patch.result import PatchStore
from ctbasis.steps.svd import chosen_engine
from ctbasis.svd.engines import ENGINES, engine_named

if TYPE_CHECKING:
    from ctbasis.spark.placement import Placement


def denoise(
    matrix_uri: str,
    out: str,
    bases_uri: str,
    *,
    tau: float,
    wiener: bool,
    stride: int,
    target_noise: float = TARGET_NOISE,
    basis: str = "",
    engine: str = "auto",
    seed: int | None = None,
    memory: int = 0,
    cluster: str = "",
    run: str = "local",
    placement: Placement | None = None,
) -> PatchStore:
    """Denoise the matrix at `matrix_uri` by patches.

    Args:
        matrix_uri: A complete `MatrixStore`.
        out: Where the `PatchStore` goes.
        bases_uri: Where the `PatchBases` go.
        tau: Standard deviations of noise below which a weight is dropped.
        wiener: Whether the second stage is done.
        stride: Voxels between patches within the slice.
        target_noise: HU in soft tissue, of the scan that the series is made to look like.
        basis: URI of `PatchBases` to apply; empty to learn them on these series.
        engine: A row of `ENGINES`, or `auto`.
        seed: Of the draw of patches; None for 0, so that equal runs give equal files.
        memory: Bytes that the engine numpy may take; 0 for a share of what is free.
        cluster: See `factorize`.
        run: See `factorize`.
        placement: See `factorize`.

    Raises:
        CtbasisError: The matrix is missing or incomplete, the parameters make no sense, the basis is none that could be
            applied, or the engine failed.
    """
    MatrixStore.open(matrix_uri)
    # Refuses nonsense here, before a cluster is asked for anything.
    parse_tau(str(tau))
    check_stride(stride)
    parse_target_noise(str(target_noise))
    if basis:
        PatchBases.open(basis)
    name = choose_engine(cluster) if engine == "auto" else engine
    arguments = ["--mode", "patch", "--matrix", matrix_uri, "--denoised", out, "--factors", bases_uri]
    arguments += ["--engine", name, "--tau", str(tau), "--stride", str(stride), "--seed", str(seed or 0)]
    arguments += ["--target-noise", str(target_noise), *["--wiener"] * wiener]
    optional = {"basis": basis, "memory": memory, "cluster": cluster}
    for option, value in optional.items():
        if value:
            arguments += [f"--{option}", str(value)]
    if engine_named(name).on_spark:
        from ctbasis.spark.launch import launch

        launch(arguments, run=run, placement=placement, master=cluster)
    else:
        from ctbasis.spark import job

        job.run(job.parse(arguments))
    return PatchStore.open(out)


def choose_engine(cluster: str = "") -> str:
    """Choose the engine for `auto` and say why on standard error: a cluster's own, Spark in a pod, else NumPy here.

    Raises:
        CtbasisError: The address is of no engine's kind.
    """
    found = chosen_engine(cluster)
    # Mahout's SVD of the patches gives the same basis as their Gram matrices do, later.
    name, why = found or ("numpy", "on one machine it is the fastest")
    name = "spark" if name == "mahout" else name
    sys.stderr.write(f"engine: auto chose {name} ({ENGINES[name].summary}): {why}\n")
    return name
