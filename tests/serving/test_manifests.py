"""The manifests of the served model and of the node: hardened, and as the programs in their containers are."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from ctbasis.cli import VERBS
from ctbasis.installed import LAYOUT
from ctbasis.kubeflow.lint import lint, rendered
from ctbasis.node.dicomweb import jobs_router
from ctbasis.serving.model import Model
from ctbasis.serving.routes import health_router
from ctbasis.web.application import application
from ctbasis.web.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "serving.md"

VALUES = {"UNFIT": "refuse", "AET": "CTBASIS"}
"""Values of variables that are not any text."""

FOLDERS = sorted(path.parent for path in (LAYOUT.manifests / "serving").rglob("kustomization.yaml"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def documents(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return rendered.render(request.param)


def pods_of(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the specifications of the pods, wherever a kind holds them."""
    return list(_pods(documents))


def _pods(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if "containers" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _pods(one)


def of_kind(documents: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in documents if one["kind"] == kind]


def templates(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [one["spec"]["template"] for one in documents if "template" in one.get("spec", {})]


def test_there_is_a_folder_for_each_way_to_serve() -> None:
    assert [folder.name for folder in FOLDERS] == ["kserve", "model", "node"]


def test_the_rendered_objects_have_no_fault(documents: list[dict[str, Any]]) -> None:
    assert len(documents) >= 1
    assert [str(fault) for fault in lint(FOLDERS)] == []


def test_every_pod_is_hardened(documents: list[dict[str, Any]]) -> None:
    pods = pods_of(documents)
    assert pods
    for pod in pods:
        assert pod["automountServiceAccountToken"] is False
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == 185
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False
            assert own["readOnlyRootFilesystem"] is True
            assert own["capabilities"] == {"drop": ["ALL"]}
            assert {"requests", "limits"} <= container["resources"].keys()
            assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
            # What the program writes besides: see images/steps/Dockerfile.
            assert "/tmp" in {mount["mountPath"] for mount in container["volumeMounts"]}  # noqa: S108 - of the pod
            secrets = [one["valueFrom"]["secretKeyRef"] for one in container["env"] if "secretKeyRef" in str(one)]
            assert all(one["optional"] for one in secrets)


def test_every_command_is_one_of_the_command_line(documents: list[dict[str, Any]]) -> None:
    for pod in pods_of(documents):
        (container,) = pod["containers"]
        *program, verb = container["args"][:4]
        assert program == ["python3", "-m", "ctbasis.cli"]
        arguments = [
            re.sub(r"\$\((\w+)\)", lambda match: VALUES.get(match[1], "x"), text) for text in container["args"][4:]
        ]
        command = VERBS[verb].load()
        command.make_context(verb, arguments).close()
        variables = {one["name"] for one in container["env"]}
        assert set(re.findall(r"\$\((\w+)\)", " ".join(container["args"]))) <= variables


def test_every_probe_asks_a_route_that_needs_no_token(documents: list[dict[str, Any]], tmp_path: Path) -> None:
    model = Model("ctbasis", (), tmp_path)
    serve = application("model", routers=[], public=[health_router(model)], token="", metrics=Metrics())
    node = application("node", routers=[jobs_router(None, None)], token="", metrics=Metrics())  # type: ignore[arg-type]
    for pod in pods_of(documents):
        (container,) = pod["containers"]
        served = (node if "node" in container["args"] else serve).openapi()["paths"]
        ports = {str(one[key]) for one in container["ports"] for key in ("name", "containerPort")}
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            asked = container[probe]["httpGet"]
            assert "security" not in served[asked["path"]]["get"]
            assert str(asked["port"]) in ports


def test_selectors_and_ports_name_what_there_is(documents: list[dict[str, Any]]) -> None:
    made = templates(documents)
    labels = [template["metadata"]["labels"] for template in made]
    ports = {one["name"] for template in made for one in template["spec"]["containers"][0]["ports"]}
    for service in of_kind(documents, "Service"):
        assert service["spec"]["selector"] in labels
        assert {one["targetPort"] for one in service["spec"]["ports"]} <= ports
    for kind, path in (("PodDisruptionBudget", "selector"), ("NetworkPolicy", "podSelector")):
        for one in of_kind(documents, kind):
            assert one["spec"][path]["matchLabels"] in labels
    for policy in of_kind(documents, "NetworkPolicy"):
        assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        allowed = [port["port"] for rule in policy["spec"]["ingress"] for port in rule["ports"]]
        assert set(allowed) == ports
    for scaler in of_kind(documents, "HorizontalPodAutoscaler"):
        target = scaler["spec"]["scaleTargetRef"]
        (scaled,) = of_kind(documents, target["kind"])
        assert scaled["metadata"]["name"] == target["name"]
        assert "replicas" not in scaled["spec"]
        # With one replica, the budget would let no node be drained, or every drain would stop the service.
        assert scaler["spec"]["minReplicas"] >= 2
    for template in made:
        maps = {one["metadata"]["name"]: one["data"] for one in of_kind(documents, "ConfigMap")}
        for variable in template["spec"]["containers"][0]["env"]:
            reference = variable["valueFrom"].get("configMapKeyRef")
            if reference is not None:
                assert reference["key"] in maps[reference["name"]]
        accounts = {one["metadata"]["name"] for one in of_kind(documents, "ServiceAccount")}
        assert template["spec"]["serviceAccountName"] in accounts


def test_the_node_is_one_process_with_a_volume(documents: list[dict[str, Any]]) -> None:
    for one in of_kind(documents, "StatefulSet"):
        assert one["spec"]["replicas"] == 1
        (claim,) = one["spec"]["volumeClaimTemplates"]
        (container,) = one["spec"]["template"]["spec"]["containers"]
        (mount,) = [mount for mount in container["volumeMounts"] if mount["name"] == claim["metadata"]["name"]]
        # The root of a new volume holds lost+found, and a node refuses a folder with files of others.
        assert f"--state={mount['mountPath']}/node" in container["args"]


def test_the_inference_service_gives_the_container_the_basis_of_kserve(documents: list[dict[str, Any]]) -> None:
    for one in of_kind(documents, "InferenceService"):
        assert one["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "RawDeployment"
        (container,) = one["spec"]["predictor"]["containers"]
        # The name by which KServe knows the container of a model, and the folder to which it downloads STORAGE_URI.
        assert container["name"] == "kserve-container"
        assert container["args"][container["args"].index("--basis") + 1] == "/mnt/models"
        assert "STORAGE_URI" in {variable["name"] for variable in container["env"]}


def test_the_kustomization_of_the_page_sets_images_and_bases(tmp_path: Path) -> None:
    if shutil.which("kubectl") is None and shutil.which("kustomize") is None:
        pytest.skip("neither kubectl nor kustomize is on PATH")
    (text,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    manifests = os.path.relpath(LAYOUT.manifests, tmp_path.resolve())
    (tmp_path / "kustomization.yaml").write_text(text.replace("../manifests", manifests))
    made = rendered.render(tmp_path)
    assert {one["metadata"]["namespace"] for one in made} == {"ctbasis"}
    images = {container["image"] for pod in pods_of(made) for container in pod["containers"]}
    assert images == {"registry.example.com/ctbasis/steps:0.1.0"}
    assert [one["data"]["basis"] for one in of_kind(made, "ConfigMap")] == ["s3://BUCKET/PREFIX/basis"] * 2


def test_click_checks_the_options_of_the_commands() -> None:
    with pytest.raises(click.UsageError):
        VERBS["serve"].load().make_context("serve", ["--basis", "x", "--prot", "1"])
