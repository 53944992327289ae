"""The content of qc.json: what the matrix step read, set aside and tolerated; file names, UIDs and numbers only."""

from __future__ import annotations

from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctbasis.dicom.instance import Slice
    from ctbasis.dicom.series import CTSeries
    from ctbasis.dicom.set_aside import SetAside
    from ctbasis.matrix.columns import SliceResult


def qc_report(
    *, files: int, dtype: str, series: Sequence[CTSeries], results: Sequence[SliceResult], aside: Sequence[SetAside]
) -> dict[str, Any]:
    """Return the content of qc.json.

    Args:
        files: Number of files in the folder.
        dtype: dtype of A.
        series: The series of the matrix in the order of their columns.
        results: The result of decoding each slice, in the order of the columns.
        aside: The files and frames that were set aside.

    Returns:
        A dictionary of JSON values, without patient data.
    """
    slices: list[dict[str, Any]] = []
    series_entries: list[dict[str, Any]] = []
    for entry in series:
        series_entries.append(_describe_series(entry, len(slices)))
        for part, position in zip(entry.slices, entry.positions, strict=True):
            slices.append(_describe_slice(part, position, results[len(slices)], len(slices)))
    return {
        "files": files,
        "columns": len(slices),
        "image": list(series[0].image),
        "dtype": dtype,
        "series": series_entries,
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
        "runs": [stop - start for start, stop in pairwise((0, *series.breaks, len(series.slices)))],
        "tilt": series.tilt,
        "tolerated": series.tolerated,
    }


def _describe_slice(entry: Slice, position: float, result: SliceResult, column: int) -> dict[str, Any]:
    return {
        "column": column,
        "file": entry.file,
        "frame": entry.frame,
        "SOPInstanceUID": entry.SOPInstanceUID,
        "SeriesInstanceUID": entry.SeriesInstanceUID,
        "position": position,
        "RescaleSlope": entry.pixels.RescaleSlope,
        "RescaleIntercept": entry.pixels.RescaleIntercept,
        "padded": result.padded,
        "outside": result.outside,
        "tolerated": [*entry.tolerated, *result.tolerated],
    }
