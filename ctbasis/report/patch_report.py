"""The report step in patch mode: pictures, numbers and one page, from the matrix, the denoised one, and the basis.

figure1.png    before, denoised, removed, sigma
report.html    everything on one self-contained page
report.md      the numbers in short
metrics.json   all numbers:
    mode                                    patch
    rows, cols, series                      m, n, number of series
    engine, tau, wiener, stride, seed       as run
    target_noise                            HU, as run
    put_back                                share of what was removed that was put back for it, by series
    sigma_soft_hu                           median of the estimated noise in soft tissue, by series
    left                                    share of its variance, flat in frequency, that was to stay, by series
    basis                                   learned, or given
    basis_note                              what made it
    patch, textures, classes                voxels of a patch, textures of noise, classes of patches, by basis
    scanner                                 what it did to how noise is distributed, as the noise tells, by series
    notes                                   what is to be said of noise and basis
    sigma_body_hu, sigma_lung_hu            root mean square of the estimated noise there
    removed_std_hu                          standard deviation of what was removed in the body (above -300 HU)
    relative_residual                       ||removed||_F / ||A||_F
    edge_ratio                              of what was removed: near 1 for noise, well above where anatomy went too
    slices_sampled                          slices, evenly spread, that edge_ratio, sigma and scores are taken over
    before, after                           where the truth is known: scores of the input and of the denoised series
    noise_edge_ratio                        where the truth is known: of the noise itself, to compare with
    noise_body_hu, noise_lung_hu            where the truth is known: root mean square of the noise there
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.matrix.store import MatrixStore
from ctbasis.patch.bases import PatchBases
from ctbasis.patch.denoise import put_back
from ctbasis.patch.result import PatchStore
from ctbasis.progress import progress
from ctbasis.report.figures import png
from ctbasis.report.global_report import (
    ANATOMY_REMOVED,
    measured_edge_ratio,
    published,
    read_qc,
    same_geometry,
)
from ctbasis.report.page import render_patch_html, render_patch_markdown
from ctbasis.report.patch_figures import (
    Views,
    basis_patches,
    chosen_lines,
    energies,
    noise_figure,
    patch_figure1,
    profiles,
)
from ctbasis.report.quality import LUNG, TISSUE, compare
from ctbasis.report.survey import Removed, lung_share, sampled_columns

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

NOTHING = 0.1
"""HU: standard deviation of what was removed below which it is said that nothing was."""


@dataclass
class Found:
    """What one pass over both matrices found.

    Attributes:
        columns: Columns of A that the images show, ascending.
        before: Their images in A, HU, (columns, Rows, Columns).
        after: The same of the denoised matrix.
        truth: The same of the true one, where there is one.
        removed: Over all voxels.
        energy: ||A||_F^2, HU^2.
    """

    columns: NDArray[np.intp]
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    truth: NDArray[np.float32] | None
    removed: Removed = field(default_factory=Removed)
    energy: float = 0.0

    @property
    def shown(self) -> int:
        """Index into `columns` of the slice that shows most lung, the middle one if none does."""
        middle = (len(self.columns) - 1) / 2
        shares = [lung_share(image) for image in self.before]
        return max(range(len(shares)), key=lambda index: (shares[index], -abs(index - middle)))


def write_patch_report(
    matrix_uri: str,
    denoised_uri: str,
    bases_uri: str,
    *,
    qc: Path,
    out: Path,
    truth_uri: str | None = None,
) -> dict[str, float]:
    """Write the report to the folder `out`; metrics.json last, so that where it is, the rest is whole.

    Args:
        matrix_uri: A complete `MatrixStore`.
        denoised_uri: Its `PatchStore`.
        bases_uri: The `PatchBases` that were used.
        qc: qc.json of the matrix step.
        out: Folder for the files; others in it are left alone.
        truth_uri: A matrix of the same slices without noise, for scores.

    Returns:
        The numbers of metrics.json that are single, by name; scores as before_... and after_....

    Raises:
        CtbasisError: A store is missing, incomplete or corrupt, or the stores do not fit each other.
    """
    findings = read_qc(qc)
    matrix, denoised, bases = MatrixStore.open(matrix_uri), PatchStore.open(denoised_uri), PatchBases.open(bases_uri)
    truth = MatrixStore.open(truth_uri) if truth_uri else None
    for other in (denoised, truth):
        if other is not None:
            same_geometry(matrix, other)
    found = _survey(matrix, denoised, truth)
    sigmas = np.stack([denoised.sigma_image(int(column)) for column in found.columns])
    metrics = _metrics(denoised, bases, found, sigmas)
    metrics["deidentified"] = bool(findings.get("deidentified"))
    warnings = _warnings(denoised, metrics)
    figures = _figures(denoised, bases, found, sigmas)
    page = render_patch_html(metrics=metrics, warnings=warnings, qc=findings, figures=figures)
    text = render_patch_markdown(metrics=metrics, warnings=warnings)
    return published(metrics, figure1=figures["figure1"], page=page, text=text, out=out)


def _survey(matrix: MatrixStore, denoised: PatchStore, truth: MatrixStore | None) -> Found:
    """Go once over all matrices, row block by row block."""
    columns = sampled_columns(matrix.cols)
    before, after, true = (np.empty((len(columns), matrix.rows), np.float32) for _ in range(3))
    found = Removed()
    energy = 0.0
    for index in progress(range(matrix.block_count), "report", unit="row block"):
        rows = matrix.block(index)
        A, D = matrix.read_block(index, dtype=np.float32), denoised.read_block(index, dtype=np.float32)
        energy += float(np.einsum("ij,ij->", A, A, dtype=np.float64))
        found.add(A - D, A > TISSUE)
        before[:, rows], after[:, rows] = A[:, columns].T, D[:, columns].T
        if truth is not None:
            true[:, rows] = truth.read_block(index, dtype=np.float32)[:, columns].T
    shape = (len(columns), *matrix.image)
    return Found(
        columns,
        before.reshape(shape),
        after.reshape(shape),
        None if truth is None else true.reshape(shape),
        found,
        energy,
    )


def _metrics(denoised: PatchStore, bases: PatchBases, found: Found, sigmas: NDArray[np.float32]) -> dict[str, Any]:
    plan = denoised.plan
    guide = found.after if found.truth is None else found.truth
    body, lung = guide > TISSUE, (guide > LUNG[0]) & (guide < LUNG[1])
    used = [bases.bases[number - 1] for number in sorted(set(plan.bases))]
    metrics: dict[str, Any] = {
        "mode": "patch",
        "rows": denoised.rows,
        "cols": denoised.cols,
        "series": len(denoised.series),
        "engine": plan.engine,
        "tau": plan.tau,
        "wiener": plan.wiener,
        "stride": plan.stride,
        "target_noise": plan.target_noise,
        "put_back": [put_back(said["soft"], said["left"], plan.target_noise) for said in denoised.words],
        "sigma_soft_hu": [said["soft"] for said in denoised.words],
        "left": [said["left"] for said in denoised.words],
        "seed": plan.seed,
        "basis": "given" if plan.basis else "learned",
        "basis_note": plan.factored_by,
        "patch": [list(basis.shape) for basis in used],
        "classes": [basis.classes for basis in used],
        "textures": [len(basis.textures) for basis in used],
        "scanner": [said["scanner"] for said in denoised.words],
        "notes": list(plan.notes),
        "sigma_body_hu": _rms(sigmas[body]),
        "sigma_lung_hu": _rms(sigmas[lung]),
        "removed_std_hu": found.removed.std,
        "relative_residual": float(np.sqrt(found.removed.energy / (found.energy or 1.0))),
        "edge_ratio": measured_edge_ratio(found.before - found.after, guide),
        "slices_sampled": len(found.columns),
    }
    if found.truth is not None:
        noise = found.before - found.truth
        metrics.update(
            before=compare(found.truth, found.before).to_dict(),
            after=compare(found.truth, found.after).to_dict(),
            noise_edge_ratio=measured_edge_ratio(noise, found.truth),
            noise_body_hu=_rms(noise[body]),
            noise_lung_hu=_rms(noise[lung]),
        )
    return metrics


def _rms(values: NDArray[np.float32]) -> float | None:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else None


def _warnings(denoised: PatchStore, metrics: dict[str, Any]) -> list[str]:
    """Return what the reader must know before the numbers."""
    said = []
    if metrics["removed_std_hu"] < NOTHING:
        said.append("Almost nothing was removed: the denoised series is the input but for rounding.")
    edges = metrics["edge_ratio"]
    if edges is not None and edges >= ANATOMY_REMOVED:
        said.append(
            f"What was removed is {edges:.1f} times as strong on edges of anatomy as in flat regions, so anatomy was "
            "removed with the noise. Look for its outlines in Figure 1; a smaller --tau keeps more."
        )
    return said + [f"{note[0].upper()}{note[1:]}." for note in denoised.plan.notes]


def _figures(denoised: PatchStore, bases: PatchBases, found: Found, sigmas: NDArray[np.float32]) -> dict[str, bytes]:
    index = found.shown
    column = int(found.columns[index])
    number, entry = next(
        (number, entry) for number, entry in enumerate(denoised.series) if column < entry.first + entry.count
    )
    views = Views(
        before=found.before[index],
        after=found.after[index],
        sigma=sigmas[index],
        truth=None if found.truth is None else found.truth[index],
        pixel_spacing=entry.pixel_spacing,
        caption=f"slice {column - entry.first + 1} of {entry.count}, series {number + 1} of {len(denoised.series)}",
    )
    noise, basis = denoised.noise(number), bases.bases[denoised.plan.bases[number] - 1]
    return {
        "figure1": png(patch_figure1(views)),
        "profiles": png(profiles(views, chosen_lines(views))),
        "noise": png(
            noise_figure(views, noise, np.median(noise.sigma, axis=(0, 1)), noise.texture[..., column - entry.first])
        ),
        "energies": png(energies(basis, denoised.plan.tau)),
        "basis": png(basis_patches(basis)),
    }
