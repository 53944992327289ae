"""Every rule of the lint finds its planted fault at its place, and finds none in what is good."""

# KFP reads the components' annotations as objects, so they are not postponed here.
import copy
import socket
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from kfp import compiler, dsl, kubernetes

from ctbasis.kubeflow.lint import Fault, committed, lint, quantity

IMAGE = "ctbasis/steps:1.0"


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def numbers(n: int, folder: str, table: dsl.Output[dsl.Dataset]) -> list[int]:
    table.metadata["folder"] = folder
    return list(range(n))


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def double(n: int, factor: float = 2.0) -> float:
    return n * factor


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def total(values: list[float], table: dsl.Input[dsl.Dataset], word: str = "sum") -> str:
    return f"{word} of {table.uri}: {sum(values)}"


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def say(text: str, loud: bool = False) -> str:
    return text.upper() if loud else text


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def farewell(workspace: str, status: dsl.PipelineTaskFinalStatus) -> None:
    print(workspace, status.state)  # noqa: T201 - a component speaks through its log


@dsl.pipeline(name="inner")
def inner(text: str) -> str:
    return say(text=text).output


@dsl.pipeline(
    name="rich",
    pipeline_config=dsl.PipelineConfig(
        workspace=dsl.WorkspaceConfig(
            size="1Gi",
            kubernetes=dsl.KubernetesWorkspaceConfig(pvcSpecPatch={"accessModes": ["ReadWriteMany"]}),
        ),
        ttl_seconds_after_finished=60,
    ),
)
def rich(n: int = 3, claim: str = "data", word: str = "sum") -> str:
    workspace = f"{dsl.WORKSPACE_PATH_PLACEHOLDER}/x"
    with dsl.ExitHandler(farewell(workspace=workspace)):
        listed = numbers(n=n, folder=workspace)
        kubernetes.mount_pvc(listed, pvc_name=claim, mount_path="/data")
        kubernetes.use_secret_as_env(listed, "s3", {"key": "AWS_SECRET_ACCESS_KEY"})
        listed.set_retry(num_retries=2, backoff_duration="10s", backoff_factor=2.0, backoff_max_duration="60s")
        listed.set_cpu_request("500m").set_cpu_limit("1").set_memory_request("1Gi").set_memory_limit("2Gi")
        listed.set_env_variable("LOG_LEVEL", "info")
        with dsl.ParallelFor(listed.outputs["Output"]) as item:
            doubled = double(n=item)
        added = total(values=dsl.Collected(doubled.output), table=listed.outputs["table"], word=word)
        with dsl.If(n == 3):
            three = say(text=added.output)
        with dsl.Else():
            other = inner(text="other")
        chosen = dsl.OneOf(three.output, other.output)
        say(text=chosen).set_env_variable("LOG_LEVEL", "info")
    return inner(text="end").output


APPLICATION = """
apiVersion: sparkoperator.k8s.io/v1beta2
kind: SparkApplication
metadata:
  name: svd
spec:
  type: Python
  pythonVersion: "3"
  mode: cluster
  sparkVersion: 3.5.9
  image: ctbasis/spark:1.0
  mainApplicationFile: local:///opt/job.py
  sparkConf:
    spark.serializer: org.apache.spark.serializer.KryoSerializer
    spark.hadoop.fs.s3a.aws.credentials.provider: com.amazonaws.auth.EnvironmentVariableCredentialsProvider
    spark.kubernetes.driver.secretKeyRef.AWS_SECRET_ACCESS_KEY: s3:key
  restartPolicy:
    type: OnFailure
    onFailureRetries: 2
  driver:
    cores: 1
    memory: 2g
    serviceAccount: spark
    env:
      - name: AWS_SECRET_ACCESS_KEY
        valueFrom: {secretKeyRef: {name: s3, key: key}}
  executor:
    instances: 2
    cores: 1
    memory: 3g
"""

POD = """
apiVersion: v1
kind: Pod
metadata:
  name: step
spec:
  serviceAccountName: step
  automountServiceAccountToken: true
  containers:
    - name: main
      image: registry.example:5000/ctbasis/steps@sha256:{digest}
      env:
        - name: SECRET_NAME
          value: s3
        - name: LOG_LEVEL
          value: info
      resources:
        requests: {{cpu: 500m, memory: 1Gi}}
        limits: {{cpu: "1", memory: 1Gi}}
""".format(digest="0" * 64)

