"""Rights: the account of the runs may start a Spark application, and the driver's account its executors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from ctbasis.installed import LAYOUT
from ctbasis.jobs.outage import LAUNCH
from ctbasis.kubeflow.cluster_lint.findings import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctbasis.kubeflow.cluster_lint.cluster import Cluster
    from ctbasis.kubeflow.cluster_lint.needs import Needs

SUBJECT = "rights"
RBAC = "apis/rbac.authorization.k8s.io/v1"
DRIVER, EXECUTOR = "ctbasis-spark", "ctbasis-executor"
MOST_NAMED = 3
"""Lacking rights that a finding names."""

OVERLAY = "kubectl apply -k with an overlay of manifests/overlays in the namespace {}"


def findings(cluster: Cluster, needs: Needs) -> Iterator[Finding]:
    """Check the accounts, and ask the API server about each right of their Roles."""
    for account in (needs.account, DRIVER, EXECUTOR):
        if cluster.find("api/v1", "serviceaccounts", account) is None:
            ours = account in {DRIVER, EXECUTOR}
            remedy = OVERLAY.format(cluster.namespace) if ours else "name the account of the runs by --account"
            message = f"the namespace {cluster.namespace} has no service account {account}"
            yield Finding(Level.MISSING, SUBJECT, message, remedy)
    yield from _role(cluster, needs.account, "launch.yaml", LAUNCH, "start Spark applications")
    yield from _role(cluster, DRIVER, "driver.yaml", DRIVER, "start executors")


def _role(cluster: Cluster, account: str, file: str, role: str, purpose: str) -> Iterator[Finding]:
    rules = list(_rules(file))
    lacking = [rule for rule in rules if not cluster.allows(account, rule)]
    if not lacking:
        yield Finding(Level.OK, SUBJECT, f"the account {account} may {purpose}")
        return
    there = cluster.find(RBAC, "roles", role) is not None
    who = f"--role={role} --serviceaccount={cluster.namespace}:{account}"
    bind = f"kubectl -n {cluster.namespace} create rolebinding {role}-{account} {who}"
    few = ", ".join(f"{one['verb']} {one['resource']}" for one in lacking[:MOST_NAMED])
    message = f"the account {account} may not {purpose}: it lacks {len(lacking)} of {len(rules)} rights ({few}, ...)"
    absent = f"a RoleBinding of the Role {role} is" if there else f"the Role {role} and its RoleBinding are"
    remedy = bind if there else OVERLAY.format(cluster.namespace)
    yield Finding(Level.MISSING, SUBJECT, f"{message}; {absent} not there", remedy)


def _rules(file: str) -> Iterator[dict[str, str]]:
    """Yield the rights of the Role in a file of manifests/base, one by one."""
    documents = yaml.safe_load_all((LAYOUT.manifests / "base" / file).read_text(encoding="utf-8"))
    roles: list[dict[str, Any]] = [document for document in documents if document["kind"] == "Role"]
    for rule in (rule for role in roles for rule in role["rules"]):
        for group in rule["apiGroups"]:
            for path in rule["resources"]:
                resource, _, subresource = path.partition("/")
                for verb in rule["verbs"]:
                    right = {"verb": verb, "group": group, "resource": resource}
                    yield right | ({"subresource": subresource} if subresource else {})
