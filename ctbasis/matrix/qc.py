"""What the matrix step read, set aside and tolerated, as qc.json: files, UIDs and numbers, nothing of a patient."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctbasis.dicom.instance import Slice
    from ctbasis.dicom.series import CTSeries
    from ctbasis.dicom.unfit import SetAside
    from ctbasis.matrix.columns import Filled


def describe(
    *, files: int, dtype: str, series: Sequence[CTSeries], filled: Sequence[Filled], aside: Sequence[SetAside]
) -> dict[str, Any]:
    """Return the content of qc.json.

    Args:
        files: Number of files in the folder.
        dtype: Of A.
        series: Those in the matrix, in the order of its columns.
        filled: What became of each slice, in the order of columns.
        aside: Files that take no column.
    """
    slices: list[dict[str, Any]] = []
    described: list[dict[str, Any]] = []
    for entry in series:
        described.append(_describe_series(entry, len(slices)))
        for piece, position in zip(entry.slices, entry.positions, strict=True):
            slices.append(_describe_slice(piece, position, filled[len(slices)], len(slices)))
    return {
        "files": files,
        "columns": len(slices),
        "image": list(series[0].image),
        "dtype": dtype,
        "series": described,
        "slices": slices,
        "set_aside": [asdict(entry) for entry in aside],
    }


def _describe_series(series: CTSeries, first: int) -> dict[str, Any]:
    return {
        "SeriesInstanceUID": series.SeriesInstanceUID,
        "first": first,
        "count": len(series.slices),
        "part": series.part,
        "ImageOrientationPatient": series.slices[0].ImageOrientationPatient,
        "PixelSpacing": series.slices[0].PixelSpacing,
        "spacing": series.spacing,
        "gaps": [asdict(gap) for gap in series.gaps],
        "tilt": series.tilt,
        "tolerated": series.oddities,
    }


def _describe_slice(entry: Slice, position: float, filled: Filled, column: int) -> dict[str, Any]:
    return {
        "column": column,
        "file": entry.file,
        "frame": entry.frame,
        "SOPInstanceUID": entry.SOPInstanceUID,
        "SeriesInstanceUID": entry.SeriesInstanceUID,
        "position": position,
        "RescaleSlope": entry.pixels.RescaleSlope,
        "RescaleIntercept": entry.pixels.RescaleIntercept,
        "padded": filled.padded,
        "clipped": filled.clipped,
        "tolerated": [*entry.oddities, *filled.oddities],
    }
