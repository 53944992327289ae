"""The report as one self-contained HTML page, and a summary of it in Markdown."""

from __future__ import annotations

import json
from base64 import b64encode
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ctbasis.patch.parts import MAX_STEP
from ctbasis.printable import page_value, printable_markdown
from ctbasis.viewer.slab import FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

SERIES_LISTED = 20
"""Series that the page lists, at most; qc.json lists all of them."""

REASONS_LISTED = 30
"""Reasons per outcome that the page lists, the most frequent ones. A damaged source can have one reason per file."""

SCORES = {
    "rmse": "RMSE, all (HU)",
    "rmse_body": "RMSE, body (HU)",
    "rmse_lung": "RMSE, lung (HU)",
    "psnr": "PSNR (dB, peak 2000 HU)",
    "ssim": "SSIM (range 1400 HU)",
}
"""Scores against the truth, with the labels that the page gives them."""

PNG_SIGNATURE = b"\x89PNG"

SPECTRUM_ROWS = 24
"""Most rows of the table of singular values."""

SUMMARY_METRICS = ("sigma_body_hu", "sigma_lung_hu", "removed_std_hu", "edge_ratio")
"""Entries of metrics.json in patch mode that the Markdown summary shows."""


def render_html(
    *,
    metrics: Mapping[str, Any],
    warnings: Sequence[str],
    qc: Mapping[str, Any],
    figures: Mapping[str, bytes],
    spectrum: Sequence[tuple[int, float, float]],
    slab: str | None = None,
) -> str:
    """Return the page of a run in global mode.

    Args:
        metrics: Content of metrics.json.
        warnings: Warnings to show above the metrics.
        qc: Content of the qc.json of the matrix step.
        figures: PNG or SVG images by name: figure1, scree, basis, weights.
        spectrum: Rows of the table beside the plot `scree`, from `spectrum_table`.
        slab: Slices to scroll through, as `ctbasis.viewer.slab.slab` returns them.
    """
    tables = {"scores": score_table(metrics), "accuracy": accuracy_table(metrics), "spectrum": spectrum}
    return _render("global.html.j2", metrics, warnings, qc, figures, slab=slab, **tables)


def render_patch_html(
    *,
    metrics: Mapping[str, Any],
    warnings: Sequence[str],
    qc: Mapping[str, Any],
    figures: Mapping[str, bytes],
    slab: str | None = None,
) -> str:
    """Return the page of a run in patch mode.

    Args:
        metrics: Content of metrics.json.
        warnings: Warnings to show above the metrics.
        qc: Content of the qc.json of the matrix step.
        figures: PNG images by name: figure1, profiles, noise, energies, basis.
        slab: See `render_html`.
    """
    tables = {"scores": patch_score_table(metrics), "max_step": MAX_STEP}
    return _render("patch.html.j2", metrics, warnings, qc, figures, slab=slab, **tables)


def _render(
    template: str,
    metrics: Mapping[str, Any],
    warnings: Sequence[str],
    qc: Mapping[str, Any],
    figures: Mapping[str, bytes],
    *,
    slab: str | None,
    **tables: Any,
) -> str:
    environment = page_environment(FOLDER)
    environment.filters["number"] = number
    environment.filters["extent"] = extent
    return environment.get_template(template).render(
        metrics=metrics,
        warnings=warnings,
        qc=summarize(qc),
        images={name: _data_uri(image) for name, image in figures.items()},
        # JSON of numbers, names of panes and base64, in which no character ends a script element.
        slab=None if slab is None else Markup(slab),  # noqa: S704
        slab_step=None if slab is None else json.loads(slab)["panes"][0]["step"],
        **tables,
    )


def _data_uri(image: bytes) -> str:
    kind = "png" if image.startswith(PNG_SIGNATURE) else "svg+xml"
    return f"data:image/{kind};base64,{b64encode(image).decode()}"


def page_environment(*folders: Path) -> Environment:
    """Return the environment of the templates of pages.

    Every value is escaped and made printable. Templates can call `content`, which returns the content of files for a
    style or script element, and `content_security_policy`.

    Args:
        folders: Folders of templates, besides the one of the reports.
    """
    environment = Environment(
        loader=FileSystemLoader([*folders, Path(__file__).parent]),
        autoescape=True,
        finalize=page_value,
        undefined=StrictUndefined,
        trim_blocks=True,
    )

    def content(*names: str) -> Markup:
        return Markup("\n").join(Markup(environment.get_template(name).render()) for name in names)  # noqa: S704 - own files

    environment.globals.update(content=content, content_security_policy=content_security_policy)
    return environment


