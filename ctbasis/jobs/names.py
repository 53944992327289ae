"""The name of a run's job."""

from __future__ import annotations

import hashlib
import re


def job_name(run: str, *, longest: int, prefix: str = "ctbasis-svd") -> str:
    """Return the name of a task's job in `run`: always the same for one run, different for two.

    It is never the prefix alone: `ctbasis-svd` is the name of the template. A pipeline with several tasks that launch
    jobs gives each a different `run`, such as the id of the run and the name of the task.

    Args:
        run: Id of the run.
        longest: Characters of the name.
        prefix: Begin of the name; by default that of the svd task.

    >>> job_name("0f0c1d9e-run", longest=56)
    'ctbasis-svd-0f0c1d9e-run'
    """
    full_name = f"{prefix}-{run}"
    name = re.sub(r"[^a-z0-9-]+", "-", full_name.lower()).strip("-")
    if name == full_name and len(name) <= longest:
        return name
    # Two runs may differ only in characters that were replaced or cut.
    digest = hashlib.sha256(run.encode()).hexdigest()[:8]
    return f"{name[: longest - len(digest) - 1].rstrip('-')}-{digest}"
