"""`--mode auto`: every branch of the rule, and what the verbs do with it."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from ctbasis.cli import main
from ctbasis.cli.mode import OPTIONS_OF_MODE, resolve_mode
from ctbasis.errors import CtbasisError


def test_without_any_option_auto_is_patch_mode_and_says_why() -> None:
    resolved = resolve_mode("auto", set())
    assert resolved.mode == "patch"
    assert resolved.line.startswith("mode: auto chose patch, because no option of global mode is given")
    assert "\n" not in resolved.line


@pytest.mark.parametrize("option", ["rank", "ranks", "oversample", "power_iters", "method"])
def test_each_option_of_global_mode_makes_auto_global(option: str) -> None:
    resolved = resolve_mode("auto", {option, "seed", "engine"})
    assert resolved.mode == "global"
    flag = f"--{option.replace('_', '-')}"
    assert resolved.line.startswith(f"mode: auto chose global, because {flag} is given")
    assert "\n" not in resolved.line


@pytest.mark.parametrize("option", ["tau", "wiener", "stride", "target_noise", "seed", "engine", "memory", "truth"])
def test_any_other_option_leaves_auto_at_patch_mode(option: str) -> None:
    assert resolve_mode("auto", {option}).mode == "patch"


@pytest.mark.parametrize(("mode", "words"), [("global", "a basis of slices"), ("patch", "a basis of patches")])
def test_a_basis_decides_what_auto_is(mode: str, words: str) -> None:
    resolved = resolve_mode("auto", {"basis"}, basis_mode=mode)
    assert resolved.mode == mode
    assert words in resolved.line


@pytest.mark.parametrize("mode", ["global", "patch"])
def test_a_mode_that_the_user_names_needs_no_line(mode: str) -> None:
    assert resolve_mode(mode, {*OPTIONS_OF_MODE[mode], "mode"}).mode == mode
    assert not resolve_mode(mode, {"mode"}).line


@pytest.mark.parametrize(
    ("mode", "given", "basis_mode", "found"),
    [
        ("patch", {"rank"}, "", "--rank is given, and --mode is patch"),
        ("patch", {"rank", "oversample"}, "", "--rank and --oversample are given, and --mode is patch"),
        ("global", {"tau"}, "", "--tau is given, and --mode is global"),
        ("auto", {"rank", "tau"}, "", "--tau is given, and --rank is given"),
        ("auto", {"rank", "basis"}, "patch", "--rank is given, and the basis is a basis of patches"),
        ("auto", {"stride", "basis"}, "global", "--stride is given, and the basis is a basis of slices"),
    ],
)
def test_options_of_two_modes_are_refused_with_a_remedy(
    mode: str, given: set[str], basis_mode: str, found: str
) -> None:
    with pytest.raises(CtbasisError) as refused:
        resolve_mode(mode, given, basis_mode=basis_mode)
    assert refused.value.found == found
    assert refused.value.remedy.startswith("leave out --")


@pytest.mark.parametrize("verb", ["run", "submit"])
def test_a_verb_refuses_options_of_two_modes_before_anything_is_read(verb: str) -> None:
    target = ("--out", "x") if verb == "run" else ("--host", "http://localhost")
    result = CliRunner().invoke(main, [verb, "nowhere", *target, "--mode", "patch", "--rank", "50"])
    assert result.exit_code == 2
    assert "--rank is given, and --mode is patch" in result.stderr
    assert "leave out --rank, or leave out --mode patch" in result.stderr


def test_an_option_given_with_its_default_value_counts_as_given() -> None:
    options = ("--rank", "50", "--tau", "3")
    result = CliRunner().invoke(main, ["run", "nowhere", "--out", "x", *options])
    assert result.exit_code == 2
    assert "--tau is given, and --rank is given" in result.stderr
