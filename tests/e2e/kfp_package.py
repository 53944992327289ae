"""A compiled package: its two YAML documents, and the changes that a test makes to them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(__file__).parents[2] / "pipeline" / "denoise.yaml"
NOT_EMPTY = re.compile(r"inputs\.parameter_values\['pipelinechannel--(\w+)'\] != ''")
"""The condition that a parameter of the pipeline is not empty."""

EXIT_TASK = "ALL_UPSTREAM_TASKS_COMPLETED"


@dataclass
class Package:
    """A compiled package: the pipeline, and what its platform document says of Kubernetes."""

    spec: dict[str, Any]
    platform: dict[str, Any]

    @classmethod
    def read(cls, path: Path = PACKAGE) -> Self:
        documents = list(yaml.safe_load_all(path.read_text()))
        kubernetes = documents[1]["platforms"]["kubernetes"] if len(documents) > 1 else {}
        made = cls(documents[0], kubernetes)
        made.leave_out_conditional_tasks()
        return made

    def leave_out_conditional_tasks(self) -> None:
        """Remove each task with the condition that a parameter is not empty, if its default is empty.

        KFP's driver evaluates a condition in the run. The tests of runs give no such parameter, so the stand-ins for
        the driver and the compiler know no conditions; they refuse those that stay.
        """
        defaults = self.spec["root"].get("inputDefinitions", {}).get("parameters", {})
        for _, graph in list(self.graphs()):
            tasks = graph["dag"]["tasks"]
            for name, task in list(tasks.items()):
                found = NOT_EMPTY.fullmatch(task.get("triggerPolicy", {}).get("condition", ""))
                if found and defaults[found[1]].get("defaultValue") == "":
                    del tasks[name]
                    del self.spec["components"][task["componentRef"]["name"]]

    @property
    def name(self) -> str:
        return str(self.spec["pipelineInfo"]["name"])

    def component(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.spec["root"] if name == "root" else self.spec["components"][name]
        return found

    def container(self, component: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.spec["deploymentSpec"]["executors"][component["executorLabel"]]["container"]
        return found

    def kubernetes(self, component: dict[str, Any]) -> dict[str, Any]:
        executors = self.platform.get("deploymentSpec", {}).get("executors", {})
        found: dict[str, Any] = executors.get(component["executorLabel"], {})
        return found

    def graphs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the components that are graphs, by name; the first is `root`."""
        for name, component in {"root": self.spec["root"], **self.spec["components"]}.items():
            if "dag" in component:
                yield name, component

    def steps(self) -> dict[str, Any]:
        """Return the tasks that are steps and no exit handler, by name, to be changed in place."""
        return {
            name: task
            for _, graph in self.graphs()
            for name, task in graph["dag"]["tasks"].items()
            if "executorLabel" in self.component(task["componentRef"]["name"]) and not is_exit_task(task)
        }

    def end_at(self, task: str) -> None:
        """Remove the tasks that `task` does not depend on from each graph that contains it."""
        for _, graph in self.graphs():
            tasks = graph["dag"]["tasks"]
            if task in tasks:
                kept, found = set(), {task}
                while found := found - kept:
                    kept |= found
                    found = {name for one in found for name in tasks[one].get("dependentTasks", [])}
                graph["dag"]["tasks"] = {name: spec for name, spec in tasks.items() if name in kept}


def is_exit_task(task: dict[str, Any]) -> bool:
    """Tell whether a task is an exit handler."""
    return bool(task.get("triggerPolicy", {}).get("strategy") == EXIT_TASK)
