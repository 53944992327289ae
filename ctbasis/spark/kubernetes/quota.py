"""A ResourceQuota that is full: a queue, as long as what it has refused would ever fit."""

from __future__ import annotations

import re

from kubernetes.utils import parse_quantity

QUOTA = re.compile(
    r"exceeded quota: (?P<name>[^,]+), requested: (?P<requested>\S+), used: \S+, limited: (?P<limited>\S+)"
)


class QuotaFullError(Exception):
    """There is no room for the application now, and will be once others have ended: it is to be created anew then."""


def quota_is_full(text: str) -> bool:
    """Tell whether a ResourceQuota refused what will fit once others have ended: that is a queue, not a failure.

    >>> said = "exceeded quota: q, requested: pods=2, used: pods=3, limited: pods={}".format
    >>> quota_is_full(said(4)), quota_is_full(said(1))
    (True, False)
    """
    found = QUOTA.search(text)
    if not found:
        return False
    try:
        requested, limited = (
            {key: parse_quantity(value) for key, _, value in (pair.partition("=") for pair in listed.split(","))}
            for listed in (found["requested"], found["limited"].rstrip("."))
        )
    except ValueError:
        return False
    return all(amount <= limited.get(key, amount) for key, amount in requested.items())
