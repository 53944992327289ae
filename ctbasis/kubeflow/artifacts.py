"""What a Kubeflow server has of a run: its artifacts, its metrics and Figure 1.

KFP 2.17 has no artifact service, and the `outputs` of a run's task details are empty. Which artifacts a run made, with
their URIs and the metrics logged on them, is in ML Metadata; their bytes are at the UI's
`/artifacts/<source>/<bucket>/<key>`. Where that does not answer, as on the bare API server, an `s3://` or `minio://`
URI is read by boto3 with the user's own AWS_* variables. A run's id is all that is needed, at any time after the run.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, urlsplit

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow import metadata
from ctbasis.kubeflow.server import explained, host_of, request

if TYPE_CHECKING:
    from pathlib import Path

    from kfp.client import Client

Metric: TypeAlias = float | int | str | bool

FIGURE = "figure1"
METRICS = "system.Metrics"
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Artifact:
    """An artifact as ML Metadata knows it.

    Attributes:
        name: The output's name.
        type: Such as system.Metrics.
        uri: Where its bytes are.
        properties: What the step logged on it; of a Metrics artifact its metrics.
        session: How the back end reached the store: provider, endpoint, and the name of the secret with its keys.
    """

    name: str
    type: str
    uri: str
    properties: dict[str, Metric] = field(default_factory=dict)
    session: str = ""

    @classmethod
    def of(cls, message: Any) -> Artifact:
        """Return what an `ml_metadata.Artifact` says: its name is a property of it, and so is a metric."""
        # A value without content has no fields set.
        held = {entry.key: entry.value.ListFields() for entry in message.custom_properties}
        properties = {key: fields[0][1] for key, fields in held.items() if fields}
        return cls(
            name=str(properties.pop("display_name", "")),
            type=message.type,
            uri=message.uri,
            session=str(properties.pop("store_session_info", "")),
            properties=properties,
        )


@dataclass(frozen=True)
class Results:
    """What a run that succeeded left.

    Attributes:
        metrics: Every value that a step logged on a Metrics artifact, by name.
        figure1: Figure 1 as PNG.
    """

    metrics: dict[str, Metric]
    figure1: bytes = field(repr=False)

    def save(self, out: Path) -> None:
        """Write metrics.json and figure1.png into the folder `out`, each whole or not at all."""
        out.mkdir(parents=True, exist_ok=True)
        contents = {"metrics.json": json.dumps(self.metrics, indent=2).encode(), "figure1.png": self.figure1}
        for name, content in contents.items():
            partial = out / f"{name}.partial"
            partial.write_bytes(content)
            partial.replace(out / name)


def fetch_results(client: Client, run_id: str) -> Results:
    """Return the metrics and Figure 1 of a run that succeeded, now or long ago.

    Raises:
        CtbasisError: The server does not give its metadata or the figure's bytes, or the run made no such artifacts.
    """
    artifacts = run_artifacts(client, run_id)
    logged = [artifact.properties for artifact in artifacts if artifact.type == METRICS]
    metrics = {name: value for properties in logged for name, value in sorted(properties.items())}
    figures = [artifact for artifact in artifacts if artifact.name == FIGURE]
    if not metrics or not figures:
        names = ", ".join(sorted({artifact.name for artifact in artifacts})) or "none"
        raise CtbasisError(
            f"run {run_id} has artifacts {names}",
            expected=f"{FIGURE} and one of type {METRICS}",
            cause="the run did not succeed, or it is a run of another pipeline",
        )
    figure = download(client, figures[-1])
    if not figure.startswith(PNG):
        raise CtbasisError(f"{figures[-1].uri} is no PNG image", cause="a page was sent in place of the artifact")
    return Results(metrics=metrics, figure1=figure)


def run_artifacts(client: Client, run_id: str) -> list[Artifact]:
    """Return every artifact of a run, the oldest first.

    Raises:
        CtbasisError: The host does not pass requests to ML Metadata, or that does not know the run.
    """
    messages = sorted(metadata.artifacts_of(client, run_id), key=lambda message: message.id)
    return [Artifact.of(message) for message in messages]


def download(client: Client, artifact: Artifact) -> bytes:
    """Return the bytes of an artifact that is one file, through the UI, else straight from its object store.

    Raises:
        CtbasisError: Neither gives them.
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
    with explained(host, f"to send artifact {artifact.name!r}"):
        answer = request(client, path, "GET", query_params=[(name, value) for name, value in query.items() if value])
    if (answer.headers.get("content-type") or "").startswith("text/html"):
        raise CtbasisError(f"{host} sends a page in place of artifact {artifact.name!r}")
    return bytes(answer.data)


def _from_store(uri: str) -> bytes:
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if uri.startswith("minio:") and not endpoint:
        raise CtbasisError(
            f"{uri} cannot be fetched: the host sends no artifacts and the store's address is unknown",
            remedy="give the address of the Kubeflow UI, or set AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY",
        )
    place = urlsplit(uri)
    try:
        # A session of its own: boto3's default one would keep the credentials of its first use.
        client = boto3.session.Session().client("s3")
        return bytes(client.get_object(Bucket=place.netloc, Key=place.path.lstrip("/"))["Body"].read())
    except (BotoCoreError, ClientError) as error:
        raise CtbasisError(
            f"{uri} cannot be fetched from its object store ({error})",
            remedy="give the address of the Kubeflow UI, or check the AWS_* variables",
        ) from error
