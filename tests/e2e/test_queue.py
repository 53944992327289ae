"""Jobs of the svd step in a queue of Kueue on a real cluster: they wait for quota, and survive an eviction."""

from __future__ import annotations

import json
import os
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from ctbasis.jobs.ray_job import RayJob
from ctbasis.jobs.spark_application import SparkApplication
from ctbasis.spark.launch import application_name
from tests.e2e.cluster import (
    CHECKOUT,
    has_definition,
    kubectl,
    new_namespace,
    report_fault,
    require_cluster,
    wait_until,
)
from tests.e2e.operators import RAY, RAY_IMAGE
from tests.e2e.step_namespace import StepNamespace, job_arguments, step_request

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.step_namespace import Step

pytestmark = pytest.mark.e2e

WAITING = "it is suspended; a queue such as Kueue starts it when its turn comes"
KUEUE = "clusterqueues.kueue.x-k8s.io"

OVERLAY = """
namespace: {name}
resources:
  - {manifests}/base
  - {manifests}/application
components:
  - {manifests}/components/ray
  - {manifests}/components/kueue
patches:
  - target: {{kind: ClusterQueue}}
    patch: |-
      - {{op: replace, path: /metadata/name, value: {name}}}
      - {{op: replace, path: /spec/namespaceSelector/matchLabels/kubernetes.io~1metadata.name, value: {name}}}
      - {{op: replace, path: /spec/resourceGroups/0/flavors/0/name, value: {name}}}
      - {{op: replace, path: /spec/resourceGroups/0/flavors/0/resources/0/nominalQuota, value: {cpu}}}
  - target: {{kind: ResourceFlavor}}
    patch: |-
      - {{op: replace, path: /metadata/name, value: {name}}}
  - target: {{kind: LocalQueue}}
    patch: |-
      - {{op: replace, path: /spec/clusterQueue, value: {name}}}
"""
"""The component kueue as a user applies it, with a queue and a quota of its own for each namespace."""

CPU = "350m"
"""Quota for one job of a test and not for two: a SparkApplication asks for 3 x 100m, a RayJob for 4 x 50m."""


@dataclass(frozen=True)
class Queued:
    """A kind of job that Kueue queues.

    Attributes:
        engine: Engine that runs in it.
        pods_label: Label of its pods.
    """

    engine: str
    pods_label: str

    def step(self, namespace: StepNamespace, run: str, *, power_iters: int) -> Step:
        """Start the launching part of a step whose factors go to the store `run`."""
        arguments = job_arguments(run, engine=self.engine, power_iters=power_iters)
        request = step_request(*arguments, run=run)
        if self.engine == "ray":
            request |= {"kind": "RayJob", "image": RAY_IMAGE}
        return namespace.launch(request | {"timeouts": {"unseen": 5.0}}, {})

    def pods(self, namespace: StepNamespace, run: str) -> list[str]:
        """Return the names of the pods of the run's job."""
        name = RAY.name(run) if self.engine == "ray" else application_name(run)
        return namespace.kubectl("get", "pods", f"--selector={self.pods_label}={name}", "--output=name").split()


@pytest.fixture(params=["mahout", "ray"])
def queued(request: pytest.FixtureRequest) -> Queued:
    """Return the kind of job under test; without its operator, the test is skipped and says so."""
    if request.param == "ray":
        RAY.require()
        return Queued("ray", RayJob.pods_label)
    return Queued("mahout", SparkApplication.pods_label)


@pytest.fixture(scope="module")
def queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StepNamespace]:
    """Return a namespace with a queue for one job; without Kueue, the test is skipped and says so."""
    require_cluster()
    if not has_definition(KUEUE):
        pytest.skip(f"NOT RUN: Kueue is not installed (CRD {KUEUE}); tests/e2e/needs")
    folder = tmp_path_factory.mktemp("queue")
    with new_namespace() as name:
        manifests = os.path.relpath(CHECKOUT / "manifests", folder.resolve())
        (folder / "kustomization.yaml").write_text(OVERLAY.format(name=name, manifests=manifests, cpu=CPU))
        try:
            made = StepNamespace.create(name, folder, manifests=kubectl("kustomize", str(folder)))
            made.write_matrix()
            yield made
        finally:
            kubectl("delete", "--ignore-not-found", "--wait=false", f"clusterqueue/{name}", f"resourceflavor/{name}")


@pytest.fixture
def runs() -> list[str]:
    """Return the ids of two runs, as long as those of Kubeflow."""
    return [str(uuid.uuid4()), str(uuid.uuid4())]


def test_of_two_runs_with_quota_for_one_the_second_waits_until_the_first_has_ended(
    queued: Queued, queue: StepNamespace, runs: list[str]
) -> None:
    first = queued.step(queue, runs[0], power_iters=60)
    wait_until(lambda: queued.pods(queue, runs[0]), "the first job has pods")
    second = queued.step(queue, runs[1], power_iters=2)
    second.wait_for(WAITING)
    assert first.process.poll() is None, first.output
    assert not queued.pods(queue, runs[1])
    code, output = first.end()
    assert code == 0, output
    ended = time.monotonic()
    wait_until(lambda: queued.pods(queue, runs[1]), "the second job has pods")
    waited = time.monotonic() - ended
    code, output = second.end()
    assert code == 0, output
    assert all(queue.factors_are_correct(run) for run in runs)
    report_fault(f"two runs with {queued.engine}, quota for one", "the second waits, then runs", waited)


def test_a_job_that_the_queue_evicts_waits_and_runs_again(
    queued: Queued, queue: StepNamespace, runs: list[str]
) -> None:
    run = runs[0]
    step = queued.step(queue, run, power_iters=60)
    step.wait_for(f"svd: {queued.engine} factors")
    _set_stop_policy(queue, "HoldAndDrain")
    wait_until(lambda: not queued.pods(queue, run), "the evicted job has no pods")
    assert step.process.poll() is None, step.output
    began = time.monotonic()
    _set_stop_policy(queue, "None")
    code, output = step.end()
    assert code == 0, output
    assert output.count(f"svd: {queued.engine} factors") == 2
    assert queue.factors_are_correct(run)
    seconds = time.monotonic() - began
    report_fault(f"Kueue evicts a run with {queued.engine}", "it waits, then starts again from its matrix", seconds)


def _set_stop_policy(queue: StepNamespace, policy: str) -> None:
    patch = json.dumps({"spec": {"stopPolicy": policy}})
    kubectl("patch", "clusterqueue", queue.name, "--type=merge", "--patch", patch)
