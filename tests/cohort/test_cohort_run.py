"""A cohort run: one bad series costs itself, and a second run does what is missing or changed, and nothing twice."""

from __future__ import annotations

import shutil
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pydicom
import pytest

from ctbasis.cohort.outcome import UNNAMED
from ctbasis.cohort.plan import CohortPlan
from ctbasis.cohort.record import SeriesRecord, State
from ctbasis.cohort.run import run_cohort
from ctbasis.cohort.state import check_settings, note_settings
from ctbasis.cohort.summary import SUMMARY
from ctbasis.cohort.template import BY_PATIENT, KEEP_TREE
from ctbasis.dicom.deidentify.pseudonyms import SALT
from ctbasis.errors import CtbasisError
from ctbasis.storage.object_store import ObjectStore
from ctbasis.storage.outputs import Results
from ctbasis.storage.working_folder import LOCK, WORK
from tests.cohort.sources import break_pixels, write_small

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ctbasis.cohort.outcome import CohortDone

FAST = {"mode": "patch", "stride": 5, "wiener": False}
"""Parameters that take little time."""


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the indexes of inventories out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def plan_of(source: Path, out: Path | str, **changes: Any) -> CohortPlan:
    return replace(CohortPlan(str(source), str(out), KEEP_TREE, parameters=FAST), **changes)


def by_series(done: CohortDone) -> dict[str, SeriesRecord]:
    return {record.row.series: record for record in done.records}


def states(done: CohortDone) -> dict[str, State]:
    return {series: record.state for series, record in by_series(done).items()}


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Return inode and time of change of every file: what a rewritten file does not keep."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def remains(folder: Path) -> list[Path]:
    return [path for path in folder.parent.rglob("*") if WORK in path.name or path.name.endswith(LOCK)]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, list[str], CohortDone]:
    """Run a cohort of a good, a broken, and another good series, and of one that is lost before it is fetched."""
    folder = tmp_path_factory.mktemp("cohort")
    source, out = folder / "ct", folder / "out"
    uids = [write_small(source / name, number) for number, name in enumerate(("a", "bad", "c/d", "lost"))]
    break_pixels(source / "bad")
    (source / "notes.txt").write_text("no image")

    def lose(plan: CohortPlan) -> None:
        shutil.rmtree(source / "lost")
        note_settings(plan)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ctbasis.cohort.run.note_settings", lose)
        done = run_cohort(plan_of(source, out))
    return source, out, uids, done


def test_a_broken_and_a_lost_series_cost_themselves_and_are_named_with_the_reason(
    first: tuple[Path, Path, list[str], CohortDone],
) -> None:
    _, out, (good, broken, other, lost), done = first
    assert states(done) == {good: State.DONE, broken: State.FAILED, other: State.DONE, lost: State.FAILED}
    records = by_series(done)
    assert "can be decoded" in records[broken].reason
    assert "not readable" in records[lost].reason
    assert str(out.parent) not in records[broken].reason
    assert done.is_partial
    assert {name for name in SUMMARY if (out / name).is_file()} == set(SUMMARY)
    text = (out / "summary.csv").read_text()
    assert all(uid in text for uid in (good, broken, other, lost))


def test_the_summary_of_a_de_identified_cohort_names_no_file_of_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SALT, "5a" * 16)
    write_small(tmp_path / "ct" / "Doe_Jane", 0)
    break_pixels(tmp_path / "ct" / "Doe_Jane")
    write_small(tmp_path / "ct" / "good", 1)
    done = run_cohort(
        plan_of(tmp_path / "ct", tmp_path / "out", template=BY_PATIENT, parameters={**FAST, "deidentify": True})
    )
    assert sorted(record.state for record in done.records) == sorted((State.DONE, State.FAILED))
    for name in SUMMARY:
        content = (tmp_path / "out" / name).read_bytes()
        assert b"Doe" not in content, name
        assert name.endswith(".parquet") or UNNAMED.encode() in content, name


