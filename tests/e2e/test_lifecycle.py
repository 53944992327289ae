"""Runs that are terminated, retried, deleted, or whose svd step is killed or drained, on Argo as Kubeflow sets it.

The runs start together, because most of a run on Argo is waiting. Each test takes one of them to its end.
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from ctbasis.kubeflow import local
from ctbasis.svd.factors import FactorStore
from tests.e2e.cluster import GENEROUS_SECONDS, new_namespace, require_argo, wait_until
from tests.e2e.kfp_namespace import RunNamespace, small_package
from tests.e2e.object_store import object_store
from tests.e2e.svd_runs import (
    application,
    application_of,
    is_in_the_middle_of_the_svd,
    kill_container,
    nothing_is_left,
    same_factors,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.kfp_run import Run

pytestmark = pytest.mark.e2e

ARGUMENTS = {"rank": "20", "ranks": "20,40", "seed": 7, "power_iters": 16, "engine": "mahout"}
"""Arguments with many power iterations, so that there is time to interrupt the SVD."""

LONG = {**ARGUMENTS, "power_iters": 100}
"""Arguments of runs that must not reach the end of their SVD."""

DEFAULTS = yaml.safe_load(Path(__file__).with_name("kfp-workflow-defaults.yaml").read_text())["spec"]
STORE, MARK = "scratch", ".ctbasis-run.json"


@pytest.fixture(scope="module")
def undisturbed(ct: Path, tmp_path_factory: pytest.TempPathFactory) -> FactorStore:
    """Return the factors that NumPy computes on this machine with the same arguments."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    arguments = {"source": str(ct), **ARGUMENTS, "engine": "numpy"}
    return FactorStore.open(str(local.run(arguments, out=out).out / "basis"))


@pytest.fixture(scope="module")
def misconfigured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunNamespace]:
    """Return a namespace whose SparkApplication template names an image that no node has."""
    require_argo()
    with new_namespace() as name:
        made = RunNamespace.create(name, object_store(name), tmp_path_factory.mktemp("misconfigured"))
        made.change_template(image="ctbasis/spark:absent", imagePullPolicy="Never")
        yield made
        made.empty_bucket()


@dataclass
class Interruption:
    """What is done to a run as soon as it is ready for it, and what was seen then.

    Attributes:
        run: The run.
        is_ready: Whether it is ready.
        act: The interruption.
        application: The uid of its Spark application.
        at: When it was interrupted; 0 if it was not.
    """

    run: Run
    is_ready: Callable[[], bool]
    act: Callable[[], None]
    application: str = ""
    at: float = 0.0


@pytest.fixture(scope="module")
def started(runs: RunNamespace, misconfigured: RunNamespace, ct: Path) -> dict[str, Run]:
    """Return the runs of this module, all started."""
    runs.change_template()
    source = runs.upload(ct)
    svd = small_package(until="svd", svd_memory="1536Mi")
    retried = {"source": misconfigured.upload(ct), "store": f"s3://{misconfigured.name}/{STORE}"}
    return {
        "drained": runs.run(svd, source=source, **ARGUMENTS),
        "killed": runs.run(svd, source=source, **LONG),
        "terminated": runs.run(svd, source=source, store=f"s3://{runs.name}/{STORE}", **LONG),
        "deleted": runs.run(svd, source=source, **LONG),
        "wrong": runs.run(svd, source=f"s3://{runs.name}/nothing-is-here", **ARGUMENTS),
        "retried": misconfigured.run(small_package(), **retried, **ARGUMENTS),
    }


@pytest.fixture(scope="module")
def lost(runs: RunNamespace, started: dict[str, Run], ct: Path) -> Iterator[Run]:
    """Return a run that loses the first pods of two of its steps while they run."""
    assert started, "the longer runs start first"
    run = runs.run(small_package(until="svd"), source=runs.upload(ct), **ARGUMENTS | {"engine": "numpy"})
    with ThreadPoolExecutor(1) as pool:
        losing = pool.submit(run.lose_first_pods, ["fetch", "matrix"])
        yield run
        losing.result()


