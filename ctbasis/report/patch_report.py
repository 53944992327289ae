"""The report step in patch mode: figures, metrics and one page from the matrix, the denoised matrix and the bases.

figure1.png    a slice before and after denoising, the removed component, and sigma of the noise
report.html    everything on one self-contained page
report.md      a summary of the metrics
metrics.json   all metrics:
    mode                                    patch
    rows, cols, series                      m, n, number of series
    engine, tau, wiener, stride, seed       parameters as used
    target_noise                            target noise in soft tissue, HU
    parts                                   runs of slices that were denoised on their own: name, series, first and last
                                            slice, voxels of a patch (none where nothing was removed), noise in soft
                                            tissue
    restored_noise_fraction                 fraction of the removed component that was restored for it, by part
    put_back                                the same, under its former name
    sigma_soft_hu                           median of the estimated noise in soft tissue, by part
    noise_floor                             fraction of the noise variance that is flat in frequency and kept, by part
    left                                    the same, under its former name
    basis                                   learned, or given
    basis_note                              how the basis was computed
    patch, textures, classes                voxels of a patch, noise textures, classes of patches, by basis
    scanner                                 properties of the scan, as fitted to the noise, by part
    notes                                   notes about the noise and the basis
    sigma_body_hu, sigma_lung_hu            root mean square of the estimated noise in body and lung
    removed_std_hu                          standard deviation of the removed component in the body (above -300 HU)
    relative_residual                       ||removed||_F / ||A||_F
    edge_ratio                              of the removed component: near 1 for noise, well above for anatomy
    slices_sampled                          number of evenly spaced slices for edge_ratio, sigma and scores
    noise_before_hu, noise_after_hu         noise in soft tissue, see ctbasis/report/noise_level.py
    warnings                                warnings of the page
    thumbnail                               a slice before, after and removed: a WebP image in base64
    anatomy_removed, anatomy_possible_at    whether anatomy of low contrast may have been removed, and at which slices
    smoothed_...                            the estimates behind it, see ctbasis/report/smoothed_removal.py
    removed                                 where the truth is known: the same measured against it
    truth_noise, noise_corrected            where the truth is known: its own noise, and scores without its influence
    before, after                           where the truth is known: scores of the input and of the denoised series
    noise_edge_ratio                        where the truth is known: edge ratio of the true noise, for comparison
    noise_body_hu, noise_lung_hu            where the truth is known: root mean square of the true noise
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.matrix.store import MatrixStore
from ctbasis.patch.bases import PatchBases
from ctbasis.patch.denoise import restored_noise_fraction
from ctbasis.patch.result import PatchStore
from ctbasis.progress import progress
from ctbasis.report.figures import png
from ctbasis.report.noisy_truth import noisy_truth_warning, paired_scores
from ctbasis.report.output import read_qc, validate_geometry, write_files
from ctbasis.report.overview import overview
from ctbasis.report.page import render_patch_html, render_patch_markdown
from ctbasis.report.patch_figures import (
    SliceViews,
    basis_patches,
    choose_profiles,
    draw_profiles,
    energies,
    noise_figure,
    patch_figure1,
)
from ctbasis.report.quality import ANATOMY_REMOVED, LUNG, TISSUE, compare, finite_edge_ratio
from ctbasis.report.smoothed_removal import Promise, RemovedAnatomy, anatomy_warning, measured_removal
from ctbasis.report.survey import RemovedStatistics, representative_slice, sampled_columns, series_of
from ctbasis.viewer.slab import slab

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

NOTHING_REMOVED = 0.1
"""Standard deviation of the removed component, HU, below which a warning says that nothing was removed."""


@dataclass
class PatchSurvey:
    """Results of one pass over the matrix before and after denoising.

    Attributes:
        columns: Columns of A that are kept as images, ascending.
        before: Their images in A, HU, (columns, Rows, Columns).
        after: Their images in the denoised matrix, HU.
        truth: Their images in the true matrix, HU; None where it is not known.
        removed: Statistics of the removed component over all voxels.
        energy: ||A||_F^2, HU^2.
    """

    columns: NDArray[np.intp]
    before: NDArray[np.float32]
    after: NDArray[np.float32]
    truth: NDArray[np.float32] | None
    removed: RemovedStatistics = field(default_factory=RemovedStatistics)
    energy: float = 0.0

    @property
    def representative(self) -> int:
        """Index into `columns` of the slice that the figures show."""
        return representative_slice(self.before)


def write_patch_report(
    matrix_uri: str,
    denoised_uri: str,
    bases_uri: str,
    *,
    qc: Path,
    out: Path,
    truth_uri: str | None = None,
) -> dict[str, float]:
    """Write the report of a run in patch mode to the folder `out`.

    metrics.json is written last: if it exists, the other files are complete.

    Args:
        matrix_uri: URI of a complete `MatrixStore`.
        denoised_uri: URI of its `PatchStore`.
        bases_uri: URI of the `PatchBases` that were used.
        qc: qc.json of the matrix step.
        out: Folder for the files; other files in it stay.
        truth_uri: URI of a matrix of the same slices without noise, for scores; optional.

    Returns:
        The scalar metrics by name; scores are named before_... and after_....

    Raises:
        CtbasisError: A store is missing, incomplete or corrupt, or the stores do not belong together.
    """
    qc_content = read_qc(qc)
    matrix, denoised, bases = MatrixStore.open(matrix_uri), PatchStore.open(denoised_uri), PatchBases.open(bases_uri)
    truth = MatrixStore.open(truth_uri) if truth_uri else None
    for other in (denoised, truth):
        if other is not None:
            validate_geometry(matrix, other)
    data = _survey(matrix, denoised, truth)
    sigmas = np.stack([denoised.sigma_image(int(column)) for column in data.columns])
    metrics = _metrics(denoised, bases, data, sigmas)
    removed = _removed_anatomy(denoised, data, metrics["restored_noise_fraction"])
    metrics.update(removed.to_dict())
    metrics["deidentified"] = bool(qc_content.get("deidentified"))
    warnings = _warnings(denoised, metrics)
    if removed.possible:
        warnings.append(anatomy_warning(removed.verdict))
    if metrics.get("noise_corrected"):
        warnings.append(noisy_truth_warning(metrics))
    metrics.update(overview(data.before, data.after, data.columns, denoised.series), warnings=warnings)
    figures = _figures(denoised, bases, data, sigmas)
    shown = slab(
        {"before": data.before, "after": data.after, "sigma": sigmas},
        (data.columns + 1).tolist(),
        total=matrix.cols,
        pixel_spacing=matrix.series[0].pixel_spacing,
    )
    page = render_patch_html(metrics=metrics, warnings=warnings, qc=qc_content, figures=figures, slab=shown)
    text = render_patch_markdown(metrics=metrics, warnings=warnings)
    return write_files(metrics, figure1=figures["figure1"], page=page, text=text, out=out)


def _survey(matrix: MatrixStore, denoised: PatchStore, truth: MatrixStore | None) -> PatchSurvey:
    """Go once over all matrices, row block by row block."""
    columns = sampled_columns(matrix.cols)
    before, after, true = (np.empty((len(columns), matrix.rows), np.float32) for _ in range(3))
    removed = RemovedStatistics()
    energy = 0.0
    for index in progress(range(matrix.block_count), "report", unit="row block"):
        rows = matrix.block(index)
        A, D = matrix.read_block(index, dtype=np.float32), denoised.read_block(index, dtype=np.float32)
        energy += float(np.einsum("ij,ij->", A, A, dtype=np.float64))
        removed.add(A - D, A > TISSUE)
        before[:, rows], after[:, rows] = A[:, columns].T, D[:, columns].T
        if truth is not None:
            true[:, rows] = truth.read_block(index, dtype=np.float32)[:, columns].T
    shape = (len(columns), *matrix.image)
    return PatchSurvey(
        columns,
        before.reshape(shape),
        after.reshape(shape),
        None if truth is None else true.reshape(shape),
        removed,
        energy,
    )


def _metrics(denoised: PatchStore, bases: PatchBases, data: PatchSurvey, sigmas: NDArray[np.float32]) -> dict[str, Any]:
    plan = denoised.plan
    anatomy = data.after if data.truth is None else data.truth
    body, lung = anatomy > TISSUE, (anatomy > LUNG[0]) & (anatomy < LUNG[1])
    used = [bases.bases[number - 1] for number in sorted(set(plan.bases) - {0})]
    noises = denoised.noise_summaries
    restored = [
        restored_noise_fraction(noise.soft_tissue_sigma, noise.noise_floor, plan.target_noise) for noise in noises
    ]
    floors = [noise.noise_floor for noise in noises]
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
        "parts": _parts(denoised, bases),
        "restored_noise_fraction": restored,
        "put_back": restored,
        "sigma_soft_hu": [noise.soft_tissue_sigma for noise in noises],
        "noise_floor": floors,
        "left": floors,
        "seed": plan.seed,
        "basis": "given" if plan.basis else "learned",
        "basis_note": plan.factored_by,
        "patch": [list(basis.shape) for basis in used],
        "classes": [basis.classes for basis in used],
        "textures": [len(basis.textures) for basis in used],
        "scanner": [noise.scanner for noise in noises],
        "notes": list(plan.notes),
        "sigma_body_hu": _rms(sigmas[body]),
        "sigma_lung_hu": _rms(sigmas[lung]),
        "removed_std_hu": data.removed.std,
        "relative_residual": float(np.sqrt(data.removed.energy / (data.energy or 1.0))),
        "edge_ratio": finite_edge_ratio(data.before - data.after, anatomy),
        "slices_sampled": len(data.columns),
    }
    if data.truth is not None:
        noise = data.before - data.truth
        metrics.update(
            before=compare(data.truth, data.before).to_dict(),
            after=compare(data.truth, data.after).to_dict(),
            noise_edge_ratio=finite_edge_ratio(noise, data.truth),
            noise_body_hu=_rms(noise[body]),
            noise_lung_hu=_rms(noise[lung]),
            removed=measured_removal(data.truth, data.before, data.after),
            **paired_scores(data.truth, data.before, data.after),
        )
    return metrics


def _removed_anatomy(denoised: PatchStore, data: PatchSurvey, restored: Sequence[float]) -> RemovedAnatomy:
    """Return the estimate of removed anatomy in the sampled slices; `restored` is the restored fraction by part."""
    removed = RemovedAnatomy()
    for column, before, after in zip(data.columns.tolist(), data.before, data.after, strict=True):
        part = denoised.part_of(column)
        index = column - denoised.parts[part].slices.first
        promise = Promise.of(denoised.noise(part), index, restored=restored[part])
        removed.add(column + 1, before, after, promise)
    return removed


def _parts(denoised: PatchStore, bases: PatchBases) -> list[dict[str, Any]]:
    described = []
    for part, number, noise in zip(denoised.parts, denoised.plan.bases, denoised.noise_summaries, strict=True):
        first = part.slices.first - denoised.series[part.number].first + 1
        described.append(
            {
                "name": part.name,
                "series": part.number + 1,
                "slices": [first, first + part.slices.count - 1],
                "patch": list(bases.bases[number - 1].shape) if number else None,
                "sigma_soft_hu": noise.soft_tissue_sigma,
            }
        )
    return described


def _rms(values: NDArray[np.float32]) -> float | None:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64)))) if values.size else None


def _warnings(denoised: PatchStore, metrics: dict[str, Any]) -> list[str]:
    """Return the warnings that the page shows above the metrics."""
    warnings = []
    if metrics["removed_std_hu"] < NOTHING_REMOVED:
        warnings.append("Almost nothing was removed: apart from rounding, the denoised series is the input.")
    edge_ratio = metrics["edge_ratio"]
    if edge_ratio is not None and edge_ratio >= ANATOMY_REMOVED:
        warnings.append(
            f"The removed component is {edge_ratio:.1f} times as strong on edges of anatomy as in flat regions, so "
            "anatomy was removed with the noise. Look for its outlines in Figure 1. A smaller tau keeps more anatomy."
        )
    return warnings + [f"{note[0].upper()}{note[1:]}." for note in denoised.plan.notes]


def _figures(
    denoised: PatchStore, bases: PatchBases, data: PatchSurvey, sigmas: NDArray[np.float32]
) -> dict[str, bytes]:
    index = data.representative
    column = int(data.columns[index])
    number = series_of(denoised.series, column)
    entry = denoised.series[number]
    views = SliceViews(
        before=data.before[index],
        after=data.after[index],
        sigma=sigmas[index],
        truth=None if data.truth is None else data.truth[index],
        pixel_spacing=entry.pixel_spacing,
        caption=f"slice {column - entry.first + 1} of {entry.count}, series {number + 1} of {len(denoised.series)}",
    )
    part = denoised.part_of(column)
    noise = denoised.noise(part)
    # A part of air has no basis; the first one that was used is shown.
    basis = bases.bases[(denoised.plan.bases[part] or next(filter(None, denoised.plan.bases))) - 1]
    texture = noise.texture_map[..., column - denoised.parts[part].slices.first]
    return {
        "figure1": png(patch_figure1(views)),
        "profiles": png(draw_profiles(views, choose_profiles(views))),
        "noise": png(noise_figure(views, noise, np.median(noise.sigma, axis=(0, 1)), texture)),
        "energies": png(energies(basis, denoised.plan.tau)),
        "basis": png(basis_patches(basis)),
    }
