"""The stand-ins for Kubeflow's API server, compiler, driver and launcher, as far as no cluster is needed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from ctbasis.installed import LAYOUT
from pipeline.cohort import PARALLELISM
from tests.e2e import kfp_driver, kfp_launcher
from tests.e2e.kfp_compiler import UnknownToThisCompilerError, WorkflowCompiler
from tests.e2e.kfp_driver import WORKSPACE_PATH, Records, UnknownToThisDriverError, parsed, pod_patch
from tests.e2e.kfp_namespace import small_package
from tests.e2e.kfp_package import Package
from tests.e2e.kfp_run import retried, task_of

if TYPE_CHECKING:
    from pathlib import Path


def svd_pod(package: Package, bucket: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the pod patch of the svd step and the executor input of its launcher."""
    task = package.steps()["svd"]
    component = package.component(task["componentRef"]["name"])
    declared = package.component("root")["inputDefinitions"]["parameters"]
    values = {f"pipelinechannel--{name}": spec.get("defaultValue") for name, spec in declared.items()}
    records = Records("1", bucket)
    graph = records.create({"task": "group", "parent": 0, "state": "RUNNING", "inputs": {"parameterValues": values}})
    done = {"parameters": {"matrix": f"{WORKSPACE_PATH}/matrix.zarr"}, "artifacts": {}}
    records.create({"task": "matrix", "parent": graph, "state": "COMPLETE", **done})
    flags = {
        "run_id": "1",
        "run_name": "run-1",
        "pipeline_name": package.name,
        "task_name": "svd",
        "dag_execution_id": str(graph),
        "task": json.dumps(task),
        "component": json.dumps(component),
        "container": json.dumps(package.container(component)),
        "kubernetes_config": json.dumps(package.kubernetes(component)),
    }
    options = parsed([part for flag, value in flags.items() for part in (f"--{flag}", value)])
    given = {"inputs": kfp_driver.inputs(options, records), "outputs": kfp_driver.outputs(options)}
    patch = pod_patch(options, given, 3)
    command = patch["containers"][0]["command"]
    return patch, json.loads(command[command.index("--executor_input") + 1])


