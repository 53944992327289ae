"""A stand-in for a cluster: an API server on loopback that answers from objects, and says no as Kubernetes does.

`ready` puts everything there that a package needs, as seen on a cluster with Kubernetes 1.34 and the operator 2.4.0.
"""

from __future__ import annotations

import json
import re
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING, Any

import yaml
from kubernetes import client

from ctbasis.installed import LAYOUT
from ctbasis.jobs.api_server import ApiServer
from ctbasis.kubeflow.lint import rendered
from ctbasis.kubeflow.lint.crds import FOLDER
from tests.loopback import HttpStandIn

if TYPE_CHECKING:
    from pathlib import Path

NAMESPACE = "kubeflow"
CORE, RBAC = "/api/v1", "/apis/rbac.authorization.k8s.io/v1"
OPERATOR = "/apis/sparkoperator.k8s.io/v1beta2"
TEMPLATE = f"{OPERATOR}/namespaces/{NAMESPACE}/sparkapplications/ctbasis-svd"
DEFINITION = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/sparkapplications.sparkoperator.k8s.io"
WEBHOOKS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/spark-operator"
CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
REVIEWS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
IMAGES = ("docker.io/ctbasis/steps:0.1.0", "docker.io/ctbasis/spark:0.1.0")


class ClusterStandIn(HttpStandIn):
    """The cluster; a context manager that starts and stops its server.

    Attributes:
        objects: The objects by path.
        apis: Paths of the APIs that are served.
        rights: (account, verb, resource) of what accounts of the namespace may do; a resource with a space and a name
            is one object of it.
        refused: Expression of method and path that the user may not send.
        requests: Method and path of every request.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.apis = {OPERATOR, "/apis/argoproj.io/v1alpha1"}
        self.rights: set[tuple[str, str, str]] = set()
        self.refused = "(?!)"
        self.requests: list[str] = []

    def handler(self) -> type[BaseHTTPRequestHandler]:
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                stand_in.requests.append(f"GET {self.path}")
                self._send(*stand_in.get(self.path))

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stand_in.requests.append(f"POST {self.path}")
                self._send(*stand_in.post(self.path, body))

            def _send(self, status: int, answer: dict[str, Any]) -> None:
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                """Keep the tests' output clean."""

        return Handler

    def api_server(self) -> ApiServer:
        settings = client.Configuration()
        settings.host = self.url
        return ApiServer(client.ApiClient(settings), "default")

    def kubeconfig(self, path: Path) -> Path:
        """Write a KUBECONFIG for this cluster, and return its path."""
        one = {"name": "one"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [one | {"cluster": {"server": self.url}}],
            "users": [one | {"user": {"token": "secret-token"}}],
            "contexts": [one | {"context": {"cluster": "one", "user": "one"}}],
            "current-context": "one",
        }
        path.write_text(yaml.safe_dump(config))
        return path

    def put(self, collection: str, name: str, **content: Any) -> dict[str, Any]:
        """Put an object into a collection, and return it for changes."""
        made = {"metadata": {"name": name, **content.pop("metadata", {})}, **content}
        self.objects[f"{collection}/{name}"] = made
        return made

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        if re.search(self.refused, f"GET {path}"):
            return 403, {"reason": "Forbidden", "message": f'User "me" cannot get {path}'}
        if path in self.apis:
            return 200, {"kind": "APIResourceList"}
        if path in self.objects:
            return 200, self.objects[path]
        items = [one for place, one in self.objects.items() if place.rpartition("/")[0] == path]
        if items or path.rpartition("/")[2] in {"nodes", "storageclasses", "persistentvolumes", "networkpolicies"}:
            return 200, {"items": items}
        return 404, {"reason": "NotFound", "message": f"{path} not found"}

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if path != REVIEWS or re.search(self.refused, f"POST {path}"):
            return 403, {"reason": "Forbidden", "message": f'User "me" cannot create {path}'}
        spec = body["spec"]
        asked = spec["resourceAttributes"]
        account = spec["user"].removeprefix(f"system:serviceaccount:{asked['namespace']}:")
        resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
        allowed = {(account, asked["verb"], one) for one in (resource, f"{resource} {asked.get('name')}")}
        return 201, {"status": {"allowed": bool(allowed & self.rights)}}


def ready(cluster: ClusterStandIn, *, account: str = "pipeline-runner", nodes: int = 3) -> None:
    """Put everything into the cluster that the committed package needs."""
    for number in range(nodes):
        cluster.put(
            f"{CORE}/nodes",
            f"node{number}",
            spec={},
            status={
                "allocatable": {"cpu": "3920m", "memory": "15Gi"},
                "conditions": [{"type": "Ready", "status": "True"}],
                "images": [{"names": [name]} for name in IMAGES] + [{"names": None}],
            },
        )
    default = {"annotations": {"storageclass.kubernetes.io/is-default-class": "true"}}
    cluster.put(CLASSES, "files", metadata=default, provisioner="efs.csi.aws.com")
    labels = {"kubernetes.io/metadata.name": NAMESPACE, "ctbasis/admission": "enforced"}
    cluster.put(f"{CORE}/namespaces", NAMESPACE, metadata={"labels": labels})
    for name in ("ctbasis-s3", "ctbasis-sources", "ctbasis-deidentify", "ctbasis-registry"):
        cluster.put(f"{CORE}/namespaces/{NAMESPACE}/secrets", name)
    for document in rendered.render(LAYOUT.manifests / "overlays" / "kubeflow"):
        kind = f"{document['kind'].lower()}s"
        if kind == "sparkapplications":
            cluster.objects[TEMPLATE] = document
        elif kind == "serviceaccounts":
            cluster.objects[f"{CORE}/namespaces/{NAMESPACE}/{kind}/{document['metadata']['name']}"] = document
        elif kind == "roles":
            cluster.objects[f"{RBAC}/namespaces/{NAMESPACE}/{kind}/{document['metadata']['name']}"] = document
            holder = account if document["metadata"]["name"] == "ctbasis-launch" else document["metadata"]["name"]
            cluster.rights |= {
                (holder, verb, resource)
                for rule in document["rules"]
                for verb in rule["verbs"]
                for resource in rule["resources"]
            }
    cluster.put(f"{CORE}/namespaces/{NAMESPACE}/serviceaccounts", account)
    cluster.objects[DEFINITION] = definition()
    webhook = {
        "rules": [{"resources": ["pods"]}],
        "objectSelector": {"matchLabels": {"sparkoperator.k8s.io/launched-by-spark-operator": "true"}},
        "namespaceSelector": {},
    }
    cluster.put(WEBHOOKS.rpartition("/")[0], "spark-operator", webhooks=[webhook, {"rules": []}])


def definition() -> dict[str, Any]:
    """Return the operator's CustomResourceDefinition of a SparkApplication, without descriptions."""
    schema = json.loads((FOLDER / "SparkApplication.v1beta2.json").read_text())
    version = {"name": "v1beta2", "schema": {"openAPIV3Schema": schema}}
    return {"spec": {"names": {"kind": "SparkApplication"}, "versions": [version]}}
