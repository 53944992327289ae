"""A Dask cluster whose scheduler is lost during a pass, that starts later than the program, or has another version."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctbasis.demo.ports import free_ports
from ctbasis.errors import CtbasisError
from ctbasis.svd.engines import dask as engine
from ctbasis.svd.passes import Gram
from tests.svd.slow_matrix import SlowMatrix
from tests.svd.test_clusters import running

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

OTHER_RELEASE = "import ctbasis.installed\nctbasis.installed.VERSION = '9.9.9'\n"


class Cluster(ExitStack):
    """A scheduler and workers of it as processes, which end with the `with` block."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        (self._port,) = free_ports(1)
        self.address = f"tcp://127.0.0.1:{self._port}"

    def scheduler(self) -> None:
        command = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--no-dashboard"]
        self.enter_context(running(*command, "--port", str(self._port), until="Scheduler at:"))

    def worker(self, *options: str) -> None:
        command = [sys.executable, "-m", "distributed.cli.dask_worker", self.address, "--nthreads", "1", *options]
        command += ["--no-nanny", "--no-dashboard", "--local-directory", str(self._folder)]
        self.enter_context(running(*command, until="Registered to:"))


def gram_of(matrix: SlowMatrix, client: engine.Client) -> list[list[float]]:
    (gram,) = engine.DaskWorkers(client, matrix).run(Gram())
    return np.asarray(gram).tolist()


def test_a_pass_is_run_again_when_its_scheduler_is_lost_and_comes_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = SlowMatrix(block_count=4, seconds=1.5)
    with Cluster(tmp_path) as cluster:
        cluster.scheduler()
        cluster.worker()
        with engine.connected(cluster.address) as client:
            pid = client.run_on_scheduler(os.getpid)

            def restart() -> None:
                time.sleep(2)
                os.kill(pid, signal.SIGKILL)
                cluster.scheduler()
                cluster.worker()  # a worker ends with its scheduler, and Kubernetes starts it again

            thread = threading.Thread(target=restart)
            thread.start()
            assert gram_of(matrix, client) == [[matrix.rows] * matrix.cols] * matrix.cols
            thread.join()
    assert "the Dask scheduler was lost; waiting for it" in capsys.readouterr().err


def test_a_scheduler_that_stays_away_is_an_error_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "CONNECT_TIMEOUT_SECONDS", 3)
    with Cluster(tmp_path) as cluster:
        cluster.scheduler()
        cluster.worker()
        with engine.connected(cluster.address) as client:
            pid = client.run_on_scheduler(os.getpid)
            threading.Timer(2, os.kill, (pid, signal.SIGKILL)).start()
            with pytest.raises(CtbasisError, match="the Dask scheduler was lost"):
                gram_of(SlowMatrix(block_count=8, seconds=1), client)


def test_a_program_that_starts_before_its_cluster_waits_for_the_scheduler_and_a_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(engine.STARTING_WORKERS, "1")
    monkeypatch.setattr(engine, "RESTART_SECONDS", 2)
    with Cluster(tmp_path) as cluster:

        def start() -> None:
            time.sleep(3)
            cluster.scheduler()
            cluster.worker()

        thread = threading.Thread(target=start)
        thread.start()
        with engine.connected(cluster.address) as client:
            assert gram_of(SlowMatrix(block_count=2, seconds=0), client) == [[8] * 3] * 3
        thread.join()
    said = capsys.readouterr().err
    assert f"waiting for the Dask scheduler at {cluster.address}" in said
    assert "1 of 1 Dask workers are here" in said


def test_a_worker_with_another_version_of_ctbasis_is_refused_by_name(tmp_path: Path) -> None:
    preload = tmp_path / "other_release.py"
    preload.write_text(OTHER_RELEASE)
    with Cluster(tmp_path) as cluster:
        cluster.scheduler()
        cluster.worker("--preload", str(preload))
        with (
            engine.connected(cluster.address) as client,
            pytest.raises(CtbasisError, match=r"the svd step has ctbasis .*, and a worker has ctbasis 9\.9\.9"),
        ):
            gram_of(SlowMatrix(block_count=2, seconds=0), client)
