"""Jobs of the namespace: the template of the installation, and the job of the step."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from ctbasis.errors import CtbasisError
from ctbasis.jobs.api_server import BROKEN, HTTP_CONFLICT, HTTP_FORBIDDEN, HTTP_NOT_FOUND, ApiError
from ctbasis.jobs.job import RUN_LABEL, SPEC_ANNOTATION, TEMPLATE_NAME, Job, Phase
from ctbasis.jobs.outage import Outage, log, retry_outages
from ctbasis.jobs.pods import Pod
from ctbasis.jobs.quota import QuotaFullError, quota_is_full

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctbasis.jobs.api_server import ApiServer
    from ctbasis.jobs.timeouts import Timeouts

J = TypeVar("J", bound=Job)
T = TypeVar("T")

APPEARING_SECONDS = 3.0
"""Time in which a job may still appear whose creation was requested just before the step was stopped."""


def _spec_digest(job: dict[str, Any]) -> str:
    """Return the digest of the specification that the step requested; empty if it requires no particular one."""
    return str((job["metadata"].get("annotations") or {}).get(SPEC_ANNOTATION) or "")


def template(kind: type[J], server: ApiServer, timeouts: Timeouts) -> J:
    """Return the template of the runs' jobs: the one in the namespace, else the file in the image.

    The template in the namespace has the name `TEMPLATE_NAME`, and its operator never starts it; see `Job.is_template`.

    Args:
        kind: Kind of the jobs.
        server: API server of the cluster.
        timeouts: How long the API server may be unavailable.

    Raises:
        CtbasisError: The operator is not installed, the API server was unavailable for too long, or the template has
            unknown fields.
    """

    def read() -> dict[str, Any] | None:
        try:
            return server.find(f"{kind.collection(server.namespace)}/{TEMPLATE_NAME}")
        except ApiError as error:
            if error.refused and error.status == HTTP_FORBIDDEN:
                return None
            raise

    existing = retry_outages(lambda: _served(server, kind, read), f"reading the template {TEMPLATE_NAME}", timeouts)
    if existing is None or not kind.is_template(existing):
        reason = "does not exist or may not be read" if existing is None else "has no spec.suspend: true"
        log(f"svd: template {kind.template.name} of the image; {kind.kind} {server.namespace}/{TEMPLATE_NAME} {reason}")
        return kind.read()
    log(f"svd: template {kind.kind} {server.namespace}/{TEMPLATE_NAME}")
    return kind.from_manifest(kind.without_cluster_fields(existing), where=f"{kind.kind} {TEMPLATE_NAME}")


def _served(server: ApiServer, kind: type[Job], request: Callable[[], T]) -> T:
    """Return the result of a request for jobs; if the cluster does not serve their kind, say what is missing.

    Raises:
        CtbasisError: The operator is not installed, or its definition of the kind has other versions.
        ApiError: The server answers with another error.
    """
    try:
        return request()
    except ApiError as error:
        if not (error.refused and error.status == HTTP_NOT_FOUND) or error.absent:
            raise
        refused = f"a request for the {kind.kind} was refused: {error.status}"
        found, cause = (
            f"{refused}: the cluster has no {kind.plural}.{kind.group}",
            f"the {kind.operator} is not installed",
        )
        with suppress(ApiError, *BROKEN):
            served = [one["version"] for one in server.ask("GET", f"/apis/{kind.group}")["versions"]]
            found = f"{refused}: the cluster serves {kind.kind} in {kind.group}/{', '.join(served)}"
            cause = f"another version of the {kind.operator} is installed"
        raise CtbasisError(
            found,
            expected=f"{kind.kind} in {kind.group}/{kind.version}",
            cause=cause,
            remedy=f"install it: {kind.install}",
        ) from error


class Jobs:
    """Creates, reads and deletes the job of the step in the API server.

    Args:
        server: API server of the cluster.
        kind: Kind of the job.
        timeouts: Timeouts and intervals.
    """

    def __init__(self, server: ApiServer, kind: type[Job], timeouts: Timeouts) -> None:
        self._server, self._kind, self._timeouts = server, kind, timeouts
        self._collection = kind.collection(server.namespace)
        self._checked = {"fieldValidation": "Strict"} if kind.strict else {}

    def find(self, name: str) -> dict[str, Any] | None:
        """Return the job called `name`, None if it does not exist.

        Raises:
            CtbasisError: It may not be read, or the API server was unavailable for too long.
        """
        return retry_outages(lambda: self._find(name), f"reading the {self._kind.kind} {name}", self._timeouts)

    def _find(self, name: str) -> dict[str, Any] | None:
        return self._server.find(f"{self._collection}/{name}")

    def _create(self, manifest: dict[str, Any]) -> dict[str, Any]:
        return self._server.ask("POST", self._collection, query=self._checked, body=manifest)

    def create_or_adopt(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Create the job, or adopt the one of its name that an earlier attempt of the step created.

        An existing job that has failed, is being deleted, or has other arguments or another specification
        (`Job.with_spec_digest`) is replaced. Any other is adopted; if it has completed, the step succeeds.

        Returns:
            The job as the API server returns it.

        Raises:
            QuotaFullError: A ResourceQuota allows no further job at present.
            CtbasisError: A job of another run has the name, creation is refused, or the API server was
                unavailable for too long.
        """
        name = manifest["metadata"]["name"]
        outage = Outage(f"creating the {self._kind.kind} {name}", self._timeouts)
        while True:
            try:
                return _served(self._server, self._kind, lambda: self._create(manifest))
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
                f"the {self._kind.kind} {name} exists and belongs to another run",
                expected=f"label {RUN_LABEL}: {run}",
                remedy=f"delete it: kubectl -n {self._server.namespace} delete {self._kind.kind.lower()} {name}",
            )
        reason = (
            "is being deleted"
            if existing["metadata"].get("deletionTimestamp")
            else "failed"
            if self._kind.phase(existing) is Phase.FAILED
            else "had other arguments"
            if self._kind.arguments(existing) != self._kind.arguments(manifest)
            else "had another specification"
            if _spec_digest(existing) != _spec_digest(manifest)
            else ""
        )
        if not reason:
            log(f"{self._kind.title} {name}: adopted from an earlier attempt, {self._kind.state(existing) or 'NEW'}")
            return existing
        log(f"{self._kind.title} {name}: replacing that of an earlier attempt, which {reason}")
        self.replace(existing)
        return None

    def replace(self, existing: dict[str, Any]) -> None:
        """Delete a job and wait until it is deleted.

        Raises:
            CtbasisError: It still exists after `Timeouts.deletion`, or may not be deleted.
        """
        name, uid = existing["metadata"]["name"], existing["metadata"]["uid"]
        doing = f"deleting the {self._kind.kind} {name}"
        retry_outages(lambda: self._delete(name, uid), doing, self._timeouts)
        deadline = time.monotonic() + self._timeouts.deletion
        while (remaining := self.find(name)) is not None and remaining["metadata"]["uid"] == uid:
            if time.monotonic() > deadline:
                raise CtbasisError(
                    f"the {self._kind.kind} {name} still exists {self._timeouts.deletion:.0f} s after its deletion",
                    cause="a finalizer blocks it, or its pods do not end",
                )
            time.sleep(1)

    def end(self, name: str) -> bool:
        """Delete the job of a run if it has not ended, and wait until it and its pods are gone.

        A job that is COMPLETED or FAILED writes nothing any more. It is kept for inspection until its
        timeToLiveSeconds.

        Args:
            name: Name of the job; its label `RUN_LABEL` must be the same.

        Returns:
            Whether there was a job to delete.

        Raises:
            CtbasisError: The job or a pod of it still exists after `Timeouts.deletion`, may not be deleted, or
                the API server was unavailable for too long.
        """
        existing = retry_outages(
            lambda: self._find_if_allowed(name), f"reading the {self._kind.kind} {name}", self._timeouts
        )
        if existing is None or (existing["metadata"].get("labels") or {}).get(RUN_LABEL) != name:
            return False
        if self._kind.phase(existing).final:
            return False
        state = self._kind.state(existing) or "NEW"
        log(f"{self._kind.title} {name}: deleting it, because its run has ended; it was {state}")
        self.replace(existing)
        self._wait_for_pods(name)
        return True

    def _find_if_allowed(self, name: str) -> dict[str, Any] | None:
        """Return the job; None also where there can be none: no right to read it, or no Spark operator."""
        try:
            return self._find(name)
        except ApiError as error:
            if error.refused and error.status in {HTTP_FORBIDDEN, HTTP_NOT_FOUND}:
                return None
            raise

    def _wait_for_pods(self, name: str) -> None:
        """Wait until no pod of the job runs; the garbage collector deletes them after it."""
        label = self._kind.pods_label
        query = {"labelSelector": f"{label}={name}"}
        deadline = time.monotonic() + self._timeouts.deletion
        while True:
            listing = retry_outages(
                lambda: self._server.ask("GET", self._server.pods, query=query),
                f"reading the pods of {name}",
                self._timeouts,
            )
            running = [pod.name for pod in (Pod(one, self._kind) for one in listing["items"]) if not pod.ended]
            if not running:
                return
            if time.monotonic() > deadline:
                raise CtbasisError(
                    f"{len(running)} pods of the {self._kind.kind} {name} still run {self._timeouts.deletion:.0f} s "
                    f"after its deletion, such as {running[0]}",
                    cause="the node of the pod does not answer",
                    remedy=f"delete them: kubectl -n {self._server.namespace} delete pod -l {label}={name}",
                )
            time.sleep(1)

    def _delete(self, name: str, uid: str) -> None:
        """Delete the job with this name and uid, and its pods; another one of the name is not deleted."""
        options = {"preconditions": {"uid": uid}, "propagationPolicy": "Foreground"}
        try:
            self._server.ask("DELETE", f"{self._collection}/{name}", body=options)
        except ApiError as error:
            if not (error.absent or error.status == HTTP_CONFLICT):
                raise

    def discard(self, manifest: dict[str, Any], *, appearing: float = 0.0) -> None:
        """Delete the job of the run, repeatedly for `Timeouts.stopping` while the API server is unavailable.

        This is the last action of a step: it raises no error, but logs a failure.

        Args:
            manifest: Manifest of the application.
            appearing: Seconds in which the job may still appear.
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
            adopted = "the next attempt adopts it, or delete it:"
            log(f"{self._kind.title} {name}: could not be deleted ({problem}); {adopted}")
            log(f"  kubectl -n {self._server.namespace} delete {self._kind.kind.lower()} {name}")
