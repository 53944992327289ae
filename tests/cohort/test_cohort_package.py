"""The compiled package of cohorts, run on this machine: the output of `ctbasis cohort`, and what a bad series costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ctbasis.cohort import pipeline_steps
from ctbasis.cohort.pipeline_steps import summarize_run, take_inventory
from ctbasis.cohort.plan import CohortPlan, PlannedSeries
from ctbasis.cohort.record import SeriesRecord, State
from ctbasis.cohort.state import Known, settings_digest
from ctbasis.cohort.summary import SUMMARY
from ctbasis.cohort.template import KEEP_TREE
from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.local import execute
from ctbasis.kubeflow.package import PACKAGES
from ctbasis.steps.job import MEMBERS, NOT_WRITTEN, read_job, run_program
from tests.cohort.sources import break_pixels, write_small

if TYPE_CHECKING:
    from collections.abc import Iterator

WHOLE = {"denoised", "noise", "basis", "figure1.png", "report.html", "metrics.json", "qc.json", "series.json"}
"""What the folder of a series holds in patch mode."""

PARAMETERS: dict[str, Any] = {"mode": "patch", "stride": 5, "wiener": False, "engine": "numpy"}


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """Run the package on a good and a broken series; return the folder and the SeriesInstanceUIDs."""
    folder = tmp_path_factory.mktemp("package")
    good, bad = (write_small(folder / "ct" / name, number) for number, name in enumerate(("good", "bad")))
    break_pixels(folder / "ct" / "bad")
    (folder / "first").mkdir()
    arguments = {"source": str(folder / "ct"), "out": str(folder / "out"), **PARAMETERS}
    execute(PACKAGES["cohort"], arguments, folder / "first")
    return folder, good, bad


def artifacts(folder: Path, name: str) -> list[Path]:
    return sorted((folder / "first" / "artifacts").rglob(name))


def test_a_bad_series_costs_itself_and_the_summary_names_it(ran: tuple[Path, str, str]) -> None:
    folder, good, bad = ran
    assert set(SUMMARY) < {path.name for path in (folder / "out").iterdir()}
    lines = (folder / "out" / "summary.csv").read_text(encoding="utf-8-sig").splitlines()
    states = {uid: line for uid in (good, bad) for line in lines if f"{uid}," in line or f'"{uid}"' in line}
    assert "done" in states[good]
    assert "failed" in states[bad]
    assert "pixel" in states[bad].lower()
    (page,) = artifacts(folder, "summary*/page")
    assert page.read_bytes() == (folder / "out" / "summary.html").read_bytes()


def test_the_steps_after_a_failed_one_pass_it_on_and_write_a_text_for_each_artifact(ran: tuple[Path, str, str]) -> None:
    folder, _, _ = ran
    for step, name in (("matrix", "qc"), ("svd", "basis"), ("reconstruct", "denoised"), ("report", "page")):
        both = artifacts(folder, f"{step}*/{name}")
        assert len(both) == 2
        assert sum(path.is_file() and path.read_text(encoding="utf-8") == NOT_WRITTEN for path in both) == 1


def test_the_output_is_that_of_a_local_run_and_a_second_run_has_a_job_for_the_bad_series_alone(
    ran: tuple[Path, str, str], tmp_path: Path
) -> None:
    folder, good, bad = ran
    result = folder / "out" / "good" / good
    stored = json.loads((result / "series.json").read_text())
    record = SeriesRecord.from_json(stored["record"])
    assert (record.state, record.report) == (State.DONE, f"good/{good}/report.html")
    assert set(stored["steps"]) == {"fetch", "matrix", "svd", "reconstruct", "report"}
    assert {path.name for path in result.iterdir() if not path.name.startswith(".")} == WHOLE
    plan = CohortPlan(str(folder / "ct"), str(folder / "out"), KEEP_TREE, parameters=PARAMETERS)
    before = Known.of(str(folder / "out"), PlannedSeries(record.row, record.folder))
    assert before is not None
    assert before.settings == settings_digest(plan, ""), "a local run with these settings finds the series unchanged"
    (item,) = take_inventory(plan, tmp_path, "again", again=False)
    (member,) = read_job(Path(item["workspace"]))[MEMBERS]
    assert member["row"]["series"] == bad


def test_a_run_in_which_every_series_failed_fails_with_their_reasons(
    ran: tuple[Path, str, str], tmp_path: Path
) -> None:
    folder, _, bad = ran
    plan = CohortPlan(str(folder / "ct" / "bad"), str(tmp_path / "out"), KEEP_TREE, parameters=PARAMETERS)
    (item,) = take_inventory(plan, tmp_path, "run", again=False)

    def fail() -> str:
        raise CtbasisError("the disk of the pod is full")

    assert run_program("fetch", item["workspace"], fail, otherwise="nothing") == "nothing"
    assert run_program("matrix", item["workspace"], lambda: "never", otherwise="left out") == "left out"
    with pytest.raises(CtbasisError, match=r"no series could be denoised(?s:.)*the disk of the pod is full"):
        summarize_run(tmp_path, tmp_path / "page.html")
    assert bad in (tmp_path / "out" / "summary.csv").read_text(encoding="utf-8-sig")


def test_a_run_without_anything_to_do_has_one_job_whose_steps_do_nothing(
    ran: tuple[Path, str, str], tmp_path: Path
) -> None:
    folder, good, _ = ran
    plan = CohortPlan(str(folder / "ct"), str(folder / "out"), KEEP_TREE, f'series == "{good}"', parameters=PARAMETERS)
    (item,) = take_inventory(plan, tmp_path, "again", again=False)
    artifact = tmp_path / "artifact"
    done = run_program("fetch", item["workspace"], lambda: "never", otherwise="", artifacts=[str(artifact)])
    assert (done, artifact.is_file()) == ("", True)
    assert summarize_run(tmp_path, tmp_path / "page.html") == {
        "done": 0,
        "unchanged": 1,
        "failed": 0,
        "set aside": 0,
        "not run": 0,
    }


def test_an_output_that_ends_with_the_pod_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(pipeline_steps, "pod_name", lambda: "a-pod")
    with pytest.raises(CtbasisError, match="is not on S3"):
        take_inventory(CohortPlan("s3://bucket/ct", "/out", KEEP_TREE), tmp_path, "run", again=False)
