"""The chart helm/ctbasis renders what kustomize renders from the same files, and refuses faulty values."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from ctbasis.installed import LAYOUT, VERSION
from ctbasis.kubeflow.lint import rendered

CHECKOUT = Path(__file__).parents[2]
CHART = CHECKOUT / "helm" / "ctbasis"
OVERLAYS = sorted(folder.name for folder in (LAYOUT.manifests / "overlays").iterdir())
COMPONENTS = {folder.name for folder in (LAYOUT.manifests / "components").iterdir() if folder.is_dir()}
CLUSTER_WIDE = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ResourceFlavor", "ClusterQueue"}
"""Kinds of the whole cluster to which kustomize gives a namespace, which the API server drops. The chart gives none."""

Objects = dict[tuple[str, str], dict[str, Any]]


@pytest.fixture(scope="module")
def helm() -> str:
    """Return the Helm that .ci/helm has built, or that of PATH."""
    version = re.search(r"^version=(.*)$", (CHECKOUT / ".ci" / "helm").read_text(), re.MULTILINE)
    assert version
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    built = cache / "ctbasis" / "tools" / f"helm-{version[1]}" / "helm"
    found = str(built) if built.is_file() else shutil.which("helm")
    if found is None:
        pytest.skip("Helm is not installed: .ci/helm builds it, if there is Go")
    return found


def run(helm: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm, *map(str, arguments)], capture_output=True, text=True, check=False)


def template(helm: str, *arguments: object, namespace: str = "ctbasis", chart: Path = CHART) -> Objects:
    done = run(helm, "template", "ctbasis", chart, "--namespace", namespace, *arguments)
    assert done.returncode == 0, done.stderr
    return by_name([document for document in yaml.safe_load_all(done.stdout) if document])


def by_name(documents: list[dict[str, Any]]) -> Objects:
    found = {(document["kind"], document["metadata"]["name"]): document for document in documents}
    assert len(found) == len(documents)
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_chart_renders_every_overlay_as_kustomize_does(helm: str, overlay: str) -> None:
    folder = LAYOUT.manifests / "overlays" / overlay
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    expected = by_name(rendered.render(folder))
    for (kind, _), document in expected.items():
        if kind in CLUSTER_WIDE:
            document["metadata"].pop("namespace", None)
    with_namespace = "../../components/namespace" in kustomization["components"]
    made = template(
        helm,
        *("--values", CHART / "overlays" / f"{overlay}.yaml"),
        *("--set", f"components.namespace={json.dumps(with_namespace)}"),
        namespace=kustomization["namespace"],
    )
    assert made == expected


def test_every_component_is_a_value_and_every_overlay_has_its_values() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    assert values["components"].keys() == schema["components"]["properties"].keys() == COMPONENTS
    assert [path.stem for path in sorted((CHART / "overlays").iterdir())] == OVERLAYS


def test_the_version_of_the_chart_is_that_of_the_package() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == VERSION


def test_lint_finds_no_fault(helm: str) -> None:
    done = run(helm, "lint", "--strict", CHART)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_packaged_chart_holds_the_manifests_and_renders_the_same(helm: str, tmp_path: Path) -> None:
    done = run(helm, "package", CHART, "--destination", tmp_path)
    assert done.returncode == 0, done.stderr
    packed = tmp_path / f"ctbasis-{VERSION}.tgz"
    with tarfile.open(packed) as archive:
        names = archive.getnames()
    assert "ctbasis/manifests/base/driver.yaml" in names
    assert not [name for name in names if "/overlays/spot/" in name or "/serving/" in name]
    assert template(helm, chart=packed) == template(helm)


def test_values_reach_images_network_policies_and_every_field(helm: str, tmp_path: Path) -> None:
    digest = "registry.example.com/ctbasis/{}@sha256:" + 64 * "a"
    patch = {
        "apiVersion": "sparkoperator.k8s.io/v1beta2",
        "kind": "SparkApplication",
        "metadata": {"name": "ctbasis-svd"},
        "spec": {"executor": {"instances": 7, "javaOptions": None}},
    }
    values = {
        "components": {"sweep": True},
        "clusterObjects": False,
        "images": {"spark": digest.format("spark"), "steps": digest.format("steps")},
        "networkPolicy": {"apiServer": [{"cidr": "10.1.2.3/32", "port": 443}]},
        "patches": [patch],
    }
    file = tmp_path / "here.yaml"
    file.write_text(yaml.safe_dump(values))
    made = template(helm, "--values", file)
    assert {kind for kind, _ in made} & (CLUSTER_WIDE | rendered.CLUSTER_WIDE) == set()
    application = made["SparkApplication", "ctbasis-svd"]["spec"]
    assert application["image"] == digest.format("spark")
    assert application["executor"]["instances"] == 7
    assert "javaOptions" not in application["executor"]
    job = made["CronJob", "ctbasis-sweep"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert job["containers"][0]["image"] == digest.format("steps")
    egress = made["NetworkPolicy", "ctbasis-api-server"]["spec"]["egress"]
    assert egress == [{"to": [{"ipBlock": {"cidr": "10.1.2.3/32"}}], "ports": [{"protocol": "TCP", "port": 443}]}]
    assert "192.0.2.2/32" in str(made["NetworkPolicy", "ctbasis-object-store"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("components.kuueue=true", "kuueue"),
        ("components.kueue=yes", "kueue"),
        ("images.spark=Not an image", "images/spark"),
        ("networkPolicy.apiServer[0].cidr=10.0.0.1", "apiServer"),
        ("components.default-editor=true", "set exactly one of pipeline-runner"),
        ("components.gang=true,components.dynamic-allocation=true", "gang cannot be combined with dynamic-allocation"),
        ("components.fallback-storage=true", "needs decommissioning and s3"),
        ("components.kueue=true", "the component kueue changes the RayJob ctbasis-svd"),
    ],
)
def test_faulty_values_are_refused_by_name(helm: str, values: str, said: str) -> None:
    done = run(helm, "template", "ctbasis", CHART, "--set", values)
    assert done.returncode != 0
    assert said in done.stderr
