"""Kubernetes quantities: amounts of cpu, memory and storage."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

from kubernetes.utils import parse_quantity

from ctbasis.kubeflow.lint.paths import Document, Faults, join_path

MIB = 2**20


def quantity(text: str) -> Decimal | None:
    """Return the number that a quantity such as `500m` or `2Gi` stands for, or None if the text is not a quantity."""
    # parse_quantity accepts everything that Python reads as a number, such as 1_000 and NaN.
    written = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+|[numkMGTPE]|[KMGTPE]i)?"
    return Decimal(parse_quantity(text)) if re.fullmatch(written, text, re.ASCII) else None


def faults(amounts: Document, where: str) -> Faults:
    """Check amounts of resources.

    Args:
        amounts: Amounts by name. An empty one counts as not given; a placeholder is filled in at run time.
        where: Their path.
    """
    for name, text in amounts.items():
        if text is None or text == "" or "{{" in str(text):
            continue
        number = quantity(str(text))
        if number is None or number < 0:
            yield join_path(where, name), f"{text!r} is not a quantity", "write it as 500m, 2 or 4Gi"
        elif re.search("memory|storage", name, re.IGNORECASE) and number < MIB:
            yield join_path(where, name), f"{text!r} is {number:g} bytes", "write it as 512Mi or 4Gi"


def above(request: Any, limit: Any, where: str) -> Faults:
    """Check that a request does not exceed its limit.

    Args:
        request: The requested amount.
        limit: The limit.
        where: The path of the request.
    """
    requested, allowed = quantity(str(request)), quantity(str(limit))
    if requested is not None and allowed is not None and requested > allowed:
        yield where, f"requests {request}, which is above the limit of {limit}", "request at most the limit"
