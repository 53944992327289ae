"""Faults during a pipeline run: each test injects one fault, asserts the outcome, and checks that nothing is lost.

Each test prints a row of the chaos table of docs/explanation/cluster.md:
fault | observation | seconds until recovery.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

import pytest
import yaml

from ctbasis.kubeflow import local
from ctbasis.svd.factors import FactorStore
from tests.e2e.cluster import CHECKOUT, has_definition, kubectl, new_namespace, report_fault, wait_until
from tests.e2e.kfp_namespace import RunNamespace, small_package
from tests.e2e.object_store import ObjectStore, behind_proxy, interrupt, object_store, restore
from tests.e2e.small_volume import small_volume
from tests.e2e.svd_runs import (
    application,
    application_of,
    executors,
    in_the_middle_of_the_svd,
    jobs_done,
    kill_container,
    nothing_is_left,
    same_factors,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.e2e.kfp_run import Run

pytestmark = pytest.mark.chaos

ARGUMENTS = {"rank": "20", "ranks": "20,40", "seed": 7, "power_iters": 16}
"""Arguments with many power iterations, so that there is time to inject a fault during the SVD."""

DECOMMISSIONING = yaml.safe_load(
    yaml.safe_load((CHECKOUT / "manifests/components/decommissioning/kustomization.yaml").read_text())["patches"][0][
        "patch"
    ]
)["spec"]
"""Changes that manifests/components/decommissioning makes."""

MOVED = re.compile(r"Migrated migrate_shuffle_|migrated successfully")
"""Log lines of a decommissioned executor for each block of a shuffle, and for each cached block."""

SINGULAR_VALUES, PRODUCT = 1e-6, 1e-5
OUTAGE_SECONDS = 30.0
GANG_CRD = "podgroups.scheduling.x-k8s.io"


@pytest.fixture(scope="module")
def undisturbed(ct: Path, tmp_path_factory: pytest.TempPathFactory) -> FactorStore:
    """Return the factors of the same run on this machine, without a fault."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    return FactorStore.open(str(local.run({"source": str(ct), "engine": "mahout", **ARGUMENTS}, out=out).out / "basis"))


@pytest.fixture(scope="module")
def runs_behind_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunNamespace, ObjectStore]]:
    """Return a namespace with S3 behind a proxy, and the S3 store."""
    with new_namespace() as name:
        store = object_store(name)
        made = RunNamespace.create(name, behind_proxy(name, store), tmp_path_factory.mktemp("proxied"))
        yield made, store
        made.empty_bucket()


def start(runs: RunNamespace, ct: Path, *, svd_memory: str = "2Gi", store: str = "", **changes: Any) -> Run:
    """Start a run that ends with the svd step, because no test here concerns the steps after it."""
    package = small_package(until="svd", svd_memory=svd_memory)
    runs.change_template(**changes)
    return runs.run(package, source=runs.upload(ct), engine="mahout", store=store, **ARGUMENTS)


