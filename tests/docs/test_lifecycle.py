"""The page on how a run ends states the times and the names that the code has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from ctbasis.cli.sweep import sweep
from ctbasis.jobs.timeouts import Timeouts
from ctbasis.kubeflow.package import PACKAGE
from ctbasis.steps import fetch, notes
from ctbasis.storage import object_store, stores

PAGE = (Path(__file__).parents[2] / "docs" / "explanation" / "lifecycle.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("row", "seconds"),
    [
        ("S3, during the fetch", fetch.PATIENCE_SECONDS),
        ("S3, with `--store`", object_store.RETRY_SECONDS),
        ("the API server of the cluster", Timeouts.api_server),
        ("the image of driver or executors", Timeouts.image),
    ],
)
def test_a_patience_is_that_of_the_code(row: str, seconds: float) -> None:
    stated = re.search(rf"^\| {re.escape(row)} \|.*?\| (\d+) minutes", PAGE, re.MULTILINE)
    assert stated
    assert int(stated[1]) * 60 == seconds


def test_the_days_of_a_failed_run_are_those_of_the_package_and_of_the_sweep() -> None:
    platform = list(yaml.safe_load_all(PACKAGE.read_text(encoding="utf-8")))[1]
    days = platform["platforms"]["kubernetes"]["pipelineConfig"]["resourceTtlOnFailure"] / 86400
    (older_than,) = (option for option in sweep.params if option.name == "older_than")
    assert older_than.default == f"{days:.0f}d"
    assert set(re.findall(r"(\d+) days (?:later|after a failure)|ago \((\d+) days\)", PAGE)) == {("3", ""), ("", "3")}
    assert days == 3


def test_the_files_that_the_page_names_are_those_of_the_code() -> None:
    assert f"`{notes.FOLDER}/STEP.json`" in PAGE
    assert f"`{stores.MARK}`" in PAGE
