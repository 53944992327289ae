"""The pod in which a step of a pipeline runs, as Kubeflow describes it to the step."""

from __future__ import annotations

import os

POD_NAME = "KFP_POD_NAME"
"""Environment variable in which Kubeflow gives a step the name of its pod."""

ONE_NODE = "CTBASIS_WORKSPACE_ON_ONE_NODE"
"""Environment variable that `ctbasis compile --access-mode ReadWriteOnce` gives the svd step."""


def pod_name() -> str:
    """Return the name of this step's pod; empty if this process is no step of a run on Kubeflow."""
    return os.environ.get(POD_NAME, "")
