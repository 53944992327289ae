"""What the stand-in for a Kubeflow server is told to be, and what it has been asked for."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from PIL import Image

if TYPE_CHECKING:
    from tests.kubeflow.kfp_workflow import PodTrouble

Logged = dict[str, float | int | str]

METRICS: Logged = {"psnr_after": 38.5, "rank": 50.0, "rows": 262144.0}
"""Metrics as the report step logs them: numbers, as floats."""


def picture() -> bytes:
    """Return a small PNG that stands for Figure 1."""
    content = io.BytesIO()
    Image.new("L", (16, 8), 128).save(content, "PNG")
    return content.getvalue()


@dataclass
class StandInRun:
    """A run: its package, its arguments, and how often its state was requested.

    Attributes:
        run_id: The id.
        name: The name in the UI.
        experiment_id: The experiment.
        package: The compiled package.
        arguments: The arguments.
        version: The pipeline and version that the run refers to, in place of carrying the package; None for none.
        polls: How often the state was requested, in steps of the run.
        terminated: The time at which the run was terminated; empty if it was not.
        history: The recorded states.
        created: When the run was created.
    """

    run_id: str
    name: str
    experiment_id: str
    package: dict[str, Any]
    arguments: dict[str, Any]
    version: tuple[str, str] | None = None
    polls: int = 0
    terminated: str = ""
    history: list[dict[str, str]] = field(default_factory=list)
    created: datetime = field(default_factory=lambda: datetime.now(tz=UTC))


@dataclass
class ServerState:
    """The settings of a server, and its state.

    Attributes:
        token: The bearer token that requests must carry; empty for none.
        multi_user: Require a namespace, as an installation with profiles does.
        lists_artifacts: Be the server that follows 2.17: it lists tasks with their artifacts and has no ML Metadata.
        has_ui: Serve ML Metadata, artifacts and pods, as the address of the UI does and the bare API server does not.
        serves_artifacts: Send the bytes of artifacts, for which the UI needs the keys of the object store.
        failing: The task that fails.
        stuck: Runs never end.
        waiting: Tasks whose pod does not start, and why; `root-driver` is the first pod of a run.
        messages: What Argo says about the pod of a failed task.
        logs: The logs of tasks.
        publishes_logs: Store the logs as artifacts, as a stock installation does (`--publish_logs`).
        keeps_pods: Send the logs of pods, which Kubernetes keeps for a while.
        note: What the exit handler has noted about the failure; None if it has noted nothing.
        stride: The number of steps by which a request for a run advances it.
        metrics: The metrics that the run logs on its Metrics artifact.
        figure: The bytes of Figure 1.
        figure_uri: The URI of Figure 1; if it is empty, a URI below the root of the run.
        page: The bytes of the report.
        outages: The number of following requests for a run that get the 503 of a gateway.
        drops: The number of following requests for a run whose connection is closed without an answer.
        refused: The messages of the refused requests.
        runs: The runs, by id.
        experiments: The experiments, by id.
        pipelines: The pipelines, by id, with their versions.
        authorizations: The authorization header of each request.
        requests: The method and path of each request.
    """

    token: str = ""
    multi_user: bool = False
    lists_artifacts: bool = False
    has_ui: bool = True
    serves_artifacts: bool = True
    failing: str = ""
    stuck: bool = False
    waiting: dict[str, PodTrouble] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    publishes_logs: bool = True
    keeps_pods: bool = True
    note: Logged | None = None
    stride: int = 1
    metrics: Logged = field(default_factory=lambda: dict(METRICS))
    figure: bytes = field(default_factory=picture)
    figure_uri: str = ""
    page: bytes = b"<!doctype html><title>report</title>"
    outages: int = 0
    drops: int = 0
    refused: list[str] = field(default_factory=list)
    runs: dict[str, StandInRun] = field(default_factory=dict)
    experiments: dict[str, dict[str, Any]] = field(default_factory=dict)
    pipelines: dict[str, dict[str, Any]] = field(default_factory=dict)
    authorizations: list[str | None] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
