"""How the variance of CT noise is distributed by the object itself: the radiological path of every ray.

A line integral p that is measured with I0 photons has variance exp(p) / I0 + (sigma_e exp(p) / I0)^2, and filtered
back-projection adds the variances of the rays through a voxel. So up to two factors, which the noise itself has to
tell, the map of the variance follows from the image:

    var(x) = a B[exp(p)](x) + b B[exp(2 p)](x),      p = projection of mu

B is back-projection. It is smooth, so all is done on a coarse grid with a sparse matrix. What each direction adds to it
is kept, for it tells the noise's texture (ctbasis/patch/texture.py).

I0 is not the same for all rays: a bow-tie filter takes photons from those that pass beside the middle of the body,
and the tube current may follow the body around it. Either changes p by what it takes (`Scan`). What a scanner did is
told by the noise itself (ctbasis/patch/variance_model.py).

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
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from numpy.typing import NDArray

MU_WATER = 0.02
"""Attenuation of water at CT's effective energy of about 65 keV, 1/mm."""

VIEWS = 90

DIRECTIONS = 15
"""Groups of neighbouring views."""

THICKEST = 3.0
"""-log of the share of the photons that the thickest part of a bow-tie filter lets through."""


@dataclass(frozen=True)
class Scan:
    """What a scanner does to how noise is distributed.

    Attributes:
        longest: p beyond which a ray carries no signal, so that its variance grows no more, as no count is less than
            none. Which it is hangs on the photons; exp(-9) = 1/8000 of them are none on any scanner.
        bow_tie: Radius in mm of the cylinder of water, about the middle of the image, whose paths the filter makes
            alike; 0 is no filter.
        modulation: Part of each view's longest path that the tube current makes up for: 0, the same current all around,
            to 1, the same noise.
    """

    longest: float = 9.0
    bow_tie: float = 0.0
    modulation: float = 0.0


class RayPaths:
    """The rays through an image, slice by slice.

    Args:
        hu: Cell means, HU, (rows, columns, slices).
        cell: mm between cells along rows and columns.
    """

    def __init__(self, hu: NDArray[np.floating], cell: tuple[float, float]) -> None:
        rows, columns, slices = self.shape = hu.shape
        self._system = _system(rows, columns, cell)
        self._weight = np.asarray(self._system.sum(axis=0)).reshape(-1, 1)
        mu = np.maximum(1.0 + hu.reshape(-1, slices) / 1000.0, 0.0) * MU_WATER
        self._inside = mu > MU_WATER / 2
        self._p = (self._system @ mu).reshape(VIEWS, -1, slices)
        bins = self._p.shape[1]
        self._positions = (np.arange(bins) - (bins - 1) / 2) * min(cell)

    def variances(self, scan: Scan) -> NDArray[np.float64]:
        """Return B[exp(p)] and B[exp(2p)], (2, rows, columns, slices), each with a mean of one over the object."""
        lost = self._lost(scan)
        found = [self._back(power, lost, slice(None)) for power in (1, 2)]
        return np.stack([(one / self._mean(one)).reshape(self.shape) for one in found])

    def by_direction(self, share: float, scan: Scan) -> NDArray[np.float32]:
        """Return the variance of the rays through a cell by direction, (DIRECTIONS, rows, columns, slices).

        Up to a factor. Views are in order of their angle, from that whose detector lies along the columns' index.

        Args:
            share: Of B[exp(2p)]; the rest is B[exp(p)].
            scan: As above.
        """
        found = np.zeros((DIRECTIONS, *self._inside.shape), np.float32)
        lost = self._lost(scan)
        rays = len(lost) // DIRECTIONS
        for power, part in ((1, 1 - share), (2, share)):
            mean = self._mean(self._back(power, lost, slice(None)))
            for direction in range(DIRECTIONS):
                own = slice(direction * rays, (direction + 1) * rays)
                found[direction] += part / mean * self._back(power, lost, own)
        return found.reshape(DIRECTIONS, *self.shape)

    def _lost(self, scan: Scan) -> NDArray[np.float64]:
        """Return -log of the photons that arrive along every ray, (rays, slices), up to a constant."""
        lost = self._p.copy()
        if scan.modulation:
            longest = self._p.max(axis=1, keepdims=True)
            lost -= scan.modulation * (longest - longest.mean())
        if scan.bow_tie:
            chord = 2 * np.sqrt(np.maximum(scan.bow_tie**2 - self._positions**2, 0.0))
            lost += np.minimum(MU_WATER * (2 * scan.bow_tie - chord), THICKEST)[:, None]
        return np.asarray(np.minimum(lost, scan.longest).reshape(-1, self.shape[2]))

    def _back(self, power: int, lost: NDArray[np.float64], rays: slice) -> NDArray[np.float64]:
        return np.asarray(self._system[rays].T @ np.exp(power * lost[rays]) / self._weight)

    def _mean(self, found: NDArray[np.float64]) -> float:
        return float(found[self._inside].mean() if self._inside.any() else found.mean())


def _system(rows: int, columns: int, cell: tuple[float, float]) -> sparse.csr_array:
    """Return the matrix of a parallel-beam projection, (VIEWS bins, rows columns), mm: each cell onto two bins."""
    y = (np.arange(rows) - (rows - 1) / 2) * cell[0]
    x = (np.arange(columns) - (columns - 1) / 2) * cell[1]
    pitch = min(cell)
    bins = 2 * math.ceil(math.hypot(rows * cell[0], columns * cell[1]) / 2 / pitch) + 3
    angles = np.arange(VIEWS) * (np.pi / VIEWS)
    place = np.cos(angles)[:, None, None] * x + np.sin(angles)[:, None, None] * y[:, None]
    place = place / pitch + (bins - 1) / 2
    first = np.floor(place).astype(np.int64)
    after = place - first
    ray = np.arange(VIEWS)[:, None, None] * bins + first
    area = cell[0] * cell[1] / pitch
    voxel = np.broadcast_to(np.arange(rows * columns).reshape(rows, columns), ray.shape)
    weights = np.concatenate([((1 - after) * area).ravel(), (after * area).ravel()])
    indices = np.concatenate([ray.ravel(), ray.ravel() + 1]), np.concatenate([voxel.ravel()] * 2)
    return sparse.coo_array((weights, indices), shape=(VIEWS * bins, rows * columns)).tocsr()
