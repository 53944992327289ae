"""The report step: pictures, numbers and one page, from the matrix, its factors and qc.json.

figure1.png    Figure 1 of the talk
report.html    everything on one self-contained page
report.md      the numbers in short
metrics.json   all numbers:
    mode                                    global; those of patch mode are in ctbasis/report/patch_report.py
    rows, cols, series                      m, n, number of series
    rank_asked, rank                        k of the denoised series, asked and run
    factored_rank_asked, factored_rank      k of the factorization
    oversample_asked, oversample            p
    power_iters, seed, engine, engine_note  q and how it was run
    accuracy                                how wrong the factors may be, see ctbasis/svd/accuracy.py; or empty
    projection                              how much a stored basis of other slices leaves out; or empty
    rank_choice                             how a rule chose rank: rule, rank, why, assumptions; or empty
    energy_captured                         sum of the first k squared singular values / ||A||_F^2
    relative_residual                       ||A - A_k||_F / ||A||_F, summed over the matrix itself
    removed_std_hu                          standard deviation of A - A_k in the body (above -300 HU)
    edge_ratio                              of what was removed: near 1 for noise, well above where anatomy went too
    ranks {asked k: {label, asked, run, identity, and the four above; scores where the truth is known}}
    slices_sampled                          slices, evenly spread, that edge_ratio and scores are taken over
    before, after                           where the truth is known: scores of the input and of rank k
    noise_edge_ratio                        where the truth is known: of the noise itself, to compare with
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.matrix.store import MatrixStore
from ctbasis.report.figures import ShownRank, basis_images, figure1, png, scree, weights_along_slices
from ctbasis.report.page import render_html, render_markdown
from ctbasis.report.quality import compare, edge_ratio
from ctbasis.report.survey import Removed, Survey, survey
from ctbasis.svd.factors import FactorStore
from ctbasis.svd.project import WORSE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ctbasis.matrix.slice_store import Series, SliceArrays

METRICS = "metrics.json"

SCORES = ("rmse", "rmse_body", "rmse_lung", "psnr", "ssim")
"""Of `Quality.to_dict`: the numbers that say how good an image is."""

ANATOMY_REMOVED = 1.5
"""Edge ratio from which the reader is told that anatomy was removed: noise alone measures 1.0 to 1.1."""

MUCH_LOST = 0.1
"""Share that a stored basis may leave out where it does not know what it left out of its own slices."""

NEARLY_FULL = 0.9
"""Share of full rank from which almost nothing is removed."""


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
    """Write the report to the folder `out`.

    One pass over A and U serves all ranks. metrics.json is written last: where it is, the rest is whole.

    Args:
        matrix_uri: A complete `MatrixStore`.
        basis_uri: Its `FactorStore`.
        rank: k of the denoised series.
        ranks: Ranks of Figure 1. One that the factors cannot give is shown at the largest that they can, and named so.
        qc: qc.json of the matrix step.
        out: Folder for the files; others in it are left alone.
        truth_uri: A matrix of the same slices without noise, for scores.

    Returns:
        The numbers of metrics.json that are single, by name; scores as before_... and after_....

    Raises:
        CtbasisError: A store is missing, incomplete or corrupt, the stores do not fit each other, or a rank is below 1.
    """
    findings = read_qc(qc)
    matrix, basis = MatrixStore.open(matrix_uri), FactorStore.open(basis_uri)
    truth = MatrixStore.open(truth_uri) if truth_uri else None
    for other in (basis, truth):
        if other is not None:
            same_geometry(matrix, other)
    # Of a matrix that was projected on the basis of others no rank gives back the matrix itself.
    full = sys.maxsize if basis.projection else min(matrix.rows, matrix.cols)
    denoised = ShownRank(_at_least_one(rank), basis.rank, full)
    shown = _shown([ShownRank(_at_least_one(k), basis.rank, full) for k in sorted(set(ranks))], denoised)
    found = survey(matrix, basis, sorted({entry.run for entry in shown if not entry.identity}), truth)
    metrics = _metrics(basis, found, shown, denoised)
    metrics["deidentified"] = bool(findings.get("deidentified"))
    warnings = _warnings(basis, shown, denoised, metrics["edge_ratio"])
    figures = _figures(matrix.series, basis, found, shown)
    page = render_html(metrics=metrics, warnings=warnings, qc=findings, figures=figures)
    text = render_markdown(metrics=metrics, warnings=warnings)
    return published(metrics, figure1=figures["figure1"], page=page, text=text, out=out)


def published(metrics: Mapping[str, Any], *, figure1: bytes, page: str, text: str, out: Path) -> dict[str, float]:
    """Write a report's files to `out`, all or none, and return what `scalars` makes of its numbers."""
    publish(
        {
            "figure1.png": figure1,
            "report.html": page.encode(),
            "report.md": text.encode(),
            METRICS: (json.dumps(metrics, indent=2) + "\n").encode(),
        },
        out,
    )
    return scalars(metrics)


