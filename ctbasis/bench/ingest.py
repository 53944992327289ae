"""Benchmark of the matrix step against bare pydicom decoding of the same files in the same number of processes."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import pydicom
from pydicom.misc import is_dicom

from ctbasis.bench.meter import Meter
from ctbasis.matrix.ingest import ingest

ROUNDS = 5
"""Number of counted rounds; both are measured in turn in each."""


def bench_ingest(series: Path) -> list[dict[str, Any]]:
    """Measure both on the files of `series`. A first round warms up and is not counted.

    Returns:
        Rows for `pydicom` and `ctbasis`: files, workers, seconds (median), and the ratio to pydicom (median).
    """
    files = sorted(path for path in series.rglob("*") if path.is_file() and is_dicom(path))
    workers = os.cpu_count() or 1
    seconds: dict[str, list[float]] = {"pydicom": [], "ctbasis": []}
    for _ in range(ROUNDS + 1):
        with Meter() as bare:
            _decode_all(files, workers)
        with tempfile.TemporaryDirectory() as scratch, Meter() as ours:
            ingest(series, str(Path(scratch) / "matrix.zarr"), Path(scratch) / "qc.json", workers=workers)
        seconds["pydicom"].append(bare.seconds)
        seconds["ctbasis"].append(ours.seconds)
    counted = {name: values[1:] for name, values in seconds.items()}
    ratios = [ours / bare for ours, bare in zip(counted["ctbasis"], counted["pydicom"], strict=True)]
    rows = [
        {"bench": "ingest", "what": name, "files": len(files), "workers": workers, "seconds": statistics.median(values)}
        for name, values in counted.items()
    ]
    rows[0]["ratio"], rows[1]["ratio"] = 1.0, statistics.median(ratios)
    return rows


def _decode_all(files: list[Path], workers: int) -> None:
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        pool.map(_decode, files)


def _decode(path: Path) -> tuple[int, ...]:
    return tuple(pydicom.dcmread(path).pixel_array.shape)
