"""A compiled pipeline as KFP's own protobuf messages, with the references between its parts resolved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import json_format
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineDeploymentConfig, PipelineSpec

from ctbasis.kubeflow.lint.paths import join_path

if TYPE_CHECKING:
    from ctbasis.kubeflow.lint.paths import Document


class Pipeline:
    """A compiled pipeline.

    Args:
        document: The first YAML document of the package. Each of its keys is known and has a value of its type.

    Attributes:
        executors: The executors, by label.
        components: The components, by name, without the root.
        parts: (path, `ComponentSpec`) of the root and of every component.
        tasks: (path, `PipelineTaskSpec`, the `ComponentSpec` whose dag contains the task) of every task.
    """

    def __init__(self, document: Document) -> None:
        spec = json_format.ParseDict(dict(document), PipelineSpec())
        self.executors = json_format.ParseDict(document["deploymentSpec"], PipelineDeploymentConfig()).executors
        self.components = spec.components
        self.parts = [
            ("root", spec.root),
            *((join_path("components", name), component) for name, component in sorted(spec.components.items())),
        ]
        self.tasks = [
            (join_path(where, "dag", "tasks", name), task, parent)
            for where, parent in self.parts
            for name, task in parent.dag.tasks.items()
        ]

    def component_of(self, task: Any) -> Any | None:
        """Return the component that a task refers to, or None if there is no such component."""
        return self.components.get(task.component_ref.name)

    def output(self, dag: Any, task: str, kind: str, key: str) -> Any | None:
        """Return the declaration of an output of a task, or None if there is no such task or output.

        Args:
            dag: The dag that contains the task.
            task: The task's name.
            kind: `parameter` or `artifact`.
            key: The output's name.
        """
        component = self.component_of(dag.tasks[task]) if task in dag.tasks else None
        return None if component is None else getattr(component.output_definitions, f"{kind}s").get(key)
