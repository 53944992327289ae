"""The SparkApplication's cluster back end: create it, follow it to its end, and leave nothing behind.

What is followed is the application and not its driver pod: a queue, a quota or a restart policy may keep the driver
away for long and legally. Only COMPLETED and FAILED are final.
"""

from __future__ import annotations

import queue
import signal
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

import urllib3
from kubernetes import client, config, watch

from components.errors import CtbasisError, refusal_in
from components.svd.application import RUN_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from components.svd.application import SparkApplication

T = TypeVar("T")

GROUP, VERSION, PLURAL = "sparkoperator.k8s.io", "v1beta2", "sparkapplications"

SUCCEEDED, FAILING, FAILED = "COMPLETED", "FAILING", "FAILED"

DRIVER_STARTED = {"RUNNING", "SUCCEEDING", "COMPLETED", FAILING, FAILED}
"""States in which the driver has, or had, a log; a short driver is never seen RUNNING."""

APPLICATION_LABEL = "sparkoperator.k8s.io/app-name"

HOPELESS = {"ErrImageNeverPull", "InvalidImageName", "CreateContainerConfigError"}
"""Reasons of a waiting container that no retry of the kubelet mends."""

NO_IMAGE = {"ErrImagePull", "ImagePullBackOff"}

IMAGE_PATIENCE_SECONDS = 120.0
"""How long an image may fail to be pulled: a registry may be away for a while."""

WATCH_SECONDS = 300
"""How long one watch is asked to last; the next goes on where it ended."""

ANSWER_SECONDS = (10, WATCH_SECONDS + 30)
"""Time to connect, and of silence after which a watch's connection is taken for dead."""

LONGEST_BACKOFF = 30.0

PATIENCE_SECONDS = 600.0
"""How long the API server may be away."""

DELETION_SECONDS = 120.0

TAIL_LINES = 50

POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")

HTTP_NOT_FOUND, HTTP_CONFLICT, HTTP_SERVER = 404, 409, 500
PASSING = {0, 410, 429}
"""Statuses that a watch outlives beside the server's own errors: no answer, history gone, too many requests."""


def launch(application: SparkApplication) -> None:
    """Create `application`, or adopt the one of its name that an earlier try of this step created, and follow it.

    Its state changes and its driver's log go to standard error. If this process is told to stop (SIGTERM), as it is
    when the run is cancelled, the application is deleted.

    Raises:
        CtbasisError: The application failed, was deleted by someone else, or may not be created; the text says why.
    """
    cluster = Cluster.connect()
    name = application.name
    with _deleted_on_stop(cluster, name):
        cluster.create_or_adopt(application.to_manifest())
        log = DriverLog(cluster)
        state = ""
        changes: Iterator[dict[str, Any] | CtbasisError] = _merged(cluster.follow(name), cluster.stuck(name))
        for seen in changes:
            if isinstance(seen, CtbasisError):
                cluster.delete(name)
                raise seen
            if _state(seen) != state:
                state = _state(seen)
                _say(f"spark application {name}: {state or 'NEW'}")
            if state in DRIVER_STARTED:
                log.follow(seen["status"])
            if state == FAILING and (refused := log.refusal()):
                # The job has said what the user must mend: the retries of the restart policy would say it again.
                cluster.delete(name)
                raise CtbasisError(refused)
            if state in {SUCCEEDED, FAILED}:
                log.finish()
            if state == FAILED:
                raise _failure(seen, cluster, log)
            if state == SUCCEEDED:
                return


def _merged(*streams: Iterator[T]) -> Iterator[T]:
    """Yield what the streams yield, as it comes; what one of them raises is raised here."""
    arrived: queue.SimpleQueue[tuple[T | None, Exception | None]] = queue.SimpleQueue()

    def pump(stream: Iterator[T]) -> None:
        try:
            for item in stream:
                arrived.put((item, None))
        except Exception as error:  # noqa: BLE001  it is raised again where the items are taken
            arrived.put((None, error))

    for stream in streams:
        threading.Thread(target=pump, args=(stream,), daemon=True).start()
    while True:
        item, error = arrived.get()
        if error is not None:
            raise error
        yield cast("T", item)


def _state(application: dict[str, Any]) -> str:
    return str(((application.get("status") or {}).get("applicationState") or {}).get("state") or "")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


