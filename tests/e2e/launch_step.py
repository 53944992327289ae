"""The launching part of the svd step as a separate process, so that a test can stop or kill it as a cluster would.

launch_step.py '{"run": ..., "arguments": [...], "placement": {...}, "spec": {...}, "timeouts": {...}}'
launch_step.py '{"kind": "RayJob", "image": ..., "run": ..., "arguments": [...], "placement": {...}}'

With LOG_REQUESTS in the environment, it prints a line `request: METHOD PATH STATUS` for each request to the API server.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from ctbasis.errors import exit_on_error
from ctbasis.jobs import launcher
from ctbasis.jobs.dask_job import DaskJob
from ctbasis.jobs.names import job_name
from ctbasis.jobs.placement import Placement
from ctbasis.jobs.ray_job import RayJob
from ctbasis.jobs.spark_application import SparkApplication
from ctbasis.jobs.timeouts import Timeouts
from ctbasis.spark.launch import application_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctbasis.jobs.job import Job


def rendered(template: SparkApplication, request: dict[str, Any]) -> SparkApplication:
    """Return the application of a run as the step renders it, from a template that `request` has changed."""
    manifest = template.to_manifest()
    merge(manifest["spec"], request["spec"])
    application = SparkApplication.from_manifest(manifest)
    application = application.for_run(name=application_name(request["run"]), arguments=request["arguments"])
    return application.placed(Placement(**request["placement"]))


def job_of_operator(request: dict[str, Any]) -> Job:
    """Return the RayJob or DaskJob of a run as the step renders it, with small requests for a small cluster."""
    kind: type[Job] = {"RayJob": RayJob, "DaskJob": DaskJob}[request["kind"]]
    manifest = launcher.template(kind).to_manifest()
    for container in containers(manifest["spec"]):
        container["image"] = request["image"]
        container["resources"]["requests"] = {"cpu": "50m", "memory": "300Mi"}
    job = kind.from_manifest(manifest)
    name = job_name(request["run"], longest=kind.longest_name)
    return job.for_run(name=name, arguments=request["arguments"]).placed(Placement(**request["placement"]))


def containers(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all containers below a value."""
    if isinstance(value, list):
        for one in value:
            yield from containers(one)
    elif isinstance(value, dict):
        yield from value.get("containers", [])
        for one in value.values():
            yield from containers(one)


def merge(target: dict[str, Any], changes: dict[str, Any]) -> None:
    """Merge `changes` into a mapping and the mappings in it, in place."""
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            merge(target[key], value)
        else:
            target[key] = value


def log_requests() -> None:
    """Make the HTTP client log its requests."""
    handler = logging.StreamHandler()
    handler.addFilter(lambda record: str(record.msg).startswith('%s://%s:%s "%s'))
    handler.setFormatter(logging.Formatter("request: %(message)s"))
    client = logging.getLogger("urllib3.connectionpool")
    client.setLevel(logging.DEBUG)
    client.addHandler(handler)


if __name__ == "__main__":
    if "LOG_REQUESTS" in os.environ:
        log_requests()
    given = json.loads(sys.argv[1])
    with exit_on_error():
        job: Job = job_of_operator(given) if "kind" in given else rendered(launcher.template(SparkApplication), given)
        launcher.launch(job, timeouts=Timeouts(**given.get("timeouts", {})))