def scalars(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the single numbers of metrics.json, flat, as KFP metrics take them."""
    flat = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
    for when in ("before", "after"):
        scores = metrics.get(when, {})
        flat.update({f"{when}_{name}": scores[name] for name in SCORES if scores.get(name) is not None})
    return flat


def read_qc(path: Path) -> dict[str, Any]:
    """Read the matrix step's qc.json.

    Raises:
        CtbasisError: It is not there, or something else.
    """
    try:
        findings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CtbasisError(
            f"{path} is no qc.json ({type(error).__name__})",
            expected="the file that the matrix step wrote",
            remedy="give its path, or run the matrix step again",
        ) from error
    return findings


def _at_least_one(rank: int) -> int:
    if rank < 1:
        raise CtbasisError(f"rank is {rank}", expected="a whole number, at least 1")
    return rank


def same_geometry(matrix: MatrixStore, other: SliceArrays) -> None:
    """Refuse a store that is not of the same slices as `matrix`, as far as shape and spacing tell."""

    def layout(series: Series) -> tuple[int, int, tuple[float, ...]]:
        return series.first, series.count, tuple(np.round([series.spacing, *series.pixel_spacing], 3).tolist())

    def described(store: SliceArrays) -> str:
        slices = ", ".join(f"{entry.count} slices {entry.spacing:g} mm apart" for entry in store.series)
        spacing = store.series[0].pixel_spacing
        return f"{store.image[0]} x {store.image[1]} voxels of {spacing[0]:g} x {spacing[1]:g} mm, {slices}"

    if matrix.image == other.image and [*map(layout, matrix.series)] == [*map(layout, other.series)]:
        return
    raise CtbasisError(
        f"{other.uri} has {described(other)}",
        expected=f"the same as {matrix.uri}: {described(matrix)}",
        cause="it was made from another series, or from another selection of slices",
        remedy="give the truth, and the basis, of this very series",
    )


def _shown(asked: list[ShownRank], denoised: ShownRank) -> list[ShownRank]:
    """Return what Figure 1 shows: the ranks asked, and the denoised series' own where none of them is it."""
    if denoised.run in [entry.run for entry in asked]:
        return asked
    return sorted([*asked, denoised], key=lambda entry: entry.asked)


def _metrics(basis: FactorStore, found: Survey, shown: Sequence[ShownRank], denoised: ShownRank) -> dict[str, Any]:
    plan = basis.plan
    ranks = {str(entry.asked): _rank_metrics(entry, basis, found) for entry in shown}
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
        "slices_sampled": len(found.columns),
    }
    if found.truth is not None:
        before = compare(found.truth, found.original).to_dict()
        after = {k: compare(found.truth, images).to_dict() for k, images in found.approximations.items()}
        for entry in ranks.values():
            entry["scores"] = before if entry["identity"] else after[entry["run"]]
        noise = measured_edge_ratio(found.original - found.truth, found.truth)
        metrics.update(before=before, after=own["scores"], noise_edge_ratio=noise)
    return metrics


def _rank_metrics(rank: ShownRank, basis: FactorStore, found: Survey) -> dict[str, Any]:
    removed = Removed() if rank.identity else found.removed[rank.run]
    energy = found.energy or 1.0  # a matrix of zeros has none to capture
    captured = 1.0 if rank.identity else float(np.sum(basis.s[: rank.run] ** 2)) / energy
    return {
        "label": rank.label,
        "asked": rank.asked,
        "run": rank.run,
        "identity": rank.identity,
        "energy_captured": captured,
        "relative_residual": float(np.sqrt(removed.energy / energy)),
        "removed_std_hu": removed.std,
        "edge_ratio": None if rank.identity else _rank_edge_ratio(found, rank.run),
    }


def _rank_edge_ratio(found: Survey, run: int) -> float | None:
    image = found.approximations[run]
    return measured_edge_ratio(found.original - image, image if found.truth is None else found.truth)


def measured_edge_ratio(removed: NDArray[np.float32], anatomy: NDArray[np.float32]) -> float | None:
    """Return the edge ratio, None where there is no body in the slices or nothing was removed from it."""
    try:
        ratio = edge_ratio(removed, anatomy).ratio
    except ValueError:
        return None
    return ratio if math.isfinite(ratio) else None


