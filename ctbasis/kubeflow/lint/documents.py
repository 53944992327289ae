"""The YAML documents of a file: sound, and told apart by what they hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from ctbasis.kubeflow.lint import kustomize, manifests, package
from ctbasis.kubeflow.lint.paths import Faults, at, walk

if TYPE_CHECKING:
    from pathlib import Path


LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def faults(file: Path) -> Faults:
    """Find the faults of a file."""
    try:
        text = file.read_text(encoding="utf-8")
        nodes = list(yaml.compose_all(text, LOADER))
        documents = list(yaml.load_all(text, LOADER))
    except OSError as error:
        yield "file", f"cannot be read ({error.strerror})", "name a file that exists"
    except UnicodeDecodeError as error:
        yield f"byte {error.start}", "is not UTF-8", "save it as UTF-8"
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error)
        yield f"line {mark.line + 1}" if mark else "file", f"is not YAML: {problem}", "indent with spaces, close quotes"
    else:
        for node in nodes:
            yield from _duplicates(node, "")
        yield from _documents(file, documents)


def _duplicates(node: yaml.Node, where: str) -> Faults:
    """Find mapping keys that PyYAML would let the last of win."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            place = at(where, str(key.value))
            if key.value in seen:
                yield place, f"is given twice (again on line {key.start_mark.line + 1})", "keep one of them"
            seen.add(key.value)
            yield from _duplicates(value, place)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _duplicates(item, at(where, index))


def _documents(file: Path, documents: list[Any]) -> Faults:
    if all(document is None for document in documents):
        yield "file", "is empty", "remove it or fill it"
        return
    patch = kustomize.is_patch(file)
    packaged = False
    for number, document in enumerate(documents, start=1):
        place = f"document {number}"
        if patch and isinstance(document, list):
            yield from kustomize.json_patch(document, place)
        elif malformed := _malformed(document):
            yield place, *malformed
        elif "platforms" in document:
            if not packaged:
                yield place, "is a platform document without a package before it", "compile the pipeline again"
        elif "kind" not in document and document.keys() & package.KEYS:
            packaged = True
            platforms = (one for one in documents[number:] if not _malformed(one) and "platforms" in one)
            yield from package.faults(document, next(platforms, {}))
        elif document.get("kind") in kustomize.KINDS or file.name in kustomize.NAMES:
            yield from kustomize.faults(document, file.parent)
        else:
            yield from manifests.faults(document, place, partial=patch)


def _malformed(document: Any) -> tuple[str, str] | None:
    """Return what is wrong with a document that cannot be looked into, and the remedy."""
    if document is None:
        return "is empty", "remove the `---` that opens it"
    if not isinstance(document, dict):
        return f"is a {type(document).__name__}", "a package or a manifest is a mapping"
    for place, value in walk(document):
        if isinstance(value, dict) and not all(isinstance(key, str) for key in value):
            remedy = "quote them; YAML reads on, off, yes, no as booleans"
            return f"{place} has keys that are no strings".strip(), remedy
    return None
