"""Check compiled packages and Kubernetes manifests before a server sees them.

A Kubeflow back end stores a package whose graph dangles or whose platform keys are misspelt, and says so, if ever,
when the run starts; the Spark operator's API server drops unknown fields in silence. Nothing here asks the network:
the schemas are in `kfp` and `kubernetes-validate`, and the Spark operator's own in `schemas/`.

Each module has one kind of thing to check, by its function `faults`; `documents` tells them apart. Where all the files
hold, `rendered` checks what the kustomizations among them become.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ctbasis.installed import LAYOUT
from ctbasis.kubeflow.lint import documents, kustomize, rendered
from ctbasis.kubeflow.lint.quantities import quantity

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Fault", "committed", "lint", "quantity"]


@dataclass(frozen=True, order=True)
class Fault:
    """Something wrong in a file.

    Attributes:
        file: The file.
        where: The path inside the document, such as `root.dag.tasks.fetch.componentRef.name`; a manifest's path begins
            with its kind and name.
        message: What is wrong. Never the value of a secret.
        remedy: What to do about it.
    """

    file: Path
    where: str
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}:{self.where}: {self.message} ({self.remedy})"


def committed() -> list[Path]:
    """Return the compiled pipeline and the manifests of this installation of ctbasis."""
    return [*sorted(LAYOUT.compiled_pipeline.parent.glob("*.yaml")), *sorted(LAYOUT.manifests.rglob("*.yaml"))]


def lint(paths: Sequence[Path]) -> list[Fault]:
    """Return the faults of the YAML files at `paths`, file by file; a folder stands for the YAML files under it."""
    files = [
        file
        for path in paths
        for file in (sorted([*path.rglob("*.yaml"), *path.rglob("*.yml")]) if path.is_dir() else [path])
    ]
    faults = [Fault(file, *found) for file in files for found in sorted(documents.faults(file))]
    if faults:
        return faults
    overlays = [file for file in files if kustomize.is_overlay(file)]
    return [Fault(file, *found) for file in overlays for found in sorted(rendered.faults(file.parent))]
