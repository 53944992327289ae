"""The CronJobs of manifests/components on a cluster: `sweep` and `new-series`, each run as a Job made from it.

Kubeflow's server is the stand-in of `kfp_server`. S3 is behind a proxy that lists objects as two hours older than they
are, so that no test waits for the time after which an upload counts as complete, or the folder of an unknown run as
left.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.e2e.cluster import CHECKOUT, STEPS_IMAGE, kubectl, new_namespace, wait_until
from tests.e2e.kfp_namespace import RunNamespace, image_entry
from tests.e2e.kfp_server import URL, start_server
from tests.e2e.object_store import aged, object_store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e

HOURS = 2
SUSPENDED = "- {op: add, path: /spec/suspend, value: true}"
STORE, GONE, OF_A_USER = "scratch", "0f0c1d9e-deleted", "basis-of-a-user"

START = f"""
import json
from ctbasis.kubeflow.server import connect
from ctbasis.kubeflow.submit import start
client = connect("{URL}")
live, ended = (start(client, arguments={{"source": "s3://clinic/series"}}, experiment="others") for _ in range(2))
client.terminate_run(ended)
assert client.get_run(ended).state == "CANCELING"
print(json.dumps([live, ended]))
"""

LEAVE = """
import sys
import numpy as np
from ctbasis.matrix import slice_store, store
from ctbasis.storage import run_folders
from ctbasis.storage.voxels import absent
prefix, marked, *runs = sys.argv[1:]
A = np.ones((64, 3), dtype=np.int16)
for run in runs:
    if marked == "marked":
        run_folders.mark(f"{prefix}/{run}", run, on_kubeflow=True)
    writer = store.MatrixWriter.create(f"{prefix}/{run}/matrix.zarr", image=(8, 8), cols=3, dtype=A.dtype)
    writer.write(slice(0, 64), slice(0, 3), A, np.full_like(A, absent(A.dtype)))
    writer.finish(series=[slice_store.Series("1.2.3", 0, 3)], headers=[b"header"] * 3)
"""

RUNS = f"""
import json
from ctbasis.kubeflow.runs import listed_runs
from ctbasis.kubeflow.server import connect
found = []
for run in listed_runs(connect("{URL}"), "ctbasis"):
    executors = run["pipeline_spec"]["pipeline_spec"]["deploymentSpec"]["executors"].values()
    found.append([run["runtime_config"]["parameters"]["source"], *{{one["container"]["image"] for one in executors}}])
print(json.dumps(sorted(found)))
"""


@pytest.fixture(scope="module")
def scheduled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunNamespace]:
    """Return a namespace with a bucket, the Secret with its keys, and a Kubeflow server."""
    with new_namespace() as name:
        store = aged(name, object_store(name), hours=HOURS)
        runs = RunNamespace.create(name, store, tmp_path_factory.mktemp("scheduled"))
        start_server(name)
        yield runs
        runs.empty_bucket()


@pytest.fixture(scope="module")
def incoming(scheduled: RunNamespace, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a prefix with two folders of new series, and create its bucket."""
    return scheduled.upload(series(tmp_path_factory.mktemp("incoming"), "a", "b/deep"))


def series(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "1.dcm").write_bytes(b"an object")
    return folder


def install(runs: RunNamespace, component: str, folder: Path, **settings: str) -> None:
    """Apply a component with settings of its ConfigMap and the image under test, as an overlay does."""
    data = {"host": URL, **{name.replace("_", "-"): value for name, value in settings.items()}}
    patch = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": f"ctbasis-{component}"}, "data": data}
    kustomization: dict[str, Any] = {
        "namespace": runs.name,
        "components": [os.path.relpath(CHECKOUT / "manifests" / "components" / component, folder.resolve())],
        "images": [image_entry("ctbasis/steps", STEPS_IMAGE)],
        # The Jobs of the tests are the only ones: the schedule starts none.
        "patches": [{"patch": yaml.safe_dump(patch)}, {"target": {"kind": "CronJob"}, "patch": SUSPENDED}],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    runs.kubectl("apply", "-f", "-", given=kubectl("kustomize", str(folder)))


def job(runs: RunNamespace, component: str, name: str) -> str:
    """Run a Job made from a CronJob to its end, and return its log; the test fails if the Job does."""
    runs.kubectl("create", "job", name, f"--from=cronjob/ctbasis-{component}")

    def ends() -> set[str]:
        status = json.loads(runs.kubectl("get", "job", name, "-o", "json")).get("status", {})
        return {one["type"] for one in status.get("conditions", []) if one["status"] == "True"} & {"Complete", "Failed"}

    ended = wait_until(ends, f"the job {name} ends")
    log = runs.kubectl("logs", f"job/{name}")
    assert ended == {"Complete"}, log
    return log


def folders(runs: RunNamespace) -> set[str]:
    """Return the folders below the prefix of the stores."""
    return {key.split("/")[1] for key in runs.keys(f"{STORE}/")}


@pytest.mark.usefixtures("incoming")
def test_the_sweep_removes_what_a_run_has_left_that_is_deleted_or_over_and_nothing_else(
    scheduled: RunNamespace, tmp_path: Path
) -> None:
    prefix = f"s3://{scheduled.name}/{STORE}"
    live, ended = json.loads(scheduled.python(START))
    scheduled.python(LEAVE, prefix, "marked", live, ended, GONE)
    scheduled.python(LEAVE, prefix, "unmarked", OF_A_USER)
    assert folders(scheduled) == {live, ended, GONE, OF_A_USER}

    install(scheduled, "sweep", tmp_path, store=prefix)
    log = job(scheduled, "sweep", "sweep-1")
    assert f"remove {prefix}/{GONE}: the server has no such run" in log
    assert f"keep {prefix}/{live}: the run is RUNNING" in log
    assert f"keep {prefix}/{ended}: the run ended as FAILED 0.0 h ago" in log
    assert "3 folders of runs, 1 removed" in log
    assert folders(scheduled) == {live, ended, OF_A_USER}

    install(scheduled, "sweep", tmp_path, store=prefix, older_than="0m")
    assert f"remove {prefix}/{ended}" in job(scheduled, "sweep", "sweep-2")
    assert folders(scheduled) == {live, OF_A_USER}
    assert {key.split("/")[2] for key in scheduled.keys(f"{STORE}/{live}/")} == {"matrix.zarr", ".ctbasis-run.json"}


def test_each_new_series_is_submitted_once_however_often_its_job_runs(
    scheduled: RunNamespace, incoming: str, tmp_path: Path
) -> None:
    def submitted() -> list[list[str]]:
        found: list[list[str]] = json.loads(scheduled.python(RUNS))
        return found

    install(scheduled, "new-series", tmp_path, source=incoming, steps_image=STEPS_IMAGE)
    assert "2 new" in job(scheduled, "new-series", "new-series-1")
    first = [[f"{incoming}/{name}", STEPS_IMAGE] for name in ("a", "b")]
    assert submitted() == first

    assert "0 new, 0 arriving, 2 seen" in job(scheduled, "new-series", "new-series-2")
    assert submitted() == first

    assert scheduled.upload(series(tmp_path / "more", "c")) == incoming
    assert "1 new, 0 arriving, 2 seen" in job(scheduled, "new-series", "new-series-3")
    assert submitted() == [*first, [f"{incoming}/c", STEPS_IMAGE]]
