"""Measure the time that the svd step adds to the bare operator: `python -m tests.e2e.overhead --help`.

The same application runs in pairs, one after the other: first it is created by `kubectl create` and awaited by `kubectl
wait`, then it is created and followed by the step. The measured time is that from creation to COMPLETED; for the step,
that of `launch`, from reading the template to its return. The difference of two runs varies from pair to pair.
A second figure comes from a single run: the time from the operator's COMPLETED, as `kubectl wait` sees it, to the
return of the step.

A third figure is the overhead of Argo and Kubeflow: the time of a run of the whole pipeline on a phantom in which none
of its steps runs. It is measured if Argo Workflows is installed.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import Any

from kubernetes import client, config

from ctbasis.jobs import launcher
from ctbasis.jobs.api_server import ApiServer
from ctbasis.jobs.spark_application import SparkApplication
from ctbasis.simulate.phantom import write_chest
from ctbasis.spark.launch import application_name
from tests.e2e.cluster import GENEROUS_SECONDS, has_argo, kubectl, new_namespace
from tests.e2e.kfp_namespace import RunNamespace, small_package
from tests.e2e.launch_step import rendered
from tests.e2e.object_store import object_store
from tests.e2e.step_namespace import StepNamespace, job_arguments, step_request

COMPLETED = "--for=jsonpath={.status.applicationState.state}=COMPLETED"


def bare(namespace: StepNamespace, server: ApiServer) -> float:
    """Return the seconds of one application that kubectl creates and awaits."""
    request = _request()
    manifest = rendered(launcher.template(SparkApplication, server=server), request).to_manifest()
    name = application_name(request["run"])
    began = time.monotonic()
    namespace.kubectl("create", "--filename=-", given=json.dumps(manifest))
    _wait(namespace.name, name)
    return time.monotonic() - began


def step(namespace: StepNamespace, server: ApiServer) -> tuple[float, float]:
    """Return the seconds of one application run by the step, and those from COMPLETED to the return of the step."""
    request = _request()
    completed_at: list[float] = []

    def watch() -> None:
        path = f"sparkapplication/{application_name(request['run'])}"
        while subprocess.run(
            ["kubectl", "-n", namespace.name, "get", path], capture_output=True, check=False
        ).returncode:
            time.sleep(0.1)
        _wait(namespace.name, application_name(request["run"]))
        completed_at.append(time.monotonic())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    began = time.monotonic()
    launcher.launch(rendered(launcher.template(SparkApplication, server=server), request), server=server)
    ended = time.monotonic()
    watcher.join(GENEROUS_SECONDS)
    return ended - began, ended - completed_at[0]


def _request() -> dict[str, Any]:
    run = str(uuid.uuid4())
    return step_request(*job_arguments(f"{run}.zarr", engine="numpy"), run=run)


def _wait(namespace: str, name: str) -> None:
    command = ["-n", namespace, "wait", COMPLETED, f"sparkapplication/{name}", f"--timeout={GENEROUS_SECONDS:.0f}s"]
    kubectl(*command, seconds=GENEROUS_SECONDS)


def whole_run(name: str, scratch: Path) -> str:
    """Return what a run of the pipeline with the engine `numpy` takes beside its steps."""
    series = scratch / "series"
    series.mkdir()
    write_chest(series, slices=24, rows=64, columns=64, seed=1)
    runs = RunNamespace.create(name, object_store(name), scratch)
    run = runs.run(small_package(), source=runs.upload(series), engine="numpy", rank="5", ranks="5", seed=1).succeed()
    runs.empty_bucket()
    return run.overhead()


def report(pairs: list[tuple[float, float, float]]) -> str:
    """Return a table of the pairs (bare, step, return after COMPLETED), with the medians of difference and lag."""
    lines = [
        "| bare operator, s | step, s | difference, s | returned after COMPLETED, s |",
        "| --- | --- | --- | --- |",
    ]
    lines += [f"| {one:.2f} | {other:.2f} | {other - one:+.2f} | {lag:+.2f} |" for one, other, lag in pairs]
    difference = statistics.median(other - one for one, other, _ in pairs)
    lag = statistics.median(lag for *_, lag in pairs)
    lines.append(f"\nmedian difference {difference:+.2f} s; median return after COMPLETED {lag:+.2f} s")
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.overhead", description=__doc__)
    parser.add_argument("--pairs", type=int, default=7, help="number of pairs (default: %(default)s)")
    options = parser.parse_args()
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    settings = client.Configuration()
    config.load_kube_config(client_configuration=settings)
    with tempfile.TemporaryDirectory() as scratch, new_namespace() as name:
        namespace = StepNamespace.create(name, Path(scratch))
        namespace.write_matrix()
        server = ApiServer(client.ApiClient(settings), name)
        pairs = []
        for number in range(options.pairs + 1):
            pair = (bare(namespace, server), *step(namespace, server))
            if number:  # The first run warms up the node.
                pairs.append(pair)
        sys.stderr.flush()
        print(report(pairs))  # noqa: T201
    if not has_argo():
        print("Argo Workflows is not installed, so the overhead of a run was not measured")  # noqa: T201
        return
    with tempfile.TemporaryDirectory() as scratch, new_namespace() as name:
        print(whole_run(name, Path(scratch)))  # noqa: T201


if __name__ == "__main__":
    main()
