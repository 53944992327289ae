"""The application's pods: what those that do not run wait for, why those that ended did."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from ctbasis.errors import CtbasisError
from ctbasis.spark.kubernetes.watch import DELETED

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctbasis.spark.kubernetes.patience import Patience
    from ctbasis.spark.kubernetes.watch import Change

APPLICATION_LABEL = "sparkoperator.k8s.io/app-name"
ROLE_LABEL = "spark-role"
DRIVER, EXECUTOR = "driver", "executor"
DRIVER_CONTAINER = "spark-kubernetes-driver"

STARTING = {"ContainerCreating", "PodInitializing"}

HOPELESS = {"ErrImageNeverPull", "InvalidImageName"}
"""Reasons of a waiting container that no retry of the kubelet mends."""

NO_IMAGE = {"ErrImagePull", "ImagePullBackOff", "RegistryUnavailable", "ImageInspectError"}
NO_CONFIGURATION = {"CreateContainerConfigError", "CreateContainerError"}

MEANINGS = {
    52: "the JVM ran out of heap",
    134: "aborted",
    137: "killed",
    139: "segmentation fault",
    143: "told to stop",
}
"""What exit codes say that Kubernetes only calls Error; 52 is Spark's own."""

SAID_ENDS = 5
"""Executors that ended for the same reason are named so often; the rest are counted."""


@dataclass(frozen=True)
class Wait:
    """What a pod that does not run waits for: Kubernetes' reason and message."""

    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}" if self.message else self.reason


class Pod:
    """One pod as the API server described it."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self._raw = raw
        self._status: dict[str, Any] = raw.get("status") or {}
        self.name: str = raw["metadata"]["name"]
        self.uid: str = raw["metadata"]["uid"]
        self.role: str = (raw["metadata"].get("labels") or {}).get(ROLE_LABEL, "")

    @property
    def _containers(self) -> list[dict[str, Any]]:
        return [*self._status.get("initContainerStatuses", []), *self._status.get("containerStatuses", [])]

    @property
    def _main(self) -> dict[str, Any]:
        """The status of Spark's own container, which comes first in what Spark makes and sidecars after it."""
        statuses: list[dict[str, Any]] = self._status.get("containerStatuses") or [{}]
        return next((one for one in statuses if one.get("name") == DRIVER_CONTAINER), statuses[0])

    @property
    def _end(self) -> dict[str, Any]:
        found: dict[str, Any] = (self._main.get("state") or {}).get("terminated") or {}
        return found

    @property
    def started(self) -> bool:
        """Whether its container runs or has run: there is a log."""
        return bool({"running", "terminated"} & set(self._main.get("state") or {}))

    @property
    def ended(self) -> bool:
        """Whether its container has ended, or will never start any more."""
        return bool(self._end) or self._status.get("phase") in {"Succeeded", "Failed"}

    @property
    def exit_code(self) -> int | None:
        """Of its container; None while it runs, or where the pod ended without it."""
        return self._end.get("exitCode")

    @property
    def killed(self) -> bool:
        """Whether it was deleted before its container ended by itself."""
        deleted, finished = self._raw["metadata"].get("deletionTimestamp"), self._end.get("finishedAt")
        if not deleted or not finished:
            return bool(deleted)
        # The timestamp is that of the end of its grace.
        grace = timedelta(seconds=self._raw["metadata"].get("deletionGracePeriodSeconds") or 0)
        return datetime.fromisoformat(deleted) - grace < datetime.fromisoformat(finished)

    @property
    def disruption(self) -> str:
        """Why the cluster ended it: eviction, preemption, a node that is drained; empty where it did not."""
        targets = [one for one in self._conditions if one["type"] == "DisruptionTarget" and one["status"] == "True"]
        return "; ".join(f"{one.get('reason', '')}: {one.get('message', '')}" for one in targets)

    @property
    def _conditions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._status.get("conditions") or []
        return found

    @property
    def wait(self) -> Wait | None:
        """What it waits for; None where it runs or has ended."""
        if self.ended:
            return None
        waits = [one["state"]["waiting"] for one in self._containers if (one.get("state") or {}).get("waiting")]
        # One that cannot start says more than those that merely wait for it.
        waits.sort(key=lambda waiting: waiting.get("reason") in STARTING)
        if waits:
            return Wait(waits[0].get("reason", ""), waits[0].get("message", ""))
        for condition in self._conditions:
            if condition["type"] == "PodScheduled" and condition["status"] == "False":
                return Wait(condition.get("reason", "Unscheduled"), condition.get("message", ""))
        return None

    @property
    def ending(self) -> str:
        """Why it ended, such as `OOMKilled (exit code 137, memory limit 1Gi)`; empty where it ended well or not yet."""
        reasons = [": ".join(filter(None, (self._status.get("reason"), self._status.get("message")))), self.disruption]
        code = self.exit_code
        if code:
            reason = self._end.get("reason", "Error")
            details = [f"exit code {code}"]
            if reason == "OOMKilled":
                details.append(f"memory limit {self._memory_limit}")
            elif code in MEANINGS:
                details[0] += f", {MEANINGS[code]}"
            reasons.append(f"{reason} ({', '.join(details)}){self._last_words}")
        return "; ".join(dict.fromkeys(filter(None, reasons)))

    @property
    def _memory_limit(self) -> str:
        containers = self._raw["spec"]["containers"]
        main = next((one for one in containers if one["name"] == self._main.get("name")), containers[0])
        limits = (main.get("resources") or {}).get("limits") or {}
        return str(limits.get("memory", "none: the node's own"))

    @property
    def _last_words(self) -> str:
        return f": {self._end['message'].strip()[:300]}" if self._end.get("message") else ""


