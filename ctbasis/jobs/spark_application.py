"""The SparkApplication (v1beta2) of the Kubeflow Spark operator, typed by the operator's published models."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from kubeflow_spark_api import models
from kubernetes.utils import parse_quantity

from ctbasis.errors import CtbasisError
from ctbasis.installed import LAYOUT
from ctbasis.jobs.job import Job, Phase
from ctbasis.jobs.placement import joined_volumes, mount_path

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctbasis.jobs.placement import Placement

COMPLETED, FAILING, FAILED = "COMPLETED", "FAILING", "FAILED"

SUBMIT_MESSAGE = re.compile(
    r"Message: (?:Forbidden!Configured service account doesn't have access\. Service account may have been revoked\. )?"
    r"(.+?)\.?(?: Received status|\n\s+at |\Z)",
    re.DOTALL,
)
"""The API server's answer in the stack trace of spark-submit, without the client's guess at its cause."""

SUBMIT_NOISE = re.compile(r"\d\d/\d\d/\d\d \d\d:\d\d:\d\d (INFO|WARN) |^\s+at ")

LONGEST_MESSAGE = 800

PYTHON_OVERHEAD = 0.4
"""Memory outside of the JVM's heap, as a share of the heap: Spark's factor for PySpark, whose workers use it."""


@dataclass(frozen=True)
class SparkApplication(Job):
    """A SparkApplication whose fields are all known to the operator's models.

    Attributes:
        model: The typed manifest. Do not change it in place; the methods return new objects.
    """

    kind = "SparkApplication"
    title = "spark application"
    group = "sparkoperator.k8s.io"
    version = "v1beta2"
    plural = "sparkapplications"
    operator = "Spark operator"
    install = (
        "helm install spark-operator spark-operator/spark-operator --version 2.4.0 -n spark-operator "
        "--create-namespace --set webhook.enable=true --set 'spark.jobNamespaces={NAMESPACE}'"
    )
    template = LAYOUT.spark_template
    image_field = "spec.image"
    pods_label = "sparkoperator.k8s.io/app-name"
    driver_container = "spark-kubernetes-driver"
    roles = ("driver", "executor")
    many = "executor"
    longest_name = 56  # `-driver`
    strict = False
    # A driver that receives SIGTERM may end with exit code 0, and the operator then sets COMPLETED.
    checks_driver = True

    model: models.SparkV1beta2SparkApplication

    @staticmethod
    def state(raw: Mapping[str, Any]) -> str:
        """Return status.applicationState.state; empty until the operator processes the application."""
        return str(((raw.get("status") or {}).get("applicationState") or {}).get("state") or "")

    @classmethod
    def phase(cls, raw: Mapping[str, Any]) -> Phase:
        """Return what the state means. Only COMPLETED and FAILED are final."""
        phases = {COMPLETED: Phase.SUCCEEDED, FAILING: Phase.FAILING, FAILED: Phase.FAILED}
        return phases.get(cls.state(raw), Phase.ACTIVE)

    @staticmethod
    def message(raw: Mapping[str, Any]) -> str:
        """Return the operator's message on the application's state, without the log and stack trace of spark-submit."""
        text = str(((raw.get("status") or {}).get("applicationState") or {}).get("errorMessage") or "").strip()
        answer = SUBMIT_MESSAGE.search(text)
        if answer:
            return answer[1]
        lines = [line for line in text.splitlines() if not SUBMIT_NOISE.search(line)]
        return ("; ".join(filter(None, map(str.strip, lines))) or text)[:LONGEST_MESSAGE]

    @staticmethod
    def attempt(raw: Mapping[str, Any]) -> str:
        """Return the id of the latest submission."""
        return str((raw.get("status") or {}).get("submissionID", ""))

    @staticmethod
    def role(labels: Mapping[str, str]) -> str:
        """Return the role that Spark gave the pod, `driver` or `executor`."""
        return labels.get("spark-role", "")

    @staticmethod
    def arguments(raw: Mapping[str, Any]) -> Any:
        """Return spec.arguments."""
        return raw["spec"].get("arguments")

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any], *, where: str = "manifest") -> Self:
        """Type a manifest, and refuse fields that the operator would ignore silently.

        Args:
            manifest: The manifest as plain data.
            where: Its place for messages, such as a path.

        Raises:
            CtbasisError: The kind is wrong, a field has the wrong type, or the models do not know a field.
        """
        if not isinstance(manifest, dict) or manifest.get("kind") != "SparkApplication":
            raise CtbasisError(f"{where} is no SparkApplication", expected="kind: SparkApplication")
        try:
            model = models.SparkV1beta2SparkApplication.from_dict(manifest)
        except ValueError as error:
            raise CtbasisError(f"{where}: {error}", expected="a SparkApplication of v1beta2") from error
        application = cls(model)
        unknown = differences(manifest, application.to_manifest())
        if unknown:
            raise CtbasisError(
                f"{where}: unknown or misspelt: {', '.join(unknown)}",
                expected="fields of sparkoperator.k8s.io/v1beta2",
                cause="a misspelt field, which the API server would drop",
            )
        return application

    def with_arguments(self, arguments: Sequence[str]) -> Self:
        """Return this application with other spec.arguments."""
        manifest = self.to_manifest()
        manifest["spec"] = {**manifest["spec"], "arguments": list(arguments)}
        return type(self).from_manifest(manifest)

    def placed(self, placement: Placement) -> Self:
        """Return this application with `placement` added to its driver and executors.

        Environment variables, node labels and affinities of the placement replace those of the same name. A path that
        the application mounts itself stays as it is: the placement's mount of that path is left out, and its volume if
        no other mount needs it.

        Raises:
            CtbasisError: Two different volumes have the same name.
        """
        manifest = self.to_manifest()
        spec = manifest["spec"]
        pods = (spec["driver"], spec["executor"])
        own_paths = {mount_path(mount) for pod in pods for mount in pod.get("volumeMounts", [])}
        mounts = [mount for mount in placement.volume_mounts if mount_path(mount) not in own_paths]
        unused = {mount["name"] for mount in placement.volume_mounts} - {mount["name"] for mount in mounts}
        volumes = [volume for volume in placement.volumes if volume["name"] not in unused]
        if volumes:
            spec["volumes"] = joined_volumes(spec.get("volumes", []), volumes)
        for pod in pods:
            replaced = {entry["name"] for entry in placement.env}
            for key, own, added in (
                ("volumeMounts", pod.get("volumeMounts", []), mounts),
                ("env", [entry for entry in pod.get("env", []) if entry["name"] not in replaced], placement.env),
                ("tolerations", pod.get("tolerations", []), placement.tolerations),
            ):
                if added:
                    pod[key] = [*own, *added]
            for key, decided in (("nodeSelector", placement.node_selector), ("affinity", placement.affinity)):
                if decided:
                    pod[key] = {**pod.get(key, {}), **decided}
            pod.update(_spark_resources(placement.resources))
        return type(self).from_manifest(_with_readable_memory(manifest))

    def for_run(self, *, name: str, arguments: Sequence[str] | None = None) -> Self:
        """Return this application for a run, with its memory in the units that its scheduler reads."""
        manifest = super().for_run(name=name, arguments=arguments).to_manifest()
        return type(self).from_manifest(_with_readable_memory(manifest))

    def to_manifest(self) -> dict[str, Any]:
        """Return the manifest as plain data, as `kubectl apply` reads it."""
        plain: dict[str, Any] = json.loads(json.dumps(self.model.to_dict()))
        return plain


def _spark_resources(resources: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Translate the resources of a container into those of a Spark pod; memory is divided into heap and overhead."""
    limits = resources.get("limits") or {}
    requests = {**limits, **(resources.get("requests") or {})}
    fields: dict[str, Any] = {}
    if "cpu" in requests:
        fields["cores"] = max(1, int(parse_quantity(requests["cpu"])))
        fields["coreRequest"] = str(requests["cpu"])
    if "cpu" in limits:
        fields["coreLimit"] = str(limits["cpu"])
    if "memory" in requests:
        mebibytes = int(parse_quantity(requests["memory"]) / 2**20)
        heap = int(mebibytes / (1 + PYTHON_OVERHEAD))
        fields |= {"memory": f"{heap}m", "memoryOverhead": f"{mebibytes - heap}m"}
    return fields