def test_each_series_has_a_folder_of_its_own_that_keeps_the_tree_of_the_source(
    first: tuple[Path, Path, list[str], CohortDone],
) -> None:
    _, out, (good, _, other, _), done = first
    for uid, folder in ((good, f"a/{good}"), (other, f"c/d/{other}")):
        record = by_series(done)[uid]
        assert record.folder == folder
        assert Results().foreign(out / folder) is None
        assert (out / record.report).is_file()
        slices = [pydicom.dcmread(path) for path in (out / folder / "denoised").iterdir()]
        assert len(slices) == record.row.slices
        assert record.noise_before is not None
        assert record.thumbnail == b"", "a long run does not hold the thumbnails"
    assert remains(out) == []
    assert not (out / "bad").exists()


def test_a_second_run_denoises_nothing_again_and_changes_no_file_of_a_series(
    first: tuple[Path, Path, list[str], CohortDone], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out, (good, broken, other, _), _ = first
    # The same content under another date is the same series: it is fetched, and not denoised.
    for path in (source / "a").iterdir():
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    # A series that changed is done; its neighbours are not.
    shutil.rmtree(source / "bad")
    write_small(source / "bad", 1)
    before = {name: snapshot(out / name) for name in ("a", "c")}
    done = run_cohort(plan_of(source, out))
    assert states(done) == {good: State.UNCHANGED, broken: State.DONE, other: State.UNCHANGED}
    assert not done.is_partial
    assert snapshot(out / "c") == before["c"]
    stamped = {name for name, key in snapshot(out / "a").items() if before["a"][name] != key}
    assert stamped == {f"{good}/series.json"}
    assert Results().foreign(out / "a" / good) is None
    monkeypatch.setattr("ctbasis.cohort.outcome.write_summary", lambda *_, **__: None)
    whole = snapshot(out)
    assert set(states(run_cohort(plan_of(source, out))).values()) == {State.UNCHANGED}
    changed = {name for name, key in snapshot(out).items() if whole[name] != key}
    assert changed == {"cohort.json"}


def test_other_settings_into_the_same_output_are_refused_by_name_unless_told(
    first: tuple[Path, Path, list[str], CohortDone], tmp_path: Path
) -> None:
    source, out, _, _ = first
    other = plan_of(source, out, parameters={**FAST, "tau": 2.5})
    with pytest.raises(CtbasisError, match="other settings") as refused:
        run_cohort(other)
    assert refused.value.details == ("tau: 3.0 before, 2.5 now",)
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    # What concerns no result may differ.
    check_settings(plan_of(source, copy, parameters={**FAST, "memory": "1GiB"}, parallelism=3), again=False)
    assert check_settings(replace(other, out=str(copy)), again=True)


def test_an_output_with_other_files_is_refused_and_unchanged(tmp_path: Path) -> None:
    write_small(tmp_path / "ct", 0)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    with pytest.raises(CtbasisError, match=r"it holds mine\.txt"):
        run_cohort(plan_of(tmp_path / "ct", tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_two_series_in_one_folder_are_refused_before_anything_runs(tmp_path: Path) -> None:
    uids = [write_small(tmp_path / "ct" / str(number), number) for number in range(2)]
    with pytest.raises(CtbasisError, match="maps two series to the folder") as refused:
        run_cohort(plan_of(tmp_path / "ct", tmp_path / "out", template="{PatientID}"))
    assert all(any(uid in line for line in refused.value.details) for uid in uids)
    assert list((tmp_path / "out").iterdir()) == []
    assert remains(tmp_path / "out") == []


def test_one_series_uid_in_two_patients_is_two_series(tmp_path: Path) -> None:
    uid = write_small(tmp_path / "ct" / "one", 0)
    write_small(tmp_path / "ct" / "two", 0, seed=9)
    for path in (tmp_path / "ct" / "two").iterdir():
        ds = pydicom.dcmread(path)
        ds.PatientID, ds.StudyInstanceUID = "OTHER", f"{ds.StudyInstanceUID}.7"
        ds.save_as(path)
    with pytest.raises(CtbasisError, match="maps two series to the folder"):
        run_cohort(plan_of(tmp_path / "ct", tmp_path / "out", template="{SeriesInstanceUID}"))
    done = run_cohort(plan_of(tmp_path / "ct", tmp_path / "out", template=BY_PATIENT))
    assert [(record.row.series, record.state) for record in done.records] == [(uid, State.DONE)] * 2
    folders = [tmp_path / "out" / record.folder for record in done.records]
    patients = {pydicom.dcmread(next((folder / "denoised").iterdir())).PatientID for folder in folders}
    assert patients == {"P0000", "OTHER"}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"where": "slices > 1000"}, "selects none of the 1 series"),
        ({"where": "slicess > 1"}, "slicess"),
        ({"template": "{PatientName}"}, "unknown field"),
        ({"basis_from": 2, "parameters": {"mode": "global", "rank": "2"}}, "in global mode"),
        ({"basis_from": 2, "parameters": {**FAST, "basis": "/basis"}}, "stored basis is given"),
        ({"parameters": {**FAST, "deidentify": True}, "template": BY_PATIENT}, f"{SALT} is not set"),
        ({"parameters": {**FAST, "deidentify": True}}, "keys of the source"),
        ({"parameters": {**FAST, "tau": -1.0}}, "tau"),
    ],
)
def test_what_cannot_run_is_refused_before_a_process_starts(
    changes: dict[str, Any], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SALT, raising=False)
    write_small(tmp_path / "ct", 0)
    with pytest.raises(CtbasisError, match=match):
        run_cohort(plan_of(tmp_path / "ct", tmp_path / "out", **changes))


