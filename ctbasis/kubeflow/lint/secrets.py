"""Secret values: found by their format, such as that of an AWS access key, and by the name of what holds them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ctbasis.kubeflow.lint.paths import Document, Faults, children, join_path, look_up, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

FORMATS = {
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a password in a URL": re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"]+:[^\s/@'\"{$]+@", re.IGNORECASE),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36}"),
    "a JSON web token": re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"),
    "a secret as a command-line option": re.compile(
        r"(?:^|\s)--?[\w.-]*(?:password|secret|token|access-key)[\w.-]*=(?![${\s])\S", re.IGNORECASE
    ),
}
"""Formats of secret values."""

SECRET_NAME = re.compile(
    r"secret|passw(?:or)?d|token(?!iz)|access[._-]?key|private[._-]?key|api[._-]?key", re.IGNORECASE
)
"""Names of variables, settings and parameters that hold secrets."""

REFERENCE_NAME = re.compile(
    r"(?:name|file|path|dir|folder|ref|provider|param|parameter|enabled|ttl|seconds)$|\bsecretKeyRef\b|\.secrets\.",
    re.IGNORECASE,
)
"""Names among them that hold the place of a secret, not its value."""

SETTINGS = ("sparkConf", "hadoopConf", "envVars", "data")
REMEDY = "keep it in a Kubernetes Secret and name the Secret here"


def faults(document: Document, where: str = "") -> Faults:
    """Yield the secret values in a document.

    Args:
        document: The document.
        where: Its path.
    """
    for place, value in walk(document, where):
        if isinstance(value, str):
            yield from (
                (place, f"holds {description}", REMEDY)
                for description, pattern in FORMATS.items()
                if pattern.search(value)
            )
        elif isinstance(value, dict):
            for below, name, given in _named(value, place):
                if SECRET_NAME.search(name) and not REFERENCE_NAME.search(name) and is_literal(given):
                    yield below, f"gives {name} a literal value", REMEDY


def is_literal(value: Any) -> bool:
    """Return whether a value is a literal, not a placeholder that is filled in later."""
    return isinstance(value, str) and value.strip() != "" and not value.startswith(("{{", "$(", "${"))


def _named(holder: Document, where: str) -> Iterator[tuple[str, str, Any]]:
    """Yield (path, name, value) of the variables, settings and parameters to which `holder` assigns values."""
    if isinstance(holder.get("name"), str):
        yield join_path(where, "value"), holder["name"], holder.get("value")
    for key in SETTINGS:
        for name, value in children(holder.get(key)):
            yield join_path(where, key, name), str(name), value
    for name, parameter in children(holder.get("parameters")):
        for path in ("defaultValue", "runtimeValue.constant"):
            yield join_path(where, "parameters", name, *path.split(".")), str(name), look_up(parameter, path)
