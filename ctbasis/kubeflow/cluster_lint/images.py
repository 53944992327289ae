"""Images: the nodes have them, or their names say from which registry they are pulled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctbasis.kubeflow.cluster_lint.findings import Finding, Level
from ctbasis.kubeflow.cluster_lint.nodes import usable_nodes
from ctbasis.kubeflow.cluster_lint.template import template_of
from ctbasis.kubeflow.lint.paths import look_up

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctbasis.kubeflow.cluster_lint.cluster import Cluster
    from ctbasis.kubeflow.cluster_lint.needs import Needs

SUBJECT = "images"
PUBLIC = "docker.io"


def findings(cluster: Cluster, needs: Needs) -> Iterator[Finding]:
    """Check the images of the steps and of the Spark application."""
    spark_image = str(look_up(template_of(cluster)[0], "spec.image"))
    held = [
        {full_name(name) for image in look_up(node, "status.images") or [] for name in image.get("names") or []}
        for node in usable_nodes(cluster)
    ]
    for image in (*needs.images, spark_image) if held else ():
        holders = sum(full_name(image) in names for names in held)
        if holders and holders == len(held):
            yield Finding(Level.OK, SUBJECT, f"{image} is on every node")
        elif not has_registry(image):
            where = f"{holders} of {len(held)} nodes"
            message = f"{image} names no registry and is on {where}, so the others pull it from {PUBLIC}"
            yield Finding(Level.MISSING, SUBJECT, message, _remedy(image, spark_image))
        else:
            message = f"{image} is on {holders} of {len(held)} nodes; the others pull it when a pod starts there"
            yield Finding(Level.NOTE, SUBJECT, message)


def has_registry(image: str) -> bool:
    """Return whether the name of an image begins with a registry's host."""
    host, slash, _ = image.partition("/")
    return bool(slash) and ("." in host or ":" in host or host == "localhost")


def full_name(image: str) -> str:
    """Return the name of an image with the registry and the folder that container runtimes complete."""
    if has_registry(image):
        return image
    return f"{PUBLIC}/{image}" if "/" in image else f"{PUBLIC}/library/{image}"


def _remedy(image: str, spark_image: str) -> str:
    if image == spark_image:
        return "make images, push it, and name it by `images:` in a kustomization over the overlay"
    return "make images, push it, then ctbasis compile --steps-image REGISTRY/NAME:TAG --out here.yaml"
