"""SparkApplications of the namespace: the installation's template, and the step's own one from birth to deletion."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ctbasis.errors import CtbasisError
from ctbasis.spark.application import RUN_LABEL, TEMPLATE, SparkApplication
from ctbasis.spark.kubernetes.api_server import BROKEN, HTTP_CONFLICT, HTTP_FORBIDDEN, ApiError
from ctbasis.spark.kubernetes.outage import Outage, say, through_outages
from ctbasis.spark.kubernetes.quota import QuotaFullError, quota_is_full

if TYPE_CHECKING:
    from ctbasis.spark.kubernetes.api_server import ApiServer
    from ctbasis.spark.kubernetes.patience import Patience

COMPLETED, FAILING, FAILED = "COMPLETED", "FAILING", "FAILED"

TEMPLATE_NAME = "ctbasis-svd"

APPEARING_SECONDS = 3.0
"""How long an application may take to appear whose creation was asked for when the step was told to stop."""


def state(application: dict[str, Any]) -> str:
    """Return status.applicationState.state; empty until the operator has seen the application."""
    return str(((application.get("status") or {}).get("applicationState") or {}).get("state") or "")


def template(server: ApiServer, patience: Patience) -> SparkApplication:
    """Return the SparkApplication that runs are made of: the namespace's own, else the image's file.

    The namespace's own is named `ctbasis-svd` and has `spec.suspend: true`, so that the operator never starts it.

    Raises:
        CtbasisError: The API server was away for too long, or holds a template with fields that are not known.
    """

    def read() -> dict[str, Any] | None:
        try:
            return server.find(f"{server.applications}/{TEMPLATE_NAME}")
        except ApiError as error:
            if error.refused and error.status == HTTP_FORBIDDEN:
                return None
            raise

    found = through_outages(read, f"reading the template {TEMPLATE_NAME}", patience)
    if found is None or not found["spec"].get("suspend"):
        why = "is not there or may not be read" if found is None else "has no spec.suspend: true"
        say(f"svd: template {TEMPLATE.name} of the image; SparkApplication {server.namespace}/{TEMPLATE_NAME} {why}")
        return SparkApplication.read()
    say(f"svd: template SparkApplication {server.namespace}/{TEMPLATE_NAME}")
    return SparkApplication.from_manifest(bare(found), where=f"SparkApplication {TEMPLATE_NAME}")


def bare(found: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest of a template without its suspend and without what the cluster has made of it.

    Annotations stay behind: they say who manages the template (kubectl, Argo CD, Helm), and he must not take a run's
    application for it.
    """
    return {
        "apiVersion": found["apiVersion"],
        "kind": found["kind"],
        "metadata": {"name": found["metadata"]["name"], "labels": found["metadata"].get("labels", {})},
        "spec": {key: value for key, value in found["spec"].items() if key != "suspend"},
    }


