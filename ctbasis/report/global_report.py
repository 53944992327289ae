"""The report step in global mode: figures, metrics and one page from the matrix, its factors and qc.json.

figure1.png    Figure 1 of the talk
report.html    everything on one self-contained page
report.md      a summary of the metrics
metrics.json   all metrics:
    mode                                    global; ctbasis/report/patch_report.py lists the metrics of patch mode
    rows, cols, series                      m, n, number of series
    rank_asked, rank                        k of the denoised series, requested and used
    factored_rank_asked, factored_rank      k of the factorization, requested and used
    oversample_asked, oversample            p, requested and used
    power_iters, seed, engine, engine_note  q, seed and engine of the factorization
    accuracy                                error bounds of the factors, see ctbasis/svd/accuracy.py; may be empty
    projection                              what a stored basis of other slices does not represent; may be empty
    rank_choice                             how a rule chose the rank: rule, rank, why, assumptions; may be empty
    energy_captured                         sum of the first k squared singular values / ||A||_F^2
    relative_residual                       ||A - A_k||_F / ||A||_F, summed over the matrix itself
    removed_std_hu                          standard deviation of A - A_k in the body (above -300 HU)
    edge_ratio                              of the removed component: near 1 for noise, well above for anatomy
    ranks {requested k: {label, asked, run, identity, the four metrics above, smoothed_removal and anatomy_removed;
                        scores where the truth is known}}
    slices_sampled                          number of evenly spaced slices for edge_ratio and scores
    noise_before_hu, noise_after_hu         noise in soft tissue, see ctbasis/report/noise_level.py
    warnings                                warnings of the page
    thumbnail                               a slice before, after and removed: a WebP image in base64
    anatomy_removed, anatomy_possible_at    whether anatomy of low contrast was removed, and at which slices
    smoothed_...                            the estimates behind it, see ctbasis/report/smoothed_removal.py
    removed                                 where the truth is known: the same measured against it
    truth_noise, noise_corrected            where the truth is known: its own noise, and scores without its influence
    before, after                           where the truth is known: scores of the input and of rank k
    noise_edge_ratio                        where the truth is known: edge ratio of the true noise, for comparison
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.matrix.store import MatrixStore
from ctbasis.report.figures import ShownRank, basis_images, figure1, png, scree, svg, weights_along_slices
from ctbasis.report.noisy_truth import noisy_truth_warning, paired_scores
from ctbasis.report.output import read_qc, validate_geometry, write_files
from ctbasis.report.overview import overview
from ctbasis.report.page import render_html, render_markdown, spectrum_table
from ctbasis.report.quality import ANATOMY_REMOVED, compare, finite_edge_ratio
from ctbasis.report.smoothed_removal import Promise, RemovedAnatomy, anatomy_warning, measured_removal
from ctbasis.report.survey import RemovedStatistics, Survey, series_of, survey
from ctbasis.svd.factors import FactorStore
from ctbasis.svd.project import MISFIT_RATIO
from ctbasis.viewer.slab import slab

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ctbasis.matrix.slice_store import Series

MAX_LOST = 0.1
"""Fraction that a stored basis may leave out without a warning, where its loss on its own slices is not known."""

EXAMINED = 6
"""Slices in which removed anatomy is estimated, at most; the noise of each takes about a second."""

NEARLY_FULL_RANK = 0.9
"""Fraction of the full rank from which almost nothing is removed."""


def write_report(
    matrix_uri: str,
    basis_uri: str,
    *,
    rank: int,
    ranks: Sequence[int],
    qc: Path,
    out: Path,
    truth_uri: str | None = None,
) -> dict[str, float]:
    """Write the report of a run in global mode to the folder `out`.

    One pass over A and U serves all ranks. metrics.json is written last: if it exists, the other files are complete.

    Args:
        matrix_uri: URI of a complete `MatrixStore`.
        basis_uri: URI of its `FactorStore`.
        rank: k of the denoised series.
        ranks: Ranks of Figure 1. A rank above that of the factors is shown at the largest rank available and labelled
            with it.
        qc: qc.json of the matrix step.
        out: Folder for the files; other files in it stay.
        truth_uri: URI of a matrix of the same slices without noise, for scores; optional.

    Returns:
        The scalar metrics by name; scores are named before_... and after_....

    Raises:
        CtbasisError: A store is missing, incomplete or corrupt, the stores do not belong together, or a rank is below
            1.
    """
    qc_content = read_qc(qc)
    matrix, basis = MatrixStore.open(matrix_uri), FactorStore.open(basis_uri)
    truth = MatrixStore.open(truth_uri) if truth_uri else None
    for other in (basis, truth):
        if other is not None:
            validate_geometry(matrix, other)
    # After a projection on the basis of other slices, no rank reproduces the matrix itself.
    full = sys.maxsize if basis.projection else min(matrix.rows, matrix.cols)
    denoised = ShownRank(_validate_rank(rank), basis.rank, full)
    shown = _shown_ranks([ShownRank(_validate_rank(k), basis.rank, full) for k in sorted(set(ranks))], denoised)
    data = survey(matrix, basis, sorted({entry.run for entry in shown if not entry.identity}), truth)
    metrics = _metrics(basis, data, shown, denoised)
    metrics["deidentified"] = bool(qc_content.get("deidentified"))
    warnings = _warnings(basis, shown, denoised, metrics["edge_ratio"])
    if metrics["anatomy_possible_at"]:
        warnings.append(anatomy_warning(metrics["anatomy_removed"]))
    if metrics.get("noise_corrected"):
        warnings.append(noisy_truth_warning(metrics))
    after = data.original if denoised.identity else data.approximations[denoised.run]
    metrics.update(overview(data.original, after, data.columns, matrix.series), warnings=warnings)
    figures = _figures(matrix.series, basis, data, shown)
    slices = slab(
        {"before": data.original, "after": after},
        (data.columns + 1).tolist(),
        total=matrix.cols,
        pixel_spacing=matrix.series[0].pixel_spacing,
    )
    spectrum = spectrum_table(basis.s, data.energy)
    page = render_html(
        metrics=metrics, warnings=warnings, qc=qc_content, figures=figures, spectrum=spectrum, slab=slices
    )
    text = render_markdown(metrics=metrics, warnings=warnings)
    return write_files(metrics, figure1=figures["figure1"], page=page, text=text, out=out)


def _validate_rank(rank: int) -> int:
    if rank < 1:
        raise CtbasisError(f"rank is {rank}", expected="a whole number, at least 1", remedy="choose a larger rank")
    return rank


def _shown_ranks(requested: list[ShownRank], denoised: ShownRank) -> list[ShownRank]:
    """Return the ranks of Figure 1: the requested ones, and that of the denoised series if it is not among them."""
    if denoised.run in [entry.run for entry in requested]:
        return requested
    return sorted([*requested, denoised], key=lambda entry: entry.asked)


def _metrics(basis: FactorStore, data: Survey, shown: Sequence[ShownRank], denoised: ShownRank) -> dict[str, Any]:
    plan = basis.plan
    anatomy = _removed_anatomy(basis.series, data)
    ranks = {str(entry.asked): _rank_metrics(entry, basis, data, anatomy) for entry in shown}
    own = next(entry for entry in ranks.values() if entry["run"] == denoised.run)
    metrics = {
        "mode": "global",
        "rows": basis.rows,
        "cols": basis.cols,
        "series": len(basis.series),
        "rank_asked": denoised.asked,
        "rank": denoised.run,
        "factored_rank_asked": plan.rank_asked,
        "factored_rank": plan.rank,
        "oversample_asked": plan.oversample_asked,
        "oversample": plan.oversample,
        "power_iters": plan.power_iters,
        "seed": plan.seed,
        "engine": plan.engine,
        "engine_note": plan.note,
        "accuracy": basis.accuracy,
        "projection": basis.projection,
        "rank_choice": basis.choice,
        **{name: own[name] for name in ("energy_captured", "relative_residual", "removed_std_hu", "edge_ratio")},
        "ranks": ranks,
        "slices_sampled": len(data.columns),
        **anatomy.get(denoised.run, RemovedAnatomy()).to_dict(),
    }
    if data.truth is not None:
        before = compare(data.truth, data.original).to_dict()
        after = {k: compare(data.truth, images).to_dict() for k, images in data.approximations.items()}
        for entry in ranks.values():
            entry["scores"] = before if entry["identity"] else after[entry["run"]]
        noise = finite_edge_ratio(data.original - data.truth, data.truth)
        metrics.update(before=before, after=own["scores"], noise_edge_ratio=noise)
        if not denoised.identity:
            images = data.approximations[denoised.run]
            metrics["removed"] = measured_removal(data.truth, data.original, images)
            metrics.update(paired_scores(data.truth, data.original, images))
    return metrics


def _rank_metrics(
    rank: ShownRank, basis: FactorStore, data: Survey, anatomy: Mapping[int, RemovedAnatomy]
) -> dict[str, Any]:
    estimate = (RemovedAnatomy() if rank.identity else anatomy[rank.run]).to_dict()
    removed = RemovedStatistics() if rank.identity else data.removed[rank.run]
    energy = data.energy or 1.0  # a matrix of zeros has no energy to capture
    captured = 1.0 if rank.identity else float(np.sum(basis.s[: rank.run] ** 2)) / energy
    return {
        "label": rank.label,
        "asked": rank.asked,
        "run": rank.run,
        "identity": rank.identity,
        "energy_captured": captured,
        "relative_residual": float(np.sqrt(removed.energy / energy)),
        "removed_std_hu": removed.std,
        "edge_ratio": None if rank.identity else _rank_edge_ratio(data, rank.run),
        **{name: estimate[name] for name in ("smoothed_removal", "anatomy_removed")},
    }


def _removed_anatomy(series: Sequence[Series], data: Survey) -> dict[int, RemovedAnatomy]:
    """Return the estimates of removed anatomy by rank, over EXAMINED of the sampled slices.

    Global mode has no noise model, so the noise is estimated from each of these slices alone.
    """
    removed = {k: RemovedAnatomy() for k in data.approximations}
    for index in range(0, len(data.columns), math.ceil(len(data.columns) / EXAMINED)):
        column = int(data.columns[index])
        promise = Promise.estimated(data.original[index], series[series_of(series, column)].pixel_spacing)
        for k, images in data.approximations.items():
            removed[k].add(column + 1, data.original[index], images[index], promise)
    return removed


def _rank_edge_ratio(data: Survey, run: int) -> float | None:
    image = data.approximations[run]
    return finite_edge_ratio(data.original - image, image if data.truth is None else data.truth)


def _warnings(
    basis: FactorStore, shown: Sequence[ShownRank], denoised: ShownRank, edge_ratio: float | None
) -> list[str]:
    """Return the warnings that the page shows above the metrics."""
    full = min(basis.rows, basis.cols)
    warnings = []
    if denoised.identity:
        warnings.append(f"Rank {denoised.run} is full rank: the denoised series is the input, and nothing was removed.")
    elif denoised.run >= NEARLY_FULL_RANK * full and not basis.projection:
        warnings.append(
            f"Rank {denoised.run} is {denoised.run / full:.0%} of the full rank, {full}: almost nothing was removed. "
            "A smaller rank removes more."
        )
    if edge_ratio is not None and edge_ratio >= ANATOMY_REMOVED:
        warnings.append(
            f"The component that rank {denoised.run} removed is {edge_ratio:.1f} times as strong on edges of anatomy "
            "as in flat regions, so anatomy was removed with the noise. Look for its outlines in Figure 1. A larger "
            "rank keeps more anatomy."
        )
    warnings += _projection_warnings(basis.projection)
    warnings += [f"{clamp[0].upper()}{clamp[1:]}." for clamp in basis.plan.clamps]
    if basis.accuracy and 0 < basis.accuracy["ratio"] < basis.accuracy["valid_to"]:
        warnings.append(
            f"The smallest singular value is {basis.accuracy['ratio']:.1e} of the largest, but the method is accurate "
            f"only down to {basis.accuracy['valid_to']:.1e}: the last basis images are not reliable."
        )
    warnings += [
        f"Rank {entry.asked} is shown at rank {entry.run}, the rank of the factorization."
        for entry in shown
        if not entry.identity and entry.run < entry.asked
    ]
    return warnings


def _projection_warnings(projection: Mapping[str, Any]) -> list[str]:
    """Return the warnings about how well a basis of other slices represents the series."""
    if not projection:
        return []
    lost, own = projection["lost"], projection["own"]
    text = (
        f"The series was projected on {projection['basis_rank']} basis images of {projection['basis_slices']} slices "
        f"of another run, which leave out {lost:.1%} of it (||A - UU^T A||_F / ||A||_F)"
    )
    if own is not None:
        text += f", compared with {own:.1%} of the slices that they were computed from"
    warnings = [f"{text}; the estimated noise of the series is {projection['noise']:.1%} of it."]
    beyond_noise = math.sqrt(max(0.0, lost**2 - projection["noise"] ** 2))
    if beyond_noise > (MISFIT_RATIO * own if own is not None else MAX_LOST):
        limit = f"{MISFIT_RATIO:g} times what it leaves out of its own slices" if own is not None else f"{MAX_LOST:.0%}"
        warnings.append(
            f"The basis cannot represent this patient: apart from the noise it leaves out {beyond_noise:.1%}, more "
            f"than {limit}. Anatomy is missing or blurred in the denoised series. Factor the series itself, or use "
            "patch mode, whose basis fits other patients."
        )
    if projection["unlike_pixels"]:
        warnings.append("The basis images have another pixel spacing than the series, so they show another scale.")
    return warnings


def _figures(
    series: Sequence[Series], basis: FactorStore, data: Survey, shown: Sequence[ShownRank]
) -> dict[str, bytes]:
    index = data.representative
    column = int(data.columns[index])
    number = series_of(series, column)
    entry = series[number]
    original = data.original[index]
    images = [(rank, original if rank.identity else data.approximations[rank.run][index]) for rank in shown]
    return {
        "figure1": png(
            figure1(
                original,
                images,
                plan=basis.plan,
                pixel_spacing=entry.pixel_spacing,
                caption=f"slice {column - entry.first + 1} of {entry.count}, series {number + 1} of {len(series)}",
            )
        ),
        "scree": svg(scree(basis.s, data.energy, shown)),
        "basis": png(basis_images(data.basis, basis.s, pixel_spacing=entry.pixel_spacing)),
        "weights": png(weights_along_slices(basis.weights, series, basis.rows)),
    }
