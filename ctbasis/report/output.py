"""The files of a report: reading qc.json, checking that stores belong together, and writing all files at once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.matrix.geometry import match_slices
from ctbasis.storage.outputs import replaced_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ctbasis.matrix.slice_store import Series, SliceArrays
    from ctbasis.matrix.store import MatrixStore

METRICS = "metrics.json"

SCALAR_SCORES = ("rmse", "rmse_body", "rmse_lung", "psnr", "ssim")
"""Entries of `Quality.to_dict` that are scalar metrics of a run."""


def write_files(metrics: Mapping[str, Any], *, figure1: bytes, page: str, text: str, out: Path) -> dict[str, float]:
    """Write the files of a report to the folder `out` and return the scalar metrics.

    Args:
        metrics: Content of metrics.json.
        figure1: Figure 1 as PNG.
        page: The HTML page.
        text: The Markdown summary.
        out: Folder for the files.

    Raises:
        CtbasisError: The disk is full or write-protected.
    """
    replace_files(
        {
            "figure1.png": figure1,
            "report.html": page.encode(),
            "report.md": text.encode(),
            METRICS: (json.dumps(metrics, indent=2) + "\n").encode(),
        },
        out,
    )
    return scalar_metrics(metrics)


def scalar_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the scalar numbers of metrics.json in one flat mapping, as Kubeflow's metrics need them."""
    flat = {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}
    for when in ("before", "after"):
        scores = metrics.get(when, {})
        flat.update({f"{when}_{name}": scores[name] for name in SCALAR_SCORES if scores.get(name) is not None})
    return flat


def read_qc(path: Path) -> dict[str, Any]:
    """Read the qc.json of the matrix step.

    Raises:
        CtbasisError: The file is missing, or is not JSON.
    """
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CtbasisError(
            f"{path} cannot be read as qc.json ({type(error).__name__})",
            expected="the file that the matrix step wrote",
            cause="the path is wrong, or the matrix step was interrupted",
            remedy="give the path of qc.json, or run the matrix step again",
        ) from error
    return content


def validate_geometry(matrix: MatrixStore, other: SliceArrays) -> None:
    """Check that another store has the same slices as `matrix`.

    Raises:
        CtbasisError: Image size, spacing, number, order, position or orientation of the slices differ, or the patient
            or frame of reference.
    """

    def layout(series: Series) -> tuple[int, int, tuple[float, ...]]:
        return series.first, series.count, tuple(np.round([series.spacing, *series.pixel_spacing], 3).tolist())

    def description(store: SliceArrays) -> str:
        slices = ", ".join(f"{entry.count} slices {entry.spacing:g} mm apart" for entry in store.series)
        spacing = store.series[0].pixel_spacing
        return f"{store.image[0]} x {store.image[1]} voxels of {spacing[0]:g} x {spacing[1]:g} mm, {slices}"

    if matrix.image == other.image and [*map(layout, matrix.series)] == [*map(layout, other.series)]:
        columns = match_slices(matrix, other, f"store {other.uri}")
        if columns is None or (np.diff(columns) > 0).all():
            return
        raise CtbasisError(
            f"the slices of {other.uri} are those of {matrix.uri} in another order",
            expected="series with ascending SeriesNumber in the same order",
            cause="SeriesNumber or SeriesInstanceUID of the two sources order their series differently",
            remedy="run each series by itself, with its own truth",
        )
    raise CtbasisError(
        f"{other.uri} has {description(other)}",
        expected=f"the same as {matrix.uri}: {description(matrix)}",
        cause="it was made from another series, or from another selection of slices",
        remedy="give the truth, and the basis, of this series",
    )


def replace_files(files: Mapping[str, bytes], out: Path) -> None:
    """Write files to the folder `out`, replacing files of the same names.

    metrics.json is removed first and written last. If it exists, the other files are complete.

    Args:
        files: Contents by name, metrics.json among them.
        out: The folder; other files in it stay.

    Raises:
        CtbasisError: The disk is full or write-protected.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / METRICS).unlink(missing_ok=True)
        for name in sorted(files, key=METRICS.__eq__):
            with replaced_file(out / name) as temporary:
                temporary.write_bytes(files[name])
    except OSError as error:
        raise CtbasisError(
            f"the report cannot be written to {out} ({error})",
            expected="a folder with free space that this user may write to",
            cause="the disk is full, or write-protected",
            remedy="free some space, or choose another folder",
        ) from error
