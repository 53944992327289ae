"""The compiled package of cohorts on Argo Workflows: twelve series, three at a time, one of them broken.

A second run factors a group in global mode and loses an executor in the middle. `make chaos` runs these tests, because
the 150 pods of a cohort take a quarter of an hour and more.
"""

from __future__ import annotations

import csv
import io
import sys
from typing import TYPE_CHECKING

import pytest

from ctbasis.spark.launch import application_name
from pipeline.cohort import PARALLELISM
from tests.cohort.sources import break_pixels, write_one
from tests.e2e.cluster import wait_until
from tests.e2e.kfp_namespace import cohort_package
from tests.e2e.svd_runs import jobs_done, kill_container

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.kfp_namespace import RunNamespace
    from tests.e2e.kfp_run import Run

pytestmark = pytest.mark.chaos

SERIES, BROKEN = 12, 5
PATCH = {"mode": "patch", "engine": "numpy", "stride": 3, "wiener": False, "seed": 7}
GLOBAL = {"mode": "global", "engine": "mahout", "rank": "20", "ranks": "20,40", "seed": 7, "power_iters": 16}
COHORT_SECONDS = 3000.0
"""Seconds for about 150 pods, most of which only start and end."""

READ = """
import sys
import boto3
from botocore.config import Config
s3 = boto3.client("s3", config=Config(s3={"addressing_style": "path"}))
print(s3.get_object(Bucket=sys.argv[1], Key=sys.argv[2])["Body"].read().decode("utf-8-sig"))
"""


@pytest.fixture(scope="module")
def source(runs: RunNamespace, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """Upload twelve series of several sizes, one of them broken; return their URI and their SeriesInstanceUIDs."""
    folder: Path = tmp_path_factory.mktemp("cohort") / "ct"
    uids = [write_one(folder / f"exam-{number:02d}", number) for number in range(SERIES)]
    break_pixels(folder / f"exam-{BROKEN:02d}")
    return runs.upload(folder, "cohort"), uids


def summary(runs: RunNamespace, prefix: str) -> dict[str, dict[str, str]]:
    """Return the rows of the summary of an output by SeriesInstanceUID."""
    text = runs.python(READ, runs.name, f"{prefix}/summary.csv")
    return {row["series"]: row for row in csv.DictReader(io.StringIO(text))}


def at_the_same_time(run: Run) -> int:
    """Return the largest number of items of the loop that had pods at the same time.

    An item's own node starts when the loop reads its list; the first of its pods starts when there is room for it.
    """
    nodes = (run.workflow() or {})["status"]["nodes"]
    spans: dict[str, list[str]] = {}
    for pod in (node for node in nodes.values() if node["type"] == "Pod"):
        above = pod
        while above and not above["displayName"].startswith("iteration-iterations("):
            above = nodes.get(above.get("boundaryID", ""))
        if above:
            spans.setdefault(above["id"], []).extend((pod["startedAt"], pod["finishedAt"]))
    assert len(spans) >= SERIES
    changes = sorted(change for times in spans.values() for change in ((min(times), 1), (max(times), -1)))
    counts, running = [], 0
    for _, change in changes:
        running += change
        counts.append(running)
    return max(counts)


def test_a_cohort_of_twelve_series_is_denoised_three_at_a_time_and_a_broken_one_costs_itself(
    runs: RunNamespace, source: tuple[str, list[str]]
) -> None:
    uri, uids = source
    arguments = {"source": uri, "out": f"s3://{runs.name}/results", **PATCH}
    run = runs.run(cohort_package(), **arguments).finish(COHORT_SECONDS).succeed()
    sys.stderr.write(f"\n{run.overhead()}\n")
    rows = summary(runs, "results")
    states = {uid: rows[uid]["state"] for uid in uids}
    assert states == {uid: "failed" if number == BROKEN else "done" for number, uid in enumerate(uids)}
    assert rows[uids[BROKEN]]["reason"]
    assert 1 < at_the_same_time(run) <= PARALLELISM
    metrics = run.executions()["summary"].artifacts["metrics"]["metadata"]
    assert (metrics["done"], metrics["failed"]) == (SERIES - 1, 1)
    complete = [key for key in runs.keys("results") if key.endswith("/series.json")]
    assert len(complete) == SERIES - 1
    assert {"summary.html", "summary.csv", "summary.parquet"} <= {
        key.removeprefix("results/") for key in runs.keys("results")
    }
    again = runs.run(cohort_package(), **arguments).finish(COHORT_SECONDS)
    assert again.state == "COMPLETE", again.end()
    assert len([one for one in again.tries if one.task == "fetch"]) == 1, "only the broken series is fetched again"
    assert [row["state"] for row in summary(runs, "results").values()].count("unchanged") == SERIES - 1


def test_an_executor_that_is_killed_costs_no_series_of_a_group(runs: RunNamespace, ct: Path) -> None:
    runs.change_template()
    out = f"s3://{runs.name}/global"
    run = runs.run(cohort_package(), source=runs.upload(ct), out=out, **GLOBAL)
    selector = f"sparkoperator.k8s.io/app-name={application_name(f'{run.run_id}-0001')},spark-role=executor"

    def running() -> list[str]:
        assert not run.state, run.end()
        found = runs.pods(selector)
        names = [one["metadata"]["name"] for one in found if one["status"]["phase"] == "Running"]
        return names if len(names) == 2 and jobs_done(run) >= 2 else []

    victims: list[str] = wait_until(running, "two executors run, and two jobs of the SVD are done")
    kill_container(runs, min(victims))
    run.succeed()
    (row,) = summary(runs, "global").values()
    assert row["state"] == "done"
    keys = runs.keys("global")
    assert any(key.startswith("global/_cohort/groups/") and key.endswith("/group.json") for key in keys)
