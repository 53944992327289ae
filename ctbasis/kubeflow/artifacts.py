"""The artifacts of a run on a Kubeflow server: its metrics, Figure 1, its report, and the logs of its steps.

Two kinds of server list them. In Kubeflow Pipelines 2.17 the `outputs` of a run's task details are empty, and ML
Metadata lists the artifacts of a run, with their URIs and the metrics logged on them. The server that follows 2.17 has
no ML Metadata and lists them itself (see `runs`). The answer for a run tells which kind it is.

The UI of both serves the bytes at `/artifacts/<source>/<bucket>/<key>`. If the UI does not answer, as when the host is
the bare API server, boto3 reads an `s3://` or `minio://` URI with the user's AWS_* variables. The id of a run is
sufficient, at any time after the run.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, urlsplit

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow import metadata
from ctbasis.kubeflow.runs import API, Run, get_run
from ctbasis.kubeflow.server import AbsentError, NoAnswerError, get, host_of, request, server_errors
from ctbasis.printable import printable_markdown
from ctbasis.storage.outputs import write_file

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from kfp.client import Client

Metric: TypeAlias = float | int | str | bool

FIGURE = "figure1"
PAGE = "page"
METRICS = "system.Metrics"
METRIC = "system.Metric"
"""The type of an artifact that holds one metric, on the server that follows 2.17."""

NO_RUN = "00000000-0000-0000-0000-000000000000"
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Artifact:
    """An artifact as the server records it.

    Attributes:
        name: The name of the step's output.
        type: The artifact type, such as system.Metrics.
        uri: The place of its bytes; empty if it has none.
        properties: The values that the step logged on it; for a Metrics artifact, the metrics.
        session: How the back end reached the object store: provider, endpoint, and the name of the Secret of its keys.
    """

    name: str
    type: str
    uri: str
    properties: dict[str, Metric] = field(default_factory=dict)
    session: str = ""

    @classmethod
    def from_message(cls, message: Any) -> Artifact:
        """Return the artifact of an `ml_metadata.Artifact`, which stores its name and its metrics as properties."""
        # An empty value has no field set.
        values = {entry.key: entry.value.ListFields() for entry in message.custom_properties}
        properties = {key: fields[0][1] for key, fields in values.items() if fields}
        return cls(
            name=str(properties.pop("display_name", "")),
            type=message.type,
            uri=message.uri,
            session=str(properties.pop("store_session_info", "")),
            properties=properties,
        )

    @classmethod
    def from_task(cls, key: str, artifact: Mapping[str, Any]) -> Artifact:
        """Return an artifact as the server that follows 2.17 sends it with its task: one artifact for each metric."""
        kind, value = f"system.{artifact.get('type') or 'Artifact'}", artifact.get("number_value")
        if kind == METRIC:
            return cls(name=key, type=METRICS, uri="", properties={str(artifact["name"]): float(value or 0)})
        properties = {name: value for name, value in (artifact.get("metadata") or {}).items() if value is not None}
        return cls(name=key, type=kind, uri=str(artifact.get("uri") or ""), properties=properties)

    @property
    def step(self) -> str:
        """The name of the task that produced it: KFP's launcher stores bytes at ROOT/RUN/TASK/UNIQUE/NAME."""
        parts = urlsplit(self.uri).path.split("/")
        return parts[-3] if len(parts) > 3 else ""  # noqa: PLR2004 - the parts after the root


@dataclass(frozen=True)
class Results:
    """The results of a run that succeeded.

    Attributes:
        metrics: All values that steps logged on Metrics artifacts, by name.
        figure1: Figure 1 as PNG.
    """

    metrics: dict[str, Metric]
    figure1: bytes = field(repr=False)

    def save(self, out: Path) -> None:
        """Write metrics.json and figure1.png into the folder `out`; a file is either complete or absent.

        Raises:
            CtbasisError: The disk is full, or this user may not write there.
        """
        contents = {"metrics.json": json.dumps(self.metrics, indent=2).encode(), "figure1.png": self.figure1}
        for name, content in contents.items():
            write_file(out / name, content)


