"""The inputs of a pipeline's tasks: each required input has a value, from an existing source, of the right type."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kfp.pipeline_spec.pipeline_spec_pb2 import ParameterType

from ctbasis.kubeflow.lint.messages import RECOMPILE
from ctbasis.kubeflow.lint.paths import Faults, join_path

if TYPE_CHECKING:
    from ctbasis.kubeflow.lint.pipeline import Pipeline

VALUE_KINDS = {
    "STRING": "string_value",
    "NUMBER_INTEGER": "number_value",
    "NUMBER_DOUBLE": "number_value",
    "BOOLEAN": "bool_value",
    "LIST": "list_value",
    "STRUCT": "struct_value",
}
"""The field of `google.protobuf.Value` that holds a constant of each parameter type."""

BACK_END_TYPES = {"TASK_FINAL_STATUS", "TASK_CONFIG"}
"""Types of parameters whose values the back end fills in."""

CONVERTED_TYPES = {("NUMBER_INTEGER", "NUMBER_DOUBLE"), ("TASK_FINAL_STATUS", "STRUCT")}
"""(source, input) types that differ and yet fit, because the back end converts the value."""

ANY_ARTIFACT = {"", "system.Artifact"}
"""Artifact types that fit every other."""

PLACEHOLDER = re.compile(r"inputs\.(?:parameters|parameter_values|artifacts)\[\\?['\"]([^'\"\\]+)")


def faults(pipeline: Pipeline, task: Any, parent: Any, where: str) -> Faults:
    """Check the inputs of a task against the inputs that its component declares.

    Args:
        pipeline: The pipeline.
        task: A `PipelineTaskSpec`.
        parent: The `ComponentSpec` whose dag contains the task.
        where: The task's path.
    """
    component = pipeline.component_of(task)
    if component is None:
        return
    for kind in ("parameter", "artifact"):
        given, declared = getattr(task.inputs, f"{kind}s"), getattr(component.input_definitions, f"{kind}s")
        for name, source in given.items():
            place = join_path(where, "inputs", f"{kind}s", name)
            # The task of an executor has further parameters if a setting, such as its memory, comes from a parameter.
            if name not in declared and not (component.executor_label and kind == "parameter"):
                yield place, f"component {task.component_ref.name!r} has no such input", RECOMPILE
            yield from _source(pipeline, source, parent, declared.get(name), place)
            if kind == "parameter":
                yield from placeholders(task, source.runtime_value.constant.string_value, place)
        loop_item = getattr(task, f"{kind}_iterator").item_input
        for name in sorted(declared.keys() - given.keys() - {loop_item}):
            if not _is_optional(declared[name]):
                yield f"{where}.inputs.{kind}s", f"lacks {name!r}, which the component requires", RECOMPILE
    if task.WhichOneof("iterator"):
        yield from _loop(task, component, where)


def _loop(task: Any, component: Any, where: str) -> Faults:
    """Check the items of a loop, and the input that receives an item in each iteration."""
    kind = task.WhichOneof("iterator").removesuffix("_iterator")
    loop = getattr(task, f"{kind}_iterator")
    items = getattr(loop.items, f"input_{kind}")
    if items and items not in getattr(task.inputs, f"{kind}s"):
        yield f"{where}.{kind}Iterator.items", f"the task has no input {items!r}", RECOMPILE
    if loop.item_input not in getattr(component.input_definitions, f"{kind}s"):
        message = f"component {task.component_ref.name!r} has no input {loop.item_input!r}"
        yield f"{where}.{kind}Iterator.itemInput", message, RECOMPILE


def defaults(component: Any, where: str) -> Faults:
    """Check the types of the default values of a component's parameters.

    Args:
        component: A `ComponentSpec`.
        where: The path of its parameters.
    """
    for name, parameter in component.input_definitions.parameters.items():
        if parameter.HasField("default_value"):
            place = f"{join_path(where, name)}.defaultValue"
            if not _has_type(parameter.default_value, parameter):
                yield place, f"is not of type {_type_name(parameter)}", RECOMPILE
            if parameter.literals and parameter.default_value not in parameter.literals:
                yield place, "is not one of the allowed literals", RECOMPILE


def placeholders(task: Any, text: str, where: str) -> Faults:
    """Check that a text refers to inputs of its task only.

    Args:
        task: A `PipelineTaskSpec`.
        text: A constant or a condition.
        where: The path of the text.
    """
    for name in PLACEHOLDER.findall(text):
        if name not in task.inputs.parameters:
            yield where, f"the task has no input {name!r}", RECOMPILE


def _source(pipeline: Pipeline, source: Any, parent: Any, declared: Any | None, where: str) -> Faults:
    """Check the source of an input, and that its type is the declared one.

    Args:
        pipeline: The pipeline.
        source: The input's source: an `InputParameterSpec` or `InputArtifactSpec` of the task.
        parent: The `ComponentSpec` whose dag contains the task.
        declared: The input as the component declares it, None if it declares no such input.
        where: The path of the input.
    """
    source_kind = source.WhichOneof("kind") or ""
    kind = source_kind.rpartition("_")[2]
    producer = None
    if source_kind.startswith("task_output_"):
        output = getattr(source, source_kind)
        key = getattr(output, f"output_{kind}_key")
        producer = pipeline.output(parent.dag, output.producer_task, kind, key)
        if producer is None:
            yield where, f"this dag has no task {output.producer_task!r} with an output {kind} {key!r}", RECOMPILE
    elif source_kind.startswith("component_input_"):
        name = getattr(source, source_kind)
        producer = getattr(parent.input_definitions, f"{kind}s").get(name)
        if producer is None:
            yield where, f"the enclosing component has no input {name!r}", RECOMPILE
    elif source_kind == "task_final_status" and source.task_final_status.producer_task not in parent.dag.tasks:
        yield where, f"this dag has no task {source.task_final_status.producer_task!r}", RECOMPILE
    elif (
        source_kind == "runtime_value"
        and declared is not None
        and not _has_type(source.runtime_value.constant, declared)
    ):
        yield f"{where}.runtimeValue.constant", f"is not of type {_type_name(declared)}", RECOMPILE
    elif not source_kind:
        yield where, "has no source", RECOMPILE
    # An expression selects a part of the value, whose type is not declared.
    if producer is not None and declared is not None and not getattr(source, "parameter_expression_selector", ""):
        actual, expected = _type_name(producer), _type_name(declared)
        if actual != expected and (actual, expected) not in CONVERTED_TYPES and not {actual, expected} & ANY_ARTIFACT:
            yield where, f"is of type {actual}, but the component expects {expected}", RECOMPILE


def _type_name(declared: Any) -> str:
    """Return the type of a declared parameter or artifact."""
    if hasattr(declared, "parameter_type"):
        return str(ParameterType.ParameterTypeEnum.Name(declared.parameter_type))
    return str(declared.artifact_type.schema_title)


def _has_type(value: Any, parameter: Any) -> bool:
    """Return whether a constant has its parameter's type; a placeholder is filled in at run time and always has."""
    name, kind = _type_name(parameter), value.WhichOneof("kind")
    if name not in VALUE_KINDS or (kind == "string_value" and "{{$" in value.string_value):
        return True
    return kind == VALUE_KINDS[name] and (name != "NUMBER_INTEGER" or value.number_value.is_integer())


def _is_optional(declared: Any) -> bool:
    """Return whether a task may omit an input: it is optional, has a default, or the back end fills it in."""
    has_default = hasattr(declared, "default_value") and declared.HasField("default_value")
    return declared.is_optional or has_default or _type_name(declared) in BACK_END_TYPES
