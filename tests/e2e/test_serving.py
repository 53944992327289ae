"""The served model and the DICOM node of manifests/serving on a cluster, and the deploy step that changes the basis.

Two bases lie on S3. The model serves the first one; the deploy step, with the rights of the component deploy-basis
alone, lets it serve the second one, and new pods do. KServe is not needed: the plain Deployment is under test.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ctbasis.errors import CtbasisError
from ctbasis.jobs.api_server import ApiServer
from ctbasis.parameters import DeployPlan
from ctbasis.steps.deploy import run_step
from tests.e2e.cluster import (
    CHECKOUT,
    STEPS_IMAGE,
    hardened,
    has_definition,
    kubectl,
    new_namespace,
    pod,
    ready,
    wait_until,
)
from tests.e2e.object_store import EMPTY_BUCKET, apply, object_store
from tests.e2e.step_namespace import account_kubeconfig

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e

WORKBENCH, MODEL, NODE, RUNNER = "workbench", "ctbasis-serving", "ctbasis-node", "pipeline-runner"
CLIENTS = {"app": WORKBENCH}
SMALL = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"cpu": "2", "memory": "2Gi"}}
KSERVE = "inferenceservices.serving.kserve.io"

OVERLAY = """
namespace: {name}
resources:
  - {manifests}/serving/model
  - {manifests}/serving/node
components:
  - {manifests}/components/deploy-basis
patches:
  - patch: |-
      apiVersion: v1
      kind: ConfigMap
      metadata: {{name: ctbasis-serving}}
      data: {{basis: "{basis}"}}
  - patch: |-
      apiVersion: v1
      kind: ConfigMap
      metadata: {{name: ctbasis-node}}
      data: {{basis: "{basis}", forward: "ARCHIVE@192.0.2.3:104"}}
  - target: {{kind: NetworkPolicy}}
    patch: |-
      - {{op: replace, path: /spec/egress/2/to/0/ipBlock/cidr, value: 0.0.0.0/0}}
      - {{op: remove, path: /spec/egress/2/ports}}
  - target: {{kind: HorizontalPodAutoscaler}}
    patch: |-
      - {{op: replace, path: /spec/minReplicas, value: 1}}
"""
"""Both services as a user applies them. The object store may be anywhere, and one replica fits on a small node."""

MAKE_BASES = """
import sys
import boto3
import ctbasis
from botocore.config import Config
from ctbasis.patch.bases import PatchBases
s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
bucket = sys.argv[1]
s3.create_bucket(Bucket=bucket)
phantom = ctbasis.chest_phantom(slices=16, rows=64, columns=64)
for seed in (1, 2):
    uri = f"s3://{bucket}/runs/{seed}/basis"
    noisy = ctbasis.simulate_dose(phantom, photons=4e3, seed=seed)
    ctbasis.denoise(noisy, keep_basis=uri, stride=5, wiener=False)
    print(PatchBases.open(uri).bases[0].sha256)
"""

INFER = """
import json, sys, urllib.error, urllib.request
import numpy as np
import ctbasis
clean = ctbasis.chest_phantom(slices=16, rows=64, columns=64)
noisy = ctbasis.simulate_dose(clean, photons=4e3, seed=3)
hu = np.rint(noisy.hu).astype(np.int16)
inputs = [
    {"name": "hu", "datatype": "INT16", "shape": list(hu.shape), "data": hu.ravel().tolist()},
    {"name": "spacing", "datatype": "FP64", "shape": [3], "data": list(noisy.spacing)},
]
url = f"http://{sys.argv[1]}:8080/v2/models/ctbasis/infer"
asked = urllib.request.Request(url, json.dumps({"inputs": inputs}).encode(), {"Content-Type": "application/json"})
try:
    with urllib.request.urlopen(asked, timeout=300) as answer:
        content = json.load(answer)
except urllib.error.HTTPError as error:
    sys.exit(f"{error.code}: {error.read()[:2000]}")
