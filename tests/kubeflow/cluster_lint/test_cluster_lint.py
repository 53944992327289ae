"""What a package lacks in a cluster is said with the command that mends it; the cluster is a stand-in."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ctbasis.errors import CtbasisError
from ctbasis.installed import LAYOUT
from ctbasis.jobs.served_model import ROLE as DEPLOY
from ctbasis.kubeflow import package
from ctbasis.kubeflow.cluster_lint import CHECKS, Finding, Level, check_cluster
from ctbasis.kubeflow.cluster_lint.images import full_name, has_registry
from ctbasis.kubeflow.cluster_lint.spark_operator import selects
from ctbasis.kubeflow.cluster_settings import Claim, ClusterSettings
from tests.kubeflow.cluster_lint.cluster_stand_in import (
    CLASSES,
    CORE,
    DEFINITION,
    NAMESPACE,
    OPERATOR,
    TEMPLATE,
    WEBHOOKS,
    ClusterStandIn,
    definition,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def found(cluster: ClusterStandIn, path: Path = package.PACKAGE, **settings: str) -> list[Finding]:
    return check_cluster(cluster.api_server(), path, namespace=NAMESPACE, **settings)


def lacking(cluster: ClusterStandIn, path: Path = package.PACKAGE, **settings: str) -> list[Finding]:
    return [one for one in found(cluster, path, **settings) if one.level is Level.MISSING]


def compiled(folder: Path, settings: ClusterSettings) -> Path:
    package.write(folder / "here.yaml", settings)
    return folder / "here.yaml"


def test_a_cluster_that_has_everything_lacks_nothing_and_every_check_has_looked(cluster: ClusterStandIn) -> None:
    findings = found(cluster)
    assert {one.level for one in findings} <= {Level.OK, Level.NOTE}
    assert {one.subject for one in findings if one.level is Level.OK} == set(CHECKS)
    # The placeholders of the network policies are not in this stand-in, and nothing else is left to do.
    assert [str(one) for one in findings if one.level is Level.NOTE] == []


def remove(*paths: str) -> Callable[[ClusterStandIn], None]:
    def change(cluster: ClusterStandIn) -> None:
        for path in paths:
            assert cluster.objects.pop(path, None) is not None, path

    return change


def nodes(**changes: Any) -> Callable[[ClusterStandIn], None]:
    def change(cluster: ClusterStandIn) -> None:
        for path, node in cluster.objects.items():
            if path.startswith(f"{CORE}/nodes/"):
                node["spec"] |= changes.get("spec", {})
                node["status"] |= changes.get("status", {})

    return change


def provisioner(name: str) -> Callable[[ClusterStandIn], None]:
    def change(cluster: ClusterStandIn) -> None:
        cluster.objects[f"{CLASSES}/files"]["provisioner"] = name

    return change


def not_suspended(cluster: ClusterStandIn) -> None:
    del cluster.objects[TEMPLATE]["spec"]["suspend"]


def other_namespaces(cluster: ClusterStandIn) -> None:
    selector = {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["other"]}]}
    cluster.objects[WEBHOOKS]["webhooks"][0]["namespaceSelector"] = selector


def no_operator(cluster: ClusterStandIn) -> None:
    cluster.apis.remove(OPERATOR)


def no_kubeflow(cluster: ClusterStandIn) -> None:
    cluster.apis.remove("/apis/argoproj.io/v1alpha1")


def no_rights(cluster: ClusterStandIn) -> None:
    cluster.rights = {right for right in cluster.rights if right[0] != "pipeline-runner"}


def definition_without_a_field(cluster: ClusterStandIn) -> None:
    changed = definition()
    schema = changed["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del schema["properties"]["spec"]["properties"]["timeToLiveSeconds"]
    cluster.objects[DEFINITION] = changed


FAULTS: dict[str, tuple[Callable[[ClusterStandIn], None], str, str, str]] = {
    "no node": (nodes(spec={"unschedulable": True}), "nodes", "none of 3 nodes takes pods", "kubectl uncordon"),
    "tainted nodes": (nodes(spec={"taints": [{"effect": "NoSchedule"}]}), "nodes", "none of 3 nodes", "add a node"),
    "nodes that are not ready": (
        nodes(status={"conditions": [{"type": "Ready", "status": "Unknown"}]}),
        "nodes",
        "none of 3 nodes takes pods",
        "add a node",
    ),
    "small nodes": (
        nodes(status={"allocatable": {"cpu": "940m", "memory": "7Gi"}}),
        "nodes",
        "matrix requests 1 CPU and 2 GiB; the largest of 3 nodes has 0.94 CPU and 7 GiB",
        "ctbasis compile --size small --out here.yaml",
    ),
    "nodes without memory": (
        nodes(status={"allocatable": {"cpu": "64", "memory": "512Mi"}}),
        "nodes",
        "svd requests 1 CPU and 4 GiB",
        "ctbasis compile --requests svd:cpu=QUANTITY,memory=QUANTITY",
    ),
    "no class": (
        remove(f"{CLASSES}/files"),
        "storage",
        "no default StorageClass",
        "none exists: install a provisioner",
    ),
    "a class for one node": (
        provisioner("ebs.csi.aws.com"),
        "storage",
        "files (ebs.csi.aws.com) provides no ReadWriteMany",
        "ctbasis compile --access-mode ReadWriteOnce --out here.yaml",
    ),
    "no Kubeflow": (no_kubeflow, "namespace", "Kubeflow Pipelines is not installed", "install Kubeflow Pipelines"),
    "no namespace": (
        remove(f"{CORE}/namespaces/{NAMESPACE}"),
        "namespace",
        "there is no namespace kubeflow",
        "that of your profile",
    ),
    "no operator": (no_operator, "Spark operator", "is not installed", "helm upgrade --install spark-operator"),
    "no webhook": (remove(WEBHOOKS), "Spark operator", "it has no webhook for pods", "--set webhook.enable=true"),
    "an operator of other namespaces": (
        other_namespaces,
        "Spark operator",
        "it does not watch the namespace kubeflow",
        "spark.jobNamespaces={kubeflow}",
    ),
    "no template": (
        remove(TEMPLATE),
        "Spark operator",
        "no SparkApplication ctbasis-svd, so the svd step takes the template of its image",
        "kubectl apply -k",
    ),
    "a template that the operator would start": (not_suspended, "Spark operator", "is not suspended", "delete"),
    "another definition": (
        definition_without_a_field,
        "Spark operator",
        "spec.timeToLiveSeconds: is not a field of this kind",
        "--version 2.4.0",
    ),
    "no RoleBinding": (
        no_rights,
        "rights",
        "pipeline-runner may not start Spark applications: it lacks 19 of 19 rights (get sparkapplications, list",
        "create rolebinding ctbasis-launch-pipeline-runner --role=ctbasis-launch --serviceaccount=kubeflow:pipeline",
    ),
    "no account of the executors": (
        remove(f"{CORE}/namespaces/{NAMESPACE}/serviceaccounts/ctbasis-executor"),
        "rights",
        "no service account ctbasis-executor",
        "kubectl apply -k",
    ),
    "no images": (
        nodes(status={"images": []}),
        "images",
        "ctbasis/steps:0.1.0 names no registry and is on 0 of 3 nodes, so the others pull it from docker.io",
        "ctbasis compile --steps-image",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_is_missing_is_said_with_what_mends_it(name: str, cluster: ClusterStandIn) -> None:
    change, subject, message, remedy = FAULTS[name]
    change(cluster)
    findings = lacking(cluster)
    assert any(one.subject == subject and message in one.message and remedy in one.remedy for one in findings), findings
    assert {one.subject for one in findings} == {subject}


def test_a_missing_role_is_told_apart_from_a_missing_binding(cluster: ClusterStandIn) -> None:
    no_rights(cluster)
    remove(f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles/ctbasis-launch")(cluster)
    (finding,) = lacking(cluster)
    assert "the Role ctbasis-launch and its RoleBinding are not there" in finding.message
    assert "kubectl apply -k" in finding.remedy


def put_deploy_role(cluster: ClusterStandIn, model: str) -> None:
    """Put the Role of the component deploy-basis there, as an overlay has it whose Deployment has this name."""
    role = yaml.safe_load((LAYOUT.manifests / "components" / "deploy-basis" / "role.yaml").read_text())
    role["rules"][1]["resourceNames"] = [model]
    cluster.objects[f"/apis/rbac.authorization.k8s.io/v1/namespaces/{NAMESPACE}/roles/{DEPLOY}"] = role


@pytest.mark.parametrize("model", ["ctbasis-serving", "lung"])
def test_the_role_of_the_deploy_step_must_be_bound_for_the_models_that_it_names(
    model: str, cluster: ClusterStandIn
) -> None:
    put_deploy_role(cluster, model)
    (finding,) = lacking(cluster)
    assert finding.message == (
        "the account pipeline-runner may not change the basis of a served model: it lacks 4 of 4 rights "
        "(get inferenceservices ctbasis, patch inferenceservices ctbasis, "
        f"get deployments {model}, ...); a RoleBinding of the Role ctbasis-deploy is not there"
    )
    assert finding.remedy == (
        "kubectl -n kubeflow create rolebinding ctbasis-deploy-pipeline-runner "
        "--role=ctbasis-deploy --serviceaccount=kubeflow:pipeline-runner"
    )
    granted = ("inferenceservices ctbasis", f"deployments {model}")
    cluster.rights |= {("pipeline-runner", verb, one) for verb in ("get", "patch") for one in granted}
    assert any("may change the basis of a served model" in one.message for one in found(cluster))
    assert lacking(cluster) == []


def test_the_role_of_the_deploy_step_does_not_concern_a_package_without_that_step(cluster: ClusterStandIn) -> None:
    put_deploy_role(cluster, "ctbasis-serving")
    assert lacking(cluster, package.PACKAGES["cohort"]) == []


def test_the_account_of_a_profile_is_found_by_its_name(cluster: ClusterStandIn) -> None:
    cluster.put(f"{CORE}/namespaces/{NAMESPACE}/serviceaccounts", "default-editor")
    assert "default-editor may not start Spark applications" in str(lacking(cluster)[0])
    assert lacking(cluster, account="pipeline-runner") == []
    assert "no service account somebody" in str(lacking(cluster, account="somebody")[0])


def test_a_missing_pull_secret_is_missing_and_an_optional_secret_is_not(
    cluster: ClusterStandIn, tmp_path: Path
) -> None:
    path = compiled(tmp_path, ClusterSettings(pull_secrets=("mine",)))
    (finding,) = lacking(cluster, path)
    assert "there is no Secret mine" in finding.message
    assert finding.remedy.startswith("kubectl -n kubeflow create secret docker-registry mine --docker-server=HOST")
    remove(f"{CORE}/namespaces/{NAMESPACE}/secrets/ctbasis-s3")(cluster)
    notes = [one for one in found(cluster) if one.level is Level.NOTE]
    assert ["ctbasis-s3" in one.message for one in notes] == [True]
    cluster.put(f"{CORE}/namespaces/{NAMESPACE}/secrets", "mine")
    assert lacking(cluster, path) == []


def test_a_claim_of_a_class_that_the_cluster_does_not_have(cluster: ClusterStandIn, tmp_path: Path) -> None:
    (finding,) = lacking(cluster, compiled(tmp_path, ClusterSettings(claim=Claim(storage_class="fast"))))
    assert "no StorageClass 'fast', so the claim of the workspace stays Pending" in finding.message
    assert "one of files" in finding.remedy


def test_the_class_for_several_nodes_is_named_where_the_default_is_for_one(cluster: ClusterStandIn) -> None:
    provisioner("rancher.io/local-path")(cluster)
    cluster.put(CLASSES, "shared", provisioner="rook-ceph.cephfs.csi.ceph.com")
    (finding,) = lacking(cluster)
    assert finding.remedy == "ctbasis compile --storage-class shared --out here.yaml"


def test_what_an_unknown_class_provides_is_unknown_until_a_volume_proves_it(cluster: ClusterStandIn) -> None:
    provisioner("storage.example.org")(cluster)
    assert [one.level for one in found(cluster) if one.subject == "storage"] == [Level.UNKNOWN]
    volume = {"storageClassName": "files", "accessModes": ["ReadWriteOnce"]}
    spec = cluster.put(f"{CORE}/persistentvolumes", "pv", spec=volume)["spec"]
    assert [one.level for one in found(cluster) if one.subject == "storage"] == [Level.UNKNOWN]
    spec["accessModes"].append("ReadWriteMany")
    assert [one.level for one in found(cluster) if one.subject == "storage"] == [Level.OK]


def test_a_claim_for_one_node_is_enough_on_one_node_and_noted_on_several(
    cluster: ClusterStandIn, tmp_path: Path
) -> None:
    provisioner("ebs.csi.aws.com")(cluster)
    path = compiled(tmp_path, ClusterSettings(claim=Claim("ReadWriteOnce")))
    levels = [one.level for one in found(cluster, path) if one.subject == "storage"]
    assert levels == [Level.OK, Level.NOTE]
    remove(f"{CORE}/nodes/node1", f"{CORE}/nodes/node2")(cluster)
    assert [one.level for one in found(cluster, path) if one.subject == "storage"] == [Level.OK]


def test_the_spark_application_must_fit_with_one_executor_and_should_with_all(cluster: ClusterStandIn) -> None:
    remove(f"{CORE}/nodes/node1", f"{CORE}/nodes/node2")(cluster)
    nodes(status={"allocatable": {"cpu": "2", "memory": "15Gi"}})(cluster)
    assert lacking(cluster) == []
    assert any("2 executors of 1 CPU and 4 GiB each, 2 fit at once" in one.message for one in found(cluster))
    nodes(status={"allocatable": {"cpu": "1", "memory": "15Gi"}})(cluster)
    (finding,) = lacking(cluster)
    assert "1 fit at once" in finding.message
    assert "--size small" in finding.remedy


def test_images_of_a_registry_and_missing_labels_are_noted(cluster: ClusterStandIn, tmp_path: Path) -> None:
    image = f"registry.example.com/lab/steps@sha256:{'0' * 64}"
    del cluster.objects[f"{CORE}/namespaces/{NAMESPACE}"]["metadata"]["labels"]["ctbasis/admission"]
    findings = found(cluster, compiled(tmp_path, ClusterSettings(image)))
    notes = [str(one) for one in findings if one.level is Level.NOTE]
    assert any(f"{image} is on 0 of 3 nodes" in note for note in notes)
    assert any("kubectl label namespace kubeflow ctbasis/admission=enforced" in note for note in notes)
    assert len(notes) == 2


def test_a_network_policy_with_the_placeholder_of_the_manifests_is_noted(cluster: ClusterStandIn) -> None:
    policies = f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies"
    for name, cidr in (("ctbasis-api-server", "192.0.2.1/32"), ("mine", "10.0.0.0/8"), ("six", "2001:db8::/32")):
        cluster.put(policies, name, spec={"egress": [{"to": [{"ipBlock": {"cidr": cidr}}]}]})
    notes = [one.message for one in found(cluster) if one.level is Level.NOTE]
    assert [note.partition(" has")[0] for note in notes] == ["the NetworkPolicy ctbasis-api-server"]


@pytest.mark.parametrize("path", ["nodes", "storageclasses", "secrets", "sparkapplications", "webhook", "reviews", ""])
def test_what_the_user_may_not_read_is_unknown_and_names_the_right(path: str, cluster: ClusterStandIn) -> None:
    cluster.refused = path
    findings = found(cluster)
    unknown = [one for one in findings if one.level is Level.UNKNOWN]
    assert unknown
    assert all(re.search("get the right to (get|list|create) ", one.remedy) for one in unknown), unknown
    assert not [one for one in findings if one.level is Level.MISSING]


def test_nothing_is_changed_in_the_cluster(cluster: ClusterStandIn) -> None:
    found(cluster)
    written = {request for request in cluster.requests if not request.startswith("GET ")}
    assert written == {"POST /apis/authorization.k8s.io/v1/subjectaccessreviews"}
    assert len(cluster.requests) == len(set(cluster.requests)) + sum(
        request.startswith("POST") for request in cluster.requests
    ) - len(written)


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ({}, True),
        ({"matchLabels": {"a": "1"}}, True),
        ({"matchLabels": {"a": "2"}}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, False),
        ({"matchExpressions": [{"key": "b", "operator": "NotIn", "values": ["1"]}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, False),
        ({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}, False),
    ],
)
def test_selectors_match_as_kubernetes_defines_them(selector: dict[str, Any], matches: bool) -> None:
    assert selects(selector, {"a": "1"}) is matches


@pytest.mark.parametrize(
    ("image", "full", "registry"),
    [
        ("busybox:1", "docker.io/library/busybox:1", False),
        ("ctbasis/steps:1", "docker.io/ctbasis/steps:1", False),
        ("localhost/steps:1", "localhost/steps:1", True),
        ("registry:5000/steps:1", "registry:5000/steps:1", True),
        ("ghcr.io/lab/steps:1", "ghcr.io/lab/steps:1", True),
    ],
)
def test_names_of_images_are_completed_as_container_runtimes_do(image: str, full: str, registry: bool) -> None:
    assert (full_name(image), has_registry(image)) == (full, registry)


@pytest.mark.parametrize("key", ["resources", "image"])
def test_the_package_of_another_pipeline_or_another_kfp_is_refused_by_name(
    key: str, cluster: ClusterStandIn, tmp_path: Path
) -> None:
    documents = list(yaml.safe_load_all(package.PACKAGE.read_text()))
    del documents[0]["deploymentSpec"]["executors"]["exec-fetch"]["container"][key]
    (tmp_path / "other.yaml").write_text(yaml.safe_dump_all(documents))
    with pytest.raises(CtbasisError, match=f"other.yaml has no '{key}'"):
        found(cluster, tmp_path / "other.yaml")
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(documents[0]))
    with pytest.raises(CtbasisError, match="other"):
        found(cluster, tmp_path / "other.yaml")
