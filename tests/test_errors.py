"""An error crosses from a step's log to the process that started the step, complete and without other lines."""

from __future__ import annotations

import pickle

import pytest

from ctbasis.errors import CtbasisError, error_in_log, exit_on_error


def lines_of(capsys: pytest.CaptureFixture[str], error: CtbasisError) -> list[str]:
    with pytest.raises(SystemExit) as exit_, exit_on_error():
        raise error
    assert exit_.value.code == 2
    return capsys.readouterr().err.splitlines()


def test_the_error_that_a_step_wrote_is_read_from_its_log(capsys: pytest.CaptureFixture[str]) -> None:
    error = CtbasisError("found this", expected="other", cause="haste", remedy="patience", details=["and that"])
    log = ["fetch: 3 files", *lines_of(capsys, error), "bye"]
    assert error_in_log(log).split("\n") == [
        "found this",
        "  expected: other",
        "  likely cause: haste",
        "  remedy: patience",
        "    | and that",
    ]


def test_the_last_of_several_errors_is_returned(capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(capsys, CtbasisError("first", remedy="one")) + lines_of(capsys, CtbasisError("second"))
    assert error_in_log(lines) == "second"


def test_a_log_without_an_error_gives_an_empty_string() -> None:
    assert error_in_log(["all is well"]) == ""


def test_an_error_is_found_in_the_indented_log_that_kfp_prints(capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(capsys, CtbasisError("found", remedy="do"))
    assert error_in_log([f"    {line}" for line in lines]) == "found\n  remedy: do"


def test_an_error_survives_pickling_by_a_process_pool() -> None:
    error = pickle.loads(pickle.dumps(CtbasisError("found", expected="this", cause="that", remedy="do")))  # noqa: S301 - our own bytes
    assert str(error) == str(CtbasisError("found", expected="this", cause="that", remedy="do"))


def test_other_exceptions_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), exit_on_error():
        1 / 0  # noqa: B018 - raised on purpose
