"""Selecting series by expressions: their meaning, their errors, and expressions that are made to cause damage."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from ctbasis.cohort import selection
from ctbasis.cohort.selection import Selection
from ctbasis.cohort.series_row import COLUMNS, SeriesRow
from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from pathlib import Path

ROWS = [
    SeriesRow(
        patient="P1", study="1.2", series="1.2.1", modality="CT", kernel="B30f", slices=120, ctdi_vol=2.5, kvp=120.0
    ),
    SeriesRow(
        patient="P1", study="1.2", series="1.2.2", modality="CT", kernel="B70f", slices=30, spacing=0.7, kvp=100.0
    ),
    SeriesRow(patient="P2", study="1.3", series="1.3.1", modality="MR", slices=0, refused="no CT image"),
]


def chosen(expression: str, rows: list[SeriesRow] | None = None) -> list[str]:
    return [row.series for row in Selection(expression).select(ROWS if rows is None else rows)]


@pytest.mark.parametrize(
    ("expression", "expected"),
    {
        "": ["1.2.1", "1.2.2", "1.3.1"],
        'modality == "CT" and slices > 40 and kernel =~ "B.*f"': ["1.2.1"],
        "modality == 'MR'": ["1.3.1"],
        'kernel =~ "30"': [],
        'kernel =~~ "30"': ["1.2.1"],
        'not modality == "CT"': ["1.3.1"],
        'modality in ["CT", "PT"]': ["1.2.1", "1.2.2"],
        "spacing == 0.7": ["1.2.2"],
        "slices * 2 >= 60": ["1.2.1", "1.2.2"],
        'refused == ""': ["1.2.1", "1.2.2"],
        'patient == "P1" or slices == 0': ["1.2.1", "1.2.2", "1.3.1"],
    }.items(),
)
def test_an_expression_selects_the_rows_for_which_it_is_true(expression: str, expected: list[str]) -> None:
    assert chosen(expression) == expected


def test_a_value_that_the_headers_lack_meets_no_comparison_of_size_and_can_be_asked_for() -> None:
    assert chosen("ctdi_vol < 10") == ["1.2.1"]
    assert chosen("ctdi_vol > 10") == []
    assert chosen("ctdi_vol == null") == ["1.2.2", "1.3.1"]
    assert chosen("ctdi_vol != null and ctdi_vol < 10 or slices == 30") == ["1.2.1", "1.2.2"]


def test_every_column_can_be_named() -> None:
    assert chosen(" or ".join(f"{name} == null" for name, column in COLUMNS.items() if column.optional)) != []
    for name in COLUMNS:
        Selection(f"{name} == {name}")


@pytest.mark.parametrize(
    ("expression", "message"),
    {
        "slicse > 4": "unknown symbol",
        "modality == CT": "unknown symbol",
        "slices >": "syntax",
        "slices": "no condition",
        '"CT"': "no condition",
        'slices > "a"': "mismatch",
        'kernel =~ "("': "regular expression",
        "slices > 40 && modality == 'CT'": "syntax",
        "kernel.__class__ == 1": "unknown attribute",
        "__import__('os')": "not valid",
        "slices > 0 " * 400: "characters",
    }.items(),
)
def test_an_expression_that_is_not_valid_is_refused_before_anything_is_read(expression: str, message: str) -> None:
    with pytest.raises(CtbasisError, match=message) as caught:
        Selection(expression)
    assert "slices" in caught.value.expected
    assert caught.value.remedy


def test_a_misspelt_column_is_refused_with_the_one_that_is_meant() -> None:
    with pytest.raises(CtbasisError) as caught:
        Selection("slicse > 4")
    assert caught.value.cause == "slices is meant"


HOSTILE = {
    "a regular expression of exponential time": 'kernel =~ "(a+)+b"',
    "a power without end": "9 ** 99999999 ** 99999999 > slices",
    "deep nesting": f"{'(' * 900}slices > 1{')' * 900}",
    "many negations": f"{'not ' * 450}slices > 1",
    "nested comprehensions": "[a for a in [b for b in kernel]].length > 0",
    "a file": "$read('/etc/passwd') == ''",
    "a long text": "kernel + kernel == kernel",
}


@pytest.mark.parametrize("attack", HOSTILE)
def test_a_hostile_expression_ends_in_bounded_time_without_a_traceback(
    attack: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "MAX_SECONDS", 1.0)
    row = SeriesRow(patient="P", study="1", series="2", kernel="a" * 60)
    start = time.process_time()
    try:
        chosen(HOSTILE[attack], [row])
    except CtbasisError as error:
        assert error.remedy == "correct the expression"  # noqa: PT017 - some are merely true or false
    assert time.process_time() - start < 5


def test_a_regular_expression_of_exponential_time_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selection, "MAX_SECONDS", 0.5)
    row = SeriesRow(patient="P", study="1", series="2", kernel="a" * 60)
    with pytest.raises(CtbasisError, match=r"more than 0\.5 s"):
        chosen('kernel =~ "(a+)+b"', [row])


@pytest.mark.parametrize("expression", ["open('x', 'w') == 1", "$open('x', 'w') == 1", "kernel.open == 1"])
def test_an_expression_calls_no_function_of_python(
    expression: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        assert chosen(expression) == []
    except CtbasisError as error:
        assert error.remedy == "correct the expression"  # noqa: PT017 - one is refused, another is never true
    assert not list(tmp_path.iterdir())


def test_rows_are_selected_in_batches_in_their_order() -> None:
    rows = [SeriesRow(patient="P", study="1", series=str(number), slices=number) for number in range(600)]
    assert chosen("slices >= 255", rows) == [str(number) for number in range(255, 600)]


def test_a_row_survives_json_and_a_damaged_one_is_refused() -> None:
    row = ROWS[0]
    assert SeriesRow.from_json(row.to_json()) == row
    damages: tuple[dict[str, object], ...] = (
        {"slices": "many"},
        {"slices": True},
        {"spacing": float("nan")},
        {"reasons": []},
        {"orientation": [""]},
    )
    for damage in damages:
        with pytest.raises(CtbasisError, match="not valid"):
            SeriesRow.from_json({**row.to_json(), **damage})
    with pytest.raises(CtbasisError, match="not those of a row"):
        SeriesRow.from_json({**row.to_json(), "more": 1})
