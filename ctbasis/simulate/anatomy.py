"""The anatomy of the chest phantom as formulas: where each organ's surface is, in mm, and what HU it holds.

Coordinates are the patient's: x to the left, y to the back, z to the head, z = 0 in the upper abdomen.
An organ is a signed distance (negative inside) whose surface is blended over one voxel, so that edges are anti-aliased.
Long things (ribs, vessels, airways) are chains of capsules: cylinders with round ends whose radius tapers.
Sizes are those of an adult of medium build; no patient's anatomy is copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numba
import numpy as np

from ctbasis.simulate.kernels import kernel, parallel_kernel

if TYPE_CHECKING:
    from numpy.typing import NDArray

HEIGHT = 300.0
"""mm of the anatomy from the upper abdomen (0) to the shoulders."""

AIR, FAT, MUSCLE, SKIN, BLOOD, BONE, MARROW, CARTILAGE = -1000.0, -95.0, 52.0, 20.0, 42.0, 650.0, 230.0, 110.0
LIVER, SPLEEN, STOMACH, HEART, DISC, CORD, TABLE = 60.0, 50.0, 35.0, 45.0, 80.0, 25.0, -250.0
LUNG_FRONT, LUNG_BACK = -885.0, -825.0
"""Lung is denser where it hangs lowest: the back of a patient lying on it."""

LUNG_WINDOW = -400.0
"""HU below which a voxel is lung (or air): where the lungs' own vessels are painted."""

TEXTURE_PITCH = 3.0
"""mm between the knots of the organs' texture."""

CAGE_Y, SPINE_Y, SPINE_PERIOD = -3.0, 47.0, 24.0

# What changes along z is tabled: z in mm, then half-widths in mm.
_Z = np.array([0.0, 60.0, 120.0, 180.0, 220.0, 250.0, 275.0, 300.0])
_BODY_A = np.array([150.0, 156.0, 161.0, 165.0, 167.0, 166.0, 160.0, 150.0])
_BODY_B = np.array([104.0, 108.0, 110.0, 109.0, 106.0, 101.0, 95.0, 88.0])
_CAGE_A = np.array([132.0, 134.0, 132.0, 122.0, 104.0, 80.0, 52.0, 34.0])
_CAGE_B = np.array([85.0, 86.0, 85.0, 82.0, 74.0, 62.0, 48.0, 36.0])


