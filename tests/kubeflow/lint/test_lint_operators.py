"""RayJobs, DaskJobs and Kueue's queues are checked against the definitions of their operators."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ctbasis.installed import LAYOUT
from ctbasis.jobs.dask_job import DaskJob
from ctbasis.jobs.ray_job import RayJob
from ctbasis.kubeflow.lint import lint

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

QUEUES = LAYOUT.manifests / "components" / "kueue" / "queues.yaml"


def reported(manifest: Any, folder: Path) -> str:
    file = folder / "manifest.yaml"
    file.write_text(yaml.safe_dump(manifest))
    return "\n".join(map(str, lint([file])))


def change_ray(manifest: dict[str, Any]) -> dict[str, Any]:
    head: dict[str, Any] = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]
    return head


CASES: dict[str, tuple[type[RayJob | DaskJob], Callable[[dict[str, Any]], object], str]] = {
    "misspelt field of a RayJob": (
        RayJob,
        lambda manifest: manifest["spec"].update(shutdownAfterJobFinish=True),
        "did you mean shutdownAfterJobFinishes?",
    ),
    "misspelt field of a head": (
        RayJob,
        lambda manifest: change_ray(manifest)["template"]["spec"].update(tolerationz=[]),
        "did you mean tolerations?",
    ),
    "number in rayStartParams": (
        RayJob,
        lambda manifest: change_ray(manifest)["rayStartParams"].update({"num-cpus": 0}),
        "is of type integer",
    ),
    "older version of RayJob": (
        RayJob,
        lambda manifest: manifest.update(apiVersion="ray.io/v1alpha1"),
        "the operator has no definition of RayJob in ray.io/v1alpha1",
    ),
    "misspelt field of a DaskJob": (
        DaskJob,
        lambda manifest: manifest["spec"]["cluster"]["spec"]["worker"].update(replica=3),
        "did you mean replicas?",
    ),
    "image without a tag": (
        DaskJob,
        lambda manifest: manifest["spec"]["job"]["spec"]["containers"][0].update(image="ctbasis/steps"),
        "no tag",
    ),
}


@pytest.mark.parametrize(("kind", "change", "message"), CASES.values(), ids=CASES)
def test_a_fault_of_a_job_is_reported(
    kind: type[RayJob | DaskJob], change: Callable[[dict[str, Any]], object], message: str, tmp_path: Path
) -> None:
    manifest = kind.read().to_manifest()
    assert reported(manifest, tmp_path) == ""
    changed = copy.deepcopy(manifest)
    change(changed)
    assert message in reported(changed, tmp_path)


def test_a_fault_of_a_queue_is_reported(tmp_path: Path) -> None:
    queues = list(yaml.safe_load_all(QUEUES.read_text(encoding="utf-8")))
    (queue,) = (one for one in queues if one["kind"] == "ClusterQueue")
    assert reported(queue, tmp_path) == ""
    queue["spec"]["resourceGroup"] = []
    assert "did you mean resourceGroups?" in reported(queue, tmp_path)


def test_a_template_with_kueues_label_is_reported_because_kueue_would_start_it(tmp_path: Path) -> None:
    manifest = RayJob.read().to_manifest()
    (tmp_path / "rayjob.yaml").write_text(yaml.safe_dump(manifest))
    kustomization = tmp_path / "kustomization.yaml"
    kustomization.write_text(yaml.safe_dump({"kind": "Kustomization", "resources": ["rayjob.yaml"]}))
    assert lint([tmp_path]) == []
    manifest["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = "ct"
    (tmp_path / "rayjob.yaml").write_text(yaml.safe_dump(manifest))
    (fault,) = map(str, lint([tmp_path]))
    assert "Kueue takes the template for a job and starts it" in fault
    assert "ctbasis/queue" in fault


def test_memory_that_kueue_cannot_read_is_reported(tmp_path: Path) -> None:
    manifest = yaml.safe_load(LAYOUT.spark_template.read_text(encoding="utf-8"))
    manifest["metadata"]["annotations"] = {"ctbasis/queue": "ctbasis"}
    assert "Kueue" not in reported(manifest, tmp_path)
    manifest["spec"]["executor"]["memory"] = "3G"
    assert "spec.executor.memory: is '3G', which Kueue cannot read (write it as 3g)" in reported(manifest, tmp_path)
