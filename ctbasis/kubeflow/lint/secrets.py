"""Secret values, told by what they look like and by what they are called."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ctbasis.kubeflow.lint.paths import Document, Faults, at, children, look_up, walk

if TYPE_CHECKING:
    from collections.abc import Iterator

LOOKS = {
    "an AWS access key": re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "a password in a URL": re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s/:@'\"]+:[^\s/@'\"{$]+@", re.IGNORECASE),
    "a GitHub token": re.compile(r"\bgh[pousr]_[A-Za-z0-9]{36}"),
    "a JSON web token": re.compile(r"\beyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}"),
    "a secret as a command-line option": re.compile(
        r"(?:^|\s)--?[\w.-]*(?:password|secret|token|access-key)[\w.-]*=(?![${\s])\S", re.IGNORECASE
    ),
}
NAME = re.compile(r"secret|passw(?:or)?d|token(?!iz)|access[._-]?key|private[._-]?key|api[._-]?key", re.IGNORECASE)
# They say where a secret is, not what it is.
POINTER = re.compile(
    r"(?:name|file|path|dir|folder|ref|provider|param|parameter|enabled|ttl|seconds)$|\bsecretKeyRef\b|\.secrets\.",
    re.IGNORECASE,
)
SETTINGS = ("sparkConf", "hadoopConf", "envVars", "data")
REMEDY = "keep it in a Kubernetes Secret and name that here"


def faults(document: Document, where: str = "") -> Faults:
    """Find the secret values in a document that is at `where`."""
    for place, value in walk(document, where):
        if isinstance(value, str):
            yield from ((place, f"holds {what}", REMEDY) for what, look in LOOKS.items() if look.search(value))
        elif isinstance(value, dict):
            for below, name, given in _named(value, place):
                if NAME.search(name) and not POINTER.search(name) and is_literal(given):
                    yield below, f"gives {name} a literal value", REMEDY


def is_literal(value: Any) -> bool:
    """Tell whether a value stands for itself and for nothing that is filled in later."""
    return isinstance(value, str) and value.strip() != "" and not value.startswith(("{{", "$(", "${"))


def _named(holder: Document, where: str) -> Iterator[tuple[str, str, Any]]:
    """Yield (path, name, value) of the variables, settings and parameters that `holder` gives values."""
    if isinstance(holder.get("name"), str):
        yield at(where, "value"), holder["name"], holder.get("value")
    for key in SETTINGS:
        for name, value in children(holder.get(key)):
            yield at(where, key, name), str(name), value
    for name, parameter in children(holder.get("parameters")):
        for path in ("defaultValue", "runtimeValue.constant"):
            yield at(where, "parameters", name, *path.split(".")), str(name), look_up(parameter, path)
