"""A run of a compiled package on a cluster with Argo Workflows: what KFP's API server does with a run.

It creates the Workflow of `kfp_compiler`, and terminates, retries and deletes it as the API server of KFP 2.17.0 does
(backend/src/apiserver/resource/resource_manager.go, backend/src/common/util/workflow.go). Everything between, which pod
starts when, what is tried again, what a signal reaches and which claim is deleted, is done by Argo's controller and
executor.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import sys
import time
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

import urllib3
from kubernetes import client, config, watch

from tests.e2e.cluster import GENEROUS_SECONDS, STEPS_IMAGE, kubectl, wait_until
from tests.e2e.kfp_compiler import WorkflowCompiler
from tests.e2e.kfp_templates import BUCKET_PATH, RUN_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.e2e.kfp_package import Package

SUCCEEDED, FAILED = "COMPLETE", "FAILED"
STATES = {"Succeeded": SUCCEEDED, "Failed": FAILED, "Error": FAILED}
WORKFLOWS = {"group": "argoproj.io", "version": "v1alpha1", "plural": "workflows"}
NODE_NAME = "workflows.argoproj.io/node-name"
WORKFLOW_LABEL = "workflows.argoproj.io/workflow"
COMPLETED = ("workflows.argoproj.io/completed", "pipeline/persistedFinalState")
"""Labels of an ended Workflow, of Argo and of KFP's persistence agent."""

LIVES = ("secondsAfterCompletion", "secondsAfterSuccess", "secondsAfterFailure")
HTTP_NOT_FOUND = 404
RUN_SECONDS = 3 * GENEROUS_SECONDS
WORKBENCH = "workbench"


@dataclass
class Try:
    """One pod of a step.

    Attributes:
        task: Name of the step.
        pod: Name of the pod.
        phase: Argo's phase of it: Pending, Running, Succeeded, Failed, or Error for a pod that was deleted.
        message: Argo's message.
        seconds: Seconds from its start to its end, or until now.
    """

    task: str
    pod: str
    phase: str
    message: str
    seconds: float


@dataclass(frozen=True)
class Execution:
    """The record of a step that ended: its state and its outputs."""

    state: str
    parameters: dict[str, Any]
    artifacts: dict[str, Any]


