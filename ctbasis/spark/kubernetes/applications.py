"""SparkApplications of the namespace: the template of the installation, and the application of the step."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ctbasis.errors import CtbasisError
from ctbasis.spark.application import RUN_LABEL, TEMPLATE, SparkApplication
from ctbasis.spark.kubernetes.api_server import BROKEN, HTTP_CONFLICT, HTTP_FORBIDDEN, ApiError
from ctbasis.spark.kubernetes.outage import Outage, log, retry_outages
from ctbasis.spark.kubernetes.quota import QuotaFullError, quota_is_full

if TYPE_CHECKING:
    from ctbasis.spark.kubernetes.api_server import ApiServer
    from ctbasis.spark.kubernetes.timeouts import Timeouts

COMPLETED, FAILING, FAILED = "COMPLETED", "FAILING", "FAILED"

TEMPLATE_NAME = "ctbasis-svd"

APPEARING_SECONDS = 3.0
"""Time in which an application may still appear whose creation was requested just before the step was stopped."""


def state(application: dict[str, Any]) -> str:
    """Return status.applicationState.state; empty until the operator processes the application."""
    return str(((application.get("status") or {}).get("applicationState") or {}).get("state") or "")


def template(server: ApiServer, timeouts: Timeouts) -> SparkApplication:
    """Return the template of the runs' SparkApplications: the one in the namespace, else the file in the image.

    The template in the namespace has the name `ctbasis-svd` and `spec.suspend: true`, so that the operator never starts
    it.

    Args:
        server: API server of the cluster.
        timeouts: How long the API server may be unavailable.

    Raises:
        CtbasisError: The API server was unavailable for too long, or the template has unknown fields.
    """

    def read() -> dict[str, Any] | None:
        try:
            return server.find(f"{server.applications}/{TEMPLATE_NAME}")
        except ApiError as error:
            if error.refused and error.status == HTTP_FORBIDDEN:
                return None
            raise

    existing = retry_outages(read, f"reading the template {TEMPLATE_NAME}", timeouts)
    if existing is None or not existing["spec"].get("suspend"):
        reason = "does not exist or may not be read" if existing is None else "has no spec.suspend: true"
        log(f"svd: template {TEMPLATE.name} of the image; SparkApplication {server.namespace}/{TEMPLATE_NAME} {reason}")
        return SparkApplication.read()
    log(f"svd: template SparkApplication {server.namespace}/{TEMPLATE_NAME}")
    return SparkApplication.from_manifest(strip_cluster_fields(existing), where=f"SparkApplication {TEMPLATE_NAME}")


def strip_cluster_fields(existing: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a template without `suspend` and without the fields that the cluster has added.

    Annotations are removed too: they name the tool that manages the template (kubectl, Argo CD, Helm), which must not
    mistake the application of a run for its own.
    """
    return {
        "apiVersion": existing["apiVersion"],
        "kind": existing["kind"],
        "metadata": {"name": existing["metadata"]["name"], "labels": existing["metadata"].get("labels", {})},
        "spec": {key: value for key, value in existing["spec"].items() if key != "suspend"},
    }


