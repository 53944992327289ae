"""Benchmark of the whole compiled pipeline with a real S3 server: time of each step, overhead, and memory."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ctbasis.bench.meter import Meter
from ctbasis.demo.demo import environment
from ctbasis.demo.s3server import S3Server
from ctbasis.kubeflow.local import run

SOURCE = "s3://bench/series"
"""URI of the series on the S3 server."""


def bench_pipeline(series: Path, *, engine: str = "mahout", rank: int = 50) -> list[dict[str, Any]]:
    """Run the pipeline on `series`, served by SeaweedFS on loopback. The server itself is not measured.

    Args:
        series: Folder of a CT series.
        engine: Engine of the svd step.
        rank: Rank k of the denoised series.

    Returns:
        A row for each step with its seconds and share of the total, a row `overhead` for the time outside the steps,
        and a row `total` with cpu_seconds and peak_mib of all processes together.
    """
    with tempfile.TemporaryDirectory() as scratch, S3Server(Path(scratch) / "s3") as server:
        server.put_folder(series, SOURCE)
        with environment(server.environment()):
            settings = {"bench": "pipeline", "engine": engine, "rank": rank}
            with Meter() as meter:
                done = run(
                    {"source": SOURCE, "engine": engine, "mode": "global", "rank": str(rank)}, out=Path(scratch) / "out"
                )
    parts = {**done.steps, "overhead": done.overhead}
    rows = [
        {**settings, "step": step, "seconds": seconds, "share": seconds / done.seconds}
        for step, seconds in parts.items()
    ]
    total = {"step": "total", "seconds": done.seconds, "share": 1.0}
    return [*rows, {**settings, **total, "cpu_seconds": meter.cpu_seconds, "peak_mib": meter.peak_mib}]