def _warnings(basis: FactorStore, shown: Sequence[ShownRank], denoised: ShownRank, edges: float | None) -> list[str]:
    """Return what the reader must know before the numbers."""
    full = min(basis.rows, basis.cols)
    said = []
    if denoised.identity:
        said.append(f"Rank {denoised.run} is full rank: the denoised series is the input, and nothing was removed.")
    elif denoised.run >= NEARLY_FULL * full and not basis.projection:
        said.append(
            f"Rank {denoised.run} is {denoised.run / full:.0%} of the {full} there are: almost nothing was removed. "
            "A smaller rank removes more."
        )
    if edges is not None and edges >= ANATOMY_REMOVED:
        said.append(
            f"What rank {denoised.run} removed is {edges:.1f} times as strong on edges of anatomy as in flat regions, "
            "so anatomy was removed with the noise. Look for its outlines in Figure 1; a larger rank keeps more."
        )
    said += _of_projection(basis.projection)
    said += [f"{clamp[0].upper()}{clamp[1:]}." for clamp in basis.plan.clamps]
    if basis.accuracy and 0 < basis.accuracy["ratio"] < basis.accuracy["valid_to"]:
        said.append(
            f"The smallest singular value kept is {basis.accuracy['ratio']:.1e} of the largest, and the method is "
            f"right down to {basis.accuracy['valid_to']:.1e}: the last basis images are not to be trusted."
        )
    said += [
        f"Rank {entry.asked} is shown at rank {entry.run}: the factorization holds no more."
        for entry in shown
        if not entry.identity and entry.run < entry.asked
    ]
    return said


def _of_projection(projection: Mapping[str, Any]) -> list[str]:
    """Say how a basis of other slices holds these."""
    if not projection:
        return []
    lost, own = projection["lost"], projection["own"]
    told = (
        f"The series was projected on {projection['basis_rank']} basis images of {projection['basis_slices']} slices "
        f"of another run, which leave out {lost:.1%} of it (||A - UU^T A||_F / ||A||_F)"
    )
    if own is not None:
        told += f", against {own:.1%} of the slices that they were made of"
    said = [f"{told}; the noise of the series, as it is estimated, is {projection['noise']:.1%}."]
    beyond = math.sqrt(max(0.0, lost**2 - projection["noise"] ** 2))
    if beyond > (WORSE * own if own is not None else MUCH_LOST):
        limit = f"{WORSE:g} times what it leaves out of its own slices" if own is not None else f"{MUCH_LOST:.0%}"
        said.append(
            f"The basis cannot represent this patient: beyond the noise it leaves out {beyond:.1%}, above {limit}. "
            "Anatomy is gone or blurred in the denoised series; factor the series itself, or use patch mode, whose "
            "basis fits other patients."
        )
    if projection["unlike_pixels"]:
        said.append("The basis images have another pixel spacing than the series: they are of another scale.")
    return said


def _figures(
    series: Sequence[Series], basis: FactorStore, found: Survey, shown: Sequence[ShownRank]
) -> dict[str, bytes]:
    index = found.representative
    column = int(found.columns[index])
    number, entry = next(
        (number, entry) for number, entry in enumerate(series, start=1) if column < entry.first + entry.count
    )
    original = found.original[index]
    images = [(rank, original if rank.identity else found.approximations[rank.run][index]) for rank in shown]
    return {
        "figure1": png(
            figure1(
                original,
                images,
                plan=basis.plan,
                pixel_spacing=entry.pixel_spacing,
                caption=f"slice {column - entry.first + 1} of {entry.count}, series {number} of {len(series)}",
            )
        ),
        "scree": png(scree(basis.s, found.energy, shown)),
        "basis": png(basis_images(found.basis, basis.s, pixel_spacing=entry.pixel_spacing)),
        "weights": png(weights_along_slices(basis.weights, series, basis.rows)),
    }


def publish(files: Mapping[str, bytes], out: Path) -> None:
    """Put every file in place whole, metrics.json first away and last back.

    Raises:
        CtbasisError: The disk is full or write-protected.
    """
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, content in files.items():
            (partial / name).write_bytes(content)
        out.mkdir(exist_ok=True)
        (out / METRICS).unlink(missing_ok=True)
        for name in sorted(files, key=METRICS.__eq__):
            (partial / name).replace(out / name)
    except OSError as error:
        raise CtbasisError(f"the report cannot be written to {out} ({error})", cause="the disk is full") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
