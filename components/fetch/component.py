"""KFP shell of the fetch step."""

from typing import NamedTuple

from kfp import dsl

from ctbasis.kubeflow.images import STEPS


@dsl.component(base_image=STEPS, install_kfp_package=False)
def fetch(source: str, truth: str, deidentify: bool, workspace: str) -> NamedTuple(
    "Fetched", [("folder", str), ("truth_folder", str)]
):
    """Bring the source's objects to the workspace.

    Args:
        source: s3://bucket/prefix or a folder.
        truth: The same for a clean copy of the series, empty if there is none.
        deidentify: Whether the names of files and objects are to be forgotten.
        workspace: Root of the run's workspace.

    Returns:
        folder: Where the source's files are.
        truth_folder: Where the clean copy's are, empty if there is none.
    """
    from pathlib import Path

    from ctbasis.errors import exit_on_error
    from ctbasis.sources.fetch import fetch

    folder, truth_folder = Path(workspace) / "source", Path(workspace) / "truth"
    with exit_on_error():
        fetch(source, folder, opaque=deidentify)
        if truth:
            fetch(truth, truth_folder, opaque=deidentify)
    return str(folder), str(truth_folder) if truth else ""
