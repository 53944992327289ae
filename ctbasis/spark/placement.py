"""Where the Spark step's pods go and what they see: Kubeflow's decisions for the step, handed on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True)
class Placement:
    """What Kubeflow decided for the step's own pod, to be shared by the driver and the executors that the step starts.

    Attributes:
        volumes: Of the pod, the run's workspace among them.
        volume_mounts: Where they are mounted.
        env: Environment variables, by value or by reference to a Secret.
        tolerations: Of node taints.
        node_selector: Labels that a node must have.
        affinity: Wishes beyond that.
        resources: `limits` and `requests` of cpu and memory; each of the application's pods gets them.
    """

    volumes: Sequence[Mapping[str, Any]] = ()
    volume_mounts: Sequence[Mapping[str, Any]] = ()
    env: Sequence[Mapping[str, Any]] = ()
    tolerations: Sequence[Mapping[str, Any]] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)
    affinity: Mapping[str, Any] = field(default_factory=dict)
    resources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def without(self, path: str) -> Self:
        """Return this placement without what is mounted at `path`, and without its volume.

        A claim that is ReadWriteOnce holds the application's pods back from every node but the step's own, so it is not
        handed on where nothing of it is read.
        """
        gone = {mount["name"] for mount in self.volume_mounts if mount["mountPath"].rstrip("/") == path.rstrip("/")}
        return replace(
            self,
            volumes=[volume for volume in self.volumes if volume["name"] not in gone],
            volume_mounts=[mount for mount in self.volume_mounts if mount["name"] not in gone],
        )
