"""The noise of a CT series: a map of its standard deviation, and its covariance within a patch.

`Noise` holds an estimate that ctbasis/patch/noise_fit.py makes from the series itself. The standard deviation sigma is
given on a coarse grid of square cells and interpolated between their centres. The covariance refers to the noise
divided by sigma.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import distance_transform_edt

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CELL = 8
"""Pixels along the edge of a cell: small enough to fit between the edges of organs; sigma hardly varies within it."""


@dataclass(frozen=True)
class Noise:
    """The estimated noise of a series.

    Attributes:
        sigma: Standard deviation of the noise in HU, on cells of CELL x CELL pixels, (rows, columns, slices).
        covariance: Covariance of the noise divided by sigma, averaged over quiet cells, by lag:
            `covariance[ry + dy, rx + dx, rz + dz]` for lags of up to (ry, rx, rz) in either direction,
            (2 ry + 1, 2 rx + 1, 2 rz + 1); 1 at lag 0.
        quiet_cells: Number of quiet cells on which the estimate rests.
        notes: Messages for the user.
        texture_covariances: Covariances, by texture, of the noise that denoising removes, divided by the same sigma,
            (textures, 2 ry + 1, 2 rx + 1, 2 rz + 1); on average 1 - `noise_floor` at lag 0. By default the only texture
            has `covariance`.
        texture_map: Texture of every cell, (rows, columns, slices).
        scanner: Properties of the scan that were fitted to the noise, as text for the user; may be empty.
        soft_tissue_sigma: Median of sigma in soft tissue, HU; by default the median over all cells.
        noise_floor: Fraction of the noise variance that is flat in frequency and that denoising keeps.
    """

    sigma: NDArray[np.float32]
    covariance: NDArray[np.float64]
    quiet_cells: int
    notes: tuple[str, ...] = field(default=())
    texture_covariances: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    texture_map: NDArray[np.uint8] = field(default_factory=lambda: np.empty(0, np.uint8))
    scanner: str = ""
    soft_tissue_sigma: float = 0.0
    noise_floor: float = 0.0

    def __post_init__(self) -> None:
        """Replace values of sigma that are not finite or not positive by those of the nearest valid cell.

        Raises:
            CtbasisError: No cell has a valid sigma.
        """
        holes = ~(np.isfinite(self.sigma) & (self.sigma > 0))
        if holes.all():
            raise CtbasisError(
                "no cell of the noise map sigma has a finite value above 0",
                expected="the standard deviation of the noise in HU",
                cause="the stored noise map is damaged, or was not made by ctbasis",
                remedy="estimate the noise again",
            )
        if holes.any():
            nearest = distance_transform_edt(holes, return_distances=False, return_indices=True)
            object.__setattr__(self, "sigma", self.sigma[tuple(nearest)])
        if not self.soft_tissue_sigma:
            object.__setattr__(self, "soft_tissue_sigma", float(np.median(self.sigma)))
        if not self.texture_covariances.size:
            object.__setattr__(self, "texture_covariances", self.covariance[None])
            object.__setattr__(self, "texture_map", np.zeros(self.sigma.shape, np.uint8))

    @property
    def reach(self) -> tuple[int, int, int]:
        """Largest lag of the covariance along rows, columns and slices."""
        rows, columns, slices = (edge // 2 for edge in self.covariance.shape)
        return rows, columns, slices

    def sigma_rows(self, first: int, stop: int, columns: int) -> NDArray[np.float32]:
        """Return sigma of image rows `first` to `stop`, interpolated linearly between the centres of cells.

        Returns:
            Sigma in HU, (rows, columns, slices).
        """
        along = _interpolation(np.arange(first, stop), self.sigma.shape[0])
        across = _interpolation(np.arange(columns), self.sigma.shape[1])
        narrow = _interpolate(self.sigma, along, 0)
        return _interpolate(narrow, across, 1)

    def texture_rows(self, first: int, stop: int, columns: int) -> NDArray[np.uint8]:
        """Return the texture of image rows `first` to `stop`, constant within a cell, (rows, columns, slices)."""
        y, x = np.arange(first, stop) // CELL, np.arange(columns) // CELL
        return np.asarray(self.texture_map[y[:, None], x])

    def patch_covariance(self, shape: tuple[int, int, int]) -> NDArray[np.float64]:
        """Return the covariance matrix of a patch of noise divided by sigma, (voxels, voxels).

        Args:
            shape: Rows, columns and slices of the patch.
        """
        return np.asarray(self._covariance_matrices(self.covariance[None], shape)[0])

    def patch_covariances(self, shape: tuple[int, int, int]) -> NDArray[np.float64]:
        """Return the covariance matrices of the noise that denoising removes, by texture, (textures, voxels, voxels).

        Args:
            shape: Rows, columns and slices of the patch.
        """
        return self._covariance_matrices(self.texture_covariances, shape)

    @staticmethod
    def _covariance_matrices(covariances: NDArray[np.float64], shape: tuple[int, int, int]) -> NDArray[np.float64]:
        voxels = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).reshape(-1, 3)
        lags = voxels[:, None] - voxels[None]
        reach = (np.array(covariances.shape[1:]) - 1) // 2
        known = (np.abs(lags) <= reach).all(axis=-1)
        y, x, z = np.moveaxis(np.clip(lags + reach, 0, 2 * reach), -1, 0)
        return np.asarray(np.where(known, covariances[:, y, x, z], 0.0))


def _interpolation(pixels: NDArray[np.intp], cells: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return, for each pixel along an axis, the cell before it and the weight of the cell after that one."""
    place = np.clip((pixels + 0.5) / CELL - 0.5, 0, cells - 1)
    first = np.minimum(place.astype(np.intp), max(0, cells - 2))
    return first, (place - first).astype(np.float32)


def _interpolate(
    values: NDArray[np.float32], interpolation: tuple[NDArray[np.intp], NDArray[np.float32]], axis: int
) -> NDArray[np.float32]:
    first, after = interpolation
    shape = [1, 1, 1]
    shape[axis] = -1
    weight = after.reshape(shape)
    second = np.minimum(first + 1, values.shape[axis] - 1)
    return np.asarray((1 - weight) * values.take(first, axis) + weight * values.take(second, axis), np.float32)
