"""KFP component of the fetch step; the program is ctbasis/steps/fetch.py."""

from typing import NamedTuple

from kfp import dsl

from ctbasis.kubeflow.images import STEPS


@dsl.component(base_image=STEPS, install_kfp_package=False)
def fetch(source: str, truth: str, deidentify: bool, workspace: str) -> NamedTuple(
    "Fetched", [("folder", str), ("truth_folder", str)]
):
    """Copy the files of the source into the run's workspace.

    Args:
        source: A folder, s3://bucket/prefix or another source of docs/reference/sources.md.
        truth: The same for a clean copy of the series, empty if there is none.
        deidentify: Whether file names, which may contain a patient's name, are replaced by numbers.
        workspace: Root of the run's workspace.

    Returns:
        folder: Folder with the source's files.
        truth_folder: Folder with the clean copy's files, empty if there is none.
    """
    from pathlib import Path

    from ctbasis.parameters import SourcePlan
    from ctbasis.steps.fetch import StepResult, run_step
    from ctbasis.steps.job import run_program

    fetched = run_program(
        "fetch",
        workspace,
        lambda: run_step(SourcePlan(source, truth), Path(workspace), deidentify=deidentify),
        otherwise=StepResult("", ""),
    )
    return fetched.folder, fetched.truth_folder
