"""Submits the compiled pipeline to a Kubeflow Pipelines 2.17 server, waits for its run, and fetches its results.

Runs, pipelines, versions and experiments are in the server's API, which `kfp.Client` calls. Results also need the UI
(see `artifacts`), so `host` should be the address that a browser opens.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import kfp_server_api

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.artifacts import fetch_results
from ctbasis.kubeflow.package import PACKAGE, check_arguments, read_package
from ctbasis.kubeflow.server import REQUEST_SECONDS, NoAnswerError, connect, host_of, server_errors
from ctbasis.printable import say

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from kfp.client import Client

    from ctbasis.kubeflow.artifacts import Results

FINAL_STATES = {"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"}
FIRST_POLL_SECONDS = 2.0
LONGEST_POLL_SECONDS = 30.0
OUTAGE_SECONDS = 300.0
"""How long the server may be unreachable while a run is waited for."""

STATE_ORDER = ("FAILED", "CANCELED", "CANCELING", "RUNNING", "PAUSED", "PENDING", "SUCCEEDED", "SKIPPED")
"""States by precedence. A step inside a loop has several tasks; its state is the first of these that any task has."""


@dataclass(frozen=True)
class Submission:
    """The outcome of a submission.

    Attributes:
        url: The page of the Kubeflow UI that shows the run, or the pipeline if it was only uploaded.
        run_id: The run's id; empty if no run was started.
        state: The run's last known state, such as SUCCEEDED; empty if no run was started.
        pipeline_id: The id of the uploaded pipeline; empty if none was uploaded.
        version_id: The id of its version; empty if none was uploaded.
        results: The results of the run; None if it was not waited for.
    """

    url: str
    run_id: str = ""
    state: str = ""
    pipeline_id: str = ""
    version_id: str = ""
    results: Results | None = None


def submit(
    host: str,
    *,
    arguments: Mapping[str, Any] | None = None,
    package: Path = PACKAGE,
    experiment: str = "ctbasis",
    run_name: str = "",
    token: str = "",
    namespace: str = "",
    upload_only: bool = False,
    pipeline_name: str = "",
    pipeline_version: str = "",
    wait: bool = True,
    timeout: float | None = None,
    out: Path | None = None,
) -> Submission:
    """Run the compiled pipeline on a server, or only upload it.

    Args:
        host: The server's address, preferably that of its UI (see above), such as http://localhost:8080 or
            https://kubeflow.example.org/pipeline.
        arguments: Pipeline parameters by name. A parameter that is omitted has its default.
        package: The compiled pipeline.
        experiment: The experiment that groups the runs. It is created if there is none of that name.
        run_name: The run's name in the UI. If it is empty, the name is made of the pipeline's name and the time.
        token: A bearer token. If it is empty, the environment variable CTBASIS_KFP_TOKEN is read. It is never shown.
        namespace: The Kubernetes namespace; a multi-user server requires one.
        upload_only: Store the package as a pipeline, or as a new version of a pipeline, and start no run.
        pipeline_name: The name of the stored pipeline. If it is empty, the name in the package is used.
        pipeline_version: The name of the version. If it is empty, the name is a hash of the package, so that the same
            package is stored once only.
        wait: Wait until the run ends, show its progress, and fetch its results.
        timeout: Longest wait in seconds. The run itself continues.
        out: A folder for metrics.json and figure1.png.

    Raises:
        CtbasisError: The host is unreachable or refuses, the package has faults, an argument does not fit the package,
            the run failed (the error names the steps), or its results cannot be fetched.
    """
    spec = read_package(package)
    if not upload_only:
        check_arguments(spec, arguments or {})
    client = connect(host, token=token, namespace=namespace)
    if upload_only:
        name = pipeline_name or spec["pipelineInfo"]["name"]
        pipeline_id, version_id = upload(client, package, name=name, version=pipeline_version)
        url = f"{host_of(client)}/#/pipelines/details/{pipeline_id}/version/{version_id}"
        return Submission(url=url, pipeline_id=pipeline_id, version_id=version_id)
    run_id = start(client, package, arguments=arguments or {}, experiment=experiment, run_name=run_name)
    url = run_url(client, run_id)
    if not wait:
        return Submission(url=url, run_id=run_id, state="PENDING")
    results = finish(client, run_id, timeout=timeout, out=out)
    return Submission(url=url, run_id=run_id, state="SUCCEEDED", results=results)


def run_url(client: Client, run_id: str) -> str:
    """Return the page of the Kubeflow UI that shows a run."""
    return f"{host_of(client)}/#/runs/details/{run_id}"


def upload(client: Client, package: Path, *, name: str, version: str = "") -> tuple[str, str]:
    """Store a package as a version of a pipeline.

    Args:
        client: From `connect`.
        package: The compiled pipeline.
        name: The pipeline's name. The pipeline is created if there is none of that name.
        version: The version's name. If it is empty, the name is a hash of the package; if that version exists already,
            nothing is stored.

    Returns:
        The ids of the pipeline and of the version.

    Raises:
        CtbasisError: The server refuses, or the pipeline already has a version of the given name.
    """
    host = host_of(client)
    chosen = version or hashlib.sha256(package.read_bytes()).hexdigest()[:12]
    namespace = client.get_user_namespace() or None
    with server_errors(host, "to store the pipeline"):
        pipelines = client.list_pipelines(filter=_name_filter(name), namespace=namespace).pipelines or []
        if pipelines:
            pipeline_id = str(pipelines[0].pipeline_id)
        else:
            pipeline = kfp_server_api.V2beta1Pipeline(name=name, display_name=name, namespace=namespace)
            pipeline_id = str(client.pipelines.pipeline_service_create_pipeline(pipeline).pipeline_id)
        versions = client.list_pipeline_versions(pipeline_id, filter=_name_filter(chosen)).pipeline_versions or []
        if versions and version:
            raise CtbasisError(
                f"pipeline {name!r} already has a version {version!r}",
                expected="a new version name",
                remedy="choose another name for the version",
            )
        if versions:
            return pipeline_id, str(versions[0].pipeline_version_id)
        made = client.upload_pipeline_version(str(package), chosen, pipeline_id=pipeline_id)
    return pipeline_id, str(made.pipeline_version_id)


def _name_filter(name: str) -> str:
    """Return the API filter that selects objects by their display name."""
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "string_value": name}]})


def start(
    client: Client,
    package: Path = PACKAGE,
    *,
    arguments: Mapping[str, Any],
    experiment: str = "ctbasis",
    run_name: str = "",
) -> str:
    """Start a run of the compiled pipeline and return its id.

    Args:
        client: From `connect`.
        package: The compiled pipeline.
        arguments: Pipeline parameters by name. A parameter that is omitted has its default.
        experiment: The experiment that groups the runs. It is created if there is none of that name.
        run_name: The run's name in the UI. If it is empty, the name is made of the pipeline's name and the time.

    Raises:
        CtbasisError: The server refuses.
    """
    name = run_name or f"{package.stem} {datetime.now(tz=UTC):%Y-%m-%d %H:%M:%S}"
    with server_errors(host_of(client), "to run the package"):
        run = client.create_run_from_pipeline_package(
            str(package),
            arguments=dict(arguments),
            run_name=name,
            experiment_name=experiment,
            namespace=client.get_user_namespace() or None,
        )
    return str(run.run_id)


def finish(client: Client, run_id: str, *, timeout: float | None = None, out: Path | None = None) -> Results:
    """Wait until a run succeeds, and return its results.

    Args:
        client: From `connect`.
        run_id: The run's id.
        timeout: Longest wait in seconds. The run itself continues.
        out: A folder for metrics.json and figure1.png.

    Raises:
        CtbasisError: The run failed or did not succeed in time, or its results cannot be fetched.
        KeyboardInterrupt: The user pressed Ctrl-C. The message names the page of the run, which continues.
    """
    try:
        wait_for(client, run_id, timeout=timeout)
        results = fetch_results(client, run_id)
        if out is not None:
            results.save(out)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"run {run_id} continues on the server; see {run_url(client, run_id)}") from None
    return results


def wait_for(
    client: Client,
    run_id: str,
    *,
    timeout: float | None = None,
    report: Callable[[str], object] | None = None,
) -> Any:
    """Wait until a run succeeds, report each change of a step's state in a line, and return the run.

    The state is requested 2 s after a change, and then at growing intervals up to 30 s while nothing changes. The
    server may be unreachable for up to five minutes.

    Args:
        client: From `connect`.
        run_id: The run's id.
        timeout: Longest wait in seconds; None for no limit. The run itself continues.
        report: Called with each line; by default the lines go to standard error.

    Raises:
        CtbasisError: The run failed or was canceled (the error names the steps), the timeout has expired, or the
            server stays unreachable.
    """
    report = report or _print_to_stderr
    started = last_answer = time.monotonic()
    known: dict[str, str] = {}
    pause = FIRST_POLL_SECONDS
    while True:
        try:
            with server_errors(host_of(client), "to send the state of the run"):
                run = client.runs.run_service_get_run(run_id, _request_timeout=REQUEST_SECONDS)
            last_answer = time.monotonic()
            changed = {step: state for step, state in _states(run).items() if known.get(step) != state}
            for step, state in changed.items():
                report(f"{datetime.now().astimezone():%H:%M:%S} {step}: {state.lower()}")
            known |= changed
            pause = FIRST_POLL_SECONDS if changed else min(pause * 1.5, LONGEST_POLL_SECONDS)
            if run.state in FINAL_STATES:
                return _succeeded(run, run_url(client, run_id))
        except NoAnswerError:
            if time.monotonic() - last_answer > OUTAGE_SECONDS:
                raise
        remaining = float("inf") if timeout is None else timeout - (time.monotonic() - started)
        if remaining <= 0:
            raise CtbasisError(
                f"run {run_id} has not ended after {timeout:g} s; it continues on the server",
                expected="an end within the timeout",
                remedy=f"see {run_url(client, run_id)}, or wait longer",
            )
        time.sleep(min(pause, remaining))


def _print_to_stderr(line: str) -> None:
    say(line)


def _states(run: Any) -> dict[str, str]:
    """Return the states of the steps that have begun, by name, in the order of the server's list."""
    steps = _steps(run)
    states: dict[str, str] = {}
    for task in _details(run):
        name, state = task.display_name, task.state
        if (name in steps if steps else not _is_internal_node(name)) and state in STATE_ORDER:
            states[name] = min(states.get(name, state), state, key=STATE_ORDER.index)
    return states


