"""The matrix step: read the DICOM series into the matrix A, voxels x slices in HU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctbasis.dicom.deidentify.deidentification import Deidentification
from ctbasis.jobs.pod import pod_name
from ctbasis.matrix.ingest import ingest
from ctbasis.printable import say
from ctbasis.storage.run_folders import mark
from ctbasis.storage.stores import run_folder

if TYPE_CHECKING:
    from ctbasis.parameters import DeidentificationPlan


@dataclass(frozen=True)
class StepResult:
    """What the svd and report steps need.

    Attributes:
        matrix: URI of the matrix store.
        truth_matrix: URI of the clean copy's store; empty if there is none.
    """

    matrix: str
    truth_matrix: str


def run_step(
    folder: Path,
    truth_folder: Path | None,
    plan: DeidentificationPlan,
    qc: Path,
    *,
    workspace: str,
    store: str,
    run: str,
) -> StepResult:
    """Read the series in `folder`, and the clean copy if there is one, into a matrix store each.

    Args:
        folder: DICOM files of the source.
        truth_folder: DICOM files of the clean copy; None if there is none.
        plan: Whether and how headers are de-identified before they are stored.
        qc: File for qc.json: what was read, set aside and tolerated, slice by slice.
        workspace: Root of the run's workspace.
        store: `s3://bucket/prefix` of the run's stores; empty for the workspace.
        run: Id of the run.

    Raises:
        CtbasisError: There is no CT image, the series are no volume, no slice can be decoded, or a store cannot be
            written.
    """
    place = run_folder(workspace, store, run)
    if store:
        mark(place, run, on_kubeflow=bool(pod_name()))
    matrix, truth_matrix = f"{place}/matrix.zarr", f"{place}/truth.zarr"
    # One object for both series, so that a UID that both contain is replaced by the same one.
    identity = Deidentification.of(plan.retain) if plan.deidentify else None
    say(f"matrix: {identity or 'not de-identified: outputs name the patient as the source does'}")
    ingest(folder, matrix, qc, deidentification=identity)
    if truth_folder is None:
        return StepResult(matrix, "")
    truth_qc = Path(f"{qc}.truth")
    ingest(truth_folder, truth_matrix, truth_qc, deidentification=identity)
    truth_qc.unlink()
    return StepResult(matrix, truth_matrix)