def content_security_policy(*, style: str, script: str = "") -> str:
    """Return the policy of a self-contained page: its own style and script by their digests, and images in it.

    Args:
        style: Content of the page's style element.
        script: Content of its script element; empty if it has none.
    """
    scripts = f"; script-src '{_digest(script)}'" if script else ""
    return (
        f"default-src 'none'; img-src data:; style-src '{_digest(style)}'{scripts}; base-uri 'none'; form-action 'none'"
    )


def _digest(content: str) -> str:
    return f"sha256-{b64encode(sha256(content.encode()).digest()).decode()}"


def render_markdown(*, metrics: Mapping[str, Any], warnings: Sequence[str]) -> str:
    """Return the summary of a run in global mode that the Kubeflow UI shows with the run.

    Args:
        metrics: Content of metrics.json.
        warnings: Warnings to show above the metrics.
    """
    lines = [
        f"# Rank-{metrics['rank']} denoising of {metrics['cols']} CT slices",
        "",
        *(line for warning in warnings for line in (f"> **Note:** {warning}", "")),
        "Engine {engine}, rank {factored_rank}, oversample {oversample}, power iterations {power_iters}.".format(
            **metrics
        ),
        "",
        "| rank | energy captured | relative residual | removed in the body, std (HU) | edge ratio |",
        "|---|---|---|---|---|",
        *(
            f"| {entry['label']} | {entry['energy_captured']:.4%} | {entry['relative_residual']:.4f} "
            f"| {entry['removed_std_hu']:.2f} | {number(entry['edge_ratio'])} |"
            for entry in metrics["ranks"].values()
        ),
    ]
    return printable_markdown([*lines, *_score_lines(score_table(metrics)), "", "Not for diagnosis.", ""])


def render_patch_markdown(*, metrics: Mapping[str, Any], warnings: Sequence[str]) -> str:
    """Return the summary of a run in patch mode that the Kubeflow UI shows with the run.

    Args:
        metrics: Content of metrics.json.
        warnings: Warnings to show above the metrics.
    """
    lines = [
        f"# Patch-mode denoising of {metrics['cols']} CT slices",
        "",
        *(line for warning in warnings for line in (f"> **Note:** {warning}", "")),
        "Engine {engine}, basis {basis}, tau {tau}, target noise {target_noise:g} HU, stride {stride}.".format(
            **metrics
        ),
        "",
        "| estimated noise, body (HU) | estimated noise, lung (HU) | removed in the body, std (HU) | edge ratio |",
        "|---|---|---|---|",
        f"| {' | '.join(number(metrics[name]) for name in SUMMARY_METRICS)} |",
    ]
    return printable_markdown([*lines, *_score_lines(patch_score_table(metrics)), "", "Not for diagnosis.", ""])


