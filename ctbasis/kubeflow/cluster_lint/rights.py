"""Rights: the account of the runs may start a Spark application, and the driver's account its executors.

The account of the runs may also change a served model, if the namespace has the Role of the component deploy-basis.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import yaml

from ctbasis.installed import LAYOUT
from ctbasis.jobs.outage import LAUNCH
from ctbasis.jobs.served_model import ROLE as DEPLOY
from ctbasis.kubeflow.cluster_lint.findings import Finding, Level

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ctbasis.kubeflow.cluster_lint.cluster import Cluster
    from ctbasis.kubeflow.cluster_lint.needs import Needs

SUBJECT = "rights"
RBAC = "apis/rbac.authorization.k8s.io/v1"
DRIVER, EXECUTOR = "ctbasis-spark", "ctbasis-executor"
DEPLOY_STEP = "deploy"
"""The step in a package that has it."""

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
    yield from _role(cluster, needs.account, _rules("launch.yaml"), LAUNCH, "start Spark applications")
    yield from _role(cluster, DRIVER, _rules("driver.yaml"), DRIVER, "start executors")
    yield from _deploy(cluster, needs)


def _deploy(cluster: Cluster, needs: Needs) -> Iterator[Finding]:
    """Check the rights of the deploy step, where the package has it and the overlay has its Role.

    Which models are served is decided in the namespace: the Role names them, so the Role of the cluster is asked about
    and not that of manifests/. Without the Role no run of this namespace is meant to have the parameter `deploy`.
    """
    if DEPLOY_STEP not in needs.requests:
        return
    role = cluster.find(RBAC, "roles", DEPLOY)
    if role is not None:
        rules = _rights([role])
        yield from _role(cluster, needs.account, rules, DEPLOY, "change the basis of a served model")


def _role(
    cluster: Cluster, account: str, rights: Iterable[dict[str, str]], role: str, purpose: str
) -> Iterator[Finding]:
    rules = list(rights)
    lacking = [rule for rule in rules if not cluster.allows(account, rule)]
    if not lacking:
        yield Finding(Level.OK, SUBJECT, f"the account {account} may {purpose}")
        return
    there = cluster.find(RBAC, "roles", role) is not None
    who = f"--role={role} --serviceaccount={cluster.namespace}:{account}"
    bind = f"kubectl -n {cluster.namespace} create rolebinding {role}-{account} {who}"
    few = ", ".join(map(_words, lacking[:MOST_NAMED])) + (", ..." if len(lacking) > MOST_NAMED else "")
    message = f"the account {account} may not {purpose}: it lacks {len(lacking)} of {len(rules)} rights ({few})"
    absent = f"a RoleBinding of the Role {role} is" if there else f"the Role {role} and its RoleBinding are"
    remedy = bind if there else OVERLAY.format(cluster.namespace)
    yield Finding(Level.MISSING, SUBJECT, f"{message}; {absent} not there", remedy)


def _words(right: Mapping[str, str]) -> str:
    return " ".join(filter(None, (right["verb"], right["resource"], right.get("name"))))


def _rules(file: str) -> Iterator[dict[str, str]]:
    """Yield the rights of the Role in a file of manifests/base, one by one."""
    documents = yaml.safe_load_all((LAYOUT.manifests / "base" / file).read_text(encoding="utf-8"))
    return _rights(document for document in documents if document["kind"] == "Role")


def _rights(roles: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, str]]:
    """Yield the rights of Roles, one by one, each for one object where the Role names objects."""
    for rule in (rule for role in roles for rule in role.get("rules") or []):
        names = [{"name": name} for name in rule.get("resourceNames") or []] or [{}]
        for group, path, verb, name in product(rule["apiGroups"], rule["resources"], rule["verbs"], names):
            resource, _, subresource = path.partition("/")
            right = {"verb": verb, "group": group, "resource": resource} | name
            yield right | ({"subresource": subresource} if subresource else {})
