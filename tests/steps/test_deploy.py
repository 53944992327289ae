"""The deploy step: the served model gets the basis of a run, a registry too, and a refusal says what to do."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ctbasis.errors import CtbasisError
from ctbasis.installed import LAYOUT
from ctbasis.jobs import served_model
from ctbasis.jobs.timeouts import Timeouts
from ctbasis.kubeflow import local
from ctbasis.parameters import DeployPlan, check
from ctbasis.steps import model_registry
from ctbasis.steps.deploy import run_step
from tests.jobs.api_server_stand_in import DEPLOYMENTS, INFERENCE_SERVICES, ApiServerStandIn
from tests.steps.model_registry_stand_in import ModelRegistryStandIn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SERVING = LAYOUT.manifests / "serving"
MANIFESTS = {
    "deployment/ctbasis-serving": (DEPLOYMENTS, SERVING / "model" / "deployment.yaml"),
    "inferenceservice/ctbasis": (INFERENCE_SERVICES, SERVING / "kserve" / "inference-service.yaml"),
}
ARTIFACT = "minio://mlpipeline/v2/artifacts/denoise/run-1/svd/basis"
SERVED = "s3://mlpipeline/v2/artifacts/denoise/run-1/svd/basis"
METADATA = {"kind": "patch", "version": "0.1.0", "layout": "3", "kernel": "B31f", "sha256": "ab"}
ROLLED_OUT = {"observedGeneration": 99, "replicas": 1, "updatedReplicas": 1, "availableReplicas": 1}


@pytest.fixture
def server() -> Iterator[ApiServerStandIn]:
    with ApiServerStandIn() as running:
        for collection, path in MANIFESTS.values():
            running.put(collection, {**yaml.safe_load(path.read_text()), "status": ROLLED_OUT})
        yield running


@pytest.fixture
def registry() -> Iterator[ModelRegistryStandIn]:
    with ModelRegistryStandIn() as running:
        yield running


def run(
    server: ApiServerStandIn,
    deploy: str = "deployment/ctbasis-serving",
    *,
    registry: str = "",
    metadata: dict[str, str] = METADATA,
    uri: str = ARTIFACT,
) -> str:
    plan, timeouts = DeployPlan(deploy, registry), Timeouts(api_server=0.5)
    return run_step(plan, uri, metadata, run="run-1", server=server.api_server(), timeouts=timeouts, poll=0.01)


def changes(server: ApiServerStandIn) -> int:
    return sum(method == "PATCH" for method, _ in server.requests)


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """Return the leaves of an object by their paths."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {path: value}
    return {place: leaf for key, one in items for place, leaf in flat(one, f"{path}/{key}").items()}


@pytest.mark.parametrize("deploy", MANIFESTS)
def test_the_step_changes_the_variable_with_the_basis_and_nothing_else(server: ApiServerStandIn, deploy: str) -> None:
    collection, name = MANIFESTS[deploy][0], deploy.partition("/")[2]
    before = server.get(collection, name)
    assert run(server, deploy) == SERVED
    after = server.get(collection, name)
    assert before is not None
    assert after is not None
    changed = {path for path, value in flat(after["spec"]).items() if flat(before["spec"]).get(path) != value}
    (path,) = changed
    assert path.endswith("/value")
    assert flat(after["spec"])[path] == SERVED
    variables = flat(after["spec"]).keys()
    # A variable has a value or a source of its value.
    assert not any(one.startswith(path.removesuffix("value") + "valueFrom") for one in variables)


@pytest.mark.parametrize("deploy", MANIFESTS)
def test_the_role_allows_exactly_what_the_step_asks(server: ApiServerStandIn, deploy: str) -> None:
    run(server, deploy)
    role = yaml.safe_load((LAYOUT.manifests / "components" / "deploy-basis" / "role.yaml").read_text())
    assert role["metadata"]["name"] == served_model.ROLE
    (rule,) = [one for one in role["rules"] if one["resources"] == [f"{deploy.partition('/')[0]}s"]]
    collection, name = MANIFESTS[deploy][0], deploy.partition("/")[2]
    asked = {(method, path) for method, path in server.requests}
    assert {path for _, path in asked} == {f"{collection}/{name}"}
    assert rule["resourceNames"] == [name]
    assert set(rule["verbs"]) == {method.lower() for method, _ in asked}
    assert collection.startswith(f"/apis/{rule['apiGroups'][0]}/")


def test_a_second_run_of_the_step_changes_nothing(server: ApiServerStandIn) -> None:
    assert run(server) == run(server) == SERVED
    assert changes(server) == 1


def test_a_model_that_changes_between_the_look_and_the_change_is_looked_at_again(server: ApiServerStandIn) -> None:
    server.answer("PATCH", "ctbasis-serving", 422, "the server rejected our request")
    assert run(server) == SERVED
    assert changes(server) == 2


def test_an_outage_of_the_api_server_is_waited_for(server: ApiServerStandIn) -> None:
    server.answer("PATCH", "ctbasis-serving", 503, "starting")
    assert run(server) == SERVED


def test_the_step_waits_until_all_pods_are_new(server: ApiServerStandIn) -> None:
    server.status(DEPLOYMENTS, "ctbasis-serving", updatedReplicas=0, availableReplicas=1)
    server.status(
        DEPLOYMENTS,
        "ctbasis-serving",
        conditions=[{"type": "Progressing", "reason": "ProgressDeadlineExceeded", "message": "no progress"}],
    )
    with pytest.raises(CtbasisError, match="do not become ready: 0 of 1 pods are updated") as stuck:
        run(server)
    assert "kubectl rollout undo deployment/ctbasis-serving" in stuck.value.remedy


