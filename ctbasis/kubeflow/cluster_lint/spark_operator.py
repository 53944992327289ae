"""The Spark operator: its definition of a SparkApplication, its webhook, and the template in the namespace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctbasis.errors import CtbasisError
from ctbasis.jobs.job import TEMPLATE_NAME
from ctbasis.jobs.spark_application import SparkApplication
from ctbasis.kubeflow.cluster_lint.findings import Finding, Level
from ctbasis.kubeflow.cluster_lint.template import OPERATOR_API, template_of
from ctbasis.kubeflow.lint import crds, spark
from ctbasis.kubeflow.lint.paths import look_up

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ctbasis.kubeflow.cluster_lint.cluster import Cluster
    from ctbasis.kubeflow.cluster_lint.needs import Needs

SUBJECT = "Spark operator"
DEFINITION = "sparkapplications.sparkoperator.k8s.io"
LAUNCHED = "sparkoperator.k8s.io/launched-by-spark-operator"

HELM = (
    "helm upgrade --install spark-operator spark-operator/spark-operator --version 2.4.0 -n spark-operator "
    "--create-namespace --set 'spark.jobNamespaces={%s}' --set webhook.enable=true"
)
"""The command that installs the operator for a namespace."""


def findings(cluster: Cluster, needs: Needs) -> Iterator[Finding]:  # noqa: ARG001 - all checks have one signature
    """Check the operator, and the template of the namespace."""
    if not cluster.serves(OPERATOR_API):
        message = f"is not installed: the cluster does not serve {OPERATOR_API}; the engines mahout and spark need it"
        yield Finding(Level.MISSING, SUBJECT, message, HELM % cluster.namespace)
        return
    yield from _webhook(cluster)
    template, is_there = template_of(cluster)
    if not is_there:
        yield Finding(
            Level.MISSING,
            SUBJECT,
            f"the namespace {cluster.namespace} has no SparkApplication {TEMPLATE_NAME}, so the svd step takes the "
            f"template of its image, whose Spark image is {look_up(template, 'spec.image')}",
            "kubectl apply -k with an overlay of manifests/overlays in that namespace",
        )
    elif not look_up(template, "spec.suspend"):
        remedy = f"kubectl -n {cluster.namespace} delete sparkapplication {TEMPLATE_NAME}, then apply an overlay"
        yield Finding(
            Level.MISSING, SUBJECT, f"the template {TEMPLATE_NAME} is not suspended, so it is no template", remedy
        )
    yield from _definition(cluster, template)


def _webhook(cluster: Cluster) -> Iterator[Finding]:
    """Check that the operator changes the pods that it makes in this namespace."""
    webhooks = [
        webhook
        for one in cluster.list("apis/admissionregistration.k8s.io/v1", "mutatingwebhookconfigurations")
        for webhook in one.get("webhooks") or []
        if _is_for_pods(webhook) and LAUNCHED in str(webhook.get("objectSelector"))
    ]
    if not webhooks:
        message = "it has no webhook for pods, so security contexts and volumes of driver and executors are not set"
        yield Finding(Level.MISSING, SUBJECT, message, HELM % cluster.namespace)
        return
    namespace = cluster.find("api/v1", "namespaces", cluster.namespace, everywhere=True) or {}
    labels = {"kubernetes.io/metadata.name": cluster.namespace, **(look_up(namespace, "metadata.labels") or {})}
    if any(selects(webhook.get("namespaceSelector") or {}, labels) for webhook in webhooks):
        yield Finding(Level.OK, SUBJECT, f"its webhook works in the namespace {cluster.namespace}")
    else:
        message = f"it does not watch the namespace {cluster.namespace}"
        yield Finding(
            Level.MISSING, SUBJECT, message, f"{HELM % cluster.namespace} --reuse-values, with all its namespaces"
        )


def _is_for_pods(webhook: Mapping[str, Any]) -> bool:
    return any("pods" in (rule.get("resources") or []) for rule in webhook.get("rules") or [])


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether a label selector of Kubernetes matches labels; an empty one matches all."""
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    for one in selector.get("matchExpressions") or []:
        present, among = one["key"] in labels, labels.get(one["key"]) in (one.get("values") or [])
        if not {"In": among, "NotIn": not among, "Exists": present, "DoesNotExist": not present}[one["operator"]]:
            return False
    return True


def _definition(cluster: Cluster, template: Mapping[str, Any]) -> Iterator[Finding]:
    """Check the template against the definition that this cluster has."""
    definition = cluster.find("apis/apiextensions.k8s.io/v1", "customresourcedefinitions", DEFINITION, everywhere=True)
    if definition is None:
        return
    if crds.is_vendored(definition):
        yield Finding(Level.OK, SUBJECT, f"its definition of a SparkApplication is that of version {crds.VERSION}")
    else:
        yield Finding(
            Level.NOTE, SUBJECT, f"its definition of a SparkApplication is not that of version {crds.VERSION}"
        )
    plain = SparkApplication.without_cluster_fields(template)
    faults = [f"{place}: {message}" for place, message, _ in spark.violations(plain, definition)]
    try:
        SparkApplication.from_manifest(plain, where=f"template {TEMPLATE_NAME}")
    except CtbasisError as error:
        faults.append(error.found)
    if faults:
        message = f"the template does not fit its definition: {'; '.join(faults[:3])}"
        yield Finding(Level.MISSING, SUBJECT, message, HELM % cluster.namespace)
    else:
        yield Finding(Level.OK, SUBJECT, "the template fits its definition")