class Applications:
    """Creates, reads and deletes the application of the step in the API server."""

    def __init__(self, server: ApiServer, timeouts: Timeouts) -> None:
        self._server, self._timeouts = server, timeouts

    def find(self, name: str) -> dict[str, Any] | None:
        """Return the application called `name`, None if it does not exist.

        Raises:
            CtbasisError: It may not be read, or the API server was unavailable for too long.
        """
        return retry_outages(lambda: self._find(name), f"reading the SparkApplication {name}", self._timeouts)

    def _find(self, name: str) -> dict[str, Any] | None:
        return self._server.find(f"{self._server.applications}/{name}")

    def create_or_adopt(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Create the application, or adopt the one of its name that an earlier attempt of the step created.

        An existing application that has failed, is being deleted, or has other arguments is replaced. Any other is
        adopted; if it has completed, the step succeeds.

        Returns:
            The application as the API server returns it.

        Raises:
            QuotaFullError: A ResourceQuota allows no further application at present.
            CtbasisError: An application of another run has the name, creation is refused, or the API server was
                unavailable for too long.
        """
        name = manifest["metadata"]["name"]
        outage = Outage(f"creating the SparkApplication {name}", self._timeouts)
        while True:
            try:
                return self._server.ask("POST", self._server.applications, body=manifest)
            except (ApiError, *BROKEN) as error:
                if not (isinstance(error, ApiError) and error.reason == "AlreadyExists"):
                    if quota_is_full(str(error)):
                        raise QuotaFullError(str(error)) from error
                    outage.wait(error)
                    continue
            existing = self.find(name)
            if existing is not None:
                adopted = self._adopt(existing, manifest)
                if adopted is not None:
                    return adopted

    def _adopt(self, existing: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any] | None:
        name, run = manifest["metadata"]["name"], manifest["metadata"]["labels"][RUN_LABEL]
        if (existing["metadata"].get("labels") or {}).get(RUN_LABEL) != run:
            raise CtbasisError(
                f"the SparkApplication {name} exists and belongs to another run",
                expected=f"label {RUN_LABEL}: {run}",
                remedy=f"delete it: kubectl -n {self._server.namespace} delete sparkapplication {name}",
            )
        reason = (
            "is being deleted"
            if existing["metadata"].get("deletionTimestamp")
            else "failed"
            if state(existing) == FAILED
            else "had other arguments"
            if existing["spec"].get("arguments") != manifest["spec"].get("arguments")
            else ""
        )
        if not reason:
            log(f"spark application {name}: adopted from an earlier attempt, {state(existing) or 'NEW'}")
            return existing
        log(f"spark application {name}: replacing that of an earlier attempt, which {reason}")
        self.replace(existing)
        return None

    def replace(self, existing: dict[str, Any]) -> None:
        """Delete an application and wait until it is deleted.

        Raises:
            CtbasisError: It still exists after `Timeouts.deletion`, or may not be deleted.
        """
        name, uid = existing["metadata"]["name"], existing["metadata"]["uid"]
        doing = f"deleting the SparkApplication {name}"
        retry_outages(lambda: self._delete(name, uid), doing, self._timeouts)
        deadline = time.monotonic() + self._timeouts.deletion
        while (remaining := self.find(name)) is not None and remaining["metadata"]["uid"] == uid:
            if time.monotonic() > deadline:
                raise CtbasisError(
                    f"the SparkApplication {name} still exists {self._timeouts.deletion:.0f} s after its deletion",
                    cause="a finalizer blocks it, or its pods do not end",
                )
            time.sleep(1)

    def _delete(self, name: str, uid: str) -> None:
        """Delete the application with this name and uid, and its pods; another one of the name is not deleted."""
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Foreground"}
        try:
            self._server.ask("DELETE", f"{self._server.applications}/{name}", body=options)
        except ApiError as error:
            if not (error.absent or error.status == HTTP_CONFLICT):
                raise

    def discard(self, manifest: dict[str, Any], *, appearing: float = 0.0) -> None:
        """Delete the application of the run, repeatedly for `Timeouts.stopping` while the API server is unavailable.

        This is the last action of a step: it raises no error, but logs a failure.

        Args:
            manifest: Manifest of the application.
            appearing: Seconds in which the application may still appear.
        """
        name, run = manifest["metadata"]["name"], manifest["metadata"]["labels"][RUN_LABEL]
        began = time.monotonic()
        while True:
            seconds, problem = appearing, ""
            try:
                existing = self._find(name)
                if existing is not None:
                    if (existing["metadata"].get("labels") or {}).get(RUN_LABEL) == run:
                        self._delete(name, existing["metadata"]["uid"])
                    return
            except (ApiError, *BROKEN) as error:
                problem = str(error)
                if not (isinstance(error, ApiError) and error.refused):
                    seconds = self._timeouts.stopping
            if time.monotonic() - began >= seconds:
                break
            time.sleep(0.5)
        if problem:
            log(
                f"spark application {name}: could not be deleted ({problem}); the next attempt adopts it, or delete it:"
            )
            log(f"  kubectl -n {self._server.namespace} delete sparkapplication {name}")
