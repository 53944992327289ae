"""A run of a compiled package on a cluster: this module does for the pods of `kfp_pods` what Argo's controller does.

A task starts when the tasks that it depends on have succeeded; independent tasks run in parallel. The exit handler runs
after success and failure. A task is retried as Argo 4.0.5 does it by KFP's retry policy
(workflow/controller/operator.go, processNodeRetries): a pod that *failed* is retried; a deleted pod is an error and is
not. KFP's backoffMaxDuration is Argo's maxDuration: the time from the start of the first try, after which no try is
started and a running try is ended. A ConfigMap represents the Workflow: it owns the pods and the claim of the
workspace, and deleting it deletes the run.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import uuid
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import urllib3
from kubernetes import client, config

from tests.e2e.cluster import GENEROUS_SECONDS
from tests.e2e.kfp_launcher import PUBLISHED
from tests.e2e.kfp_pods import Dag, Execution, Package, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SUCCEEDED, FAILED = "COMPLETE", "FAILED"
EXIT_TASK = "ALL_UPSTREAM_TASKS_COMPLETED"
HTTP_NOT_FOUND = 404
RUN_SECONDS = 3 * GENEROUS_SECONDS


@dataclass(frozen=True)
class Retry:
    """A task's retry policy, in seconds."""

    limit: int
    duration: float
    factor: float
    longest: float | None

    @classmethod
    def of(cls, task: dict[str, Any]) -> Self:
        policy = task.get("retryPolicy", {})

        def seconds(key: str) -> float | None:
            return float(policy[key].removesuffix("s")) if key in policy else None

        return cls(
            limit=int(policy.get("maxRetryCount", 0)),
            duration=seconds("backoffDuration") or 0.0,
            factor=float(policy.get("backoffFactor", 1)),
            longest=seconds("backoffMaxDuration"),
        )

    def wait(self, tries: int, since_first: float) -> float | None:
        """Return the seconds to wait after `tries` failures, or None if there is no further try."""
        pause = self.duration * self.factor ** (tries - 1)
        futile = self.longest is not None and since_first + pause > self.longest
        return None if tries > self.limit or futile else pause


@dataclass
class Try:
    """One pod of a task after its end."""

    task: str
    pod: str
    phase: str
    log: str
    seconds: float


