"""A client of ML Metadata, the database that records the artifacts of runs.

Requests go to the address of the Kubeflow UI, which forwards `/ml_metadata.MetadataStoreService/<method>`. They are
unary gRPC-Web calls: one message in each direction. The artifacts of a run belong to the context of type
`system.PipelineRun` that is named after the run.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.server import host_of, request, server_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kfp.client import Client

RUN_TYPE = "system.PipelineRun"
"""The type of the context of a run."""

PAGE = 100
"""Artifacts in one response."""

NO_UI = ("it is the address of the API server, not of the Kubeflow UI", "give the address that a browser opens")
"""Likely cause and remedy if the host does not forward requests to ML Metadata."""

MESSAGES = {
    "Value": ("int64 int_value 1", "double double_value 2", "string string_value 3", "bool bool_value 6"),
    "Property": ("string key 1", "Value value 2"),  # a map is a repeated field of its entries
    "Artifact": ("int64 id 1", "string uri 3", "Property* custom_properties 5", "string type 8"),
    "Context": ("int64 id 1",),
    "ListOperationOptions": ("int32 max_result_size 1", "string next_page_token 3"),
    "GetContextByTypeAndNameRequest": ("string type_name 1", "string context_name 2"),
    "GetContextByTypeAndNameResponse": ("Context context 1",),
    "GetArtifactsByContextRequest": ("int64 context_id 1", "ListOperationOptions options 2"),
    "GetArtifactsByContextResponse": ("Artifact* artifacts 1", "string next_page_token 2"),
}
"""The used part of ml_metadata/proto/metadata_store.proto and metadata_store_service.proto (1.14).

Each field is given as type, name and number; `*` marks a repeated field.
"""


def artifacts_of(client: Client, run_id: str) -> Iterator[Any]:
    """Yield the `Artifact` messages of a run.

    Raises:
        CtbasisError: The host does not forward requests to ML Metadata, or ML Metadata has no record of the run.
    """
    response = call(client, "GetContextByTypeAndName", type_name=RUN_TYPE, context_name=run_id)
    if not response.HasField("context"):
        raise CtbasisError(
            f"ML Metadata has no record of run {run_id}",
            expected="the record that the run's first step makes",
            cause="the run has not begun, or its records were removed",
        )
    options: dict[str, Any] = {"max_result_size": PAGE}
    while True:
        page = call(client, "GetArtifactsByContext", context_id=response.context.id, options=options)
        yield from page.artifacts
        if not page.next_page_token:
            return
        options["next_page_token"] = page.next_page_token


def call(client: Client, method: str, **fields: Any) -> Any:
    """Call a method of ML Metadata and return its response.

    Args:
        client: The client of the Kubeflow server.
        method: The method's name.
        fields: The fields of the request.

    Raises:
        CtbasisError: The host does not forward the call, or ML Metadata refuses it.
    """
    content = messages()[f"{method}Request"](**fields).SerializeToString()
    host = host_of(client)
    address = urlsplit(host)
    with server_errors(host, "to list the run's artifacts", absent=NO_UI):
        answer = request(
            client,
            f"/ml_metadata.MetadataStoreService/{method}",
            "POST",
            header_params={"Content-Type": "application/grpc-web+proto", "X-Grpc-Web": "1"},
            body=b"\0" + len(content).to_bytes(4, "big") + content,
            # Kubeflow serves the UI below /pipeline and ML Metadata beside it.
            _host=f"{address.scheme}://{address.netloc}",
        )
    if not (answer.headers.get("content-type") or "").startswith("application/grpc-web"):
        raise CtbasisError(f"{host} does not forward requests to ML Metadata", cause=NO_UI[0], remedy=NO_UI[1])
    return messages()[f"{method}Response"].FromString(_unframed(answer.data, answer.headers))


def _unframed(content: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the message of a gRPC-Web response.

    A response is a sequence of frames; each has a byte of flags, four bytes of length, and its content. The frame with
    the flag 0x80 is the trailer, which holds the status.

    Raises:
        CtbasisError: The status is not 0.
    """
    message = b""
    trailer = f"grpc-status:{headers.get('grpc-status', '')}"
    while content:
        end = 5 + int.from_bytes(content[1:5], "big")
        frame, is_trailer = content[5:end], content[0] & 0x80
        content = content[end:]
        if is_trailer:
            trailer = frame.decode("ascii", "replace")
        else:
            message += frame
    status = re.search(r"grpc-status:\s*(\d+)", trailer)
    if status is None or status[1] != "0":
        explanation = re.search(r"grpc-message:\s*([^\r\n]+)", trailer)
        raise CtbasisError(
            f"ML Metadata refuses with gRPC status {status[1] if status else 'unknown'}"
            + (f" ({unquote(explanation[1])[:300]})" if explanation else ""),
        )
    return message


@cache
def messages() -> dict[str, Any]:
    """Return the classes of `MESSAGES`; those of the package ml-metadata would need an old protobuf and a database."""
    file = descriptor_pb2.FileDescriptorProto(name="ml_metadata_in_part.proto", package="ml_metadata", syntax="proto2")
    for message_name, fields in MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for line in fields:
            kind, name, number = line.split()
            field = message.field.add(name=name, number=int(number))
            field.label = field.LABEL_REPEATED if kind.endswith("*") else field.LABEL_OPTIONAL
            if kind.rstrip("*") in MESSAGES:
                field.type, field.type_name = field.TYPE_MESSAGE, f".ml_metadata.{kind.rstrip('*')}"
            else:
                field.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"ml_metadata.{name}")) for name in MESSAGES
    }
