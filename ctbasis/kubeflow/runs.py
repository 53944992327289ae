"""Runs as the server describes them: their states, their steps, and the artifacts of their steps.

Kubeflow Pipelines 2.17 lists the nodes of a run's Argo workflow (`run_details.task_details`), and ML Metadata lists the
artifacts. The server that follows 2.17 has no ML Metadata: it lists the tasks of the pipeline with their artifacts
(`tasks`) to requests for the view FULL. 2.17 ignores that parameter, so one request serves both.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.server import NoAnswerError, get

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from kfp.client import Client

API = "/apis/v2beta1"

PAGE = 100
"""Runs in one response."""

NEWEST_FIRST = "created_at desc"

FINAL_STATES = {"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"}
CANCELING = "CANCELING"

STATE_ORDER = ("FAILED", "CANCELED", CANCELING, "RUNNING", "PAUSED", "PENDING", "SUCCEEDED", "SKIPPED", "CACHED")
"""States by precedence. A step inside a loop has several tasks; its state is the first of these that any task has."""

ATTEMPT = re.compile(r"\(\d+(:[^)]*)?\)$")
"""End of the name of a node that is an attempt of another node, or an iteration of a loop."""

GROUP = re.compile(r"^(exit-handler|condition|condition-branches|for-loop)-\d+$|^iteration")
"""Names that KFP's compiler gives to groups of tasks."""


@dataclass(frozen=True)
class Task:
    """A task of a run, or in Kubeflow Pipelines 2.17 a node of its workflow.

    Attributes:
        name: The name of the task in the package, or of the node.
        state: The state, one of `STATE_ORDER`.
        error: The message of an error; empty if there is none.
        outputs: The artifacts that the task has produced, as (key, artifact); Kubeflow Pipelines 2.17 sends none.
    """

    name: str
    state: str
    error: str = ""
    outputs: tuple[tuple[str, Mapping[str, Any]], ...] = ()


@dataclass(frozen=True)
class Run:
    """A run.

    Attributes:
        run_id: The id.
        name: The name in the UI.
        state: The state, such as RUNNING.
        error: The message of an error of the run itself; empty if there is none.
        history: The states so far, each with the time at which the server recorded it (RFC 3339).
        arguments: The arguments of the run by name, without those that have their defaults.
        tasks: The tasks that have begun, in the order of their beginning.
        steps: The names of the tasks that run a container; empty if the package of the run is unknown.
        lists_artifacts: Whether the server lists the artifacts of the tasks.
    """

    run_id: str
    name: str
    state: str
    error: str
    history: tuple[tuple[str, str], ...]
    arguments: Mapping[str, Any]
    tasks: tuple[Task, ...]
    steps: frozenset[str] = field(default_factory=frozenset)
    lists_artifacts: bool = False

    @property
    def has_ended(self) -> bool:
        """Whether the state is final."""
        return self.state in FINAL_STATES

    @property
    def terminated(self) -> str:
        """The time at which the run was terminated; empty if it was not.

        A terminated run ends as FAILED; its history tells it from a run whose step failed. A run that was terminated
        and then retried has run again since.
        """
        before_end = [(state, time) for state, time in self.history if state not in FINAL_STATES]
        state, time = before_end[-1] if before_end else ("", "")
        return time if state == CANCELING else ""

    def states(self) -> dict[str, str]:
        """Return the states of the steps that have begun, by name, in the order of their beginning."""
        states: dict[str, str] = {}
        for task in self.tasks:
            is_step = task.name in self.steps if self.steps else not _is_internal(task.name, self.tasks)
            if is_step and task.state in STATE_ORDER:
                states[task.name] = min(states.get(task.name, task.state), task.state, key=STATE_ORDER.index)
        return states

    def failed(self) -> list[str]:
        """Return the names of the failed steps, and of the drivers of steps whose inputs could not be resolved."""
        failed = [step for step, state in self.states().items() if state == "FAILED"]
        drivers = {f"{step}-driver" for step in self.steps}
        return failed + [task.name for task in self.tasks if task.state == "FAILED" and task.name in drivers]


def run_id_of(text: str) -> str:
    """Return the id of a run from its id, or from the address of its page in the UI (`.../#/runs/details/ID`).

    Raises:
        CtbasisError: It is neither.
    """
    page = re.fullmatch(r"https?://.*#/runs/details/([^/?]+)([/?].*)?", text.strip())
    identity = page[1] if page else text
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,127}", identity):
        raise CtbasisError(
            f"{text[:100]!r} is not the id of a run",
            expected="an id such as 0b1c2d3e-0000-4000-8000-000000000000, or the address of the run's page",
            remedy="copy the address of the run's page in the Kubeflow UI",
        )
    return identity


