"""When the svd step starts a job of Ray's or Dask's operator, and what it renders. The API server is a stand-in."""

from __future__ import annotations

import base64
import json
import threading
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctbasis.errors import CtbasisError
from ctbasis.jobs.names import job_name
from ctbasis.jobs.placement import Placement
from ctbasis.jobs.ray_job import RayJob
from ctbasis.parameters import SvdPlan
from ctbasis.spark import driver
from ctbasis.spark.driver import Job
from ctbasis.steps import engine_job
from ctbasis.steps.svd import factorize, run_step
from tests.jobs.api_server_stand_in import DASK_JOBS, RAY_JOBS, ApiServerStandIn
from tests.jobs.conftest import server
from tests.svd.conftest import write_matrix

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["server"]

RUN = "run-1"
NAME = job_name(RUN, longest=RayJob.longest_name)


@pytest.fixture
def in_cluster(server: ApiServerStandIn, monkeypatch: pytest.MonkeyPatch) -> ApiServerStandIn:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setattr("ctbasis.jobs.api_server.ApiServer.connect", server.api_server)
    return server


@pytest.fixture
def matrix(tmp_path: Path) -> str:
    uri = f"{tmp_path}/matrix.zarr"
    write_matrix(uri, np.random.default_rng(0).integers(-100, 100, (40, 6), dtype=np.int16))
    return uri


def test_the_step_runs_the_driver_program_of_its_plan_in_a_ray_job(
    in_cluster: ApiServerStandIn, matrix: str, tmp_path: Path
) -> None:
    """The test is Ray's head: it decodes the entrypoint, and runs the program with the engine numpy in place of ray."""

    def head() -> None:
        in_cluster.until(lambda: NAME in in_cluster.names(RAY_JOBS))
        created = in_cluster.get(RAY_JOBS, NAME)
        assert created is not None
        encoded = created["spec"]["entrypoint"].split()[-1]
        job = Job.parse(["--encoded", encoded])
        assert job.plan.engine == "ray"
        driver.run(Job(job.plan.replaced(engine="numpy"), job.factors, matrix=job.matrix))
        in_cluster.status(RAY_JOBS, NAME, jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")

    threading.Thread(target=head, daemon=True).start()
    plan = SvdPlan.of(rank="2", ranks="2", engine="ray", seed=1)
    done = run_step(matrix, plan, tmp_path / "basis", workspace=str(tmp_path), store="", run=RUN, placement=Placement())
    assert done.rank == 2
    assert (tmp_path / "basis").is_dir()


@pytest.mark.parametrize(("engine", "variable"), engine_job.ADDRESS_VARIABLES.items())
def test_an_address_in_the_environment_and_the_operator_at_once_are_refused(
    in_cluster: ApiServerStandIn,
    matrix: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
    variable: str,
) -> None:
    monkeypatch.setenv(variable, "host.example:6379")
    with pytest.raises(CtbasisError, match=f"{variable} is 'host.example:6379'") as caught:
        run_step(
            matrix,
            SvdPlan.of(rank="2", ranks="2", engine=engine),
            tmp_path / "basis",
            workspace=str(tmp_path),
            store="",
            run=RUN,
            placement=Placement(),
        )
    assert "--cluster host.example:6379" in caught.value.remedy
    assert in_cluster.names(RAY_JOBS) == in_cluster.names(DASK_JOBS) == []


def test_a_job_is_started_in_a_cluster_alone_and_only_without_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not engine_job.is_launched("dask", "")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    assert engine_job.is_launched("dask", "")
    assert not engine_job.is_launched("dask", "tcp://host:8786")
    assert not engine_job.is_launched("numpy", "")


def test_a_notebook_in_a_cluster_computes_in_its_own_process(
    in_cluster: ApiServerStandIn, matrix: str, tmp_path: Path
) -> None:
    factorize(matrix, f"{tmp_path}/factors.zarr", SvdPlan.of(rank="2", ranks="2", engine="dask", seed=1))
    assert in_cluster.requests == []


def test_the_exit_handler_ends_the_jobs_of_all_kinds(in_cluster: ApiServerStandIn) -> None:
    assert not engine_job.end(RUN)
    for collection, kind in ((RAY_JOBS, "ray"), (DASK_JOBS, "dask")):
        job = engine_job.job_of(kind)
        in_cluster.put(collection, job.read().for_run(name=job_name(RUN, longest=job.longest_name)).to_manifest())
    assert engine_job.end(RUN)
    assert in_cluster.names(RAY_JOBS) == in_cluster.names(DASK_JOBS) == []


@pytest.mark.parametrize("text", ["", "%%%", base64.urlsafe_b64encode(b"{}").decode(), "W10", "WzFd"])
def test_an_entrypoint_that_holds_no_command_line_is_refused(text: str) -> None:
    with pytest.raises(CtbasisError, match=r"holds no command line|the command line of the driver program"):
        Job.parse(["--encoded", text])


def test_a_command_line_survives_its_encoding(matrix: str) -> None:
    job = Job(SvdPlan.of(engine="ray", rank="2", basis="s3://b/$x'`\""), "/f", matrix=matrix)
    assert Job.parse(["--encoded", base64.urlsafe_b64encode(json.dumps(job.arguments()).encode()).decode()]) == job
