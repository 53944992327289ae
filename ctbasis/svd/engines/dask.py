"""NumPy blocks on Dask: on the scheduler at `cluster` or at Dask's own DASK_SCHEDULER_ADDRESS, or on threads here.

Each worker reads its own row blocks of A and writes its own row blocks of U. Workers therefore need ctbasis, and the
same AWS_* variables if the stores are on S3 or the same folder if they are not. The workers merge the results of a pass
in a tree.
"""

from __future__ import annotations

import os
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from ctbasis.errors import CtbasisError
from ctbasis.installed import VERSION
from ctbasis.parsing import parse_cluster
from ctbasis.printable import say
from ctbasis.svd.method import factorize_with
from ctbasis.svd.passes import fold, merged, nbytes
from ctbasis.svd.workers import Workers, block_reader, operands, ranges, require_release
from ctbasis.threads import available_cpus

try:
    import dask
    from distributed import Client, LocalCluster
    from distributed.client import FutureCancelledError
    from distributed.comm import CommClosedError
    from distributed.scheduler import KilledWorker
except ImportError as error:
    raise CtbasisError(
        f"the engine dask lacks a package ({error.name})",
        expected="dask and distributed",
        remedy="pip install 'ctbasis[dask]', or choose --engine numpy",
    ) from error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctbasis.matrix.store import MatrixStore
    from ctbasis.svd.factors import FactorWriter
    from ctbasis.svd.passes import Parts, Pass
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.spectrum import Spectrum
    from ctbasis.svd.workers import BlockReader, RowBlocks, WorkersFactory

TASKS_PER_THREAD = 3
"""Enough tasks that no thread is idle for long at the end of a pass."""

FAN_IN = 8
"""Number of results that one task merges."""

CONNECT_TIMEOUT_SECONDS = 30
"""Timeout of the connection to the scheduler."""

STARTING_WORKERS = "CTBASIS_WORKERS"
"""Environment variable in a job of Dask's operator: how many workers start together with this process."""

RETRY_SECONDS = 2.0

PASS_ATTEMPTS = 3
"""How often a pass is run whose scheduler is lost."""

RESTART_SECONDS = 300
"""How long a scheduler may be away that Kubernetes starts again; the client gives up after it."""

ALL_WORKERS_SECONDS = 30.0
"""How long the program waits for the other workers once it has one; Spark waits as long for its executors."""


