"""The manifest of the svd step on Spark: a SparkApplication (v1beta2), typed by the operator's published models."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import yaml
from kubeflow_spark_api import models
from kubernetes.utils import parse_quantity

from ctbasis.errors import CtbasisError
from ctbasis.installed import LAYOUT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ctbasis.spark.placement import Placement

TEMPLATE = LAYOUT.spark_template

RUN_LABEL = "ctbasis/run"

PYTHON_OVERHEAD = 0.4
"""Memory outside of the JVM's heap, as a share of the heap: Spark's factor for PySpark, whose workers use it."""


@dataclass(frozen=True)
class SparkApplication:
    """A SparkApplication whose fields are all known to the operator's models.

    Attributes:
        model: The typed manifest. Do not change it in place; the methods return new objects.
    """

    model: models.SparkV1beta2SparkApplication

    @classmethod
    def read(cls, path: Path = TEMPLATE) -> Self:
        """Read a manifest from a YAML file.

        Raises:
            CtbasisError: The file is missing or no SparkApplication, or a field is unknown or has the wrong type.
        """
        try:
            manifest = yaml.safe_load(path.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise CtbasisError(
                f"{path} cannot be read as YAML ({error})", expected="a SparkApplication manifest"
            ) from error
        return cls.from_manifest(manifest, where=str(path))

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

    def for_run(self, *, name: str, arguments: Sequence[str]) -> Self:
        """Return this application with the name `name`, the command line `arguments`, and the label of its run."""
        manifest = self.to_manifest()
        manifest["metadata"] = {
            **manifest["metadata"],
            "name": name,
            "labels": {**manifest["metadata"].get("labels", {}), RUN_LABEL: name},
        }
        manifest["spec"] = {**manifest["spec"], "arguments": list(arguments)}
        return type(self).from_manifest(manifest)

    def owned_by(self, owner: Mapping[str, Any]) -> Self:
        """Return this application with an owner reference, by which Kubernetes deletes it together with its owner."""
        manifest = self.to_manifest()
        manifest["metadata"]["ownerReferences"] = [dict(owner)]
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
        own_paths = {_path(mount) for pod in pods for mount in pod.get("volumeMounts", [])}
        mounts = [mount for mount in placement.volume_mounts if _path(mount) not in own_paths]
        unused = {mount["name"] for mount in placement.volume_mounts} - {mount["name"] for mount in mounts}
        volumes = [volume for volume in placement.volumes if volume["name"] not in unused]
        if volumes:
            spec["volumes"] = _joined_volumes(spec.get("volumes", []), volumes)
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
        return type(self).from_manifest(manifest)

    @property
    def name(self) -> str:
        """metadata.name."""
        return str(self.to_manifest()["metadata"]["name"])

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
        # Spark reads M and m as MiB. Gang schedulers read the same field as a Kubernetes quantity, where m is a
        # thousandth of a byte, and M is 5 % less than a MiB, which is accurate enough for a queue.
        fields |= {"memory": f"{heap}M", "memoryOverhead": f"{mebibytes - heap}M"}
    return fields


def _path(mount: Mapping[str, Any]) -> str:
    return str(mount["mountPath"]).rstrip("/")


def _joined_volumes(own: Sequence[Mapping[str, Any]], added: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    names = {volume["name"]: volume for volume in own}
    for volume in added:
        if names.setdefault(volume["name"], volume) != volume:
            raise CtbasisError(
                f"the SparkApplication and the pod of the step have different volumes called {volume['name']}",
                remedy="rename one of them",
            )
    return list(names.values())


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
