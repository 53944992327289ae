"""The chest phantom: a synthetic chest with known HU, written as a DICOM CT series as a scanner writes it.

It takes the place of patient data, which cannot be distributed. Every DICOM tag that people read calls it a phantom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import psutil
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from ctbasis.errors import CtbasisError
from ctbasis.progress import progress
from ctbasis.simulate import anatomy, capsules, soft_tissue
from ctbasis.storage.outputs import Nothing, replaced

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FIELD_OF_VIEW = 384.0
"""Width of the image in mm: 256 pixels of 1.5 mm."""

MOST_SIZE = 100_000
"""Slices, rows or columns of a phantom, at most."""

VOXEL_BYTES = 6
"""Bytes of memory a voxel takes while a phantom is made: HU as float32, as int16 at the end."""

RESCALE_INTERCEPT = -1024
PIXEL_PADDING = -2000
"""Stored value outside the circular field of view."""

NODULES = ((3.0, 40.0), (4.0, 40.0), (5.0, 35.0), (6.0, 45.0), (8.0, -620.0), (8.0, 40.0), (10.0, 50.0))
"""Diameters in mm and HU of the nodules; the nodule of -620 HU is a ground-glass nodule."""

CANDIDATES = 12
"""Random positions that are drawn for a nodule, which takes the position farthest from the nodules before it."""


@dataclass(frozen=True)
class Nodule:
    """A sphere in a lung.

    Attributes:
        slice: Position of the centre in slices, from 0.
        row: Position of the centre in rows, from 0.
        column: Position of the centre in columns, from 0.
        diameter: Diameter, mm.
        hu: HU inside the sphere.
    """

    slice: float
    row: float
    column: float
    diameter: float
    hu: float


@dataclass(frozen=True)
class Phantom:
    """A synthetic chest.

    Attributes:
        hu: HU, (z, y, x) int16, the lowest slice first, rows to the back, columns to the left of the patient.
        spacing: mm between slices.
        pixel_spacing: mm between rows and between columns.
        nodules: Nodules whose centre is in the volume.
        seed: Seed of vessels, nodules and texture.
        structured: Whether the soft tissue has structure (ctbasis/simulate/soft_tissue.py).
        kind: What it shows: a chest, or the rods of ctbasis/simulate/inserts.py.
    """

    hu: NDArray[np.int16]
    spacing: float
    pixel_spacing: tuple[float, float]
    nodules: tuple[Nodule, ...]
    seed: int
    structured: bool = False
    kind: Literal["chest", "insert"] = "chest"

    @property
    def field_of_view(self) -> NDArray[np.bool_]:
        """Mask of the circular field of view of a scanner, (y, x)."""
        rows, columns = self.hu.shape[1:]
        y, x = (_centred(count, 1.0) for count in (rows, columns))
        inside: NDArray[np.bool_] = y[:, None] ** 2 + x**2 <= (max(rows, columns) / 2) ** 2
        return inside


def chest(
    slices: int = 301,
    rows: int = 256,
    columns: int = 256,
    *,
    spacing: float = 1.0,
    seed: int = 0,
    structured: bool = False,
) -> Phantom:
    """Make a chest phantom.

    With fewer slices than `anatomy.HEIGHT` / `spacing`, the phantom is the middle of the chest. The anatomy varies
    smoothly along z, so neighbouring slices resemble each other as those of a patient do.

    Args:
        slices: Number of slices.
        rows: Number of rows.
        columns: Number of columns; the larger of rows and columns spans `FIELD_OF_VIEW`.
        spacing: mm between slices.
        seed: Seed of vessels, airways, nodules and texture; the other organs are the same in every phantom.
        structured: Give the soft tissue the structure of low contrast that a patient's has: chambers and walls of the
            heart, vessels in the liver and in fat, walls of the great vessels, strands in muscle, septa in fat, and
            texture everywhere. Without it, soft tissue is nearly uniform.

    Raises:
        CtbasisError: There is no slice, there are fewer than 8 rows or columns, or the spacing is not positive, the
            seed is negative, or the memory is too small.
    """
    check_phantom(slices, rows, columns, spacing=spacing, seed=seed)
    pixel = FIELD_OF_VIEW / max(rows, columns)
    x, y = _centred(columns, pixel), _centred(rows, pixel)
    z = anatomy.HEIGHT / 2 + _centred(slices, spacing)
    texture, vessels, places = (np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3))
    # A lattice with coprime edges of this size does not repeat within the chest.
    knots = texture.standard_normal((127, 131, 137), np.float32)
    hu = np.empty((slices, rows, columns), np.float32)
    shapes = anatomy.profile(z)
    anatomy.paint_organs(hu, x, y, z, shapes, knots)
    if structured:
        soft_tissue.paint(hu, x, y, z, shapes, knots, np.random.default_rng([seed, 1]))
    # Branches may pass through the heart and the diaphragm on the way to their tips; they are painted in lung only.
    anatomy.paint_capsules(hu, x, y, z, capsules.lung_trees(vessels), hu < anatomy.LUNG_WINDOW)
    everywhere = np.ones(hu.shape, np.bool_)
    if structured:
        anatomy.paint_capsules(hu, x, y, z, soft_tissue.vessel_walls(), hu > anatomy.LUNG_WINDOW)
    for chains in (capsules.great_vessels(), capsules.trachea(), capsules.bones()):
        anatomy.paint_capsules(hu, x, y, z, chains, everywhere)
    spheres = _nodule_capsules(places)
    anatomy.paint_capsules(hu, x, y, z, spheres, everywhere)
    nodules = [
        Nodule((c[2] - z[0]) / spacing, (c[1] - y[0]) / pixel, (c[0] - x[0]) / pixel, 2 * c[3], c[8])
        for c in spheres.tolist()
        if z[0] <= c[2] <= z[-1]
    ]
    return Phantom(np.round(hu).astype(np.int16), spacing, (pixel, pixel), tuple(nodules), seed, structured)


def check_phantom(slices: int, rows: int, columns: int, *, spacing: float = 1.0, seed: int = 0) -> None:
    """Refuse a phantom that `chest` cannot make.

    Raises:
        CtbasisError: See `chest`.
    """
    least, most = min(rows, columns), max(slices, rows, columns)
    if slices < 1 or least < 8 or most > MOST_SIZE or not spacing > 0:  # noqa: PLR2004 - fewer pixels show no organ
        raise CtbasisError(
            f"a phantom of {slices} slices of {rows} x {columns} at {spacing} mm was requested",
            expected=f"at least 1 slice, 8 x 8 pixels and a positive spacing; at most {MOST_SIZE} of each",
        )
    if seed < 0:
        raise CtbasisError(f"seed is {seed}", expected="a whole number, at least 0", remedy="choose another seed")
    need, free = VOXEL_BYTES * slices * rows * columns, int(psutil.virtual_memory().available)
    if need > free:
        raise CtbasisError(
            f"a phantom of {slices} slices of {rows} x {columns} needs {need // 10**9} GB of memory, and "
            f"{free // 10**9} GB are free",
            expected="a phantom that fits the memory",
            remedy="choose fewer slices, rows and columns",
        )


def write_series(phantom: Phantom, folder: Path) -> list[Path]:
    """Write `phantom` as a DICOM CT series, signed 16 bit with padding outside the circular field of view.

    UIDs are derived from the phantom only, so the same phantom gives the same series byte for byte.

    Args:
        phantom: The phantom to write.
        folder: New folder; after an error it does not exist.

    Returns:
        The files in the order of the slices.

    Raises:
        CtbasisError: `folder` exists and is not empty.
    """
    with replaced([folder], ours=Nothing()) as (part,):
        part.mkdir()
        write_slices(phantom, part)
    return sorted(folder.iterdir())


def write_slices(phantom: Phantom, part: Path) -> None:
    """Write the slices of `write_series` to an existing folder."""
    outside = ~phantom.field_of_view
    for index in progress(range(len(phantom.hu)), "phantom", unit="slice"):
        stored = phantom.hu[index] - np.int16(RESCALE_INTERCEPT)
        stored[outside] = PIXEL_PADDING
        _slice_dataset(phantom, index, stored).save_as(part / f"{index + 1:04d}.dcm", enforce_file_format=True)


def write_chest(
    folder: Path,
    *,
    slices: int = 301,
    rows: int = 256,
    columns: int = 256,
    spacing: float = 1.0,
    seed: int = 0,
    structured: bool = False,
) -> list[Path]:
    """Make a phantom and write it, see `chest` and `write_series`."""
    return write_series(chest(slices, rows, columns, spacing=spacing, seed=seed, structured=structured), folder)


def _centred(count: int, step: float) -> NDArray[np.float64]:
    return (np.arange(count, dtype=np.float64) - (count - 1) / 2) * step


def _nodule_capsules(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the nodules as capsules of length 0, alternately in the right and left lung, far from each other."""
    spheres: list[list[float]] = []
    for index, (diameter, hu) in enumerate(NODULES):
        candidates = capsules.lung_points(index % 2, CANDIDATES, 6.0 + diameter / 2, rng)
        placed = np.array([sphere[:3] for sphere in spheres] or [[0.0, 0.0, 0.0]])
        distances = np.linalg.norm(candidates[:, None] - placed, axis=2).min(axis=1)
        centre = candidates[np.argmax(distances)].tolist()
        spheres.append([*centre, diameter / 2, *centre, diameter / 2, hu])
    return np.array(spheres)


