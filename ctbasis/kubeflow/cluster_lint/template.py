"""The SparkApplication from which the svd step makes each run's application."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from ctbasis.jobs.job import TEMPLATE_NAME
from ctbasis.jobs.spark_application import SparkApplication

if TYPE_CHECKING:
    from ctbasis.kubeflow.cluster_lint.cluster import Cluster

OPERATOR_API = "apis/sparkoperator.k8s.io/v1beta2"


def template_of(cluster: Cluster) -> tuple[dict[str, Any], bool]:
    """Return the template of the namespace and True, or that of the steps' image and False if there is none.

    Raises:
        UnreadableError: The user may not get SparkApplications.
        CtbasisError: The cluster does not answer.
    """
    found = cluster.find(OPERATOR_API, "sparkapplications", TEMPLATE_NAME)
    if found is not None:
        return found, True
    own: dict[str, Any] = yaml.safe_load(SparkApplication.template.read_text(encoding="utf-8"))
    return own, False