@dataclass
class Run:
    """One run of a package in a namespace.

    Attributes:
        package: The compiled package.
        arguments: Pipeline parameters.
        namespace: A namespace that `RunNamespace` has prepared.
        name: Name of the Workflow.
    """

    package: Package
    arguments: Mapping[str, Any]
    namespace: str
    run_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    name: str = ""

    def __post_init__(self) -> None:
        config.load_kube_config()
        self._pods = client.CoreV1Api()
        self._objects = client.CustomObjectsApi()
        self._logs: dict[str, str] = {}

    def start(self) -> Self:
        unknown = set(self.arguments) - set(
            self.package.component("root").get("inputDefinitions", {}).get("parameters", {})
        )
        if unknown:
            raise ValueError(f"the package has no parameters {sorted(unknown)}")
        workflow = WorkflowCompiler(self.package, self.arguments, self.run_id, image=STEPS_IMAGE).workflow()
        made = self._objects.create_namespaced_custom_object(**WORKFLOWS, namespace=self.namespace, body=workflow)
        self.name = made["metadata"]["name"]
        return self

    # ---- What KFP's API server does on behalf of a user

    def terminate(self) -> None:
        """Terminate the run."""
        self._patch({"spec": {"activeDeadlineSeconds": 0}})

    def delete(self) -> None:
        """Delete the run: its Workflow, and through the garbage collector all that the Workflow owns."""
        self._objects.delete_namespaced_custom_object(**WORKFLOWS, namespace=self.namespace, name=self.name)

    def live_for(self, seconds: int) -> None:
        """Shorten the time to live of the ended run."""
        self._patch({"spec": {"ttlStrategy": dict.fromkeys(LIVES, seconds)}})

    def retry(self) -> None:
        """Retry the failed run: what succeeded is kept, the rest is forgotten and starts again."""
        workflow, pods = retried(self.workflow() or {})
        for pod in pods:
            kubectl("-n", self.namespace, "delete", "pod", pod, "--ignore-not-found", "--grace-period=0", "--force")
            self._logs.pop(pod, None)
        self._objects.replace_namespaced_custom_object(
            **WORKFLOWS, namespace=self.namespace, name=self.name, body=workflow
        )

    # ---- What happens to it

    def lose_first_pods(self, tasks: Sequence[str]) -> None:
        """Delete the first pod of each step while it runs, as with its node: nothing tells the step.

        Argo starts a pod again that is deleted before Argo has seen it run, and does not count that as a try. The
        program of a pod is therefore stopped as soon as it runs, so that it cannot end before Argo sees it.
        """
        waiting = set(tasks)
        watcher = watch.Watch()
        for event in watcher.stream(
            self._pods.list_namespaced_pod,
            self.namespace,
            label_selector=f"{WORKFLOW_LABEL}={self.name}",
            timeout_seconds=int(GENEROUS_SECONDS),
        ):
            pod = event["object"]
            task = task_of(pod.metadata.annotations[NODE_NAME])
            running = [one.name for one in pod.status.container_statuses or [] if one.state.running]
            if task in waiting and "main" in running:
                name = pod.metadata.name
                kubectl("-n", self.namespace, "exec", name, "-c", "main", "--", "sh", "-c", "kill -STOP -1")
                wait_until(lambda task=task: self.phases(task) == ["Running"], f"Argo sees that {task} runs")
                self._pods.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)
                waiting.remove(task)
            if not waiting:
                watcher.stop()
        assert not waiting, f"no pod of {sorted(waiting)} ran\n{self.end()}"

    # ---- What a test asks

    def workflow(self) -> dict[str, Any] | None:
        """Return the Workflow, or None if it is deleted."""
        found: dict[str, Any] | None = _through_outages(
            lambda: self._objects.get_namespaced_custom_object(**WORKFLOWS, namespace=self.namespace, name=self.name)
        )
        status = found.get("status", {}) if found else {}
        if "compressedNodes" in status:  # Argo does so when the nodes take more than 1 MB.
            status["nodes"] = json.loads(gzip.decompress(base64.b64decode(status.pop("compressedNodes"))))
        return found

    @property
    def state(self) -> str:
        """State of the run: empty until its end; a deleted run is FAILED."""
        workflow = self.workflow()
        return STATES.get(workflow.get("status", {}).get("phase", ""), "") if workflow else FAILED

    @property
    def seconds(self) -> float:
        """Seconds from the creation of the Workflow to its end."""
        workflow = self.workflow() or {}
        return _seconds(workflow["metadata"]["creationTimestamp"], workflow["status"].get("finishedAt"))

    def finish(self, seconds: float = RUN_SECONDS) -> Self:
        """Wait for the end of the run, success or failure."""
        deadline = time.monotonic() + seconds
        while not self.state:
            assert time.monotonic() < deadline, f"{self.name} was not over after {seconds:.0f} s\n{self.end()}"
            time.sleep(1)
        _say(f"{self.name} {self.state}")
        return self

    def succeed(self) -> Self:
        """Wait for the end of the run; the test fails if the run does."""
        assert self.finish().state == SUCCEEDED, self.end()
        return self

    @property
    def tries(self) -> list[Try]:
        """The pods of the steps that have started, in the order of their starts."""
        return [one for one in self.pods() if not one.task.endswith("-driver")]

    def pods(self) -> list[Try]:
        """Return all pods of the run that Argo has created, drivers included, in the order of their starts."""
        workflow = self.workflow() or {}
        found = []
        for node in sorted(
            workflow.get("status", {}).get("nodes", {}).values(), key=lambda one: one["startedAt"] or ""
        ):
            if node["type"] == "Pod":
                spent = _seconds(node["startedAt"], node.get("finishedAt")) if node["startedAt"] else 0.0
                pod = pod_name(workflow, node)
                found.append(Try(task_of(node["name"]), pod, node["phase"], node.get("message", ""), spent))
        return found

    def executions(self) -> dict[str, Execution]:
        """Return the records of the steps, by name; of a step in a loop, the last one."""
        return {
            one["task"]: Execution(one["state"], one.get("parameters", {}), one.get("artifacts", {}))
            for one in self.records()
        }

    def records(self) -> list[dict[str, Any]]:
        """Return all records of the run, in the order of their numbers; see `kfp_driver`."""
        folder = f"{BUCKET_PATH}/executions/{self.run_id}"
        program = f"cd {folder} 2>/dev/null && for one in *.json; do cat $one; echo; done || true"
        lines = kubectl("-n", self.namespace, "exec", WORKBENCH, "--", "sh", "-c", program).splitlines()
        return sorted((json.loads(line) for line in lines), key=lambda one: int(one["id"]))

    def log(self, task: str = "") -> str:
        """Return the logs of the pods of one step, or of all steps."""
        tries = [one for one in self.tries if task in {"", one.task}]
        return "\n".join(f"--- {one.pod} {one.phase}\n{self._log(one.pod)}" for one in tries)

    def end(self) -> str:
        """Return the phase of the run and of each pod, and the last log lines of the pods that did not succeed."""
        pods = self.pods()
        workflow = self.workflow()
        status = workflow.get("status", {}) if workflow else {"phase": "deleted"}
        ends = [f"{self.name} {status.get('phase', 'not begun')} {status.get('message', '')}"]
        ends += [f"{one.pod} {one.task} {one.phase} {one.message}" for one in pods]
        for one in pods:
            if one.phase != "Succeeded":
                ends += [f"--- {one.pod}", *self._log(one.pod).splitlines()[-25:]]
        return "\n".join(ends)

    def live_log(self, task: str) -> str:
        """Return the log of the running pod of a step so far; empty if there is none."""
        names = [one.pod for one in self.tries if one.task == task and one.phase in {"Pending", "Running"}]
        return self._log(names[-1]) if names else ""

    def seconds_of(self, task: str) -> float:
        """Return the seconds of a step, summed over its tries."""
        return sum(one.seconds for one in self.tries if one.task == task)

    def pod_name(self, task: str, attempt: int) -> str:
        """Return the name of the pod of one try of a step."""
        names: list[str] = wait_until(
            lambda: [one.pod for one in self.tries if one.task == task][attempt : attempt + 1],
            f"try {attempt} of {task} starts",
        )
        return names[0]

    def overhead(self) -> str:
        """Return a line about the time in which no step ran: that of Argo and of KFP's driver pods."""
        pods = self.pods()
        drivers = sum(one.seconds for one in pods if one.task.endswith("-driver"))
        idle = self.seconds - self.busy_seconds()
        return (
            f"overhead: {len(self.tries)} steps in {len(pods)} pods, {self.seconds:.0f} s; "
            f"no step ran for {idle:.0f} s; driver pods took {drivers:.0f} s"
        )

    def busy_seconds(self) -> float:
        """Return the seconds in which the program of at least one step ran."""
        spans = []
        for pod in self._pods.list_namespaced_pod(self.namespace, label_selector=f"{RUN_LABEL}={self.run_id}").items:
            ends = [one.state.terminated for one in pod.status.container_statuses if one.name == "main"]
            if pod.metadata.annotations["pipelines.kubeflow.org/runtime-role"] == "launcher":
                spans += [(one.started_at, one.finished_at) for one in ends]
        total, until = 0.0, None
        for begin, end in sorted(spans):
            begun = begin if until is None else max(begin, until)
            total += max(0.0, (end - begun).total_seconds())
            until = end if until is None else max(end, until)
        return total

    def phases(self, task: str) -> list[str]:
        """Return the phases of the tries of a step."""
        return [one.phase for one in self.tries if one.task == task]

    def _patch(self, patch: dict[str, Any]) -> None:
        self._objects.patch_namespaced_custom_object(**WORKFLOWS, namespace=self.namespace, name=self.name, body=patch)

    def _log(self, pod: str) -> str:
        """Return the log of a pod; of a pod that is gone, what was read of it before."""
        try:
            self._logs[pod] = str(self._pods.read_namespaced_pod_log(pod, self.namespace, container="main"))
        except (client.ApiException, urllib3.exceptions.HTTPError):
            return self._logs.get(pod, "")
        return self._logs[pod]


