"""Volumes, environment and node placement of the step's pod, which the pods of its Spark application share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Placement:
    """Kubeflow's decisions for the pod of the step, in the terms of a Kubernetes pod.

    Attributes:
        volumes: Volumes, among them the workspace of the run.
        volume_mounts: Their mount paths.
        env: Environment variables, by value or by reference to a Secret.
        tolerations: Tolerations of node taints.
        node_selector: Labels that a node must have.
        affinity: Node and pod affinity.
        resources: `limits` and `requests` of cpu and memory for each pod of the application.
    """

    volumes: Sequence[Mapping[str, Any]] = ()
    volume_mounts: Sequence[Mapping[str, Any]] = ()
    env: Sequence[Mapping[str, Any]] = ()
    tolerations: Sequence[Mapping[str, Any]] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)
    affinity: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def without(self, path: str) -> Self:
        """Return this placement without the mount at `path` and its volume.

        A ReadWriteOnce volume binds the pods of the application to the node of the step, so it is left out if they do
        not need it.
        """
        removed = {mount["name"] for mount in self.volume_mounts if mount["mountPath"].rstrip("/") == path.rstrip("/")}
        return replace(
            self,
            volumes=[volume for volume in self.volumes if volume["name"] not in removed],
            volume_mounts=[mount for mount in self.volume_mounts if mount["name"] not in removed],
        )
