"""The routes of the viewer: the page, which everybody may load, and the images, which demand the token."""

from __future__ import annotations

import gzip
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

from ctbasis.viewer.slab import FOLDER

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctbasis.viewer.images import Images

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Policy of the page: it loads nothing from another address."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
"""Headers of every answer; browsers keep no image on disk."""

FILES = {
    "": ("view.html", "text/html; charset=utf-8"),
    "view.css": ("view.css", "text/css; charset=utf-8"),
    "slices.css": ("slices.css", "text/css; charset=utf-8"),
    "slices.js": ("slices.js", "text/javascript; charset=utf-8"),
    "pointing.js": ("pointing.js", "text/javascript; charset=utf-8"),
    "view.js": ("view.js", "text/javascript; charset=utf-8"),
}
"""Files of the page by their address, and their types."""

Plane = Literal["axial", "coronal", "sagittal"]


def page_router() -> APIRouter:
    """Return the routes of the page, which hold no data of patients."""
    router = APIRouter(tags=["page"])
    for address, (name, kind) in FILES.items():
        router.add_api_route(f"/{address}", _file(name, kind), include_in_schema=False)
    return router


def image_router(images: Images) -> APIRouter:
    """Return the routes of geometry and images.

    Args:
        images: The images.
    """
    router = APIRouter(tags=["images"])

    @router.get("/series")
    def series() -> dict[str, Any]:
        """Describe the panes and planes; there is nothing of a patient in it but geometry."""
        return describe(images)

    @router.get("/progress")
    def progress() -> dict[str, int]:
        """Return how many slices are decoded."""
        return {"decoded": images.decoded, "slices": images.shape[0]}

    @router.get("/images/{plane}/{index}")
    def image(plane: Plane, index: int) -> Response:
        """Return one image of every pane, one after the other: 16-bit little-endian numbers."""
        if not 0 <= index < images.count(plane):
            raise HTTPException(HTTPStatus.NOT_FOUND, f"the plane has {images.count(plane)} images")
        content = b"".join(one.astype("<i2").tobytes() for one in images.images(plane, index))
        return Response(content, media_type="application/octet-stream", headers=HEADERS)

    return router


def describe(images: Images) -> dict[str, Any]:
    """Return the panes and planes as JSON values, which `slices.js` reads."""
    slices, rows, columns = images.shape
    along, down, right = images.result.spacing
    sizes = {
        "axial": (slices, rows, columns, down, right),
        "coronal": (rows, slices, columns, along, right),
        "sagittal": (columns, slices, rows, along, down),
    }
    return {
        "mode": images.result.mode,
        "panes": [{"name": pane.name, "step": images.steps[pane.name]} for pane in images.result.panes],
        "planes": {
            plane: {
                "count": count,
                "rows": height,
                "columns": width,
                "rowSpacing": row_spacing,
                "columnSpacing": column_spacing,
                "edges": images.edges(plane),
            }
            for plane, (count, height, width, row_spacing, column_spacing) in sizes.items()
        },
        "shape": [slices, rows, columns],
        "spacing": [along, down, right],
    }


def _file(name: str, kind: str) -> Callable[[], Response]:
    """Return a route that answers a file of the page."""

    def answer() -> Response:
        return Response(_packed(name), media_type=kind, headers={**HEADERS, "Content-Encoding": "gzip"})

    return answer


@cache
def _packed(name: str) -> bytes:
    return gzip.compress((FOLDER / name).read_bytes(), mtime=0)
