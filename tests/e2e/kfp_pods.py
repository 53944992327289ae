"""The pods that Kubeflow Pipelines would create for a compiled package: KFP's driver without its server.

Kubeflow cannot be installed in a test. For one task, this module does what the driver and the Argo compiler of KFP
2.17.0 do (backend/src/v2/driver/{container,driver,k8s,resolve}.go, backend/src/v2/compiler/argocompiler/{container,
argo,security_context}.go): resolve the inputs, provision the outputs, fill in TaskConfig, and write the pod. It refuses
any feature of KFP that it does not implement, so that a package that uses one fails here and not silently.

Differences from Kubeflow:

- Artifacts are on a claim, `BUCKET`, instead of an object store. `kfp_launcher.py` copies them as KFP's launcher does,
  files only and no empty folders. A step sees the same paths as in KFP (`/minio/...`).
- The `Run` in memory replaces ML Metadata. The launcher passes its results on as a line of its log.
- Argo's sidecar (`wait`) and init container (`init`) are omitted; they transport Argo's own parameters and logs. Argo's
  emissary is present: it is the first process of the container and decides which processes receive a signal.
- The launcher is a program in the image of the steps instead of KFP's binary. It accepts the same flags.
"""

from __future__ import annotations

import copy
import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).parents[2]
PACKAGE = CHECKOUT / "pipeline" / "denoise.yaml"
LAUNCHER = Path(__file__).with_name("kfp_launcher.py")

ACCOUNT = "pipeline-runner"
"""KFP's DefaultPipelineRunnerServiceAccount."""

PIPELINE_ROOT = "minio://mlpipeline/v2/artifacts"
"""KFP's default; `kfp_launcher` stores the objects below it on the claim `BUCKET`."""

BUCKET, BUCKET_PATH = "kfp-artifacts", "/kfp-artifacts"
WORKSPACE, WORKSPACE_PATH = "kfp-workspace", "/kfp-workspace"
LAUNCHER_VOLUME, LAUNCHER_PATH = "kfp-launcher", "/kfp-launcher"
SCRATCH = ("gcs", "s3", "minio", ".local", ".cache", ".config")
"""Folders below / at which KFP mounts an emptyDir in every step."""

PASSED_THROUGH = (
    *("RESOURCES", "ENV", "KUBERNETES_AFFINITY", "KUBERNETES_TOLERATIONS"),
    *("KUBERNETES_NODE_SELECTOR", "KUBERNETES_VOLUMES"),
)
KNOWN_PLATFORM = {
    *("secretAsEnv", "imagePullPolicy", "nodeSelector", "tolerations", "securityContext"),
    *("emptyDirMounts", "activeDeadlineSeconds"),
}
RESOURCES = {
    ("limits", "memory"): "resourceMemoryLimit",
    ("requests", "memory"): "resourceMemoryRequest",
    ("limits", "cpu"): "resourceCpuLimit",
    ("requests", "cpu"): "resourceCpuRequest",
}


class UnknownToThisDriverError(NotImplementedError):
    """The package uses a feature of KFP that this module does not implement."""


@dataclass
class Package:
    """A compiled package: its two YAML documents."""

    spec: dict[str, Any]
    platform: dict[str, Any]

    @classmethod
    def read(cls, path: Path = PACKAGE) -> Self:
        documents = list(yaml.safe_load_all(path.read_text()))
        kubernetes = documents[1]["platforms"]["kubernetes"] if len(documents) > 1 else {}
        return cls(documents[0], kubernetes)

    @property
    def name(self) -> str:
        return str(self.spec["pipelineInfo"]["name"])

    def component(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.spec["root"] if name == "root" else self.spec["components"][name]
        return found

    def container(self, component: dict[str, Any]) -> dict[str, Any]:
        executor = self.spec["deploymentSpec"]["executors"][component["executorLabel"]]
        if "container" not in executor:
            raise UnknownToThisDriverError(f"executor {component['executorLabel']} is no container")
        found: dict[str, Any] = executor["container"]
        return found

    def kubernetes(self, component: dict[str, Any]) -> dict[str, Any]:
        executors = self.platform.get("deploymentSpec", {}).get("executors", {})
        found: dict[str, Any] = executors.get(component["executorLabel"], {})
        if unknown := set(found) - KNOWN_PLATFORM:
            raise UnknownToThisDriverError(f"platform keys {sorted(unknown)}")
        return found

    def tasks(self) -> Iterator[dict[str, Any]]:
        """Yield the tasks of all graphs, to be changed in place."""
        for component in (self.spec["root"], *self.spec["components"].values()):
            yield from component.get("dag", {}).get("tasks", {}).values()

    def end_at(self, task: str) -> None:
        """Remove the tasks that `task` does not depend on from each graph that contains it."""
        for component in self.spec["components"].values():
            tasks = component.get("dag", {}).get("tasks", {})
            if task in tasks:
                kept, found = set(), {task}
                while found := found - kept:
                    kept |= found
                    found = {name for one in found for name in tasks[one].get("dependentTasks", [])}
                component["dag"]["tasks"] = {name: spec for name, spec in tasks.items() if name in kept}

    def workspace_claim(self, run_name: str) -> dict[str, Any]:
        """Return the claim that Argo creates from KFP's volumeClaimTemplate for the run, with the size of the patch."""
        workspace = self.platform["pipelineConfig"]["workspace"]
        spec = copy.deepcopy(workspace["kubernetes"]["pvcSpecPatch"])
        spec.setdefault("resources", {}).setdefault("requests", {})["storage"] = workspace["size"]
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": f"{run_name}-{WORKSPACE}"},
            "spec": spec,
        }