def _details(run: Any) -> list[Any]:
    return list((run.run_details and run.run_details.task_details) or [])


def _steps(run: Any) -> set[str]:
    """Return the names of the tasks that run a container; empty if the server's answer does not contain the package."""
    spec = run.pipeline_spec or {}
    spec = spec.get("pipeline_spec", spec)
    components = spec.get("components", {})
    dags = [component.get("dag", {}) for component in [spec.get("root", {}), *components.values()]]
    return {
        name
        for dag in dags
        for name, task in dag.get("tasks", {}).items()
        if "executorLabel" in components.get(task.get("componentRef", {}).get("name"), {})
    }


def _is_internal_node(name: str) -> bool:
    """Return whether a node of the Argo workflow, which the server lists, is not a task of the pipeline."""
    return name in {"root", "executor"} or name.endswith("-driver") or name.startswith(("executor(", "iteration"))


def _succeeded(run: Any, url: str) -> Any:
    """Return a run that succeeded.

    Raises:
        CtbasisError: The run did not succeed; the error names the failed steps.
    """
    if run.state == "SUCCEEDED":
        return run
    failed = [step for step, state in _states(run).items() if state == "FAILED"]
    # If the inputs of a step cannot be resolved, the step does not start; its driver fails.
    drivers = {f"{step}-driver" for step in _steps(run)}
    failed += [task.display_name for task in _details(run) if task.state == "FAILED" and task.display_name in drivers]
    steps = f": {', '.join(failed)} failed" if failed else ""
    errors = [one.error.message for one in [*_details(run), run] if one.error and one.error.message]
    reason = f" ({' '.join(errors[0].split())[:300]})" if errors else ""
    raise CtbasisError(
        f"run {run.run_id} ended as {run.state}{steps}{reason}",
        expected="SUCCEEDED",
        remedy=f"read the step's log at {url}",
    )
