"""Reads objects of a cluster, each once, and asks the API server what an account may do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ctbasis.errors import CtbasisError
from ctbasis.jobs.api_server import BROKEN, HTTP_FORBIDDEN, HTTP_NOT_FOUND, HTTP_UNAUTHORIZED, ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctbasis.jobs.api_server import ApiServer


class UnreadableError(Exception):
    """The user of KUBECONFIG may not read something.

    Attributes:
        remedy: The right that is lacking.
    """

    def __init__(self, what: str, right: str) -> None:
        self.remedy = f"ask an administrator, or get the right to {right}"
        super().__init__(f"{what} may not be read by the user of KUBECONFIG")


class NoNamespaceError(Exception):
    """The namespace does not exist, so there is nothing to look into.

    Attributes:
        remedy: What to do about it.
    """

    remedy = "name that of the runs by --namespace: kubeflow, or that of your profile"


class Cluster:
    """A cluster and the namespace of the runs.

    Args:
        server: The API server.
        namespace: The namespace.
    """

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self.namespace = namespace
        self._server = server
        self._read: dict[str, dict[str, Any] | None] = {}

    def find(self, api: str, resource: str, name: str, *, everywhere: bool = False) -> dict[str, Any] | None:
        """Return an object, or None if it or its kind does not exist.

        Args:
            api: Path of the API, such as `api/v1` or `apis/storage.k8s.io/v1`.
            resource: Plural of the kind.
            name: Name of the object.
            everywhere: The kind has no namespace.

        Raises:
            UnreadableError: The user may not get it.
            CtbasisError: The cluster does not answer.
        """
        return self._get(f"{self._collection(api, resource, everywhere=everywhere)}/{name}", f"get {resource}")

    def list(self, api: str, resource: str, *, everywhere: bool = True) -> list[dict[str, Any]]:
        """Return all objects of a kind, none if the kind does not exist; arguments and errors as of `find`."""
        found = self._get(self._collection(api, resource, everywhere=everywhere), f"list {resource}")
        return list((found or {}).get("items") or [])

    def serves(self, api: str) -> bool:
        """Return whether the cluster has an API such as `apis/argoproj.io/v1alpha1`."""
        return self._get(f"/{api}", f"get /{api}") is not None

    def allows(self, account: str, rule: Mapping[str, str]) -> bool:
        """Return whether a service account of the namespace may do something there.

        Args:
            account: Name of the account.
            rule: `verb`, `group` and `resource`; `subresource` and `name` of an object if there is one.

        Raises:
            UnreadableError: The user may not ask what others may do.
            CtbasisError: The cluster does not answer.
        """
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{self.namespace}", "system:authenticated"]
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{self.namespace}:{account}",
                "groups": groups,
                "resourceAttributes": {"namespace": self.namespace, **rule},
            },
        }
        path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
        answer = self._ask("POST", path, "create subjectaccessreviews", review)
        return bool(((answer or {}).get("status") or {}).get("allowed"))

    def _collection(self, api: str, resource: str, *, everywhere: bool) -> str:
        return f"/{api}/{resource}" if everywhere else f"/{api}/namespaces/{self.namespace}/{resource}"

    def _get(self, path: str, right: str) -> dict[str, Any] | None:
        if path not in self._read:
            self._read[path] = self._ask("GET", path, right)
        return self._read[path]

    def _ask(self, method: str, path: str, right: str, body: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
        try:
            return self._server.ask(method, path, body=body)
        except ApiError as error:
            if error.status == HTTP_NOT_FOUND:
                return None
            if error.status == HTTP_FORBIDDEN:
                raise UnreadableError(path.rpartition("/")[2], right) from error
            unauthorized = error.status == HTTP_UNAUTHORIZED
            raise CtbasisError(
                f"the API server answers {error.status} {error.reason} to {method} {path}",
                expected="an answer",
                cause="the login of KUBECONFIG has expired" if unauthorized else "the API server is in trouble",
                remedy="log in again" if unauthorized else "try again",
            ) from error
        except BROKEN as error:
            raise CtbasisError(
                f"the cluster of KUBECONFIG does not answer ({type(error).__name__})",
                expected="its API server",
                cause="KUBECONFIG names another or a stopped cluster, or a VPN has ended",
                remedy="try `kubectl get nodes`",
            ) from error