@dataclass
class Execution:
    """The record of one task in ML Metadata: its state and its outputs."""

    state: str = "RUNNING"
    parameters: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, Any] = field(default_factory=dict)


@dataclass
class Dag:
    """A component that is a graph: the values of its inputs and the executions of its tasks."""

    inputs: dict[str, Any]
    executions: dict[str, Execution] = field(default_factory=dict)


@dataclass(frozen=True)
class Task:
    """One task of a graph, with the arguments of its driver."""

    package: Package
    name: str
    spec: dict[str, Any]
    run_name: str
    run_id: str

    @property
    def component(self) -> dict[str, Any]:
        return self.package.component(self.spec["componentRef"]["name"])

    @property
    def is_dag(self) -> bool:
        return "dag" in self.component

    def inputs(self, dag: Dag) -> dict[str, Any]:
        """Resolve the task's inputs (resolve.go: resolveInputs)."""
        if "iterator" in str(self.spec.keys()).lower() or self.spec.get("triggerPolicy", {}).get("condition"):
            raise UnknownToThisDriverError(f"task {self.name} is a loop or has a condition")
        declared = self.component.get("inputDefinitions", {}).get("parameters", {})
        values = {}
        for name, spec in self.spec.get("inputs", {}).get("parameters", {}).items():
            if declared.get(name, {}).get("parameterType") == "TASK_CONFIG":
                continue
            value = self._parameter(spec, dag)
            values[name] = _as_type(value, declared[name]["parameterType"]) if name in declared else value
        for name, spec in declared.items():
            if name not in values and not spec.get("isOptional"):
                raise ValueError(f"neither value nor default value for parameter {name!r} of {self.name}")
        artifacts = {
            name: {"artifacts": [self._artifact(spec, dag)]}
            for name, spec in self.spec.get("inputs", {}).get("artifacts", {}).items()
        }
        return {"parameterValues": values, "artifacts": artifacts}

    def _parameter(self, spec: dict[str, Any], dag: Dag) -> Any:
        if "componentInputParameter" in spec:
            return dag.inputs[spec["componentInputParameter"]]
        if "taskOutputParameter" in spec:
            output = spec["taskOutputParameter"]
            return dag.executions[output["producerTask"]].parameters[output["outputParameterKey"]]
        if "taskFinalStatus" in spec:
            producer = self.spec["dependentTasks"][0]
            return {
                "state": dag.executions[producer].state,
                "pipelineTaskName": producer,
                "pipelineJobResourceName": self.run_name,
                "error": {},
            }
        constant = spec["runtimeValue"]["constant"]
        if isinstance(constant, str):
            constant = constant.replace("{{$.workspace_path}}", WORKSPACE_PATH)
            known = {
                "{{$.pipeline_job_uuid}}": self.run_id,
                "{{$.pipeline_job_resource_name}}": self.run_name,
                "{{$.pipeline_job_name}}": self.run_name,
                "{{$.pipeline_task_name}}": self.name,
            }
            constant = known.get(constant, constant)
            if "{{$" in constant:
                raise UnknownToThisDriverError(f"placeholder {constant}")
        return constant

    @staticmethod
    def _artifact(spec: dict[str, Any], dag: Dag) -> dict[str, Any]:
        output = spec.get("taskOutputArtifact")
        if output is None:
            raise UnknownToThisDriverError(f"artifact input {spec}")
        found: dict[str, Any] = dag.executions[output["producerTask"]].artifacts[output["outputArtifactKey"]]
        return found

    def outputs(self) -> dict[str, Any]:
        """Provision the outputs (driver.go: provisionOutputs)."""
        definitions = self.component.get("outputDefinitions", {})
        root = f"{PIPELINE_ROOT}/{self.package.name}/{self.run_id}/{self.name}/{uuid.uuid4()}"
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

    def pod(self, dag: Dag, *, name: str, attempt: int, owner: dict[str, Any]) -> dict[str, Any]:
        """Return the pod of one try of the task (driver.go: initPodSpecPatch, on top of Argo's template).

        Args:
            dag: The graph that contains the task.
            name: Name of the pod.
            attempt: Number of the try, from 0.
            owner: Owner reference to the object that represents the Workflow; the pod is deleted with it.
        """
        container = self.package.container(self.component)
        executor_input = {"inputs": self.inputs(dag), "outputs": self.outputs()}
        patch, task_config = self._patch(container, executor_input)
        for parameter, spec in self.component.get("inputDefinitions", {}).get("parameters", {}).items():
            if spec["parameterType"] == "TASK_CONFIG":
                executor_input["inputs"]["parameterValues"][parameter] = task_config
        launch = [
            *(f"{LAUNCHER_PATH}/launch", "--pipeline_name", self.package.name, "--run_id", self.run_id),
            *("--executor_input", json.dumps(executor_input), "--component_spec", json.dumps(self.component)),
            *("--pod_name", "$(KFP_POD_NAME)", "--pod_uid", "$(KFP_POD_UID)", "--"),
            *container["command"],
            *container["args"],
        ]
        main = patch["container"]
        main["command"] = [f"{LAUNCHER_PATH}/emissary", "--", *launch]
        main["env"] = [*_pod_fields(attempt if "retryPolicy" in self.spec else None), *main["env"]]
        main["volumeMounts"] = [*_template_mounts(), *main["volumeMounts"]]
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": name,
                "labels": {"pipelines.kubeflow.org/v2_component": "true", "pipeline/runid": self.run_id},
                "annotations": {"pipelines.kubeflow.org/v2_component": "true"},
                "ownerReferences": [owner],
            },
            "spec": {
                "restartPolicy": "Never",
                "serviceAccountName": ACCOUNT,
                "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
                "initContainers": [_launcher_container(container["image"])],
                "containers": [main],
                "volumes": [*_template_volumes(), *patch.pop("volumes")],
                **{key: value for key, value in patch.items() if key != "container"},
            },
        }

    def _patch(
        self, container: dict[str, Any], executor_input: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the pod patch of the driver, and the TaskConfig: each field is in one, both, or neither."""
        passed, on_pod = _passthroughs(self.component)
        kubernetes = self.package.kubernetes(self.component)
        env = [*container.get("env", []), *self._secrets(kubernetes)]
        volumes, mounts = [], []
        if _needs_workspace(executor_input["inputs"]):
            claim = f"{self.run_name}-{WORKSPACE}"
            volumes.append({"name": WORKSPACE, "persistentVolumeClaim": {"claimName": claim}})
            mounts.append({"name": WORKSPACE, "mountPath": WORKSPACE_PATH})
        # These, and a deadline, are never passed through.
        own = kubernetes.get("emptyDirMounts", [])
        resources = _resources(container)
        selector = (kubernetes.get("nodeSelector") or {}).get("labels")
        tolerations = kubernetes.get("tolerations")
        main: dict[str, Any] = {
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
        patch: dict[str, Any] = {
            "container": main,
            "volumes": [*(volumes if on_pod["KUBERNETES_VOLUMES"] else []), *map(_empty_dir, own)],
        }
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

    def _secrets(self, kubernetes: dict[str, Any]) -> list[dict[str, Any]]:
        found = []
        for secret in kubernetes.get("secretAsEnv", []):
            name = secret.get("secretNameParameter", {}).get("runtimeValue", {}).get("constant") or secret["secretName"]
            for key in secret["keyToEnv"]:
                selector = {"name": name, "key": key["secretKey"]}
                if "optional" in secret:
                    selector["optional"] = secret["optional"]
                found.append({"name": key["envVar"], "valueFrom": {"secretKeyRef": selector}})
        return found


def _passthroughs(component: dict[str, Any]) -> tuple[dict[str, bool], dict[str, bool]]:
    """Return the fields of TaskConfig and the fields of the pod (driver.go: getTaskConfigOptions)."""
    passed = dict.fromkeys(PASSED_THROUGH, False)
    on_pod = dict.fromkeys(PASSED_THROUGH, True)
    for passthrough in component.get("taskConfigPassthroughs", []):
        passed[passthrough["field"]] = True
        on_pod[passthrough["field"]] = passthrough.get("applyToTask", False)
    return passed, on_pod


def _needs_workspace(inputs: dict[str, Any]) -> bool:
    """Tell whether the driver mounts the workspace: a parameter names its path (driver.go: needsWorkspaceMount)."""
    return any(isinstance(value, str) and WORKSPACE_PATH in value for value in inputs["parameterValues"].values())


def _resources(container: dict[str, Any]) -> dict[str, Any]:
    specified = container.get("resources", {})
    if "accelerator" in specified:
        raise UnknownToThisDriverError("an accelerator")
    resources: dict[str, Any] = {"limits": {}, "requests": {}}
    for (kind, resource), name in RESOURCES.items():
        if name in specified:
            resources[kind][resource] = specified[name]
    return resources


def _empty_dir(specified: dict[str, Any]) -> dict[str, Any]:
    settings = {key: specified[key] for key in ("medium", "sizeLimit") if specified.get(key)}
    return {"name": specified["volumeName"], "emptyDir": settings}


def _security_context(specified: dict[str, Any] | None) -> dict[str, Any]:
    """Return the security context of the main container: the compiler's default merged with that of the package."""
    requested = {key: int(value) if key != "runAsNonRoot" else value for key, value in (specified or {}).items()}
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
        **requested,
    }


