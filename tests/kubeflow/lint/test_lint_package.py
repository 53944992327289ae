"""Every rule for a compiled pipeline finds its planted fault at its place."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from ctbasis.kubeflow.lint import lint
from tests.kubeflow.lint.samples import assert_reported, at, drop, put, saved

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HANDLER = "components comp-exit-handler-1 dag tasks"
HANDLER_AT = "components.comp-exit-handler-1.dag.tasks"
NUMBERS = "deploymentSpec executors exec-numbers container"
NUMBERS_AT = "deploymentSpec.executors.exec-numbers.container"


def test_a_pipeline_with_loops_and_conditions_has_no_fault(compiled: list[dict[str, Any]], tmp_path: Path) -> None:
    assert [str(fault) for fault in lint([saved(tmp_path / "rich.yaml", *compiled)])] == []


def add_unused_component(spec: dict[str, Any]) -> None:
    spec["components"]["comp-orphan"] = copy.deepcopy(spec["components"]["comp-say"])


def add_unused_executor(spec: dict[str, Any]) -> None:
    executors = spec["deploymentSpec"]["executors"]
    executors["exec-orphan"] = copy.deepcopy(executors["exec-say"])


def nest_component_in_itself(spec: dict[str, Any]) -> None:
    tasks = spec["components"]["comp-inner"]["dag"]["tasks"]
    tasks["again"] = {"componentRef": {"name": "comp-inner"}, "inputs": copy.deepcopy(tasks["say"]["inputs"])}


def add_cycle(spec: dict[str, Any]) -> None:
    at(spec, HANDLER)["numbers"]["dependentTasks"] = ["total"]


def return_undeclared_output(spec: dict[str, Any]) -> None:
    del at(spec, "components comp-inner outputDefinitions parameters")["Output"]


SPEC_FAULTS: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "no component": (
        put(f"{HANDLER} numbers componentRef name", "comp-nowhere"),
        f"{HANDLER_AT}.numbers.componentRef.name",
        "no component 'comp-nowhere'",
    ),
    "no executor": (
        put("components comp-numbers executorLabel", "exec-nowhere"),
        "components.comp-numbers.executorLabel",
        "no executor 'exec-nowhere'",
    ),
    "neither dag nor executor": (
        drop("components comp-numbers executorLabel"),
        "components.comp-numbers",
        "neither a dag nor an executorLabel",
    ),
    "unused component": (add_unused_component, "components.comp-orphan", "used by no task"),
    "unused executor": (add_unused_executor, "deploymentSpec.executors.exec-orphan", "used by no component"),
    "component in itself": (nest_component_in_itself, "components.comp-inner", "contains itself"),
    "cycle": (add_cycle, f"{HANDLER_AT}.total", "total after for-loop-2 after numbers after total"),
    "missing dependency": (
        put(f"{HANDLER} total dependentTasks", ["numbers", "nobody", "for-loop-1"]),
        f"{HANDLER_AT}.total.dependentTasks",
        "no task 'nobody'",
    ),
    "data dependency without an order": (
        drop(f"{HANDLER} total dependentTasks"),
        f"{HANDLER_AT}.total.dependentTasks",
        "lacks 'numbers'",
    ),
    "no producer": (
        put(f"{HANDLER} total inputs artifacts table taskOutputArtifact producerTask", "nobody"),
        f"{HANDLER_AT}.total.inputs.artifacts.table",
        "no task 'nobody' with an output artifact 'table'",
    ),
    "no output artifact": (
        put(f"{HANDLER} total inputs artifacts table taskOutputArtifact outputArtifactKey", "chart"),
        f"{HANDLER_AT}.total.inputs.artifacts.table",
        "with an output artifact 'chart'",
    ),
    "no output parameter": (
        put(f"{HANDLER} total inputs parameters values taskOutputParameter outputParameterKey", "sum"),
        f"{HANDLER_AT}.total.inputs.parameters.values",
        "with an output parameter 'sum'",
    ),
    "no enclosing input": (
        put(f"{HANDLER} numbers inputs parameters n componentInputParameter", "m"),
        f"{HANDLER_AT}.numbers.inputs.parameters.n",
        "the enclosing component has no input 'm'",
    ),
    "input without a source": (
        put(f"{HANDLER} numbers inputs parameters n", {}),
        f"{HANDLER_AT}.numbers.inputs.parameters.n",
        "has no source",
    ),
    "two sources": (
        put(f"{HANDLER} numbers inputs parameters n runtimeValue", {"constant": 3}),
        f"{HANDLER_AT}.numbers.inputs.parameters.n",
        "exclude each other",
    ),
    "unknown input of a dag": (
        put("root dag tasks inner-2 inputs parameters colour", {"runtimeValue": {"constant": "red"}}),
        "root.dag.tasks.inner-2.inputs.parameters.colour",
        "has no such input",
    ),
    "unknown input artifact of an executor": (
        put(
            f"{HANDLER} total inputs artifacts chart",
            {"taskOutputArtifact": {"producerTask": "numbers", "outputArtifactKey": "table"}},
        ),
        f"{HANDLER_AT}.total.inputs.artifacts.chart",
        "has no such input",
    ),
    "required parameter omitted": (
        drop(f"{HANDLER} numbers inputs parameters n"),
        f"{HANDLER_AT}.numbers.inputs.parameters",
        "lacks 'n'",
    ),
    "required artifact omitted": (
        drop(f"{HANDLER} total inputs artifacts table"),
        f"{HANDLER_AT}.total.inputs.artifacts",
        "lacks 'table'",
    ),
    "parameter of another type": (
        put("components comp-say inputDefinitions parameters text parameterType", "BOOLEAN"),
        "components.comp-inner-2.dag.tasks.say.inputs.parameters.text",
        "is of type STRING, but the component expects BOOLEAN",
    ),
    "artifact of another type": (
        put("components comp-total inputDefinitions artifacts table artifactType schemaTitle", "system.Model"),
        f"{HANDLER_AT}.total.inputs.artifacts.table",
        "is of type system.Dataset, but the component expects system.Model",
    ),
    "constant of another type": (
        put("root dag tasks inner-2 inputs parameters text runtimeValue constant", 3),
        "root.dag.tasks.inner-2.inputs.parameters.text.runtimeValue.constant",
        "is not of type STRING",
    ),
    "fraction instead of an integer": (
        put(f"{HANDLER} numbers inputs parameters n", {"runtimeValue": {"constant": 1.5}}),
        f"{HANDLER_AT}.numbers.inputs.parameters.n.runtimeValue.constant",
        "is not of type NUMBER_INTEGER",
    ),
    "default of another type": (
        put("root inputDefinitions parameters n defaultValue", "three"),
        "root.inputDefinitions.parameters.n.defaultValue",
        "is not of type NUMBER_INTEGER",
    ),
    "default that is not among the literals": (
        put("root inputDefinitions parameters word literals", ["mean"]),
        "root.inputDefinitions.parameters.word.defaultValue",
        "not one of the allowed literals",
    ),
    "placeholder for an unknown input": (
        put("root dag tasks inner-2 inputs parameters text runtimeValue constant", "{{$.inputs.parameters['x']}}"),
        "root.dag.tasks.inner-2.inputs.parameters.text",
        "no input 'x'",
    ),
    "condition on an unknown input": (
        put(
            "components comp-condition-branches-3 dag tasks condition-4 triggerPolicy condition",
            "inputs.parameter_values['x'] == 3",
        ),
        "components.comp-condition-branches-3.dag.tasks.condition-4.triggerPolicy.condition",
        "no input 'x'",
    ),
    "exit task that a failure skips": (
        drop("root dag tasks farewell triggerPolicy"),
        "root.dag.tasks.farewell.triggerPolicy.strategy",
        "would not run after a failure",
    ),
    "status of an unknown task": (
        put("root dag tasks farewell inputs parameters status taskFinalStatus producerTask", "nobody"),
        "root.dag.tasks.farewell.inputs.parameters.status",
        "no task 'nobody'",
    ),
    "loop over an unknown input": (
        put(f"{HANDLER} for-loop-2 parameterIterator items inputParameter", "x"),
        f"{HANDLER_AT}.for-loop-2.parameterIterator.items",
        "no input 'x'",
    ),
    "loop item for an unknown input": (
        put(f"{HANDLER} for-loop-2 parameterIterator itemInput", "x"),
        f"{HANDLER_AT}.for-loop-2.parameterIterator.itemInput",
        "has no input 'x'",
    ),
    "dag output from an unknown task": (
        put("root dag outputs parameters Output valueFromParameter producerSubtask", "nobody"),
        "root.dag.outputs.parameters.Output",
        "no task 'nobody' with an output parameter",
    ),
    "dag output returned but not declared": (
        return_undeclared_output,
        "components.comp-inner.dag.outputs.parameters.Output",
        "returned but not declared",
    ),
    "dag output declared but not returned": (
        put("root outputDefinitions parameters More", {"parameterType": "STRING"}),
        "root.dag.outputs.parameters.More",
        "declared but no task produces it",
    ),
    "negative retries": (
        put(f"{HANDLER} numbers retryPolicy maxRetryCount", -1),
        f"{HANDLER_AT}.numbers.retryPolicy.maxRetryCount",
        "is -1",
    ),
    "endless retries": (
        put(f"{HANDLER} numbers retryPolicy maxRetryCount", 1000),
        f"{HANDLER_AT}.numbers.retryPolicy.maxRetryCount",
        "is 1000",
    ),
    "negative back-off factor": (
        put(f"{HANDLER} numbers retryPolicy backoffFactor", -2.0),
        f"{HANDLER_AT}.numbers.retryPolicy.backoffFactor",
        "is -2",
    ),
    "negative back-off": (
        put(f"{HANDLER} numbers retryPolicy backoffDuration", "-1s"),
        f"{HANDLER_AT}.numbers.retryPolicy",
        "negative duration",
    ),
    "back-off above its maximum": (
        put(f"{HANDLER} numbers retryPolicy backoffDuration", "90s"),
        f"{HANDLER_AT}.numbers.retryPolicy.backoffDuration",
        "longer than backoffMaxDuration",
    ),
    "executor without a specification": (
        put("deploymentSpec executors exec-numbers", {}),
        "deploymentSpec.executors.exec-numbers",
        "has no container",
    ),
    "no image": (drop(f"{NUMBERS} image"), f"{NUMBERS_AT}.image", "is missing"),
    "image without a tag": (put(f"{NUMBERS} image", "host:5000/steps"), f"{NUMBERS_AT}.image", "no tag"),
    "image latest": (put(f"{NUMBERS} image", "steps:latest"), f"{NUMBERS_AT}.image", "not pinned"),
    "image digest malformed": (put(f"{NUMBERS} image", "steps@sha256:12"), f"{NUMBERS_AT}.image", "malformed digest"),
    "image chosen at run time": (
        put(f"{NUMBERS} image", "{{$.inputs.parameters['image']}}"),
        f"{NUMBERS_AT}.image",
        "chosen at run time",
    ),
    "invalid image reference": (
        put(f"{NUMBERS} image", "two words:1"),
        f"{NUMBERS_AT}.image",
        "not a valid image reference",
    ),
    "memory that is not a quantity": (
        put(f"{NUMBERS} resources resourceMemoryLimit", "2GB"),
        f"{NUMBERS_AT}.resources.resourceMemoryLimit",
        "not a quantity",
    ),
    "cpu that is not a quantity": (
        put(f"{NUMBERS} resources resourceCpuLimit", "two"),
        f"{NUMBERS_AT}.resources.resourceCpuLimit",
        "not a quantity",
    ),
    "memory of a few bytes": (
        put(f"{NUMBERS} resources resourceMemoryLimit", "4"),
        f"{NUMBERS_AT}.resources.resourceMemoryLimit",
        "4 bytes",
    ),
    "request above limit": (
        put(f"{NUMBERS} resources resourceMemoryRequest", "3Gi"),
        f"{NUMBERS_AT}.resources.resourceMemoryRequest",
        "above the limit",
    ),
    "misspelt key": (
        put(f"{HANDLER} numbers cachingOption", {}),
        f"{HANDLER_AT}.numbers.cachingOption",
        "is not a field of",
    ),
    "misspelt key of an executor": (put(f"{NUMBERS} imag", "x:1"), f"{NUMBERS_AT}.imag", "is not a field of"),
    "wrong type": (
        put(f"{HANDLER} numbers retryPolicy maxRetryCount", "often"),
        f"{HANDLER_AT}.numbers.retryPolicy.maxRetryCount",
        "has an invalid value",
    ),
    "unknown parameter type": (
        put("root inputDefinitions parameters n parameterType", "NUMBER"),
        "root.inputDefinitions.parameters.n.parameterType",
        "has an invalid value",
    ),
    "number instead of an enum name": (
        put("root inputDefinitions parameters n parameterType", -1),
        "root.inputDefinitions.parameters.n.parameterType",
        "one of PARAMETER_TYPE_ENUM_UNSPECIFIED",
    ),
    "list for mapping": (put("components", []), "components", "not a mapping"),
    "mapping for list": (
        put("components comp-total taskConfigPassthroughs", {}),
        "components.comp-total.taskConfigPassthroughs",
        "not a list",
    ),
    "scalar for message": (put("root", 3), "root", "not a ComponentSpec"),
    "section missing": (drop("deploymentSpec"), "deploymentSpec", "is missing"),
    "version missing": (drop("schemaVersion"), "schemaVersion", "is missing"),
    "old schema": (put("schemaVersion", "1.0"), "schemaVersion", "is '1.0'"),
    "pipeline without a name": (put("pipelineInfo name", ""), "pipelineInfo.name", "is empty"),
    "password as environment": (
        put(f"{NUMBERS} env", [{"name": "S3_PASSWORD", "value": "hunter2"}]),
        f"{NUMBERS_AT}.env[0].value",
        "gives S3_PASSWORD a literal value",
    ),
    "AWS key": (
        put(f"{NUMBERS} env", [{"name": "WHO", "value": "AKIA" + "A1B2" * 4}]),
        f"{NUMBERS_AT}.env[0].value",
        "an AWS access key",
    ),
    "token as default": (
        put(
            "root inputDefinitions parameters api_token",
            {"parameterType": "STRING", "defaultValue": "abc", "description": "A token."},
        ),
        "root.inputDefinitions.parameters.api_token.defaultValue",
        "gives api_token a literal value",
    ),
    "access key as constant": (
        put("root dag tasks inner-2 inputs parameters access_key", {"runtimeValue": {"constant": "abc"}}),
        "root.dag.tasks.inner-2.inputs.parameters.access_key.runtimeValue.constant",
        "gives access_key a literal value",
    ),
    "private key": (
        put("root inputDefinitions parameters word defaultValue", "-----BEGIN RSA PRIVATE KEY-----\nMII"),
        "root.inputDefinitions.parameters.word.defaultValue",
        "a private key",
    ),
    "password in a URL": (
        put("root inputDefinitions parameters word defaultValue", "https://user:pass@host/"),
        "root.inputDefinitions.parameters.word.defaultValue",
        "a password in a URL",
    ),
    "secret as an option": (
        put(f"{NUMBERS} args", ["--s3-secret-key=abc"]),
        f"{NUMBERS_AT}.args[0]",
        "a secret as a command-line option",
    ),
}


@pytest.mark.parametrize("name", SPEC_FAULTS)
def test_a_fault_in_the_graph_is_reported_at_its_place(
    name: str, compiled: list[dict[str, Any]], tmp_path: Path
) -> None:
    mutate, where, message = SPEC_FAULTS[name]
    spec, platform = copy.deepcopy(compiled)
    mutate(spec)
    assert_reported(lint([saved(tmp_path / "p.yaml", spec, platform)]), where, message)


@pytest.mark.parametrize("name", [name for name in SPEC_FAULTS if "password" in name or "key" in name])
def test_fault_messages_do_not_repeat_secrets(name: str, compiled: list[dict[str, Any]], tmp_path: Path) -> None:
    spec, platform = copy.deepcopy(compiled)
    SPEC_FAULTS[name][0](spec)
    messages = " ".join(map(str, lint([saved(tmp_path / "p.yaml", spec, platform)])))
    assert not any(value in messages for value in ("hunter2", "A1B2", "user:pass", "MII"))
