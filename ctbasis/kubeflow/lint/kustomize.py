"""Kustomizations and their patches: fields are known, files that they name exist, and images are pinned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from ctbasis.kubeflow.lint import images, manifests, secrets
from ctbasis.kubeflow.lint.paths import Document, Faults, Places, join_path, look_up, select

if TYPE_CHECKING:
    from pathlib import Path


KINDS = ("Kustomization", "Component")
NAMES = ("kustomization.yaml", "kustomization.yml", "Kustomization")
RESOURCES = ("resources.*", "bases.*", "components.*")
PATCHES = ("patches.*.path", "patchesJson6902.*.path", "patchesStrategicMerge.*")
GENERATED = tuple(f"{kind}Generator.*.{key}.*" for kind in ("configMap", "secret") for key in ("files", "envs"))
CONFIGURATIONS = "configurations.*"
FILES = ("crds.*", CONFIGURATIONS, "generators.*", "transformers.*", "validators.*", "replacements.*.path")
LISTS = {path.partition(".")[0] for path in (*RESOURCES, *PATCHES, *GENERATED, *FILES, "images.*")}
KEYS = {
    *LISTS,
    *("apiVersion", "kind", "metadata", "replicas", "namespace", "namePrefix", "nameSuffix", "labels"),
    *("commonLabels", "commonAnnotations", "generatorOptions", "vars", "openapi", "buildMetadata", "sortOptions"),
    *("helmCharts", "helmGlobals"),
}
"""The fields of kustomize.config.k8s.io/v1beta1."""

OPERATIONS = {"add": "value", "replace": "value", "test": "value", "remove": "path", "move": "from", "copy": "from"}
"""The operations of a JSON patch (RFC 6902), and the member that each requires besides its path."""


def faults(document: Document, folder: Path) -> Faults:
    """Check a kustomization.

    Args:
        document: The kustomization.
        folder: The folder that contains its file.
    """
    for key in document.keys() - KEYS:
        yield key, "is not a field of a kustomization", "correct the spelling"
    for key in LISTS & document.keys():
        if not isinstance(document[key], list):
            yield key, f"is a {type(document[key]).__name__}, not a list", "write a list"
    for place, name in _named(document, *RESOURCES):
        yield from _resource(folder, name, place)
    for place, name in _named(document, *PATCHES, *GENERATED, *FILES):
        if not (folder / name).is_file():
            yield place, f"file {name} does not exist", "correct the path or add the file"
    for place, patch in select(document, "patches.*.patch"):
        yield from _inline_patch(str(patch), place)
    yield from _generated(document)
    yield from secrets.faults(document)


def _generated(document: Document) -> Faults:
    """Check the image tags and the secrets that a kustomization sets itself."""
    for place, tag in select(document, "images.*.newTag"):
        if tag == "latest":
            yield place, "image is not pinned", images.REMEDY
    for place, literal in select(document, "secretGenerator.*.literals.*"):
        if secrets.is_literal(str(literal).partition("=")[2]):
            yield place, "is the value of a secret", "create the Secret on the cluster"


def is_patch(file: Path) -> bool:
    """Return whether a kustomization in the file's folder or its parent folder applies the file as a patch."""
    return _is_named(file, *PATCHES)


def is_configuration(file: Path) -> bool:
    """Return whether a kustomization in the file's folder or its parent folder is configured by the file."""
    return _is_named(file, CONFIGURATIONS)


def _is_named(file: Path, *paths: str) -> bool:
    for kustomization in [folder / name for folder in file.resolve().parents[:2] for name in NAMES]:
        try:
            document = yaml.safe_load(kustomization.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            continue  # The kustomization is absent, or its own check reports it.
        if any((kustomization.parent / name).resolve() == file.resolve() for _, name in _named(document, *paths)):
            return True
    return False


def is_overlay(file: Path) -> bool:
    """Return whether a file without faults is a kustomization to build, and not a component of other kustomizations."""
    if file.name not in NAMES:
        return False
    return look_up(yaml.safe_load(file.read_text(encoding="utf-8")), "kind") in {None, KINDS[0]}


def json_patch(operations: list[Any], where: str) -> Faults:
    """Check the operations of a JSON patch.

    Args:
        operations: The operations.
        where: The path of the patch.
    """
    for index, operation in enumerate(operations):
        place, name = join_path(where, index), look_up(operation, "op")
        if not isinstance(name, str) or name not in OPERATIONS:
            yield place, "is not an operation of a JSON patch", f"set op to one of {', '.join(OPERATIONS)}"
        elif not str(operation.get("path", "")).startswith("/"):
            yield f"{place}.path", "is not a JSON pointer", "begin it with /"
        elif OPERATIONS[name] not in operation:
            yield place, f"{name} lacks {OPERATIONS[name]!r}", "add it"


def _named(document: Any, *paths: str) -> Places:
    """Yield the files, folders and addresses that a kustomization names at `paths`."""
    for path in paths:
        for place, name in select(document, path):
            # A text of several lines is an inline manifest; the generators write key=file.
            if "\n" not in str(name):
                yield place, str(name).rpartition("=")[2] if path in GENERATED else str(name)


def _resource(folder: Path, name: str, where: str) -> Faults:
    path = folder / name
    if "://" in name or name.startswith("github.com/"):
        if "ref=" not in name:
            yield where, "is remote and not pinned", "add ?ref=<tag or commit>"
    elif not path.exists():
        yield where, f"file or folder {name} does not exist", "correct the path or add the file"
    elif path.is_dir() and not any((path / file).is_file() for file in NAMES):
        yield where, f"folder {name} has no kustomization.yaml", "add one"


def _inline_patch(text: str, where: str) -> Faults:
    try:
        patch = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        yield where, "is not YAML", "indent with spaces, close quotes"
        return
    if isinstance(patch, list):
        yield from json_patch(patch, where)
    elif isinstance(patch, dict):
        for place, message, remedy in manifests.faults(patch, "manifest", partial=True):
            yield f"{where}: {place}", message, remedy
    else:
        yield where, "is not a patch", "write a partial manifest or a list of operations"
