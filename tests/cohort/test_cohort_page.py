"""The commands of docs/how-to/cohort.md run in the page's order, and the page names every option and exit code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from ctbasis.cli.cohort import PARTLY
from ctbasis.cohort.template import BY_PATIENT, FIELDS, KEEP_TREE
from ctbasis.kubeflow.images import COHORT_PIPELINE
from tests.cohort.sources import write_small
from tests.kubeflow.kfp_stand_in import KfpStandIn

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "cohort.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(.*?)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_commands_of_the_page_run_and_the_second_run_denoises_nothing(tmp_path: Path) -> None:
    blocks = BLOCK.findall(TEXT)
    assert {kind for kind, _ in blocks} == {"sh here", "sh kubeflow"}
    for number in range(2):
        write_small(tmp_path / "ct" / f"{number}", number)
    environment = {
        **os.environ,
        "SOURCE": str(tmp_path / "ct"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(text for kind, text in blocks if kind == "sh here")],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    counts = re.findall(r"^\S+/here/(\w+): (\d+ [a-z ]+), in", done.stdout, re.MULTILINE)
    assert counts == [("cohort", "2 done"), ("cohort", "2 unchanged"), ("pseudonyms", "2 done"), ("shared", "2 done")]
    listed = set(re.findall(r"^\| `([\w.]+)`[,`\w. ]* \|", TEXT, re.MULTILINE)) & {"summary.html", "cohort.json"}
    assert all((tmp_path / "here" / "cohort" / name).is_file() for name in listed)
    assert (tmp_path / "here" / "shared" / "_cohort" / "basis").is_dir()


def test_the_command_for_kubeflow_submits_the_package_of_cohorts() -> None:
    (command,) = (text for kind, text in BLOCK.findall(TEXT) if kind == "sh kubeflow")
    with KfpStandIn() as server:
        server.metrics = {"done": 2.0}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "KUBEFLOW": server.url}
        done = subprocess.run(["bash", "-euc", command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (run,) = server.runs.values()
    assert run.package["pipeline_spec"]["pipelineInfo"]["name"] == COHORT_PIPELINE


def test_the_page_names_the_fields_and_defaults_of_the_template_and_the_exit_code() -> None:
    assert all(f"`{{{field}}}`" in TEXT for field in FIELDS)
    assert f"`{KEEP_TREE}`" in TEXT
    assert f"`{BY_PATIENT}`" in TEXT
    assert f"| {PARTLY} |" in TEXT