@pytest.fixture(scope="module")
def interrupted(runs: RunNamespace, started: dict[str, Run], lost: Run) -> dict[str, Interruption]:
    """Interrupt each run, one in the middle of its SVD to see that nothing is lost, the others when the driver runs."""
    assert lost, "its pods are deleted at the same time"
    drained, killed = started["drained"], started["killed"]

    def driver_runs(run: Run) -> Callable[[], bool]:
        return lambda: driver_phase(runs, run) == "Running"

    made = {
        "drained": Interruption(
            drained,
            lambda: is_in_the_middle_of_the_svd(runs, drained),
            lambda: drain(runs, drained.pod_name("svd", 0)),
        ),
        "killed": Interruption(killed, driver_runs(killed), lambda: kill_container(runs, killed.pod_name("svd", 0))),
        **{
            name: Interruption(started[name], driver_runs(started[name]), act)
            for name, act in (("terminated", started["terminated"].terminate), ("deleted", started["deleted"].delete))
        },
    }

    def all_are() -> bool:
        for one in made.values():
            if not one.at and one.is_ready():
                one.application = application(runs, one.run)["metadata"]["uid"]
                one.act()
                one.at = time.monotonic()
        return all(one.at for one in made.values())

    wait_until(all_are, "each run is interrupted", 2 * GENEROUS_SECONDS)
    return made


def driver_phase(runs: RunNamespace, run: Run) -> str:
    """Return the phase of the pod of the Spark driver of a run; the test fails if the run is over."""
    assert not run.state, run.end()
    found = runs.pods(f"sparkoperator.k8s.io/app-name={application_of(run)},spark-role=driver")
    return str(found[0]["status"]["phase"]) if found else ""


def drain(runs: RunNamespace, pod: str) -> None:
    """Delete a pod as the drain of its node does."""
    runs.kubectl("delete", "pod", pod, "--wait=false")


def claim_is_there(runs: RunNamespace, run: Run) -> bool:
    return f"{run.name}-kfp-workspace" in runs.kubectl("get", "persistentvolumeclaims", "-o", "name")


def no_application(runs: RunNamespace, run: Run) -> bool:
    """Tell whether neither the application of a run nor one of its pods is left."""
    names = [one["metadata"]["name"] for one in runs.applications()]
    return application_of(run) not in names and not runs.pods(f"sparkoperator.k8s.io/app-name={application_of(run)}")


def reason(run: Run) -> dict[str, Any]:
    """Return the metadata of the exit handler's artifact that says why a run failed."""
    found: dict[str, Any] = run.executions()["cleanup"].artifacts["why_it_failed"]["metadata"]
    return found


def test_argo_merges_the_settings_of_kubeflow_into_a_run_and_the_lifetimes_of_the_package_win(
    started: dict[str, Run],
) -> None:
    run = started["wrong"].finish()
    spec = (run.workflow() or {})["spec"]
    assert spec["templateDefaults"]["retryStrategy"] == DEFAULTS["templateDefaults"]["retryStrategy"]
    config = run.package.platform["pipelineConfig"]
    own = {f"secondsAfter{end}": int(config[f"resourceTtlOn{end}"]) for end in ("Completion", "Success", "Failure")}
    assert spec["ttlStrategy"] == own


def test_a_wrong_source_is_the_reason_in_the_artifact_of_the_exit_handler_and_is_not_tried_again(
    runs: RunNamespace, started: dict[str, Run], tmp_path: Path
) -> None:
    run = started["wrong"].finish()
    assert run.state == "FAILED"
    assert run.phases("fetch") == ["Failed"], "Argo tries an error again, and no failure"
    assert {one.task for one in run.tries} == {"fetch", "cleanup"}, "no step runs without the fetched files"
    found = reason(run)
    assert found["step"] == "fetch"
    assert found["found"] == "the source holds no object"
    page = runs.artifact(run, "cleanup", "why_it_failed", tmp_path).read_text()
    assert all(found[part] in page for part in ("found", "expected", "cause", "remedy"))
    show("wrong source", run, page)


def test_the_claim_of_a_failed_run_is_deleted_with_its_workflow_when_its_time_to_live_ends(
    runs: RunNamespace, started: dict[str, Run]
) -> None:
    run = started["wrong"].finish()
    assert claim_is_there(runs, run)
    run.live_for(1)
    wait_until(lambda: run.workflow() is None, "Argo deletes the Workflow")
    wait_until(lambda: nothing_is_left(runs, run), "claim and pods are gone")


