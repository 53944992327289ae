"""The output of kfp.local becomes a readable log, and a run writes either all of its outputs or none."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.local import OUTPUTS, StepLog, run

if TYPE_CHECKING:
    from pathlib import Path

PRINTED = """\
21:52:36.853 - INFO - Running pipeline: \x1b[95m'ctbasis-denoise'\x1b[0m
--------------------------------------------------------------------------------
21:52:36.865 - INFO - Executing task \x1b[96m'fetch'\x1b[0m
21:52:36.865 - INFO - Streamed logs:

    [KFP Executor 2026-11-23 21:52:36,924 INFO]: Looking for component `fetch`
    [KFP Executor 2026-11-23 21:52:36,925 INFO]: Got executor_input:
    {
        "inputs": {
            "parameterValues": {"source": "s3://bucket/prefix"}
        }
    }
    fetch: 3/3 files, 0.1 s
21:52:37.002 - INFO - Task \x1b[96m'fetch'\x1b[0m finished with status \x1b[92mSUCCESS\x1b[0m
21:52:37.003 - INFO - Task \x1b[96m'fetch'\x1b[0m outputs:
    folder: '/somewhere/workspace/source'
--------------------------------------------------------------------------------
21:52:37.010 - INFO - Executing task \x1b[96m'matrix'\x1b[0m
    ctbasis: no CT image among 3 files
    ctbasis:   expected: a CT series
21:52:38.002 - INFO - Task \x1b[96m'matrix'\x1b[0m finished with status \x1b[91mFAILURE\x1b[0m
"""


@pytest.fixture
def log_and_text() -> tuple[StepLog, str]:
    terminal = io.StringIO()
    log = StepLog(terminal)
    for start in range(0, len(PRINTED), 7):  # kfp writes parts of lines
        log.write(PRINTED[start : start + 7])
    return log, terminal.getvalue()


def test_the_log_shows_the_lines_of_a_step_and_not_those_of_kfp(log_and_text: tuple[StepLog, str]) -> None:
    _, text = log_and_text
    assert "  fetch: 3/3 files, 0.1 s\n" in text
    assert "executor_input" not in text
    assert "parameterValues" not in text
    assert "/somewhere" not in text
    assert "\x1b" not in text


def test_every_step_is_timed(log_and_text: tuple[StepLog, str]) -> None:
    log, text = log_and_text
    assert list(log.steps) == ["fetch", "matrix"]
    assert "fetch success, " in text


def test_the_error_message_names_the_step_that_refused_its_input(log_and_text: tuple[StepLog, str]) -> None:
    log, _ = log_and_text
    assert log.error_message == "matrix: no CT image among 3 files\n  expected: a CT series"


def test_a_folder_with_other_files_is_not_changed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(CtbasisError, match=r"holds thesis\.tex, which ctbasis did not write"):
        run({"source": str(tmp_path / "ct")}, out=tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "thesis.tex"]


def test_the_outputs_of_a_run_have_fixed_names() -> None:
    assert list(OUTPUTS) == [
        "denoised",
        "basis-images",
        "noise",
        "basis",
        "figure1.png",
        "report.html",
        "metrics.json",
        "qc.json",
    ]