(denoised,) = [one for one in content["outputs"] if one["name"] == "denoised"]
values = np.array(denoised["data"]).reshape(denoised["shape"])
error = lambda found: float(np.sqrt(np.mean((found.astype(float) - clean.hu) ** 2)))
print(json.dumps({"basis": content["parameters"]["basis"], "before": error(hu), "after": error(values)}))
"""

ECHO = """
import sys
from pynetdicom import AE
entity = AE(ae_title="SCANNER")
entity.add_requested_context("1.2.840.10008.1.1")
opened = entity.associate(sys.argv[1], 11112, ae_title="CTBASIS")
assert opened.is_established, opened
print(opened.send_c_echo().Status)
opened.release()
"""


@dataclass(frozen=True)
class Served:
    """A namespace with the served model, the node, and a pod of a client.

    Attributes:
        name: The namespace; also the name of the bucket with the bases.
        digests: SHA-256 of both bases.
        kubeconfig: Configuration of the account of the deploy step.
    """

    name: str
    digests: tuple[str, str]
    kubeconfig: Path

    def kubectl(self, *command: str) -> str:
        return kubectl("--namespace", self.name, *command, seconds=600)

    def get(self, *what: str) -> Any:
        return json.loads(self.kubectl("get", *what, "--output=json"))

    def python(self, program: str, *arguments: str) -> str:
        """Run a Python program in the pod of the client, and return its output."""
        return self.kubectl("exec", WORKBENCH, "--", "python3", "-c", program, *arguments)

    def uri(self, number: int) -> str:
        return f"s3://{self.name}/runs/{number}/basis"

    def pods(self, component: str) -> list[dict[str, Any]]:
        selector = f"--selector=app.kubernetes.io/component={component}"
        found: list[dict[str, Any]] = self.get("pods", selector)["items"]
        return [one for one in found if "deletionTimestamp" not in one["metadata"]]

    def may(self, verb: str, what: str) -> bool:
        """Tell whether the account of the deploy step has a right."""
        command = ["kubectl", f"--kubeconfig={self.kubeconfig}", "auth", "can-i", verb, what, "--quiet"]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def is_ready(one: dict[str, Any]) -> bool:
    return any(state["type"] == "Ready" and state["status"] == "True" for state in one["status"].get("conditions", []))


def for_this_cluster(text: str) -> str:
    """Return rendered manifests with the image of the tests, and requests that fit beside the other pods of a node."""
    documents = list(yaml.safe_load_all(text))
    for one in documents:
        for container in one.get("spec", {}).get("template", {}).get("spec", {}).get("containers", []):
            container["image"] = STEPS_IMAGE
            container["resources"] = SMALL
    return str(yaml.safe_dump_all(documents))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serving")
    with new_namespace() as name:
        store = object_store(name)
        client = hardened(
            STEPS_IMAGE,
            name=WORKBENCH,
            command=["sleep", "infinity"],
            envFrom=[{"secretRef": {"name": "ctbasis-s3"}}],
            volumeMounts=[{"name": "tmp", "mountPath": "/tmp"}],  # noqa: S108 - of the pod
        )
        apply(name, store.secret(), pod(WORKBENCH, client, labels=CLIENTS, volumes=[{"name": "tmp", "emptyDir": {}}]))
        ready(name, WORKBENCH)
        kubectl("--namespace", name, "create", "serviceaccount", RUNNER)
        made = Served(name, ("", ""), account_kubeconfig(name, RUNNER, folder))
        one, other = made.python(MAKE_BASES, name).split()[-2:]
        made = Served(name, (one, other), made.kubeconfig)
        manifests = os.path.relpath(CHECKOUT / "manifests", folder.resolve())
        (folder / "kustomization.yaml").write_text(OVERLAY.format(name=name, manifests=manifests, basis=made.uri(1)))
        kubectl("apply", "--filename=-", given=for_this_cluster(kubectl("kustomize", str(folder))))
        yield made
        made.python(EMPTY_BUCKET, name)


def test_a_pod_of_the_model_is_ready_only_when_it_has_loaded_its_basis(served: Served) -> None:
    def ready_pods() -> list[dict[str, Any]]:
        found = [one for one in served.pods("serving") if is_ready(one)]
        for one in found:
            assert "is ready with 1 bases" in served.kubectl("logs", one["metadata"]["name"])
        return found

    wait_until(ready_pods, "a pod of the model is ready")


def test_an_inference_from_another_pod_denoises_with_the_basis_on_s3(served: Served) -> None:
    served.kubectl("rollout", "status", f"deployment/{MODEL}", "--timeout=600s")
    answer = json.loads(served.python(INFER, MODEL))
    assert served.digests[0].startswith(answer["basis"])
    assert answer["after"] < answer["before"] / 1.1


def test_policies_and_the_disruption_budget_select_the_pods(served: Served) -> None:
    assert {one["metadata"]["name"] for one in served.get("networkpolicies")["items"]} == {MODEL, NODE}
    wait_until(
        lambda: served.get("poddisruptionbudget", MODEL)["status"].get("currentHealthy", 0) >= 1,
        "the budget counts the pod of the model",
    )


def test_the_account_of_the_deploy_step_may_get_and_patch_the_served_model_and_nothing_else(served: Served) -> None:
    assert all(served.may(verb, f"deployments.apps/{MODEL}") for verb in ("get", "patch"))
    others = ("update", "delete")
    assert not any(served.may(verb, f"deployments.apps/{MODEL}") for verb in others)
    assert not served.may("patch", "deployments.apps/other")
    assert not served.may("list", "deployments.apps")
    assert not served.may("get", "secrets/ctbasis-s3")


def test_the_deploy_step_rolls_the_basis_of_a_run_out(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", str(served.kubeconfig))
    server = ApiServer.connect()
    monkeypatch.undo()
    before = {one["metadata"]["name"] for one in served.pods("serving")}
    artifact = f"minio://{served.name}/runs/2/basis"
    plan = DeployPlan(deploy=f"deployment/{MODEL}")
    assert run_step(plan, artifact, {"kind": "patch"}, run="e2e", server=server) == served.uri(2)
    now = wait_until(
        lambda: [one for one in served.pods("serving") if one["metadata"]["name"] not in before], "there is a new pod"
    )
    assert any(is_ready(one) for one in now)
    answer = json.loads(served.python(INFER, MODEL))
    assert served.digests[1].startswith(answer["basis"])
    generation = served.get("deployment", MODEL)["metadata"]["generation"]
    assert run_step(plan, artifact, {"kind": "patch"}, run="e2e", server=server) == served.uri(2)
    assert served.get("deployment", MODEL)["metadata"]["generation"] == generation, "a retry changes nothing"


def test_without_kserve_the_deploy_step_names_what_is_missing(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    if has_definition(KSERVE):
        pytest.skip(f"KServe is installed (CRD {KSERVE})")
    monkeypatch.setenv("KUBECONFIG", str(served.kubeconfig))
    server = ApiServer.connect()
    plan = DeployPlan(deploy="inferenceservice/ctbasis")
    with pytest.raises(CtbasisError, match="knows no InferenceService") as refused:
        run_step(plan, served.uri(2), {"kind": "patch"}, run="e2e", server=server)
    assert "manifests/serving/model" in str(refused.value)


@pytest.mark.parametrize("service", [NODE, f"{NODE}-dicom"])
def test_the_node_answers_c_echo_at_its_service(served: Served, service: str) -> None:
    wait_until(lambda: any(is_ready(one) for one in served.pods("node")), "the node is ready")
    assert served.python(ECHO, service).split()[-1] == "0"
