"""Each engine runs on an existing cluster at a given address, and raises an error if no cluster answers there."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyspark
import pytest

from ctbasis.demo.ports import free_ports
from ctbasis.errors import CtbasisError
from ctbasis.matrix import store
from ctbasis.parameters import SvdPlan
from ctbasis.steps.engine_choice import choose_engine
from ctbasis.steps.svd import factorize
from ctbasis.svd.factors import FactorStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctbasis.matrix.store import MatrixStore

    StoreMatrix = Callable[..., MatrixStore]

CHECKOUT = Path(__file__).parents[2]
TIMEOUT_SECONDS = 180.0

ENVIRONMENT = {"PYTHONPATH": str(CHECKOUT), "PYSPARK_PYTHON": sys.executable, "SPARK_LOCAL_IP": "127.0.0.1"}


@contextmanager
def running(*command: str, until: str, **environment: str) -> Iterator[re.Match[str]]:
    """Start a program of a cluster, wait until its output matches `until`, and stop it when the block ends."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **ENVIRONMENT, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output: list[str] = []
    deadline = time.monotonic() + TIMEOUT_SECONDS
    try:
        assert process.stdout is not None
        while time.monotonic() < deadline:
            line = process.stdout.readline()
            output.append(line)
            if match := re.search(until, line):
                yield match
                return
            if not line:
                break
        pytest.fail(f"the output of {command[0]} never matched {until}: {''.join(output[-20:])}")
    finally:
        process.terminate()
        process.communicate(timeout=60)


@pytest.fixture
def matrix(store_matrix: StoreMatrix, monkeypatch: pytest.MonkeyPatch) -> MatrixStore:
    """Return a 600 x 8 matrix in three row blocks."""
    monkeypatch.setattr(store, "BLOCK_ELEMENTS", 1)
    return store_matrix(np.random.default_rng(0).integers(-1000, 3000, (600, 8), dtype=np.int16))


def factored_at_full_rank(matrix: MatrixStore, uri: Path, **options: Any) -> FactorStore:
    """Factor at full rank and check that the product of the factors is the matrix."""
    factorize(matrix.uri, str(uri), SvdPlan.of(rank="8", ranks="8", **options))
    factors = FactorStore.open(str(uri))
    check_product(matrix, factors)
    return factors


def check_product(matrix: MatrixStore, factors: FactorStore) -> None:
    """Check that U weights^T is the matrix."""
    U = np.vstack([factors.read_block(index) for index in range(factors.block_count)])
    np.testing.assert_allclose(U @ factors.weights.T, matrix.read_columns(slice(None)), atol=1e-2)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("address_from", ["cluster", "environment"])
