"""A served model in the cluster, and the basis that it serves: KServe's InferenceService, or a plain Deployment.

Both name the basis in one environment variable of one container, see manifests/serving. A new value of the variable is
a new revision of the pods, which Kubernetes rolls out: the pods with the former basis serve until those with the new
one are ready, and `kubectl rollout undo` restores the former one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ctbasis.errors import CtbasisError
from ctbasis.jobs.api_server import HTTP_FORBIDDEN, HTTP_INVALID, HTTP_NOT_FOUND, HTTP_UNAUTHORIZED, ApiError
from ctbasis.jobs.outage import JobStaysError, retry_outages

if TYPE_CHECKING:
    from ctbasis.jobs.api_server import ApiServer
    from ctbasis.jobs.timeouts import Timeouts

ROLE = "ctbasis-deploy"
"""Role and RoleBinding of the component deploy-basis of manifests/, which allow exactly what this module asks."""

MOST_RACES = 3
"""How often the object may change between its reading and its change."""

POLL_SECONDS = 5.0

ROLLOUT_SECONDS = 1800.0
"""The deadline of a Deployment itself is 600 s without progress; a rollout with many replicas makes progress longer."""


@dataclass(frozen=True)
class Kind:
    """A kind of object that serves a basis.

    Attributes:
        title: Its name in Kubernetes.
        path: Path of its collection in the API; `{namespace}` is the namespace.
        predictor: Fields from the object to the specification of the pods.
        container: Container of the model.
        variable: Variable of the container that names the basis.
        needs: What the cluster must have for this kind.
    """

    title: str
    path: str
    predictor: tuple[str, ...]
    container: str
    variable: str
    needs: str


KINDS = {
    "inferenceservice": Kind(
        "InferenceService",
        "/apis/serving.kserve.io/v1beta1/namespaces/{namespace}/inferenceservices",
        ("spec", "predictor"),
        "kserve-container",
        "STORAGE_URI",
        "KServe; without it, use manifests/serving/model and deploy=deployment/ctbasis-serving",
    ),
    "deployment": Kind(
        "Deployment",
        "/apis/apps/v1/namespaces/{namespace}/deployments",
        ("spec", "template", "spec"),
        "model",
        "BASIS",
        "Deployments",
    ),
}
"""The kinds by their names in `ctbasis.choices.SERVED_KINDS`."""


@dataclass(frozen=True)
class ServedModel:
    """An object that serves a basis.

    Attributes:
        kind: Its kind, a name of `KINDS`.
        name: Its name.
        server: API server, and the namespace of the object.
        timeouts: How long the API server may be unavailable.
    """

    kind: str
    name: str
    server: ApiServer
    timeouts: Timeouts

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}"

    def read(self) -> ServedBasis:
        """Return the basis that the object names.

        Raises:
            CtbasisError: The object does not exist, may not be read, or names its basis in another way.
        """
        return ServedBasis.of(self, self._ask("GET"))

    def serve(self, uri: str) -> bool:
        """Let the object serve the basis at `uri`, and return whether that changed it.

        Raises:
            CtbasisError: The object does not exist, or may not be changed; or the API server refuses the change.
        """
        for race in range(MOST_RACES):
            current = self.read()
            if current.uri == uri:
                return False
            try:
                self._ask("PATCH", current.patch(uri), races=race + 1 < MOST_RACES)
            except _ChangedMeanwhileError:
                continue
            return True
        raise AssertionError("the last race is an error")

    def wait_until_served(self, *, poll: float = POLL_SECONDS, most: float = ROLLOUT_SECONDS) -> bool:
        """Wait until all pods of a Deployment serve the basis that it names.

        Args:
            poll: Seconds between two looks at the object.
            most: Seconds to wait.

        Returns:
            False for an InferenceService, whose pods KServe changes; nothing is waited for.

        Raises:
            CtbasisError: The new pods do not become ready. The former ones serve the former basis.
        """
        if self.kind != "deployment":
            return False
        deadline = time.monotonic() + most
        while True:
            deployment = self._ask("GET")
            state = _rollout(deployment)
            if not state:
                return True
            stuck = _stuck(deployment)
            if stuck or time.monotonic() > deadline:
                raise CtbasisError(
                    f"the pods of {self} with the new basis do not become ready: {state}",
                    expected="pods that load the basis and are ready",
                    cause=stuck
                    or f"the rollout takes more than {most:.0f} s: the keys or the network policy of the served "
                    "model do not let it read the basis, or no node has room",
                    remedy=f"read `kubectl logs` of the new pod. The pods with the former basis still serve; "
                    f"`kubectl rollout undo {self}` restores it",
                )
            time.sleep(poll)

    def _ask(self, method: str, body: list[dict[str, Any]] | None = None, *, races: bool = False) -> dict[str, Any]:
        kind = KINDS[self.kind]
        path = f"{kind.path.format(namespace=self.server.namespace)}/{self.name}"
        doing = f"{'changing' if method == 'PATCH' else 'reading'} {self}"

        def request() -> dict[str, Any]:
            try:
                return self.server.ask(method, path, body=body)
            except ApiError as error:
                if races and error.status == HTTP_INVALID:
                    raise _ChangedMeanwhileError from error
                if error.refused:
                    raise self._refusal(error, doing) from error
                raise

        try:
            return retry_outages(request, doing, self.timeouts)
        except JobStaysError as error:
            raise CtbasisError(
                error.found, cause=error.cause, remedy="retry the run once it is available; only this step runs again"
            ) from error

    def _refusal(self, error: ApiError, doing: str) -> CtbasisError:
        kind, namespace = KINDS[self.kind], self.server.namespace
        answer = f"{error.status} {error.reason}: {error.message[:300]}"
        found = f"{doing} in the namespace {namespace} was refused: {answer}"
        if error.status == HTTP_NOT_FOUND and error.absent:
            return CtbasisError(
                f"the namespace {namespace} has no {kind.title} {self.name}",
                expected="a served model as in manifests/serving, in the namespace of the run",
                cause="it is in another namespace, has another name, or was not applied",
                remedy=f"`kubectl -n {namespace} get {self.kind}s` lists the names; docs/how-to/serving.md",
            )
        if error.status == HTTP_NOT_FOUND:
            return CtbasisError(
                f"the cluster knows no {kind.title}",
                expected=kind.needs,
                cause="KServe is not installed",
                remedy="install KServe, or name a deployment",
            )
        if error.status in {HTTP_FORBIDDEN, HTTP_UNAUTHORIZED}:
            return CtbasisError(
                found,
                expected="the right to get and patch this one object",
                cause=f"the account of the run has no RoleBinding {ROLE}, or that Role names another object",
                remedy="add manifests/components/deploy-basis to your overlay, and the name to its resourceNames",
            )
        return CtbasisError(found, cause="a policy of this cluster, or its version of the object")


class _ChangedMeanwhileError(Exception):
    """The object is not any more as it was read."""


@dataclass(frozen=True)
class ServedBasis:
    """The basis that an object names.

    Attributes:
        uri: URI of the basis; empty if the variable takes its value from a ConfigMap.
        path: JSON pointer (RFC 6901) to the variable.
        entry: The variable as it was read.
    """

    uri: str
    path: str
    entry: dict[str, Any]

    @classmethod
    def of(cls, model: ServedModel, manifest: dict[str, Any]) -> Self:
        """Find the variable in the object.

        Raises:
            CtbasisError: There is no such container or variable.
        """
        kind = KINDS[model.kind]
        pod: Any = manifest
        for name in kind.predictor:
            pod = (pod or {}).get(name)
        for place, container in enumerate((pod or {}).get("containers") or []):
            for index, entry in enumerate(container.get("env") or []):
                if container.get("name") == kind.container and entry.get("name") == kind.variable:
                    path = "/".join(("", *kind.predictor, "containers", str(place), "env", str(index)))
                    return cls(entry.get("value", ""), path, entry)
        raise CtbasisError(
            f"{model} has no variable {kind.variable} in a container {kind.container}",
            expected="a served model as in manifests/serving",
            cause="another model has this name, or your kustomization changed it",
            remedy="give the name of the model that serves bases of ctbasis",
        )

    def patch(self, uri: str) -> list[dict[str, Any]]:
        """Return the JSON Patch (RFC 6902) that names the basis at `uri`; it fails if the variable has changed."""
        new = {"name": self.entry["name"], "value": uri}
        return [
            {"op": "test", "path": self.path, "value": self.entry},
            {"op": "replace", "path": self.path, "value": new},
        ]


def _rollout(deployment: dict[str, Any]) -> str:
    """Return what is missing until all pods are new ones, by the rules of `kubectl rollout status`."""
    status, wanted = deployment.get("status") or {}, deployment["spec"].get("replicas", 1)
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return "the change was not observed yet"
    if updated < wanted:
        return f"{updated} of {wanted} pods are updated"
    if status.get("replicas", 0) > updated:
        return f"{status['replicas'] - updated} former pods are not ended"
    if available < updated:
        return f"{available} of {updated} new pods are available"
    return ""


def _stuck(deployment: dict[str, Any]) -> str:
    for condition in (deployment.get("status") or {}).get("conditions") or []:
        if condition.get("reason") == "ProgressDeadlineExceeded":
            return str(condition.get("message", "ProgressDeadlineExceeded"))[:300]
    return ""
