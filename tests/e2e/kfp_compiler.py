"""The Workflow that KFP's API server creates for a run: a compiled package in the shape that Argo's controller runs.

Kubeflow Pipelines cannot be installed in a test; Argo can. This module writes what KFP 2.17.0 writes
(backend/src/v2/compiler/argocompiler/{argo,dag,container,security_context}.go and
backend/src/apiserver/template/v2_template.go): for each graph a driver pod and a DAG, for each step a driver pod and a
DAG around the step's pod, the exit handler as a hook of the group that it follows, the workspace as a
volumeClaimTemplate. It refuses any feature that it does not implement.

Differences from Kubeflow:

- Driver and launcher are the programs `kfp_driver.py` and `kfp_launcher.py`, in the image of the steps and from a
  ConfigMap, instead of KFP's binaries. They accept the same flags.
- Artifacts and the records of ML Metadata are on a claim, `BUCKET`, instead of an object store and a database. The
  launcher copies artifacts as KFP's does, files only and no empty folders. A step sees the same paths (`/minio/...`).
"""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

from tests.e2e.kfp_package import Package, is_exit_task
from tests.e2e.kfp_templates import (
    BUCKET,
    BUCKET_PATH,
    LAUNCHER_PATH,
    LAUNCHER_VOLUME,
    OWN_CONTAINER,
    PROGRAMS,
    PROGRAMS_PATH,
    RUN_LABEL,
    SCRATCH,
    SECCOMP,
    USER_CONTAINER,
    V2,
    WORKSPACE,
    as_protobuf,
    dag_task,
    flag,
    input_value,
    launcher_container,
    output_value,
    own_volumes,
    parameters,
    pod_fields,
    scratch,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

ACCOUNT = "pipeline-runner"
"""KFP's DefaultPipelineRunnerServiceAccount."""

RETRY = ("max-count", "backoff-duration", "backoff-factor", "backoff-max-duration")


class UnknownToThisCompilerError(NotImplementedError):
    """The package uses a feature of KFP that this module does not implement."""


class WorkflowCompiler:
    """The compiler of one run.

    Args:
        package: The compiled package.
        arguments: Values of pipeline parameters; the others have their defaults.
        run_id: Id of the run.
        image: Image of the driver and of the launcher.
    """

    def __init__(self, package: Package, arguments: Mapping[str, Any], run_id: str, *, image: str) -> None:
        self._package, self._arguments, self._run_id, self._image = package, arguments, run_id, image
        self._templates: dict[str, dict[str, Any]] = {}
        self._parameters: dict[str, str] = {}

    def workflow(self) -> dict[str, Any]:
        """Return the Workflow; the API server of Kubernetes completes its name."""
        for name, component in self._package.graphs():
            self._graph(name, component)
        self._entrypoint()
        config = self._package.platform.get("pipelineConfig", {})
        spec: dict[str, Any] = {
            "arguments": {"parameters": parameters(self._parameters)},
            "entrypoint": "entrypoint",
            "podMetadata": {"annotations": dict(V2), "labels": {**V2, RUN_LABEL: self._run_id}},
            "securityContext": {"runAsNonRoot": True, **SECCOMP},
            "serviceAccountName": ACCOUNT,
            "templates": list(self._templates.values()),
            "volumeClaimTemplates": [workspace_claim(config["workspace"])] if "workspace" in config else [],
        }
        if ttl := _ttl(config):
            spec["ttlStrategy"] = ttl
        if "activeDeadlineSeconds" in config:
            spec["activeDeadlineSeconds"] = int(config["activeDeadlineSeconds"])
        return {
            "apiVersion": "argoproj.io/v1alpha1",
            "kind": "Workflow",
            "metadata": {"generateName": f"{self._package.name}-", "labels": {RUN_LABEL: self._run_id}},
            "spec": json.loads(json.dumps(spec).replace("{{workflow.uid}}", self._run_id)),
        }

    def _entrypoint(self) -> None:
        defaults = self._package.component("root").get("inputDefinitions", {}).get("parameters", {})
        given = {name: one["defaultValue"] for name, one in defaults.items() if "defaultValue" in one}
        values = {name: as_protobuf(value) for name, value in {**given, **self._arguments}.items()}
        driver = self._dag_driver(
            "root-driver",
            component=self._saved("components", "root"),
            **{"runtime-config": json.dumps({"parameterValues": values})},
            **{"driver-type": "ROOT_DAG"},
        )
        self._template("entrypoint", {"dag": {"tasks": [driver, dag_task("root", "root", condition="")]}})

    def _graph(self, name: str, component: dict[str, Any]) -> None:
        """Write the template of a graph, and one for each of its exit handlers."""
        tasks = component["dag"]["tasks"]
        inputs = {"parameters": [{"name": "parent-dag-id"}]}
        hooks = {}
        for task, spec in tasks.items():
            if is_exit_task(spec):
                hook = f"exit-hook-{name}-{task}"
                self._template(hook, {"inputs": inputs, "dag": {"tasks": self._task(task, spec)}})
                hooks |= dict.fromkeys(spec["dependentTasks"], hook)
        written = []
        for task, spec in tasks.items():
            if not is_exit_task(spec):
                tasks_of_task = self._task(task, spec)
                if task in hooks:
                    arguments = {"parameters": parameters({"parent-dag-id": input_value("parent-dag-id")})}
                    tasks_of_task[-1]["hooks"] = {"exit": {"template": hooks[task], "arguments": arguments}}
                written += tasks_of_task
        self._template(name, {"inputs": inputs, "dag": {"tasks": written}})

    def _task(self, name: str, spec: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the two tasks of a task, its driver and itself; a loop is one task."""
        if "artifactIterator" in spec or spec.get("triggerPolicy", {}).get("condition"):
            raise UnknownToThisCompilerError(f"task {name} is a loop over artifacts or has a condition")
        component_name = spec["componentRef"]["name"]
        component = self._package.component(component_name)
        given = {
            "component": self._saved("components", component_name),
            "parent-dag-id": input_value("parent-dag-id"),
            "task": json.dumps(spec),
            "task-name": name,
        }
        if "parameterIterator" in spec:
            return [self._loop(name, spec, given)]
        if "dag" in component:
            driver = self._dag_driver(f"{name}-driver", **given)
            main = dag_task(name, component_name, condition=output_value(f"{name}-driver", "condition"))
        else:
            given["container"] = self._saved("implementations", component_name)
            if self._package.kubernetes(component):
                given["kubernetes-config"] = self._saved("kubernetes", component_name)
            driver = self._container_driver(f"{name}-driver", **given)
            main = self._container_task(name, spec)
        if not is_exit_task(spec) and (depends := _dependencies(spec)):
            driver["depends"] = " && ".join(f"{one}.Succeeded" for one in depends)
        return [driver, main]

    def _loop(self, name: str, spec: dict[str, Any], given: dict[str, str]) -> dict[str, Any]:
        """Return the task of a loop (dag.go: iteratorTask, iterationItemTask), and write the templates below it.

        The template of the loop has a driver, which counts the items, and one DAG for each item with a driver and the
        graph of the component.
        """
        if "raw" in spec["parameterIterator"]["items"]:
            raise UnknownToThisCompilerError(f"the items of the loop {name} are constants")
        component_name = spec["componentRef"]["name"]
        loop, iteration = f"{component_name}-{name}-iterator", f"{component_name}-iteration"
        driver = self._dag_driver("iteration-driver", **given)
        index = {"name": "iteration-index", "value": "{{item}}"}
        of_driver = {"parent-dag-id": output_value("iteration-driver", "execution-id")}
        iterations = {
            "name": "iteration-iterations",
            "template": iteration,
            "depends": "iteration-driver.Succeeded",
            "arguments": {"parameters": [*parameters(of_driver), index]},
            "withSequence": {"count": output_value("iteration-driver", "iteration-count")},
        }
        template: dict[str, Any] = {
            "inputs": {"parameters": [{"name": "parent-dag-id"}]},
            "dag": {"tasks": [driver, iterations]},
        }
        if limit := spec.get("iteratorPolicy", {}).get("parallelismLimit"):
            template["parallelism"] = limit
        self._template(loop, template)
        item_driver = self._dag_driver(
            "iteration-item-driver", **given, **{"iteration-index": input_value("iteration-index")}
        )
        item = dag_task("iteration-item", component_name, condition=output_value("iteration-item-driver", "condition"))
        inputs = {"parameters": [{"name": "parent-dag-id"}, {"name": "iteration-index"}]}
        self._template(iteration, {"inputs": inputs, "dag": {"tasks": [item_driver, item]}})
        task = {
            "name": name,
            "template": loop,
            "arguments": {"parameters": parameters({"parent-dag-id": input_value("parent-dag-id")})},
        }
        if depends := _dependencies(spec):
            task["depends"] = " && ".join(f"{one}.Succeeded" for one in depends)
        return task

    def _container_task(self, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        executor, impl = "system-container-executor", "system-container-impl"
        retry = _retry(spec)
        if retry:
            executor, impl = f"retry-{executor}", f"retry-{impl}"
        if executor not in self._templates:
            self._executor(executor, impl, retried=bool(retry))
        patch = {"name": "pod-spec-patch", "value": output_value(f"{name}-driver", "pod-spec-patch")}
        cached = {
            "name": "cached-decision",
            "default": "false",
            "value": output_value(f"{name}-driver", "cached-decision"),
        }
        return {
            "name": name,
            "template": executor,
            "depends": f"{name}-driver.Succeeded",
            "arguments": {"parameters": [patch, cached, *parameters(retry)]},
        }

    def _executor(self, name: str, impl: str, *, retried: bool) -> None:
        """Write the template of a step's pod, and that of the DAG around it."""
        retries = [f"retry-{one}" for one in RETRY] if retried else []
        cached = {"name": "cached-decision", "default": "false"}
        optional = [{"name": one, "default": "0"} for one in retries]
        task = {
            "name": "executor",
            "template": impl,
            "arguments": {"parameters": parameters({one: input_value(one) for one in ("pod-spec-patch", *retries)})},
            "when": f"{input_value('cached-decision')} != true",
        }
        self._template(
            name,
            {"inputs": {"parameters": [{"name": "pod-spec-patch"}, cached, *optional]}, "dag": {"tasks": [task]}},
        )
        template: dict[str, Any] = {
            "inputs": {"parameters": [{"name": one} for one in ("pod-spec-patch", *retries)]},
            "metadata": {"annotations": {"pipelines.kubeflow.org/runtime-role": "launcher"}},
            "securityContext": dict(SECCOMP),
            "podSpecPatch": input_value("pod-spec-patch"),
            "volumes": [
                {"name": LAUNCHER_VOLUME, "emptyDir": {}},
                *({"name": scratch(folder), "emptyDir": {}} for folder in SCRATCH),
                *own_volumes(),
            ],
            "initContainers": [launcher_container(self._image)],
            "container": {
                "image": "should-be-overridden-during-runtime",
                "command": ["should-be-overridden-during-runtime"],
                "env": pod_fields(),
                "securityContext": USER_CONTAINER,
                "volumeMounts": [
                    {"name": LAUNCHER_VOLUME, "mountPath": LAUNCHER_PATH},
                    *({"name": scratch(folder), "mountPath": f"/{folder}"} for folder in SCRATCH),
                    {"name": BUCKET, "mountPath": BUCKET_PATH},
                ],
            },
        }
        if retried:
            limit, duration, factor, longest = (input_value(one) for one in retries)
            backoff = {"duration": duration, "factor": factor, "maxDuration": longest}
            template["retryStrategy"] = {"limit": limit, "backoff": backoff}
            template["container"]["env"].append({"name": "KFP_RETRY_INDEX", "value": "{{retries}}"})
        self._template(impl, template)

    def _dag_driver(self, name: str, **given: str) -> dict[str, Any]:
        defaults = {"runtime-config": "", "task": "", "task-name": "", "parent-dag-id": "0", "driver-type": "DAG"}
        defaults["iteration-index"] = "-1"
        outputs = {"execution-id": None, "iteration-count": "0", "condition": "true"}
        self._driver("system-dag-driver", input_value("driver-type"), ["component"], defaults, outputs)
        return {"name": name, "template": "system-dag-driver", "arguments": {"parameters": parameters(given)}}

    def _container_driver(self, name: str, **given: str) -> dict[str, Any]:
        required = ["component", "task", "container", "task-name", "parent-dag-id"]
        outputs = {"pod-spec-patch": "", "cached-decision": "false", "condition": "true"}
        self._driver("system-container-driver", "CONTAINER", required, {"kubernetes-config": ""}, outputs)
        return {"name": name, "template": "system-container-driver", "arguments": {"parameters": parameters(given)}}

    def _driver(
        self, name: str, kind: str, required: list[str], defaults: dict[str, str], outputs: Mapping[str, str | None]
    ) -> None:
        flags = {
            "type": kind,
            "pipeline_name": self._package.name,
            "run_id": "{{workflow.uid}}",
            "run_name": "{{workflow.name}}",
            "run_display_name": self._package.name,
            "pipeline_job_create_time_utc": "{{workflow.creationTimestamp}}",
            **{flag(one): input_value(one) for one in (*required, *defaults) if one != "driver-type"},
            **{f"{flag(one)}_path": f"{{{{outputs.parameters.{one}.path}}}}" for one in outputs},
        }
        container = {
            "image": self._image,
            "command": ["python3", f"{PROGRAMS_PATH}/driver"],
            "args": [part for flag, value in flags.items() for part in (f"--{flag}", value)],
            "env": pod_fields(),
            "resources": {
                "limits": {"cpu": "500m", "memory": "512Mi"},
                "requests": {"cpu": "100m", "memory": "64Mi"},
            },
            "securityContext": OWN_CONTAINER,
            "volumeMounts": [
                {"name": BUCKET, "mountPath": BUCKET_PATH},
                {"name": PROGRAMS, "mountPath": PROGRAMS_PATH},
            ],
        }
        written = []
        for one, default in outputs.items():
            value = {"path": f"/tmp/outputs/{one}"} | ({} if default is None else {"default": default})  # noqa: S108
            written.append({"name": one, "valueFrom": value})
        self._template(
            name,
            {
                "inputs": {
                    "parameters": [
                        *({"name": one} for one in required),
                        *({"name": one, "default": default} for one, default in defaults.items()),
                    ]
                },
                "outputs": {"parameters": written},
                "metadata": {"annotations": {"pipelines.kubeflow.org/runtime-role": "driver"}},
                "securityContext": {"runAsNonRoot": True, **SECCOMP},
                "container": container,
                "volumes": own_volumes(),
            },
        )

    def _template(self, name: str, template: dict[str, Any]) -> None:
        self._templates.setdefault(name, {"name": name, **template})

    def _saved(self, kind: str, name: str) -> str:
        """Save a part of the package as a parameter of the Workflow, and return the placeholder for it."""
        component = self._package.component(name)
        parts = {
            "components": lambda: component,
            "implementations": lambda: self._package.container(component),
            "kubernetes": lambda: self._package.kubernetes(component),
        }
        self._parameters[f"{kind}-{name}"] = json.dumps(parts[kind]())
        return f"{{{{workflow.parameters.{kind}-{name}}}}}"


def workspace_claim(workspace: dict[str, Any]) -> dict[str, Any]:
    """Return the template of the workspace's claim (argo.go: GetWorkspacePVC)."""
    spec = copy.deepcopy(workspace["kubernetes"].get("pvcSpecPatch", {}))
    if unknown := set(spec) - {"accessModes", "storageClassName"}:
        raise UnknownToThisCompilerError(f"keys of the workspace's claim that KFP refuses: {sorted(unknown)}")
    return {
        "metadata": {"name": WORKSPACE},
        "spec": {**spec, "resources": {"requests": {"storage": workspace["size"]}}},
    }


def _ttl(config: dict[str, Any]) -> dict[str, int]:
    keys = {
        "resourceTtlOnCompletion": "secondsAfterCompletion",
        "resourceTtlOnSuccess": "secondsAfterSuccess",
        "resourceTtlOnFailure": "secondsAfterFailure",
    }
    return {argo: int(config[key]) for key, argo in keys.items() if int(config.get(key, 0)) > 0}


def _dependencies(task: dict[str, Any]) -> list[str]:
    """Return the tasks before a task: those that it names and those whose outputs it takes."""
    inputs = task.get("inputs", {})
    named = [*inputs.get("parameters", {}).values(), *inputs.get("artifacts", {}).values()]
    outputs = [one[key] for one in named for key in ("taskOutputParameter", "taskOutputArtifact") if key in one]
    return sorted({*task.get("dependentTasks", []), *(one["producerTask"] for one in outputs)})


def _retry(task: dict[str, Any]) -> dict[str, str]:
    """Return the retry parameters of a task, in seconds; KFP knows no policy, so that Argo's default stays."""
    if "retryPolicy" not in task:
        return {}
    policy = task["retryPolicy"]
    values = {
        "max-count": policy.get("maxRetryCount", 0),
        "backoff-duration": policy.get("backoffDuration", "0s").removesuffix("s"),
        "backoff-factor": policy.get("backoffFactor", 0),
        "backoff-max-duration": policy.get("backoffMaxDuration", "0s").removesuffix("s"),
    }
    return {
        f"retry-{name}": f"{float(value):g}" if name == "backoff-factor" else str(value)
        for name, value in values.items()
    }