def _score_lines(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    if not scores:
        return []
    heads = ["", *scores[0]["values"]]
    lines = ["", "Against the known truth:", "", f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    return lines + [f"| {row['name']} | {' | '.join(row['values'].values())} |" for row in scores]


def score_table(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the scores of the input and of every rank, one row per image; empty if no truth is known."""
    if "before" not in metrics:
        return []
    rows = [("before: the input", metrics["before"])]
    rows += [(f"after: {entry['label']}", entry["scores"]) for entry in metrics["ranks"].values()]
    return _score_rows(rows)


def patch_score_table(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the scores of the input and of the denoised series; empty if no truth is known."""
    if "before" not in metrics:
        return []
    return _score_rows([("before: the input", metrics["before"]), ("after: denoised", metrics["after"])])


def _score_rows(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    return [
        {"name": name, "values": {label: number(scores[key]) for key, label in SCORES.items()}} for name, scores in rows
    ]


def accuracy_table(metrics: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the error bounds of the factors: quantity, value, and how it is known; empty if the engine gives none."""
    accuracy = metrics["accuracy"]
    if not accuracy:
        return []
    chance = f"probability of failure {accuracy['failure']:g}" if accuracy["failure"] else "certain"
    norm = accuracy["norm"] or 1.0
    return [
        ("‖A - UΣVᵀ‖_F / ‖A‖_F", f"{accuracy['residual'] / norm:.4e}", accuracy["residual_by"]),
        (
            "increase of this by rounding U on disk, at most",
            f"{accuracy['rounding'] / norm:.1e}",
            "half a unit in the last place",
        ),
        (
            "‖A - UΣVᵀ‖₂ / ‖A‖_F, at most",
            f"{accuracy['spectral_error'] / norm:.4e}",
            f"{accuracy['spectral_by']}; {chance}",
        ),
        ("‖UᵀU - I‖₂ as stored, at most", f"{accuracy['basis_error']:.1e}", "random vectors"),
        ("‖VᵀV - I‖₂", f"{accuracy['weights_error']:.1e}", "computed"),
        ("σₖ / σ₁", f"{accuracy['ratio']:.3e}", f"the method is accurate down to {accuracy['valid_to']:.0e}"),
        ("passes over the matrix", str(accuracy["passes"]), f"{_size(accuracy['bytes_read'])} read"),
        ("data between processes", _size(accuracy["bytes_shuffled"]), "operands sent and results merged"),
    ]


def spectrum_table(s: NDArray[np.float64], energy: float) -> list[tuple[int, float, float]]:
    """Return rows of i, sigma_i in HU and the energy that the first i singular values capture.

    Args:
        s: Singular values, descending, (k,).
        energy: ||A||_F^2.

    Returns:
        All rows of up to `SPECTRUM_ROWS`, else that many with i in equal ratios, the first and the last among them.
    """
    chosen = np.unique(np.geomspace(1, len(s), SPECTRUM_ROWS).round().astype(int)) if len(s) > SPECTRUM_ROWS else None
    index = np.arange(1, len(s) + 1) if chosen is None else chosen
    captured = np.cumsum(s**2) / energy
    return [(int(i), float(s[i - 1]), float(captured[i - 1])) for i in index]


def _size(count: float | None) -> str:
    """Return a number of bytes with a binary prefix."""
    if count is None:
        return "not known"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:  # noqa: PLR2004 - binary prefixes
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"


def number(value: float | None) -> str:
    """Return `value` with four significant digits, or a dash for None."""
    return "-" if value is None else f"{value:#.4g}"


def extent(values: Sequence[float], form: str) -> str:
    """Return the smallest and the largest of `values` in the format `form`, or the only one."""
    ends = dict.fromkeys(form.format(value) for value in (min(values), max(values)))
    return " to ".join(ends)


def summarize(qc: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of qc.json that the page shows: counts and reasons, but no file names."""
    slices = qc["slices"]
    return {
        "files": qc["files"],
        "deidentified": qc.get("deidentified"),
        "slices": len(slices),
        "series": qc["series"][:SERIES_LISTED],
        "more_series": max(0, len(qc["series"]) - SERIES_LISTED),
        "gaps": sum(len(entry["gaps"]) for entry in qc["series"]),
        "table": quality_control(qc),
        "padded": sum(entry["padded"] for entry in slices),
        "padded_slices": sum(entry["padded"] > 0 for entry in slices),
        "outside": sum(entry["outside"] for entry in slices),
        "outside_slices": sum(entry["outside"] > 0 for entry in slices),
    }


def quality_control(qc: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a table of the outcomes of reading the source: `outcome`, `reason` and `count` of files or slices."""
    slices, aside = qc["slices"], qc["set_aside"]
    reasons = {
        "read without remarks": Counter({"": sum(not entry["tolerated"] for entry in slices)}),
        "read, with a defect tolerated or repaired": Counter(
            remark for entry in [*slices, *qc["series"]] for remark in entry["tolerated"]
        ),
        "skipped: not a slice of a CT series": Counter(entry["reason"] for entry in aside if not entry["broken"]),
        "rejected: a CT slice that cannot be used": Counter(entry["reason"] for entry in aside if entry["broken"]),
    }
    rows = []
    for outcome, counted in reasons.items():
        common = counted.most_common(REASONS_LISTED)
        rest = counted.total() - sum(count for _, count in common)
        if rest:
            common.append((f"{len(counted) - len(common)} other reasons, see qc.json", rest))
        rows += [{"outcome": outcome, "reason": reason, "count": count} for reason, count in common if count]
    return rows
