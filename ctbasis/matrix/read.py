"""Read DICOM series into volumes in memory, with the reader of the fetch and matrix steps."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import numpy as np

from ctbasis.dicom.volume import as_volume
from ctbasis.errors import CtbasisError
from ctbasis.matrix.ingest import ingest
from ctbasis.matrix.store import MatrixStore
from ctbasis.matrix.volumes import read_volumes
from ctbasis.storage.working_folder import scratch_folder

if TYPE_CHECKING:
    from typing import TypeAlias

    from ctbasis.dicom.volume import ArrayLike, Volume

    ImageLike: TypeAlias = "ArrayLike | str | os.PathLike[str]"
    """A volume, an array of HU (slices, rows, columns), or the folder or URI of a DICOM series."""


def read(source: str | os.PathLike[str], *, series: str = "") -> Volume:
    """Read the CT series in a folder or below a URI.

    Files that are no slice of a CT series (localizers, reports, damaged files) are left out, and deviations from the
    standard that can be read are tolerated; `Volume.qc` lists both.

    Args:
        source: A folder or a file, `s3://bucket/prefix` or `file:///path`. Subfolders and .zip archives are read too.
        series: SeriesInstanceUID of the series to read; needed where `source` holds several.

    Returns:
        The series, its slices in order along the normal of ImageOrientationPatient. It takes 3 bytes of memory a voxel,
        or 5 where HU are not whole numbers; while reading, disk space of the same size in the temporary folder.

    Raises:
        CtbasisError: There is no CT image, several series and no choice, no series of this UID, a series that is no
            volume (several orientations, image sizes or slices at one position), or the source cannot be read.

    Examples:
        >>> import tempfile, ctbasis
        >>> phantom = ctbasis.chest_phantom(slices=3, rows=32, columns=32)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = ctbasis.write_series(phantom, f"{folder}/phantom")
        ...     volume = ctbasis.read(f"{folder}/phantom")
        >>> volume
        Volume(3 x 32 x 32 int16 HU, spacing 1 x 12 x 12 mm)
        >>> bool((volume.hu == phantom.hu).all())
        True
    """
    volumes = read_all(source, series=series)
    if len(volumes) == 1:
        return volumes[0]
    listed = "; ".join(f"{volume.SeriesInstanceUID} ({_described(volume)})" for volume in volumes)
    parts = len({volume.SeriesInstanceUID for volume in volumes}) == 1
    raise CtbasisError(
        f"{source} holds {len(volumes)} {'parts of one CT series' if parts else 'CT series'}: {listed}",
        expected="one series",
        remedy="take one of the list that ctbasis.read_all returns"
        + ("" if parts else ", or name one by series=SeriesInstanceUID"),
    )


def read_all(source: str | os.PathLike[str], *, series: str = "") -> list[Volume]:
    """Read all CT series in a folder or below a URI.

    Phases, reconstruction kernels and acquisitions with the same SeriesInstanceUID are returned as separate volumes;
    `qc["series"]["part"]` names the attribute that distinguishes them.

    Args:
        source: See `read`.
        series: SeriesInstanceUID of the only series to read; empty for all.

    Returns:
        The series, by SeriesNumber and SeriesInstanceUID.

    Raises:
        CtbasisError: There is no CT image, series differ in image size (read them one by one by `series`), or another
            reason that `read` names.

    Examples:
        >>> import tempfile, ctbasis
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for seed in (0, 1):
        ...         phantom = ctbasis.chest_phantom(slices=2, rows=32, columns=32, seed=seed)
        ...         _ = ctbasis.write_series(phantom, f"{folder}/phantom-{seed}")
        ...     volumes = ctbasis.read_all(folder)
        >>> [volume.shape for volume in volumes]
        [(2, 32, 32), (2, 32, 32)]
    """
    # Imports boto3, which an array does not need.
    from ctbasis.sources.fetch import fetch

    with scratch_folder("ctbasis-read") as scratch:
        folder, uri, qc = scratch / "source", str(scratch / "matrix.zarr"), scratch / "qc.json"
        fetch(os.fspath(source), folder)
        ingest(folder, uri, qc, series=series)
        return read_volumes(MatrixStore.open(uri), json.loads(qc.read_text(encoding="utf-8")))


def load(image: ImageLike, spacing: tuple[float, float, float] | None = None) -> Volume:
    """Return `image` as a volume: `as_volume` of a volume or an array, `read` of a folder or URI.

    Raises:
        CtbasisError: See `as_volume` and `read`; or `spacing` is given for a folder or URI.
    """
    if isinstance(image, (str, os.PathLike)):
        if spacing is not None:
            raise CtbasisError("spacing is given for a series that has its own", expected="spacing for an array alone")
        return read(image)
    return as_volume(image, spacing)


def _described(volume: Volume) -> str:
    slices, rows, columns = volume.shape
    part = volume.qc["series"]["part"]
    spacing = np.round(volume.spacing[0], 3)
    return f"{slices} slices of {rows} x {columns}, {spacing:g} mm apart" + (f", {part}" if part else "")
