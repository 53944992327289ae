"""The step of the component `spark_application`: run any SparkApplication, and return what became of it.

It shares the launch with the svd step: adoption by a second try, outages, TaskConfig, the driver's log, the reasons of
a failure (ctbasis/jobs/launcher.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import yaml

from ctbasis.errors import CtbasisError
from ctbasis.jobs import launcher
from ctbasis.jobs.api_server import ApiServer
from ctbasis.jobs.spark_application import SparkApplication
from ctbasis.spark.launch import application_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ctbasis.jobs.placement import Placement
    from ctbasis.jobs.timeouts import Timeouts

PLACEHOLDER = re.compile(r"\$(\$?)\{([A-Za-z_][A-Za-z0-9_]*)\}")
"""A parameter in a text of the manifest, `${name}`; `$${name}` stands for the text `${name}` itself."""

TEXTS = frozenset({"arguments", "sparkConf", "hadoopConf", "labels", "annotations", "nodeSelector", "value"})
"""Fields of a manifest whose values are texts, also where a parameter is a number; `value` is that of a variable."""

DEFAULT_NAME = "spark"

LEAVE, DELETE = "leave", "delete"
ON_STOP = (DELETE, LEAVE)
"""What happens to the application when the pod of the step is deleted."""


@dataclass(frozen=True)
class StepResult:
    """What the step returns about an application that succeeded.

    Attributes:
        name: metadata.name of the application.
        state: Its state, COMPLETED.
        metrics: Numbers by name; see `metrics_of`.
    """

    name: str
    state: str
    metrics: dict[str, float]


def run_step(
    manifest: Mapping[str, Any],
    manifest_yaml: str,
    parameters: Mapping[str, Any],
    *,
    run: str,
    on_stop: str,
    placement: Placement,
    driver_log: Path,
    server: ApiServer | None = None,
    timeouts: Timeouts = launcher.TIMEOUTS,
) -> StepResult:
    """Run an application to its end, or adopt the one that an earlier try of this step has started.

    Args:
        manifest: The manifest of a SparkApplication; empty if `manifest_yaml` is given.
        manifest_yaml: The same as YAML.
        parameters: Values of the placeholders `${name}` in the texts of the manifest, by name.
        run: Identity of the task: the same for every try of it, and different for any other.
        on_stop: One of `ON_STOP`.
        placement: Kubeflow's decisions for the step's pod, which the pods of the application share.
        driver_log: File for the log of the driver.
        server: API server; by default that of this pod's cluster, or of KUBECONFIG.
        timeouts: Timeouts and intervals.

    Raises:
        CtbasisError: The manifest is not valid, a parameter is missing, or the application failed; with the reason.
        SystemExit: The step received SIGTERM.
    """
    if on_stop not in ON_STOP:
        raise CtbasisError(f"on_stop is {on_stop!r}", expected=f"one of {', '.join(ON_STOP)}")
    if not run:
        raise CtbasisError("run is empty", expected="the id of the run, dsl.PIPELINE_JOB_ID_PLACEHOLDER")
    server = server or ApiServer.connect()
    application = read_manifest(manifest, manifest_yaml, parameters, namespace=server.namespace)
    application = application.for_run(name=application_name(run, application.name or DEFAULT_NAME))
    application = application.placed(placement).with_spec_digest()
    driver_log.parent.mkdir(parents=True, exist_ok=True)
    with driver_log.open("w", encoding="utf-8", errors="backslashreplace") as file:
        ended = launcher.launch(
            application,
            server=server,
            timeouts=timeouts,
            keep=lambda line: file.write(f"{line}\n"),
            delete_on_stop=on_stop == DELETE,
        )
    return StepResult(application.name, SparkApplication.state(ended), metrics_of(ended))


def read_manifest(
    manifest: Mapping[str, Any], manifest_yaml: str, parameters: Mapping[str, Any], *, namespace: str
) -> SparkApplication:
    """Return the application of a manifest, with its parameters replaced and all its fields checked.

    Args:
        manifest: The manifest; empty if `manifest_yaml` is given.
        manifest_yaml: The same as YAML.
        parameters: Values of the placeholders by name.
        namespace: The namespace of the step, in which the application is created.

    Raises:
        CtbasisError: Both or neither are given; the YAML, a field or a placeholder is not valid; or the manifest names
            another namespace.
    """
    if bool(manifest) == bool(manifest_yaml.strip()):
        raise CtbasisError(
            f"{'both' if manifest else 'neither'} of manifest and manifest_yaml {'are' if manifest else 'is'} given",
            expected="one of them, a SparkApplication of sparkoperator.k8s.io/v1beta2",
        )
    document = dict(manifest) if manifest else _parsed(manifest_yaml)
    used: set[str] = set()
    replaced = _with_texts(_replaced(document, parameters, used))
    if unused := sorted(set(parameters) - used):
        raise CtbasisError(
            f"parameters without a placeholder in the manifest: {', '.join(unused)}",
            expected="a placeholder ${name} for each parameter",
            cause="a misspelt name",
        )
    metadata = replaced.get("metadata") or {}
    if isinstance(metadata, dict) and metadata.get("namespace") not in {None, namespace}:
        raise CtbasisError(
            f"the manifest names the namespace {metadata['namespace']!r}",
            expected=f"none, or {namespace}, in which this pipeline runs",
            cause="a pipeline's account may create applications in its own namespace only",
            remedy="remove metadata.namespace",
        )
    return SparkApplication.from_manifest(_named(replaced), where="the manifest")


def _parsed(text: str) -> dict[str, Any]:
    try:
        document = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        at = f" in line {mark.line + 1}" if mark else ""
        raise CtbasisError(f"manifest_yaml is not YAML{at}", expected="one SparkApplication") from None
    if not isinstance(document, dict):
        raise CtbasisError(f"manifest_yaml is a {type(document).__name__}", expected="one SparkApplication")
    return document


def _named(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest with a name, without the namespace and the fields that the cluster and the operator add."""
    metadata = manifest.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise CtbasisError(f"metadata is a {type(metadata).__name__}", expected="a mapping")
    name = metadata.get("name") or str(metadata.get("generateName", "")).rstrip("-") or DEFAULT_NAME
    kept = {key: metadata[key] for key in ("labels", "annotations") if key in metadata}
    return {**{key: manifest[key] for key in manifest if key != "status"}, "metadata": {"name": name, **kept}}


