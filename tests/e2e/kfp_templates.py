"""The parts of the templates that `kfp_compiler` writes: parameters, placeholders, volumes and containers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

BUCKET, BUCKET_PATH = "kfp-artifacts", "/kfp-artifacts"
PROGRAMS, PROGRAMS_PATH = "kfp-programs", "/kfp-programs"
LAUNCHER_VOLUME, LAUNCHER_PATH = "kfp-launcher", "/kfp-launcher"
WORKSPACE = "kfp-workspace"
SCRATCH = ("gcs", "s3", "minio", ".local", ".cache", ".config")
"""Folders below / at which KFP mounts an emptyDir in every step."""

RUN_LABEL = "pipeline/runid"
V2 = {"pipelines.kubeflow.org/v2_component": "true"}
SECCOMP = {"seccompProfile": {"type": "RuntimeDefault"}}
USER_CONTAINER = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, **SECCOMP}
OWN_CONTAINER = {**USER_CONTAINER, "runAsNonRoot": True}
POD_FIELDS = {"KFP_POD_NAME": "metadata.name", "KFP_POD_UID": "metadata.uid"}


def as_protobuf(value: Any) -> Any:
    """Return a parameter as protobuf writes it: whole numbers without a point."""
    return int(value) if isinstance(value, float) and value == int(value) else value


def dag_task(name: str, template: str, *, condition: str) -> dict[str, Any]:
    """Return the task of a graph after its driver."""
    given = {"parent-dag-id": output_value(f"{name}-driver", "execution-id"), "condition": condition}
    arguments = {"parameters": parameters(given)}
    return {"name": name, "template": template, "depends": f"{name}-driver.Succeeded", "arguments": arguments}


def parameters(values: Mapping[str, str]) -> list[dict[str, str]]:
    """Return arguments as Argo lists them."""
    return [{"name": name, "value": value} for name, value in values.items()]


def input_value(name: str) -> str:
    """Return the placeholder of an input of a template."""
    return f"{{{{inputs.parameters.{name}}}}}"


def output_value(task: str, name: str) -> str:
    """Return the placeholder of an output of a task."""
    return f"{{{{tasks.{task}.outputs.parameters.{name}}}}}"


def flag(name: str) -> str:
    """Return the flag of a driver for one of its inputs."""
    return {"parent-dag-id": "dag_execution_id"}.get(name, name.replace("-", "_"))


def pod_fields() -> list[dict[str, Any]]:
    """Return the environment variables that name the pod."""
    return [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in POD_FIELDS.items()]


def scratch(folder: str) -> str:
    """Return the name of the volume of a scratch folder."""
    return f"{folder.replace('.', 'dot-')}-scratch"


def own_volumes() -> list[dict[str, Any]]:
    """Return the volumes of the stand-ins, which KFP does not have."""
    return [
        {"name": BUCKET, "persistentVolumeClaim": {"claimName": BUCKET}},
        {"name": PROGRAMS, "configMap": {"name": PROGRAMS}},
    ]


def launcher_container(image: str) -> dict[str, Any]:
    """Return the init container that copies the launcher into the pod, as KFP does with its binary."""
    copy_it = f"cp {PROGRAMS_PATH}/launcher {LAUNCHER_PATH}/launch; chmod 0555 {LAUNCHER_PATH}/launch"
    return {
        "name": "kfp-launcher",
        "image": image,
        "command": ["sh", "-ec", copy_it],
        "resources": {"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "100m"}},
        "securityContext": OWN_CONTAINER,
        "volumeMounts": [
            {"name": LAUNCHER_VOLUME, "mountPath": LAUNCHER_PATH},
            {"name": PROGRAMS, "mountPath": PROGRAMS_PATH},
        ],
    }