def test_a_drained_svd_step_is_tried_again_and_adopts_its_application(
    runs: RunNamespace, interrupted: dict[str, Interruption], undisturbed: FactorStore, tmp_path: Path
) -> None:
    one = interrupted["drained"]
    run = one.run.succeed()
    assert run.phases("svd") == ["Error", "Succeeded"], run.end()
    assert "adopted" in run.log("svd")
    after = application(runs, run)
    assert after["metadata"]["uid"] == one.application, "no second application"
    assert after["status"]["executionAttempts"] == 1
    same_factors(runs, run, undisturbed, tmp_path)
    assert not claim_is_there(runs, run), "Argo deletes the claim of a run that succeeded"


def test_fetch_and_matrix_are_tried_again_when_their_pods_are_lost(
    runs: RunNamespace, lost: Run, undisturbed: FactorStore, tmp_path: Path
) -> None:
    run = lost.succeed()
    assert run.phases("fetch") == run.phases("matrix") == ["Error", "Succeeded"], run.end()
    same_factors(runs, run, undisturbed, tmp_path)


def test_a_killed_svd_step_is_not_tried_again_and_the_exit_handler_ends_its_application(
    runs: RunNamespace, interrupted: dict[str, Interruption]
) -> None:
    run = interrupted["killed"].run.finish()
    assert run.state == "FAILED"
    assert run.phases("svd") == ["Failed"], run.end()
    assert run.phases("cleanup") == ["Succeeded"], run.end()
    assert no_application(runs, run)
    assert reason(run)["step"] == "svd"
    show("killed", run)


def test_a_terminated_run_leaves_no_application_whether_or_not_argo_lets_its_exit_handler_run(
    runs: RunNamespace, interrupted: dict[str, Interruption]
) -> None:
    run = interrupted["terminated"].run.finish()
    assert run.state == "FAILED", "Kubeflow's word for it"
    show("terminated", run)
    wait_until(lambda: no_application(runs, run), "application and its pods are gone")
    # After a termination, Argo 4.0.5 fails a pod of the exit handler that does not run at the controller's next turn:
    # it knows exit handlers by the name of their node, which Kubeflow's default retryStrategy changes.
    ended = run.phases("cleanup")
    assert ended == ["Succeeded"] or "Step exceeded its deadline" in run.end(), run.end()
    kept = {key.split("/")[2] for key in runs.keys(f"{STORE}/{run.run_id}/")}
    assert kept >= {MARK, "matrix.zarr"}, "what a retry needs"
    assert claim_is_there(runs, run)
    run.delete()
    wait_until(lambda: nothing_is_left(runs, run), "claim and pods are gone")
    assert kept == {key.split("/")[2] for key in runs.keys(f"{STORE}/{run.run_id}/")}, "these are left to the sweep"


def test_a_run_deleted_while_its_driver_runs_leaves_no_application_no_pod_and_no_claim(
    runs: RunNamespace, interrupted: dict[str, Interruption]
) -> None:
    run = interrupted["deleted"].run
    wait_until(lambda: nothing_is_left(runs, run), "application, pods and claim are gone")


def test_a_run_that_failed_in_its_svd_is_retried_and_gets_the_result(
    misconfigured: RunNamespace, started: dict[str, Run], undisturbed: FactorStore, tmp_path: Path
) -> None:
    run = started["retried"].finish()
    assert run.state == "FAILED"
    assert run.phases("svd") == ["Failed"], run.end()
    assert "ctbasis/spark:absent" in reason(run)["found"] + reason(run).get("cause", "")
    show("failed in svd", run)
    first = {one.pod for one in run.tries if one.task != "svd"}
    misconfigured.change_template()
    run.retry()
    run.succeed()
    show("retried", run)
    assert first <= {one.pod for one in run.tries}, "what succeeded is kept"
    assert run.phases("svd") == ["Succeeded"]
    assert run.phases("cleanup") == ["Succeeded"], "Kubeflow does not run the exit handler again"
    same_factors(misconfigured, run, undisturbed, tmp_path)
    assert misconfigured.keys(STORE) == [], "the last step removes the stores instead"


def show(title: str, run: Run, page: str = "") -> None:
    """Print the transcript of a run that docs/explanation/cluster.md shows."""
    steps = "\n".join(f"  {one.task:<12} {one.phase:<10} {one.seconds:6.1f} s  {one.message}" for one in run.tries)
    sys.stderr.write(f"\n{title}: {run.state} in {run.seconds:.0f} s\n{steps}\n{page}\n")
    sys.stderr.flush()
