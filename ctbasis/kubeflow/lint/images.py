"""Container images that may be another tomorrow."""

from __future__ import annotations

import re

from ctbasis.kubeflow.lint.paths import Document, Faults, look_up, walk

REMEDY = "name a version or a digest"


def faults(document: Document, where: str) -> Faults:
    """Find the images in a document at `where` that name neither a version nor a digest."""
    for place, value in walk(document, where):
        image = look_up(value, "image")
        if isinstance(image, str) and (wrong := _fault(image)):
            yield f"{place}.image", f"{wrong}: {image!r}", REMEDY


def _fault(image: str) -> str:
    if "{{" in image:
        return "image is chosen at run time"
    parts = re.fullmatch(r"(?:[\w.:-]+/)*[\w.-]+(?::(?P<tag>[\w.-]*))?(?:@(?P<digest>.*))?", image)
    if not parts:
        return "image is no image reference"
    if parts["digest"] is not None:
        return "" if re.fullmatch("sha256:[0-9a-f]{64}", parts["digest"]) else "image has a malformed digest"
    if parts["tag"] is None:
        return "image has no tag"
    return "" if parts["tag"] not in {"", "latest"} else "image is not pinned"
