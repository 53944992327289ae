"""The report step: figures, metrics and the page, from the matrix and what the svd step made of it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from ctbasis.parsing import parse_ranks
from ctbasis.report.global_report import write_report
from ctbasis.report.patch_report import write_patch_report
from ctbasis.storage.working_folder import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def run_step(
    matrix_uri: str,
    basis_uri: str,
    denoised_uri: str,
    outputs: Mapping[str, Path],
    *,
    truth_uri: str,
    qc: Path,
    rank: int,
    ranks: str,
) -> dict[str, float]:
    """Write the report of a run, and copy its files to `outputs`.

    Args:
        matrix_uri: The matrix store.
        basis_uri: The factor store, in patch mode the bases of the patches.
        denoised_uri: The denoised matrix of patch mode; empty in global mode.
        outputs: Where to copy figure1.png, report.html, report.md and metrics.json, by these names.
        truth_uri: The clean copy's matrix store; empty if there is none.
        qc: qc.json of the matrix step.
        rank: k of the denoised series.
        ranks: The parameter `ranks`, the ranks of Figure 1.

    Returns:
        The scalar metrics by name.

    Raises:
        CtbasisError: A store is missing or incomplete, or the disk is full.
    """
    with scratch_folder("ctbasis-report") as scratch:
        out, truth = scratch / "report", truth_uri or None
        if denoised_uri:
            scalars = write_patch_report(matrix_uri, denoised_uri, basis_uri, qc=qc, out=out, truth_uri=truth)
        else:
            scalars = write_report(
                matrix_uri, basis_uri, rank=rank, ranks=parse_ranks(ranks), qc=qc, out=out, truth_uri=truth
            )
        for name, path in outputs.items():
            shutil.copyfile(out / name, path)
    return scalars
