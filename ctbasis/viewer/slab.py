"""A slab: a few slices before and after denoising, compressed, for a page that shows them without a server.

`slab.js` reads it. Each image is a zlib stream in a data: URI. It holds the differences of neighbouring values along
the rows, 16 bits modulo 2^16: first the lower bytes of all voxels, then the upper ones.
"""

from __future__ import annotations

import json
import zlib
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FOLDER = Path(__file__).parent
"""Folder of slices.js, pointing.js, slices.css and slab.js."""

MOST_BYTES = 3_000_000
"""Bytes of a slab in a page, at most."""

CHOICES = ((8, 1.0), (8, 2.0), (8, 4.0), (5, 4.0), (3, 4.0), (3, 8.0), (1, 8.0))
"""Number of slices, and HU between neighbouring values, from the best to the smallest slab. The noise of a CT is some
10 HU, so steps of 4 HU are hardly visible: with them, five slices of 512 x 512 voxels fit, all of them with noise."""

OVERESTIMATE = 1.3
"""How many times the size of all slices the middle one may predict: others have less tissue."""

SIGMA_STEP = 0.5
"""HU between neighbouring values of sigma."""


def slab(
    images: dict[str, NDArray[np.float32]],
    numbers: Sequence[int],
    *,
    total: int,
    pixel_spacing: tuple[float, float],
    most: int = MOST_BYTES,
) -> str | None:
    """Return evenly chosen slices as JSON for `slab.js`; None if not even one slice fits.

    Args:
        images: `before`, `after` and, where it is known, `sigma`: HU, (slices, Rows, Columns).
        numbers: Number of each slice, from 1, for the reader.
        total: Number of slices of which these are a part.
        pixel_spacing: Distance in mm between rows and between columns.
        most: Bytes at most.
    """
    for count, step in CHOICES:
        chosen = sorted({round(at) for at in np.linspace(0, len(numbers) - 1, min(count, len(numbers)))})
        steps = {name: SIGMA_STEP if name == "sigma" else step for name in images}
        slices = _slices(images, chosen, steps, most)
        if slices is None:
            continue
        content: dict[str, Any] = {
            "panes": [{"name": name, "step": steps[name]} for name in images],
            "rows": int(images["before"].shape[1]),
            "columns": int(images["before"].shape[2]),
            "spacing": list(pixel_spacing),
            "numbers": [int(numbers[index]) for index in chosen],
            "total": total,
            "slices": slices,
        }
        text = json.dumps(content, separators=(",", ":"))
        if len(text) <= most:
            return text
    return None


def _slices(
    images: dict[str, NDArray[np.float32]], chosen: Sequence[int], steps: dict[str, float], most: int
) -> list[list[str]] | None:
    """Return the packed images of each slice; None if they are, or are going to be, more than `most` bytes."""
    packed: dict[int, list[str]] = {}
    size = 0
    # From the middle outwards: slices there have the most tissue, so that the first one tells the size of all.
    for index in sorted(chosen, key=lambda one: abs(one - chosen[len(chosen) // 2])):
        packed[index] = [_packed(volume[index], steps[name]) for name, volume in images.items()]
        own = sum(map(len, packed[index]))
        size += own
        if size > most or (len(packed) == 1 and own * len(chosen) > OVERESTIMATE * most):
            return None
    return [packed[index] for index in chosen]


def _packed(image: NDArray[np.float32], step: float) -> str:
    limits = np.iinfo(np.int16)
    values = np.clip(np.rint(image / step), limits.min, limits.max).astype(np.int16)
    differences = np.diff(values.view(np.uint16), axis=1, prepend=np.uint16(0))
    planes = differences.astype("<u2").reshape(-1).view(np.uint8).reshape(-1, 2).T
    content = b64encode(zlib.compress(np.ascontiguousarray(planes).tobytes(), 6)).decode()
    return f"data:application/zlib;base64,{content}"
