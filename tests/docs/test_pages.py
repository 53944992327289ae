"""The pages state what the code is: its verbs, its parameters, its layers."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest

from ctbasis.cli import main
from tests.docs import parameters_page

CHECKOUT = Path(__file__).parents[2]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (CHECKOUT / "docs" / "explanation" / "architecture.md").read_text(encoding="utf-8")

CONTEXT = click.Context(main)
VERBS = sorted(main.list_commands(CONTEXT))

LAYERS = re.compile(r"```layers\n(.*?)```", re.DOTALL)


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


def test_the_short_drawing_in_the_readme_has_every_room_in_its_layer() -> None:
    rooms = {path.parent.name for path in (CHECKOUT / "ctbasis").glob("*/__init__.py")}
    assert drawn(README) == [layer & rooms for layer in contract() if layer & rooms]


def test_the_table_of_verbs_in_the_readme_has_every_verb_and_no_other() -> None:
    rows = re.findall(r"^\| `ctbasis ([\w-]+)", README, re.MULTILINE)
    assert sorted(rows) == VERBS


def test_the_page_of_parameters_is_the_one_that_the_declarations_give() -> None:
    page = parameters_page.PAGE.read_text(encoding="utf-8")
    assert page == parameters_page.page(), "run python -m tests.docs.parameters_page"


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_that_the_pages_give_a_verb_is_one_of_its_options(verb: str) -> None:
    command = main.get_command(CONTEXT, verb)
    assert command
    options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}
    pages = [CHECKOUT / "README.md", *(CHECKOUT / "docs").rglob("*.md")]
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
