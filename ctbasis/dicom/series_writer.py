"""Write derived DICOM series to folders: one file a slice, each folder complete or not there at all.

A folder that is written holds nothing but DICOM files, so that any viewer or archive takes it as it is. Files are
written to a hidden folder beside the target, which takes the target's place in one rename once all files are written.
A folder that ctbasis wrote before is replaced; any other folder with content is refused.
"""

from __future__ import annotations

import importlib.metadata
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
from pydicom.errors import InvalidDicomError
from pydicom.sr.coding import Code

from ctbasis.choices import UNCOMPRESSED
from ctbasis.dicom.compression import check_compression, compress
from ctbasis.dicom.derived_series import PRODUCT, SCHEME, Derivation, SeriesKind, derive, read_header
from ctbasis.dicom.hounsfield import Pixels
from ctbasis.dicom.source_series import SourceSeries
from ctbasis.dicom.stored_values import avoid_padding, to_stored_values
from ctbasis.dicom.tolerance import tolerant
from ctbasis.errors import CtbasisError
from ctbasis.progress import progress
from ctbasis.storage.outputs import replaced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from ctbasis.dicom.volume import Volume

PROCESSED = SeriesKind(
    "processed",
    9_997,
    "Processing with other software",
    Code("PROCESSED", SCHEME.CodingSchemeDesignator, "Processed with other software"),
)
"""A series whose HU the user computed. The number is one that hardly any rank has."""


def write_series(
    volume: Volume,
    folder: str | os.PathLike[str],
    *,
    description: str = "",
    compression: str = UNCOMPRESSED,
) -> list[Path]:
    """Write a volume as a derived DICOM CT series.

    Patient, study, frame of reference and geometry are those of the series that the volume was read from.
    SeriesInstanceUID and SOPInstanceUID are new: they follow from the source's UIDs and the HU, so that the same volume
    gives the same files. Stored values are rounded to the nearest ones with the source's rescale.

    Args:
        volume: With headers: read by `ctbasis.read`, or computed from such a volume.
        folder: Folder to write, complete or not at all. One that holds nothing but series that ctbasis wrote is
            replaced.
        description: How the HU were computed, for DerivationDescription; by default what the volume knows of itself.
        compression: Lossless compression of the pixels: `none`, `jpeg-ls`, `jpeg2000` or `rle`.

    Returns:
        The files, one a slice, in the order of the slices.

    Raises:
        CtbasisError: The volume has no headers, a header cannot be written, the folder holds other files, the
            compression is unknown, or the disk is full.

    Examples:
        >>> import tempfile, ctbasis
        >>> phantom = ctbasis.chest_phantom(slices=2, rows=32, columns=32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = ctbasis.write_series(phantom.with_hu(phantom.hu + 5), f"{folder}/brighter")
        ...     brighter = ctbasis.read(f"{folder}/brighter")
        >>> [file.name for file in files]
        ['slice-0001.dcm', 'slice-0002.dcm']
        >>> int((brighter.hu - phantom.hu)[~phantom.set_aside].min())
        5
    """
    if not volume.headers:
        raise CtbasisError(
            "the volume has no DICOM headers",
            expected="a volume that ctbasis.read returned, or one computed from it",
            cause="it was made of an array, or its rows or columns were cut",
            remedy="give the HU to a volume that was read, by its method with_hu",
        )
    check_compression(compression, (volume.shape[1], volume.shape[2]))
    target = Path(folder)
    derivation = _derivation(volume, description)
    with header_errors(1):
        source = source_of(volume)
    with replacing_folders([target]) as (partial,):
        paths = slice_paths(partial, len(volume.hu))

        def write(index: int) -> None:
            hu, measured = volume.hu[index].reshape(-1), ~volume.set_aside[index].reshape(-1)
            write_slice(
                paths[index],
                volume.headers[index],
                hu,
                derivation,
                compression=compression,
                number=index + 1,
                series=source,
                measured=measured,
            )

        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for _ in progress(pool.map(write, range(len(paths))), "write", total=len(paths), unit="slice"):
                pass
    return [target / path.name for path in paths]


