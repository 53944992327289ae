"""Remove a run's intermediate files from the workspace; what it produced is in its artifacts by then."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

INTERMEDIATE = ("source", "truth", "matrix.zarr", "truth.zarr", "factors.zarr")


def cleanup(workspace: Path) -> None:
    """Remove what the steps left in `workspace`; what is not there is passed over."""
    for name in INTERMEDIATE:
        path = workspace / name
        if path.exists():
            shutil.rmtree(path)
            sys.stderr.write(f"cleanup: removed {name}\n")
