"""Kubernetes' own kinds, held strictly against their schemas: a field that the API server would drop is a fault."""

from __future__ import annotations

import re
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator
from kubernetes_validate import latest_version
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

from ctbasis.kubeflow.lint.paths import Document, Faults, at

if TYPE_CHECKING:
    from jsonschema import ValidationError


def faults(document: Document, where: str, *, partial: bool) -> Faults:
    """Check a manifest at `where`; a partial one may leave out what is required."""
    kind, version = document["kind"], document["apiVersion"]
    try:
        validator = _validator(kind, version)
    except FileNotFoundError:
        yield where, f"cannot be validated: no schema of {kind} in {version}", "correct it, or try it on a cluster"
        return
    yield from violations(validator, document, where, partial=partial)


def violations(validator: Any, document: Document, where: str, *, partial: bool) -> Faults:
    """Find where a document at `where` breaks a strict schema; a partial one may leave out what is required."""
    for error in validator.iter_errors(document):
        place = at(where, *error.absolute_path)
        if error.validator == "additionalProperties":
            known = error.schema.get("properties", {})
            for key in error.instance.keys() - known.keys():
                yield at(place, key), "is no field of this kind; the API server would drop it", _nearest(key, known)
        elif error.validator == "required":
            for key in error.validator_value if not partial else ():
                if key not in error.instance:
                    yield at(place, key), "is missing", "add it"
        else:
            yield place, *_told(error)


def object_meta() -> tuple[dict[str, str], Registry[Any]]:
    """Return the schema of `metadata`, as a reference, and the registry that resolves it."""
    known = _definitions()
    (definitions,) = known
    return {"$ref": f"{definitions}#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}, known


def _told(error: ValidationError) -> tuple[str, str]:
    """Return what is wrong and what is expected; a value, which may be a secret, is told of enums and numbers alone."""
    wanted = error.validator_value
    if error.validator == "type":
        types = [wanted] if isinstance(wanted, str) else wanted
        return f"is of type {_type(error.instance)}", f"expected {' or '.join(one for one in types if one != 'null')}"
    if error.validator == "enum":
        shown = repr(error.instance) if isinstance(error.instance, str) else f"of type {_type(error.instance)}"
        return f"is {shown}", f"expected one of {', '.join(map(str, wanted))}"
    if error.validator in {"minimum", "maximum"}:
        return f"is {error.instance}", f"expected {'at least' if error.validator == 'minimum' else 'at most'} {wanted}"
    if error.validator in {"anyOf", "oneOf"}:
        return (
            f"is of type {_type(error.instance)}",
            f"expected one of {', '.join(str(one.get('type')) for one in wanted)}",
        )
    return f"breaks the schema's {error.validator}", f"expected {error.validator} {wanted}"


def _type(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


def _nearest(key: str, known: Any) -> str:
    """Return the remedy for an unknown key."""
    near = get_close_matches(key, known, n=1)
    return f"expected {near[0]}?" if near else "remove it or correct the spelling"


@cache
def _validator(kind: str, version: str) -> Any:
    """Return the strict validator of a kind; raise FileNotFoundError if Kubernetes has no such kind."""
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
