"""The schemas of the operators' kinds, extracted from their custom resource definitions.

They are in `schemas/`, without descriptions. To update them to another version of an operator, extract them from its
definitions, and review the difference:

    python -m ctbasis.kubeflow.lint.crds \
        "$(go mod download -json github.com/kubeflow/spark-operator/v2@v2.4.0 | jq -r .Dir)"/config/crd/bases/*.yaml

The definition of a RayJob is in the Go module github.com/ray-project/kuberay/ray-operator, as
config/crd/bases/ray.io_rayjobs.yaml; that of a DaskJob in the Python package dask-kubernetes, as crds/daskjob.yaml of
its Helm chart; those of Kueue's queues in the Go module sigs.k8s.io/kueue, in config/components/crd/bases; that of an
InferenceService in the Go module github.com/kserve/kserve, as config/crd/full/serving.kserve.io_inferenceservices.yaml.
"""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

VERSION = "2.4.0"
"""The version of the Spark operator whose definitions are in `schemas/`. Those of 2.5.2 differ in descriptions alone:
the command above writes the same files for both."""

VERSIONS = {
    "sparkoperator.k8s.io": VERSION,
    "ray.io": "1.5.0",
    "kubernetes.dask.org": "2026.3.0",
    "kueue.x-k8s.io": "0.17.0",
    "serving.kserve.io": "0.20.0",
}
"""The versions of the operators by API group."""

FOLDER = Path(__file__).parent / "schemas"


@cache
def schema(kind: str, version: str) -> dict[str, Any]:
    """Return the strict JSON schema of an operator's kind, which forbids the fields that the API server would drop.

    Raises:
        FileNotFoundError: The operator has no such kind in that version.
    """
    path = FOLDER / _file(kind, version)
    if path not in FOLDER.iterdir():  # the kind comes from a document and may be a path, such as ../x
        raise FileNotFoundError(path)
    strict: dict[str, Any] = _strict(json.loads(path.read_text(encoding="utf-8")))
    return strict


def schema_of(definition: dict[str, Any], version: str) -> dict[str, Any]:
    """Return the strict JSON schema of one version of a CustomResourceDefinition; see `schema`.

    Raises:
        FileNotFoundError: The definition has no such version.
    """
    kind = definition["spec"]["names"]["kind"]
    text = published(definition).get(_file(kind, version))
    if text is None:
        raise FileNotFoundError(f"{kind} {version}")
    strict: dict[str, Any] = _strict(json.loads(text))
    return strict


def is_vendored(definition: dict[str, Any]) -> bool:
    """Return whether a CustomResourceDefinition has the schemas of the operator's version `VERSION`."""
    found = published(definition)
    return all(
        (FOLDER / name).is_file() and (FOLDER / name).read_text(encoding="utf-8") == text
        for name, text in found.items()
    )


def published(definition: dict[str, Any]) -> dict[str, str]:
    """Return the schema files of a CustomResourceDefinition, text by file name, one for each version."""
    kind = definition["spec"]["names"]["kind"]
    return {
        _file(kind, version["name"]): json.dumps(
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


def _vendor(definitions: list[str]) -> None:
    """Write the schemas of the files `definitions`, each with one CustomResourceDefinition."""
    for file in definitions:
        for name, text in published(yaml.safe_load(Path(file).read_text(encoding="utf-8"))).items():
            (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    _vendor(sys.argv[1:])
