"""Organs of the chest phantom as formulas: the surface of each organ in mm, and its HU.

Coordinates are patient coordinates: x to the left, y to the back, z to the head, with z = 0 in the upper abdomen.
An organ is a signed distance function (negative inside) whose surface is blended over one voxel, so that edges are
anti-aliased. Ribs, vessels and airways are chains of capsules (ctbasis/simulate/capsules.py), which are painted over
the organs. Sizes are those of an adult of medium build; no patient's anatomy is copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

from ctbasis.simulate.kernels import kernel, parallel_kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEIGHT = 300.0
"""Height of the anatomy in mm, from the upper abdomen (0) to the shoulders."""

AIR, FAT, MUSCLE, SKIN, BLOOD, BONE, MARROW, CARTILAGE = -1000.0, -95.0, 52.0, 20.0, 42.0, 650.0, 230.0, 110.0
LIVER, SPLEEN, STOMACH, HEART, DISC, CORD, TABLE = 60.0, 50.0, 35.0, 45.0, 80.0, 25.0, -250.0
LUNG_FRONT, LUNG_BACK = -885.0, -825.0
"""HU of lung in front and at the back: it is denser in the back of a patient in supine position."""

LUNG_WINDOW = -400.0
"""HU below which a voxel is lung or air; vessels of the lung are painted only there."""

TEXTURE_PITCH = 3.0
"""mm between the knots of the organs' texture."""

CAGE_Y, SPINE_Y, SPINE_PERIOD = -3.0, 47.0, 24.0

# Half-widths that change along z: positions z in mm, then half-widths in mm.
LEVELS = np.array([0.0, 60.0, 120.0, 180.0, 220.0, 250.0, 275.0, 300.0])
BODY_A = np.array([150.0, 156.0, 161.0, 165.0, 167.0, 166.0, 160.0, 150.0])
BODY_B = np.array([104.0, 108.0, 110.0, 109.0, 106.0, 101.0, 95.0, 88.0])
CAGE_A = np.array([132.0, 134.0, 132.0, 122.0, 104.0, 80.0, 52.0, 34.0])
CAGE_B = np.array([85.0, 86.0, 85.0, 82.0, 74.0, 62.0, 48.0, 36.0])


