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
    from ctbasis.dicom.series import CTSeries

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
        image = int(qc["image"][0]), int(qc["image"][1])
        before = _named_places(source, slices) or _places_at(source, positions, image, series)
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


def open_series(before: Path, after: Path, sigma: Path | None, *, number: int = 1) -> Result:
    """Find the slices of a denoised series in patch mode, of its source and of its noise, by their positions.

    Args:
        before: Folder of the source.
        after: Folder of the denoised series, and nothing else: slice-0001.dcm and so on, in the order of the slices.
        sigma: Folder of the maps of its noise, named in the same way; None if there are none.
        number: Number of the series, where the source holds several, from 1.

    Raises:
        CtbasisError: A folder does not hold such a series, or the series do not belong together.
    """
    derived = _volumes(after)
    if len(derived) != 1:
        raise CtbasisError(
            f"the denoised series is {len(derived)} volumes",
            expected="the slices of one volume",
            cause="its files are damaged, or were written by another program",
            remedy="denoise the series again",
        )
    (volume,) = derived
    row, column = volume.slices[0].PixelSpacing
    places = tuple(entry.place for entry in volume.slices)
    panes = [
        Pane("before", before, _places_at(before, volume.positions, volume.image, number)),
        Pane("after", after, places),
    ]
    if sigma is not None:
        panes.append(Pane("sigma", sigma, places))
    orientation = volume.slices[0].ImageOrientationPatient
    return Result(tuple(panes), (volume.spacing or 1.0, row, column), orientation, volume.positions, "patch")


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


def _named_places(source: Path, slices: list[dict[str, Any]]) -> Places:
    """Return the places of the slices in the source by the names in qc.json; nothing if a file is not there.

    The names are not those of the files where the source was an archive or a bucket, or the run was de-identified.
    """
    places = tuple((str(entry["file"]), int(entry["frame"])) for entry in slices)
    inside = source.resolve()
    there = all((inside / file).resolve().is_relative_to(inside) and (inside / file).is_file() for file, _ in places)
    return places if there else ()


def _places_at(source: Path, positions: tuple[float, ...], image: tuple[int, int], number: int) -> Places:
    """Return the places of the slices in the source by their positions.

    Where several series or phases have the same positions, the one with this number is meant, from 1.
    """
    volumes = [volume for volume in _volumes(source) if volume.image == image]
    for volume in (*volumes[number - 1 : number], *volumes):
        if len(volume.positions) == len(positions) and np.allclose(
            volume.positions, positions, rtol=0, atol=POSITION_TOLERANCE
        ):
            return tuple(entry.place for entry in volume.slices)
    raise CtbasisError(
        f"{source} does not hold the series that was denoised",
        expected=f"{len(positions)} slices of {image[0]} x {image[1]} at the positions of the denoised ones",
        cause="--source names another series, or a part of it",
        remedy="name the folder that was the source of the run",
    )


def _volumes(folder: Path) -> list[CTSeries]:
    """Return the volumes in a folder; images of all sizes."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    found = [entry[0] for file in files for entry in read_slices(folder, file) if isinstance(entry, tuple)]
    sizes = dict.fromkeys((entry.Rows, entry.Columns) for entry in found)
    return [
        volume
        for rows, columns in sizes
        for volume in arrange(entry for entry in found if (entry.Rows, entry.Columns) == (rows, columns))
    ]


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