class Pods:
    """All pods of one application, as a watch of them tells.

    Attributes:
        driver: The latest driver, None before there is one.
    """

    def __init__(self, namespace: str, patience: Patience) -> None:
        self._namespace, self._patience = namespace, patience
        self._live: dict[str, Pod] = {}
        self._blocked_since: dict[tuple[str, str], float] = {}
        self._starting_since: dict[str, float] = {}
        self._said_waits: dict[str, set[str]] = {}
        self._said_starting: set[str] = set()
        self._executor_ends: Counter[str] = Counter()
        self._ended: set[str] = set()
        self.driver: Pod | None = None
        self._driver_deleted = False

    def take(self, change: Change) -> Iterator[str]:
        """Take a change in, and yield the lines that it is worth in the step's log."""
        pod = Pod(change.object)
        if pod.role == DRIVER:
            self._take_driver(pod, deleted=change.kind == DELETED)
        elif pod.role == EXECUTOR:
            yield from self._executor_end(pod)
        if change.kind == DELETED or pod.ended:
            self._live.pop(pod.uid, None)
        else:
            self._live[pod.uid] = pod
        self._note_blocks()
        yield from self._waits(pod.role)

    def _take_driver(self, pod: Pod, *, deleted: bool) -> None:
        if self.driver is None or self.driver.uid != pod.uid:
            if deleted and self.driver is not None:
                return  # that of an attempt before the latest
            self._executor_ends.clear()  # they were the last attempt's
        self.driver, self._driver_deleted = pod, deleted

    @property
    def driver_ended(self) -> bool:
        """Whether no driver runs that is known of."""
        return self.driver is None or self.driver.ended or self._driver_deleted

    def _executor_end(self, pod: Pod) -> Iterator[str]:
        # Spark deletes the executors that it needs no more: how those end says nothing.
        wanted = pod.killed and not pod.disruption and "OOMKilled" not in pod.ending
        if not pod.ending or wanted or pod.uid in self._ended:
            return
        self._ended.add(pod.uid)
        self._executor_ends[pod.ending] += 1
        count = self._executor_ends[pod.ending]
        if count <= SAID_ENDS:
            more = ", and so on" if count == SAID_ENDS else ""
            yield f"executor {pod.name} ended: {pod.ending}{more}"

    def _waits(self, role: str) -> Iterator[str]:
        waiting = [(pod, pod.wait) for pod in self._live.values() if pod.role == role]
        held = [(pod, wait) for pod, wait in waiting if wait and wait.reason not in STARTING]
        # The kubelet turns from ErrImagePull to ImagePullBackOff and back: that is one wait.
        texts = {"image" if _block(wait) == "image" else str(wait): (pod.name, str(wait)) for pod, wait in held}
        said = self._said_waits.setdefault(role, set())
        if not held:
            said.clear()
        for key in texts.keys() - said:
            said.add(key)
            name, text = texts[key]
            who = f"driver {name} waits" if role == DRIVER else f"{len(held)} of {len(waiting)} executors wait"
            yield f"{who}: {text}"

    def _note_blocks(self) -> None:
        """Note since when the driver, or all of the executors, cannot start."""
        now = time.monotonic()
        blocked: set[tuple[str, str]] = set()
        for role in (DRIVER, EXECUTOR):
            kinds = [_block(pod.wait) for pod in self._live.values() if pod.role == role]
            # An executor on a node that lacks something is no harm while others run.
            if kinds and all(kinds):
                blocked |= {(role, kind) for kind in kinds}
        self._blocked_since = {key: self._blocked_since.get(key, now) for key in blocked}
        starting = {pod.uid for pod in self._live.values() if pod.wait and pod.wait.reason in STARTING}
        self._starting_since = {uid: self._starting_since.get(uid, now) for uid in starting}

    def _due(self) -> Iterator[tuple[float, tuple[str, str]]]:
        limits = {"hopeless": 0.0, "image": self._patience.image, "configuration": self._patience.configuration}
        for key, since in self._blocked_since.items():
            yield since + limits[key[1]], key

    def next_due(self) -> float | None:
        """Return when, on the monotonic clock, `overdue` or `slow` has more to say if nothing changes."""
        slow = [
            since + self._patience.starting
            for uid, since in self._starting_since.items()
            if uid not in self._said_starting
        ]
        return min([*slow, *(when for when, _ in self._due())], default=None)

    def slow(self) -> Iterator[str]:
        """Yield a line for each pod whose containers have not been created for long; it is said once."""
        now = time.monotonic()
        for uid, since in self._starting_since.items():
            if now >= since + self._patience.starting and uid not in self._said_starting:
                self._said_starting.add(uid)
                name = self._live[uid].name
                yield (
                    f"pod {name} has been {self._live[uid].wait} for {now - since:.0f} s; a volume may not mount: "
                    f"kubectl -n {self._namespace} describe pod {name}"
                )

    def overdue(self) -> CtbasisError | None:
        """Return the error of a pod that cannot start although the patience with it has ended."""
        now = time.monotonic()
        for due, (role, kind) in self._due():
            if now < due:
                continue
            pods = [pod for pod in self._live.values() if pod.role == role and _block(pod.wait) == kind]
            image = kind != "configuration"
            return CtbasisError(
                f"pod {pods[0].name} cannot start: {pods[0].wait}",
                cause="the image's name is wrong, or the node may not pull it"
                if image
                else "a Secret or ConfigMap that the pod takes its environment from is missing, or lacks a key",
                remedy="set spec.image and imagePullSecrets in manifests/sparkapplication.yaml, then run again"
                if image
                else f"create it in namespace {self._namespace}, then run again",
            )
        return None

    def executor_ends(self) -> str:
        """Return why executors ended since the latest driver started, the commonest reason first; empty for none."""
        return "; ".join(
            f"{count} executor{'s' if count > 1 else ''} ended: {reason}"
            for reason, count in self._executor_ends.most_common(3)
        )


def _block(wait: Wait | None) -> str:
    """Return what kind of thing keeps a pod from starting, empty for what merely takes its time."""
    if wait is None:
        return ""
    if wait.reason in HOPELESS:
        return "hopeless"
    if wait.reason in NO_IMAGE:
        return "image"
    return "configuration" if wait.reason in NO_CONFIGURATION else ""
