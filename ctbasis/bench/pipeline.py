"""The whole compiled pipeline from a real S3 server: each step's time, the share of overhead, and the memory of all."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ctbasis.bench.meter import Meter
from ctbasis.demo.demo import environment
from ctbasis.demo.s3server import S3Server
from ctbasis.kubeflow.local import run

SOURCE = "s3://bench/series"


def bench_pipeline(series: Path, *, engine: str = "mahout", rank: int = 50) -> list[dict[str, Any]]:
    """Run the pipeline on `series`, served by SeaweedFS on loopback; the server is not part of what is measured.

    Returns:
        A row a step with its seconds and share, a row `overhead` for what no step accounts for, and a row `total` that
        also has cpu_seconds and peak_mib of all processes together.
    """
    with tempfile.TemporaryDirectory() as scratch, S3Server(Path(scratch) / "s3") as server:
        server.put_folder(series, SOURCE)
        with environment(server.environment()):
            before = {"bench": "pipeline", "engine": engine, "rank": rank}
            with Meter() as meter:
                done = run({"source": SOURCE, "engine": engine, "rank": str(rank)}, out=Path(scratch) / "out")
    parts = {**done.steps, "overhead": done.overhead}
    rows = [
        {**before, "step": step, "seconds": seconds, "share": seconds / done.seconds} for step, seconds in parts.items()
    ]
    total = {"step": "total", "seconds": done.seconds, "share": 1.0}
    return [*rows, {**before, **total, "cpu_seconds": meter.cpu_seconds, "peak_mib": meter.peak_mib}]