def _slice_dataset(phantom: Phantom, index: int, stored: NDArray[np.int16]) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = _uid(phantom, f"instance {index}")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(f"{index}", Dataset(), preamble=b"\0" * 128, file_meta=meta)
    ds.SOPClassUID, ds.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    _describe_phantom(ds, phantom)
    rows, columns = stored.shape
    dy, dx = phantom.pixel_spacing
    x, y = _centred(columns, dx)[0], _centred(rows, dy)[0]
    z = _centred(len(phantom.hu), phantom.spacing)[index]
    # A scanner numbers slices from the head down; these files are ordered from the feet up.
    ds.InstanceNumber = len(phantom.hu) - index
    ds.ImagePositionPatient = [_decimal(value) for value in (x, y, z)]
    ds.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    ds.SliceLocation = _decimal(z)
    ds.PixelSpacing = [_decimal(dy), _decimal(dx)]
    ds.SliceThickness = ds.SpacingBetweenSlices = _decimal(phantom.spacing)
    ds.Rows, ds.Columns = rows, columns
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = RESCALE_INTERCEPT, 1, "HU"
    ds.PixelPaddingValue = PIXEL_PADDING
    ds.WindowCenter, ds.WindowWidth = [40, -600], [400, 1500]
    ds.WindowCenterWidthExplanation = ["SOFT TISSUE", "LUNG"]
    ds.PixelData = stored.astype("<i2").tobytes()
    return ds


