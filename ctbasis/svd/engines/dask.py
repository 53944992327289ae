"""NumPy blocks on Dask: on the scheduler that `cluster` or Dask's own DASK_SCHEDULER_ADDRESS names, or on threads here.

Workers read their own row blocks of A and write their own of U, so they need ctbasis, the same AWS_* variables where
the stores are on S3, and the same folder where they are not. What comes of a pass is merged worker by worker in a
tree.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from threadpoolctl import threadpool_limits

from ctbasis.errors import CtbasisError
from ctbasis.svd.method import factorize_by
from ctbasis.svd.passes import fold, merged, nbytes
from ctbasis.svd.workers import Workers, operands, portable, ranges
from ctbasis.threads import available_cpus

try:
    import dask
    from distributed import Client, LocalCluster
    from distributed.client import FutureCancelledError
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
    from ctbasis.svd.workers import Gather, Portable, RowBlocks

TASKS_PER_THREAD = 3
"""Enough that no thread idles long at the end of a pass."""

FAN_IN = 8
"""Results that one task merges."""

PATIENCE_SECONDS = 30
"""How long the scheduler may take to answer."""


def factorize(matrix: MatrixStore, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Factor `matrix` by the plan's method on the workers of a Dask cluster.

    Raises:
        CtbasisError: The scheduler does not answer, its workers lack ctbasis or die, or the matrix holds NaN or Inf.
    """
    with connected(plan.cluster) as client:
        return factorize_by(DaskWorkers(client, matrix), factors, plan)


@contextmanager
def gathered(cluster: str = "", memory: int = 0) -> Iterator[Gather]:
    """Yield what gives the workers of the cluster; what they need is the cluster's own."""
    del memory
    with connected(cluster) as client:
        yield lambda matrix, _each: DaskWorkers(client, matrix)


@contextmanager
def connected(cluster: str) -> Iterator[Client]:
    """Yield a client of the cluster at `cluster`, of the one that Dask's configuration names, or of threads here."""
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
    try:
        client = Client(address, timeout=PATIENCE_SECONDS)
    except (OSError, ValueError) as error:
        raise CtbasisError(
            f"no Dask scheduler answers at {address} ({type(error).__name__})",
            expected="an address such as tcp://host:8786",
            cause="it is not running, or cannot be reached from here",
            remedy="check --cluster or DASK_SCHEDULER_ADDRESS",
        ) from error
    with client:
        yield client


class DaskWorkers(Workers):
    """The workers of a Dask cluster."""

    def __init__(self, client: Client, matrix: RowBlocks) -> None:
        super().__init__(matrix)
        self._client = client
        self._matrix = portable(matrix)

    def _run(self, work: Pass) -> Parts:
        client = self._client
        threads = client.nthreads()
        if not threads:
            raise CtbasisError(
                "the Dask cluster has no worker", expected="one at least", remedy="start workers, and try again"
            )
        shares = ranges(self.matrix.block_count, TASKS_PER_THREAD * sum(threads.values()))
        try:
            shared = client.scatter(work, broadcast=True, hash=False)
            level = client.map(run_share, shares, work=shared, matrix=self._matrix, pure=False)
            sizes = len(level)
            while len(level) > 1:
                groups = [level[first : first + FAN_IN] for first in range(0, len(level), FAN_IN)]
                level = [client.submit(merge_shares, group, work=shared, pure=False) for group in groups]
            total: Parts = client.gather(level[0])
        except KilledWorker as error:
            raise CtbasisError(
                "workers of the Dask cluster died on the same row blocks several times",
                cause="they have too little memory for a block, or lack ctbasis",
                remedy="give them more memory, or run ctbasis' own version there",
            ) from error
        except (ModuleNotFoundError, FutureCancelledError) as error:
            raise CtbasisError(
                f"the workers of the Dask cluster cannot run the task ({error})",
                expected="workers that have this version of ctbasis, and stay",
                remedy="install it there, and try again",
            ) from error
        remote = len(threads) > 1 or not next(iter(threads)).startswith("inproc")
        if remote:
            self.sent(operands(work), len(threads))
            self.bytes_shuffled += nbytes(total) * sizes
        return total


def run_share(indices: range, *, work: Pass, matrix: Portable) -> Parts | None:
    """Run a pass over some row blocks; a task is one thread, and so is its BLAS."""
    with threadpool_limits(1, user_api="blas"):
        return fold(work, matrix.blocks(indices, reads=work.reads))


def merge_shares(parts: list[Parts], *, work: Pass) -> Parts:
    """Merge what came of several shares."""
    return merged(work, parts)
