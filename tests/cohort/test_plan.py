"""Jobs of a cohort: what is computed at once, and how a later run knows it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ctbasis.cohort.plan import GROUP_BYTES, CohortPlan, Job, PlannedSeries, jobs_of, planned
from ctbasis.cohort.series_row import SeriesRow
from ctbasis.cohort.state import settings_digest
from ctbasis.cohort.template import KEEP_TREE
from ctbasis.errors import CtbasisError
from ctbasis.sources.source import RemoteObject

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def series(number: int, **changes: Any) -> PlannedSeries:
    values: dict[str, Any] = {"rows": 512, "columns": 512, "slices": 100, "spacing": 1.0, "pixel_spacing": 0.7}
    row = SeriesRow(
        patient="p", study="s", series=f"1.{number}", orientation=AXIAL, digest=str(number), **{**values, **changes}
    )
    return PlannedSeries(row, f"f{number}")


def numbers(jobs: list[Job]) -> list[list[str]]:
    return [[one.folder for one in job.series] for job in jobs]


def test_one_series_is_one_job_unless_series_are_joined() -> None:
    every = [series(number) for number in range(3)]
    assert numbers(jobs_of(every, join=False)) == [["f0"], ["f1"], ["f2"]]
    assert all(not job.group for job in jobs_of(every, join=False))
    (job,) = jobs_of(every, join=True)
    assert numbers([job]) == [["f0", "f1", "f2"]]
    assert job.group.startswith("_cohort/groups/512x512-")


@pytest.mark.parametrize(
    "other", [{"rows": 256}, {"columns": 256}, {"spacing": 2.0}, {"pixel_spacing": 0.8}, {"orientation": ()}]
)
def test_another_geometry_is_another_matrix(other: dict[str, Any]) -> None:
    one = series(1)
    changed = PlannedSeries(replace(one.row, series="2", **other), "f2")
    assert numbers(jobs_of([one, changed], join=True)) == [["f1"], ["f2"]]


def test_a_matrix_has_at_most_its_size_and_one_series_may_exceed_it() -> None:
    # 400 slices of 512 x 512 take 210 MB.
    every = [series(number, slices=400) for number in range(5)]
    jobs = jobs_of([*every, series(9, slices=2000)], join=True)
    assert numbers(jobs) == [["f0", "f1"], ["f2", "f3"], ["f4"], ["f9"]]
    for job in jobs[:3]:
        assert sum(2 * one.row.rows * one.row.columns * one.row.slices for one in job.series) <= GROUP_BYTES


def test_series_with_one_uid_never_share_a_matrix() -> None:
    one = series(1)
    twin = PlannedSeries(replace(one.row, patient="q"), "twin")
    assert numbers(jobs_of([one, twin], join=True)) == [["f1"], ["twin"]]


def test_a_job_is_known_by_the_listing_of_all_its_series() -> None:
    stamps = {Job((series(1), series(2))).stamp, Job((series(2), series(1))).stamp, Job((series(1),)).stamp}
    assert len(stamps) == 2


def test_the_tree_of_the_source_is_kept_and_what_a_key_may_hold_is_encoded() -> None:
    row = series(1).row
    objects = [RemoteObject(key, key, 1, "") for key in ("a/b:c/1.dcm", "a/b:c/d/2.dcm", "a/b:c/d/3.dcm")]
    (one,) = planned([(row, objects)], KEEP_TREE)
    assert one.folder == "a/b%3Ac/1.1"


def test_two_series_of_one_folder_get_a_folder_each() -> None:
    objects = [RemoteObject("1.dcm", "1.dcm", 1, "")]
    every = planned([(series(number).row, objects) for number in (1, 2)], KEEP_TREE)
    assert [one.folder for one in every] == ["1.1", "1.2"]
    with pytest.raises(CtbasisError, match="maps two series"):
        planned([(series(number).row, objects) for number in (1, 2)], "{SourceFolder}")


def test_settings_that_change_a_result_change_the_digest_and_others_do_not() -> None:
    plan = CohortPlan("/ct", "/out", KEEP_TREE, parameters={"mode": "patch"})
    same = [
        plan,
        replace(plan, parallelism=4, where="slices > 1"),
        replace(plan, parameters={"mode": "patch", "memory": "1GiB"}),
        replace(plan, parameters={"mode": "patch", "tau": 3.0}),
    ]
    assert len({settings_digest(one, "") for one in same}) == 1
    other = [
        plan,
        replace(plan, parameters={"mode": "patch", "tau": 2.0}),
        replace(plan, basis_from=3),
        replace(plan, parameters={"mode": "patch", "compress": "rle"}),
        replace(plan, parameters={"mode": "global"}),
    ]
    assert len({settings_digest(one, "") for one in other}) == len(other)


def test_global_mode_and_engines_on_spark_join_series() -> None:
    def joins(**parameters: str) -> bool:
        return CohortPlan("/ct", "/out", KEEP_TREE, parameters=parameters).joins_series

    assert joins(mode="global", engine="numpy")
    assert joins(mode="patch", engine="mahout")
    assert not joins(mode="patch")
    assert not joins(mode="patch", engine="numpy")