def test_dask_runs_on_the_scheduler_at_the_given_address(
    address_from: str, matrix: MatrixStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import dask

    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"]
    with running(*scheduler, "--no-dashboard", until=r"Scheduler at:\s+(tcp://\S+)") as match:
        worker = [sys.executable, "-m", "distributed.cli.dask_worker", match[1], "--nthreads", "1", "--no-dashboard"]
        with running(*worker, "--no-nanny", "--local-directory", str(tmp_path), until="Registered to:"):
            if address_from == "cluster":
                factors = factored_at_full_rank(matrix, tmp_path / "f", engine="auto", cluster=match[1])
            else:
                monkeypatch.setitem(dask.config.config, "scheduler-address", match[1])
                factors = factored_at_full_rank(matrix, tmp_path / "f", engine="dask")
    assert factors.plan.engine == "dask"
    # The worker is another process, so operands and results were sent to it and back.
    assert factors.accuracy["bytes_shuffled"] > 0


def await_listener(port: int) -> None:
    """Wait until a server listens at `port`: a Ray head reports its start before its client server listens."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline, f"no server listens at port {port}"
            time.sleep(0.2)
        else:
            return


def first_client_dies(folder: Path) -> Path:
    """Return a folder for PYTHONPATH that makes the first server that a Ray head starts for a client exit at once."""
    folder = folder / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import os, pathlib, sys\n"
        "died = pathlib.Path(__file__).with_name('died')\n"
        "if '--mode=specific-server' in sys.orig_argv and not died.exists():\n"
        "    died.touch()\n"
        "    os._exit(1)\n"
    )
    return folder


def test_ray_runs_on_the_head_at_the_given_address_directly_and_as_a_client(
    matrix: MatrixStore, tmp_path: Path
) -> None:
    port, client = free_ports(2)
    # A short path, since Ray's sockets lie below it. The system chooses the workers' ports, so that they avoid the two
    # ports of this test.
    with tempfile.TemporaryDirectory(prefix="ray-") as scratch:
        head = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--disable-usage-stats"]
        head += ["--node-ip-address", "127.0.0.1", "--port", str(port), "--ray-client-server-port", str(client)]
        head += ["--min-worker-port", "0", "--max-worker-port", "0", "--num-cpus", "1", "--temp-dir", scratch]
        head += ["--include-dashboard", "false", "--object-store-memory", str(100 * 2**20)]
        # Each connection gets its own process, because a process keeps the Ray cluster it connected to first.
        program = (
            "import sys; from ctbasis.parameters import SvdPlan; from ctbasis.steps.svd import factorize; "
            "plan = SvdPlan.of(rank='8', ranks='8', engine='ray', cluster=sys.argv[3]); "
            "factorize(sys.argv[1], sys.argv[2], plan)"
        )
        no_authentication = {"RAY_AUTH_MODE": "disabled"}
        # gRPC's fork handlers sometimes kill the clients' servers, on busy CPUs three of nine:
        # https://github.com/ray-project/ray/issues/63202. They are switched off here, and exactly one server is killed.
        head_environment = {"GRPC_ENABLE_FORK_SUPPORT": "0", "PYTHONPATH": f"{first_client_dies(tmp_path)}:{CHECKOUT}"}
        with running(*head, until="Ray runtime started", **no_authentication, **head_environment):
            await_listener(client)
            for number, address in enumerate((f"127.0.0.1:{port}", f"ray://127.0.0.1:{client}")):
                done = subprocess.run(
                    [sys.executable, "-c", program, matrix.uri, str(tmp_path / str(number)), address],
                    env={**os.environ, **ENVIRONMENT, **no_authentication},
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, done.stderr
                check_product(matrix, FactorStore.open(str(tmp_path / str(number))))
            assert "attempt 2 of 3" in done.stderr


@pytest.mark.java
@pytest.mark.parametrize("secret", ["", "a secret of the whole cluster"], ids=["open", "authenticated"])
def test_spark_runs_on_the_master_at_the_given_address(
    secret: str,
    matrix: MatrixStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Without a login, and no master with a secret starts with it.
    settings = {"spark.master.rest.enabled": "false"}
    settings |= {"spark.authenticate": "true", "spark.authenticate.secret": secret} if secret else {}
    settings |= {"spark.network.crypto.enabled": "true"} if secret else {}
    defaults = tmp_path / "conf" / "spark-defaults.conf"
    defaults.parent.mkdir()
    defaults.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    monkeypatch.setenv("SPARK_CONF_DIR", str(defaults.parent))
    spark_class = str(Path(pyspark.__file__).parent / "bin" / "spark-class")
    master = [spark_class, "org.apache.spark.deploy.master.Master", "--host", "127.0.0.1", "--port", "0"]
    with running(*master, "--webui-port", "0", until=r"Starting Spark master at (spark://\S+)") as match:
        worker = [spark_class, "org.apache.spark.deploy.worker.Worker", match[1], "--cores", "2", "--memory", "6g"]
        worker += ["--host", "127.0.0.1", "--webui-port", "0", "--work-dir", str(tmp_path / "work")]
        with running(*worker, until="Successfully registered with master"):
            factors = factored_at_full_rank(matrix, tmp_path / "f", engine="auto", cluster=match[1])
    assert factors.plan.engine == "spark"
    assert list((tmp_path / "work").glob("app-*")), "the worker ran no executor"
    assert (f"the connections to {match[1]} are not authenticated" in capsys.readouterr().err) == (not secret)


@pytest.mark.parametrize("engine", ["dask", "ray"])
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::RuntimeWarning", "ignore::FutureWarning")
def test_a_cluster_that_does_not_answer_is_an_error_that_names_its_address(
    engine: str, matrix: MatrixStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ctbasis.svd.engines import dask, ray

    monkeypatch.setattr(dask, "CONNECT_TIMEOUT_SECONDS", 2)
    if engine == "ray" and ray.ray.is_initialized():
        ray.ray.shutdown()
    address = {"dask": "tcp://127.0.0.1:9", "ray": "127.0.0.1:9"}[engine]
    with pytest.raises(CtbasisError, match=rf"no {engine.title()} (scheduler|cluster) answers at \S*127.0.0.1:9"):
        factorize(matrix.uri, str(tmp_path / "f"), SvdPlan.of(rank="2", ranks="2", engine=engine, cluster=address))


@pytest.mark.parametrize(("engine", "package"), [("dask", "distributed"), ("ray", "ray")])
def test_an_engine_whose_package_is_missing_is_an_error_that_says_how_to_install_it(
    engine: str, package: str, matrix: MatrixStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"ctbasis.svd.engines.{engine}", raising=False)
    with pytest.raises(CtbasisError, match=rf"ctbasis\[{engine}\]"):
        factorize(matrix.uri, str(tmp_path / "f"), SvdPlan.of(rank="2", ranks="2", engine=engine))


@pytest.mark.parametrize(
    ("cluster", "engine"),
    [("spark://host:7077", "spark"), ("tcp://host:8786", "dask"), ("ray://host:10001", "ray")],
)
def test_auto_chooses_the_engine_that_the_address_belongs_to_and_says_so(
    cluster: str, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert choose_engine("global", cluster) == engine
    assert f"auto chose {engine}" in capsys.readouterr().err


def test_auto_with_an_address_of_unknown_scheme_is_an_error() -> None:
    with pytest.raises(CtbasisError, match="the cluster is 'host:1'"):
        choose_engine("global", "host:1")
