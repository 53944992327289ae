"""A pod that is no executor of a run tries to register at its driver, which would give it tasks and thereby data.

The run's executors cannot be scheduled at first, so that the attacker meets a driver that waits for executors.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from ctbasis.kubeflow.lint.spark import PROTECTED
from tests.e2e.cluster import SPARK_IMAGE, hardened, kubectl, pod, wait_until
from tests.e2e.installed import installed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.installed import Installed

pytestmark = pytest.mark.e2e

BACKEND = "org.apache.spark.executor.CoarseGrainedExecutorBackend"
ATTACKER = "attacker"
SETTINGS = {key: value for key, (value, _) in PROTECTED.items()}
OPEN = {key: "false" for key in SETTINGS if key.endswith("enabled") or key == "spark.authenticate"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installed]:
    with installed("hardened", tmp_path_factory.mktemp("attack")) as namespace:
        yield namespace


@pytest.fixture
def label() -> str:
    """Return a label of nodes that no node has yet."""
    return f"ctbasis-e2e/{uuid.uuid4().hex[:8]}"


def start_without_executors(made: Installed, run: str, label: str, **settings: str) -> dict[str, str]:
    """Start a run whose executors wait for a node with `label`; return the environment of such an executor."""
    settings |= {"spark.scheduler.maxRegisteredResourcesWaitingTime": "5s"}
    made.start(run, executor={"instances": 1, "nodeSelector": {label: "here"}}, sparkConf=settings)
    waiting = wait_until(lambda: made.pods(run, "executor"), "an executor that waits for a node")
    assert waiting[0]["status"]["phase"] == "Pending"
    variables = waiting[0]["spec"]["containers"][0]["env"]
    return {entry["name"]: entry["value"] for entry in variables if "value" in entry}


def attack(made: Installed, environment: dict[str, str], *, secret: str = "") -> None:
    """Start the program of an executor in a pod of the namespace, with a driver's address but not its secret."""
    options = [value for name, value in sorted(environment.items()) if name.startswith("SPARK_JAVA_OPT_")]
    options = [option for option in options if not option.startswith(tuple(f"-D{key}=" for key in SETTINGS))]
    if secret:
        options += [f"-D{key}={value}" for key, value in SETTINGS.items()]
    command = ["java", *options, "-cp", "/opt/spark/jars/*:/opt/ctbasis/jars/*", BACKEND]
    command += ["--driver-url", environment["SPARK_DRIVER_URL"], "--app-id", environment["SPARK_APPLICATION_ID"]]
    command += ["--executor-id", "666", "--cores", "1", "--hostname", "$(POD_IP)", "--bind-address", "$(POD_IP)"]
    variables: list[dict[str, Any]] = [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "SPARK_USER", "value": "spark"},
        {"name": "SPARK_LOCAL_DIRS", "value": "/tmp"},  # noqa: S108 - a mount of the pod
        {"name": "_SPARK_AUTH_SECRET", "value": secret},
    ]
    container = hardened(SPARK_IMAGE, name="main", command=command, env=variables)
    intruder = pod(ATTACKER, container, restartPolicy="Never", securityContext={"runAsUser": 185})
    made.kubectl("delete", "pod", ATTACKER, "--ignore-not-found")
    made.kubectl("create", "--filename=-", given=json.dumps(intruder))


def attackers_log(made: Installed) -> str:
    found = made.find("pod", ATTACKER)
    started = found is not None and found["status"]["phase"] != "Pending"
    return made.kubectl("logs", ATTACKER) if started else ""


def attacker_has_ended(made: Installed) -> bool:
    found = made.find("pod", ATTACKER)
    return found is not None and found["status"]["phase"] in {"Failed", "Succeeded"}


REGISTERED, TASK = "Successfully registered with driver", "Got assigned task"
"""What the program of an executor logs when the driver has registered it, and when the driver sends it work."""


def test_without_the_settings_a_pod_of_the_namespace_is_given_the_tasks_of_a_run(made: Installed, label: str) -> None:
    # The reverse of the next test: it shows that the attack works.
    run = "svd-open"
    attack(made, start_without_executors(made, run, label, **OPEN))
    wait_until(lambda: TASK in attackers_log(made) or attacker_has_ended(made), "the attacker is given a task", 300)
    assert REGISTERED in attackers_log(made)
    assert TASK in attackers_log(made)
    made.kubectl("delete", "sparkapplication", run)


@pytest.mark.parametrize("secret", ["", "guessed"], ids=["without a secret", "with another secret"])
def test_a_pod_that_does_not_know_the_secret_is_refused_and_the_run_succeeds(
    secret: str, made: Installed, label: str
) -> None:
    run = f"svd-attacked-{secret or 'plain'}"
    environment = start_without_executors(made, run, label)
    assert len(environment["_SPARK_AUTH_SECRET"]) >= 32, "Spark draws a secret for the application"
    attack(made, environment, secret=secret)
    wait_until(lambda: attacker_has_ended(made), "the attacker ends", 300)
    assert made.get("pod", ATTACKER)["status"]["phase"] == "Failed"
    log = attackers_log(made)
    # It reached the driver, which closed the connection. Which of the two then fails first, the next message or the
    # answer, is a matter of time.
    assert ("Exception while bootstrapping client" if secret else "Successfully created connection to") in log, log
    assert REGISTERED not in log
    assert TASK not in log
    (node, *_) = kubectl("get", "nodes", "--output=name").split()
    kubectl("label", node, f"{label}=here")
    try:
        made.wait_until_completed(run)
    finally:
        kubectl("label", node, f"{label}-")
