"""KFP shell of the matrix step."""

from typing import NamedTuple

from kfp import dsl

from pipeline.images import STEPS


@dsl.component(base_image=STEPS, install_kfp_package=False)
def matrix(folder: str, truth_folder: str, workspace: str, qc: dsl.Output[dsl.Artifact]) -> NamedTuple(
    "Matrices", [("matrix", str), ("truth_matrix", str)]
):
    """Read the DICOM series into the matrix A, voxels x slices in HU, as a chunked store on the workspace.

    Args:
        folder: DICOM files of the source.
        truth_folder: DICOM files of the clean copy, empty if there is none.
        workspace: Root of the run's workspace.
        qc: qc.json: what was read, set aside and tolerated, slice by slice.

    Returns:
        matrix: URI of the store.
        truth_matrix: URI of the clean copy's store, empty if there is none.
    """
    from pathlib import Path

    from components.errors import refusing
    from components.matrix.ingest import ingest

    stores = Path(workspace) / "matrix.zarr", Path(workspace) / "truth.zarr"
    with refusing():
        ingest(Path(folder), str(stores[0]), Path(qc.path))
        if truth_folder:
            ingest(Path(truth_folder), str(stores[1]), Path(f"{qc.path}.truth"))
            Path(f"{qc.path}.truth").unlink()
    return str(stores[0]), str(stores[1]) if truth_folder else ""
