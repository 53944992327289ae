"""Checks compiled pipelines and Kubernetes manifests before a server reads them.

A Kubeflow server accepts a package whose task graph refers to missing components or whose platform keys are misspelt;
if it reports the fault at all, then only when the run starts. The API server drops unknown fields of a SparkApplication
without a message. The lint uses no network: the schemas come with `kfp` and `kubernetes-validate`, and those of the
Spark operator are in `schemas/`.

Each module checks one kind of document by its function `faults`; `documents` chooses the module by the document's
content. If no file has a fault, `rendered` checks the output of the kustomizations among the files.
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

__all__ = ["Fault", "committed", "lint", "packages", "quantity"]


@dataclass(frozen=True, order=True)
class Fault:
    """A fault in a file.

    Attributes:
        file: The file.
        where: The path inside the document, such as `root.dag.tasks.fetch.componentRef.name`. The path in a manifest
            begins with its kind and name.
        message: What is wrong. It never contains the value of a secret.
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


def packages(paths: Sequence[Path]) -> list[Path]:
    """Return the files among `paths` that are compiled packages; a folder stands for all YAML files below it."""
    return [file for file in _files(paths) if documents.is_package(file)]


def _files(paths: Sequence[Path]) -> list[Path]:
    return [
        file
        for path in paths
        for file in (sorted([*path.rglob("*.yaml"), *path.rglob("*.yml")]) if path.is_dir() else [path])
    ]


def lint(paths: Sequence[Path]) -> list[Fault]:
    """Return the faults of YAML files, file by file.

    Args:
        paths: Files and folders; a folder stands for all YAML files below it.
    """
    files = _files(paths)
    faults = [Fault(file, *fault) for file in files for fault in sorted(documents.faults(file))]
    if faults:
        return faults
    overlays = [file for file in files if kustomize.is_overlay(file)]
    return [Fault(file, *fault) for file in overlays for fault in sorted(rendered.faults(file.parent))]
