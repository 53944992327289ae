"""Measure the SVD on a cluster with 1 and with 2 executors: `make scaling`, or `python -m tests.e2e.scaling --help`.

Each measurement runs the compiled pipeline up to its svd step. The order is 1, 2, 1, 2, ..., so that a machine that
becomes slower affects both counts. The event log of Spark gives the bytes that each task read, wrote and sent, and the
memory in use.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from ctbasis.bench.event_log import SETTINGS, Spent
from ctbasis.simulate.phantom import write_chest
from tests.e2e.cluster import CHECKOUT, new_namespace
from tests.e2e.kfp_namespace import RunNamespace, small_package
from tests.e2e.kfp_templates import BUCKET, BUCKET_PATH
from tests.e2e.object_store import object_store

if TYPE_CHECKING:
    from tests.e2e.kfp_run import Run

PHANTOM = {"slices": 133, "rows": 512, "columns": 512, "seed": 3}
"""Arguments of the phantom that is used without CTBASIS_E2E_SERIES. It has the size of LIDC-IDRI-0001."""

EVENTS = "/events"
MIB = 2**20


@dataclass
class Measured:
    """One measured run.

    Attributes:
        executors: Number of executors.
        step: Seconds of the svd step's pod, including the starts of pod, driver and executors.
        job: Seconds of the Spark job, from the driver's line `done in`.
        spent: Resources that the application used.
    """

    executors: int
    step: float
    job: float
    spent: Spent


def measure(runs: RunNamespace, series: str, executors: int, *, rank: int, power_iters: int) -> Measured:
    """Run the pipeline up to its svd step with `executors` executors of one core each."""
    _prepare(runs, executors)
    package = small_package(until="svd", svd_memory="3Gi")
    parameters = {"rank": str(rank), "ranks": str(rank), "power_iters": power_iters, "seed": 7}
    run = runs.run(package, source=series, engine="mahout", **parameters).succeed()
    (job,) = re.findall(r"^svd: done in ([\d.]+) s", run.log("svd"), re.MULTILINE)
    return Measured(executors, run.seconds_of("svd"), float(job), Spent.of(_events(runs, run)))


def _prepare(runs: RunNamespace, executors: int) -> None:
    template = yaml.safe_load((CHECKOUT / "manifests/application/sparkapplication.yaml").read_text())["spec"]
    runs.change_template(
        volumes=[*template["volumes"], {"name": "events", "persistentVolumeClaim": {"claimName": BUCKET}}],
        driver={"volumeMounts": [*template["driver"]["volumeMounts"], {"name": "events", "mountPath": EVENTS}]},
        executor={"instances": executors},
        sparkConf={
            # The first task waits for all executors, because their start-up time is not part of the scaling of the SVD.
            "spark.scheduler.minRegisteredResourcesRatio": "1.0",
            "spark.scheduler.maxRegisteredResourcesWaitingTime": "120s",
            **SETTINGS,
            "spark.eventLog.dir": f"file://{EVENTS}",
        },
    )


def _events(runs: RunNamespace, run: Run) -> list[str]:
    """Copy the event log of an application from the claim that replaces KFP's bucket, where the driver wrote it."""
    (mine,) = (one for one in runs.applications() if run.run_id in one["metadata"]["name"])
    name = mine["status"]["sparkApplicationId"]
    return runs.kubectl("exec", "workbench", "--", "cat", f"{BUCKET_PATH}/{name}").splitlines()


def report(all_measured: list[Measured]) -> str:
    """Return the measurements as a Markdown table, then the values that docs/explanation/cluster.md calculates from."""
    lines = ["| executors | svd step, s | Spark job, s | single runs, s |", "| --- | --- | --- | --- |"]
    medians = {}
    for executors in sorted({one.executors for one in all_measured}):
        mine = [one for one in all_measured if one.executors == executors]
        medians[executors] = statistics.median(one.job for one in mine)
        each = ", ".join(f"{one.job:.1f}" for one in mine)
        lines.append(
            f"| {executors} | {statistics.median(one.step for one in mine):.1f} | {medians[executors]:.1f} | {each} |"
        )
    first, last = min(medians), max(medians)
    lines += ["", f"{last} executors are {medians[first] / medians[last]:.2f} times as fast as {first}."]
    for one in (next(one for one in all_measured if one.executors == count) for count in (first, last)):
        spent = one.spent
        by_executor = ", ".join(f"{name}: {amount / MIB:.2f}" for name, amount in sorted(spent.shuffled.items()))
        busy = ", ".join(
            f"{name}: {seconds:.1f} ({spent.on_cpu[name]:.1f}, {spent.collecting[name]:.1f})"
            for name, seconds in sorted(spent.busy.items())
        )
        heap = ", ".join(f"{name}: {used / MIB:.0f}" for name, used in sorted(spent.heap.items()))
        lines += [
            "",
            f"{one.executors} executor(s): {spent.stages} stages, {spent.tasks} tasks",
            f"  shuffle MiB written per executor: {by_executor}; per task at most {spent.largest_shuffle} bytes",
            f"  results to the driver: {spent.results / MIB:.2f} MiB; per task at most {spent.largest_result} bytes",
            f"  task time in s (on a processor, in garbage collection), per executor: {busy}",
            f"  peak heap use, MiB: {heap}",
        ]
    return "\n".join(lines)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.scaling", description=__doc__)
    parser.add_argument("--rank", type=int, default=50, help="k (default: %(default)s)")
    parser.add_argument("--power-iters", type=int, default=2, help="q (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs per number of executors (default: %(default)s)")
    parser.add_argument(
        "--executors", default="1,2", help="numbers of executors, separated by commas (default: %(default)s)"
    )
    options = parser.parse_args()
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        given = os.environ.get("CTBASIS_E2E_SERIES")
        if given:
            series = Path(given)
        else:
            series = scratch / "phantom"
            write_chest(series, **PHANTOM)
        sys.stderr.write(f"scaling: {f'the series {series.name}' if given else f'a phantom, {PHANTOM}'}\n")
        name = stack.enter_context(new_namespace())
        runs = RunNamespace.create(name, object_store(name), scratch)
        stack.callback(runs.empty_bucket)
        uri = runs.upload(series)
        counts = [int(count) for count in options.executors.split(",")]
        parameters = {"rank": options.rank, "power_iters": options.power_iters}
        all_measured = [measure(runs, uri, count, **parameters) for _ in range(options.repeats) for count in counts]
        print(report(all_measured))  # noqa: T201


if __name__ == "__main__":
    main()
