"""The launching part of the svd step as a separate process, so that a test can stop or kill it as a cluster would.

launch_step.py '{"run": ..., "arguments": [...], "placement": {...}, "spec": {...}, "timeouts": {...}}'

With LOG_REQUESTS in the environment, it prints a line `request: METHOD PATH STATUS` for each request to the API server.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

from ctbasis.errors import exit_on_error
from ctbasis.spark import launch_kubernetes
from ctbasis.spark.application import SparkApplication
from ctbasis.spark.kubernetes.timeouts import Timeouts
from ctbasis.spark.launch import application_name
from ctbasis.spark.placement import Placement


def rendered(template: SparkApplication, request: dict[str, Any]) -> SparkApplication:
    """Return the application of a run as the step renders it, from a template that `request` has changed."""
    manifest = template.to_manifest()
    merge(manifest["spec"], request["spec"])
    application = SparkApplication.from_manifest(manifest)
    application = application.for_run(name=application_name(request["run"]), arguments=request["arguments"])
    return application.placed(Placement(**request["placement"]))


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
        application = rendered(launch_kubernetes.template(), given)
        launch_kubernetes.launch(application, timeouts=Timeouts(**given.get("timeouts", {})))