@dataclass
class Cluster:
    """The API server and the namespace that the step works in."""

    applications: client.CustomObjectsApi
    pods: client.CoreV1Api
    namespace: str

    @classmethod
    def connect(cls) -> Cluster:
        """Connect from inside a pod, or by KUBECONFIG from outside."""
        if POD_NAMESPACE.exists():
            config.load_incluster_config()
            namespace = POD_NAMESPACE.read_text().strip()
        else:
            config.load_kube_config()
            _, context = config.list_kube_config_contexts()
            namespace = context["context"].get("namespace", "default")
        return cls(client.CustomObjectsApi(), client.CoreV1Api(), namespace)

    def create_or_adopt(self, manifest: dict[str, Any]) -> None:
        """Create the application; if one of its name and run is there already, it is ours from an earlier try.

        One that has failed is replaced: the step is being tried again. Any other is left to go on.

        Raises:
            CtbasisError: Another run's application has the name, or creating is refused.
        """
        name = manifest["metadata"]["name"]
        try:
            self.applications.create_namespaced_custom_object(GROUP, VERSION, self.namespace, PLURAL, manifest)
        except client.ApiException as error:
            if error.status != HTTP_CONFLICT:
                _refuse(error, f"creating the SparkApplication {name}")
        else:
            return
        there = self.get(name)
        if there["metadata"].get("labels", {}).get(RUN_LABEL) != manifest["metadata"]["labels"][RUN_LABEL]:
            raise CtbasisError(
                f"a SparkApplication {name} is there and is another run's",
                expected=f"label {RUN_LABEL}: {manifest['metadata']['labels'][RUN_LABEL]}",
                remedy=f"delete it: kubectl -n {self.namespace} delete sparkapplication {name}",
            )
        if _state(there) == FAILED or there["metadata"].get("deletionTimestamp"):
            _say(f"spark application {name}: replacing the failed or deleted one of an earlier try")
            self.delete(name)
            self._wait_until_gone(name)
            self.create_or_adopt(manifest)
        else:
            _say(f"spark application {name}: adopted from an earlier try")

    def get(self, name: str) -> dict[str, Any]:
        """Return the application as it is now."""
        found: dict[str, Any] = self.applications.get_namespaced_custom_object(
            GROUP, VERSION, self.namespace, PLURAL, name
        )
        return found

    def delete(self, name: str) -> None:
        """Delete the application, its pods with it; one that is gone already is as well."""
        try:
            self.applications.delete_namespaced_custom_object(
                GROUP, VERSION, self.namespace, PLURAL, name, propagation_policy="Foreground"
            )
        except client.ApiException as error:
            if error.status != HTTP_NOT_FOUND:
                raise

    def _wait_until_gone(self, name: str) -> None:
        deadline = time.monotonic() + DELETION_SECONDS
        while time.monotonic() < deadline:
            try:
                self.get(name)
            except client.ApiException as error:
                if error.status == HTTP_NOT_FOUND:
                    return
                raise
            time.sleep(1)
        raise CtbasisError(
            f"the failed SparkApplication {name} is still there {DELETION_SECONDS:.0f} s after it was deleted",
            cause="a finalizer holds it, or the operator is not running",
        )

    def follow(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the application at each change of it, from now on, through disconnects and restarts of the API server.

        Raises:
            CtbasisError: It was deleted, watching is not allowed, or the API server was away too long.
        """
        return self._through_breaks(lambda: self._watch(name), f"watching the SparkApplication {name}")

    def stuck(self, name: str) -> Iterator[CtbasisError]:
        """Yield an error for each pod of the application that cannot start: the operator would wait for ever."""
        failing_since: dict[str, float] = {}
        for pod in self._through_breaks(lambda: self._watch_pods(name), f"watching the pods of {name}"):
            waits = [container.state.waiting for container in pod.status.container_statuses or []]
            for waiting in filter(None, waits):
                if waiting.reason in NO_IMAGE:
                    since = failing_since.setdefault(pod.metadata.uid, time.monotonic())
                    if time.monotonic() - since < IMAGE_PATIENCE_SECONDS:
                        continue
                elif waiting.reason not in HOPELESS:
                    continue
                yield CtbasisError(
                    f"pod {pod.metadata.name} cannot start: {waiting.reason}: {waiting.message}",
                    cause="the image's name is wrong, the node may not pull it, or a Secret or ConfigMap is missing",
                    remedy="set spec.image and imagePullSecrets in manifests/sparkapplication.yaml, then run again",
                )

    def _through_breaks(self, watched: Callable[[], Iterator[T]], doing: str) -> Iterator[T]:
        """Yield what `watched` yields and call it again whenever it ends, breaks, or the API server is away.

        Raises:
            CtbasisError: Watching is not allowed, or the API server was away too long.
        """
        answered = time.monotonic()
        backoff = 1.0
        while True:
            try:
                for seen in watched():
                    answered, backoff = time.monotonic(), 1.0
                    yield seen
            except client.ApiException as error:
                if error.status not in PASSING and error.status < HTTP_SERVER:
                    _refuse(error, doing)
            except (urllib3.exceptions.HTTPError, OSError):
                pass  # the connection broke; the next watch begins with what is there by then
            else:
                answered = time.monotonic()
                continue
            if time.monotonic() - answered > PATIENCE_SECONDS:
                raise CtbasisError(f"the API server was away for {PATIENCE_SECONDS:.0f} s")
            time.sleep(backoff)
            backoff = min(LONGEST_BACKOFF, 2 * backoff)

    def _watch(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the application as it is, then at each change, for up to `WATCH_SECONDS`."""
        try:
            now = self.get(name)
        except client.ApiException as error:
            if error.status == HTTP_NOT_FOUND:
                self._gone(name)
            raise
        yield now
        for event in watch.Watch().stream(
            self.applications.list_namespaced_custom_object,
            GROUP,
            VERSION,
            self.namespace,
            PLURAL,
            field_selector=f"metadata.name={name}",
            resource_version=now["metadata"]["resourceVersion"],
            timeout_seconds=WATCH_SECONDS,
            _request_timeout=ANSWER_SECONDS,
        ):
            if event["type"] == "DELETED":
                self._gone(name)
            yield event["object"]

    def _watch_pods(self, name: str) -> Iterator[client.V1Pod]:
        """Yield the application's pods as they are, then each that changes, for up to `WATCH_SECONDS`."""
        for event in watch.Watch().stream(
            self.pods.list_namespaced_pod,
            self.namespace,
            label_selector=f"{APPLICATION_LABEL}={name}",
            timeout_seconds=WATCH_SECONDS,
            _request_timeout=ANSWER_SECONDS,
        ):
            yield event["object"]

    def _gone(self, name: str) -> NoReturn:
        raise CtbasisError(
            f"the SparkApplication {name} was deleted while it ran",
            cause="somebody, a quota controller or the run's cancellation deleted it",
            remedy="start the run again",
        )

    def ending(self, pod: str) -> str:
        """Return why `pod`'s containers ended or wait, such as `OOMKilled (exit code 137)`, as far as it is known."""
        try:
            status = self.pods.read_namespaced_pod(pod, self.namespace).status
        except client.ApiException:
            return ""
        reasons = [status.reason, status.message]
        for container in status.container_statuses or []:
            ends = [end for end in (container.state.terminated, container.last_state.terminated) if end]
            reasons += [f"{end.reason} (exit code {end.exit_code})" for end in ends if end.exit_code]
            if container.state.waiting:
                reasons += [container.state.waiting.reason, container.state.waiting.message]
        return "; ".join(dict.fromkeys(reason for reason in reasons if reason))


class DriverLog:
    """The driver's log, copied to standard error line by line as it is written."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._thread: threading.Thread | None = None
        self._submission = ""
        self.pod = ""
        self.tail: list[str] = []

    def follow(self, status: dict[str, Any]) -> None:
        """Begin with the log of the driver in `status`, unless it is or was followed; a restarted one has its own."""
        pod, submission = status.get("driverInfo", {}).get("podName", ""), status.get("submissionID", "")
        if not pod or submission == self._submission:
            return
        self.finish()
        self.pod, self._submission, self.tail = pod, submission, []
        self._thread = threading.Thread(target=self._copy, daemon=True)
        self._thread.start()

    def refusal(self) -> str:
        """Return the refusal that the driver ended with, or an empty string; the driver has ended."""
        self.finish()
        return refusal_in(self.tail)

    def finish(self) -> None:
        """Wait for the rest of the log; the driver has ended."""
        if self._thread is not None:
            self._thread.join(timeout=LONGEST_BACKOFF)

    def _copy(self) -> None:
        with suppress(client.ApiException, urllib3.exceptions.HTTPError, OSError):
            log = self._cluster.pods.read_namespaced_pod_log(
                self.pod, self._cluster.namespace, follow=True, _preload_content=False
            )
            for raw in log:
                line = raw.decode("utf-8", "replace").rstrip("\n")
                self.tail = [*self.tail[1 - TAIL_LINES :], line]
                _say(line)


def _failure(application: dict[str, Any], cluster: Cluster, log: DriverLog) -> CtbasisError:
    refused = refusal_in(log.tail)
    if refused:
        return CtbasisError(refused)
    status = application["status"]
    pod = log.pod or status.get("driverInfo", {}).get("podName", "")
    reasons = [status["applicationState"].get("errorMessage", ""), cluster.ending(pod) if pod else ""]
    said = "; ".join(reason for reason in reasons if reason) or "the operator gives no reason"
    last = "\n".join(log.tail[-15:])
    return CtbasisError(
        f"the SparkApplication {application['metadata']['name']} failed: {said}"
        + (f"\nlast lines of the driver's log:\n{last}" if last else "")
    )


def _refuse(error: client.ApiException, doing: str) -> NoReturn:
    raise CtbasisError(
        f"{doing} was refused: {error.status} {error.reason}: {str(error.body)[:500]}",
        cause="the step's service account lacks the right, or the Spark operator's CRD is not installed"
        if error.status in {401, 403, 404}
        else "the manifest is not valid for this cluster's operator",
        remedy="apply manifests/base, which holds the Role, and see the operator's installation",
    ) from error


@contextmanager
def _deleted_on_stop(cluster: Cluster, name: str) -> Iterator[None]:
    """Delete the application if this process is told to stop; a run that is cancelled leaves nothing running."""

    def stop(signum: int, _frame: object) -> None:
        _say(f"spark application {name}: deleting it, the step was told to stop")
        cluster.delete(name)
        sys.exit(128 + signum)

    before = {signum: signal.signal(signum, stop) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
