"""A thumbnail of a run: one slice before and after denoising and the removed component, side by side."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

EDGE = 96
"""Pixels along the edges of a pane. The three panes of a thumbnail have about 4 KB."""

PANES = 3
"""Panes of a thumbnail: before, after, removed component."""

WINDOW = (-1000.0, 200.0)
"""HU that are black and white before and after: a window in which lung and soft tissue are both visible."""

LEAST_REMOVED = 1.0
"""Smallest HU at the ends of the scale of a removed component. Each has its own scale, so that faint outlines of
anatomy are as visible as strong ones."""

QUALITY = 50
"""Quality of the WebP compression, of 100."""


def thumbnail(before: NDArray[np.float32], after: NDArray[np.float32], pixel_spacing: tuple[float, float]) -> bytes:
    """Return a slice before and after denoising and the removed component as one WebP image of 3 × EDGE by EDGE pixels.

    Args:
        before: HU, (Rows, Columns).
        after: HU, (Rows, Columns).
        pixel_spacing: Distance in mm between rows and between columns.
    """
    removed = _shrunk(before - after, pixel_spacing)
    limit = max(LEAST_REMOVED, float(np.percentile(np.abs(removed), 99.5)))
    shown = [_pane(_shrunk(image, pixel_spacing), WINDOW) for image in (before, after)]
    return _encoded(_strip([*shown, _pane(removed, (-limit, limit))]))


def smaller(strip: bytes, edge: int) -> bytes:
    """Return a thumbnail with panes of `edge` pixels.

    Args:
        strip: A thumbnail, as `thumbnail` returns it.
        edge: Pixels along the edges of a pane, at most EDGE.

    Raises:
        OSError: `strip` is no image.
    """
    with Image.open(BytesIO(strip)) as image:
        return _encoded(image.convert("L").resize((PANES * edge, edge), Image.Resampling.BOX))


def _shrunk(image: NDArray[np.float32], pixel_spacing: tuple[float, float]) -> NDArray[np.float32]:
    """Return an image with the proportions of the patient, whose longer edge has EDGE pixels."""
    height, width = image.shape[0] * pixel_spacing[0], image.shape[1] * pixel_spacing[1]
    scale = EDGE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(image.astype(np.float32)).resize(size, Image.Resampling.BOX))


def _pane(image: NDArray[np.float32], window: tuple[float, float]) -> Image.Image:
    """Return an image in a window, centred in a square with the grey of its corner."""
    low, high = window
    grey = np.clip((image - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    pane = Image.new("L", (EDGE, EDGE), int(grey[0, 0]))
    rows, columns = grey.shape
    pane.paste(Image.fromarray(grey), ((EDGE - columns) // 2, (EDGE - rows) // 2))
    return pane


def _strip(panes: Sequence[Image.Image]) -> Image.Image:
    strip = Image.new("L", (PANES * EDGE, EDGE))
    for number, pane in enumerate(panes):
        strip.paste(pane, (number * EDGE, 0))
    return strip


def _encoded(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="WEBP", quality=QUALITY, method=2)
    return buffer.getvalue()
