"""The files of a run: those of the denoised series and of the noise, slice by slice beside those of the source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.dicom.instance import read_slices
from ctbasis.dicom.series import arrange
from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.dicom.instance import Slice

POSITION_TOLERANCE = 0.01
"""Largest distance in mm between a slice of the source and the slice that was derived from it."""

Places = tuple[tuple[str, int], ...]
"""File, relative to its folder, and frame of each slice, in the order of the slices."""


@dataclass(frozen=True)
class Pane:
    """One of the series that are shown.

    Attributes:
        name: `before`, `after` or `sigma`.
        folder: Folder of its files.
        places: Its slices.
    """

    name: str
    folder: Path
    places: Places


@dataclass(frozen=True)
class Result:
    """A denoised series beside its source.

    Attributes:
        panes: The series before, after, and in patch mode the noise.
        spacing: Distance in mm between slices, rows and columns.
        orientation: ImageOrientationPatient.
        positions: Position of each slice along the normal, mm.
        mode: global or patch.
    """

    panes: tuple[Pane, ...]
    spacing: tuple[float, float, float]
    orientation: tuple[float, ...]
    positions: tuple[float, ...]
    mode: str


def open_result(folder: Path, source: Path, *, series: int = 1) -> Result:
    """Find the files of a run and of its source. No pixel is read.

    Args:
        folder: Output folder of `ctbasis run`, `denoise` or `demo`.
        source: Folder of the series that was denoised.
        series: Number of the series, where the run had several, from 1.

    Raises:
        CtbasisError: The folder is no result of a run, there is no such series, or the source is another one.
    """
    qc, metrics = _read_json(folder / "qc.json"), _read_json(folder / "metrics.json")
    try:
        described = qc["series"]
        if series > len(described):
            raise CtbasisError(
                f"there is no series {series} in {folder}", expected=f"a number from 1 to {len(described)}"
            )
        chosen = described[series - 1]
        count = int(chosen["count"])
        slices = qc["slices"][int(chosen["first"]) :][:count]
        positions = tuple(float(entry["position"]) for entry in slices)
        row, column = (float(mm) for mm in chosen["PixelSpacing"])
        # A single slice has no distance to another one.
        spacing = (float(chosen["spacing"]) or 1.0, row, column)
        orientation = tuple(float(cosine) for cosine in chosen["ImageOrientationPatient"])
        below = f"series-{series:02d}/" if len(described) > 1 else ""
        before = _source_places(source, slices, positions, (int(qc["image"][0]), int(qc["image"][1])))
        mode = str(metrics["mode"])
    except (KeyError, TypeError, ValueError) as error:
        raise _no_result(folder, f"qc.json or metrics.json lacks what describes a series ({error!r})") from error
    derived = tuple((f"{below}slice-{number:04d}.dcm", 0) for number in range(1, count + 1))
    panes = [Pane("before", source, before)]
    for name, place in (("after", folder / "denoised"), ("sigma", folder / "noise")):
        present = (place / derived[0][0]).is_file()
        if name == "after" and not present:
            raise _no_result(folder, f"denoised/{derived[0][0]} is missing")
        if present:
            panes.append(Pane(name, place, derived))
    return Result(tuple(panes), spacing, orientation, positions, mode)


def read_slice(folder: Path, place: tuple[str, int]) -> Slice:
    """Return the description of one slice.

    Raises:
        CtbasisError: There is no such slice, or its file cannot be read.
    """
    file, frame = place
    for result in read_slices(folder, file):
        if isinstance(result, tuple) and result[0].frame == frame:
            return result[0]
    raise CtbasisError(
        f"a file of {folder} holds no slice that can be shown",
        expected="the files of the series as they were when it was denoised",
        cause="files were removed, replaced or damaged since then",
        remedy="name the unchanged source, or denoise it again",
    )


def _source_places(
    source: Path, slices: list[dict[str, Any]], positions: tuple[float, ...], image: tuple[int, int]
) -> Places:
    """Return the places of the slices in the source: by the names in qc.json, else by their positions."""
    places = tuple((str(entry["file"]), int(entry["frame"])) for entry in slices)
    inside = source.resolve()
    if all((inside / file).resolve().is_relative_to(inside) and (inside / file).is_file() for file, _ in places):
        return places
    # The source was an archive or a bucket, or the run was de-identified: its names are not those of the files.
    files = sorted(path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file())
    found = [entry[0] for file in files for entry in read_slices(source, file) if isinstance(entry, tuple)]
    for volume in arrange(entry for entry in found if (entry.Rows, entry.Columns) == image):
        if len(volume.positions) == len(positions) and np.allclose(
            volume.positions, positions, rtol=0, atol=POSITION_TOLERANCE
        ):
            return tuple(entry.place for entry in volume.slices)
    raise CtbasisError(
        f"{source} does not hold the series that was denoised",
        expected=f"{len(positions)} slices of {image[0]} x {image[1]} at the positions that qc.json states",
        cause="--source names another series, or a part of it",
        remedy="name the folder that was the source of the run",
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise _no_result(path.parent, f"{path.name} cannot be read ({type(error).__name__})") from error
    if not isinstance(content, dict):
        raise _no_result(path.parent, f"{path.name} is no JSON object")
    return content


def _no_result(folder: Path, reason: str) -> CtbasisError:
    return CtbasisError(
        f"{folder} is no result of a run: {reason}",
        expected="the folder that `ctbasis run --out` wrote, with denoised/, qc.json and metrics.json",
        cause="the path is wrong, or the folder was changed",
        remedy="name the output folder of a run",
    )
