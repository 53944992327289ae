"""Measure the SVD on a cluster with 1 and with 2 executors: `make scaling`, or `python -m tests.e2e.scaling --help`.

Each measurement is the compiled pipeline up to its svd step, in the order 1, 2, 1, 2, ... so that a machine that slows
down slows both. Spark's own event log tells what each task read, wrote and sent, and how much memory was in use.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ctbasis.simulate.phantom import write_chest
from tests.e2e.cluster import CHECKOUT, new_namespace
from tests.e2e.kfp_namespace import RunNamespace, small_package
from tests.e2e.kfp_pods import BUCKET, BUCKET_PATH
from tests.e2e.object_store import object_store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.e2e.kfp_run import Run

PHANTOM = {"slices": 133, "rows": 512, "columns": 512, "seed": 3}
"""As large as LIDC-IDRI-0001, for where CTBASIS_E2E_SERIES names no series."""

EVENTS = "/events"
MIB = 2**20


@dataclass
class Spent:
    """What one application spent, from its event log.

    Attributes:
        tasks: Of all jobs.
        stages: Of all jobs.
        shuffled: Bytes written to shuffles, by executor.
        results: Bytes that came to the driver as results of tasks.
        largest_result: Of one task.
        largest_shuffle: Bytes that one task wrote to a shuffle.
        busy: Seconds of tasks, by executor.
        on_cpu: Of these, the JVM's own on a processor; the rest is Python's, the garbage collector's, or waiting.
        collecting: Of these, the garbage collector's.
        heap: Peak of the JVM's heap in use, by executor; `driver` is one.
    """

    tasks: int = 0
    stages: int = 0
    shuffled: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    results: int = 0
    largest_result: int = 0
    largest_shuffle: int = 0
    busy: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    on_cpu: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    collecting: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    heap: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    @classmethod
    def of(cls, events: Iterable[str]) -> Spent:
        """Read an event log, a JSON document a line."""
        spent = cls()
        for line in events:
            event = json.loads(line)
            if event["Event"] == "SparkListenerTaskEnd" and event.get("Task Metrics"):
                spent._add_task(event)
            elif event["Event"] == "SparkListenerStageCompleted":
                spent.stages += 1
            elif event["Event"] == "SparkListenerStageExecutorMetrics":
                executor, used = event["Executor ID"], event["Executor Metrics"]["JVMHeapMemory"]
                spent.heap[executor] = max(spent.heap[executor], used)
        return spent

    def _add_task(self, event: dict[str, Any]) -> None:
        executor, metrics = event["Task Info"]["Executor ID"], event["Task Metrics"]
        written = metrics["Shuffle Write Metrics"]["Shuffle Bytes Written"]
        self.tasks += 1
        self.shuffled[executor] += written
        self.largest_shuffle = max(self.largest_shuffle, written)
        self.results += metrics["Result Size"]
        self.largest_result = max(self.largest_result, metrics["Result Size"])
        self.busy[executor] += metrics["Executor Run Time"] / 1e3
        self.on_cpu[executor] += metrics["Executor CPU Time"] / 1e9
        self.collecting[executor] += metrics["JVM GC Time"] / 1e3


@dataclass
class Measured:
    """One run.

    Attributes:
        executors: How many it had.
        step: Seconds of the svd step's pod, the starts of pod, driver and executors in it.
        job: Seconds of the Spark job alone: the driver's `done in`.
        spent: By the application.
    """

    executors: int
    step: float
    job: float
    spent: Spent


def measure(runs: RunNamespace, series: str, executors: int, *, rank: int, power_iters: int) -> Measured:
    """Run the pipeline up to its svd step with so many executors of one core each."""
    _prepare(runs, executors)
    package = small_package(until="svd", svd_memory="3Gi")
    wanted = {"rank": str(rank), "ranks": str(rank), "power_iters": power_iters, "seed": 7}
    run = runs.run(package, source=series, engine="mahout", **wanted).succeed()
    (job,) = re.findall(r"^svd: done in ([\d.]+) s", run.log("svd"), re.MULTILINE)
    return Measured(executors, run.seconds_of("svd"), float(job), Spent.of(_events(runs, run)))


def _prepare(runs: RunNamespace, executors: int) -> None:
    template = yaml.safe_load((CHECKOUT / "manifests/application/sparkapplication.yaml").read_text())["spec"]
    runs.change_template(
        volumes=[*template["volumes"], {"name": "events", "persistentVolumeClaim": {"claimName": BUCKET}}],
        driver={"volumeMounts": [*template["driver"]["volumeMounts"], {"name": "events", "mountPath": EVENTS}]},
        executor={"instances": executors},
        sparkConf={
            # All executors are there before the first task: their start is no part of how the SVD scales.
            "spark.scheduler.minRegisteredResourcesRatio": "1.0",
            "spark.scheduler.maxRegisteredResourcesWaitingTime": "120s",
            "spark.eventLog.enabled": "true",
            "spark.eventLog.dir": f"file://{EVENTS}",
            "spark.eventLog.logStageExecutorMetrics": "true",
            "spark.executor.metrics.pollingInterval": "200",
        },
    )


def _events(runs: RunNamespace, run: Run) -> list[str]:
    """Bring an application's event log home; the driver wrote it to the claim that stands for KFP's bucket."""
    (mine,) = (one for one in runs.applications() if run.run_id in one["metadata"]["name"])
    name = mine["status"]["sparkApplicationId"]
    return runs.kubectl("exec", "workbench", "--", "cat", f"{BUCKET_PATH}/{name}").splitlines()


def report(all_measured: list[Measured]) -> str:
    """Return the measurements as a Markdown table, then the values that docs/explanation/cluster.md calculates from."""
    lines = ["| executors | svd step, s | Spark job, s | all, s |", "| --- | --- | --- | --- |"]
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
            f"  to shuffles, MiB, by executor: {by_executor}; of one task at most {spent.largest_shuffle} bytes",
            f"  results to the driver: {spent.results / MIB:.2f} MiB; of one task at most {spent.largest_result} bytes",
            f"  seconds of tasks (on a processor, collecting garbage), by executor: {busy}",
            f"  peak heap in use, MiB: {heap}",
        ]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.scaling", description=__doc__)
    parser.add_argument("--rank", type=int, default=50, help="k (default: %(default)s)")
    parser.add_argument("--power-iters", type=int, default=2, help="q (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="of each count of executors (default: %(default)s)")
    parser.add_argument("--executors", default="1,2", help="counts, separated by commas (default: %(default)s)")
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
        wanted = {"rank": options.rank, "power_iters": options.power_iters}
        all_measured = [measure(runs, uri, count, **wanted) for _ in range(options.repeats) for count in counts]
        print(report(all_measured))  # noqa: T201


if __name__ == "__main__":
    main()
