"""Slices of the volumes that are compared: each is stored as a matrix, and read in the order of the first one."""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.matrix.geometry import match_slices
from ctbasis.matrix.ingest import ingest
from ctbasis.matrix.read import load
from ctbasis.matrix.store import MatrixStore
from ctbasis.matrix.volumes import write_volume
from ctbasis.storage.working_folder import scratch_folder
from ctbasis.svd.rank_k import restore_set_aside

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from ctbasis.matrix.read import ImageLike
    from ctbasis.matrix.slice_store import Series

SMALLEST = 11
"""Smallest edge of an image in pixels, the window of SSIM."""


@dataclass(frozen=True)
class Slices:
    """The slices of a store in the order of the truth's.

    Attributes:
        store: The store.
        columns: The column of the store for each slice, (n,); None for the store's own order.
    """

    store: MatrixStore
    columns: NDArray[np.intp] | None

    @property
    def cols(self) -> int:
        """Number of slices."""
        return self.store.cols

    @property
    def image(self) -> tuple[int, int]:
        """Rows and columns of a slice."""
        return self.store.image

    @property
    def series(self) -> list[Series]:
        """The series of the store, in its own order."""
        return self.store.series


@contextmanager
def opened(
    images: Mapping[str, ImageLike], spacing: tuple[float, float, float] | None = None
) -> Iterator[dict[str, Slices]]:
    """Open volumes as slices, and remove their stores at the end.

    Args:
        images: Volumes, or folders or URIs of series, by name. The first one orders the slices of the others.
        spacing: mm between slices, rows and columns, for volumes given as arrays.

    Raises:
        CtbasisError: A folder holds no CT series, the geometries differ, or images are smaller than SMALLEST.
    """
    with scratch_folder("ctbasis-score") as scratch:
        stores = {name: _stored(one, spacing, scratch, name) for name, one in images.items()}
        first = next(iter(stores))
        yield {name: Slices(store, _same_geometry(stores[first], store, first, name)) for name, store in stores.items()}


def images_of(slices: Slices) -> Iterator[NDArray[np.float32]]:
    """Yield slices, HU, (rows, columns), with the values that their store keeps aside."""
    store, columns = slices.store, slices.columns
    groups = store.column_groups
    if columns is not None and (np.diff(columns) < 0).any():
        groups = [slice(column, column + 1) for column in columns.tolist()]
    for group in groups:
        hu = store.read_columns(group)
        restore_set_aside(hu, store.read_aside(group))
        for column in hu.T:
            yield column.reshape(store.image).astype(np.float32)


def _stored(image: ImageLike, spacing: tuple[float, float, float] | None, scratch: Path, name: str) -> MatrixStore:
    """Return a matrix store of an image; a folder may hold several series."""
    uri = str(scratch / f"{name}.zarr")
    if not isinstance(image, (str, os.PathLike)):
        return write_volume(load(image, spacing if isinstance(image, np.ndarray) else None), uri)
    if "://" in str(image):
        return write_volume(load(image), uri)
    if not Path(image).is_dir():
        raise CtbasisError(f"{image} is no folder", expected=f"the folder of the DICOM series that is the {name}")
    ingest(Path(image), uri, scratch / f"{name}.json")
    return MatrixStore.open(uri)


def _same_geometry(truth: MatrixStore, other: MatrixStore, first: str, name: str) -> NDArray[np.intp] | None:
    """Check that two stores have the same slices, and return the columns of `other` as from `match_slices`."""
    shapes = [(store.cols, *store.image) for store in (truth, other)]
    if shapes[0] != shapes[1]:
        raise CtbasisError(
            f"the {first} has {shapes[0]} slices, rows and columns, the {name} {shapes[1]}",
            expected="two series of the same geometry",
            cause="they are not copies of one scan, or a folder holds another series",
        )
    spacings = [
        sorted((round(entry.spacing, 3), *(round(mm, 3) for mm in entry.pixel_spacing)) for entry in store.series)
        for store in (truth, other)
    ]
    if spacings[0] != spacings[1]:
        raise CtbasisError(
            f"slices, rows and columns of the {first} are {spacings[0]} mm apart, those of the {name} {spacings[1]}",
            expected="two series of the same geometry",
            cause="they are not copies of one scan",
        )
    if min(truth.image) < SMALLEST:
        raise CtbasisError(
            f"the images have {truth.image[0]} x {truth.image[1]} pixels",
            expected=f"at least {SMALLEST} x {SMALLEST}, the window of SSIM",
        )
    return match_slices(truth, other, name)
