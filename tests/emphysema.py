"""A slice of a chest with emphysema on a table, and noise: what is below -1000 HU, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from scipy.ndimage import gaussian_filter

from ctbasis.storage.voxels import AIR

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Masks: TypeAlias = "dict[str, NDArray[np.bool_]]"

EDGE, PIXEL = 256, 1.4
NOISE = 40.0


def ellipse(rows: float, columns: float, row: float = 0.0, column: float = 0.0) -> NDArray[np.bool_]:
    """Return an ellipse with half axes in mm, its centre in mm from the middle of the slice."""
    y, x = ((np.arange(EDGE) - (EDGE - 1) / 2) * PIXEL for _ in range(2))
    return np.asarray(((y[:, None] - row) / rows) ** 2 + ((x - column) / columns) ** 2 < 1)


def chest() -> tuple[NDArray[np.float32], Masks]:
    """Return a slice of a chest with emphysema, whose back lies on a table: HU, and masks of its parts."""
    body = ellipse(100, 150)
    lungs = {side: ellipse(70, 45, -5, side * 75) for side in (-1, 1)}
    airway = ellipse(10, 10, -10, 0)
    below = ellipse(150, 200, 15) & ~ellipse(146, 196, 15)
    rows = (np.arange(EDGE) - (EDGE - 1) / 2)[:, None] * PIXEL
    table = below & (rows > 60)
    pocket = ellipse(146, 196, 15) & (rows > 60) & ~body
    # The table's ends bend up to the body, and enclose the air below the back.
    lid = (np.abs(rows - 60) < 2) & ellipse(146, 196, 15) & ~body
    hu = np.full((EDGE, EDGE), AIR, np.float32)
    hu[body] = 40
    hu[lungs[-1]], hu[lungs[1]] = -870, -950
    hu[airway] = -995
    hu[table | lid] = 300
    masks = {
        "air": ~(body | table | lid | pocket),
        "pocket": pocket & ~lid,
        "lung": lungs[-1],
        "emphysema": lungs[1],
        "airway": airway,
        "body": body,
        "table": table | lid,
    }
    return gaussian_filter(hu, 0.5), masks


def noise(seed: int = 0) -> NDArray[np.float32]:
    """Return noise as of filtered back-projection with a soft kernel: a ramp times a window, HU."""
    y, x = np.fft.fftfreq(EDGE)[:, None], np.fft.rfftfreq(EDGE)
    frequency = np.hypot(y, x)
    # The power is the ramp times the square of the window, so the amplitude has the root of the ramp.
    amplitude = np.sqrt(frequency) * np.cos(np.pi * np.minimum(frequency, 0.5)) ** 2
    white = np.random.default_rng(seed).normal(0, 1, (EDGE, EDGE))
    values = np.fft.irfft2(np.fft.rfft2(white) * amplitude, (EDGE, EDGE))
    return np.asarray(NOISE * values / values.std(), np.float32)