def task_of(node: str) -> str:
    """Return the task of a pod from the name of its node, such as `w.root(0).group(0).svd(0).executor(1)`."""
    path = [re.sub(r"\(\d+\)$", "", part) for part in node.split(".")]
    return path[-2] if path[-1] == "executor" else path[-1]


def pod_name(workflow: dict[str, Any], node: dict[str, Any]) -> str:
    """Return the name of the pod of a node (workflow.go: RetrievePodName)."""
    return f"{workflow['metadata']['name']}-{node['templateName']}-{node['id'].rpartition('-')[2]}"


def retried(workflow: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a failed Workflow as it is retried, and the pods to delete (workflow.go: GenerateRetryExecution)."""
    assert workflow["status"]["phase"] in {"Failed", "Error"}, "only a failed run can be retried"
    made: dict[str, Any] = json.loads(json.dumps(workflow))
    for label in COMPLETED:
        made["metadata"]["labels"].pop(label, None)
    made["metadata"]["labels"]["workflows.argoproj.io/phase"] = "Running"
    status = made["status"]
    status |= {"phase": "Running", "message": "", "finishedAt": None, "nodes": {}}
    others = [one for one in status.get("conditions", []) if one["type"] != "Completed"]
    status["conditions"] = [*others, {"type": "Completed", "status": "False"}]
    if made["spec"].get("activeDeadlineSeconds") == 0:
        del made["spec"]["activeDeadlineSeconds"]
    pods = []
    for node in workflow["status"]["nodes"].values():
        on_exit = node["name"].startswith(f"{workflow['metadata']['name']}.onExit")
        assert node["phase"] not in {"Running", "Pending"}, "KFP refuses to retry a run with a pod that has not ended"
        if node["phase"] in {"Succeeded", "Skipped"} and not on_exit:
            status["nodes"][node["id"]] = dict(node)
        elif node["phase"] in {"Error", "Failed", "Omitted"} and not on_exit and node["type"] == "DAG":
            status["nodes"][node["id"]] = node | {"phase": "Running", "message": "", "finishedAt": None}
        elif node["type"] == "Pod":
            pods.append(pod_name(workflow, node))
    for node in status["nodes"].values():
        for key in ("children", "outboundNodes"):
            if key in node:
                node[key] = [one for one in node[key] if one in status["nodes"]]
    return made, pods


def _seconds(begin: str, end: str | None) -> float:
    started = datetime.fromisoformat(begin)
    return ((datetime.fromisoformat(end) if end else datetime.now(started.tzinfo)) - started).total_seconds()


def _through_outages(request: Callable[[], Any]) -> Any:
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


def _say(line: str) -> None:
    sys.stderr.write(f"run: {line}\n")
    sys.stderr.flush()