KUSTOMIZATION = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources:
  - pod.yaml
  - application.yaml
patches:
  - path: bigger.yaml
  - path: renamed.yaml
    target: {kind: Pod}
  - patch: |-
      apiVersion: v1
      kind: Pod
      metadata: {name: step}
      spec: {priority: 1}
images:
  - name: ctbasis/spark
    newTag: "1.1"
"""

BIGGER = """
apiVersion: sparkoperator.k8s.io/v1beta2
kind: SparkApplication
metadata:
  name: svd
spec:
  executor:
    instances: 64
"""

RENAMED = """
- op: replace
  path: /metadata/name
  value: other
"""


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Return the two documents of a good package: loops, conditions, nesting, exit handler, workspace, platform."""
    path = tmp_path_factory.mktemp("compiled") / "rich.yaml"
    compiler.Compiler().compile(rich, str(path))
    return list(yaml.safe_load_all(path.read_text()))


def saved(path: Path, *documents: Any) -> Path:
    path.write_text(yaml.safe_dump_all(documents))
    return path


def at(value: Any, path: str) -> Any:
    """Return what `path`, of keys separated by spaces, leads to."""
    for key in path.split():
        value = value[int(key) if isinstance(value, list) else key]
    return value


def put(path: str, value: Any) -> Callable[[Any], None]:
    """Return a mutation that sets the last key of `path`."""

    def mutate(document: Any) -> None:
        *above, key = path.split()
        holder = at(document, " ".join(above))
        holder[int(key) if isinstance(holder, list) else key] = value

    return mutate


def drop(path: str) -> Callable[[Any], None]:
    """Return a mutation that removes the last key of `path`."""

    def mutate(document: Any) -> None:
        *above, key = path.split()
        holder = at(document, " ".join(above))
        del holder[int(key) if isinstance(holder, list) else key]

    return mutate


def assert_reported(faults: list[Fault], where: str, message: str) -> None:
    told = "\n".join(map(str, faults)) or "no fault"
    assert any(fault.where == where and message in fault.message for fault in faults), told
    assert all(f"{fault.file}:{fault.where}: {fault.message}" in str(fault) for fault in faults)


HANDLER = "components comp-exit-handler-1 dag tasks"
HANDLER_AT = "components.comp-exit-handler-1.dag.tasks"
NUMBERS = "deploymentSpec executors exec-numbers container"
NUMBERS_AT = "deploymentSpec.executors.exec-numbers.container"


def test_committed_packages_and_manifests_have_no_fault() -> None:
    files = committed()
    assert {"denoise.yaml", "sparkapplication.yaml"} <= {file.name for file in files}
    assert [str(fault) for fault in lint(files)] == []


def test_a_rich_package_has_no_fault(compiled: list[dict[str, Any]], tmp_path: Path) -> None:
    assert [str(fault) for fault in lint([saved(tmp_path / "rich.yaml", *compiled)])] == []


def add_component(spec: dict[str, Any]) -> None:
    spec["components"]["comp-orphan"] = copy.deepcopy(spec["components"]["comp-say"])


def add_executor(spec: dict[str, Any]) -> None:
    executors = spec["deploymentSpec"]["executors"]
    executors["exec-orphan"] = copy.deepcopy(executors["exec-say"])


def recurse(spec: dict[str, Any]) -> None:
    tasks = spec["components"]["comp-inner"]["dag"]["tasks"]
    tasks["again"] = {"componentRef": {"name": "comp-inner"}, "inputs": copy.deepcopy(tasks["say"]["inputs"])}


def close_a_circle(spec: dict[str, Any]) -> None:
    at(spec, HANDLER)["numbers"]["dependentTasks"] = ["total"]


