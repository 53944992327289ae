"""Kustomizations are rendered as kubectl renders them, and the rendered objects are checked as a whole."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ctbasis.installed import LAYOUT, VERSION
from ctbasis.jobs.spark_application import SparkApplication
from ctbasis.kubeflow.lint import crds, lint, rendered, spark

if TYPE_CHECKING:
    from pathlib import Path

MANIFESTS = LAYOUT.manifests
OVERLAYS = sorted(path.parent for path in (MANIFESTS / "overlays").glob("*/kustomization.yaml"))

SERVING = sorted(path.parent for path in (MANIFESTS / "serving").rglob("kustomization.yaml"))

APPLICATION = """
apiVersion: sparkoperator.k8s.io/v1beta2
kind: SparkApplication
metadata: {name: svd}
spec:
  type: Python
  sparkVersion: 4.2.0
  mainApplicationFile: local:///job.py
  sparkConf:
    spark.a: "1"
    spark.b: "2"
    spark.authenticate: "true"
    spark.network.crypto.enabled: "true"
    spark.network.crypto.authEngineVersion: "2"
    spark.network.crypto.cipher: AES/GCM/NoPadding
    spark.network.crypto.saslFallback: "false"
    spark.io.encryption.enabled: "true"
  volumes: [{name: one, emptyDir: {}}]
  driver: {serviceAccount: spark}
  executor: {instances: 2, serviceAccount: spark}
"""

ACCOUNT = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: spark}
"""

PATCH = """
apiVersion: sparkoperator.k8s.io/v1beta2
kind: SparkApplication
metadata: {name: svd, labels: {a: b}}
spec:
  sparkConf: {spark.b: null, spark.c: "3"}
  volumes: [{name: two, emptyDir: {}}]
  executor: {instances: null}
  dynamicAllocation: {enabled: true, initialExecutors: null}
"""


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """Return a folder with a kustomization of a patched application and its service account."""
    (tmp_path / "application.yaml").write_text(APPLICATION)
    (tmp_path / "account.yaml").write_text(ACCOUNT)
    write_kustomization(tmp_path)
    return tmp_path


def write_kustomization(folder: Path, patch: str = PATCH, **more: Any) -> None:
    resources = ["application.yaml", "account.yaml"]
    kustomization = {"kind": "Kustomization", "resources": resources, "patches": [{"patch": patch}], **more}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))


