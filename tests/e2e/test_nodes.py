"""Executors on two nodes, and a node that loses its power in the middle of the svd step: `make e2e-nodes`.

How a node is switched off and on differs between clusters: CTBASIS_NODE_OFF and CTBASIS_NODE_ON are commands in which
{node} stands for its name. The control plane, the operators and the object store must not run on CTBASIS_NODE.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from ctbasis.kubeflow import local
from ctbasis.svd.factors import FactorStore
from tests.e2e.cluster import GENEROUS_SECONDS, kubectl, new_namespace, report_fault, require_argo, wait_until
from tests.e2e.kfp_namespace import RunNamespace, small_package
from tests.e2e.object_store import object_store
from tests.e2e.svd_runs import application, executor_pods, same_factors, same_patch_basis, tasks_done

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.kfp_run import Run

pytestmark = pytest.mark.chaos

NODE, OFF, ON = "CTBASIS_NODE", "CTBASIS_NODE_OFF", "CTBASIS_NODE_ON"
GLOBAL = {"rank": "20", "ranks": "20,40", "seed": 7, "power_iters": 60}
CASES: dict[str, dict[str, Any]] = {
    "mahout": {**GLOBAL, "engine": "mahout"},
    "spark": {**GLOBAL, "engine": "spark", "method": "randomized"},
    "patch": {"mode": "patch", "engine": "spark", "seed": 7, "target_noise": 0.0},
}
HOSTNAME = "kubernetes.io/hostname"
SWITCH_SECONDS = 600


@pytest.fixture(scope="module")
def lost_node() -> Iterator[str]:
    """Return the node that is switched off; it is on again at the end. Without two nodes, the tests are skipped."""
    require_argo()
    missing = [name for name in (NODE, OFF, ON) if not os.environ.get(name)]
    if missing:
        pytest.skip(f"NOT RUN: {', '.join(missing)} are not set; `make e2e-nodes` says what they are")
    node = os.environ[NODE]
    names = kubectl("get", "nodes", "--output=name").split()
    assert f"node/{node}" in names, names
    assert len(names) > 1, "the cluster has one node"
    # The claims of the namespace, and its pods that are there before a run, must not be on the node that is lost.
    kubectl("cordon", node)
    yield node
    switch(ON, node)
    kubectl("uncordon", node)


def switch(command: str, node: str) -> None:
    """Switch a node off or on."""
    subprocess.run(shlex.split(os.environ[command].format(node=node)), check=True, timeout=SWITCH_SECONDS)


def is_ready(node: str) -> bool:
    conditions = json.loads(kubectl("get", "node", node, "--output=json"))["status"]["conditions"]
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


@pytest.fixture(scope="module")
def spread(lost_node: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunNamespace]:
    """Return a namespace whose drivers avoid the node, and whose executors are spread over all nodes."""
    elsewhere = {"matchExpressions": [{"key": HOSTNAME, "operator": "NotIn", "values": [lost_node]}]}
    terms = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [elsewhere]}}
    apart = {
        "weight": 100,
        "podAffinityTerm": {
            "topologyKey": HOSTNAME,
            "labelSelector": {"matchLabels": {"spark-role": "executor", "app.kubernetes.io/name": "ctbasis"}},
        },
    }
    with new_namespace() as name:
        made = RunNamespace.create(name, object_store(name), tmp_path_factory.mktemp("nodes"))
        made.change_template(
            driver={"affinity": {"nodeAffinity": terms}},
            executor={"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [apart]}}},
        )
        yield made
        made.empty_bucket()


def places(runs: RunNamespace, run: Run) -> dict[str, str]:
    """Return the nodes of the running executors of a run, by pod."""
    found = executor_pods(runs, run).items()
    return {name: one["spec"]["nodeName"] for name, one in found if one["status"]["phase"] == "Running"}


@pytest.mark.parametrize("case", CASES)
def test_a_node_that_loses_its_power_in_the_middle_costs_time_and_nothing_else(
    case: str, spread: RunNamespace, lost_node: str, ct: Path, tmp_path: Path
) -> None:
    switch(ON, lost_node)
    wait_until(lambda: is_ready(lost_node), f"{lost_node} is ready")
    # The steps before, and the claim of the run, must not be on the node that is lost.
    kubectl("cordon", lost_node)
    arguments = CASES[case]
    source, store = spread.upload(ct), f"s3://{spread.name}/nodes"
    run = spread.run(small_package(until="svd"), source=source, store=store, **arguments)
    run.pod_name("svd", 0)
    kubectl("uncordon", lost_node)

    def is_in_the_middle() -> bool:
        assert not run.state, run.end()
        tasks = tasks_done(spread, run)
        return any(node == lost_node and tasks.get(pod, 0) for pod, node in places(spread, run).items())

    wait_until(is_in_the_middle, "an executor on the node has ended a task")
    assert len(set(places(spread, run).values())) == 2, "the executors are on two nodes"
    began = time.monotonic()
    switch(OFF, lost_node)
    run.finish(3 * GENEROUS_SECONDS).succeed()
    seconds = time.monotonic() - began
    assert application(spread, run)["status"]["executionAttempts"] == 1
    reference = local.run({"source": str(ct), **arguments, "engine": "numpy"}, out=tmp_path / "here").out / "basis"
    if case == "patch":
        same_patch_basis(reference, spread.artifact(run, "svd", "basis", tmp_path / "there"))
    else:
        same_factors(spread, run, FactorStore.open(str(reference)), tmp_path / "there")
    report_fault(f"a node loses its power in the middle, {case}", "the executor's blocks are read again", seconds)
