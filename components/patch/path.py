"""How the variance of CT noise is distributed by the object itself: the radiological path of every ray.

A line integral p that is measured with I0 photons has variance exp(p) / I0 + (sigma_e exp(p) / I0)^2, and filtered
back-projection adds the variances of the rays through a voxel. So up to two factors, which the noise itself has to
tell, the map of the variance follows from the image:

    var(x) = a B[exp(p)](x) + b B[exp(2 p)](x),      p = projection of mu

B is back-projection. It is smooth, so all is done on a coarse grid with a sparse matrix. What each direction adds to it
is kept, for it tells the noise's texture (components/patch/texture.py).

References:
    L. Yu, M. Shiung, D. Jondal, C. H. McCollough, "Development and validation of a practical lower-dose-simulation tool
        for optimizing computed tomography scan protocols", J. Comput. Assist. Tomogr. 36(4), 477-487, 2012.
    A. C. Kak and M. Slaney, "Principles of Computerized Tomographic Imaging", IEEE Press, 1988, section 5.2.
"""

from __future__ import annotations

import math
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

LONGEST = 9.0
"""Line integral beyond which a ray carries no signal on any scanner: exp(9) = 1/8000 of the photons arrive."""


def directional_variances(hu: NDArray[np.floating], cell: tuple[float, float]) -> NDArray[np.float32]:
    """Return B[exp(p)] and B[exp(2p)] by direction, (2, DIRECTIONS, rows, columns, slices).

    Each has a mean of one over directions and object. Views are in order of their angle, from that whose detector lies
    along the columns' index.

    Args:
        hu: Cell means, HU, (rows, columns, slices).
        cell: mm between cells along rows and columns.
    """
    rows, columns, slices = hu.shape
    system = _system(rows, columns, cell)
    mu = np.maximum(1.0 + hu.reshape(-1, slices) / 1000.0, 0.0) * MU_WATER
    inside = mu > MU_WATER / 2
    counts = np.exp(np.minimum(system @ mu, LONGEST))
    found = np.empty((2, DIRECTIONS, rows * columns, slices), np.float32)
    rays = system.shape[0] // DIRECTIONS
    for direction in range(DIRECTIONS):
        own = slice(direction * rays, (direction + 1) * rays)
        views = system[own]
        weight = np.asarray(views.sum(axis=0)).reshape(-1, 1)
        for power in (1, 2):
            found[power - 1, direction] = views.T @ counts[own] ** power / weight
    total = found.mean(axis=1)
    mean = total[:, inside].mean(axis=1) if inside.any() else total.mean(axis=(1, 2))
    found /= mean[:, None, None, None]
    return found.reshape(2, DIRECTIONS, rows, columns, slices)


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
