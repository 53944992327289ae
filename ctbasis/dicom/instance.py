"""Reading one DICOM file: its slices, their headers, and the location of their stored values."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import pydicom
from pydicom.uid import (
    UID,
    CTImageStorage,
    MediaStorageDirectoryStorage,
)

from ctbasis.dicom.frames import MULTI_FRAME, PER_FRAME, single_frames
from ctbasis.dicom.header import HEADER_KEPT_WHOLE, HEADER_READ, PREAMBLE, TOO_DEEP, parse, slim_header
from ctbasis.dicom.hounsfield import Pixels
from ctbasis.dicom.pixeldata import StoredValues, locate_frames, read_frame
from ctbasis.dicom.resource_limits import MAX_FILE_VOXELS, MAX_HEADER_BYTES, MAX_IMAGE_VOXELS
from ctbasis.dicom.set_aside import SetAside, UnusableFileError
from ctbasis.dicom.sparse_file import MissingBytesError
from ctbasis.dicom.tolerance import tolerant
from ctbasis.dicom.traits import traits_of

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset, FileDataset

OTHER_OBJECTS = {MediaStorageDirectoryStorage: "a DICOMDIR, the index of a medium"}

NOT_AXIAL = {
    "LOCALIZER": "a localizer",
    "SCOUT": "a localizer",
    "TOPOGRAM": "a localizer",
    "REFORMATTED": "a reformat",
    "MPR": "a reformat",
    "CSA MPR": "a reformat",
    "CSAPARALLEL": "a reformat",
    "CURVED": "a reformat",
    "CPR": "a reformat",
    "PROJECTION IMAGE": "a projection",
    "MAX_IP": "a projection",
    "MIN_IP": "a projection",
    "MIP": "a projection",
    "VRT": "a rendering",
    "3D": "a rendering",
    "PERFUSION": "a map of perfusion",
    "SCREEN SAVE": "a screen capture",
    "DOSE_INFO": "a dose report",
    "DOSE REPORT": "a dose report",
    "CT_SOM5 PROT": "a patient protocol",
    "CSA REPORT": "a report",
    "CSA RESULT": "a report",
}
"""Values of ImageType that mark an image as something else than a reconstructed slice, and a description of it."""

ORTHONORMAL_TOLERANCE = 1e-2
"""Largest deviation of the direction cosines from unit length and from a right angle."""

MAX_DISTANCE_MM = 1e5
"""Largest coordinate of a slice in mm: a hundred metres. Positions beyond it are not plausible."""

ARCHIVES = (
    (0, b"PK\x03\x04", "a zip archive that cannot be opened, or is inside another one"),
    (0, b"\x1f\x8b", "a gzip file such as .tar.gz or .dcm.gz, which is not unpacked: only .zip archives are"),
    (0, b"BZh", "a bzip2 file such as .tar.bz2, which is not unpacked: only .zip archives are"),
    (0, b"\xfd7zXZ\0", "an xz file such as .tar.xz, which is not unpacked: only .zip archives are"),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard file such as .tar.zst, which is not unpacked: only .zip archives are"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive, which is not unpacked: only .zip archives are"),
    (0, b"Rar!\x1a\x07", "a RAR archive, which is not unpacked: only .zip archives are"),
    (257, b"ustar", "a tar archive, which is not unpacked: only .zip archives are"),
)
"""Offset and first bytes of archives and compressed files, and their description."""

FIRST_GROUPS = {struct.pack("<H", group) for group in (0x0002, 0x0008)} | {struct.pack(">H", 0x0008)}


@dataclass(frozen=True)
class Slice:
    """One slice without its stored values. Attributes with DICOM keywords as names hold the DICOM values.

    Attributes:
        file: Path of the file, relative to the folder.
        stored: Location of the stored values.
        pixels: Pixel format.
        frame: Number of the frame in a multi-frame file, from 1; 0 in a single-frame file.
        traits: Keyword and value (as text) of the attributes that distinguish volumes, from `traits_of`.
        tolerated: Deviations in the header that were tolerated, as text for the user.
    """

    file: str
    SOPInstanceUID: str
    SeriesInstanceUID: str
    SeriesNumber: int
    Rows: int
    Columns: int
    ImageOrientationPatient: tuple[float, ...]
    ImagePositionPatient: tuple[float, ...]
    PixelSpacing: tuple[float, ...]
    stored: StoredValues
    pixels: Pixels
    frame: int = 0
    traits: tuple[tuple[str, str], ...] = ()
    tolerated: tuple[str, ...] = ()

    @property
    def place(self) -> tuple[str, int]:
        """File and frame, which identify the slice within the folder."""
        return self.file, self.frame

    @property
    def name(self) -> str:
        """File and frame as text for the user."""
        return f"{self.file}, frame {self.frame}" if self.frame else self.file


ReadResult = tuple[Slice, bytes] | SetAside
"""A slice and its header, which is a DICOM file (Part 10) without PixelData; or the reason why there is no slice."""


def read_slices(folder: Path, file: str) -> list[ReadResult]:
    """Read the headers of the slices in one file. Errors of the file are returned, not raised.

    Args:
        folder: The folder.
        file: Path of the file, relative to the folder.

    Returns:
        One result per frame, or a single `SetAside` for a file without slices.
    """
    try:
        with (folder / file).open("rb") as stream:
            return read_stream(stream, file)
    except OSError as error:
        return [_not_readable(file, error)]


def read_stream(stream: BinaryIO, file: str) -> list[ReadResult]:
    """Read the headers of the slices in an open file. Errors of the file are returned, not raised.

    Args:
        stream: The file, positioned at its start.
        file: Name of the file in the results.

    Returns:
        As `read_slices`.

    Raises:
        MissingBytesError: The stream is a `SparseFile` that lacks bytes.
    """
    try:
        with tolerant():
            return _read(stream, file)
    except MissingBytesError:
        raise
    except UnusableFileError as error:
        return [SetAside(file, error.reason, error.broken)]
    except OSError as error:
        return [_not_readable(file, error)]
    except MemoryError:
        return [SetAside(file, "its header takes more memory than any valid file should", broken=True)]
    except RecursionError:
        return [SetAside(file, TOO_DEEP, broken=True)]
    except Exception as error:  # noqa: BLE001 - a hostile file can make the parser raise any exception
        return [SetAside(file, f"its header cannot be parsed ({type(error).__name__})", broken=True)]


def _not_readable(file: str, error: OSError) -> SetAside:
    # pydicom raises OSError without strerror if the file ends inside an element.
    return SetAside(file, f"not readable: {error.strerror or 'its header is truncated'}", broken=True)


def read_values(folder: Path, entry: Slice) -> NDArray[Any]:
    """Return the stored values of a slice, (Rows, Columns).

    Raises:
        ValueError: They cannot be decoded. The message contains no content of the file.
        OSError: The file cannot be read.
    """
    with tolerant():
        return read_frame(
            folder / entry.file, entry.stored, rows=entry.Rows, columns=entry.Columns, pixels=entry.pixels
        )


def _read(stream: BinaryIO, file: str) -> list[ReadResult]:
    head = stream.read(HEADER_READ[0])
    part_10 = head[PREAMBLE : PREAMBLE + 4] == b"DICM"
    if not part_10 and head[:2] not in FIRST_GROUPS:
        raise UnusableFileError(_describe_other_file(head), broken=not head or _archive(head) != "")
    ds, end, data, deviations = parse(head, stream)
    _check_object(ds)
    tolerated = deviations if part_10 else ("no preamble and file meta information (Part 10)", *deviations)
    frames = int(ds.get("NumberOfFrames") or 1)
    converted = PER_FRAME in ds and (frames != 1 or "ImagePositionPatient" not in ds)
    if UID(ds.SOPClassUID) in MULTI_FRAME or converted:
        if converted and ds.SOPClassUID == CTImageStorage:
            tolerated += ("CT Image Storage with functional groups: read as an enhanced object",)
        return _read_frames(ds, frames, file, data, end, tolerated)
    if frames != 1:
        raise UnusableFileError("a multi-frame image without the geometry of its frames")
    _check_image_type(ds)
    pixels = _pixels(ds)
    stored, pixel_remarks = _values(ds, pixels, data, end, 1)
    entry = _describe(ds, file, 0, stored[0], pixels, (*tolerated, *pixel_remarks))
    verbatim = part_10 and not deviations and data is stream and 0 < end <= HEADER_KEPT_WHOLE and pixels.lut is None
    return [(entry, head[:end] if verbatim else slim_header(ds, ds, pixels))]


def _read_frames(
    ds: FileDataset, frames: int, file: str, data: BinaryIO, end: int, tolerated: tuple[str, ...]
) -> list[ReadResult]:
    parts = list(single_frames(ds, frames))
    stored, pixel_remarks = _values(ds, _pixels(parts[0]), data, end, frames)
    results: list[ReadResult] = []
    size = 0
    for number, part in enumerate(parts, start=1):
        try:
            _check_image_type(part)
            pixels = _pixels(part)
            entry = _describe(part, file, number, stored[number - 1], pixels, (*tolerated, *pixel_remarks))
        except UnusableFileError as error:
            results.append(SetAside(file, error.reason, error.broken, number))
            continue
        header = slim_header(part, ds, pixels)
        size += len(header)
        if size > MAX_HEADER_BYTES:
            raise UnusableFileError(f"the headers of its frames exceed {MAX_HEADER_BYTES >> 20} MiB", broken=True)
        results.append((entry, header))
    return results


def _describe_other_file(head: bytes) -> str:
    archive = _archive(head)
    if archive:
        return archive
    return "not DICOM" if head else "an empty file"


def _archive(head: bytes) -> str:
    """Return the description of an archive or compressed file; empty for another file."""
    return next((text for at, magic, text in ARCHIVES if head[at : at + len(magic)] == magic), "")


def _check_object(ds: FileDataset) -> None:
    """Refuse objects other than greyscale CT images."""
    kind = UID(ds.get("SOPClassUID") or ds.file_meta.get("MediaStorageSOPClassUID") or "")
    if kind != CTImageStorage and kind not in MULTI_FRAME:
        name = kind.name if kind.name != str(kind) else "of an unknown SOP class"
        raise UnusableFileError(OTHER_OBJECTS.get(kind) or (f"{name}, not a CT image" if kind else "no SOPClassUID"))
    ds.SOPClassUID = kind
    if int(ds.get("SamplesPerPixel") or 1) != 1 or ds.get("PhotometricInterpretation", "MONOCHROME2") not in {
        "MONOCHROME1",
        "MONOCHROME2",
    }:
        raise UnusableFileError("a colour image")


def _check_image_type(ds: Dataset) -> None:
    image_type = ds.get("ImageType") or []
    for value in [image_type] if isinstance(image_type, str) else image_type:
        description = NOT_AXIAL.get(value.strip().upper())
        if description:
            raise UnusableFileError(f"{description} (ImageType {value.strip().upper()})")


def _pixels(ds: Dataset) -> Pixels:
    try:
        return Pixels.of(ds)
    except ValueError as error:
        raise UnusableFileError(str(error), broken="no Hounsfield units" not in str(error)) from error


def _values(
    ds: FileDataset, pixels: Pixels, data: BinaryIO, end: int, frames: int
) -> tuple[list[StoredValues], tuple[str, ...]]:
    """Locate the stored values of each frame, after a check that the size of the images is acceptable."""
    rows, columns = int(_required(ds, "Rows")), int(_required(ds, "Columns"))
    if rows < 1 or columns < 1:
        raise UnusableFileError(f"Rows is {rows} and Columns {columns}: not an image", broken=True)
    if rows * columns > MAX_IMAGE_VOXELS or rows * columns * frames > MAX_FILE_VOXELS:
        raise UnusableFileError(
            f"Rows {rows}, Columns {columns}, {frames} frames: the limits are {MAX_IMAGE_VOXELS} voxels per frame and "
            f"{MAX_FILE_VOXELS} per file",
            broken=True,
        )
    return locate_frames(ds, data, end, pixels, frames)


def _describe(
    ds: Dataset, file: str, frame: int, stored: StoredValues, pixels: Pixels, tolerated: tuple[str, ...]
) -> Slice:
    if ds.get("PhotometricInterpretation") == "MONOCHROME1":
        tolerated += ("PhotometricInterpretation is MONOCHROME1: it inverts the display, not the HU",)
    if ds.get("PixelSpacing") is None:
        tolerated += ("PixelSpacing is absent, taken as 1 mm",)
        PixelSpacing: tuple[float, ...] = (1.0, 1.0)
    else:
        PixelSpacing = _numbers(ds, "PixelSpacing", 2)
        if min(PixelSpacing) <= 0:
            raise UnusableFileError("PixelSpacing is not positive", broken=True)
    return Slice(
        file=file,
        SOPInstanceUID=str(_required(ds, "SOPInstanceUID")),
        SeriesInstanceUID=str(_required(ds, "SeriesInstanceUID")),
        SeriesNumber=int(ds.get("SeriesNumber") or 0),
        Rows=int(ds.Rows),
        Columns=int(ds.Columns),
        ImageOrientationPatient=_orientation(ds),
        ImagePositionPatient=_position(ds),
        PixelSpacing=PixelSpacing,
        stored=stored,
        pixels=pixels,
        frame=frame,
        traits=traits_of(ds),
        tolerated=(*tolerated, *pixels.tolerated),
    )


def _required(ds: Dataset, keyword: str) -> Any:
    value = ds.get(keyword)
    if value is None or value == "":
        raise UnusableFileError(f"{keyword} is absent", broken=True)
    return value


def _numbers(ds: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    values = _required(ds, keyword)
    numbers = tuple(float(value) for value in (values if isinstance(values, pydicom.multival.MultiValue) else [values]))
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise UnusableFileError(f"{keyword} has {len(numbers)} values, expected {count} finite numbers", broken=True)
    return numbers


def _position(ds: Dataset) -> tuple[float, ...]:
    position = _numbers(ds, "ImagePositionPatient", 3)
    if max(map(abs, position)) > MAX_DISTANCE_MM:
        raise UnusableFileError(f"ImagePositionPatient is more than {MAX_DISTANCE_MM:g} mm away", broken=True)
    return position


def _orientation(ds: Dataset) -> tuple[float, ...]:
    cosines = _numbers(ds, "ImageOrientationPatient", 6)
    row, column = cosines[:3], cosines[3:]
    # Plain arithmetic is faster than NumPy for six numbers, and this runs for every file.
    off = math.hypot(*row) - 1, math.hypot(*column) - 1, sum(a * b for a, b in zip(row, column, strict=True))
    if max(map(abs, off)) > ORTHONORMAL_TOLERANCE:
        raise UnusableFileError("ImageOrientationPatient is not two unit vectors at a right angle", broken=True)
    return cosines
