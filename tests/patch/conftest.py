"""A matrix store of two noisy series whose row blocks end in the middle of image rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ctbasis.matrix import store
from ctbasis.matrix.slice_store import Series
from ctbasis.matrix.store import MatrixStore, MatrixWriter
from ctbasis.storage.voxels import absent

if TYPE_CHECKING:
    from numpy.typing import NDArray

EDGE, SLICES = 200, (8, 6)
SIGMA = 25.0


@dataclass(frozen=True)
class Noisy:
    """A matrix store and its content as arrays.

    Attributes:
        matrix: The store: 200 x 200 voxels, 8 and 6 slices; the first 50 voxels of every slice are set aside.
        truth: HU without noise, (rows, columns, slices).
        hu: HU with noise, rounded.
    """

    matrix: MatrixStore
    truth: NDArray[np.float32]
    hu: NDArray[np.int16]


def body(edge: int, slices: int) -> NDArray[np.float32]:
    """Return an ellipse of tissue with two lungs, vessels in them, and a spine, HU, (rows, columns, slices)."""
    y, x, z = np.mgrid[0:edge, 0:edge, 0:slices].astype(np.float32)
    y, x = y / edge - 0.5, x / edge - 0.5
    hu = np.full(y.shape, -1000.0, np.float32)
    hu[(y / 0.36) ** 2 + (x / 0.46) ** 2 < 1] = 40.0
    for side in (-1, 1):
        hu[((y + 0.04) / 0.17) ** 2 + ((x - side * 0.2) / 0.1) ** 2 < 1] = -850.0
        hu[(y + 0.04 - 0.003 * z) ** 2 + (x - side * (0.2 + 0.004 * z)) ** 2 < 0.0003] = 20.0
    hu[(y - 0.2) ** 2 + x**2 < 0.0015] = 400.0
    return gaussian_filter(hu, (0.7, 0.7, 0.0))


def write(
    uri: str,
    hu: NDArray[np.int16],
    counts: tuple[int, ...],
    *,
    spacing: float = 1.6,
    positions: tuple[float, ...] = (),
    breaks: tuple[int, ...] = (),
) -> MatrixStore:
    """Write a volume, (rows, columns, slices), to a matrix store as series of `counts` slices.

    Args:
        uri: URI of the store.
        hu: HU; the first 50 voxels of every slice are set aside.
        counts: Slices of each series.
        spacing: Size of a pixel in mm. The slices are 2.5 mm apart.
        positions: Positions of the slices of the only series, mm.
        breaks: Its slices before which slices are missing.
    """
    rows, columns, slices = hu.shape
    A = hu.reshape(-1, slices)
    aside = np.full_like(A, absent(np.int16))
    aside[:50] = -2000
    writer = MatrixWriter.create(uri, image=(rows, columns), cols=slices, dtype=np.int16)
    writer.write(slice(0, len(A)), slice(0, slices), A, aside)
    firsts = np.cumsum([0, *counts])
    series = [
        Series(f"1.2.{number}", int(first), count, 2.5, (spacing, spacing), breaks, positions)
        for number, (first, count) in enumerate(zip(firsts, counts, strict=False))
    ]
    writer.finish(series=series, headers=[b"header"] * slices)
    return MatrixStore.open(uri)


def noisy(truth: NDArray[np.float32], *, smooth: float = 0.6, seed: int = 1) -> NDArray[np.int16]:
    """Return `truth` with noise of sigma `SIGMA`, smoothed within slices by a Gaussian of `smooth` pixels."""
    noise = np.random.default_rng(seed).normal(0, 1, truth.shape).astype(np.float32)
    noise = gaussian_filter(noise, (smooth, smooth, 0))
    noise *= SIGMA / noise.std()
    return np.round(truth + noise).astype(np.int16)


@pytest.fixture(scope="module")
def two_series(tmp_path_factory: pytest.TempPathFactory) -> Noisy:
    """Return the store of two series. Tests must not modify it."""
    truth = np.concatenate([body(EDGE, count) for count in SLICES], axis=2)
    hu = noisy(truth)
    with pytest.MonkeyPatch.context() as patched:
        # The smallest possible row blocks, 256 voxels of 200 x 200, so that none ends where an image row ends.
        patched.setattr(store, "BLOCK_ELEMENTS", 1)
        matrix = write(str(tmp_path_factory.mktemp("noisy") / "matrix.zarr"), hu, SLICES)
    return Noisy(matrix, truth, hu)
