"""A model of the noise variance in a CT image, computed from the radiological paths of the rays through the patient.

The radiological path length p of a ray is the line integral of the attenuation coefficient mu. A line integral that is
measured with I0 incident photons has variance exp(p) / I0 + (sigma_e exp(p) / I0)^2: the first term is quantum noise,
the second electronic noise with standard deviation sigma_e. Filtered back-projection adds the variances of all rays
through a voxel. So the image itself predicts the variance map, up to two factors that are fitted to the noise:

    var(x) = a B[exp(p)](x) + b B[exp(2 p)](x),      p = projection of mu

B is back-projection. The variance map is smooth, so a coarse grid of cells and a sparse projection matrix suffice. The
contribution of each view direction is kept, because it determines the local texture of the noise
(ctbasis/patch/texture.py).

I0 is not the same for all rays. A bow-tie filter attenuates the rays that pass beside the centre of the body, and
tube current modulation adapts the current to the patient's width along each view. Both act as an additional path
length (`ScanModel`). Their parameters are fitted to the noise of the image (ctbasis/patch/variance_model.py).

References:
    L. Yu, M. Shiung, D. Jondal, C. H. McCollough, "Development and validation of a practical lower-dose-simulation tool
        for optimizing computed tomography scan protocols", J. Comput. Assist. Tomogr. 36(4), 477-487, 2012.
    M. Gies, W. A. Kalender, H. Wolf, C. Suess, "Dose reduction in CT by anatomically adapted tube current modulation.
        I. Simulation studies", Med. Phys. 26(11), 2235-2247, 1999.
    A. C. Kak and M. Slaney, "Principles of Computerized Tomographic Imaging", IEEE Press, 1988, section 5.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

MU_WATER = 0.02
"""Attenuation coefficient of water at CT's effective energy of about 65 keV, 1/mm."""

VIEWS = 90
"""Parallel-beam views over 180 degrees."""

DIRECTIONS = 15
"""Groups of neighbouring views, for which the variance is kept separately."""

MAX_SLICES = 24
"""Slices on which the properties of the scan are searched, at most."""

MAX_FILTER_PATH = 3.0
"""Path length of the thickest part of a bow-tie filter: exp(-3) is the smallest transmission."""


@dataclass(frozen=True)
class ScanModel:
    """Properties of a scan that change how the noise variance is distributed over the image.

    Attributes:
        starvation_path: Path length above which a ray carries no signal (photon starvation). The variance does not
            grow beyond it, because no count is less than zero. The value depends on the photons per ray; with a
            transmission of exp(-9) = 1/8000, no photons arrive on any scanner.
        bow_tie_radius: Radius in mm of the water cylinder around the image centre for which the bow-tie filter makes
            all path lengths equal; 0 is no filter.
        modulation: Fraction of the longest path of each view that tube current modulation compensates, from 0 (the
            same current in all views) to 1 (the same noise in all views).
    """

    starvation_path: float = 9.0
    bow_tie_radius: float = 0.0
    modulation: float = 0.0


