"""The schemas of the Spark operator's kinds, extracted from the operator's custom resource definitions.

They are in `schemas/`, without descriptions. To update them to another version of the operator, extract them from its
source, which is a Go module, and review the difference:

    python -m ctbasis.kubeflow.lint.crds \
        "$(go mod download -json github.com/kubeflow/spark-operator/v2@v2.4.0 | jq -r .Dir)"
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent / "schemas"
GROUP = "sparkoperator.k8s.io"


@cache
def schema(kind: str, version: str) -> dict[str, Any]:
    """Return the strict JSON schema of a kind, which forbids the fields that the API server would drop.

    Raises:
        FileNotFoundError: The operator has no such kind in that version.
    """
    path = FOLDER / _file(kind, version)
    if path not in FOLDER.iterdir():  # the kind comes from a document and may be a path, such as ../x
        raise FileNotFoundError(path)
    strict: dict[str, Any] = _strict(json.loads(path.read_text(encoding="utf-8")))
    return strict


def published(definition: dict[str, Any]) -> dict[str, str]:
    """Return the schema files of a CustomResourceDefinition, text by file name, one for each version."""
    kind = definition["spec"]["names"]["kind"]
    return {
        _file(kind, f"{GROUP}/{version['name']}"): json.dumps(
            _plain(version["schema"]["openAPIV3Schema"]), separators=(",", ":"), sort_keys=True
        )
        + "\n"
        for version in definition["spec"]["versions"]
    }


def _file(kind: str, version: str) -> str:
    return f"{kind}.{version.rpartition('/')[2]}.json"


def _plain(schema: Any, *, names: bool = False) -> Any:
    """Return a schema without descriptions.

    Args:
        schema: The schema, or a part of it.
        names: The keys of `schema` are field names of the kind, not keywords of JSON schema.
    """
    if isinstance(schema, dict):
        return {
            key: _plain(value, names=key == "properties" and not names)
            for key, value in schema.items()
            if names or key != "description"
        }
    return [_plain(item) for item in schema] if isinstance(schema, list) else schema


def _strict(schema: Any, *, names: bool = False) -> Any:
    """Return a structural schema with Kubernetes' own rules added: no unknown fields, and null where it is allowed.

    Args:
        schema: The schema, or a part of it.
        names: The keys of `schema` are field names of the kind, not keywords of JSON schema.
    """
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value, names=key == "properties" and not names) for key, value in schema.items()}
    if names:
        return strict
    if strict.get("nullable") and "type" in strict:
        strict["type"] = [strict["type"], "null"]
    if "properties" in strict and not strict.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    return strict


def _vendor(source: Path) -> None:
    """Write the schemas of the operator whose source is the folder `source`."""
    for file in sorted((source / "config" / "crd" / "bases").glob(f"{GROUP}_*.yaml")):
        for name, text in published(yaml.safe_load(file.read_text(encoding="utf-8"))).items():
            (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    _vendor(Path(sys.argv[1]))
