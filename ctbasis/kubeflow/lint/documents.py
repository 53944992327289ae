"""The YAML documents of a file: checks that they are well-formed, and passes each to the checks of its kind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from ctbasis.kubeflow.lint import image_fields, kustomize, manifests, package
from ctbasis.kubeflow.lint.paths import Faults, join_path, walk

if TYPE_CHECKING:
    from pathlib import Path


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def faults(file: Path) -> Faults:
    """Check a file."""
    try:
        text = file.read_text(encoding="utf-8")
        nodes = list(yaml.compose_all(text, LOADER))
        documents = list(yaml.load_all(text, LOADER))
    except OSError as error:
        yield "file", f"cannot be read ({error.strerror})", "give the path of a file that exists"
    except UnicodeDecodeError as error:
        yield f"byte {error.start}", "is not UTF-8", "save the file as UTF-8"
    except (yaml.YAMLError, ValueError) as error:  # PyYAML raises ValueError for an impossible date
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        yield f"line {mark.line + 1}" if mark else "file", f"is not YAML: {problem}", "indent with spaces, close quotes"
    else:
        for node in nodes:
            yield from _duplicates(node, "")
        yield from _documents(file, documents)


def is_package(file: Path) -> bool:
    """Return whether a file without faults is a compiled package."""
    with file.open(encoding="utf-8") as text:
        first = next(iter(yaml.load_all(text, LOADER)), None)
    return isinstance(first, dict) and "kind" not in first and bool(first.keys() & package.KEYS)


def _duplicates(node: yaml.Node, where: str) -> Faults:
    """Yield duplicate keys of mappings; PyYAML would silently use the last value."""
    if isinstance(node, yaml.MappingNode):
        keys = set()
        for key, value in node.value:
            place = join_path(where, str(key.value))
            if key.value in keys:
                yield place, f"is a duplicate key (repeated on line {key.start_mark.line + 1})", "keep one of them"
            keys.add(key.value)
            yield from _duplicates(value, place)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _duplicates(item, join_path(where, index))


def _documents(file: Path, documents: list[Any]) -> Faults:
    if all(document is None for document in documents):
        yield "file", "is empty", "remove the file or add a document"
        return
    patch = kustomize.is_patch(file)
    package_found = False
    for number, document in enumerate(documents, start=1):
        place = f"document {number}"
        if patch and isinstance(document, list):
            yield from kustomize.json_patch(document, place)
        elif malformed := _malformed(document):
            yield place, *malformed
        elif "platforms" in document:
            if not package_found:
                yield place, "is a platform document, but no package precedes it", "compile the pipeline again"
        elif "kind" not in document and document.keys() & package.KEYS:
            package_found = True
            platforms = (one for one in documents[number:] if not _malformed(one) and "platforms" in one)
            yield from package.faults(document, next(platforms, {}))
        elif document.get("kind") in kustomize.KINDS or file.name in kustomize.NAMES:
            yield from kustomize.faults(document, file.parent)
        elif "kind" not in document and kustomize.is_configuration(file):
            yield from image_fields.configuration_faults(document)
        else:
            yield from manifests.faults(document, place, partial=patch)


def _malformed(document: Any) -> tuple[str, str] | None:
    """Return the message and the remedy for a document that cannot be checked further, else None."""
    if document is None:
        return "is empty", "remove the `---` that opens it"
    if not isinstance(document, dict):
        return f"is a {type(document).__name__}, not a mapping", "write a package or a manifest"
    for place, value in walk(document):
        if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
            remedy = "quote them; YAML reads on, off, yes and no as booleans"
            return f"{place} has keys that are not strings".strip(), remedy
    return None