def _as_type(value: Any, kind: str) -> Any:
    """Return a parameter, checked and converted as by the driver; protobuf writes whole numbers without a point."""
    if kind == "STRING" and not isinstance(value, str):
        return json.dumps(value)
    if kind == "NUMBER_INTEGER":
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
            raise TypeError(f"expected {kind}, got {value!r}")
        return int(value)
    return value


def _pod_fields(attempt: int | None) -> list[dict[str, Any]]:
    fields = {"KFP_POD_NAME": "metadata.name", "KFP_POD_UID": "metadata.uid"}
    env: list[dict[str, Any]] = [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()
    ]
    return env if attempt is None else [*env, {"name": "KFP_RETRY_INDEX", "value": str(attempt)}]


def _scratch(folder: str) -> str:
    return f"{folder.replace('.', 'dot-')}-scratch"


def _template_mounts() -> list[dict[str, Any]]:
    return [
        {"name": LAUNCHER_VOLUME, "mountPath": LAUNCHER_PATH},
        *({"name": _scratch(folder), "mountPath": f"/{folder}"} for folder in SCRATCH),
        {"name": BUCKET, "mountPath": BUCKET_PATH},
    ]


def _template_volumes() -> list[dict[str, Any]]:
    return [
        {"name": LAUNCHER_VOLUME, "emptyDir": {}},
        *({"name": _scratch(folder), "emptyDir": {}} for folder in SCRATCH),
        {"name": BUCKET, "persistentVolumeClaim": {"claimName": BUCKET}},
        {"name": "kfp-launcher-source", "configMap": {"name": "kfp-launcher"}},
    ]


def _launcher_container(image: str) -> dict[str, Any]:
    """Return the init container that copies the launcher into the pod, as KFP does with its binary."""
    copy_it = f"for name in launch emissary; do cp /source/launcher {LAUNCHER_PATH}/$name; done; "
    return {
        "name": "kfp-launcher",
        "image": image,
        "command": ["sh", "-ec", f"{copy_it} chmod 0555 {LAUNCHER_PATH}/*"],
        "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "100m"}},
        "securityContext": {**_security_context(None), "runAsNonRoot": True},
        "volumeMounts": [
            {"name": LAUNCHER_VOLUME, "mountPath": LAUNCHER_PATH},
            {"name": "kfp-launcher-source", "mountPath": "/source"},
        ],
    }


def launcher_source() -> dict[str, Any]:
    """Return the ConfigMap with the program of the launcher."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "kfp-launcher"},
        "data": {"launcher": LAUNCHER.read_text()},
    }


def artifacts_claim(storage: str = "5Gi") -> dict[str, Any]:
    """Return the claim that replaces KFP's bucket."""
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": BUCKET},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": storage}}},
    }
