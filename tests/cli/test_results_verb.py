"""`ctbasis results` with a stand-in for a Kubeflow server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner, Result

from ctbasis.cli import main
from tests.kubeflow.kfp_stand_in import KfpStandIn, picture

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("alone")


def ctbasis(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def submitted(server: KfpStandIn, *, polls: int) -> str:
    """Submit a run without waiting, let it go on by itself, and return its id."""
    assert ctbasis("submit", "s3://clinic/series-7", "--host", server.url, "--no-wait").exit_code == 0
    run_id = list(server.runs)[-1]
    server.runs[run_id].polls = polls
    return run_id


@pytest.mark.parametrize("lists_artifacts", [False, True])
def test_the_results_of_a_run_that_nobody_waited_for_are_fetched(
    lists_artifacts: bool, server: KfpStandIn, tmp_path: Path
) -> None:
    server.lists_artifacts = lists_artifacts
    run_id = submitted(server, polls=100)
    for named in (run_id, f"{server.url}/#/runs/details/{run_id}"):
        result = ctbasis("results", named, "--host", server.url, "--out", tmp_path / "out")
        assert result.exit_code == 0, result.output
        assert result.stdout.splitlines()[:-1] == ["psnr_after: 38.5", "rank: 50", "rows: 262144"]
        assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == server.metrics
        assert (tmp_path / "out" / "figure1.png").read_bytes() == picture()
    assert server.refused == []


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("running", "is not over: it is RUNNING"),
        ("failed", "svd failed: OOMKilled (exit code 137)"),
        ("terminated", "was terminated at 20"),
    ],
)
def test_a_run_without_results_ends_with_exit_code_2_and_why(state: str, message: str, server: KfpStandIn) -> None:
    server.failing = "svd" if state == "failed" else ""
    server.messages = {"svd": "OOMKilled (exit code 137)"}
    run_id = submitted(server, polls=2 if state == "running" else 100)
    if state == "terminated":
        server.runs[run_id].terminated = "2026-11-30T08:00:00Z"
        ctbasis("results", run_id, "--host", server.url)  # The server records that the run is being terminated.
    result = ctbasis("results", run_id, "--host", server.url)
    assert result.exit_code == 2
    assert message in result.stderr
    assert f"#/runs/details/{run_id}" in result.stderr


@pytest.mark.parametrize(
    ("run", "message"), [("../x", "is not the id of a run"), ("0b1c-2d3e", "Run 0b1c-2d3e not found")]
)
def test_a_run_that_the_server_does_not_know_is_refused(run: str, message: str, server: KfpStandIn) -> None:
    result = ctbasis("results", run, "--host", server.url)
    assert result.exit_code == 2
    assert message in result.stderr
