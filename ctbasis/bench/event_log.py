"""Resources that a Spark application used, from its event log."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Iterable

SETTINGS = {
    "spark.eventLog.enabled": "true",
    # One file of JSON lines, as `Spent.of` reads it.
    "spark.eventLog.rolling.enabled": "false",
    "spark.eventLog.compress": "false",
    "spark.eventLog.logStageExecutorMetrics": "true",
    "spark.executor.metrics.pollingInterval": "200",
}
"""Settings of an application whose event log is read; `spark.eventLog.dir` is to be set too."""


@dataclass
class Spent:
    """Resources that one application used.

    Attributes:
        tasks: Number of tasks of all jobs.
        stages: Number of stages of all jobs.
        shuffled: Bytes written to shuffles, by executor.
        results: Bytes of task results sent to the driver.
        largest_result: Largest result of one task, bytes.
        largest_shuffle: Largest shuffle write of one task, bytes.
        busy: Task time in seconds, by executor.
        on_cpu: Part of it on a processor in the JVM; the rest is Python, garbage collection, or waiting.
        collecting: Part of it in garbage collection.
        heap: Peak heap use of the JVM in bytes, by executor; `driver` is one.
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
    def of(cls, events: Iterable[str]) -> Self:
        """Read an event log with one JSON document per line."""
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