def profile(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the half-widths of body and rib cage at `z`, mm, (len(z), 4): body in x and y, cage in x and y."""
    return np.stack([np.interp(z, LEVELS, table) for table in (BODY_A, BODY_B, CAGE_A, CAGE_B)], axis=1)


@kernel
def ellipse(x: float, y: float, a: float, b: float, power: float) -> float:
    """Return the signed distance to the superellipse |x/a|^power + |y/b|^power = 1, measured along the radius."""
    f = ((abs(x) / a) ** power + (abs(y) / b) ** power) ** (1.0 / power)
    if f < 1e-6:  # noqa: PLR2004 - the centre
        return -min(a, b)
    return float(np.sqrt(x * x + y * y) * (1.0 - 1.0 / f))


@kernel
def ellipsoid(x: float, y: float, z: float, a: float, b: float, c: float) -> float:
    """Return the signed distance to an ellipsoid with semi-axes a, b, c, measured along the radius."""
    f = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
    if f < 1e-6:  # noqa: PLR2004 - the centre
        return -min(a, b, c)
    return float(np.sqrt(x * x + y * y + z * z) * (1.0 - 1.0 / f))


@kernel
def _meet(d: float, e: float, rounding: float) -> float:
    """Return the signed distance to the intersection of two bodies with rounded edges (polynomial smooth maximum)."""
    h = max(rounding - abs(d - e), 0.0) / rounding
    return max(d, e) + h * h * rounding * 0.25


@kernel
def blend(under: float, over: float, distance: float, width: float) -> float:
    """Return `over` where `distance` is negative, `under` where it is positive, and a mixture at the surface."""
    part = min(max(0.5 - distance / width, 0.0), 1.0)
    return under + part * (over - under)


@kernel
def _dome(x: float, y: float) -> float:
    """Return the height of the diaphragm under the right (x < 0) or left lung, mm; lowest at the back and the side."""
    top, middle = (98.0, -68.0) if x < 0.0 else (84.0, 72.0)
    return top - 62.0 * ((x - middle) / 62.0) ** 2 - 75.0 * ((y + 28.0) / 82.0) ** 2


@kernel
def _mediastinum(y: float, z: float) -> float:
    """Return half the width of the mediastinum at depth `y` and height `z`, mm."""
    front = 9.0 + 14.0 * np.exp(-(((y + 85.0) / 22.0) ** 2))
    middle = 24.0 * np.exp(-(((y - 2.0) / 34.0) ** 2))
    back = 17.0 * np.exp(-(((y - SPINE_Y) / 20.0) ** 2))
    apex = 12.0 * max(0.0, (z - 230.0) / 70.0)
    return float(front + middle + back + apex)


@kernel
def lung_distance(x: float, y: float, z: float, cage_a: float, cage_b: float) -> float:
    """Return the signed distance to the surface of the nearest lung, mm; negative inside a lung."""
    wall = ellipse(x, y - CAGE_Y, cage_a, cage_b, 2.2) + 1.5
    side = _mediastinum(y, z) - abs(x)
    floor = 0.6 * (_dome(x, y) - z)
    return _meet(_meet(wall, side, 12.0), floor, 6.0)


@kernel
def _spine(under: float, x: float, y: float, z: float, depth: float, width: float) -> float:
    """Paint a vertebra or a disc, the vertebral arch around the spinal canal, and the processes."""
    phase = abs((z / SPINE_PERIOD) % 1.0 - 0.5) * SPINE_PERIOD
    disc = phase - 2.8
    body = ellipse(x, y - SPINE_Y, 18.0 - 0.12 * phase, 14.5, 2.3)
    hu = blend(under, MUSCLE, max(ellipse(x, y - SPINE_Y - 36.0, 46.0, 17.0, 2.5), depth + 4.0), width)
    hu = blend(hu, BONE * 0.75, body, width)
    hu = blend(hu, MARROW, max(body + 1.8, 1.6 - disc), width)
    hu = blend(hu, DISC, max(body, disc), width)
    back = y - SPINE_Y - 24.0
    level = max(abs(phase - 9.0) - 6.5, 0.0)
    arch = ellipse(x, back, 14.0, 12.0, 2.0) + level
    spinous = max(abs(x) - 3.2, abs(back - 18.0) - 10.0) + level
    transverse = max(abs(back + 3.0 + 0.12 * abs(x)) - 4.0, abs(x) - 33.0) + level
    hu = blend(hu, BONE * 0.7, min(arch, spinous, transverse), width)
    hu = blend(hu, FAT, ellipse(x, back, 9.5, 8.5, 2.0), width)
    return blend(hu, CORD, ellipse(x, back, 6.5, 5.5, 2.0), width)


@kernel
def liver_distance(x: float, y: float, z: float, cage: float) -> float:
    """Return the signed distance to the surface of the liver, mm; `cage` is the distance to the rib cage."""
    below = 0.6 * (z - _dome(x, y)) + 2.5
    lobe = 0.75 * (x - 34.0 + 0.5 * (y + 30.0) - 0.45 * (z - 60.0))
    behind = 24.0 - np.sqrt(x * x + (y - SPINE_Y) ** 2)
    return _meet(_meet(lobe, max(cage + 4.0, behind), 20.0), below if x < 0.0 else max(below, z - 84.0), 5.0)


@kernel
def _abdomen(under: float, x: float, y: float, z: float, cage: float, texture: float, width: float) -> float:
    """Paint the organs below the diaphragm: liver, spleen, and stomach with gas."""
    below = 0.6 * (z - _dome(x, y)) + 2.5
    hu = under
    stomach = ellipsoid(x - 58.0, y + 28.0, z - 22.0, 46.0, 38.0, 44.0)
    gas = _meet(stomach + 4.0, y + 46.0, 4.0)
    hu = blend(hu, STOMACH + 4.0 * texture, _meet(stomach, max(below, cage + 4.0), 4.0), width)
    hu = blend(hu, AIR + 30.0, _meet(gas, below, 4.0), width)
    spleen = ellipsoid(x - 92.0, y - 38.0, z - 30.0, 30.0, 40.0, 42.0)
    hu = blend(hu, SPLEEN + 5.0 * texture, _meet(spleen, max(below, cage + 4.0), 4.0), width)
    return blend(hu, LIVER + 5.0 * texture, liver_distance(x, y, z, cage), width)


@kernel
def _heart(under: float, x: float, y: float, z: float, texture: float, width: float) -> float:
    """Paint the heart in fat: an ellipsoid that points to the left, front and down, with slightly darker ventricles."""
    along, across, _, aside = heart_axes(x, y, z)
    hu = blend(under, FAT, ellipsoid(along, across, aside, 68.0, 51.0, 51.0), width)
    hu = blend(hu, HEART + 6.0 + 4.0 * texture, ellipsoid(along, across, aside, 62.0, 46.0, 46.0), width)
    hu = blend(hu, BLOOD - 3.0, ellipsoid(along - 10.0, across - 14.0, aside, 36.0, 17.0, 24.0), 4.0 * width)
    return blend(hu, BLOOD - 3.0, ellipsoid(along - 6.0, across + 20.0, aside, 32.0, 13.0, 24.0), 4.0 * width)


@kernel
def heart_axes(x: float, y: float, z: float) -> tuple[float, float, float, float]:
    """Return a position in the axes of the heart, mm.

    Returns:
        Along the long axis, which points to the left, front and down; across; up; and the distance from the plane of
        the first two, without its sign.
    """
    u, v, w = x - 20.0, y + 22.0, z - 108.0
    along = 0.70 * u - 0.50 * v - 0.51 * w
    across = 0.58 * u + 0.81 * v
    up = 0.41 * u - 0.30 * v + 0.86 * w
    aside = np.sqrt(max(u * u + v * v + w * w - along * along - across * across, 0.0))
    return along, across, up, aside


@kernel
def _wall(x: float, y: float, depth: float, texture: float, coarse: float, body: tuple[float, float]) -> float:
    """Return the HU of the body wall at `depth` (negative inside the skin): skin, fat, and muscles with fat between."""
    hu = FAT + 7.0 * texture
    fat = 13.0 + 6.0 * (abs(x) / body[0]) + 4.0 * (y / body[1]) ** 2
    muscle = depth + fat + 2.5 * coarse
    strands = min(0.45 + abs(coarse - 0.25) / 0.1, 1.0)
    hu = blend(hu, FAT + strands * (MUSCLE + 6.0 * texture - FAT), muscle, 3.0)
    return blend(hu, SKIN, -2.0 - depth, 1.5)


@kernel
def _value(
    x: float, y: float, z: float, shape: NDArray[np.float64], texture: float, coarse: float, width: float
) -> float:
    """Return the HU at a point, without the capsules."""
    hu = AIR
    # The patient table: a shell under the back, with foam inside.
    table = np.sqrt(x * x + (y + 500.0) ** 2) - 634.0
    hu = blend(hu, TABLE, max(abs(table) - 1.5, abs(x) - 172.0), width)
    depth = ellipse(x, y, shape[0], shape[1], 2.35)
    if depth > width:
        return hu
    hu = blend(hu, _wall(x, y, depth, texture, coarse, (shape[0], shape[1])), depth, width)
    cage = ellipse(x, y - CAGE_Y, shape[2], shape[3], 2.2)
    if cage < width + 40.0:
        intercostal = ellipse(x, y - CAGE_Y, shape[2] + 11.0, shape[3] + 9.0, 2.2)
        hu = blend(hu, MUSCLE + 6.0 * texture, max(intercostal, depth + 6.0), width)
    if cage < width:
        hu = blend(hu, FAT + 25.0 + 8.0 * texture, cage + 1.5, width)
        hu = _abdomen(hu, x, y, z, cage, texture, width)
        height = (y + 80.0) / 160.0
        lung = LUNG_FRONT + height * (LUNG_BACK - LUNG_FRONT) + 14.0 * texture + 12.0 * coarse
        hu = blend(hu, lung, lung_distance(x, y, z, shape[2], shape[3]), width)
        hu = _heart(hu, x, y, z, texture, width)
    if abs(x) < 60.0 and y > 20.0:  # noqa: PLR2004 - the whole spine is inside
        hu = _spine(hu, x, y, z, depth, width)
    return hu


@kernel
def lattice(knots: NDArray[np.float32], u: float, v: float, w: float) -> float:
    """Interpolate the periodic lattice `knots` trilinearly at (u, v, w): a texture that is smooth in all directions."""
    i, j, k = int(np.floor(u)), int(np.floor(v)), int(np.floor(w))
    fu, fv, fw = u - i, v - j, w - k
    total = 0.0
    for a in range(2):
        for b in range(2):
            for c in range(2):
                part = (fu if a else 1.0 - fu) * (fv if b else 1.0 - fv) * (fw if c else 1.0 - fw)
                total += part * knots[(i + a) % knots.shape[0], (j + b) % knots.shape[1], (k + c) % knots.shape[2]]
    return total


@parallel_kernel
def paint_organs(
    hu: NDArray[np.float32],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    z: NDArray[np.float64],
    shapes: NDArray[np.float64],
    knots: NDArray[np.float32],
) -> None:
    """Fill `hu`, (z, y, x), with all organs except the capsules.

    Args:
        hu: Output, HU.
        x: Positions of the columns, mm.
        y: Positions of the rows, mm.
        z: Positions of the slices, mm.
        shapes: `profile(z)`.
        knots: Standard normal random numbers, the knots of the texture.
    """
    width = abs(x[1] - x[0])
    for s in numba.prange(len(z)):
        for r in range(len(y)):
            for c in range(len(x)):
                u, v, w = z[s] / TEXTURE_PITCH, y[r] / TEXTURE_PITCH, x[c] / TEXTURE_PITCH
                texture = lattice(knots, u, v, w)
                coarse = lattice(knots, 0.23 * u + 7.3, 0.31 * v + 5.1, 0.31 * w + 3.7)
                hu[s, r, c] = _value(x[c], y[r], z[s], shapes[s], texture, coarse, width)


@parallel_kernel
def paint_capsules(
    hu: NDArray[np.float32],
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    z: NDArray[np.float64],
    capsules: NDArray[np.float64],
    where: NDArray[np.bool_],
) -> None:
    """Paint capsules over `hu`, (z, y, x), in their order.

    Args:
        hu: Input and output, HU.
        x: Positions of the columns, mm.
        y: Positions of the rows, mm.
        z: Positions of the slices, mm.
        capsules: A row is x0, y0, z0, r0 of the first end, x1, y1, z1, r1 of the second end, mm, and the HU.
        where: Voxels that may be painted, (z, y, x).
    """
    width = abs(x[1] - x[0])
    for s in numba.prange(len(z)):
        for index in range(len(capsules)):
            x0, y0, z0, r0, x1, y1, z1, r1, value = capsules[index]
            reach = max(r0, r1) + width
            if z[s] < min(z0, z1) - reach or z[s] > max(z0, z1) + reach:
                continue
            ux, uy, uz = x1 - x0, y1 - y0, z1 - z0
            length = max(ux * ux + uy * uy + uz * uz, 1e-9)
            first_row = max(0, int((min(y0, y1) - reach - y[0]) / width))
            last_row = min(len(y), int((max(y0, y1) + reach - y[0]) / width) + 2)
            first_column = max(0, int((min(x0, x1) - reach - x[0]) / width))
            last_column = min(len(x), int((max(x0, x1) + reach - x[0]) / width) + 2)
            for r in range(first_row, last_row):
                for c in range(first_column, last_column):
                    if not where[s, r, c]:
                        continue
                    px, py, pz = x[c] - x0, y[r] - y0, z[s] - z0
                    t = min(max((px * ux + py * uy + pz * uz) / length, 0.0), 1.0)
                    away = np.sqrt((px - t * ux) ** 2 + (py - t * uy) ** 2 + (pz - t * uz) ** 2)
                    hu[s, r, c] = blend(hu[s, r, c], value, away - (r0 + t * (r1 - r0)), width)
