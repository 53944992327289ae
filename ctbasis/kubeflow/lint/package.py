"""A compiled KFP v2 package: its graph is whole and its steps can run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineDeploymentConfig, PipelineSpec

from ctbasis.kubeflow.lint import images, inputs, messages, platforms, quantities, secrets
from ctbasis.kubeflow.lint.messages import RECOMPILE
from ctbasis.kubeflow.lint.paths import Document, Faults, at, look_up, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = {"pipelineInfo", "deploymentSpec", "root"}
WORKSPACE = "{{$.workspace_path}}"
MOST_RETRIES = 20


class Package:
    """A compiled pipeline, as KFP's own messages.

    Args:
        document: Its first YAML document, in which every key is known and of its type.

    Attributes:
        executors: By label.
        components: By name; the root is not among them.
        parts: (path, `ComponentSpec`) of the root and every component.
        tasks: (path, `PipelineTaskSpec`, the `ComponentSpec` in whose dag it is).
    """

    def __init__(self, document: Document) -> None:
        spec = json_format.ParseDict(dict(document), PipelineSpec())
        self.executors = json_format.ParseDict(document["deploymentSpec"], PipelineDeploymentConfig()).executors
        self.components = spec.components
        self.parts = [
            ("root", spec.root),
            *((at("components", name), component) for name, component in sorted(spec.components.items())),
        ]
        self.tasks = [
            (at(where, "dag", "tasks", name), task, parent)
            for where, parent in self.parts
            for name, task in parent.dag.tasks.items()
        ]

    def component_of(self, task: Any) -> Any | None:
        """Return the component that a task refers to, None if it dangles."""
        return self.components.get(task.component_ref.name)

    def output(self, dag: Any, task: str, what: str, key: str) -> Any | None:
        """Return an output, a `parameter` or an `artifact`, of the task of that name in `dag`, None if it dangles."""
        component = self.component_of(dag.tasks[task]) if task in dag.tasks else None
        return None if component is None else getattr(component.output_definitions, f"{what}s").get(key)


def faults(document: Document, platform: Document) -> Faults:
    """Check the two documents of a compiled package; `platform`, the second, is empty if there is none."""
    yield from secrets.faults(document)
    misfits = list(_misfits(document))
    yield from misfits
    package = None if misfits else Package(document)
    if package is not None:
        if not look_up(document, "pipelineInfo.name"):
            yield "pipelineInfo.name", "is empty", "name the pipeline"
        if not document["schemaVersion"].startswith("2."):
            yield "schemaVersion", f"is {document['schemaVersion']!r}", "compile with the KFP 2 SDK"
        yield from _graph(package)
        yield from images.faults(document["deploymentSpec"], "deploymentSpec")
        for label, executor in package.executors.items():
            yield from _executor(executor, at("deploymentSpec.executors", label))
        if not look_up(platform, "platforms.kubernetes.pipelineConfig.workspace"):
            for place, value in walk(document):
                if isinstance(value, str) and WORKSPACE in value:
                    yield place, "asks for a workspace that the platform document does not declare", RECOMPILE
    if platform:
        yield from platforms.faults(platform, package)


def _misfits(document: Document) -> Faults:
    """Find what keeps a document from being a package."""
    for key in sorted({*KEYS, "schemaVersion", "sdkVersion"} - document.keys()):
        yield key, "is missing", "this is no whole package; compile the pipeline again"
    yield from messages.faults(PipelineSpec.DESCRIPTOR, document)
    deployment = document.get("deploymentSpec", {})
    yield from messages.faults(PipelineDeploymentConfig.DESCRIPTOR, deployment, "deploymentSpec")


def _graph(package: Package) -> Faults:
    yield from _references(package)
    for where, component in package.parts:
        yield from inputs.defaults(component, at(where, "inputDefinitions", "parameters"))
        if component.WhichOneof("implementation") == "dag":
            tasks = component.dag.tasks.items()
            for circle in _circles({name: sorted({*task.dependent_tasks, *_producers(task)}) for name, task in tasks}):
                place = at(where, "dag", "tasks", circle[0])
                yield place, f"waits for itself: {' after '.join(circle)}", RECOMPILE
            yield from _outputs(package, component, f"{where}.dag.outputs")
    for where, task, parent in package.tasks:
        yield from _order(task, parent, where)
        yield from inputs.faults(package, task, parent, where)
        yield from _retries(task.retry_policy, f"{where}.retryPolicy")


def _references(package: Package) -> Faults:
    """Check that every reference has its target and every target a reference."""
    for where, task, _ in package.tasks:
        if package.component_of(task) is None:
            yield f"{where}.componentRef.name", f"no component {task.component_ref.name!r}", RECOMPILE
    for where, component in package.parts:
        if component.WhichOneof("implementation") is None:
            yield where, "has neither a dag nor an executorLabel", RECOMPILE
        elif component.executor_label and component.executor_label not in package.executors:
            yield f"{where}.executorLabel", f"no executor {component.executor_label!r}", RECOMPILE
    contents = {
        where: [at("components", task.component_ref.name) for task in component.dag.tasks.values()]
        for where, component in package.parts
    }
    reached = ["root"]
    for where in reached:  # It grows as it is gone through.
        reached += [below for below in contents.get(where, ()) if below not in reached]
    for where in sorted(contents.keys() - reached):
        yield where, "is reached by no task", "remove it or use it"
    for circle in _circles(contents):
        yield circle[0], "contains itself", "a pipeline has no recursion"
    for label in sorted(package.executors.keys() - {component.executor_label for _, component in package.parts}):
        yield at("deploymentSpec.executors", label), "is no component's executor", "remove it or use it"


def _circles(before: dict[str, list[str]]) -> Iterator[list[str]]:
    """Yield the circles among names and those that come before each."""
    done: set[str] = set()

    def visit(name: str, above: list[str]) -> Iterator[list[str]]:
        if name in above:
            yield [*above[above.index(name) :], name]
        elif name not in done:
            for other in before.get(name, ()):
                yield from visit(other, [*above, name])
            done.add(name)

    for name in sorted(before):
        yield from visit(name, [])


def _producers(task: Any) -> set[str]:
    """Return the names of the tasks whose outputs or final status `task` reads."""
    parameters, artifacts = task.inputs.parameters.values(), task.inputs.artifacts.values()
    named = {
        *(source.task_output_parameter.producer_task for source in parameters),
        *(source.task_final_status.producer_task for source in parameters),
        *(source.task_output_artifact.producer_task for source in artifacts),
    }
    return named - {""}


def _order(task: Any, parent: Any, where: str) -> Faults:
    """Check that a task comes after what it reads, and runs where it must."""
    for dependency in task.dependent_tasks:
        if dependency not in parent.dag.tasks:
            yield f"{where}.dependentTasks", f"no task {dependency!r} in this dag", RECOMPILE
    for producer in sorted(_producers(task) & set(parent.dag.tasks) - set(task.dependent_tasks)):
        yield f"{where}.dependentTasks", f"lacks {producer!r}, whose output the task reads", RECOMPILE
    yield from inputs.placeholders(task, task.trigger_policy.condition, f"{where}.triggerPolicy.condition")
    reads_status = any(source.HasField("task_final_status") for source in task.inputs.parameters.values())
    if reads_status and task.trigger_policy.strategy != task.trigger_policy.ALL_UPSTREAM_TASKS_COMPLETED:
        yield f"{where}.triggerPolicy.strategy", "an exit task would not run after a failure", RECOMPILE


def _outputs(package: Package, component: Any, where: str) -> Faults:
    """Check that a dag puts out what its component declares, each from a task that has it."""
    for what in ("parameter", "artifact"):
        returned = getattr(component.dag.outputs, f"{what}s")
        promised = getattr(component.output_definitions, f"{what}s")
        for name in sorted(returned.keys() ^ promised.keys()):
            wrong = "is returned but not declared" if name in returned else "is declared but no task gives it"
            yield at(where, f"{what}s", name), wrong, RECOMPILE
        for name, output in returned.items():
            if what == "artifact":
                sources = output.artifact_selectors
            else:
                sources = output.value_from_oneof.parameter_selectors or [output.value_from_parameter]
            for source in sources:
                task, key = source.producer_subtask, getattr(source, f"output_{what}_key")
                if package.output(component.dag, task, what, key) is None:
                    yield at(where, f"{what}s", name), f"no {what} {key!r} from a task {task!r}", RECOMPILE


def _retries(policy: Any, where: str) -> Faults:
    if not 0 <= policy.max_retry_count <= MOST_RETRIES:
        yield f"{where}.maxRetryCount", f"is {policy.max_retry_count}", f"0 to {MOST_RETRIES}"
    if policy.backoff_factor < 0:
        yield f"{where}.backoffFactor", f"is {policy.backoff_factor:g}", "1 or more"
    first, longest = policy.backoff_duration.ToSeconds(), policy.backoff_max_duration.ToSeconds()
    if first < 0 or longest < 0:
        yield where, "waits a negative time", "give durations such as 10s"
    elif first > longest > 0:
        yield f"{where}.backoffDuration", "is longer than backoffMaxDuration", "begin below the maximum"


def _executor(executor: Any, where: str) -> Faults:
    if executor.WhichOneof("spec") is None:
        yield where, "has no container, importer or other specification", RECOMPILE
    if executor.WhichOneof("spec") == "container":
        if not executor.container.image:
            yield f"{where}.container.image", "is missing", images.REMEDY
        resources, place = executor.container.resources, f"{where}.container.resources"
        amounts = {field.json_name: value for field, value in resources.ListFields() if isinstance(value, str)}
        yield from quantities.faults(amounts, place)
        for what in ("Cpu", "Memory"):
            request, limit = f"resource{what}Request", f"resource{what}Limit"
            yield from quantities.above(amounts.get(request), amounts.get(limit), f"{place}.{request}")
