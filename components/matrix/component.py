"""KFP shell of the matrix step."""

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
        folder: DICOM files of the source.
        truth_folder: DICOM files of the clean copy, empty if there is none.
        deidentify: Whether headers are to be de-identified before they are stored.
        retain: Options of the profile, comma-separated.
        workspace: Root of the run's workspace.
        store: s3://bucket/prefix for matrix and factors, empty for the workspace.
        run: The run's id, its folder below the store.
        qc: qc.json: what was read, set aside and tolerated, slice by slice.

    Returns:
        matrix: URI of the store.
        truth_matrix: URI of the clean copy's store, empty if there is none.
    """
    from pathlib import Path

    from ctbasis.dicom.deidentify.deidentification import Deidentification
    from ctbasis.errors import exit_on_error
    from ctbasis.matrix.ingest import ingest
    from ctbasis.storage.stores import run_folder

    place = run_folder(workspace, store, run)
    uri, truth_uri = f"{place}/matrix.zarr", f"{place}/truth.zarr"
    with exit_on_error():
        # One for both series: their UIDs shall go on naming the same things.
        identity = Deidentification.of(retain) if deidentify else None
        print(f"matrix: {identity or 'not de-identified: outputs name the patient as the source does'}")
        ingest(Path(folder), uri, Path(qc.path), deidentification=identity)
        if truth_folder:
            ingest(Path(truth_folder), truth_uri, Path(f"{qc.path}.truth"), deidentification=identity)
            Path(f"{qc.path}.truth").unlink()
    return uri, truth_uri if truth_folder else ""
