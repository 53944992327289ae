"""The files for contributors state what the project does: targets, commands of pre-commit, paths, the citation."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).parents[2]
CONTRIBUTING = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
MAKEFILE = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
PROJECT: dict[str, Any] = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def make(*arguments: str) -> list[str]:
    """Return the lines that make prints."""
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_pre_commit_runs_the_commands_of_make_style() -> None:
    config = yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = [hook["entry"] for repository in config["repos"] for hook in repository["hooks"]]
    style = [line for line in make("--dry-run", "style") if "ruff" in line]
    assert hooks == style


def test_make_help_lists_every_target_that_says_what_it_does_below_a_group() -> None:
    lines = make("help")
    described = dict(re.findall(r"^([a-z0-9-]+):.*## (.*)$", MAKEFILE, re.MULTILINE))
    listed = dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))
    assert listed == described
    groups = [line for line in lines if line and not line.startswith("  ")]
    assert groups == re.findall(r"^##@ (.*)$", MAKEFILE, re.MULTILINE)
    assert lines[1] == groups[0]


def test_every_file_that_the_page_names_exists() -> None:
    named = re.findall(r"`((?:ctbasis|components|tests|pipeline)/[\w./-]+)`", CONTRIBUTING)
    assert len(named) > 10
    assert [name for name in named if "NAME" not in name and not (CHECKOUT / name).exists()] == []


def test_the_version_and_the_licence_of_the_citation_are_those_of_the_package() -> None:
    citation = yaml.safe_load((CHECKOUT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["title"] == PROJECT["name"]
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]


def test_the_development_container_is_set_up_by_make_setup() -> None:
    container = json.loads((CHECKOUT / ".devcontainer" / "devcontainer.json").read_text(encoding="utf-8"))
    assert container["postCreateCommand"].endswith("&& make setup")


def test_the_forms_of_issues_ask_for_no_data_of_patients_and_have_unique_fields() -> None:
    for path in sorted((CHECKOUT / ".github" / "ISSUE_TEMPLATE").glob("*.yml")):
        form = yaml.safe_load(path.read_text(encoding="utf-8"))
        fields = [field["id"] for field in form.get("body", []) if field["type"] != "markdown"]
        assert len(fields) == len(set(fields)), path
    bug = (CHECKOUT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text(encoding="utf-8")
    assert "Do not attach data of patients" in bug