def get_run(client: Client, run_id: str, *, known: Run | None = None) -> Run:
    """Return a run.

    Args:
        client: From `server.connect`.
        run_id: The id of the run.
        known: The same run as an earlier request returned it, so that its package is not requested again.

    Raises:
        AbsentError: The server has no such run.
        NoAnswerError: The server did not answer, or a later request may succeed.
        CtbasisError: The server refuses.
    """
    answer = get(
        client, f"{API}/runs/{quote(run_id, safe='')}", {"view": "FULL"}, action="to send the state of the run"
    )
    tasks = sorted(answer.get("tasks") or [], key=_begin)
    nodes = sorted((answer.get("run_details") or {}).get("task_details") or [], key=_begin)
    steps = known.steps if known is not None and known.steps else steps_of(_package(client, answer))
    if not steps:
        steps = frozenset(str(task.get("name")) for task in tasks if task.get("type") == "RUNTIME")
    return Run(
        run_id=str(answer.get("run_id") or run_id),
        name=str(answer.get("display_name") or ""),
        state=str(answer.get("state") or "PENDING"),
        error=_message(answer),
        history=tuple(
            (str(entry.get("state") or ""), str(entry.get("update_time") or ""))
            for entry in answer.get("state_history") or []
        ),
        arguments=(answer.get("runtime_config") or {}).get("parameters") or {},
        tasks=tuple(map(_task, tasks)) if tasks else tuple(map(_node, nodes)),
        steps=steps,
        lists_artifacts=bool(tasks),
    )


def listed_runs(client: Client, experiment: str) -> Iterator[dict[str, Any]]:
    """Yield the runs of an experiment as the server describes them, the newest first; none without such an experiment.

    Args:
        client: From `server.connect`.
        experiment: The name of the experiment.

    Raises:
        NoAnswerError: The server did not answer, or a later request may succeed.
        CtbasisError: The server refuses.
    """
    namespace = client.get_user_namespace()
    query: dict[str, object] = {"namespace": namespace} if namespace else {}
    named = {"predicates": [{"operation": "EQUALS", "key": "display_name", "string_value": experiment}]}
    listed = get(client, f"{API}/experiments", query | {"filter": json.dumps(named)}, action="to list the experiments")
    for one in listed.get("experiments") or []:
        page: dict[str, object] = {"experiment_id": one["experiment_id"], "page_size": PAGE, "sort_by": NEWEST_FIRST}
        while True:
            answer = get(client, f"{API}/runs", query | page, action="to list the runs")
            yield from answer.get("runs") or []
            if not answer.get("next_page_token"):
                break
            page["page_token"] = answer["next_page_token"]


def succeeded_runs(client: Client, *, experiment: str = "ctbasis") -> Iterator[str]:
    """Yield the ids of the runs of an experiment that succeeded, the newest first; see `listed_runs`."""
    return (str(run["run_id"]) for run in listed_runs(client, experiment) if run.get("state") == "SUCCEEDED")


def _package(client: Client, run: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the package of a run as the server stores it; empty if it is not to be had.

    A run of a pipeline version, as the UI and recurring runs create it, refers to the version.
    """
    if run.get("pipeline_spec"):
        return run["pipeline_spec"] or {}
    reference = run.get("pipeline_version_reference") or {}
    pipeline, version = reference.get("pipeline_id"), reference.get("pipeline_version_id")
    if not pipeline or not version:
        return {}
    try:
        stored = get(client, f"{API}/pipelines/{pipeline}/versions/{version}", action="to send the pipeline of the run")
    except NoAnswerError:
        raise
    except CtbasisError:
        return {}  # The version was deleted, or the user may not read it.
    return stored.get("pipeline_spec") or {}


def steps_of(package: Mapping[str, Any]) -> frozenset[str]:
    """Return the names of a package's tasks that run a container."""
    spec = package.get("pipeline_spec", package)
    components = spec.get("components", {})
    dags = [component.get("dag", {}) for component in [spec.get("root", {}), *components.values()]]
    return frozenset(
        name
        for dag in dags
        for name, task in dag.get("tasks", {}).items()
        if "executorLabel" in components.get(task.get("componentRef", {}).get("name"), {})
    )


def _begin(entry: Mapping[str, Any]) -> str:
    """Return the time at which a task or a node began; 2.17 lists them in the order of their ids."""
    return str(entry.get("start_time") or entry.get("create_time") or "")


def _task(task: Mapping[str, Any]) -> Task:
    """Return a task of the server that follows 2.17."""
    outputs = (task.get("outputs") or {}).get("artifacts") or []
    return Task(
        name=str(task.get("name") or task.get("display_name") or ""),
        state=str(task.get("state") or ""),
        error=str((task.get("status_metadata") or {}).get("message") or ""),
        outputs=tuple(
            (str(output.get("artifact_key") or ""), artifact)
            for output in outputs
            for artifact in output.get("artifacts") or []
        ),
    )


def _node(node: Mapping[str, Any]) -> Task:
    """Return a node of the workflow, as 2.17 describes it."""
    return Task(str(node.get("display_name") or ""), str(node.get("state") or ""), _message(node))


def _message(entry: Mapping[str, Any]) -> str:
    return str((entry.get("error") or {}).get("message") or "")


def _is_internal(name: str, tasks: tuple[Task, ...]) -> bool:
    """Return whether a node of the Argo workflow is not a task of the pipeline, as far as its name tells.

    A node with retries has one more node for each attempt, `NAME(0)`; `NAME-driver` resolves the inputs of a task,
    `executor` is its pod, and `NAME.onExit` starts the exit handler. The first node has the name of the workflow, which
    is no other node's and ends in five random characters.
    """
    if ATTEMPT.search(name) or GROUP.search(name) or name.endswith(("-driver", ".onExit")):
        return True
    has_driver = any(ATTEMPT.sub("", task.name) == f"{name}-driver" for task in tasks)
    return name in {"root", "executor"} or not has_driver
