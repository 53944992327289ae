"""ML Metadata, which knows a run's artifacts, asked through the Kubeflow UI's address: gRPC-Web, one message each way.

The UI passes `/ml_metadata.MetadataStoreService/<method>` on. The context `system.PipelineRun` is named after the run.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.server import explained, host_of, request

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kfp.client import Client

PAGE = 100

NO_UI = ("it is the address of the API server, not of the Kubeflow UI", "give the address that a browser opens")

MESSAGES = {
    "Value": ("int64 int_value 1", "double double_value 2", "string string_value 3", "bool bool_value 6"),
    "Property": ("string key 1", "Value value 2"),  # A map is its entries, repeated.
    "Artifact": ("int64 id 1", "string uri 3", "Property* custom_properties 5", "string type 8"),
    "Context": ("int64 id 1",),
    "ListOperationOptions": ("int32 max_result_size 1", "string next_page_token 3"),
    "GetContextByTypeAndNameRequest": ("string type_name 1", "string context_name 2"),
    "GetContextByTypeAndNameResponse": ("Context context 1",),
    "GetArtifactsByContextRequest": ("int64 context_id 1", "ListOperationOptions options 2"),
    "GetArtifactsByContextResponse": ("Artifact* artifacts 1", "string next_page_token 2"),
}
"""The part of ml_metadata/proto/metadata_store{,_service}.proto (1.14) in use: type, name, number; * is repeated."""


def artifacts_of(client: Client, run_id: str) -> Iterator[Any]:
    """Yield the `Artifact` messages of a run.

    Raises:
        CtbasisError: The host does not pass requests to ML Metadata, or that does not know the run.
    """
    found = ask(client, "GetContextByTypeAndName", type_name="system.PipelineRun", context_name=run_id)
    if not found.HasField("context"):
        raise CtbasisError(f"ML Metadata knows no run {run_id}", cause="it has not begun, or its records were removed")
    options: dict[str, Any] = {"max_result_size": PAGE}
    while True:
        page = ask(client, "GetArtifactsByContext", context_id=found.context.id, options=options)
        yield from page.artifacts
        if not page.next_page_token:
            return
        options["next_page_token"] = page.next_page_token


def ask(client: Client, method: str, **fields: Any) -> Any:
    """Call a method of ML Metadata with the fields of its request and return its response.

    Raises:
        CtbasisError: The host does not pass the call on, or ML Metadata refuses it.
    """
    content = messages()[f"{method}Request"](**fields).SerializeToString()
    host = host_of(client)
    address = urlsplit(host)
    with explained(host, "to name the run's artifacts", absent=NO_UI):
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
        raise CtbasisError(f"{host} does not pass requests to ML Metadata", cause=NO_UI[0], remedy=NO_UI[1])
    return messages()[f"{method}Response"].FromString(_unframed(answer.data, answer.headers))


def _unframed(content: bytes, headers: Mapping[str, str]) -> bytes:
    """Return the message in a gRPC-Web answer: frames of a flag, four bytes of length, and content."""
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
        told = re.search(r"grpc-message:\s*([^\r\n]+)", trailer)
        raise CtbasisError(
            f"ML Metadata refuses with gRPC status {status[1] if status else 'unknown'}"
            + (f" ({unquote(told[1])[:300]})" if told else ""),
        )
    return message


@cache
def messages() -> dict[str, Any]:
    """Return the classes of `MESSAGES`; the package ml-metadata would bring an old protobuf and a database."""
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
