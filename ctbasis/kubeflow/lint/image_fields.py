"""The `images:` of kustomizations: where kinds hold an image, and how kustomize replaces it.

kustomize finds the images of containers by itself, and those in other fields by a file of `configurations:`, such as
that of a SparkApplication. A configuration holds for the kustomizations above too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ctbasis.kubeflow.lint.paths import Document, Faults, join_path, look_up, select, walk

if TYPE_CHECKING:
    from collections.abc import Iterable

CONTAINERS = ("containers", "initContainers")
"""Lists, at any depth of an object, whose items have an image."""

SECTIONS = {
    *("namePrefix", "nameSuffix", "namespace", "labels", "templateLabels", "commonLabels", "commonAnnotations"),
    *("nameReference", "varReference", "images", "replicas"),
}
"""The keys of a configuration of kustomize."""


@dataclass(frozen=True)
class ImageField:
    """A field that holds an image.

    Attributes:
        kind: Kind of the object.
        path: Path of the field, such as spec.image.
    """

    kind: str
    path: str


def configuration_faults(document: Document) -> Faults:
    """Check a file of `configurations:`."""
    for key in document.keys() - SECTIONS:
        yield key, "is not a section of a configuration of kustomize", f"expected one of {', '.join(sorted(SECTIONS))}"
    for place, field in select(document, "images.*"):
        for key in ("kind", "path"):
            if not isinstance(look_up(field, key), str):
                yield join_path(place, key), "is missing", "name the kind and the path of its image, such as spec/image"


def configured_fields(configuration: Document) -> list[ImageField] | None:
    """Return the image fields of a configuration, or None if it has something else, or lists on their paths."""
    fields = [field for _, field in select(configuration, "images.*")]
    plain = all(field.keys() == {"kind", "path"} and "[" not in field["path"] for field in fields)
    if configuration.keys() - {"images"} or not plain:
        return None
    return [ImageField(field["kind"], field["path"].replace("/", ".")) for field in fields]


def replace_images(documents: Iterable[dict[str, Any]], replacement: Document, fields: Iterable[ImageField]) -> None:
    """Replace an image in all objects, as one entry of `images:` does.

    Args:
        documents: The objects, which are changed in place.
        replacement: The entry: `name`, and any of `newName`, `newTag` and `digest`.
        fields: The fields that hold an image, besides those of containers.
    """
    for document in documents:
        holders = [
            item
            for _, value in walk(document)
            if isinstance(value, dict)
            for key in CONTAINERS
            for item in (value.get(key) or ())
        ]
        for field in fields:
            parent, _, name = field.path.rpartition(".")
            holder = look_up(document, parent)
            if name == "image" and document.get("kind") == field.kind and isinstance(holder, dict):
                holders.append(holder)
        for holder in holders:
            if isinstance(holder, dict) and isinstance(holder.get("image"), str):
                holder["image"] = _replaced(holder["image"], replacement)


def _replaced(image: str, replacement: Document) -> str:
    match = re.fullmatch(
        rf"{re.escape(replacement['name'])}(?P<tag>:[\w.{{}}-]*)?(?P<digest>@sha256:[\w.{{}}-]*)?", image
    )
    if not match:
        return image
    name = str(replacement.get("newName", replacement["name"]))
    if "digest" in replacement:
        return f"{name}@{replacement['digest']}"
    if "newTag" in replacement:
        return f"{name}:{replacement['newTag']}"
    return f"{name}{match['tag'] or ''}{match['digest'] or ''}"
