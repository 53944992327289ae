"""The job of an operator that runs the svd step's engine on Kubernetes: a SparkApplication, a RayJob or a DaskJob."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.jobs.names import job_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ctbasis.jobs.job import Job
    from ctbasis.jobs.placement import Placement

ADDRESS_VARIABLES = {"ray": "RAY_ADDRESS", "dask": "DASK_SCHEDULER_ADDRESS"}
"""Engines besides those on Spark that have an operator, and the variable in which their libraries take an address."""


def is_launched(engine: str, cluster: str) -> bool:
    """Return whether the svd step of a run starts a job for an engine: in a pod, if no address of a cluster is given.

    Args:
        engine: One of `ENGINES` that does not run on Spark.
        cluster: Address of the engine's own cluster; empty if none is given.

    Raises:
        CtbasisError: No address is given, so that the operator would start a cluster, and the environment has one.
    """
    if cluster or engine not in ADDRESS_VARIABLES or "KUBERNETES_SERVICE_HOST" not in os.environ:
        return False
    variable = ADDRESS_VARIABLES[engine]
    address = os.environ.get(variable)
    if address:
        raise CtbasisError(
            f"{variable} is {address!r} in the step's environment, and --cluster is empty, by which the engine's "
            "operator starts a cluster",
            expected="an address, or a cluster of the operator, and not both",
            cause="the pipeline or a Secret sets the variable",
            remedy=f"give the address by --cluster {address}, or remove {variable} from the step's environment",
        )
    return True


def launch(engine: str, arguments: Sequence[str], *, run: str, placement: Placement) -> None:
    """Run the driver program in a job of the engine's operator, and return when it has succeeded.

    Args:
        engine: `ray` or `dask`.
        arguments: Command line of ctbasis/spark/driver.py.
        run: Id of the run, from which the name of the job follows.
        placement: Kubeflow's decisions for the step's pod, which the pods of the job share.

    Raises:
        CtbasisError: The operator is not installed, or the job failed; with the reason.
        SystemExit: This process received SIGTERM or SIGINT.
    """
    from ctbasis.jobs import launcher

    kind = job_of(engine)
    name = job_name(run, longest=kind.longest_name)
    launcher.launch(launcher.template(kind).for_run(name=name, arguments=arguments).placed(placement))


def end(run: str) -> bool:
    """Delete the job of `run` on Kubernetes if it has not ended, and wait until it and its pods are gone.

    Args:
        run: Id of the run.

    Returns:
        Whether there was a job to delete; False outside of a cluster.

    Raises:
        CtbasisError: The job or a pod of it still exists, or may not be deleted.
    """
    from ctbasis.spark import launch as spark_launch

    ended = spark_launch.end(run)
    if "KUBERNETES_SERVICE_HOST" not in os.environ:
        return ended
    from ctbasis.jobs import launcher

    others = [launcher.end(kind, job_name(run, longest=kind.longest_name)) for kind in map(job_of, ADDRESS_VARIABLES)]
    return ended or any(others)


def job_of(engine: str) -> type[Job]:
    """Return the kind of job of an engine besides those on Spark.

    Raises:
        KeyError: The engine has no operator.
    """
    from ctbasis.jobs.dask_job import DaskJob
    from ctbasis.jobs.ray_job import RayJob

    kinds: dict[str, type[Job]] = {"ray": RayJob, "dask": DaskJob}
    return kinds[engine]
