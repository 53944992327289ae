"""How the svd step ends when it is told to stop. The API server is a stand-in."""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctbasis.jobs.placement import Placement
from ctbasis.jobs.pod import POD_NAME
from ctbasis.parameters import SvdPlan
from ctbasis.spark.launch import application_name
from ctbasis.steps.notes import EXIT_HANDLER, Note, State, step_of_run
from ctbasis.steps.svd import run_step
from tests.jobs.api_server_stand_in import APPLICATIONS, PODS, ApiServerStandIn
from tests.jobs.conftest import server
from tests.svd.conftest import write_matrix

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["server"]

RUN = "run-1"
NAME = application_name(RUN)


@pytest.mark.parametrize("retried", [False, True], ids=["first-try", "retried-run"])
@pytest.mark.parametrize("drained", [False, True], ids=["terminated", "drained"])
def test_a_signal_leaves_the_application_to_the_next_try_or_ends_it_with_the_run(
    server: ApiServerStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drained: bool, retried: bool
) -> None:
    """No exit handler follows in a retried run, and Argo may omit it in a terminated one: the step needs none."""
    monkeypatch.setenv(POD_NAME, "step")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setattr("ctbasis.jobs.api_server.ApiServer.connect", server.api_server)
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": RUN, "uid": "5"}
    pod = {"metadata": {"name": "step", "ownerReferences": [owner]}}
    server.put(PODS, pod)
    if retried:
        Note(EXIT_HANDLER, state=State.SUCCEEDED).write(tmp_path)
    write_matrix(f"{tmp_path}/matrix.zarr", np.ones((40, 3), dtype=np.int16))

    def terminate() -> None:
        server.until(lambda: NAME in server.names(APPLICATIONS))
        server.state(NAME, "RUNNING")
        server.until_watched(PODS)
        if drained:
            server.put(PODS, {"metadata": {**pod["metadata"], "deletionTimestamp": "2026-01-01T00:00:30Z"}})
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    with pytest.raises(SystemExit) as stopped, step_of_run("svd", str(tmp_path)):
        run_step(
            f"{tmp_path}/matrix.zarr",
            SvdPlan.of(rank="2", ranks="2", engine="mahout"),
            tmp_path / "basis",
            workspace=str(tmp_path),
            store="",
            run=RUN,
            placement=Placement(),
        )
    assert stopped.value.code == 128 + signal.SIGTERM
    assert server.names(APPLICATIONS) == ([NAME] if drained else [])
    note = Note.read(tmp_path, "svd")
    assert note is not None
    assert note.state is State.STOPPED