def source_of(volume: Volume) -> SourceSeries:
    """Return the series that a volume was read from."""
    part = volume.qc.get("series", {}).get("part", "")
    uid = volume.SeriesInstanceUID or str(read_header(volume.headers[0]).SeriesInstanceUID)
    return SourceSeries.of(f"{uid} {part}".strip(), volume.headers[0])


def _derivation(volume: Volume, description: str) -> Derivation:
    """Return the volume's own derivation, or one for HU that the user computed or describes."""
    if volume.derivation is not None and not description:
        return volume.derivation
    version = importlib.metadata.version(PRODUCT)
    text = description or "HU computed with other software"
    return Derivation(
        rank=0,
        version=version,
        description=f"{text}; {PRODUCT} {version}. Not for diagnosis.",
        fingerprint=f"{text} {volume.fingerprint()}",
        kind=PROCESSED,
    )


@contextmanager
def replacing_folders(folders: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield temporary folders that replace `folders` when the context ends without an error.

    Args:
        folders: Target folders. The first one names the place in error messages.

    Yields:
        One path for each target folder, in the same order. The caller creates the folders at these paths.

    Raises:
        CtbasisError: A target is a file, or holds files that ctbasis did not write; or the disk is full.
    """
    try:
        with replaced(folders, ours=_DerivedSeries()) as partials, tolerant():
            yield partials
    except OSError as error:
        raise CtbasisError(
            f"the series cannot be written to {folders[0]} ({error})", cause="the disk is full or write-protected"
        ) from error


def slice_paths(folder: Path, count: int) -> list[Path]:
    """Create `folder` and return the paths of `count` slices in it: slice-0001.dcm and so on."""
    folder.mkdir(parents=True)
    return [folder / f"slice-{number:04d}.dcm" for number in range(1, count + 1)]


def write_slice(
    path: Path,
    header: bytes,
    hu: NDArray[Any],
    derivation: Derivation,
    *,
    compression: str,
    number: int,
    series: SourceSeries | None = None,
    measured: NDArray[np.bool_] | None = None,
) -> None:
    """Write one derived slice.

    Args:
        path: File to write.
        header: DICOM file of the source slice without pixel data.
        hu: HU of all voxels including padding, (Rows x Columns,).
        derivation: Describes the processing.
        compression: One of `COMPRESSIONS`.
        number: Number of the slice in its matrix or volume, from 1 on.
        series: The source series; by default the one that the header names.
        measured: True for voxels that are not padding, (Rows x Columns,). They never get the value of padding.

    Raises:
        CtbasisError: The header holds a value that DICOM does not allow.
        OSError: The file cannot be written.
    """
    with header_errors(number):
        source = read_header(header)
        stored = to_stored_values(hu, Pixels.of(source))
        if measured is not None:
            avoid_padding(stored, measured)
        save(derive(source, stored, derivation, series=series, number=number), path, compression)


def save(dataset: Dataset, path: Path, compression: str) -> None:
    """Compress the pixels of `dataset` losslessly and write it to `path`."""
    compress(dataset, compression)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


@contextmanager
def header_errors(number: int) -> Iterator[None]:
    """Turn an exception of pydicom into a `CtbasisError` that names the slice, but no value of its header.

    Args:
        number: Number of the slice, from 1.

    Raises:
        CtbasisError: pydicom raised an exception other than OSError.
    """
    try:
        yield
    except (CtbasisError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - pydicom raises many types over such values, and quotes the values
        raise CtbasisError(
            f"the header of slice {number} cannot be written as DICOM ({type(error).__name__})",
            cause="an element of the source's header holds a value that its value representation does not allow",
            remedy="repair the source with another tool",
        ) from None


class _DerivedSeries:
    """Recognises a folder that holds nothing but series which ctbasis wrote; such a folder has no file beside them."""

    def foreign(self, folder: Path) -> Path | None:
        """Return a file that is not a DICOM file of ours."""
        files = (path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir())
        return next((path for path in files if path.is_symlink() or not _is_ours(path)), None)


def _is_ours(path: Path) -> bool:
    try:
        header = pydicom.dcmread(path, specific_tags=["ContributingEquipmentSequence"], stop_before_pixels=True)
    except (InvalidDicomError, OSError):
        return False
    return any(item.get("Manufacturer") == PRODUCT for item in header.get("ContributingEquipmentSequence", []))