def metric_text(value: Metric) -> str:
    """Return a metric as text: whole numbers in full, others with four significant digits and never an exponent."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return str(value)
    if float(value).is_integer():
        return str(int(value))
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    text = f"{value:.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def metrics_table(columns: Mapping[str, Mapping[str, Metric]]) -> str:
    """Return the metrics of runs side by side as a table in Markdown; of two runs, with the difference.

    Args:
        columns: The metrics of each run by name, by the heading of its column.
    """
    names = sorted({name for metrics in columns.values() for name in metrics})
    two = len(columns) == 2  # noqa: PLR2004 - a difference has two sides
    header = ["metric", *columns, *(["difference"] if two else [])]
    rows = [header, ["---"] * len(header)]
    for name in names:
        values = [metrics.get(name) for metrics in columns.values()]
        row = [name, *("" if value is None else metric_text(value) for value in values)]
        numbers = [value for value in values if isinstance(value, int | float)]
        if two:
            row.append(metric_text(numbers[1] - numbers[0]) if len(numbers) == len(columns) else "")
        rows.append(row)
    return printable_markdown(f"| {' | '.join(row)} |" for row in rows)


def fetch_results(client: Client, run_id: str) -> Results:
    """Return the metrics and Figure 1 of a run that succeeded at any time.

    Raises:
        CtbasisError: The server does not list the run's artifacts or send the figure, or the run has no such artifacts.
    """
    artifacts = run_artifacts(client, get_run(client, run_id))
    metrics = _metrics(artifacts)
    figures = [artifact for artifact in artifacts if artifact.name == FIGURE]
    if not metrics or not figures:
        names = ", ".join(sorted({artifact.name for artifact in artifacts})) or "none"
        raise CtbasisError(
            f"the artifacts of run {run_id} are: {names}",
            expected=f"{FIGURE} and an artifact of type {METRICS}",
            cause="the run did not succeed, or it is a run of another pipeline",
        )
    figure = download(client, figures[-1])
    if not figure.startswith(PNG):
        raise CtbasisError(
            f"{figures[-1].uri} is not a PNG image",
            expected="Figure 1 as PNG",
            cause="the server sent a web page instead of the artifact",
        )
    return Results(metrics=metrics, figure1=figure)


def fetch_metrics(client: Client, run_id: str) -> dict[str, Metric]:
    """Return all values that the steps of a run logged on Metrics artifacts; of several of one name, the last.

    Raises:
        CtbasisError: The server does not list the run's artifacts.
    """
    return _metrics(run_artifacts(client, get_run(client, run_id)))


def _metrics(artifacts: Iterable[Artifact]) -> dict[str, Metric]:
    logged = [artifact.properties for artifact in artifacts if artifact.type == METRICS]
    return {name: value for properties in logged for name, value in sorted(properties.items())}


def fetch_page(client: Client, run_id: str) -> str:
    """Return the report of a run that succeeded, a self-contained HTML page.

    Raises:
        CtbasisError: The server does not list the run's artifacts or send the page, or the run has no page.
    """
    pages = [artifact for artifact in run_artifacts(client, get_run(client, run_id)) if artifact.name == PAGE]
    if not pages:
        raise CtbasisError(
            f"run {run_id} has no artifact {PAGE!r}",
            expected="the report of a run of this pipeline",
            cause="the run did not succeed, or it is a run of another pipeline",
        )
    return download(client, pages[-1]).decode(errors="replace")


def run_artifacts(client: Client, run: Run) -> list[Artifact]:
    """Return every artifact of a run, the oldest first.

    Raises:
        CtbasisError: The server does not list them and does not forward requests to ML Metadata either, or ML Metadata
            has no record of the run.
    """
    if run.lists_artifacts:
        # The tasks around a step, such as the pipeline itself, may list its artifacts again.
        tasks = [task for task in run.tasks if not run.steps or task.name in run.steps]
        return [Artifact.from_task(key, artifact) for task in tasks for key, artifact in task.outputs]
    messages = sorted(metadata.artifacts_of(client, run.run_id), key=lambda message: message.id)
    return [Artifact.from_message(message) for message in messages]


def require_results(client: Client) -> None:
    """Check that the results of a run can be fetched from this address, before the run is started.

    Raises:
        CtbasisError: The address is that of the API server without the UI, or the UI does not reach ML Metadata.
    """
    namespace = client.get_user_namespace()
    lists_artifacts = _answers(
        client, f"{API}/artifacts", {"page_size": 1} | ({"namespace": namespace} if namespace else {})
    )
    # The UI refuses a request without the name of a pod by another status than 404.
    has_ui = _answers(client, "/k8s/pod")
    if not has_ui and not (lists_artifacts and os.environ.get("AWS_ACCESS_KEY_ID")):
        raise CtbasisError(
            f"{host_of(client)} does not send artifacts, so the results of a run could not be fetched",
            expected="the address of the Kubeflow UI"
            + (", or AWS_* variables for the object store of Kubeflow" if lists_artifacts else ""),
            cause=metadata.NO_UI[0],
            remedy=f"{metadata.NO_UI[1]}; or do not wait for the run (--no-wait)",
        )
    if not lists_artifacts:
        metadata.call(client, "GetContextByTypeAndName", type_name=metadata.RUN_TYPE, context_name=NO_RUN)


def _answers(client: Client, path: str, query: Mapping[str, object] | None = None) -> bool:
    """Return whether the server has something at a path, even if it refuses to send it.

    Raises:
        NoAnswerError: The server did not answer.
    """
    try:
        get(client, path, query)
    except AbsentError:
        return False
    except NoAnswerError:
        raise
    except CtbasisError:
        return True
    return True


def download(client: Client, artifact: Artifact) -> bytes:
    """Return the bytes of an artifact that is one file: from the UI, else from the object store.

    Raises:
        CtbasisError: Neither sends them.
    """
    try:
        return _through_ui(client, artifact)
    except CtbasisError:
        if not artifact.uri.startswith(("s3://", "minio://")):
            raise
    return _from_store(artifact.uri)


def _through_ui(client: Client, artifact: Artifact) -> bytes:
    host, uri = host_of(client), urlsplit(artifact.uri)
    path = f"/artifacts/{'gcs' if uri.scheme == 'gs' else uri.scheme}/{uri.netloc}{quote(uri.path)}"
    query = {"namespace": client.get_user_namespace(), "providerInfo": artifact.session}
    with server_errors(host, f"to send artifact {artifact.name!r}"):
        answer = request(client, path, "GET", query_params=[(name, value) for name, value in query.items() if value])
    if (answer.headers.get("content-type") or "").startswith("text/html"):
        raise CtbasisError(f"{host} sends a web page instead of artifact {artifact.name!r}")
    return bytes(answer.data)


def _from_store(uri: str) -> bytes:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if uri.startswith("minio:") and not endpoint:
        raise CtbasisError(
            f"{uri} cannot be fetched: the host sends no artifacts, and the address of the object store is unknown",
            remedy="give the address of the Kubeflow UI, or set AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY",
        )
    address = urlsplit(uri)
    try:
        # A new session, because boto3's default session keeps the credentials of its first use.
        client = boto3.session.Session().client("s3")
        return bytes(client.get_object(Bucket=address.netloc, Key=address.path.lstrip("/"))["Body"].read())
    except (BotoCoreError, ClientError) as error:
        raise CtbasisError(
            f"{uri} cannot be fetched from its object store ({error})",
            remedy="give the address of the Kubeflow UI, or check the AWS_* variables",
        ) from error
