"""The pages of help: short, grouped, quick, and in agreement with the commands."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
from click.testing import CliRunner

from ctbasis.cli import SECTIONS, VERBS, main
from ctbasis.parameters import ON_KUBEFLOW, PARAMETERS, SOURCE
from ctbasis.plans import Group

LONG_VERBS = ("run", "denoise", "submit", "factor")


def page(*arguments: str) -> str:
    result = CliRunner().invoke(main, list(arguments), terminal_width=100)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_list_of_verbs_is_shown_within_half_a_second() -> None:
    command = [sys.executable, "-m", "ctbasis.cli", "--help"]
    times = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time, which is the elapsed time of an idle machine and hardly depends on other processes.
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(times) < 0.5, times


def test_the_list_of_verbs_imports_no_heavy_package() -> None:
    heavy = ("numpy", "pydicom", "zarr", "kfp", "pyspark", "matplotlib")
    program = (
        "import sys\nfrom click.testing import CliRunner\nfrom ctbasis.cli import main\n"
        "for page in (['--help'], ['run', '--help']):\n    assert CliRunner().invoke(main, page).exit_code == 0\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("verb", LONG_VERBS)
def test_the_short_page_fits_one_screen_and_names_the_long_one(verb: str) -> None:
    lines = page(verb, "--help").splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100
    assert lines[-1].endswith(f"more options: main {verb} --help-all")


def test_the_short_page_of_run_has_what_a_first_run_needs() -> None:
    text = page("run", "--help")
    for word in ("SOURCE", "--out", "--mode", "--rank", "--truth", "--basis", "--deidentify", "--seed"):
        assert word in text
    assert "--oversample" not in text


def test_the_whole_page_has_every_parameter_with_its_whole_help_in_its_group() -> None:
    sections = page("run", "--help-all").split("\n\n")
    for parameter in PARAMETERS:
        if parameter.name == SOURCE.name or parameter in ON_KUBEFLOW:
            continue
        (section,) = [text for text in sections if text.startswith(f"{parameter.group.value}:")]
        words = " ".join(section.split())
        assert parameter.flag in words
        assert " ".join(parameter.help.split()) in words


def test_the_groups_come_in_the_order_of_their_declaration() -> None:
    text = page("run", "--help-all")
    # The parameters of serving are those of a run on Kubeflow.
    places = [text.index(f"\n{group.value}:\n") for group in Group if group is not Group.SERVING]
    assert places == sorted(places)


def test_the_short_page_is_the_same_after_the_whole_one() -> None:
    before = page("run", "--help")
    page("run", "--help-all")
    assert page("run", "--help") == before


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_a_summary_a_page_and_its_name(name: str) -> None:
    command = VERBS[name].load()
    assert command.name == name
    assert VERBS[name].summary in " ".join(page("--help").split())
    assert (command.help or "").split("\n")[0].split()[0] == VERBS[name].summary.split()[0]
    assert page(name, "--help").startswith(f"Usage: main {name} ")


def test_every_verb_is_in_one_section() -> None:
    names = [name for verbs in SECTIONS.values() for name in verbs]
    assert sorted(names) == sorted(set(names)) == sorted(main.list_commands(main.make_context("ctbasis", ["lint"])))


def test_an_unknown_verb_is_refused() -> None:
    result = CliRunner().invoke(main, ["denoize"])
    assert result.exit_code == 2
    assert "No such command 'denoize'" in result.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--rank", "0"), "Invalid value for '--rank': rank '0'"),
        (
            ("--oversample", "-1"),
            "Invalid value for '--oversample': oversample is -1\n  expected: a whole number from 0 to 10000",
        ),
        (("--stride", "9"), "Invalid value for '--stride': stride is 9\n  expected: a whole number from 1 to 5"),
        (("--memory", "much"), "Invalid value for '--memory': memory 'much'\n  expected: a size such as"),
        (("--engine", "abacus"), "Invalid value for '--engine': 'abacus' is not one of"),
        (("--store", "bucket"), "Invalid value for '--store': "),
    ],
)
def test_a_bad_value_is_refused_with_the_name_of_its_option(options: tuple[str, ...], expected: str) -> None:
    result = CliRunner().invoke(main, ["run", "nowhere", "--out", "x", *options])
    assert result.exit_code == 2
    assert expected in result.stderr
