#!/usr/bin/env python3
"""KFP's driver: the program of the driver pods of a run, with ML Metadata as files on a claim.

A driver pod runs before each graph and before each step of a Workflow. It resolves the inputs of its task from the
records of the tasks before it, writes a record of its own, and gives Argo what it decided: the id of the record, or the
patch of the step's pod. The flags, the files and the decisions are those of KFP 2.17.0
(backend/src/v2/driver/{root_dag,dag,container,driver,k8s,resolve}.go).

It refuses what it does not implement (loops over artifacts, conditions, caches, most keys of the platform document), so
that a package that uses one of these fails here and not silently. The program needs Python's standard library only.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import uuid
from pathlib import Path

BUCKET = Path("/kfp-artifacts")
PIPELINE_ROOT = "minio://mlpipeline/v2/artifacts"
"""KFP's default; the launcher stores the objects below it in BUCKET."""

LAUNCHER = "/kfp-launcher/launch"
WORKSPACE, WORKSPACE_PATH = "kfp-workspace", "/kfp-workspace"

PASSED_THROUGH = (
    *("RESOURCES", "ENV", "KUBERNETES_AFFINITY", "KUBERNETES_TOLERATIONS"),
    *("KUBERNETES_NODE_SELECTOR", "KUBERNETES_VOLUMES"),
)
KNOWN_PLATFORM = {
    *("secretAsEnv", "imagePullPolicy", "imagePullSecret", "nodeSelector", "tolerations", "securityContext"),
    *("emptyDirMounts", "activeDeadlineSeconds"),
}
RESOURCES = {
    ("limits", "memory"): "resourceMemoryLimit",
    ("requests", "memory"): "resourceMemoryRequest",
    ("limits", "cpu"): "resourceCpuLimit",
    ("requests", "cpu"): "resourceCpuRequest",
}


class UnknownToThisDriverError(NotImplementedError):
    """The package uses a feature of KFP that this program does not implement."""


class Records:
    """The executions of a run, a JSON file each: what ML Metadata holds of it."""

    def __init__(self, run_id: str, bucket: Path = BUCKET) -> None:
        self.folder = bucket / "executions" / run_id

    def create(self, record: dict) -> int:
        """Write a record under the next free number, and return the number."""
        self.folder.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            try:
                with (self.folder / f"{number}.json").open("x") as file:
                    json.dump({"id": number, **record}, file)
            except FileExistsError:
                number += 1
            else:
                return number

    def read(self, number: int) -> dict:
        return json.loads((self.folder / f"{number}.json").read_text())

    def tasks(self, graph: int, *, by_iteration: bool = False) -> dict:
        """Return the latest record of each task of a graph, by name; of a loop by the number of its item."""
        records = sorted(
            (json.loads(path.read_text()) for path in self.folder.glob("*.json")), key=lambda one: one["id"]
        )
        key = "iteration" if by_iteration else "task"
        return {one[key]: one for one in records if one["parent"] == graph}


def inputs(options: argparse.Namespace, records: Records) -> dict:
    """Resolve the inputs of a task (resolve.go: resolveInputs)."""
    task, declared = options.task, options.component.get("inputDefinitions", {}).get("parameters", {})
    if "artifactIterator" in task or task.get("triggerPolicy", {}).get("condition"):
        raise UnknownToThisDriverError(f"task {options.task_name} is a loop over artifacts or has a condition")
    if options.iteration_index >= 0:
        # The graph around is the loop, which has the inputs already; this is one item of it.
        values = dict(records.read(options.dag_execution_id)["inputs"]["parameterValues"])
        values[task["parameterIterator"]["itemInput"]] = items(task, values)[options.iteration_index]
        return {"parameterValues": values, "artifacts": {}}
    values = {}
    for name, spec in task.get("inputs", {}).get("parameters", {}).items():
        if declared.get(name, {}).get("parameterType") == "TASK_CONFIG":
            continue
        value = _parameter(spec, options, records)
        values[name] = _as_type(value, declared[name]["parameterType"]) if name in declared else value
    item = task.get("parameterIterator", {}).get("itemInput")
    for name, spec in declared.items():
        if name not in values and not spec.get("isOptional") and name != item:
            raise ValueError(f"neither value nor default value for parameter {name!r} of {options.task_name}")
    artifacts = {
        name: {"artifacts": [_artifact(spec, options, records)]}
        for name, spec in task.get("inputs", {}).get("artifacts", {}).items()
    }
    return {"parameterValues": values, "artifacts": artifacts}


