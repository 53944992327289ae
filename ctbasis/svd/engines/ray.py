"""NumPy blocks on Ray: on the cluster that `cluster` or Ray's own RAY_ADDRESS names, or on processes of this machine.

Workers read their own row blocks of A and write their own of U, so they need ctbasis, the same AWS_* variables where
the stores are on S3, and the same folder where they are not. Passes and results go through Ray's object store.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from threadpoolctl import threadpool_limits

from ctbasis.errors import CtbasisError
from ctbasis.svd.method import explained, factorize_by
from ctbasis.svd.passes import fold, merged, nbytes
from ctbasis.svd.workers import Workers, operands, portable, ranges
from ctbasis.threads import available_cpus

# Ray's own logs and metrics of a run that lasts seconds; they are set before it is imported, for it reads them then.
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
    from ctbasis.svd.workers import Gather, Portable, RowBlocks

TASKS_PER_CPU = 3
"""Enough that no CPU idles long at the end of a pass."""

FAN_IN = 8
"""Results that one task merges."""

RETRIES = 3
"""Times that Ray runs a task again whose worker or node is lost."""

PATIENCE_SECONDS = 30
"""How long the head may take to answer."""

ATTEMPTS = 3
"""Times that a connection is asked for. The head forks a server for each client, and gRPC's handlers of forks kill it
now and then: https://github.com/ray-project/ray/issues/63202."""

OBJECT_STORE_BYTES = 256 * 2**20
"""Ray's object store on this machine: results are small, and its default is a third of the memory."""


def factorize(matrix: MatrixStore, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Factor `matrix` by the plan's method on the workers of a Ray cluster.

    Raises:
        CtbasisError: The cluster does not answer, its workers lack ctbasis or die, or the matrix holds NaN or Inf.
    """
    with connected(plan.cluster):
        return factorize_by(RayWorkers(matrix), factors, plan)


@contextmanager
def gathered(cluster: str = "", memory: int = 0) -> Iterator[Gather]:
    """Yield what gives the workers of the cluster; what they need is the cluster's own."""
    del memory
    with connected(cluster):
        yield lambda matrix, _each: RayWorkers(matrix)


@contextmanager
def connected(cluster: str) -> Iterator[None]:
    """Join the cluster at `cluster`, that of RAY_ADDRESS, or one of this machine's processes, and leave it."""
    if ray.is_initialized():
        yield
        return
    address = cluster or os.environ.get("RAY_ADDRESS", "")
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
        _knock(address)
        _join(settings)
    except ConnectionAbortedError as error:
        raise CtbasisError(
            f"the Ray head at {address} answers, but started no server for this client in {ATTEMPTS} attempts",
            cause="gRPC's handlers of forks in the head, or packages that it lacks; see its ray_client_server*.err",
            remedy="start the head with GRPC_ENABLE_FORK_SUPPORT=0 in its environment, or name it without ray://",
        ) from error
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise CtbasisError(
            f"no Ray cluster answers at {address or 'this machine'} ({type(error).__name__})",
            expected="an address such as host:6379 or ray://host:10001",
            cause="it is not running, cannot be reached from here, or runs another version of Ray or Python",
            remedy="check --cluster or RAY_ADDRESS",
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _join(settings: dict[str, Any]) -> None:
    """Connect as `settings` say, more than once if the head could not start a server for this client.

    Raises:
        ConnectionAbortedError: It could not in any of `ATTEMPTS`.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, configure_logging=False, **settings)
        except ConnectionAbortedError:
            ray.shutdown()
            if attempt == ATTEMPTS:
                raise
            again = f"asking again, attempt {attempt + 1} of {ATTEMPTS}"
            sys.stderr.write(f"svd: the Ray head started no server for this client; {again}\n")
            sys.stderr.flush()
        else:
            return


def _knock(address: str) -> None:
    """Ask whether anything listens at `address`: Ray itself tries for many minutes, and cannot be told not to.

    Raises:
        OSError: Nothing does.
        ValueError: It is no address.
    """
    if address in {"", "auto", "local"}:
        return
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    if not parts.hostname or not parts.port:
        raise ValueError(address)
    socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE_SECONDS).close()


class RayWorkers(Workers):
    """The workers of a Ray cluster."""

    def __init__(self, matrix: RowBlocks) -> None:
        super().__init__(matrix)
        self._matrix = portable(matrix)

    def _run(self, work: Pass) -> Parts:
        cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
        share = ray.remote(max_retries=RETRIES)(run_share)
        merge = ray.remote(max_retries=RETRIES)(merge_shares)
        try:
            shared = ray.put(work)
            level: list[Any] = [
                share.remote(indices, shared, self._matrix)
                for indices in ranges(self.matrix.block_count, TASKS_PER_CPU * cpus)
            ]
            count = len(level)
            while len(level) > 1:
                groups = [level[first : first + FAN_IN] for first in range(0, len(level), FAN_IN)]
                level = [merge.remote(shared, *group) for group in groups]
            total: Parts = merged(work, [ray.get(level[0])])
        except RayError as error:
            raise explained(error) or refusal(error) from error
        self.sent(operands(work), 1)
        self.bytes_shuffled += nbytes(total) * count
        return total


def run_share(indices: range, work: Pass, matrix: Portable) -> Parts | None:
    """Run a pass over some row blocks; a task is one thread, and so is its BLAS."""
    with threadpool_limits(1, user_api="blas"):
        return fold(work, matrix.blocks(indices, reads=work.reads))


def merge_shares(work: Pass, *parts: Parts) -> Parts:
    """Merge what came of several shares."""
    return merged(work, parts)


def refusal(error: RayError) -> CtbasisError:
    """Say what became of a task that did not refuse in words."""
    cause = getattr(error, "cause", None)
    return CtbasisError(
        f"the workers of the Ray cluster cannot run the task ({type(cause or error).__name__})",
        expected="workers that have this version of ctbasis, and memory for a row block",
        cause="they lack it, or ran out of memory",
        remedy="install it there, or give them more memory",
    )
