"""Why a run failed, as the user reads it: the failed step's own words, or what is known of a step without any."""

from __future__ import annotations

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.steps.notes import STEPS, Note, State
from ctbasis.steps.reason import failure_page, find_reason, success_page


def unknown(_pod: str) -> str:
    return ""


def succeeded(*steps: str) -> list[Note]:
    return [Note(step, state=State.SUCCEEDED) for step in steps]


ERROR = CtbasisError("there is no bucket 'x'", expected="a bucket", cause="a typo", remedy="check it", details=["last"])


def test_the_reason_is_that_of_the_step_that_failed_first() -> None:
    late = Note("reconstruct", ended="2026-01-01T00:00:09").ended_as(State.FAILED, CtbasisError("the disk is full"))
    early = Note("report").ended_as(State.FAILED, ERROR)
    late, early = (Note(**{**vars(note), "ended": ended}) for note, ended in ((late, "2026-02"), (early, "2026-01")))
    reason = find_reason([*succeeded("fetch", "matrix", "svd"), late, early], unknown)
    assert (reason.step, str(reason.error)) == ("report", str(ERROR))


def test_a_failed_step_comes_before_one_that_was_stopped_with_it() -> None:
    notes = [Note("reconstruct", state=State.RUNNING), Note("report").ended_as(State.FAILED, ERROR)]
    assert find_reason(notes, unknown).step == "report"


@pytest.mark.parametrize("state", [State.RUNNING, State.STOPPED])
def test_a_step_without_words_is_described_by_the_end_of_its_pod(state: State) -> None:
    notes = [*succeeded("fetch"), Note("matrix", pod="p", state=state)]
    reason = find_reason(notes, lambda pod: f"{pod} was evicted")
    assert reason.step == "matrix"
    assert "its pod p: p was evicted" in reason.error.found
    assert "terminated" in find_reason(notes, unknown).error.cause


@pytest.mark.parametrize("begun", range(len(STEPS)))
def test_a_step_that_did_not_begin_is_named(begun: int) -> None:
    reason = find_reason(succeeded(*STEPS[:begun]), unknown)
    assert reason.step == STEPS[begun]
    assert reason.error.found == f"the step {STEPS[begun]} did not begin"


def test_a_run_whose_programs_all_succeeded_failed_in_kubeflow() -> None:
    assert "could not store an output" in find_reason(succeeded(*STEPS), unknown).error.cause


def test_the_page_shows_the_error_as_it_is_and_how_far_each_step_came() -> None:
    hostile = CtbasisError("# <b>![x](http://evil)</b>\n\n# forged", details=["```", "| a | b |"])
    notes = [*succeeded("fetch"), Note("matrix").ended_as(State.FAILED, hostile)]
    page = failure_page(find_reason(notes, unknown), notes)
    shown = [line for line in page.splitlines() if "evil" in line or "```" in line or "| a |" in line]
    assert len(shown) == 3
    assert all(line.startswith("    ") for line in shown), "an indented line is shown as it is"
    assert "| fetch | succeeded |" in page
    assert "| matrix | failed |" in page
    assert "forged" not in [line.strip("# ") for line in page.splitlines()]


def test_the_metadata_holds_every_part_as_text_for_clients() -> None:
    notes = [Note("fetch").ended_as(State.FAILED, ERROR)]
    assert find_reason(notes, unknown).metadata() == {
        "step": "fetch",
        "found": "there is no bucket 'x'",
        "expected": "a bucket",
        "cause": "a typo",
        "remedy": "check it",
    }


def test_the_page_of_a_success_names_no_failure() -> None:
    page = success_page(succeeded(*STEPS))
    assert page.startswith("# The run succeeded")
    assert "failed" not in page
