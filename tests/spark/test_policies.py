"""The policies of manifests/: no way out is open, and the lists that must be equal are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctbasis.installed import LAYOUT
from ctbasis.kubeflow.lint import rendered

COMPONENTS = LAYOUT.manifests / "components"
OVERLAYS = sorted(path.parent for path in (LAYOUT.manifests / "overlays").glob("*/kustomization.yaml"))


def of_kind(kind: str, folder: str) -> list[dict[str, Any]]:
    files = sorted((COMPONENTS / folder).glob("*.yaml"))
    documents = [document for file in files for document in yaml.safe_load_all(file.read_text())]
    return [document for document in documents if document["kind"] == kind]


def test_every_way_into_and_out_of_a_pod_names_its_peers_and_ports() -> None:
    policies = of_kind("NetworkPolicy", "network-policy")
    rules = [(policy, rule, "to") for policy in policies for rule in policy["spec"].get("egress", [])]
    rules += [(policy, rule, "from") for policy in policies for rule in policy["spec"].get("ingress", [])]
    assert rules
    for policy, rule, peers in rules:
        name = policy["metadata"]["name"]
        assert rule.get(peers), f"{name} has a rule for every peer"
        assert rule.get("ports"), f"{name} has a rule for every port"
        for peer in rule[peers]:
            assert peer.get("podSelector") or peer.get("ipBlock"), f"{name} has a rule for every pod: {peer}"
            assert peer.get("ipBlock", {}).get("cidr", "0/32").endswith("/32"), f"{name} has a rule for a network"


@pytest.mark.parametrize("role", ["driver", "executor"])
def test_driver_and_executors_have_a_policy_that_refuses_all_else(role: str) -> None:
    policies = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind("NetworkPolicy", "network-policy")}
    policy = policies[f"ctbasis-{role}"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    template = yaml.safe_load(LAYOUT.spark_template.read_text())
    assert policy["podSelector"]["matchLabels"] == {**template["metadata"]["labels"], "spark-role": role}
    # Otherwise executors listen on random ports, which no policy can name.
    assert template["spec"]["sparkConf"]["spark.blockManager.port"] == "7079"


def test_the_admission_policies_list_the_same_secrets() -> None:
    policies = of_kind("ValidatingAdmissionPolicy", "admission-policy")
    lists = [v["expression"] for policy in policies for v in policy["spec"]["variables"] if v["name"] == "secrets"]
    assert lists == ["['ctbasis-s3']"] * 4


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda overlay: overlay.name)
def test_every_overlay_enforces_its_policies_in_its_namespace(overlay: Any) -> None:
    documents = rendered.render(overlay)
    labels = [one["metadata"]["labels"] for one in documents if one["kind"] == "Namespace"]
    if not labels:
        # The namespace exists already. A command of this page, which tests execute, labels it.
        assert overlay.name in {"kubeflow", "profile"}
        page = (Path(__file__).parents[2] / "docs" / "how-to" / "kubeflow.md").read_text(encoding="utf-8")
        found = re.findall(r"^kubectl label namespace \S+ (\S+)=(\S+)", page, re.MULTILINE)
        labels = [{key: value} for key, value in found]
    assert len(labels) == 1
    bindings = [one for one in documents if one["kind"] == "ValidatingAdmissionPolicyBinding"]
    policies = {one["metadata"]["name"] for one in documents if one["kind"] == "ValidatingAdmissionPolicy"}
    assert {one["spec"]["policyName"] for one in bindings} == policies
    assert policies == {f"ctbasis-{name}" for name in ("pods", "spark-applications", "ray-jobs", "dask-jobs")}
    for binding in bindings:
        assert binding["spec"]["validationActions"] == ["Deny"]
        selector = binding["spec"]["matchResources"]["namespaceSelector"]["matchLabels"]
        assert labels[0].items() >= selector.items()
    assert {one["metadata"]["name"] for one in documents if one["kind"] == "NetworkPolicy"} >= {
        "ctbasis-driver",
        "ctbasis-executor",
    }