def by_name(documents: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


def by_kubectl(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl, with which the rendering is compared, is not on PATH")
    made = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=True)
    return by_name(list(yaml.safe_load_all(made.stdout)))


def reported(folder: Path) -> str:
    return "\n".join(map(str, lint([folder])))


@pytest.mark.parametrize(
    "folder", [*OVERLAYS, MANIFESTS / "base", MANIFESTS / "application", *SERVING], ids=lambda path: path.name
)
def test_committed_kustomizations_are_rendered_as_kubectl_renders_them(folder: Path) -> None:
    assert by_name(rendered.render(folder)) == by_kubectl(folder)


def test_nulls_lists_and_labels_are_merged_as_kustomize_merges_them(overlay: Path) -> None:
    write_kustomization(overlay, namespace="elsewhere", labels=[{"pairs": {"part-of": "ctbasis"}}])
    made = by_name(rendered.render(overlay))
    spec = made["SparkApplication", "svd"]["spec"]
    own = {key: value for key, value in spec["sparkConf"].items() if key not in spark.PROTECTED}
    assert own == {"spark.a": "1", "spark.c": "3"}
    assert spec["volumes"] == [{"name": "two", "emptyDir": {}}]
    assert "instances" not in spec["executor"]
    assert made == by_kubectl(overlay)
    assert reported(overlay) == ""


IMAGE = "registry.example.com:5000/lab/spark"
DIGEST = f"sha256:{'0' * 63}1"


@pytest.mark.parametrize(
    ("replacement", "image"),
    [
        ({"newName": IMAGE, "digest": DIGEST}, f"{IMAGE}@{DIGEST}"),
        ({"newName": IMAGE, "newTag": "0.2.0"}, f"{IMAGE}:0.2.0"),
        ({"newName": IMAGE}, f"{IMAGE}:{VERSION}"),
    ],
)
@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: path.name)
def test_images_of_a_kustomization_reach_the_spark_application(
    folder: Path, replacement: dict[str, str], image: str, tmp_path: Path
) -> None:
    here = {
        "resources": [os.path.relpath(folder, tmp_path.resolve())],
        "components": [os.path.relpath(MANIFESTS / "components" / "registry-secret", tmp_path.resolve())],
        "images": [{"name": "ctbasis/spark", **replacement}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(here))
    made = by_name(rendered.render(tmp_path))
    spec = made["SparkApplication", "ctbasis-svd"]["spec"]
    assert (spec["image"], spec["imagePullSecrets"]) == (image, ["ctbasis-registry"])
    assert made == by_kubectl(tmp_path)


def test_images_of_containers_are_replaced_as_kustomize_replaces_them(overlay: Path) -> None:
    (overlay / "account.yaml").write_text(
        ACCOUNT + "---\n" + yaml.safe_dump(job(init="a/b:1", main=f"a/b@{DIGEST}", beside="a/bc:1"))
    )
    replaced = {"name": "a/b", "newName": "c/d", "newTag": "2"}
    write_kustomization(overlay, images=[replaced, {"name": "unused", "newTag": "1"}])
    made = by_name(rendered.render(overlay))
    assert images_of(made["Job", "sweep"]) == ["c/d:2", "c/d:2", "a/bc:1"]
    assert made == by_kubectl(overlay)


def job(*, init: str, main: str, beside: str) -> dict[str, Any]:
    pod = {
        "restartPolicy": "Never",
        "initContainers": [{"name": "init", "image": init}],
        "containers": [{"name": "main", "image": main}, {"name": "beside", "image": beside}],
    }
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sweep"}, "spec": {"template": template}}


def images_of(manifest: dict[str, Any]) -> list[str]:
    pod = manifest["spec"]["template"]["spec"]
    return [container["image"] for key in ("initContainers", "containers") for container in pod[key]]


def test_a_misspelt_configuration_of_images_is_reported(overlay: Path) -> None:
    (overlay / "fields.yaml").write_text("image: [{kind: SparkApplication, path: spec/image}]\nimages: [{kind: X}]\n")
    write_kustomization(overlay, configurations=["fields.yaml"])
    faults = reported(overlay)
    assert "image: is not a section of a configuration of kustomize" in faults
    assert "images[0].path: is missing" in faults


ACCOUNTS = {"profile": "default-editor"}


@pytest.mark.parametrize("folder", OVERLAYS, ids=lambda path: path.name)
def test_every_overlay_lets_the_account_of_the_runs_start_applications(folder: Path, tmp_path: Path) -> None:
    here = {"namespace": "team-ct", "resources": [os.path.relpath(folder, tmp_path.resolve())]}
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(here))
    made = by_name(rendered.render(tmp_path))
    account = ACCOUNTS.get(folder.name, "pipeline-runner")
    binding = made["RoleBinding", "ctbasis-launch"]
    assert binding["roleRef"]["name"] == made["Role", "ctbasis-launch"]["metadata"]["name"] == "ctbasis-launch"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account, "namespace": "team-ct"}]
    # Kubeflow owns the account; an object of that name here would be deleted with the overlay.
    assert ("ServiceAccount", account) not in made
    assert {one["metadata"].get("namespace", "team-ct") for one in made.values()} == {"team-ct"}
    assert made == by_kubectl(tmp_path)


@pytest.mark.parametrize(("overlay", "namespace"), [("kubeflow", "kubeflow"), ("profile", "kubeflow-user-example-com")])
def test_the_overlays_for_namespaces_of_kubeflow_make_no_namespace(overlay: str, namespace: str) -> None:
    made = by_name(rendered.render(MANIFESTS / "overlays" / overlay))
    assert "Namespace" not in {kind for kind, _ in made}
    assert made["SparkApplication", "ctbasis-svd"]["metadata"]["namespace"] == namespace
    hardened = by_name(rendered.render(MANIFESTS / "overlays" / "hardened"))
    assert made.keys() == hardened.keys() - {("Namespace", "ctbasis")}


