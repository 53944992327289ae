"""Structure of low contrast in the soft tissue of the chest phantom: chambers, vessels, strands and texture.

Noise is measured where an image is quiet, and the soft tissue of a patient is never quite quiet: the heart has walls
and chambers, the liver has vessels, muscles have strands of fat, fat has septa, and every organ has a texture on scales
from a few millimetres to centimetres. A noise model that takes this structure for noise removes it. The structure here
has contrasts of 5 to 40 HU, the range of a chest without contrast agent.

The texture is a sum of octaves of smooth random fields. Septa and strands are thin sheets in which such a field is near
zero: lines in every slice that continue in the slices beside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

from ctbasis.simulate import anatomy
from ctbasis.simulate.anatomy import (
    BLOOD,
    CAGE_Y,
    FAT,
    HEART,
    LIVER,
    blend,
    ellipse,
    ellipsoid,
    heart_axes,
    lattice,
    liver_distance,
    profile,
)
from ctbasis.simulate.capsules import chain, great_vessels, tree
from ctbasis.simulate.kernels import kernel, parallel_kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

OCTAVES = np.array([[3.0, 4.0], [6.0, 7.0], [12.0, 8.0], [24.0, 6.0]])
"""Texture of the organs: the pitch of a random field in mm, and its amplitude in HU; power falls with frequency."""

FAT_PART = 0.8
"""Amplitude of the texture in fat, over that in organs and muscle."""

STRAND_PITCH, STRAND_WIDTH, STRAND_HU = 7.0, 0.16, -55.0
"""Strands of fat in muscle: pitch of their field in mm, half width as a value of the field, HU against muscle."""

SEPTUM_PITCH, SEPTUM_WIDTH, SEPTUM_HU = 9.0, 0.13, 40.0
"""Septa in fat, as the strands in muscle; HU against fat."""

ALONG = 4.0
"""Length of muscle fibres over their thickness."""

CHAMBER = HEART - 18.0
"""HU of blood in the chambers of the heart; the wall of the heart has HEART + 6."""

LIVER_VESSEL = LIVER - 22.0
"""HU of vessels in the liver without contrast agent: they are darker than the tissue around them."""

VESSEL_WALL, WALL_HU = 1.4, BLOOD + 16.0
"""Thickness of the wall of a great vessel in mm, and its HU."""

ORGAN_TEXTURE = 25.0
"""HU that the texture of anatomy.py stays within; it tells liver and fat from other tissue."""

CHAMBERS = np.array(
    [
        # along, across, up, and the semi-axes in the same directions, mm
        [14.0, -16.0, 6.0, 34.0, 17.0, 20.0],
        [10.0, 21.0, -4.0, 30.0, 14.0, 24.0],
        [-38.0, -12.0, 8.0, 15.0, 20.0, 19.0],
        [-36.0, 24.0, -2.0, 15.0, 14.0, 18.0],
    ]
)
"""Ventricles, then atria, as ellipsoids in the axes of the heart."""

PAPILLARY = np.array([[18.0, -26.0, 12.0, 12.0, 3.5, 3.5], [20.0, -8.0, 0.0, 12.0, 3.0, 3.0]])
"""Papillary muscles in the left ventricle, as CHAMBERS."""

GROOVES = np.array([[-22.0, 0.0, 40.0, 7.0, 26.0, 8.0], [-22.0, 34.0, 10.0, 6.0, 9.0, 20.0]])
"""Fat in the grooves between atria and ventricles, as CHAMBERS."""


@kernel
def _octaves(x: float, y: float, z: float, knots: NDArray[np.float32]) -> float:
    """Return the texture at a point, HU."""
    total = 0.0
    for index in range(len(OCTAVES)):
        pitch, amplitude = OCTAVES[index, 0], OCTAVES[index, 1]
        shift = 11.3 * (index + 1)
        total += amplitude * lattice(knots, z / pitch + shift, y / pitch + 2.0 * shift, x / pitch + 3.0 * shift)
    return total


@kernel
def _sheet(value: float, width: float) -> float:
    """Return 1 where a random field is zero, 0 where it is farther from zero than `width`."""
    return max(1.0 - abs(value) / width, 0.0)


@kernel
def _plateau(value: float, low: float, high: float, ramp: float) -> float:
    """Return 1 from `low` to `high`, and 0 at a distance of `ramp` from them."""
    return min(max(min(value - low, high - value) / ramp + 1.0, 0.0), 1.0)


@kernel
def _chambers(under: float, x: float, y: float, z: float, width: float) -> float:
    """Paint grooves of fat, chambers and papillary muscles into the heart."""
    along, across, up, aside = heart_axes(x, y, z)
    wall = ellipsoid(along, across, aside, 60.0, 44.0, 44.0)
    if wall > 0.0:
        return under
    hu = under
    for index in range(len(GROOVES)):
        a, b, c, p, q, r = GROOVES[index]
        hu = blend(hu, FAT + 30.0, ellipsoid(along - a, across - b, up - c, p, q, r), 2.0 * width)
    for index in range(len(CHAMBERS)):
        a, b, c, p, q, r = CHAMBERS[index]
        inside = max(ellipsoid(along - a, across - b, up - c, p, q, r), wall + 4.0)
        hu = blend(hu, CHAMBER + 4.0 * (index % 2), inside, 1.5 * width)
    for index in range(len(PAPILLARY)):
        a, b, c, p, q, r = PAPILLARY[index]
        hu = blend(hu, HEART + 4.0, ellipsoid(along - a, across - b, up - c, p, q, r), 1.5 * width)
    return hu


def paint(
    hu: NDArray[np.float32],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    z: NDArray[np.float64],
    shapes: NDArray[np.float64],
    knots: NDArray[np.float32],
    rng: np.random.Generator,
) -> None:
    """Add the structure to `hu`, (z, y, x), after `anatomy.paint_organs`.

    Args:
        hu: Input and output, HU.
        x: Positions of the columns, mm.
        y: Positions of the rows, mm.
        z: Positions of the slices, mm.
        shapes: `anatomy.profile(z)`.
        knots: Standard normal random numbers, the knots of the random fields.
        rng: Draws the vessels.
    """
    liver = (hu > LIVER - ORGAN_TEXTURE) & (hu < LIVER + ORGAN_TEXTURE)
    fat = (hu > FAT - ORGAN_TEXTURE) & (hu < FAT + ORGAN_TEXTURE)
    anatomy.paint_capsules(hu, x, y, z, _liver_vessels(rng), liver)
    anatomy.paint_capsules(hu, x, y, z, _fat_vessels(rng), fat)
    _paint_texture(hu, x, y, z, shapes, knots)


def vessel_walls() -> NDArray[np.float64]:
    """Return the walls of the great vessels as capsules, to be painted before the vessels."""
    return great_vessels(VESSEL_WALL, WALL_HU)


@parallel_kernel
def _paint_texture(
    hu: NDArray[np.float32],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    z: NDArray[np.float64],
    shapes: NDArray[np.float64],
    knots: NDArray[np.float32],
) -> None:
    """Paint the heart's chambers, strands, septa and texture; see `paint`."""
    width = abs(x[1] - x[0])
    for s in numba.prange(len(z)):
        for r in range(len(y)):
            for c in range(len(x)):
                value = _chambers(hu[s, r, c], x[c], y[r], z[s], width)
                fat = _plateau(value, FAT - 25.0, FAT + 45.0, 25.0)
                soft = _plateau(value, 15.0, 85.0, 25.0)
                if fat + soft == 0.0:
                    continue
                value += (FAT_PART * fat + soft) * _octaves(x[c], y[r], z[s], knots)
                septum = lattice(knots, z[s] / SEPTUM_PITCH, y[r] / SEPTUM_PITCH + 17.7, x[c] / SEPTUM_PITCH + 31.1)
                value += fat * SEPTUM_HU * _sheet(septum, SEPTUM_WIDTH)
                if ellipse(x[c], y[r] - CAGE_Y, shapes[s, 2], shapes[s, 3], 2.2) > 0.0:
                    # Fibres of the body wall run along the patient and around the chest.
                    long = ALONG * STRAND_PITCH
                    strand = lattice(knots, z[s] / long + 3.3, y[r] / STRAND_PITCH + 41.9, x[c] / long + 23.2)
                    value += soft * STRAND_HU * _sheet(strand, STRAND_WIDTH)
                hu[s, r, c] = value