@dataclass
class Run:
    """One run of a package in a namespace.

    Attributes:
        package: The compiled package.
        arguments: Pipeline parameters.
        namespace: A namespace with the base manifests, the account, the launcher's ConfigMap and the artifacts' claim.
        tries: Every pod that ended, in the order of their ends.
        executions: The executions of tasks that are no graphs, by name of the task.
    """

    package: Package
    arguments: Mapping[str, Any]
    namespace: str
    run_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    tries: list[Try] = field(default_factory=list)
    executions: dict[str, Execution] = field(default_factory=dict)
    state: str = ""
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.name = f"{self.package.name}-{self.run_id[:5]}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: BaseException | None = None
        self._deleted = False
        config.load_kube_config()
        self._api = client.CoreV1Api()

    def start(self) -> Self:
        unknown = set(self.arguments) - set(self.package.component("root")["inputDefinitions"]["parameters"])
        if unknown:
            raise ValueError(f"the package has no parameters {sorted(unknown)}")
        self._owner = self._create_owner()
        self._thread.start()
        return self

    def finish(self, seconds: float = RUN_SECONDS) -> Self:
        """Wait for the end of the run, success or failure."""
        self._thread.join(seconds)
        if self._error is not None:
            raise self._error
        assert not self._thread.is_alive(), f"the run {self.name} was not over after {seconds:.0f} s\n{self.end()}"
        return self

    def succeed(self) -> Self:
        """Wait for the end of the run; the test fails if the run does."""
        assert self.finish().state == SUCCEEDED, self.end()
        return self

    def delete(self) -> None:
        """Delete the run as Kubeflow does: delete its Workflow; the garbage collector deletes the objects it owns.

        After the Workflow is deleted, the controller starts and retries no task.
        """
        self._deleted = True
        self._api.delete_namespaced_config_map(self.name, self.namespace, propagation_policy="Background")

    def log(self, task: str = "") -> str:
        """Return the logs of the pods of one task, or of all tasks."""
        return "\n".join(f"--- {one.pod} {one.phase}\n{one.log}" for one in self.tries if task in {"", one.task})

    def end(self) -> str:
        """Return the phase of each ended pod, and the last log lines of the pods that did not succeed."""
        ends = [f"{one.pod} {one.phase}" for one in self.tries]
        for one in self.tries:
            if one.phase != "Succeeded":
                ends += [f"--- {one.pod}", *one.log.splitlines()[-25:]]
        return "\n".join(ends)

    def live_log(self, task: str) -> str:
        """Return the log of the running pod of a task so far; empty if there is none."""
        try:
            return self._read_log(self.pod_name(task, sum(one.task == task for one in self.tries)))
        except client.ApiException:
            return ""

    def seconds_of(self, task: str) -> float:
        """Return the seconds of a task, summed over its tries."""
        return sum(one.seconds for one in self.tries if one.task == task)

    def pod_name(self, task: str, attempt: int) -> str:
        return f"{self.name}-{task}-{attempt}"

    # ---- Emulation of Argo's controller

    def _run(self) -> None:
        begun = time.monotonic()
        try:
            claim = self.package.workspace_claim(self.name)
            claim["metadata"]["ownerReferences"] = [self._owner]
            self._api.create_namespaced_persistent_volume_claim(self.namespace, claim)
            root = self.package.component("root")
            declared = root["inputDefinitions"]["parameters"]
            defaults = {name: spec.get("defaultValue") for name, spec in declared.items()}
            self.state = self._dag(root, {**defaults, **self.arguments})
            if self.state == SUCCEEDED:
                # Argo's volumeClaimGC, OnWorkflowSuccess by default.
                self._api.delete_namespaced_persistent_volume_claim(claim["metadata"]["name"], self.namespace)
        except BaseException as error:  # noqa: BLE001 - raised again in `finish`
            self._error, self.state = error, "ERROR"
        self.seconds = time.monotonic() - begun

    def _create_owner(self) -> dict[str, Any]:
        body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name=self.name))
        made = self._api.create_namespaced_config_map(self.namespace, body)
        return {"apiVersion": "v1", "kind": "ConfigMap", "name": self.name, "uid": made.metadata.uid}

    def _dag(self, component: dict[str, Any], inputs: dict[str, Any]) -> str:
        dag = Dag(inputs)
        tasks = component["dag"]["tasks"]
        exits = {name: one for name, one in tasks.items() if one.get("triggerPolicy", {}).get("strategy") == EXIT_TASK}
        state = self._graph({name: one for name, one in tasks.items() if name not in exits}, dag)
        for name, spec in exits.items():
            if self._deleted or self._task(name, spec, dag) != SUCCEEDED:
                state = FAILED
        return state

    def _graph(self, tasks: dict[str, dict[str, Any]], dag: Dag) -> str:
        """Run the tasks of a graph, each when the tasks that it depends on have succeeded."""
        waiting = dict(tasks)
        running: set[Future[str]] = set()
        with ThreadPoolExecutor(max_workers=8) as pool:
            while True:
                done = {name for name, one in dag.executions.items() if one.state == SUCCEEDED}
                for name in [name for name, one in waiting.items() if set(one.get("dependentTasks", [])) <= done]:
                    running.add(pool.submit(self._task, name, waiting.pop(name), dag))
                if not running:
                    break
                ended, running = wait(running, return_when=FIRST_COMPLETED)
                for one in ended:
                    one.result()
        states = [one.state for one in dag.executions.values()]
        return SUCCEEDED if not waiting and all(state == SUCCEEDED for state in states) else FAILED

    def _task(self, name: str, spec: dict[str, Any], dag: Dag) -> str:
        task = Task(self.package, name, spec, self.name, self.run_id)
        execution = Execution()
        if task.is_dag:
            execution.state = self._dag(task.component, task.inputs(dag)["parameterValues"])
        else:
            execution.state = self._container(task, dag, execution)
            self.executions[name] = execution
        dag.executions[name] = execution
        return execution.state

    def _container(self, task: Task, dag: Dag, execution: Execution) -> str:
        retry = Retry.of(task.spec)
        first = time.monotonic()
        for attempt in range(retry.limit + 1):
            pod = task.pod(dag, name=self.pod_name(task.name, attempt), attempt=attempt, owner=self._owner)
            if attempt and retry.longest is not None:
                pod["spec"]["activeDeadlineSeconds"] = max(1, int(retry.longest - (time.monotonic() - first)))
            ended = self._execute(task.name, pod)
            if ended.phase == "Succeeded":
                published = json.loads(_line(ended.log, PUBLISHED))
                execution.parameters = published["parameterValues"]
                execution.artifacts = published["artifacts"]
                return SUCCEEDED
            pause = retry.wait(attempt + 1, time.monotonic() - first) if ended.phase == "Failed" else None
            if pause is None or self._deleted:
                break
            _say(f"{task.name} failed; next try in {pause:.0f} s")
            time.sleep(pause)
        return FAILED

    def _execute(self, task: str, pod: dict[str, Any]) -> Try:
        """Run a pod to its end; the phase of a deleted pod is Error."""
        name = pod["metadata"]["name"]
        begun = time.monotonic()
        try:
            self._api.create_namespaced_pod(self.namespace, pod)
        except client.ApiException as error:
            # The run was deleted in the meantime: the owner is gone, or the namespace is terminating.
            ended = Try(task, name, "Error", f"not created: {error.reason}", 0.0)
            self.tries.append(ended)
            return ended
        phase, log = "Pending", ""
        while phase not in {"Succeeded", "Failed", "Error"}:
            time.sleep(0.5)
            phase, log = self._through_outages(lambda: self._look(name)) or ("Error", log)
        if not log:
            log = self._through_outages(lambda: self._read_log(name)) or ""
        ended = Try(task, name, phase, log, time.monotonic() - begun)
        _say(f"{name} {phase}, {ended.seconds:.1f} s")
        self.tries.append(ended)
        return ended

    def _look(self, name: str) -> tuple[str, str]:
        found = self._api.read_namespaced_pod(name, self.namespace)
        phase = str(found.status.phase)
        return phase, self._read_log(name) if phase in {"Succeeded", "Failed"} else ""

    def _read_log(self, pod: str) -> str:
        return str(self._api.read_namespaced_pod_log(pod, self.namespace, container="main"))

    def _through_outages(self, request: Callable[[], Any]) -> Any:
        """Retry `request` while the API server does not answer; return None if the object does not exist."""
        deadline = time.monotonic() + GENEROUS_SECONDS
        while True:
            try:
                return request()
            except client.ApiException as error:
                if error.status == HTTP_NOT_FOUND:
                    return None
                if time.monotonic() > deadline:
                    raise
            except urllib3.exceptions.HTTPError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(1)


def _line(log: str, prefix: str) -> str:
    return next(line.removeprefix(prefix) for line in reversed(log.splitlines()) if line.startswith(prefix))


def _say(line: str) -> None:
    sys.stderr.write(f"run: {line}\n")
    sys.stderr.flush()
