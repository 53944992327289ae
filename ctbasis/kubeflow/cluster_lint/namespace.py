"""The namespace of the runs: it exists, has the Secrets that the steps name, and its policies know the cluster."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from ctbasis.kubeflow.cluster_lint.cluster import NoNamespaceError, UnreadableError
from ctbasis.kubeflow.cluster_lint.findings import Finding, Level
from ctbasis.kubeflow.lint.paths import look_up, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctbasis.kubeflow.cluster_lint.cluster import Cluster
    from ctbasis.kubeflow.cluster_lint.needs import Needs

SUBJECT = "namespace"
WORKFLOWS = "apis/argoproj.io/v1alpha1"
DOCUMENTATION = ipaddress.IPv4Network("192.0.2.0/24")
"""Addresses that nothing has (RFC 5737); manifests/components/network-policy has them as placeholders."""


def findings(cluster: Cluster, needs: Needs) -> Iterator[Finding]:
    """Check the namespace and what is in it.

    Raises:
        NoNamespaceError: It does not exist.
    """
    if not cluster.serves(WORKFLOWS):
        message = f"Kubeflow Pipelines is not installed: the cluster does not serve {WORKFLOWS}"
        yield Finding(Level.MISSING, SUBJECT, message, "install Kubeflow Pipelines 2.17")
    found = cluster.find("api/v1", "namespaces", cluster.namespace, everywhere=True)
    if found is None:
        raise NoNamespaceError(f"there is no namespace {cluster.namespace}")
    labels = look_up(found, "metadata.labels") or {}
    if labels.get("ctbasis/admission") != "enforced":
        message = "the admission policies are not enforced, so whoever may start an application may mount its Secrets"
        remedy = f"kubectl label namespace {cluster.namespace} ctbasis/admission=enforced"
        yield Finding(Level.NOTE, SUBJECT, message, remedy)
    yield from _secrets(cluster, needs)
    yield from _policies(cluster)


def _secrets(cluster: Cluster, needs: Needs) -> Iterator[Finding]:
    """Check that Secrets exist. Their content is requested with them, for Kubernetes has no smaller right."""
    wanted = dict.fromkeys(needs.pull_secrets, False) | dict(needs.secrets)
    for name, optional in wanted.items():
        try:
            there = cluster.find("api/v1", "secrets", name) is not None
        except UnreadableError as error:
            yield Finding(Level.UNKNOWN, SUBJECT, f"whether there is a Secret {name}: {error}", error.remedy)
            continue
        kind = "docker-registry" if name in needs.pull_secrets else "generic"
        options = (
            "--docker-server=HOST --docker-username=NAME"
            if name in needs.pull_secrets
            else "--from-env-file=/dev/stdin"
        )
        create = f"kubectl -n {cluster.namespace} create secret {kind} {name} {options}"
        if there:
            yield Finding(Level.OK, SUBJECT, f"Secret {name}")
        elif optional:
            yield Finding(Level.NOTE, SUBJECT, f"there is no Secret {name}, without which the steps run too", create)
        else:
            message = f"there is no Secret {name}, without which no step's image can be pulled"
            yield Finding(Level.MISSING, SUBJECT, message, create)


def _policies(cluster: Cluster) -> Iterator[Finding]:
    """Find network policies that still have the placeholders of this repository."""
    for policy in cluster.list("apis/networking.k8s.io/v1", "networkpolicies", everywhere=False):
        blocks = [value["cidr"] for _, value in walk(policy.get("spec")) if isinstance(value, dict) and "cidr" in value]
        if any(_is_placeholder(block) for block in blocks):
            name = policy["metadata"]["name"]
            message = (
                f"the NetworkPolicy {name} has the placeholder {', '.join(blocks)}; where it is enforced, runs fail"
            )
            yield Finding(Level.NOTE, SUBJECT, message, "enter the address, see docs/how-to/kubeflow.md#network")


def _is_placeholder(block: str) -> bool:
    network = ipaddress.ip_network(block, strict=False)
    return isinstance(network, ipaddress.IPv4Network) and network.subnet_of(DOCUMENTATION)
