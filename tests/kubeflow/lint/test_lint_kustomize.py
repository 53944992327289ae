"""Every rule for a kustomization and its patches finds its planted fault at its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ctbasis.kubeflow.lint import lint
from tests.kubeflow.lint.samples import APPLICATION, BIGGER, KUSTOMIZATION, POD, RENAMED, assert_reported, put, saved

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def kustomized(tmp_path: Path) -> Path:
    """Return a folder with a valid kustomization."""
    files = {
        "kustomization.yaml": KUSTOMIZATION,
        "pod.yaml": POD,
        "application.yaml": APPLICATION,
        "bigger.yaml": BIGGER,
        "renamed.yaml": RENAMED,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_valid_kustomization_has_no_fault_and_its_patches_may_be_partial(kustomized: Path) -> None:
    assert [str(fault) for fault in lint([kustomized])] == []
    (kustomized / "kustomization.yaml").unlink()
    assert_reported(lint([kustomized / "bigger.yaml"]), "SparkApplication/svd.spec.driver", "is missing")


KUSTOMIZE_FAULTS: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "missing resource": (put("resources", ["gone.yaml"]), "resources[0]", "file or folder gone.yaml does not exist"),
    "folder without kustomization": (put("resources", ["empty"]), "resources[0]", "has no kustomization.yaml"),
    "remote and not pinned": (put("resources", ["https://example.org/x"]), "resources[0]", "not pinned"),
    "missing patch": (put("patches 0 path", "gone.yaml"), "patches[0].path", "file gone.yaml does not exist"),
    "inline patch": (
        put("patches 2 patch", "apiVersion: v1\nkind: Pod\nmetadata: {name: step}\nspec: {priorit: 1}\n"),
        "patches[2].patch: Pod/step.spec.priorit",
        "not a field of this kind",
    ),
    "inline patch that is not YAML": (put("patches 2 patch", "a: ["), "patches[2].patch", "not YAML"),
    "inline patch that is not a patch": (put("patches 2 patch", "words"), "patches[2].patch", "is not a patch"),
    "missing strategic-merge patch": (
        put("patchesStrategicMerge", ["gone.yaml"]),
        "patchesStrategicMerge[0]",
        "file gone.yaml does not exist",
    ),
    "missing file of a generator": (
        put("configMapGenerator", [{"name": "c", "files": ["key=gone.txt"]}]),
        "configMapGenerator[0].files[0]",
        "file gone.txt does not exist",
    ),
    "text instead of a list": (put("patches", "bigger.yaml"), "patches", "is a str, not a list"),
    "misspelt key": (put("resource", []), "resource", "not a field of a kustomization"),
    "image": (put("images 0 newTag", "latest"), "images[0].newTag", "not pinned"),
    "secret": (
        put("secretGenerator", [{"name": "s", "literals": ["key=hunter2"]}]),
        "secretGenerator[0].literals[0]",
        "is the value of a secret",
    ),
}


@pytest.mark.parametrize("name", KUSTOMIZE_FAULTS)
def test_a_fault_in_a_kustomization_is_reported_at_its_place(name: str, kustomized: Path) -> None:
    mutate, where, message = KUSTOMIZE_FAULTS[name]
    (kustomized / "empty").mkdir()
    document = yaml.safe_load(KUSTOMIZATION)
    mutate(document)
    assert_reported(lint([saved(kustomized / "kustomization.yaml", document)]), where, message)


@pytest.mark.parametrize(
    ("file", "text", "where", "message"),
    [
        (
            "bigger.yaml",
            BIGGER.replace("instances", "instance"),
            "SparkApplication/svd.spec.executor.instance",
            "not a field of this kind",
        ),
        ("bigger.yaml", BIGGER.replace("64", "0"), "SparkApplication/svd.spec.executor.instances", "is 0"),
        ("renamed.yaml", RENAMED.replace("replace", "swap"), "document 1[0]", "is not an operation of a JSON patch"),
        ("renamed.yaml", RENAMED.replace("/metadata/name", "metadata"), "document 1[0].path", "not a JSON pointer"),
        ("renamed.yaml", RENAMED.replace("  value: other\n", ""), "document 1[0]", "lacks 'value'"),
    ],
)
def test_a_fault_in_a_patch_is_reported(file: str, text: str, where: str, message: str, kustomized: Path) -> None:
    (kustomized / file).write_text(text)
    assert_reported(lint([kustomized / file]), where, message)
