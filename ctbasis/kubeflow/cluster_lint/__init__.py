"""Asks a cluster whether what a compiled package needs is there, and says what is missing and how to mend it.

A Kubeflow server accepts a run whose pods can never start, and then calls it running. These checks find the reasons
beforehand. They read objects of the cluster and change nothing. Each module checks one kind of need by its function
`findings`; what the user of KUBECONFIG may not read is reported as unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctbasis.kubeflow.cluster_lint import images, namespace, nodes, rights, spark_operator, storage
from ctbasis.kubeflow.cluster_lint.cluster import Cluster, NoNamespaceError, UnreadableError
from ctbasis.kubeflow.cluster_lint.findings import Finding, Level
from ctbasis.kubeflow.cluster_lint.needs import Needs

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.jobs.api_server import ApiServer

__all__ = ["Finding", "Level", "check_cluster"]

CHECKS = {
    "nodes": nodes.findings,
    "storage": storage.findings,
    "namespace": namespace.findings,
    "Spark operator": spark_operator.findings,
    "rights": rights.findings,
    "images": images.findings,
}
"""The checks, by the need that a finding about them names. Those after `namespace` look into it."""


def check_cluster(server: ApiServer, package: Path, *, namespace: str, account: str = "") -> list[Finding]:
    """Return what a cluster says about the needs of a package.

    Args:
        server: The API server of the cluster.
        package: A compiled package in which the lint has found no fault.
        namespace: The namespace in which runs are executed.
        account: The service account that executes them. If it is empty, it is that of a profile, `default-editor`, if
            the namespace has it, and else `pipeline-runner`.

    Raises:
        CtbasisError: The cluster does not answer, or the package is that of another pipeline.
    """
    cluster = Cluster(server, namespace)
    needs = Needs.of(package, account or _account(cluster))
    found: list[Finding] = []
    for subject, check in CHECKS.items():
        try:
            for finding in check(cluster, needs):
                found.append(finding)  # noqa: PERF402 - what was found before an error stays
        except UnreadableError as error:
            found.append(Finding(Level.UNKNOWN, subject, str(error), error.remedy))
        except NoNamespaceError as error:
            found.append(Finding(Level.MISSING, subject, str(error), error.remedy))
            break
    return found


def _account(cluster: Cluster) -> str:
    try:
        return "default-editor" if cluster.find("api/v1", "serviceaccounts", "default-editor") else "pipeline-runner"
    except UnreadableError:
        return "pipeline-runner"