@contextmanager
def following(runs: RunNamespace, pod: str, log: TextIO) -> Iterator[None]:
    """Write the log of a pod to `log` until the pod is gone, because its last lines cannot be read afterwards."""
    process = subprocess.Popen(["kubectl", "-n", runs.name, "logs", "--follow", pod], stdout=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("decommissioned", [False, True], ids=["killed", "decommissioned"])
def test_an_executor_lost_during_the_svd_costs_only_time(
    runs: RunNamespace, ct: Path, undisturbed: FactorStore, tmp_path: Path, *, decommissioned: bool
) -> None:
    run = start(runs, ct, **(DECOMMISSIONING if decommissioned else {}))
    in_the_middle_of_the_svd(runs, run)
    before, jobs = executors(runs, run), jobs_done(run)
    victim = min(before)
    last_words = tmp_path / "victim.log"
    begun = time.monotonic()
    with last_words.open("w") as log, following(runs, victim, log):
        if decommissioned:
            # As by a drained node, with notice: the executor transfers its blocks, and Spark counts it while it exists.
            runs.kubectl("delete", "pod", victim, "--wait=false")
            wait_until(lambda: MOVED.search(last_words.read_text()) or run.state, "the executor transfers its blocks")
        else:
            kill_container(runs, victim)
            wait_until(lambda: set(executors(runs, run)) - set(before) or run.state, "Spark requests another executor")
        assert not run.state, run.end()
        noticed = time.monotonic() - begun
        wait_until(lambda: jobs_done(run) > jobs or run.state, "the SVD continues")
        seconds = time.monotonic() - begun
        run.succeed()
    same_factors(runs, run, undisturbed, tmp_path)
    assert application(runs, run)["status"]["executionAttempts"] == 1, "the driver is not restarted"
    moved = MOVED.findall(last_words.read_text())
    assert bool(moved) == decommissioned, last_words.read_text()[-2000:]
    if decommissioned:
        fault, observation = "drained, with decommissioning,", f"it transferred {len(moved)} blocks, the first"
    else:
        fault, observation = "killed", "Spark recomputed the lost blocks and requested a new executor"
    report_fault(
        f"an executor is {fault} during the SVD",
        f"{observation} after {noticed:.0f} s; same factors, one application, one attempt",
        seconds,
    )


def test_two_runs_at_once_in_one_namespace_are_two_applications_and_both_are_correct(
    runs: RunNamespace, ct: Path, undisturbed: FactorStore, tmp_path: Path
) -> None:
    begun = time.monotonic()
    pair = [start(runs, ct) for _ in range(2)]
    wait_until(lambda: all(jobs_done(run) or run.state for run in pair), "both factor")
    names = {one["metadata"]["name"] for one in runs.applications()}
    assert {application_of(run) for run in pair} <= names
    for index, run in enumerate(pair):
        same_factors(runs, run.succeed(), undisturbed, tmp_path / str(index))
    report_fault("two runs at once in one namespace", "two applications, both runs correct", time.monotonic() - begun)


def test_a_run_deleted_midway_leaves_no_application_no_pod_and_no_claim(runs: RunNamespace, ct: Path) -> None:
    run = start(runs, ct)
    in_the_middle_of_the_svd(runs, run)
    begun = time.monotonic()
    run.delete()
    wait_until(lambda: nothing_is_left(runs, run), "application, pods and claim are gone", 180)
    seconds = time.monotonic() - begun
    assert run.finish().state == "FAILED"
    report_fault(
        "the run is deleted during the SVD", "application, driver, executors, steps and claim are deleted", seconds
    )


@pytest.mark.parametrize("step", ["fetch", "svd"])
def test_a_full_volume_is_reported_and_a_run_on_a_larger_one_succeeds(
    runs: RunNamespace, ct: Path, undisturbed: FactorStore, tmp_path: Path, step: str
) -> None:
    files = sum(path.stat().st_size for path in ct.rglob("*")) / 2**20
    # The volume holds half of the series, or the series and its matrix but not U.
    room = {"fetch": files / 2, "svd": files * 2 + 8}[step]
    with small_volume(mebibytes=max(1, int(room))) as volume:
        package = small_package(until="svd")
        # One try only: a retry by the operator would not find more space.
        runs.change_template(restartPolicy={"type": "Never"})
        patch = package.platform["pipelineConfig"]["workspace"]["kubernetes"]["pvcSpecPatch"]
        patch |= {"storageClassName": volume.storage_class, "accessModes": ["ReadWriteOnce"]}
        arguments = {"source": runs.upload(ct), "engine": "mahout", **ARGUMENTS}
        begun = time.monotonic()
        full = runs.run(package, **arguments).finish()
        seconds = time.monotonic() - begun
        assert full.state == "FAILED"
        assert {one.task for one in full.tries if one.phase != "Succeeded"} == {step}, full.end()
        assert "disk is full" in full.log(step) or "No space left" in full.log(step), full.end()
        assert "cleanup: the run FAILED" in full.log("cleanup")
        observation = "the step reports a full disk and publishes no output; cleanup runs"
        if step == "svd":
            full.delete()
            wait_until(lambda: nothing_is_left(runs, full), "the run that failed is gone", 180)
            volume.release()
            volume.resize(4096)
            same_factors(runs, runs.run(package, **arguments).succeed(), undisturbed, tmp_path)
            observation += "; the same run on a larger volume succeeds"
    report_fault(f"the volume fills during {step}", observation, seconds)


def test_an_s3_outage_of_half_a_minute_during_the_fetch_costs_only_time(
    runs_behind_proxy: tuple[RunNamespace, ObjectStore], ct: Path
) -> None:
    runs, store = runs_behind_proxy
    source = runs.upload(ct)
    files = [path for path in ct.rglob("*") if path.is_file()]
    # S3 is throttled, so that the outage falls into the fetch for any series.
    restore(runs.name, store, bytes_per_second=sum(path.stat().st_size for path in files) // 20)
    run = runs.run(small_package(until="matrix"), source=source, engine="numpy", **ARGUMENTS)
    wait_until(lambda: "fetch:" in run.live_log("fetch") or run.state, "some files are fetched")
    assert not run.state, run.end()
    s3_outage(runs, run)
    restore(runs.name, store)
    back = time.monotonic()
    wait_until(lambda: "Succeeded" in run.phases("fetch") or run.state, "the fetch ends")
    seconds = time.monotonic() - back
    run.succeed()
    tries = sum(one.task == "fetch" for one in run.tries)
    assert f"fetch: {len(files)} files" in run.log("fetch"), run.end()
    report_fault(
        f"S3 is unreachable for {OUTAGE_SECONDS:.0f} s during the fetch",
        f"{tries} pods fetched; all files are complete",
        seconds,
    )


def test_an_s3_outage_of_half_a_minute_during_the_svd_costs_only_time(
    runs_behind_proxy: tuple[RunNamespace, ObjectStore], ct: Path, undisturbed: FactorStore, tmp_path: Path
) -> None:
    runs, store = runs_behind_proxy
    run = start(runs, ct, store=f"s3://{runs.name}/stores")
    # From here on the executors read their blocks of A, and none has read one yet.
    wait_until(lambda: "svd: mahout factors" in run.live_log("svd") or run.state, "the SVD begins")
    s3_outage(runs, run)
    assert not jobs_done(run), "no job ends without A"
    restore(runs.name, store)
    back = time.monotonic()
    wait_until(lambda: jobs_done(run) or run.state, "the SVD continues")
    seconds = time.monotonic() - back
    run.succeed()
    assert application(runs, run)["status"]["executionAttempts"] == 1
    assert run.phases("svd") == ["Succeeded"]
    same_factors(runs, run, undisturbed, tmp_path)
    report_fault(
        f"S3 is unreachable for {OUTAGE_SECONDS:.0f} s during the SVD, with the stores on S3",
        "no job ends or fails in this time: driver and executors retry; one attempt, same factors",
        seconds,
    )


def s3_outage(runs: RunNamespace, run: Run) -> None:
    """Interrupt S3 for `OUTAGE_SECONDS`; the run must continue."""
    interrupt(runs.name)
    began = time.monotonic()
    while time.monotonic() - began < OUTAGE_SECONDS:
        time.sleep(1)
        assert not run.state, run.end()


def test_an_oversized_gang_waits_without_a_pod_running_and_is_deleted_cleanly(runs: RunNamespace, ct: Path) -> None:
    if not has_definition(GANG_CRD):
        pytest.skip(
            f"the cluster has no gang scheduler (CRD {GANG_CRD}): scheduler-plugins' coscheduling under the name `gang`"
        )
    nodes = json.loads(kubectl("get", "nodes", "-o", "json"))["items"]
    largest = max(int(one["status"]["allocatable"]["memory"].removesuffix("Ki")) for one in nodes) >> 20
    # The driver alone would fit.
    run = start(runs, ct, svd_memory=f"{largest // 2 + 1}Gi", batchScheduler="gang")
    mine = f"sparkoperator.k8s.io/app-name={application_of(run)}"
    wait_until(lambda: runs.pods(mine) or run.state, "the driver's pod exists")
    waited = time.monotonic()
    while time.monotonic() - waited < OUTAGE_SECONDS:
        assert [one["status"]["phase"] for one in runs.pods(mine)] == ["Pending"], "no pod starts unless all can"
        assert not run.state, run.end()
        time.sleep(2)
    begun = time.monotonic()
    run.delete()
    wait_until(lambda: nothing_is_left(runs, run), "application, pods and claim are gone", 180)
    seconds = time.monotonic() - begun
    run.finish()
    assert application_of(run) not in runs.kubectl("get", GANG_CRD, "-o", "name"), "its PodGroup is deleted"
    report_fault(
        "a gang larger than the cluster",
        "the driver is Pending, no pod of the gang runs, and the step waits; deleting the run leaves nothing",
        seconds,
    )
