"""Run the chosen benchmarks on the chosen series, and format their rows as tables."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctbasis.bench.checks import bench_checks
from ctbasis.bench.ingest import bench_ingest
from ctbasis.bench.pipeline import bench_pipeline
from ctbasis.bench.quality import bench_quality
from ctbasis.bench.quality_cases import QualitySettings
from ctbasis.bench.quality_fields import bench_field
from ctbasis.bench.quality_pairs import bench_pair
from ctbasis.bench.svd import bench_svd
from ctbasis.bench.task import bench_task
from ctbasis.bench.traffic import TrafficCase, bench_traffic
from ctbasis.bench.ttf import bench_ttf
from ctbasis.errors import CtbasisError
from ctbasis.simulate.phantom import write_chest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ctbasis.bench.cases import Case
    from ctbasis.bench.quality import CaseResult
    from ctbasis.bench.task_cases import TaskSettings
    from ctbasis.simulate.nodules import Spacing

BENCHES = ("pipeline", "ingest", "svd")
"""Benchmarks that run by default. `quality`, which takes half an hour, `task`, `ttf`, `checks`, `traffic` only if
named."""

COLUMNS = {
    "quality": (
        *("case", "method", "setting", "tuned_on", "rmse_body", "rmse_lung", "psnr", "ssim"),
        *("nodule_600", "nodule_150", "edge_ratio", "smoothed_removal", "rmse_body_corrected", "rmse_lung_corrected"),
        *("seconds", "seconds_per_slice"),
    ),
    "task": (
        *("task", "observer", "method", "setting", "dose", "d_prime", "d_prime_low", "d_prime_high", "auc"),
        *("equivalent_dose", "equivalent_low", "equivalent_high", "reached_dose", "images", "seconds_per_megavoxel"),
    ),
    "ttf": (
        *("background", "method", "setting", "dose", "contrast_hu", "count", "recovered"),
        *("f50", "f50_error", "f10", "f10_error"),
    ),
}
"""Columns of the tables of benchmarks whose rows hold more than fits a line."""

PHANTOM: dict[str, Any] = {"slices": 133, "rows": 512, "columns": 512}
"""Size of a clinical chest series with 2.5 mm slices."""


def bench(
    what: Sequence[str],
    series: Sequence[Path],
    cases: Sequence[Case] = (),
    settings: QualitySettings | None = None,
    *,
    traffic: TrafficCase | None = None,
    results: list[CaseResult] | None = None,
    pair: tuple[Path, Path] | None = None,
    field: tuple[Path, Path] | None = None,
    spacing: Spacing | None = None,
    tasks: TaskSettings | None = None,
    keep: Path | None = None,
) -> list[dict[str, Any]]:
    """Run benchmarks and return their rows.

    Args:
        what: Names of `BENCHES`, `quality`, `task`, `ttf`, `checks` or `traffic`; by default all of `BENCHES`.
        series: Folders of CT series. `quality` uses all of them, the others the first; by default a phantom, and for
            svd the matrices of `cases`.
        cases: Cases of svd.
        settings: Settings of quality.
        traffic: Case of traffic.
        results: List to which the results of quality are appended.
        pair: Low and full dose of the same slices, on which quality is measured instead of on simulated noise.
        field: A series and a field of real noise, on which quality is measured instead.
        spacing: mm between slices, rows and columns of the .npy files of `pair` and `field`.
        tasks: Settings of task and ttf, whose background is the first of `series`, by default a phantom.
        keep: Folder of the images of task, with which a run that was killed goes on.

    Raises:
        CtbasisError: A series is no folder, or a benchmark failed.
    """
    names = list(what or BENCHES)
    for folder in series:
        # An S3 server would be started for it otherwise.
        if not folder.is_dir():
            raise CtbasisError(
                f"{folder} is no folder", expected="the folder of one CT series", remedy="correct the path of --series"
            )
    first = series[0] if series else None
    rows: list[dict[str, Any]] = []
    if set(names) & {"pipeline", "ingest", "checks"}:
        with _series(first) as folder:
            rows += bench_pipeline(folder) if "pipeline" in names else []
            rows += bench_ingest(folder) if "ingest" in names else []
            rows += bench_checks(folder) if "checks" in names else []
    if "svd" in names:
        rows += bench_svd(first, cases)
    rows += bench_traffic(traffic or TrafficCase()) if "traffic" in names else []
    rows += bench_task(first, tasks, keep) if "task" in names else []
    rows += bench_ttf(first, tasks) if "ttf" in names else []
    methods = (settings or QualitySettings()).methods
    if "quality" in names and pair is not None:
        rows += bench_pair(*pair, methods, spacing)
    if "quality" in names and field is not None:
        rows += bench_field(*field, methods, spacing)
    if "quality" in names and pair is None and field is None:
        rows += bench_quality(series, settings, results=results)
    return rows


@contextmanager
def _series(series: Path | None) -> Iterator[Path]:
    if series is not None:
        yield series
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "phantom"
        write_chest(folder, **PHANTOM)
        yield folder


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as text, one table per benchmark, with the columns of its rows or of `COLUMNS`."""
    lines: list[str] = []
    for name in dict.fromkeys(row["bench"] for row in rows):
        own = [row for row in rows if row["bench"] == name]
        columns = COLUMNS.get(name, dict.fromkeys(key for row in own for key in row))
        keys = [key for key in columns if key != "bench"]
        cells = [keys, *([_cell(row.get(key)) for key in keys] for row in own)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(keys))]
        lines.append(f"\n{name}")
        lines += ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(lines).lstrip("\n")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
