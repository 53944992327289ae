"""The cleanup step: remove a run's intermediate files and stores. Its results are in its artifacts by then."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.printable import say
from ctbasis.storage import stores

if TYPE_CHECKING:
    from pathlib import Path

INTERMEDIATE = ("source", "truth", "matrix.zarr", "truth.zarr", "factors.zarr", "denoised.zarr", "denoised.zarr.rows")


def run_step(workspace: Path, store: str = "", run: str = "", *, succeeded: bool = True) -> None:
    """Remove the intermediate files in `workspace` and the run's stores below `store`, those that exist.

    Args:
        workspace: Root of the run's workspace.
        store: `s3://bucket/prefix` of the run's stores; empty if they are in the workspace.
        run: Id of the run.
        succeeded: Whether the run succeeded. After a failed run the user should read that failure, so stores that
            cannot be removed are only logged.

    Raises:
        CtbasisError: The run succeeded, and S3 denies access or cannot be reached.
    """
    for name in INTERMEDIATE:
        path = workspace / name
        if path.exists():
            shutil.rmtree(path)
            say(f"cleanup: removed {name}")
    if not store or not run:
        return
    folder = stores.run_folder(str(workspace), store, run)
    try:
        removed, kept = stores.delete_run(folder)
        if removed:
            say(f"cleanup: removed the run's stores below {store}")
        if kept:
            say(f"cleanup: kept {len(kept)} objects below {folder} that are no part of a store")
    except CtbasisError as error:
        if succeeded:
            raise
        say(f"cleanup: {folder} is not removed: {error.found}")
