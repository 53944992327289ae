"""Run the chosen benchmarks on the chosen series, and format their rows as tables."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctbasis.bench.ingest import bench_ingest
from ctbasis.bench.pipeline import bench_pipeline
from ctbasis.bench.quality import bench_quality
from ctbasis.bench.svd import bench_svd
from ctbasis.errors import CtbasisError
from ctbasis.simulate.phantom import write_chest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ctbasis.bench.cases import Case
    from ctbasis.bench.quality import CaseResult
    from ctbasis.bench.quality_cases import QualitySettings

BENCHES = ("pipeline", "ingest", "svd")
"""Benchmarks that run by default; `quality` takes half an hour and runs only if it is named."""

COLUMNS = {
    "quality": (
        *("case", "method", "setting", "tuned_on", "rmse_body", "rmse_lung", "psnr", "ssim"),
        *("nodule_600", "nodule_150", "edge_ratio", "seconds", "seconds_per_slice"),
    )
}
"""Columns of the tables of benchmarks whose rows hold more than fits a line."""

PHANTOM = {"slices": 133, "rows": 512, "columns": 512}
"""Size of a clinical chest series with 2.5 mm slices."""


def bench(
    what: Sequence[str],
    series: Sequence[Path],
    cases: Sequence[Case] = (),
    settings: QualitySettings | None = None,
    *,
    results: list[CaseResult] | None = None,
) -> list[dict[str, Any]]:
    """Run benchmarks and return their rows.

    Args:
        what: Names of `BENCHES`, or `quality`; by default all of `BENCHES`.
        series: Folders of CT series. `quality` uses all of them, the others the first; by default a phantom, and for
            svd the matrices of `cases`.
        cases: Cases of svd.
        settings: Settings of quality.
        results: List to which the results of quality are appended.

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
    if set(names) & {"pipeline", "ingest"}:
        with _series(first) as folder:
            rows += bench_pipeline(folder) if "pipeline" in names else []
            rows += bench_ingest(folder) if "ingest" in names else []
    if "svd" in names:
        rows += bench_svd(first, cases)
    if "quality" in names:
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
