"""Launch of the driver program in a SparkApplication, on Kubernetes or on this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ctbasis.jobs.names import job_name
from ctbasis.jobs.placement import Placement
from ctbasis.jobs.spark_application import SparkApplication
from ctbasis.spark import launch_local

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["application_name", "end", "launch", "local_java"]

local_java = launch_local.java_version


def application_name(run: str, prefix: str = "ctbasis-svd") -> str:
    """Return the name of a task's SparkApplication in `run`; see `job_name`.

    >>> application_name("0f0c1d9e-run")
    'ctbasis-svd-0f0c1d9e-run'
    """
    return job_name(run, longest=SparkApplication.longest_name, prefix=prefix)


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
    if _in_cluster() and not master:
        from ctbasis.jobs import launcher

        application = launcher.template(SparkApplication).for_run(name=name, arguments=arguments)
        launcher.launch(application.placed(placement or Placement()))
    else:
        launch_local.launch(SparkApplication.read().for_run(name=name, arguments=arguments), master=master)


def end(run: str) -> bool:
    """Delete the application of `run` on Kubernetes if it has not ended, and wait until it and its pods are gone.

    Args:
        run: Id of the run, as `launch` got it.

    Returns:
        Whether there was an application to delete; False outside of a cluster.

    Raises:
        CtbasisError: The application or a pod of it still exists, or may not be deleted.
    """
    if not _in_cluster():
        return False
    from ctbasis.jobs import launcher

    return launcher.end(SparkApplication, application_name(run))


def _in_cluster() -> bool:
    return "KUBERNETES_SERVICE_HOST" in os.environ