def _describe_phantom(ds: FileDataset, phantom: Phantom) -> None:
    """Set the attributes that are the same in every slice: the phantom, its study and its frame of reference."""
    ds.SpecificCharacterSet = "ISO_IR 192"
    title = phantom.kind.capitalize()
    ds.PatientName, ds.PatientID = f"Phantom^{title}", f"PHANTOM-{phantom.seed}"
    ds.PatientBirthDate, ds.PatientSex = "", "O"
    ds.PatientComments = "Synthetic phantom, no patient"
    ds.StudyInstanceUID = _uid(phantom, "study")
    ds.SeriesInstanceUID = _uid(phantom, "series")
    ds.FrameOfReferenceUID = _uid(phantom, "frame of reference")
    ds.StudyDate = ds.SeriesDate = ds.AcquisitionDate = ds.ContentDate = "20260101"
    ds.StudyTime = ds.SeriesTime = ds.AcquisitionTime = ds.ContentTime = "120000"
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber = "1", 1, 1
    ds.AccessionNumber = ds.ReferringPhysicianName = ds.PositionReferenceIndicator = ""
    ds.Modality, ds.PatientPosition = "CT", "HFS"
    if phantom.kind == "chest":
        ds.BodyPartExamined = "CHEST"
    ds.Manufacturer, ds.ManufacturerModelName = "ctbasis", f"analytic {phantom.kind} phantom"
    ds.StudyDescription = ds.SeriesDescription = f"{title} phantom"
    ds.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    ds.ImageComments = "Phantom computed from formulas; no scanner and no patient"
    if phantom.structured:
        ds.SeriesDescription = "Chest phantom, structured soft tissue"
    ds.KVP = None


def _uid(phantom: Phantom, entity: str) -> UID:
    shape = "x".join(str(edge) for edge in phantom.hu.shape)
    tissue = ["structured soft tissue"] if phantom.structured else []
    return generate_uid(
        entropy_srcs=[
            f"ctbasis {phantom.kind} phantom",
            shape,
            str(phantom.spacing),
            str(phantom.seed),
            *tissue,
            entity,
        ]
    )


def _decimal(value: float) -> float:
    """Round to a number that a DICOM decimal string of 16 characters holds."""
    return round(float(value), 6)
