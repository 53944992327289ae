"""A package with the settings of a cluster differs from the committed one in these settings alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kfp import components, dsl, kubernetes

from ctbasis.errors import CtbasisError
from ctbasis.jobs.pod import ONE_NODE
from ctbasis.kubeflow import package
from ctbasis.kubeflow.cluster_settings import Claim, ClusterSettings
from ctbasis.kubeflow.lint import quantity
from ctbasis.kubeflow.sizes import DEFAULT_SIZE, SIZES, parse_requests

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = f"sha256:{'0' * 63}1"
IMAGE = f"registry.example.com:5000/lab/steps@{DIGEST}"


@pytest.fixture
def documents() -> list[Any]:
    return list(yaml.safe_load_all(package.PACKAGE.read_text()))


def made(settings: ClusterSettings, folder: Path, pipeline: str = "denoise") -> list[Any]:
    package.write(folder / "here.yaml", settings, pipeline=pipeline)
    assert [path.name for path in folder.iterdir()] == ["here.yaml"]
    return list(yaml.safe_load_all((folder / "here.yaml").read_text()))


def platform(documents: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = documents[1]["platforms"]["kubernetes"]
    return found


def test_without_a_setting_the_package_is_the_committed_one(tmp_path: Path) -> None:
    package.write(tmp_path / "same.yaml", ClusterSettings())
    assert (tmp_path / "same.yaml").read_bytes() == package.PACKAGE.read_bytes()


@pytest.mark.parametrize("image", [IMAGE, "registry.example.com/lab/steps:0.1.0", "localhost/steps:ci"])
def test_another_image_is_that_of_every_step_and_nothing_else_changes(
    image: str, documents: list[Any], tmp_path: Path
) -> None:
    other = made(ClusterSettings(steps_image=image), tmp_path)
    executors = other[0]["deploymentSpec"]["executors"]
    assert {executor["container"].pop("image") for executor in executors.values()} == {image}
    for label, executor in documents[0]["deploymentSpec"]["executors"].items():
        own = {key: value for key, value in executor["container"].items() if key != "image"}
        assert executors[label]["container"] == own
    other[0].pop("deploymentSpec")
    assert other == [{key: value for key, value in documents[0].items() if key != "deploymentSpec"}, documents[1]]


def test_the_header_that_describes_the_package_stays(tmp_path: Path) -> None:
    made(ClusterSettings(steps_image=IMAGE), tmp_path)
    header = package.PACKAGE.read_text().partition("components:")[0]
    assert header.startswith("# PIPELINE DEFINITION")
    assert (tmp_path / "here.yaml").read_text().startswith(header)


def test_pull_secrets_and_policy_are_those_that_kfp_kubernetes_writes(documents: list[Any], tmp_path: Path) -> None:
    step = components.load_component_from_text("{name: step, implementation: {container: {image: a:1}}}")
    task: dict[str, Any] = {}

    def pipeline() -> None:
        one = kubernetes.set_image_pull_secrets(step(), ["one", "two"])
        task.update(kubernetes.set_image_pull_policy(one, "Always").platform_config["kubernetes"])

    pipeline.__annotations__.clear()  # kfp takes the text "None" for the type of an artifact
    dsl.pipeline(pipeline, name="p")
    other = made(ClusterSettings(pull_secrets=("one", "two"), pull_policy="Always"), tmp_path)
    assert other[0] == documents[0]
    own = platform(documents)["deploymentSpec"]["executors"]
    assert platform(other)["deploymentSpec"]["executors"] == {label: {**one, **task} for label, one in own.items()}


def test_another_workspace_changes_the_workspace_alone(documents: list[Any], tmp_path: Path) -> None:
    other = made(ClusterSettings(claim=Claim("ReadWriteOnce", "fast", "5Gi")), tmp_path)
    config = platform(other)["pipelineConfig"]
    assert config["workspace"] == {
        "size": "5Gi",
        "kubernetes": {"pvcSpecPatch": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast"}},
    }
    config["workspace"] = platform(documents)["pipelineConfig"]["workspace"]
    variables = other[0]["deploymentSpec"]["executors"]["exec-svd"]["container"].pop("env")
    assert variables == [{"name": ONE_NODE, "value": "true"}]
    assert other == documents


def test_only_the_package_of_a_claim_for_one_node_keeps_the_spark_pods_on_that_node(documents: list[Any]) -> None:
    text = package.PACKAGE.read_text()
    assert ONE_NODE not in text
    one = ClusterSettings(claim=Claim("ReadWriteOnce")).applied(text)
    assert one.count(ONE_NODE) == 1
    assert list(yaml.safe_load_all(ClusterSettings(claim=Claim("ReadWriteMany")).applied(one))) == documents


AMOUNTS = ("resourceCpuRequest", "resourceMemoryRequest", "resourceCpuLimit", "resourceMemoryLimit")


def amounts(documents: list[Any]) -> dict[str, tuple[str, ...]]:
    executors = documents[0]["deploymentSpec"]["executors"]
    return {
        label.removeprefix("exec-"): tuple(one["container"]["resources"][name] for name in AMOUNTS)
        for label, one in executors.items()
    }


def sized(documents: list[Any], size: str) -> dict[str, tuple[str, ...]]:
    """Return the amounts that a size gives to the steps of a package."""
    return {
        step: (one.cpu, one.memory, one.cpu_limit, one.memory_limit)
        for step, one in SIZES[size].items()
        if f"exec-{step}" in documents[0]["deploymentSpec"]["executors"]
    }


def test_the_committed_packages_have_the_default_size() -> None:
    for path in package.PACKAGES.values():
        committed = list(yaml.safe_load_all(path.read_text()))
        assert amounts(committed) == sized(committed, DEFAULT_SIZE)


@pytest.mark.parametrize("pipeline", package.PACKAGES)
@pytest.mark.parametrize("size", SIZES)
def test_a_size_sets_the_resources_of_every_step_and_nothing_else(size: str, pipeline: str, tmp_path: Path) -> None:
    documents = list(yaml.safe_load_all(package.PACKAGES[pipeline].read_text()))
    other = made(ClusterSettings(size=size), tmp_path, pipeline)
    assert amounts(other) == sized(documents, size)
    for label, one in other[0]["deploymentSpec"]["executors"].items():
        one["container"]["resources"] = documents[0]["deploymentSpec"]["executors"][label]["container"]["resources"]
    assert other == documents


def test_sizes_grow_and_no_request_exceeds_its_limit() -> None:
    for step in SIZES[DEFAULT_SIZE]:
        rows = [SIZES[size][step] for size in ("small", "medium", "large")]
        for name in ("cpu", "memory"):
            requests, limits = ([quantity(getattr(row, part)) for row in rows] for part in (name, f"{name}_limit"))
            assert requests == sorted(requests)
            assert all(request <= limit for request, limit in zip(requests, limits, strict=True))
    # The heap of Spark's JVM follows from the request; memory above it would never be used.
    assert all(size["svd"].memory == size["svd"].memory_limit for size in SIZES.values())


def test_requests_of_a_step_replace_those_of_the_size_and_raise_a_limit_below_them(tmp_path: Path) -> None:
    requests = parse_requests(["matrix:cpu=3,memory=8Gi", "svd:memory=6Gi", "fetch:cpu=50m"])
    own = amounts(made(ClusterSettings(size="small", requests=requests), tmp_path))
    assert own["matrix"] == ("3", "8Gi", "3", "8Gi")
    assert own["svd"] == ("250m", "6Gi", "1", "6Gi")
    assert own["fetch"] == ("50m", "256Mi", "1", "2Gi")
    assert own["report"] == ("250m", "1Gi", "1", "4Gi")
    default = SIZES[DEFAULT_SIZE]["report"]
    unsized = amounts(made(ClusterSettings(requests=requests), tmp_path))
    assert unsized["report"] == (default.cpu, default.memory, default.cpu_limit, default.memory_limit)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("svd", "'' in 'svd' requests nothing"),
        ("sdv:cpu=1", "'sdv:cpu=1' names no step"),
        ("svd:cpus=1", "'cpus=1' in 'svd:cpus=1' requests nothing"),
        ("svd:cpu=-1", "'cpu=-1'"),
        ("svd:memory=4GB", "'memory=4GB'"),
        ("svd:cpu=1,,memory=1Gi", "'' in"),
        ("", "names no step"),
    ],
)
def test_a_request_of_another_form_is_refused(text: str, named: str) -> None:
    with pytest.raises(CtbasisError, match=named):
        parse_requests([text])


def test_the_description_ends_with_the_address_of_the_documentation(tmp_path: Path) -> None:
    documents = made(ClusterSettings(docs_url="https://docs.example.org/ctbasis/"), tmp_path)
    assert documents[0]["pipelineInfo"]["description"].endswith("This installation: https://docs.example.org/ctbasis/")


def test_settings_are_applied_to_a_package_that_has_others_already(tmp_path: Path) -> None:
    first = ClusterSettings("one/steps:1", ("one",), claim=Claim(size="5Gi")).applied(package.PACKAGE.read_text())
    path = tmp_path / "mine.yaml"
    path.write_text(first)
    with package.adapted(path, ClusterSettings(IMAGE, ("two",))) as adapted:
        assert adapted.name == "mine.yaml"
        documents = list(yaml.safe_load_all(adapted.read_text()))
    assert not adapted.exists()
    assert path.read_text() == first
    assert {one["container"]["image"] for one in documents[0]["deploymentSpec"]["executors"].values()} == {IMAGE}
    executors = platform(documents)["deploymentSpec"]["executors"].values()
    assert [secret["secretName"] for one in executors for secret in one["imagePullSecret"]] == ["two"] * len(executors)
    assert platform(documents)["pipelineConfig"]["workspace"]["size"] == "5Gi"


def test_an_invalid_workspace_size_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match="'5GB' is not a quantity"):
        package.write(tmp_path / "mine.yaml", ClusterSettings(claim=Claim(size="5GB")))
    with pytest.raises(CtbasisError, match="cannot be written"):
        package.write(tmp_path / "nowhere" / "mine.yaml", ClusterSettings(claim=Claim(size="5Gi")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"steps_image": "ctbasis/steps"}, "image has no tag: 'ctbasis/steps'"),
        ({"steps_image": "ctbasis/steps:latest"}, "image is not pinned"),
        ({"steps_image": "ctbasis/steps@sha256:12"}, "image has a malformed digest"),
        ({"steps_image": "https://registry/steps:1"}, "image is not a valid image reference"),
        ({"steps_image": "a:1\nenv: []"}, "image is not a valid image reference"),
        ({"pull_secrets": ("Mine",)}, "'Mine' cannot be the name of a pull secret"),
        ({"pull_secrets": ("a" * 254,)}, "cannot be the name of a pull secret"),
        ({"pull_secrets": ("",)}, "'' cannot be the name of a pull secret"),
        ({"pull_policy": "Sometimes"}, "'Sometimes' is not a pull policy"),
        ({"size": "huge"}, "'huge' is not a size"),
        ({"docs_url": "docs"}, "the address of the documentation"),
    ],
)
def test_a_setting_that_no_cluster_could_take_is_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(CtbasisError, match=named):
        ClusterSettings(**settings)


def test_the_package_of_another_pipeline_is_refused_by_its_images(documents: list[Any]) -> None:
    documents[0]["deploymentSpec"]["executors"]["exec-fetch"]["container"]["image"] = "busybox:1.37"
    with pytest.raises(CtbasisError, match=r"the package names 2 images: busybox:1\.37, ctbasis/steps"):
        ClusterSettings(IMAGE).applied(yaml.safe_dump_all(documents))


def test_a_package_without_platform_document_is_refused(documents: list[Any]) -> None:
    with pytest.raises(CtbasisError, match="the package has no 'platforms'"):
        ClusterSettings(pull_policy="Never").applied(yaml.safe_dump(documents[0]))
