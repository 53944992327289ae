"""What an overlay becomes: its resources with the components' and its own patches in them, checked as a whole.

The rendering is done here, for what this repository's overlays use (resources, components, merge patches of custom
resources, labels, namespace), so that the same is checked wherever the lint runs; a test holds it against
`kubectl kustomize`. A kustomization that uses more is rendered by `kustomize` or `kubectl`, if one is on PATH.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import yaml

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.lint import kustomize, manifests
from ctbasis.kubeflow.lint.paths import Document, Faults, look_up
from ctbasis.spark.application import SparkApplication

if TYPE_CHECKING:
    from pathlib import Path

RENDERED_HERE = {"apiVersion", "kind", "resources", "components", "patches", "labels", "namespace"}
MERGED_HERE = "sparkoperator.k8s.io/"
"""Custom resources: Kubernetes' own kinds have lists that a patch merges by the keys of their items."""

CLUSTER_WIDE = {"Namespace", "PriorityClass", "ClusterRole", "ClusterRoleBinding", "StorageClass", "PersistentVolume"}
COMMANDS = (("kustomize", "build"), ("kubectl", "kustomize"))
SECONDS = 60


class UnrenderableError(Exception):
    """A kustomization that neither this module nor a program on PATH could render; the text says why."""


def faults(folder: Path) -> Faults:
    """Check what the kustomization in `folder` becomes."""
    try:
        documents = render(folder)
    except UnrenderableError as error:
        yield "rendered", f"cannot be rendered: {error}", "correct it, or put kustomize or kubectl on PATH"
        return
    for number, document in enumerate(documents, start=1):
        for place, message, remedy in manifests.faults(document, f"document {number}"):
            yield f"rendered: {place}", message, remedy
        if document.get("kind") == "SparkApplication":
            try:
                SparkApplication.from_manifest(document, where=_name(document))
            except CtbasisError as error:
                yield f"rendered: {_name(document)}", str(error).splitlines()[0], "the svd step reads its template so"
    yield from _references(documents)


def render(folder: Path) -> list[dict[str, Any]]:
    """Return the objects that the kustomization in `folder` becomes, in its own order.

    Raises:
        UnrenderableError: It could not be rendered.
    """
    try:
        return _built(folder.resolve())
    except _BeyondError as beyond:
        for command in COMMANDS:
            if shutil.which(command[0]):
                return _by_program(*command, folder)
        raise UnrenderableError(f"{beyond}, which is not rendered here") from beyond
    except (OSError, yaml.YAMLError, AttributeError, TypeError, KeyError, ValueError, RecursionError) as error:
        raise UnrenderableError(f"{type(error).__name__}: {error}") from error


class _BeyondError(Exception):
    """Something of kustomize's that is not done here."""


def _by_program(program: str, verb: str, folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run([program, verb, str(folder)], capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise UnrenderableError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else program)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def _built(folder: Path, given: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Return what the kustomization in `folder` makes; a component works on the objects `given`."""
    file = next((folder / name for name in kustomize.NAMES if (folder / name).is_file()), folder / kustomize.NAMES[0])
    kustomization = yaml.safe_load(file.read_text(encoding="utf-8"))
    beyond = kustomization.keys() - RENDERED_HERE
    if beyond:
        raise _BeyondError(f"{file.parent.name} uses {', '.join(sorted(beyond))}")
    made = list(given or [])
    for name in kustomization.get("resources", []):
        if "://" in name or name.startswith("github.com/"):
            raise _BeyondError(f"{name} is remote")
        path = (folder / name).resolve()
        made += _built(path) if path.is_dir() else _read(path)
    for name in kustomization.get("components", []):
        made = _built((folder / name).resolve(), made)
    for patch in kustomization.get("patches", []):
        _patch(patch, made, folder)
    for labels in kustomization.get("labels", []):
        if labels.keys() - {"pairs"}:
            raise _BeyondError(f"{file.parent.name} labels more than metadata")
        for document in made:
            document["metadata"].setdefault("labels", {}).update(labels["pairs"])
    if "namespace" in kustomization:
        _settle(made, kustomization["namespace"])
    return made


def _read(file: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(file.read_text(encoding="utf-8")) if document]


def _patch(patch: Document, documents: list[dict[str, Any]], folder: Path) -> None:
    if patch.keys() - {"patch", "path"}:
        raise _BeyondError("a patch with a target")
    text = patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text(encoding="utf-8")
    for change in yaml.safe_load_all(text):
        if not isinstance(change, dict) or not str(change.get("apiVersion", "")).startswith(MERGED_HERE):
            raise _BeyondError("a patch of Kubernetes' own kinds, or a JSON patch")
        wanted = [document for document in documents if _identity(document) == _identity(change)]
        if not wanted:
            raise UnrenderableError(f"a patch finds no {_name(change)}")
        for document in wanted:
            _merge(document, change)


def _merge(document: dict[str, Any], change: Document) -> None:
    """Merge as RFC 7386 does: mappings key by key, null removes, all else is replaced."""
    for key, value in change.items():
        if value is None:
            document.pop(key, None)
        elif isinstance(value, dict):
            held = document.get(key)
            document[key] = held if isinstance(held, dict) else {}
            _merge(document[key], value)
        else:
            document[key] = copy.deepcopy(value)


def _settle(documents: list[dict[str, Any]], namespace: str) -> None:
    """Put objects, and the accounts among them that bindings name, into a namespace."""
    accounts = {document["metadata"]["name"] for document in documents if document["kind"] == "ServiceAccount"}
    for document in documents:
        if document["kind"] == "Namespace":
            document["metadata"]["name"] = namespace
        elif document["kind"] not in CLUSTER_WIDE:
            document["metadata"]["namespace"] = namespace
        for subject in document.get("subjects", []):
            if subject["kind"] == "ServiceAccount" and subject["name"] in {*accounts, "default"}:
                subject["namespace"] = namespace


def _references(documents: list[dict[str, Any]]) -> Faults:
    """Check that objects are there once, and those that others name are there, where others of their kind are."""
    for identity, times in Counter(map(_identity, documents)).items():
        if times > 1:
            yield f"rendered: {identity[1]}/{identity[2]}", f"is there {times} times", "keep one of them"
    there = {(document["kind"], look_up(document, "metadata.name")) for document in documents}
    kinds = {kind for kind, _ in there}
    for document in documents:
        for kind, path in (
            ("ServiceAccount", "spec.driver.serviceAccount"),
            ("ServiceAccount", "spec.executor.serviceAccount"),
            ("PriorityClass", "spec.driver.priorityClassName"),
            ("PriorityClass", "spec.executor.priorityClassName"),
            ("Role", "roleRef.name"),
        ):
            name = look_up(document, path)
            own = kind in kinds and look_up(document, "roleRef.kind") in {None, "Role"}
            if isinstance(name, str) and own and (kind, name) not in there:
                yield f"rendered: {_name(document)}.{path}", f"names {kind} {name!r}, which is not there", "add it"


def _identity(document: Document) -> tuple[str, str, str]:
    version, _, _ = str(document.get("apiVersion")).rpartition("/")
    return version, str(document.get("kind")), str(look_up(document, "metadata.name"))


def _name(document: Document) -> str:
    return f"{document.get('kind')}/{look_up(document, 'metadata.name')}"
