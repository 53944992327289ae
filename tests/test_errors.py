"""A refusal crosses from a step's log to whoever started the step, whole and alone."""

from __future__ import annotations

import pickle

import pytest

from ctbasis.errors import CtbasisError, refusal_in, refusing


def refused(capsys: pytest.CaptureFixture[str], error: CtbasisError) -> list[str]:
    with pytest.raises(SystemExit) as exit_, refusing():
        raise error
    assert exit_.value.code == 2
    return capsys.readouterr().err.splitlines()


def test_the_text_that_a_step_wrote_is_read_back(capsys: pytest.CaptureFixture[str]) -> None:
    error = CtbasisError("found this\nand that", expected="other", cause="haste", remedy="patience")
    log = ["fetch: 3 files", *refused(capsys, error), "bye"]
    assert refusal_in(log).split("\n") == [
        "found this",
        "  and that",
        "  expected: other",
        "  likely cause: haste",
        "  remedy: patience",
    ]


def test_the_last_of_several_refusals_counts(capsys: pytest.CaptureFixture[str]) -> None:
    lines = refused(capsys, CtbasisError("first", remedy="one")) + refused(capsys, CtbasisError("second"))
    assert refusal_in(lines) == "second"


def test_a_log_without_a_refusal_has_none() -> None:
    assert refusal_in(["all is well"]) == ""


def test_a_refusal_is_indented_as_kfp_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    lines = refused(capsys, CtbasisError("found", remedy="do"))
    assert refusal_in([f"    {line}" for line in lines]) == "found\n  remedy: do"


def test_an_error_survives_a_process_pool() -> None:
    error = pickle.loads(pickle.dumps(CtbasisError("found", expected="this", cause="that", remedy="do")))  # noqa: S301 - our own bytes
    assert str(error) == str(CtbasisError("found", expected="this", cause="that", remedy="do"))


def test_other_errors_keep_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError), refusing():
        1 / 0  # noqa: B018 - raised on purpose
