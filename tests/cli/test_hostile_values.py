"""Nonsense for every option and argument of every verb: exit code 2 or 0, no traceback, and no lost file.

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
from ctbasis.cli.options import OutputType

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECONDS = 20
"""Time of one command at most, on a loaded machine."""

TEXTS = {
    "empty": "",
    "a space": " ",
    "very long": "9" * 100_000,
    "a long number": "9" * 4000,
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


def refused(option: str, places: dict[str, str]) -> dict[str, dict[str, str]]:
    """Return a command line for each verb that it refuses before it starts anything.

    The lines hold options by flag and arguments by name.

    Args:
        option: The option or argument whose value will be replaced; something else refuses the line.
        places: Places on disk, see `FILES`.
    """
    missing, empty, users = places["missing"], places["empty folder"], places["folder"]
    return {
        # The output folder holds a user's file; where the folder itself is replaced, the basis is missing.
        "run": {"source": empty, "--out": users} | ({"--basis": missing} if option == "--out" else {}),
        "denoise": {"series": empty, "--basis": missing, "--out": users},
        # No CT in the source, and a user's file in the output.
        "cohort": {"source": empty, "--out": users, "--mode": "patch"},
        # No object in the source.
        "inventory": {"source": empty, "--state": missing},
        # Retained identities without --deidentify; click refuses the rank before it comes to that.
        "factor": {"source": empty, "--out": missing, "--retain": "full-dates"}
        | ({"--rank": "0"} if option == "--retain" else {}),
        "reconstruct": {"basis": missing, "--rank": "1", "--out": users},
        "demo": {"--out": users} | ({"--slices": "0"} if option == "--out" else {}),
        "submit": {"source": "s3://b/x", "--host": "localhost", "--out": missing},
        "results": {"run": "0b1c-2d3e", "--host": "localhost", "--out": missing},
        "sweep": {"prefix": "s3://b/x", "--host": "localhost"},
        # A destination without an address; where it is replaced, the key of a certificate is missing.
        "node": {"--forward": "nowhere", "--state": missing}
        | ({"--tls-cert": missing} if option == "--forward" else {}),
        "pull": {"--from": "nowhere", "--study": "1.2", "--out": missing}
        | ({"--study": "no UID"} if option == "--from" else {}),
        "push": {"source": empty, "--to": "nowhere"} | ({"--tls-cert": missing} if option == "--to" else {}),
        "jobs": {"--state": empty},
        "process": {"source": empty, "out": missing},
        "serve": {"--basis": missing, "--host": "127.0.0.1", "--port": "0"}
        | ({"--tls-cert": missing} if option == "--basis" else {}),
        # No result in the folder.
        "view": {"result": empty, "--source": empty, "--port": "0"},
        "compile": {"--workspace-size": "many"},
        "lint": {"files": missing},
        "simulate-dose": {"series": empty, "--out": missing},
        "simulate-inserts": {"--out": users} | ({"--size": "1"} if option == "--out" else {}),
        "score": {"--truth": empty, "--image": empty},
        "bench": {"what": "svd", "--series": missing},
    }


def line_of(verb: str, values: dict[str, str]) -> list[str]:
    """Return the command line: options first, arguments after a `--`, so that any text can be an argument."""
    options = [text for flag, value in values.items() if flag.startswith("--") for text in (flag, value)]
    return [verb, *options, "--", *(value for flag, value in values.items() if not flag.startswith("--"))]


class TooLongError(BaseException):
    """A command that takes too long; no `except OSError` or `except Exception` on its way catches it."""


@contextmanager
def time_limit(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TooLongError(f"the command took more than {seconds} s")

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


@pytest.mark.parametrize("verb", VERBS)
def test_no_value_of_any_option_ends_in_a_traceback(
    verb: str, places: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    # No value that names a bucket is asked for on a network, which is retried for minutes.
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nowhere")
    faults = []
    for option in VERBS[verb].load().params:
        if isinstance(option, click.Option) and (option.is_flag or option.is_eager):
            continue
        name = names_of(option)[0]
        values = {**TEXTS, **places}
        if isinstance(option.type, (click.Choice, click.types.IntParamType, click.types.FloatParamType)):
            # click refuses all of these alike.
            values = TEXTS
        base = refused(name, places)[verb]
        for title, value in values.items():
            fault = outcome(line_of(verb, {**base, name: value}))
            if fault:
                faults.append(f"{verb} {name} {title}: {fault}")
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults)
    # The user's files are there afterwards.
    assert (tmp_path / "places" / "folder" / "thesis.tex").read_text() == "ten years"
    assert (tmp_path / "places" / "file").read_text() == "no DICOM\n" * 1000


def test_every_verb_is_tried(places: dict[str, str]) -> None:
    assert set(refused("", places)) == set(VERBS)


def outputs_of(verb: str) -> list[tuple[str, bool]]:
    """Return the options of a verb that name what it writes late, and whether that is a folder."""
    return [(option.opts[0], option.type.folder) for option in VERBS[verb].load().params if _is_output(option)]


def _is_output(option: click.Parameter) -> bool:
    return isinstance(option.type, OutputType)


@pytest.mark.parametrize(("verb", "flag", "folder"), [(verb, *output) for verb in VERBS for output in outputs_of(verb)])
def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    verb: str, flag: str, folder: bool, places: dict[str, str]
) -> None:
    wrong = places["file"] if folder else places["folder"]
    for place, reason in ((wrong, " is a f"), (f"{places['file']}/below", "lies below the file")):
        result = CliRunner().invoke(main, line_of(verb, {**refused(flag, places)[verb], flag: place}))
        assert result.exit_code == 2, result.output
        assert reason in result.output
        assert flag in result.output


@pytest.mark.parametrize(
    ("flag", "value", "found"),
    [
        ("--photons", "1e-320", "photons is 1e-320"),
        ("--photons", "nan", "photons is nan"),
        ("--electronic", "1e300", "electronic is 1e+300"),
        ("--bow-tie", "1e300", "bow_tie is 1e+300"),
        ("--views", "999999999999", "views is 999999999999"),
        ("--workers", "0", "workers is 0"),
        ("--seed", "-1", "seed is -1"),
        ("--nodules", "9" * 5000, "--nodules"),
        ("--out", "file", "is a file"),
        ("--out", "folder", "holds thesis.tex"),
    ],
)
def test_a_dose_that_overflows_is_refused_with_a_series_at_hand(
    flag: str, value: str, found: str, series: Path, places: dict[str, str], tmp_path: Path
) -> None:
    line = {"series": str(series), "--out": str(tmp_path / "new"), flag: places.get(value, value)}
    result = CliRunner().invoke(main, line_of("simulate-dose", line))
    assert result.exit_code == 2, result.output
    assert found in result.output
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"--seed": "-1"}, "seed is -1"),
        ({"--photons": "nan"}, "photons is nan"),
        ({"--slices": "9" * 4000}, "at most 100000"),
        ({"--edge": "99999"}, "GB of memory"),
    ],
)
def test_a_demo_that_cannot_be_made_is_refused_before_a_server_starts(
    values: dict[str, str], found: str, tmp_path: Path
) -> None:
    result = CliRunner().invoke(main, line_of("demo", {"--out": str(tmp_path / "demo"), **values}))
    assert result.exit_code == 2, result.output
    assert found in result.output
    assert "demo:" not in result.output
    assert list(tmp_path.iterdir()) == []


def names_of(option: click.Parameter) -> list[str]:
    return option.opts if isinstance(option, click.Option) else [str(option.name)]
