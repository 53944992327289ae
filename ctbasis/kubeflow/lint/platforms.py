"""The platform document of a compiled package: what Kubernetes adds to the pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PlatformSpec

from ctbasis.kubeflow.lint import core, messages, quantities, secrets
from ctbasis.kubeflow.lint.messages import RECOMPILE
from ctbasis.kubeflow.lint.paths import Document, Faults, at, children, look_up, select, walk

if TYPE_CHECKING:
    from ctbasis.kubeflow.lint.package import Package

ACCESS_MODES = {"ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod"}
PULL_POLICIES = {"Always", "IfNotPresent", "Never"}
SECONDS = ("resourceTtlOnCompletion", "resourceTtlOnSuccess", "resourceTtlOnFailure", "activeDeadlineSeconds")


def faults(document: Document, package: Package | None) -> Faults:
    """Check a platform document; `package` is what it belongs to, None if that cannot be read."""
    yield from secrets.faults(document)
    misfits = list(messages.faults(PlatformSpec.DESCRIPTOR, document))
    yield from misfits
    for name, platform in document["platforms"].items() if not misfits else ():
        where = at("platforms", name)
        if name != "kubernetes":
            yield where, "is no platform of kfp-kubernetes", "kubernetes"
            continue
        for label, config in children(look_up(platform, "deploymentSpec.executors")):
            yield from _executor(label, config, package, at(where, "deploymentSpec", "executors", label))
        yield from _pipeline(platform.get("pipelineConfig", {}), f"{where}.pipelineConfig")


def _executor(label: str, config: Any, package: Package | None, where: str) -> Faults:
    """Check what Kubernetes adds to the executor of that label."""
    misfits = list(messages.faults(KubernetesExecutorConfig.DESCRIPTOR, config, where))
    yield from misfits
    if misfits or package is None:
        return
    if label not in package.executors:
        yield where, f"no executor {label!r}", RECOMPILE
    if config.get("imagePullPolicy", "Always") not in PULL_POLICIES:
        yield f"{where}.imagePullPolicy", f"is {config['imagePullPolicy']!r}", ", ".join(sorted(PULL_POLICIES))
    for _, task, parent in package.tasks:
        component = package.component_of(task)
        if component is not None and component.executor_label == label:
            for place, value in walk(config, where):
                yield from _source(package, value, parent, place)


def _source(package: Package, setting: Any, parent: Any, where: str) -> Faults:
    """Check where a setting, such as the name of a claim, comes from; `parent` is the component around the task."""
    output = look_up(setting, "taskOutputParameter")
    if isinstance(output, dict):
        task, key = output.get("producerTask", ""), output.get("outputParameterKey", "")
        if package.output(parent.dag, task, "parameter", key) is None:
            yield f"{where}.taskOutputParameter", "no such output of a task in this dag", RECOMPILE
    name = look_up(setting, "componentInputParameter")
    if name is not None and name not in parent.input_definitions.parameters:
        yield f"{where}.componentInputParameter", f"no input {name!r} of the enclosing component", RECOMPILE


def _pipeline(config: Document, where: str) -> Faults:
    for name in SECONDS:
        if config.get(name, 0) < 0:
            yield f"{where}.{name}", f"is {config[name]}", "a number of seconds"
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
            yield place, f"{mode!r} is no access mode", ", ".join(sorted(ACCESS_MODES))
