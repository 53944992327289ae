"""Launch of the driver program in a SparkApplication, on Kubernetes or on this machine."""

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
"""Characters of an application's name. Operator and Spark append `-driver`; a label or host name has at most 63."""


def application_name(run: str) -> str:
    """Return the name of the svd task's application in `run`: always the same for one run, different for two.

    It is never `ctbasis-svd`, the name of the template. A pipeline with several svd tasks gives each a different `run`,
    such as the id of the run and the name of the task.

    >>> application_name("0f0c1d9e-run")
    'ctbasis-svd-0f0c1d9e-run'
    """
    full_name = f"ctbasis-svd-{run}"
    name = re.sub(r"[^a-z0-9-]+", "-", full_name.lower()).strip("-")
    if name == full_name and len(name) <= LONGEST_NAME:
        return name
    # Two runs may differ only in characters that were replaced or cut.
    digest = hashlib.sha256(run.encode()).hexdigest()[:8]
    return f"{name[: LONGEST_NAME - len(digest) - 1].rstrip('-')}-{digest}"


def launch(arguments: Sequence[str], *, run: str, placement: Placement | None = None, master: str = "") -> None:
    """Run the driver program in a Spark application and return when it has succeeded.

    In a pod the SparkApplication is created as a resource of the cluster. Elsewhere its mainApplicationFile, sparkConf,
    jars and resources become a spark-submit command on this machine.

    Args:
        arguments: Command line of ctbasis/spark/driver.py.
        run: Id of the run. The name of the application follows from it, so that a retried step finds the application
            that it started.
        placement: Kubeflow's decisions for the step's pod, which the pods of the application share.
        master: URL of a Spark master that runs the application in place of the operator or this machine.

    Raises:
        CtbasisError: The application failed; with the reason.
    """
    name = application_name(run)
    if "KUBERNETES_SERVICE_HOST" in os.environ and not master:
        from ctbasis.spark import launch_kubernetes

        application = launch_kubernetes.template().for_run(name=name, arguments=arguments)
        launch_kubernetes.launch(application.placed(placement or Placement()))
    else:
        launch_local.launch(SparkApplication.read().for_run(name=name, arguments=arguments), master=master)