def test_a_source_without_ct_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / "a.txt").write_text("x")
    with pytest.raises(CtbasisError, match="holds no series that can be denoised"):
        run_cohort(plan_of(tmp_path / "ct", tmp_path / "out"))


def test_joined_series_share_a_basis_and_a_report_and_a_broken_one_costs_itself(tmp_path: Path) -> None:
    uids = [write_small(tmp_path / "ct" / str(number), number) for number in range(3)]
    break_pixels(tmp_path / "ct" / "1")
    parameters = {"mode": "global", "rank": "4", "ranks": "4", "engine": "numpy", "seed": 1}
    done = run_cohort(plan_of(tmp_path / "ct", tmp_path / "out", parameters=parameters))
    assert states(done) == dict(zip(uids, (State.DONE, State.FAILED, State.DONE), strict=True))
    one, _, other = done.records
    assert one.report == other.report
    group = (tmp_path / "out" / one.report).parent
    assert (group / "basis" / "zarr.json").is_file()
    for record in (one, other):
        written = list((tmp_path / "out" / record.folder / "denoised").iterdir())
        assert len(written) == record.row.slices
        source = pydicom.dcmread(written[0]).SourceImageSequence[0].ReferencedSOPInstanceUID
        assert source.startswith(record.row.series)
    again = run_cohort(plan_of(tmp_path / "ct", tmp_path / "out", parameters=parameters))
    assert states(again) == dict(zip(uids, (State.UNCHANGED, State.FAILED, State.UNCHANGED), strict=True))


def test_one_basis_of_a_sample_serves_all_series_and_a_later_run(tmp_path: Path) -> None:
    uids = [write_small(tmp_path / "ct" / str(number), number) for number in (0, 3)]
    plan = plan_of(tmp_path / "ct", tmp_path / "out", basis_from=1)
    assert states(run_cohort(plan)) == dict.fromkeys(uids, State.DONE)
    root = (tmp_path / "out" / "_cohort" / "basis" / "zarr.json").read_bytes()
    assert states(run_cohort(plan)) == dict.fromkeys(uids, State.UNCHANGED)
    assert (tmp_path / "out" / "_cohort" / "basis" / "zarr.json").read_bytes() == root


def test_results_go_straight_to_s3_and_a_second_run_finds_them(prefix: str, tmp_path: Path) -> None:
    uid = write_small(tmp_path / "ct", 0)
    out = f"{prefix}/cohort"
    assert states(run_cohort(plan_of(tmp_path / "ct", out))) == {uid: State.DONE}
    keys = set(ObjectStore(out).sizes())
    assert {*SUMMARY, "cohort.json", f"{uid}/series.json", f"{uid}/report.html"} <= keys
    assert sum(key.startswith(f"{uid}/denoised/") for key in keys) == 8
    assert states(run_cohort(plan_of(tmp_path / "ct", out))) == {uid: State.UNCHANGED}
