"""Texts of parameters that have a syntax of their own: ranks and rules, memory sizes, options of de-identification."""

from __future__ import annotations

import pytest

from ctbasis.choices import RETAIN_OPTIONS
from ctbasis.errors import CtbasisError
from ctbasis.parsing import Rule, parse_memory, parse_rank, parse_ranks, parse_retain


def test_a_rank_is_a_number_or_a_rule() -> None:
    assert parse_rank("50") == 50
    assert parse_rank("AUTO ") == Rule("gd")
    assert parse_rank("auto:gd=12.5") == Rule("gd", 12.5)
    assert parse_rank("auto:mp") == Rule("mp")
    assert parse_rank("auto:energy=0.99") == Rule("energy", 0.99)
    assert parse_rank("auto:noise=12") == Rule("noise", 12.0)


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "-1",
        "2.5",
        "",
        "many",
        "auto:",
        "auto:best",
        "auto:mp=0",
        "auto:gd=-3",
        "auto:mp=nan",
        "auto:noise",
        "auto:noise=inf",
        "auto:energy",
        "auto:energy=0",
        "auto:energy=1.1",
        "auto:energy=99%",
    ],
)
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(CtbasisError, match="expected: "):
        parse_rank(text)


@pytest.mark.parametrize("rule", ["auto", "auto:gd=12", "auto:mp=12", "auto:energy=0.99", "auto:noise=12"])
def test_a_rule_is_written_as_it_is_parsed(rule: str) -> None:
    parsed = parse_rank(rule)
    assert isinstance(parsed, Rule)
    assert parse_rank(str(parsed)) == parsed


def test_ranks_are_ascending_and_unique() -> None:
    assert parse_ranks("300, 50,244,50") == [50, 244, 300]


@pytest.mark.parametrize("text", ["", ",", "50,0"])
def test_an_empty_or_wrong_list_of_ranks_is_refused(text: str) -> None:
    with pytest.raises(CtbasisError):
        parse_ranks(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("", 0), ("auto", 0), ("512", 512), ("2k", 2048), ("1.5 MiB", 3 * 2**19), ("3GiB", 3 * 2**30), ("3g", 3 * 2**30)],
)
def test_a_memory_size_is_a_number_with_a_binary_unit(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["0", "-1g", "3 apples", "g", "1e3"])
def test_any_other_memory_size_is_refused(text: str) -> None:
    with pytest.raises(CtbasisError, match="expected: a size such as 512MiB"):
        parse_memory(text)


def test_retained_options_are_in_the_order_of_the_table() -> None:
    assert parse_retain(" full-dates, uids ,") == ("uids", "full-dates")
    assert parse_retain("") == ()
    assert parse_retain(",".join(set(RETAIN_OPTIONS) - {"full-dates"}))[0] == "uids"
