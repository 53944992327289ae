"""Faults that the overlays cover: executors that are lost during a run, and gangs that do not fit."""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.cluster import has_definition, kubectl, report_fault, require_cluster, wait_until
from tests.e2e.installed import CLAIM, installed
from tests.e2e.object_store import EMPTY_BUCKET, object_store

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.installed import Installed

pytestmark = pytest.mark.chaos

LONG_ROWS = 512 * 512
LONG = 6
"""Number of power iterations that keeps a run busy until its executor is lost."""

ALONE = {"enabled": True, "initialExecutors": 1, "minExecutors": 1, "maxExecutors": 1}
"""One executor only, so that no other one could finish the run or receive the blocks of the lost one."""

LOCAL_DIR = "spark.kubernetes.executor.volumes.persistentVolumeClaim.spark-local-dir-1"

LIST_BUCKET = """
import boto3, sys
pages = boto3.client("s3").get_paginator("list_objects_v2").paginate(Bucket=sys.argv[1])
print("\\n".join(entry["Key"] for page in pages for entry in page.get("Contents", [])))
"""


def test_in_an_elastic_run_the_next_executor_takes_over_the_claim_of_a_lost_one(tmp_path: Path) -> None:
    with installed("elastic", tmp_path, rows=LONG_ROWS) as made:
        claims = {f"{LOCAL_DIR}.options.storageClass": _storage_class(), f"{LOCAL_DIR}.options.sizeLimit": "1Gi"}
        run = made.start("svd-elastic", power_iters=LONG, sparkConf=claims, dynamicAllocation=ALONE)
        lost, began = _lose_an_executor(made, run), time.monotonic()
        (claim,) = _claims(lost)
        owner = made.get("pvc", claim)["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["name"]) == ("Pod", f"{run}-driver")
        successor = wait_until(lambda: _successor(made, run, lost, claim), "an executor on the claim of the lost one")
        assert successor["metadata"]["labels"]["spark-exec-id"] != lost["metadata"]["labels"]["spark-exec-id"]
        made.wait_until_completed(run)
        recovered = made.kubectl("logs", successor["metadata"]["name"])
        assert re.search(r"Try to recover \S+/shuffle_\d+_\d+_\d+\.data", recovered), (
            "it did not look for shuffle files"
        )
        fault = "overlay elastic: the only executor's pod is deleted"
        report_fault(
            fault,
            "the next executor mounts the claim and finds the shuffle files; COMPLETED",
            time.monotonic() - began,
        )
        made.kubectl("delete", "sparkapplication", run)
        wait_until(lambda: [item["metadata"]["name"] for item in made.get("pvc")["items"]] == [CLAIM], "no claim stays")


def test_a_spot_run_whose_only_executor_is_evicted_finds_its_shuffle_files_in_s3(tmp_path: Path) -> None:
    with installed("spot", tmp_path, rows=LONG_ROWS, store=object_store) as made:
        # Otherwise Spark would remove the files that the test looks for at the end.
        kept = {"spark.storage.decommission.fallbackStorage.cleanUp": "false"}
        bucket = {"spark.storage.decommission.fallbackStorage.path": f"s3a://{made.name}/spark/"}
        run = made.start("svd-spot", power_iters=LONG, sparkConf=kept | bucket, dynamicAllocation=ALONE)
        _lose_an_executor(made, run)
        began = time.monotonic()
        made.wait_until_completed(run)
        written = made.python(LIST_BUCKET, made.name).split()
        files = [key for key in written if key.endswith((".data", ".index"))]
        assert files, f"in {made.name}: {written}"
        fault = "overlay spot: the only executor's pod is deleted"
        report_fault(fault, f"{len(files)} shuffle files went to S3; COMPLETED", time.monotonic() - began)
        made.python(EMPTY_BUCKET, made.name)


def test_a_gang_starts_as_a_whole_and_one_that_is_too_large_waits_as_a_whole(tmp_path: Path) -> None:
    _require_gang()
    with installed("gang", tmp_path) as made:
        run = made.start("svd-gang")
        made.wait_until_completed(run)
        pods = [*made.pods(run, "driver"), *made.pods(run, "executor")]
        assert len(pods) == 3
        assert {found["spec"]["schedulerName"] for found in pods} == {"gang"}
        assert {found["metadata"]["labels"]["scheduling.x-k8s.io/pod-group"] for found in pods} == {f"{run}-pg"}

        # The driver alone would fit, and so would the CPU requests of all pods.
        began = time.monotonic()
        big = made.start("svd-oversized", executor={"memory": "64G", "instances": 64})
        group = wait_until(lambda: made.find("podgroup", f"{big}-pg"), "its PodGroup")
        # 64 times 64G and 400M, and the driver's 768M and 400M.
        assert group["spec"]["minResources"]["memory"] == "4122768M"
        wait_until(
            lambda: f"PodGroup {made.name}/{big}-pg gets rejected" in _why(made, f"{big}-driver"),
            "the reason is reported",
        )
        driver = made.find("pod", f"{big}-driver")
        assert driver is not None
        assert driver["status"]["phase"] == "Pending"
        assert made.pods(big, "executor") == []
        wait_until(lambda: made.state(big) == "SUBMITTED", "the application counts as submitted")
        report_fault(
            "overlay gang: 64 executors of 64 GB are asked for",
            "the driver waits with a reason, and no executor is created",
            time.monotonic() - began,
        )
        made.kubectl("delete", "sparkapplication", big)


def _lose_an_executor(made: Installed, run: str) -> dict[str, Any]:
    """Delete the pod of an executor, as a drained node does, once the computation has started; return the pod."""
    wait_until(lambda: "spark: job " in made.log(run) or made.state(run) == "FAILED", "the first job has ended")
    lost = next(one for one in made.pods(run, "executor") if one["status"]["phase"] == "Running")
    made.kubectl("delete", "pod", lost["metadata"]["name"], "--wait=false")
    return lost


def _storage_class() -> str:
    """Return the cluster's default StorageClass."""
    for one in json.loads(kubectl("get", "storageclass", "--output=json"))["items"]:
        if one["metadata"].get("annotations", {}).get("storageclass.kubernetes.io/is-default-class") == "true":
            return str(one["metadata"]["name"])
    raise AssertionError("the cluster has no default StorageClass, which the claims of this test and of Kubeflow need")


def _claims(found: dict[str, Any]) -> list[str]:
    """Return the claims of a pod except that of the workspace."""
    volumes = found["spec"]["volumes"]
    names = [volume["persistentVolumeClaim"]["claimName"] for volume in volumes if "persistentVolumeClaim" in volume]
    return [name for name in names if name != CLAIM]


def _successor(made: Installed, run: str, lost: dict[str, Any], claim: str) -> dict[str, Any] | None:
    assert made.state(run) not in {"COMPLETED", "FAILED"}, f"{run} ended before the expected executor started"
    others = (one for one in made.pods(run, "executor") if one["metadata"]["uid"] != lost["metadata"]["uid"])
    return next((one for one in others if claim in _claims(one)), None)


def _why(made: Installed, pod: str) -> str:
    """Return the reason why a pod is not scheduled; empty if it is scheduled or does not exist."""
    found = made.find("pod", pod) or {"status": {}}
    return " ".join(entry.get("message", "") for entry in found["status"].get("conditions", []))


def _require_gang() -> None:
    require_cluster()
    if not has_definition("podgroups.scheduling.x-k8s.io"):
        pytest.skip("no PodGroup of scheduler-plugins; needs a second scheduler `gang` that the operator knows")
