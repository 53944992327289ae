"""The folder of each series: any value is a safe path, and two series never share one."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctbasis.cohort.template import (
    BY_PATIENT,
    FIELDS,
    KEEP_TREE,
    LONGEST_PART,
    check_template,
    folder_of,
    refuse_shared_folders,
)
from ctbasis.errors import CtbasisError


@pytest.mark.parametrize("template", [KEEP_TREE, BY_PATIENT, "x/{Modality} {SeriesInstanceUID}"])
def test_templates_of_known_fields_are_accepted(template: str) -> None:
    check_template(template, deidentified=False)


@pytest.mark.parametrize(
    ("template", "match"),
    [
        ("{PatientName}", "unknown field 'PatientName'"),
        ("series", "no plain field"),
        ("", "no plain field"),
        ("{}", "unknown field"),
        ("{PatientID!r}", "no plain field"),
        ("{PatientID:>9}", "no plain field"),
        ("{PatientID.__class__}", "unknown field"),
        ("{PatientID", "expected '}'"),
        ("../{PatientID}", "no relative path"),
        ("/{PatientID}", "no relative path"),
        ("a//{PatientID}", "no relative path"),
        ("_cohort/{PatientID}", "begins with a dot or an underscore"),
    ],
)
def test_other_templates_are_refused_before_anything_runs(template: str, match: str) -> None:
    with pytest.raises(CtbasisError, match=match):
        check_template(template, deidentified=False)


def test_the_tree_of_the_source_is_refused_where_headers_are_deidentified() -> None:
    with pytest.raises(CtbasisError, match="keys of the source"):
        check_template(KEEP_TREE, deidentified=True)
    check_template(BY_PATIENT, deidentified=True)


@given(st.dictionaries(st.sampled_from(FIELDS), st.text(), min_size=len(FIELDS)))
def test_any_value_gives_a_path_below_the_output(values: dict[str, str]) -> None:
    for template in (KEEP_TREE, BY_PATIENT, "{SourceFolder}"):
        parts = PurePosixPath(folder_of(template, values)).parts
        assert parts
        assert all(part[0] not in "._/" and len(part.encode()) <= LONGEST_PART for part in parts)


@given(st.text(min_size=1), st.text(min_size=1))
def test_different_values_give_different_folders(one: str, other: str) -> None:
    folders = {folder_of("{PatientID}", {"PatientID": value}) for value in (one, other)}
    blank = {value.strip() for value in (one, other)}
    assert len(folders) == len(blank) or "none" in blank


@pytest.mark.parametrize(
    "folders",
    [["a", "a"], ["a/B", "a/b"], ["a", "a/b"], ["a/b", "a"], ["x/y/z", "q", "x"]],
)
def test_two_series_in_one_folder_or_one_within_the_other_are_refused_by_name(folders: list[str]) -> None:
    with pytest.raises(CtbasisError, match="maps two series to the folder") as refused:
        refuse_shared_folders((folder, f"series {number}") for number, folder in enumerate(folders))
    assert len(refused.value.details) == 2


def test_folders_side_by_side_are_accepted() -> None:
    refuse_shared_folders((folder, folder) for folder in ("a/b", "a/bc", "a.b", "b"))
