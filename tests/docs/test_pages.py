"""The pages state what the code is: its verbs, its parameters, its layers."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Protocol

import click
import pytest

from ctbasis.cli import main
from tests.docs import manifests_page, parameters_page, stores_page

CHECKOUT = Path(__file__).parents[2]
README = CHECKOUT / "README.md"
COMMANDS = (CHECKOUT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
ARCHITECTURE = (CHECKOUT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")

CONTEXT = click.Context(main)
VERBS = sorted(main.list_commands(CONTEXT))

LAYERS = re.compile(r"```layers\n(.*?)```", re.DOTALL)


class Generated(Protocol):
    """A module that makes a page."""

    PAGE: Path

    @staticmethod
    def page() -> str: ...


def contract() -> list[set[str]]:
    """Return the rooms of ctbasis as the contract in pyproject.toml layers them, highest first."""
    contracts = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = next(one["layers"] for one in contracts if one.get("containers") == ["ctbasis"])
    # import-linter writes an optional layer in parentheses.
    return [set(re.split(r"\s*[|:]\s*", layer.strip("()"))) for layer in layers]


def drawn(page: str) -> list[set[str]]:
    """Return the rooms of the drawing in a page, highest first; what stands after two spaces is a description."""
    (drawing,) = LAYERS.findall(page)
    return [set(line.split("  ")[0].split(" | ")) for line in drawing.splitlines()]


def test_the_layers_in_the_docs_are_those_of_the_contract() -> None:
    assert drawn(ARCHITECTURE) == contract()


def test_the_readme_is_one_page_with_one_picture_and_two_commands() -> None:
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    assert text.count("![") == 1
    commands = [
        line
        for block in re.findall(r"^```sh.*?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    assert len(commands) == 2


def test_the_table_of_verbs_has_every_verb_and_no_other() -> None:
    rows = re.findall(r"^\| `ctbasis ([\w-]+)", COMMANDS, re.MULTILINE)
    assert sorted(rows) == VERBS


@pytest.mark.parametrize("generated", [parameters_page, stores_page, manifests_page], ids=lambda one: one.PAGE.name)
def test_a_generated_page_is_the_one_that_the_code_gives(generated: Generated) -> None:
    assert generated.PAGE.read_text(encoding="utf-8") == generated.page(), "run make reference"


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_that_the_pages_give_a_verb_is_one_of_its_options(verb: str) -> None:
    command = main.get_command(CONTEXT, verb)
    assert command
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    pages = [README, *(CHECKOUT / "docs").rglob("*.md")]
    lines = [
        line
        for page in pages
        for line in re.findall(
            rf"ctbasis {verb}\b((?:[^\n`&#;|]|\\\n)*)", page.read_text(encoding="utf-8").replace("\\|", " ")
        )
    ]
    assert lines
    used = {option for line in lines for option in re.findall(r"(?<!\S)\[?(--[\w-]+)", line)}
    assert used <= options
