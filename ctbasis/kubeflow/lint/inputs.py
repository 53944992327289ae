"""What goes into the tasks of a package: every input is given, from a source that exists, of the type wanted."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from kfp.pipeline_spec.pipeline_spec_pb2 import ParameterType

from ctbasis.kubeflow.lint.messages import RECOMPILE
from ctbasis.kubeflow.lint.paths import Faults, at

if TYPE_CHECKING:
    from ctbasis.kubeflow.lint.package import Package

VALUE_KINDS = {
    "STRING": "string_value",
    "NUMBER_INTEGER": "number_value",
    "NUMBER_DOUBLE": "number_value",
    "BOOLEAN": "bool_value",
    "LIST": "list_value",
    "STRUCT": "struct_value",
}
# The back end fills these in.
GIVEN_TYPES = {"TASK_FINAL_STATUS", "TASK_CONFIG"}
CONVERTED_TYPES = {("NUMBER_INTEGER", "NUMBER_DOUBLE"), ("TASK_FINAL_STATUS", "STRUCT")}
ANY_ARTIFACT = {"", "system.Artifact"}
PLACEHOLDER = re.compile(r"inputs\.(?:parameters|parameter_values|artifacts)\[\\?['\"]([^'\"\\]+)")


def faults(package: Package, task: Any, parent: Any, where: str) -> Faults:
    """Check that a task gives its component what that declares.

    Args:
        package: The package.
        task: A `PipelineTaskSpec`.
        parent: The `ComponentSpec` in whose dag it is.
        where: The task's path.
    """
    component = package.component_of(task)
    if component is None:
        return
    for what in ("parameter", "artifact"):
        given, declared = getattr(task.inputs, f"{what}s"), getattr(component.input_definitions, f"{what}s")
        for name, source in given.items():
            place = at(where, "inputs", f"{what}s", name)
            # A task of an executor has further parameters where a setting, such as its memory, comes from one.
            if name not in declared and not (component.executor_label and what == "parameter"):
                yield place, f"component {task.component_ref.name!r} has no such input", RECOMPILE
            yield from _source(package, source, parent, declared.get(name), place)
            if what == "parameter":
                yield from placeholders(task, source.runtime_value.constant.string_value, place)
        handed = getattr(task, f"{what}_iterator").item_input
        for name in sorted(declared.keys() - given.keys() - {handed}):
            if not _may_be_absent(declared[name]):
                yield f"{where}.inputs.{what}s", f"lacks {name!r}, which the component requires", RECOMPILE
    if task.WhichOneof("iterator"):
        yield from _loop(task, component, where)


def _loop(task: Any, component: Any, where: str) -> Faults:
    """Check what a loop runs over and what it hands to each turn."""
    what = task.WhichOneof("iterator").removesuffix("_iterator")
    loop = getattr(task, f"{what}_iterator")
    over = getattr(loop.items, f"input_{what}")
    if over and over not in getattr(task.inputs, f"{what}s"):
        yield f"{where}.{what}Iterator.items", f"no input {over!r} of this task", RECOMPILE
    if loop.item_input not in getattr(component.input_definitions, f"{what}s"):
        wrong = f"component {task.component_ref.name!r} has no input {loop.item_input!r}"
        yield f"{where}.{what}Iterator.itemInput", wrong, RECOMPILE


def defaults(component: Any, where: str) -> Faults:
    """Check that the defaults of a component's parameters, which are at `where`, are of their types."""
    for name, parameter in component.input_definitions.parameters.items():
        if parameter.HasField("default_value"):
            place = f"{at(where, name)}.defaultValue"
            if not _is_of_type(parameter.default_value, parameter):
                yield place, f"is no {_type_name(parameter)}", RECOMPILE
            if parameter.literals and parameter.default_value not in parameter.literals:
                yield place, "is none of the literals allowed", RECOMPILE


def placeholders(task: Any, text: str, where: str) -> Faults:
    """Check that the inputs that a text names are the task's."""
    for name in PLACEHOLDER.findall(text):
        if name not in task.inputs.parameters:
            yield where, f"no input {name!r} of this task", RECOMPILE


def _source(package: Package, source: Any, parent: Any, wanted: Any | None, where: str) -> Faults:
    """Check where an input, a parameter or an artifact, comes from, and that it is of the type wanted."""
    kind = source.WhichOneof("kind") or ""
    what = kind.rpartition("_")[2]
    given = None
    if kind.startswith("task_output_"):
        output = getattr(source, kind)
        key = getattr(output, f"output_{what}_key")
        given = package.output(parent.dag, output.producer_task, what, key)
        if given is None:
            yield where, f"no {what} {key!r} from a task {output.producer_task!r}", RECOMPILE
    elif kind.startswith("component_input_"):
        name = getattr(source, kind)
        given = getattr(parent.input_definitions, f"{what}s").get(name)
        if given is None:
            yield where, f"no input {name!r} of the enclosing component", RECOMPILE
    elif kind == "task_final_status" and source.task_final_status.producer_task not in parent.dag.tasks:
        yield where, f"no task {source.task_final_status.producer_task!r} in this dag", RECOMPILE
    elif kind == "runtime_value" and wanted is not None and not _is_of_type(source.runtime_value.constant, wanted):
        yield f"{where}.runtimeValue.constant", f"is no {_type_name(wanted)}", RECOMPILE
    elif not kind:
        yield where, "comes from nowhere", RECOMPILE
    # An expression takes a part of the value, of whatever type that is.
    if given is not None and wanted is not None and not getattr(source, "parameter_expression_selector", ""):
        has, wants = _type_name(given), _type_name(wanted)
        if has != wants and (has, wants) not in CONVERTED_TYPES and not {has, wants} & ANY_ARTIFACT:
            yield where, f"is a {has} where a {wants} is wanted", RECOMPILE


def _type_name(declared: Any) -> str:
    """Return the type of a declared parameter or artifact."""
    if hasattr(declared, "parameter_type"):
        return str(ParameterType.ParameterTypeEnum.Name(declared.parameter_type))
    return str(declared.artifact_type.schema_title)


def _is_of_type(value: Any, parameter: Any) -> bool:
    """Tell whether a constant fits its parameter; a placeholder is filled in at run time and fits."""
    name, kind = _type_name(parameter), value.WhichOneof("kind")
    if name not in VALUE_KINDS or (kind == "string_value" and "{{$" in value.string_value):
        return True
    return kind == VALUE_KINDS[name] and (name != "NUMBER_INTEGER" or value.number_value.is_integer())


def _may_be_absent(declared: Any) -> bool:
    """Tell whether a task may leave an input out: it is optional, has a default, or the back end fills it in."""
    has_default = hasattr(declared, "default_value") and declared.HasField("default_value")
    return declared.is_optional or has_default or _type_name(declared) in GIVEN_TYPES
