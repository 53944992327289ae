"""References to container images: each must name a version or a digest, because any other may change its content."""

from __future__ import annotations

import re

from ctbasis.kubeflow.lint.paths import Document, Faults, look_up, walk

REMEDY = "name a version or a digest"


def faults(document: Document, where: str) -> Faults:
    """Yield the images of a document that name neither a version nor a digest.

    Args:
        document: The document.
        where: Its path.
    """
    for place, value in walk(document, where):
        image = look_up(value, "image")
        if isinstance(image, str) and (message := fault(image)):
            yield f"{place}.image", f"{message}: {image!r}", REMEDY


def fault(image: str) -> str:
    """Return what is wrong with an image reference, or an empty string."""
    if "{{" in image:
        return "image is chosen at run time"
    parts = re.fullmatch(r"(?:[\w.:-]+/)*[\w.-]+(?::(?P<tag>[\w.-]*))?(?:@(?P<digest>.*))?", image)
    if not parts:
        return "image is not a valid image reference"
    if parts["digest"] is not None:
        return "" if re.fullmatch("sha256:[0-9a-f]{64}", parts["digest"]) else "image has a malformed digest"
    if parts["tag"] is None:
        return "image has no tag"
    return "" if parts["tag"] not in {"", "latest"} else "image is not pinned"
