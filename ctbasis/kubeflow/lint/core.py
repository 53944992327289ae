"""Kubernetes' own kinds, validated strictly: a field that the API server would drop is a fault."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator
from kubernetes_validate import latest_version
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

from ctbasis.kubeflow.lint.paths import Document, Faults, join_path

if TYPE_CHECKING:
    from jsonschema import ValidationError


def faults(document: Document, where: str, *, partial: bool) -> Faults:
    """Check a manifest.

    Args:
        document: The manifest.
        where: Its path.
        partial: The manifest is a patch and may omit required fields.
    """
    kind, version = document["kind"], document["apiVersion"]
    try:
        validator = _validator(kind, version)
    except FileNotFoundError:
        yield (
            where,
            f"cannot be validated: Kubernetes has no schema of {kind} in {version}",
            "correct kind and apiVersion, or test the manifest on a cluster",
        )
        return
    yield from violations(validator, document, where, partial=partial)


def violations(validator: Any, document: Document, where: str, *, partial: bool) -> Faults:
    """Yield the violations of a strict schema.

    Args:
        validator: The validator of the schema.
        document: The manifest.
        where: Its path.
        partial: The manifest is a patch and may omit required fields.
    """
    for error in validator.iter_errors(document):
        place = join_path(where, *error.absolute_path)
        if error.validator == "additionalProperties":
            known = error.schema.get("properties", {})
            for key in error.instance.keys() - known.keys():
                message = "is not a field of this kind; the API server would drop it"
                yield join_path(place, key), message, _correction(key, known)
        elif error.validator == "required":
            for key in error.validator_value if not partial else ():
                if key not in error.instance:
                    yield join_path(place, key), "is missing", "add it"
        else:
            yield place, *_describe(error)


def object_meta() -> tuple[dict[str, str], Registry[Any]]:
    """Return the schema of `metadata`, as a reference, and the registry that resolves the reference."""
    known = _definitions()
    (definitions,) = known
    return {"$ref": f"{definitions}#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}, known


def _describe(error: ValidationError) -> tuple[str, str]:
    """Return the message and the remedy of a schema violation.

    The message repeats a value only for enums and numbers, because any other value may be a secret.
    """
    expected = error.validator_value
    if error.validator == "type":
        types = [expected] if isinstance(expected, str) else expected
        return f"is of type {_type(error.instance)}", f"expected {' or '.join(one for one in types if one != 'null')}"
    if error.validator == "enum":
        shown = repr(error.instance) if isinstance(error.instance, str) else f"of type {_type(error.instance)}"
        return f"is {shown}", f"expected one of {', '.join(map(str, expected))}"
    if error.validator in {"minimum", "maximum"}:
        bound = "at least" if error.validator == "minimum" else "at most"
        return f"is {error.instance}", f"expected {bound} {expected}"
    if error.validator in {"anyOf", "oneOf"}:
        return (
            f"is of type {_type(error.instance)}",
            f"expected one of {', '.join(str(one.get('type')) for one in expected)}",
        )
    return f"violates the schema's {error.validator}", f"expected {error.validator} {expected}"


def _type(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def _correction(key: str, known: Any) -> str:
    """Return the remedy for an unknown key: the most similar known key, if one is similar."""
    near = get_close_matches(key, known, n=1)
    return f"did you mean {near[0]}?" if near else "remove it or correct the spelling"


@cache
def _validator(kind: str, version: str) -> Any:
    """Return the strict validator of a kind.

    Raises:
        FileNotFoundError: Kubernetes has no such kind.
    """
    # kubernetes-validate names its files by kind and the first part of the group, such as role-rbac-v1.json.
    group_version = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", version)
    schema = _schema(f"{kind.lower()}-{group_version}")
    return Draft202012Validator(schema.contents, registry=schema @ _definitions())


@cache
def _definitions() -> Registry[Any]:
    return _schema("_definitions") @ Registry()


def _schema(name: str) -> Resource[Any]:
    newest = latest_version()
    contents = schema_contents(f"kubernetes-json-schema/v{newest}-local-strict/{name}.json", newest)
    return Resource.from_contents(contents)