def profile(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return body and rib cage half-widths at `z`, (len(z), 4): body in x and y, cage in x and y, mm."""
    return np.stack([np.interp(z, _Z, table) for table in (_BODY_A, _BODY_B, _CAGE_A, _CAGE_B)], axis=1)


@kernel
def _ellipse(x: float, y: float, a: float, b: float, power: float) -> float:
    """Return the distance to the superellipse |x/a|^power + |y/b|^power = 1, measured along the radius."""
    f = ((abs(x) / a) ** power + (abs(y) / b) ** power) ** (1.0 / power)
    if f < 1e-6:  # noqa: PLR2004 - the centre
        return -min(a, b)
    return float(np.sqrt(x * x + y * y) * (1.0 - 1.0 / f))


@kernel
def _ellipsoid(x: float, y: float, z: float, a: float, b: float, c: float) -> float:
    """Return the distance to an ellipsoid, measured along the radius."""
    f = np.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
    if f < 1e-6:  # noqa: PLR2004 - the centre
        return -min(a, b, c)
    return float(np.sqrt(x * x + y * y + z * z) * (1.0 - 1.0 / f))


@kernel
def _meet(d: float, e: float, rounding: float) -> float:
    """Return the distance to the intersection of two bodies, its edge rounded (polynomial smooth maximum)."""
    h = max(rounding - abs(d - e), 0.0) / rounding
    return max(d, e) + h * h * rounding * 0.25


@kernel
def _blend(under: float, over: float, distance: float, width: float) -> float:
    """Paint `over` where `distance` is negative; across the surface the voxel holds a part of each."""
    part = min(max(0.5 - distance / width, 0.0), 1.0)
    return under + part * (over - under)


@kernel
def _dome(x: float, y: float) -> float:
    """Return the height of the diaphragm under the right (x < 0) or left lung, mm: deepest at the back and the side."""
    top, middle = (98.0, -68.0) if x < 0.0 else (84.0, 72.0)
    return top - 62.0 * ((x - middle) / 62.0) ** 2 - 75.0 * ((y + 28.0) / 82.0) ** 2


@kernel
def _mediastinum(y: float, z: float) -> float:
    """Return half the width of what stands between the lungs at depth `y`, mm."""
    front = 9.0 + 14.0 * np.exp(-(((y + 85.0) / 22.0) ** 2))
    middle = 24.0 * np.exp(-(((y - 2.0) / 34.0) ** 2))
    back = 17.0 * np.exp(-(((y - SPINE_Y) / 20.0) ** 2))
    apex = 12.0 * max(0.0, (z - 230.0) / 70.0)
    return float(front + middle + back + apex)


@kernel
def lung_distance(x: float, y: float, z: float, cage_a: float, cage_b: float) -> float:
    """Return the distance to the nearest lung's surface, negative in a lung, mm."""
    wall = _ellipse(x, y - CAGE_Y, cage_a, cage_b, 2.2) + 1.5
    side = _mediastinum(y, z) - abs(x)
    floor = 0.6 * (_dome(x, y) - z)
    return _meet(_meet(wall, side, 12.0), floor, 6.0)


@kernel
def _spine(under: float, x: float, y: float, z: float, depth: float, width: float) -> float:
    """Paint a vertebra or a disc, its arch around the spinal canal and its processes."""
    phase = abs((z / SPINE_PERIOD) % 1.0 - 0.5) * SPINE_PERIOD
    disc = phase - 2.8
    body = _ellipse(x, y - SPINE_Y, 18.0 - 0.12 * phase, 14.5, 2.3)
    hu = _blend(under, MUSCLE, max(_ellipse(x, y - SPINE_Y - 36.0, 46.0, 17.0, 2.5), depth + 4.0), width)
    hu = _blend(hu, BONE * 0.75, body, width)
    hu = _blend(hu, MARROW, max(body + 1.8, 1.6 - disc), width)
    hu = _blend(hu, DISC, max(body, disc), width)
    back = y - SPINE_Y - 24.0
    level = max(abs(phase - 9.0) - 6.5, 0.0)
    arch = _ellipse(x, back, 14.0, 12.0, 2.0) + level
    spinous = max(abs(x) - 3.2, abs(back - 18.0) - 10.0) + level
    transverse = max(abs(back + 3.0 + 0.12 * abs(x)) - 4.0, abs(x) - 33.0) + level
    hu = _blend(hu, BONE * 0.7, min(arch, spinous, transverse), width)
    hu = _blend(hu, FAT, _ellipse(x, back, 9.5, 8.5, 2.0), width)
    return _blend(hu, CORD, _ellipse(x, back, 6.5, 5.5, 2.0), width)


@kernel
def _abdomen(under: float, x: float, y: float, z: float, cage: float, texture: float, width: float) -> float:
    """Paint what lies under the diaphragm: liver, spleen, stomach with its gas."""
    below = 0.6 * (z - _dome(x, y)) + 2.5
    hu = under
    stomach = _ellipsoid(x - 58.0, y + 28.0, z - 22.0, 46.0, 38.0, 44.0)
    gas = _meet(stomach + 4.0, y + 46.0, 4.0)
    hu = _blend(hu, STOMACH + 4.0 * texture, _meet(stomach, max(below, cage + 4.0), 4.0), width)
    hu = _blend(hu, AIR + 30.0, _meet(gas, below, 4.0), width)
    spleen = _ellipsoid(x - 92.0, y - 38.0, z - 30.0, 30.0, 40.0, 42.0)
    hu = _blend(hu, SPLEEN + 5.0 * texture, _meet(spleen, max(below, cage + 4.0), 4.0), width)
    lobe = 0.75 * (x - 34.0 + 0.5 * (y + 30.0) - 0.45 * (z - 60.0))
    behind = 24.0 - np.sqrt(x * x + (y - SPINE_Y) ** 2)
    liver = _meet(_meet(lobe, max(cage + 4.0, behind), 20.0), below if x < 0.0 else max(below, z - 84.0), 5.0)
    return _blend(hu, LIVER + 5.0 * texture, liver, width)


@kernel
def _heart(under: float, x: float, y: float, z: float, texture: float, width: float) -> float:
    """Paint the heart in its fat: an ellipsoid that leans to the left, front and down, ventricles a little darker."""
    u, v, w = x - 20.0, y + 22.0, z - 108.0
    # Its long axis in the patient: left, front, down.
    along = 0.70 * u - 0.50 * v - 0.51 * w
    across = 0.58 * u + 0.81 * v
    up = np.sqrt(max(u * u + v * v + w * w - along * along - across * across, 0.0))
    hu = _blend(under, FAT, _ellipsoid(along, across, up, 68.0, 51.0, 51.0), width)
    hu = _blend(hu, HEART + 6.0 + 4.0 * texture, _ellipsoid(along, across, up, 62.0, 46.0, 46.0), width)
    hu = _blend(hu, BLOOD - 3.0, _ellipsoid(along - 10.0, across - 14.0, up, 36.0, 17.0, 24.0), 4.0 * width)
    return _blend(hu, BLOOD - 3.0, _ellipsoid(along - 6.0, across + 20.0, up, 32.0, 13.0, 24.0), 4.0 * width)


@kernel
def _wall(x: float, y: float, depth: float, texture: float, coarse: float, body: tuple[float, float]) -> float:
    """Return the HU of the body wall at `depth` (negative inside the skin): skin, fat, muscles with fat between."""
    hu = FAT + 7.0 * texture
    fat = 13.0 + 6.0 * (abs(x) / body[0]) + 4.0 * (y / body[1]) ** 2
    muscle = depth + fat + 2.5 * coarse
    strands = min(0.45 + abs(coarse - 0.25) / 0.1, 1.0)
    hu = _blend(hu, FAT + strands * (MUSCLE + 6.0 * texture - FAT), muscle, 3.0)
    return _blend(hu, SKIN, -2.0 - depth, 1.5)


@kernel
def _value(
    x: float, y: float, z: float, shape: NDArray[np.float64], texture: float, coarse: float, width: float
) -> float:
    """Return the HU at a point before the capsules are painted."""
    hu = AIR
    # The table: a shell under the back, foam inside.
    table = np.sqrt(x * x + (y + 500.0) ** 2) - 634.0
    hu = _blend(hu, TABLE, max(abs(table) - 1.5, abs(x) - 172.0), width)
    depth = _ellipse(x, y, shape[0], shape[1], 2.35)
    if depth > width:
        return hu
    hu = _blend(hu, _wall(x, y, depth, texture, coarse, (shape[0], shape[1])), depth, width)
    cage = _ellipse(x, y - CAGE_Y, shape[2], shape[3], 2.2)
    if cage < width + 40.0:
        intercostal = _ellipse(x, y - CAGE_Y, shape[2] + 11.0, shape[3] + 9.0, 2.2)
        hu = _blend(hu, MUSCLE + 6.0 * texture, max(intercostal, depth + 6.0), width)
    if cage < width:
        hu = _blend(hu, FAT + 25.0 + 8.0 * texture, cage + 1.5, width)
        hu = _abdomen(hu, x, y, z, cage, texture, width)
        height = (y + 80.0) / 160.0
        lung = LUNG_FRONT + height * (LUNG_BACK - LUNG_FRONT) + 14.0 * texture + 12.0 * coarse
        hu = _blend(hu, lung, lung_distance(x, y, z, shape[2], shape[3]), width)
        hu = _heart(hu, x, y, z, texture, width)
    if abs(x) < 60.0 and y > 20.0:  # noqa: PLR2004 - nothing of the spine is outside
        hu = _spine(hu, x, y, z, depth, width)
    return hu


@kernel
def _lattice(knots: NDArray[np.float32], u: float, v: float, w: float) -> float:
    """Interpolate `knots` trilinearly at (u, v, w), wrapping around: texture that is smooth in all three directions."""
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
    """Fill `hu`, (z, y, x), with everything but the capsules.

    Args:
        hu: Written, HU.
        x: Positions of the columns, mm.
        y: Positions of the rows, mm.
        z: Positions of the slices, mm.
        shapes: `profile(z)`.
        knots: Standard normal values of the texture.
    """
    width = abs(x[1] - x[0])
    for s in numba.prange(len(z)):
        for r in range(len(y)):
            for c in range(len(x)):
                u, v, w = z[s] / TEXTURE_PITCH, y[r] / TEXTURE_PITCH, x[c] / TEXTURE_PITCH
                texture = _lattice(knots, u, v, w)
                coarse = _lattice(knots, 0.23 * u + 7.3, 0.31 * v + 5.1, 0.31 * w + 3.7)
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
    """Paint capsules over `hu`, (z, y, x), in order, only `where` that is true; else as `paint_organs`.

    A row of `capsules` is x0, y0, z0, r0 of its first end, x1, y1, z1, r1 of its second, mm, and its HU.
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
                    hu[s, r, c] = _blend(hu[s, r, c], value, away - (r0 + t * (r1 - r0)), width)


def chain(points: NDArray[np.float64], radius: float | NDArray[np.float64], hu: float) -> NDArray[np.float64]:
    """Return the capsules, (points - 1, 9), that join `points`, (points, 3), one after the other."""
    radii = np.broadcast_to(np.asarray(radius, float), len(points))[:, None]
    ends = np.hstack([points, radii])
    return np.hstack([ends[:-1], ends[1:], np.full((len(points) - 1, 1), hu)])


def bones() -> NDArray[np.float64]:
    """Return ribs (cortex, then marrow), costal cartilage, sternum, clavicles, shoulder blades, humeral heads."""
    outer, inner = [], []
    for rib in range(12):
        for side in (-1.0, 1.0):
            line = _rib(rib, side)
            cut = len(line) - 1 if rib > 9 else int(0.8 * len(line))  # noqa: PLR2004 - floating ribs have no cartilage
            outer += [chain(line[: cut + 1], 4.6, BONE), chain(line[cut:], 4.2, CARTILAGE)]
            inner.append(chain(line[: cut - 1], 2.7, MARROW))
    front = CAGE_Y - np.interp([95.0, 130.0, 200.0, 240.0], _Z, _CAGE_B) - 5.0
    sternum = np.array([[0.0, y, z] for y, z in zip(front, (95.0, 130.0, 200.0, 240.0), strict=True)])
    for shift in np.linspace(-10.0, 10.0, 6):
        beside = sternum + np.array([shift, 0.0, 0.0])
        outer.append(chain(beside, 5.0, BONE * 0.7))
        inner.append(chain(beside, 3.2, MARROW))
    for side in (-1.0, 1.0):
        clavicle = np.array([[14.0, -66.0, 252.0], [55.0, -58.0, 268.0], [105.0, -30.0, 280.0], [124.0, -12.0, 288.0]])
        outer.append(chain(clavicle * [side, 1.0, 1.0], 5.2, BONE))
        inner.append(chain(clavicle * [side, 1.0, 1.0], 3.0, MARROW))
        for part in np.linspace(0.0, 1.0, 12):
            blade = np.array([[92.0 - 14 * part, 78.0 - 6 * part, 150.0 + 40 * part], [126.0, 46.0, 200.0 + 70 * part]])
            outer.append(chain(blade * [side, 1.0, 1.0], 2.6, BONE * 0.8))
        head = np.array([[128.0, 8.0, 296.0], [130.0, 6.0, 312.0]]) * [side, 1.0, 1.0]
        outer.append(chain(head, 19.0, BONE))
        inner.append(chain(head, 16.5, MARROW))
    return np.vstack(outer + inner)


def _rib(rib: int, side: float) -> NDArray[np.float64]:
    """Return the centre line of a rib, (points, 3): from the spine around the cage, falling, then up to the sternum."""
    start = 294.0 - SPINE_PERIOD * rib
    end = 0.97 * np.pi if rib < 8 else (0.9 - 0.13 * (rib - 7)) * np.pi  # noqa: PLR2004 - true and false ribs
    angle = np.linspace(0.09 * np.pi, end, 40)
    fall = (24.0 + 6.0 * min(rib, 8)) * np.sin(np.minimum(angle, 0.8 * np.pi) * 0.5 / 0.8) ** 2
    rise = (10.0 + 4.0 * rib) * np.clip(angle / np.pi - 0.8, 0.0, 1.0) / 0.17
    z = start - fall + rise
    a, b = (np.interp(z, _Z, table) + 5.5 for table in (_CAGE_A, _CAGE_B))
    # The cage is a superellipse of power 2.2; so is the line.
    sine, cosine = np.sin(angle), np.cos(angle)
    scale = (np.abs(sine) ** 2.2 + np.abs(cosine) ** 2.2) ** (-1 / 2.2)
    return np.stack([side * a * sine * scale, CAGE_Y + b * cosine * scale, z], axis=1)


def great_vessels() -> NDArray[np.float64]:
    """Return the aorta and its branches, the caval veins, the pulmonary arteries and the oesophagus."""
    lines: list[tuple[float, list[tuple[float, float, float]]]] = [
        (15.5, [(8, -26, 120), (-2, -32, 150), (-4, -30, 180), (4, -18, 202), (16, 4, 208), (26, 26, 200)]),
        (12.5, [(26, 26, 200), (29, 36, 180), (27, 38, 120), (20, 36, 60), (12, 32, -10)]),
        (6.5, [(-4, -18, 205), (-20, -14, 240), (-28, -10, 300)]),
        (4.5, [(10, -8, 208), (18, -6, 250), (22, -2, 300)]),
        (5.0, [(20, 8, 206), (34, 6, 250), (46, 0, 290)]),
        (9.0, [(-30, -16, 120), (-28, -20, 180), (-26, -24, 225)]),
        (6.5, [(-26, -24, 225), (-34, -26, 300)]),
        (6.0, [(-26, -26, 225), (10, -36, 240), (40, -28, 290)]),
        (11.0, [(-18, 8, 90), (-20, 6, 40), (-18, 6, -10)]),
        (14.0, [(26, -44, 135), (27, -34, 158), (24, -18, 170)]),
        (10.5, [(24, -18, 170), (-2, -8, 164), (-36, 4, 160)]),
        (10.0, [(24, -18, 170), (38, 4, 174), (46, 14, 166)]),
        (8.0, [(0, 10, 135), (-40, 6, 136)]),
        (8.0, [(0, 12, 136), (42, 10, 138)]),
        (20.0, [(-12, 12, 132), (14, 14, 132)]),
        (6.5, [(4, 26, 300), (6, 30, 200), (4, 30, 120), (10, 26, 60), (26, 0, 45)]),
    ]
    return np.vstack([chain(np.array(points, float), radius, BLOOD) for radius, points in lines])


def trachea() -> NDArray[np.float64]:
    """Return the walls, then the lumens, of the trachea and the main bronchi."""
    lines: list[tuple[float, list[tuple[float, float, float]]]] = [
        (8.8, [(0, -2, 305), (0, 4, 240), (2, 12, 182)]),
        (6.8, [(2, 12, 182), (-20, 14, 168), (-40, 14, 156)]),
        (6.0, [(2, 12, 182), (24, 16, 168), (46, 20, 154)]),
    ]
    walls = [chain(np.array(points, float), radius + 1.6, MUSCLE) for radius, points in lines]
    lumens = [chain(np.array(points, float), radius, AIR) for radius, points in lines]
    return np.vstack([*walls, *lumens])


HILA = {"artery": ((-36.0, 4.0, 160.0), (46.0, 14.0, 166.0)), "vein": ((-40.0, 6.0, 136.0), (42.0, 10.0, 138.0))}
"""Where vessels enter the right and the left lung, mm."""

BRONCHI = ((-40.0, 14.0, 156.0), (46.0, 20.0, 154.0))
"""Where the airways do."""


def lung_points(side: int, count: int, margin: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return `count` random points, (count, 3), at least `margin` mm inside the right (0) or left (1) lung."""
    found: list[NDArray[np.float64]] = []
    while len(found) < count:
        x, y, z = rng.uniform((0.0, -95.0, 0.0), (140.0, 90.0, HEIGHT))
        x = -x if side == 0 else x
        cage_a, cage_b = profile(np.array([z]))[0, 2:]
        if lung_distance(x, y, z, cage_a, cage_b) < -margin:
            found.append(np.array([x, y, z]))
    return np.array(found)


def tree(
    start: NDArray[np.float64], tips: NDArray[np.float64], rng: np.random.Generator
) -> list[tuple[NDArray[np.float64], int]]:
    """Grow a tree from `start` to all `tips`: halve the tips along their longest direction at each fork.

    Returns:
        A list of (line, number of tips that it feeds); a line is (3, 3): start, a bent middle, end.
    """
    ahead = tips.mean(axis=0) - start
    end = tips[0] if len(tips) == 1 else start + 0.42 * ahead
    bend = rng.normal(0.0, 0.06, 3) * np.linalg.norm(end - start)
    grown = [(np.stack([start, (start + end) / 2 + bend, end]), len(tips))]
    if len(tips) > 1:
        spread = tips - tips.mean(axis=0)
        order = np.argsort(spread @ np.linalg.svd(spread, full_matrices=False)[2][0])
        cut = int(np.clip(round(len(tips) * rng.uniform(0.3, 0.7)), 1, len(tips) - 1))
        grown += tree(end, tips[order[:cut]], rng) + tree(end, tips[order[cut:]], rng)
    return grown


def lung_trees(rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the branching vessels and airways within both lungs, vessels first, lumens last.

    Radii follow Murray's law (the cubes of the children's add up to the parent's cube) with 1/2.6 for 1/3, since the
    vessels that CT shows are fewer than there are.
    """
    vessels, walls, lumens = [], [], []
    for side in (0, 1):
        for hila in HILA.values():
            tips = lung_points(side, 320, 2.5, rng)
            for line, fed in tree(np.array(hila[side]), tips, rng):
                vessels.append(chain(line, 0.62 * fed ** (1 / 2.6), BLOOD))
        for line, fed in tree(np.array(BRONCHI[side]), lung_points(side, 28, 18.0, rng), rng):
            radius = 1.05 * fed ** (1 / 2.6)
            walls.append(chain(line, 1.1 * radius + 0.4, MUSCLE - 150.0))
            lumens.append(chain(line, radius, AIR + 20.0))
    return np.vstack([*vessels, *walls, *lumens])
