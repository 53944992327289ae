"""The operators' kinds, checked against their custom resource definitions and against rules that these lack."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator

from ctbasis.jobs.job import QUEUE_ANNOTATION
from ctbasis.kubeflow.lint import core, crds
from ctbasis.kubeflow.lint.paths import Document, Faults, children, join_path, look_up, select

SIZE = r"(?i:\d+([bkmgtp]|[kmgtp]b)?)", "not a size that Spark reads", "write it as 512m or 4g"
COUNT = r"[1-9]\d*", "not positive", "expected 1 or more"
MEMORY = ("driver.memory", "driver.memoryOverhead", "executor.memory", "executor.memoryOverhead")
VALUES = {
    "imagePullPolicy": ("Always|IfNotPresent|Never", "not a pull policy", "expected Always, IfNotPresent or Never"),
    **dict.fromkeys(MEMORY, SIZE),
    **dict.fromkeys(("driver.cores", "executor.cores", "executor.instances"), COUNT),
}
"""Values that the schema allows and that the operator, Kubernetes or Spark refuses: pattern, message, remedy."""

PROTECTED = {
    "spark.authenticate": ("true", "lets every pod that reaches the driver register as an executor"),
    "spark.network.crypto.enabled": ("true", "lets Spark send patient data and its key in clear"),
    "spark.network.crypto.authEngineVersion": ("2", "selects a key exchange that Spark's manual advises against"),
    "spark.network.crypto.cipher": ("AES/GCM/NoPadding", "selects a cipher that does not notice changed messages"),
    "spark.network.crypto.saslFallback": ("false", "lets a client choose SASL with its older ciphers"),
    "spark.io.encryption.enabled": ("true", "lets Spark write patient data to local disks in clear"),
}
"""Settings by which Spark authenticates and encrypts its connections and files: the value, and what any other does."""

WRITTEN = (
    "SparkApplication in sparkoperator.k8s.io/v1beta2",
    "RayJob in ray.io/v1",
    "DaskJob in kubernetes.dask.org/v1",
    "InferenceService in serving.kserve.io/v1beta1",
)
"""The kinds that ctbasis writes or has manifests of, and their versions."""

SPEC = {"SparkApplication": "spec", "ScheduledSparkApplication": "spec.template"}
"""Path of the specification of an application in the kinds that start one."""


def faults(document: Document, where: str, *, partial: bool) -> Faults:
    """Check a manifest.

    Args:
        document: The manifest.
        where: Its path.
        partial: The manifest is a patch: it may omit required fields, and null in it removes a field.
    """
    kind, version = document["kind"], document["apiVersion"]
    try:
        validator = _validator(kind, version)
    except FileNotFoundError:
        yield (
            where,
            f"cannot be validated: the operator has no definition of {kind} in {version}",
            f"expected one of {', '.join(WRITTEN)}",
        )
        return
    given = _without_null(document) if partial else document
    violations = list(core.violations(validator, given, where, partial=partial))
    yield from violations
    if kind == "SparkApplication":
        reported = {place for place, *_ in violations}
        yield from (fault for fault in _values(document, where) if fault[0] not in reported)
    if kind in SPEC:
        reported = {place for place, *_ in violations}
        protection = _protection(look_up(document, f"{SPEC[kind]}.sparkConf"), partial=partial)
        for key, message, remedy in protection:
            place = join_path(where, *SPEC[kind].split("."), "sparkConf", key)
            if place not in reported:
                yield place, message, remedy


def violations(document: Document, definition: dict[str, Any]) -> Faults:
    """Check a manifest against the CustomResourceDefinition of a cluster, in place of that of this module.

    Args:
        document: The manifest.
        definition: The definition of its kind.
    """
    try:
        validator = _with_metadata(crds.schema_of(definition, document["apiVersion"]))
    except FileNotFoundError:
        yield "apiVersion", f"the definition has no version {document['apiVersion']}", "install another operator"
        return
    yield from core.violations(validator, document, "", partial=False)


@cache
def _validator(kind: str, version: str) -> Any:
    return _with_metadata(crds.schema(kind, version))


def _with_metadata(schema: dict[str, Any]) -> Any:
    # A custom resource definition has no schema of metadata; the API server checks metadata itself. Some definitions
    # leave out apiVersion and kind, which every object has.
    meta, registry = core.object_meta()
    own = {"apiVersion": {"type": "string"}, "kind": {"type": "string"}}
    whole = {**schema, "properties": {**own, **schema["properties"], "metadata": meta}}
    return Draft202012Validator(whole, registry=registry)


def _without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_null(item) for key, item in children(value) if item is not None}
    return [_without_null(item) for item in value] if isinstance(value, list) else value


def _values(document: Document, where: str) -> Faults:
    for path, (pattern, message, remedy) in VALUES.items():
        for place, value in select(document, f"spec.{path}", where):
            if isinstance(value, str | int) and not re.fullmatch(pattern, str(value)):
                yield place, f"is {value!r}, {message}", remedy
    if QUEUE_ANNOTATION in (look_up(document, "metadata.annotations") or {}):
        for place, value in (found for path in MEMORY for found in select(document, f"spec.{path}", where)):
            if str(value) != str(value).lower():
                yield place, f"is {value!r}, which Kueue cannot read", f"write it as {str(value).lower()}"
    if look_up(document, "spec.type") in ("Java", "Scala") and not look_up(document, "spec.mainClass"):
        yield f"{where}.spec.mainClass", "is missing", "name the main class of the JVM application"


def _protection(settings: Any, *, partial: bool) -> Faults:
    """Yield the settings of `PROTECTED` that have another value, and unless the manifest is a patch, are missing."""
    given = settings if isinstance(settings, dict) else {}
    for key, (value, effect) in PROTECTED.items():
        if key not in given and not partial:
            yield key, f"is missing, which {effect}", f"set it to {value!r}"
        elif key in given and given[key] != value:
            yield key, f"is {given[key]!r}, which {effect}", f"set it to {value!r}"