def factorize(matrix: MatrixStore, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Factor `matrix` by the plan's method, on the workers of a Dask cluster.

    Raises:
        CtbasisError: The scheduler does not answer, its workers lack ctbasis or die, or the matrix contains NaN or Inf.
    """
    with connected(plan.cluster) as client:
        return factorize_with(DaskWorkers(client, matrix), factors, plan)


@contextmanager
def open_workers(cluster: str = "", memory: int = 0) -> Iterator[WorkersFactory]:
    """Yield a function that returns the workers of a Dask cluster as workers on a matrix.

    Args:
        cluster: Address of the scheduler; empty for the one of Dask's configuration, or threads of this process.
        memory: Ignored; the settings of the cluster decide.
    """
    del memory
    with connected(cluster) as client:
        yield lambda matrix, _bytes: DaskWorkers(client, matrix)


@contextmanager
def connected(cluster: str) -> Iterator[Client]:
    """Yield a client of a Dask cluster; without an address, of threads of this process.

    Args:
        cluster: Address of the scheduler; empty for the one of Dask's configuration, or threads of this process.

    Raises:
        CtbasisError: No scheduler answers at the address.
    """
    address = cluster or dask.config.get("scheduler-address", None)
    if address is None:
        with (
            LocalCluster(
                n_workers=1,
                threads_per_worker=available_cpus(),
                processes=False,
                dashboard_address=None,
                memory_limit=None,
            ) as local,
            Client(local) as client,
        ):
            yield client
        return
    # The environment's address has not been validated with the plan.
    parse_cluster(address)
    starting = int(os.environ.get(STARTING_WORKERS) or 0)
    try:
        client = _first_connection(address) if starting else Client(address, timeout=CONNECT_TIMEOUT_SECONDS)
    except (OSError, ValueError) as error:
        raise CtbasisError(
            f"no Dask scheduler answers at {address} ({type(error).__name__})",
            expected="an address such as tcp://host:8786",
            cause="the scheduler is not running, or is not reachable from here",
            remedy="check --cluster or DASK_SCHEDULER_ADDRESS",
        ) from error
    with client:
        if starting:
            _wait_for_workers(client, starting)
        yield client


def _first_connection(address: str) -> Client:
    """Connect to a scheduler that starts together with this process, however long its pod waits for a node.

    Raises:
        ValueError: The address is not valid.
    """
    said = False
    while True:
        try:
            return Client(address, timeout=RESTART_SECONDS)
        except OSError as error:
            if not said:
                say(f"svd: waiting for the Dask scheduler at {address} ({type(error).__name__})")
            said = True
            time.sleep(RETRY_SECONDS)


def _wait_for_workers(client: Client, expected: int) -> None:
    """Wait for the first worker, however long it takes, and then a little for the others."""
    with suppress(TimeoutError):
        client.wait_for_workers(1, timeout=ALL_WORKERS_SECONDS)
    if not client.nthreads():
        say("svd: waiting for the first Dask worker")
        client.wait_for_workers(1)
    with suppress(TimeoutError):
        client.wait_for_workers(expected, timeout=ALL_WORKERS_SECONDS)
    say(f"svd: {len(client.nthreads())} of {expected} Dask workers are here")


class DaskWorkers(Workers):
    """The workers of a Dask cluster.

    Args:
        client: Client of the cluster.
        matrix: A.
    """

    def __init__(self, client: Client, matrix: RowBlocks) -> None:
        super().__init__(matrix)
        self._client = client
        self._seconds = RESTART_SECONDS if os.environ.get(STARTING_WORKERS) else CONNECT_TIMEOUT_SECONDS
        self._reader = block_reader(matrix)

    def _run(self, work: Pass) -> Parts:
        for attempt in range(1, PASS_ATTEMPTS + 1):
            try:
                return self._run_once(work)
            except (FutureCancelledError, CommClosedError) as error:
                # All results of a pass are lost with its scheduler. What its tasks have written is written again.
                if attempt == PASS_ATTEMPTS or not self._scheduler_returns():
                    raise CtbasisError(
                        f"the Dask scheduler was lost ({type(error).__name__})",
                        expected="a scheduler that runs until the end, or that starts again within "
                        f"{self._seconds:.0f} s",
                        cause="its pod or process was killed, as for memory, or its node is down",
                        remedy="look at the end of the scheduler's log; give it more memory, or run again",
                    ) from error
        raise AssertionError("the last attempt returns or raises")

    def _scheduler_returns(self) -> bool:
        """Wait for the scheduler after its loss, and for a worker; the client itself connects again."""
        say("svd: the Dask scheduler was lost; waiting for it, and for a worker, to begin the pass again")
        try:
            self._client.wait_for_workers(1, timeout=self._seconds)
        except (OSError, RuntimeError, ValueError):  # TimeoutError is an OSError; a client that gave up has others
            return False
        return True

    def _run_once(self, work: Pass) -> Parts:
        client = self._client
        threads = client.nthreads()
        if not threads:
            raise CtbasisError(
                "the Dask cluster has no worker", expected="at least one", remedy="start workers, and try again"
            )
        block_ranges = ranges(self.matrix.block_count, TASKS_PER_THREAD * sum(threads.values()))
        try:
            shared = client.scatter(work, broadcast=True, hash=False)
            level = client.map(run_blocks, block_ranges, work=shared, reader=self._reader, release=VERSION, pure=False)
            count = len(level)
            while len(level) > 1:
                groups = [level[first : first + FAN_IN] for first in range(0, len(level), FAN_IN)]
                level = [client.submit(merge_parts, group, work=shared, pure=False) for group in groups]
            total: Parts = client.gather(level[0])
        except KilledWorker as error:
            raise CtbasisError(
                "workers of the Dask cluster died on the same row blocks several times",
                cause="the workers have too little memory for a block, or lack ctbasis",
                remedy="give the workers more memory, or install this version of ctbasis on them",
            ) from error
        except ModuleNotFoundError as error:
            raise CtbasisError(
                f"the workers of the Dask cluster cannot run the task ({error})",
                expected="workers with this version of ctbasis",
                cause="the workers lack ctbasis",
                remedy="install ctbasis on the workers, and try again",
            ) from error
        remote = len(threads) > 1 or not next(iter(threads)).startswith("inproc")
        if remote:
            self.count_sent(operands(work), len(threads))
            self.bytes_shuffled += nbytes(total) * count
        return total


def run_blocks(indices: range, *, work: Pass, reader: BlockReader, release: str) -> Parts | None:
    """Run a pass over the row blocks of `indices`; BLAS uses one thread, since a task runs on one thread."""
    require_release(release)
    with threadpool_limits(1, user_api="blas"):
        return fold(work, reader.blocks(indices, reads=work.reads))


def merge_parts(parts: list[Parts], *, work: Pass) -> Parts:
    """Merge the results of several tasks."""
    return merged(work, parts)