@pytest.mark.parametrize(
    ("status", "plain", "found", "remedy"),
    [
        (404, False, "has no Deployment ctbasis-serving", "get deployments"),
        (404, True, "knows no Deployment", "name a deployment"),
        (403, False, "403 Forbidden", "components/deploy-basis"),
    ],
)
def test_a_refusal_says_what_is_missing(
    server: ApiServerStandIn, status: int, plain: bool, found: str, remedy: str
) -> None:
    server.answer("GET", "ctbasis-serving", status, "refused", plain=plain)
    with pytest.raises(CtbasisError, match=found) as refused:
        run(server)
    assert remedy in refused.value.remedy
    assert refused.value.expected


def test_another_model_of_that_name_stays_as_it_is(server: ApiServerStandIn) -> None:
    other = copy.deepcopy(server.get(DEPLOYMENTS, "ctbasis-serving"))
    assert other is not None
    other["spec"]["template"]["spec"]["containers"][0]["name"] = "nginx"
    server.put(DEPLOYMENTS, other)
    with pytest.raises(CtbasisError, match="has no variable BASIS in a container model"):
        run(server)
    assert changes(server) == 0


@pytest.mark.parametrize("metadata", [{}, {"kind": "global"}])
def test_a_basis_of_global_mode_is_refused_before_anything_is_asked(
    server: ApiServerStandIn, metadata: dict[str, str]
) -> None:
    with pytest.raises(CtbasisError, match="in global mode"):
        run(server, metadata=metadata)
    assert server.requests == []


def test_a_basis_that_is_not_on_s3_is_refused(server: ApiServerStandIn) -> None:
    with pytest.raises(CtbasisError, match="expected: an artifact on an S3 store"):
        run(server, uri="/tmp/basis")  # noqa: S108 - no file


def test_parameters_that_cannot_work_are_refused_before_a_run(tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match="the run is in global mode"):
        check({"deploy": "deployment/ctbasis-serving"})
    check({"deploy": "deployment/ctbasis-serving", "mode": "patch"})
    with pytest.raises(CtbasisError, match="deploy is not"):
        check({"registry": "http://registry:8080", "mode": "patch"})
    with pytest.raises(CtbasisError, match="this run is on this machine"):
        local.run({"source": "ct", "deploy": "deployment/ctbasis-serving", "mode": "patch"}, out=tmp_path / "out")
    for wrong in ("ctbasis-serving", "pod/x", "deployment/", "deployment/A_b"):
        with pytest.raises(CtbasisError, match="deploy is"):
            DeployPlan(wrong)
    with pytest.raises(CtbasisError, match="user name and a password"):
        DeployPlan("deployment/x", "http://me:secret@registry:8080")


def test_the_basis_is_registered_once_with_what_its_artifact_says(
    server: ApiServerStandIn, registry: ModelRegistryStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(model_registry.TOKEN, raising=False)
    for _ in range(2):
        run(server, registry=registry.url)
    assert list(registry.models) == ["ctbasis-serving"]
    version = registry.versions["run-1"]
    assert {name: value["string_value"] for name, value in version.to_dict()["customProperties"].items()} == METADATA
    (artifact,) = registry.artifacts.values()
    assert (artifact.uri, artifact.model_format_name, artifact.model_format_version) == (SERVED, "ctbasis-basis", "3")
    assert registry.tokens == {"Bearer "}, "the token of the pod's account is for the API server alone"


def test_a_version_without_an_artifact_is_one_of_an_attempt_that_was_interrupted(
    server: ApiServerStandIn, registry: ModelRegistryStandIn
) -> None:
    run(server, registry=registry.url)
    registry.artifacts.clear()
    run(server, registry=registry.url)
    assert list(registry.versions) == ["run-1", "run-1-2"]


@pytest.mark.parametrize(("status", "remedy"), [(401, "Secret"), (403, "Secret"), (404, "address"), (500, "retry")])
def test_a_registry_that_refuses_leaves_the_served_model_as_it_is(
    server: ApiServerStandIn, registry: ModelRegistryStandIn, status: int, remedy: str
) -> None:
    registry.refusals = [status] * 10
    with pytest.raises(CtbasisError, match=f"answers {status}") as refused:
        run(server, registry=registry.url)
    assert remedy in refused.value.remedy
    assert changes(server) == 0


def test_a_registry_that_is_not_there_is_told(server: ApiServerStandIn, registry: ModelRegistryStandIn) -> None:
    registry.refusals = [503] * 10
    with pytest.raises(CtbasisError, match="answers 503"):
        run(server, registry=registry.url)
    with pytest.raises(CtbasisError, match="cannot be reached"):
        run(server, registry="http://127.0.0.1:9")
    assert changes(server) == 0


def test_the_token_of_the_secret_is_sent(
    server: ApiServerStandIn, registry: ModelRegistryStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(model_registry.TOKEN, "of-the-secret")
    run(server, registry=registry.url)
    assert registry.tokens == {"Bearer of-the-secret"}


def test_https_without_a_token_is_told(server: ApiServerStandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(model_registry.TOKEN, raising=False)
    with pytest.raises(CtbasisError, match="there is no token"):
        run(server, registry="https://registry.example.com")
