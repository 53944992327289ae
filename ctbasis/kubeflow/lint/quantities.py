"""Kubernetes quantities: amounts of cpu, memory and storage."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from kubernetes.utils import parse_quantity

from ctbasis.kubeflow.lint.paths import Document, Faults, at

MIB = 2**20


def quantity(text: str) -> Decimal | None:
    """Return the number that a quantity such as `500m` or `2Gi` stands for, None if it is none."""
    # parse_quantity takes all that Python reads as a number, such as 1_000 and NaN.
    written = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+|[numkMGTPE]|[KMGTPE]i)?"
    return Decimal(parse_quantity(text)) if re.fullmatch(written, text, re.ASCII) else None


def faults(amounts: Document, where: str) -> Faults:
    """Check amounts by name; an empty one is not given, a placeholder is filled in at run time."""
    for name, text in amounts.items():
        if text is None or text == "" or "{{" in str(text):
            continue
        number = quantity(str(text))
        if number is None or number < 0:
            yield at(where, name), f"{text!r} is no quantity", "write it as 500m, 2 or 4Gi"
        elif re.search("memory|storage", name, re.IGNORECASE) and number < MIB:
            yield at(where, name), f"{text!r} is {number:g} bytes", "write it as 512Mi or 4Gi"


def above(request: Any, limit: Any, where: str) -> Faults:
    """Find a request, which is at `where`, above its limit."""
    least, most = quantity(str(request)), quantity(str(limit))
    if least is not None and most is not None and least > most:
        yield where, f"asks for {request}, above the limit of {limit}", "request at most the limit"
