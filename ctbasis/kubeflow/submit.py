"""Send the compiled package to a Kubeflow Pipelines server of 2.17, wait for its run, and bring its results home.

Runs, pipelines, versions and experiments are in the server's API, through `kfp.Client`. Results need the UI besides
(see `artifacts`), so `host` is best the address that a browser opens.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import kfp_server_api

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.artifacts import fetch_results
from ctbasis.kubeflow.package import PACKAGE, check_arguments, read_package
from ctbasis.kubeflow.server import REQUEST_SECONDS, NoAnswerError, connect, explained, host_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from kfp.client import Client

    from ctbasis.kubeflow.artifacts import Results

FINAL_STATES = {"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED"}
FIRST_POLL_SECONDS = 2.0
LONGEST_POLL_SECONDS = 30.0
PATIENCE_SECONDS = 300.0

# What a step's name goes by in several turns of a loop: the first of these that any turn is in.
STATE_ORDER = ("FAILED", "CANCELED", "CANCELING", "RUNNING", "PAUSED", "PENDING", "SUCCEEDED", "SKIPPED")


@dataclass(frozen=True)
class Submission:
    """What became of a submission.

    Attributes:
        url: Where the Kubeflow UI shows the run, or the pipeline that was only uploaded.
        run_id: The run, empty where nothing was run.
        state: Its last known state, such as SUCCEEDED; empty where nothing was run.
        pipeline_id: The pipeline that was uploaded, empty where none was.
        version_id: Its version, likewise.
        results: Of a run that was waited for.
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
    """Run `package` on the server at `host`, or only upload it.

    Args:
        host: The server's address, best that of its UI (see above), such as http://localhost:8080 or
            https://kubeflow.example.org/pipeline.
        arguments: Pipeline parameters by name; what is left out has its default.
        package: The compiled pipeline.
        experiment: The experiment that groups the runs; made where there is none of that name.
        run_name: What the UI calls the run; the pipeline's name and the time where it is empty.
        token: A bearer token; the variable CTBASIS_KFP_TOKEN where it is empty. Never shown.
        namespace: The Kubernetes namespace, on servers that have many users.
        upload_only: Store the package as a pipeline, or as a new version of it, and run nothing.
        pipeline_name: The name under which it is stored; the package's own where it is empty.
        pipeline_version: The name of the version; made of the package's bytes where it is empty, so that the same
            package twice is one version.
        wait: Stay until the run ends, show its progress, and fetch its results.
        timeout: Seconds to wait at most; the run itself goes on.
        out: A folder for metrics.json and figure1.png.

    Raises:
        CtbasisError: The host is unreachable or refuses, the package is at fault, an argument is not the package's,
            the run failed (the error names the steps), or its results cannot be had.
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
    """Return where the Kubeflow UI shows a run."""
    return f"{host_of(client)}/#/runs/details/{run_id}"


def upload(client: Client, package: Path, *, name: str, version: str = "") -> tuple[str, str]:
    """Store a package as a version of the pipeline `name`, which is made where there is none.

    Returns:
        The ids of the pipeline and of the version.

    Raises:
        CtbasisError: The server refuses, or has another package under this version's name.
    """
    host = host_of(client)
    chosen = version or hashlib.sha256(package.read_bytes()).hexdigest()[:12]
    namespace = client.get_user_namespace() or None
    with explained(host, "to store the pipeline"):
        found = client.list_pipelines(filter=_named(name), namespace=namespace).pipelines or []
        if found:
            pipeline_id = str(found[0].pipeline_id)
        else:
            pipeline = kfp_server_api.V2beta1Pipeline(name=name, display_name=name, namespace=namespace)
            pipeline_id = str(client.pipelines.pipeline_service_create_pipeline(pipeline).pipeline_id)
        versions = client.list_pipeline_versions(pipeline_id, filter=_named(chosen)).pipeline_versions or []
        if versions and version:
            raise CtbasisError(f"pipeline {name!r} already has a version {version!r}", remedy="choose another name")
        if versions:
            return pipeline_id, str(versions[0].pipeline_version_id)
        made = client.upload_pipeline_version(str(package), chosen, pipeline_id=pipeline_id)
    return pipeline_id, str(made.pipeline_version_id)


def _named(name: str) -> str:
    return json.dumps({"predicates": [{"operation": "EQUALS", "key": "display_name", "string_value": name}]})


def start(
    client: Client,
    package: Path = PACKAGE,
    *,
    arguments: Mapping[str, Any],
    experiment: str = "ctbasis",
    run_name: str = "",
) -> str:
    """Start a run of `package` and return its id.

    Raises:
        CtbasisError: The server refuses.
    """
    name = run_name or f"{package.stem} {datetime.now(tz=UTC):%Y-%m-%d %H:%M:%S}"
    with explained(host_of(client), "to run the package"):
        run = client.create_run_from_pipeline_package(
            str(package),
            arguments=dict(arguments),
            run_name=name,
            experiment_name=experiment,
            namespace=client.get_user_namespace() or None,
        )
    return str(run.run_id)


def finish(client: Client, run_id: str, *, timeout: float | None = None, out: Path | None = None) -> Results:
    """Wait for a run that was started, and return its results.

    Args:
        client: From `connect`.
        run_id: The run.
        timeout: Seconds to wait at most; the run itself goes on.
        out: A folder for metrics.json and figure1.png.

    Raises:
        CtbasisError: The run did not succeed in time, or its results cannot be had.
        KeyboardInterrupt: From the keyboard; it says where the run, which goes on, can be looked at.
    """
    try:
        wait_for(client, run_id, timeout=timeout)
        results = fetch_results(client, run_id)
        if out is not None:
            results.save(out)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"run {run_id} goes on at the server, look at {run_url(client, run_id)}") from None
    return results


def wait_for(
    client: Client,
    run_id: str,
    *,
    timeout: float | None = None,
    say: Callable[[str], object] | None = None,
) -> Any:
    """Wait until a run succeeded and return it; one line on standard error for each change of a step's state.

    The server is asked 2 s after a change and, while nothing changes, ever less often, at least every 30 s. It may be
    out of reach for five minutes.

    Args:
        client: From `connect`.
        run_id: The run.
        timeout: Seconds to wait at most; None for as long as it takes. The run goes on.
        say: Takes the lines in place of standard error.

    Raises:
        CtbasisError: The run failed or was canceled (names the steps), time is up, or the server stays out of reach.
    """
    say = say or _say
    started = heard = time.monotonic()
    known: dict[str, str] = {}
    pause = FIRST_POLL_SECONDS
    while True:
        try:
            with explained(host_of(client), "to tell how the run is"):
                run = client.runs.run_service_get_run(run_id, _request_timeout=REQUEST_SECONDS)
            heard = time.monotonic()
            changed = {step: state for step, state in _states(run).items() if known.get(step) != state}
            for step, state in changed.items():
                say(f"{datetime.now().astimezone():%H:%M:%S} {step}: {state.lower()}")
            known |= changed
            pause = FIRST_POLL_SECONDS if changed else min(pause * 1.5, LONGEST_POLL_SECONDS)
            if run.state in FINAL_STATES:
                return _succeeded(run, run_url(client, run_id))
        except NoAnswerError:
            if time.monotonic() - heard > PATIENCE_SECONDS:
                raise
        left = float("inf") if timeout is None else timeout - (time.monotonic() - started)
        if left <= 0:
            raise CtbasisError(
                f"run {run_id} has not ended after {timeout:g} s; it goes on",
                remedy=f"look at {run_url(client, run_id)}, or wait longer",
            )
        time.sleep(min(pause, left))


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _states(run: Any) -> dict[str, str]:
    """Return the state of every step that has begun, by name, in the order of the server's list."""
    steps = _steps(run)
    told: dict[str, str] = {}
    for task in _details(run):
        name, state = task.display_name, task.state
        if (name in steps if steps else not _is_plumbing(name)) and state in STATE_ORDER:
            told[name] = min(told.get(name, state), state, key=STATE_ORDER.index)
    return told


def _details(run: Any) -> list[Any]:
    return list((run.run_details and run.run_details.task_details) or [])


def _steps(run: Any) -> set[str]:
    """Return the names of the tasks that run a container; empty where the server does not repeat the package."""
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


def _is_plumbing(name: str) -> bool:
    """Tell whether a node of the Argo workflow, which is what the server lists, is no task of the pipeline."""
    return name in {"root", "executor"} or name.endswith("-driver") or name.startswith(("executor(", "iteration"))


def _succeeded(run: Any, url: str) -> Any:
    if run.state == "SUCCEEDED":
        return run
    failed = [step for step, state in _states(run).items() if state == "FAILED"]
    # A step whose inputs cannot be resolved fails before it starts, as its driver.
    drivers = {f"{step}-driver" for step in _steps(run)}
    failed += [task.display_name for task in _details(run) if task.state == "FAILED" and task.display_name in drivers]
    whose = f": {', '.join(failed)} failed" if failed else ""
    errors = [one.error.message for one in [*_details(run), run] if one.error and one.error.message]
    why = f" ({' '.join(errors[0].split())[:300]})" if errors else ""
    raise CtbasisError(f"run {run.run_id} ended as {run.state}{whose}{why}", remedy=f"read the step's log at {url}")
