"""Kubernetes' own kinds, held strictly against their schemas: a field that the API server would drop is a fault."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from kubernetes_validate import latest_version
from kubernetes_validate.utils import schema_contents
from referencing import Registry, Resource

from pipeline.lint.paths import Document, Faults, at


def faults(document: Document, where: str, *, partial: bool) -> Faults:
    """Check a manifest at `where`; a partial one may leave out what is required."""
    kind, version = document["kind"], document["apiVersion"]
    try:
        validator = _validator(kind, version)
    except FileNotFoundError:
        yield where, f"cannot be validated: no schema of {kind} in {version}", "correct it, or try it on a cluster"
        return
    for error in validator.iter_errors(document):
        place = at(where, *error.absolute_path)
        if error.validator == "additionalProperties":
            for key in error.instance.keys() - error.schema.get("properties", {}).keys():
                yield at(place, key), "is no field of this kind", "correct the spelling"
        elif error.validator == "required":
            for key in error.validator_value if not partial else ():
                if key not in error.instance:
                    yield at(place, key), "is missing", "add it"
        elif error.validator in {"type", "enum"}:
            # jsonschema's own message would repeat the value.
            yield place, f"is not of {error.validator} {error.validator_value}", "correct it"
        else:
            yield place, f"breaks the schema's {error.validator}", "correct it"


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
