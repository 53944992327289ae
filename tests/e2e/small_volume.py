"""A volume with an enforced size: a tmpfs on the node, behind an ordinary PersistentVolume and claim.

The usual provisioners of small clusters provide a folder on the node's disk and do not enforce a size. A privileged pod
mounts the tmpfs where the kubelet finds it, so the tests need a KUBECONFIG that may create a privileged pod.
"""

from __future__ import annotations

import json
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.e2e.cluster import STEPS_IMAGE, kubectl, new_namespace, pod, ready
from tests.e2e.object_store import apply

if TYPE_CHECKING:
    from collections.abc import Iterator

KEEPER = "volume-keeper"


class SmallVolume:
    """The volume; a claim requests it by the name `storage_class`."""

    def __init__(self, namespace: str, name: str) -> None:
        self.namespace, self.storage_class = namespace, name
        self._path = f"/var/tmp/{name}"  # noqa: S108 - on the node

    def resize(self, mebibytes: int) -> None:
        """Change the size of the volume and keep its content."""
        self._on_node(f"mount -o remount,size={mebibytes}m {self._path}")

    def release(self) -> None:
        """Release the volume for another claim, as an administrator does after the first claim is deleted."""
        unbind = json.dumps([{"op": "remove", "path": "/spec/claimRef"}])
        kubectl("patch", "persistentvolume", self.storage_class, "--type=json", "--patch", unbind)

    def _on_node(self, command: str) -> None:
        kubectl("-n", self.namespace, "exec", KEEPER, "--", "sh", "-ec", command)

    def _mount(self, mebibytes: int) -> None:
        keeper: dict[str, Any] = {
            "name": KEEPER,
            "image": STEPS_IMAGE,
            "command": ["sleep", "infinity"],
            "securityContext": {"privileged": True, "runAsUser": 0},
            "volumeMounts": [{"name": "node", "mountPath": "/var/tmp", "mountPropagation": "Bidirectional"}],  # noqa: S108
        }
        volumes = [{"name": "node", "hostPath": {"path": "/var/tmp"}}]  # noqa: S108
        apply(self.namespace, pod(KEEPER, keeper, volumes=volumes))
        ready(self.namespace, KEEPER)
        self._on_node(f"mkdir -p {self._path}; mount -t tmpfs -o size={mebibytes}m,mode=0777 tmpfs {self._path}")
        node = json.loads(kubectl("-n", self.namespace, "get", "pod", KEEPER, "-o", "json"))["spec"]["nodeName"]
        here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
        spec = {
            "capacity": {"storage": "20Gi"},
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": self.storage_class,
            "persistentVolumeReclaimPolicy": "Retain",
            "local": {"path": self._path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
        }
        volume = {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": self.storage_class}}
        apply(self.namespace, {**volume, "spec": spec})

    def _unmount(self) -> None:
        kubectl("delete", "persistentvolume", self.storage_class, "--ignore-not-found", "--wait=false")
        # A lazy unmount, because a pod of a failed run may still use it.
        self._on_node(f"umount -l {self._path}; rmdir {self._path}")
        kubectl("-n", self.namespace, "delete", "pod", KEEPER, "--ignore-not-found")


@contextmanager
def small_volume(*, mebibytes: int) -> Iterator[SmallVolume]:
    """Provide a volume of `mebibytes` MiB for the `with` block.

    Its name is unique, because the volume of a former claim may still be terminating. The privileged pod is in a
    namespace of its own, because that of a run does not admit it.
    """
    with new_namespace() as namespace:
        volume = SmallVolume(namespace, f"ctbasis-small-{uuid.uuid4().hex[:8]}")
        try:
            volume._mount(mebibytes)
            yield volume
        finally:
            volume._unmount()
