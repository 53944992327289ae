"""Conversion between volumes in memory and matrix stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.dicom.derived_series import read_header
from ctbasis.dicom.separation import GAP_FACTOR
from ctbasis.dicom.tolerance import tolerant
from ctbasis.dicom.volume import LPS_AXES, Volume
from ctbasis.matrix.slice_store import Series
from ctbasis.matrix.store import MatrixStore, MatrixWriter
from ctbasis.storage.voxels import absent, is_absent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


def write_volume(volume: Volume, uri: str) -> MatrixStore:
    """Write a volume as a matrix store with one series, as the matrix step writes it from DICOM.

    Args:
        volume: The volume. It becomes the matrix A, (rows x columns, slices).
        uri: URI of the store. An existing store is replaced.

    Returns:
        The store, opened for reading.

    Raises:
        CtbasisError: S3 denies access or does not answer.
        OSError: The folder cannot be written.
    """
    slices, rows, columns = volume.shape
    dtype = volume.hu.dtype
    writer = MatrixWriter.create(uri, image=(rows, columns), cols=slices, dtype=dtype)
    A = volume.clipped_hu()
    for first in range(0, slices, writer.column_chunk):
        group = slice(first, min(first + writer.column_chunk, slices))
        outside = volume.set_aside[group]
        aside = np.where(outside, volume.hu[group], dtype.type(absent(dtype))) if outside.any() else None
        writer.write(
            slice(0, rows * columns), group, _as_columns(A[group]), None if aside is None else _as_columns(aside)
        )
    writer.finish(series=[series_of(volume)], headers=volume.headers or [b""] * slices)
    return MatrixStore.open(uri)


def series_of(volume: Volume) -> Series:
    """Return the series that a volume is in a matrix of its own, with the positions of slices that reading noted."""
    slices = volume.shape[0]
    dz, dy, dx = volume.spacing
    positions = tuple(float(entry["position"]) for entry in volume.qc.get("slices", ()))
    if len(positions) != slices:
        positions = ()
    breaks = tuple((np.flatnonzero(np.diff(positions) > GAP_FACTOR * dz) + 1).tolist()) if positions else ()
    return Series(
        volume.SeriesInstanceUID, 0, slices, dz if slices > 1 else 0.0, (dy, dx), breaks=breaks, positions=positions
    )


def read_volumes(store: MatrixStore, qc: Mapping[str, Any]) -> list[Volume]:
    """Return the series of a matrix store as volumes, in the order of its columns.

    Args:
        store: A matrix with the headers of its slices.
        qc: Content of its qc.json, see `qc_report`.

    Raises:
        CtbasisError: A chunk is missing, or its checksum does not match.
    """
    volumes = []
    for series, series_qc in zip(store.series, qc["series"], strict=True):
        headers = tuple(store.header(column) for column in range(series.first, series.first + series.count))
        origin, direction = _geometry(headers[0])
        hu, set_aside = read_hu(store, series)
        dy, dx = series.pixel_spacing
        volumes.append(
            Volume(
                hu,
                # The spacing of a single slice is unknown. As in patch mode, the row spacing is used instead.
                (series.spacing or dy, dy, dx),
                origin,
                direction,
                set_aside,
                headers,
                {
                    "series": series_qc,
                    "slices": qc["slices"][series.columns],
                    "set_aside": qc["set_aside"],
                },
            )
        )
    return volumes


def read_hu(store: MatrixStore, series: Series) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Return the original HU of one series, and the mask of the voxels that were set aside.

    Args:
        store: The matrix.
        series: One of its series.

    Returns:
        HU and the mask, both (slices, rows, columns).

    Raises:
        CtbasisError: A chunk is missing, or its checksum does not match.
    """
    shape = (series.count, *store.image)
    hu, set_aside = np.empty(shape, store.dtype), np.empty(shape, np.bool_)
    for group in store.column_groups:
        first, stop = max(group.start, series.first), min(group.stop, series.first + series.count)
        if first >= stop:
            continue
        columns, slices = slice(first, stop), slice(first - series.first, stop - series.first)
        aside = store.read_aside(columns)
        present = ~is_absent(aside)
        values = store.read_columns(columns)
        np.copyto(values, aside, where=present, casting="same_kind")
        hu[slices] = values.T.reshape(-1, *store.image)
        set_aside[slices] = present.T.reshape(-1, *store.image)
    return hu, set_aside


def _as_columns(images: NDArray[Any]) -> NDArray[Any]:
    return images.reshape(len(images), -1).T


def _geometry(header: bytes) -> tuple[tuple[float, float, float], NDArray[np.float64]]:
    """Return `Volume.origin` and `Volume.direction` from the header of the first slice."""
    if not header:
        return (0.0, 0.0, 0.0), np.array(LPS_AXES)
    with tolerant():
        parsed = read_header(header)
        x, y, z = (float(mm) for mm in parsed.ImagePositionPatient)
        cosines = np.array([float(cosine) for cosine in parsed.ImageOrientationPatient])
    # PS3.3 C.7.6.2.1.1: the first three values are the direction of a row, which leads from column to column.
    column_step, row_step = (part / np.linalg.norm(part) for part in (cosines[:3], cosines[3:]))
    normal = np.cross(column_step, row_step)
    return (x, y, z), np.stack([normal / np.linalg.norm(normal), row_step, column_step])
