"""Fixtures for all tests: small DICOM series that are generated, and real CT archives if they are available."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pytest
from hypothesis import settings
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

pytest_plugins = [
    "tests.services",
    "tests.repositories",
    "tests.basis_stores",
    "tests.browser",
    "tests.certificates",
    "tests.scans",
]

# The same examples on every machine, without a deadline, so that a failure in CI can be reproduced.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")

REAL_DATA = Path(os.environ.get("CTBASIS_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


class WriteSeries(Protocol):
    """The signature of the `write_series` fixture."""

    def __call__(
        self,
        folder: Path,
        hu: NDArray[Any],
        *,
        edit: Callable[[FileDataset, int], None] | None = None,
        **tags: Any,
    ) -> list[Path]: ...


def smooth_volume(slices: int = 6, rows: int = 32, columns: int = 24, seed: int = 0) -> NDArray[np.int16]:
    """Return a small noisy volume in HU, (slices, rows, columns): an ellipse in air whose position varies along z."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : rows * 1j, -1 : 1 : columns * 1j]
    volume = np.empty((slices, rows, columns))
    for z in range(slices):
        drift = 0.1 * np.sin(z / 2)
        inside = (x - drift) ** 2 + y**2 < 0.6
        lung = (np.abs(x) - 0.35) ** 2 + y**2 < 0.08
        volume[z] = np.where(inside, np.where(lung, -800, 40 + 5 * z), -1000) + rng.normal(0, 10, (rows, columns))
    return np.round(volume).astype(np.int16)


@pytest.fixture
def volume() -> NDArray[np.int16]:
    """Return a small volume in HU, (6, 32, 24)."""
    return smooth_volume()


@pytest.fixture(scope="session")
def series(tmp_path_factory: pytest.TempPathFactory, write_series: WriteSeries) -> Path:
    """Return a folder with a small axial series, 6 slices of 32 x 24. Tests must not change it."""
    folder = tmp_path_factory.mktemp("series")
    write_series(folder, smooth_volume())
    return folder


@pytest.fixture(scope="session")
def write_series() -> WriteSeries:
    """Return a function that writes a valid axial CT series.

    `tags` sets attributes of all slices by keyword. `edit` is called with each data set and its index.
    """

    def write(
        folder: Path,
        hu: NDArray[Any],
        *,
        edit: Callable[[FileDataset, int], None] | None = None,
        **tags: Any,
    ) -> list[Path]:
        folder.mkdir(parents=True, exist_ok=True)
        # All series are of one patient, in one study and one frame of reference.
        study, series, frame = "2.25.1001", generate_uid(), "2.25.1002"
        paths = []
        for z, image in enumerate(hu):
            meta = FileMetaDataset()
            meta.MediaStorageSOPClassUID = CTImageStorage
            meta.MediaStorageSOPInstanceUID = generate_uid()
            meta.TransferSyntaxUID = ExplicitVRLittleEndian
            path = folder / f"slice-{z:04d}.dcm"
            ds = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
            ds.SOPClassUID = CTImageStorage
            ds.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
            ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.FrameOfReferenceUID = study, series, frame
            ds.Modality = "CT"
            ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
            ds.PatientName, ds.PatientID = "Made^Up", "TEST-1"
            ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20200101"
            ds.StudyTime = ds.ContentTime = "120000"
            ds.SeriesNumber, ds.InstanceNumber = 1, z + 1
            ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            ds.ImagePositionPatient = [-10.0, -10.0, -100.0 + 2.5 * z]
            ds.PixelSpacing, ds.SliceThickness = [0.7, 0.7], 2.5
            ds.Rows, ds.Columns = image.shape
            ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
            ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
            ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, -1024, "HU"
            for keyword, value in tags.items():
                setattr(ds, keyword, value)
            stored = np.round((image.astype(float) - float(ds.RescaleIntercept)) / float(ds.RescaleSlope))
            ds.PixelData = stored.astype("<i2" if ds.PixelRepresentation else "<u2").tobytes()
            if edit is not None:
                edit(ds, z)
            ds.save_as(path, enforce_file_format=True)
            paths.append(path)
        return paths

    return write


@pytest.fixture(scope="session")
def real_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that unpacks a real CT archive by name, or skips the test if the archive is absent."""
    unpacked: dict[str, Path] = {}

    def unpack(name: str) -> Path:
        archive = REAL_DATA / f"{name}.tar.xz"
        if not archive.exists():
            pytest.skip(f"real CT archive {archive.name} is absent; set CTBASIS_TEST_DATA to the folder that holds it")
        if name not in unpacked:
            unpacked[name] = tmp_path_factory.mktemp(name)
            with tarfile.open(archive) as tar:
                tar.extractall(unpacked[name], filter="data")
        return unpacked[name]

    return unpack