def items(task: dict, values: dict) -> list:
    """Return the items of a loop, from the inputs of its graph."""
    found = values[task["parameterIterator"]["items"]["inputParameter"]]
    return json.loads(found) if isinstance(found, str) else found


def _parameter(spec: dict, options: argparse.Namespace, records: Records) -> object:
    if "componentInputParameter" in spec:
        value = records.read(options.dag_execution_id)["inputs"]["parameterValues"][spec["componentInputParameter"]]
        return _selected(value, spec.get("parameterExpressionSelector", ""))
    if "taskOutputParameter" in spec:
        output = spec["taskOutputParameter"]
        producer = records.tasks(options.dag_execution_id)[output["producerTask"]]
        return _output_of(producer, output["outputParameterKey"], records)
    if "taskFinalStatus" in spec:
        producer = records.tasks(options.dag_execution_id)[options.task["dependentTasks"][0]]
        return {
            "state": producer["state"],
            "pipelineTaskName": producer["task"],
            "pipelineJobResourceName": options.run_name,
            "error": {},
        }
    constant = spec["runtimeValue"]["constant"]
    if isinstance(constant, str):
        constant = constant.replace("{{$.workspace_path}}", WORKSPACE_PATH)
        known = {
            "{{$.pipeline_job_uuid}}": options.run_id,
            "{{$.pipeline_job_resource_name}}": options.run_name,
            "{{$.pipeline_job_name}}": options.run_display_name,
            "{{$.pipeline_task_name}}": options.task_name,
        }
        constant = known.get(constant, constant)
        if "{{$" in constant:
            raise UnknownToThisDriverError(f"placeholder {constant}")
    return constant


def _selected(value: object, selector: str) -> object:
    """Return the field of a JSON object that an expression of the compiler selects."""
    if not selector:
        return value
    field = re.fullmatch(r'parseJson\(string_value\)\["([^"]+)"\]', selector)
    if field is None:
        raise UnknownToThisDriverError(f"expression {selector}")
    return (json.loads(value) if isinstance(value, str) else value)[field[1]]


def _output_of(producer: dict, key: str, records: Records) -> object:
    """Return an output parameter of a task; of a graph that of a task in it, of a loop those of all its items."""
    if "iteration_count" in producer:
        latest = records.tasks(producer["id"], by_iteration=True)
        return [_output_of(latest[number], key, records) for number in range(producer["iteration_count"])]
    if "dag_outputs" in producer:
        inner = producer["dag_outputs"][key]["valueFromParameter"]
        task = records.tasks(producer["id"])[inner["producerSubtask"]]
        return _output_of(task, inner["outputParameterKey"], records)
    return producer["parameters"][key]


def _artifact(spec: dict, options: argparse.Namespace, records: Records) -> dict:
    output = spec.get("taskOutputArtifact")
    if output is None:
        raise UnknownToThisDriverError(f"artifact input {spec}")
    producer = records.tasks(options.dag_execution_id)[output["producerTask"]]
    return producer["artifacts"][output["outputArtifactKey"]]


def _as_type(value: object, kind: str) -> object:
    """Return a parameter, checked and converted as by the driver; protobuf writes whole numbers without a point."""
    if kind == "STRING" and not isinstance(value, str):
        return json.dumps(value)
    if kind == "NUMBER_INTEGER":
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
            raise TypeError(f"expected {kind}, got {value!r}")
        return int(value)
    return value


def outputs(options: argparse.Namespace) -> dict:
    """Provision the outputs (driver.go: provisionOutputs)."""
    definitions = options.component.get("outputDefinitions", {})
    root = f"{PIPELINE_ROOT}/{options.pipeline_name}/{options.run_id}/{options.task_name}/{uuid.uuid4()}"
    return {
        "parameters": {
            name: {"outputFile": f"/tmp/kfp/outputs/{name}"}  # noqa: S108 - KFP's own path
            for name in definitions.get("parameters", {})
        },
        "artifacts": {
            name: {"artifacts": [{"name": name, "uri": f"{root}/{name}", "type": spec["artifactType"]}]}
            for name, spec in definitions.get("artifacts", {}).items()
        },
        "outputFile": f"/minio/{root.removeprefix('minio://')}/output_metadata.json",
    }