def return_undeclared(spec: dict[str, Any]) -> None:
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
    "unused component": (add_component, "components.comp-orphan", "used by no task"),
    "unused executor": (add_executor, "deploymentSpec.executors.exec-orphan", "used by no component"),
    "component in itself": (recurse, "components.comp-inner", "contains itself"),
    "cycle": (close_a_circle, f"{HANDLER_AT}.total", "total after for-loop-2 after numbers after total"),
    "missing dependency": (
        put(f"{HANDLER} total dependentTasks", ["numbers", "nobody", "for-loop-1"]),
        f"{HANDLER_AT}.total.dependentTasks",
        "no task 'nobody'",
    ),
    "data without order": (
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
    "input from nowhere": (
        put(f"{HANDLER} numbers inputs parameters n", {}),
        f"{HANDLER_AT}.numbers.inputs.parameters.n",
        "has no source",
    ),
    "two sources": (
        put(f"{HANDLER} numbers inputs parameters n runtimeValue", {"constant": 3}),
        f"{HANDLER_AT}.numbers.inputs.parameters.n",
        "exclude each other",
    ),
    "input that a dag does not take": (
        put("root dag tasks inner-2 inputs parameters colour", {"runtimeValue": {"constant": "red"}}),
        "root.dag.tasks.inner-2.inputs.parameters.colour",
        "has no such input",
    ),
    "artifact that an executor does not take": (
        put(
            f"{HANDLER} total inputs artifacts chart",
            {"taskOutputArtifact": {"producerTask": "numbers", "outputArtifactKey": "table"}},
        ),
        f"{HANDLER_AT}.total.inputs.artifacts.chart",
        "has no such input",
    ),
    "required parameter left out": (
        drop(f"{HANDLER} numbers inputs parameters n"),
        f"{HANDLER_AT}.numbers.inputs.parameters",
        "lacks 'n'",
    ),
    "required artifact left out": (
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
    "fraction as whole number": (
        put(f"{HANDLER} numbers inputs parameters n", {"runtimeValue": {"constant": 1.5}}),
        f"{HANDLER_AT}.numbers.inputs.parameters.n.runtimeValue.constant",
        "is not of type NUMBER_INTEGER",
    ),
    "default of another type": (
        put("root inputDefinitions parameters n defaultValue", "three"),
        "root.inputDefinitions.parameters.n.defaultValue",
        "is not of type NUMBER_INTEGER",
    ),
    "default that is no literal": (
        put("root inputDefinitions parameters word literals", ["mean"]),
        "root.inputDefinitions.parameters.word.defaultValue",
        "not one of the allowed literals",
    ),
    "placeholder of no input": (
        put("root dag tasks inner-2 inputs parameters text runtimeValue constant", "{{$.inputs.parameters['x']}}"),
        "root.dag.tasks.inner-2.inputs.parameters.text",
        "no input 'x'",
    ),
    "condition on no input": (
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
    "status of no task": (
        put("root dag tasks farewell inputs parameters status taskFinalStatus producerTask", "nobody"),
        "root.dag.tasks.farewell.inputs.parameters.status",
        "no task 'nobody'",
    ),
    "loop over nothing": (
        put(f"{HANDLER} for-loop-2 parameterIterator items inputParameter", "x"),
        f"{HANDLER_AT}.for-loop-2.parameterIterator.items",
        "no input 'x'",
    ),
    "loop item for no input": (
        put(f"{HANDLER} for-loop-2 parameterIterator itemInput", "x"),
        f"{HANDLER_AT}.for-loop-2.parameterIterator.itemInput",
        "has no input 'x'",
    ),
    "dag output from no task": (
        put("root dag outputs parameters Output valueFromParameter producerSubtask", "nobody"),
        "root.dag.outputs.parameters.Output",
        "no task 'nobody' with an output parameter",
    ),
    "dag output undeclared": (
        return_undeclared,
        "components.comp-inner.dag.outputs.parameters.Output",
        "returned but not declared",
    ),
    "dag output declared alone": (
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
    "executor of no kind": (
        put("deploymentSpec executors exec-numbers", {}),
        "deploymentSpec.executors.exec-numbers",
        "has no container",
    ),
    "no image": (drop(f"{NUMBERS} image"), f"{NUMBERS_AT}.image", "is missing"),
    "image without a tag": (put(f"{NUMBERS} image", "host:5000/steps"), f"{NUMBERS_AT}.image", "no tag"),
    "image latest": (put(f"{NUMBERS} image", "steps:latest"), f"{NUMBERS_AT}.image", "not pinned"),
    "image digest malformed": (put(f"{NUMBERS} image", "steps@sha256:12"), f"{NUMBERS_AT}.image", "malformed digest"),
    "image at run time": (
        put(f"{NUMBERS} image", "{{$.inputs.parameters['image']}}"),
        f"{NUMBERS_AT}.image",
        "chosen at run time",
    ),
    "image that is none": (put(f"{NUMBERS} image", "two words:1"), f"{NUMBERS_AT}.image", "not a valid image reference"),
    "memory that is no quantity": (
        put(f"{NUMBERS} resources resourceMemoryLimit", "2GB"),
        f"{NUMBERS_AT}.resources.resourceMemoryLimit",
        "not a quantity",
    ),
    "cpu that is no quantity": (
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
    "number for a name": (
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
    "nameless pipeline": (put("pipelineInfo name", ""), "pipelineInfo.name", "is empty"),
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
        put("root inputDefinitions parameters api_token", {"parameterType": "STRING", "defaultValue": "abc"}),
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

CONFIG = "platforms kubernetes deploymentSpec executors exec-numbers"
CONFIG_AT = "platforms.kubernetes.deploymentSpec.executors.exec-numbers"
PIPELINE = "platforms kubernetes pipelineConfig"
PIPELINE_AT = "platforms.kubernetes.pipelineConfig"

PLATFORM_FAULTS: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "misspelt key": (put(f"{CONFIG} secretsAsEnv", []), f"{CONFIG_AT}.secretsAsEnv", "is not a field of"),
    "misspelt key below": (
        put(f"{CONFIG} secretAsEnv 0 secret", "s3"),
        f"{CONFIG_AT}.secretAsEnv[0].secret",
        "is not a field of",
    ),
    "wrong type": (
        put(f"{CONFIG} secretAsEnv 0 optional", "maybe"),
        f"{CONFIG_AT}.secretAsEnv[0].optional",
        "has an invalid value",
    ),
    "executor that is none": (
        put("platforms kubernetes deploymentSpec executors exec-nowhere", {}),
        "platforms.kubernetes.deploymentSpec.executors.exec-nowhere",
        "no executor 'exec-nowhere'",
    ),
    "claim from no input": (
        put(f"{CONFIG} pvcMount 0 pvcNameParameter componentInputParameter", "x"),
        f"{CONFIG_AT}.pvcMount[0].pvcNameParameter.componentInputParameter",
        "no input 'x'",
    ),
    "claim from no task": (
        put(
            f"{CONFIG} pvcMount 0 pvcNameParameter",
            {"taskOutputParameter": {"producerTask": "nobody", "outputParameterKey": "name"}},
        ),
        f"{CONFIG_AT}.pvcMount[0].pvcNameParameter.taskOutputParameter",
        "no task 'nobody' with an output parameter 'name'",
    ),
    "pull policy": (put(f"{CONFIG} imagePullPolicy", "Sometimes"), f"{CONFIG_AT}.imagePullPolicy", "'Sometimes'"),
    "other platform": (put("platforms borg", {}), "platforms.borg", "not a platform of kfp-kubernetes"),
    "other key": (put("platform", {}), "platform", "is not a field of"),
    "misspelt pipeline key": (put(f"{PIPELINE} ttl", 1), f"{PIPELINE_AT}.ttl", "is not a field of"),
    "negative time to live": (
        put(f"{PIPELINE} resourceTtlOnCompletion", -1),
        f"{PIPELINE_AT}.resourceTtlOnCompletion",
        "is -1",
    ),
    "workspace of no size": (drop(f"{PIPELINE} workspace size"), f"{PIPELINE_AT}.workspace.size", "is missing"),
    "workspace of an odd size": (
        put(f"{PIPELINE} workspace size", "1 GB"),
        f"{PIPELINE_AT}.workspace.storage",
        "not a quantity",
    ),
    "misspelt claim": (
        put(f"{PIPELINE} workspace kubernetes pvcSpecPatch accessMode", ["ReadWriteMany"]),
        f"{PIPELINE_AT}.workspace.kubernetes.pvcSpecPatch.accessMode",
        "not a field of this kind",
    ),
    "access mode": (
        put(f"{PIPELINE} workspace kubernetes pvcSpecPatch accessModes", ["RWX"]),
        f"{PIPELINE_AT}.workspace.kubernetes.pvcSpecPatch.accessModes[0]",
        "'RWX' is not an access mode",
    ),
    "workspace asked for, not declared": (
        drop(f"{PIPELINE} workspace"),
        "root.dag.tasks.farewell.inputs.parameters.workspace.runtimeValue.constant",
        "uses a workspace",
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


@pytest.mark.parametrize("name", PLATFORM_FAULTS)
def test_a_fault_in_the_platform_document_is_reported_at_its_place(
    name: str, compiled: list[dict[str, Any]], tmp_path: Path
) -> None:
    mutate, where, message = PLATFORM_FAULTS[name]
    spec, platform = copy.deepcopy(compiled)
    mutate(platform)
    assert_reported(lint([saved(tmp_path / "p.yaml", spec, platform)]), where, message)


SPARK_FAULTS: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "misspelt field": (put("spec executor instance", 2), "spec.executor.instance", "not a field of this kind"),
    "misspelt field of the pod": (put("spec driver env 0 valuefrom", {}), "spec.driver.env[0].valuefrom", "not a field of this kind"),
    "no driver": (drop("spec driver"), "spec.driver", "is missing"),
    "no application file": (drop("spec mainApplicationFile"), "spec.mainApplicationFile", "is missing"),
    "number for string": (put("spec sparkVersion", 3.5), "spec.sparkVersion", "is of type number"),
    "string for number": (put("spec driver cores", "one"), "spec.driver.cores", "is of type string"),
    "boolean in sparkConf": (put("spec sparkConf spark.x", True), "spec.sparkConf[spark.x]", "is of type boolean"),
    "language": (put("spec type", "python"), "spec.type", "'python'"),
    "mode": (put("spec mode", "local"), "spec.mode", "'local'"),
    "Python": (put("spec pythonVersion", "3.11"), "spec.pythonVersion", "'3.11'"),
    "restart policy": (put("spec restartPolicy type", "Sometimes"), "spec.restartPolicy.type", "'Sometimes'"),
    "pull policy": (put("spec imagePullPolicy", "Sometimes"), "spec.imagePullPolicy", "'Sometimes'"),
    "memory in Kubernetes units": (put("spec driver memory", "2Gi"), "spec.driver.memory", "not a size that Spark reads"),
    "misspelt label": (put("metadata label", {}), "metadata.label", "not a field of this kind"),
    "quantity of a gang": (
        put("spec batchSchedulerOptions", {"resources": {"memory": "12 GB"}}),
        "spec.batchSchedulerOptions.resources.memory",
        "pattern",
    ),
    "negative retries": (
        put("spec restartPolicy onFailureRetries", -1),
        "spec.restartPolicy.onFailureRetries",
        "is -1",
    ),
    "no cores": (put("spec executor cores", 0), "spec.executor.cores", "is 0"),
    "no main class": (put("spec type", "Scala"), "spec.mainClass", "is missing"),
    "image": (put("spec image", "ctbasis/spark"), "spec.image", "no tag"),
    "image of the driver": (put("spec driver image", "spark:latest"), "spec.driver.image", "not pinned"),
    "s3a secret": (
        put("spec sparkConf spark.hadoop.fs.s3a.secret.key", "abc"),
        "spec.sparkConf[spark.hadoop.fs.s3a.secret.key]",
        "a literal value",
    ),
    "s3a access key": (
        put("spec sparkConf spark.hadoop.fs.s3a.access.key", "abc"),
        "spec.sparkConf[spark.hadoop.fs.s3a.access.key]",
        "a literal value",
    ),
    "hadoop secret": (
        put("spec hadoopConf", {"fs.s3a.secret.key": "abc"}),
        "spec.hadoopConf[fs.s3a.secret.key]",
        "a literal value",
    ),
    "secret variable": (
        put("spec driver env", [{"name": "AWS_SECRET_ACCESS_KEY", "value": "abc"}]),
        "spec.driver.env[0].value",
        "a literal value",
    ),
    "old secret variable": (
        put("spec driver envVars", {"AWS_SECRET_ACCESS_KEY": "abc"}),
        "spec.driver.envVars.AWS_SECRET_ACCESS_KEY",
        "a literal value",
    ),
    "nameless": (drop("metadata name"), "metadata.name", "is missing"),
}

POD_FAULTS: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "misspelt field": (
        put("spec containers 0 imagePullPolice", "Never"),
        "spec.containers[0].imagePullPolice",
        "not a field of this kind",
    ),
    "misspelt metadata": (put("metadata label", {}), "metadata.label", "not a field of this kind"),
    "missing field": (drop("spec containers"), "spec.containers", "is missing"),
    "wrong type": (
        put("spec containers 0 ports", [{"containerPort": "http"}]),
        "spec.containers[0].ports[0].containerPort",
        "type",
    ),
    "unquoted value": (put("spec containers 0 env 1 value", 1), "spec.containers[0].env[1].value", "type"),
    "image": (put("spec containers 0 image", "steps"), "spec.containers[0].image", "no tag"),
    "secret variable": (
        put("spec containers 0 env 1", {"name": "DB_PASSWORD", "value": "x"}),
        "spec.containers[0].env[1].value",
        "a literal value",
    ),
    "quantity": (
        put("spec containers 0 resources limits memory", "1GB"),
        "spec.containers[0].resources.limits.memory",
        "not a quantity",
    ),
    "request above limit": (
        put("spec containers 0 resources requests memory", "2Gi"),
        "spec.containers[0].resources.requests.memory",
        "above the limit",
    ),
}


@pytest.mark.parametrize(("kind", "good"), [("SparkApplication/svd", APPLICATION), ("Pod/step", POD)])
def test_a_good_manifest_has_no_fault_and_lint_asks_no_network(
    kind: str, good: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError(f"lint of {kind} asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    file = tmp_path / "m.yaml"
    file.write_text(good)
    assert [str(fault) for fault in lint([file])] == []


@pytest.mark.parametrize("name", SPARK_FAULTS)
def test_a_fault_in_a_spark_application_is_reported_at_its_place(name: str, tmp_path: Path) -> None:
    mutate, where, message = SPARK_FAULTS[name]
    manifest = yaml.safe_load(APPLICATION)
    mutate(manifest)
    kind = "SparkApplication/svd" if name != "nameless" else "SparkApplication"
    assert_reported(lint([saved(tmp_path / "m.yaml", manifest)]), f"{kind}.{where}", message)


@pytest.mark.parametrize("name", POD_FAULTS)
def test_a_fault_in_a_core_manifest_is_reported_at_its_place(name: str, tmp_path: Path) -> None:
    mutate, where, message = POD_FAULTS[name]
    manifest = yaml.safe_load(POD)
    mutate(manifest)
    assert_reported(lint([saved(tmp_path / "m.yaml", manifest)]), f"Pod/step.{where}", message)


def test_a_secrets_value_is_reported_and_never_repeated(tmp_path: Path) -> None:
    manifest = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s3"},
        "stringData": {"key": "hunter2-the-value"},
        "data": {"other": "aHVudGVyMg=="},
    }
    faults = lint([saved(tmp_path / "m.yaml", manifest)])
    assert_reported(faults, "Secret/s3.stringData.key", "is the value of a secret")
    assert_reported(faults, "Secret/s3.data.other", "is the value of a secret")
    assert not any(value in str(fault) for fault in faults for value in ("hunter2", "aHVudGVyMg"))


@pytest.mark.parametrize("name", [name for name in SPEC_FAULTS if "password" in name or "key" in name])
def test_no_fault_of_a_package_repeats_a_secret(name: str, compiled: list[dict[str, Any]], tmp_path: Path) -> None:
    spec, platform = copy.deepcopy(compiled)
    SPEC_FAULTS[name][0](spec)
    told = " ".join(map(str, lint([saved(tmp_path / "p.yaml", spec, platform)])))
    assert not any(value in told for value in ("hunter2", "A1B2", "user:pass", "MII"))


def test_a_config_map_may_hold_what_looks_like_an_image_but_no_secret(tmp_path: Path) -> None:
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"image": "steps"}}
    assert lint([saved(tmp_path / "m.yaml", manifest)]) == []
    put("data DB_PASSWORD", "x")(manifest)
    assert_reported(lint([saved(tmp_path / "m.yaml", manifest)]), "ConfigMap/c.data.DB_PASSWORD", "a literal value")


@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("Queue", "scheduling.example/v1"),
        ("Pods", "v1"),
        ("Role", "rbac.authorization.k8s.io/v9"),
        ("SparkApplication", "sparkoperator.k8s.io/v1"),
    ],
)
def test_an_unknown_kind_cannot_be_validated_and_says_so(kind: str, version: str, tmp_path: Path) -> None:
    manifest = {"apiVersion": version, "kind": kind, "metadata": {"name": "x"}}
    assert_reported(lint([saved(tmp_path / "m.yaml", manifest)]), f"{kind}/x", "cannot be validated")


def test_every_item_of_a_list_is_checked(tmp_path: Path) -> None:
    pod = yaml.safe_load(POD)
    pod["spec"]["container"] = []
    manifest = {"apiVersion": "v1", "kind": "List", "items": [yaml.safe_load(APPLICATION), pod]}
    faults = lint([saved(tmp_path / "m.yaml", manifest)])
    assert [fault.where for fault in faults] == ["Pod/step.spec.container"]


@pytest.mark.parametrize(
    ("content", "where", "message"),
    [
        (b"", "file", "is empty"),
        (b"# only a comment\n", "file", "is empty"),
        (b"a: b\n---\n", "document 2", "is empty"),
        (b"a: [1\n", "line 2", "is not YAML"),
        (b"a:\n\tb: 1\n", "line 2", "cannot start any token"),
        (b"day: 2026-13-45\n", "file", "is not YAML"),
        (b"a: \xff\n", "byte 3", "is not UTF-8"),
        (b"just words\n", "document 1", "is a str, not a mapping"),
        (b"- a\n", "document 1", "is a list, not a mapping"),
        (b"spec:\n  on: 1\n", "document 1", "keys that are not strings"),
        (b"spec:\n  a: 1\n  b: [{c: 1, c: 2}]\n  a: 2\n", "spec.a", "duplicate key (repeated on line 4)"),
        (b"spec:\n  b: [{c: 1, c: 2}]\n", "spec.b[0].c", "duplicate key (repeated on line 2)"),
        (b"name: nothing known\n", "document 1", "neither a compiled package nor a manifest"),
        (b"apiVersion: v1\nkind: ''\n", "document 1", "neither a compiled package nor a manifest"),
        (b"apiVersion: v1\nkind: List\nitems: [3]\n", "document 1.items[0]", "neither a compiled package nor a"),
        (b"platforms: {}\n", "document 1", "no package precedes it"),
    ],
)
def test_what_is_no_sound_yaml_is_reported(content: bytes, where: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(content)
    assert_reported(lint([file]), where, message)


def test_a_key_that_overrides_a_merged_one_is_given_once(tmp_path: Path) -> None:
    labels = "{metadata: &named {name: c, labels: {a: b}}, apiVersion: v1, kind: ConfigMap}"
    override = "{metadata: {<<: *named, name: d}, apiVersion: v1, kind: ConfigMap}"
    (tmp_path / "m.yaml").write_text(f"{{apiVersion: v1, kind: List, items: [{labels}, {override}]}}")
    assert lint([tmp_path / "m.yaml"]) == []


def test_a_missing_file_is_a_fault_and_a_folder_stands_for_its_files(tmp_path: Path) -> None:
    assert_reported(lint([tmp_path / "absent.yaml"]), "file", "cannot be read")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.yml").write_text("")
    assert [fault.file for fault in lint([tmp_path])] == [tmp_path / "deep" / "a.yml"]


@pytest.fixture
def kustomized(tmp_path: Path) -> Path:
    """Return a folder with a good kustomization."""
    files = {
        "kustomization.yaml": KUSTOMIZATION,
        "pod.yaml": POD,
        "application.yaml": APPLICATION,
        "bigger.yaml": BIGGER,
        "renamed.yaml": RENAMED,
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_a_good_kustomization_has_no_fault_and_its_patches_may_be_partial(kustomized: Path) -> None:
    assert [str(fault) for fault in lint([kustomized])] == []
    (kustomized / "kustomization.yaml").unlink()
    assert_reported(lint([kustomized / "bigger.yaml"]), "SparkApplication/svd.spec.driver", "is missing")


KUSTOMIZE_FAULTS: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "no resource": (put("resources", ["gone.yaml"]), "resources[0]", "file or folder gone.yaml does not exist"),
    "folder without kustomization": (put("resources", ["empty"]), "resources[0]", "has no kustomization.yaml"),
    "remote and floating": (put("resources", ["https://example.org/x"]), "resources[0]", "not pinned"),
    "no patch": (put("patches 0 path", "gone.yaml"), "patches[0].path", "file gone.yaml does not exist"),
    "inline patch": (
        put("patches 2 patch", "apiVersion: v1\nkind: Pod\nmetadata: {name: step}\nspec: {priorit: 1}\n"),
        "patches[2].patch: Pod/step.spec.priorit",
        "not a field of this kind",
    ),
    "inline patch that is no YAML": (put("patches 2 patch", "a: ["), "patches[2].patch", "not YAML"),
    "inline patch that is none": (put("patches 2 patch", "words"), "patches[2].patch", "is not a patch"),
    "no old patch": (put("patchesStrategicMerge", ["gone.yaml"]), "patchesStrategicMerge[0]", "file gone.yaml does not exist"),
    "no generated file": (
        put("configMapGenerator", [{"name": "c", "files": ["key=gone.txt"]}]),
        "configMapGenerator[0].files[0]",
        "file gone.txt does not exist",
    ),
    "no list": (put("patches", "bigger.yaml"), "patches", "is a str, not a list"),
    "misspelt key": (put("resource", []), "resource", "not a field of a kustomization"),
    "image": (put("images 0 newTag", "latest"), "images[0].newTag", "not pinned"),
    "secret": (
        put("secretGenerator", [{"name": "s", "literals": ["key=hunter2"]}]),
        "secretGenerator[0].literals[0]",
        "is the value of a secret",
    ),
}


@pytest.mark.parametrize("name", KUSTOMIZE_FAULTS)
def test_a_fault_in_a_kustomization_is_reported_at_its_place(name: str, kustomized: Path) -> None:
    mutate, where, message = KUSTOMIZE_FAULTS[name]
    (kustomized / "empty").mkdir()
    document = yaml.safe_load(KUSTOMIZATION)
    mutate(document)
    assert_reported(lint([saved(kustomized / "kustomization.yaml", document)]), where, message)


@pytest.mark.parametrize(
    ("file", "text", "where", "message"),
    [
        (
            "bigger.yaml",
            BIGGER.replace("instances", "instance"),
            "SparkApplication/svd.spec.executor.instance",
            "not a field of this kind",
        ),
        ("bigger.yaml", BIGGER.replace("64", "0"), "SparkApplication/svd.spec.executor.instances", "is 0"),
        ("renamed.yaml", RENAMED.replace("replace", "swap"), "document 1[0]", "is not an operation of a JSON patch"),
        ("renamed.yaml", RENAMED.replace("/metadata/name", "metadata"), "document 1[0].path", "not a JSON pointer"),
        ("renamed.yaml", RENAMED.replace("  value: other\n", ""), "document 1[0]", "lacks 'value'"),
    ],
)
def test_a_fault_in_a_patch_is_reported(file: str, text: str, where: str, message: str, kustomized: Path) -> None:
    (kustomized / file).write_text(text)
    assert_reported(lint([kustomized / file]), where, message)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500m", "0.5"),
        ("2", "2"),
        ("1Ki", "1024"),
        ("1.5Gi", "1610612736"),
        ("1e3", "1000"),
        ("2k", "2000"),
        (".5", ".5"),
    ],
)
def test_quantities_are_read_as_kubernetes_reads_them(text: str, number: str) -> None:
    from kubernetes.utils.quantity import parse_quantity

    assert quantity(text) == parse_quantity(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "1 Gi", "1gb", "Gi", "1KI", "one", "NaN", "1_000", "--1"])
def test_what_is_no_quantity_is_told(text: str) -> None:
    assert quantity(text) is None


def paths(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value below `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, item in items for path in [(*above, key), *paths(item, (*above, key))]]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_stands_anywhere_lint_answers(
    compiled: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    manifests = [[yaml.safe_load(text)] for text in (APPLICATION, POD, KUSTOMIZATION)]
    documents = copy.deepcopy(data.draw(st.sampled_from([compiled, *manifests])))
    *above, key = data.draw(st.sampled_from(paths(documents)))
    holder: Any = documents
    for step in above:
        holder = holder[step]
    odd = [None, 3, -1.5, "x", "", True, [], {}, [1], [None], {"a": 1}, {"a": None}, [{"name": 3}], [[]]]
    holder[key] = data.draw(st.sampled_from(odd))
    for fault in lint([saved(tmp_path_factory.getbasetemp() / "odd.yaml", *documents)]):
        assert fault.where
        assert fault.message
