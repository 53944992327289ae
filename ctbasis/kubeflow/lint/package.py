"""A compiled KFP v2 package: its task graph is complete, and its steps can run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import kfp
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineDeploymentConfig, PipelineSpec

from ctbasis.kubeflow.images import PIPELINE
from ctbasis.kubeflow.lint import images, inputs, messages, platforms, quantities, secrets
from ctbasis.kubeflow.lint.messages import RECOMPILE
from ctbasis.kubeflow.lint.paths import Document, Faults, join_path, look_up, select, walk
from ctbasis.kubeflow.lint.pipeline import Pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = {"pipelineInfo", "deploymentSpec", "root"}
WORKSPACE = "{{$.workspace_path}}"
MAX_RETRIES = 20


def faults(document: Document, platform: Document) -> Faults:
    """Check the two documents of a compiled package.

    Args:
        document: The pipeline, the first document.
        platform: The platform document, which is the second; empty if there is none.
    """
    yield from secrets.faults(document)
    mismatches = list(_mismatches(document))
    yield from mismatches
    pipeline = None if mismatches else Pipeline(document)
    if pipeline is not None:
        if not look_up(document, "pipelineInfo.name"):
            yield "pipelineInfo.name", "is empty", "name the pipeline"
        if not document["schemaVersion"].startswith("2."):
            yield "schemaVersion", f"is {document['schemaVersion']!r}", "compile with the KFP 2 SDK"
        yield from _compiler(document)
        yield from _form(document)
        yield from _graph(pipeline)
        yield from images.faults(document["deploymentSpec"], "deploymentSpec")
        for label, executor in pipeline.executors.items():
            yield from _executor(executor, join_path("deploymentSpec.executors", label))
        if not look_up(platform, "platforms.kubernetes.pipelineConfig.workspace"):
            for place, value in walk(document):
                if isinstance(value, str) and WORKSPACE in value:
                    yield place, "uses a workspace that the platform document does not declare", RECOMPILE
    if platform:
        yield from platforms.faults(platform, pipeline)


def _compiler(document: Document) -> Faults:
    """Check that the package of ctbasis was compiled by the kfp of its images, which the steps import."""
    compiler, own = str(document["sdkVersion"]), ".".join(kfp.__version__.split(".")[:2])
    if look_up(document, "pipelineInfo.name") == PIPELINE and not f"{compiler}.".startswith(f"kfp-{own}."):
        message = f"is {compiler!r}, and the steps' images have kfp {kfp.__version__}"
        yield "sdkVersion", message, "run `ctbasis compile` in a checkout of this version of ctbasis"


def _form(document: Document) -> Faults:
    """Check that the form in which a user starts a run explains itself: KFP shows these descriptions there."""
    if not look_up(document, "pipelineInfo.description"):
        yield "pipelineInfo.description", "is missing: the UI shows the bare name", "describe the pipeline"
    for place, parameter in select(document, "root.inputDefinitions.parameters.*"):
        if not look_up(parameter, "description"):
            remedy = "describe it in the section Args of the pipeline's docstring"
            yield f"{place}.description", "is missing: the form shows the bare name", remedy


def _mismatches(document: Document) -> Faults:
    """Yield the faults that prevent KFP from reading the document as a pipeline."""
    for key in sorted({*KEYS, "schemaVersion", "sdkVersion"} - document.keys()):
        yield key, "is missing", "the package is incomplete; compile the pipeline again"
    yield from messages.faults(PipelineSpec.DESCRIPTOR, document)
    deployment = document.get("deploymentSpec", {})
    yield from messages.faults(PipelineDeploymentConfig.DESCRIPTOR, deployment, "deploymentSpec")


def _graph(pipeline: Pipeline) -> Faults:
    yield from _references(pipeline)
    for where, component in pipeline.parts:
        yield from inputs.defaults(component, join_path(where, "inputDefinitions", "parameters"))
        if component.WhichOneof("implementation") == "dag":
            tasks = component.dag.tasks.items()
            predecessors = {name: sorted({*task.dependent_tasks, *_producers(task)}) for name, task in tasks}
            for cycle in _cycles(predecessors):
                place = join_path(where, "dag", "tasks", cycle[0])
                yield place, f"depends on itself: {' after '.join(cycle)}", RECOMPILE
            yield from _outputs(pipeline, component, f"{where}.dag.outputs")
    for where, task, parent in pipeline.tasks:
        yield from _order(task, parent, where)
        yield from inputs.faults(pipeline, task, parent, where)
        yield from _retries(task.retry_policy, f"{where}.retryPolicy")


def _references(pipeline: Pipeline) -> Faults:
    """Check that every referenced component and executor exists, and that each of them is used."""
    for where, task, _ in pipeline.tasks:
        if pipeline.component_of(task) is None:
            message = f"the package has no component {task.component_ref.name!r}"
            yield f"{where}.componentRef.name", message, RECOMPILE
    for where, component in pipeline.parts:
        if component.WhichOneof("implementation") is None:
            yield where, "has neither a dag nor an executorLabel", RECOMPILE
        elif component.executor_label and component.executor_label not in pipeline.executors:
            yield f"{where}.executorLabel", f"the package has no executor {component.executor_label!r}", RECOMPILE
    contents = {
        where: [join_path("components", task.component_ref.name) for task in component.dag.tasks.values()]
        for where, component in pipeline.parts
    }
    reached = ["root"]
    for where in reached:  # The list grows while the loop runs.
        reached += [below for below in contents.get(where, ()) if below not in reached]
    for where in sorted(contents.keys() - reached):
        yield where, "is used by no task", "remove it or use it"
    for cycle in _cycles(contents):
        yield cycle[0], "contains itself", "remove the recursion, which pipelines cannot have"
    for label in sorted(pipeline.executors.keys() - {component.executor_label for _, component in pipeline.parts}):
        yield join_path("deploymentSpec.executors", label), "is used by no component", "remove it or use it"


def _cycles(predecessors: dict[str, list[str]]) -> Iterator[list[str]]:
    """Yield the cycles of a graph, each as its nodes in order, with the first node repeated at the end.

    Args:
        predecessors: The nodes that precede each node, by name.
    """
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> Iterator[list[str]]:
        if name in path:
            yield [*path[path.index(name) :], name]
        elif name not in done:
            for other in predecessors.get(name, ()):
                yield from visit(other, [*path, name])
            done.add(name)

    for name in sorted(predecessors):
        yield from visit(name, [])


def _producers(task: Any) -> set[str]:
    """Return the names of the tasks whose outputs or final status a task reads."""
    parameters, artifacts = task.inputs.parameters.values(), task.inputs.artifacts.values()
    named = {
        *(source.task_output_parameter.producer_task for source in parameters),
        *(source.task_final_status.producer_task for source in parameters),
        *(source.task_output_artifact.producer_task for source in artifacts),
    }
    return named - {""}


def _order(task: Any, parent: Any, where: str) -> Faults:
    """Check that a task runs after the tasks whose outputs it reads, and that an exit task runs after a failure."""
    for dependency in task.dependent_tasks:
        if dependency not in parent.dag.tasks:
            yield f"{where}.dependentTasks", f"this dag has no task {dependency!r}", RECOMPILE
    for producer in sorted(_producers(task) & set(parent.dag.tasks) - set(task.dependent_tasks)):
        yield f"{where}.dependentTasks", f"lacks {producer!r}, whose output the task reads", RECOMPILE
    yield from inputs.placeholders(task, task.trigger_policy.condition, f"{where}.triggerPolicy.condition")
    reads_status = any(source.HasField("task_final_status") for source in task.inputs.parameters.values())
    if reads_status and task.trigger_policy.strategy != task.trigger_policy.ALL_UPSTREAM_TASKS_COMPLETED:
        message = "is not ALL_UPSTREAM_TASKS_COMPLETED: this exit task would not run after a failure"
        yield f"{where}.triggerPolicy.strategy", message, RECOMPILE


def _outputs(pipeline: Pipeline, component: Any, where: str) -> Faults:
    """Check that a dag returns the outputs that its component declares, each from a task that has it."""
    for kind in ("parameter", "artifact"):
        returned = getattr(component.dag.outputs, f"{kind}s")
        declared = getattr(component.output_definitions, f"{kind}s")
        for name in sorted(returned.keys() ^ declared.keys()):
            message = "is returned but not declared" if name in returned else "is declared but no task produces it"
            yield join_path(where, f"{kind}s", name), message, RECOMPILE
        for name, output in returned.items():
            if kind == "artifact":
                sources = output.artifact_selectors
            else:
                sources = output.value_from_oneof.parameter_selectors or [output.value_from_parameter]
            for source in sources:
                task, key = source.producer_subtask, getattr(source, f"output_{kind}_key")
                if pipeline.output(component.dag, task, kind, key) is None:
                    message = f"this dag has no task {task!r} with an output {kind} {key!r}"
                    yield join_path(where, f"{kind}s", name), message, RECOMPILE


def _retries(policy: Any, where: str) -> Faults:
    if not 0 <= policy.max_retry_count <= MAX_RETRIES:
        yield f"{where}.maxRetryCount", f"is {policy.max_retry_count}", f"expected 0 to {MAX_RETRIES}"
    if policy.backoff_factor < 0:
        yield f"{where}.backoffFactor", f"is {policy.backoff_factor:g}", "expected 1 or more"
    first, longest = policy.backoff_duration.ToSeconds(), policy.backoff_max_duration.ToSeconds()
    if first < 0 or longest < 0:
        yield where, "has a negative duration", "give durations such as 10s"
    elif first > longest > 0:
        remedy = "choose a shorter duration, or raise backoffMaxDuration"
        yield f"{where}.backoffDuration", "is longer than backoffMaxDuration", remedy


def _executor(executor: Any, where: str) -> Faults:
    if executor.WhichOneof("spec") is None:
        yield where, "has no container, importer or other specification", RECOMPILE
    if executor.WhichOneof("spec") == "container":
        if not executor.container.image:
            yield f"{where}.container.image", "is missing", images.REMEDY
        resources, place = executor.container.resources, f"{where}.container.resources"
        amounts = {field.json_name: value for field, value in resources.ListFields() if isinstance(value, str)}
        yield from quantities.faults(amounts, place)
        for resource in ("Cpu", "Memory"):
            request, limit = f"resource{resource}Request", f"resource{resource}Limit"
            yield from quantities.above(amounts.get(request), amounts.get(limit), f"{place}.{request}")
