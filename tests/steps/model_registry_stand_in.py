"""A stand-in for Kubeflow's Model Registry: HTTP on loopback with the paths and the schemas of its API, version 1.

The registry itself, a Go program, is on no package index. The requests are checked by the classes of its OpenAPI
document that its client ships (`mr_openapi`), which refuse unknown and missing fields; the answers are made by them.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, urlsplit

from mr_openapi.models import (
    Artifact,
    ModelArtifact,
    ModelVersion,
    ModelVersionCreate,
    RegisteredModel,
    RegisteredModelCreate,
)

if TYPE_CHECKING:
    from types import TracebackType

ROOT = "/api/model_registry/v1/"


class ModelRegistryStandIn:
    """The server; a context manager that starts and stops it.

    Attributes:
        models: Registered models by name.
        versions: Versions by name.
        artifacts: Artifacts by the id of their version.
        refusals: Statuses with which the next requests are answered.
        tokens: Values of the header Authorization that were sent.
    """

    def __init__(self) -> None:
        self.models: dict[str, RegisteredModel] = {}
        self.versions: dict[str, ModelVersion] = {}
        self.artifacts: dict[str, ModelArtifact] = {}
        self.refusals: list[int] = []
        self.tokens: set[str | None] = set()
        stand_in = self

        class Handler(_Handler):
            registry = stand_in

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _trace: TracebackType | None) -> None:
        self._http.shutdown()
        self._http.server_close()

    def get(self, path: str, query: dict[str, str]) -> Any:
        """Return the object at a path; None if it does not exist."""
        if path == "registered_models":
            items = list(self.models.values())
            return {"nextPageToken": "", "pageSize": 1, "size": len(items), "items": [one.to_dict() for one in items]}
        if path == "registered_model":
            return _content(self.models.get(query["name"]))
        if path == "model_version":
            found = self.versions.get(query["name"])
            return _content(found) if found and found.registered_model_id == query["parentResourceId"] else None
        if path == "model_artifact":
            return _content(self.artifacts.get(query["parentResourceId"]))
        raise KeyError(path)

    def post(self, path: str, text: str) -> Any:
        """Create the object of a request."""
        if path == "registered_models":
            asked = RegisteredModelCreate.from_json(text)
            made = RegisteredModel.from_dict({**asked.to_dict(), "id": str(len(self.models) + 1)})
            self.models[asked.name] = made
            return _content(made)
        if path == "model_versions":
            version = ModelVersionCreate.from_json(text)
            created = ModelVersion.from_dict({**version.to_dict(), "id": str(len(self.versions) + 1)})
            self.versions[version.name] = created
            return _content(created)
        collection, of_version, kind = path.split("/")
        assert (collection, kind) == ("model_versions", "artifacts"), path
        artifact = Artifact.from_json(text).actual_instance
        assert isinstance(artifact, ModelArtifact)
        artifact.id = str(len(self.artifacts) + 1)
        self.artifacts[of_version] = artifact
        return _content(artifact)


class _Handler(BaseHTTPRequestHandler):
    registry: ModelRegistryStandIn

    def log_message(self, *_: object) -> None:
        """Log nothing."""

    def do_GET(self) -> None:
        split = urlsplit(self.path)
        self._answer(lambda: self.registry.get(split.path.removeprefix(ROOT), dict(parse_qsl(split.query))), 200)

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self._answer(lambda: self.registry.post(self.path.removeprefix(ROOT), text), 201)

    def _answer(self, made: Any, status: int) -> None:
        self.registry.tokens.add(self.headers["Authorization"])
        if self.registry.refusals:
            status, content = self.registry.refusals.pop(0), {"code": "refused", "message": "refused"}
        else:
            content = made()
            if content is None:
                status, content = 404, {"code": "not-found", "message": "not found"}
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _content(one: Any) -> Any:
    return None if one is None else one.to_dict()
