"""Choose what is measured and on which series, and print the rows."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from instruments.bench.ingest import bench_ingest
from instruments.bench.pipeline import bench_pipeline
from instruments.bench.svd import bench_svd
from instruments.phantom import write_chest

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from instruments.bench.cases import Case

BENCHES = ("pipeline", "ingest", "svd")

PHANTOM = {"slices": 133, "rows": 512, "columns": 512}
"""The size of a clinical chest series with 2.5 mm slices."""


def bench(what: Sequence[str], series: Path | None, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Run the benches named in `what`, all where it is empty.

    Args:
        what: Of `BENCHES`.
        series: What they run on; without it a phantom, and for svd the matrices of `cases`.
        cases: Of svd.
    """
    names = list(what or BENCHES)
    rows: list[dict[str, Any]] = []
    if set(names) & {"pipeline", "ingest"}:
        with _series(series) as folder:
            rows += bench_pipeline(folder) if "pipeline" in names else []
            rows += bench_ingest(folder) if "ingest" in names else []
    if "svd" in names:
        rows += bench_svd(series, cases)
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
    """Return the rows as text, a table a bench, columns as its first row has them."""
    lines: list[str] = []
    for name in dict.fromkeys(row["bench"] for row in rows):
        own = [row for row in rows if row["bench"] == name]
        keys = [key for key in dict.fromkeys(key for row in own for key in row) if key != "bench"]
        cells = [keys, *([_cell(row.get(key)) for key in keys] for row in own)]
        widths = [max(len(line[column]) for line in cells) for column in range(len(keys))]
        lines.append(f"\n{name}")
        lines += ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
    return "\n".join(lines).lstrip("\n")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
