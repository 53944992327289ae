"""Storage: the class of the workspace's claim exists, and provides the access mode that the package asks for.

Kubernetes does not say which access modes a class provides. It is known of provisioners that are listed here, and
proven by a volume that the class has made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctbasis.kubeflow.cluster_lint.findings import Finding, Level
from ctbasis.kubeflow.cluster_lint.nodes import usable_nodes
from ctbasis.kubeflow.lint.paths import look_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ctbasis.kubeflow.cluster_lint.cluster import Cluster
    from ctbasis.kubeflow.cluster_lint.needs import Needs

SUBJECT = "storage"
STORAGE_API = "apis/storage.k8s.io/v1"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
MANY = "ReadWriteMany"

ONE_NODE = (
    *("rancher.io/local-path", "ebs.csi.aws.com", "kubernetes.io/aws-ebs", "pd.csi.storage.gke.io"),
    *("kubernetes.io/gce-pd", "disk.csi.azure.com", "kubernetes.io/azure-disk", "cinder.csi.openstack.org"),
    *("dobs.csi.digitalocean.com", "csi.hetzner.cloud", "linodebs.csi.linode.com", "csi.vsphere.vmware.com"),
    *("rbd.csi.ceph.com", "topolvm.io", "kubernetes.io/no-provisioner"),
)
"""Provisioners, or the ends of their names, whose volumes one node mounts at a time."""

MANY_NODES = (
    *("efs.csi.aws.com", "fsx.csi.aws.com", "filestore.csi.storage.gke.io", "file.csi.azure.com", "nfs.csi.k8s.io"),
    *("cephfs.csi.ceph.com", "driver.longhorn.io", "smb.csi.k8s.io", "manila.csi.openstack.org"),
    *("k8s.io/minikube-hostpath", "nfs-subdir-external-provisioner"),
)
"""Provisioners, or the ends of their names, whose volumes several nodes mount at the same time."""


def findings(cluster: Cluster, needs: Needs) -> Iterator[Finding]:
    """Check the class of the workspace's claim."""
    classes = {one["metadata"]["name"]: one for one in cluster.list(STORAGE_API, "storageclasses")}
    name = needs.storage_class or next((name for name, one in classes.items() if _is_default(one)), "")
    if name not in classes:
        missing = f"there is no StorageClass {name!r}" if name else "the cluster has no default StorageClass"
        known = f"one of {', '.join(classes)}" if classes else "none exists: install a provisioner first"
        remedy = f"ctbasis compile --storage-class NAME --out here.yaml ({known})"
        yield Finding(Level.MISSING, SUBJECT, f"{missing}, so the claim of the workspace stays Pending", remedy)
        return
    provisioner = str(classes[name].get("provisioner"))
    if needs.access_mode != MANY:
        yield Finding(Level.OK, SUBJECT, f"{needs.access_mode} by the StorageClass {name} ({provisioner})")
        if len(usable_nodes(cluster)) > 1:
            yield Finding(
                Level.NOTE,
                SUBJECT,
                "a ReadWriteOnce workspace keeps all pods of a run, also the executors, on one node",
                "run with --store s3://BUCKET/PREFIX, so that executors on other nodes need no workspace",
            )
        return
    shared = _provides_many(cluster, name, provisioner)
    others = [other for other, one in classes.items() if _provides_many(cluster, other, str(one.get("provisioner")))]
    if shared:
        yield Finding(Level.OK, SUBJECT, f"{MANY} by the StorageClass {name} ({provisioner})")
    elif shared is None:
        message = f"whether the StorageClass {name} ({provisioner}) provides {MANY} is not known to ctbasis"
        yield Finding(Level.UNKNOWN, SUBJECT, message, "see the manual of the provisioner")
    else:
        message = (
            f"the StorageClass {name} ({provisioner}) provides no {MANY}, so the claim of the workspace stays Pending"
        )
        chosen = f"--storage-class {others[0]}" if others else "--access-mode ReadWriteOnce"
        more = "" if others else ", and run with --store s3://BUCKET/PREFIX if there are several nodes"
        yield Finding(Level.MISSING, SUBJECT, message, f"ctbasis compile {chosen} --out here.yaml{more}")


def _is_default(storage_class: Mapping[str, Any]) -> bool:
    annotations = look_up(storage_class, "metadata.annotations") or {}
    return annotations.get(DEFAULT_CLASS) == "true"


def _provides_many(cluster: Cluster, name: str, provisioner: str) -> bool | None:
    """Return whether a class provides ReadWriteMany, None if that is unknown."""
    if provisioner.endswith(MANY_NODES):
        return True
    if provisioner.endswith(ONE_NODE):
        return False
    volumes = [
        one for one in cluster.list("api/v1", "persistentvolumes") if look_up(one, "spec.storageClassName") == name
    ]
    return True if any(MANY in (look_up(one, "spec.accessModes") or []) for one in volumes) else None