class Applications:
    """The step's application in the API server."""

    def __init__(self, server: ApiServer, patience: Patience) -> None:
        self._server, self._patience = server, patience

    def find(self, name: str) -> dict[str, Any] | None:
        """Return the application as it is now, None where there is none.

        Raises:
            CtbasisError: It may not be read, or the API server was away for too long.
        """
        return through_outages(lambda: self._find(name), f"reading the SparkApplication {name}", self._patience)

    def _find(self, name: str) -> dict[str, Any] | None:
        return self._server.find(f"{self._server.applications}/{name}")

    def create_or_adopt(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Create the application, or adopt the one of its name that an earlier try of the step created.

        One that has failed, is being deleted, or was started with other arguments is replaced: a retry is for what has
        failed, and it wants what it asks for. Any other goes on, and one that has completed is the step's success.

        Returns:
            The application as the API server has it.

        Raises:
            QuotaFullError: The namespace has as many applications as it may have.
            CtbasisError: Another run's application has the name, creating is refused, or the API server was away.
        """
        name = manifest["metadata"]["name"]
        outage = Outage(f"creating the SparkApplication {name}", self._patience)
        while True:
            try:
                return self._server.ask("POST", self._server.applications, body=manifest)
            except (ApiError, *BROKEN) as error:
                if not (isinstance(error, ApiError) and error.reason == "AlreadyExists"):
                    if quota_is_full(str(error)):
                        raise QuotaFullError(str(error)) from error
                    outage.wait_out(error)
                    continue
            there = self.find(name)
            if there is not None:
                adopted = self._adopt(there, manifest)
                if adopted is not None:
                    return adopted

    def _adopt(self, there: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any] | None:
        name, run = manifest["metadata"]["name"], manifest["metadata"]["labels"][RUN_LABEL]
        if (there["metadata"].get("labels") or {}).get(RUN_LABEL) != run:
            raise CtbasisError(
                f"a SparkApplication {name} is there and is another run's",
                expected=f"label {RUN_LABEL}: {run}",
                remedy=f"delete it: kubectl -n {self._server.namespace} delete sparkapplication {name}",
            )
        replaced = (
            "is being deleted"
            if there["metadata"].get("deletionTimestamp")
            else "failed"
            if state(there) == FAILED
            else "had other arguments"
            if there["spec"].get("arguments") != manifest["spec"].get("arguments")
            else ""
        )
        if not replaced:
            say(f"spark application {name}: adopted from an earlier try, {state(there) or 'NEW'}")
            return there
        say(f"spark application {name}: replacing that of an earlier try, which {replaced}")
        self.replace(there)
        return None

    def replace(self, there: dict[str, Any]) -> None:
        """Delete an application and wait until it is gone.

        Raises:
            CtbasisError: It stays, or may not be deleted.
        """
        name, uid = there["metadata"]["name"], there["metadata"]["uid"]
        doing = f"deleting the SparkApplication {name}"
        through_outages(lambda: self._delete(name, uid), doing, self._patience)
        deadline = time.monotonic() + self._patience.deletion
        while (found := self.find(name)) is not None and found["metadata"]["uid"] == uid:
            if time.monotonic() > deadline:
                raise CtbasisError(
                    f"the SparkApplication {name} is still there {self._patience.deletion:.0f} s after it was deleted",
                    cause="a finalizer holds it, or its pods do not end",
                )
            time.sleep(1)

    def _delete(self, name: str, uid: str) -> None:
        """Delete the application of this name and uid, its pods with it; another of the name stays."""
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Foreground"}
        try:
            self._server.ask("DELETE", f"{self._server.applications}/{name}", body=options)
        except ApiError as error:
            if not (error.absent or error.status == HTTP_CONFLICT):
                raise

    def discard(self, manifest: dict[str, Any], *, appearing: float = 0.0) -> None:
        """Delete the run's application, tried again while the API server is away, for `Patience.stopping`.

        This is what is done last: it raises nothing, and says where it could not.

        Args:
            manifest: Of the application.
            appearing: Seconds within which it may still appear.
        """
        name, run = manifest["metadata"]["name"], manifest["metadata"]["labels"][RUN_LABEL]
        began = time.monotonic()
        while True:
            seconds, problem = appearing, ""
            try:
                there = self._find(name)
                if there is not None:
                    if (there["metadata"].get("labels") or {}).get(RUN_LABEL) == run:
                        self._delete(name, there["metadata"]["uid"])
                    return
            except (ApiError, *BROKEN) as error:
                problem = str(error)
                if not (isinstance(error, ApiError) and error.refused):
                    seconds = self._patience.stopping
            if time.monotonic() - began >= seconds:
                break
            time.sleep(0.5)
        if problem:
            say(f"spark application {name}: could not be deleted ({problem}); the next try adopts it, or delete it:")
            say(f"  kubectl -n {self._server.namespace} delete sparkapplication {name}")