def pod_patch(options: argparse.Namespace, given: dict, number: int) -> dict:
    """Return the patch of the step's pod (driver.go: initPodSpecPatch, k8s.go: extendPodSpecPatch).

    Args:
        options: The flags.
        given: The executor input; the TaskConfig is filled in.
        number: Number of the step's record.
    """
    patch, task_config = _patch(options, given)
    for name, spec in options.component.get("inputDefinitions", {}).get("parameters", {}).items():
        if spec["parameterType"] == "TASK_CONFIG":
            given["inputs"]["parameterValues"][name] = task_config
    patch["containers"][0] |= {
        "command": [
            *(LAUNCHER, "--pipeline_name", options.pipeline_name, "--run_id", options.run_id),
            *("--execution_id", str(number), "--executor_input", json.dumps(given)),
            *("--component_spec", json.dumps(options.component)),
            *("--pod_name", "$(KFP_POD_NAME)", "--pod_uid", "$(KFP_POD_UID)", "--"),
        ],
        "args": [*options.container["command"], *options.container["args"]],
    }
    return patch


def _patch(options: argparse.Namespace, given: dict) -> tuple:
    """Return the pod patch without its command, and the TaskConfig: each field is in one, both, or neither."""
    kubernetes, container = options.kubernetes_config, options.container
    if unknown := set(kubernetes) - KNOWN_PLATFORM:
        raise UnknownToThisDriverError(f"platform keys {sorted(unknown)}")
    passed, on_pod = _passthroughs(options.component)
    env = [*container.get("env", []), *_secrets(kubernetes)]
    volumes, mounts = [], []
    if _needs_workspace(given["inputs"]):
        claim = f"{options.run_name}-{WORKSPACE}"
        volumes.append({"name": WORKSPACE, "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": WORKSPACE, "mountPath": WORKSPACE_PATH})
    # These, and a deadline, are never passed through.
    own = kubernetes.get("emptyDirMounts", [])
    resources = _resources(container)
    selector = (kubernetes.get("nodeSelector") or {}).get("labels")
    tolerations = kubernetes.get("tolerations")
    main = {
        "name": "main",
        "image": container["image"],
        "env": env if on_pod["ENV"] else [],
        "resources": resources if on_pod["RESOURCES"] else {},
        "volumeMounts": [
            *(mounts if on_pod["KUBERNETES_VOLUMES"] else []),
            *({"name": one["volumeName"], "mountPath": one["mountPath"]} for one in own),
        ],
        "securityContext": _security_context(kubernetes.get("securityContext")),
    }
    if "imagePullPolicy" in kubernetes:
        main["imagePullPolicy"] = kubernetes["imagePullPolicy"]
    patch = {
        "containers": [main],
        "volumes": [*(volumes if on_pod["KUBERNETES_VOLUMES"] else []), *map(_empty_dir, own)],
    }
    if "imagePullSecret" in kubernetes:
        patch["imagePullSecrets"] = [{"name": _name(one)} for one in kubernetes["imagePullSecret"]]
    if "activeDeadlineSeconds" in kubernetes:
        patch["activeDeadlineSeconds"] = int(kubernetes["activeDeadlineSeconds"])
    if selector and on_pod["KUBERNETES_NODE_SELECTOR"]:
        patch["nodeSelector"] = selector
    if tolerations and on_pod["KUBERNETES_TOLERATIONS"]:
        patch["tolerations"] = tolerations
    task_config = {
        "affinity": None,
        "tolerations": tolerations if passed["KUBERNETES_TOLERATIONS"] else None,
        "nodeSelector": selector if passed["KUBERNETES_NODE_SELECTOR"] else None,
        "env": env if passed["ENV"] else None,
        "volumes": volumes if passed["KUBERNETES_VOLUMES"] and volumes else None,
        "volumeMounts": mounts if passed["KUBERNETES_VOLUMES"] and mounts else None,
        "resources": resources if passed["RESOURCES"] else {},
    }
    return patch, task_config


