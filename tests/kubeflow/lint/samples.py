"""A compiled pipeline, manifests and a kustomization without faults, and functions that plant a fault in them."""

# KFP reads the components' annotations as objects, so they are not postponed here.
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from kfp import dsl, kubernetes

from ctbasis.kubeflow.lint import Fault

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
    """Do what pipelines can do.

    Args:
        n: A number.
        claim: Name of a claim.
        word: A word.
    """
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
  sparkVersion: 4.2.0
  image: ctbasis/spark:1.0
  mainApplicationFile: local:///opt/job.py
  sparkConf:
    spark.serializer: org.apache.spark.serializer.KryoSerializer
    spark.hadoop.fs.s3a.aws.credentials.provider: >-
      software.amazon.awssdk.auth.credentials.EnvironmentVariableCredentialsProvider
    spark.kubernetes.driver.secretKeyRef.AWS_SECRET_ACCESS_KEY: s3:key
    spark.authenticate: "true"
    spark.network.crypto.enabled: "true"
    spark.network.crypto.authEngineVersion: "2"
    spark.network.crypto.cipher: AES/GCM/NoPadding
    spark.network.crypto.saslFallback: "false"
    spark.io.encryption.enabled: "true"
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


def saved(path: Path, *documents: Any) -> Path:
    """Write YAML documents to a file and return its path."""
    path.write_text(yaml.safe_dump_all(documents))
    return path


def at(value: Any, path: str) -> Any:
    """Return the value at `path`, which is keys separated by spaces."""
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
    """Assert that a fault with this path and with this part of the message is among `faults`."""
    listed = "\n".join(map(str, faults)) or "no fault"
    assert any(fault.where == where and message in fault.message for fault in faults), listed
    assert all(f"{fault.file}:{fault.where}: {fault.message}" in str(fault) for fault in faults)