class RayPaths:
    """Radiological path lengths of parallel rays through an image, slice by slice.

    Args:
        hu: Mean HU of cells, (rows, columns, slices).
        cell: Distance in mm between cells along rows and columns.
    """

    def __init__(self, hu: NDArray[np.floating], cell: tuple[float, float]) -> None:
        rows, columns, slices = self.shape = hu.shape
        self._system = _system_matrix(rows, columns, cell)
        self._weight = np.asarray(self._system.sum(axis=0)).reshape(-1, 1)
        mu = np.maximum(1.0 + hu.reshape(-1, slices) / 1000.0, 0.0) * MU_WATER
        self._inside = mu > MU_WATER / 2
        self._p = (self._system @ mu).reshape(VIEWS, -1, slices)
        bins = self._p.shape[1]
        self._positions = (np.arange(bins) - (bins - 1) / 2) * min(cell)

    def variances(self, scan: ScanModel) -> NDArray[np.float64]:
        """Return the two terms of the variance map, B[exp(p)] and B[exp(2p)], each with mean 1 over the body.

        Args:
            scan: Properties of the scan.

        Returns:
            Quantum and electronic term, (2, rows, columns, slices).
        """
        paths = self._effective_paths(scan)
        terms = [self._back_project(power, paths, slice(None)) for power in (1, 2)]
        return np.stack([(term / self._body_mean(term)).reshape(self.shape) for term in terms])

    def variances_by_direction(self, electronic_fraction: float, scan: ScanModel) -> NDArray[np.float32]:
        """Return the variance that each group of views contributes to a cell, up to one common factor.

        Views are in order of their angle. The first is the view whose detector lies along the column index.

        Args:
            electronic_fraction: Weight of B[exp(2p)]; that of B[exp(p)] is one minus it.
            scan: Properties of the scan.

        Returns:
            Variances, (DIRECTIONS, rows, columns, slices).
        """
        total = np.zeros((DIRECTIONS, *self._inside.shape), np.float32)
        paths = self._effective_paths(scan)
        rays = len(paths) // DIRECTIONS
        for power, weight in ((1, 1 - electronic_fraction), (2, electronic_fraction)):
            mean = self._body_mean(self._back_project(power, paths, slice(None)))
            for direction in range(DIRECTIONS):
                own = slice(direction * rays, (direction + 1) * rays)
                total[direction] += weight / mean * self._back_project(power, paths, own)
        return total.reshape(DIRECTIONS, *self.shape)

    def _effective_paths(self, scan: ScanModel) -> NDArray[np.float64]:
        """Return -log of the photons that arrive along every ray, up to a constant, (rays, slices)."""
        paths = self._p.copy()
        if scan.modulation:
            longest = self._p.max(axis=1, keepdims=True)
            paths -= scan.modulation * (longest - longest.mean())
        if scan.bow_tie_radius:
            chord = 2 * np.sqrt(np.maximum(scan.bow_tie_radius**2 - self._positions**2, 0.0))
            paths += np.minimum(MU_WATER * (2 * scan.bow_tie_radius - chord), MAX_FILTER_PATH)[:, None]
        return np.asarray(np.minimum(paths, scan.starvation_path).reshape(-1, self.shape[2]))

    def _back_project(self, power: int, paths: NDArray[np.float64], rays: slice) -> NDArray[np.float64]:
        return np.asarray(self._system[rays].T @ np.exp(power * paths[rays]) / self._weight)

    def _body_mean(self, values: NDArray[np.float64]) -> float:
        return float(values[self._inside].mean() if self._inside.any() else values.mean())


class TracedRays:
    """The rays through a volume, traced once for all estimates of its noise.

    Args:
        hu: Mean HU of cells, (rows, columns, slices).
        cell: Distance in mm between cells along rows and columns.
        most: Number of slices of `sample`, at most.

    Attributes:
        sampled_slices: Indices of evenly spaced slices, at most `most`.
    """

    def __init__(self, hu: NDArray[np.floating], cell: tuple[float, float], *, most: int = MAX_SLICES) -> None:
        slices = hu.shape[2]
        self.sampled_slices = np.unique(np.linspace(0, slices - 1, min(most, slices)).round().astype(np.intp))
        self._hu, self._cell = hu, cell

    @cached_property
    def sample(self) -> RayPaths:
        """Paths through `sampled_slices`."""
        return RayPaths(self._hu[..., self.sampled_slices], self._cell)

    @cached_property
    def every(self) -> RayPaths:
        """Paths through all slices."""
        return RayPaths(self._hu, self._cell)


def _system_matrix(rows: int, columns: int, cell: tuple[float, float]) -> sparse.csr_array:
    """Return the system matrix of a parallel-beam projection, in mm, (VIEWS x bins, rows x columns).

    Each cell is distributed over two neighbouring detector bins by linear interpolation.
    """
    y = (np.arange(rows) - (rows - 1) / 2) * cell[0]
    x = (np.arange(columns) - (columns - 1) / 2) * cell[1]
    pitch = min(cell)
    bins = 2 * math.ceil(math.hypot(rows * cell[0], columns * cell[1]) / 2 / pitch) + 3
    angles = np.arange(VIEWS) * (np.pi / VIEWS)
    position = np.cos(angles)[:, None, None] * x + np.sin(angles)[:, None, None] * y[:, None]
    position = position / pitch + (bins - 1) / 2
    first = np.floor(position).astype(np.int64)
    after = position - first
    ray = np.arange(VIEWS)[:, None, None] * bins + first
    area = cell[0] * cell[1] / pitch
    voxel = np.broadcast_to(np.arange(rows * columns).reshape(rows, columns), ray.shape)
    weights = np.concatenate([((1 - after) * area).ravel(), (after * area).ravel()])
    indices = np.concatenate([ray.ravel(), ray.ravel() + 1]), np.concatenate([voxel.ravel()] * 2)
    return sparse.coo_array((weights, indices), shape=(VIEWS * bins, rows * columns)).tocsr()
