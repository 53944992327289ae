"""Start the Spark step from its manifest, on a cluster or on this machine: one function, two back ends."""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING

from ctbasis.spark import launch_local
from ctbasis.spark.application import SparkApplication
from ctbasis.spark.placement import Placement

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["application_name", "launch", "local_java"]

local_java = launch_local.java_version


LONGEST_NAME = 56
"""Of an application: the operator and Spark append `-driver`, and 63 is what a label or a host name may have."""


def application_name(run: str) -> str:
    """Return the name of the svd task's application in `run`: always the same, and unlike that of any other run.

    It is never `ctbasis-svd` alone, which is the template's. A pipeline with several svd tasks gives each a `run` of
    its own, such as the run's id and the task's name.

    >>> application_name("0f0c1d9e-run")
    'ctbasis-svd-0f0c1d9e-run'
    """
    wanted = f"ctbasis-svd-{run}"
    name = re.sub(r"[^a-z0-9-]+", "-", wanted.lower()).strip("-")
    if name == wanted and len(name) <= LONGEST_NAME:
        return name
    # What was changed or cut may have told two runs apart.
    digest = hashlib.sha256(run.encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - len(digest) - 1].rstrip('-')}-{digest}"


def launch(arguments: Sequence[str], *, run: str, placement: Placement | None = None, master: str = "") -> None:
    """Run the Spark step's program with `arguments` and return when it has succeeded.

    In a pod the SparkApplication is created as a resource; anywhere else its mainApplicationFile, sparkConf, jars and
    resources become a local spark-submit.

    Args:
        arguments: Of ctbasis/spark/driver.py.
        run: Name of the run. The application's name is made of it, so that a retried step finds the one it started.
        placement: What Kubeflow decided for the step's pod; the application's pods share it.
        master: A Spark master by address, which runs the application in place of the operator or this machine.

    Raises:
        CtbasisError: The application failed; the text says why.
    """
    name = application_name(run)
    if "KUBERNETES_SERVICE_HOST" in os.environ and not master:
        from ctbasis.spark import launch_kubernetes

        application = launch_kubernetes.template().for_run(name=name, arguments=arguments)
        launch_kubernetes.launch(application.placed(placement or Placement()))
    else:
        launch_local.launch(SparkApplication.read().for_run(name=name, arguments=arguments), master=master)
