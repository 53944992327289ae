"""The notebook, executed cell by cell with a stand-in for a Kubeflow server."""

from __future__ import annotations

import base64
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from ctbasis.demo.s3server import S3Server
from ctbasis.kubeflow.package import PACKAGE
from tests.kubeflow.kfp_stand_in import KfpStandIn, picture

NOTEBOOK = Path(__file__).parents[2] / "pipeline" / "trigger.ipynb"


def execute(stand_in: KfpStandIn, home: Path, monkeypatch: pytest.MonkeyPatch, **settings: str) -> Any:
    """Execute the notebook in a new kernel with the home folder `home`, and return it with its outputs.

    Args:
        stand_in: The server.
        home: The home folder.
        monkeypatch: Sets the variables of the kernel.
        **settings: Further variables.
    """
    environment = {
        "CTBASIS_KFP_HOST": stand_in.url,
        "CTBASIS_KFP_TOKEN": stand_in.token,
        "CTBASIS_SOURCE": "s3://clinic/series-7",
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        **settings,
    }
    for name in ("CTBASIS_KFP_NAMESPACE", "CTBASIS_PACKAGE", "CTBASIS_OTHER_RUN", "CTBASIS_INCOMING"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # The kernel may send one line in several pieces.
    resources = {"metadata": {"path": str(home)}}
    NotebookClient(notebook, timeout=60, coalesce_streams=True, resources=resources).execute()
    return notebook


def outputs(notebook: Any, kind: str) -> list[str]:
    return [
        output["data"][kind]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if kind in output.get("data", {})
    ]


def test_the_committed_notebook_has_no_outputs_and_no_token() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert "CTBASIS_KFP_TOKEN" not in "".join(cell.source for cell in code)


@pytest.mark.parametrize(("with_sdk", "lists_artifacts"), [(True, True), (False, False)])
def test_the_notebook_submits_waits_and_shows_metrics_figure_1_and_the_report(
    with_sdk: bool, lists_artifacts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {}
    if not with_sdk:  # A module of this name that cannot be imported stands for a Kubeflow SDK that is not installed.
        (tmp_path / "path").mkdir()
        (tmp_path / "path" / "kubeflow.py").write_text("raise ImportError")
        settings["PYTHONPATH"] = f"{tmp_path / 'path'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    token = "a-secret-token"  # noqa: S105 - token of the stand-in
    with KfpStandIn(token=token, stride=3, lists_artifacts=lists_artifacts) as stand_in:
        notebook = execute(stand_in, tmp_path, monkeypatch, **settings)
    assert stand_in.refused == []
    (run,) = stand_in.runs.values()
    assert run.arguments == {
        "source": "s3://clinic/series-7",
        "rank": "50",
        "ranks": "50,244,300",
        "oversample": 15,
        "power_iters": 2,
    }
    assert run.name.startswith("ctbasis-denoise 20")
    assert [one["display_name"] for one in stand_in.experiments.values()] == ["ctbasis"]
    assert [base64.b64decode(image) for image in outputs(notebook, "image/png")] == [picture()]
    table, comparison = outputs(notebook, "text/markdown")
    assert table.splitlines()[2:] == ["| psnr_after | 38.5 |", "| rank | 50 |", "| rows | 262144 |"]
    assert comparison.splitlines()[0] == f"| metric | {run.run_id[:8]} |"
    (frame,) = [one for one in outputs(notebook, "text/html") if "<iframe" in one]
    assert 'sandbox="allow-scripts" srcdoc="&lt;!doctype html&gt;&lt;title&gt;report' in frame
    text = nbformat.writes(notebook)
    assert ("runs are started by the Kubeflow SDK" if with_sdk else "runs are started by kfp") in text
    assert "svd: succeeded" in text
    assert token not in text


def test_the_notebook_submits_another_package_and_compares_with_an_earlier_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(PACKAGE.read_text().replace("name: ctbasis-denoise", "name: of-the-clinic"))
    with KfpStandIn(stride=3) as stand_in:
        execute(stand_in, tmp_path, monkeypatch)
        (earlier,) = stand_in.runs
        stand_in.runs[earlier].created -= timedelta(hours=1)
        notebook = execute(stand_in, tmp_path, monkeypatch, CTBASIS_PACKAGE=str(mine))
    assert stand_in.refused == []
    _, run = stand_in.runs.values()
    assert run.name.startswith("of-the-clinic 20")
    _, comparison = outputs(notebook, "text/markdown")
    header, _, *rows = comparison.splitlines()
    assert header == f"| metric | {earlier[:8]} | {run.run_id[:8]} | difference |"
    assert "| psnr_after | 38.5 | 38.5 | 0 |" in rows


def test_the_notebook_starts_a_run_of_each_new_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "1.dcm").write_bytes(b"x")
    with S3Server() as store, KfpStandIn(stride=3) as stand_in:
        store.put_folder(tmp_path / "in", "s3://clinic/incoming")
        notebook = execute(
            stand_in, tmp_path, monkeypatch, CTBASIS_INCOMING="s3://clinic/incoming", **store.environment()
        )
    assert "arriving s3://clinic/incoming/a" in nbformat.writes(notebook)
    assert stand_in.refused == []


def test_the_notebook_stops_at_a_failed_run_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = "matrix: 133 files\nctbasis: slice 7 has no PixelData\n"
    with (
        KfpStandIn(failing="matrix", stride=3, logs={"matrix": log}) as stand_in,
        pytest.raises(CellExecutionError, match="matrix failed: slice 7 has no PixelData"),
    ):
        execute(stand_in, tmp_path, monkeypatch)
    assert stand_in.refused == []
