"""The notebook, executed cell by cell with a stand-in for a Kubeflow server."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.kubeflow.kfp_stand_in import KfpStandIn, picture

NOTEBOOK = Path(__file__).parents[2] / "pipeline" / "trigger.ipynb"


def execute(stand_in: KfpStandIn, home: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Execute the notebook in a new kernel with the home folder `home`, and return it with its outputs."""
    environment = {
        "CTBASIS_KFP_HOST": stand_in.url,
        "CTBASIS_KFP_TOKEN": stand_in.token,
        "CTBASIS_SOURCE": "s3://clinic/series-7",
        "HOME": str(home),
        "IPYTHONDIR": str(home / "ipython"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(home)}}).execute()
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


def test_the_notebook_submits_waits_and_shows_metrics_and_figure_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with KfpStandIn(token="a-secret-token", stride=3) as stand_in:  # noqa: S106 - token of the stand-in
        notebook = execute(stand_in, tmp_path, monkeypatch)
    assert stand_in.refused == []
    (run,) = stand_in.runs.values()
    assert run.arguments == {
        "source": "s3://clinic/series-7",
        "rank": "50",
        "ranks": "50,244,300",
        "oversample": 15,
        "power_iters": 2,
    }
    assert [base64.b64decode(image) for image in outputs(notebook, "image/png")] == [picture()]
    (table,) = outputs(notebook, "text/markdown")
    assert table.splitlines()[2:] == ["| engine | mahout |", "| psnr_after | 38.5 |", "| rank | 50 |"]
    assert "svd: succeeded" in nbformat.writes(notebook)
    assert "a-secret-token" not in nbformat.writes(notebook)


def test_the_notebook_stops_at_a_failed_run_and_names_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with KfpStandIn(failing="matrix", stride=3) as stand_in, pytest.raises(CellExecutionError, match="matrix failed"):
        execute(stand_in, tmp_path, monkeypatch)
    assert stand_in.refused == []
