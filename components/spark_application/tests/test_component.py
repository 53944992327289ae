"""The component as a pipeline uses it. The API server is a stand-in; the launch itself has its tests in tests/spark."""

from __future__ import annotations

import copy
import os
import re
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kfp import compiler, dsl, local

from components.spark_application import spark_application
from components.spark_application.example_pipelines import PI, spark_pi, spark_pi_guarded
from ctbasis.jobs.launcher import end
from ctbasis.jobs.pod import POD_NAME
from ctbasis.jobs.spark_application import SparkApplication
from ctbasis.kubeflow.lint import lint
from ctbasis.spark.launch import application_name
from tests.jobs.api_server_stand_in import APPLICATIONS, NAMESPACE, PODS, ApiServerStandIn
from tests.jobs.conftest import server
from tests.jobs.made_pods import pod

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["server"]

HERE = Path(__file__).parents[1]
RUN = "0f0c1d9e-run"
NAME = application_name(RUN, "pi")
DRIVER = f"{NAME}-driver"


class Outputs:
    """What Kubeflow gives the component to write to, and what it wrote."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "outputs" / "driver_log"
        self.metrics: dict[str, float] = {}
        self.returned: tuple[str, str] = ("", "")

    def log_metric(self, name: str, value: float) -> None:
        self.metrics[name] = value

    def run(self, **inputs: Any) -> None:
        given = {"manifest": PI, "manifest_yaml": "", "parameters": {"partitions": "16"}, "on_stop": "leave"}
        self.returned = spark_application.python_func(
            **{**given, "run": RUN, "task_config": dsl.TaskConfig(), **inputs},
            driver_log=SimpleNamespace(path=str(self.log)),
            metrics=self,
        )


@pytest.fixture
def outputs(tmp_path: Path, server: ApiServerStandIn, monkeypatch: pytest.MonkeyPatch) -> Outputs:
    monkeypatch.setattr("ctbasis.jobs.api_server.ApiServer.connect", server.api_server)
    monkeypatch.delenv(POD_NAME, raising=False)
    return Outputs(tmp_path)


def play(server: ApiServerStandIn, act: Callable[[], None]) -> None:
    """Act as the operator once the application exists, while the component runs in the main thread."""

    def played() -> None:
        server.until(lambda: NAME in server.names(APPLICATIONS))
        act()

    threading.Thread(target=played, daemon=True).start()


def succeed(server: ApiServerStandIn) -> None:
    existing = server.get(APPLICATIONS, NAME)
    assert existing is not None
    existing["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    server.put(APPLICATIONS, existing)
    driver_ends(server, 0, "Pi is roughly 3.14")
    server.state(
        NAME,
        "COMPLETED",
        submissionAttempts=1,
        executionAttempts=2,
        executorState={"one": "COMPLETED", "two": "COMPLETED"},
        lastSubmissionAttemptTime="2026-01-01T00:00:10Z",
        terminationTime="2026-01-01T00:01:40Z",
    )


def uid(server: ApiServerStandIn) -> str:
    """Return the uid of the application; empty while there is none."""
    existing = server.get(APPLICATIONS, NAME)
    return str(existing["metadata"]["uid"]) if existing else ""


def driver_ends(server: ApiServerStandIn, code: int, *lines: str) -> None:
    server.write(DRIVER, *lines, ended=True)
    end = {"exitCode": code, "reason": "Error" if code else "Completed", "finishedAt": "2026-01-01T00:00:00Z"}
    status = [{"name": "spark-kubernetes-driver", "state": {"terminated": end}}]
    driver = pod(name=DRIVER, phase="Failed" if code else "Succeeded", containerStatuses=status)
    driver["metadata"]["labels"]["sparkoperator.k8s.io/app-name"] = NAME
    server.put(PODS, driver)


def test_an_application_succeeds_with_its_name_state_log_and_metrics(
    server: ApiServerStandIn, outputs: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    play(server, lambda: succeed(server))
    outputs.run()
    assert outputs.returned == (NAME, "COMPLETED")
    assert outputs.log.read_text() == "Pi is roughly 3.14\n"
    assert "Pi is roughly 3.14" in capsys.readouterr().err
    assert outputs.metrics == {
        "submission_attempts": 1.0,
        "execution_attempts": 2.0,
        "executors": 2.0,
        "wait_seconds": 10.0,
        "run_seconds": 90.0,
    }
    created = server.get(APPLICATIONS, NAME)
    assert created is not None
    assert created["spec"]["arguments"] == ["16"]
    assert created["spec"]["image"] == PI["spec"]["image"]  # type: ignore[index]


def test_a_failure_prints_its_reasons_and_exits_with_2(
    server: ApiServerStandIn, outputs: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        driver_ends(server, 1, "Traceback", "ZeroDivisionError")
        server.state(NAME, "FAILED", "driver container failed")

    play(server, fail)
    with pytest.raises(SystemExit) as ended:
        outputs.run()
    assert ended.value.code == 2
    log = capsys.readouterr().err
    assert f"ctbasis: the SparkApplication {NAME} failed: driver container failed; driver: Error (exit code 1)" in log
    assert "| ZeroDivisionError" in log
    assert outputs.metrics == {}


def test_a_second_try_adopts_the_application_unless_its_specification_has_changed(
    server: ApiServerStandIn, outputs: Outputs, capsys: pytest.CaptureFixture[str]
) -> None:
    play(server, lambda: succeed(server))
    outputs.run()
    outputs.run()
    assert "adopted from an earlier attempt" in capsys.readouterr().err
    first = uid(server)
    larger = copy.deepcopy(PI)
    larger["spec"]["executor"]["memory"] = "1g"  # type: ignore[index]

    def succeed_again() -> None:
        server.until(lambda: uid(server) not in {"", first})
        succeed(server)

    play(server, succeed_again)
    outputs.run(manifest=larger)
    assert "which had another specification" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("on_stop", "drained", "left"), [("delete", True, []), ("leave", True, [NAME]), ("leave", False, [])]
)
def test_a_drained_task_leaves_or_deletes_its_application_and_a_terminated_one_deletes_it(
    server: ApiServerStandIn,
    outputs: Outputs,
    monkeypatch: pytest.MonkeyPatch,
    *,
    on_stop: str,
    drained: bool,
    left: list[str],
) -> None:
    monkeypatch.setenv(POD_NAME, "step")
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "w", "uid": "5"}
    step = {"name": "step", "ownerReferences": [owner]}
    server.put(PODS, {"metadata": dict(step)})

    def stop() -> None:
        server.state(NAME, "RUNNING")
        server.until_watched(PODS)
        if drained:
            server.put(PODS, {"metadata": {**step, "deletionTimestamp": "2026-01-01T00:00:30Z"}})
        os.kill(os.getpid(), signal.SIGTERM)

    play(server, stop)
    with pytest.raises(SystemExit) as ended:
        outputs.run(on_stop=on_stop)
    assert ended.value.code == 128 + signal.SIGTERM
    assert server.names(APPLICATIONS) == left
    # The exit handler of the second example ends what is left.
    assert end(SparkApplication, application_name(RUN, "pi"), server=server.api_server()) is bool(left)
    assert server.names(APPLICATIONS) == []


def test_the_configuration_of_the_task_applies_to_driver_and_executors(
    server: ApiServerStandIn, outputs: Outputs
) -> None:
    config = dsl.TaskConfig(
        env=[{"name": "DAY", "value": "1"}],
        node_selector={"pool": "spark"},
        resources={"limits": {"cpu": "2", "memory": "7Gi"}},
    )
    play(server, lambda: succeed(server))
    outputs.run(task_config=config)
    created = server.get(APPLICATIONS, NAME)
    assert created is not None
    for role in ("driver", "executor"):
        assert created["spec"][role]["env"] == [{"name": "DAY", "value": "1"}]
        assert created["spec"][role]["nodeSelector"] == {"pool": "spark"}
        assert created["spec"][role]["cores"] == 2


def test_the_component_runs_in_kfps_own_executor(
    server: ApiServerStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = {"server": server.api_server()._api.configuration.host}
    context = {"cluster": "c", "user": "u", "namespace": NAMESPACE}
    kubeconfig = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "x",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "token"}}],
        "contexts": [{"name": "x", "context": context}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubeconfig))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("PYTHONPATH", str(HERE.parents[1]))
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(tmp_path / "outputs"))
    play(server, lambda: succeed(server))
    with pytest.warns(RuntimeWarning, match="attemping to run a task"):
        task = spark_application(manifest=PI, parameters={"partitions": 16}, run=RUN)
    assert (task.outputs["name"], task.outputs["state"]) == (NAME, "COMPLETED")
    assert Path(task.outputs["driver_log"].path).read_text() == "Pi is roughly 3.14\n"
    assert task.outputs["metrics"].metadata["run_seconds"] == 90


@pytest.mark.parametrize("pipeline", [spark_pi, spark_pi_guarded], ids=lambda pipeline: str(pipeline.name))
def test_an_example_compiles_to_a_package_without_a_fault(pipeline: Any, tmp_path: Path) -> None:
    compiler.Compiler().compile(pipeline, str(tmp_path / "package.yaml"))
    assert lint([tmp_path / "package.yaml"]) == []
    spec = next(yaml.safe_load_all((tmp_path / "package.yaml").read_text()))
    passed = spec["components"]["comp-spark-application"]["taskConfigPassthroughs"]
    assert {one["field"] for one in passed} == {
        *("KUBERNETES_VOLUMES", "ENV", "KUBERNETES_AFFINITY", "KUBERNETES_TOLERATIONS", "KUBERNETES_NODE_SELECTOR"),
        "RESOURCES",
    }


def table(heading: str) -> set[str]:
    """Return the names in the first column of a table of the README."""
    section = (HERE / "README.md").read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))


def test_the_readme_lists_every_input_and_output() -> None:
    spec = spark_application.component_spec
    assert table("Inputs") == set(spec.inputs) - {"task_config"}
    assert table("Outputs") == set(spec.outputs)


def test_the_metadata_has_the_fields_of_the_catalogue_in_their_order() -> None:
    metadata = yaml.safe_load((HERE / "metadata.yaml").read_text(encoding="utf-8"))
    assert list(metadata) == ["name", "stability", "dependencies", "tags", "lastVerified", "links"]
    assert metadata["name"] == HERE.name == spark_application.name.replace("-", "_")
    assert metadata["stability"] in {"experimental", "alpha", "beta", "stable"}
    assert {one["name"] for one in metadata["dependencies"]["kubeflow"]} == {"Pipelines", "Spark Operator"}
    owners = yaml.safe_load((HERE / "OWNERS").read_text(encoding="utf-8"))
    assert set(owners) == {"approvers", "reviewers"}
