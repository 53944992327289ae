"""ResourceQuotas: a job that a full quota refuses can wait, if it would fit into the empty quota."""

from __future__ import annotations

import re

from kubernetes.utils import parse_quantity

QUOTA = re.compile(
    r"exceeded quota: (?P<name>[^,]+), requested: (?P<requested>\S+), used: \S+, limited: (?P<limited>\S+)"
)


class QuotaFullError(Exception):
    """The quota has no room for the job now, but will have it once others have ended; create it again then."""


def quota_is_full(text: str) -> bool:
    """Return whether `text` is the refusal of a ResourceQuota into which the request would fit if it were empty.

    >>> refusal = "exceeded quota: q, requested: pods=2, used: pods=3, limited: pods={}".format
    >>> quota_is_full(refusal(4)), quota_is_full(refusal(1))
    (True, False)
    """
    match = QUOTA.search(text)
    if not match:
        return False
    try:
        requested, limited = (
            {key: parse_quantity(value) for key, _, value in (pair.partition("=") for pair in listed.split(","))}
            for listed in (match["requested"], match["limited"].rstrip("."))
        )
    except ValueError:
        return False
    return all(amount <= limited.get(key, amount) for key, amount in requested.items())
