"""Bones, vessels and airways of the chest phantom as chains of capsules.

A capsule is a cylinder with round ends whose radius may taper. It is a row of 9 numbers: x0, y0, z0, r0 of its first
end, x1, y1, z1, r1 of its second end, in mm, and its HU. Coordinates are those of ctbasis/simulate/anatomy.py, which
paints the capsules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ctbasis.simulate.anatomy import (
    AIR,
    BLOOD,
    BONE,
    CAGE_A,
    CAGE_B,
    CAGE_Y,
    CARTILAGE,
    HEIGHT,
    LEVELS,
    MARROW,
    MUSCLE,
    SPINE_PERIOD,
    lung_distance,
    profile,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray


def chain(points: NDArray[np.float64], radius: float | NDArray[np.float64], hu: float) -> NDArray[np.float64]:
    """Return the capsules, (points - 1, 9), that connect consecutive `points`, (points, 3), mm."""
    radii = np.broadcast_to(np.asarray(radius, float), len(points))[:, None]
    ends = np.hstack([points, radii])
    return np.hstack([ends[:-1], ends[1:], np.full((len(points) - 1, 1), hu)])


def bones() -> NDArray[np.float64]:
    """Return ribs, costal cartilage, sternum, clavicles, shoulder blades and humeral heads; cortex before marrow."""
    outer, inner = [], []
    for rib in range(12):
        for side in (-1.0, 1.0):
            line = _rib(rib, side)
            cut = len(line) - 1 if rib > 9 else int(0.8 * len(line))  # noqa: PLR2004 - floating ribs have no cartilage
            outer += [chain(line[: cut + 1], 4.6, BONE), chain(line[cut:], 4.2, CARTILAGE)]
            inner.append(chain(line[: cut - 1], 2.7, MARROW))
    front = CAGE_Y - np.interp([95.0, 130.0, 200.0, 240.0], LEVELS, CAGE_B) - 5.0
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
    """Return the centre line of a rib, (points, 3), mm: from the spine down around the cage, then up to the sternum."""
    start = 294.0 - SPINE_PERIOD * rib
    end = 0.97 * np.pi if rib < 8 else (0.9 - 0.13 * (rib - 7)) * np.pi  # noqa: PLR2004 - true and false ribs
    angle = np.linspace(0.09 * np.pi, end, 40)
    fall = (24.0 + 6.0 * min(rib, 8)) * np.sin(np.minimum(angle, 0.8 * np.pi) * 0.5 / 0.8) ** 2
    rise = (10.0 + 4.0 * rib) * np.clip(angle / np.pi - 0.8, 0.0, 1.0) / 0.17
    z = start - fall + rise
    a, b = (np.interp(z, LEVELS, table) + 5.5 for table in (CAGE_A, CAGE_B))
    # The cage is a superellipse of power 2.2, and the line follows it.
    sine, cosine = np.sin(angle), np.cos(angle)
    scale = (np.abs(sine) ** 2.2 + np.abs(cosine) ** 2.2) ** (-1 / 2.2)
    return np.stack([side * a * sine * scale, CAGE_Y + b * cosine * scale, z], axis=1)


def great_vessels(wall: float = 0.0, hu: float = BLOOD) -> NDArray[np.float64]:
    """Return the aorta and its branches, the caval veins, the pulmonary arteries and the oesophagus.

    Args:
        wall: mm that are added to every radius.
        hu: HU of the capsules.
    """
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
    return np.vstack([chain(np.array(points, float), radius + wall, hu) for radius, points in lines])


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
"""Points where vessels enter the right and the left lung, mm."""

BRONCHI = ((-40.0, 14.0, 156.0), (46.0, 20.0, 154.0))
"""Points where airways enter the right and the left lung, mm."""


def lung_points(side: int, count: int, margin: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draw `count` random points, (count, 3), mm, at least `margin` mm inside the right (0) or left (1) lung."""
    points: list[NDArray[np.float64]] = []
    while len(points) < count:
        x, y, z = rng.uniform((0.0, -95.0, 0.0), (140.0, 90.0, HEIGHT))
        x = -x if side == 0 else x
        cage_a, cage_b = profile(np.array([z]))[0, 2:]
        if lung_distance(x, y, z, cage_a, cage_b) < -margin:
            points.append(np.array([x, y, z]))
    return np.array(points)


def tree(
    start: NDArray[np.float64], tips: NDArray[np.float64], rng: np.random.Generator
) -> list[tuple[NDArray[np.float64], int]]:
    """Grow a tree from `start` to all `tips`; each fork divides the tips across their longest direction.

    Returns:
        Pairs of a line and the number of tips that it supplies. A line is (3, 3): start, bent middle, end, mm.
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
    """Return the branching vessels and airways in both lungs: vessels, walls of airways, lumens of airways.

    Radii follow Murray's law (the cube of the parent's radius is the sum of the cubes of its children's), but with the
    exponent 1/2.6 instead of 1/3, because CT shows fewer vessels than there are.
    """
    vessels, walls, lumens = [], [], []
    for side in (0, 1):
        for hila in HILA.values():
            tips = lung_points(side, 320, 2.5, rng)
            for line, supplied in tree(np.array(hila[side]), tips, rng):
                vessels.append(chain(line, 0.62 * supplied ** (1 / 2.6), BLOOD))
        for line, supplied in tree(np.array(BRONCHI[side]), lung_points(side, 28, 18.0, rng), rng):
            radius = 1.05 * supplied ** (1 / 2.6)
            walls.append(chain(line, 1.1 * radius + 0.4, MUSCLE - 150.0))
            lumens.append(chain(line, radius, AIR + 20.0))
    return np.vstack([*vessels, *walls, *lumens])
