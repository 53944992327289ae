"""The platform document of a compiled package: the Kubernetes settings of the pipeline and its executors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PlatformSpec

from ctbasis.kubeflow.lint import core, messages, quantities, secrets
from ctbasis.kubeflow.lint.messages import RECOMPILE
from ctbasis.kubeflow.lint.paths import Document, Faults, children, join_path, look_up, select, walk

if TYPE_CHECKING:
    from ctbasis.kubeflow.lint.pipeline import Pipeline

ACCESS_MODES = {"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"}
PULL_POLICIES = {"Always", "IfNotPresent", "Never"}
SECONDS = ("resourceTtlOnCompletion", "resourceTtlOnSuccess", "resourceTtlOnFailure", "activeDeadlineSeconds")
"""Fields of the pipeline's settings that hold seconds."""


def faults(document: Document, pipeline: Pipeline | None) -> Faults:
    """Check a platform document.

    Args:
        document: The platform document.
        pipeline: The pipeline of the same package; None if the pipeline cannot be read.
    """
    yield from secrets.faults(document)
    mismatches = list(messages.faults(PlatformSpec.DESCRIPTOR, document))
    yield from mismatches
    for name, platform in document["platforms"].items() if not mismatches else ():
        where = join_path("platforms", name)
        if name != "kubernetes":
            yield where, "is not a platform of kfp-kubernetes", "expected kubernetes"
            continue
        for label, config in children(look_up(platform, "deploymentSpec.executors")):
            yield from _executor(label, config, pipeline, join_path(where, "deploymentSpec", "executors", label))
        yield from _pipeline_config(platform.get("pipelineConfig", {}), f"{where}.pipelineConfig")


def _executor(label: str, config: Any, pipeline: Pipeline | None, where: str) -> Faults:
    """Check the Kubernetes settings of the executor with that label."""
    mismatches = list(messages.faults(KubernetesExecutorConfig.DESCRIPTOR, config, where))
    yield from mismatches
    if mismatches or pipeline is None:
        return
    if label not in pipeline.executors:
        yield where, f"the package has no executor {label!r}", RECOMPILE
    if config.get("imagePullPolicy", "Always") not in PULL_POLICIES:
        remedy = f"expected one of {', '.join(sorted(PULL_POLICIES))}"
        yield f"{where}.imagePullPolicy", f"is {config['imagePullPolicy']!r}", remedy
    for _, task, parent in pipeline.tasks:
        component = pipeline.component_of(task)
        if component is not None and component.executor_label == label:
            for place, value in walk(config, where):
                yield from _source(pipeline, value, parent, place)


def _source(pipeline: Pipeline, setting: Any, parent: Any, where: str) -> Faults:
    """Check the source of a setting, such as of the name of a claim.

    Args:
        pipeline: The pipeline.
        setting: A value of the executor's settings.
        parent: The component whose dag contains the task.
        where: The path of the setting.
    """
    output = look_up(setting, "taskOutputParameter")
    if isinstance(output, dict):
        task, key = output.get("producerTask", ""), output.get("outputParameterKey", "")
        if pipeline.output(parent.dag, task, "parameter", key) is None:
            message = f"this dag has no task {task!r} with an output parameter {key!r}"
            yield f"{where}.taskOutputParameter", message, RECOMPILE
    name = look_up(setting, "componentInputParameter")
    if name is not None and name not in parent.input_definitions.parameters:
        yield f"{where}.componentInputParameter", f"the enclosing component has no input {name!r}", RECOMPILE


def _pipeline_config(config: Document, where: str) -> Faults:
    for name in SECONDS:
        if config.get(name, 0) < 0:
            yield f"{where}.{name}", f"is {config[name]}", "expected a number of seconds, 0 or more"
    if "workspace" not in config:
        return
    workspace, where = config["workspace"], f"{where}.workspace"
    if not workspace.get("size"):
        yield f"{where}.size", "is missing", "write it as 20Gi"
    yield from quantities.faults({"storage": workspace.get("size")}, where)
    patch, where = look_up(workspace, "kubernetes.pvcSpecPatch") or {}, f"{where}.kubernetes.pvcSpecPatch"
    claim = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "workspace"}, "spec": patch}
    for place, message, remedy in core.faults(claim, "", partial=True):
        yield f"{where}{place.removeprefix('spec')}", message, remedy
    for place, mode in select(patch, "accessModes.*", where):
        if isinstance(mode, str) and mode not in ACCESS_MODES:
            yield place, f"{mode!r} is not an access mode", f"expected one of {', '.join(sorted(ACCESS_MODES))}"
