"""Rendered kustomizations: the resources of an overlay with all patches applied, checked as a whole.

This module renders the features that this repository's overlays use: resources, components, merge patches of custom
resources, images, labels and namespace. The lint therefore checks the same objects on every machine; a test compares
the result with that of `kubectl kustomize`. A kustomization that uses other features is rendered by `kustomize` or
`kubectl`, if one of them is on PATH.
"""

from __future__ import annotations

import copy
import shutil
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import yaml

from ctbasis.errors import CtbasisError
from ctbasis.jobs.dask_job import DaskJob
from ctbasis.jobs.job import KUEUE_LABEL, QUEUE_ANNOTATION, TEMPLATE_NAME
from ctbasis.jobs.ray_job import RayJob
from ctbasis.jobs.spark_application import SparkApplication
from ctbasis.kubeflow.lint import crds, kustomize, manifests
from ctbasis.kubeflow.lint.image_fields import configured_fields, replace_images
from ctbasis.kubeflow.lint.paths import Document, Faults, look_up

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.jobs.job import Job
    from ctbasis.kubeflow.lint.image_fields import ImageField

RENDERED_HERE = {
    *("apiVersion", "kind", "resources", "components", "patches", "labels", "namespace"),
    *("configurations", "images"),
}
MERGED_HERE = tuple(f"{group}/" for group in crds.VERSIONS)
"""The API groups of the custom resources whose patches are merged here. Patches of Kubernetes' own kinds are not,
because their lists are merged by the keys of the items."""

TEMPLATES: dict[str, type[Job]] = {kind.kind: kind for kind in (SparkApplication, RayJob, DaskJob)}
"""The kinds that the svd step takes as templates."""

CLUSTER_WIDE = {"Namespace", "PriorityClass", "ClusterRole", "ClusterRoleBinding", "StorageClass", "PersistentVolume"}
"""The kinds that get no namespace. As in kubectl, newer kinds of the whole cluster, such as ValidatingAdmissionPolicy,
are not among them: the API server drops their namespace."""

COMMANDS = (("kustomize", "build"), ("kubectl", "kustomize"))
TIMEOUT_SECONDS = 60


class UnrenderableError(Exception):
    """Neither this module nor a program on PATH can render the kustomization; the message gives the reason."""


def faults(folder: Path) -> Faults:
    """Check the objects that the kustomization in `folder` renders to."""
    try:
        documents = render(folder)
    except UnrenderableError as error:
        yield "rendered", f"cannot be rendered: {error}", "correct it, or install kustomize or kubectl on PATH"
        return
    for number, document in enumerate(documents, start=1):
        for place, message, remedy in manifests.faults(document, f"document {number}"):
            yield f"rendered: {place}", message, remedy
        kind = TEMPLATES.get(str(document.get("kind")))
        if kind is not None:
            if look_up(document, "metadata.name") == TEMPLATE_NAME and KUEUE_LABEL in _labels(document):
                message = f"has the label {KUEUE_LABEL}, by which Kueue takes the template for a job and starts it"
                yield f"rendered: {_name(document)}", message, f"name the queue in the annotation {QUEUE_ANNOTATION}"
            try:
                kind.from_manifest(document, where=_name(document))
            except CtbasisError as error:
                remedy = "correct it; the svd step would refuse it as its template"
                yield f"rendered: {_name(document)}", str(error).splitlines()[0], remedy
    yield from _references(documents)


def _labels(document: Document) -> Document:
    labels = look_up(document, "metadata.labels")
    return labels if isinstance(labels, dict) else {}


def render(folder: Path) -> list[dict[str, Any]]:
    """Return the objects that the kustomization in `folder` renders to, in the order of the kustomization.

    Raises:
        UnrenderableError: The kustomization is faulty, or it uses a feature that this module does not have.
    """
    try:
        return [document for document in _build(folder.resolve(), []) if not _is_local(document)]
    except _UnsupportedError as unsupported:
        for command in COMMANDS:
            if shutil.which(command[0]):
                return _run_program(*command, folder)
        raise UnrenderableError(f"{unsupported}, which ctbasis does not render") from unsupported
    except (OSError, yaml.YAMLError, AttributeError, TypeError, KeyError, ValueError, RecursionError) as error:
        raise UnrenderableError(f"{type(error).__name__}: {error}") from error


class _UnsupportedError(Exception):
    """The kustomization uses a feature of kustomize that this module does not have."""


