"""`ctbasis view` of a running node: its jobs, and the series of one, fetched over HTTP."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import numpy as np
import pytest
import requests
from click.testing import CliRunner

import ctbasis
from ctbasis.cli import main
from ctbasis.demo.ports import free_ports
from ctbasis.errors import CtbasisError
from ctbasis.node.listening import HttpListening
from ctbasis.node.queue import JobState
from ctbasis.node.viewing import RunningNode
from ctbasis.sources.dicomweb_server import TOKEN as CLIENT_TOKEN
from ctbasis.viewer.images import Images
from ctbasis.web.token import TOKEN as PAGE_TOKEN
from tests.loopback import Served
from tests.node.nodes import ended
from tests.scans import EDGE, SLICES

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.node.service import Node
    from tests.node.nodes import StartNode

SECRET = "a-token-of-the-node-0123456789"  # noqa: S105 - an invented token


@pytest.fixture
def node(start_node: StartNode, scan: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Node:
    """Return a node that has denoised a series, and that the client has the token of."""
    monkeypatch.setenv(CLIENT_TOKEN, SECRET)
    started = start_node(bases=(str(scan[1]),), http=HttpListening(host="127.0.0.1", port=0, token=SECRET))
    result = CliRunner().invoke(main, ["push", str(scan[0]), "--to", f"dicomweb+{address(started)}/dicom-web"])
    assert result.exit_code == 0, result.output
    (job,) = ended(started)
    assert job.state is JobState.DONE, job.record
    return started


def address(node: Node) -> str:
    assert node.web is not None
    return f"http://127.0.0.1:{node.web.port}"


def test_a_job_of_a_node_is_shown_with_the_noise_that_was_estimated_and_what_it_does_not_have_is_refused(
    node: Node, scan: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    listed = CliRunner().invoke(main, ["view", address(node)])
    assert listed.exit_code == 0, listed.output
    assert listed.output.splitlines()[1].split()[3:5] == ["done", "-"]
    series = ctbasis.read(scan[0])
    with RunningNode(address(node)).fetched(1) as result:
        images = Images(result)
        shown = [images.images("axial", at) for at in range(SLICES)]
        before, after, sigma = (np.array(pane) for pane in zip(*shown, strict=True))
        fetched = result.panes[0].folder
    assert not fetched.exists()
    assert images.shape == (SLICES, EDGE, EDGE)
    assert result.spacing == pytest.approx(series.spacing)
    assert (before == np.round(series.hu)).all()
    (sent,) = (node.settings.state / "results").glob("*/volume-1")
    assert (after == np.round(ctbasis.read(sent).hu)).all()
    assert (after != before).any()
    estimated = ctbasis.estimate_noise(series).sigma
    assert np.abs(sigma * images.steps["sigma"] - estimated).max() <= images.steps["sigma"]
    # The command itself, as a process.
    command = [sys.executable, "-m", "ctbasis.cli", "view", address(node), "--job", "1"]
    monkeypatch.setenv(PAGE_TOKEN, "0123456789abcdef")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        found = re.match(r"open (http://127\.0\.0\.1:[0-9]+/)#token=", server.stdout.readline())
        assert found is not None
        page = requests.get(f"{found[1]}series", headers={"Authorization": "Bearer 0123456789abcdef"}, timeout=20)
        assert [pane["name"] for pane in page.json()["panes"]] == ["before", "after", "sigma"]
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate(timeout=20)
    assert server.returncode == 0
    assert SECRET not in errors
    assert not list((tmp_path / "temporary").iterdir())
    _check_refusals(node, monkeypatch)


def _check_refusals(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check what is said of files that the node does not have; its start takes too long for a test of their own."""
    view = RunningNode(address(node))

    def refused(job: int = 1, volume: int = 1) -> str:
        with pytest.raises(CtbasisError) as caught, view.fetched(job, volume):
            pass
        assert caught.value.expected
        assert caught.value.cause
        assert caught.value.remedy
        return caught.value.found

    assert refused(job=404).endswith("there is no such job, or no longer")
    assert refused(volume=2).endswith("the job has 1 volumes")
    asked = (("before", SLICES, 200), ("after", 0, 400), ("sigma", SLICES + 1, 404), ("other", 1, 400))
    for kind, index, status in asked:
        answer = requests.get(
            f"{address(node)}/jobs/1/files/{kind}/{index}", headers={"Authorization": f"Bearer {SECRET}"}, timeout=20
        )
        assert answer.status_code == status, answer.text
    for state in ("running", "failed", "done"):
        # No job stays in the first two by itself.
        with node.queue._database.transaction() as connection:
            connection.execute("UPDATE jobs SET state = ?", (state,))
        assert state == "done" or refused().endswith(f"the job is {state}")
    shutil.rmtree(node.settings.state / "results")
    assert refused().endswith("the files of the job were removed")
    monkeypatch.setenv(CLIENT_TOKEN, "that-of-another-server")
    with pytest.raises(CtbasisError, match=r"refuses the token \(401\)") as denied:
        RunningNode(address(node)).job_lines()
    assert SECRET not in str(denied.value)
    answer = requests.get(f"{address(node)}/jobs/1/files", timeout=20)
    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b"{}"),
        (404, b'{"error": "no such page"}'),
        (200, b"<html>"),
        (200, b'{"jobs": [{"id": "x"}]}'),
        (302, b""),
    ],
)
def test_a_server_that_is_no_node_is_refused(status: int, body: bytes) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - of the base class
            pass

    with Served(Other) as server, pytest.raises(CtbasisError) as caught:
        RunningNode(server.url).job_lines()
    assert "a node" in caught.value.expected
    assert caught.value.remedy
    assert "no such page" not in str(caught.value)


def test_a_node_that_does_not_run_and_options_of_a_folder_are_refused(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    with pytest.raises(CtbasisError, match="does not answer"):
        RunningNode(f"http://127.0.0.1:{port}").job_lines()
    for arguments, found in (
        (["http://127.0.0.1:1", "--source", str(tmp_path)], "--source is given for a node"),
        (["http://user:secret@127.0.0.1:1"], "user"),
        ([str(tmp_path)], "--source is missing"),
        ([str(tmp_path), "--source", str(tmp_path), "--job", "1"], "--job is given for the folder"),
    ):
        result = CliRunner().invoke(main, ["view", *arguments])
        assert result.exit_code != 0
        assert found in result.output
        assert "secret" not in result.output