def _replaced(value: Any, parameters: Mapping[str, Any], used: set[str]) -> Any:
    """Return a value of the manifest with its placeholders replaced; a text that is one placeholder gets its type."""
    if isinstance(value, dict):
        return {key: _replaced(one, parameters, used) for key, one in value.items()}
    if isinstance(value, list):
        return [_replaced(one, parameters, used) for one in value]
    if not isinstance(value, str):
        return _whole_number(value)
    whole = PLACEHOLDER.fullmatch(value)
    if whole and not whole[1]:
        return _whole_number(_value_of(whole[2], parameters, used))
    return PLACEHOLDER.sub(
        lambda match: match[0][1:] if match[1] else _text(_value_of(match[2], parameters, used)), value
    )


def _with_texts(value: Any, *, text: bool = False) -> Any:
    """Return a value of the manifest in which numbers are texts where Kubernetes and Spark read nothing but texts.

    Args:
        value: The value.
        text: Whether all scalars below it are texts.
    """
    if isinstance(value, dict):
        return {key: _with_texts(one, text=text or key in TEXTS) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_texts(one, text=text) for one in value]
    return _text(value) if text and isinstance(value, int | float) else value


def _value_of(name: str, parameters: Mapping[str, Any], used: set[str]) -> Any:
    if name not in parameters:
        raise CtbasisError(
            f"the manifest has the placeholder ${{{name}}}, and parameters has no {name}",
            expected="a value for each placeholder",
            remedy=f"add the parameter, or write $${{{name}}} for the text itself",
        )
    used.add(name)
    return parameters[name]


def _whole_number(value: Any) -> Any:
    """Return a float without a fraction as an integer: Kubeflow passes every number of a dictionary as a float."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | str):
        return str(_whole_number(value))
    raise CtbasisError(
        f"a parameter inside of a text is a {type(value).__name__}", expected="a text, a number, true or false"
    )


def metrics_of(application: Mapping[str, Any]) -> dict[str, float]:
    """Return numbers about an application that has ended, those that its status has.

    `submission_attempts` and `execution_attempts`; `executors`, the number of executor pods; `wait_seconds` from the
    creation to the last submission; `run_seconds` from the last submission to the end.
    """
    status = application.get("status") or {}
    metrics = {
        name: float(status[key])
        for name, key in (("submission_attempts", "submissionAttempts"), ("execution_attempts", "executionAttempts"))
        if isinstance(status.get(key), int)
    }
    metrics["executors"] = float(len(status.get("executorState") or {}))
    created = _time(application["metadata"].get("creationTimestamp"))
    submitted, ended = _time(status.get("lastSubmissionAttemptTime")), _time(status.get("terminationTime"))
    if created and submitted:
        metrics["wait_seconds"] = (submitted - created).total_seconds()
    if submitted and ended:
        metrics["run_seconds"] = (ended - submitted).total_seconds()
    return metrics


def _time(text: Any) -> datetime | None:
    try:
        return datetime.fromisoformat(str(text))
    except ValueError:
        return None
