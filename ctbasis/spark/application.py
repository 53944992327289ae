"""The Spark step's one description: a SparkApplication (v1beta2), typed by the operator's own published models."""

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
"""Memory beyond the JVM's heap, as a share of the heap: Spark's own factor for PySpark, whose workers live there."""


@dataclass(frozen=True)
class SparkApplication:
    """A SparkApplication that the operator's models accept field by field.

    Attributes:
        model: The typed manifest; not to be changed in place, `for_run` returns a new one.
    """

    model: models.SparkV1beta2SparkApplication

    @classmethod
    def read(cls, path: Path = TEMPLATE) -> Self:
        """Read a manifest from a YAML file.

        Raises:
            CtbasisError: The file is missing or no SparkApplication, or a field of it is unknown or of the wrong type.
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
        """Type a manifest, refusing what the operator would drop in silence.

        Raises:
            CtbasisError: Wrong kind, wrong type of a field, or a field that the models do not know.
        """
        if not isinstance(manifest, dict) or manifest.get("kind") != "SparkApplication":
            raise CtbasisError(f"{where} is no SparkApplication", expected="kind: SparkApplication")
        try:
            model = models.SparkV1beta2SparkApplication.from_dict(manifest)
        except ValueError as error:
            raise CtbasisError(f"{where}: {error}", expected="a SparkApplication of v1beta2") from error
        application = cls(model)
        lost = differences(manifest, application.to_manifest())
        if lost:
            raise CtbasisError(
                f"{where}: unknown or misspelt: {', '.join(lost)}",
                expected="fields of sparkoperator.k8s.io/v1beta2",
                cause="a typing error; the API server would drop the field",
            )
        return application

    def for_run(self, *, name: str, arguments: Sequence[str]) -> Self:
        """Return this application under `name`, started with `arguments`, and labelled with its run."""
        manifest = self.to_manifest()
        manifest["metadata"] = {
            **manifest["metadata"],
            "name": name,
            "labels": {**manifest["metadata"].get("labels", {}), RUN_LABEL: name},
        }
        manifest["spec"] = {**manifest["spec"], "arguments": list(arguments)}
        return type(self).from_manifest(manifest)

    def owned_by(self, owner: Mapping[str, Any]) -> Self:
        """Return this application with an owner reference, so that the cluster deletes it with its owner."""
        manifest = self.to_manifest()
        manifest["metadata"]["ownerReferences"] = [dict(owner)]
        return type(self).from_manifest(manifest)

    def placed(self, placement: Placement) -> Self:
        """Return this application with `placement` applied to its driver and executors, on top of its own.

        Of two variables, labels or affinities of one name the placement's holds. What the application itself mounts
        somewhere is each pod's own and stays: the step's mount there is not handed on, nor a volume for it alone.

        Raises:
            CtbasisError: Two different volumes have one name.
        """
        manifest = self.to_manifest()
        spec = manifest["spec"]
        pods = (spec["driver"], spec["executor"])
        taken = {_path(mount) for pod in pods for mount in pod.get("volumeMounts", [])}
        mounts = [mount for mount in placement.volume_mounts if _path(mount) not in taken]
        hidden = {mount["name"] for mount in placement.volume_mounts} - {mount["name"] for mount in mounts}
        volumes = [volume for volume in placement.volumes if volume["name"] not in hidden]
        if volumes:
            spec["volumes"] = _joined_volumes(spec.get("volumes", []), volumes)
        for pod in pods:
            given = {entry["name"] for entry in placement.env}
            for key, own, added in (
                ("volumeMounts", pod.get("volumeMounts", []), mounts),
                ("env", [entry for entry in pod.get("env", []) if entry["name"] not in given], placement.env),
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
        """Return the manifest as plain data, as `kubectl` would take it."""
        plain: dict[str, Any] = json.loads(json.dumps(self.model.to_dict()))
        return plain


def _spark_resources(resources: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Translate a container's resources into a Spark pod's: the heap is what the overhead leaves of the memory."""
    limits = resources.get("limits") or {}
    asked = {**limits, **(resources.get("requests") or {})}
    wanted: dict[str, Any] = {}
    if "cpu" in asked:
        wanted["cores"] = max(1, int(parse_quantity(asked["cpu"])))
        wanted["coreRequest"] = str(asked["cpu"])
    if "cpu" in limits:
        wanted["coreLimit"] = str(limits["cpu"])
    if "memory" in asked:
        mebibytes = int(parse_quantity(asked["memory"]) / 2**20)
        heap = int(mebibytes / (1 + PYTHON_OVERHEAD))
        # To Spark M and m are both MiB. Gang schedulers that the operator drives read the same field as a Kubernetes
        # quantity, to which m is a thousandth of a byte, and M 5 % too little: near enough to queue by.
        wanted |= {"memory": f"{heap}M", "memoryOverhead": f"{mebibytes - heap}M"}
    return wanted


def _path(mount: Mapping[str, Any]) -> str:
    return str(mount["mountPath"]).rstrip("/")


def _joined_volumes(own: Sequence[Mapping[str, Any]], added: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    names = {volume["name"]: volume for volume in own}
    for volume in added:
        if names.setdefault(volume["name"], volume) != volume:
            raise CtbasisError(
                f"the SparkApplication and the step's pod both have a volume {volume['name']}, and they differ",
                remedy="rename one of them",
            )
    return list(names.values())


def differences(wanted: Any, got: Any, path: str = "") -> list[str]:
    """Return the paths, such as spec.driver.env[0].name, at which `got` does not hold what `wanted` holds.

    Args:
        wanted: A manifest.
        got: What became of it; it may hold more.
        path: Where both are.
    """
    if isinstance(wanted, dict) and isinstance(got, dict):
        pairs = [(f"{path}.{key}" if path else str(key), value, got.get(key)) for key, value in wanted.items()]
    elif isinstance(wanted, list) and isinstance(got, list) and len(wanted) == len(got):
        pairs = [(f"{path}[{index}]", *pair) for index, pair in enumerate(zip(wanted, got, strict=True))]
    else:
        return [] if wanted == got else [path]
    return [difference for below, one, other in pairs for difference in differences(one, other, below)]
