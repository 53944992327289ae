"""Kubernetes manifests: they have a name, pinned images and no secrets, and match the schema of their kind."""

from __future__ import annotations

from typing import Any

from ctbasis.kubeflow.lint import core, crds, images, quantities, secrets, spark
from ctbasis.kubeflow.lint.paths import Document, Faults, look_up, select, walk


def faults(document: Any, place: str, *, partial: bool = False) -> Faults:
    """Check a Kubernetes object, or a List of objects.

    Args:
        document: The manifest.
        place: The path of the manifest, for messages about a manifest without kind.
        partial: The manifest is a strategic-merge patch, which may omit required fields.
    """
    kind, version = look_up(document, "kind"), look_up(document, "apiVersion")
    if not kind or not isinstance(kind, str) or not isinstance(version, str):
        yield place, "is neither a compiled package nor a manifest", "add apiVersion and kind"
        return
    if kind == "List":
        for where, item in select(document, "items.*", place):
            yield from faults(item, where, partial=partial)
        return
    name = look_up(document, "metadata.name") or look_up(document, "metadata.generateName")
    where = f"{kind}/{name}" if name else kind
    if not name:
        yield f"{where}.metadata.name", "is missing", "name the object"
    yield from secrets.faults(document, where)
    if kind == "Secret":
        for value_place, value in [*select(document, "data.*", where), *select(document, "stringData.*", where)]:
            if value:
                yield value_place, "is the value of a secret", "create the Secret on the cluster"
    if kind != "ConfigMap":
        yield from images.faults(document, where)
        yield from _resources(document, where)
    of_kind = spark if version.partition("/")[0] in crds.VERSIONS else core
    yield from of_kind.faults(document, where, partial=partial)


def _resources(document: Document, where: str) -> Faults:
    """Check the resource requests and limits of containers and volume claims."""
    for place, value in walk(document, where):
        given = {part: look_up(value, f"resources.{part}") for part in ("requests", "limits")}
        requests, limits = (amounts if isinstance(amounts, dict) else {} for amounts in given.values())
        yield from quantities.faults(requests, f"{place}.resources.requests")
        yield from quantities.faults(limits, f"{place}.resources.limits")
        for name in requests.keys() & limits.keys():
            yield from quantities.above(requests[name], limits[name], f"{place}.resources.requests.{name}")