def test_every_overlay_has_a_suspended_template_that_the_svd_step_can_read() -> None:
    assert OVERLAYS
    for folder in OVERLAYS:
        template = by_name(rendered.render(folder))["SparkApplication", "ctbasis-svd"]
        assert template["spec"]["suspend"] is True
        assert SparkApplication.from_manifest(template).name == "ctbasis-svd"


def test_the_template_is_the_application_that_the_overlays_patch() -> None:
    assert SparkApplication.template == MANIFESTS / "sparkapplication.yaml"
    assert SparkApplication.template.resolve() == MANIFESTS / "application" / "sparkapplication.yaml"
    assert SparkApplication.read().name == "ctbasis-svd"


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        (PATCH.replace("name: svd", "name: other"), "a patch has no target SparkApplication/other"),
        (PATCH.replace("instances: null", "serviceAccount: spar"), "names ServiceAccount 'spar', which is not defined"),
        (
            PATCH.replace("enabled: true", "enabled: true}\n  driver: {serviceAccount: gone"),
            "names ServiceAccount 'gone'",
        ),
        (
            PATCH.replace("instances: null}", "instances: null}\n  type: null"),
            "SparkApplication/svd.spec.type: is missing",
        ),
    ],
)
def test_a_fault_that_only_the_rendered_overlay_has_is_reported(patch: str, message: str, overlay: Path) -> None:
    write_kustomization(overlay, patch)
    faults = reported(overlay)
    assert f"{overlay / 'kustomization.yaml'}:rendered" in faults
    assert message in faults


def test_a_patch_that_removes_the_protection_of_connections_is_reported(overlay: Path) -> None:
    write_kustomization(overlay, PATCH.replace("spark.b: null", "spark.authenticate: null"))
    place = "patches[0].patch: SparkApplication/svd.spec.sparkConf[spark.authenticate]"
    assert f"{place}: is None, which lets every pod" in reported(overlay)


def test_an_object_that_is_defined_twice_is_reported(overlay: Path) -> None:
    shutil.copy(overlay / "account.yaml", overlay / "again.yaml")
    write_kustomization(overlay, resources=["application.yaml", "account.yaml", "again.yaml"])
    assert "ServiceAccount/spark: is defined 2 times" in reported(overlay)


def test_a_kustomization_that_includes_itself_is_reported(overlay: Path) -> None:
    write_kustomization(overlay, resources=["../" + overlay.name])
    assert "cannot be rendered: RecursionError" in reported(overlay)


def test_unsupported_features_are_rendered_by_kubectl_or_reported(
    overlay: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = {"configMapGenerator": [{"name": "settings", "literals": ["a=b"]}]}
    write_kustomization(overlay, **more)
    if shutil.which("kubectl"):
        assert reported(overlay) == ""
        write_kustomization(overlay, PATCH.replace("name: svd", "name: other"), **more)
        assert "cannot be rendered: " in reported(overlay)
    write_kustomization(overlay, **more)
    monkeypatch.setenv("PATH", os.devnull)
    assert "uses configMapGenerator, which ctbasis does not render" in reported(overlay)


def test_a_fault_of_one_file_is_reported_for_that_file_only(overlay: Path) -> None:
    (overlay / "application.yaml").write_text(APPLICATION.replace("sparkVersion", "sparkversion"))
    faults = lint([overlay])
    assert {fault.file.name for fault in faults} == {"application.yaml"}
    assert "did you mean sparkVersion?" in reported(overlay)


@pytest.mark.parametrize("kind", ["../schemas/SparkApplication", "SparkApplications", ".."])
def test_an_unknown_kind_of_the_operator_has_no_schema(kind: str) -> None:
    with pytest.raises(FileNotFoundError):
        crds.schema(kind, "sparkoperator.k8s.io/v1beta2")


def test_a_definition_of_the_operator_becomes_a_schema_without_descriptions() -> None:
    field = {
        "type": "object",
        "description": "no",
        "properties": {"description": {"type": "string", "description": "no"}},
    }
    definition = {
        "spec": {"names": {"kind": "Thing"}, "versions": [{"name": "v1", "schema": {"openAPIV3Schema": field}}]}
    }
    assert crds.published(definition) == {
        "Thing.v1.json": '{"properties":{"description":{"type":"string"}},"type":"object"}\n'
    }
