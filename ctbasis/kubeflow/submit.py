"""Submits the compiled pipeline to a Kubeflow Pipelines server, as a run or as a stored pipeline.

Runs, pipelines, versions and experiments are in the server's API, which `kfp.Client` calls. Results also need the UI
(see `artifacts`), so `host` should be the address that a browser opens.
"""

from __future__ import annotations

import hashlib
import io
import json
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import kfp_server_api
import yaml

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.arrivals import NEWER_THAN, arrivals
from ctbasis.kubeflow.artifacts import require_results
from ctbasis.kubeflow.follow import finish, run_url
from ctbasis.kubeflow.package import PACKAGE, check_arguments, read_package
from ctbasis.kubeflow.server import connect, host_of, server_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import timedelta
    from pathlib import Path

    from kfp.client import Client

    from ctbasis.kubeflow.arrivals import Arrival
    from ctbasis.kubeflow.artifacts import Results


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
        namespace: The user's profile. A multi-user server requires one, a single-user server has none.
        upload_only: Store the package as a pipeline, or as a new version of a pipeline, and start no run.
        pipeline_name: The name of the stored pipeline. If it is empty, the name in the package is used.
        pipeline_version: The name of the version. If it is empty, the name is a hash of the package, so that the same
            package is stored once only.
        wait: Wait until the run ends, show its progress, and fetch its results.
        timeout: Longest wait in seconds. The run itself continues.
        out: A folder for metrics.json and figure1.png.

    Raises:
        CtbasisError: The host is unreachable or refuses, the package has faults, an argument does not fit the package,
            the results of a run could not be fetched from the host, or the run failed (the error says why).
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
    if wait:
        require_results(client)
    run_id = start(client, package, arguments=arguments or {}, experiment=experiment, run_name=run_name)
    url = run_url(client, run_id)
    if not wait:
        return Submission(url=url, run_id=run_id, state="PENDING")
    results = finish(client, run_id, timeout=timeout, out=out)
    return Submission(url=url, run_id=run_id, state="SUCCEEDED", results=results)


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
    with server_errors(host, "to store the pipeline"), _quiet():
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


def _quiet() -> redirect_stdout[io.StringIO]:
    """Return a context in which kfp cannot print addresses to a terminal."""
    return redirect_stdout(io.StringIO())


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
    name = run_name or default_run_name(package)
    with server_errors(host_of(client), "to run the package"), _quiet():
        run = client.create_run_from_pipeline_package(
            str(package),
            arguments=dict(arguments),
            run_name=name,
            experiment_name=experiment,
            namespace=client.get_user_namespace() or None,
        )
    return str(run.run_id)


def start_new(
    client: Client,
    prefix: str,
    package: Path = PACKAGE,
    *,
    arguments: Mapping[str, Any],
    experiment: str = "ctbasis",
    newer_than: timedelta = NEWER_THAN,
) -> Iterator[tuple[Arrival, str]]:
    """Start a run of each new folder directly below a prefix, and yield every folder with the id of its run.

    Args:
        client: From `connect`.
        prefix: `s3://bucket/prefix`, which this machine and the pods of the server can read.
        package: The compiled pipeline.
        arguments: Pipeline parameters by name, except `source`.
        experiment: The experiment that groups the runs, and whose runs tell which folders are not new.
        newer_than: See `arrivals.arrivals`.

    Yields:
        The folder and the id of its run; an empty id if the folder is not new.

    Raises:
        CtbasisError: The prefix cannot be listed, or the server refuses.
    """
    for arrival in arrivals(client, prefix, experiment=experiment, newer_than=newer_than):
        chosen = {**arguments, "source": arrival.source}
        is_new = arrival.state == "new"
        yield arrival, start(client, package, arguments=chosen, experiment=experiment) if is_new else ""


def default_run_name(package: Path) -> str:
    """Return the name of the pipeline in a package, and the time (UTC)."""
    spec = next(yaml.safe_load_all(package.read_text(encoding="utf-8")))
    return f"{spec['pipelineInfo']['name']} {datetime.now(tz=UTC):%Y-%m-%d %H:%M:%S}"