def _liver_vessels(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return branching vessels of the liver as capsules, HU of LIVER_VESSEL."""
    tips = _liver_points(160, rng)
    lines = tree(np.array([-24.0, 2.0, 42.0]), tips, rng)
    return np.vstack([chain(line, 0.55 * supplied ** (1 / 2.6), LIVER_VESSEL) for line, supplied in lines])


def _liver_points(count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw `count` random points in the liver, (count, 3), mm, at least 4 mm from its surface."""
    points: list[NDArray[np.float64]] = []
    while len(points) < count:
        x, y, z = rng.uniform((-140.0, -90.0, -20.0), (40.0, 90.0, 100.0))
        cage_a, cage_b = profile(np.array([z]))[0, 2:]
        cage = ellipse(x, y - CAGE_Y, cage_a, cage_b, 2.2)
        if liver_distance(x, y, z, cage) < -4.0:  # noqa: PLR2004 - mm
            points.append(np.array([x, y, z]))
    return np.array(points)


def _fat_vessels(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return small veins and arteries that run along the patient in the fat of the body wall, as capsules."""
    chains = []
    for _ in range(60):
        angle, low = rng.uniform(0.0, 2.0 * np.pi), rng.uniform(-20.0, 260.0)
        steps = np.arange(8.0)[:, None] * np.array([0.0, 0.0, 10.0]) + np.cumsum(rng.normal(0.0, 1.5, (8, 3)), axis=0)
        start = np.array([150.0 * np.cos(angle), 96.0 * np.sin(angle), low])
        chains.append(chain(start + steps, rng.uniform(0.6, 1.6), BLOOD - 10.0))
    return np.vstack(chains)