def _with_readable_memory(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return a manifest whose amounts of memory have units that Spark and the scheduler of its pods read.

    Spark reads m and M alike, as MiB. For a batch scheduler, the operator reads the same field as a Kubernetes
    quantity, where m is a thousandth of a byte; M is 5 % less than a MiB, which is accurate enough for a queue. Kueue
    refuses upper case: it replaces the unit m by Mi, but makes MMi of M.
    """
    spec = manifest["spec"]
    for pod in (spec["driver"], spec["executor"]):
        for field in ("memory", "memoryOverhead"):
            if field in pod:
                pod[field] = pod[field].upper() if spec.get("batchScheduler") else pod[field].lower()
    return manifest


def differences(expected: Any, actual: Any, path: str = "") -> list[str]:
    """Return the paths, such as spec.driver.env[0].name, at which `actual` differs from `expected`.

    Args:
        expected: A manifest.
        actual: The manifest to compare; it may have more fields.
        path: Path of both in their document.
    """
    if isinstance(expected, dict) and isinstance(actual, dict):
        pairs = [(f"{path}.{key}" if path else str(key), value, actual.get(key)) for key, value in expected.items()]
    elif isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        pairs = [(f"{path}[{index}]", *pair) for index, pair in enumerate(zip(expected, actual, strict=True))]
    else:
        return [] if expected == actual else [path]
    return [difference for below, one, other in pairs for difference in differences(one, other, below)]
