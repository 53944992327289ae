"""NumPy blocks on Ray: on the cluster at `cluster` or at Ray's own RAY_ADDRESS, or on processes of this machine.

Each worker reads its own row blocks of A and writes its own row blocks of U. Workers therefore need ctbasis, and the
same AWS_* variables if the stores are on S3 or the same folder if they are not. Passes and results go through Ray's
object store.
"""

from __future__ import annotations

import logging
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from threadpoolctl import threadpool_limits

from ctbasis.errors import CtbasisError
from ctbasis.installed import VERSION
from ctbasis.parsing import parse_cluster
from ctbasis.printable import say
from ctbasis.svd.method import ctbasis_error_in, factorize_with
from ctbasis.svd.passes import fold, merged, nbytes
from ctbasis.svd.workers import Workers, block_reader, operands, ranges, require_release
from ctbasis.threads import available_cpus

# Ray reads these variables when it is imported. They switch off a warning and the usage statistics.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

try:
    import ray
    from ray.exceptions import RayError
except ImportError as error:
    raise CtbasisError(
        f"the engine ray lacks a package ({error.name})",
        expected="ray",
        remedy="pip install 'ctbasis[ray]', or choose --engine numpy",
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctbasis.matrix.store import MatrixStore
    from ctbasis.svd.factors import FactorWriter
    from ctbasis.svd.passes import Parts, Pass
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.spectrum import Spectrum
    from ctbasis.svd.workers import BlockReader, RowBlocks, WorkersFactory

TASKS_PER_CPU = 3
"""Enough tasks that no CPU is idle for long at the end of a pass."""

FAN_IN = 8
"""Number of results that one task merges."""

TASK_RETRIES = 3
"""How often Ray runs a task again whose worker or node is lost."""

CONNECT_TIMEOUT_SECONDS = 30
"""Timeout of the connection to the head."""

CONNECT_ATTEMPTS = 3
"""How often a connection is attempted. The head forks a server for each client, and gRPC's fork handlers sometimes kill
that server: https://github.com/ray-project/ray/issues/63202."""

OBJECT_STORE_BYTES = 256 * 2**20
"""Size of Ray's object store on this machine: results are small, and Ray's default is a third of the memory."""


def factorize(matrix: MatrixStore, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Factor `matrix` by the plan's method, on the workers of a Ray cluster.

    Raises:
        CtbasisError: The cluster does not answer, its workers lack ctbasis or die, or the matrix contains NaN or Inf.
    """
    with connected(plan.cluster):
        return factorize_with(RayWorkers(matrix), factors, plan)


@contextmanager
def open_workers(cluster: str = "", memory: int = 0) -> Iterator[WorkersFactory]:
    """Yield a function that returns the workers of a Ray cluster as workers on a matrix.

    Args:
        cluster: Address of the cluster; empty for the one of RAY_ADDRESS, or processes of this machine.
        memory: Ignored; the settings of the cluster decide.
    """
    del memory
    with connected(cluster):
        yield lambda matrix, _bytes: RayWorkers(matrix)


@contextmanager
def connected(cluster: str) -> Iterator[None]:
    """Connect to a Ray cluster and disconnect at the end; without an address, start one on this machine.

    An existing connection of this process is used and kept.

    Args:
        cluster: Address of the cluster; empty for the one of RAY_ADDRESS, or processes of this machine.

    Raises:
        CtbasisError: No cluster answers at the address, or the head starts no server for this client.
    """
    if ray.is_initialized():
        yield
        return
    address = cluster or os.environ.get("RAY_ADDRESS", "")
    # The environment's address has not been validated with the plan.
    parse_cluster(address)
    settings = (
        {"address": address}
        if address
        else {
            "address": "local",
            "num_cpus": available_cpus(),
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    )
    try:
        _check_reachable(address)
        _connect(settings)
    except ConnectionAbortedError as error:
        raise CtbasisError(
            f"the Ray head at {address} answers, but started no server for this client in {CONNECT_ATTEMPTS} attempts",
            expected="a server for this client",
            cause="gRPC's fork handlers in the head, or packages that it lacks; see its ray_client_server*.err",
            remedy="start the head with GRPC_ENABLE_FORK_SUPPORT=0 in its environment, or give its address without "
            "ray://",
        ) from error
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise CtbasisError(
            f"no Ray cluster answers at {address or 'this machine'} ({type(error).__name__})",
            expected="an address such as host:6379 or ray://host:10001",
            cause="the cluster is not running, is not reachable from here, or runs another version of Ray or Python",
            remedy="check --cluster or RAY_ADDRESS",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _connect(settings: dict[str, Any]) -> None:
    """Connect with `settings`; try again if the head could not start a server for this client.

    Raises:
        ConnectionAbortedError: The head could not start one in `CONNECT_ATTEMPTS` attempts.
    """
    for attempt in range(1, CONNECT_ATTEMPTS + 1):
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **settings)
        except ConnectionAbortedError:
            ray.shutdown()
            if attempt == CONNECT_ATTEMPTS:
                raise
            retry = f"trying again, attempt {attempt + 1} of {CONNECT_ATTEMPTS}"
            say(f"svd: the Ray head started no server for this client; {retry}")
        else:
            return


def _check_reachable(address: str) -> None:
    """Check that something listens at `address`. Ray itself would try for many minutes, without a timeout to set.

    Raises:
        OSError: Nothing listens there.
        ValueError: `address` is not of the form host:port.
    """
    if address in {"", "auto", "local"}:
        return
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    if not parts.hostname or not parts.port:
        raise ValueError(address)
    socket.create_connection((parts.hostname, parts.port), timeout=CONNECT_TIMEOUT_SECONDS).close()


class RayWorkers(Workers):
    """The workers of the Ray cluster that this process is connected to.

    Args:
        matrix: A.
    """

    def __init__(self, matrix: RowBlocks) -> None:
        super().__init__(matrix)
        self._reader = block_reader(matrix)

    def _run(self, work: Pass) -> Parts:
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        run = ray.remote(max_retries=TASK_RETRIES)(run_blocks)
        merge = ray.remote(max_retries=TASK_RETRIES)(merge_parts)
        try:
            shared = ray.put(work)
            level: list[Any] = [
                run.remote(indices, shared, self._reader, VERSION)
                for indices in ranges(self.matrix.block_count, TASKS_PER_CPU * cpus)
            ]
            count = len(level)
            while len(level) > 1:
                groups = [level[first : first + FAN_IN] for first in range(0, len(level), FAN_IN)]
                level = [merge.remote(shared, *group) for group in groups]
            total: Parts = merged(work, [ray.get(level[0])])
        except RayError as error:
            raise ctbasis_error_in(error) or worker_error(error) from error
        self.count_sent(operands(work), 1)
        self.bytes_shuffled += nbytes(total) * count
        return total


def run_blocks(indices: range, work: Pass, reader: BlockReader, release: str) -> Parts | None:
    """Run a pass over the row blocks of `indices`; BLAS uses one thread, since a task has one CPU."""
    require_release(release)
    with threadpool_limits(1, user_api="blas"):
        return fold(work, reader.blocks(indices, reads=work.reads))


def merge_parts(work: Pass, *parts: Parts) -> Parts:
    """Merge the results of several tasks."""
    return merged(work, parts)


def worker_error(error: RayError) -> CtbasisError:
    """Return the error for a task that ended with another exception than `CtbasisError`."""
    cause = getattr(error, "cause", None)
    return CtbasisError(
        f"the workers of the Ray cluster cannot run the task ({type(cause or error).__name__})",
        expected="workers with this version of ctbasis, and with memory for a row block",
        cause="the workers lack ctbasis, or ran out of memory",
        remedy="install ctbasis on the workers, or give them more memory",
    )
