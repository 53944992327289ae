"""What the artifact of a basis says: enough to serve it, and nothing of the patient."""

from __future__ import annotations

from dataclasses import replace
from io import BytesIO
from typing import TYPE_CHECKING

import ctbasis
from ctbasis.dicom.derived_series import read_header
from ctbasis.jobs.placement import Placement
from ctbasis.matrix.volumes import write_volume
from ctbasis.node.bases import StoredBases
from ctbasis.parameters import SvdPlan
from ctbasis.patch.bases import PatchBases
from ctbasis.steps.svd import run_step

if TYPE_CHECKING:
    from pathlib import Path


PATIENT = "Doe^Jane"


def with_kernel(volume: ctbasis.Volume, kernel: str) -> ctbasis.Volume:
    """Return a volume whose headers name a kernel and a patient."""
    headers = []
    for header in volume.headers:
        ds, stream = read_header(header), BytesIO()
        ds.ConvolutionKernel, ds.PatientName = kernel, PATIENT
        ds.save_as(stream, enforce_file_format=True)
        headers.append(stream.getvalue())
    return replace(volume, headers=tuple(headers))


def test_the_artifact_says_what_serving_needs(scan: tuple[Path, Path], tmp_path: Path) -> None:
    volume = with_kernel(ctbasis.read(scan[0]), "B30f")
    matrix = write_volume(volume, str(tmp_path / "matrix.zarr"))
    done = run_step(
        matrix.uri,
        SvdPlan.of(mode="patch", engine="numpy", basis=str(scan[1])),
        tmp_path / "basis",
        workspace=str(tmp_path),
        store="",
        run="run-1",
        placement=Placement(),
    )
    (basis,) = PatchBases.open(str(tmp_path / "basis")).bases
    said = done.metadata
    assert all(isinstance(value, str) for value in said.values())
    assert (said["kind"], said["version"], said["sha256"]) == ("patch", ctbasis.__version__, basis.sha256)
    assert said["spacing"].split(" x ") == [f"{mm:.3g}" for mm in basis.spacing]
    assert said["noise_model"]
    assert said["kernel"] == "B30f"
    assert PATIENT not in " ".join(said.values())
    # The identifier that a node writes to DerivationDescription is its start.
    (described,) = StoredBases.open(str(scan[1])).describe()
    assert said["sha256"].startswith(described["digest"])
