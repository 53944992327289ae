"""The Spark operator's kinds, held against its published models and what those leave open."""

from __future__ import annotations

import re
from typing import Any

from kubeflow_spark_api import models
from pydantic import ValidationError

from components.svd.application import differences
from pipeline.lint.paths import Document, Faults, at, look_up, select

MODELS = {
    ("SparkApplication", "sparkoperator.k8s.io/v1beta2"): models.SparkV1beta2SparkApplication,
    ("ScheduledSparkApplication", "sparkoperator.k8s.io/v1beta2"): models.SparkV1beta2ScheduledSparkApplication,
    ("SparkConnect", "sparkoperator.k8s.io/v1alpha1"): models.SparkV1alpha1SparkConnect,
}
SIZE = r"(?i:\d+([bkmgtp]|[kmgtp]b)?)", "no size that Spark reads", "write it as 512m or 4g"
COUNT = r"[1-9]\d*", "not positive", "1 or more"
# Values that the models accept and the operator or Spark refuses: pattern, message, remedy.
VALUES = {
    "type": ("Java|Scala|Python|R", "no language of Spark", "Java, Scala, Python or R"),
    "mode": ("cluster|client|in-cluster-client", "no deploy mode", "cluster, client or in-cluster-client"),
    "pythonVersion": ("2|3", "no major version", "3"),
    "imagePullPolicy": ("Always|IfNotPresent|Never", "no pull policy", "Always, IfNotPresent or Never"),
    "restartPolicy.type": ("Always|OnFailure|Never", "no restart policy", "Always, OnFailure or Never"),
    **dict.fromkeys(("driver.memory", "driver.memoryOverhead", "executor.memory", "executor.memoryOverhead"), SIZE),
    **dict.fromkeys(("driver.cores", "executor.cores", "executor.instances"), COUNT),
}
# What a strategic-merge patch of a SparkApplication may leave to the manifest that it patches.
LEAST: dict[str, dict[str, Any]] = {
    "metadata": {"name": "patched"},
    "spec": {"type": "Python", "sparkVersion": "3", "mainApplicationFile": "local:///", "driver": {}, "executor": {}},
}


def faults(document: Document, where: str, *, partial: bool) -> Faults:
    """Check a manifest at `where`; a partial one may leave out what is required."""
    kind, version = document["kind"], document["apiVersion"]
    if (kind, version) not in MODELS:
        yield where, f"cannot be validated: no model of {kind} in {version}", "sparkoperator.k8s.io/v1beta2"
        return
    try:
        model = MODELS[kind, version].model_validate(_completed(document) if partial else document)
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):
            yield at(where, *problem["loc"]), problem["msg"], "correct it"
    else:
        for path in differences(document, model.to_dict()):
            yield f"{where}.{path}", f"is no field of {kind}; the API server would drop it", "correct the spelling"
    if kind == "SparkApplication":
        yield from _values(document, where)


def _completed(patch: Document) -> dict[str, Any]:
    """Return a patch with what it leaves to the manifest that it patches."""
    given = {part: patch.get(part, {}) for part in LEAST}
    return {**patch, **{part: {**LEAST[part], **own} for part, own in given.items() if isinstance(own, dict)}}


def _values(document: Document, where: str) -> Faults:
    for path, (pattern, message, remedy) in VALUES.items():
        for place, value in select(document, f"spec.{path}", where):
            if isinstance(value, str | int) and not re.fullmatch(pattern, str(value)):
                yield place, f"is {value!r}, {message}", remedy
    if look_up(document, "spec.type") in ("Java", "Scala") and not look_up(document, "spec.mainClass"):
        yield f"{where}.spec.mainClass", "is missing", "an application on the JVM names its main class"
