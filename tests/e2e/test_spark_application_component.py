"""The component `spark_application` on Argo: its example pipelines, one with an application that fails.

The application estimates pi as the example does that Spark ships and that the manifest of the example pipelines names,
by Spark's core alone: the image of the svd step has no Spark SQL. What a user changes there is changed here: the image,
the account, the requests, and the number of partitions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kfp import compiler

from components.spark_application.example_pipelines import PI, spark_pi, spark_pi_guarded
from tests.e2e.cluster import SPARK_IMAGE, STEPS_IMAGE
from tests.e2e.kfp_package import Package
from tests.e2e.object_store import apply

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.kfp_namespace import RunNamespace
    from tests.e2e.kfp_run import Run

pytestmark = pytest.mark.e2e

TASK, EXIT_TASK = "spark-application", "end-application"
PROGRAM = """
import sys
from operator import add
from random import random

from pyspark import SparkContext

context = SparkContext()
partitions = int(sys.argv[1])
points = 100_000 * partitions
inside = context.parallelize(range(points), partitions).map(lambda _: random() ** 2 + random() ** 2 <= 1).reduce(add)
print("Pi is roughly", 4 * inside / points)
context.stop()
"""
EXAMPLES = "spark-examples"
SMALL = {
    "coreRequest": "100m",
    "memory": "512m",
    "memoryOverhead": "384m",
    "podSecurityContext": {"runAsNonRoot": True, "runAsUser": 185, "seccompProfile": {"type": "RuntimeDefault"}},
    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
}
"""Small pods that a namespace with Pod Security *restricted* admits."""

PATIENT = {
    "type": "OnFailure",
    "onFailureRetries": 0,
    "onSubmissionFailureRetries": 5,
    "onSubmissionFailureRetryInterval": 5,
}
"""The operator tries a submission again, which a busy webhook refuses, and no application that failed."""


def package(pipeline: Callable[..., Any], folder: Path, *, partitions: str) -> Package:
    """Compile an example pipeline, and make it one for this cluster."""
    path = folder / "package.yaml"
    compiler.Compiler().compile(pipeline, str(path))
    made = Package.read(path)
    for component in made.spec["components"].values():
        if "executorLabel" in component:
            container = made.container(component)
            container["image"] = STEPS_IMAGE
            # The requests of the task are those of driver and executors, and three of 1 CPU do not fit on two cores.
            container.pop("resources", None)
    parameters = made.steps()[TASK]["inputs"]["parameters"]
    manifest = parameters["manifest"]["runtimeValue"]["constant"]
    parameters["parameters"]["runtimeValue"]["constant"] = {"partitions": partitions}
    spec = manifest["spec"]
    mount = {"name": EXAMPLES, "mountPath": str(Path(spec["mainApplicationFile"].removeprefix("local://")).parent)}
    spec["restartPolicy"] = PATIENT
    spec |= {"image": SPARK_IMAGE, "volumes": [{"name": EXAMPLES, "configMap": {"name": EXAMPLES}}]}
    spec["driver"] |= SMALL | {"serviceAccount": "ctbasis-spark", "volumeMounts": [mount]}
    spec["executor"] |= SMALL
    return made


@pytest.fixture(scope="module")
def started(runs: RunNamespace, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Return both runs, started."""
    program = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": EXAMPLES}}
    apply(runs.name, program | {"data": {Path(PI["spec"]["mainApplicationFile"]).name: PROGRAM}})
    folder = tmp_path_factory.mktemp("packages")
    return {
        "good": runs.run(package(spark_pi, folder, partitions="4")),
        "failing": runs.run(package(spark_pi_guarded, folder, partitions="no number")),
    }


def test_the_example_returns_the_name_and_state_of_its_application_its_log_and_metrics(
    runs: RunNamespace, started: dict[str, Run], tmp_path: Path
) -> None:
    run = started["good"].succeed()
    done = run.executions()[TASK]
    (application,) = (one for one in runs.applications() if one["metadata"]["name"] == done.parameters["name"])
    assert done.parameters == {"name": application["metadata"]["name"], "state": "COMPLETED"}
    assert application["metadata"]["name"].startswith("pi-")
    assert application["status"]["applicationState"]["state"] == "COMPLETED"
    owner = application["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["name"]) == ("Workflow", run.name), "deleting the run deletes it"
    metrics = done.artifacts["metrics"]["metadata"]
    assert (metrics["execution_attempts"], metrics["executors"]) == (1.0, 2.0)
    assert metrics["submission_attempts"] >= 1
    assert metrics["run_seconds"] > 0
    log = runs.artifact(run, TASK, "driver_log", tmp_path).read_text()
    assert "Pi is roughly 3.1" in log
    assert "Pi is roughly 3.1" in run.log(TASK), "the log of the task shows it too"


def test_an_application_that_fails_fails_its_task_with_the_reason_in_its_log(started: dict[str, Run]) -> None:
    run = started["failing"].finish()
    assert run.state == "FAILED"
    assert run.phases(TASK) == ["Failed"], "Argo does not try a failure again"
    assert run.phases(EXIT_TASK) == ["Succeeded"], run.end()
    assert run.executions()[TASK].state == "FAILED"
    log = run.log(TASK)
    assert "ValueError: invalid literal for int() with base 10: 'no number'" in log
    assert "exit code 1" in log
