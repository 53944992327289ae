"""A small result of a run in patch mode, in files that the steps' own writers write."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from ctbasis.dicom.derived_series import NOISE_MAPS, Derivation, read_header
from ctbasis.dicom.noise_series import noise_instance, noise_slope
from ctbasis.dicom.series_writer import slice_paths, write_series
from ctbasis.matrix.ingest import ingest
from ctbasis.matrix.store import MatrixStore
from ctbasis.matrix.volumes import read_volumes
from tests.conftest import smooth_volume
from tests.viewer.files import write_files

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SHAPE = (12, 48, 40)


@dataclass(frozen=True)
class Run:
    """A run: its source, its output folder, and the HU before and after denoising and of the noise."""

    source: Path
    out: Path
    before: NDArray[Any]
    after: NDArray[Any]
    sigma: NDArray[Any]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run that tests must not change. A smoothed series stands for the denoised one: it is only shown."""
    folder = tmp_path_factory.mktemp("run")
    source, out, before = folder / "source", folder / "out", smooth_volume(*SHAPE)
    # Marks by which a slice, a row and a column are found on the screen.
    before[:, 10:14, 20:24] = (np.arange(SHAPE[0]) * 100 - 1000)[:, np.newaxis, np.newaxis]
    write_files(source, before)
    out.mkdir()
    ingest(source, str(folder / "matrix.zarr"), out / "qc.json", workers=1)
    qc = json.loads((out / "qc.json").read_text())
    (volume,) = read_volumes(MatrixStore.open(str(folder / "matrix.zarr")), qc)
    after = np.round(uniform_filter(before.astype(float), (0, 3, 3))).astype(np.int16)
    write_series(volume.with_hu(after), out / "denoised")
    after = np.where(volume.set_aside, before, after)
    sigma = np.round(np.random.default_rng(1).uniform(5, 15, SHAPE), 2).astype(np.float32)
    derivation = Derivation(rank=0, version="0", description="sigma", fingerprint="sigma", kind=NOISE_MAPS)
    for index, path in enumerate(slice_paths(out / "noise", SHAPE[0])):
        header = read_header(volume.headers[index])
        noise_instance(header, sigma[index], derivation, noise_slope(sigma)).save_as(path)
    (out / "metrics.json").write_text(json.dumps({"mode": "patch"}))
    return Run(source, out, before, after, sigma)
