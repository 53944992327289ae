"""Every command of every page is executed by a test, or says what a test lacks and is parsed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click
import pytest

from ctbasis.cli import main
from tests.docs.commands import KINDS
from tests.docs.fences import (
    CHECKOUT,
    COMMAND_IN_BLOCK,
    COMMAND_INDENTED,
    EXECUTED,
    LACKING,
    PAGES,
    SHELLS,
    blocks,
    calls,
    prose,
)

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS = blocks()
TARGETS = set(re.findall(r"^([a-z0-9-]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def test_every_block_of_commands_is_executed_by_a_test_or_says_what_a_test_lacks() -> None:
    commands = [block for block in BLOCKS if block.language in SHELLS | {"python"}]
    assert len(commands) > 50
    without = [
        (block.page, block.kind, block.text.splitlines()[0])
        for block in commands
        if block.kind not in {*LACKING, *EXECUTED.get(block.page, {})}
    ]
    assert not without


def test_the_tests_that_execute_a_page_exist_and_name_it_and_the_page_has_their_blocks() -> None:
    for page, kinds in EXECUTED.items():
        assert set(kinds) <= {block.kind for block in BLOCKS if block.page == page}, page
        for test in {test for tests in kinds.values() for test in tests}:
            text = (CHECKOUT / test).read_text(encoding="utf-8")
            assert page.rpartition("/")[2] in text or kinds is KINDS, test


def test_every_reason_is_used() -> None:
    assert set(LACKING) == {block.kind for block in BLOCKS} & set(LACKING)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_no_command_stands_outside_of_a_block_of_commands(page: Path) -> None:
    others = [
        block.text
        for block in BLOCKS
        if block.page == str(page.relative_to(CHECKOUT)) and block.language not in SHELLS | {"python"}
    ]
    assert COMMAND_INDENTED.findall(prose(page)) == []
    assert [found for text in others for found in COMMAND_IN_BLOCK.findall(text)] == []


@pytest.mark.parametrize("kind", ["yours", "measurement", "container"])
def test_a_command_that_is_not_executed_has_the_verbs_options_and_arguments_of_the_program(kind: str) -> None:
    parsed = 0
    for block in BLOCKS:
        if block.kind != kind or block.language not in SHELLS:
            continue
        for arguments in calls(block.text, "ctbasis"):
            _parse(main, "ctbasis", arguments)
            parsed += 1
    assert parsed or kind == "container"


def _parse(command: click.Command, name: str, arguments: list[str]) -> None:
    """Parse arguments as the program does, but for their values; raise a `click.UsageError` for unknown options."""
    context = click.Context(command, info_name=name)
    if isinstance(command, click.Group) and arguments and not arguments[0].startswith("-"):
        verb = command.get_command(context, arguments[0])
        assert verb, (name, arguments)
        _parse(verb, f"{name} {arguments[0]}", arguments[1:])
        return
    values, _, _ = command.make_parser(context).parse_args(list(arguments))
    for parameter in command.params:
        if parameter.required and parameter.name not in values:
            raise click.MissingParameter(ctx=context, param=parameter)


def test_a_target_that_is_not_executed_is_one_of_the_makefile() -> None:
    asked = [
        word
        for block in BLOCKS
        if block.kind in LACKING and block.language in SHELLS
        for call in calls(block.text, "make")
        for word in call
        if "=" not in word and not word.startswith("-")
    ]
    assert len(asked) > 3
    assert set(asked) <= TARGETS
