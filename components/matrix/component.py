"""KFP component of the matrix step; the program is ctbasis/steps/matrix.py."""

from typing import NamedTuple

from kfp import dsl

from ctbasis.kubeflow.images import STEPS


@dsl.component(base_image=STEPS, install_kfp_package=False)
def matrix(
    folder: str,
    truth_folder: str,
    deidentify: bool,
    retain: str,
    workspace: str,
    store: str,
    run: str,
    qc: dsl.Output[dsl.Artifact],
) -> NamedTuple("Matrices", [("matrix", str), ("truth_matrix", str)]):
    """Read the DICOM series into the matrix A, voxels x slices in HU, as a chunked store.

    Args:
        folder: Folder with the DICOM files of the source.
        truth_folder: Folder with the DICOM files of the clean copy, empty if there is none.
        deidentify: Whether headers are de-identified before they are stored.
        retain: Options of the de-identification profile, comma-separated.
        workspace: Root of the run's workspace.
        store: s3://bucket/prefix for matrix and factors, empty for the workspace.
        run: Id of the run, the name of its folder below the store.
        qc: qc.json, a list of what was read, set aside and tolerated, slice by slice.

    Returns:
        matrix: URI of the matrix store.
        truth_matrix: URI of the clean copy's matrix store, empty if there is none.
    """
    from pathlib import Path

    from ctbasis.parameters import DeidentificationPlan
    from ctbasis.steps.job import run_program
    from ctbasis.steps.matrix import StepResult, run_step

    done = run_program(
        "matrix",
        workspace,
        lambda: run_step(
            Path(folder),
            Path(truth_folder) if truth_folder else None,
            DeidentificationPlan(deidentify, retain),
            Path(qc.path),
            workspace=workspace,
            store=store,
            run=run,
        ),
        otherwise=StepResult("", ""),
        artifacts=[qc.path],
    )
    return done.matrix, done.truth_matrix
