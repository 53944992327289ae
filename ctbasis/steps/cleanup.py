"""Remove a run's intermediate files and stores; what it produced is in its artifacts by then."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.storage import stores

if TYPE_CHECKING:
    from pathlib import Path

INTERMEDIATE = ("source", "truth", "matrix.zarr", "truth.zarr", "factors.zarr", "denoised.zarr", "denoised.zarr.rows")


def cleanup(workspace: Path, store: str = "", run: str = "", *, succeeded: bool = True) -> None:
    """Remove what the steps left in `workspace` and below `store`; what is not there is passed over.

    Args:
        workspace: Root of the run's workspace.
        store: `s3://bucket/prefix` where the run's stores went, empty where they are in the workspace.
        run: The run's id.
        succeeded: Whether the run did. Of one that failed, its own failure is what is to be read: that its stores
            cannot be removed as well is only said.

    Raises:
        CtbasisError: S3 refuses or stays away after a run that succeeded.
    """
    for name in INTERMEDIATE:
        path = workspace / name
        if path.exists():
            shutil.rmtree(path)
            sys.stderr.write(f"cleanup: removed {name}\n")
    if not store or not run:
        return
    folder = stores.run_folder(str(workspace), store, run)
    try:
        if stores.delete(folder):
            sys.stderr.write(f"cleanup: removed the run's stores below {store}\n")
    except CtbasisError as error:
        if succeeded:
            raise
        sys.stderr.write(f"cleanup: {folder} is not removed: {error.found}\n")
