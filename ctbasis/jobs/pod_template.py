"""A `placement` in the pod template of a job whose pods Kubernetes' own PodSpec describes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctbasis.jobs.placement import joined_volumes, mount_path

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctbasis.jobs.placement import Placement


def place(spec: Mapping[str, Any], placement: Placement, *, computes: bool = True) -> dict[str, Any]:
    """Return a PodSpec with a placement; its first container is that of the job.

    Args:
        spec: The PodSpec.
        placement: Kubeflow's decisions for the pod of the step.
        computes: Whether the pod reads and writes stores. One that does not gets the node placement alone: neither
            volumes, nor environment, nor resources.

    Raises:
        CtbasisError: Two different volumes have the same name.
    """
    placed = dict(spec)
    if placement.tolerations:
        placed["tolerations"] = [*spec.get("tolerations", []), *placement.tolerations]
    for key, decided in (("nodeSelector", placement.node_selector), ("affinity", placement.affinity)):
        if decided:
            placed[key] = {**spec.get(key, {}), **decided}
    if not computes:
        return placed
    first, *others = spec["containers"]
    own_paths = {mount_path(mount) for mount in first.get("volumeMounts", [])}
    mounts = [mount for mount in placement.volume_mounts if mount_path(mount) not in own_paths]
    unused = {mount["name"] for mount in placement.volume_mounts} - {mount["name"] for mount in mounts}
    volumes = [volume for volume in placement.volumes if volume["name"] not in unused]
    if volumes:
        placed["volumes"] = joined_volumes(spec.get("volumes", []), volumes)
    container = dict(first)
    if mounts:
        container["volumeMounts"] = [*first.get("volumeMounts", []), *mounts]
    if placement.env:
        replaced = {entry["name"] for entry in placement.env}
        kept = [entry for entry in first.get("env", []) if entry["name"] not in replaced]
        container["env"] = [*kept, *placement.env]
    if placement.resources:
        own = first.get("resources", {})
        container["resources"] = {
            **own,
            **{key: {**own.get(key, {}), **given} for key, given in placement.resources.items()},
        }
    placed["containers"] = [container, *others]
    return placed
