"""The artifacts of a run on a Kubeflow server: its metrics and Figure 1.

KFP 2.17 has no artifact service, and the `outputs` of a run's task details are empty. ML Metadata lists the artifacts
of a run, with their URIs and the metrics logged on them. The UI serves their bytes at
`/artifacts/<source>/<bucket>/<key>`. If the UI does not answer, as when the host is the bare API server, boto3 reads an
`s3://` or `minio://` URI with the user's AWS_* variables. The id of a run is sufficient, at any time after the run.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote, urlsplit

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow import metadata
from ctbasis.kubeflow.server import host_of, request, server_errors
from ctbasis.storage.outputs import replaced_file

if TYPE_CHECKING:
    from pathlib import Path

    from kfp.client import Client

Metric: TypeAlias = float | int | str | bool

FIGURE = "figure1"
METRICS = "system.Metrics"
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Artifact:
    """An artifact as ML Metadata records it.

    Attributes:
        name: The name of the step's output.
        type: The artifact type, such as system.Metrics.
        uri: The place of its bytes.
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
        """Write metrics.json and figure1.png into the folder `out`; a file is either complete or absent."""
        out.mkdir(parents=True, exist_ok=True)
        contents = {"metrics.json": json.dumps(self.metrics, indent=2).encode(), "figure1.png": self.figure1}
        for name, content in contents.items():
            with replaced_file(out / name) as partial:
                partial.write_bytes(content)


def fetch_results(client: Client, run_id: str) -> Results:
    """Return the metrics and Figure 1 of a run that succeeded at any time.

    Raises:
        CtbasisError: The server does not send the run's metadata or the figure, or the run has no such artifacts.
    """
    artifacts = run_artifacts(client, run_id)
    logged = [artifact.properties for artifact in artifacts if artifact.type == METRICS]
    metrics = {name: value for properties in logged for name, value in sorted(properties.items())}
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


def run_artifacts(client: Client, run_id: str) -> list[Artifact]:
    """Return every artifact of a run, the oldest first.

    Raises:
        CtbasisError: The host does not forward requests to ML Metadata, or ML Metadata has no record of the run.
    """
    messages = sorted(metadata.artifacts_of(client, run_id), key=lambda message: message.id)
    return [Artifact.from_message(message) for message in messages]


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
