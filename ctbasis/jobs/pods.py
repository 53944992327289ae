"""The pods of a job: why a pod does not start, and why a pod ended."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ctbasis.errors import CtbasisError
from ctbasis.jobs.watch import DELETED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctbasis.jobs.job import Job
    from ctbasis.jobs.timeouts import Timeouts
    from ctbasis.jobs.watch import Change

STEP_CONTAINER = "main"
"""The container of a step in its pod; Argo names it so."""

STARTING = {"ContainerCreating", "PodInitializing"}

UNRECOVERABLE = {"ErrImageNeverPull", "InvalidImageName"}
"""Reasons of a waiting container that the kubelet cannot resolve by a retry."""

NO_IMAGE = {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError"}
NO_CONFIGURATION = {"CreateContainerConfigError", "CreateContainerError"}

EXIT_CODES = {
    52: "the JVM ran out of heap",
    134: "aborted",
    137: "killed",
    139: "segmentation fault",
    143: "terminated",
}
"""Meanings of exit codes whose reason in Kubernetes is only Error; 52 is defined by Spark."""

MAX_LOGGED_ENDS = 5
"""Number of pods of a role that are logged for one reason of ending; further ones are only counted."""


@dataclass(frozen=True)
class WaitReason:
    """Why a pod does not run yet, in Kubernetes' words.

    Attributes:
        reason: Such as ImagePullBackOff.
        message: Details; may be empty.
    """

    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.message else self.reason


class Pod:
    """One pod as the API server describes it.

    Attributes:
        name: metadata.name.
        uid: metadata.uid.
        role: Role in its job, such as driver or executor; empty for the pod of a step.

    Args:
        raw: The pod in the API's form.
        kind: Kind of the job to which it belongs; None for the pod of a step.
    """

    def __init__(self, raw: dict[str, Any], kind: type[Job] | None = None) -> None:
        self._raw = raw
        self._container = kind.driver_container if kind else STEP_CONTAINER
        self._status: dict[str, Any] = raw.get("status") or {}
        self.name: str = raw["metadata"]["name"]
        self.uid: str = raw["metadata"]["uid"]
        self.role: str = kind.role(raw["metadata"].get("labels") or {}) if kind else ""

    @property
    def _containers(self) -> list[dict[str, Any]]:
        return [*self._init_containers, *self._status.get("containerStatuses", [])]

    @property
    def _init_containers(self) -> list[dict[str, Any]]:
        statuses: list[dict[str, Any]] = self._status.get("initContainerStatuses") or []
        return statuses

    @property
    def _main(self) -> dict[str, Any]:
        """The status of the container of the job or of the step. Sidecars come after that of the job in the list."""
        statuses: list[dict[str, Any]] = self._status.get("containerStatuses") or [{}]
        return next((one for one in statuses if one.get("name") == self._container), statuses[0])

    @property
    def _end(self) -> dict[str, Any]:
        terminated: dict[str, Any] = (self._main.get("state") or {}).get("terminated") or {}
        return terminated

    @property
    def started(self) -> bool:
        """Whether its container runs or has run, so that there is a log."""
        return bool({"running", "terminated"} & set(self._main.get("state") or {}))

    @property
    def ended(self) -> bool:
        """Whether its container has ended, or will never start."""
        return bool(self._end) or self._status.get("phase") in {"Succeeded", "Failed"}

    @property
    def exit_code(self) -> int | None:
        """Exit code of its container; None while it runs, or if the pod ended without it."""
        return self._end.get("exitCode")

    @property
    def killed(self) -> bool:
        """Whether the pod was deleted before its container ended by itself."""
        deleted, finished = self._raw["metadata"].get("deletionTimestamp"), self._end.get("finishedAt")
        if not deleted or not finished:
            return bool(deleted)
        # deletionTimestamp is the end of the grace period.
        grace = timedelta(seconds=self._raw["metadata"].get("deletionGracePeriodSeconds") or 0)
        return datetime.fromisoformat(deleted) - grace < datetime.fromisoformat(finished)

    @property
    def disruption(self) -> str:
        """Why the cluster ended it, such as eviction, preemption or a drained node; empty if it did not."""
        targets = [one for one in self._conditions if one["type"] == "DisruptionTarget" and one["status"] == "True"]
        return "; ".join(f"{one.get('reason', '')}: {one.get('message', '')}" for one in targets)

    @property
    def _conditions(self) -> list[dict[str, Any]]:
        conditions: list[dict[str, Any]] = self._status.get("conditions") or []
        return conditions

    @property
    def wait(self) -> WaitReason | None:
        """Why it does not run yet; None if it runs or has ended."""
        if self.ended or any("running" in (one.get("state") or {}) for one in self._init_containers):
            return None  # an init container that runs waits for another pod, as for the head of a Ray cluster
        waits = [one["state"]["waiting"] for one in self._containers if (one.get("state") or {}).get("waiting")]
        # The reason of a container that cannot start comes before those of containers that wait for it.
        waits.sort(key=lambda waiting: waiting.get("reason") in STARTING)
        if waits:
            return WaitReason(waits[0].get("reason", ""), waits[0].get("message", ""))
        for condition in self._conditions:
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return WaitReason(condition.get("reason", "Unscheduled"), condition.get("message", ""))
        return None

    @property
    def ending(self) -> str:
        """Why it failed, such as `OOMKilled (exit code 137, memory limit 1Gi)`; empty if it succeeded or still runs."""
        reasons = [": ".join(filter(None, (self._status.get("reason"), self._status.get("message")))), self.disruption]
        code = self.exit_code
        if code:
            reason = self._end.get("reason", "Error")
            details = [f"exit code {code}"]
            if reason == "OOMKilled":
                details.append(f"memory limit {self._memory_limit}")
            elif code in EXIT_CODES:
                details[0] += f", {EXIT_CODES[code]}"
            reasons.append(f"{reason} ({', '.join(details)}){self._termination_message}")
        return "; ".join(dict.fromkeys(filter(None, reasons)))

    @property
    def _memory_limit(self) -> str:
        containers = self._raw["spec"]["containers"]
        main = next((one for one in containers if one["name"] == self._main.get("name")), containers[0])
        limits = (main.get("resources") or {}).get("limits") or {}
        return str(limits.get("memory", "none, that of the node"))

    @property
    def _termination_message(self) -> str:
        return f": {self._end['message'].strip()[:300]}" if self._end.get("message") else ""


class Pods:
    """All pods of one job, updated by the changes of a watch.

    Attributes:
        driver: The latest driver pod, the one whose log is that of the driver program; None before there is one.

    Args:
        kind: Kind of the job.
        namespace: Its namespace.
        timeouts: How long a pod may be unable to start.
    """

    def __init__(self, kind: type[Job], namespace: str, timeouts: Timeouts) -> None:
        self._kind, self._namespace, self._timeouts = kind, namespace, timeouts
        self._live: dict[str, Pod] = {}
        self._blocked_since: dict[tuple[str, str], float] = {}
        self._starting_since: dict[str, float] = {}
        self._logged_waits: dict[str, set[str]] = {}
        self._logged_starting: set[str] = set()
        self._other_ends: Counter[tuple[str, str]] = Counter()
        self._ended: set[str] = set()
        self.driver: Pod | None = None
        self._driver_deleted = False

    def update(self, change: Change) -> Iterator[str]:
        """Apply a change, and yield lines for the log of the step."""
        pod = Pod(change.object, self._kind)
        if pod.role == self._kind.driver_role():
            self._update_driver(pod, deleted=change.kind == DELETED)
        elif pod.role:
            yield from self._end_of_other(pod)
        if change.kind == DELETED or pod.ended:
            self._live.pop(pod.uid, None)
        else:
            self._live[pod.uid] = pod
        self._update_blocks()
        yield from self._waits(pod.role)

    def _update_driver(self, pod: Pod, *, deleted: bool) -> None:
        if self.driver is None or self.driver.uid != pod.uid:
            if deleted and self.driver is not None:
                return  # the driver of an earlier attempt
            self._other_ends.clear()  # they belong to the previous attempt
        self.driver, self._driver_deleted = pod, deleted

    @property
    def driver_ended(self) -> bool:
        """Whether no driver is known to run."""
        return self.driver is None or self.driver.ended or self._driver_deleted

    def _end_of_other(self, pod: Pod) -> Iterator[str]:
        # Spark and the operators delete pods that are no longer needed; their ends are no failures.
        not_needed = pod.killed and not pod.disruption and "OOMKilled" not in pod.ending
        if not pod.ending or not_needed or pod.uid in self._ended:
            return
        self._ended.add(pod.uid)
        self._other_ends[pod.role, pod.ending] += 1
        count = self._other_ends[pod.role, pod.ending]
        if count <= MAX_LOGGED_ENDS:
            more = ", and so on" if count == MAX_LOGGED_ENDS else ""
            yield f"{pod.role} {pod.name} ended: {pod.ending}{more}"

    def _waits(self, role: str) -> Iterator[str]:
        waiting = [(pod, pod.wait) for pod in self._live.values() if pod.role == role]
        stuck = [(pod, wait) for pod, wait in waiting if wait and wait.reason not in STARTING]
        # The kubelet alternates between ErrImagePull and ImagePullBackOff; both are one reason.
        texts = {"image" if _block(wait) == "image" else str(wait): (pod.name, str(wait)) for pod, wait in stuck}
        logged = self._logged_waits.setdefault(role, set())
        if not stuck:
            logged.clear()
        for key in texts.keys() - logged:
            logged.add(key)
            name, text = texts[key]
            several = role == self._kind.many
            who = f"{len(stuck)} of {len(waiting)} {role}s wait" if several else f"{role} {name} waits"
            yield f"{who}: {text}"

    def _update_blocks(self) -> None:
        """Record since when all pods of a role have been unable to start."""
        now = time.monotonic()
        blocked: set[tuple[str, str]] = set()
        for role in self._kind.roles:
            kinds = [_block(pod.wait) for pod in self._live.values() if pod.role == role]
            # An executor that cannot start on its node does no harm while others run.
            if kinds and all(kinds):
                blocked |= {(role, kind) for kind in kinds}
        self._blocked_since = {key: self._blocked_since.get(key, now) for key in blocked}
        starting = {pod.uid for pod in self._live.values() if pod.wait and pod.wait.reason in STARTING}
        self._starting_since = {uid: self._starting_since.get(uid, now) for uid in starting}

    def _due(self) -> Iterator[tuple[float, tuple[str, str]]]:
        limits = {"unrecoverable": 0.0, "image": self._timeouts.image, "configuration": self._timeouts.configuration}
        for key, since in self._blocked_since.items():
            yield since + limits[key[1]], key

    def next_due(self) -> float | None:
        """Return when, on the monotonic clock, `start_error` or `slow_starts` has a result without a change."""
        slow = [
            since + self._timeouts.starting
            for uid, since in self._starting_since.items()
            if uid not in self._logged_starting
        ]
        return min([*slow, *(when for when, _ in self._due())], default=None)

    def slow_starts(self) -> Iterator[str]:
        """Yield a line, once, for each pod whose containers have not been created within the timeout."""
        now = time.monotonic()
        for uid, since in self._starting_since.items():
            if now >= since + self._timeouts.starting and uid not in self._logged_starting:
                self._logged_starting.add(uid)
                name = self._live[uid].name
                yield (
                    f"pod {name} has been {self._live[uid].wait} for {now - since:.0f} s; a volume may not mount: "
                    f"kubectl -n {self._namespace} describe pod {name}"
                )

    def start_error(self) -> CtbasisError | None:
        """Return the error of a pod that could not start within its timeout; None if there is none."""
        now = time.monotonic()
        for due, (role, kind) in self._due():
            if now < due:
                continue
            pods = [pod for pod in self._live.values() if pod.role == role and _block(pod.wait) == kind]
            image = kind != "configuration"
            return CtbasisError(
                f"pod {pods[0].name} cannot start: {pods[0].wait}",
                cause="the name of the image is wrong, or the node may not pull it"
                if image
                else "a Secret or ConfigMap from which the pod takes its environment is missing, or lacks a key",
                remedy=f"set {self._kind.image_field} and imagePullSecrets in manifests/{self._kind.template.name}, "
                "then run again"
                if image
                else f"create it in namespace {self._namespace}, then run again",
            )
        return None

    def other_ends(self) -> str:
        """Return why other pods ended since the latest driver started, the most frequent reason first."""
        return "; ".join(
            f"{count} {role}{'s' if count > 1 else ''} ended: {reason}"
            for (role, reason), count in self._other_ends.most_common(3)
        )


def _block(wait: WaitReason | None) -> str:
    """Return the kind of problem that keeps a pod from starting; empty if it only takes time."""
    if wait is None:
        return ""
    if wait.reason in UNRECOVERABLE:
        return "unrecoverable"
    if wait.reason in NO_IMAGE:
        return "image"
    return "configuration" if wait.reason in NO_CONFIGURATION else ""