def _secrets(kubernetes: dict) -> list:
    found = []
    for secret in kubernetes.get("secretAsEnv", []):
        for key in secret["keyToEnv"]:
            selector = {"name": _name(secret), "key": key["secretKey"]}
            if "optional" in secret:
                selector["optional"] = secret["optional"]
            found.append({"name": key["envVar"], "valueFrom": {"secretKeyRef": selector}})
    return found


def _name(secret: dict) -> str:
    return secret.get("secretNameParameter", {}).get("runtimeValue", {}).get("constant") or secret["secretName"]


def _passthroughs(component: dict) -> tuple:
    """Return the fields of TaskConfig and the fields of the pod (driver.go: getTaskConfigOptions)."""
    passed = dict.fromkeys(PASSED_THROUGH, False)
    on_pod = dict.fromkeys(PASSED_THROUGH, True)
    for passthrough in component.get("taskConfigPassthroughs", []):
        passed[passthrough["field"]] = True
        on_pod[passthrough["field"]] = passthrough.get("applyToTask", False)
    return passed, on_pod


def _needs_workspace(given: dict) -> bool:
    """Tell whether the workspace is mounted: a parameter names its path (driver.go: needsWorkspaceMount)."""
    return any(isinstance(value, str) and WORKSPACE_PATH in value for value in given["parameterValues"].values())


def _resources(container: dict) -> dict:
    specified = container.get("resources", {})
    if "accelerator" in specified:
        raise UnknownToThisDriverError("an accelerator")
    resources = {"limits": {}, "requests": {}}
    for (kind, resource), name in RESOURCES.items():
        if name in specified:
            resources[kind][resource] = specified[name]
    return resources


def _empty_dir(specified: dict) -> dict:
    settings = {key: specified[key] for key in ("medium", "sizeLimit") if specified.get(key)}
    return {"name": specified["volumeName"], "emptyDir": settings}


def _security_context(specified: dict | None) -> dict:
    """Return the security context of the main container: the compiler's default merged with that of the package."""
    requested = {key: int(value) if key != "runAsNonRoot" else value for key, value in (specified or {}).items()}
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
        **requested,
    }


def main(arguments: list) -> None:
    """Do the work of one driver pod."""
    options = parsed(arguments)
    records = Records(options.run_id)
    record = {"task": options.task_name, "parent": options.dag_execution_id, "state": "RUNNING"}
    if options.type == "ROOT_DAG":
        values = options.runtime_config.get("parameterValues", {})
        number = records.create({**record, "task": "root", "parent": 0, "inputs": {"parameterValues": values}})
        _write(options.execution_id_path, str(number))
    elif options.type == "DAG":
        dag, given = options.component["dag"], inputs(options, records)
        record |= {"inputs": given, "total_dag_tasks": len(dag["tasks"])}
        record["dag_outputs"] = dag.get("outputs", {}).get("parameters", {})
        if options.iteration_index >= 0:
            record["iteration"] = options.iteration_index
        elif "parameterIterator" in options.task:
            count = len(items(options.task, given["parameterValues"]))
            record |= {"iteration_count": count, "total_dag_tasks": count}
            _write(options.iteration_count_path, str(count))
        number = records.create(record)
        _write(options.execution_id_path, str(number))
    else:
        given = {"inputs": inputs(options, records), "outputs": outputs(options)}
        number = records.create({**record, "inputs": given["inputs"]})
        _write(options.pod_spec_patch_path, json.dumps(pod_patch(options, given, number)))
        _write(options.cached_decision_path, "false")
    _write(options.condition_path, "true")


def parsed(arguments: list) -> argparse.Namespace:
    """Return the flags that this program uses; KFP's driver has more, for its servers and its logs."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("type", "pipeline_name", "run_id", "run_name", "run_display_name", "task_name"):
        parser.add_argument(f"--{flag}", default="")
    for flag in ("component", "task", "container", "runtime_config", "kubernetes_config"):
        parser.add_argument(f"--{flag}", type=lambda text: json.loads(text or "{}"), default={})
    for flag in ("execution_id", "iteration_count", "cached_decision", "pod_spec_patch", "condition"):
        parser.add_argument(f"--{flag}_path", default="")
    parser.add_argument("--dag_execution_id", type=int, default=0)
    parser.add_argument("--iteration_index", type=int, default=-1)
    return parser.parse_known_args(arguments)[0]


def _write(path: str, text: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
