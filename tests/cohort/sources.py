"""Sources of many series: phantoms of several sizes with the noise of several kernels, some broken on purpose."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, RLELossless
from scipy.ndimage import gaussian_filter

from ctbasis.simulate.phantom import chest

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

SIZES = ((24, 128, 128), (20, 96, 128), (28, 112, 112), (24, 128, 96))
"""Slices, rows and columns."""

KERNELS = {"Br40d": 0.8, "Bl57d": 0.45, "STANDARD": 0.65}
"""Names of kernels, and the standard deviation in pixels of the filter that correlates their noise."""

SIGMA = 40.0
"""Noise in HU."""

ROOT_UID = "1.2.826.0.1.3680043.8.498.26"


def is_broken(number: int, every: int) -> bool:
    """Return whether the series of this number is broken on purpose."""
    return every > 0 and number % every == every - 1


SMALL = (8, 48, 48)
"""Size of a series that takes a second."""


def write_small(folder: Path, number: int, *, seed: int | None = None) -> str:
    """Write a series of `SMALL` size; return its SeriesInstanceUID."""
    return write_one(folder, number, seed=seed, size=SMALL)


def write_cohort(
    folder: Path, count: int, *, broken_every: int = 0, sizes: Sequence[tuple[int, int, int]] = SIZES
) -> list[str]:
    """Write `count` series, one folder each; return the SeriesInstanceUIDs of the broken ones."""
    broken: list[str] = []
    for number in range(count):
        size = sizes[number % len(sizes)]
        uid = write_one(folder / f"exam {number // 2:04d}" / f"{number % 2}", number, size=size)
        if is_broken(number, broken_every):
            break_pixels(folder / f"exam {number // 2:04d}" / f"{number % 2}")
            broken.append(uid)
    return broken


def write_one(folder: Path, number: int, *, seed: int | None = None, size: tuple[int, int, int] | None = None) -> str:
    """Write the series of a number; return its SeriesInstanceUID. Another seed gives other pixels."""
    size = size or SIZES[number % len(SIZES)]
    kernel = list(KERNELS)[number % len(KERNELS)]
    rng = np.random.default_rng(number if seed is None else seed)
    noise = gaussian_filter(rng.normal(size=size), (0, KERNELS[kernel], KERNELS[kernel])).astype(np.float32)
    hu = np.clip(_chest(size) + noise * (SIGMA / noise.std()), -1024, 3000)
    uid = f"{ROOT_UID}.{number // 2}.{number}"
    folder.mkdir(parents=True, exist_ok=True)
    for z, image in enumerate(hu):
        _instance(number, uid, kernel, z, image).save_as(folder / f"{z:04d}.dcm", enforce_file_format=True)
    return uid


@cache
def _chest(size: tuple[int, int, int]) -> NDArray[np.int16]:
    return chest(*size, spacing=2.5).hu


def _instance(number: int, series: str, kernel: str, z: int, image: NDArray[np.floating]) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.preamble = b"\0" * 128
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, UID(f"{series}.{z + 1}")
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.PatientID, ds.PatientName = f"P{number // 2:04d}", f"Made^Up{number // 2}"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT_UID}.{number // 2}", series
    ds.FrameOfReferenceUID = f"{ROOT_UID}.{number // 2}.9999"
    ds.Modality, ds.ImageType = "CT", ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20200101"
    ds.StudyTime = ds.ContentTime = "120000"
    ds.StudyID, ds.AccessionNumber, ds.PatientBirthDate, ds.PatientSex = "1", "", "", ""
    ds.Manufacturer, ds.ManufacturerModelName = "SIEMENS", "SOMATOM Force"
    ds.ConvolutionKernel, ds.SeriesDescription = kernel, f"Thorax {kernel}"
    ds.SeriesNumber, ds.InstanceNumber = number + 1, z + 1
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.ImagePositionPatient = [-150.0, -150.0, 2.5 * z]
    ds.PixelSpacing, ds.SliceThickness = [2.5, 2.5], 2.5
    ds.Rows, ds.Columns = image.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = 1, 0, "HU"
    ds.PixelData = np.round(image).astype("<i2").tobytes()
    return ds


def break_pixels(folder: Path) -> None:
    """Put noise in place of the compressed pixels of every slice, which headers do not tell."""
    rng = np.random.default_rng(0)
    for path in folder.iterdir():
        ds = dcmread(path)
        ds.file_meta.TransferSyntaxUID = RLELossless
        ds.PixelData = encapsulate([rng.bytes(1000)])
        ds["PixelData"].is_undefined_length = True
        ds.save_as(path, enforce_file_format=True)
