"""Volumes, environment and node placement of the step's pod, which the pods of its job share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from ctbasis.errors import CtbasisError

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
        resources: `limits` and `requests` of cpu and memory for each pod of the job.
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

        A ReadWriteOnce volume binds the pods of the job to the node of the step, so it is left out if they do
        not need it.
        """
        removed = {mount["name"] for mount in self.volume_mounts if mount["mountPath"].rstrip("/") == path.rstrip("/")}
        return replace(
            self,
            volumes=[volume for volume in self.volumes if volume["name"] not in removed],
            volume_mounts=[mount for mount in self.volume_mounts if mount["name"] not in removed],
        )

    def on_node(self, name: str) -> Self:
        """Return this placement on one node. What the placement requires of a node already stays required.

        Args:
            name: Name of the node.
        """
        required = "requiredDuringSchedulingIgnoredDuringExecution"
        own = self.affinity.get("nodeAffinity") or {}
        # One of the terms must hold, so each gets the field.
        terms = (own.get(required) or {}).get("nodeSelectorTerms") or [{}]
        field = {"key": "metadata.name", "operator": "In", "values": [name]}
        placed = [{**term, "matchFields": [*term.get("matchFields", []), field]} for term in terms]
        return replace(
            self, affinity={**self.affinity, "nodeAffinity": {**own, required: {"nodeSelectorTerms": placed}}}
        )


def mount_path(mount: Mapping[str, Any]) -> str:
    """Return the path of a volume mount without a slash at its end."""
    return str(mount["mountPath"]).rstrip("/")


def joined_volumes(own: Sequence[Mapping[str, Any]], added: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the volumes of a job and those of a placement, each once.

    Raises:
        CtbasisError: Two different volumes have the same name.
    """
    names = {volume["name"]: volume for volume in own}
    for volume in added:
        if names.setdefault(volume["name"], volume) != volume:
            raise CtbasisError(
                f"the job and the pod of the step have different volumes called {volume['name']}",
                remedy="rename one of them",
            )
    return list(names.values())
