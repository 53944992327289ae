"""Nonsense for every option and argument of the verbs that compile and submit: exit code 2 or 0 and no traceback.

The options are enumerated, so a new option is tried without a new test. Each verb has a command line that is refused
early; one value at a time is replaced or added.
"""

from __future__ import annotations

import os
import signal
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from ctbasis.cli import VERBS, main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 60
"""Time of one command at most, on a loaded machine."""

TEXTS = {
    "empty": "",
    "a space": " ",
    "very long": "9" * 100_000,
    "a long name": "x" * 5000,
    "NUL": "a\x00b",
    "a surrogate": "a\udcffb",
    "escape and newline": "a\x1b[2J\nctbasis: b",
    "bidi": "\u202eabc",
    "negative": "-1",
    "huge": "99999999999999999999999999",
    "a huge number": "1e400",
    "a tiny number": "1e-320",
    "nan": "nan",
    "infinity": "-inf",
    "digits of another script": "\u0663",
    "a comma": ",",
    "braces": "{{workflow.name}} ${HOME} %s {0}",
    "JSON": '{"a": [1]}',
    "an unknown scheme": "gopher://user:hunter2@host/x",
    "zip://": "zip://x::http://127.0.0.1:9/a.zip",
    "memory://": "memory://x",
    "S3 without a bucket": "s3://",
    "S3 upwards": "s3://b/../../x",
    "a broken URL": "http://[::1",
    "a port too large": "tcp://host:99999",
    "upwards": "../" * 40 + "no/such",
    "a rank rule": "auto:energy=2",
    "a comma list": "1,2,x",
}
"""Values that every option and argument is given."""

FILES = (
    "missing",
    "folder",
    "empty folder",
    "file",
    "empty file",
    "unreadable",
    "fifo",
    "/dev/zero",
    "/dev/full",
    "loop",
)
"""Places on disk that options and arguments are given as a path."""


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """Return places on disk by name, each with a path that a user may give by mistake."""
    base = tmp_path / "places"
    (base / "folder").mkdir(parents=True)
    (base / "folder" / "thesis.tex").write_text("ten years")
    (base / "empty folder").mkdir()
    (base / "file").write_text("no DICOM\n" * 1000)
    (base / "empty file").touch()
    (base / "unreadable").write_bytes(b"\x00" * 100)
    (base / "unreadable").chmod(0)
    os.mkfifo(base / "fifo")
    (base / "loop").symlink_to(base / "loop")
    return {name: name if name.startswith("/dev/") else str(base / name) for name in FILES}


def refused(verb: str, out: Path) -> dict[str, str]:
    """Return the arguments of a command line that the verb refuses early: options by flag, arguments by name."""
    return {
        "submit": {"source": "s3://b/x", "--host": "localhost", "--out": str(out)},
        "compile": {"--workspace-size": "many"},
    }[verb]


def line_of(verb: str, values: dict[str, str]) -> list[str]:
    """Return the command line: options first, arguments after a `--`, so that any text can be an argument."""
    options = [text for flag, value in values.items() if flag.startswith("--") for text in (flag, value)]
    return [verb, *options, "--", *(value for flag, value in values.items() if not flag.startswith("--"))]


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"the command took more than {seconds} s")

    former = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, former)


def outcome(line: list[str]) -> str:
    """Run a command and return what is wrong with its end, or an empty string."""
    with time_limit(SECONDS):
        result = CliRunner().invoke(main, line, prog_name="ctbasis")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return "".join(traceback.format_exception(result.exception)[-3:])
    if "Traceback" in result.output:
        return result.output
    return "" if result.exit_code in {0, 2} else f"exit code {result.exit_code}: {result.output}"


@pytest.mark.parametrize("verb", ["compile", "submit"])
def test_no_value_of_any_option_ends_in_a_traceback(
    verb: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    command, faults = VERBS[verb].load(), []
    base = refused(verb, tmp_path / "out")
    assert set(base) <= {name for option in command.params for name in names_of(option)}, "the verb has other options"
    for option in command.params:
        if isinstance(option, click.Option) and (option.is_flag or option.is_eager):
            continue
        name = names_of(option)[0]
        values = {**TEXTS, **places}
        if isinstance(option.type, (click.Choice, click.types.IntParamType, click.types.FloatParamType)):
            # click refuses all of these alike.
            values = TEXTS
        for title, value in values.items():
            fault = outcome(line_of(verb, {**base, name: value}))
            if fault:
                faults.append(f"{verb} {name} {title}: {fault}")
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults)
    # The user's files are there afterwards.
    assert (tmp_path / "places" / "folder" / "thesis.tex").read_text() == "ten years"
    assert (tmp_path / "places" / "file").read_text() == "no DICOM\n" * 1000


def names_of(option: click.Parameter) -> list[str]:
    return option.opts if isinstance(option, click.Option) else [str(option.name)]