def test_the_resources_of_the_svd_task_apply_to_its_application_and_not_to_its_pod(tmp_path: Path) -> None:
    patch, given = svd_pod(Package.read(), tmp_path)
    (main,) = patch["containers"]
    task_config = given["inputs"]["parameterValues"]["task_config"]
    assert main["resources"] == {}
    assert task_config["resources"]["limits"] == {"cpu": "1", "memory": "4Gi"}
    secrets = [entry["valueFrom"]["secretKeyRef"]["name"] for entry in task_config["env"]]
    assert set(secrets) == {"ctbasis-s3"}
    (volume,) = task_config["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == "run-1-kfp-workspace"
    assert {"name": volume["name"], "mountPath": WORKSPACE_PATH} in main["volumeMounts"], "and to both"
    assert main["env"][-1]["name"] == task_config["env"][-1]["name"]


def test_a_feature_of_kfp_that_the_stand_ins_lack_is_refused(tmp_path: Path) -> None:
    package = Package.read()
    package.platform["deploymentSpec"]["executors"]["exec-svd"]["podMetadata"] = {"labels": {"a": "b"}}
    with pytest.raises(UnknownToThisDriverError, match="podMetadata"):
        svd_pod(package, tmp_path)
    package.steps()["svd"]["artifactIterator"] = {}
    with pytest.raises(UnknownToThisCompilerError, match="svd is a loop over artifacts"):
        WorkflowCompiler(package, {}, "1", image="image").workflow()


def test_a_shortened_package_keeps_the_tasks_that_its_last_task_depends_on() -> None:
    assert set(small_package(until="svd").steps()) == {"fetch", "matrix", "svd"}


def test_each_step_is_a_driver_and_a_pod_and_the_exit_handler_is_a_hook_of_the_group_before_it() -> None:
    package = Package.read()
    workflow = WorkflowCompiler(package, {"source": "s3://bucket/series"}, "the-id", image="image").workflow()
    templates = {one["name"]: one for one in workflow["spec"]["templates"]}
    (group,) = (one for one in templates["root"]["dag"]["tasks"] if "hooks" in one)
    hook = templates[group["hooks"]["exit"]["template"]]
    assert [one["name"] for one in hook["dag"]["tasks"]] == ["cleanup-driver", "cleanup"]
    tasks = {one["name"]: one for one in templates[group["template"]]["dag"]["tasks"]}
    assert set(tasks) == {name for step in package.steps() for name in (step, f"{step}-driver")}
    assert tasks["svd"]["depends"] == "svd-driver.Succeeded"
    assert tasks["report-driver"]["depends"] == "matrix.Succeeded && svd.Succeeded"
    strategies = {name: one["retryStrategy"] for name, one in templates.items() if "retryStrategy" in one}
    assert set(strategies) == {"retry-system-container-impl"}
    assert "retryPolicy" not in strategies["retry-system-container-impl"], "KFP's compiler writes none"
    (claim,) = workflow["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"]["storage"] == package.platform["pipelineConfig"]["workspace"]["size"]
    assert workflow["spec"]["podMetadata"]["labels"]["pipeline/runid"] == "the-id"
    assert "{{workflow.uid}}" not in json.dumps(workflow)


def test_a_loop_is_a_driver_that_counts_and_a_graph_for_each_item_with_a_limit() -> None:
    package = Package.read(LAYOUT.compiled_cohort)
    workflow = WorkflowCompiler(
        package, {"source": "s3://b/ct", "out": "s3://b/out"}, "the-id", image="image"
    ).workflow()
    templates = {one["name"]: one for one in workflow["spec"]["templates"]}
    (name,) = (one for one in templates if one.endswith("-iterator"))
    driver, iterations = templates[name]["dag"]["tasks"]
    assert templates[name]["parallelism"] == PARALLELISM
    assert driver["template"] == "system-dag-driver"
    assert iterations["withSequence"] == {"count": "{{tasks.iteration-driver.outputs.parameters.iteration-count}}"}
    item_driver, item = templates[iterations["template"]]["dag"]["tasks"]
    given = {one["name"]: one["value"] for one in item_driver["arguments"]["parameters"]}
    assert given["iteration-index"] == "{{inputs.parameters.iteration-index}}"
    assert {one["name"] for one in templates[item["template"]]["dag"]["tasks"]} >= {"fetch", "publish"}
    group = next(one for one in templates.values() if any(task["template"] == name for task in _tasks(one)))
    after = {task["name"]: task.get("depends", "") for task in _tasks(group)}
    loop = next(task["name"] for task in _tasks(group) if task["template"] == name)
    assert after["summary-driver"] == f"{loop}.Succeeded"


def _tasks(template: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = template.get("dag", {}).get("tasks", [])
    return found


def test_the_steps_of_an_item_get_its_fields_and_the_task_after_the_loop_gets_all_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kfp_launcher, "BUCKET", tmp_path)
    package = Package.read(LAYOUT.compiled_cohort)
    tasks = {name: task for _, graph in package.graphs() for name, task in graph["dag"]["tasks"].items()}
    loop = next(name for name, task in tasks.items() if "parameterIterator" in task)
    records = Records("1", tmp_path)
    values = {f"pipelinechannel--{name}": 0 for name in package.component("root")["inputDefinitions"]["parameters"]}
    group = records.create({"task": "group", "parent": 0, "inputs": {"parameterValues": values}, "total_dag_tasks": 3})
    jobs = [{"source": f"s{n}", "workspace": f"{WORKSPACE_PATH}/jobs/{n}", "run": f"r{n}"} for n in range(2)]
    done = {"parameters": {"Output": jobs}, "state": "COMPLETE"}
    records.create({"task": "inventory", "parent": group, **done})

    def drive(name: str, parent: int, **flags: str) -> dict[str, Any]:
        component = package.component(tasks[name]["componentRef"]["name"])
        given = {"run_id": "1", "task_name": name, "dag_execution_id": str(parent), "task": json.dumps(tasks[name])}
        given |= {"component": json.dumps(component), "execution_id_path": str(tmp_path / "id"), **flags}
        given |= {"condition_path": str(tmp_path / "condition"), "iteration_count_path": str(tmp_path / "count")}
        kfp_driver.main([part for flag, value in given.items() for part in (f"--{flag}", value)])
        return records.read(int((tmp_path / "id").read_text()))

    monkeypatch.setattr(kfp_driver, "Records", lambda _: records)
    around = drive(loop, group, type="DAG")
    assert (tmp_path / "count").read_text() == "2"
    for number in (1, 0):
        item = drive(loop, around["id"], type="DAG", iteration_index=str(number))
        options = parsed(["--run_id", "1", "--task_name", "publish", "--dag_execution_id", str(item["id"])])
        options.task, options.component = tasks["publish"], package.component("comp-publish")
        options.task = {**options.task, "inputs": {"parameters": {"workspace": _workspace(tasks["publish"])}}}
        options.component = {"inputDefinitions": {"parameters": {"workspace": {"parameterType": "STRING"}}}}
        given = kfp_driver.inputs(options, records)
        assert given["parameterValues"] == {"workspace": f"{WORKSPACE_PATH}/jobs/{number}"}
        records.create({"task": "publish", "parent": item["id"], "state": "RUNNING"})
        for step in range(5):
            records.create({"task": f"step {step}", "parent": item["id"], "state": "COMPLETE"})
        number_of_publish = records.tasks(item["id"])["publish"]["id"]
        output = {"parameters": {"Output": f"job {number}"}, "state": "COMPLETE"}
        kfp_launcher.publish(records.folder, number_of_publish, output)
    assert records.read(around["id"])["state"] == "COMPLETE", "when the steps of all items are"
    options = parsed(["--run_id", "1", "--task_name", "summary", "--dag_execution_id", str(group)])
    options.task = {"inputs": {"parameters": {"jobs": tasks["summary"]["inputs"]["parameters"]["jobs"]}}}
    options.component = {"inputDefinitions": {"parameters": {"jobs": {"parameterType": "LIST"}}}}
    assert kfp_driver.inputs(options, records)["parameterValues"] == {"jobs": ["job 0", "job 1"]}


def _workspace(task: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = task["inputs"]["parameters"]["workspace"]
    return found


def test_a_failed_step_makes_its_group_failed_and_a_step_that_was_stopped_leaves_it_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kfp_launcher, "BUCKET", tmp_path)
    records = Records("1", tmp_path)
    graph = records.create({"task": "group", "parent": 0, "state": "RUNNING", "total_dag_tasks": 2})
    for task in ("fetch", "svd"):
        records.create({"task": task, "parent": graph, "state": "RUNNING"})
    assert records.read(graph)["state"] == "RUNNING"
    for state, together in (("FAILED", "FAILED"), ("COMPLETE", "FAILED")):
        kfp_launcher.publish(records.folder, 3, {"state": state})
        assert records.read(graph)["state"] == together, "no state is set while a task runs"
    kfp_launcher.publish(records.folder, 2, {"state": "COMPLETE"})
    assert records.read(graph)["state"] == "COMPLETE", "as after a retry"


def test_a_retried_workflow_keeps_what_succeeded_and_the_exit_handler_that_ran() -> None:
    def node(name: str, kind: str, phase: str, *children: str) -> dict[str, Any]:
        return {"id": f"w-{name}", "name": name, "type": kind, "phase": phase, "templateName": "t"} | {
            "children": [f"w-{one}" for one in children]
        }

    nodes = [
        node("w", "DAG", "Failed", "w.fetch", "w.svd"),
        node("w.fetch", "Pod", "Succeeded"),
        node("w.svd", "Pod", "Failed"),
        node("w.group.onExit", "DAG", "Succeeded"),
    ]
    metadata = {"name": "w", "labels": {"workflows.argoproj.io/completed": "true"}}
    status = {"phase": "Failed", "nodes": {one["id"]: one for one in nodes}}
    made, pods = retried({"metadata": metadata, "spec": {"activeDeadlineSeconds": 0}, "status": status})
    assert {name: one["phase"] for name, one in made["status"]["nodes"].items()} == {
        "w-w": "Running",
        "w-w.fetch": "Succeeded",
        "w-w.group.onExit": "Succeeded",
    }
    assert made["status"]["nodes"]["w-w"]["children"] == ["w-w.fetch"]
    assert "activeDeadlineSeconds" not in made["spec"]
    assert len(pods) == 1
    assert "workflows.argoproj.io/completed" not in made["metadata"]["labels"]


def test_the_pods_of_a_run_are_told_by_the_names_of_their_nodes() -> None:
    assert task_of("w.root(0).group(0).svd(0).executor(1)") == "svd"
    assert task_of("w.root(0).group.onExit(0).cleanup(0).executor(0)") == "cleanup"
    assert task_of("w.root-driver(0)") == "root-driver"
