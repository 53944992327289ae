"""The workflows of GitHub: pinned actions, least rights, and the same checks as `make ci`."""

from __future__ import annotations

import re
import subprocess
import tomllib
from itertools import count, takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).parents[2]
FOLDER = CHECKOUT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
MAKEFILE = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
SIGNING_RIGHTS = ("id-token", "attestations", "contents")


def jobs(file: Path) -> dict[str, dict[str, Any]]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"]


def commands(job: dict[str, Any]) -> str:
    return "\n".join(step.get("run", "") for step in job["steps"])


def made(text: str) -> set[str]:
    """Return the targets of make in a text of shell commands."""
    words = [word for line in re.findall(r"\bmake ([^)\n]*)", text) for word in line.split()]
    return {word for word in words if re.fullmatch(r"[a-z0-9-]+", word) and not word.startswith("-")}


def prerequisites(target: str) -> list[str]:
    found = re.search(rf"^{target}: ([^#\n]*)##", MAKEFILE, re.MULTILINE)
    assert found
    return found[1].split()


def test_every_action_is_pinned_by_a_commit_with_its_version_and_the_same_in_all_workflows() -> None:
    pins: dict[str, set[tuple[str, str]]] = {}
    for file in FILES:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if "uses:" in line]
        assert lines, file
        for line in lines:
            pin = re.fullmatch(r"\s+(?:- )?uses: ([\w-]+/[\w-]+)@([0-9a-f]{40}) # (v\d+\.\d+\.\d+)", line)
            assert pin, line
            pins.setdefault(pin[1], set()).add((pin[2], pin[3]))
    assert {action: found for action, found in pins.items() if len(found) > 1} == {}


def test_the_tests_run_on_every_python_that_the_package_admits() -> None:
    admitted = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["requires-python"]
    bounds = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", admitted)
    assert bounds, admitted
    minors = [f"3.{minor}" for minor in takewhile(lambda minor: minor < int(bounds[2]), count(int(bounds[1])))]
    assert jobs(FOLDER / "ci.yml")["tests"]["strategy"]["matrix"]["python"] == minors


def test_the_workflows_together_run_what_make_ci_runs() -> None:
    run = made("\n".join(commands(job) for name in ("ci.yml", "e2e.yml") for job in jobs(FOLDER / name).values()))
    # The image of GitHub's machines has Chromium, the workflow itself installs dicom3tools, and kind replaces the kit.
    assert set(prerequisites("ci")) - run == {"browser", "validator", "ci-e2e"}
    assert "dicom3tools" in (FOLDER / "ci.yml").read_text(encoding="utf-8")
    assert "e2e" in run


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_target_and_every_script_that_a_workflow_calls_exists(file: Path) -> None:
    text = "\n".join(commands(job) for job in jobs(file).values())
    targets = set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE))
    assert made(text) - targets == set()
    assert [path for path in re.findall(r"(?<![\w/])\.ci/[\w/-]+", text) if not (CHECKOUT / path).is_file()] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_workflow_starts_with_read_rights_and_a_job_that_can_sign_or_publish_runs_no_code_of_the_project(
    file: Path,
) -> None:
    workflow = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert job["timeout-minutes"], name
        rights = job.get("permissions", {})
        if "write" in [rights.get(right) for right in SIGNING_RIGHTS]:
            assert made(commands(job)) == set(), name
            assert ".venv" not in commands(job)
        checkouts = [step["with"] for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
        assert all(given["persist-credentials"] is False for given in checkouts), name


def test_the_script_for_the_operators_installs_the_versions_that_the_tests_ask_for() -> None:
    script = (CHECKOUT / ".ci" / "operators").read_text(encoding="utf-8")
    needs = (CHECKOUT / "tests" / "e2e" / "needs").read_text(encoding="utf-8")
    asked = [*re.findall(r"--version ([\d.]+\d)", needs), *re.findall(r"/download/v([\d.]+\d)/", needs)]
    assert len(asked) == 4
    assert [version for version in asked if version not in script] == []
    spark = re.search(r"Spark operator (\d+\.\d+)", needs)
    assert spark
    assert f"spark-operator spark-operator {spark[1]}." in script
    subprocess.run(["bash", "-n", str(CHECKOUT / ".ci" / "operators")], check=True)