def _run_program(program: str, verb: str, folder: Path) -> list[dict[str, Any]]:
    done = subprocess.run(
        [program, verb, str(folder)], capture_output=True, text=True, timeout=TIMEOUT_SECONDS, check=False
    )
    if done.returncode:
        raise UnrenderableError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else program)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def _build(
    folder: Path, image_fields: list[ImageField], inherited: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """Return the objects that the kustomization in `folder` renders to.

    Args:
        folder: The folder of the kustomization.
        image_fields: The fields that hold an image; those of this kustomization's configurations are added.
        inherited: The objects that a component changes: those of the kustomization that uses the component.
    """
    file = next((folder / name for name in kustomize.NAMES if (folder / name).is_file()), folder / kustomize.NAMES[0])
    kustomization = yaml.safe_load(file.read_text(encoding="utf-8"))
    unsupported = kustomization.keys() - RENDERED_HERE
    if unsupported:
        raise _UnsupportedError(f"{file.parent.name} uses {', '.join(sorted(unsupported))}")
    documents = list(inherited or [])
    for name in kustomization.get("resources", []):
        if "://" in name or name.startswith("github.com/"):
            raise _UnsupportedError(f"{file.parent.name} uses the remote resource {name}")
        path = (folder / name).resolve()
        documents += _build(path, image_fields) if path.is_dir() else _read(path)
    for name in kustomization.get("components", []):
        documents = _build((folder / name).resolve(), image_fields, documents)
    for name in kustomization.get("configurations", []):
        image_fields += _image_fields(folder / name)
    _transform(kustomization, documents, folder, image_fields)
    return documents


def _transform(
    kustomization: Document, documents: list[dict[str, Any]], folder: Path, image_fields: list[ImageField]
) -> None:
    """Apply the patches, labels, namespace and images of a kustomization, in kustomize's order."""
    for patch in kustomization.get("patches", []):
        _patch(patch, documents, folder)
    for labels in kustomization.get("labels", []):
        if labels.keys() - {"pairs"}:
            raise _UnsupportedError(f"{folder.name} uses labels outside metadata")
        for document in documents:
            document["metadata"].setdefault("labels", {}).update(labels["pairs"])
    if "namespace" in kustomization:
        _set_namespace(documents, kustomization["namespace"])
    for replacement in kustomization.get("images", []):
        if {"newTag", "digest"} <= replacement.keys() or "tagSuffix" in replacement:
            raise _UnsupportedError(f"{folder.name} gives an image a tag and a digest, or a suffix")
        replace_images(documents, replacement, image_fields)


def _is_local(document: Document) -> bool:
    """Return whether an object only informs kustomize, which leaves it out of the output."""
    annotations = look_up(document, "metadata.annotations")
    return isinstance(annotations, dict) and annotations.get("config.kubernetes.io/local-config") == "true"


def _image_fields(file: Path) -> list[ImageField]:
    (configuration,) = _read(file)
    found = configured_fields(configuration)
    if found is None:
        raise _UnsupportedError(f"{file.name} configures more than fields of images")
    return found


def _read(file: Path) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(file.read_text(encoding="utf-8")) if document]


def _patch(patch: Document, documents: list[dict[str, Any]], folder: Path) -> None:
    if patch.keys() - {"patch", "path"}:
        raise _UnsupportedError(f"{folder.name} uses a patch with a target")
    text = patch["patch"] if "patch" in patch else (folder / patch["path"]).read_text(encoding="utf-8")
    for change in yaml.safe_load_all(text):
        if not isinstance(change, dict) or not str(change.get("apiVersion", "")).startswith(MERGED_HERE):
            raise _UnsupportedError(f"{folder.name} uses a patch of Kubernetes' own kinds, or a JSON patch")
        targets = [document for document in documents if _identity(document) == _identity(change)]
        if not targets:
            raise UnrenderableError(f"a patch has no target {_name(change)}")
        for document in targets:
            _merge(document, change)


def _merge(document: dict[str, Any], change: Document) -> None:
    """Merge by RFC 7386: mappings are merged key by key, null removes a key, any other value replaces the old one."""
    for key, value in change.items():
        if value is None:
            document.pop(key, None)
        elif isinstance(value, dict):
            old = document.get(key)
            document[key] = old if isinstance(old, dict) else {}
            _merge(document[key], value)
        else:
            document[key] = copy.deepcopy(value)


def _set_namespace(documents: list[dict[str, Any]], namespace: str) -> None:
    """Set the namespace of objects, and of the service accounts among them where bindings name these."""
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
    """Check that no object is defined twice, and that the objects that others name are defined.

    A kind of which no object is defined is not checked: its objects may exist on the cluster.
    """
    for identity, times in Counter(map(_identity, documents)).items():
        if times > 1:
            yield f"rendered: {identity[1]}/{identity[2]}", f"is defined {times} times", "keep one of them"
    defined = {(document["kind"], look_up(document, "metadata.name")) for document in documents}
    kinds = {kind for kind, _ in defined}
    for document in documents:
        for kind, path in (
            ("ServiceAccount", "spec.driver.serviceAccount"),
            ("ServiceAccount", "spec.executor.serviceAccount"),
            ("PriorityClass", "spec.driver.priorityClassName"),
            ("PriorityClass", "spec.executor.priorityClassName"),
            ("Role", "roleRef.name"),
        ):
            name = look_up(document, path)
            checked = kind in kinds and look_up(document, "roleRef.kind") in {None, "Role"}
            if isinstance(name, str) and checked and (kind, name) not in defined:
                yield f"rendered: {_name(document)}.{path}", f"names {kind} {name!r}, which is not defined", "add it"


def _identity(document: Document) -> tuple[str, str, str]:
    version, _, _ = str(document.get("apiVersion")).rpartition("/")
    return version, str(document.get("kind")), str(look_up(document, "metadata.name"))


def _name(document: Document) -> str:
    return f"{document.get('kind')}/{look_up(document, 'metadata.name')}"
